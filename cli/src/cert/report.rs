//! What is said about what was found: facts in the order people ask for them, then problems.
//!
//! Invariant: every problem is one the proxy would refuse it for, by the same code; nothing is
//! judged here by rules of its own.

use std::fmt::Write as _;

use anyhow::Context as _;
use countersign_certs_client::{Bundle, SvidError, Usage, gate, svid};
use countersign_workload_id::WorkloadId;
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use x509_parser::{
    extensions::GeneralName,
    oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519},
    prelude::{FromDer as _, X509Certificate},
    public_key::PublicKey,
};

use super::{
    advice,
    peer::{ClientCertificate, PeerFacts},
    source::{Found, Options},
};

/// Share of a life after which a certificate should have been replaced, in percent.
const LATE_PERCENT: i64 = 75;

/// What was found, in the order people ask for it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) source: String,
    pub(super) kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spiffe_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peer: Option<PeerFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seconds_left: Option<i64>,
    /// How much of its life is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) used_percent: Option<i64>,
    /// Who vouches for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trust: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<String>,
    /// UID of the pod it was issued to, as its signer attests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<String>,
    pub(super) certificates: Vec<CertificateFacts>,
    pub(super) problems: Vec<Problem>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    #[default]
    Identity,
    TrustBundle,
}

#[derive(Debug, Serialize)]
pub(super) struct CertificateFacts {
    subject: String,
    issuer: String,
    names: Vec<String>,
    not_before: String,
    not_after: String,
    key: String,
    pub(super) serial: String,
    pub(super) sha256: String,
    authority: bool,
}

/// Something a proxy would refuse it for.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    pub(super) reason: &'static str,
    text: String,
    fixes: Vec<Fix>,
}

/// What to do about it at one kind of authority.
#[derive(Debug, Serialize)]
struct Fix {
    at: &'static str,
    with: &'static str,
}

impl Problem {
    fn new(reason: &'static str, text: String) -> Problem {
        let fixes = advice::fixes(reason).iter().map(|(at, with)| Fix { at, with }).collect();
        Problem { reason, text, fixes }
    }
}

impl From<SvidError> for Problem {
    fn from(error: SvidError) -> Problem {
        let text = match &error {
            SvidError::Expired { not_after } => format!("it ended at {}", timestamp(*not_after)),
            SvidError::NotYetValid { not_before } => {
                format!("it starts at {}; is a clock off?", timestamp(*not_before))
            }
            other => other.to_string(),
        };
        Problem::new(error.reason(), text)
    }
}

impl Report {
    /// Everything that can be said of what was found.
    pub(super) fn of(found: &Found, options: &Options, now: u64) -> anyhow::Result<Report> {
        let certificates = found.chain.iter().map(describe).collect::<anyhow::Result<Vec<_>>>()?;
        let mut report = Report { source: found.source.clone(), certificates, ..Report::default() };
        report.peer.clone_from(&found.peer);
        report.config.clone_from(&found.config);
        if found.is_bundle() && found.peer.is_none() {
            report.kind = Kind::TrustBundle;
            if let Err(error) = Bundle::from_certificates(found.chain.clone()) {
                report.problems.push(Problem::new("bad_bundle", error.to_string()));
            }
            return Ok(report);
        }
        report.times(found, now)?;
        let id = found.chain.first().and_then(|leaf| svid::claimed_id(leaf).ok());
        report.spiffe_id = id.as_ref().map(ToString::to_string);
        let problems = svid::problems(&found.chain, svid::unix_time(now));
        report.problems.extend(problems.into_iter().map(Problem::from));
        report.check_as_ours(found);
        report.check_key(found);
        report.check_trust(found, now);
        report.check_expected(options, id.as_ref());
        report.check_peer();
        Ok(report)
    }

