//! Runs the tests of one file.

use std::{collections::BTreeSet, path::Path};

use jiff::Timestamp;

use super::{Case, CaseRequest, CaseResult, Expect, PolicyTest, Report, read};
use crate::{
    Compiled, DenyReason, Documents, Explanation, Outcome, Problems, Source,
    compile::{SYSTEM_NAMESPACE, compile},
    doc::Selector,
    host::{canonical_authority, canonical_host},
    input::{
        Caller, ContextFacts, DeviceFacts, Input, JustificationFacts, Request, SourceFacts,
        UserFacts, Workload,
    },
    load,
    path::CanonicalPath,
    yaml::{self, Findings, Span},
};

/// Runs every `PolicyTest` in a source. `open` reads a policy file by its path; its error is a
/// sentence.
pub fn run(
    source: Source<'_>,
    open: &mut dyn FnMut(&Path) -> Result<String, String>,
) -> Result<Report, Problems> {
    let sources = [source];
    let mut findings = Findings::new(&sources);
    let nodes = yaml::documents(&mut findings, 0);
    let mut report = Report { results: Vec::new(), untouched_rules: Vec::new() };
    let mut tests = Vec::new();
    for node in &nodes {
        if node.get("kind").and_then(|kind| kind.text()) != Some("PolicyTest") {
            continue;
        }
        let spec = node.get("spec").and_then(|spec| read::policy_test(spec, &mut findings));
        tests.extend(spec.map(|test| (node.span, test)));
    }
    if tests.is_empty() {
        let span = Span { source: 0, start: 0, end: 0, line: 1, column: 1 };
        findings.error("E013", span, "there is no PolicyTest in this file");
    }
    let mut texts: Vec<Vec<(String, String)>> = Vec::new();
    for (span, test) in &tests {
        let mut files = Vec::new();
        for file in &test.policies {
            let path = file.resolve();
            match open(&path) {
                Ok(text) => files.push((path.display().to_string(), text)),
                Err(why) => {
                    let message = format!("could not read `{}`: {why}", path.display());
                    findings.error("E005", *span, message);
                }
            }
        }
        texts.push(files);
    }
    findings.finish()?;
    for ((span, test), files) in tests.iter().zip(&texts) {
        run_one(source, *span, test, files, &mut report)?;
    }
    Ok(report)
}

fn run_one(
    source: Source<'_>,
    span: Span,
    test: &PolicyTest,
    files: &[(String, String)],
    report: &mut Report,
) -> Result<(), Problems> {
    let mut sources = vec![source];
    sources.extend(files.iter().map(|(name, text)| Source { name, text }));
    let documents = load(&sources)?;
    let Some(workload) = test.workload.clone().or_else(|| only_workload(&documents)) else {
        let own = [source];
        let mut findings = Findings::new(&own);
        findings
            .error("E013", span, "these policies select more than one workload")
            .hint("say which one is tested: `workload: {namespace: …, labels: {…}}`");
        findings.finish()?;
        return Ok(());
    };
    let compiled = compile(&documents, &workload);
    let mut touched = BTreeSet::new();
    for case in &test.cases {
        let result = run_case(case, &documents, &compiled, &mut touched);
        report.results.push(result);
    }
    let all = compiled.rules.iter().map(|rule| rule.name.id().to_owned());
    report.untouched_rules.extend(all.filter(|id| !touched.contains(id)));
    Ok(())
}

/// The workload that the policies select, if they agree.
fn only_workload(documents: &Documents) -> Option<Workload> {
    let mut found: Option<Workload> = None;
    for policy in &documents.access {
        if policy.namespace == SYSTEM_NAMESPACE {
            continue;
        }
        let labels = match &policy.selector {
            Selector::All => Default::default(),
            Selector::Labels(labels) => labels.clone(),
        };
        let own = Workload { namespace: policy.namespace.clone(), labels };
        if found.as_ref().is_some_and(|first| *first != own) {
            return None;
        }
        found = Some(own);
    }
    found
}

/// What came out of a test.
struct Outcomes {
    decision: &'static str,
    reason: Option<String>,
    status: Option<u64>,
    rule: Option<String>,
    owner: Option<String>,
    valid_until_ms: Option<i64>,
    failed: Vec<String>,
    trace: Option<String>,
}

fn run_case(
    case: &Case,
    documents: &Documents,
    compiled: &Compiled,
    touched: &mut BTreeSet<String>,
) -> CaseResult {
    let outcomes = evaluate(case, documents, compiled, touched);
    let differences = differences(&case.expect, &outcomes);
    CaseResult { name: case.name.clone(), differences, trace: outcomes.trace }
}

