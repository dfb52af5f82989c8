//! Codes of the complaints this crate makes, beside those of policy documents.

/// Code and meaning, in the order of the reference.
pub(crate) const CODES: &[(&str, &str)] = &[
    ("P001", "a file that cannot be read"),
    ("P002", "two listeners on one address"),
    ("P003", "a call that would come back to this process"),
    ("P004", "an explicit inbound port without an app behind it"),
    ("P005", "gateway listeners and routes that do not fit"),
    ("P006", "an identity of another trust domain"),
    ("P007", "an identity of another namespace than the one selectors compare (warning)"),
    ("P008", "a gateway that not exactly one ContextPolicy selects"),
    ("P009", "listeners, ports or exceptions that do not fit the redirect"),
    (
        "P010",
        "a rule about requests on every port, so that a `tcp` port takes no connection (warning)",
    ),
    (
        "P011",
        "a listener's trust domain that the mesh is not federated with (warning), or that is its own",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    fn sources(folder: &Path, out: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, out);
            } else if !path.ends_with("codes.rs") && !path.ends_with("tests.rs") {
                *out += &fs::read_to_string(path).unwrap();
            }
        }
    }

    #[test]
    fn every_code_is_listed_and_used() {
        let mut text = String::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
        let is_code = |word: &&str| word.len() == 4 && word.starts_with("P0");
        let used: BTreeSet<&str> = text.split('"').filter(is_code).collect();
        assert_eq!(used, CODES.iter().map(|(code, _)| *code).collect::<BTreeSet<&str>>());
    }
}
