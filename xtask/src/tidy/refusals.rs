//! Every refusal of `proxy/src/refusal.rs` is produced by a test that names its reason.
//! The end-to-end suite is searched for the reason as a quoted word. A refusal that only a unit
//! test can produce is listed in `allow_unproduced.txt` with that test's name.

use crate::repo::SourceFile;

const TABLE: &str = "proxy/src/refusal.rs";
const EXCEPTIONS: &str = "xtask/allow_unproduced.txt";

/// Each reason stands in a test.
pub(super) fn each_has_a_test(files: &[SourceFile]) -> Vec<String> {
    let text =
        |path: &str| files.iter().find(|file| file.path == path).map(|file| file.text.as_str());
    let Some(table) = text(TABLE) else {
        return vec![format!("{TABLE} is gone")];
    };
    let reasons = reasons(table);
    let excepted = exceptions(text(EXCEPTIONS).unwrap_or(""));
    let suite: Vec<&SourceFile> =
        files.iter().filter(|file| file.path.starts_with("integration/tests/")).collect();
    let mut complaints = Vec::new();
    for reason in &reasons {
        let quoted = format!("\"{reason}\"");
        let detailed = format!("\"{reason}/"); // such as "policy_denied/no_match"
        let label = format!("\"{reason}\\\""); // of a metric, inside a text
        let forms = [quoted, detailed, label];
        let shown = suite.iter().any(|f| forms.iter().any(|form| f.text.contains(form)));
        match excepted.iter().find(|(name, _)| name == reason) {
            None if !shown => {
                complaints.push(format!("no test in integration/tests produces {reason}"))
            }
            Some((_, test)) if !defines(files, test) => {
                complaints.push(format!(
                    "{EXCEPTIONS} names test {test} for {reason}, which does not exist"
                ));
            }
            Some(_) if shown => complaints
                .push(format!("{reason} is produced by a test: take it out of {EXCEPTIONS}")),
            _ => {}
        }
    }
    for (name, _) in excepted.iter().filter(|(name, _)| !reasons.contains(name)) {
        complaints.push(format!("{EXCEPTIONS} names {name}, which is no refusal"));
    }
    complaints
}

/// The reasons of the table: lines `Variant => "reason", …`.
fn reasons(table: &str) -> Vec<&str> {
    let body = table.split_once("\nrefusals! {").map_or("", |(_, rest)| rest);
    body.split("\n}")
        .next()
        .unwrap_or("")
        .lines()
        .filter_map(|line| line.split_once(" => \"")?.1.split('"').next())
        .collect()
}

/// Lines `reason  test_name  # why`.
fn exceptions(text: &str) -> Vec<(&str, &str)> {
    text.lines()
        .filter_map(|line| {
            let (entry, reason) = line.split_once('#')?;
            let (name, test) = entry.trim().split_once(char::is_whitespace)?;
            (!reason.trim().is_empty()).then_some((name, test.trim()))
        })
        .collect()
}

/// Whether some Rust file has a function of this name.
fn defines(files: &[SourceFile], test: &str) -> bool {
    let definition = format!("fn {test}(");
    files.iter().any(|file| file.path.ends_with(".rs") && file.text.contains(&definition))
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    const ROWS: &str = "x\nrefusals! {\n    A => \"alpha\", 401;\n    B => \"beta\", 403;\n}\n";

    #[test]
    fn a_refusal_without_a_test_is_named() {
        let suite = file("integration/tests/it/a.rs", "assert_eq!(r, \"beta/no_match\");");
        let complaints = each_has_a_test(&[file(TABLE, ROWS), suite]);
        assert_eq!(complaints, ["no test in integration/tests produces alpha"]);
    }

    #[test]
    fn an_exception_needs_an_existing_test() {
        let suite = file("integration/tests/it/a.rs", "\"beta\"");
        let list = file(EXCEPTIONS, "alpha  stops_early  # needs a full queue\n");
        let complaints = each_has_a_test(&[file(TABLE, ROWS), suite.clone(), list.clone()]);
        assert_eq!(complaints.len(), 1);
        let unit = file("proxy/src/a.rs", "fn stops_early() {}");
        assert!(each_has_a_test(&[file(TABLE, ROWS), suite, list, unit]).is_empty());
    }
}
