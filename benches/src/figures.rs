//! From samples to results: medians over rounds, the ratio of each round, a table for people and
//! `summary.json` for tools. A ratio is ours divided by the peer's: below 1 is better for cost,
//! latency and memory, above 1 for throughput.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Serialize;

/// Who a sample belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The countersign pair.
    Ours,
    /// The Envoy pair.
    Peer,
    /// The server without any proxy.
    Direct,
}

/// One figure in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Round {
    ours: Option<f64>,
    peer: Option<f64>,
    ratio: Option<f64>,
    direct: Option<f64>,
}

/// One figure over all rounds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// Stable name, such as `cpu_h1_fresh_es256`.
    name: String,
    /// `us`, `1/s` or `MiB`.
    unit: &'static str,
    /// Median of the rounds.
    ours: Option<f64>,
    /// Median of the rounds.
    peer: Option<f64>,
    /// Median of the ratios of the rounds.
    ratio: Option<f64>,
    /// Smallest and largest ratio of a round.
    ratio_spread: Option<[f64; 2]>,
    /// The server without proxies, where it was measured.
    direct: Option<f64>,
    rounds: Vec<Round>,
}

impl Figure {
    fn new(name: String, unit: &'static str) -> Figure {
        Figure {
            name,
            unit,
            ours: None,
            peer: None,
            ratio: None,
            ratio_spread: None,
            direct: None,
            rounds: Vec::new(),
        }
    }

    fn spread(&self) -> String {
        let spread = self.ratio_spread.map(|[low, high]| format!("{low:.2}..{high:.2}"));
        spread.unwrap_or_default()
    }

    fn summarise(&mut self) {
        for round in &mut self.rounds {
            round.ratio = round.ours.zip(round.peer).map(|(ours, peer)| ours / peer);
        }
        let of = |field: fn(&Round) -> Option<f64>| self.rounds.iter().filter_map(field);
        self.ours = median(of(|round| round.ours));
        self.peer = median(of(|round| round.peer));
        self.direct = median(of(|round| round.direct));
        self.ratio = median(of(|round| round.ratio));
        let low = of(|round| round.ratio).min_by(f64::total_cmp);
        self.ratio_spread =
            low.zip(of(|round| round.ratio).max_by(f64::total_cmp)).map(<[f64; 2]>::from);
    }
}

/// All figures of a run, in the order in which they were first seen.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    figures: Vec<Figure>,
}

impl Figures {
    /// Notes a sample of `round`, counted from 0; without a value it only keeps the figure's place.
    pub(crate) fn add(
        &mut self,
        round: usize,
        name: String,
        unit: &'static str,
        side: Side,
        value: Option<f64>,
    ) {
        let index = self.figures.iter().position(|figure| figure.name == name);
        let index = index.unwrap_or_else(|| {
            self.figures.push(Figure::new(name, unit));
            self.figures.len() - 1
        });
        let rounds = &mut self.figures[index].rounds;
        if rounds.len() <= round {
            rounds.resize(round + 1, Round::default());
        }
        let slot = match side {
            Side::Ours => &mut rounds[round].ours,
            Side::Peer => &mut rounds[round].peer,
            Side::Direct => &mut rounds[round].direct,
        };
        *slot = value;
    }

    /// The rounds in which the server alone, at `name`, was more than `tolerance` away from its
    /// median: then the machine moved, not the proxies.
    pub(crate) fn unsteady(&self, name: &str, tolerance: f64) -> BTreeSet<usize> {
        let Some(figure) = self.figures.iter().find(|figure| figure.name == name) else {
            return BTreeSet::new();
        };
        let Some(typical) = median(figure.rounds.iter().filter_map(|round| round.direct)) else {
            return BTreeSet::new();
        };
        let rounds = figure.rounds.iter().enumerate();
        rounds
            .filter_map(|(at, round)| Some((at, round.direct?)))
            .filter(|(_, direct)| (direct / typical - 1.0).abs() > tolerance)
            .map(|(at, _)| at)
            .collect()
    }

    /// Takes rounds out of every figure that has `total` of them.
    pub(crate) fn drop_rounds(&mut self, dropped: &BTreeSet<usize>, total: usize) {
        for figure in self.figures.iter_mut().filter(|figure| figure.rounds.len() == total) {
            let mut at = 0;
            figure.rounds.retain(|_| {
                at += 1;
                !dropped.contains(&(at - 1))
            });
        }
    }

    /// Computes medians and ratios.
    pub(crate) fn summarise(&mut self) {
        self.figures.iter_mut().for_each(Figure::summarise);
    }

    /// The same as rows of Markdown, for `docs/performance.md`.
    pub(crate) fn markdown(&self) -> String {
        let mut rows = "| figure | unit | countersign | Envoy | ratio | spread | no proxy |\n\
                        |---|---|---:|---:|---:|---|---:|\n"
            .to_owned();
        for figure in &self.figures {
            let _ = writeln!(
                rows,
                "| `{}` | {} | {} | {} | {} | {} | {} |",
                figure.name,
                figure.unit,
                cell(figure.ours, 1),
                cell(figure.peer, 1),
                cell(figure.ratio, 2),
                figure.spread(),
                cell(figure.direct, 1),
            );
        }
        rows
    }

    /// The table people read.
    pub(crate) fn table(&self) -> String {
        let mut table = format!(
            "{:<36} {:>5} {:>12} {:>12} {:>7}  {:<13} {:>10}\n",
            "figure", "unit", "countersign", "envoy", "ratio", "spread", "no proxy"
        );
        for figure in &self.figures {
            let _ = writeln!(
                table,
                "{:<36} {:>5} {:>12} {:>12} {:>7}  {:<13} {:>10}",
                figure.name,
                figure.unit,
                cell(figure.ours, 1),
                cell(figure.peer, 1),
                cell(figure.ratio, 2),
                figure.spread(),
                cell(figure.direct, 1),
            );
        }
        table
    }
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some((values.get(values.len() / 2 - 1)? + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_rounds(direct: [f64; 3]) -> Figures {
        let mut figures = Figures::default();
        for (round, direct) in direct.into_iter().enumerate() {
            let ours = [1.0, 2.0, 6.0][round];
            figures.add(round, "x".into(), "us", Side::Ours, Some(ours));
            figures.add(round, "x".into(), "us", Side::Peer, Some(4.0));
            figures.add(round, "x".into(), "us", Side::Direct, Some(direct));
        }
        figures
    }

    #[test]
    fn ratio_is_the_median_of_the_rounds() {
        let mut figures = three_rounds([10.0, 10.0, 10.0]);
        figures.summarise();
        assert_eq!(figures.figures[0].ratio, Some(0.5));
        assert_eq!(figures.figures[0].ratio_spread, Some([0.25, 1.5]));
        let row = "| `x` | us | 2.0 | 4.0 | 0.50 | 0.25..1.50 | 10.0 |";
        assert!(figures.markdown().ends_with(&format!("{row}\n")), "{}", figures.markdown());
    }

    #[test]
    fn a_round_in_which_the_machine_moved_is_found_and_dropped() {
        let mut figures = three_rounds([10.0, 10.1, 12.0]);
        let unsteady = figures.unsteady("x", 0.05);
        assert_eq!(unsteady, BTreeSet::from([2]));
        figures.drop_rounds(&unsteady, 3);
        figures.summarise();
        assert_eq!(figures.figures[0].ratio, Some(0.375));
    }
}
