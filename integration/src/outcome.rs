//! What a refusal must look like from every side: the caller's answer, the one audit record, the
//! metric. The expected faces come from the program's own reference, `docs refusals`.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

use crate::client::Reply;
use crate::proxy::Proxy;
use crate::{process, programs, wait};

/// The faces of one refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// HTTP status.
    pub http: u16,
    /// gRPC status.
    pub grpc: u8,
    /// Coarse class told to the caller.
    pub title: String,
}

/// Every refusal the program knows, by reason.
pub fn table() -> &'static BTreeMap<String, Row> {
    static TABLE: LazyLock<BTreeMap<String, Row>> = LazyLock::new(|| {
        let printed = process::run(Command::new(programs::proxy()).args(["docs", "refusals"]));
        let text = String::from_utf8_lossy(&printed.stdout).into_owned();
        text.lines().filter_map(row).collect()
    });
    &TABLE
}

/// `| reason | http | grpc | title | by | when |`
fn row(line: &str) -> Option<(String, Row)> {
    let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
    let [_, reason, http, grpc, title, _, _, _] = cells.as_slice() else { return None };
    let row = Row { http: http.parse().ok()?, grpc: grpc.parse().ok()?, title: (*title).into() };
    Some(((*reason).to_owned(), row))
}

/// Checks that `reply` is the refusal `reason` of `proxy` from every side, and gives its record.
///
/// # Panics
/// When anything does not fit.
pub async fn refused(proxy: &Proxy, reply: &Reply, reason: &str) -> Value {
    let record = recorded(proxy, reply, reason).await;
    let row = &table()[reason];
    assert_eq!(reply.status, row.http, "{reason}: {}", reply.text());
    let body = reply.json();
    assert_eq!(body["title"], row.title.as_str(), "{reason}");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{reason}");
    told_nothing_more(reply, reason, &row.title);
    record
}

/// As [`refused`], for a head that was refused before it was parsed: a bare status.
///
/// # Panics
/// When anything does not fit.
pub async fn refused_head(proxy: &Proxy, reply: &Reply, reason: &str) -> Value {
    let record = recorded(proxy, reply, reason).await;
    assert!((400..=505).contains(&reply.status), "{reason}: {}", reply.status);
    record
}

/// As [`refused`], for gRPC: HTTP 200 with the status in the head.
///
/// # Panics
/// When anything does not fit.
pub async fn refused_grpc(proxy: &Proxy, reply: &Reply, reason: &str) -> Value {
    let record = recorded(proxy, reply, reason).await;
    let row = &table()[reason];
    assert_eq!(reply.status, 200, "{reason}");
    let status = row.grpc.to_string();
    assert_eq!(reply.header("grpc-status"), Some(status.as_str()), "{reason}");
    assert_eq!(reply.header("grpc-message"), Some(row.title.as_str()), "{reason}");
    assert!(reply.header("grpc-status-details-bin").is_some(), "{reason}");
    told_nothing_more(reply, reason, &row.title);
    record
}

/// The record of the opaque connection that was the `nth` to be refused as `reason`. Whoever opened
/// it is told nothing: the connection is reset.
///
/// # Panics
/// When there are never so many.
pub async fn refused_bytes(proxy: &Proxy, reason: &str, nth: usize) -> Value {
    assert!(table().contains_key(reason), "{reason} is not in the table of refusals");
    let said = |record: &Value| {
        let told = record["reason"].as_str().unwrap_or_default();
        told.split_once('/').unwrap_or((told, "")).0 == reason
    };
    let find = || async { proxy.audit().into_iter().filter(said).nth(nth - 1) };
    let record = wait::until(&format!("{nth} records of {reason}"), find).await;
    assert_eq!(record["decision"], "deny", "{record}");
    assert_eq!(record["req"]["proto"], "tcp", "{record}");
    assert_eq!(record["req"].get("method"), None, "{record}");
    let label = format!("reason=\"{reason}\"");
    proxy.metric_reaches("countersign_refusals_total", &[&label], 1.0).await;
    record
}

/// The one record of a refusal has its reason, and the metric counted it.
async fn recorded(proxy: &Proxy, reply: &Reply, reason: &str) -> Value {
    assert!(table().contains_key(reason), "{reason} is not in the table of refusals");
    let Some(id) = reply.header("countersign-decision") else {
        panic!("{reason}: {} {:?} {}", reply.status, reply.headers, reply.text());
    };
    let record = proxy.record(id).await;
    let told = record["reason"].as_str().unwrap_or_default();
    let (code, _) = told.split_once('/').unwrap_or((told, ""));
    assert_eq!(code, reason, "status {}, record {record}", reply.status);
    assert_eq!(record["decision"], "deny", "{record}");
    let label = format!("reason=\"{reason}\"");
    proxy.metric_reaches("countersign_refusals_total", &[&label], 1.0).await;
    record
}

/// The caller learns the class; the fine reason is for operators.
fn told_nothing_more(reply: &Reply, reason: &str, title: &str) {
    if reason != title {
        let told = format!("{:?}{}", reply.headers, reply.text());
        assert!(!told.contains(reason), "the caller is told `{reason}`: {told}");
    }
}

/// Checks that `proxy` let the request through, and gives its record.
///
/// # Panics
/// When it did not.
pub async fn allowed(proxy: &Proxy, reply: &Reply) -> Value {
    assert!(reply.status < 400, "{} {}", reply.status, reply.text());
    let record = proxy.record(&reply.decision()).await;
    assert_eq!(record["decision"], "allow", "{record}");
    record
}
