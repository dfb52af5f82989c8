//! From the start of a process to the first time it says it is ready. Ours fetches its identity
//! from a local socket, the SPIFFE Workload API that `countersign dev authority` serves; Envoy,
//! for which that would take another program's configuration protocol, reads it from files.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Measure, Sample};
use crate::figures::Side;
use crate::machine;
use crate::pki::TRUST_DOMAIN;
use crate::sidecars::{Make, Proxy, Setting, alone, free_port};
use crate::stage::Stage;

/// How long a process may take.
const READY_MAX: Duration = Duration::from_secs(15);
/// Between two looks.
const LOOK: Duration = Duration::from_micros(500);

/// Starts in each round, of which the median counts.
const STARTS: usize = 5;

/// Milliseconds from spawning to readiness.
pub(super) struct Start;

impl Measure for Start {
    fn name(&self) -> &str {
        "start_ready_ms"
    }

    fn sides(&self) -> Vec<Side> {
        [Make::Countersign, Make::Envoy].map(Side::Of).into()
    }

    fn sample(&self, stage: &mut Stage<'_>, side: Side) -> Result<Vec<Sample>> {
        match side {
            Side::Of(make) => measure(make, stage.setting),
            Side::Direct => Ok(Vec::new()),
        }
    }
}

fn measure(make: Make, setting: &Setting) -> Result<Vec<Sample>> {
    let authority = match make {
        Make::Countersign => Some(Authority::start(setting)?),
        Make::Envoy | Make::EnvoyHttp1 | Make::Haproxy | Make::Nginx => None,
    };
    let socket = authority.as_ref().map(|authority| authority.socket.as_path());
    let mut times = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        times.push(start_once(make, setting, socket)?.as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let Some(median) = times.get(times.len() / 2) else { bail!("no start was asked for") };
    Ok(vec![Sample::new("start_ready_ms", "ms", *median)])
}

fn start_once(make: Make, setting: &Setting, socket: Option<&Path>) -> Result<Duration> {
    let status = free_port()?;
    let mut command = match (make, socket) {
        (Make::Countersign, Some(socket)) => alone::countersign(setting, status, socket)?,
        _ => alone::envoy(setting, status)?,
    };
    machine::pin_thread(setting.cores.proxies)?;
    let started = Instant::now();
    let proxy = Proxy::start("start", &mut command, &setting.work);
    machine::pin_thread(setting.cores.load)?;
    let mut proxy = proxy?;
    while !is_ready(status) {
        proxy.check_alive()?;
        if started.elapsed() > READY_MAX {
            bail!("{make:?} did not become ready{}", proxy.tail());
        }
        std::thread::sleep(LOOK);
    }
    Ok(started.elapsed())
}

/// The CLI: beside the proxy, or beside us.
fn program(setting: &Setting) -> Result<PathBuf> {
    let own = std::env::current_exe().context("could not find my own executable")?;
    let places = [&setting.proxy, &own].map(|program| program.with_file_name("countersign"));
    let found = places.into_iter().find(|program| program.is_file());
    found.context("no `countersign` for its authority; build it: cargo build -p countersign-cli")
}

/// Whether `GET /ready` is answered with 200.
fn is_ready(address: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(READY_MAX))?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        std::io::Result::Ok(&start == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// The Workload API, in a process of its own on the load's core.
struct Authority {
    _process: Proxy,
    socket: PathBuf,
}

impl Authority {
    fn start(setting: &Setting) -> Result<Authority> {
        let folder = setting.work.join("authority");
        let mut command = Command::new(program(setting)?);
        command.args(["dev", "authority", "--trust-domain", TRUST_DOMAIN]);
        command.args(["--workload", "shop/orders", "--dir"]).arg(&folder);
        let mut process = Proxy::start("authority", &mut command, &setting.work)?;
        let socket = folder.join("shop.orders.sock");
        let started = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            process.check_alive()?;
            if started.elapsed() > READY_MAX {
                bail!("the authority does not listen{}", process.tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Authority { _process: process, socket })
    }
}
