//! Service account tokens of a real API server.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_integration::client::{self, Call, Conn};
use countersign_integration::components::kubernetes::{Cluster, Pod, shared};
use countersign_integration::outcome::{allowed, refused};
use countersign_integration::pki::Request;
use countersign_integration::token::now_s;
use countersign_integration::{App, Lab, Tokens, process, programs, tls, wait};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{API, AUDIENCE, Edge, PATH, claims, id_of, own_token, pod, taking};

/// A cluster, a pod outside the mesh, and a gateway that takes its tokens.
struct World {
    cluster: &'static Cluster,
    pod: Pod,
    edge: Edge,
    _files: TempDir,
}

/// How the gateway learns whether a token counts.
#[derive(Clone, Copy, PartialEq)]
enum Ask {
    Review,
    Keys,
    Both,
}

impl World {
    async fn start(test: &str, ask: Ask) -> Option<World> {
        let cluster = shared(test).await?;
        let pod = pod(cluster).await;
        let files = tempfile::tempdir().unwrap();
        let callers = callers(cluster, files.path(), ask).await;
        let edge = Edge::start(callers, &[id_of(&pod)]).await;
        Some(World { cluster, pod, edge, _files: files })
    }

    /// A token of the pod as its projected volume would have it.
    async fn token(&self, life_s: u64) -> String {
        let Pod { namespace, account, .. } = &self.pod;
        self.cluster.token(namespace, account, &[AUDIENCE], Some(&self.pod), life_s).await
    }

    /// Waits until the API server itself knows that the pod of this token is gone.
    async fn until_unknown(&self, token: &str) {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]}});
        let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
        wait::until("the API server to miss the pod", async || {
            let told = self.cluster.create(reviews, &review).await;
            (told["status"]["authenticated"] != true).then_some(())
        })
        .await;
    }

    /// A token of the cluster's own key that says something else than a sound one.
    async fn forged(&self, change: impl FnOnce(&mut Value)) -> String {
        let sound = self.token(600).await;
        let mut said = claims(&sound);
        change(&mut said);
        let key = PrivateKeyDer::from_pem_file(self.cluster.folder().join("sa.key")).unwrap();
        let key = match &key {
            PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap(),
            PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()).unwrap(),
            other => panic!("{other:?}"),
        };
        let header = sound.split('.').next().unwrap();
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(said.to_string()));
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The request is refused, and for which finer reason.
    async fn refused(&self, token: &str, reason: &str) -> String {
        let reply = self.edge.get(token).await;
        let record = refused(&self.edge.gateway, &reply, reason).await;
        record["reason"].as_str().unwrap().to_owned()
    }
}

async fn callers(cluster: &Cluster, files: &Path, ask: Ask) -> Value {
    let own = own_token(cluster, files, ask != Ask::Keys).await;
    let server = json!({"server": cluster.url(), "ca": cluster.ca_file(), "tokenFile": own});
    let mut accounts = json!({"issuer": cluster.issuer(), "grants": ["orders.read"]});
    if ask != Ask::Keys {
        accounts["tokenReview"] = server.clone();
    }
    if ask != Ask::Review {
        accounts["discovery"] = json!({"apiServer": server});
    }
    json!({"serviceAccountToken": accounts})
}

