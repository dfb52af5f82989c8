//! Context tokens and other implementations of JOSE: Envoy's `jwt_authn` and PyJWT verify ours from the
//! published key set, and what PyJWT makes counts here.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_integration::client::{Call, Conn};
use countersign_integration::outcome::{allowed, refused};
use countersign_integration::process::{self, Process};
use countersign_integration::token::Tokens;
use countersign_integration::{App, Authority, Leaf, ports, programs, tls, wait};
use serde_json::{Value, json};

use super::issuers::stage::{RAW, Setting, Stage, header, kid};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

fn generated() -> Value {
    json!({"keys": "generated"})
}

/// Envoy as a workload of the mesh without a sidecar of ours: it ends the gateway's mutual TLS with an
/// SVID, lets `jwt_authn` verify `Txn-Token` by the key set it fetches from the gateway, and calls
/// the app.
struct Envoy {
    process: Process,
    at: SocketAddr,
}

impl Envoy {
    async fn start(stage: &Stage, app: SocketAddr, keys_at: SocketAddr, program: &Path) -> Envoy {
        let at = ports::free();
        let folder = stage.lab.folder();
        let (certificate, key) = stage.lab.ca.leaf("shop", "raw").write(folder, "envoy");
        let files = [certificate, key, folder.join("bundle.pem")];
        let config = configuration(stage, at, app, (keys_at, &files));
        let path = stage.lab.write("envoy.json", &config);
        let mut command = Command::new(program);
        command.arg("-c").arg(path).args(["--concurrency", "1", "--disable-hot-restart"]);
        command.args(["--log-level", "info"]);
        let process = Process::start("envoy", command, folder);
        wait::until("Envoy", async || {
            assert!(process.exit_status().is_none(), "{}", process.tail());
            tokio::net::TcpStream::connect(at).await.ok().map(|_| ())
        })
        .await;
        Envoy { process, at }
    }
}

