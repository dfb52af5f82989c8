//! `countersign token inspect`: header and claims of a context token, or of any other JWT.
//! Nothing is verified, and the output says so.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clap::Args;
use countersign_certs_client::svid;
use countersign_cli::output::{Output, print_json};
use countersign_ctxtoken::{Limits, UnixTime, Unverified};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use serde_json::Value;

use super::{Input, clock, read_token, when};

/// Arguments of `countersign token inspect`.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    #[command(flatten)]
    input: Input,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Prints what a token says.
pub(super) fn run(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let report = inspect(&read_token(&args.input.file)?)?;
    match args.output {
        Output::Json => print_json(&report)?,
        Output::Text => print!("{}", report.to_text(clock())),
    }
    Ok(ExitCode::SUCCESS)
}

/// What a token says. It has no field for the signature.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    schema_version: u32,
    verified: bool,
    /// `context` or `other`.
    kind: &'static str,
    /// Why it is no context token.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_a_context_token: Option<String>,
    bytes: usize,
    /// The first 12 hexadecimal digits: what logs and audit records show of a token.
    sha256_prefix: String,
    /// SPIFFE IDs or subjects of the certificates in `x5c`, which are left out of `header`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    chain: Vec<String>,
    header: Value,
    claims: Value,
}

/// Takes a token apart.
pub(super) fn inspect(token: &str) -> anyhow::Result<Report> {
    let parsed = Unverified::parse(token.as_bytes(), &Limits::default());
    let (mut header, claims, problem) = match parsed {
        Ok(parsed) => {
            let header = serde_json::from_str(parsed.header_json())?;
            (header, serde_json::from_str(parsed.payload_json())?, None)
        }
        Err(error) => {
            let (header, claims) = any_jwt(token)
                .with_context(|| format!("{error}; and not any other compact JWS either"))?;
            (header, claims, Some(error.to_string()))
        }
    };
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    let prefix = digest.as_ref().iter().take(6);
    Ok(Report {
        schema_version: 1,
        verified: false,
        kind: if problem.is_none() { "context" } else { "other" },
        not_a_context_token: problem,
        bytes: token.len(),
        sha256_prefix: prefix.map(|byte| format!("{byte:02x}")).collect(),
        chain: take_chain(&mut header),
        header,
        claims,
    })
}

/// Header and payload of any compact JWS.
fn any_jwt(token: &str) -> anyhow::Result<(Value, Value)> {
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        anyhow::bail!("it does not have three parts");
    };
    let json = |part: &str| -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
    };
    Ok((json(header)?, json(payload)?))
}

/// Replaces `x5c` by what its certificates are called; their bytes help nobody read.
fn take_chain(header: &mut Value) -> Vec<String> {
    let chain = header.as_object_mut().and_then(|header| header.remove("x5c"));
    let Some(Value::Array(chain)) = chain else { return Vec::new() };
    chain.iter().map(certificate_name).collect()
}

fn certificate_name(certificate: &Value) -> String {
    let der = certificate.as_str().and_then(|text| STANDARD.decode(text).ok());
    let Some(der) = der.map(CertificateDer::from) else { return "not a certificate".to_owned() };
    match svid::claimed_id(&der) {
        Ok(id) => id.to_string(),
        Err(_) => "an authority's certificate".to_owned(),
    }
}

impl Report {
    fn to_text(&self, now: UnixTime) -> String {
        let mut text = String::new();
        let title = match &self.not_a_context_token {
            None => "context token".to_owned(),
            Some(problem) => format!("a JWT ({problem})"),
        };
        let _ = writeln!(text, "{title}; NOT VERIFIED");
        let _ = writeln!(text, "sha256   {}… ({} bytes)", self.sha256_prefix, self.bytes);
        for (label, name) in [("issued", "iat"), ("begins", "nbf"), ("ends", "exp")] {
            if let Some(time) = self.claims[name].as_u64() {
                let _ = writeln!(text, "{label:<8} {}", when(UnixTime(time), now));
            }
        }
        for (place, name) in self.chain.iter().enumerate() {
            let label = if place == 0 { "signer" } else { "" };
            let _ = writeln!(text, "{label:<8} {name}");
        }
        let _ = writeln!(text, "header   {}", indented(&self.header));
        let _ = writeln!(text, "claims   {}", indented(&self.claims));
        text
    }
}

fn indented(value: &Value) -> String {
    format!("{value:#}").replace('\n', "\n         ")
}
