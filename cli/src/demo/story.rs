//! The lines: each makes its requests for real and reads from the proxies what decided.

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::ask::Answer;
use super::deferred;
use super::load;
use super::mesh::Mesh;
use super::proxies::{self, Proxy};
use super::table::Line;

const ALICES_ORDERS: &str = "/v1/users/alice/orders";
const REMOVED: &str = "countersign_reserved_headers_removed_total";

/// How many lines the story has.
pub(super) const LINES: usize = 11;

/// Line `number`, from 1.
pub(super) async fn line(number: usize, mesh: &mut Mesh) -> anyhow::Result<Line> {
    match number {
        1 => allowed(mesh).await,
        2 => no_token(mesh).await,
        3 => forged_header(mesh).await,
        4 => stolen_token(mesh).await,
        5 => stolen_at_depth(mesh).await,
        6 => plaintext(mesh).await,
        7 => unnamed_caller(mesh).await,
        8 => outside_the_window(mesh).await,
        9 => deferred::put_aside(mesh).await,
        10 => rotation_under_load(mesh).await,
        _ => deferred::taken_up(mesh).await,
    }
}

async fn allowed(mesh: &Mesh) -> anyhow::Result<Line> {
    let answer = mesh.as_user(&mesh.alice, ALICES_ORDERS, &[]).await?;
    let decided = Decided::of(mesh, &answer).await?;
    let body = answer.json();
    let headers = body["billing"]["headers"].as_object().cloned().unwrap_or_default();
    let mut notes = vec!["what the app billing saw, verified by its sidecar:".to_owned()];
    notes.extend(headers.iter().map(|(name, value)| {
        format!("  {}: {}", train_case(name), value.as_str().unwrap_or_default())
    }));
    let mut rules = Vec::new();
    if let Some(txn) = headers.get("countersign-txn").and_then(Value::as_str) {
        let [_, orders, billing] = &mesh.proxies;
        for proxy in [orders, billing] {
            rules.push(rule(proxy, &proxies::of_transaction(proxy, txn).await?));
        }
    }
    let user = headers.get("countersign-user").and_then(Value::as_str).unwrap_or("nobody");
    Ok(Line {
        tried: "alice reads her orders: gateway, orders, billing",
        expected: "200 allowed, for alice",
        happened: format!("{}, for {user}", decided.verdict(&answer)),
        decided_by: rules.join("; "),
        id: decided.id,
        notes,
    })
}

async fn no_token(mesh: &Mesh) -> anyhow::Result<Line> {
    let answer = super::ask::get(mesh.gateway(), ALICES_ORDERS, &[]).await?;
    let decided = Decided::of(mesh, &answer).await?;
    Ok(Line {
        tried: "the same without a token",
        expected: "401 user_token_missing",
        happened: decided.verdict(&answer),
        decided_by: decided.by(),
        id: decided.id,
        notes: Vec::new(),
    })
}

async fn forged_header(mesh: &Mesh) -> anyhow::Result<Line> {
    let [gateway, ..] = &mesh.proxies;
    let before = gateway.counter(REMOVED, "").await?;
    let forged = [("countersign-user", "alice")];
    let answer = mesh.as_user(&mesh.mallory, ALICES_ORDERS, &forged).await?;
    let removed = gateway.counter(REMOVED, "").await?.saturating_sub(before);
    let decided = Decided::of(mesh, &answer).await?;
    let user = decided.record["user"]["acct"].as_str().unwrap_or("nobody");
    let header = if removed == 1 { "header removed" } else { "header NOT removed" };
    Ok(Line {
        tried: "mallory, logged in as herself, forges Countersign-User: alice",
        expected: "header removed, as mallory: 403 policy_denied/no_match",
        happened: format!("{header}, as {user}: {}", decided.verdict(&answer)),
        decided_by: decided.by(),
        id: decided.id,
        notes: Vec::new(),
    })
}

async fn stolen_token(mesh: &mut Mesh) -> anyhow::Result<Line> {
    let sent = mesh.as_user(&mesh.alice, "/v1/leaky/offers", &[]).await?;
    anyhow::ensure!(sent.status.is_success(), "the gateway did not reach demo/leaky: {sent:?}");
    let token = mesh.leaky.leaked().await?;
    let url = format!("http://orders.shop{ALICES_ORDERS}");
    let answer = mesh.thief.call(mesh.side_orders(), &url, Some(&token)).await?;
    let decided = Decided::of(mesh, &answer).await?;
    Ok(Line {
        tried: "demo/leaky leaks a token of alice's; demo/thief replays it with its own certificate",
        expected: "401 custody_broken",
        happened: decided.verdict(&answer),
        decided_by: decided.by(),
        id: decided.id,
        notes: Vec::new(),
    })
}

async fn stolen_at_depth(mesh: &mut Mesh) -> anyhow::Result<Line> {
    let sent = mesh.as_user(&mesh.alice, "/v1/users/alice/partners", &[]).await?;
    let stolen = mesh.leaky.leaked().await.with_context(|| format!("{sent:?}"))?;
    anyhow::ensure!(stolen.hops.is_some(), "orders handed the context on without a record");
    let url = "http://billing.shop/v1/users/alice/bills";
    let answer = mesh.thief.call(mesh.side_billing(), url, Some(&stolen)).await?;
    let decided = Decided::of(mesh, &answer).await?;
    Ok(Line {
        tried: "orders hands alice's context on to demo/leaky; demo/thief replays token and hop records at billing",
        expected: "401 custody_broken",
        happened: decided.verdict(&answer),
        decided_by: decided.by(),
        id: decided.id,
        notes: Vec::new(),
    })
}

