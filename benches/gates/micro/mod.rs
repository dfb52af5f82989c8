//! Single steps, each alone in this process under callgrind: decide, mint, verify, hop records,
//! detection, header work, handshakes. One run of valgrind counts them all: it counts inside
//! [`gated`] only, and writes a file each time that function ends.

mod decide;
mod http;
mod tls;
mod token;

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::callgrind;
use crate::record::{Figure, Unit};

/// Counts every step whose name contains `filter`.
pub(crate) fn measure(work: &Path, filter: &str) -> Result<Vec<Figure>> {
    let mut own = Command::new(std::env::current_exe()?);
    own.args(["steps", filter]);
    let (files, printed) = callgrind::run(&mut own, "*micro::gated", &work.join("steps"))?;
    let steps: Vec<&str> = printed.lines().collect();
    ensure!(files.len() == steps.len(), "{} files for {} steps", files.len(), steps.len());
    let mut figures = Vec::new();
    for (step, file) in steps.iter().zip(files) {
        let [name, turns, allocations] = step.split(' ').collect::<Vec<_>>()[..] else {
            bail!("a step prints its name and two numbers, not `{step}`");
        };
        let (turns, allocations): (u64, u64) = (turns.parse()?, allocations.parse()?);
        // Callgrind also counts calls outside of `gated`, so the steps count allocations themselves.
        let instructions = callgrind::read(&file)?.instructions;
        std::fs::rename(&file, work.join(name.replace('/', ".")))?;
        for (unit, total) in [(Unit::Instructions, instructions), (Unit::Allocations, allocations)]
        {
            let value = total as f64 / turns as f64;
            figures.push(Figure { name: name.to_owned(), unit, value });
        }
    }
    Ok(figures)
}

/// Runs the steps and prints the name of each, how often it ran and how often it asked
/// the allocator.
pub(crate) fn run(filter: &str) {
    let steps = Steps { filter };
    decide::run(&steps);
    token::run(&steps);
    http::run(&steps);
    tls::run(&steps);
}

/// Which steps are wanted.
struct Steps<'a> {
    filter: &'a str,
}

impl Steps<'_> {
    /// Runs `step` twice uncounted, for what is built at first use, and then `turns` times counted.
    fn step(&self, name: &str, turns: usize, mut step: impl FnMut()) {
        if !name.contains(self.filter) {
            return;
        }
        for _ in 0..WARM_UP {
            step();
        }
        let asked = allocation_counter::measure(|| gated(&mut step, turns)).count_total;
        println!("{name} {turns} {asked}");
    }

    /// As [`Steps::step`] for what uses something up: one of `things` for each turn.
    fn step_with<T>(&self, name: &str, make: impl Fn() -> T, mut step: impl FnMut(T)) {
        const TURNS: usize = 16;
        let mut things: Vec<T> = (0..TURNS + WARM_UP).map(|_| make()).collect();
        // Results are kept by `step`, so that dropping a thing is not counted twice.
        self.step(name, TURNS, || {
            if let Some(thing) = things.pop() {
                step(thing);
            }
        });
    }
}

const WARM_UP: usize = 2;

/// What is counted. Never inlined: callgrind knows it by its name.
#[inline(never)]
fn gated(step: &mut dyn FnMut(), turns: usize) {
    for _ in 0..turns {
        step();
    }
}
