//! `summary.json` as `countersign-bench` writes it, as far as tables and plots need it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

/// One run.
#[derive(Debug, Deserialize)]
pub(super) struct Summary {
    /// In the order in which they were measured.
    pub(super) figures: Vec<Figure>,
    /// Machine and plan.
    #[serde(default)]
    pub(super) conditions: Value,
    /// What a reader must know.
    #[serde(default)]
    pub(super) notes: Vec<String>,
}

/// One figure over all rounds.
#[derive(Debug, Deserialize)]
pub(super) struct Figure {
    /// Stable name.
    pub(super) name: String,
    /// `us`, `MB`, …
    pub(super) unit: String,
    /// Median of the rounds.
    pub(super) ours: Option<f64>,
    /// Envoy's.
    pub(super) peer: Option<f64>,
    /// Median of the ratios of the rounds.
    pub(super) ratio: Option<f64>,
    /// The least and the most of them.
    pub(super) ratio_spread: Option<[f64; 2]>,
    /// Such as `ratio <= 0.25`, or `<= 10` for ours alone.
    pub(super) target: Option<String>,
    /// Whether it was reached.
    pub(super) met: Option<bool>,
    /// Each round: the value of each side by its name.
    #[serde(default)]
    rounds: Vec<BTreeMap<String, Option<f64>>>,
    /// The other sides by name.
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Sides as they are shown, and what the file calls them.
pub(super) const SIDES: [(&str, &str); 4] =
    [("countersign", "ours"), ("Envoy", "peer"), ("HAProxy", "haproxy"), ("nginx", "nginx")];

impl Summary {
    /// Reads it.
    pub(super) fn parse(text: &str) -> Result<Summary> {
        serde_json::from_str(text).context("summary.json")
    }

    /// Whether it is of a short run.
    pub(super) fn is_quick(&self) -> bool {
        self.conditions["plan"]["quick"] == Value::Bool(true)
    }

    /// Machine, rounds and what the run itself had to say.
    pub(super) fn made_with(&self) -> String {
        let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
        let mut out = text(&self.conditions["machine"]);
        if let Some(rounds) = self.conditions["plan"]["rounds"].as_u64() {
            out.push_str(&format!("; {rounds} rounds"));
        }
        match self.conditions["pods"].as_bool() {
            Some(true) => out.push_str("; network namespaces, captured by the redirect"),
            Some(false) => out.push_str("; loopback, explicit mode"),
            None => {}
        }
        for note in &self.notes {
            out.push_str(&format!("; {note}"));
        }
        out
    }
}

impl Figure {
    /// The value of a side beside ours and Envoy's.
    pub(super) fn other(&self, name: &str) -> Option<f64> {
        self.others.get(name)?.as_f64()
    }

    /// Everybody in the order of [`SIDES`].
    pub(super) fn series(&self) -> impl Iterator<Item = (&'static str, Option<f64>)> + '_ {
        SIDES.into_iter().map(|(shown, name)| {
            let value = match name {
                "ours" => self.ours,
                "peer" => self.peer,
                name => self.other(name),
            };
            (shown, value)
        })
    }

    /// The least and the most of the rounds of one of [`SIDES`]; none of a single round.
    pub(super) fn spread_of(&self, shown: &str) -> Option<[f64; 2]> {
        let (_, name) = SIDES.iter().find(|(side, _)| *side == shown)?;
        let values =
            || self.rounds.iter().filter_map(|round| (*round.get(*name)?).into_iter().next());
        if values().count() < 2 {
            return None;
        }
        Some([values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max)])
    }

    /// The value the target speaks about, the bound, and whether less is better.
    pub(super) fn against_target(&self) -> Option<(f64, f64, bool)> {
        let words: Vec<&str> = self.target.as_deref()?.split(' ').collect();
        let (value, sign, bound) = match words.as_slice() {
            ["ratio", sign, bound] => (self.ratio?, *sign, bound),
            [sign, bound] => (self.ours?, *sign, bound),
            _ => return None,
        };
        Some((value, bound.parse().ok()?, sign == "<="))
    }

    /// 1 is the target, less is better than it.
    pub(super) fn share_of_target(&self) -> Option<f64> {
        let (value, bound, less_is_better) = self.against_target()?;
        Some(if less_is_better { value / bound } else { bound / value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_side_has_its_value_and_its_spread() {
        let summary = Summary::parse(
            r#"{"figures": [
                {"name": "new", "unit": "1/s", "ours": 9.0, "peer": 4.0, "ratio": 2.25,
                 "ratio_spread": [2.0, 2.5], "target": "ratio >= 1.8", "met": true, "haproxy": 7.5,
                 "rounds": [{"ours": 8.0, "peer": 4.0, "ratio": 2.0, "haproxy": 7.5},
                            {"ours": 10.0, "peer": null, "ratio": null}]},
                {"name": "rss", "unit": "MB", "ours": 12.0, "peer": null, "ratio": null,
                 "ratio_spread": null, "target": "<= 10", "met": false, "rounds": []}],
               "conditions": {"plan": {"quick": true, "rounds": 2}, "machine": "m", "pods": false}}"#,
        )
        .unwrap();
        let [new, rss] = summary.figures.as_slice() else { panic!("two figures") };
        let values: Vec<_> = new.series().map(|(_, value)| value).collect();
        assert_eq!(values, [Some(9.0), Some(4.0), Some(7.5), None]);
        assert_eq!(new.spread_of("countersign"), Some([8.0, 10.0]));
        assert_eq!(new.spread_of("Envoy"), None, "one round has it");
        assert_eq!(new.share_of_target(), Some(0.8));
        assert_eq!(rss.share_of_target(), Some(1.2));
        assert!(summary.is_quick());
        assert_eq!(summary.made_with(), "m; 2 rounds; loopback, explicit mode");
    }
}
