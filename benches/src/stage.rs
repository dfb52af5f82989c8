//! What measures work with: the server, the pairs, which start when they are first asked for and
//! stay until the run ends, and a record of what else the machine did meanwhile.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use anyhow::Result;

use crate::backend::Backend;
use crate::load::{Load, Protocol, Target};
use crate::plan::Plan;
use crate::pods;
use crate::sidecars::{Make, Pair, Setting, Variant};

/// Processes outside the run may take this share of a core.
const FOREIGN_MAX: f64 = 0.1;

/// Where a pair is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Pods,
    Loopback,
}

/// The stage of one run.
pub(crate) struct Stage<'a> {
    /// How long things take.
    pub(crate) plan: Plan,
    /// What all pairs have in common.
    pub(crate) setting: &'a Setting,
    /// The server behind all pairs.
    pub(crate) server: &'a Backend,
    pairs: BTreeMap<(Make, Variant, Place), Pair>,
    /// Why pairs are on loopback instead of in pods, if so.
    pub(crate) without_pods: Option<String>,
    /// How busy generator and server were at most.
    pub(crate) load_core_max: f64,
    /// Something else ran on this machine since this was reset.
    pub(crate) disturbed: bool,
}

impl<'a> Stage<'a> {
    /// An empty one.
    pub(crate) fn new(plan: Plan, setting: &'a Setting, server: &'a Backend) -> Stage<'a> {
        let (pairs, load_core_max) = (BTreeMap::new(), 0.0);
        let without_pods = pods::possible().err();
        Stage { plan, setting, server, pairs, without_pods, load_core_max, disturbed: false }
    }

    /// Whether pairs are in pods of their own.
    pub(crate) fn has_pods(&self) -> bool {
        self.without_pods.is_none()
    }

    /// The pair for a job, in pods where that is possible; started, and shown to do its job, when it
    /// is first asked for. Who decides nothing is always on loopback.
    pub(crate) fn pair(&mut self, make: Make, variant: Variant) -> Result<&mut Pair> {
        let place = if self.has_pods() && make.decides() { Place::Pods } else { Place::Loopback };
        self.pair_in(place, make, variant)
    }

    /// The same on loopback, in explicit mode.
    pub(crate) fn loopback_pair(&mut self, make: Make, variant: Variant) -> Result<&mut Pair> {
        self.pair_in(Place::Loopback, make, variant)
    }

    fn pair_in(&mut self, place: Place, make: Make, variant: Variant) -> Result<&mut Pair> {
        match self.pairs.entry((make, variant, place)) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => Ok(entry.insert(match place {
                Place::Pods => Pair::start_in_pods(make, variant, self.setting, self.server)?,
                Place::Loopback => Pair::start(make, variant, self.setting)?,
            })),
        }
    }

    /// The server without proxies.
    pub(crate) fn direct(&self, protocol: Protocol) -> Target {
        let tokens = Some(self.setting.tokens.clone());
        Target { address: self.server.address, protocol, tokens, pod: None }
    }

    /// Notes under which conditions a load ran.
    pub(crate) fn saw(&mut self, load: &Load, through_proxies: bool) {
        if through_proxies {
            self.load_core_max = self.load_core_max.max(load.load_core);
        }
        self.disturbed |= load.foreign > FOREIGN_MAX;
    }
}
