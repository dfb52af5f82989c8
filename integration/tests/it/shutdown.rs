//! The end of a process: what has begun is finished, what comes later is turned away.

use std::time::Duration;

use countersign_integration::app::status;
use countersign_integration::client::{Call, Conn};
use countersign_integration::{App, Lab, documents, tls, wait};
use rustix::process::Signal;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

const HOST: &str = "orders.shop";
const OPEN: usize = 40;

/// Requests of all kinds are at the app when SIGTERM comes; each is answered.
#[tokio::test]
async fn drain_finishes_what_has_begun() {
    let lab = Lab::new();
    let (release, held) = watch::channel(false);
    let app = App::serving(move |_| {
        let mut held = held.clone();
        Box::pin(async move {
            let _ = held.wait_for(|released| *released).await;
            status(204)
        })
    });
    let orders = lab.orders(&app, |spec| spec).await;
    let mut all = JoinSet::new();
    let Conn::H2(shared) = lab.peer(&orders, lab.gateway.leaf()).await else { panic!("HTTP/2") };
    for number in 0..OPEN {
        let mut conn = if number % 2 == 0 {
            Conn::H2(shared.clone())
        } else {
            let config = tls::client(Some(lab.gateway.leaf()), &[tls::MESH_HTTP1]);
            Conn::tls(orders.inbound(), config).await.unwrap()
        };
        all.spawn(async move { conn.send(Call::get(HOST, "/")).await.map(|reply| reply.status) });
    }
    wait::until_true("all requests at the app", || app.seen().len() == OPEN).await;
    orders.process.terminate();
    let (_, ready) = wait::until("readiness to say so", async || {
        orders.ready().await.filter(|(status, _)| *status == 503)
    })
    .await;
    assert_eq!(ready["state"], "stopping", "{ready}");
    wait::until("the listener to close", async || {
        tokio::net::TcpStream::connect(orders.inbound()).await.is_err().then_some(())
    })
    .await;
    assert!(orders.process.exit_status().is_none(), "requests are open");
    release.send(true).unwrap();
    for outcome in all.join_all().await {
        assert_eq!(outcome.unwrap(), 204);
    }
    assert_eq!(orders.process.ended().await.code(), Some(0));
    // Connections that only asked whether the listener is still there are on record, too.
    let peers = orders.decisions().iter().filter(|record| record["peer"]["id"].is_string()).count();
    assert_eq!(peers, OPEN);
    let stopped =
        |record: &serde_json::Value| record["kind"] == "control" && record["new"] == "stopped";
    assert!(orders.audit().iter().any(stopped), "{:?}", orders.audit().last());
}

/// What does not end by itself is cut when the drain time is over.
#[tokio::test]
async fn drain_ends_although_a_request_does_not() {
    let lab = Lab::new();
    let app = App::serving(|_| Box::pin(std::future::pending()));
    let orders = lab.orders(&app, |spec| spec.limit("DRAIN_MS_MAX", 200)).await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    let open = tokio::spawn(async move { peer.send(Call::get(HOST, "/")).await });
    wait::until_true("the request at the app", || !app.seen().is_empty()).await;
    orders.process.terminate();
    assert_eq!(orders.process.ended().await.code(), Some(0));
    // The refusal may or may not get out before the connection ends.
    if let Ok(reply) = open.await.unwrap() {
        assert_eq!(reply.status, 503, "{}", reply.text());
    }
}

/// Under load from clients that reconnect, nobody meets an error but a closed door.
#[tokio::test]
async fn drain_under_load_loses_no_request() {
    let lab = Lab::new();
    let app = App::serving(|_| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            status(204)
        })
    });
    let orders = lab.orders(&app, |spec| spec).await;
    let mut all = JoinSet::new();
    for _ in 0..8 {
        let config = tls::client(Some(lab.gateway.leaf()), &[tls::MESH_H2]);
        let address = orders.inbound();
        all.spawn(async move {
            let mut answered = 0;
            let mut lost = Vec::new();
            // A connection that was refused is the closed door; one that was opened serves.
            while let Ok(mut conn) = Conn::tls(address, config.clone()).await {
                for _ in 0..10 {
                    match conn.send(Call::get(HOST, "/")).await {
                        Ok(reply) => {
                            assert_eq!(reply.status, 204);
                            answered += 1;
                        }
                        Err(error) if was_not_sent(&error) => break,
                        Err(error) => lost.push(format!("{error:#}")),
                    }
                }
            }
            (answered, lost)
        });
    }
    wait::until_true("some load", || app.seen().len() > 200).await;
    orders.process.terminate();
    let mut answered = 0;
    for (count, lost) in all.join_all().await {
        assert!(lost.is_empty(), "{lost:?}");
        answered += count;
    }
    assert_eq!(orders.process.ended().await.code(), Some(0));
    assert_eq!(orders.decisions().len(), answered);
    assert_eq!(app.seen().len(), answered);
}

/// Under `audit: full` the record is on the disk before the app gets the request, so not even a
/// crash loses it; the next start says that the one before did not end in order.
#[tokio::test]
async fn attack_crashes_proxy_to_lose_a_record() {
    let lab = Lab::new();
    let app = App::serving(|_| Box::pin(std::future::pending()));
    let rules = json!([{"name": "vault", "effect": "allow", "context": "none",
        "match": {"caller": {"anyInMesh": true}}, "obligations": {"audit": "full"}}]);
    let mesh = lab.write("mesh.yaml", &lab.mesh().document());
    let access = lab.write("access.yaml", &documents::access("shop", rules));
    let spec = lab.proxy("shop", "orders").inbound(app.address).documents(&[&mesh, &access]);
    let orders = spec.clone().start().await;
    let mut peer = lab.peer(&orders, lab.gateway.leaf()).await;
    let open = tokio::spawn(async move { peer.send(Call::get(HOST, "/secret")).await });
    wait::until_true("the request at the app", || !app.seen().is_empty()).await;
    orders.process.signal(Signal::KILL);
    orders.process.ended().await;
    assert!(open.await.unwrap().is_err());
    let id = app.last().header("countersign-decision").unwrap().to_owned();
    let record = orders.record(&id).await;
    assert_eq!((&record["decision"], &record["rule"]), (&json!("allow"), &json!("vault")));
    assert_eq!(record["req"]["path"], "/secret", "{record}");

    let again = spec.start().await;
    let gap = |record: &serde_json::Value| {
        record["kind"] == "gap" && record["why"] == "previous_process_not_stopped"
    };
    wait::until_true("the gap", || again.audit().iter().any(gap)).await;
}

/// GOAWAY said so before the request was taken: it can be sent elsewhere.
fn was_not_sent(error: &anyhow::Error) -> bool {
    let Some(error) = error.downcast_ref::<hyper::Error>() else { return false };
    error.is_canceled() || error.is_closed() || {
        use std::error::Error as _;
        let h2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
        h2.is_some_and(|error| {
            error.reason() == Some(h2::Reason::REFUSED_STREAM)
                || (error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR))
        })
    }
}
