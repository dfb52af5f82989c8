//! One run from start to `summary.json`: takes every measure in every round, with the sides taking
//! turns, and writes down what came out and under which conditions.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::backend::Backend;
use crate::figures::{Figures, Side};
use crate::machine::{self, Cores};
use crate::measures::{self, Measure};
use crate::pki::Pki;
use crate::plan::Plan;
use crate::pods;
use crate::sidecars::{self, Make, Setting};
use crate::stage::Stage;
use crate::tokens::{Algorithm, TokenPool};

/// A round counts only if the server alone was this close to its median.
const STEADY: f64 = 0.05;
/// What tells how steady the machine was.
const STEADY_FIGURE: &str = "throughput_h1_fresh_es256";
/// Above this share of their core, generator and server hold the proxies back.
const LOAD_CORE_MAX: f64 = 0.9;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The short plan.
    pub(crate) quick: bool,
    /// Rounds, if not what the plan says.
    pub(crate) rounds: Option<usize>,
    /// Leaves the other makes out.
    pub(crate) only: Option<Make>,
    /// Leaves all measures out whose name does not contain it.
    pub(crate) case: Option<String>,
    /// Envoy's executable; `None`: the test-bed's.
    pub(crate) envoy: Option<PathBuf>,
    /// The executable of countersign-proxy; `None`: the one beside this program.
    pub(crate) proxy: Option<PathBuf>,
}

impl Wanted {
    fn measures(&self, plan: &Plan) -> Vec<Box<dyn Measure>> {
        measures::wanted(plan, self.case.as_deref())
    }

    fn takes(&self, side: Side) -> bool {
        match (self.only, side) {
            (_, Side::Direct) => true,
            (Some(only), Side::Of(make)) => make == only,
            (None, Side::Of(make)) => !make.is_missing(),
        }
    }
}

/// Runs the bench.
pub(crate) fn bench(wanted: &Wanted) -> Result<()> {
    let mut plan = if wanted.quick { Plan::QUICK } else { Plan::FULL };
    plan.rounds = wanted.rounds.unwrap_or(plan.rounds);
    let measures = wanted.measures(&plan);
    let rounds = measures.iter().map(|measure| measure.rounds(&plan)).max();
    plan.rounds =
        rounds.with_context(|| format!("no measure has {:?} in its name", wanted.case))?;
    let programs = program_dir()?;
    let out = programs.parent().context("my executable has no target folder")?.join("bench");
    fs::create_dir_all(&out).with_context(|| format!("could not make {}", out.display()))?;
    let work = work_folder(&out)?;
    sidecars::end_with_us()?;
    for make in [Make::Haproxy, Make::Nginx].into_iter().filter(|make| make.is_missing()) {
        eprintln!("without {}, which `cargo xtask testbed` installs", make.name());
    }
    let cores = Cores::pick()?;
    machine::pin_thread(cores.load)?;
    let server = Backend::start(cores.load)?;
    let setting = Setting {
        pki: Pki::create(&work)?,
        tokens: Rc::new(TokenPool::sign(Algorithm::Es256)?),
        ed25519_tokens: Rc::new(TokenPool::sign(Algorithm::Ed25519)?),
        server: server.address,
        envoy: wanted.envoy.clone(),
        proxy: wanted.proxy.clone().unwrap_or_else(|| programs.join("countersign-proxy")),
        work,
        cores,
    };
    let mut run = Run {
        stage: Stage::new(plan, &setting, &server),
        figures: Figures::default(),
        disturbed: BTreeSet::new(),
    };
    for round in 0..plan.rounds {
        eprintln!("round {} of {}", round + 1, plan.rounds);
        run.round(round, &measures, wanted)?;
    }
    run.report(&results_folder(&out, wanted)?)
}

/// Where the results go: what a whole run measured stays until the next whole run.
fn results_folder(out: &Path, wanted: &Wanted) -> Result<PathBuf> {
    let folder = if wanted.case.is_none() { out.to_path_buf() } else { out.join("part") };
    fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    Ok(folder)
}

