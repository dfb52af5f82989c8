//! The HTTPS client against servers that do well and servers that do not, over real sockets.

use std::{io::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use http::header;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::https::{Client, Problem, Request, Trust, Url};

const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: text/x\r\n\r\nhi";

/// Answers every connection with `answer`, after a whole request head; keeps what was asked.
async fn server(
    tls: Option<Arc<ServerConfig>>,
    answer: String,
) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, answer, asked) = (tls.clone(), answer.clone(), asked.clone());
            tokio::spawn(async move {
                match tls {
                    Some(tls) => {
                        if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                            one(stream, &answer, &asked).await;
                        }
                    }
                    None => one(stream, &answer, &asked).await,
                }
            });
        }
    });
    (address, seen)
}

async fn one<IO>(mut io: IO, answer: &str, asked: &tokio::sync::mpsc::UnboundedSender<String>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut buffer = [0; 1024];
        match io.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => head.extend_from_slice(&buffer[..count]),
        }
    }
    let _ = asked.send(String::from_utf8_lossy(&head).into_owned());
    let _ = io.write_all(answer.as_bytes()).await;
    let _ = io.shutdown().await;
}

/// A self-signed server for `name`, and the file that vouches for it.
fn certified(
    name: SanType,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> (Arc<ServerConfig>, tempfile::NamedTempFile) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![name];
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(certificate.pem().as_bytes()).unwrap();
    (Arc::new(config), file)
}

fn localhost() -> SanType {
    SanType::IpAddress([127, 0, 0, 1].into())
}

fn url(scheme: &str, address: SocketAddr, path: &str) -> Url {
    Url::parse(&format!("{scheme}://{address}{path}")).unwrap()
}

/// What is wrong with an answer of this plain server.
async fn problem(answer: &str) -> Problem {
    let (address, _seen) = server(None, answer.to_owned()).await;
    let client = Client::new(Trust::System).answer_bytes_max(64);
    client.send(Request::get(url("http", address, "/x"))).await.unwrap_err().problem
}

#[tokio::test]
async fn an_answer_is_an_answer_whatever_its_status() {
    let (tls, ca) = certified(localhost(), rustls::ALL_VERSIONS);
    let answer = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 19\r\n\
                  content-type: application/json\r\n\r\n{\"message\":\"later\"}";
    let (address, mut seen) = server(Some(tls), answer.to_owned()).await;
    let client = Client::new(Trust::PemFile(ca.path().to_owned()));
    let request = Request::post(url("https", address, "/v1/sign?x=1")).bearer("secret-token");
    let printed = format!("{request:?}");
    assert!(!printed.contains("secret"), "{printed}");
    let answer = client.send(request.json(&serde_json::json!({"a": 1}))).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.retry_after), (429, Some(Duration::from_secs(7))));
    assert_eq!(answer.content_type.as_deref(), Some("application/json"));
    assert_eq!(answer.json::<serde_json::Value>().unwrap()["message"], "later");
    assert_eq!(answer.summary(), "429 Too Many Requests: {\"message\":\"later\"}");
    let asked = seen.recv().await.unwrap();
    assert!(asked.starts_with("POST /v1/sign?x=1 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("authorization: Bearer secret-token\r\n"), "{asked}");
}

#[tokio::test]
async fn retry_after_may_be_a_date_by_the_clock_of_the_server() {
    let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\
                  date: Sat, 21 Nov 2026 10:00:00 GMT\r\n\
                  retry-after: Sat, 21 Nov 2026 10:00:30 GMT\r\n\r\n";
    let (address, _seen) = server(None, answer.to_owned()).await;
    let request = Request::get(url("http", address, "/"));
    let answer = Client::new(Trust::System).send(request).await.unwrap();
    assert_eq!(answer.retry_after, Some(Duration::from_secs(30)));
}

#[tokio::test]
async fn a_server_that_does_not_prove_who_it_is_gets_no_request() {
    let elsewhere = SanType::DnsName("elsewhere.test".try_into().unwrap());
    let (tls, ca) = certified(elsewhere, rustls::ALL_VERSIONS);
    let (address, mut seen) = server(Some(tls), GOOD.to_owned()).await;
    let ask = async |trust| {
        let request = Request::get(url("https", address, "/")).bearer("secret-token");
        Client::new(trust).send(request).await.unwrap_err().to_string()
    };
    let error = ask(Trust::PemFile(ca.path().to_owned())).await;
    assert!(error.contains("tls: certificate not valid for name \"127.0.0.1\""), "{error}");
    assert!(error.contains("elsewhere.test"), "{error}");
    let (_, other) = certified(localhost(), rustls::ALL_VERSIONS);
    let error = ask(Trust::PemFile(other.path().to_owned())).await;
    assert!(error.contains("not signed by an authority of"), "{error}");
    let error = ask(Trust::PemFile("/nowhere/ca.pem".into())).await;
    assert!(error.contains("/nowhere/ca.pem"), "{error}");
    assert!(seen.try_recv().is_err(), "nothing was asked");
}

#[tokio::test]
async fn a_rotated_file_of_authorities_needs_no_restart() {
    let (tls, mut ca) = certified(localhost(), rustls::ALL_VERSIONS);
    let (address, _seen) = server(Some(tls), GOOD.to_owned()).await;
    let good = std::fs::read(ca.path()).unwrap();
    let client = Client::new(Trust::PemFile(ca.path().to_owned()));
    let ask = async || client.send(Request::get(url("https", address, "/"))).await;
    ca.as_file_mut().set_len(0).unwrap();
    let error = ask().await.unwrap_err().to_string();
    assert!(error.contains("it holds no certificate"), "{error}");
    std::fs::write(ca.path(), good).unwrap();
    assert_eq!(ask().await.unwrap().status, 200);
}

#[tokio::test]
async fn tls_1_2_is_spoken_unless_it_is_ruled_out() {
    let (tls, ca) = certified(localhost(), &[&rustls::version::TLS12]);
    let (address, _seen) = server(Some(tls), GOOD.to_owned()).await;
    let client = Client::new(Trust::PemFile(ca.path().to_owned()));
    let request = Request::get(url("https", address, "/"));
    assert_eq!(client.send(request.clone()).await.unwrap().status, 200);
    let error = client.tls13_only().send(request).await.unwrap_err();
    assert!(matches!(error.problem, Problem::Tls(_)), "{error}");
}

#[tokio::test]
async fn what_is_no_answer_is_said() {
    assert!(matches!(problem("").await, Problem::Broken(_)));
    assert!(matches!(problem("220 smtp.example.com\r\n\r\n").await, Problem::Broken(_)));
    let short = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nhalf";
    assert!(matches!(problem(short).await, Problem::Broken(_)));
    let large = format!("HTTP/1.1 200 OK\r\ncontent-length: 65\r\n\r\n{}", "x".repeat(65));
    assert_eq!(problem(&large).await, Problem::TooLarge { bytes_max: 64 });
    let endless = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n50\r\n{}\r\n",
        "x".repeat(0x50)
    );
    assert_eq!(problem(&endless).await, Problem::TooLarge { bytes_max: 64 });
}

