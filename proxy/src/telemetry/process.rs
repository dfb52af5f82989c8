//! What is counted once per process, off the data path: identity, trust, documents, life cycle.
//!
//! Called by the control thread and its watchers; behind one lock, which a scrape takes too.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use countersign_certs_client::{Status, status as identity};
use countersign_config::limits;
use serde_json::{Value, json};

use super::encode::Page;
use super::names;
use crate::clock::Now;
use crate::lifecycle;

#[derive(Debug)]
struct State {
    lifecycle: lifecycle::State,
    identity: Status,
    trust_confirmed: BTreeMap<String, Now>,
    bundle_fetches: BTreeMap<String, [(&'static str, u64); 4]>,
    issuer_keys_loaded: BTreeMap<String, Now>,
    key_fetches: BTreeMap<String, [(&'static str, u64); 2]>,
    snapshots: BTreeMap<&'static str, String>,
    rejected: BTreeMap<(String, &'static str), u64>,
    redirect: BTreeMap<&'static str, bool>,
}

/// Counters and gauges of the whole process.
#[derive(Debug)]
pub struct ProcessMetrics {
    state: Mutex<State>,
    started: Now,
}

impl ProcessMetrics {
    pub(crate) fn new(started: Now) -> ProcessMetrics {
        let state = State {
            lifecycle: lifecycle::State::Starting,
            identity: Status::default(),
            trust_confirmed: BTreeMap::new(),
            bundle_fetches: BTreeMap::new(),
            issuer_keys_loaded: BTreeMap::new(),
            key_fetches: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            rejected: BTreeMap::new(),
            redirect: BTreeMap::new(),
        };
        ProcessMetrics { state: Mutex::new(state), started }
    }

    /// The process entered a state of its life.
    pub fn lifecycle(&self, state: lifecycle::State) {
        self.lock().lifecycle = state;
    }

    /// The state of life last entered.
    pub fn current_lifecycle(&self) -> lifecycle::State {
        self.lock().lifecycle
    }

    /// When the process started.
    pub fn started(&self) -> Now {
        self.started
    }

    /// How the source of the own certificate is doing.
    pub fn identity(&self, status: &Status) {
        self.lock().identity = status.clone();
    }

    /// The bundle of a trust domain was confirmed by its source.
    pub fn trust_confirmed(&self, trust_domain: &str, now: Now) {
        set_capped(&mut self.lock().trust_confirmed, trust_domain, now);
    }

    /// Fetches of a federated bundle so far, by result.
    pub fn bundle_fetches(&self, trust_domain: &str, by_result: [(&'static str, u64); 4]) {
        let mut state = self.lock();
        let known = state.bundle_fetches.contains_key(trust_domain);
        if known || state.bundle_fetches.len() < limits::SERIES_PER_METRIC_MAX {
            state.bundle_fetches.insert(trust_domain.to_owned(), by_result);
        }
    }

    /// Forgets the trust domains that are no longer known.
    pub fn only_trust(&self, known: impl Fn(&str) -> bool) {
        let mut state = self.lock();
        state.trust_confirmed.retain(|domain, _| known(domain));
        state.bundle_fetches.retain(|domain, _| known(domain));
    }

    /// The keys of an issuer or identity provider were loaded.
    pub fn issuer_keys_loaded(&self, issuer: &str, now: Now) {
        set_capped(&mut self.lock().issuer_keys_loaded, issuer, now);
    }

    /// Fetches of an issuer's key set so far, by result.
    pub fn key_fetches(&self, issuer: &str, by_result: [(&'static str, u64); 2]) {
        let mut state = self.lock();
        let known = state.key_fetches.contains_key(issuer);
        if known || state.key_fetches.len() < limits::SERIES_PER_METRIC_MAX {
            state.key_fetches.insert(issuer.to_owned(), by_result);
        }
    }

    /// The hash of what is in force, e.g. for `documents`; shown by its first 8 digits.
    pub fn snapshot(&self, group: &'static str, sha256_hex: &str) {
        let short = sha256_hex.chars().take(8).collect();
        self.lock().snapshots.insert(group, short);
    }

    /// A set of documents was not taken over, because of an error with this code.
    pub fn documents_rejected(&self, kind: &str, code: &'static str) {
        let mut state = self.lock();
        let key = (kind.to_owned(), code);
        if state.rejected.len() < limits::SERIES_PER_METRIC_MAX || state.rejected.contains_key(&key)
        {
            *state.rejected.entry(key).or_default() += 1;
        }
    }

    /// How the last self-test of the redirect ended for a family; `None`: the family is absent.
    pub fn redirect(&self, family: &'static str, ok: Option<bool>) {
        let mut state = self.lock();
        match ok {
            Some(ok) => _ = state.redirect.insert(family, ok),
            None => _ = state.redirect.remove(family),
        }
    }

    /// What the admin pages say about the process.
    pub fn to_json(&self) -> Value {
        let state = self.lock();
        let documents: Value = state.snapshots.iter().map(|(k, v)| (*k, v.as_str())).collect();
        json!({
            "lifecycle": state.lifecycle.text(),
            "identity_expires": state.identity.not_after,
            "identity_state": state.identity.state.as_str(),
            "identity_source": state.identity.source,
            "trust_domains": state.trust_confirmed.keys().collect::<Vec<_>>(),
            "issuers": state.issuer_keys_loaded.keys().collect::<Vec<_>>(),
            "snapshots": documents,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self, page: &mut Page, now: Now) {
        let state = self.lock();
        page.begin(&names::LIFECYCLE_STATE);
        for lifecycle in lifecycle::State::ALL {
            let on = u8::from(*lifecycle == state.lifecycle);
            page.sample(&names::LIFECYCLE_STATE, &[lifecycle.text()], on);
        }
        write_identity(page, &state.identity, now);
        page.begin(&names::TRUST_AGE);
        for (trust_domain, at) in &state.trust_confirmed {
            page.sample(&names::TRUST_AGE, &[trust_domain], age_s(*at, now));
        }
        page.begin(&names::BUNDLE_FETCHES);
        for (trust_domain, by_result) in &state.bundle_fetches {
            for (result, count) in by_result {
                page.sample(&names::BUNDLE_FETCHES, &[trust_domain, result], *count);
            }
        }
        page.begin(&names::ISSUER_KEYS_AGE);
        for (issuer, at) in &state.issuer_keys_loaded {
            page.sample(&names::ISSUER_KEYS_AGE, &[issuer], age_s(*at, now));
        }
        page.begin(&names::ISSUER_KEY_FETCHES);
        for (issuer, by_result) in &state.key_fetches {
            for (result, count) in by_result {
                page.sample(&names::ISSUER_KEY_FETCHES, &[issuer, result], count);
            }
        }
        page.begin(&names::SNAPSHOT_INFO);
        for (group, sha) in &state.snapshots {
            page.sample(&names::SNAPSHOT_INFO, &[group, sha], 1);
        }
        page.begin(&names::DOCUMENTS_REJECTED);
        for ((kind, code), count) in &state.rejected {
            page.sample(&names::DOCUMENTS_REJECTED, &[kind, code], count);
        }
        page.begin(&names::REDIRECT_OK);
        for (family, ok) in &state.redirect {
            page.sample(&names::REDIRECT_OK, &[family], u8::from(*ok));
        }
        drop(state);
        write_build(page);
        page.begin(&names::PROCESS_START);
        page.sample(&names::PROCESS_START, &[], self.started.secs());
        write_usage(page);
    }
}

fn set_capped(map: &mut BTreeMap<String, Now>, key: &str, now: Now) {
    if map.len() < limits::SERIES_PER_METRIC_MAX || map.contains_key(key) {
        map.insert(key.to_owned(), now);
    }
}

fn age_s(at: Now, now: Now) -> u64 {
    now.secs().saturating_sub(at.secs())
}

fn write_identity(page: &mut Page, status: &Status, now: Now) {
    if let Some(expires) = status.not_after {
        page.begin(&names::IDENTITY_EXPIRES);
        page.sample(&names::IDENTITY_EXPIRES, &[], expires);
    }
    page.begin(&names::IDENTITY_RENEWALS);
    for (result, count) in [("ok", status.identities_total), ("error", status.failures_total)] {
        page.sample(&names::IDENTITY_RENEWALS, &[status.kind, result], count);
    }
    page.begin(&names::IDENTITY_LATE);
    page.sample(&names::IDENTITY_LATE, &[], u8::from(status.state != identity::State::Valid));
    if let Some(success) = status.last_success_at {
        page.begin(&names::IDENTITY_SUCCESS_AGE);
        page.sample(&names::IDENTITY_SUCCESS_AGE, &[], now.secs().saturating_sub(success));
    }
    page.begin(&names::IDENTITY_GENERATION);
    page.sample(&names::IDENTITY_GENERATION, &[], status.generation);
    page.begin(&names::IDENTITY_CLOCK_STEPS);
    page.sample(&names::IDENTITY_CLOCK_STEPS, &[], status.clock_steps_total);
    let crls = &status.crls;
    for (name, count) in [
        (&names::CRLS, crls.lists),
        (&names::CRL_SERIALS, crls.serials),
        (&names::CRLS_STALE, crls.stale),
    ] {
        page.begin(name);
        page.sample(name, &[], count);
    }
    page.begin(&names::CRLS_DISCARDED);
    page.sample(&names::CRLS_DISCARDED, &[], crls.discarded_total);
}

fn write_build(page: &mut Page) {
    page.begin(&names::BUILD_INFO);
    let commit = option_env!("COUNTERSIGN_COMMIT").unwrap_or("unknown");
    page.sample(&names::BUILD_INFO, &[env!("CARGO_PKG_VERSION"), commit, "aws-lc-rs", "false"], 1);
}

/// CPU, memory and descriptors from `/proc`; left out where there is none.
fn write_usage(page: &mut Page) {
    if let Some(ticks) = cpu_ticks() {
        page.begin(&names::PROCESS_CPU);
        page.sample(&names::PROCESS_CPU, &[], format_args!("{}.{:02}", ticks / 100, ticks % 100));
    }
    if let Some(kib) = resident_kib() {
        page.begin(&names::PROCESS_RSS);
        page.sample(&names::PROCESS_RSS, &[], kib.saturating_mul(1024));
    }
    if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
        page.begin(&names::PROCESS_FDS);
        page.sample(&names::PROCESS_FDS, &[], descriptors.count());
    }
}

/// User and system time in hundredths of a second, the unit of `/proc` on every Linux we build for.
fn cpu_ticks() -> Option<u64> {
    let stat = std::fs::read("/proc/self/stat").ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The command name is in parentheses and may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user.saturating_add(system))
}

fn resident_kib() -> Option<u64> {
    let status = std::fs::read("/proc/self/status").ok()?;
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
