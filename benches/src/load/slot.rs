//! One request in flight: what the loops drive, whatever the protocol. An exchange succeeds only
//! with a complete answer of status 200 and the expected length.

use anyhow::{Result, bail};
use http::HeaderValue;
use tokio::task::LocalSet;

use super::{Protocol, Shape, Target, h1, h2, runtime};
use crate::backend::{BODY_BYTES, MESSAGE_BYTES};

/// One request slot: an HTTP/1.1 connection, or a share of an HTTP/2 connection.
pub(super) enum Slot {
    H1(h1::Connection),
    H2(h2::Stream),
}

impl Slot {
    /// Sends one request and reads the whole answer; anything but a complete 200 is an error.
    pub(super) async fn exchange(&mut self, token: Option<&HeaderValue>) -> Result<()> {
        let (answer, expected) = match self {
            Slot::H1(connection) => (connection.exchange(token).await?, BODY_BYTES),
            Slot::H2(stream) if stream.grpc => (stream.exchange(token).await?, MESSAGE_BYTES),
            Slot::H2(stream) => (stream.exchange(token).await?, BODY_BYTES),
        };
        if answer.status != 200 {
            bail!("status {}{}", answer.status, answer.reason);
        }
        if answer.body_bytes != expected {
            bail!("a body of {} bytes", answer.body_bytes);
        }
        Ok(())
    }
}

/// What came back, as far as the generator checks it.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body_bytes: usize,
    /// For refusals: what the body says, to put into the report.
    pub(super) reason: String,
}

/// Opens all connections of a shape and makes one slot per request in flight.
pub(super) async fn connect(target: &Target, shape: Shape) -> Result<Vec<Slot>> {
    let mut slots = Vec::with_capacity(shape.connections * shape.streams);
    for _ in 0..shape.connections {
        match target.protocol {
            Protocol::H1 => {
                slots.push(Slot::H1(h1::Connection::over(target.connect().await?, "GET")?));
            }
            Protocol::H2 | Protocol::Grpc => {
                let grpc = target.protocol == Protocol::Grpc;
                let connection = h2::Connection::over(target.connect().await?, grpc).await?;
                slots.extend((0..shape.streams).map(|_| Slot::H2(connection.stream())));
            }
        }
    }
    Ok(slots)
}

/// Sends one request on a connection of its own: is the pair ready?
pub(crate) fn probe(target: &Target) -> Result<()> {
    LocalSet::new().block_on(&runtime()?, async {
        let mut slots = connect(target, Shape { connections: 1, streams: 1 }).await?;
        let Some(slot) = slots.first_mut() else { bail!("no connection") };
        slot.exchange(target.next_token()).await
    })
}

/// The status of one HTTP/1.1 request, whatever it is.
pub(crate) fn status(target: &Target, method: &str) -> Result<u16> {
    LocalSet::new().block_on(&runtime()?, async {
        let mut connection = h1::Connection::over(target.connect().await?, method)?;
        Ok(connection.exchange(target.next_token()).await?.status)
    })
}