#[tokio::test]
async fn nobody_there_is_said_with_the_address() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let request = Request::get(url("http", address, "/v1/x?secret=1"));
    let error = Client::new(Trust::System).send(request).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("GET http://{address}/v1/x: cannot connect to")), "{error}");
    assert!(!error.contains("secret"), "{error}");
    let nowhere = Url::parse("https://nowhere.invalid/").unwrap();
    let error = Client::new(Trust::System).send(Request::get(nowhere)).await.unwrap_err();
    assert!(matches!(error.problem, Problem::Resolve { .. } | Problem::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn plain_http_stays_on_this_machine() {
    let far = Url::parse("http://192.0.2.1/").unwrap();
    let error = Client::new(Trust::System).send(Request::get(far)).await.unwrap_err();
    assert_eq!(error.problem, Problem::Plain);
}

#[tokio::test]
async fn a_redirect_is_followed_only_where_somebody_said_which() {
    let (there, mut seen_there) = server(None, GOOD.to_owned()).await;
    let moved = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://{there}/bundle\r\ncontent-length: 0\r\n\r\n"
    );
    let (here, _seen) = server(None, moved).await;
    let ask = async |client: Client| {
        client.send(Request::get(url("http", here, "/")).bearer("secret-token")).await
    };
    let answer = ask(Client::new(Trust::System)).await.unwrap();
    assert_eq!(answer.status, 302, "an answer like any other");
    let never = Arc::new(|_: &Url, _: &Url| Err("another host".to_owned()));
    let error = ask(Client::new(Trust::System).follow_redirects(never)).await.unwrap_err();
    assert!(error.to_string().contains("another host"), "{error}");
    assert!(seen_there.try_recv().is_err());
    let always = Arc::new(|_: &Url, _: &Url| Ok(()));
    let answer = ask(Client::new(Trust::System).follow_redirects(always)).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.url.path_and_query()), (200, "/bundle"));
    let asked = seen_there.recv().await.unwrap();
    assert!(!asked.contains("secret-token"), "the token was for another host: {asked}");
}

#[tokio::test]
async fn a_circle_of_redirects_ends() {
    let round = "HTTP/1.1 302 Found\r\nlocation: /again\r\ncontent-length: 0\r\n\r\n";
    let (address, mut seen) = server(None, round.to_owned()).await;
    let client = Client::new(Trust::System).follow_redirects(Arc::new(|_, _| Ok(())));
    let error = client.send(Request::get(url("http", address, "/"))).await.unwrap_err();
    assert!(matches!(error.problem, Problem::Redirect { .. }), "{error}");
    let mut asked = 0;
    while seen.try_recv().is_ok() {
        asked += 1;
    }
    assert_eq!(asked, 4);
}

#[test]
fn urls_are_whole_and_name_no_user() {
    let wrong = ["", "vault", "/path", "ftp://h/", "https://", "https://u@h/", "https://h/#f"];
    for text in wrong {
        assert!(Url::parse(text).is_err(), "{text}");
    }
    let base = Url::parse("https://h:8200/prefix/").unwrap();
    assert_eq!(base.below("/v1/x?list=true").unwrap().to_string(), "https://h:8200/prefix/v1/x");
    assert_eq!(base.join("/other").unwrap().to_string(), "https://h:8200/other");
    assert_eq!(base.join("//h2/x").unwrap().to_string(), "https://h2/x");
    assert_eq!((base.port(), base.host()), (8200, "h"));
    assert_eq!(Url::parse("https://[::1]/").unwrap().host(), "::1");
}

#[tokio::test]
async fn an_answer_cannot_do_anything_to_a_terminal() {
    let body = "\u{1b}[2Jevil\r\n  and   more";
    let text = format!("HTTP/1.1 500 Oops\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let (address, _seen) = server(None, text).await;
    let request = Request::get(url("http", address, "/")).header(header::ACCEPT, "text/plain");
    let answer = Client::new(Trust::System).send(request).await.unwrap();
    assert_eq!(answer.shown(), "[2Jevil and more");
}
