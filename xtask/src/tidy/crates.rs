//! Rules about crates: what their manifests inherit, where `anyhow` may be, and that every bound a
//! user may change is one the proxy really reads.
//! Who may link whom is checked on cargo's own resolution, in `graph`.

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

/// A bound somebody may set in a `ProxyConfig` is read by the data path.
pub(super) fn limits_are_read(files: &[SourceFile]) -> Vec<String> {
    let Some(limits) = files.iter().find(|file| file.path == "config/src/limits.rs") else {
        return vec!["config/src/limits.rs is gone".to_owned()];
    };
    let proxy: Vec<&str> = files
        .iter()
        .filter(|file| file.path.starts_with("proxy/src/"))
        .map(|file| file.text.as_str())
        .collect();
    changeable_fields(&limits.text)
        .into_iter()
        .filter(|field| !proxy.iter().any(|text| text.contains(&format!(".{field}"))))
        .map(|field| {
            format!("nobody in proxy/ reads `Limits::{field}`, so setting it does nothing")
        })
        .collect()
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
    fn a_bound_nobody_reads_is_named() {
        let limits = "x\nlimits! {\n    /// `A`\n    a_max: u64 = A_MAX, Any, 9;\n    b_max: u64 = B_MAX, Any, 9;\n}\n";
        let files =
            [file("config/src/limits.rs", limits), file("proxy/src/x.rs", "snap.limits.a_max")];
        let complaints = limits_are_read(&files);
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].contains("b_max"));
    }
}
