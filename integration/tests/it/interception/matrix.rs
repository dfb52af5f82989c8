//! Every protocol, over IPv4 and IPv6, REDIRECT and TPROXY, with a capture between the pods.
//!
//! One pod has the clients, the other the servers; both have sidecars and know nothing of them. A
//! world per mode serves both families, and a failure names mode, family and protocol.

mod opaque;
mod stage;
mod web;

use std::panic::AssertUnwindSafe;

use countersign_integration::netns::{Family, Mode};
use futures_util::FutureExt as _;
use serde_json::{Value, json};

use stage::{Stage, ports};

#[tokio::test]
async fn every_protocol_through_redirect() {
    every_protocol("every_protocol_through_redirect", Mode::Redirect).await;
}

#[tokio::test]
async fn every_protocol_through_tproxy() {
    every_protocol("every_protocol_through_tproxy", Mode::Tproxy).await;
}

/// Runs each of these functions and gives the names of those that failed.
macro_rules! failures {
    ($stage:expr, $family:expr, [$($module:ident :: $case:ident),* $(,)?]) => {{
        let mut failed = Vec::new();
        $(
            let case = AssertUnwindSafe($module::$case($stage, $family));
            if case.catch_unwind().await.is_err() {
                failed.push(format!("{:?} {}", $family, stringify!($case)));
            }
        )*
        failed
    }};
}

async fn every_protocol(test: &str, mode: Mode) {
    let Some(mut stage) = Stage::new(test, mode).await else { return };
    let capture = stage.net.capture(stage.lab.folder()).await;
    stage.start_sidecars().await;
    let mut failed = Vec::new();
    for family in Family::BOTH {
        let stage = &stage;
        failed.extend(failures!(
            stage,
            family,
            [
                web::http10,
                web::http11_keep_alive,
                web::http11_pipelining,
                web::http11_chunked,
                web::http11_expect_continue,
                web::http11_absolute_form,
                web::http2,
                web::grpc,
                web::websocket,
                web::connect,
                web::server_sent_events,
                web::large_bodies,
                web::slow_download_holds_the_server_back,
                web::slow_upload_holds_the_client_back,
                web::whom_the_app_sees,
                opaque::tls_of_the_app,
                opaque::postgresql,
                opaque::mariadb,
                opaque::redis,
                opaque::smtp,
                opaque::nats,
                opaque::a_port_without_a_rule_is_closed,
            ]
        ));
    }
    let report = capture.stop(&[&stage.client, &stage.server]).await;
    assert!(failed.is_empty(), "{mode:?}: these protocols failed: {failed:#?}");
    report.assert_only_mesh_tls();
    for family in Family::BOTH {
        for port in ports::ALL {
            let to = stage.server.at(family, port);
            assert!(report.to.contains_key(&to), "nothing was seen to cross to {to}: {report:?}");
        }
    }
    assert_eq!(stage.net.sunk().tcp, 0, "every connection was captured");
    let caller = stage.lab.id("shop", "client");
    let records = stage.sidecars[1].decisions();
    for port in ports::OPAQUE {
        let mine = |record: &&Value| record["req"] == json!({"proto": "tcp", "port": port});
        let mine: Vec<_> = records.iter().filter(mine).collect();
        let expected = if port == ports::CLOSED { "deny" } else { "allow" };
        assert!(mine.len() >= 2, "port {port}: {mine:?}");
        for record in mine {
            assert_eq!(record["decision"], expected, "{record}");
            assert_eq!(record["peer"]["id"], caller.as_str(), "{record}");
        }
    }
}
