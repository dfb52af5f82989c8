//! Figures that come from others of the same round and side.

use super::Sample;
use crate::figures::{Figures, Side};
use crate::sidecars::Make;

/// What the last round's samples of `side` add up to.
pub(crate) fn samples(figures: &Figures, round: usize, side: Side) -> Vec<Sample> {
    let value = |name: &str| figures.value(round, side, name);
    // The library's own speed, measured once for all.
    let bare = |name: &str| figures.value(round, Side::OURS, name);
    let signs = side == Side::OURS;
    let mut samples = Vec::new();
    for (name, algorithm) in FRESH {
        let verify = bare(&format!("verify_{algorithm}"));
        let sign = if signs { bare(&format!("sign_{algorithm}")) } else { Some(0.0) };
        if let (Some(all), Some(verify), Some(sign)) = (value(name), verify, sign) {
            let rest = all - verify - sign;
            samples.push(Sample::new(format!("{name}_minus_signatures"), "us", rest));
        }
    }
    if side == Side::Of(Make::Countersign) {
        samples.extend(custody(&value));
    }
    samples
}

/// Fresh tokens: signed once by ours and verified once by either make.
const FRESH: [(&str, &str); 3] = [
    ("cpu_h1_fresh_es256", "es256"),
    ("cpu_h2_fresh_es256", "es256"),
    ("cpu_h1_fresh_ed25519", "ed25519"),
];

/// What carrying the context one hop further adds, in multiples of the signature operations that it
/// needs: one signing, by the proxy that hands on, and one verification, by the next.
fn custody(value: &impl Fn(&str) -> Option<f64>) -> Option<Sample> {
    let hop_with = value("cpu_h1_onward_fresh")? - value("cpu_h1_fresh_es256")?;
    let hop_without = value("cpu_h1_onward_no_token")? - value("cpu_h1_no_token")?;
    let bare = value("sign_es256")? + value("verify_es256")?;
    Some(Sample::new("custody_hop_multiple", "x", (hop_with - hop_without) / bare))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_is_counted_in_bare_operations() {
        let mut figures = Figures::default();
        let measured = [
            ("cpu_h1_fresh_es256", 200.0),
            ("cpu_h1_no_token", 50.0),
            ("cpu_h1_onward_fresh", 350.0),
            ("cpu_h1_onward_no_token", 110.0),
            ("sign_es256", 20.0),
            ("verify_es256", 40.0),
        ];
        for (name, value) in measured {
            figures.add(0, Side::OURS, Sample::new(name, "us", value));
        }
        figures.add(0, Side::PEER, Sample::new("cpu_h1_fresh_es256", "us", 300.0));
        let ours: Vec<_> = samples(&figures, 0, Side::OURS);
        let values: Vec<_> = ours.iter().map(|it| (it.name.as_str(), it.value.unwrap())).collect();
        let expected =
            [("cpu_h1_fresh_es256_minus_signatures", 140.0), ("custody_hop_multiple", 1.5)];
        assert_eq!(values, expected);
        assert_eq!(samples(&figures, 0, Side::PEER)[0].value, Some(260.0));
    }
}
