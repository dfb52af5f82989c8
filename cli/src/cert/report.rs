//! What is said about what was found: facts in the order people ask for them, then problems.
//!
//! Invariant: every problem is one the proxy would refuse it for, by the same code; nothing is
//! judged here by rules of its own.

use anyhow::Context as _;
use countersign_certs_client::{Bundle, SvidError, Usage, gate, location::Location, svid};
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
    pub(super) expected: Option<String>,
    /// Where it was issued to, as its signer attests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) location: Option<LocationFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) private_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) config: Option<String>,
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
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) names: Vec<String>,
    pub(super) not_before: String,
    pub(super) not_after: String,
    pub(super) key: String,
    pub(super) serial: String,
    pub(super) sha256: String,
    pub(super) authority: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct LocationFacts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
}

impl From<Location> for LocationFacts {
    fn from(Location { pod_uid, node, zone, region }: Location) -> LocationFacts {
        LocationFacts { pod_uid, node, zone, region }
    }
}

impl LocationFacts {
    pub(super) fn words(&self) -> String {
        let facts = [
            ("pod", &self.pod_uid),
            ("node", &self.node),
            ("zone", &self.zone),
            ("region", &self.region),
        ];
        let facts = facts
            .into_iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name} {value}")));
        facts.collect::<Vec<_>>().join(", ")
    }
}

/// Something a proxy would refuse it for.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    pub(super) reason: &'static str,
    pub(super) text: String,
    pub(super) fixes: Vec<Fix>,
}

/// What to do about it at one kind of authority.
#[derive(Debug, Serialize)]
pub(super) struct Fix {
    pub(super) at: &'static str,
    pub(super) with: &'static str,
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
        self.location = svid::location(leaf).ok().flatten().map(LocationFacts::from);
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

    /// Authorities are no identity, where one is asked for.
    pub(super) fn refuse_bundle(&mut self) {
        if self.kind == Kind::TrustBundle {
            let text = "there are only authorities in it".to_owned();
            self.problems.push(Problem::new("not_a_leaf", text));
        }
    }

    fn knows(&self, reason: &str) -> bool {
        self.problems.iter().any(|known| known.reason == reason)
    }

    /// Whether a good writer would have replaced it by now.
    pub(super) fn is_late(&self) -> bool {
        self.used_percent.is_some_and(|used| used >= LATE_PERCENT)
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

/// An instant as people and programs write it.
pub(super) fn timestamp(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.map_or_else(|| seconds.to_string(), |time| time.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
