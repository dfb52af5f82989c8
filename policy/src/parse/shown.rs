//! Reads `claims` of a rule: which members of a context its permit shows the app.

use crate::{
    doc::shown::{ClaimFilter, ShownRctx, ShownTctx},
    yaml::{Fields, Findings, Node, read},
};

pub(super) fn read(node: &Node, findings: &mut Findings<'_>) -> ClaimFilter {
    let Some(mut fields) = Fields::of(node, "claims", findings) else {
        return ClaimFilter::default();
    };
    let rctx = names(fields.optional("rctx"), ShownRctx::ALL, findings);
    let tctx = names(fields.optional("tctx"), ShownTctx::ALL, findings);
    fields.finish(findings);
    ClaimFilter { rctx, tctx }
}

/// An empty list shows nothing, which is a good thing to say.
fn names<T: Copy + PartialEq>(
    node: Option<&Node>,
    known: &[(&'static str, T)],
    findings: &mut Findings<'_>,
) -> Vec<T> {
    let mut out = Vec::new();
    for item in read::list(node, findings) {
        match read::one_of(item, known, findings) {
            Some(name) if out.contains(&name) => {
                findings.error("E019", item.span, format!("{} stands here twice", item.describe()));
            }
            Some(name) => out.push(name),
            None => {}
        }
    }
    out
}