/// From the pod's token to what the service behind the gateway decides on.
#[tokio::test]
async fn a_pod_outside_the_mesh_calls_as_its_service_account() {
    for ask in [Ask::Review, Ask::Keys, Ask::Both] {
        let Some(world) = World::start("a_pod_calls_as_its_service_account", ask).await else {
            return;
        };
        let edge = &world.edge;
        let token = world.token(600).await;
        for alpn in [b"http/1.1".as_slice(), b"h2"] {
            let config = tls::client(None, &[alpn]);
            let mut conn = Conn::tls(edge.gateway.gateway(), config).await.unwrap();
            let reply = conn.send(Call::get(API, PATH).bearer(&token)).await.unwrap();
            let record = allowed(&edge.orders, &reply).await;
            assert_eq!(record["svc"]["id"], id_of(&world.pod), "{record}");
            assert_eq!(record["origin"], "service");
            assert_eq!(record.get("user"), None);
            assert_eq!(reply.seen("countersign-origin").as_deref(), Some("service"));
            assert_eq!(reply.seen("countersign-user"), None, "a service is no user");
            assert_eq!(reply.seen("authorization"), None, "the credential ends at the gateway");
        }
        let issued = edge.issued().await;
        assert_eq!(issued["peer"]["none"], "service_account_token", "{issued}");
        assert_eq!(issued["svc"]["id"], id_of(&world.pod));
        assert_eq!(issued["svc"]["pod"], json!({"name": "batch-7", "uid": world.pod.uid}));
        assert_eq!(issued.get("user"), None);
        assert!(!issued.to_string().contains(&token[..40]), "the token itself is nowhere");
        assert!(!edge.gateway.log().contains(&token[..40]));
    }
}

/// What the context token says, read by its callee.
#[tokio::test]
async fn the_context_token_of_a_caller_says_service() {
    let Some(cluster) = shared("the_context_token_of_a_caller").await else { return };
    let files = tempfile::tempdir().unwrap();
    let (lab, pod) = (Lab::new(), pod(cluster).await);
    let users = Tokens::of(&lab.ca, "idp", "keys");
    let callee = App::tls_mirror(tls::server(&lab.ca.leaf("shop", "orders"), &[tls::MESH_H2]));
    let id = lab.id("shop", "orders");
    let mesh = taking(lab.gateway_mesh(&users), callers(cluster, files.path(), Ask::Both).await)
        .destination("shop/orders", "orders.shop", callee.address, &[&id]);
    let public = lab.ca.issue(Request::new(&[]).dns(API)).write(lab.folder(), "public");
    let gateway = lab
        .gateway_to(&mesh, "shop/orders", |spec| {
            spec.with(|config| {
                config["listeners"]["gateway"][0]["tls"] =
                    json!({"certificate": public.0, "key": public.1});
            })
        })
        .await;
    let token = cluster.pod_token(&pod, &[AUDIENCE]).await;
    let mut conn = Conn::tls(gateway.gateway(), tls::client(None, &[b"h2"])).await.unwrap();
    let reply = conn.send(Call::get(API, PATH).bearer(&token)).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = callee.last();
    assert_eq!(seen.header("authorization"), None);
    let said = claims(seen.header("txn-token").unwrap());
    assert_eq!(said["sub"], format!("svc:{}", id_of(&pod)));
    assert_eq!(said["scope"], "orders.read");
    assert_eq!((&said["rctx"]["origin"], &said["rctx"]["idp"]), (&json!("service"), &json!("k8s")));
    assert_eq!(said["rctx"]["to"], id);
    // A context token is no credential of a caller, and the reverse.
    let context = seen.header("txn-token").unwrap().to_owned();
    let reply = conn.send(Call::get(API, PATH).bearer(&context)).await.unwrap();
    assert_eq!(reply.status, 401, "{}", reply.text());
}

