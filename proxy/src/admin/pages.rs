//! What the admin and metrics addresses answer, as pure functions from a request to a response.
//!
//! Invariant: GET and HEAD only; the admin pages answer only if `Host` is a loopback name, so that
//! a web page that rebinds DNS learns nothing; every answer forbids being framed, cached or
//! scripted.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::html;
use super::readiness::Readiness;
use super::ring::{WhyEntry, WhyRing};
use crate::audit::{DecisionId, Personal};
use crate::clock::Now;
use crate::telemetry::{Metrics, Verdict, encode};

/// Version of the JSON forms below; fields are only added.
const SCHEMA_VERSION: u8 = 1;
/// Decisions listed unless the request says otherwise, and at most.
const DECISIONS_DEFAULT: usize = 100;
const DECISIONS_MAX: usize = 1_000;
/// An event loop that has not turned for this long is stuck.
const STUCK_MS_MAX: u64 = 10_000;

/// Parts of the status that the composition root knows: identity, listeners, documents.
pub type StatusParts = Box<dyn Fn() -> Value + Send + Sync>;

/// What the pages are made from.
pub struct Pages {
    /// Recent decisions.
    pub ring: WhyRing,
    /// What is missing.
    pub readiness: Readiness,
    /// The metrics.
    pub metrics: Metrics,
    /// How personal values are shown on the admin pages.
    pub personal: Personal,
    /// What else the status shows, under `parts`.
    pub status: StatusParts,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pages(..)")
    }
}

type Answer = Response<Full<Bytes>>;

impl Pages {
    /// Answers a request to the admin address.
    pub fn admin<B>(&self, request: &Request<B>, now: Now) -> Answer {
        if let Some(refusal) = wrong_method(request.method()) {
            return refusal;
        }
        if !is_local(request) {
            let why = "the admin pages answer only to localhost, 127.0.0.1 and [::1]";
            return problem(StatusCode::FORBIDDEN, why);
        }
        let query = request.uri().query().unwrap_or_default();
        match request.uri().path() {
            "/" => self.index(now),
            "/style.css" => text(StatusCode::OK, "text/css; charset=utf-8", html::STYLE.to_owned()),
            "/api/v1/decisions" => self.decisions(query),
            "/api/v1/status" => json_answer(StatusCode::OK, &self.status_json(now)),
            path => match path.strip_prefix("/api/v1/why/") {
                Some(id) => self.why(id, query),
                None => problem(StatusCode::NOT_FOUND, "no such page"),
            },
        }
    }

    /// Answers a request to the metrics address.
    pub fn metrics<B>(&self, request: &Request<B>, now: Now) -> Answer {
        if let Some(refusal) = wrong_method(request.method()) {
            return refusal;
        }
        match request.uri().path() {
            "/metrics" => text(StatusCode::OK, encode::CONTENT_TYPE, self.metrics.render(now)),
            "/ready" => {
                let ready = self.readiness.is_ready() && self.stuck(now).is_empty();
                let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                json_answer(status, &self.ready_json(now))
            }
            "/live" => {
                let stuck = self.stuck(now);
                let live = stuck.is_empty();
                let status = if live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                json_answer(status, &json!({"live": live, "stuck_workers": stuck}))
            }
            _ => problem(StatusCode::NOT_FOUND, "no such page"),
        }
    }

    fn stuck(&self, now: Now) -> Vec<usize> {
        self.metrics.stuck_workers(now, STUCK_MS_MAX)
    }

    fn ready_json(&self, now: Now) -> Value {
        let mut body = self.readiness.to_json();
        if let Some(fields) = body.as_object_mut() {
            let state = self.metrics.process().current_lifecycle().text();
            fields.entry("state").or_insert_with(|| state.into());
            let stuck = self.stuck(now);
            if !stuck.is_empty() {
                fields.insert("ready".to_owned(), false.into());
                fields.insert("stuck_workers".to_owned(), stuck.into());
            }
        }
        body
    }

    fn status_json(&self, now: Now) -> Value {
        json!({
            "schemaVersion": SCHEMA_VERSION,
            "version": env!("CARGO_PKG_VERSION"),
            "now": timestamp(now),
            "started": timestamp(self.metrics.process().started()),
            "readiness": self.ready_json(now),
            "process": self.metrics.process().to_json(),
            "parts": (self.status)(),
        })
    }

    fn decisions(&self, query: &str) -> Answer {
        let limit = parameter(query, "limit").and_then(|limit| limit.parse().ok());
        let limit = limit.unwrap_or(DECISIONS_DEFAULT).min(DECISIONS_MAX);
        let verdict = match parameter(query, "verdict") {
            None => None,
            Some("allow") => Some(Verdict::Allow),
            Some("deny") => Some(Verdict::Deny),
            Some(_) => return problem(StatusCode::BAD_REQUEST, "verdict is allow or deny"),
        };
        let entries = self.ring.recent(verdict, limit);
        let entries: Vec<Value> = entries.iter().map(|entry| self.entry_json(entry)).collect();
        let body = json!({"schemaVersion": SCHEMA_VERSION, "decisions": entries});
        json_answer(StatusCode::OK, &body)
    }

