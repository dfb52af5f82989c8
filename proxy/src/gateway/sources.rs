//! How much each client address holds open at the gateways of this process: connections, and behind
//! a trusted proxy, which carries the requests of many, requests.
//!
//! Invariant: an address has an entry only while it holds something, so the table is never larger
//! than what is open. A trusted proxy is never counted itself: it would be refused for its clients.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Few gateways have more workers, so two of them seldom meet at one lock.
const SHARDS: usize = 16;

/// The counts of all addresses, shared by all workers.
pub struct Sources {
    max: usize,
    shards: [Mutex<HashMap<IpAddr, usize>>; SHARDS],
}

/// One place of a client; free again when dropped.
pub struct Place {
    sources: Arc<Sources>,
    client: IpAddr,
}

impl Sources {
    /// Every client may hold `max` places.
    pub fn new(max: usize) -> Sources {
        Sources { max, shards: Default::default() }
    }

    /// Another place for this client; `None` if it holds as many as it may.
    pub fn admit(self: &Arc<Sources>, client: IpAddr) -> Option<Place> {
        let client = network(client);
        let mut counts = self.shard(client);
        let held = counts.entry(client).or_default();
        if *held >= self.max {
            return None;
        }
        *held += 1;
        drop(counts);
        Some(Place { sources: Arc::clone(self), client })
    }

    fn shard(&self, client: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        let folded = match client {
            IpAddr::V4(ip) => u64::from(u32::from(ip)),
            IpAddr::V6(ip) => (u128::from(ip) >> 64) as u64,
        };
        let number = (folded ^ (folded >> 8) ^ (folded >> 16)) as usize % SHARDS;
        let [first, ..] = &self.shards;
        let shard = self.shards.get(number).unwrap_or(first);
        // No code between lock and unlock can leave a count half-written.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What counts as one client: an IPv4 address, or the /64 network that one IPv6 subscriber has.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.sources.shard(self.client);
        let Some(held) = counts.get_mut(&self.client) else { return };
        *held = held.saturating_sub(1);
        if *held == 0 {
            counts.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn entries(sources: &Sources) -> usize {
        sources.shards.iter().map(|shard| shard.lock().expect("unpoisoned").len()).sum()
    }

    #[test]
    fn each_address_has_its_own_places() {
        let sources = Arc::new(Sources::new(2));
        let places: Vec<_> = (0..3).map(|_| sources.admit(ip("203.0.113.7"))).collect();
        assert_eq!(places.iter().filter(|place| place.is_some()).count(), 2);
        assert!(sources.admit(ip("203.0.113.8")).is_some(), "others are not touched");
        drop(places);
        assert!(sources.admit(ip("203.0.113.7")).is_some(), "places come back");
    }

    #[test]
    fn an_address_leaves_no_trace() {
        let sources = Arc::new(Sources::new(1));
        for number in 0..10_000_u32 {
            let place = sources.admit(IpAddr::V4(number.into()));
            assert!(place.is_some());
            assert_eq!(entries(&sources), 1);
        }
        assert_eq!(entries(&sources), 0);
    }

    #[test]
    fn a_subscriber_cannot_multiply_itself_with_ipv6() {
        let sources = Arc::new(Sources::new(1));
        let first = sources.admit(ip("2001:db8::1"));
        assert!(first.is_some());
        assert!(sources.admit(ip("2001:db8::ffff:1")).is_none(), "the same /64");
        assert!(sources.admit(ip("2001:db8:0:1::1")).is_some(), "another /64");
        let v4 = sources.admit(ip("::ffff:203.0.113.7"));
        assert!(v4.is_some());
        assert!(sources.admit(ip("203.0.113.7")).is_none(), "one address, two spellings");
    }
}
