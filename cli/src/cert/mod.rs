//! `countersign cert`: what a certificate says, in plain words.
//!
//! The problems shown are those of the validation the proxy itself uses; with `--bundle` or a
//! socket the chain is checked against its authorities too.

#[cfg(test)]
mod tests;

use std::{
    fmt::Write as _,
    io::Read as _,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use countersign_certs_client::{
    Bundle, CertSource, Certs, SigningKey, SvidError, TrustBundles, Usage,
    source::{
        self,
        workload_api::{Endpoint, JwtKeys},
    },
    svid,
};
use countersign_cli::output::{Output, print_json};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use serde::Serialize;
use x509_parser::{
    oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519},
    prelude::{FromDer, X509Certificate},
    public_key::PublicKey,
};

/// Bytes of a file we look at.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// How long a socket may take to hand out an identity.
const SOCKET_MAX: Duration = Duration::from_secs(5);

/// Arguments of `countersign cert`.
#[derive(Debug, Args)]
pub(crate) struct CertArgs {
    #[command(subcommand)]
    command: CertCommand,
}

#[derive(Debug, Subcommand)]
enum CertCommand {
    /// Show the identity, the chain, the time left and every problem
    #[command(after_help = "\
Examples:
  countersign cert inspect identity.pem
  countersign cert inspect tls.crt --bundle ca.crt
  countersign cert inspect unix:///run/spire/agent.sock -o json
Exit code 1 if there is a problem.")]
    Inspect(InspectArgs),
}

