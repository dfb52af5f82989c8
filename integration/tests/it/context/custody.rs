//! The path of a token: records, certificates, what each depth accepts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use countersign_integration::client::{self, Call, full};
use countersign_integration::outcome::{allowed, refused};
use countersign_integration::row::{certificate, record, sha256, signed, thumbprint};
use countersign_integration::token::{claims_of, header_of};
use countersign_integration::{App, Lab, Reply, Row, documents, tls, wait};
use http::{Method, Response};
use serde_json::{Value, json};

const FOUR: [&str; 4] = ["s1", "s2", "s3", "s4"];

/// A route of so many sidecars, which comes round to the first ones again.
fn route(length: usize) -> Vec<&'static str> {
    FOUR.into_iter().cycle().take(length).collect()
}

fn header(reply: &Reply, name: &str) -> String {
    reply.seen(name).unwrap_or_else(|| panic!("no {name}: {} {}", reply.status, reply.text()))
}

/// From no record to eight: the last one finds the whole way proven, whatever the protocol, and a
/// ninth record is refused where it would be made.
#[tokio::test]
async fn custody_is_proven_at_every_depth() {
    let row = Row::start(&FOUR, |_| {}, |_, spec| spec).await;
    for length in 1..=9 {
        let route = route(length);
        let reply = row.send(&route).await;
        assert_eq!(reply.status, 200, "{length}: {}", reply.text());
        assert_eq!(header(&reply, "countersign-user"), "alice");
        assert_eq!(header(&reply, "countersign-scope"), "orders.read");
        let (last, before) = route.split_last().unwrap();
        let caller = before
            .last()
            .map_or_else(|| row.lab.id("edge", "gateway"), |caller| row.lab.id("shop", caller));
        assert_eq!(header(&reply, "countersign-caller"), caller);
        for name in ["txn-token", "countersign-hops", "countersign-certs"] {
            assert_eq!(reply.seen(name), None, "{length}: the app saw {name}");
        }
        let record = row.sidecar(last).record(&header(&reply, "countersign-decision")).await;
        assert_eq!(record["custody"], true, "{record}");
        match before.is_empty() {
            true => assert_eq!(record.get("hops"), None, "{record}"),
            false => assert_eq!(record["hops"], Row::short(before), "{record}"),
        }
    }
    let reply = row.send(&route(10)).await;
    assert_eq!(reply.status, 508, "{}", reply.text());
    row.refused_amidst("s1", "hops_too_many", 1).await;
}

/// What really goes over the wire, taken apart by hand.
#[tokio::test]
async fn records_and_certificates_are_as_the_profile_says() {
    let row = Row::start(&FOUR, |_| {}, |_, spec| spec).await;
    let names = ["s1", "s2", "s3", "s4", "tap"];
    let mut gateway = row.gateway("s1").await;
    let first = gateway.send(row.call(&names)).await.unwrap();
    let token = header(&first, "txn-token");
    let sent = row.apps[0].last();
    assert_eq!(sent.header("txn-token"), None, "the app saw the token");
    let hops = header(&first, "countersign-hops");
    let records: Vec<String> = hops.split(", ").map(str::to_owned).collect();
    assert_eq!(records.len(), 4, "{hops}");
    for (at, text) in records.iter().enumerate() {
        let claims = claims_of(text);
        assert_eq!(claims["sub"], row.lab.id("shop", names[at]), "{claims}");
        assert_eq!(claims["aud"], row.lab.id("shop", names[at + 1]), "{claims}");
        assert_eq!((&claims["n"], &claims["tth"]), (&json!(at), &json!(sha256(&token))));
        let before = at.checked_sub(1).map(|before| json!(sha256(&records[before])));
        assert_eq!(claims.get("prev").cloned(), before, "{claims}");
        let kid = thumbprint(&row.leaf(names[at]));
        let header = json!({"alg": "ES256", "typ": "csign-hop+jwt", "kid": kid});
        assert_eq!(header_of(text), header, "record {at}");
    }
    // The certificate of s4 is that of the connection; the others come once.
    let certs = header(&first, "countersign-certs");
    for name in ["s1", "s2", "s3"] {
        assert!(certs.contains(&certificate(&row.leaf(name))), "{name} is not in {certs}");
    }
    assert_eq!(certs.split(", ").count(), 3, "{certs}");
    // Another token takes the same way: each of a worker's connections brings them once.
    let mut without = 0;
    for _ in 0..12 {
        let reply = gateway.send(row.call(&names)).await.unwrap();
        assert_eq!(reply.status, 200);
        without += usize::from(reply.seen("countersign-certs").is_none());
    }
    assert!(without >= 6, "{without} of 12 went without certificates");
}

