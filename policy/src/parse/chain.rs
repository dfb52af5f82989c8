//! Reads the `chain` atom.

use super::{known::Known, matchers};
use crate::{
    doc::access::ChainAtom,
    yaml::{Fields, Findings, Node, read},
};

/// Most workloads a request can have passed.
const HOPS_MAX: usize = 8;

pub(super) fn read(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Option<ChainAtom> {
    let mut fields = Fields::of(node, "chain", findings)?;
    let origin_node = fields.optional("origin");
    let through_node = fields.optional("through");
    let hops_node = fields.optional("maxHops");
    let custody_node = fields.optional("custody");
    let (span, empty) = (fields.span(), fields.is_empty());
    fields.finish(findings);
    if empty {
        findings.error("E001", span, "`chain` needs `origin`, `through`, `maxHops` or `custody`");
        return None;
    }
    let origin = match origin_node {
        Some(node) => Some(matchers::workload(node, known, findings)?),
        None => None,
    };
    let items = read::filled_list(through_node, findings);
    if let (Some(node), true) = (through_node, items.len() > HOPS_MAX) {
        findings.error("E017", node.span, format!("a request passes at most {HOPS_MAX} workloads"));
        return None;
    }
    let through: Vec<_> =
        items.iter().map(|item| matchers::workload(item, known, findings)).collect();
    let max_hops = match hops_node {
        Some(node) => {
            let max = u64::try_from(HOPS_MAX).ok()?;
            Some(usize::try_from(read::integer(node, 0, max, findings)?).ok()?)
        }
        None => None,
    };
    let custody = match custody_node {
        Some(node) => read::only_true(node, "custody", findings).is_some(),
        None => false,
    };
    let through = through.into_iter().collect::<Option<Vec<_>>>()?;
    Some(ChainAtom { origin, through, max_hops, custody })
}
