//! Which failed handshakes the log tells: each client and reason once a minute, so that somebody
//! who knocks thousands of times does not fill it.
//!
//! Invariant: what is not told is counted, here for the next line and in the metrics always.

use std::collections::HashMap;
use std::net::IpAddr;

use countersign_config::limits::HANDSHAKE_LOG_CLIENTS_MAX;

use crate::clock::Now;

/// What one worker has told in the current minute.
#[derive(Default)]
pub struct Told {
    minute: u64,
    untold: HashMap<(IpAddr, &'static str), u64>,
    /// Of clients there was no place for.
    others: u64,
}

impl Told {
    /// Whether to tell this one; if so, how many like it were not told before.
    pub fn tell(&mut self, client: IpAddr, reason: &'static str, now: Now) -> Option<u64> {
        let minute = now.secs() / 60;
        if self.minute != minute {
            self.minute = minute;
            let before = self.untold.remove(&(client, reason)).unwrap_or_default();
            let others: u64 = self.untold.drain().map(|(_, untold)| untold).sum();
            self.others = self.others.saturating_add(others);
            self.untold.insert((client, reason), 0);
            return Some(before.saturating_add(std::mem::take(&mut self.others)));
        }
        if let Some(untold) = self.untold.get_mut(&(client, reason)) {
            *untold = untold.saturating_add(1);
            return None;
        }
        if self.untold.len() >= HANDSHAKE_LOG_CLIENTS_MAX {
            self.others = self.others.saturating_add(1);
            return None;
        }
        self.untold.insert((client, reason), 0);
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn at(seconds: u64) -> Now {
        Now::from_micros(seconds * 1_000_000)
    }

    fn client(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    #[test]
    fn each_client_and_reason_is_told_once_a_minute() {
        let mut told = Told::default();
        assert_eq!(told.tell(client(1), "expired", at(60)), Some(0));
        assert_eq!(told.tell(client(1), "expired", at(61)), None);
        assert_eq!(told.tell(client(1), "expired", at(119)), None);
        assert_eq!(told.tell(client(1), "bad_san", at(119)), Some(0), "another reason");
        assert_eq!(told.tell(client(2), "expired", at(119)), Some(0), "another client");
        assert_eq!(told.tell(client(1), "expired", at(120)), Some(2), "with what was not told");
        assert_eq!(told.tell(client(2), "expired", at(121)), Some(0));
    }

    #[test]
    fn a_crowd_of_clients_does_not_fill_the_memory_nor_the_log() {
        let mut told = Told::default();
        let clients = (0..=u16::MAX).map(|n| IpAddr::from(Ipv4Addr::from(u32::from(n))));
        let lines = clients.filter(|ip| told.tell(*ip, "expired", at(60)).is_some()).count();
        assert_eq!(lines, HANDSHAKE_LOG_CLIENTS_MAX);
        assert_eq!(told.untold.len(), HANDSHAKE_LOG_CLIENTS_MAX);
        let before = u64::from(u16::MAX) + 1 - HANDSHAKE_LOG_CLIENTS_MAX as u64;
        assert_eq!(told.tell(client(1), "expired", at(120)), Some(before));
    }
}
