//! Where the instructions of a request go: `cargo xtask bench profile` counts them and keeps them
//! under a name, and the page shows what was kept as `before` beside `now`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::plot::{Bar, Chart, Group};
use crate::suite;

/// What was kept: a name, a case and proxy, a part, instructions per request.
pub(super) const PROFILE: &str = "docs/performance/profile.json";

type Parts = BTreeMap<String, f64>;
type Profile = BTreeMap<String, Parts>;
type Kept = BTreeMap<String, Profile>;

/// Columns of the table: a case and a proxy.
const COLUMNS: [(&str, &str); 4] = [
    ("path/h1/no_token/32/a", "no token, A"),
    ("path/h1/no_token/32/b", "no token, B"),
    ("path/h1/fresh_es256/32/a", "fresh ES256, A"),
    ("path/h1/fresh_es256/32/b", "fresh ES256, B"),
];
const NAMES: [&str; 2] = ["before", "now"];

/// Counts, and keeps what was counted.
pub(crate) fn take(name: &str) -> Result<()> {
    suite::gates(&["profile"])?;
    let made = suite::programs_dir("gates")?.join("profile.json");
    let text = std::fs::read_to_string(&made)
        .with_context(|| format!("could not read {}", made.display()))?;
    let profile: Profile = serde_json::from_str(&text).context("the profile")?;
    let mut kept = if std::fs::exists(PROFILE)? { kept()? } else { Kept::new() };
    kept.insert(
        name.to_owned(),
        profile.into_iter().map(|(case, parts)| (case, whole(parts))).collect(),
    );
    std::fs::write(PROFILE, serde_json::to_string_pretty(&kept)? + "\n")
        .with_context(|| format!("could not write {PROFILE}"))?;
    println!("wrote {PROFILE}; `cargo xtask bench pages` shows it");
    Ok(())
}

/// Fractions of an instruction say nothing.
fn whole(parts: Parts) -> Parts {
    parts.into_iter().map(|(part, value)| (part, value.round())).collect()
}

fn kept() -> Result<Kept> {
    let text =
        std::fs::read_to_string(PROFILE).with_context(|| format!("could not read {PROFILE}"))?;
    serde_json::from_str(&text).with_context(|| format!("{PROFILE} has an unknown form"))
}

/// The parts of everything, the dearest of the pair without token first.
fn parts(kept: &Kept) -> Vec<String> {
    let mut parts: Vec<String> = kept
        .values()
        .flat_map(|profile| profile.values().flat_map(|parts| parts.keys().cloned()))
        .collect();
    parts.sort();
    parts.dedup();
    parts.sort_by(|a, b| pair(kept, "now", b).total_cmp(&pair(kept, "now", a)));
    parts
}

fn of(kept: &Kept, name: &str, column: &str, part: &str) -> f64 {
    let found = kept.get(name).and_then(|profile| profile.get(column)?.get(part));
    found.copied().unwrap_or_default()
}

fn pair(kept: &Kept, name: &str, part: &str) -> f64 {
    COLUMNS.iter().take(2).map(|(column, _)| of(kept, name, column, part)).sum()
}

/// A row for each part, before and now.
pub(super) fn table() -> Result<String> {
    let kept = kept()?;
    let mut out = "| instructions per request |".to_owned();
    for (_, label) in COLUMNS {
        let _ = write!(out, " {label}: before | now |");
    }
    out.push_str("\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n");
    for part in parts(&kept) {
        row(&mut out, &part, |name, column| of(&kept, name, column, &part));
    }
    row(&mut out, "**all**", |name, column| {
        kept.get(name)
            .and_then(|profile| profile.get(column))
            .map_or(0.0, |parts| parts.values().sum())
    });
    Ok(out)
}

fn row(out: &mut String, label: &str, value: impl Fn(&str, &str) -> f64) {
    let _ = write!(out, "| {label} |");
    for (column, _) in COLUMNS {
        for name in NAMES {
            let _ = write!(out, " {} |", thousands(value(name, column)));
        }
    }
    out.push('\n');
}

/// `1,234,600`: to the hundred, since the rest differs from run to run.
fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", (value / 100.0).round() * 100.0);
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The pair without a token, part by part.
pub(super) fn chart() -> Result<Chart<'static>> {
    let kept = kept()?;
    let group = |part: String| {
        let bar = |name| Bar { series: name, value: pair(&kept, name, &part), spread: None };
        Group { bars: NAMES.map(bar).into(), label: part, mark: None }
    };
    Ok(Chart {
        title: "Where the instructions of a request without token go, both proxies",
        unit: "user space",
        groups: parts(&kept).into_iter().map(group).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::thousands;

    #[test]
    fn numbers_are_rounded_and_parted() {
        let shown = [0.0, 149.0, 1_250.0, 966_049.0, 1_234_567.0].map(thousands);
        assert_eq!(shown, ["0", "100", "1,300", "966,000", "1,234,600"]);
    }
}