fn evaluate(
    case: &Case,
    documents: &Documents,
    compiled: &Compiled,
    touched: &mut BTreeSet<String>,
) -> Outcomes {
    let request = &case.request;
    let host = canonical_host(&request.host).unwrap_or_default();
    let options = documents.mesh.paths;
    let path = match CanonicalPath::from_target(&request.method, &request.path, &host, options) {
        Ok(path) => path,
        Err(error) => return refused_path(error.reason()),
    };
    let host = match request.method.as_str() {
        "CONNECT" => canonical_authority(&request.host).unwrap_or_default(),
        _ => host,
    };
    let now_s = u64::try_from(case.now_ms / 1000).unwrap_or(0);
    let input = Input {
        now_ms: case.now_ms,
        port: request.port,
        caller: match &request.caller {
            Some(id) => Caller::Mesh(id),
            None => Caller::Unauthenticated("none"),
        },
        peer_ip: request.peer_ip,
        request: request.protocol.map(|protocol| Request {
            method: &request.method,
            host: &host,
            path: &path,
            protocol,
            headers: &request.headers,
        }),
        context: context(request, now_s),
    };
    let decision = compiled.decide(&input);
    let explanation = compiled.explain(&input);
    let (reason, status) = match decision.outcome {
        Outcome::Allow => (None, None),
        Outcome::Deny(reason) => {
            let status = if reason == DenyReason::TokenMissing { 401 } else { 403 };
            (Some(reason.as_str().to_owned()), Some(status))
        }
    };
    let decided = !matches!(
        reason.as_deref(),
        Some("no_match" | "unknown" | "token_missing" | "parameter_mismatch")
    );
    let rule = decision.rule.as_ref().map(ToString::to_string);
    if decided {
        touched.extend(rule.clone());
    }
    Outcomes {
        decision: if decision.is_allow() { "allow" } else { "deny" },
        reason,
        status,
        rule,
        owner: decision.resource_owner(&path).map(|owner| owner.into_owned()),
        valid_until_ms: decision.valid_until,
        failed: failed_atoms(&explanation),
        trace: Some(explanation.to_string()),
    }
}

fn refused_path(sub_reason: &str) -> Outcomes {
    Outcomes {
        decision: "deny",
        reason: Some(format!("path_not_canonical/{sub_reason}")),
        status: Some(if sub_reason == "too_long" { 414 } else { 400 }),
        rule: None,
        owner: None,
        valid_until_ms: None,
        failed: Vec::new(),
        trace: None,
    }
}

fn context(request: &CaseRequest, now_s: u64) -> Option<ContextFacts<'_>> {
    let caller = request.caller.as_ref().filter(|_| request.token && request.protocol.is_some())?;
    let entry = request.entry.as_ref().unwrap_or(caller);
    let issued_at = now_s.saturating_sub(request.age_s);
    Some(ContextFacts {
        txn: "0190f8f6-test-0000-0000-000000000000",
        scope: &request.scope,
        origin: &request.origin,
        issued_at,
        expires_at: issued_at + 60,
        entry,
        user: request.user.as_ref().map(|user| UserFacts {
            id: &user.id,
            provider: user.provider.as_deref(),
            account: user.account.as_deref(),
            groups: user.groups.as_deref(),
            auth_time: user.auth_age_s.map(|age| now_s.saturating_sub(age)),
            amr: &[],
            acr: None,
            claims: user.claims.as_ref(),
        }),
        service: request.service.as_ref(),
        source: request.source.as_ref().map(|(ip, via)| SourceFacts { ip: *ip, via }),
        device: request.device.as_ref().map(|device| DeviceFacts {
            id: Some(&device.id),
            tier: device.tier.as_deref(),
            managed: device.managed,
            src: device.src.as_deref(),
            at: device.age_s.map(|age| now_s.saturating_sub(age)),
        }),
        justification: request.justification.as_ref().map(|given| JustificationFacts {
            kind: &given.kind,
            reference: &given.reference,
            checked: given.checked,
            at: given.age_s.map(|age| now_s.saturating_sub(age)),
            facts: given.facts.as_ref(),
        }),
        acting: false,
        custody: request.hops.is_some(),
        hops: request.hops.as_deref().unwrap_or_default(),
        params: request.params.as_ref(),
    })
}

/// `rule/require.time` of every atom that was not true.
fn failed_atoms(explanation: &Explanation) -> Vec<String> {
    let rules = explanation.rules.iter();
    rules
        .flat_map(|rule| {
            let atoms = rule.atoms.iter().filter(|atom| atom.result != "true");
            atoms.map(|atom| format!("{}/{}", rule.rule, atom.id))
        })
        .collect()
}

fn differences(expect: &Expect, outcomes: &Outcomes) -> Vec<String> {
    let mut out = Vec::new();
    let shown = |value: Option<&str>| value.unwrap_or("none").to_owned();
    let mut compare = |what: &str, wanted: Option<&str>, got: Option<&str>| {
        if let Some(wanted) = wanted.filter(|wanted| got != Some(*wanted)) {
            out.push(format!("{what}: expected {wanted}, got {}", shown(got)));
        }
    };
    compare("decision", expect.decision, Some(outcomes.decision));
    compare("rule", expect.rule.as_deref(), outcomes.rule.as_deref());
    compare("owner", expect.owner.as_deref(), outcomes.owner.as_deref());
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    let (status, got_status) = (number(expect.status), number(outcomes.status));
    compare("status", status.as_deref(), got_status.as_deref());
    let time = |ms: Option<i64>| {
        ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()).map(|at| at.to_string())
    };
    let (until, got_until) = (time(expect.valid_until_ms), time(outcomes.valid_until_ms));
    compare("validUntil", until.as_deref(), got_until.as_deref());
    // `path_not_canonical` stands for all its sub-reasons.
    let coarse = outcomes.reason.as_deref().and_then(|reason| reason.split('/').next());
    let got_reason = match &expect.reason {
        Some(reason) if reason.contains('/') => outcomes.reason.as_deref(),
        _ => coarse,
    };
    compare("reason", expect.reason.as_deref(), got_reason);
    for wanted in &expect.failed {
        let long = match wanted.split_once('/') {
            Some((rule, atom)) => format!("{rule}/require.{atom}"),
            None => String::new(),
        };
        if !outcomes.failed.iter().any(|got| got == wanted || *got == long) {
            out.push(format!("failed: expected {wanted}, got {}", outcomes.failed.join(", ")));
        }
    }
    out
}
