//! What measures work with: the server, the pairs, which start when they are first asked for and
//! stay until the run ends, and a record of what else the machine did meanwhile.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::backend::Backend;
use crate::load::{Load, Protocol, Target};
use crate::plan::Plan;
use crate::sidecars::{Make, Pair, Setting, Variant};

/// Processes outside the run may take this share of a core.
const FOREIGN_MAX: f64 = 0.1;

/// The stage of one run.
pub(crate) struct Stage<'a> {
    /// How long things take.
    pub(crate) plan: Plan,
    /// What all pairs have in common.
    pub(crate) setting: &'a Setting,
    /// The server behind all pairs.
    pub(crate) server: &'a Backend,
    pairs: BTreeMap<(Make, Variant), Pair>,
    /// How busy generator and server were at most.
    pub(crate) load_core_max: f64,
    /// Something else ran on this machine since this was reset.
    pub(crate) disturbed: bool,
}

impl<'a> Stage<'a> {
    /// An empty one.
    pub(crate) fn new(plan: Plan, setting: &'a Setting, server: &'a Backend) -> Stage<'a> {
        let (pairs, load_core_max) = (BTreeMap::new(), 0.0);
        Stage { plan, setting, server, pairs, load_core_max, disturbed: false }
    }

    /// The pair for a job; started, and shown to do its job, when it is first asked for.
    pub(crate) fn pair(&mut self, make: Make, variant: Variant) -> Result<&mut Pair> {
        if !self.pairs.contains_key(&(make, variant)) {
            let pair = Pair::start(make, variant, self.setting)?;
            self.pairs.insert((make, variant), pair);
        }
        match self.pairs.get_mut(&(make, variant)) {
            Some(pair) => Ok(pair),
            None => anyhow::bail!("the {make:?} pair ({variant:?}) is gone"),
        }
    }

    /// The server without proxies.
    pub(crate) fn direct(&self, protocol: Protocol) -> Target {
        let tokens = Some(self.setting.tokens.clone());
        Target { address: self.server.address, protocol, tokens }
    }

    /// Ends a pair that later measures do not need, or need fresh.
    #[expect(dead_code, reason = "for measures that need a pair nobody has used")]
    pub(crate) fn end(&mut self, make: Make, variant: Variant) {
        self.pairs.remove(&(make, variant));
    }

    /// Notes under which conditions a load ran.
    pub(crate) fn saw(&mut self, load: &Load, through_proxies: bool) {
        if through_proxies {
            self.load_core_max = self.load_core_max.max(load.load_core);
        }
        self.disturbed |= load.foreign > FOREIGN_MAX;
    }
}
