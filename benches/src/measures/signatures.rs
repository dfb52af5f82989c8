//! The bare signature operations of the library, over as many bytes as a token has: the floor under
//! everything that carries a fresh token.

use std::hint::black_box;

use anyhow::{Result, anyhow};

use super::{Measure, Sample};
use crate::figures::Side;
use crate::machine;
use crate::stage::Stage;
use crate::tokens::{Algorithm, Key};

/// What is signed: about as much as a token of ours.
const MESSAGE: [u8; 1300] = [b'x'; 1300];
/// Operations in one measurement.
const TIMES: u32 = 400;

/// One signing and one verification of each algorithm.
pub(super) struct Signatures;

impl Measure for Signatures {
    fn name(&self) -> &str {
        "signatures"
    }

    fn sides(&self) -> Vec<Side> {
        vec![Side::OURS]
    }

    fn sample(&self, _: &mut Stage<'_>, _: Side) -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        for algorithm in [Algorithm::Es256, Algorithm::Ed25519] {
            let key = Key::generate(algorithm)?;
            let (public, signature) = (key.public()?, key.sign(&MESSAGE)?);
            let sign = time(|| key.sign(black_box(&MESSAGE)).map(drop))?;
            let verify = time(|| {
                let verified = public.verify_sig(black_box(&MESSAGE), &signature);
                verified.map_err(|_| anyhow!("a signature of our own is refused"))
            })?;
            let name = algorithm.name();
            samples.push(Sample::new(format!("sign_{name}"), "us", sign));
            samples.push(Sample::new(format!("verify_{name}"), "us", verify));
        }
        Ok(samples)
    }
}

/// Microseconds of one operation.
fn time(mut operation: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = machine::own_cpu_time();
    for _ in 0..TIMES {
        operation()?;
    }
    Ok((machine::own_cpu_time() - start).as_secs_f64() * 1e6 / f64::from(TIMES))
}