    fn why(&self, id: &str, query: &str) -> Answer {
        let Ok(id) = id.parse::<DecisionId>() else {
            return problem(StatusCode::BAD_REQUEST, "that is not a decision id");
        };
        let Some(entry) = self.ring.find(id) else {
            let why = "this proxy does not remember that decision: it was made by another proxy, \
                       was permitted and not sampled, or is too old";
            return problem(StatusCode::NOT_FOUND, why);
        };
        let explained = entry.explain.explain(&self.personal);
        let shown = format!("{}\n{}", self.heading(&entry), explained.text);
        if parameter(query, "format") == Some("text") {
            return text(StatusCode::OK, "text/plain; charset=utf-8", shown);
        }
        let mut body = self.entry_json(&entry);
        if let Some(fields) = body.as_object_mut() {
            fields.insert("schemaVersion".to_owned(), SCHEMA_VERSION.into());
            fields.insert("explanation".to_owned(), explained.json);
            fields.insert("text".to_owned(), shown.into());
        }
        json_answer(StatusCode::OK, &body)
    }

    fn index(&self, now: Now) -> Answer {
        let entries = self.ring.recent(None, DECISIONS_DEFAULT);
        let rows = entries.iter().map(|entry| html::Row {
            id: entry.id.to_string(),
            time: timestamp(entry.at),
            verdict: verdict_text(entry),
            denied: entry.verdict == Verdict::Deny,
            direction: entry.direction.text(),
            caller: caller_text(entry).to_owned(),
            request: self.request_text(entry),
            decided_by: reason_text(entry)
                .unwrap_or_else(|| entry.rule.clone().unwrap_or_else(|| "-".to_owned())),
        });
        let missing = self.readiness.missing_texts();
        let page = html::index(rows, &missing, &timestamp(now));
        text(StatusCode::OK, "text/html; charset=utf-8", page)
    }

    /// The first lines of an explanation: what was decided, on what, for whom.
    fn heading(&self, entry: &WhyEntry) -> String {
        let verdict = verdict_text(entry);
        let reason = reason_text(entry).map(|reason| format!(" {reason}")).unwrap_or_default();
        let mut heading = format!(
            "{verdict}{reason}   {}   {}   {} from {}",
            self.request_text(entry),
            timestamp(entry.at),
            entry.direction.text(),
            caller_text(entry),
        );
        if let Some(rule) = &entry.rule {
            heading.push_str(&format!("\nrule {rule}"));
        }
        if let Some(txn) = &entry.txn {
            heading.push_str(&format!("\ntxn {txn}"));
        }
        heading
    }

    fn entry_json(&self, entry: &WhyEntry) -> Value {
        json!({
            "id": entry.id.to_string(),
            "ts": timestamp(entry.at),
            "direction": entry.direction.text(),
            "decision": entry.verdict.text(),
            "status": entry.status,
            "reason": reason_text(entry),
            "rule": entry.rule,
            "caller": caller_text(entry),
            "method": entry.method.as_ref().map(|method| method.as_str()),
            "host": entry.host,
            "route": entry.route.as_deref(),
            "path": entry.path.as_ref().filter(|_| self.shows_paths()),
            "txn": entry.txn,
        })
    }

    /// A path can name a person, so it is shown in clear or not at all.
    fn shows_paths(&self) -> bool {
        matches!(self.personal, Personal::Clear)
    }

    fn request_text(&self, entry: &WhyEntry) -> String {
        let Some(method) = &entry.method else { return format!("tcp {}", entry.host) };
        let path = entry.path.as_deref().filter(|_| self.shows_paths());
        let path = path.or(entry.route.as_deref()).unwrap_or(" [path]");
        format!("{method} {}{path}", entry.host)
    }
}

fn verdict_text(entry: &WhyEntry) -> String {
    let verdict = entry.verdict.text().to_ascii_uppercase();
    match entry.status {
        Some(status) => format!("{verdict} {status}"),
        None => verdict,
    }
}

fn reason_text(entry: &WhyEntry) -> Option<String> {
    let reason = entry.reason?;
    Some(match reason.detail {
        Some(detail) => format!("{}/{detail}", reason.code),
        None => reason.code.to_owned(),
    })
}

fn caller_text(entry: &WhyEntry) -> &str {
    match &entry.caller {
        Ok(id) => id.as_str(),
        Err(why) => why,
    }
}

fn timestamp(at: Now) -> String {
    let micros = i64::try_from(at.micros()).unwrap_or(i64::MAX);
    format!("{:.3}", Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX))
}

/// The value of a query parameter; none of ours needs decoding.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn wrong_method(method: &Method) -> Option<Answer> {
    if method == Method::GET || method == Method::HEAD {
        return None;
    }
    let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "these pages can only be read");
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    Some(answer)
}

/// Was the request sent to a loopback name? Exactly one `Host` must say so.
fn is_local<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let target_is_local = request.uri().authority().is_none_or(|to| is_loopback(to.as_str()));
    target_is_local && host.to_str().is_ok_and(is_loopback)
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => authority,
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn problem(status: StatusCode, why: &str) -> Answer {
    json_answer(status, &json!({"schemaVersion": SCHEMA_VERSION, "error": why}))
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    text(status, "application/json", format!("{body}\n"))
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, "default-src 'self'; frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}