/// D34: who only checks signatures cannot see that a pod is gone.
#[tokio::test]
async fn attack_uses_token_of_deleted_pod() {
    let Some(world) = World::start("attack_uses_token_of_deleted_pod", Ask::Both).await else {
        return;
    };
    let offline = callers(world.cluster, world.edge.lab.folder(), Ask::Keys).await;
    let offline = Edge::start(offline, &[id_of(&world.pod)]).await;
    let (used, unused) = (world.token(600).await, world.token(601).await);
    let another = world.token(602).await;
    allowed(&world.edge.orders, &world.edge.get(&used).await).await;
    world.cluster.delete_pod(&world.pod).await;
    world.until_unknown(&another).await;
    // Nobody has asked about this one, so nothing is remembered of it.
    let reason = world.refused(&unused, "caller_token_invalid").await;
    assert_eq!(reason, "caller_token_invalid/not_authenticated");
    // Ours counts for ten seconds, and the API server itself remembers as long.
    wait::until_within(Duration::from_secs(60), "the end of a remembered token", async || {
        (world.edge.get(&used).await.status == 401).then_some(())
    })
    .await;
    let reason = world.refused(&used, "caller_token_invalid").await;
    assert_eq!(reason, "caller_token_invalid/not_authenticated");
    // What the document accepts by leaving `tokenReview` out, for at most ten minutes.
    allowed(&offline.orders, &offline.get(&used).await).await;
    let reply = offline.get(&unused).await;
    let record = refused(&offline.gateway, &reply, "caller_token_invalid").await;
    assert_eq!(record["reason"], "caller_token_invalid/life", "{record}");
}

/// Genuine tokens that are for something else, and changed ones under the cluster's own key.
#[tokio::test]
async fn attack_misuses_service_account_tokens() {
    let Some(world) = World::start("attack_misuses_service_account_tokens", Ask::Both).await else {
        return;
    };
    let Pod { namespace, account, .. } = &world.pod;
    let own = |audiences: &'static [&'static str], pod| {
        world.cluster.token(namespace, account, audiences, pod, 600)
    };
    let bad = "caller_token_invalid";
    for (finer, token) in [
        ("audience", own(&[], Some(&world.pod)).await),
        ("audience", own(&["vault"], Some(&world.pod)).await),
        ("audience", own(&["countersign.dev/ca"], Some(&world.pod)).await),
        ("unbound", own(&[AUDIENCE], None).await),
        ("life", world.forged(|said| said["exp"] = json!(now_s() + 365 * 86_400)).await),
        (
            "claim",
            world
                .forged(|said| said["sub"] = json!("system:serviceaccount:kube-system:default"))
                .await,
        ),
        ("subject", world.forged(|said| said["sub"] = json!("system:admin")).await),
    ] {
        assert_eq!(world.refused(&token, bad).await, format!("{bad}/{finer}"));
    }
    let ended = world.forged(|said| {
        said["iat"] = json!(now_s() - 900);
        said["nbf"] = json!(now_s() - 900);
        said["exp"] = json!(now_s() - 300);
    });
    assert_eq!(world.refused(&ended.await, "caller_token_expired").await, "caller_token_expired");
    // Signed by nobody we know, and with the header twisted: the API server is never asked.
    let sound = world.token(600).await;
    let mut parts: Vec<String> = sound.split('.').map(str::to_owned).collect();
    let head =
        |alg: &str, kid: &str| URL_SAFE_NO_PAD.encode(json!({"alg": alg, "kid": kid}).to_string());
    let kid = {
        let header = URL_SAFE_NO_PAD.decode(&parts[0]).unwrap();
        serde_json::from_slice::<Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
    };
    for (finer, header) in [
        ("algorithm", head("none", &kid)),
        ("algorithm", head("HS256", &kid)),
        ("algorithm", head("ES256", &kid)),
        ("key_unknown", head("RS256", "other")),
    ] {
        parts[0] = header;
        assert_eq!(world.refused(&parts.join("."), bad).await, format!("{bad}/{finer}"));
    }
    let mut said = claims(&sound);
    said["jti"] = json!("another");
    let payload = URL_SAFE_NO_PAD.encode(said.to_string());
    let changed = format!("{}.{payload}.{}", head("RS256", &kid), parts[2]);
    assert_eq!(world.refused(&changed, bad).await, format!("{bad}/signature"));
    // Another issuer's is nobody's here.
    let other = world.forged(|said| said["iss"] = json!("https://other.example.com")).await;
    let reply = world.edge.get(&other).await;
    refused(&world.edge.gateway, &reply, "user_token_invalid").await;
    // Two credentials in one request.
    let call = Call::get(API, PATH).bearer(&sound).bearer(&sound);
    refused(&world.edge.gateway, &world.edge.call(call).await, "user_token_malformed").await;
    assert!(world.edge.app.seen().is_empty(), "{:?}", world.edge.app.seen());
    allowed(&world.edge.orders, &world.edge.get(&sound).await).await;
}

