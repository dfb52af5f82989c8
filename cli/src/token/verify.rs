//! `countersign token verify`: the checks of a sidecar, one line each, with the library the
//! sidecar itself uses. What needs a connection or the mesh documents is listed as not checked.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{ArgGroup, Args};
use countersign_certs_client::{Bundle, TrustBundles};
use countersign_cli::output::{Output, print_json};
use countersign_ctxtoken::{
    ClaimProblem, Constraints, Issuer, IssuerSet, KeyForms, KeyName, KeySet, Limits, UnixTime,
    Unverified, VerifyError, VerifyWith,
};
use countersign_workload_id::{TrustDomain, WorkloadId};
use serde::Serialize;
use serde_json::Value;

use super::{Input, KEYS_BYTES_MAX, clock, read_file, read_token, span, when};

/// How far clocks may differ.
const SKEW_S: u64 = 30;

/// Arguments of `countersign token verify`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("keys").required(true).multiple(true).args(["bundle", "jwks"])))]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    input: Input,
    /// Authorities of the trust domain, for tokens that carry their certificates
    #[arg(long, value_name = "PEM")]
    bundle: Option<PathBuf>,
    /// Key set of the issuer, for tokens that name their key
    #[arg(long, value_name = "FILE")]
    jwks: Option<PathBuf>,
    /// The workload that may issue
    #[arg(long, value_name = "SPIFFE-ID")]
    issuer: WorkloadId,
    /// The trust domain the token must be for
    #[arg(long, value_name = "NAME")]
    trust_domain: TrustDomain,
    /// Check as if it were this time, such as 2026-11-20T17:00:00Z [default: now]
    #[arg(long, value_name = "RFC3339")]
    now: Option<jiff::Timestamp>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Verifies one token and prints every check.
pub(super) fn run(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let token = read_token(&args.input.file)?;
    let now = match args.now {
        None => clock(),
        Some(time) => UnixTime(u64::try_from(time.as_second()).context("--now is before 1970")?),
    };
    let against = Against::from_args(args)?;
    let report = verify(&token, &against, now)?;
    match args.output {
        Output::Json => print_json(&report)?,
        Output::Text => print!("{}", report.to_text()),
    }
    Ok(if report.valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a token is verified against.
pub(super) struct Against {
    pub(super) issuer: WorkloadId,
    pub(super) trust_domain: TrustDomain,
    pub(super) bundles: TrustBundles,
    pub(super) jwks: Option<KeySet>,
}

impl Against {
    fn from_args(args: &VerifyArgs) -> anyhow::Result<Against> {
        let mut bundles = TrustBundles::new();
        if let Some(file) = &args.bundle {
            let bundle = Bundle::from_pem(&read_file(file, KEYS_BYTES_MAX)?);
            let bundle = bundle.with_context(|| file.display().to_string())?;
            bundles.insert(args.trust_domain.clone(), bundle);
        }
        let jwks = match &args.jwks {
            None => None,
            Some(file) => {
                let set = KeySet::from_jwks_json(&read_file(file, KEYS_BYTES_MAX)?);
                Some(set.with_context(|| file.display().to_string())?)
            }
        };
        let (issuer, trust_domain) = (args.issuer.clone(), args.trust_domain.clone());
        Ok(Against { issuer, trust_domain, bundles, jwks })
    }

    fn issuers(&self) -> anyhow::Result<IssuerSet> {
        let keys = match (&self.jwks, self.bundles.is_empty()) {
            (Some(_), false) => KeyForms::Either,
            (Some(_), true) => KeyForms::Jwks,
            (None, _) => KeyForms::X5c,
        };
        // Nothing is allowed, so that verification stops at step 9 when all before it passed:
        // what an issuer may say is in the mesh documents, which this command does not read.
        let allow = Constraints {
            origins: vec![],
            subs: vec![],
            scopes: vec![],
            impersonate: vec![],
            max_ttl_s: u64::MAX,
        };
        let issuer = Issuer { id: self.issuer.clone(), keys, allow, jwks: self.jwks.clone() };
        Ok(IssuerSet::new(vec![issuer])?)
    }
}

/// The outcome of one check.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Ok,
    Failed,
    NotReached,
    NotChecked,
}

/// One line of the answer.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) check: &'static str,
    pub(super) outcome: Outcome,
    pub(super) detail: String,
}

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    schema_version: u32,
    pub(super) valid: bool,
    /// The stable reason of the refusal, as metrics and audit name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    txn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    pub(super) checks: Vec<Check>,
}

