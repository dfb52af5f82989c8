//! Which ports the demo uses: those written in its files, or all of them moved by one offset.
//!
//! The files are complete as they stand, so that they can be read and copied; what differs on a
//! busy machine is only the port numbers, and [`Ports::rewrite`] changes nothing else.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::bail;

/// The development issuer.
pub(super) const ISSUER: u16 = 15090;
/// The public listener of the gateway.
pub(super) const GATEWAY: u16 = 15001;
/// Admin pages of the gateway; metrics are one further.
pub(super) const GATEWAY_ADMIN: u16 = 15002;
/// The first app; what its sidecar uses follows: inbound, outbound, admin, metrics, local API.
pub(super) const ORDERS: u16 = 15100;
/// The second app, laid out alike.
pub(super) const BILLING: u16 = 15200;
/// The workload that leaks its tokens.
pub(super) const LEAKY: u16 = 15301;

const WRITTEN: &[u16] = &[
    15001, 15002, 15003, 15004, 15090, 15100, 15101, 15102, 15103, 15104, 15105, 15200, 15201,
    15202, 15203, 15204, 15205, 15301,
];
/// All ports stay below 20,000, where those begin that end-to-end tests give to other programs.
const OFFSET_STEP: u16 = 400;
const OFFSETS: u16 = 12;

/// The ports of one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    offset: u16,
}

impl Ports {
    /// The written ports if they are free, else the first offset at which all are. `seed` spreads
    /// runs that start together; 0 begins with the written ports.
    pub(super) fn choose(seed: u32) -> anyhow::Result<Ports> {
        let first = u16::try_from(seed % u32::from(OFFSETS))?;
        let offsets = (0..OFFSETS).map(|step| (first + step) % OFFSETS * OFFSET_STEP);
        match offsets.map(|offset| Ports { offset }).find(Ports::are_free) {
            Some(ports) => Ok(ports),
            None => bail!("no block of free ports between 15000 and 20000 on 127.0.0.1"),
        }
    }

    /// The address that stands for a written port.
    pub(super) fn at(&self, written: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, written.saturating_add(self.offset)))
    }

    /// The text with every written port replaced.
    pub(super) fn rewrite(&self, text: &str) -> String {
        let mut rewritten = String::with_capacity(text.len());
        for part in text.split_inclusive(|char: char| !char.is_ascii_digit()) {
            let digits = part.trim_end_matches(|char: char| !char.is_ascii_digit());
            match digits.parse() {
                Ok(port) if WRITTEN.contains(&port) => {
                    rewritten.push_str(&self.at(port).port().to_string());
                    rewritten.push_str(part.strip_prefix(digits).unwrap_or_default());
                }
                _ => rewritten.push_str(part),
            }
        }
        rewritten
    }

    fn are_free(&self) -> bool {
        WRITTEN.iter().all(|port| TcpListener::bind(self.at(*port)).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewrites_written_ports_and_nothing_else() {
        let text = "http://127.0.0.1:15090, port: 15101}, 08:00, 150, 15104";
        assert_eq!(Ports { offset: 0 }.rewrite(text), text);
        let moved = Ports { offset: 400 }.rewrite(text);
        assert_eq!(moved, "http://127.0.0.1:15490, port: 15501}, 08:00, 150, 15504");
    }
}
