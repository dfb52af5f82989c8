//! Resident memory of a pair that has had no load yet.

use std::time::Duration;

use anyhow::Result;

use super::{Measure, Sample};
use crate::figures::Side;
use crate::plan::Plan;
use crate::sidecars::{Make, Variant};
use crate::stage::Stage;

/// Rest before it is read.
const SETTLE: Duration = Duration::from_secs(1);

/// Both proxies of a pair, idle.
pub(super) struct Idle;

impl Measure for Idle {
    fn name(&self) -> &str {
        "rss_idle_pair"
    }

    fn sides(&self) -> Vec<Side> {
        vec![Side::Of(Make::Countersign), Side::Of(Make::Envoy)]
    }

    fn rounds(&self, _: &Plan) -> usize {
        1
    }

    fn sample(&self, stage: &mut Stage<'_>, side: Side) -> Result<Vec<Sample>> {
        let Side::Of(make) = side else { return Ok(Vec::new()) };
        let pair = stage.pair(make, Variant::FreshToken)?;
        std::thread::sleep(SETTLE);
        Ok(vec![Sample::new(self.name(), "MiB", pair.resident_mb()?)])
    }
}
