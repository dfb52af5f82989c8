//! `PolicyTest`: requests and the decisions they must get, in a file beside the policies.
//!
//! Run alike by `cargo test` and `countersign policy test`. A test goes through the same code as
//! a request: canonical path, compiled rules, explanation. Policy files are named relative to the
//! test's own file; documents in the same file count too.

mod read;
mod run;

use std::{collections::BTreeMap, fmt, net::IpAddr};

use countersign_workload_id::WorkloadId;
use serde_json::{Map, Value};

pub use run::run;

use crate::{
    doc::FileRef,
    input::{Protocol, Workload},
    yaml::{Findings, Node},
};

/// One `PolicyTest` document.
#[derive(Clone, Debug)]
pub struct PolicyTest {
    /// Files with the documents under test.
    pub policies: Vec<FileRef>,
    pub(crate) workload: Option<Workload>,
    pub(crate) cases: Vec<Case>,
}

/// One request and what is expected of it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) now_ms: i64,
    pub(crate) request: CaseRequest,
    pub(crate) expect: Expect,
}

/// A request as a test describes it.
#[derive(Clone, Debug)]
pub(crate) struct CaseRequest {
    pub(crate) user: Option<CaseUser>,
    /// The subject is this service.
    pub(crate) service: Option<WorkloadId>,
    pub(crate) caller: Option<WorkloadId>,
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) port: u16,
    /// `None`: an opaque connection.
    pub(crate) protocol: Option<Protocol>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// `false`: no context token comes with the request.
    pub(crate) token: bool,
    pub(crate) scope: Vec<String>,
    pub(crate) origin: String,
    /// Seconds since the token was issued.
    pub(crate) age_s: u64,
    pub(crate) source: Option<(IpAddr, String)>,
    pub(crate) peer_ip: Option<IpAddr>,
    pub(crate) justification: Option<CaseJustification>,
    pub(crate) device: Option<CaseDevice>,
    /// Who held the token before; `None`: custody is off.
    pub(crate) hops: Option<Vec<WorkloadId>>,
    /// Where the request entered; `None`: at the caller.
    pub(crate) entry: Option<WorkloadId>,
    /// Signed parameters.
    pub(crate) params: Option<Map<String, Value>>,
}

#[derive(Clone, Debug)]
pub(crate) struct CaseUser {
    pub(crate) provider: Option<String>,
    pub(crate) id: String,
    pub(crate) account: Option<String>,
    pub(crate) groups: Option<Vec<String>>,
    /// Seconds since the login.
    pub(crate) auth_age_s: Option<u64>,
    pub(crate) claims: Option<Map<String, Value>>,
}

#[derive(Clone, Debug)]
pub(crate) struct CaseJustification {
    pub(crate) kind: String,
    pub(crate) reference: String,
    pub(crate) checked: bool,
    pub(crate) age_s: Option<u64>,
    pub(crate) facts: Option<Map<String, Value>>,
}

#[derive(Clone, Debug)]
pub(crate) struct CaseDevice {
    pub(crate) id: String,
    pub(crate) tier: Option<String>,
    pub(crate) managed: Option<bool>,
    pub(crate) src: Option<String>,
    pub(crate) age_s: Option<u64>,
}

/// What must come out; what is not named is not compared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expect {
    pub(crate) decision: Option<&'static str>,
    pub(crate) rule: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) failed: Vec<String>,
    pub(crate) status: Option<u64>,
    pub(crate) owner: Option<String>,
    pub(crate) valid_until_ms: Option<i64>,
}

impl PolicyTest {
    /// Reports what is wrong with the body of a `PolicyTest`.
    pub(crate) fn check(spec: &Node, findings: &mut Findings<'_>) {
        read::policy_test(spec, findings);
    }
}

/// What became of the tests of one file.
#[derive(Clone, Debug)]
pub struct Report {
    /// One entry per test, in order.
    pub results: Vec<CaseResult>,
    /// Rules that no test allowed or denied by, as `namespace/policy/rule`.
    pub untouched_rules: Vec<String>,
}

/// What became of one test.
#[derive(Clone, Debug)]
pub struct CaseResult {
    /// Its name.
    pub name: String,
    /// Every difference, in sentences; empty: passed.
    pub differences: Vec<String>,
    /// The trace of the decision, if there was one.
    pub trace: Option<String>,
}

impl Report {
    /// How many tests failed.
    pub fn failed(&self) -> usize {
        self.results.iter().filter(|result| !result.differences.is_empty()).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for result in &self.results {
            let state = if result.differences.is_empty() { "ok    " } else { "FAILED" };
            writeln!(f, "{state} {}", result.name)?;
            for difference in &result.differences {
                writeln!(f, "       {difference}")?;
            }
            if let (false, Some(trace)) = (result.differences.is_empty(), &result.trace) {
                for line in trace.lines() {
                    writeln!(f, "       {line}")?;
                }
            }
        }
        Ok(())
    }
}

/// Users and callers of a test file, by the names its requests use.
#[derive(Default)]
pub(crate) struct Cast {
    pub(crate) users: BTreeMap<String, CaseUser>,
    pub(crate) callers: BTreeMap<String, WorkloadId>,
}