#[derive(Debug, Args)]
struct InspectArgs {
    /// A PEM or DER file, or a SPIFFE Workload API socket (path or unix:// address)
    source: String,
    /// Check the chain against these authorities (PEM)
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs one `cert` command.
pub(crate) fn run(args: CertArgs) -> anyhow::Result<ExitCode> {
    let CertCommand::Inspect(args) = args.command;
    let now = unix_now_ms() / 1000;
    let report = match socket(&args.source)? {
        Some(endpoint) => inspect_socket(endpoint, now)?,
        None => inspect_file(Path::new(&args.source), args.bundle.as_deref(), now)?,
    };
    match args.output {
        Output::Json => print_json(&report)?,
        Output::Text => print!("{}", report.to_text()),
    }
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// What was found, in the order people ask for it.
#[derive(Debug, Default, Serialize)]
struct Report {
    source: String,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trust: Option<String>,
    certificates: Vec<CertificateFacts>,
    problems: Vec<Problem>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    #[default]
    Identity,
    TrustBundle,
}

#[derive(Debug, Serialize)]
struct CertificateFacts {
    subject: String,
    issuer: String,
    not_before: String,
    not_after: String,
    key: String,
    serial: String,
    sha256: String,
    authority: bool,
}

#[derive(Debug, Serialize)]
struct Problem {
    reason: &'static str,
    text: String,
}

impl From<SvidError> for Problem {
    fn from(error: SvidError) -> Problem {
        Problem { reason: error.reason(), text: error.to_string() }
    }
}

fn inspect_file(path: &Path, bundle: Option<&Path>, now: u64) -> anyhow::Result<Report> {
    let bytes = read(path)?;
    let chain = certificates(&bytes).with_context(|| path.display().to_string())?;
    let mut report = Report { source: path.display().to_string(), ..facts(&chain, now)? };
    if report.kind == Kind::TrustBundle {
        if let Err(error) = Bundle::from_certificates(chain) {
            report.problems.push(Problem { reason: "bad_bundle", text: error.to_string() });
        }
        return Ok(report);
    }
    report
        .problems
        .extend(svid::problems(&chain, svid::unix_time(now)).into_iter().map(Problem::from));
    report.problems.extend(key_problem(&bytes, &chain));
    if let Some(file) = bundle {
        let authorities = Bundle::from_certificates(certificates(&read(file)?)?)
            .with_context(|| file.display().to_string())?;
        check_trust(&mut report, &chain, authorities, file, now);
    }
    Ok(report)
}

/// A file may hold the private key too: then it must fit and be of a kind we can use.
fn key_problem(bytes: &[u8], chain: &[CertificateDer<'static>]) -> Option<Problem> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(bytes).ok()?;
    match SigningKey::from_pkcs8(der.secret_pkcs8_der()) {
        Err(error) => Some(Problem { reason: "bad_key", text: error.to_string() }),
        Ok(key) => {
            let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
            let fits = leaf.public_key().subject_public_key.data.as_ref() == key.public_key();
            (!fits).then(|| Problem {
                reason: "key_mismatch",
                text: "the private key in the file does not belong to the certificate".to_owned(),
            })
        }
    }
}

fn check_trust(
    report: &mut Report,
    chain: &[CertificateDer<'static>],
    authorities: Bundle,
    file: &Path,
    now: u64,
) {
    let Some(leaf) = chain.first() else { return };
    let Ok(id) = svid::claimed_id(leaf) else { return };
    let bundles = TrustBundles::from_iter([(id.trust_domain().clone(), authorities)]);
    match svid::validate(chain, &bundles, Usage::TlsClient, svid::unix_time(now)) {
        Ok(_) => report.trust = Some(format!("vouched for by {}", file.display())),
        Err(error) if report.problems.iter().any(|known| known.reason == error.reason()) => {}
        Err(error) => report.problems.push(error.into()),
    }
}

fn inspect_socket(endpoint: Endpoint, now: u64) -> anyhow::Result<Report> {
    let source = endpoint.to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let certs = runtime.block_on(fetch(endpoint))?;
    let identity = certs.identity.as_ref().context("the authority has no identity for us")?;
    let facts = facts(&identity.chain_der, now)?;
    let domains: Vec<&str> = certs.bundles.domains().map(|domain| domain.as_str()).collect();
    let trust = Some(format!("valid; authorities delivered for {}", domains.join(", ")));
    Ok(Report { source, trust, ..facts })
}

/// Asks the socket as the proxy does; what the proxy would discard is an error here.
async fn fetch(endpoint: Endpoint) -> anyhow::Result<Arc<Certs>> {
    let handle = source::spawn(
        CertSource::WorkloadApi { endpoint, jwt_keys: JwtKeys::Ignore },
        None,
        Arc::new(unix_now_ms),
    );
    let (mut certs, mut status) = (handle.certs(), handle.status());
    let received = async {
        loop {
            tokio::select! {
                _ = certs.changed() => {
                    let certs = Arc::clone(&certs.borrow_and_update());
                    if certs.identity.is_some() {
                        return Ok(certs);
                    }
                }
                _ = status.changed() => {
                    let failure = status.borrow_and_update().last_failure.clone();
                    if let Some(failure) = failure {
                        bail!("{} of {}: {}{}", failure.call, failure.authority, failure.answer,
                            failure.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default());
                    }
                }
            }
        }
    };
    tokio::time::timeout(SOCKET_MAX, received).await.context("no identity came in time")?
}

fn facts(chain: &[CertificateDer<'static>], now: u64) -> anyhow::Result<Report> {
    let certificates = chain.iter().map(describe).collect::<anyhow::Result<Vec<_>>>()?;
    if certificates.iter().all(|certificate| certificate.authority) {
        return Ok(Report { kind: Kind::TrustBundle, certificates, ..Report::default() });
    }
    let leaf = chain.first().context("there is no certificate")?;
    let (_, parsed) = X509Certificate::from_der(leaf)?;
    let seconds_left = i64::try_from(now)
        .ok()
        .map(|now| parsed.validity().not_after.timestamp().saturating_sub(now));
    Ok(Report {
        spiffe_id: svid::claimed_id(leaf).ok().map(|id| id.to_string()),
        seconds_left,
        certificates,
        ..Report::default()
    })
}

fn describe(certificate: &CertificateDer<'static>) -> anyhow::Result<CertificateFacts> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).context("a certificate cannot be read")?;
    Ok(CertificateFacts {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        not_before: timestamp(parsed.validity().not_before.timestamp()),
        not_after: timestamp(parsed.validity().not_after.timestamp()),
        key: key_type(&parsed),
        serial: hex(parsed.raw_serial()),
        sha256: hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate).as_ref()),
        authority: parsed.is_ca(),
    })
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

impl Report {
    fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_text(&mut out);
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        match (self.kind == Kind::TrustBundle, &self.spiffe_id) {
            (true, _) => writeln!(out, "trust bundle")?,
            (false, Some(id)) => writeln!(out, "{id}")?,
            (false, None) => writeln!(out, "no SPIFFE ID")?,
        }
        if let Some(left) = self.seconds_left {
            writeln!(out, "  time left  {}", time_left(left))?;
        }
        if let Some(trust) = &self.trust {
            writeln!(out, "  trust      {trust}")?;
        }
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
            writeln!(
                out,
                "      valid    {} to {}",
                certificate.not_before, certificate.not_after
            )?;
            writeln!(out, "      serial   {}", certificate.serial)?;
            writeln!(out, "      sha256   {}", certificate.sha256)?;
        }
        match self.problems.as_slice() {
            [] => writeln!(out, "no problems"),
            problems => {
                writeln!(out, "problems:")?;
                problems.iter().try_for_each(|p| writeln!(out, "  {}: {}", p.reason, p.text))
            }
        }
    }
}

/// A socket to ask, if the argument names one.
fn socket(source: &str) -> anyhow::Result<Option<Endpoint>> {
    if source.contains("://") {
        return Ok(Some(source.parse()?));
    }
    let is_socket =
        std::fs::metadata(source).is_ok_and(|metadata| metadata.file_type().is_socket());
    is_socket
        .then(|| std::path::absolute(source).map(Endpoint::Unix))
        .transpose()
        .context("cannot tell the folder we are in")
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let context = || format!("cannot read {}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(context)?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).with_context(context)?;
    Ok(bytes)
}

/// PEM sections, or else certificates in DER one after the other.
fn certificates(bytes: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let from_pem = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>()?;
    if !from_pem.is_empty() {
        return Ok(from_pem);
    }
    let mut found = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let Ok((after, _)) = X509Certificate::from_der(rest) else {
            bail!("neither PEM nor DER certificates");
        };
        let length = rest.len() - after.len();
        found.push(CertificateDer::from(rest[..length].to_vec()));
        rest = after;
    }
    if found.is_empty() {
        bail!("there is no certificate in it");
    }
    Ok(found)
}

fn time_left(seconds: i64) -> String {
    let words = |seconds: i64| match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    };
    if seconds < 0 { format!("none, it ended {} ago", words(-seconds)) } else { words(seconds) }
}

fn timestamp(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unix_now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.ok().and_then(|since| u64::try_from(since.as_millis()).ok()).unwrap_or_default()
}
