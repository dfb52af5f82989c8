//! `countersign demo-service`: the app beside a sidecar. It knows nothing of mTLS, tokens or policy.
//!
//! It answers with the `Countersign-*` headers its sidecar gave it. With `--onward` it calls the
//! second service through its sidecar, and all it does for the context is to send the one header
//! `Countersign-Context` on.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::ask;

/// Where a service says how many requests it has seen; asking does not count.
pub(super) const SEEN: &str = "/_seen";
const CONTEXT: &str = "countersign-context";
/// Requests whose work is put aside.
const LATER: &str = "/later";
/// Requests that lead to a partner.
const PARTNERS: &str = "/partners";
/// Who works on messages.
const CONSUMER: &str = "spiffe://demo.test/ns/shop/sa/billing";

/// Arguments of `countersign demo-service`.
#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    /// Name in its answers
    #[arg(long)]
    name: String,
    /// Where it listens
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Outbound listener of its sidecar, through which billing is called
    #[arg(long, value_name = "ADDRESS")]
    onward: Option<SocketAddr>,
    /// Local API of its sidecar, where work for billing is put aside
    #[arg(long, value_name = "ADDRESS")]
    local: Option<SocketAddr>,
}

/// Serves until the process is ended.
pub(crate) fn run(args: ServiceArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(tokio::task::LocalSet::new().run_until(serve(Rc::new(args))))
}

async fn serve(args: Rc<ServiceArgs>) -> anyhow::Result<ExitCode> {
    let listener = TcpListener::bind(args.listen).await;
    let listener = listener.with_context(|| format!("could not listen on {}", args.listen))?;
    let seen = Rc::new(Cell::new(0_u64));
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::task::spawn_local(connection(stream, Rc::clone(&args), Rc::clone(&seen)));
    }
}

async fn connection(stream: TcpStream, args: Rc<ServiceArgs>, seen: Rc<Cell<u64>>) {
    let answer = |request: Request<Incoming>| {
        let (args, seen) = (Rc::clone(&args), Rc::clone(&seen));
        async move { Ok::<_, Infallible>(respond(&args, &seen, &request).await) }
    };
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer))
        .await;
}

async fn respond(
    args: &ServiceArgs,
    seen: &Cell<u64>,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    if request.uri().path() == SEEN {
        return answer(StatusCode::OK, &json!({"requests": seen.get()}));
    }
    seen.set(seen.get() + 1);
    let mut body = json!({
        "service": args.name,
        "path": request.uri().path(),
        "headers": countersign(request.headers()),
    });
    let Some(sidecar) = args.onward else { return answer(StatusCode::OK, &body) };
    if let (Some(local), true) = (args.local, request.uri().path().ends_with(LATER)) {
        return match put_aside(local, request).await {
            Ok(told) => answer(StatusCode::ACCEPTED, &told),
            Err(error) => answer(StatusCode::BAD_GATEWAY, &json!({"error": format!("{error:#}")})),
        };
    }
    match bills(sidecar, request).await {
        Ok(billing) if billing.status == StatusCode::OK => {
            body["billing"] = billing.json();
            answer(StatusCode::OK, &body)
        }
        Ok(billing) => {
            body["billing"] = json!({"status": billing.status.as_u16(), "body": billing.json()});
            answer(StatusCode::BAD_GATEWAY, &body)
        }
        Err(error) => {
            body["billing"] = json!({"error": format!("{error:#}")});
            answer(StatusCode::BAD_GATEWAY, &body)
        }
    }
}

/// The SHA-256 of a message, as `sha256sum` prints it.
pub(super) fn digest(message: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, message.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts the work of a request aside for billing: a message, and the grant that goes with it.
async fn put_aside(local: SocketAddr, request: &Request<Incoming>) -> anyhow::Result<Value> {
    let user = request.uri().path().split('/').nth(3).unwrap_or_default();
    let message = json!({"count the orders of": user}).to_string();
    let handle = request.headers().get(CONTEXT).context("no handle")?.to_str()?;
    let fields = [("countersign-local", "1"), (CONTEXT, handle)];
    let work = json!({"consumer": CONSUMER, "ttl": 60, "digest": digest(&message)});
    let told = ask::post(local, "/v1/defer", &fields, &work).await?;
    let told = told.json();
    let grant = told["grant"].as_str().with_context(|| format!("no grant: {told}"))?;
    Ok(json!({"message": message, "grant": grant}))
}

/// Asks billing, as this app would ask any service; or a partner, who leaks what it is sent.
async fn bills(sidecar: SocketAddr, request: &Request<Incoming>) -> anyhow::Result<ask::Answer> {
    let asked = request.uri().path();
    let user = asked.split('/').nth(3).unwrap_or_default();
    let (host, path) = match asked.ends_with(PARTNERS) {
        true => ("leaky.demo", "/offers".to_owned()),
        false => ("billing.shop", format!("/v1/users/{user}/bills")),
    };
    let mut fields = vec![("host", host)];
    if let Some(handle) = request.headers().get(CONTEXT) {
        fields.push((CONTEXT, handle.to_str()?));
    }
    ask::get(sidecar, &path, &fields).await
}

/// What the sidecar said about the request.
fn countersign(headers: &HeaderMap) -> Map<String, Value> {
    let ours = headers.iter().filter(|(name, _)| name.as_str().starts_with("countersign-"));
    ours.map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes()))))
        .collect()
}

fn answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{body:#}\n")));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
