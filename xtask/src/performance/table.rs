//! The figures as Markdown.

use std::fmt::Write as _;

use super::plot::number;
use super::summary::{Figure, Summary};

/// What is wanted and what was reached; what a target was missed by.
pub(super) fn targets(summary: &Summary) -> String {
    let mut out = format!(
        "{}.\n\n| figure | target | reached | countersign | Envoy | unit | |\n\
         |---|---|---:|---:|---:|---|---|\n",
        summary.made_with()
    );
    for figure in summary.figures.iter().filter(|figure| figure.target.is_some()) {
        let target = figure.target.as_deref().unwrap_or_default();
        let reached = figure.against_target().map(|(value, ..)| value);
        let verdict = match (figure.met, figure.share_of_target()) {
            (Some(true), _) => "met".to_owned(),
            (Some(false), Some(share)) => format!("**missed** by a factor of {share:.2}"),
            _ => "not measured".to_owned(),
        };
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} | {} | {} | {verdict} |",
            figure.name,
            target.replace("<=", "≤").replace(">=", "≥"),
            cell(reached),
            cell(figure.ours),
            cell(figure.peer),
            figure.unit,
        );
    }
    out
}

/// Everything that was measured.
pub(super) fn figures(summary: &Summary) -> String {
    let mut out = "| figure | unit | countersign | Envoy | ratio | spread | HAProxy | nginx | \
                   no proxy |\n|---|---|---:|---:|---:|---|---:|---:|---:|\n"
        .to_owned();
    for figure in &summary.figures {
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} | {} | {} | {} | {} | {} |",
            figure.name,
            figure.unit,
            cell(figure.ours),
            cell(figure.peer),
            cell(figure.ratio),
            spread(figure),
            cell(figure.other("haproxy")),
            cell(figure.other("nginx")),
            cell(figure.other("direct")),
        );
    }
    out
}

fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), number)
}

fn spread(figure: &Figure) -> String {
    figure.ratio_spread.map(|[low, high]| format!("{low:.2}..{high:.2}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_target_says_by_how_much() {
        let summary = Summary::parse(
            r#"{"figures": [
                {"name": "a", "unit": "us", "ours": 50.0, "peer": 100.0, "ratio": 0.5,
                 "ratio_spread": [0.4, 0.6], "target": "ratio <= 0.25", "met": false, "nginx": 40.0},
                {"name": "b", "unit": "MB", "ours": 9.0, "target": "<= 10", "met": true},
                {"name": "c", "unit": "us"}],
               "conditions": {"machine": "M"}}"#,
        )
        .unwrap();
        let targets = targets(&summary);
        let row =
            "| `a` | ratio ≤ 0.25 | 0.50 | 50.0 | 100.0 | us | **missed** by a factor of 2.00 |";
        assert!(targets.starts_with("M.\n") && targets.contains(row), "{targets}");
        assert!(targets.ends_with("| `b` | ≤ 10 | 9.00 | 9.00 | - | MB | met |\n"), "{targets}");
        let row = "| `a` | us | 50.0 | 100.0 | 0.50 | 0.40..0.60 | - | 40.0 | - |";
        assert!(figures(&summary).contains(row), "{}", figures(&summary));
    }
}
