//! What a client sees of a connection that sleeps between its requests: nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::poll_fn;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex};

use super::*;
use crate::http::head::HeadLimits;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const PATIENCE: Patience =
    Patience { awake: Duration::from_millis(20), idle: Duration::from_secs(60) };

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), work).await.expect("no hang");
    });
}

trait Hello:
    Service<
        Request<Incoming>,
        Response = Response<ProxyBody>,
        Error = Infallible,
        Future: Future<Output = Result<Response<ProxyBody>, Infallible>>,
    > + Unpin
{
}

impl<S> Hello for S where
    S: Service<
            Request<Incoming>,
            Response = Response<ProxyBody>,
            Error = Infallible,
            Future: Future<Output = Result<Response<ProxyBody>, Infallible>>,
        > + Unpin
{
}

fn napping<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: IO,
    patience: Patience,
    work: Duration,
) -> Napping<IO, impl Hello> {
    let service = service_fn(move |_| {
        Box::pin(async move {
            tokio::time::sleep(work).await;
            Ok::<_, Infallible>(Response::new(ProxyBody::full("hello")))
        })
    });
    let mut builder = Builder::new();
    builder.auto_date_header(false).half_close(true);
    let guarded = HeadGuarded::new(io, Bytes::new(), HeadLimits::default());
    Napping::new(guarded, builder, service, patience)
}

/// Polls the connection until it sleeps.
async fn sleeps<IO, S: Hello>(connection: &mut Napping<IO, S>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    poll_fn(|cx| {
        assert!(Pin::new(&mut *connection).poll(cx).is_pending(), "it ended");
        if connection.is_asleep() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Reads one answer while the connection runs.
async fn answered<IO, S: Hello>(connection: &mut Napping<IO, S>, client: &mut DuplexStream)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut answer = vec![0; ANSWER.len()];
    tokio::select! {
        biased;
        ended = &mut *connection => panic!("it ended: {ended:?}"),
        read = client.read_exact(&mut answer) => { read.unwrap(); }
    }
    assert_eq!(String::from_utf8_lossy(&answer), String::from_utf8_lossy(ANSWER));
}

/// Sends the usual request and reads its answer.
async fn served<IO, S: Hello>(connection: &mut Napping<IO, S>, client: &mut DuplexStream)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    client.write_all(REQUEST).await.unwrap();
    answered(connection, client).await;
}

#[test]
fn it_sleeps_before_between_and_after_requests_and_answers_each() {
    run(async {
        let (mut client, server) = duplex(4_096);
        let mut connection = napping(server, PATIENCE, Duration::ZERO);
        sleeps(&mut connection).await;
        for _ in 0..3 {
            served(&mut connection, &mut client).await;
            assert!(!connection.is_asleep(), "it is awake for a while");
            sleeps(&mut connection).await;
        }
        client.write_all(&REQUEST.repeat(2)).await.unwrap();
        answered(&mut connection, &mut client).await;
        answered(&mut connection, &mut client).await;
        sleeps(&mut connection).await;
        drop(client);
        connection.await.unwrap();
    });
}

#[test]
fn a_head_in_pieces_and_one_larger_than_a_first_look_wake_it() {
    run(async {
        let (mut client, server) = duplex(64 * 1_024);
        let mut connection = napping(server, PATIENCE, Duration::ZERO);
        served(&mut connection, &mut client).await;
        sleeps(&mut connection).await;
        client.write_all(b"GET / HT").await.unwrap();
        let awake = tokio::time::timeout(PATIENCE.awake * 4, &mut connection).await;
        assert!(awake.is_err() && !connection.is_asleep(), "not in the middle of a head");
        client.write_all(b"TP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        answered(&mut connection, &mut client).await;
        sleeps(&mut connection).await;
        let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(5_000));
        client.write_all(long.as_bytes()).await.unwrap();
        answered(&mut connection, &mut client).await;
    });
}

#[test]
fn a_stray_line_end_is_not_lost() {
    run(async {
        let (mut client, server) = duplex(4_096);
        let mut connection = napping(server, PATIENCE, Duration::ZERO);
        served(&mut connection, &mut client).await;
        client.write_all(b"\r\n").await.unwrap();
        sleeps(&mut connection).await;
        served(&mut connection, &mut client).await;
    });
}

#[test]
fn a_refused_head_after_a_sleep_is_answered() {
    run(async {
        let (mut client, server) = duplex(4_096);
        let mut connection = napping(server, PATIENCE, Duration::ZERO);
        served(&mut connection, &mut client).await;
        sleeps(&mut connection).await;
        client.write_all(b"GET / HTTP/1.1\nhost: a\n\n").await.unwrap();
        let mut answer = String::new();
        let (_, read) = tokio::join!(&mut connection, client.read_to_string(&mut answer));
        read.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        assert!(connection.monitor.violation().is_some());
    });
}

#[test]
fn a_request_that_takes_long_keeps_it_awake() {
    run(async {
        let (mut client, server) = duplex(4_096);
        let mut connection = napping(server, PATIENCE, PATIENCE.awake * 5);
        served(&mut connection, &mut client).await;
        sleeps(&mut connection).await;
    });
}

#[test]
fn told_to_end_while_asleep_it_closes() {
    run(async {
        let (mut client, server) = duplex(4_096);
        let mut connection = napping(server, PATIENCE, Duration::ZERO);
        served(&mut connection, &mut client).await;
        sleeps(&mut connection).await;
        connection.leave();
        (&mut connection).await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"");
    });
}

#[test]
fn idle_for_too_long_it_ends_asleep_or_not() {
    run(async {
        for awake in [20, 500] {
            let patience =
                Patience { awake: Duration::from_millis(awake), idle: Duration::from_millis(200) };
            let (mut client, server) = duplex(4_096);
            let mut connection = napping(server, patience, Duration::ZERO);
            served(&mut connection, &mut client).await;
            connection.await.unwrap();
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"");
        }
    });
}

/// Never done flushing while `stuck`, as TLS is when the socket takes no more.
struct Stuck(DuplexStream, Arc<AtomicBool>);

impl AsyncRead for Stuck {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stuck {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.1.load(Ordering::Relaxed) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[test]
fn it_does_not_sleep_on_an_answer_that_is_not_out() {
    run(async {
        let stuck = Arc::new(AtomicBool::new(true));
        let (mut client, server) = duplex(4_096);
        let mut connection = napping(Stuck(server, Arc::clone(&stuck)), PATIENCE, Duration::ZERO);
        served(&mut connection, &mut client).await;
        let awake = tokio::time::timeout(PATIENCE.awake * 5, &mut connection).await;
        assert!(awake.is_err() && !connection.is_asleep());
        stuck.store(false, Ordering::Relaxed);
        sleeps(&mut connection).await;
    });
}
