use std::path::Path;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;
use crate::clock::Now;

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    runtime.unwrap().block_on(async {
        tokio::time::timeout(Duration::from_secs(20), work).await.expect("no hang");
    });
}

fn ending(limits: &str) -> Ending {
    let dir = tempfile::tempdir().unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
    let text = std::fs::read_to_string(examples.join("sidecar.yaml")).unwrap();
    let text = text.replace("{CONNS_MAX: 2000, REQUEST_MS_MAX: 30000}", limits);
    let text = text.replace("[mesh.yaml, policies/]", "[mesh.yaml]");
    std::fs::copy(examples.join("mesh.yaml"), dir.path().join("mesh.yaml")).unwrap();
    let file = dir.path().join("proxy.yaml");
    std::fs::write(&file, text).unwrap();
    let (config, _) = ProxyConfig::load(&file).unwrap();
    let drain = Drain::new(Arc::new(config));
    Ending { drain, registered: None, age: Duration::from_secs(3_600) }
}

struct Hello;

impl Exchange for Hello {
    async fn handle(self: Rc<Self>, _: Request<Incoming>) -> Response<ProxyBody> {
        Response::new(ProxyBody::full("hello"))
    }

    fn head_refused(&self, error: HeadError, _: DecisionId) {
        panic!("{error}");
    }

    fn next_id(&self) -> DecisionId {
        DecisionId::new(Now::read(), 0, 0)
    }

    fn head_limits(&self) -> HeadLimits {
        HeadLimits::default()
    }
}

fn pair() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(64 * 1024)
}

#[test]
fn a_connection_accepted_at_the_end_gets_its_first_request_answered() {
    run(async {
        let ending = ending("{CONNS_MAX: 10}");
        ending.drain.cancel();
        let (mut client, server) = pair();
        let serving = http1(server, Bytes::new(), Rc::new(Hello), &ending);
        let asking = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let ((), answer) = tokio::join!(serving, asking);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    });
}

#[test]
fn a_connection_that_stays_silent_does_not_hold_up_the_end() {
    run(async {
        let ending = ending("{CONNS_MAX: 10}");
        ending.drain.cancel();
        for h2 in [false, true] {
            let (_client, server) = pair();
            let begun = Instant::now();
            if h2 {
                http2(server, Rc::new(Hello), &ending).await;
            } else {
                http1(server, Bytes::new(), Rc::new(Hello), &ending).await;
            }
            assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        }
    });
}

#[test]
fn an_http2_connection_without_a_request_is_closed() {
    run(async {
        let ending = ending("{H1_HEAD_MS_MAX: 100}");
        let (mut client, server) = pair();
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        client.write_all(&settings).await.unwrap();
        let begun = Instant::now();
        http2(server, Rc::new(Hello), &ending).await;
        assert!(begun.elapsed() >= Duration::from_millis(100));
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    });
}
