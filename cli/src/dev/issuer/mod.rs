//! `countersign dev issuer`: a small OpenID issuer for laptops and tests: discovery, keys that
//! rotate, and tokens for named users without any password.
//! Invariant: it listens on loopback only and refuses to run inside Kubernetes, because whoever
//! reaches it can be any of its users.

mod answer;
mod keys;
mod users;

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub use answer::{Answer, DEV_GRANT, Issuer};
pub use keys::{Algorithm, KeyRing};
pub use users::User;

/// Where the issuer listens and `dev token` asks unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:15090";
/// A token request.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// Keys verifiers take in one set.
const KEYS_MAX: u64 = 64;
/// Time a client has for the head of a request.
const HEAD_MS_MAX: u64 = 5_000;

/// Arguments of `countersign dev issuer`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    countersign dev issuer --user alice --user mallory --audience https://api.example.com\n  \
    countersign dev issuer --user 'ann:uid=7,groups=support,groups=sre-oncall,tenant=acme'\n  \
    countersign dev token --user alice\n\n\
    A user is NAME[:CLAIM=VALUE[,CLAIM=VALUE]...]. `uid` is the name unless written; a claim \
    written twice, and `groups` always, is a list; CLAIM:=JSON writes numbers and the like.")]
pub struct IssuerArgs {
    /// Loopback address and port; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS", default_value = DEFAULT_LISTEN)]
    listen: SocketAddr,
    /// A user who can log in; may be repeated
    #[arg(long = "user", value_name = "NAME[:CLAIM=VALUE,...]", required = true)]
    users: Vec<User>,
    /// An audience tokens may be for; may be repeated, the first is the default
    #[arg(long = "audience", value_name = "URL", default_value = "https://localhost:8443")]
    audiences: Vec<String>,
    /// Time between key rotations
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    rotate: Duration,
    /// Longest life of a token, and the usual one
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    token_ttl: Duration,
    /// Signature algorithm
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    alg: Algorithm,
    /// Write the addresses as JSON to this file once the issuer answers
    #[arg(long, value_name = "FILE")]
    write_info: Option<PathBuf>,
}

/// What an issuer is made of; the arguments, checked.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// Users who can log in.
    pub users: Vec<User>,
    /// Audiences tokens may be for; the first is the default.
    pub audiences: Vec<String>,
    /// Time between key rotations.
    pub rotate: Duration,
    /// Longest life of a token.
    pub token_ttl: Duration,
    /// Signature algorithm.
    pub algorithm: Algorithm,
}

/// Runs the issuer until it is interrupted.
///
/// # Errors
/// When it cannot listen, or runs where it must not.
pub fn run(args: IssuerArgs) -> anyhow::Result<ExitCode> {
    super::refuse_in_kubernetes("countersign dev issuer")?;
    let config = IssuerConfig {
        users: args.users,
        audiences: args.audiences,
        rotate: args.rotate,
        token_ttl: args.token_ttl,
        algorithm: args.alg,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (listener, issuer) = bind(args.listen, config).await?;
        announce(&issuer);
        println!("{}", issuer.issuer());
        std::io::stdout().flush()?;
        if let Some(file) = &args.write_info {
            write_info(file, &issuer)?;
        }
        let stop = CancellationToken::new();
        tokio::select! {
            outcome = serve(listener, issuer, stop) => outcome?,
            outcome = interrupted() => outcome?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Binds a loopback address and makes the issuer that belongs to it.
///
/// # Errors
/// When the address is not loopback or taken, or the configuration makes no sense.
pub async fn bind(
    listen: SocketAddr,
    config: IssuerConfig,
) -> anyhow::Result<(TcpListener, Arc<Issuer>)> {
    anyhow::ensure!(
        listen.ip().is_loopback(),
        "{listen} is not a loopback address: whoever reaches this issuer can be any of its users"
    );
    let rotate_s = config.rotate.as_secs().max(1);
    let token_ttl_s = config.token_ttl.as_secs().max(1);
    anyhow::ensure!(
        (token_ttl_s + 60) / rotate_s + 3 <= KEYS_MAX,
        "rotating every {rotate_s} s while tokens live {token_ttl_s} s would publish more than \
         {KEYS_MAX} keys; rotate less often or shorten --token-ttl"
    );
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("could not listen on {listen}"))?;
    let issuer = Issuer {
        base: format!("http://{}", listener.local_addr()?),
        audiences: config.audiences,
        users: config.users,
        token_ttl_s,
        keys: Mutex::new(KeyRing::new(config.algorithm, rotate_s, now_s())?),
    };
    Ok((listener, Arc::new(issuer)))
}

/// Answers requests and rotates keys until `stop`.
///
/// # Errors
/// When a key cannot be generated or the listener fails.
pub async fn serve(
    listener: TcpListener,
    issuer: Arc<Issuer>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {
                if let Some(kid) = issuer.advance(now_s())? {
                    eprintln!("dev issuer: signing with key {kid} from now on");
                }
            }
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let (issuer, stop) = (issuer.clone(), stop.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = connection(stream, issuer) => {}
                    }
                });
            }
        }
    }
}

/// Serves one connection; a client that breaks off is nobody's problem here.
async fn connection(stream: TcpStream, issuer: Arc<Issuer>) {
    let answer = |request| respond(request, issuer.clone());
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(HEAD_MS_MAX))
        .serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer))
        .await;
}

async fn respond(
    request: Request<Incoming>,
    issuer: Arc<Issuer>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let (status, body) = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => issuer.answer(&head.method, head.uri.path(), &body.to_bytes(), now_s()),
        Err(_) => (http::StatusCode::BAD_REQUEST, serde_json::json!({"error": "invalid_request"})),
    };
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    let no_store = header::HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    Ok(response)
}

fn announce(issuer: &Issuer) {
    let users: Vec<&str> = issuer.users.iter().map(|user| user.name.as_str()).collect();
    eprintln!("*** DEVELOPMENT ISSUER: NOT FOR PRODUCTION ***");
    eprintln!("*** whoever reaches {} can be: {}", issuer.issuer(), users.join(", "));
    eprintln!("*** no passwords; keys live in memory and end with this process");
}

/// Writes the file in one step, so that whoever waits for it never reads half of it.
fn write_info(file: &Path, issuer: &Issuer) -> anyhow::Result<()> {
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let failed = || format!("could not write {}", file.display());
    let mut written = tempfile::NamedTempFile::new_in(folder).with_context(failed)?;
    writeln!(written, "{:#}", issuer.info()).with_context(failed)?;
    written.persist(file).with_context(failed)?;
    Ok(())
}

async fn interrupted() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => Ok(outcome?),
        _ = terminate.recv() => Ok(()),
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A time such as `90s`, `10m` or `1h30m`.
pub(super) fn duration(text: &str) -> anyhow::Result<Duration> {
    let parsed: jiff::SignedDuration = text
        .parse()
        .map_err(|_| anyhow::anyhow!("`{text}` is not a time such as 90s, 10m or 1h"))?;
    Duration::try_from(parsed).map_err(|_| anyhow::anyhow!("`{text}` is negative"))
}

#[cfg(test)]
mod tests;