/// The steps that need nothing but the token, in their order.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Step {
    Form,
    Strict,
    Cheap,
    Key,
    Signature,
    Claims,
}

const STEPS: [(Step, &str); 6] = [
    (Step::Form, "form"),
    (Step::Strict, "strict parsing"),
    (Step::Cheap, "end and audience"),
    (Step::Key, "issuer and key"),
    (Step::Signature, "signature"),
    (Step::Claims, "claims"),
];

const NOT_CHECKED: [(&str, &str); 4] = [
    ("issuer's limits", "origin, subject, scope and life are limited by the mesh documents"),
    ("presenter", "needs the connection the token came over"),
    ("custody", "needs the connection the token came over"),
    ("policy", "needs the request; see `countersign why`"),
];

/// Checks a token.
pub(super) fn verify(token: &str, against: &Against, now: UnixTime) -> anyhow::Result<Report> {
    let limits = Limits::default();
    let issuers = against.issuers()?;
    let with = VerifyWith {
        issuers: &issuers,
        chains: &against.bundles,
        trust_domain: &against.trust_domain,
        now,
        skew_s: SKEW_S,
        limits: &limits,
    };
    let failure = match countersign_ctxtoken::verify(token.as_bytes(), &with) {
        Ok(_) | Err(VerifyError::ConstraintViolated(_)) => None,
        Err(error) => Some((failing_step(&error, token), error)),
    };
    let seen = Seen::of(token, &limits, against, now);
    let mut checks: Vec<Check> = STEPS
        .into_iter()
        .map(|(step, check)| match &failure {
            Some((failed, _)) if step > *failed => {
                Check { check, outcome: Outcome::NotReached, detail: String::new() }
            }
            Some((failed, error)) if step == *failed => {
                Check { check, outcome: Outcome::Failed, detail: seen.failed(error) }
            }
            _ => Check { check, outcome: Outcome::Ok, detail: seen.passed(step) },
        })
        .collect();
    checks.extend(NOT_CHECKED.into_iter().map(|(check, why)| Check {
        check,
        outcome: Outcome::NotChecked,
        detail: why.to_owned(),
    }));
    Ok(Report {
        schema_version: 1,
        valid: failure.is_none(),
        reason: failure.map(|(_, error)| error.reason()),
        txn: seen.text("txn"),
        jti: seen.text("jti"),
        checks,
    })
}

fn failing_step(error: &VerifyError, token: &str) -> Step {
    match error {
        VerifyError::TokenDuplicated | VerifyError::TokenTooLarge { .. } => Step::Form,
        VerifyError::TokenMalformed(_) => {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            let well_formed = token.bytes().all(known) && token.matches('.').count() == 2;
            if well_formed { Step::Strict } else { Step::Form }
        }
        VerifyError::TokenExpired { .. } | VerifyError::AudienceWrong => Step::Cheap,
        VerifyError::IssuerNotAllowed
        | VerifyError::KeyUnknown(_)
        | VerifyError::KeysUnavailable
        | VerifyError::ClaimInvalid { claim: "iss", problem: ClaimProblem::Missing } => Step::Key,
        VerifyError::SignatureInvalid => Step::Signature,
        VerifyError::ClaimInvalid { .. }
        | VerifyError::ConstraintViolated(_)
        | VerifyError::CustodyBroken(_)
        | VerifyError::HopCertUnknown { .. }
        | VerifyError::HopsMalformed(_)
        | VerifyError::HopsTooLarge { .. }
        | VerifyError::PresenterRefused => Step::Claims,
    }
}

