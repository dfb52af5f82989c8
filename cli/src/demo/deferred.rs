//! The lines about queued work. The demo plays the queue, and the worker that takes a message up.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::attacker::Stolen;
use super::mesh::{Mesh, Message};
use super::service::digest;
use super::story::Decided;
use super::table::Line;
use super::{ask, ports};

/// `context.ttl` of the demo's mesh, and what verifiers forgive on top.
const TOKEN_ENDED: Duration = Duration::from_secs(6);

/// alice's request becomes a message; a thief reads the queue.
pub(super) async fn put_aside(mesh: &mut Mesh) -> anyhow::Result<Line> {
    let answer = mesh.as_user(&mesh.alice, "/v1/users/alice/later", &[]).await?;
    let told = answer.json();
    let text = |name: &str| {
        let text = told[name].as_str().map(str::to_owned);
        text.with_context(|| format!("orders put nothing aside: {} {told}", answer.status))
    };
    let (grant, message) = (text("grant")?, text("message")?);
    let stolen = Stolen { token: grant.clone(), hops: None };
    mesh.message = Some(Message { text: message, grant, at: Instant::now() });
    let url = "http://orders.shop/v1/users/alice/orders";
    let used = mesh.thief.call(mesh.side_orders(), url, Some(&stolen)).await?;
    let decided = Decided::of(mesh, &used).await?;
    Ok(Line {
        tried: "orders puts alice's request into a queue; demo/thief reads it and uses the grant as a token",
        expected: "202 put aside; 400 token_malformed",
        happened: format!("{} put aside; {}", answer.status.as_u16(), decided.verdict(&used)),
        decided_by: decided.by(),
        id: decided.id,
        notes: Vec::new(),
    })
}

/// billing takes the message up, long after alice's token has ended.
pub(super) async fn taken_up(mesh: &mut Mesh) -> anyhow::Result<Line> {
    let message = mesh.message.take().context("there is no message")?;
    tokio::time::sleep(TOKEN_ENDED.saturating_sub(message.at.elapsed())).await;
    let local = mesh.ports.at(ports::BILLING + 5);
    let body = json!({"grant": message.grant, "digest": digest(&message.text)});
    let resumed = ask::post(local, "/v1/resume", &[("countersign-local", "1")], &body).await?;
    let told = resumed.json();
    let handle = told["context"].as_str().with_context(|| format!("not taken up: {told}"))?;
    let fields = [("host", "orders.shop"), ("countersign-context", handle)];
    let onward = mesh.ports.at(ports::BILLING + 2);
    let answer = ask::get(onward, "/v1/users/alice/orders", &fields).await?;
    let seen = answer.json();
    let header = |name: &str| seen["headers"][name].as_str().unwrap_or("nobody").to_owned();
    let decided = Decided::of(mesh, &answer).await?;
    let (user, origin) = (header("countersign-user"), header("countersign-origin"));
    let acts: Value = decided.record["entry"].clone();
    Ok(Line {
        tried: "after alice's token has ended, billing takes the message up and calls orders for her",
        expected: "200 allowed, for alice, async",
        happened: format!("{}, for {user}, {origin}", decided.verdict(&answer)),
        decided_by: decided.by(),
        id: decided.id,
        notes: vec![format!("who acts, in the record: {}", acts.as_str().unwrap_or("-"))],
    })
}
