//! The whole path of a request through two real proxies: client → A → mutual TLS → B → app, on
//! loopback, with the configuration of the side-by-side bench, audit and all checks on.
//!
//! Load comes in rounds: as many requests at once as there are slots, then all answers. So what
//! shares a wake-up or a write does not depend on who is faster, and a busy machine counts the same.

mod app;
mod client;
mod documents;
mod order;
mod process;
mod strace;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use self::app::App;
use self::client::{Client, Protocol};
use self::documents::{Files, Token};
pub(crate) use self::order::functions;
use self::process::Running;
use crate::callgrind::{self, Counts};
use crate::record::{Figure, Unit};

/// Requests at once: alone, each pays for its own wake-ups; together they share them.
const AT_ONCE: [usize; 2] = [1, 32];
/// Counted requests of each run.
pub(crate) const REQUESTS: usize = 960;
/// Before anything is counted: connections, caches, the first use of every code path.
const WARM_UP: usize = 192;
/// Until audit records of the last requests are written.
const SETTLE: Duration = Duration::from_millis(1000);
/// What a proxy does every second is counted for so long, and taken off.
const IDLE: Duration = Duration::from_millis(3000);

const CASES: [(&str, Protocol, Token); 4] = [
    ("path/h1/no_token", Protocol::H1, Token::None),
    ("path/h2/no_token", Protocol::H2, Token::None),
    ("path/h1/fresh_es256", Protocol::H1, Token::Fresh),
    ("path/h2/fresh_es256", Protocol::H2, Token::Fresh),
];

/// One of the two things callgrind counts.
type Of = fn(&Counts) -> u64;

/// Both.
const COUNTED: [(Unit, Of); 2] = [
    (Unit::Instructions, |counts| counts.instructions),
    (Unit::Allocations, |counts| counts.allocations),
];

/// Counts each case whose name contains `filter`, or that `filter` is about.
pub(crate) fn measure(proxy: &Path, work: &Path, filter: &str) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, protocol, token) in CASES {
        for at_once in AT_ONCE {
            let name = format!("{name}/{at_once}");
            let full = ["a", "b"].map(|which| format!("{name}/{which}"));
            if !full.iter().any(|name| name.contains(filter)) {
                continue;
            }
            let case = Case { proxy, work, name: &name, protocol, token, at_once };
            eprintln!("{name}");
            let counted = case.count().with_context(|| name.clone())?;
            figures.extend(counted.into_iter().filter(|figure| figure.name.contains(filter)));
        }
    }
    Ok(figures)
}

/// Where a case leaves what `what` counted.
pub(crate) fn folder_of(case: &str, what: &str) -> String {
    format!("{}.{what}", case.replace('/', "."))
}

struct Case<'a> {
    proxy: &'a Path,
    work: &'a Path,
    name: &'a str,
    protocol: Protocol,
    token: Token,
    at_once: usize,
}