/// What the token says, for the details; unverified.
struct Seen<'a> {
    bytes: usize,
    bytes_max: usize,
    parsed: Option<Unverified>,
    claims: Value,
    against: &'a Against,
    now: UnixTime,
}

impl<'a> Seen<'a> {
    fn of(token: &str, limits: &Limits, against: &'a Against, now: UnixTime) -> Seen<'a> {
        let parsed = Unverified::parse(token.as_bytes(), limits).ok();
        let json = parsed.as_ref().map_or("null", Unverified::payload_json);
        let claims = serde_json::from_str(json).unwrap_or_default();
        let (bytes, bytes_max) = (token.len(), limits.token_bytes_max);
        Seen { bytes, bytes_max, parsed, claims, against, now }
    }

    fn text(&self, name: &str) -> Option<String> {
        self.claims[name].as_str().map(str::to_owned)
    }

    fn time(&self, name: &str) -> UnixTime {
        UnixTime(self.claims[name].as_u64().unwrap_or_default())
    }

    fn passed(&self, step: Step) -> String {
        match step {
            Step::Form => format!("{} bytes, at most {}", self.bytes, self.bytes_max),
            Step::Strict => self.key_name(),
            Step::Cheap => {
                let end = when(self.time("exp"), self.now);
                format!("ends {end}; for {}", self.against.trust_domain)
            }
            Step::Key => format!("{} is listed, and there is a key", self.against.issuer),
            Step::Signature => {
                let algorithm = self.parsed.as_ref().map(|parsed| parsed.algorithm().to_string());
                format!("{} fits", algorithm.unwrap_or_default())
            }
            Step::Claims => {
                let life = self.time("exp").since(self.time("iat"));
                let begin = when(self.time("iat"), self.now);
                format!("issued {begin}, lives {}", span(life))
            }
        }
    }

    fn key_name(&self) -> String {
        match self.parsed.as_ref().map(Unverified::key_name) {
            Some(KeyName::Kid(kid)) => format!("key by name: {kid}"),
            Some(KeyName::X5c(chain)) => format!("key by certificate chain of {}", chain.len()),
            None => String::new(),
        }
    }

    /// The library's sentence, with what was seen and expected where that helps.
    fn failed(&self, error: &VerifyError) -> String {
        let seen = |name: &str| self.text(name).unwrap_or_else(|| "nothing".to_owned());
        let expected = match error {
            VerifyError::AudienceWrong => {
                format!(": `aud` is {}, expected {}", seen("aud"), self.against.trust_domain)
            }
            VerifyError::IssuerNotAllowed => {
                format!(": `iss` is {}, --issuer is {}", seen("iss"), self.against.issuer)
            }
            VerifyError::KeyUnknown(_) => format!(" ({})", self.key_name()),
            VerifyError::KeysUnavailable => "; give --jwks".to_owned(),
            VerifyError::TokenExpired { .. } => {
                format!(": `exp` is {}", when(self.time("exp"), self.now))
            }
            _ => String::new(),
        };
        format!("{error}{expected}")
    }
}

impl Report {
    fn to_text(&self) -> String {
        let mut text = String::new();
        for check in &self.checks {
            let outcome = match check.outcome {
                Outcome::Ok => "ok",
                Outcome::Failed => "FAILED",
                Outcome::NotReached => "-",
                Outcome::NotChecked => "not checked",
            };
            let line = format!("{outcome:<12} {:<17} {}", check.check, check.detail);
            let _ = writeln!(text, "{}", line.trim_end());
        }
        let _ = match self.reason {
            None => writeln!(text, "valid, as far as it can be said without a connection"),
            Some(reason) => writeln!(text, "refused: {reason}"),
        };
        text
    }
}
