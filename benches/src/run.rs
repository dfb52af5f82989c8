//! One run from start to `summary.json`: starts the server and the pairs, measures every case in
//! every round with the pairs taking turns, and writes down what came out and under which
//! conditions.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::backend::Backend;
use crate::figures::{Figures, Side};
use crate::load::{self, Protocol, Target};
use crate::machine::{self, Cores};
use crate::pki::Pki;
use crate::plan::{CASES, Case, Loop, MEMORY_CASE, Plan};
use crate::sidecars::{self, Make, Pair, Setting, Variant};
use crate::tokens::TokenPool;

/// A round counts only if the server alone was this close to its median.
const STEADY: f64 = 0.05;
/// ... and processes outside the run took less than this share of a core.
const FOREIGN_MAX: f64 = 0.1;
/// Above this share of their core, generator and server hold the proxies back.
const LOAD_CORE_MAX: f64 = 0.9;
/// Rest before idle memory is read.
const SETTLE: Duration = Duration::from_secs(1);

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The short plan.
    pub(crate) quick: bool,
    /// Leaves the other make out.
    pub(crate) only: Option<Make>,
    /// Leaves all cases out whose name does not contain it.
    pub(crate) case: Option<String>,
    /// Envoy's executable; `None`: the test-bed's.
    pub(crate) envoy: Option<PathBuf>,
    /// The executable of countersign-proxy; `None`: the one beside this program.
    pub(crate) proxy: Option<PathBuf>,
}

/// Runs the bench.
pub(crate) fn bench(wanted: &Wanted) -> Result<()> {
    let plan = if wanted.quick { Plan::QUICK } else { Plan::FULL };
    let programs = program_dir()?;
    let out = programs.parent().context("my executable has no target folder")?.join("bench");
    let work = out.join("work");
    fs::create_dir_all(&work).with_context(|| format!("could not make {}", work.display()))?;
    sidecars::end_with_us()?;
    let cores = Cores::pick()?;
    machine::pin_thread(cores.load)?;
    let server = Backend::start(cores.load)?;
    let setting = Setting {
        pki: Pki::create(&work)?,
        tokens: Rc::new(TokenPool::sign()?),
        server: server.address,
        envoy: wanted.envoy.clone(),
        proxy: wanted.proxy.clone().unwrap_or_else(|| programs.join("countersign-proxy")),
        work,
        cores,
    };
    let makes: Vec<Make> = [Make::Countersign, Make::Envoy]
        .into_iter()
        .filter(|make| wanted.only.is_none_or(|only| only == *make))
        .collect();
    let mut bench = Bench::start(plan, wanted, &makes, &setting, &server)?;
    for round in 0..plan.rounds {
        eprintln!("round {} of {}", round + 1, plan.rounds);
        bench.round(round)?;
    }
    bench.report(&out, &setting)
}

/// Where this executable is: the folder of its profile in `target`.
fn program_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("could not find my own executable")?;
    Ok(exe.parent().context("my executable is in no folder")?.to_path_buf())
}

struct Bench<'a> {
    plan: Plan,
    cases: Vec<&'static Case>,
    server: &'a Backend,
    tokens: Rc<TokenPool>,
    pairs: Vec<(Variant, Pair)>,
    figures: Figures,
    load_core_max: f64,
    /// Rounds in which something else ran on this machine.
    disturbed: BTreeSet<usize>,
}

