//! Every metric, defined once: name, kind, unit, labels, help.
//!
//! `docs/metrics.md` is [`render_docs`]; the encoder takes a definition, not a name, so a metric
//! that is not listed here cannot be exported.

use std::fmt::Write;

/// What kind of metric it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; the name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by bucket, with a sum.
    Histogram,
}

impl Kind {
    /// The word Prometheus uses.
    pub fn text(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// The definition of one metric.
#[derive(Debug)]
pub struct Def {
    /// Full name.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Unit of the value, or empty for plain numbers.
    pub unit: &'static str,
    /// Label names, in the order their values are written.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident = $kind:ident $name:literal $unit:literal [$($label:literal),*] $help:literal;)+) => {
        $(#[doc = $help] pub const $id: Def = Def {
            name: $name, kind: Kind::$kind, unit: $unit, labels: &[$($label),*], help: $help,
        };)+

        /// Every metric, in the order of the documentation.
        pub const ALL: &[&Def] = &[$(&$id),+];
    };
}

metrics! {
    REQUESTS = Counter "countersign_requests_total" ""
        ["direction", "protocol", "status_class", "peer_namespace", "peer_service_account"]
        "Requests answered, by peer workload; the peer is - if it has no mesh identity.";
    REQUEST_DURATION = Histogram "countersign_request_duration_seconds" "seconds"
        ["direction", "protocol", "status_class"]
        "Time from the request head to the response head.";
    REFUSALS = Counter "countersign_refusals_total" "" ["direction", "reason"]
        "Requests refused, by the reason of the refusal table.";
    DECISIONS = Counter "countersign_decisions_total" ""
        ["direction", "decision", "policy", "rule"]
        "Policy decisions, by the rule that decided; rule and policy are - if none did.";
    CONTEXT_MINTED = Counter "countersign_context_minted_total" "" ["result"]
        "Context tokens minted, or why not.";
    CALLER_TOKENS = Counter "countersign_caller_tokens_total" "" ["result"]
        "Service account tokens and JWT-SVIDs of workloads outside the mesh that were taken (ok), or why not.";
    LOCAL_CALLS = Counter "countersign_local_calls_total" "" ["call", "result"]
        "Calls of the app to the local API: ok, or why they were refused.";
    CONTEXT_VERIFIED = Counter "countersign_context_verified_total" "" ["result"]
        "Context tokens verified, or why they were refused.";
    CONTEXT_CACHE = Counter "countersign_context_cache_total" "" ["result"]
        "Look-ups in the cache of verified tokens.";
    CONTEXT_LOOKUP = Counter "countersign_context_lookup_total" "" ["result"]
        "How the context of outbound requests was found.";
    RESERVED_REMOVED = Counter "countersign_reserved_headers_removed_total" ""
        ["direction", "where"]
        "Reserved header fields removed because this sender may not set them.";
    HANDSHAKES = Counter "countersign_tls_handshakes_total" "" ["direction", "result"]
        "TLS handshakes, ok or the reason of the failure.";
    IDENTITY_EXPIRES = Gauge "countersign_identity_expires_timestamp_seconds" "seconds" []
        "When the certificate in use ends, in Unix time.";
    IDENTITY_RENEWALS = Counter "countersign_identity_renewals_total" "" ["source", "result"]
        "Certificates the source delivered, and calls that failed.";
    IDENTITY_LATE = Gauge "countersign_identity_late" "" []
        "1 from 75 % of the life of the certificate on, and while there is none.";
    IDENTITY_SUCCESS_AGE = Gauge "countersign_identity_success_age_seconds" "seconds" []
        "Time since the source last delivered something good.";
    IDENTITY_GENERATION = Gauge "countersign_identity_generation" "" []
        "Grows with every change of certificate or trust.";
    CRLS = Gauge "countersign_crls" "" []
        "Revocation lists of authorities in force.";
    CRL_SERIALS = Gauge "countersign_crl_serials" "" []
        "Serial numbers they name.";
    CRLS_STALE = Gauge "countersign_crls_stale" "" []
        "Revocation lists past their nextUpdate; they stay in force.";
    CRLS_DISCARDED = Counter "countersign_crls_discarded_total" "" []
        "Revocation lists that could not be used; the last good ones stay.";
    IDENTITY_CLOCK_STEPS = Counter "countersign_identity_clock_steps_total" "" []
        "Steps of the wall clock by more than 30 s.";
    TRUST_AGE = Gauge "countersign_trust_age_seconds" "seconds" ["trust_domain"]
        "Time since the trust bundle was last confirmed by its source.";
    BUNDLE_FETCHES = Counter "countersign_federation_fetches_total" "" ["trust_domain", "result"]
        "Fetches of federated bundles: `changed`, `unchanged`, `failed`, or `regression`, an older bundle that was ignored.";
    CONNECTIONS = Gauge "countersign_connections" "" ["direction"]
        "Open connections.";
    CONNECTIONS_TOTAL = Counter "countersign_connections_total" "" ["direction"]
        "Connections accepted or opened.";
    CONNECTIONS_ENDED = Counter "countersign_connections_ended_total" "" ["reason"]
        "Connections and streams ended by this proxy because what allowed them had gone.";
    CONNECTIONS_PAST_EXPIRY = Gauge "countersign_connections_past_peer_expiry" "" []
        "Opaque TCP connections that outlive the certificates they were opened with.";
    WORKER_CONNECTIONS = Gauge "countersign_worker_connections" "" ["worker"]
        "Open connections of each worker.";
    TCP_BYTES = Counter "countersign_tcp_bytes_total" "" ["direction", "flow"]
        "Bytes of opaque connections, received from whoever opened them or sent to it.";
    DETECT_TIMEOUT = Counter "countersign_detect_timeout_total" "" ["port_class"]
        "Connections whose first bytes did not tell the protocol in time; declare their ports.";
    LIMITS_HIT = Counter "countersign_limits_hit_total" "" ["limit"]
        "How often a limit ended or refused something.";
    LOOP_GUARD = Counter "countersign_loop_guard_total" "" ["reason"]
        "Connections closed before a byte was read, because of what they were addressed to.";
    REDIRECT_OK = Gauge "countersign_redirect_ok" "" ["family"]
        "1 if the last self-test of the redirect passed, 0 if not; absent families have no series.";
    UPSTREAM_RETRIES = Counter "countersign_upstream_retries_total" "" ["reason"]
        "Requests sent again to an upstream.";
    BREAKER_OPEN = Gauge "countersign_breaker_open" "" ["callee"]
        "Endpoints of a destination that are left alone, summed over workers.";
    BREAKER_OPENED = Counter "countersign_breaker_opened_total" "" ["callee", "reason"]
        "How often an endpoint of a destination was left alone, and why.";
    AUDIT_RECORDS = Counter "countersign_audit_records_total" "" ["sink", "result"]
        "Audit records written or lost.";
    AUDIT_QUEUE = Gauge "countersign_audit_queue_records" "" ["sink"]
        "Audit records accepted and not yet written.";
    AUDIT_GAPS = Counter "countersign_audit_gap_records_total" "" ["reason"]
        "Gap records written, each of which states how many records are missing.";
    SNAPSHOT_INFO = Gauge "countersign_snapshot_info" "" ["group", "sha"]
        "Always 1; the label is the hash of what is in force.";
    DOCUMENTS_REJECTED = Counter "countersign_documents_rejected_total" "" ["kind", "code"]
        "Document sets that were not taken over, by the code of the first error.";
    ISSUER_KEYS_AGE = Gauge "countersign_issuer_keys_age_seconds" "seconds" ["issuer"]
        "Time since the verification keys of an issuer were last loaded.";
    ISSUER_KEY_FETCHES = Counter "countersign_issuer_key_fetches_total" "" ["issuer", "result"]
        "Fetches of the key set that an issuer of context tokens publishes: `ok`, `failed`.";
    LIFECYCLE_STATE = Gauge "countersign_lifecycle_state" "" ["state"]
        "1 for the state the process is in, 0 for the others.";
    LOG_DROPPED = Counter "countersign_log_dropped_total" "" []
        "Log lines dropped because the log writer could not keep up.";
    BUILD_INFO = Gauge "countersign_build_info" "" ["version", "commit", "tls_provider", "fips"]
        "Always 1; the labels say what runs.";
    PROCESS_CPU = Counter "process_cpu_seconds_total" "seconds" []
        "CPU time used, user and system.";
    PROCESS_RSS = Gauge "process_resident_memory_bytes" "bytes" []
        "Resident memory.";
    PROCESS_FDS = Gauge "process_open_fds" "" []
        "Open file descriptors.";
    PROCESS_START = Gauge "process_start_time_seconds" "seconds" []
        "When the process started, in Unix time.";
}

