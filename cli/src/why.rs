//! `countersign why`: why one request was allowed or refused, asked from the proxy that decided.
//!
//! A decision id says nothing by itself; the proxy that made it remembers the input for a while
//! and explains it when asked, on its loopback admin address.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use countersign_cli::output::{Output, print_json};
use http::StatusCode;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// How long one proxy may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Bytes of an answer we read.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// No proxy could be reached.
const UNREACHABLE: u8 = 3;

/// Arguments of `countersign why`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  countersign why 01M7Y1HG7G7Q4J0M2T9S8XWE5R
  countersign why --last-denied
  countersign why --last-denied --admin http://127.0.0.1:15010 -o json
The id is in the response header Countersign-Decision, in the audit log and in the proxy's log.
Exit code 1 if no proxy remembers the decision, 3 if none could be reached.")]
pub(crate) struct WhyArgs {
    /// The decision id
    #[arg(required_unless_present = "last_denied")]
    id: Option<String>,
    /// Explain the newest refusal instead
    #[arg(long, conflicts_with = "id")]
    last_denied: bool,
    /// Admin address of a proxy; may be given several times
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:15000")]
    admin: Vec<String>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs `countersign why`.
pub(crate) fn run(args: &WhyArgs) -> anyhow::Result<ExitCode> {
    let targets = targets(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(ask(args, &targets));
    match answer {
        Found::Decision(decision) => {
            match args.output {
                Output::Json => print_json(&decision)?,
                Output::Text => print!("{}", decision["text"].as_str().unwrap_or_default()),
            }
            Ok(ExitCode::SUCCESS)
        }
        Found::Nothing(why) => {
            eprintln!("countersign: {why}");
            Ok(ExitCode::from(1))
        }
        Found::NoProxy(why) => {
            eprintln!("countersign: {why}");
            Ok(ExitCode::from(UNREACHABLE))
        }
    }
}

/// The admin addresses as `host:port`; the id is checked before anybody is asked.
fn targets(args: &WhyArgs) -> anyhow::Result<Vec<String>> {
    if let Some(id) = &args.id
        && (id.len() != 26 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    {
        bail!(
            "`{id}` is not a decision id: it has 26 letters and digits, such as 01M7Y1HG7G7Q4J0M2T9S8XWE5R"
        );
    }
    args.admin.iter().map(|url| target(url)).collect()
}

fn target(url: &str) -> anyhow::Result<String> {
    let uri: http::Uri = url.parse().with_context(|| format!("`{url}` is not an address"))?;
    if uri.scheme_str() != Some("http") {
        bail!(
            "`{url}`: the admin address is plain http on loopback, such as http://127.0.0.1:15000"
        );
    }
    let authority = uri.authority().with_context(|| format!("`{url}` names no host"))?;
    Ok(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)))
}

enum Found {
    Decision(Value),
    /// At least one proxy answered, and none knows it.
    Nothing(String),
    /// No proxy answered.
    NoProxy(String),
}

async fn ask(args: &WhyArgs, targets: &[String]) -> Found {
    let mut nothing = None;
    let mut unreachable = None;
    let mut newest: Option<(String, Value)> = None;
    for target in targets {
        let found = match &args.id {
            Some(id) => explain(target, id).await,
            None => last_denied(target).await,
        };
        match found {
            Ok(Ok(decision)) if args.id.is_some() => return Found::Decision(decision),
            Ok(Ok(decision)) => {
                let at = decision["ts"].as_str().unwrap_or_default().to_owned();
                if newest.as_ref().is_none_or(|(best, _)| *best < at) {
                    newest = Some((at, decision));
                }
            }
            Ok(Err(why)) => nothing = Some(why),
            Err(error) => unreachable = Some(format!("{error:#}")),
        }
    }
    match (newest, nothing, unreachable) {
        (Some((_, decision)), _, _) => Found::Decision(decision),
        (None, Some(why), _) => Found::Nothing(why),
        (None, None, why) => Found::NoProxy(why.unwrap_or_else(|| "no proxy was named".to_owned())),
    }
}

/// The explanation of a decision, or why this proxy has none.
async fn explain(target: &str, id: &str) -> anyhow::Result<Result<Value, String>> {
    let (status, body) = get(target, &format!("/api/v1/why/{id}")).await?;
    let why = || body["error"].as_str().unwrap_or("the proxy gave no reason").to_owned();
    match status {
        StatusCode::OK => Ok(Ok(body)),
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Ok(Err(format!("{target}: {}", why()))),
        other => bail!("{target}: {other}: {}", why()),
    }
}

async fn last_denied(target: &str) -> anyhow::Result<Result<Value, String>> {
    let (_, body) = get(target, "/api/v1/decisions?verdict=deny&limit=1").await?;
    match body["decisions"][0]["id"].as_str() {
        Some(id) => explain(target, id).await,
        None => Ok(Err(format!("{target}: nothing was refused yet"))),
    }
}

async fn get(target: &str, path: &str) -> anyhow::Result<(StatusCode, Value)> {
    let answer = tokio::time::timeout(ANSWER_MAX, request(target, path)).await;
    answer.with_context(|| format!("{target} did not answer within {} s", ANSWER_MAX.as_secs()))?
}

async fn request(target: &str, path: &str) -> anyhow::Result<(StatusCode, Value)> {
    let stream = TcpStream::connect(target).await.with_context(|| {
        format!(
            "could not reach the admin address {target}; is the proxy running, and is this its pod?"
        )
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get(path).header(http::header::HOST, target);
    let request = request.body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{target}: {error}"))?.to_bytes();
        let body = serde_json::from_slice(&body)
            .with_context(|| format!("{target} is not the admin address of a proxy"))?;
        Ok((status, body))
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // The connection ends first when the peer closes; the answer may already be there.
        _ = connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn args(id: Option<&str>, admin: &[String]) -> WhyArgs {
        WhyArgs {
            id: id.map(str::to_owned),
            last_denied: id.is_none(),
            admin: admin.to_vec(),
            output: Output::Text,
        }
    }

    /// Answers every request with `answer(path)`.
    async fn proxy(answer: fn(&str) -> (&'static str, &'static str)) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4096];
                let read = stream.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                assert!(head.contains(&format!("host: {address}\r\n")), "{head}");
                let (status, body) = answer(head.split(' ').nth(1).unwrap());
                let length = body.len();
                let text = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\r\n{body}");
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
        address.to_string()
    }

    fn knows(path: &str) -> (&'static str, &'static str) {
        match path {
            "/api/v1/decisions?verdict=deny&limit=1" => {
                ("200", r#"{"decisions":[{"id":"01M7Y1HG7G7Q4J0M2T9S8XWE5R"}]}"#)
            }
            "/api/v1/why/01M7Y1HG7G7Q4J0M2T9S8XWE5R" => {
                ("200", r#"{"ts":"2026-11-20T22:14:03.000Z","text":"DENY 403\n"}"#)
            }
            _ => ("404", r#"{"error":"not here"}"#),
        }
    }

    fn knows_nothing(path: &str) -> (&'static str, &'static str) {
        match path.contains("decisions") {
            true => ("200", r#"{"decisions":[]}"#),
            false => ("404", r#"{"error":"this proxy does not remember that decision"}"#),
        }
    }

    #[tokio::test]
    async fn asks_each_proxy_until_one_knows() {
        let targets = [proxy(knows_nothing).await, proxy(knows).await];
        for id in [Some("01M7Y1HG7G7Q4J0M2T9S8XWE5R"), None] {
            let found = ask(&args(id, &[]), &targets).await;
            assert!(matches!(found, Found::Decision(decision) if decision["text"] == "DENY 403\n"));
        }
    }

    #[tokio::test]
    async fn tells_unknown_from_unreachable() {
        let id = "01M7Y1HG7G7Q4J0M2T9S8XWE5R";
        let nobody = "127.0.0.1:1".to_owned();
        let found = ask(&args(Some(id), &[]), &[proxy(knows_nothing).await, nobody.clone()]).await;
        assert!(matches!(found, Found::Nothing(why) if why.contains("does not remember")));
        let found = ask(&args(None, &[]), &[proxy(knows_nothing).await]).await;
        assert!(matches!(found, Found::Nothing(why) if why.contains("nothing was refused yet")));
        let found = ask(&args(Some(id), &[]), &[nobody]).await;
        assert!(matches!(found, Found::NoProxy(why) if why.contains("could not reach")));
    }

    #[test]
    fn refuses_what_is_no_id_and_no_address() {
        let admin = ["http://127.0.0.1:15000".to_owned()];
        assert!(targets(&args(Some("7q2mx1"), &admin)).is_err());
        assert!(targets(&args(Some("../../etc/passwd/0000000000"), &admin)).is_err());
        assert!(targets(&args(None, &["https://127.0.0.1:15000".to_owned()])).is_err());
        assert!(targets(&args(None, &["127.0.0.1:15000".to_owned()])).is_err());
        assert_eq!(targets(&args(None, &admin)).unwrap(), ["127.0.0.1:15000"]);
    }
}