impl Case<'_> {
    fn count(&self) -> Result<Vec<Figure>> {
        let folder = |what: &str| -> Result<PathBuf> {
            let folder = self.work.join(folder_of(self.name, what));
            std::fs::create_dir_all(&folder)?;
            Ok(folder)
        };
        let (instructions, syscalls) = (folder("callgrind")?, folder("strace")?);
        std::thread::scope(|scope| {
            let syscalls = scope.spawn(|| self.syscalls(&syscalls));
            let mut figures = self.instructions(&instructions)?;
            figures.extend(syscalls.join().map_err(|_| anyhow!("counting system calls"))??);
            Ok(figures)
        })
    }

    /// Instructions and allocations of both, under callgrind.
    fn instructions(&self, folder: &Path) -> Result<Vec<Figure>> {
        let file = |which: &str| folder.join(which);
        let pair = Pair::start(self, folder, |which| callgrind::silent(self.proxy, &file(which)))?;
        let client = pair.warm(self)?;
        let begun = Instant::now();
        for (_, proxy) in pair.both() {
            callgrind::begin(proxy.pid())?;
        }
        client.drive(self.requests())?;
        std::thread::sleep(SETTLE);
        let mut busy = Vec::new();
        for (which, proxy) in pair.both() {
            let counts = callgrind::end(proxy.pid(), &file(which), 1)?;
            busy.push((which, proxy, counts, Instant::now()));
        }
        std::thread::sleep(IDLE);
        let mut figures = Vec::new();
        for (which, proxy, busy, ended) in busy {
            let idle = callgrind::end(proxy.pid(), &file(which), 2)?;
            let share = share(ended - begun, ended.elapsed());
            let aside = format!("{which}_aside");
            // In the idle window no thread is told from another by how much it does.
            let whole = |of: Of| of(&idle.worker) + of(&idle.aside);
            for (which, counts, still) in [(which, busy.worker, 0.0), (&aside, busy.aside, share)] {
                for (unit, of) in COUNTED {
                    figures.push(self.figure(which, unit, of(&counts), whole(of), still));
                }
            }
        }
        Ok(figures)
    }

    /// System calls of both, under strace.
    fn syscalls(&self, folder: &Path) -> Result<Vec<Figure>> {
        let pair = Pair::start(self, folder, |_| Command::new(self.proxy))?;
        let client = pair.warm(self)?;
        let attach = |what: &str| -> Result<Vec<strace::Counting>> {
            let one = |(which, proxy): (&str, &Running)| {
                strace::Counting::start(proxy.pid(), &folder.join(format!("{which}.{what}")))
            };
            pair.both().into_iter().map(one).collect()
        };
        let begun = Instant::now();
        let counting = attach("busy")?;
        client.drive(self.requests())?;
        std::thread::sleep(SETTLE);
        let busy = counting.into_iter().map(strace::Counting::end).collect::<Result<Vec<_>>>()?;
        let ended = Instant::now();
        let counting = attach("idle")?;
        std::thread::sleep(IDLE);
        let idle = counting.into_iter().map(strace::Counting::end).collect::<Result<Vec<_>>>()?;
        let share = share(ended - begun, ended.elapsed());
        let figures = pair.both().into_iter().zip(busy.into_iter().zip(idle)).map(
            |((which, _), (busy, idle))| self.figure(which, Unit::Syscalls, busy, idle, share),
        );
        Ok(figures.collect())
    }

    /// Whole rounds.
    fn requests(&self) -> usize {
        REQUESTS / self.at_once * self.at_once
    }

    /// Per request, without what the process does every second whether there are requests or not.
    fn figure(&self, which: &str, unit: Unit, busy: u64, idle: u64, share: f64) -> Figure {
        let value = (busy as f64 - idle as f64 * share).max(0.0) / self.requests() as f64;
        Figure { name: format!("{}/{which}", self.name), unit, value }
    }
}

/// How much of what was counted in an idle window belongs into a busy one.
fn share(busy: Duration, idle: Duration) -> f64 {
    busy.as_secs_f64() / idle.as_secs_f64()
}

/// Both proxies, and the app behind them.
struct Pair {
    a: Running,
    b: Running,
    entry: SocketAddr,
    _app: App,
}

impl Pair {
    fn start(case: &Case<'_>, folder: &Path, program: impl Fn(&str) -> Command) -> Result<Pair> {
        let app = App::start()?;
        let (entry, inner) = (free_port()?, free_port()?);
        let Files { a, b } = documents::write(folder, case.token, entry, inner, app.address)?;
        let start = |which: &str, config: &PathBuf| {
            let mut command = program(which);
            command.arg("--config").arg(config);
            Running::start(&command, &folder.join(format!("{which}.log")))
        };
        Ok(Pair { b: start("b", &b)?, a: start("a", &a)?, entry, _app: app })
    }

    fn both(&self) -> [(&'static str, &Running); 2] {
        [("a", &self.a), ("b", &self.b)]
    }

    /// Waits until a request succeeds, opens all connections and uses each a few times.
    fn warm(&self, case: &Case<'_>) -> Result<Client> {
        let ready = client::wait(self.entry, case.protocol, || {
            self.a.check()?;
            self.b.check()
        });
        ready.with_context(|| format!("{}{}", self.a.tail(), self.b.tail()))?;
        let client = Client::connect(self.entry, case.protocol, case.at_once)?;
        client.drive(WARM_UP)?;
        std::thread::sleep(SETTLE);
        Ok(client)
    }
}

/// A port of loopback that was free a moment ago.
fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("could not find a free port")?;
    Ok(listener.local_addr()?)
}
