//! What a row of self-tests says about the redirect. Pure.
//!
//! Invariant: nothing counts as intercepted before a test has passed; after that, one failure is a
//! doubt and `SELF_TEST_FAILURES_MAX` in a row are a fact.

use countersign_config::limits;

use crate::intercept::rules::Family;

/// How the test of one family ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every probe ended where it should.
    Passed,
    /// The pod has no route in this family, so there is nothing to capture.
    Absent,
    /// A probe did not; with the rule that is missing.
    Failed(String),
}

/// What all tests so far say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The traffic is intercepted.
    Passed,
    /// Not known yet, and why.
    Waiting(String),
    /// It was, and now a test failed.
    Wavering(String),
    /// It was, and is no longer.
    Bypassed {
        /// What is missing.
        why: String,
        /// Whether this is news.
        first: bool,
    },
}

/// The row of tests of one process.
#[derive(Debug, Default)]
pub struct Course {
    passed_once: bool,
    failures: u32,
}

impl Course {
    /// Takes the next test in. `inbound_seen`: a probe on port 15022 has come by the redirect.
    pub fn after(&mut self, outcomes: &[(Family, Outcome)], inbound_seen: bool) -> Standing {
        let failed = outcomes.iter().filter_map(|(_, outcome)| match outcome {
            Outcome::Failed(why) => Some(why.as_str()),
            Outcome::Passed | Outcome::Absent => None,
        });
        let failed: Vec<_> = failed.collect();
        let passed = outcomes.iter().any(|(_, outcome)| *outcome == Outcome::Passed);
        if failed.is_empty() && (passed || inbound_seen) {
            *self = Course { passed_once: true, failures: 0 };
            return Standing::Passed;
        }
        let why = match failed.as_slice() {
            [] => "no route in any family; a probe on port 15022 would prove the redirect".into(),
            failed => failed.join("; "),
        };
        if !self.passed_once {
            return Standing::Waiting(why);
        }
        self.failures = self.failures.saturating_add(1);
        match self.failures {
            failures if failures < limits::SELF_TEST_FAILURES_MAX => Standing::Wavering(why),
            failures => {
                Standing::Bypassed { why, first: failures == limits::SELF_TEST_FAILURES_MAX }
            }
        }
    }
}