async fn plaintext(mesh: &Mesh) -> anyhow::Result<Line> {
    let before = mesh.orders_seen().await?;
    let head = raw(mesh.side_orders(), ALICES_ORDERS).await?;
    let untouched =
        if mesh.orders_seen().await? == before { "app untouched" } else { "APP REACHED" };
    let status = head.split(' ').nth(1).unwrap_or("no answer").to_owned();
    let id = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("countersign-decision").then(|| value.trim().to_owned())
    });
    let decided = Decided::with_id(mesh, id).await?;
    Ok(Line {
        tried: "plaintext straight to the sidecar of orders",
        expected: "403 peer_unauthenticated, app untouched",
        happened: format!("{status} {}, {untouched}", decided.reason()),
        decided_by: decided.by(),
        id: decided.id,
        notes: Vec::new(),
    })
}

async fn unnamed_caller(mesh: &Mesh) -> anyhow::Result<Line> {
    let url = format!("http://orders.shop{ALICES_ORDERS}");
    let answer = mesh.thief.call(mesh.side_orders(), &url, None).await?;
    let decided = Decided::of(mesh, &answer).await?;
    Ok(Line {
        tried: "demo/thief, whom no rule names, calls orders",
        expected: "403 policy_denied/no_match",
        happened: decided.verdict(&answer),
        decided_by: decided.by(),
        id: decided.id,
        notes: Vec::new(),
    })
}

async fn outside_the_window(mesh: &Mesh) -> anyhow::Result<Line> {
    let answer = mesh.as_user(&mesh.alice, "/v1/users/alice/exports", &[]).await?;
    let decided = Decided::of(mesh, &answer).await?;
    let time = decided.record["atoms"]["require.time"].as_str().unwrap_or("not evaluated");
    let why = match (&decided.id, decided.proxy) {
        (Some(id), Some(proxy)) => proxy.why(id).await?,
        _ => String::new(),
    };
    Ok(Line {
        tried: "alice exports her orders outside the hour for it",
        expected: "403 policy_denied/no_match, time false",
        happened: format!("{}, time {time}", decided.verdict(&answer)),
        decided_by: decided.by(),
        id: decided.id,
        notes: vec![format!("countersign why:\n{why}")],
    })
}

async fn rotation_under_load(mesh: &Mesh) -> anyhow::Result<Line> {
    let outcome = load::run(mesh, ALICES_ORDERS).await?;
    Ok(Line {
        tried: "certificates rotate under load, every two seconds",
        expected: "no request failed, all rotated",
        happened: outcome.text(),
        decided_by: "metrics of all three proxies".to_owned(),
        id: None,
        notes: vec![outcome.numbers()],
    })
}

/// What a proxy wrote about a decision.
pub(super) struct Decided<'m> {
    pub(super) id: Option<String>,
    proxy: Option<&'m Proxy>,
    pub(super) record: Value,
}

impl Decided<'_> {
    pub(super) async fn of<'m>(mesh: &'m Mesh, answer: &Answer) -> anyhow::Result<Decided<'m>> {
        Decided::with_id(mesh, answer.decision()).await
    }

    async fn with_id(mesh: &Mesh, id: Option<String>) -> anyhow::Result<Decided<'_>> {
        let Some(id) = id else {
            return Ok(Decided { id: None, proxy: None, record: Value::Null });
        };
        let (proxy, record) = proxies::record(&mesh.proxies, &id).await?;
        Ok(Decided { id: Some(id), proxy: Some(proxy), record })
    }

    fn reason(&self) -> &str {
        match self.record["decision"].as_str() {
            Some("allow") => "allowed",
            _ => self.record["reason"].as_str().unwrap_or("without a record"),
        }
    }

    /// Status and reason.
    pub(super) fn verdict(&self, answer: &Answer) -> String {
        format!("{} {}", answer.status.as_u16(), self.reason())
    }

    /// The proxy, and the rule or the stage.
    pub(super) fn by(&self) -> String {
        let Some(proxy) = self.proxy else { return "nobody".to_owned() };
        if self.record["rule"].is_string() {
            return rule(proxy, &self.record);
        }
        let stage = self.record["stage"].as_str().unwrap_or("unknown");
        match self.reason().starts_with("policy_denied") {
            true => format!("{}: no rule matches", proxy.name),
            false => format!("{}: stage {stage}", proxy.name),
        }
    }
}

/// The rule of a record; for a denial the closest one, with what was not true of it.
fn rule(proxy: &Proxy, record: &Value) -> String {
    let text = |field: &str| record[field].as_str().unwrap_or("-").to_owned();
    let rule = format!("{}/{}", text("policy"), text("rule"));
    if text("decision") == "allow" {
        return format!("{}: rule {rule}", proxy.name);
    }
    let atoms: Vec<_> = record["atoms"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(atom, value)| format!("{atom} {}", value.as_str().unwrap_or_default()))
        .collect();
    format!("{}: no rule matches; closest {rule}: {}", proxy.name, atoms.join(", "))
}

/// Sends a plaintext request and returns the head of the answer.
async fn raw(address: std::net::SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: orders.shop\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut stream = stream.take(64 * 1024);
    let read = stream.read_to_end(&mut answer);
    let read = tokio::time::timeout(std::time::Duration::from_secs(5), read).await;
    read.context("the sidecar did not close the connection")??;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    Ok(answer.split("\r\n\r\n").next().unwrap_or_default().to_owned())
}

/// `countersign-user` as people write it.
fn train_case(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let mut chars = word.chars();
        let first = chars.next().map(|char| char.to_ascii_uppercase());
        first.into_iter().chain(chars).collect::<String>()
    });
    words.collect::<Vec<_>>().join("-")
}
