//! What the log says of documents that were taken over and will not do what somebody may expect.
//! Thousands of rules may have the same flaw: the log names the first few and counts the others.

use std::collections::BTreeMap;

use countersign_certs_client::{Certs, svid};
use countersign_config::limits::WARNINGS_LOGGED_MAX;
use countersign_policy::{Diagnostic, Documents};

/// Says what of the documents will not do what somebody may expect.
pub fn warn_of(documents: &Documents, certs: &Certs) {
    let Digest { first, more } = Digest::of(&documents.warnings);
    for warning in first {
        tracing::warn!(code = warning.code, "{warning}");
    }
    for (code, more) in more {
        tracing::warn!(code, more, "more warnings of this kind; `countersign check` prints them");
    }
    let leaf = certs.identity.as_ref().and_then(|me| me.chain_der.first());
    let attested =
        leaf.and_then(|leaf| svid::facts(leaf).ok()).is_some_and(|f| f.pod_uid.is_some());
    let names_pods = documents.revocations.iter().any(|named| !named.spec.pods.is_empty());
    if names_pods && !attested {
        tracing::warn!(
            code = "RV-01",
            "a Revocation names pods, and our own certificate does not say which pod it is for: \
             where the source of certificates attests none, `pods` hits nobody; revoke certificates \
             or the identity, and stop issuance at the source"
        );
    }
}

/// Warnings as the log shows them.
#[derive(Debug, PartialEq, Eq)]
struct Digest<'a> {
    /// The first of each code.
    first: Vec<&'a Diagnostic>,
    /// How many others a code has.
    more: BTreeMap<&'static str, usize>,
}

impl Digest<'_> {
    fn of(warnings: &[Diagnostic]) -> Digest<'_> {
        let mut digest = Digest { first: Vec::new(), more: BTreeMap::new() };
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for warning in warnings {
            let seen = seen.entry(warning.code).or_default();
            *seen += 1;
            if *seen <= WARNINGS_LOGGED_MAX {
                digest.first.push(warning);
            } else {
                *digest.more.entry(warning.code).or_default() += 1;
            }
        }
        digest
    }
}

#[cfg(test)]
mod tests {
    use countersign_policy::{Source, load};

    use super::*;

    /// A mesh with so many rules that hide the context, and one label that nothing selects by.
    fn warned(rules: usize) -> Vec<Diagnostic> {
        let rule = |number| {
            format!(
                "    - {{name: r{number}, effect: allow, context: none, \
                match: {{caller: {{anyOf: [{{serviceAccount: c{number}, namespace: web}}]}}}}}}\n"
            )
        };
        let rules: String = (0..rules).map(rule).collect();
        let text = format!(
            "apiVersion: countersign.dev/v1alpha1\nkind: AccessPolicy\n\
             metadata: {{name: p, namespace: shop}}\nspec:\n  \
             selector: {{matchLabels: {{app: a}}}}\n  direction: inbound\n  rules:\n{rules}"
        );
        let mesh = "apiVersion: countersign.dev/v1alpha1\nkind: MeshConfig\n\
                    metadata: {name: default}\nspec: {trustDomain: prod.example.com}\n";
        let sources =
            [Source { name: "mesh.yaml", text: mesh }, Source { name: "p.yaml", text: &text }];
        load(&sources).unwrap_or_else(|problems| panic!("{problems}")).warnings
    }

    #[test]
    fn ten_thousand_rules_with_one_flaw_are_a_few_lines_and_a_count() {
        let warnings = warned(10_000);
        assert_eq!(warnings.len(), 10_000, "`countersign check` prints all of them");
        let digest = Digest::of(&warnings);
        let first = warnings.iter().take(WARNINGS_LOGGED_MAX).collect::<Vec<_>>();
        assert_eq!(digest.first, first);
        assert!(digest.first.iter().all(|warning| warning.to_string().contains("p.yaml:")));
        assert_eq!(digest.more, BTreeMap::from([("W109", 10_000 - WARNINGS_LOGGED_MAX)]));
    }

    #[test]
    fn each_code_has_its_own_first_ones() {
        let mut warnings = warned(WARNINGS_LOGGED_MAX);
        let other = Diagnostic { code: "W103", ..warnings[0].clone() };
        warnings.push(other.clone());
        let digest = Digest::of(&warnings);
        assert_eq!(digest.first.last(), Some(&&other));
        assert_eq!(digest.more, BTreeMap::new());
    }
}
