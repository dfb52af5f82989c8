//! Keys of issuers: published before they sign, fetched by everybody, replaced under load, retired,
//! withdrawn (T9, T18, T24).

pub(crate) mod stage;

use std::collections::BTreeSet;

use countersign_integration::client::Call;
use countersign_integration::load::{Load, Protocol};
use countersign_integration::outcome::{allowed, refused};
use countersign_integration::token::{Tokens, now_s};
use countersign_integration::wait;
use serde_json::{Value, json};

use self::stage::{ORDERS, RAW, Setting, Stage, header, kid};

const ISSUERS: &str = "/.well-known/countersign-issuers.json";
const JWKS: &str = "/.well-known/jwks.json";

fn generated() -> Value {
    json!({"keys": "generated"})
}

fn names(set: &Value) -> BTreeSet<String> {
    let keys = set["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// A key is published first and signs later; until then certificates do, and nobody is refused.
#[tokio::test]
async fn a_generated_key_signs_once_everybody_can_know_it() {
    let stage = Stage::new(Setting::default()).await;
    let gateway = stage.gateway(0, generated()).await;
    let first = stage.token(&gateway).await;
    assert!(header(&first).get("x5c").is_some(), "{}", header(&first));
    let token = stage.until_signed_by_another(&gateway, None).await;
    let kid = kid(&token).unwrap();
    let reply = stage.ask(&gateway, ORDERS).await;
    allowed(&stage.orders, &reply).await;
    assert_eq!(reply.seen("countersign-user").as_deref(), Some("alice"));

    let set = stage.published(0, ISSUERS).await;
    assert_eq!(names(&set), BTreeSet::from([kid.clone()]), "{set}");
    assert_eq!(set["keys"][0]["use"], "csign-ctx");
    assert_eq!(set["keys"][0]["iss"], stage.issuer());
    assert_eq!(set["csign_refresh_hint"], 1);
    assert!(set["csign_sequence"].as_u64().unwrap() > 0);
    let plain = stage.published(0, JWKS).await;
    assert_eq!(names(&plain), BTreeSet::from([kid]));
    assert_eq!(plain["keys"][0]["use"], "sig");
    for private in ["d", "iss", "csign_sequence"] {
        assert_eq!(plain["keys"][0].get(private), None, "{plain}");
    }
}

/// Without the certificate as a second form nothing is minted before the key can be known, and
/// everything after.
#[tokio::test]
async fn with_key_names_alone_the_gateway_waits_for_its_publication() {
    let stage = Stage::new(Setting { keys: "jwks", ..Setting::default() }).await;
    let gateway = stage.gateway(0, json!({"keys": "generated", "algorithm": "Ed25519"})).await;
    let reply = stage.ask(&gateway, ORDERS).await;
    refused(&gateway, &reply, "identity_unavailable").await;
    let reply = wait::until("the key", async || {
        Some(stage.ask(&gateway, ORDERS).await).filter(|reply| reply.status == 200)
    })
    .await;
    assert_eq!(reply.seen("countersign-user").as_deref(), Some("alice"));
    let token = stage.token(&gateway).await;
    assert_eq!(header(&token)["alg"], "Ed25519");
    assert_eq!(stage.present(&token).await.status, 200);
    // A certificate of the same issuer is no accepted form here.
    let by_chain = stage.lab.gateway.mint(&stage.lab.id("shop", "raw"));
    refused(&stage.orders, &stage.present(&by_chain).await, "key_unknown").await;
}

/// Keys replaced every few seconds, at 60 requests a second of both protocols: none is lost.
#[tokio::test]
async fn rotation_under_load_loses_no_request() {
    let stage = Stage::new(Setting::default()).await;
    let gateway = stage.gateway(0, json!({"keys": "generated", "rotateAfter": "1s"})).await;
    let loads = [Protocol::Http1, Protocol::Http2]
        .map(|protocol| Load::start(gateway.gateway(), protocol, 30, stage.maker(ORDERS)));
    let mut seen: Vec<String> = Vec::new();
    while seen.len() < 3 {
        let before = seen.last().map(String::as_str);
        let token = stage.until_signed_by_another(&gateway, before).await;
        seen.extend(kid(&token));
    }
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 3, "{seen:?}");
    // What was signed before is still published, and accepted.
    let published = names(&stage.published(0, ISSUERS).await);
    assert!(seen.iter().all(|kid| published.contains(kid)), "{seen:?} {published:?}");
    let stopped = tokio::task::spawn_blocking(|| loads.map(Load::stop)).await.unwrap();
    for outcome in stopped {
        assert!(outcome.failures.is_empty(), "{:#?}", outcome.failures);
        assert!(outcome.sent > 100, "{}", outcome.sent);
    }
    let verified = "countersign_context_verified_total";
    assert!(stage.orders.metric(verified, &["result=\"ok\""]).await > 200.0);
}

/// The issuer dies and comes back with another key: it signs by certificate at once, and what it
/// signed before goes on counting, because its public halves are noted.
#[tokio::test]
async fn issuer_restart_keeps_traffic_flowing() {
    let stage = Stage::new(Setting::default()).await;
    let noted = stage.lab.folder().join("issuer-keys.json");
    let settings = json!({"keys": "generated", "state": noted});
    let gateway = stage.gateway(0, settings.clone()).await;
    let token = stage.until_signed_by_another(&gateway, None).await;
    assert!(!std::fs::read_to_string(&noted).unwrap().contains("\"d\""), "a private half is noted");
    drop(gateway);
    assert_eq!(stage.present(&token).await.status, 200, "while the issuer is away");

    let gateway = stage.gateway(0, settings).await;
    let reply = stage.ask(&gateway, ORDERS).await;
    allowed(&stage.orders, &reply).await;
    stage.fetched_again().await;
    let reply = stage.present(&token).await;
    allowed(&stage.orders, &reply).await;
    let next = stage.until_signed_by_another(&gateway, kid(&token).as_deref()).await;
    assert_ne!(kid(&next), kid(&token));
    assert_eq!(stage.present(&token).await.status, 200, "two keys are published");
}

/// A key that is in the set no more opens nothing, although the token it signed was verified and
/// cached a moment before.
#[tokio::test]
async fn attack_uses_key_removed_from_the_set() {
    let stage = Stage::new(Setting::default()).await;
    let gateway = stage.gateway(0, generated()).await;
    let token = stage.until_signed_by_another(&gateway, None).await;
    drop(gateway);
    // Without a note of it, the next process does not know the key.
    let _gateway = stage.gateway(0, generated()).await;
    stage.fetched_again().await;
    let reply = stage.present(&token).await;
    refused(&stage.orders, &reply, "key_unknown").await;
}

/// The kill switch: one entry taken out of the mesh, and nothing the issuer signs counts, however
/// it names its key, cached or not.
#[tokio::test]
async fn attack_removed_issuer_keeps_minting() {
    let stage = Stage::new(Setting::default()).await;
    let gateway = stage.gateway(0, generated()).await;
    let by_name = stage.until_signed_by_another(&gateway, None).await;
    let by_chain = stage.lab.gateway.mint(&stage.lab.id("shop", "raw"));
    for token in [&by_name, &by_chain] {
        assert_eq!(stage.present(token).await.status, 200);
    }
    let other = stage.lab.id("edge", "other-gateway");
    stage.change_mesh(|spec| {
        spec["context"]["issuers"][0]["id"] = json!(other);
        spec["context"]["issuers"][0]["keys"] = json!("x5c");
        spec["context"]["issuers"][0].as_object_mut().unwrap().remove("jwks");
    });
    wait::until("the documents", async || {
        (stage.present(&by_chain).await.status != 200).then_some(())
    })
    .await;
    for token in [&by_name, &by_chain] {
        let reply = stage.present(token).await;
        refused(&stage.orders, &reply, "issuer_not_allowed").await;
    }
    // The gateway itself stops: what nobody accepts is not made.
    wait::until("the gateway to stop", async || {
        (stage.ask(&gateway, RAW).await.status != 200).then_some(())
    })
    .await;
    let reply = stage.ask(&gateway, RAW).await;
    refused(&gateway, &reply, "identity_unavailable").await;
}

/// Invented key names: each is refused at once, they cause hardly a fetch, the peer that sends them
/// is slowed down, and everybody else is served.
#[tokio::test]
async fn attack_floods_unknown_kids_of_issuers() {
    let stage = Stage::new(Setting::default()).await;
    let gateway = stage.gateway(0, generated()).await;
    let good = stage.until_signed_by_another(&gateway, None).await;
    stage.change_mesh(|spec| {
        // Nothing but unknown names brings a fetch forward now.
        let jwks = &mut spec["context"]["issuers"][0]["jwks"];
        jwks["refresh"] = json!("10m");
    });
    let fetches = || async {
        stage.orders.metric("countersign_issuer_key_fetches_total", &["result=\"ok\""]).await
    };
    wait::until_true("the new pace", || stage.orders.log().contains("documents in force")).await;
    let before = fetches().await;
    let (attacker, to) = (stage.lab.ca.leaf("shop", "attacker"), stage.lab.id("shop", "attacker"));
    let mut conn = stage.lab.peer(&stage.orders, &attacker).await;
    let (mut limited, began) = (0, now_s());
    for number in 0..200 {
        let mut header = stage.lab.gateway.header_by_kid();
        header["kid"] = json!(format!("{number:A>16}"));
        let token = stage.lab.gateway.sign_with(&header, &stage.lab.gateway.claims(&to));
        let reply = conn.send(Call::get("orders.shop", "/").context(&token)).await.unwrap();
        match reply.status {
            401 => {}
            429 => limited += 1,
            other => panic!("{other}: {}", reply.text()),
        }
        if number == 0 {
            refused(&stage.orders, &reply, "key_unknown").await;
        }
    }
    let seconds = now_s() - began + 1;
    assert!(200 - limited <= 20 * seconds, "{limited} of 200 within {seconds} s");
    let reply = stage.present(&good).await;
    allowed(&stage.orders, &reply).await;
    // The one that was under way, the first of the new pace, and one for two hundred names.
    let more = fetches().await - before;
    assert!(more <= 3.0, "{more}");
}

/// Nobody confirms the keys any more: they count until they are stale, then the issuer is
/// unverifiable by name, and back at once when it answers again.
#[tokio::test]
async fn keys_that_nobody_confirms_end() {
    let stage = Stage::new(Setting { max_stale: "6s", ..Setting::default() }).await;
    let noted = stage.lab.folder().join("issuer-keys.json");
    let settings = json!({"keys": "generated", "state": noted});
    let gateway = stage.gateway(0, settings.clone()).await;
    let token = stage.until_signed_by_another(&gateway, None).await;
    drop(gateway);
    assert_eq!(stage.present(&token).await.status, 200, "not stale yet");
    // Another token each time: what is cached is not looked up again.
    let reply = wait::until("the keys to go stale", async || {
        let reply = stage.present(&fresh(&stage, &token)).await;
        (reply.status == 503).then_some(reply)
    })
    .await;
    refused(&stage.orders, &reply, "keys_unavailable").await;
    wait::until("the warning", async || {
        let (status, ready) = stage.orders.ready().await?;
        assert_eq!(status, 200, "{ready}");
        ready.to_string().contains("no keys of the issuer").then_some(())
    })
    .await;
    // By certificate nothing is looked up.
    let by_chain = stage.lab.gateway.mint(&stage.lab.id("shop", "raw"));
    assert_eq!(stage.present(&by_chain).await.status, 200);
    let _gateway = stage.gateway(0, settings).await;
    stage.fetched_again().await;
    assert_eq!(stage.present(&token).await.status, 200);
}

/// A token with the header of another one, which nobody verified before.
fn fresh(stage: &Stage, like: &str) -> String {
    let claims = stage.lab.gateway.claims(&stage.lab.id("shop", "raw"));
    stage.lab.gateway.sign_with(&header(like), &claims)
}

/// Two replicas with keys of their own: tokens of both count, and each tells others of both.
#[tokio::test]
async fn keys_of_all_replicas_count_together() {
    let stage = Stage::new(Setting { replicas: 2, ..Setting::default() }).await;
    let one = stage.gateway(0, generated()).await;
    let first = stage.until_signed_by_another(&one, None).await;
    let two = stage.gateway(1, generated()).await;
    let second = stage.until_signed_by_another(&two, None).await;
    assert_ne!(kid(&first), kid(&second));
    for token in [&first, &second] {
        let reply = stage.present(token).await;
        allowed(&stage.orders, &reply).await;
    }
    let own = names(&stage.published(0, ISSUERS).await);
    assert_eq!(own, BTreeSet::from([kid(&first).unwrap()]), "each answers for itself");
    wait::until("the plain view of both", async || {
        let all = names(&stage.published(0, JWKS).await);
        all.contains(&kid(&second).unwrap()).then_some(())
    })
    .await;
    // One replica is gone: its keys go on counting, and so do the other's.
    drop(two);
    stage.fetched_again().await;
    assert_eq!(stage.present(&second).await.status, 200);
    assert_eq!(stage.present(&first).await.status, 200);
}

/// One key in a file, the same in every replica and after every start; a new file is a new key,
/// published before it signs.
#[tokio::test]
async fn a_key_in_a_file_is_read_again_when_it_changes() {
    let stage = Stage::new(Setting { replicas: 2, ..Setting::default() }).await;
    let write = |name: &str| {
        let key = Tokens::of(&stage.lab.ca, "edge", name);
        stage.lab.write_text("token-key.pem", &key.leaf().key_pem);
        key.kid()
    };
    let first = write("one");
    let settings = json!({"keys": {"file": stage.lab.folder().join("token-key.pem")}});
    let one = stage.gateway(0, settings.clone()).await;
    let two = stage.gateway(1, settings).await;
    for gateway in [&one, &two] {
        let token = stage.until_signed_by_another(gateway, None).await;
        assert_eq!(kid(&token), Some(first.clone()));
    }
    let second = write("two");
    let token = stage.until_signed_by_another(&one, Some(&first)).await;
    assert_eq!(kid(&token), Some(second.clone()));
    let published = names(&stage.published(0, ISSUERS).await);
    assert_eq!(published, BTreeSet::from([first, second]), "the old one is still there");

    stage.lab.write_text("token-key.pem", "no key\n");
    wait::until_true("the complaint", || one.log().contains("IS-03")).await;
    assert_eq!(stage.present(&stage.token(&one).await).await.status, 200, "the last one stays");
}

/// Who may read the keys is policy, as for any service; what is not there is not there; and the
/// public has no way to them.
#[tokio::test]
async fn attack_reads_keys_from_outside() {
    let stage = Stage::new(Setting::default()).await;
    let gateway = stage.gateway(0, generated()).await;
    let reader = stage.lab.ca.leaf("shop", "reader");
    let mut conn = stage.lab.peer(&gateway, &reader).await;
    let elsewhere = conn.send(Call::get("gateway.edge", "/.well-known/other")).await.unwrap();
    refused(&gateway, &elsewhere, "route_unknown").await;
    let post = conn.send(Call::post("gateway.edge", ISSUERS, "{}")).await.unwrap();
    refused(&gateway, &post, "policy_denied").await;
    let plain = countersign_integration::client::call(
        gateway.inbound(),
        Call::get("gateway.edge", ISSUERS),
    )
    .await;
    refused(&gateway, &plain, "peer_unauthenticated").await;
    for path in [ISSUERS, JWKS] {
        let public =
            countersign_integration::client::call(gateway.gateway(), Call::get(ORDERS, path)).await;
        assert!(public.status >= 400, "{}", public.text());
        assert!(!public.text().contains("keys"), "{}", public.text());
    }
    assert!(stage.app.seen().is_empty());
}

#[test]
fn the_page_about_issuer_keys_is_sound() {
    stage::check_page(include_str!("../../../../docs/context/issuer-keys.md"), 2);
}
