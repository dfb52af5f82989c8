//! What a long piece of work does between two of its steps: megabytes of documents are read beside
//! threads that serve requests, and a caller may make room for these.

use std::fmt;

/// Called between two steps, with what the last one cost: about so many microseconds. By default
/// nothing is.
#[derive(Clone, Copy, Default)]
pub struct Pace<'a>(Option<&'a dyn Fn(u32)>);

impl<'a> Pace<'a> {
    /// Does this between any two steps.
    pub fn new(between: &'a dyn Fn(u32)) -> Pace<'a> {
        Pace(Some(between))
    }

    /// A step has ended that took about so many microseconds.
    pub(crate) fn step(self, cost: u32) {
        if let Some(between) = self.0 {
            between(cost);
        }
    }
}

impl fmt::Debug for Pace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Pace(of the caller)" } else { "Pace(none)" })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fmt::Write as _;

    use super::*;
    use crate::{Source, Workload, compile, compile_paced, load, load_paced};

    fn text(rules: usize) -> String {
        let mut text = "apiVersion: countersign.dev/v1alpha1\nkind: MeshConfig\n\
                        metadata: {name: default}\nspec: {trustDomain: prod.example.com}\n"
            .to_owned();
        for rule in 0..rules {
            let _ = write!(
                text,
                "---\napiVersion: countersign.dev/v1alpha1\nkind: AccessPolicy\n\
                 metadata: {{name: p{rule}, namespace: shop}}\n\
                 spec: {{selector: {{all: true}}, direction: inbound, rules: [{{name: r,\n\
                 effect: allow, match: {{caller: {{anyOf: [{{namespace: shop,\n\
                 serviceAccount: web}}]}}}}}}]}}\n"
            );
        }
        text
    }

    /// Steps are as many as there is work, and change nothing of what comes of it.
    #[test]
    fn what_is_done_at_a_pace_is_done_in_steps() {
        let steps_of = |rules: usize| {
            let text = text(rules);
            let sources = [Source { name: "a.yaml", text: &text }];
            let steps = Cell::new(0_u32);
            let between = |_| steps.set(steps.get() + 1);
            let pace = Pace::new(&between);
            let shop = Workload { namespace: "shop".to_owned(), ..Workload::default() };
            let documents = load_paced(&sources, pace).unwrap();
            let reading = steps.get();
            let compiled = compile_paced(&documents, &shop, pace);
            let plainly = load(&sources).unwrap();
            assert_eq!(documents.sha256, plainly.sha256);
            assert_eq!(format!("{compiled:?}"), format!("{:?}", compile(&plainly, &shop)));
            (reading, steps.get() - reading)
        };
        let (few, many) = (steps_of(10), steps_of(100));
        assert!(many.0 > 8 * few.0 && many.1 > 8 * few.1, "{few:?} {many:?}");
    }
}