/// Where configurations, keys and logs go: `work` in `out`, or if the user of the sidecars does not
/// reach that, a folder for temporary files.
fn work_folder(out: &Path) -> Result<PathBuf> {
    let work = if pods::is_reachable(out) {
        out.join("work")
    } else {
        let user = rustix::process::geteuid().as_raw();
        std::env::temp_dir().join(format!("countersign-bench-{user}"))
    };
    fs::create_dir_all(&work).with_context(|| format!("could not make {}", work.display()))?;
    pods::open_to_all(&work)?;
    Ok(work)
}

/// Where this executable is: the folder of its profile in `target`.
fn program_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("could not find my own executable")?;
    Ok(exe.parent().context("my executable is in no folder")?.to_path_buf())
}

struct Run<'a> {
    stage: Stage<'a>,
    figures: Figures,
    /// Rounds in which something else ran on this machine.
    disturbed: BTreeSet<usize>,
}

impl Run<'_> {
    fn round(
        &mut self,
        round: usize,
        measures: &[Box<dyn Measure>],
        wanted: &Wanted,
    ) -> Result<()> {
        let plan = self.stage.plan;
        for measure in measures.iter().filter(|measure| round < measure.rounds(&plan)) {
            let mut sides = measure.sides();
            sides.retain(|side| wanted.takes(*side));
            if round % 2 == 1 {
                sides.reverse();
            }
            for side in sides {
                let samples = measure
                    .sample(&mut self.stage, side)
                    .with_context(|| format!("{}, {side:?}", measure.name()))?;
                for sample in samples {
                    self.figures.add(round, side, sample);
                }
            }
        }
        for side in [Side::OURS, Side::PEER] {
            for sample in measures::derived::samples(&self.figures, round, side) {
                self.figures.add(round, side, sample);
            }
        }
        if std::mem::take(&mut self.stage.disturbed) {
            self.disturbed.insert(round);
        }
        Ok(())
    }

    fn report(mut self, out: &Path) -> Result<()> {
        let notes =
            self.drop_unsteady().into_iter().chain(self.load_core_note()).chain(self.place_note());
        let notes: Vec<String> = notes.collect();
        self.figures.summarise();
        let mut document = serde_json::to_value(&self.figures)?;
        document["conditions"] = self.conditions();
        document["notes"] = json!(notes);
        let text = serde_json::to_string_pretty(&document)? + "\n";
        write(&out.join("summary.json"), &text)?;
        write(&out.join("table.md"), &self.figures.markdown())?;
        println!("{}\n{}", self.figures.table(), self.figures.targets());
        for note in notes {
            println!("note: {note}");
        }
        println!("{}; also in {}", machine::describe(), out.join("summary.json").display());
        Ok(())
    }

    /// Takes out the rounds that do not count and says which; keeps all of them if most are such.
    fn drop_unsteady(&mut self) -> Option<String> {
        let total = self.stage.plan.rounds;
        let mut bad = self.figures.unsteady(STEADY_FIGURE, STEADY);
        bad.extend(&self.disturbed);
        if bad.is_empty() {
            return None;
        }
        let why = format!(
            "{} of {total} rounds were disturbed: the server alone was more than 5 % off its \
             median, or other processes took more than a tenth of a core",
            bad.len()
        );
        if bad.len() * 2 >= total {
            return Some(format!("{why}; they count all the same, so these figures are doubtful"));
        }
        self.figures.drop_rounds(&bad, total);
        Some(format!("{why}; they do not count"))
    }

    fn load_core_note(&self) -> Option<String> {
        let busy = self.stage.load_core_max;
        (busy > LOAD_CORE_MAX).then(|| {
            format!(
                "generator and server were busy up to {:.0} % of their core: throughput may be \
                 theirs, CPU per request is not affected",
                busy * 100.0
            )
        })
    }

    fn place_note(&self) -> Option<String> {
        let why = self.stage.without_pods.as_ref()?;
        Some(format!(
            "explicit mode on loopback, without redirect, and nothing that needs three proxies: {why}"
        ))
    }

    fn conditions(&self) -> Value {
        let setting = self.stage.setting;
        json!({
            "machine": machine::describe(),
            "plan": self.stage.plan,
            "pods": self.stage.has_pods(),
            "token_bytes_peer": setting.tokens.token_bytes(),
            "load_core_busy_max": self.stage.load_core_max,
            "pinning": {"load": setting.cores.load, "proxies": setting.cores.proxies},
        })
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}
