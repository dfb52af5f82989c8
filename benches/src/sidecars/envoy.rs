//! The reference: two Envoys, configured for the same job with what Envoy has for it.
//! A: HTTP listener, mTLS HTTP/2 upstream that expects B's SPIFFE ID. B: mTLS listener that
//! demands a client certificate, `jwt_authn` with a local key set (no cache: the default), RBAC
//! on A's SPIFFE ID. One worker each, circuit breakers out of the way, no access log.
//!
//! A and B have a listener per protocol, because B cannot tell what the client spoke to A.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use countersign_config::env;
use serde_json::{Value, json};

use super::process::Proxy;
use super::{Make, Pair, RULES, Setting, Variant, free_port, write_json};
use crate::load::{Protocol, Target};
use crate::pki::{GATEWAY_ID, Leaf, ORDERS_ID, Pki, TRUST_DOMAIN};

const HTTP_MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const HTTP_OPTIONS: &str =
    "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const JWT: &str =
    "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
pub(super) const TLS_DOWN: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
pub(super) const TLS_UP: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// Starts both Envoys. The caller has pinned this thread to the core they shall use.
pub(super) fn start(make: Make, variant: Variant, setting: &Setting) -> Result<Pair> {
    let (a_h1, a_h2, b_h1, b_h2) = (free_port()?, free_port()?, free_port()?, free_port()?);
    let b = inbound(variant, setting, [b_h1, b_h2]);
    let between = if make == Make::EnvoyHttp1 { Protocol::H1 } else { Protocol::H2 };
    let up = |protocol| {
        let pki = &setting.pki;
        tls(TLS_UP, pki, &pki.gateway, ORDERS_ID, &[alpn(protocol)])
    };
    let a = json!({"static_resources": {
        "listeners": [
            listener("h1", a_h1, vec![router()], None),
            listener("h2", a_h2, vec![router()], None),
        ],
        "clusters": [
            cluster("h1", b_h1, between, Some(up(between))),
            cluster("h2", b_h2, Protocol::H2, Some(up(Protocol::H2))),
        ],
    }});
    let start = |role: &str, base_id: u32, config: &Value| {
        let name = format!("{}-{variant:?}-{role}", make.name());
        Proxy::start(&name, &mut command(&name, base_id, config, setting)?, &setting.work)
    };
    let tokens = variant.tokens(setting).cloned();
    let target =
        |address, protocol| Target { address, protocol, tokens: tokens.clone(), pod: None };
    let b = start("b", 4702, &b)?;
    let a = start("a", 4701, &a)?;
    let (h1, h2) = (target(a_h1, Protocol::H1), target(a_h2, Protocol::H2));
    Ok(Pair::explicit(vec![a, b], h1, h2, Vec::new()))
}

/// The configuration of B, with a listener for each protocol that the client speaks to A.
pub(super) fn inbound(variant: Variant, setting: &Setting, [h1, h2]: [SocketAddr; 2]) -> Value {
    let server = setting.server;
    let filters =
        || inbound_filters(variant.tokens(setting).map(|tokens| tokens.jwks()), GATEWAY_ID);
    json!({"static_resources": {
        "listeners": [
            listener("h1", h1, filters(), Some(tls_down(&setting.pki))),
            listener("h2", h2, filters(), Some(tls_down(&setting.pki))),
        ],
        "clusters": [
            cluster("h1", server, Protocol::H1, None),
            cluster("h2", server, variant.server_protocol(Protocol::H2), None),
        ],
    }})
}

/// What starts one Envoy, one worker, with its configuration in `work/NAME.json`.
pub(super) fn command(
    name: &str,
    base_id: u32,
    config: &Value,
    setting: &Setting,
) -> Result<Command> {
    let path = setting.work.join(format!("{name}.json"));
    write_json(&path, config)?;
    let mut command = Command::new(program(setting.envoy.as_deref())?);
    command.arg("-c").arg(&path);
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]);
    command.args(["--base-id", &base_id.to_string()]);
    Ok(command)
}

/// A listener on `address` whose requests all go to the cluster of the same name.
pub(super) fn listener(
    name: &str,
    address: SocketAddr,
    filters: Vec<Value>,
    tls: Option<Value>,
) -> Value {
    let chain = http_chain(name, filters, tls);
    json!({"name": name, "address": socket(address), "filter_chains": [chain]})
}

/// A filter chain whose requests all go to the cluster of the same name.
pub(super) fn http_chain(name: &str, filters: Vec<Value>, tls: Option<Value>) -> Value {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "0s"}});
    let mut chain = json!({"filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": HTTP_MANAGER, "stat_prefix": name, "codec_type": "AUTO",
            "http_filters": filters,
            "route_config": {"virtual_hosts":
                [{"name": name, "domains": ["*"], "routes": [route]}]},
        },
    }]});
    if let Some(tls) = tls {
        chain["transport_socket"] = transport_socket(tls);
    }
    chain
}

/// What TLS says for a protocol.
pub(super) fn alpn(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::H1 => "http/1.1",
        Protocol::H2 | Protocol::Grpc => "h2",
    }
}