/// The text of `docs/metrics.md`.
pub fn render_docs() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         Generated from `proxy/src/telemetry/names.rs`; do not edit.\n\n\
         Every proxy serves them on its metrics address (default port 15020) at `/metrics`.\n\
         Label values come from closed sets, identities and documents, never from requests; beyond\n\
         1,000 series a metric counts under `overflow`.\n\n\
         | metric | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for def in ALL {
        let labels: Vec<String> = def.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
        // Writing to a String cannot fail.
        _ = writeln!(text, "| `{}` | {} | {labels} | {} |", def.name, def.kind.text(), def.help);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let mut seen = BTreeSet::new();
        for def in ALL {
            assert!(seen.insert(def.name), "{} is defined twice", def.name);
            assert!(def.name.starts_with("countersign_") || def.name.starts_with("process_"));
            assert_eq!(def.name.ends_with("_total"), def.kind == Kind::Counter, "{}", def.name);
            let stem = def.name.trim_end_matches("_total");
            assert!(stem.ends_with(def.unit), "{} lacks its unit", def.name);
            assert!(def.help.ends_with('.'), "{}", def.name);
        }
    }

    #[test]
    fn the_documentation_lists_every_metric() {
        let text = render_docs();
        assert!(ALL.iter().all(|def| text.contains(&format!("`{}`", def.name))));
    }
}
