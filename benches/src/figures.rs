//! From samples to results: medians over rounds, the ratio of each round, a table for people and
//! `summary.json` for tools. A ratio is ours divided by the peer's: below 1 is better for cost,
//! latency and memory, above 1 for throughput.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::measures::Sample;
use crate::sidecars::Make;
use crate::targets;

/// Who a sample belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// The server without any proxy.
    Direct,
    /// Proxies of a make.
    Of(Make),
}

impl Side {
    /// Us.
    pub(crate) const OURS: Side = Side::Of(Make::Countersign);
    /// Who we are compared with.
    pub(crate) const PEER: Side = Side::Of(Make::Envoy);

    fn name(self) -> &'static str {
        match self {
            Side::Direct => "direct",
            _ if self == Side::OURS => "ours",
            _ if self == Side::PEER => "peer",
            Side::Of(make) => make.name(),
        }
    }
}

/// One figure in one round, or its medians.
#[derive(Clone, Debug, Default)]
struct Values(BTreeMap<Side, f64>);

impl Values {
    fn of(&self, side: Side) -> Option<f64> {
        self.0.get(&side).copied()
    }

    fn ratio(&self) -> Option<f64> {
        Some(self.of(Side::OURS)? / self.of(Side::PEER)?)
    }
}

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for side in [Side::OURS, Side::PEER] {
            map.serialize_entry(side.name(), &self.of(side))?;
        }
        map.serialize_entry("ratio", &self.ratio())?;
        let others = self.0.iter().filter(|(side, _)| ![Side::OURS, Side::PEER].contains(side));
        for (side, value) in others {
            map.serialize_entry(side.name(), value)?;
        }
        map.end()
    }
}

/// One figure over all rounds. Beside `ours` and `peer` the JSON has each other side by its name.
#[derive(Clone, Debug, Serialize)]
struct Figure {
    /// Stable name, such as `cpu_h1_fresh_es256`.
    name: String,
    /// `us`, `1/s`, `MB`, ...
    unit: &'static str,
    /// Medians of the rounds; the ratio is the median of the ratios of the rounds.
    #[serde(flatten)]
    typical: Typical,
    /// Smallest and largest ratio of a round.
    ratio_spread: Option<[f64; 2]>,
    /// What is wanted, and whether it was reached.
    target: Option<String>,
    met: Option<bool>,
    rounds: Vec<Values>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Typical {
    ours: Option<f64>,
    peer: Option<f64>,
    ratio: Option<f64>,
    #[serde(flatten)]
    others: BTreeMap<&'static str, f64>,
}

impl Figure {
    fn new(name: String, unit: &'static str) -> Figure {
        let target = targets::of(&name).map(targets::Wanted::text);
        let (typical, rounds) = (Typical::default(), Vec::new());
        Figure { name, unit, typical, ratio_spread: None, target, met: None, rounds }
    }

    fn spread(&self) -> String {
        let spread = self.ratio_spread.map(|[low, high]| format!("{low:.2}..{high:.2}"));
        spread.unwrap_or_default()
    }

    fn median_of(&self, side: Side) -> Option<f64> {
        median(self.rounds.iter().filter_map(|round| round.of(side)))
    }

    fn summarise(&mut self) {
        let sides: BTreeSet<Side> =
            self.rounds.iter().flat_map(|round| round.0.keys().copied()).collect();
        let ratios = || self.rounds.iter().filter_map(Values::ratio);
        let typical = Typical {
            ours: self.median_of(Side::OURS),
            peer: self.median_of(Side::PEER),
            ratio: median(ratios()),
            others: sides
                .into_iter()
                .filter(|side| ![Side::OURS, Side::PEER].contains(side))
                .filter_map(|side| Some((side.name(), self.median_of(side)?)))
                .collect(),
        };
        let low = ratios().min_by(f64::total_cmp);
        self.ratio_spread = low.zip(ratios().max_by(f64::total_cmp)).map(<[f64; 2]>::from);
        let wanted = targets::of(&self.name);
        self.met = wanted.and_then(|wanted| wanted.met(typical.ours, typical.ratio));
        self.typical = typical;
    }
}

/// All figures of a run, in the order in which they were first seen.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    figures: Vec<Figure>,
}

impl Figures {
    /// Notes a sample of `round`, counted from 0; without a value it only keeps the figure's place.
    pub(crate) fn add(&mut self, round: usize, side: Side, sample: Sample) {
        let index = self.figures.iter().position(|figure| figure.name == sample.name);
        let index = index.unwrap_or_else(|| {
            self.figures.push(Figure::new(sample.name, sample.unit));
            self.figures.len() - 1
        });
        let rounds = &mut self.figures[index].rounds;
        if rounds.len() <= round {
            rounds.resize(round + 1, Values::default());
        }
        if let Some(value) = sample.value {
            rounds[round].0.insert(side, value);
        }
    }

    /// What was measured of one side in one round.
    pub(crate) fn value(&self, round: usize, side: Side, name: &str) -> Option<f64> {
        let figure = self.figures.iter().find(|figure| figure.name == name)?;
        figure.rounds.get(round)?.of(side)
    }

