//! Pairs that carry bytes they do not look into: client -> A -> mTLS -> B -> server. The same
//! certificates as the pairs for requests; what each make decides is who calls.

mod countersign;
mod envoy;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};

use super::process::Proxy;
use super::{Make, Setting, haproxy};
use crate::machine;

/// Two running proxies for opaque bytes.
pub(crate) struct Opaque {
    pub(super) a: Proxy,
    pub(super) b: Proxy,
    /// Where the client connects.
    pub(crate) entry: SocketAddr,
}

impl Opaque {
    /// Starts both in front of `server`; `works` says whether bytes go there and back.
    pub(crate) fn start(
        make: Make,
        setting: &Setting,
        server: SocketAddr,
        works: impl Fn(SocketAddr) -> Result<()>,
    ) -> Result<Opaque> {
        machine::pin_thread(setting.cores.proxies)?;
        let started = match make {
            Make::Countersign => countersign::start(setting, server),
            Make::Envoy => envoy::start(setting, server),
            Make::Haproxy => haproxy::opaque(setting, server),
            Make::Nginx | Make::EnvoyHttp1 => bail!("{make:?} carries no opaque bytes here"),
        };
        machine::pin_thread(setting.cores.load)?;
        let mut pair = started?;
        let deadline = std::time::Instant::now() + super::pair::READY_MAX;
        while let Err(error) = works(pair.entry) {
            pair.a.check_alive()?;
            pair.b.check_alive()?;
            if std::time::Instant::now() > deadline {
                return Err(error.context(format!("{}{}", pair.a.tail(), pair.b.tail())));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(pair)
    }

    /// Both processes.
    pub(crate) fn pids(&self) -> [u32; 2] {
        [self.a.pid(), self.b.pid()]
    }
}
