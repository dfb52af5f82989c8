//! The figures of `docs/performance.md`: `cargo xtask bench publish` takes over what the last
//! `make bench` wrote, and the page's tables and plots are made from that file alone, so that
//! `cargo xtask docs --check` sees whether page and figures are in step.

mod plot;
mod profile;
mod summary;
mod table;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::docs::{self, Page};
use crate::suite;
pub(crate) use profile::take as take_profile;

use plot::{Bar, Chart, Group, svg};
use summary::{Figure, Summary};

/// The published figures.
const SUMMARY: &str = "docs/performance/summary.json";
/// The page they are shown on.
const PAGE: &str = "docs/performance.md";

/// Takes over the figures of the last run.
pub(crate) fn publish() -> Result<()> {
    let run = suite::programs_dir("bench")?.join("summary.json");
    let text = std::fs::read_to_string(&run)
        .with_context(|| format!("no figures in {}; `make bench` writes them", run.display()))?;
    let summary = Summary::parse(&text)?;
    ensure!(!summary.is_quick(), "a short run is for a look; publish what a full one measured");
    if let Some(folder) = Path::new(SUMMARY).parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(SUMMARY, text).with_context(|| format!("could not write {SUMMARY}"))?;
    println!("took over {}", run.display());
    write()
}

/// Writes the page and its plots.
pub(crate) fn write() -> Result<()> {
    docs::write_pages(&PAGES)
}

fn published() -> Result<Summary> {
    let text =
        std::fs::read_to_string(SUMMARY).with_context(|| format!("could not read {SUMMARY}"))?;
    Summary::parse(&text)
}

/// The page, with what is between its markers made anew.
fn page() -> Result<String> {
    let summary = published()?;
    let page = std::fs::read_to_string(PAGE).with_context(|| format!("could not read {PAGE}"))?;
    let page = replaced(&page, (SUMMARY, "targets"), &table::targets(&summary))?;
    let page = replaced(&page, (SUMMARY, "figures"), &table::figures(&summary))?;
    replaced(&page, (profile::PROFILE, "profile"), &profile::table()?)
}

/// `page` with `text` between the markers of `part`.
fn replaced(page: &str, (source, part): (&str, &str), text: &str) -> Result<String> {
    let (open, close) = (format!("<!-- made from {source}: {part} -->\n"), "<!-- end -->");
    let missing = || format!("{PAGE} has no part `{part}` between `{}` and `{close}`", open.trim());
    let (before, rest) = page.split_once(&open).with_context(missing)?;
    let (_, after) = rest.split_once(close).with_context(missing)?;
    Ok(format!("{before}{open}{text}{close}{after}"))
}

/// The page and its plots.
pub(crate) const PAGES: [Page; 7] = [
    Page { path: PAGE, make: page },
    Page { path: "docs/performance/targets.svg", make: || drawn(targets) },
    Page { path: "docs/performance/cpu.svg", make: || drawn(cpu) },
    Page { path: "docs/performance/connections.svg", make: || drawn(connections) },
    Page { path: "docs/performance/latency.svg", make: || drawn(latency) },
    Page { path: "docs/performance/memory.svg", make: || drawn(memory) },
    Page { path: "docs/performance/profile.svg", make: || Ok(svg(&profile::chart()?)) },
];

fn drawn(chart: fn(&Summary) -> Chart<'static>) -> Result<String> {
    Ok(svg(&chart(&published()?)))
}

/// How far each target is: 1 is the target, shorter is better.
fn targets(summary: &Summary) -> Chart<'static> {
    let group = |figure: &Figure| {
        let share = figure.share_of_target()?;
        let series = if share <= 1.0 { "met" } else { "missed" };
        let bars = vec![Bar { series, value: share, spread: None }];
        Some(Group { label: figure.name.clone(), bars, mark: Some(1.0) })
    };
    let groups = summary.figures.iter().filter_map(group).collect();
    Chart { title: "What is measured, as a share of its target", unit: "less is better", groups }
}

fn cpu(summary: &Summary) -> Chart<'static> {
    let groups = groups(
        summary,
        &[
            ("cpu_h1_no_token", "HTTP/1.1, no token"),
            ("cpu_h2_no_token", "HTTP/2, no token"),
            ("cpu_h1_fresh_es256", "HTTP/1.1, fresh ES256"),
            ("cpu_h2_fresh_es256", "HTTP/2, fresh ES256"),
            ("cpu_h1_fresh_ed25519", "HTTP/1.1, fresh Ed25519"),
            ("cpu_h1_reused4", "HTTP/1.1, each token 4 times"),
            ("cpu_low_rate_no_token", "1,000 requests/s, no token"),
        ],
    );
    Chart { title: "CPU per request of both proxies", unit: "microseconds", groups }
}

fn connections(summary: &Summary) -> Chart<'static> {
    let groups = groups(
        summary,
        &[
            ("cpu_h1_one_connection_no_token", "1 connection, no token"),
            ("cpu_h1_no_token", "32 connections, no token"),
            ("cpu_h1_128_no_token", "128 connections, no token"),
            ("cpu_h1_one_connection_fresh", "1 connection, fresh"),
            ("cpu_h1_fresh_es256", "32 connections, fresh"),
            ("cpu_h1_128_fresh", "128 connections, fresh"),
            ("cpu_new_connection", "a connection per request"),
        ],
    );
    Chart { title: "CPU per request by connections", unit: "microseconds", groups }
}

fn latency(summary: &Summary) -> Chart<'static> {
    let groups = groups(
        summary,
        &[
            ("p50_low_rate_no_token", "p50, no token"),
            ("p99_low_rate_no_token", "p99, no token"),
            ("p50_low_rate_fresh", "p50, fresh ES256"),
            ("p99_low_rate_fresh", "p99, fresh ES256"),
        ],
    );
    Chart { title: "Latency at 1,000 requests/s", unit: "microseconds", groups }
}

fn memory(summary: &Summary) -> Chart<'static> {
    let groups = groups(
        summary,
        &[
            ("rss_idle_mb", "idle"),
            ("rss_1000_idle_mb", "1,000 idle clients"),
            ("rss_8000_idle_mb", "8,000 idle clients"),
        ],
    );
    Chart { title: "Resident memory of one proxy", unit: "MB", groups }
}

/// The figures of these names, each with everybody it was measured of.
fn groups(summary: &Summary, names: &[(&str, &str)]) -> Vec<Group> {
    let group = |(name, label): &(&str, &str)| {
        let figure = summary.figures.iter().find(|figure| figure.name == *name)?;
        let bars: Vec<Bar> = figure
            .series()
            .filter_map(|(series, value)| {
                Some(Bar { series, value: value?, spread: figure.spread_of(series) })
            })
            .collect();
        (!bars.is_empty()).then(|| Group { label: (*label).to_owned(), bars, mark: None })
    };
    names.iter().filter_map(group).collect()
}