    /// The rounds in which the server alone, at `name`, was more than `tolerance` away from its
    /// median: then the machine moved, not the proxies.
    pub(crate) fn unsteady(&self, name: &str, tolerance: f64) -> BTreeSet<usize> {
        let Some(figure) = self.figures.iter().find(|figure| figure.name == name) else {
            return BTreeSet::new();
        };
        let Some(typical) = figure.median_of(Side::Direct) else {
            return BTreeSet::new();
        };
        let rounds = figure.rounds.iter().enumerate();
        rounds
            .filter_map(|(at, round)| Some((at, round.of(Side::Direct)?)))
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

    /// Everything as rows of Markdown, for `docs/performance.md`.
    pub(crate) fn markdown(&self) -> String {
        let others = self.others();
        let mut rows = "| figure | unit | countersign | Envoy | ratio | spread |".to_owned();
        let mut line = "|---|---|---:|---:|---:|---|".to_owned();
        for other in &others {
            let _ = write!(rows, " {other} |");
            line.push_str("---:|");
        }
        let _ = writeln!(rows, "\n{line}");
        for figure in &self.figures {
            let cells = figure.cells(&others).join(" | ");
            let _ = writeln!(rows, "| `{}` | {cells} |", figure.name);
        }
        rows
    }

    /// The table people read.
    pub(crate) fn table(&self) -> String {
        let others = self.others();
        let mut table = format!(
            "{:<34} {:>5} {:>11} {:>9} {:>6}  {:<12}",
            "figure", "unit", "countersign", "envoy", "ratio", "spread"
        );
        for other in &others {
            let _ = write!(table, " {other:>11}");
        }
        table.push('\n');
        for figure in &self.figures {
            let cells = figure.cells(&others);
            let [unit, ours, peer, ratio, spread, rest @ ..] = cells.as_slice() else { continue };
            let _ = write!(
                table,
                "{:<34} {unit:>5} {ours:>11} {peer:>9} {ratio:>6}  {spread:<12}",
                figure.name
            );
            for cell in rest {
                let _ = write!(table, " {cell:>11}");
            }
            table.push('\n');
        }
        table
    }

    /// The targets, and which were reached; nothing if the run was about none of them.
    pub(crate) fn targets(&self) -> String {
        let is_target = |figure: &Figure| targets::ALL.iter().any(|t| t.figure == figure.name);
        if !self.figures.iter().any(is_target) {
            return String::new();
        }
        let mut table =
            format!("{:<26} {:>10} {:>8} {:<14} {}\n", "target", "ours", "ratio", "wanted", "");
        for wanted in &targets::ALL {
            let figure = self.figures.iter().find(|figure| figure.name == wanted.figure);
            let typical = figure.map(|figure| figure.typical.clone()).unwrap_or_default();
            let unit = figure.map_or("", |figure| figure.unit);
            let met = match wanted.met(typical.ours, typical.ratio) {
                None => "not measured",
                Some(true) => "met",
                Some(false) => "missed",
            };
            let _ = writeln!(
                table,
                "{:<26} {:>10} {:>8} {:<14} {met}",
                wanted.figure,
                format!("{} {unit}", cell(typical.ours, 1)),
                cell(typical.ratio, 2),
                wanted.text(),
            );
        }
        table
    }

    /// Sides beside ours and the peer's that were measured at all.
    fn others(&self) -> Vec<&'static str> {
        let figures = self.figures.iter();
        let names: BTreeSet<&str> =
            figures.flat_map(|figure| figure.typical.others.keys().copied()).collect();
        names.into_iter().collect()
    }
}

impl Figure {
    /// Unit, ours, the peer's, the ratio, its spread, and whatever others there are.
    fn cells(&self, others: &[&str]) -> Vec<String> {
        let typical = &self.typical;
        let mut cells = vec![
            self.unit.to_owned(),
            cell(typical.ours, 1),
            cell(typical.peer, 1),
            cell(typical.ratio, 2),
            self.spread(),
        ];
        cells.extend(others.iter().map(|other| cell(typical.others.get(other).copied(), 1)));
        cells
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
            for (side, value) in [(Side::OURS, ours), (Side::PEER, 4.0), (Side::Direct, direct)] {
                figures.add(round, side, Sample::new("cpu_h1_no_token", "us", value));
            }
        }
        figures
    }

    #[test]
    fn ratio_is_the_median_of_the_rounds() {
        let mut figures = three_rounds([10.0, 10.0, 10.0]);
        figures.summarise();
        let figure = &figures.figures[0];
        assert_eq!(figure.typical.ratio, Some(0.5));
        assert_eq!((figure.ratio_spread, figure.met), (Some([0.25, 1.5]), Some(false)));
        let row = "| `cpu_h1_no_token` | us | 2.0 | 4.0 | 0.50 | 0.25..1.50 | 10.0 |\n";
        assert!(figures.markdown().ends_with(row), "{}", figures.markdown());
        assert!(figures.targets().contains("ratio <= 0.25  missed\n"), "{}", figures.targets());
        let json = serde_json::to_value(&figures).unwrap();
        let round = serde_json::json!({"ours": 1.0, "peer": 4.0, "ratio": 0.25, "direct": 10.0});
        assert_eq!(json["figures"][0]["rounds"][0], round);
        assert_eq!(json["figures"][0]["direct"], 10.0);
    }

    #[test]
    fn a_round_in_which_the_machine_moved_is_found_and_dropped() {
        let mut figures = three_rounds([10.0, 10.1, 12.0]);
        let unsteady = figures.unsteady("cpu_h1_no_token", 0.05);
        assert_eq!(unsteady, BTreeSet::from([2]));
        figures.drop_rounds(&unsteady, 3);
        figures.summarise();
        assert_eq!(figures.figures[0].typical.ratio, Some(0.375));
    }
}
