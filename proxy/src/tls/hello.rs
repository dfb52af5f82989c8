//! The ClientHello of an accepted connection: read to its end, looked at for the protocols it
//! offers, then either continued by our own handshake or replayed untouched.
//!
//! Invariant: nothing is computed for a client before its whole hello is here, and not a byte of
//! it is lost or changed.
//! LIMIT: `CLIENT_HELLO_BYTES_MAX`. The time is the caller's.

use std::io;

use bytes::{Bytes, BytesMut};
use countersign_config::limits;
use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::tls::verify::handshake_reason;

/// Protocols of ours begin like this.
const OURS: &[u8] = b"countersign/";

/// A complete ClientHello.
pub struct Hello {
    /// Continues the handshake.
    pub accepted: Accepted,
    /// The bytes as they came, with whatever came after them.
    pub raw: Bytes,
    /// Whether it offers a protocol of ours.
    pub mesh: bool,
}

/// Why there is no hello.
#[derive(Debug)]
pub struct HelloError {
    /// Label of `countersign_tls_handshakes_total`.
    pub reason: &'static str,
    /// What happened.
    pub detail: String,
}

impl HelloError {
    fn new(reason: &'static str, detail: impl Into<String>) -> HelloError {
        HelloError { reason, detail: detail.into() }
    }
}

/// Reads on from `seen`, which was read already, until the hello is complete. A client that breaks
/// TLS gets its alert.
///
/// # Errors
/// [`HelloError`].
pub async fn read<IO>(io: &mut IO, seen: Bytes) -> Result<Hello, HelloError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |error: &io::Error| HelloError::new(handshake_reason(error), error.to_string());
    let mut raw = BytesMut::from(seen);
    let mut fed = 0;
    let mut acceptor = Acceptor::default();
    loop {
        let mut fresh = raw.get(fed..).unwrap_or_default();
        while !fresh.is_empty() {
            acceptor.read_tls(&mut fresh).map_err(|error| broken(&error))?;
        }
        fed = raw.len();
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let mesh = offers_ours(&accepted);
                return Ok(Hello { accepted, raw: raw.freeze(), mesh });
            }
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                // Writing to memory cannot fail; whether the client still listens does not matter.
                let _ = alert.write_all(&mut bytes);
                let _ = io.write_all(&bytes).await;
                return Err(broken(&io::Error::other(error)));
            }
        }
        let room = limits::CLIENT_HELLO_BYTES_MAX.saturating_sub(raw.len());
        if room == 0 {
            return Err(HelloError::new("hello_too_large", "the ClientHello does not end"));
        }
        raw.reserve(room.min(limits::DETECT_BYTES_MIN));
        let count = io.take(room as u64).read_buf(&mut raw).await;
        if count.map_err(|error| broken(&error))? == 0 {
            return Err(HelloError::new("io", "the client ended inside its ClientHello"));
        }
    }
}

fn offers_ours(accepted: &Accepted) -> bool {
    let hello = accepted.client_hello();
    hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol.starts_with(OURS)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use tokio::io::duplex;

    use super::*;

    /// What a client that trusts nobody sends first.
    fn hello(alpn: &[&[u8]]) -> Vec<u8> {
        let provider = crate::tls::provider(&[]);
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from("db.shop").unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(work)
    }

    #[test]
    fn a_post_quantum_hello_is_read_whole_however_it_is_cut() {
        run(async {
            let bytes = hello(&[b"h2"]);
            assert!(bytes.len() > 1_200, "it has the hybrid key share: {}", bytes.len());
            for cut in (0..bytes.len()).step_by(97) {
                let (mut near, mut far) = duplex(64);
                let (first, rest) = bytes.split_at(cut);
                let write = async {
                    far.write_all(rest).await.unwrap();
                    far
                };
                let first = Bytes::copy_from_slice(first);
                let (_far, hello) = tokio::join!(write, read(&mut near, first));
                let hello = hello.unwrap();
                assert_eq!(&hello.raw[..], &bytes[..], "cut at {cut}");
                assert!(!hello.mesh);
            }
        });
    }

    #[test]
    fn ours_is_told_from_the_apps() {
        run(async {
            for (alpn, mesh) in [
                ([b"countersign/tcp".as_slice()].as_slice(), true),
                (&[b"h2", b"countersign/h2"], true),
                (&[b"h2", b"http/1.1"], false),
                (&[], false),
            ] {
                let (mut near, _far) = duplex(64);
                let hello = read(&mut near, hello(alpn).into()).await.unwrap();
                assert_eq!(hello.mesh, mesh, "{alpn:?}");
            }
        });
    }

    #[test]
    fn what_is_no_hello_gets_an_alert_and_what_never_ends_an_end() {
        run(async {
            let (mut near, mut far) = duplex(1 << 16);
            let bad = [0x16, 3, 1, 0, 6, 1, 0, 0, 2, 3, 3];
            let error = read(&mut near, Bytes::copy_from_slice(&bad)).await.err().unwrap();
            assert_eq!(error.reason, "not_tls", "{}", error.detail);
            drop(near);
            let mut alert = Vec::new();
            far.read_to_end(&mut alert).await.unwrap();
            assert_eq!(alert.first(), Some(&0x15), "{alert:?}");

            let (mut near, mut far) = duplex(1 << 20);
            // A hello of 100 kB, in records of 16 kB.
            let mut record = vec![0x16, 3, 1, 0x40, 0];
            record.extend([1, 1, 0x86, 0xa0]);
            record.resize(5 + 0x4000, 0);
            far.write_all(&record).await.unwrap();
            far.write_all(&[0x16, 3, 1, 0x40, 0]).await.unwrap();
            far.write_all(&[0; 0x4000]).await.unwrap();
            let error = read(&mut near, Bytes::new()).await.err().unwrap();
            assert_eq!(error.reason, "hello_too_large", "{}", error.detail);
        });
    }
}
