//! One policy decision with many rules, in process: the last rule permits.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;

use anyhow::{Context, Result, anyhow, ensure};
use countersign_policy::path::{CanonicalOptions, CanonicalPath};
use countersign_policy::{
    Caller, Compiled, ContextFacts, Input, NoHeaders, Outcome, Protocol, Request, Source, Workload,
    compile, load,
};
use countersign_workload_id::WorkloadId;

use super::{Measure, Sample};
use crate::figures::Side;
use crate::load::{HOST, PATH};
use crate::machine;
use crate::pki::GATEWAY_ID;
use crate::stage::Stage;

const NOW_S: u64 = 1_795_194_010;
/// Decisions in one measurement.
const TIMES: u32 = 20_000;

/// A decision among 1,000 and among 10,000 rules.
pub(super) struct Decision;

impl Measure for Decision {
    fn name(&self) -> &str {
        "decision"
    }

    fn sides(&self) -> Vec<Side> {
        vec![Side::OURS]
    }

    fn sample(&self, _: &mut Stage<'_>, _: Side) -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        for rules in [1_000, 10_000] {
            let microseconds = decide(&policy(rules)?)?;
            samples.push(Sample::new(format!("decision_{rules}_us"), "us", microseconds));
        }
        Ok(samples)
    }
}

/// Microseconds of one decision.
fn decide(policy: &Compiled) -> Result<f64> {
    let gateway: WorkloadId = GATEWAY_ID.parse().context("the gateway's name")?;
    let path = CanonicalPath::parse(PATH, CanonicalOptions::default());
    let path = path.map_err(|error| anyhow!("{PATH}: {error:?}"))?;
    let scope = ["orders.read".to_owned()];
    let input = Input {
        now_ms: NOW_S as i64 * 1000,
        port: 8080,
        caller: Caller::Mesh(&gateway),
        peer_ip: None,
        request: Some(Request {
            method: "GET",
            host: HOST,
            path: &path,
            protocol: Protocol::Http,
            headers: &NoHeaders,
        }),
        context: Some(facts(&gateway, &scope)),
    };
    ensure!(policy.decide(&input).outcome == Outcome::Allow, "the last rule does not permit");
    let start = machine::own_cpu_time();
    for _ in 0..TIMES {
        black_box(policy.decide(black_box(&input)));
    }
    Ok((machine::own_cpu_time() - start).as_secs_f64() * 1e6 / f64::from(TIMES))
}

fn facts<'a>(entry: &'a WorkloadId, scope: &'a [String]) -> ContextFacts<'a> {
    ContextFacts {
        txn: "01a1f9e6-9359-7e8d-bfc5-2f2007d3fcf2",
        scope,
        origin: "user",
        issued_at: NOW_S - 1,
        expires_at: NOW_S + 59,
        entry,
        user: None,
        service: None,
        source: None,
        device: None,
        justification: None,
        acting: false,
        custody: true,
        hops: &[],
        params: None,
    }
}

/// Rules in one document: a document has its bound.
const RULES_EACH: usize = 1_000;

/// Policies of `rules` rules in all, of which only one speaks about the request.
fn policy(rules: usize) -> Result<Compiled> {
    let mesh = "{apiVersion: countersign.dev/v1alpha1, kind: MeshConfig,\n\
                metadata: {name: default}, spec: {trustDomain: bench.test}}\n";
    let numbers: Vec<usize> = (1..=rules).rev().collect();
    let texts: Vec<(String, String)> = numbers
        .chunks(RULES_EACH)
        .enumerate()
        .map(|(part, numbers)| (format!("access-{part}.yaml"), document(part, numbers)))
        .collect();
    let mut sources = vec![Source { name: "mesh.yaml", text: mesh }];
    sources.extend(texts.iter().map(|(name, text)| Source { name, text }));
    let documents = load(&sources).map_err(|problems| anyhow!("{problems}"))?;
    let labels = BTreeMap::from([("app".to_owned(), "orders".to_owned())]);
    Ok(compile(&documents, &Workload { namespace: "shop".to_owned(), labels }))
}

fn document(part: usize, numbers: &[usize]) -> String {
    let mut text = format!(
        "{{apiVersion: countersign.dev/v1alpha1, kind: AccessPolicy,\n\
         metadata: {{name: bench-{part}, namespace: shop}}, spec: {{\n\
         selector: {{matchLabels: {{app: orders}}}}, direction: inbound, rules: [\n"
    );
    for number in numbers {
        match number {
            1 => rule(&mut text, 1, "edge", "gateway"),
            other => rule(&mut text, *other, "other", &format!("caller-{other}")),
        }
    }
    text.push_str("]}}\n");
    text
}

fn rule(text: &mut String, number: usize, namespace: &str, account: &str) {
    let _ = writeln!(
        text,
        "{{name: rule-{number}, effect: allow, context: required, match: {{\
         caller: {{anyOf: [{{namespace: {namespace}, serviceAccount: {account}}}]}}, \
         http: {{methods: [GET], paths: [{{template: \"/v{number}/users/{{user}}/orders\"}}]}}}}, \
         require: {{token: {{scopes: {{anyOf: [orders.read]}}}}}}}},"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_permits() {
        assert!(decide(&policy(20).unwrap()).unwrap() > 0.0);
    }
}