pub(super) fn cluster(
    name: &str,
    address: SocketAddr,
    protocol: Protocol,
    tls: Option<Value>,
) -> Value {
    let options = match protocol {
        Protocol::H1 => json!({"http_protocol_options": {}}),
        Protocol::H2 | Protocol::Grpc => json!({"http2_protocol_options": {}}),
    };
    let no_limit = 1_000_000;
    let mut cluster = json!({
        "name": name, "type": "STATIC", "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{"max_connections": no_limit,
            "max_pending_requests": no_limit, "max_requests": no_limit}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions":
                {"@type": HTTP_OPTIONS, "explicit_http_config": options},
        },
        "load_assignment": {"cluster_name": name, "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": socket(address)}}]}]},
    });
    if let Some(tls) = tls {
        cluster["transport_socket"] = transport_socket(tls);
    }
    cluster
}

/// What B does for `caller`, with a token where there are keys.
pub(super) fn inbound_filters(jwks: Option<&str>, caller: &str) -> Vec<Value> {
    let rbac = json!({"name": "envoy.filters.http.rbac", "typed_config":
        {"@type": RBAC, "rules": {"action": "ALLOW", "policies": policies(caller)}}});
    jwks.map(jwt_authn).into_iter().chain([rbac, router()]).collect()
}

fn jwt_authn(jwks: &str) -> Value {
    let provider = json!({"issuer": GATEWAY_ID, "audiences": [TRUST_DOMAIN], "forward": true,
        "local_jwks": {"inline_string": jwks}});
    json!({"name": "envoy.filters.http.jwt_authn", "typed_config": {
        "@type": JWT, "providers": {"bench": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}],
    }})
}

/// [`RULES`] policies by name; only the last one, in Envoy's order too, permits the requests.
///
/// Methods are compared as text, as Istio writes them: a regular expression would cost Envoy more.
fn policies(permitted: &str) -> Value {
    let method =
        |name: &str| json!({"header": {"name": ":method", "string_match": {"exact": name}}});
    let methods = ["GET", "POST"].map(method);
    let policy = |caller: &str, path: &str| {
        json!({
            "permissions": [{"and_rules": {"rules": [
                {"or_rules": {"rules": methods}},
                {"url_path": {"path": {"safe_regex": {"regex": path}}}},
            ]}}],
            "principals": [{"authenticated": {"principal_name": {"exact": caller}}}],
        })
    };
    let mut policies = serde_json::Map::new();
    for rule in 1..RULES {
        let caller = format!("spiffe://{TRUST_DOMAIN}/ns/other/sa/caller-{rule}");
        policies.insert(
            format!("rule-{rule:02}"),
            policy(&caller, &format!("/v{rule}/users/[^/]+/orders")),
        );
    }
    policies.insert("rule-99".into(), policy(permitted, "/v1/users/[^/]+/orders"));
    Value::Object(policies)
}

pub(super) fn router() -> Value {
    json!({"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}})
}

pub(super) fn tls_down(pki: &Pki) -> Value {
    tls(TLS_DOWN, pki, &pki.orders, GATEWAY_ID, &["h2", "http/1.1"])
}

pub(super) fn tls_up(pki: &Pki) -> Value {
    tls(TLS_UP, pki, &pki.gateway, ORDERS_ID, &["h2"])
}

/// One side of mTLS 1.3, for a peer of this SPIFFE ID.
pub(super) fn tls(side: &str, pki: &Pki, own: &Leaf, peer: &str, protocols: &[&str]) -> Value {
    let common = json!({
        "alpn_protocols": protocols,
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3", "ecdh_curves": ["X25519"]},
        "tls_certificates": [{"certificate_chain": {"filename": own.certificate},
            "private_key": {"filename": own.key}}],
        "validation_context": {"trusted_ca": {"filename": pki.bundle},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}]},
    });
    let mut socket = json!({"@type": side, "common_tls_context": common});
    if side == TLS_DOWN {
        socket["require_client_certificate"] = json!(true);
    }
    socket
}

pub(super) fn transport_socket(tls: Value) -> Value {
    json!({"name": "envoy.transport_sockets.tls", "typed_config": tls})
}

pub(super) fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// The executable: the one named, else the one of the test-bed.
fn program(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = named {
        let found = path.is_file().then(|| path.to_path_buf());
        return found.with_context(|| format!("{} is not a file", path.display()));
    }
    let cache = cache().context("neither COUNTERSIGN_CACHE nor HOME is set")?;
    find(&cache.join("py/lib")).with_context(|| {
        format!(
            "no Envoy in {}; install it with `cargo xtask testbed`, or name one with \
             `--envoy PATH`",
            cache.display()
        )
    })
}

/// Where `cargo xtask testbed` puts what it installs.
fn cache() -> Option<PathBuf> {
    let set = |variable: env::Variable| variable.get().map(PathBuf::from);
    set(env::COUNTERSIGN_CACHE)
        .or_else(|| Some(set(env::XDG_CACHE_HOME)?.join("countersign")))
        .or_else(|| Some(set(env::HOME)?.join(".cache/countersign")))
}

/// The real executable in the wheel, of whichever Python: the `envoy` in `bin` is a launcher, and
/// its CPU time and memory would be measured instead.
fn find(lib: &Path) -> Option<PathBuf> {
    let pythons = std::fs::read_dir(lib).ok()?.filter_map(|entry| entry.ok());
    let mut programs = pythons.map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    programs.find(|program| program.is_file())
}