fn configuration(
    stage: &Stage,
    at: SocketAddr,
    app: SocketAddr,
    (keys_at, files): (SocketAddr, &[PathBuf; 3]),
) -> Value {
    let common = |alpn: &str| {
        json!({
            "alpn_protocols": [alpn],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{"certificate_chain": {"filename": files[0]},
                "private_key": {"filename": files[1]}}],
            "validation_context": {"trusted_ca": {"filename": files[2]},
                "match_typed_subject_alt_names":
                    [{"san_type": "URI", "matcher": {"exact": stage.issuer()}}]},
        })
    };
    let down = json!({"@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true, "common_tls_context": common("countersign/h2")});
    // The gateway's own port ends TLS of clients that have a certificate and no sidecar.
    let up = json!({"@type": format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"),
        "common_tls_context": common("http/1.1")});
    let provider = json!({
        "issuer": stage.issuer(), "audiences": [stage.domain()],
        "from_headers": [{"name": "txn-token"}], "forward": true,
        "claim_to_headers": [{"header_name": "x-envoy-verified-sub", "claim_name": "sub"},
            {"header_name": "x-envoy-verified-txn", "claim_name": "txn"}],
        "remote_jwks": {"cache_duration": "1s", "http_uri": {
            "uri": "https://gateway.edge/.well-known/jwks.json", "cluster": "keys",
            "timeout": "5s"}},
    });
    let filters = json!([
        {"name": "envoy.filters.http.jwt_authn", "typed_config": {
            "@type": format!("{TYPES}.filters.http.jwt_authn.v3.JwtAuthentication"),
            "providers": {"countersign": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "countersign"}}]}},
        {"name": "envoy.filters.http.router", "typed_config":
            {"@type": format!("{TYPES}.filters.http.router.v3.Router")}},
    ]);
    let manager = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "in", "codec_type": "HTTP2", "http_filters": filters,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes":
            [{"match": {"prefix": "/"}, "route": {"cluster": "app"}}]}]},
    }});
    let listener = json!({"name": "in", "address": socket(at), "filter_chains": [{
        "filters": [manager], "transport_socket": {"name": "tls", "typed_config": down}}]});
    let cluster = |name: &str, at: SocketAddr| {
        json!({"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(at)}}]}]}})
    };
    let mut keys = cluster("keys", keys_at);
    keys["transport_socket"] = json!({"name": "tls", "typed_config": up});
    json!({"static_resources": {"listeners": [listener], "clusters": [cluster("app", app), keys]}})
}

fn socket(at: SocketAddr) -> Value {
    json!({"socket_address": {"address": at.ip(), "port_value": at.port()}})
}

/// From end to end: the gateway mints, Envoy fetches the gateway's keys over mutual TLS and verifies;
/// what was changed on the way, made by somebody else, or signed with a key that is gone, it refuses.
#[tokio::test]
async fn envoy_verifies_our_tokens_from_the_published_keys() {
    let test = "envoy_verifies_our_tokens_from_the_published_keys";
    let Some(program) = programs::of_testbed(test, "envoy") else { return };
    let stage = Stage::new(Setting::default()).await;
    let spec = stage.gateway_spec(0, generated());
    let spec = spec.with(|config| config["app"][0]["tls"] = json!("terminate"));
    let gateway = spec.start().await;
    let app = App::mirror();
    let envoy = Envoy::start(&stage, app.address, gateway.inbound(), &program).await;
    stage.change_mesh(|spec| {
        let destinations = spec["destinations"].as_array_mut().unwrap();
        let raw = destinations.iter_mut().find(|one| one["name"] == "raw").unwrap();
        raw["spec"]["endpoints"][0]["port"] = json!(envoy.at.port());
    });
    // By certificate too, for Envoy looks for the key in the whole set then; by name at last.
    let reply = wait::until("Envoy to see a token by name", async || {
        let reply = stage.ask(&gateway, RAW).await;
        if reply.status != 200 {
            return None;
        }
        // Until the documents are in force the gateway still calls the server of the test.
        reply.seen("x-envoy-verified-sub")?;
        let token = reply.seen("txn-token")?;
        kid(&token).map(|_| reply)
    })
    .await;
    assert_eq!(reply.seen("x-envoy-verified-sub").as_deref(), Some("user:alice"));
    let token = reply.seen("txn-token").unwrap();
    let txn = reply.seen("x-envoy-verified-txn").unwrap();
    wait::until_true("the record of the token", || {
        gateway.audit().iter().any(|record| record.to_string().contains(&txn))
    })
    .await;

    let seen = app.seen().len();
    let mut conn = envoy_as_gateway(&stage, &envoy).await;
    let mut ask = async |token: &str| {
        let call = Call::get("raw.shop", "/v1/users/alice/orders").context(token);
        conn.send(call).await.unwrap().status
    };
    assert_eq!(ask(&token).await, 200, "Envoy knows no custody: that is what sidecars are for");
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (head, claims) = signed.split_once('.').unwrap();
    let other = format!("{head}.{}.{signature}", claims.replacen('e', "f", 1));
    assert_eq!(ask(&other).await, 401);
    let thief = Tokens::of(&Authority::new(stage.domain()), "edge", "gateway");
    let own = thief.claims(&stage.lab.id("shop", "raw"));
    assert_eq!(ask(&thief.sign_with(&header(&token), &own)).await, 401);
    assert_eq!(app.seen().len(), seen + 1);
    assert!(envoy.process.exit_status().is_none());
}

async fn envoy_as_gateway(stage: &Stage, envoy: &Envoy) -> Conn {
    let leaf: &Leaf = stage.lab.gateway.leaf();
    Conn::tls(envoy.at, tls::client(Some(leaf), &[tls::MESH_H2])).await.unwrap()
}

/// Runs `pyjwt.py` and gives what it printed.
fn pyjwt(python: &Path, what: &str, given: &Value) -> Value {
    let script =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/context/interop/pyjwt.py");
    let mut command = Command::new(python);
    command.arg("-B").arg(script).arg(what);
    let done = process::run_with(&mut command, &given.to_string());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// PyJWT finds the key of a token in the published set by its name, and verifies ES256 and Ed25519.
#[tokio::test]
async fn pyjwt_verifies_our_tokens_from_the_published_keys() {
    let test = "pyjwt_verifies_our_tokens_from_the_published_keys";
    let Some(python) = programs::python(test) else { return };
    let stage = Stage::new(Setting::default()).await;
    let gateway = stage.gateway(0, generated()).await;
    let token = stage.until_signed_by_another(&gateway, None).await;
    let jwks = stage.published(0, "/.well-known/jwks.json").await;
    let given = json!({"token": token, "jwks": jwks, "audience": stage.domain(),
        "issuer": stage.issuer()});
    let told = pyjwt(&python, "verify", &given);
    assert_eq!(told["claims"]["sub"], "user:alice", "{told}");
    assert_eq!(told["claims"]["rctx"]["to"], stage.lab.id("shop", "raw"));
    assert_eq!(told["header"], header(&token));
    // The same with everything a verifier must not let pass.
    let (signed, signature) = token.rsplit_once('.').unwrap();
    for (what, value) in [
        ("audience", json!("other.test")),
        ("issuer", json!("spiffe://lab.test/ns/edge/sa/other")),
        ("token", json!(format!("{}.{signature}", signed.replacen("ey", "ez", 1)))),
    ] {
        let mut bad = given.clone();
        bad[what] = value;
        assert!(pyjwt(&python, "verify", &bad)["refused"].is_string(), "{what}");
    }
}

/// A token that PyJWT made, by the rules of the profile, with a key that is in a file of keys; and the
/// same with one rule broken.
#[tokio::test]
async fn what_pyjwt_makes_counts_here() {
    let Some(python) = programs::python("what_pyjwt_makes_counts_here") else { return };
    let stage = Stage::new(Setting::default()).await;
    let issuer = &stage.lab.gateway;
    let file = stage.lab.write("issuer.json", &json!({"keys": [issuer.jwk()]}));
    stage.change_mesh(|spec| {
        spec["context"]["issuers"][0]["jwks"] = json!({"file": file});
    });
    let claims = issuer.claims(&stage.lab.id("shop", "raw"));
    let make = |header: &Value, claims: &Value| {
        let given = json!({"key": issuer.leaf().key_pem, "header": header, "claims": claims});
        pyjwt(&python, "mint", &given)["token"].as_str().unwrap().to_owned()
    };
    let sound = make(&issuer.header_by_kid(), &claims);
    let reply = wait::until("the documents", async || {
        Some(stage.present(&sound).await).filter(|reply| reply.status == 200)
    })
    .await;
    allowed(&stage.orders, &reply).await;
    assert_eq!(reply.seen("countersign-user").as_deref(), Some("alice"));

    let mut typ = issuer.header_by_kid();
    typ["typ"] = json!("JWT");
    refused(&stage.orders, &stage.present(&make(&typ, &claims)).await, "token_malformed").await;
    let mut more = issuer.header_by_kid();
    more["cty"] = json!("JWT");
    refused(&stage.orders, &stage.present(&make(&more, &claims)).await, "token_malformed").await;
    let mut many = claims.clone();
    many["aud"] = json!([stage.domain(), "other.test"]);
    let many = make(&issuer.header_by_kid(), &many);
    let reply = stage.present(&many).await;
    assert!(reply.status >= 400, "{}", reply.text());
}
