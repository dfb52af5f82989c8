//! New connections: as many clients as it takes to keep both proxies busy, each connecting, asking
//! once and closing, over and over. The connections between A and B are warm: what is measured is
//! taking a connection, looking at it, serving one request and letting it go.

use anyhow::Result;

use super::{Measure, Sample};
use crate::figures::Side;
use crate::load::{self, Protocol};
use crate::sidecars::{Make, Variant};
use crate::stage::Stage;

/// Clients at once.
const CLIENTS: u8 = 32;

/// Connections per second, and what each costs both proxies.
pub(super) struct New;

impl Measure for New {
    fn name(&self) -> &str {
        "new_connections"
    }

    fn sides(&self) -> Vec<Side> {
        let makes = [Make::Countersign, Make::Envoy, Make::Haproxy, Make::Nginx].map(Side::Of);
        [Side::Direct].into_iter().chain(makes).collect()
    }

    fn sample(&self, stage: &mut Stage<'_>, side: Side) -> Result<Vec<Sample>> {
        let (warm_up, window) = (stage.plan.warm_up(), stage.plan.closed_window());
        let (target, pids) = match side {
            Side::Direct => (stage.direct(Protocol::H1), Vec::new()),
            Side::Of(make) => {
                let pair = stage.loopback_pair(make, Variant::NoToken)?;
                (pair.target(Protocol::H1).clone(), pair.pids())
            }
        };
        let load = load::churn(&target, CLIENTS, warm_up, window, &pids)?;
        let mut samples = vec![Sample::new("new_connections", "1/s", load.throughput)];
        if let Side::Of(make) = side {
            stage.saw(&load, true);
            stage.loopback_pair(make, Variant::NoToken)?.empty_audit()?;
            samples.push(Sample::new("cpu_new_connection", "us", load.cpu_us));
        }
        Ok(samples)
    }
}
