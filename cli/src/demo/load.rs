//! Load through the gateway while certificates rotate, and what came of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::ask;
use super::mesh::Mesh;

/// How long load runs; a workload gets a new certificate every two seconds of it.
const LOAD: Duration = Duration::from_secs(6);
const CONNECTIONS: usize = 4;
/// Pause of a connection between two requests.
const PAUSE: Duration = Duration::from_millis(4);
const RENEWALS: &str = "countersign_identity_renewals_total";
/// Rotations every proxy must have seen meanwhile.
const ROTATIONS_MIN: u64 = 2;

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Requests sent.
    pub(super) requests: u64,
    /// Those not answered with 200, and why the first one was not.
    pub(super) failures: (u64, Option<String>),
    /// Certificates each proxy took over meanwhile.
    pub(super) rotations: Vec<(&'static str, u64)>,
}

impl Outcome {
    /// In the words of the table.
    pub(super) fn text(&self) -> String {
        let rotated = self.rotations.iter().all(|(_, count)| *count >= ROTATIONS_MIN);
        match (&self.failures, rotated) {
            ((0, _), true) => "no request failed, all rotated".to_owned(),
            ((0, _), false) => "no request failed, not all rotated".to_owned(),
            ((count, _), _) => format!("{count} of {} requests failed", self.requests),
        }
    }

    /// The numbers.
    pub(super) fn numbers(&self) -> String {
        let rotations: Vec<_> =
            self.rotations.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let why = self.failures.1.as_deref().map(|why| format!("; first failure: {why}"));
        format!(
            "{} requests in {} s, {} failures; certificates taken over meanwhile: {}{}",
            self.requests,
            LOAD.as_secs(),
            self.failures.0,
            rotations.join(", "),
            why.unwrap_or_default()
        )
    }
}

/// Sends alice's request again and again and counts rotations by the proxies' own metric.
pub(super) async fn run(mesh: &Mesh, path: &str) -> anyhow::Result<Outcome> {
    let before = renewals(mesh).await?;
    let end = Instant::now() + LOAD;
    let loops: Vec<_> = (0..CONNECTIONS)
        .map(|_| tokio::spawn(one(mesh.gateway(), path.to_owned(), mesh.alice.clone(), end)))
        .collect();
    let mut outcome = Outcome { requests: 0, failures: (0, None), rotations: Vec::new() };
    for one in loops {
        let (requests, failed) = one.await?;
        outcome.requests += requests;
        outcome.failures.0 += u64::try_from(failed.len())?;
        outcome.failures.1 = outcome.failures.1.or(failed.into_iter().next());
    }
    let after = renewals(mesh).await?;
    let counts = after.into_iter().zip(before);
    let rotations = mesh.proxies.iter().zip(counts);
    outcome.rotations = rotations
        .map(|(proxy, (after, before))| (proxy.name, after.saturating_sub(before)))
        .collect();
    Ok(outcome)
}

async fn renewals(mesh: &Mesh) -> anyhow::Result<Vec<u64>> {
    let mut counts = Vec::new();
    for proxy in &mesh.proxies {
        counts.push(proxy.counter(RENEWALS, "result=\"ok\"").await?);
    }
    Ok(counts)
}

/// One connection's requests and failures.
async fn one(gateway: SocketAddr, path: String, token: String, end: Instant) -> (u64, Vec<String>) {
    let bearer = format!("Bearer {token}");
    let (mut requests, mut failures, mut open) = (0, Vec::new(), None);
    while Instant::now() < end {
        let request = ask::request(gateway, &path, &[("authorization", &bearer)]);
        let outcome = match request {
            Ok(request) => exchange(gateway, &mut open, request).await,
            Err(error) => Err(error),
        };
        requests += 1;
        failures.extend(outcome.err().map(|error| format!("{error:#}")));
        tokio::time::sleep(PAUSE).await;
    }
    (requests, failures)
}

async fn exchange(
    gateway: SocketAddr,
    open: &mut Option<SendRequest<Empty<Bytes>>>,
    request: Request<Empty<Bytes>>,
) -> anyhow::Result<()> {
    // A connection that was closed between two requests is simply opened again.
    let mut sender = match open.take() {
        Some(sender) if !sender.is_closed() => sender,
        _ => connect(gateway).await?,
    };
    sender.ready().await?;
    let answer = ask::read(sender.send_request(request).await?).await?;
    *open = Some(sender);
    let body = String::from_utf8_lossy(&answer.body);
    anyhow::ensure!(answer.status == StatusCode::OK, "{}: {}", answer.status, body.trim());
    Ok(())
}

async fn connect(gateway: SocketAddr) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let (sender, connection) = handshake(TokioIo::new(TcpStream::connect(gateway).await?)).await?;
    tokio::spawn(connection);
    Ok(sender)
}
