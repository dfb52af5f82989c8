//! What a run measures. A [`Measure`] is taken of one [`Side`] at a time, on the [`Stage`] that has
//! the pairs; the sides of a measure take turns within a round, so that what the machine does
//! meanwhile meets all of them. To add one: a module here, and a line in [`all`].

mod connections;
mod decision;
pub(crate) mod derived;
mod hold;
mod http;
mod memory;
mod scaling;
mod signatures;
mod startup;
mod tcp;

use anyhow::Result;

pub(crate) use hold::{HOLD, hold};

use crate::figures::Side;
use crate::plan::Plan;
use crate::stage::Stage;

/// One thing measured of several sides.
pub(crate) trait Measure {
    /// What `--case` filters by; mostly the stable part of its figures' names.
    fn name(&self) -> &str;

    /// Who it is measured of, in the order of an even round.
    fn sides(&self) -> Vec<Side>;

    /// How many of the run's rounds take it: the first ones.
    fn rounds(&self, plan: &Plan) -> usize {
        plan.rounds
    }

    /// Measures one side once.
    ///
    /// # Errors
    /// When the side did not do its job; that ends the run.
    fn sample(&self, stage: &mut Stage<'_>, side: Side) -> Result<Vec<Sample>>;
}

/// One value of one figure.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Stable name, such as `cpu_h1_fresh_es256`: a name of `summary.json`.
    pub(crate) name: String,
    /// `us`, `1/s`, `MB`, `ms`, ...
    pub(crate) unit: &'static str,
    /// What was measured; none keeps the figure's place in the table.
    pub(crate) value: Option<f64>,
}

impl Sample {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, value: f64) -> Sample {
        Sample { name: name.into(), unit, value: Some(value) }
    }
}

/// What a run measures: everything, or what `part` of a name leaves of it. How costs grow with what
/// is configured is measured only when asked for.
pub(crate) fn wanted(plan: &Plan, part: Option<&str>) -> Vec<Box<dyn Measure>> {
    let Some(part) = part else { return all(plan) };
    let mut measures = all(plan);
    measures.extend(scaling::cases());
    measures.retain(|measure| measure.name().contains(part));
    measures
}

/// Everything, in the order of a round and of the table.
fn all(plan: &Plan) -> Vec<Box<dyn Measure>> {
    let mut measures: Vec<Box<dyn Measure>> = vec![
        Box::new(memory::Resident),
        Box::new(startup::Start),
        Box::new(signatures::Signatures),
    ];
    measures.extend(http::cases(plan));
    measures.push(Box::new(connections::New));
    measures.push(Box::new(tcp::Bulk));
    measures.push(Box::new(decision::Decision));
    measures
}