    fn times(&mut self, found: &Found, now: u64) -> anyhow::Result<()> {
        let leaf = found.chain.first().context("there is no certificate")?;
        let (_, parsed) = X509Certificate::from_der(leaf)?;
        let (from, to) =
            (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        let now = i64::try_from(now)?;
        self.seconds_left = Some(to.saturating_sub(now));
        let used = now.saturating_sub(from).max(0).saturating_mul(100);
        self.used_percent = used.checked_div(to.saturating_sub(from)).map(|used| used.min(100));
        self.pod_uid = svid::facts(leaf).ok().and_then(|facts| facts.pod_uid);
        Ok(())
    }

    fn check_key(&mut self, found: &Found) {
        match &found.key {
            None => {}
            Some(Err(problem)) => self.problems.push(Problem::new("bad_key", problem.clone())),
            Some(Ok(key)) => {
                let leaf =
                    found.chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
                let fits = leaf.is_some_and(|(_, leaf)| {
                    leaf.public_key().subject_public_key.data.as_ref() == key.public_key()
                });
                if fits {
                    self.private_key =
                        Some(format!("{}, belongs to the certificate", key.key_type()));
                } else {
                    let text = "the private key does not belong to the certificate".to_owned();
                    self.problems.push(Problem::new("key_mismatch", text));
                }
            }
        }
    }

    fn check_trust(&mut self, found: &Found, now: u64) {
        if let Some(problem) = &found.bad_trust {
            self.problems.push(Problem::new("bad_bundle", problem.clone()));
        }
        let Some((bundles, from)) = &found.trust else { return };
        let usage = match found.peer {
            Some(_) => Usage::TlsServer,
            None => Usage::TlsClient,
        };
        match svid::validate(&found.chain, bundles, usage, svid::unix_time(now)) {
            Ok(_) => self.trust = Some(format!("vouched for by {from}")),
            Err(error) if self.knows(error.reason()) => {}
            Err(error) => self.problems.push(error.into()),
        }
    }

    /// What only an identity of our own is refused for.
    fn check_as_ours(&mut self, found: &Found) {
        let refused = gate::check_san_critical(&found.chain).err();
        if let Some(error) = refused.filter(|_| found.peer.is_none()) {
            self.problems.push(Problem::new(error.reason(), error.to_string()));
        }
    }

    fn check_expected(&mut self, options: &Options, id: Option<&WorkloadId>) {
        let Some(expected) = &options.expect else { return };
        match id {
            Some(id) if expected.matches(id) => {
                self.expected = Some(format!("it is {}", expected.as_str()));
            }
            Some(id) => {
                let text = format!("{id} is not {}", expected.as_str());
                self.problems.push(Problem::new("unexpected_identity", text));
            }
            None => {}
        }
    }

    fn check_peer(&mut self) {
        let Some(peer) = &self.peer else { return };
        if let ClientCertificate::Refused { presented: true, alert } = &peer.client_certificate {
            let text = format!("the peer refused the certificate that was presented: {alert}");
            self.problems.push(Problem::new("refused_by_peer", text));
        }
    }

    fn knows(&self, reason: &str) -> bool {
        self.problems.iter().any(|known| known.reason == reason)
    }

    /// Whether a good writer would have replaced it by now.
    pub(super) fn is_late(&self) -> bool {
        self.used_percent.is_some_and(|used| used >= LATE_PERCENT)
    }

    /// For people.
    pub(super) fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_facts(&mut out);
        let _ = self.write_certificates(&mut out);
        let _ = self.write_problems(&mut out);
        out
    }

    /// Yes or no, for people.
    pub(super) fn to_answer(&self) -> String {
        let who = self.spiffe_id.as_deref().unwrap_or("no SPIFFE ID");
        let mut out = match self.problems.is_empty() {
            true => {
                let left = time_left(self.seconds_left.unwrap_or_default());
                let trust = self.trust.as_deref().unwrap_or_default();
                format!("yes: {who}, {trust}, for another {left}\n")
            }
            false => format!("no: {who}\n"),
        };
        if !self.problems.is_empty() {
            let _ = self.write_problems(&mut out);
        }
        out
    }

    fn write_facts(&self, out: &mut String) -> std::fmt::Result {
        match (self.kind == Kind::TrustBundle, &self.spiffe_id) {
            (true, _) => writeln!(out, "trust bundle")?,
            (false, Some(id)) => writeln!(out, "{id}")?,
            (false, None) => writeln!(out, "no SPIFFE ID")?,
        }
        writeln!(out, "  from       {}", self.source)?;
        if let Some(peer) = &self.peer {
            let protocol = peer.alpn.as_deref().unwrap_or("no protocol agreed");
            let group = peer.group.as_deref().unwrap_or("-");
            writeln!(out, "  live       {}, {}, {group}, {protocol}", peer.tls, peer.cipher)?;
            writeln!(out, "  client     {}", client_words(&peer.client_certificate))?;
        }
        if let Some(left) = self.seconds_left {
            let used = self.used_percent.unwrap_or(100);
            let late = if self.is_late() { ", it should have been replaced by now" } else { "" };
            writeln!(out, "  time left  {} ({used} % of its life is over{late})", time_left(left))?;
        }
        let lines = [
            ("trust", &self.trust),
            ("expected", &self.expected),
            ("pod", &self.pod_uid),
            ("key", &self.private_key),
            ("config", &self.config),
        ];
        for (name, text) in lines {
            if let Some(text) = text {
                writeln!(out, "  {name:<9}  {text}")?;
            }
        }
        Ok(())
    }

