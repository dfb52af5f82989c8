//! The guarded connection under hyper itself, over an in-memory pipe.

use std::convert::Infallible;

use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// Head time of the tests; nothing here depends on how long it really takes.
const HEAD_MS: u64 = 100;
const ID: &str = "01JD2MX1Q0A7B8C9D0E1F2G3H4";
const OK: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_good_request_passes_whole_and_in_pieces() {
    run(async {
        let (answer, violation) = exchange(&[OK]).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert_eq!(violation, None);
        let pieces: Vec<String> = OK.chars().map(String::from).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        assert!(exchange(&pieces).await.0.starts_with("HTTP/1.1 200 OK"));
    });
}

#[test]
fn a_refused_first_head_is_answered_by_the_wrapper() {
    run(async {
        let (answer, violation) = exchange(&["GET / HTTP/1.1\nHost: a\n\n"]).await;
        assert_eq!(
            answer,
            "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        assert_eq!(violation, Some(HeadError::BareLineFeed));
    });
}

#[test]
fn a_refused_later_head_is_answered_in_its_turn() {
    run(async {
        let bad = format!(
            "{OK}GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"
        );
        let half = ["GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHo", "st: a\nX: y\r\n\r\n"];
        for pieces in [vec![bad.as_str()], half.to_vec()] {
            let (answer, violation) = exchange(&pieces).await;
            assert_eq!(statuses(&answer), ["200", "400"], "{answer}");
            assert!(violation.is_some());
        }
    });
}

#[test]
fn a_bad_chunk_fails_the_body_that_is_being_read() {
    run(async {
        let head =
            "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
        let (answer, violation) = exchange(&[head, "0x3\r\nabc\r\n0\r\n\r\n"]).await;
        assert!(!answer.contains(" 200 "), "{answer}");
        assert_eq!(violation, Some(HeadError::ChunkMalformed));
    });
}

#[test]
fn attack_slow_headers_end_after_the_head_time() {
    run(async {
        let (mut client, monitor, served) = serve(b"");
        let drip = async {
            client.write_all(b"GET / HT").await.unwrap();
            client.write_all(b"TP/1.1\r\nHost: a\r\nX: ").await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let (answer, ()) = tokio::join!(drip, served);
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout"), "{answer}");
        assert_eq!(monitor.violation(), Some(HeadError::HeadTimeout));
    });
}

/// A connection that is closed on its client's unfinished upload takes a bounded rest of it first, so
/// that the answer is not lost to a reset.
#[test]
fn attack_goes_on_sending_after_the_answer() {
    run(async {
        let (mut client, _, served) = serve(b"");
        let upload = async {
            let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n";
            client.write_all(head).await.unwrap();
            let mut answer = [0; 15];
            client.read_exact(&mut answer).await.unwrap();
            let mut sent = 0;
            while client.write_all(&[b'x'; 1024]).await.is_ok() {
                sent += 1024;
            }
            (answer, sent)
        };
        let ((answer, sent), ()) = tokio::join!(upload, served);
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        let (least, pipe) = (limits::REFUSED_BODY_DRAIN_BYTES_MAX, 64 * 1024);
        assert!((least..least + pipe + 16 * 1024).contains(&sent), "{sent} bytes were taken");
    });
}

/// A client that stops sending is not waited for.
#[test]
fn attack_stops_sending_after_the_answer() {
    run(async {
        let (mut client, _, served) = serve(b"");
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n";
        client.write_all(head).await.unwrap();
        // Comes to its end although the client neither sends nor closes.
        served.await;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    });
}

#[test]
fn a_slow_later_head_is_answered_in_its_turn() {
    run(async {
        let (mut client, monitor, served) = serve(b"");
        let drip = async {
            client.write_all(OK.as_bytes()).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX: ").await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let (answer, ()) = tokio::join!(drip, served);
        assert_eq!(statuses(&answer), ["200", "400"], "{answer}");
        assert_eq!(monitor.violation(), Some(HeadError::HeadTimeout));
    });
}

#[test]
fn idle_time_between_requests_is_not_head_time() {
    run(async {
        let (mut client, monitor, served) = serve(b"");
        let talk = async {
            for _ in 0..2 {
                tokio::time::sleep(Duration::from_millis(3 * HEAD_MS)).await;
                client.write_all(OK.as_bytes()).await.unwrap();
            }
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let (answer, ()) = tokio::join!(talk, served);
        assert_eq!(statuses(&answer), ["200", "200"]);
        assert_eq!(monitor.violation(), None);
    });
}

#[test]
fn bytes_of_detection_are_checked_and_served_first() {
    run(async {
        let (mut client, _, served) = serve(b"GET / HTTP/1.1\r\nHo");
        client.write_all(b"st: a\r\n\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        let (_, ()) = tokio::join!(client.read_to_string(&mut answer), served);
        assert!(answer.starts_with("HTTP/1.1 200 OK"));

        let (mut client, monitor, served) = serve(b"GET / HTTP/1.1\n");
        let mut answer = String::new();
        let (_, ()) = tokio::join!(client.read_to_string(&mut answer), served);
        assert!(answer.starts_with("HTTP/1.1 400 "));
        assert_eq!(monitor.violation(), Some(HeadError::BareLineFeed));
    });
}

/// The parser refuses some lines before they end. It must not get to: then nobody could say why.
#[test]
fn attack_cuts_a_bad_line_in_the_middle() {
    const FOLDED: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n";
    const NO_COLON: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n";
    for (text, error) in [(FOLDED, HeadError::FoldedLine), (NO_COLON, HeadError::HeaderMalformed)] {
        for cut in 0..text.len() {
            run(async {
                let (before, after) = text.split_at(cut);
                let (mut client, monitor, server) = serve(before);
                let ask = async move {
                    let _ = client.write_all(after).await;
                    let mut answer = String::new();
                    client.read_to_string(&mut answer).await.expect("reads");
                    answer
                };
                let ((), answer) = tokio::join!(server, ask);
                assert_eq!(statuses(&answer), ["400"], "cut at {cut}");
                assert_eq!(monitor.violation(), Some(error), "cut at {cut}");
            });
        }
    }
}

#[test]
fn an_upgrade_ends_the_check() {
    run(async {
        let (mut client, server) = duplex(1024);
        let (mut guarded, monitor) = HeadGuarded::new(server, Bytes::new(), HeadLimits::default());
        client.write_all(OK.as_bytes()).await.unwrap();
        let mut buf = [0; 1024];
        assert_eq!(guarded.read(&mut buf).await.unwrap(), OK.len());
        monitor.stop();
        client.write_all(b"\x81\x05hello\n\0").await.unwrap();
        assert_eq!(guarded.read(&mut buf).await.unwrap(), 9);
        assert_eq!(monitor.violation(), None);
    });
}

#[test]
fn the_answer_may_carry_a_decision_id() {
    run(async {
        let (mut client, server) = duplex(1024);
        let (guarded, _) =
            HeadGuarded::new(server, Bytes::from_static(b"\n"), HeadLimits::default());
        let mut guarded =
            guarded.answering(Box::new(|error| refusal_bytes(error, Some(ID.parse().unwrap()))));
        let refused = guarded.read(&mut [0; 16]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains(&format!("countersign-decision: {ID}\r\n")));
    });
}

#[test]
fn vectored_writes_pass_through() {
    let (_, server) = duplex(16);
    let vectored = server.is_write_vectored();
    let (guarded, _) = HeadGuarded::new(server, Bytes::new(), HeadLimits::default());
    assert_eq!(guarded.is_write_vectored(), vectored);
}

/// Sends the pieces one by one and returns everything that came back.
async fn exchange(pieces: &[&str]) -> (String, Option<HeadError>) {
    let (mut client, monitor, served) = serve(b"");
    let talk = async {
        for piece in pieces {
            if client.write_all(piece.as_bytes()).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let _ = client.shutdown().await;
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer).await;
        answer
    };
    let (answer, ()) = tokio::join!(talk, served);
    (answer, monitor.violation())
}

fn serve(prefix: &'static [u8]) -> (DuplexStream, HeadMonitor, impl Future<Output = ()>) {
    let (client, server) = duplex(64 * 1024);
    let limits = HeadLimits { head_ms: HEAD_MS, ..HeadLimits::default() };
    let (guarded, monitor) = HeadGuarded::new(server, Bytes::from_static(prefix), limits);
    let served = async {
        let service = service_fn(respond);
        let _ = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(guarded), service)
            .await;
    };
    (client, monitor, served)
}

async fn respond(
    request: http::Request<Incoming>,
) -> Result<http::Response<Empty<Bytes>>, Infallible> {
    let mut response = http::Response::new(Empty::new());
    if request.uri().path() == "/body" && request.into_body().collect().await.is_err() {
        *response.status_mut() = http::StatusCode::BAD_REQUEST;
    }
    Ok(response)
}

fn statuses(answer: &str) -> Vec<&str> {
    answer.split("HTTP/1.1 ").skip(1).filter_map(|part| part.get(..3)).collect()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test);
}
