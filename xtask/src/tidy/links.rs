//! Relative links in Markdown lead to files that exist.
//! Links to other hosts are not followed: no check of ours uses the network.

use std::collections::BTreeSet;

use crate::repo::SourceFile;

/// Every relative link of every `.md` file leads somewhere.
pub(super) fn resolve(files: &[SourceFile]) -> Vec<String> {
    let mut known = BTreeSet::new();
    for file in files {
        let mut path = file.path.as_str();
        known.insert(path);
        while let Some((folder, _)) = path.rsplit_once('/') {
            known.insert(folder);
            path = folder;
        }
    }
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for target in targets(&file.text) {
            let wanted = join(&file.path, target);
            if !known.contains(wanted.as_str()) {
                complaints.push(format!("{} leads to {target}, which does not exist", file.path));
            }
        }
    }
    complaints
}

/// What the `](…)` of a text lead to, but for other hosts and places on the same page.
fn targets(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(|target| target.split('#').next().unwrap_or(""))
        .filter(|target| !target.is_empty() && !target.contains("://") && !target.contains(' '))
        .filter(|target| !target.starts_with("mailto:"))
        .collect()
}

fn join(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    #[test]
    fn a_link_to_nowhere_is_named() {
        let page = "[a](lexicon.md) [b](../policy/src) [c](https://x.example) [d](gone.md#part) [e](#here)";
        let files =
            [file("docs/a.md", page), file("docs/lexicon.md", ""), file("policy/src/lib.rs", "")];
        assert_eq!(resolve(&files), ["docs/a.md leads to gone.md, which does not exist"]);
    }
}
