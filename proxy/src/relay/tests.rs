//! Half-close, breaks, limits and buffers of the relay.

use std::rc::Rc;
use std::time::Duration;

use countersign_config::limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};

use super::*;

fn relay_limits() -> RelayLimits {
    RelayLimits::new(&Rc::default(), &Limits::default())
}

fn run_local<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    runtime.expect("a runtime").block_on(work)
}

/// A relay between two pipes; the far ends and the task.
fn piped(
    limits: &RelayLimits,
) -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<RelayEnd<()>>) {
    let (client, a) = duplex(4096);
    let (b, server) = duplex(4096);
    let limits = limits.clone();
    let relay = async move { run(a, b, &limits, std::future::pending::<()>()).await };
    (client, server, tokio::task::spawn_local(relay))
}

#[test]
fn each_direction_ends_on_its_own() {
    run_local(async {
        let limits = relay_limits();
        let (mut client, mut server, relay) = piped(&limits);
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = String::new();
        server.read_to_string(&mut asked).await.unwrap();
        assert_eq!(asked, "question");
        // The other direction is still open.
        for _ in 0..3 {
            server.write_all(b"part ").await.unwrap();
            let mut part = [0; 5];
            client.read_exact(&mut part).await.unwrap();
            assert_eq!(&part, b"part ");
        }
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        let end = relay.await.unwrap();
        assert!(matches!(end.why, Why::Closed), "{end:?}");
        assert_eq!((end.to_a, end.to_b), (15, 8));
    });
}

#[test]
fn bytes_arrive_unchanged_through_every_buffer_size() {
    run_local(async {
        let limits = relay_limits();
        let (mut client, mut server, relay) = piped(&limits);
        let total = 12 * 1024 * 1024usize;
        let byte = |at: usize| u8::try_from(at % 251).unwrap();
        let send = async {
            let sent: Vec<u8> = (0..total).map(byte).collect();
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        };
        let receive = async {
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            assert_eq!(got.len(), total);
            assert!(got.iter().enumerate().all(|(at, got)| *got == byte(at)));
            server.shutdown().await.unwrap();
        };
        tokio::join!(send, receive);
        assert!(matches!(relay.await.unwrap().why, Why::Closed));
        assert_eq!(limits.buffers.lent_bytes(), 0);
        assert!(limits.buffers.kept_bytes() > limits::RELAY_BUF_LARGE_BYTES, "all sizes were used");
    });
}

#[test]
fn buffers_return_after_idle() {
    run_local(async {
        let limits = relay_limits();
        let (mut client, mut server, _relay) = piped(&limits);
        for _ in 0..3 {
            client.write_all(&[7; 1000]).await.unwrap();
            server.read_exact(&mut [0; 1000]).await.unwrap();
            assert_eq!(limits.buffers.lent_bytes(), 0, "an idle relay holds no buffer");
        }
        // A reader that stalls holds the one buffer that waits for it, and no more.
        client.write_all(&vec![7; 4096 + 1024 + 4096]).await.unwrap();
        while limits.moved.to_b() < 3000 + 4096 {
            tokio::task::yield_now().await;
        }
        assert_eq!(limits.buffers.lent_bytes(), limits::RELAY_BUF_MID_BYTES);
        assert_eq!(limits.moved.to_b(), 3000 + 4096, "counted while it runs");
    });
}

#[test]
fn a_writer_that_is_gone_breaks_the_relay() {
    run_local(async {
        let limits = relay_limits();
        let (mut client, server, relay) = piped(&limits);
        drop(server);
        // The end arrives first, then writing fails.
        while client.write_all(b"x").await.is_ok() && !relay.is_finished() {
            tokio::task::yield_now().await;
        }
        let end = relay.await.unwrap();
        assert!(matches!(end.why, Why::Broken(Side::B, _)), "{end:?}");
    });
}

#[test]
fn silence_ends_it_and_sooner_when_half_closed() {
    run_local(async {
        let mut limits = relay_limits();
        limits.idle = Duration::from_millis(20);
        let (_client, _server, relay) = piped(&limits);
        let end = relay.await.unwrap();
        assert!(matches!(end.why, Why::Idle("TCP_IDLE_MS_MAX")), "{end:?}");

        let mut limits = relay_limits();
        limits.half_closed = Duration::from_millis(20);
        let (mut client, _server, relay) = piped(&limits);
        client.shutdown().await.unwrap();
        let end = relay.await.unwrap();
        assert!(matches!(end.why, Why::Idle("TCP_HALF_CLOSED_MS_MAX")), "{end:?}");
    });
}

#[test]
fn it_stops_when_asked_and_says_why() {
    run_local(async {
        let (client, a) = duplex(64);
        let (b, server) = duplex(64);
        let (ask, asked) = tokio::sync::oneshot::channel();
        let limits = relay_limits();
        let relay = tokio::task::spawn_local(async move { run(a, b, &limits, asked).await });
        ask.send("revoked").unwrap();
        let end = relay.await.unwrap();
        assert!(matches!(end.why, Why::Stopped(Ok("revoked"))), "{end:?}");
        drop((client, server));
    });
}

/// Two connected TCP sockets.
async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    run_local(async {
        let (mut client, mut a) = connected().await;
        let (mut b, server) = connected().await;
        let relay = tokio::task::spawn_local(async move {
            let end = run(&mut a, &mut b, &relay_limits(), std::future::pending::<()>()).await;
            if let Why::Broken(..) = end.why {
                reset(&a);
                reset(&b);
            }
            end
        });
        reset(&server);
        drop(server);
        let end = relay.await.unwrap();
        assert!(matches!(end.why, Why::Broken(Side::B, _)), "{end:?}");
        let error = client.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
}