/// A callee that does not know a certificate says which, before its app sees anything; with it the
/// same request passes.
#[tokio::test]
async fn a_callee_asks_for_certificates_it_lacks() {
    let row = Row::start(&["s3"], |_| {}, |_, spec| spec).await;
    let lab = &row.lab;
    let [s1, s2] =
        ["s1", "s2"].map(|name| countersign_integration::Tokens::of(&lab.ca, "shop", name));
    let id = |name: &str| lab.id("shop", name);
    let token = lab.gateway.mint(&id("s1"));
    let first = signed(&s1, &record(&token, &[], &id("s1"), &id("s2")));
    let list = [first.clone()];
    let second = signed(&s2, &record(&token, &list, &id("s2"), &id("s3")));
    let hops = format!("{first}, {second}");
    let call = || Call::get("s3.shop", "/").context(&token).header("countersign-hops", &hops);
    let s3 = row.sidecar("s3");
    let mut peer = lab.peer(s3, s2.leaf()).await;
    let reply = peer.send(call()).await.unwrap();
    let wanted = format!("\"{}\"", thumbprint(s1.leaf()));
    assert_eq!(reply.header("countersign-certs"), Some(wanted.as_str()));
    assert_eq!(reply.header("www-authenticate"), Some("Countersign error=\"unknown_certificate\""));
    refused(s3, &reply, "hops_cert_unknown").await;
    assert!(row.apps[0].seen().is_empty());
    let brought = call().header("countersign-certs", &certificate(s1.leaf()));
    allowed(s3, &peer.send(brought).await.unwrap()).await;
    // From now on it is known, on every connection to this worker.
    allowed(s3, &peer.send(call()).await.unwrap()).await;
}