/// A token that was overheard, at the places where it is no credential.
#[tokio::test]
async fn attack_replays_service_account_token_elsewhere() {
    let Some(world) = World::start("attack_replays_service_account_token", Ask::Keys).await else {
        return;
    };
    let token = world.token(600).await;
    let edge = &world.edge;
    allowed(&edge.orders, &edge.get(&token).await).await;
    let served = edge.app.seen().len();
    // Without TLS anybody on the way has it; that it is known already does not help.
    let config = std::fs::read_to_string(&edge.gateway.file).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    let plain = config["spec"]["listeners"]["gateway"][1]["address"].as_str().unwrap();
    let reply = client::call(plain.parse().unwrap(), Call::get(API, PATH).bearer(&token)).await;
    let record = refused(&edge.gateway, &reply, "caller_token_invalid").await;
    assert_eq!(record["reason"], "caller_token_invalid/plaintext", "{record}");
    // At a sidecar it is a header like any other, and no context.
    let gateway = edge.lab.gateway.leaf().clone();
    let mut peer = edge.lab.peer(&edge.orders, &gateway).await;
    let reply = peer.send(Call::get("orders.shop", PATH).bearer(&token)).await.unwrap();
    refused(&edge.orders, &reply, "token_missing").await;
    let reply = peer.send(Call::get("orders.shop", PATH).context(&token)).await.unwrap();
    assert!([400, 401].contains(&reply.status), "{} {}", reply.status, reply.text());
    assert_eq!(edge.app.seen().len(), served);
    for (result, least) in [("ok", 1.0), ("plaintext", 1.0)] {
        let label = format!("result=\"{result}\"");
        edge.gateway.metric_reaches("countersign_caller_tokens_total", &[&label], least).await;
    }
}

/// A pod, or a service account, that no longer counts although the API server says yes.
#[tokio::test]
async fn attack_calls_with_token_of_revoked_pod() {
    let Some(world) = World::start("attack_calls_with_token_of_revoked_pod", Ask::Both).await
    else {
        return;
    };
    let token = world.token(600).await;
    let until = async |status: u16| {
        wait::until("the revocation", async || {
            (world.edge.get(&token).await.status == status).then_some(())
        })
        .await;
    };
    until(200).await;
    world.edge.revoke(json!({"pods": [{"uid": world.pod.uid}]}));
    until(401).await;
    let reason = world.refused(&token, "caller_token_invalid").await;
    assert_eq!(reason, "caller_token_invalid/revoked");
    world.edge.revoke(json!({}));
    until(200).await;
    world.edge.revoke(json!({"identities": [
        {"spiffeId": id_of(&world.pod), "issuedBefore": "2126-01-01T00:00:00Z"},
    ]}));
    until(401).await;
    assert_eq!(world.refused(&token, "caller_token_invalid").await, reason);
}

/// A gateway that asks this server, with the lab's CA in its trust.
async fn asking(world: &World, server: &str, ca: &Path, own: &Path) -> Edge {
    let review = json!({"server": server, "ca": ca, "tokenFile": own});
    let callers = json!({"serviceAccountToken": {
        "issuer": world.cluster.issuer(), "tokenReview": review, "grants": ["orders.read"],
    }});
    Edge::start(callers, &[id_of(&world.pod)]).await
}