impl<'a> Bench<'a> {
    fn start(
        plan: Plan,
        wanted: &Wanted,
        makes: &[Make],
        setting: &Setting,
        server: &'a Backend,
    ) -> Result<Bench<'a>> {
        let mut pairs = Vec::new();
        for variant in [Variant::FreshToken, Variant::NoToken] {
            for make in makes {
                pairs.push((variant, Pair::start(*make, variant, setting)?));
            }
        }
        std::thread::sleep(SETTLE);
        let mut figures = Figures::default();
        for (variant, pair) in &pairs {
            if *variant == Variant::FreshToken {
                figures.add(0, "rss_idle_mb".into(), "MiB", side(pair), Some(pair.resident_mb()?));
            }
        }
        let tokens = setting.tokens.clone();
        let named = |case: &&Case| wanted.case.as_ref().is_none_or(|part| case.name.contains(part));
        Ok(Bench {
            plan,
            cases: CASES.iter().filter(named).collect(),
            server,
            tokens,
            pairs,
            figures,
            load_core_max: 0.0,
            disturbed: BTreeSet::new(),
        })
    }

    fn round(&mut self, round: usize) -> Result<()> {
        for case in self.cases.clone() {
            self.direct(round, case)?;
            let mut turns: Vec<usize> =
                (0..self.pairs.len()).filter(|at| self.pairs[*at].0 == case.variant).collect();
            if round % 2 == 1 {
                turns.reverse();
            }
            for at in turns {
                self.measure_pair(round, case, at)
                    .with_context(|| format!("{}, {:?} pair", case.name, self.pairs[at].1.make))?;
            }
        }
        Ok(())
    }

    fn direct(&mut self, round: usize, case: &Case) -> Result<()> {
        if !case.direct {
            return Ok(());
        }
        let target = Target {
            address: self.server.address,
            protocol: case.protocol,
            tokens: Some(self.tokens.clone()),
        };
        for (name, unit, value) in self.measure(round, case, &target, &[])? {
            let value = (!name.starts_with("cpu_")).then_some(value);
            self.figures.add(round, name, unit, Side::Direct, value);
        }
        Ok(())
    }

    fn measure_pair(&mut self, round: usize, case: &Case, at: usize) -> Result<()> {
        let pair = &self.pairs[at].1;
        let (target, pids, side) = (pair.target(case.protocol).clone(), pair.pids(), side(pair));
        let before = self.server.served();
        let samples = self.measure(round, case, &target, &pids)?;
        self.pairs[at].1.empty_audit()?;
        check_protocol(case.variant.server_protocol(case.protocol), before, self.server.served())?;
        for (name, unit, value) in samples {
            self.figures.add(round, name, unit, side, Some(value));
        }
        if case.name == MEMORY_CASE {
            let resident = self.pairs[at].1.resident_mb()?;
            self.figures.add(round, "rss_loaded_mb".into(), "MiB", side, Some(resident));
        }
        Ok(())
    }

    /// Measures one case and gives its figures: name, unit, value.
    fn measure(
        &mut self,
        round: usize,
        case: &Case,
        target: &Target,
        pids: &[u32],
    ) -> Result<Vec<(String, &'static str, f64)>> {
        let (plan, name) = (self.plan, case.name);
        match case.pacing {
            Loop::Closed => {
                let result =
                    load::closed(target, case.shape, plan.warm_up(), plan.closed_window(), pids)?;
                if !pids.is_empty() {
                    self.load_core_max = self.load_core_max.max(result.load_core);
                }
                if result.foreign > FOREIGN_MAX {
                    self.disturbed.insert(round);
                }
                let mut figures = vec![(format!("cpu_{name}"), "us", result.cpu_us)];
                for (which, cpu_us) in ["a", "b"].iter().zip(&result.cpu_us_each) {
                    figures.push((format!("cpu_{which}_{name}"), "us", *cpu_us));
                }
                figures.push((format!("throughput_{name}"), "1/s", result.throughput));
                Ok(figures)
            }
            Loop::Open(rate) => {
                let result =
                    load::open(target, case.shape, rate, plan.warm_up(), plan.open_window())?;
                Ok(vec![
                    (format!("p50_{name}"), "us", result.p50_us),
                    (format!("p99_{name}"), "us", result.p99_us),
                ])
            }
        }
    }

    fn report(mut self, out: &Path, setting: &Setting) -> Result<()> {
        let notes: Vec<String> =
            self.drop_unsteady().into_iter().chain(self.load_core_note()).collect();
        self.figures.summarise();
        let mut document = serde_json::to_value(&self.figures)?;
        document["conditions"] = self.conditions(setting);
        document["notes"] = json!(notes);
        let text = serde_json::to_string_pretty(&document)? + "\n";
        write(&out.join("summary.json"), &text)?;
        write(&out.join("table.md"), &self.figures.markdown())?;
        println!("{}", self.figures.table());
        for note in notes {
            println!("note: {note}");
        }
        println!("{}; also in {}", machine::describe(), out.join("summary.json").display());
        Ok(())
    }

    /// Takes out the rounds that do not count and says which; keeps all of them if most are such.
    fn drop_unsteady(&mut self) -> Option<String> {
        let total = self.plan.rounds;
        let mut bad = self.figures.unsteady("throughput_h1_fresh_es256", STEADY);
        bad.extend(&self.disturbed);
        if bad.is_empty() {
            return None;
        }
        let why = format!(
            "{} of {total} rounds were disturbed: the server alone was more than 5 % off its \
             median, or other processes took more than a tenth of a core",
            bad.len()
        );
        if bad.len() * 2 > total {
            return Some(format!("{why}; they count all the same, so these figures are doubtful"));
        }
        self.figures.drop_rounds(&bad, total);
        Some(format!("{why}; they do not count"))
    }

    fn load_core_note(&self) -> Option<String> {
        (self.load_core_max > LOAD_CORE_MAX).then(|| {
            format!(
                "generator and server were busy up to {:.0} % of their core: throughput may be \
                 theirs, CPU per request is not affected",
                self.load_core_max * 100.0
            )
        })
    }

    fn conditions(&self, setting: &Setting) -> Value {
        json!({
            "machine": machine::describe(),
            "plan": self.plan,
            "token_bytes_peer": setting.tokens.token_bytes(),
            "load_core_busy_max": self.load_core_max,
            "pinning": {"load": setting.cores.load, "proxies": setting.cores.proxies},
        })
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

fn side(pair: &Pair) -> Side {
    match pair.make {
        Make::Countersign => Side::Ours,
        Make::Envoy => Side::Peer,
    }
}

/// Pairs that speak different protocols to the server do different jobs.
fn check_protocol(wanted: Protocol, before: (u64, u64), after: (u64, u64)) -> Result<()> {
    let (h1, h2) = (after.0 - before.0, after.1 - before.1);
    let (right, wrong) = match wanted {
        Protocol::H1 => (h1, h2),
        Protocol::H2 => (h2, h1),
    };
    if right == 0 || wrong > 0 {
        bail!("the server saw {h1} HTTP/1.1 and {h2} HTTP/2 requests, not only {wanted:?}");
    }
    Ok(())
}
