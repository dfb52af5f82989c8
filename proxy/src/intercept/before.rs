//! What of ours was in the kernel before `init` changed anything, and how it comes back.
//!
//! Invariant: only what was not there before is taken out.

use crate::intercept::init::{Backend, installed, kinds_of, lists, remove_routes, routing_rules};
use crate::intercept::iptables;
use crate::intercept::nft::TABLE_NAME;
use crate::intercept::program::{Program, ProgramError};
use crate::intercept::rules::Family;

/// What was there.
pub(super) struct Before {
    /// The tables of `nft`; `None` where it could not say.
    tables: Option<String>,
    /// The rules of each family in the old form; a program that is not there installed none.
    saved: [(Family, String); 2],
    /// Whether marked packets were led to ourselves.
    routed: bool,
    /// The backend whose rules were in force.
    backend: Option<Backend>,
}

/// What an undone attempt left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// What was there before.
    AsBefore,
    /// The new rules: they replaced older ones, which are gone.
    Replaced,
}

impl Before {
    /// Looks.
    pub(super) fn read() -> Before {
        let saved = |family| (family, Program::save(family).run(&[]).unwrap_or_default());
        let is_routed = |family: Family| routing_rules(family).is_ok_and(|count| count > 0);
        Before {
            tables: Program::NFT.run(&["list", "tables"]).ok(),
            saved: Family::ALL.map(saved),
            routed: Family::ALL.into_iter().any(is_routed),
            backend: installed().ok().flatten().map(|(backend, _)| backend),
        }
    }

    /// Every backend, the one in force first: it worked here.
    pub(super) fn order(&self) -> Vec<Backend> {
        let mut order = Backend::ALL.to_vec();
        order.sort_by_key(|backend| self.backend != Some(*backend));
        order
    }

    /// Takes out what a failed attempt of `backend` added. Rules of `nft` are replaced in one
    /// transaction: a failed one changed nothing, and what another replaced is gone.
    ///
    /// # Errors
    /// [`ProgramError`] if something stays that should not.
    pub(super) fn put_back(&self, backend: Backend) -> Result<Left, ProgramError> {
        let mut left = Left::AsBefore;
        let now = Program::NFT.run(&["list", "tables"]).unwrap_or_default();
        for kind in kinds_of(backend).iter().filter(|kind| lists(&now, **kind)) {
            if self.tables.as_ref().is_none_or(|before| lists(before, *kind)) {
                left = Left::Replaced;
            } else {
                Program::NFT.run(&["delete", "table", kind.word(), TABLE_NAME])?;
            }
        }
        for (family, before) in self.saved.iter().filter(|_| backend == Backend::Iptables) {
            let now = Program::save(*family).run(&[]).unwrap_or_default();
            let text = iptables::put_back(before, &now);
            if !text.is_empty() {
                Program::restore(*family).feed(&["--noflush"], &text)?;
            }
        }
        if !self.routed && left == Left::AsBefore {
            remove_routes()?;
        }
        Ok(left)
    }
}