/// Whoever is to be asked is away, slow, confused, or does not let us ask: nobody gets in.
#[tokio::test]
async fn attack_calls_while_nobody_can_review_tokens() {
    let Some(world) = World::start("attack_calls_while_nobody_can_review", Ask::Review).await
    else {
        return;
    };
    let (lab, token) = (&world.edge.lab, world.token(600).await);
    let ca = lab.ca.write_bundle(lab.folder(), "server-ca");
    let leaf = lab.ca.issue(Request::new(&[]).dns("localhost"));
    let server = || tls::public_server(&leaf, &[b"http/1.1"]);
    let nonsense = App::tls_mirror(server());
    let slow = App::tls(server(), |_| Box::pin(std::future::pending()));
    let closed = countersign_integration::ports::free();
    let may = own_token(world.cluster, lab.folder(), true).await;
    let may_not = own_token(world.cluster, lab.folder(), false).await;
    let away = lab.folder().join("no-such-token");
    let url = |port: u16| format!("https://localhost:{port}");
    let real = world.cluster.ca_file();
    for (what, said, server, ca, own) in [
        ("nobody listens", "cannot connect", url(closed.port()), &ca, &may),
        ("not a TokenReview", "of no use", url(nonsense.address.port()), &ca, &may),
        ("silent", "no answer to a TokenReview", url(slow.address.port()), &ca, &may),
        ("no right to ask", "system:auth-delegator", world.cluster.url(), &real, &may_not),
        ("not the real one", "not signed by an authority", world.cluster.url(), &ca, &may),
        ("no token of our own", "no-such-token", world.cluster.url(), &real, &away),
    ] {
        let edge = asking(&world, &server, ca, own).await;
        let reply = edge.get(&token).await;
        let record = refused(&edge.gateway, &reply, "caller_unverifiable").await;
        assert_eq!(record["stage"], "identify", "{what}: {record}");
        let admin = format!("http://{}", edge.gateway.admin_address());
        let mut why = Command::new(programs::cli());
        let told = process::run(why.args(["why", "--admin", &admin, &reply.decision()]));
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.contains(said), "{what}: {told}");
        assert!(edge.app.seen().is_empty(), "{what}");
    }
    // The question goes to the server as Kubernetes spells it, with our own token.
    let asked = nonsense.last();
    assert_eq!(asked.target, "/apis/authentication.k8s.io/v1/tokenreviews");
    let own = std::fs::read_to_string(&may).unwrap();
    assert_eq!(asked.header("authorization"), Some(&*format!("Bearer {}", own.trim())));
    allowed(&world.edge.orders, &world.edge.get(&token).await).await;
}

/// The document says what a caller may get, and which services a rule means.
#[tokio::test]
async fn a_caller_gets_what_the_document_grants() {
    let Some(cluster) = shared("a_caller_gets_what_the_document_grants").await else { return };
    let (files, pod) = (tempfile::tempdir().unwrap(), pod(cluster).await);
    let token = cluster.pod_token(&pod, &[AUDIENCE]).await;
    let mut callers = callers(cluster, files.path(), Ask::Both).await;
    callers["serviceAccountToken"]["grants"] = json!(["orders.write"]);
    let edge = Edge::start(callers.clone(), &[id_of(&pod)]).await;
    let record = refused(&edge.gateway, &edge.get(&token).await, "mint_rule_missing").await;
    assert_eq!(record["reason"], "mint_rule_missing/scope", "{record}");

    callers["serviceAccountToken"]["grants"] = json!(["orders.read"]);
    let others = ["spiffe://lab.test/ns/other/**".to_owned()];
    let edge = Edge::start(callers, &others).await;
    let reply = edge.get(&token).await;
    let record = refused(&edge.orders, &reply, "policy_denied").await;
    assert_eq!(record["svc"]["id"], id_of(&pod), "{record}");
    let admin = format!("http://{}", edge.orders.admin_address());
    let mut why = Command::new(programs::cli());
    let told = process::run(why.args(["why", "--admin", &admin, &reply.decision()]));
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains(&format!("made for the service {}", id_of(&pod))), "{told}");
    assert!(told.contains("spiffe://lab.test/ns/other/**"), "{told}");
}
