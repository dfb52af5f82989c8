//! What the project wants to reach, by figure. A run says for each whether it was; nothing fails
//! because of it: times on a shared machine are printed, never asserted.

/// What a target is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// Ours divided by the peer's, in the same round.
    Ratio,
    /// Ours alone.
    Ours,
}

/// One target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// The figure's name.
    pub(crate) figure: &'static str,
    /// Of what.
    pub(crate) about: About,
    /// `<=` or `>=` this.
    pub(crate) bound: Bound,
}

/// A bound.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    /// No more.
    Most(f64),
    /// No less.
    Least(f64),
}

impl Wanted {
    /// Whether the values of a figure reach it; `None` if they were not measured.
    pub(crate) fn met(&self, ours: Option<f64>, ratio: Option<f64>) -> Option<bool> {
        let value = match self.about {
            About::Ratio => ratio?,
            About::Ours => ours?,
        };
        Some(match self.bound {
            Bound::Most(most) => value <= most,
            Bound::Least(least) => value >= least,
        })
    }

    /// Such as `ratio <= 0.25`.
    pub(crate) fn text(&self) -> String {
        let about = match self.about {
            About::Ratio => "ratio ",
            About::Ours => "",
        };
        match self.bound {
            Bound::Most(most) => format!("{about}<= {most}"),
            Bound::Least(least) => format!("{about}>= {least}"),
        }
    }
}

/// All of them, in the order in which they are reported.
pub(crate) const ALL: [Wanted; 17] = [
    most("cpu_h1_fresh_es256", About::Ratio, 0.35),
    most("cpu_h2_fresh_es256", About::Ratio, 0.35),
    most("cpu_h1_fresh_ed25519", About::Ratio, 0.30),
    most("cpu_h1_reused4", About::Ratio, 0.22),
    most("cpu_h1_no_token", About::Ratio, 0.25),
    most("cpu_h2_no_token", About::Ratio, 0.25),
    most("cpu_low_rate_no_token", About::Ratio, 0.50),
    most("custody_hop_multiple", About::Ours, 1.2),
    most("p50_low_rate_fresh", About::Ratio, 0.4),
    most("p99_low_rate_fresh", About::Ratio, 0.4),
    most("rss_idle_mb", About::Ours, 10.0),
    most("rss_1000_idle_mb", About::Ours, 22.0),
    most("tcp_cpu_per_gb", About::Ratio, 0.6),
    least("new_connections", About::Ratio, 1.8),
    most("decision_1000_us", About::Ours, 1.0),
    most("decision_10000_us", About::Ours, 2.0),
    most("start_ready_ms", About::Ours, 100.0),
];

/// The target of a figure, if it has one.
pub(crate) fn of(figure: &str) -> Option<&'static Wanted> {
    ALL.iter().find(|wanted| wanted.figure == figure)
}

const fn most(figure: &'static str, about: About, bound: f64) -> Wanted {
    Wanted { figure, about, bound: Bound::Most(bound) }
}

const fn least(figure: &'static str, about: About, bound: f64) -> Wanted {
    Wanted { figure, about, bound: Bound::Least(bound) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_about_the_ratio_or_about_ours() {
        let cpu = of("cpu_h1_no_token").unwrap();
        assert_eq!(cpu.text(), "ratio <= 0.25");
        assert_eq!(cpu.met(Some(900.0), Some(0.25)), Some(true));
        assert_eq!(cpu.met(Some(0.1), Some(0.26)), Some(false));
        assert_eq!(cpu.met(Some(0.1), None), None);
        let memory = of("rss_idle_mb").unwrap();
        assert_eq!(memory.met(Some(10.1), None), Some(false));
        assert_eq!(of("new_connections").unwrap().met(None, Some(1.9)), Some(true));
    }
}