/// The sending side: a callee's proxy that has lost its memory is sent the request again with what
/// it asks for; where the body has gone the caller learns of it, and the next call brings it.
#[tokio::test]
async fn what_a_callee_asks_for_is_brought_once() {
    let lab = Lab::new();
    let leaf = lab.ca.leaf("shop", "tap");
    let (forgetful, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (forgets, counts) = (Arc::clone(&forgetful), Arc::clone(&asked));
    let missing = Arc::new(std::sync::Mutex::new(String::new()));
    let names = Arc::clone(&missing);
    let tap = App::tls(tls::server(&leaf, &[tls::MESH_H2]), move |request| {
        let brought = request.headers().contains_key("countersign-certs");
        let ask = forgets.load(Ordering::SeqCst) && !brought;
        counts.fetch_add(usize::from(ask), Ordering::SeqCst);
        let names = names.lock().unwrap().clone();
        Box::pin(async move {
            let answer = Response::builder();
            Ok(match ask {
                true => answer.status(401).header("countersign-certs", names).body(full("no"))?,
                false => answer.header("x-brought", brought.to_string()).body(full("yes"))?,
            })
        })
    });
    let row = Row::with_tap(lab, tap, &["s1", "s2"], |_| {}, |_, spec| spec).await;
    *missing.lock().unwrap() = format!("\"{}\"", thumbprint(&row.leaf("s1")));
    let names = ["s1", "s2", "tap"];
    let mut gateway = row.gateway("s1").await;
    let mut until_known = async || {
        wait::until("every connection to have brought it", async || {
            let reply = gateway.send(row.call(&names)).await.unwrap();
            assert_eq!(reply.status, 200, "{}", reply.text());
            (reply.header("x-brought") == Some("false")).then_some(())
        })
        .await;
    };
    until_known().await;
    forgetful.store(true, Ordering::SeqCst);
    let mut gateway = row.gateway("s1").await;
    let reply = gateway.send(row.call(&names)).await.unwrap();
    assert_eq!((reply.status, reply.header("x-brought")), (200, Some("true")), "{}", reply.text());
    assert!(asked.load(Ordering::SeqCst) >= 1);
    assert_eq!(reply.header("countersign-certs"), None, "the caller's app saw the question");

    // A body that has gone cannot be sent again.
    forgetful.store(false, Ordering::SeqCst);
    wait::until("to be known again", async || {
        let reply = gateway.send(row.call(&names)).await.unwrap();
        (reply.header("x-brought") == Some("false")).then_some(())
    })
    .await;
    forgetful.store(true, Ordering::SeqCst);
    let mut post = async || {
        let call = row.call(&names).method(Method::POST).body(full("an order"));
        gateway.send(call).await.unwrap()
    };
    let reply = wait::until("a body that has gone", async || {
        let reply = post().await;
        (reply.status == 503).then_some(reply)
    })
    .await;
    assert_eq!(reply.json()["title"], "unavailable");
    row.refused_amidst("s2", "hops_cert_missed", 1).await;
    wait::until("the next call to bring it", async || (post().await.status == 200).then_some(()))
        .await;
}

/// A callee that is started anew knows nobody: its callers' new connections tell it.
#[tokio::test]
async fn a_callee_started_anew_learns_its_callers_path_again() {
    let mut row = Row::start(&FOUR, |_| {}, |_, spec| spec).await;
    assert_eq!(row.send(&FOUR).await.status, 200);
    let (name, last) = row.sidecars.pop().unwrap();
    let mut command = std::process::Command::new(countersign_integration::programs::proxy());
    command.arg("--config").arg(&last.file).current_dir(row.lab.folder());
    drop(last);
    let _again = countersign_integration::Process::start(&name, command, row.lab.folder());
    wait::until("the callee to be back", async || {
        let reply = row.send(&FOUR).await;
        assert_ne!(reply.status, 401, "{}", reply.text());
        (reply.status == 200).then_some(())
    })
    .await;
    for _ in 0..20 {
        assert_eq!(row.send(&FOUR).await.status, 200);
    }
}

/// Every holder gets a new certificate again and again while requests are on their way: records of
/// old keys hold as long as their certificates do, and no request is lost.
#[tokio::test]
async fn rotation_mid_path_loses_no_request() {
    let row = Arc::new(Row::start(&FOUR, |_| {}, |_, spec| spec).await);
    let end = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..6)
        .map(|number| {
            let (row, end) = (Arc::clone(&row), Arc::clone(&end));
            tokio::spawn(async move {
                let (mut sent, mut gateway) = (0, row.gateway("s1").await);
                while !end.load(Ordering::SeqCst) {
                    let route = route(2 + (sent + number) % 6);
                    if gateway.is_closed() {
                        gateway = row.gateway("s1").await;
                    }
                    let reply = match gateway.send(row.call(&route)).await {
                        Ok(reply) => reply,
                        // The sidecar has ended the test's own connection with its certificate.
                        Err(_) => {
                            gateway = row.gateway("s1").await;
                            continue;
                        }
                    };
                    assert_eq!(reply.status, 200, "{route:?}: {}", reply.text());
                    sent += 1;
                }
                sent
            })
        })
        .collect();
    for _ in 0..4 {
        for name in FOUR {
            row.lab.ca.leaf("shop", name).write(row.lab.folder(), &format!("shop.{name}.id"));
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
    for name in FOUR {
        let renewed = "countersign_identity_renewals_total";
        row.sidecar(name).metric_reaches(renewed, &[], 2.0).await;
    }
    end.store(true, Ordering::SeqCst);
    let mut sent = 0;
    for caller in callers {
        sent += caller.await.unwrap();
    }
    assert!(sent > 50, "{sent} requests under rotation");
    let failed = row.sidecar("s4").metric("countersign_context_verified_total", &[]).await
        - row.sidecar("s4").metric("countersign_context_verified_total", &["result=\"ok\""]).await;
    assert_eq!(failed, 0.0, "tokens were refused at s4");
}

/// A stream along four holders: the body runs both ways while the path was proven at its start.
#[tokio::test]
async fn a_streaming_body_travels_the_whole_path() {
    let row = Row::start(&FOUR, |_| {}, |_, spec| spec).await;
    let (pieces, body) = client::stream();
    let call = row.call(&FOUR).method(Method::POST).body(body);
    let call = Call { target: "/v1/echo".to_owned(), ..call };
    let mut gateway = row.gateway("s1").await;
    let response = gateway.start(call).await.unwrap();
    assert_eq!(response.status(), 200);
    let reading = tokio::spawn(client::collect(response));
    for piece in ["one ", "two ", "three"] {
        pieces.send(Ok(http_body::Frame::data(piece.into()))).await.unwrap();
    }
    drop(pieces);
    assert_eq!(reading.await.unwrap().unwrap().text(), "one two three");
}

/// With `custody: off` a token works for whoever holds it, records are added all the same, and
/// policy and audit know that nothing is proven.
#[tokio::test]
async fn without_custody_records_are_added_and_nothing_is_demanded() {
    let off = |spec: &mut Value| spec["context"]["custody"] = json!("off");
    let row = Row::start(&["s1", "s2"], off, |_, spec| spec).await;
    let reply = row.send(&["s1", "s2", "tap"]).await;
    assert_eq!(header(&reply, "countersign-hops").split(", ").count(), 2);
    let token = row.lab.gateway.mint(&row.lab.id("shop", "s2"));
    let call = Call::get("s1.shop", "/").context(&token);
    let reply = row.lab.call_as("shop", "anybody", row.sidecar("s1"), call).await;
    let record = allowed(row.sidecar("s1"), &reply).await;
    assert_eq!(record["custody"], false, "{record}");
    assert_eq!(record.get("hops"), None, "{record}");
    // A list that leads elsewhere is not gone on with: a new one begins, with the scope it left.
    let mut claims = row.lab.gateway.claims(&row.lab.id("shop", "s2"));
    claims["scope"] = json!("orders.read orders.write");
    let token = row.lab.gateway.sign(&claims);
    let id = |name: &str| row.lab.id("shop", name);
    let mut claims = countersign_integration::row::record(&token, &[], &id("s2"), &id("elsewhere"));
    claims["scope"] = json!("orders.read");
    let list = signed(&row.signer("s2"), &claims);
    let call = Call::get("s1.shop", "/").context(&token).header("countersign-hops", &list);
    let call = call.header("x-route", "tap");
    let reply = row.lab.call_as("shop", "anybody", row.sidecar("s1"), call).await;
    let sent = claims_of(&header(&reply, "countersign-hops"));
    assert_eq!((&sent["sub"], &sent["n"]), (&json!(id("s1")), &json!(0)), "{sent}");
    assert_eq!(sent["scope"], "orders.read", "{sent}");
}

/// What `s3` permits, by the way a request came.
fn by_the_way() -> Value {
    let shop = |name: &str| json!({"namespace": "shop", "serviceAccount": name});
    let rule = |name: &str, chain: Value| {
        json!({
            "name": name, "effect": "allow", "require": {"chain": chain},
            "match": {"caller": {"anyInMesh": true},
                "http": {"paths": [{"exact": format!("/{name}")}]}},
        })
    };
    json!([
        rule("origin", json!({"origin": {"namespace": "edge", "serviceAccount": "gateway"}})),
        rule("through", json!({"through": [shop("s1")]})),
        rule("both", json!({"through": [shop("s1"), shop("s2")]})),
        rule("straight", json!({"maxHops": 0})),
        rule("short", json!({"maxHops": 1})),
        rule("custody", json!({"custody": true})),
    ])
}

/// Sidecars of which the last, `s3`, asks which way a request came.
async fn asking(mesh: impl FnOnce(&mut Value)) -> Row {
    let lab = Lab::new();
    let tap = App::tls_mirror(tls::server(&lab.ca.leaf("shop", "tap"), &[tls::MESH_H2]));
    let documents = lab.folder().join("mesh.yaml");
    let rules = lab.write("chain.yaml", &documents::access("shop", by_the_way()));
    Row::with_tap(lab, tap, &["s1", "s2", "s3"], mesh, |name, spec| match name {
        "s3" => spec.documents(&[&documents, &rules]),
        _ => spec,
    })
    .await
}

/// Rules about the way a request came judge the way that custody proved.
#[tokio::test]
async fn rules_judge_the_way_a_request_came() {
    let row = asking(|_| {}).await;
    let mut denied = 0;
    let all = ["origin", "through", "both", "straight", "short", "custody"];
    for (route, permitted) in [
        (&["s3"][..], &["origin", "straight", "short", "custody"][..]),
        (&["s1", "s3"], &["origin", "through", "short", "custody"]),
        (&["s2", "s3"], &["origin", "short", "custody"]),
        (&["s1", "s2", "s3"], &["origin", "through", "both", "custody"]),
        (&["s2", "s1", "s3"], &["origin", "through", "both", "custody"]),
        (&["s2", "s1", "s2", "s3"], &["origin", "through", "both", "custody"]),
    ] {
        let mut gateway = row.gateway(route[0]).await;
        for path in all {
            let call = Call { target: format!("/{path}"), ..row.call(route) };
            let reply = gateway.send(call).await.unwrap();
            let expected = if permitted.contains(&path) { 200 } else { 403 };
            assert_eq!(reply.status, expected, "{route:?} {path}: {}", reply.text());
            denied += usize::from(expected == 403);
        }
    }
    // The same way, and it entered elsewhere.
    let mut claims = row.lab.gateway.claims(&row.lab.id("shop", "s3"));
    claims["req_wl"] = json!(row.lab.id("edge", "other"));
    let token = row.lab.gateway.sign(&claims);
    let mut gateway = row.gateway("s3").await;
    let reply = gateway.send(Call::get("s3.shop", "/origin").context(&token)).await.unwrap();
    refused(row.sidecar("s3"), &reply, "policy_denied").await;
    let of_policy = |it: &&Value| it["reason"].as_str().is_some_and(|r| r.starts_with("policy_"));
    let count = || row.sidecar("s3").decisions().iter().filter(of_policy).count();
    wait::until_true("a record of each denial", || count() == denied + 1).await;
}

/// Where custody is not demanded, a way that nobody proved satisfies no rule about it.
#[tokio::test]
async fn rules_about_the_way_need_custody() {
    let row = asking(|spec| spec["context"]["custody"] = json!("off")).await;
    let s3 = row.sidecar("s3");
    let token = row.lab.gateway.mint(&row.lab.id("shop", "s2"));
    for (path, permitted) in [
        ("origin", true),
        ("through", false),
        ("straight", false),
        ("short", false),
        ("custody", false),
    ] {
        let call = Call::get("s3.shop", &format!("/{path}")).context(&token);
        let reply = row.lab.call_as("shop", "anybody", s3, call).await;
        match permitted {
            true => drop(allowed(s3, &reply).await),
            false => drop(refused(s3, &reply, "policy_denied").await),
        }
    }
    let call = Call { target: "/through".to_owned(), ..row.call(&["s1", "s3"]) };
    let reply = row.gateway("s1").await.send(call).await.unwrap();
    assert_eq!(reply.status, 200, "shown although nobody demands it: {}", reply.text());
}

/// Whoever got no record accepts the call and cannot hand the context on.
#[tokio::test]
async fn a_holder_without_a_record_cannot_hand_on() {
    let row = Row::start(&["s1", "s2"], |_| {}, |_, spec| spec).await;
    let token = row.lab.gateway.mint(&row.lab.id("shop", "first"));
    let call = Call::get("s1.shop", "/").context(&token);
    let mut peer = row.lab.peer(row.sidecar("s1"), &row.lab.ca.leaf("shop", "first")).await;
    let reply = peer.send(call.header("x-route", "s2")).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.seen("countersign-user"), None, "the context went on without a record");
    let counted = row.sidecar("s1");
    let label = "limit=\"HOLDER_WITHOUT_RECORD\"";
    counted.metric_reaches("countersign_limits_hit_total", &[label], 1.0).await;
}

/// Malformed and oversized lists and certificates are refused by name.
#[tokio::test]
async fn lists_out_of_form_are_refused() {
    let row = Row::start(&["s2"], |_| {}, |_, spec| spec).await;
    let (lab, s2) = (&row.lab, row.sidecar("s2"));
    let s1 = countersign_integration::Tokens::of(&lab.ca, "shop", "s1");
    let token = lab.gateway.mint(&lab.id("shop", "s1"));
    let own = signed(&s1, &record(&token, &[], &lab.id("shop", "s1"), &lab.id("shop", "s2")));
    let mut peer = lab.peer(s2, s1.leaf()).await;
    let call =
        |list: &str| Call::get("s2.shop", "/").context(&token).header("countersign-hops", list);
    allowed(s2, &peer.send(call(&own)).await.unwrap()).await;
    for (list, reason) in [
        (format!("{own};a=1"), "hops_malformed"),
        (format!("{own}, {own}"), "custody_broken"),
        (format!("\"{own}\""), "hops_malformed"),
        (format!("{own},"), "hops_malformed"),
        ("x".repeat(6 * 1024 + 1), "hops_too_large"),
        ([own.as_str(); 9].join(", "), "hops_too_large"),
    ] {
        let reply = peer.send(call(&list)).await.unwrap();
        // Nine records of this size are one byte question before they are a question of number.
        let reason = if reply.status == 400 { "hops_malformed" } else { reason };
        refused(s2, &reply, reason).await;
    }
    let twice = call(&own).header("countersign-hops", &own);
    refused(s2, &peer.send(twice).await.unwrap(), "hops_malformed").await;
}
