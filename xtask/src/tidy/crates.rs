//! Rules about crates: what their manifests inherit, where `anyhow` may be, and that every bound a
//! user may change is one the proxy really reads.
//! Who may link whom is checked on cargo's own resolution, in `graph`.

use std::collections::BTreeSet;

use super::{PRODUCT, before_tests};
use crate::repo::SourceFile;

/// Product crates that only start programs or print: they may use `anyhow` anywhere.
const SHELLS: &[&str] = &["cli"];

/// Files of the proxy that start it and may pass any error on to `main`.
const PROXY_SHELL: &[&str] = &["proxy/src/main.rs", "proxy/src/app.rs"];

/// Manifests inherit versions and lints from the workspace.
pub(super) fn manifests(files: &[SourceFile]) -> Vec<String> {
    let mut complaints = Vec::new();
    let crates = files
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml") && file.path.matches('/').count() == 1);
    for file in crates.filter(|file| !file.path.starts_with("fuzz/")) {
        for line in
            ["edition.workspace = true", "license.workspace = true", "[lints]\nworkspace = true"]
        {
            if !file.text.contains(line) {
                complaints.push(format!("{} lacks `{}`", file.path, line.replace('\n', " ")));
            }
        }
    }
    complaints
}

/// Libraries have their own error types.
pub(super) fn anyhow(files: &[SourceFile]) -> Vec<String> {
    let word = concat!("any", "how");
    let libraries = PRODUCT.iter().filter(|name| !SHELLS.contains(name));
    let mut complaints = Vec::new();
    for library in libraries {
        let sources = files.iter().filter(|file| file.path.starts_with(&format!("{library}/src/")));
        for file in sources.filter(|file| !PROXY_SHELL.contains(&file.path.as_str())) {
            if before_tests(&file.text).contains(&format!("{word}::")) {
                complaints.push(format!("{} uses {word}; libraries have error types", file.path));
            }
        }
    }
    complaints
}

/// Every bound is read by product code, or listed as planned; never both, never neither.
pub(super) fn limits_are_read(files: &[SourceFile]) -> Vec<String> {
    let text =
        |path: &str| files.iter().find(|file| file.path == path).map(|file| file.text.as_str());
    let Some(limits) = text("config/src/limits.rs") else {
        return vec!["config/src/limits.rs is gone".to_owned()];
    };
    let planned = planned(text("config/src/planned.rs").unwrap_or(""));
    let readers = words_of(files.iter().filter(|file| {
        let product = PRODUCT.iter().any(|name| file.path.starts_with(&format!("{name}/src/")));
        product
            && !file.path.starts_with("config/src/limits.rs")
            && file.path != "config/src/planned.rs"
    }));
    let fields = changeable_fields(limits);
    let mut complaints = Vec::new();
    for name in bound_names(limits) {
        let field = name.to_lowercase();
        let is_read = readers.contains(name) || readers.contains(field.as_str());
        match (is_read, planned.contains(&name)) {
            (false, false) => complaints.push(format!(
                "nobody reads {name}; enforce it or list it in config/src/planned.rs"
            )),
            (true, true) => {
                complaints.push(format!("{name} is in force: take it out of config/src/planned.rs"))
            }
            _ => {}
        }
        if fields.contains(&field.as_str()) && !readers.contains(field.as_str()) {
            complaints.push(format!("nobody reads `Limits::{field}`, so setting it does nothing"));
        }
    }
    complaints
}

/// Every identifier of some files.
fn words_of<'f>(files: impl Iterator<Item = &'f SourceFile>) -> BTreeSet<&'f str> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    files.flat_map(|file| before_tests(&file.text).split(move |c| !is_part(c))).collect()
}

/// The constants: lines `NAME: type = value;` in `bounds! { … }`.
fn bound_names(text: &str) -> Vec<&str> {
    let Some((_, body)) = text.split_once("\nbounds! {\n") else { return Vec::new() };
    let body = body.split("\n}").next().unwrap_or("");
    body.lines()
        .filter(|line| !line.trim_start().starts_with("///"))
        .filter_map(|line| line.trim().split_once(": "))
        .map(|(name, _)| name)
        .collect()
}

/// The names in `("NAME", "feature")`.
fn planned(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split('"').next()).collect()
}

/// The fields of `Limits`: lines `name: type = CONSTANT, Change, ceiling;` in `limits! { … }`.
fn changeable_fields(text: &str) -> Vec<&str> {
    let Some((_, body)) = text.split_once("\nlimits! {\n") else { return Vec::new() };
    let body = body.split("\n}").next().unwrap_or("");
    body.lines()
        .filter(|line| !line.trim_start().starts_with("///"))
        .filter_map(|line| line.trim().split_once(": "))
        .map(|(field, _)| field)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    #[test]
    fn a_manifest_inherits_lints() {
        let text = "[package]\nedition.workspace = true\nlicense.workspace = true\n";
        assert_eq!(manifests(&[file("proxy/Cargo.toml", text)]).len(), 1);
    }

    #[test]
    fn a_library_with_any_error_is_named() {
        let text = concat!("use any", "how::Result;\n");
        assert_eq!(anyhow(&[file("policy/src/load.rs", text)]).len(), 1);
        assert!(
            anyhow(&[file("cli/src/main.rs", text), file("proxy/src/main.rs", text)]).is_empty()
        );
    }

    #[test]
    fn a_bound_is_read_or_planned() {
        let limits = "x\nbounds! {\n    /// Why.\n    A_MAX: u64 = 1;\n    B_MAX: u64 = 1;\n    C_MAX: u64 = 1;\n}\n\nlimits! {\n    a_max: u64 = A_MAX, Any, 9;\n}\n";
        let planned =
            file("config/src/planned.rs", "    (\"B_MAX\", \"x\"),\n    (\"A_MAX\", \"y\"),\n");
        let proxy = file("proxy/src/x.rs", "limits::A_MAX");
        let complaints = limits_are_read(&[file("config/src/limits.rs", limits), planned, proxy]);
        let said = |part: &str| complaints.iter().any(|text| text.contains(part));
        assert_eq!(complaints.len(), 3, "{complaints:?}");
        assert!(said("A_MAX is in force") && said("nobody reads `Limits::a_max`"));
        assert!(said("nobody reads C_MAX"));
    }
}
