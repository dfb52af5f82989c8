//! Clients that ask once and then fall silent.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::task::{JoinSet, LocalSet};

use super::slot::Slot;
use super::{h1, runtime};

/// Connections opened at a time.
const AT_A_TIME: usize = 32;

/// Opens `count` HTTP/1.1 connections to `address`, uses each once and holds them until `hold`
/// returns.
pub(crate) fn hold(
    address: SocketAddr,
    count: usize,
    hold: impl FnOnce() -> Result<()>,
) -> Result<()> {
    LocalSet::new().block_on(&runtime()?, async {
        let (mut held, mut opening) = (Vec::with_capacity(count), JoinSet::new());
        while held.len() < count {
            while opening.len() < AT_A_TIME && held.len() + opening.len() < count {
                opening.spawn_local(async move {
                    let mut slot = Slot::H1(h1::Connection::open(address, "GET").await?);
                    slot.exchange(None).await?;
                    anyhow::Ok(slot)
                });
            }
            held.push(opening.join_next().await.context("nothing is opening")???);
        }
        hold()
    })
}
