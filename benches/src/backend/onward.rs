//! An app in the middle: for every request it calls on, as often as it is told, and answers when
//! all calls have gone well. What identifies the user it takes along: of ours the handle of the
//! request's context, of others the token.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{h1_response, read_head};
use crate::load::Call;
use crate::pods::Pod;

/// The header lines an app takes along, in lower case.
const TAKEN_ALONG: [&[u8]; 2] = [b"countersign-context:", b"authorization:"];

/// Where an app in the middle calls.
#[derive(Clone)]
pub(crate) struct Onward {
    /// The pod it is in.
    pub(crate) pod: Pod,
    /// Whom it calls, as it knows them.
    pub(crate) to: SocketAddr,
    /// The host it names.
    pub(crate) host: &'static str,
    /// How often it calls for each request.
    pub(crate) calls: Arc<AtomicUsize>,
}

impl Onward {
    pub(super) async fn connection(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut call = Call::open(self.pod.connect(self.to).await?, self.host)?;
        let (response, mut head) = (h1_response(), Vec::with_capacity(8 * 1024));
        while read_head(&mut stream, &mut head).await? {
            let lines = taken_along(&head);
            for _ in 0..self.calls.load(Ordering::Relaxed) {
                call.exchange(&lines).await?;
            }
            stream.write_all(&response).await?;
        }
        Ok(())
    }
}

/// Those lines of a request that go along, each with its end.
fn taken_along(head: &[u8]) -> Vec<u8> {
    let lines = head.split_inclusive(|byte| *byte == b'\n');
    let goes = |line: &&[u8]| {
        let starts = |name: &&[u8]| {
            line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
        };
        TAKEN_ALONG.iter().any(starts)
    };
    lines.filter(goes).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_identifies_the_user_goes_along() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nCountersign-Context: x\r\nTe: b\r\n\r\n";
        assert_eq!(taken_along(head), b"Countersign-Context: x\r\n");
    }
}