    fn write_certificates(&self, out: &mut String) -> std::fmt::Result {
        for (index, certificate) in self.certificates.iter().enumerate() {
            let role = match (certificate.authority, index) {
                (true, _) => "authority",
                (false, 0) => "leaf",
                (false, _) => "not an authority",
            };
            writeln!(out, "  [{index}] {role}, {}", certificate.key)?;
            let subject =
                if certificate.subject.is_empty() { "(empty)" } else { &certificate.subject };
            writeln!(out, "      subject  {subject}")?;
            writeln!(out, "      issuer   {}", certificate.issuer)?;
            if !certificate.names.is_empty() {
                writeln!(out, "      names    {}", certificate.names.join(", "))?;
            }
            writeln!(
                out,
                "      valid    {} to {}",
                certificate.not_before, certificate.not_after
            )?;
            writeln!(out, "      serial   {}", certificate.serial)?;
            writeln!(out, "      sha256   {}", certificate.sha256)?;
        }
        Ok(())
    }

    fn write_problems(&self, out: &mut String) -> std::fmt::Result {
        if self.problems.is_empty() {
            return writeln!(out, "no problems");
        }
        writeln!(out, "problems:")?;
        for problem in &self.problems {
            writeln!(out, "  {}: {}", problem.reason, problem.text)?;
            for Fix { at, with } in &problem.fixes {
                writeln!(out, "      {at:<14}  {with}")?;
            }
        }
        Ok(())
    }
}

fn client_words(certificate: &ClientCertificate) -> String {
    match certificate {
        ClientCertificate::NotAsked => "not asked for a certificate: it takes anybody".to_owned(),
        ClientCertificate::Accepted { presented: true } => {
            "asked for a certificate, accepted ours".to_owned()
        }
        ClientCertificate::Accepted { presented: false } => {
            "asked for a certificate, went on without one".to_owned()
        }
        ClientCertificate::Refused { presented: true, alert } => {
            format!("asked for a certificate, refused ours ({alert})")
        }
        ClientCertificate::Refused { presented: false, alert } => format!(
            "asked for a certificate, refuses who has none ({alert}), as a sidecar must; \
             --present shows it one"
        ),
    }
}

fn describe(certificate: &CertificateDer<'static>) -> anyhow::Result<CertificateFacts> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).context("a certificate cannot be read")?;
    let seconds = |instant: i64| timestamp(u64::try_from(instant).unwrap_or_default());
    Ok(CertificateFacts {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        names: names(&parsed),
        not_before: seconds(parsed.validity().not_before.timestamp()),
        not_after: seconds(parsed.validity().not_after.timestamp()),
        key: key_type(&parsed),
        serial: hex(parsed.raw_serial()),
        sha256: hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate).as_ref()),
        authority: parsed.is_ca(),
    })
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    names
        .iter()
        .map(|name| match name {
            GeneralName::DNSName(name) => format!("DNS:{name}"),
            GeneralName::URI(uri) => format!("URI:{uri}"),
            GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), bytes.len()) {
                (Ok(four), _) => format!("IP:{}", std::net::Ipv4Addr::from(four)),
                _ => format!("IP:{}", hex(bytes)),
            },
            other => other.to_string(),
        })
        .collect()
}

fn key_type(certificate: &X509Certificate<'_>) -> String {
    let spki = certificate.public_key();
    let curve = spki.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    match (spki.parsed(), curve) {
        _ if spki.algorithm.algorithm == OID_SIG_ED25519 => "Ed25519".to_owned(),
        (_, Some(curve)) if curve == OID_EC_P256 => "ECDSA P-256".to_owned(),
        (_, Some(curve)) if curve == OID_NIST_EC_P384 => "ECDSA P-384".to_owned(),
        (_, Some(curve)) if curve == OID_NIST_EC_P521 => "ECDSA P-521".to_owned(),
        (Ok(PublicKey::RSA(key)), _) => format!("RSA {}", key.key_size()),
        _ => format!("unknown ({})", spki.algorithm.algorithm),
    }
}

/// A span in the largest unit that keeps it readable.
pub(super) fn time_left(seconds: i64) -> String {
    let words = |seconds: i64| match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    };
    if seconds < 0 { format!("none, it ended {} ago", words(-seconds)) } else { words(seconds) }
}

/// An instant as people and programs write it.
pub(super) fn timestamp(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.map_or_else(|| seconds.to_string(), |time| time.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
