//! A connection per request: what taking, serving and losing a client costs.

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::task::LocalSet;

use super::reading::{Load, Reading};
use super::slot::Slot;
use super::{Tally, Target, h1, runtime};

/// Drives `target` with `clients` at once, each of which connects, asks, reads the answer and
/// closes, for `warm_up` and then `window`; only the window counts.
pub(crate) fn churn(
    target: &Target,
    clients: u8,
    warm_up: Duration,
    window: Duration,
    pids: &[u32],
) -> Result<Load> {
    ensure!(clients < 250, "loopback addresses of clients end at 127.0.0.254");
    LocalSet::new().block_on(&runtime()?, async {
        let tally = Rc::new(Tally::default());
        let clients = (0..clients).map(|number| {
            tokio::task::spawn_local(come_and_go(number, target.clone(), tally.clone()))
        });
        let clients: Vec<_> = clients.collect();
        tokio::time::sleep(warm_up).await;
        let before = Reading::take(&tally, pids)?;
        tokio::time::sleep(window).await;
        let after = Reading::take(&tally, pids)?;
        tally.stop.set(true);
        for client in clients {
            client.await?;
        }
        tally.check()?;
        Ok(after.since(&before))
    })
}

async fn come_and_go(number: u8, target: Target, tally: Rc<Tally>) {
    // The ports of a closed connection rest for a minute, so one address would run out of them.
    let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, number + 2));
    let source = target.address.ip().is_loopback().then_some(source);
    while !tally.stop.get() {
        let outcome = async {
            let connection = match source {
                Some(source) => h1::Connection::open_from(source, target.address, "GET").await?,
                None => h1::Connection::open(target.address, "GET").await?,
            };
            Slot::H1(connection).exchange(target.next_token()).await
        };
        if !tally.count(outcome.await) {
            return;
        }
    }
}
