//! `countersign dev token`: a bearer token of a test user, from `countersign dev issuer`.
//! Standard output holds the token and nothing else, for `curl -H "Authorization: Bearer $(...)"`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::issuer::{DEFAULT_LISTEN, DEV_GRANT};

/// Time for one answer of the issuer.
const ANSWER_MS_MAX: u64 = 5_000;
/// Size of one answer of the issuer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Arguments of `countersign dev token`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    countersign dev token --user alice\n  \
    curl -H \"Authorization: Bearer $(countersign dev token --user alice)\" https://localhost:8443/\n  \
    countersign dev token --user alice --expires-in=-2m     # already ended, to see the refusal")]
pub struct TokenArgs {
    /// The user to be
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Address of the issuer [default: http://127.0.0.1:15090]
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// Who the token is for, if the issuer knows several audiences
    #[arg(long, value_name = "URL")]
    audience: Option<String>,
    /// Life of the token, such as 60s; a negative one has already ended
    #[arg(long, value_name = "TIME", value_parser = signed_seconds, allow_hyphen_values = true)]
    expires_in: Option<i64>,
    /// Scopes the token grants, separated by spaces
    #[arg(long, value_name = "SCOPES")]
    scope: Option<String>,
}

/// Prints one token.
///
/// # Errors
/// When the issuer cannot be reached or does not answer like one.
pub fn run(args: TokenArgs) -> anyhow::Result<ExitCode> {
    let issuer = args.issuer.clone().unwrap_or_else(|| format!("http://{DEFAULT_LISTEN}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(fetch(&issuer, &form(&args)))? {
        Ok(token) => {
            println!("{token}");
            Ok(ExitCode::SUCCESS)
        }
        Err(refusal) => {
            eprintln!("countersign: the issuer refused: {refusal}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// A token from the issuer, or its refusal in words.
///
/// # Errors
/// When the issuer cannot be reached or does not answer like one.
pub async fn fetch(issuer: &str, form: &str) -> anyhow::Result<Result<String, String>> {
    let base = issuer.trim_end_matches('/');
    let discovery = format!("{base}/.well-known/openid-configuration");
    let (status, document) = call(Method::GET, &discovery, "").await?;
    let endpoint = document["token_endpoint"].as_str().filter(|_| status == StatusCode::OK);
    let endpoint =
        endpoint.with_context(|| format!("{discovery}: no token_endpoint ({status})"))?;
    let (status, answer) = call(Method::POST, endpoint, form).await?;
    match (status, answer["access_token"].as_str()) {
        (StatusCode::OK, Some(token)) => Ok(Ok(token.to_owned())),
        _ => match answer["error_description"].as_str() {
            Some(text) => Ok(Err(text.to_owned())),
            None => anyhow::bail!("{endpoint}: answered {status} without a token"),
        },
    }
}

/// The form of one token request for a user.
pub fn user_form(user: &str) -> String {
    format!("grant_type={}&username={}", encoded(DEV_GRANT), encoded(user))
}

fn form(args: &TokenArgs) -> String {
    let mut form = user_form(&args.user);
    let expires_in = args.expires_in.map(|seconds| seconds.to_string());
    for (name, value) in
        [("audience", &args.audience), ("expires_in", &expires_in), ("scope", &args.scope)]
    {
        if let Some(value) = value {
            form.push_str(&format!("&{name}={}", encoded(value)));
        }
    }
    form
}

async fn call(method: Method, url: &str, form: &str) -> anyhow::Result<(StatusCode, Value)> {
    let limit = Duration::from_millis(ANSWER_MS_MAX);
    match tokio::time::timeout(limit, call_unbounded(method, url, form)).await {
        Ok(outcome) => outcome.with_context(|| format!("could not ask {url}")),
        Err(_) => anyhow::bail!("{url}: no answer within {ANSWER_MS_MAX} ms"),
    }
}

async fn call_unbounded(
    method: Method,
    url: &str,
    form: &str,
) -> anyhow::Result<(StatusCode, Value)> {
    let url: Uri = url.parse()?;
    anyhow::ensure!(url.scheme_str() == Some("http"), "the development issuer speaks plain http");
    let authority = url.authority().context("the URL names no host")?.as_str();
    let address =
        if url.port().is_some() { authority.to_owned() } else { format!("{authority}:80") };
    let stream = TcpStream::connect(address).await;
    let stream = stream.context("is `countersign dev issuer` running?")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(url.path())
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::copy_from_slice(form.as_bytes())))?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        Ok((status, serde_json::from_slice(&body)?))
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        outcome = &mut answer => outcome,
        _ = &mut connection => answer.await,
    }
}

fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

fn signed_seconds(text: &str) -> anyhow::Result<i64> {
    let parsed: jiff::SignedDuration =
        text.parse().map_err(|_| anyhow::anyhow!("`{text}` is not a time such as 60s or -2m"))?;
    Ok(parsed.as_secs())
}
