//! What a user writes and what comes back: whole files in, problems or a ready config out.

mod pages;

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use countersign_policy::doc::PortProtocol;
use countersign_policy::yaml::{self, Findings, Node, Value};
use countersign_policy::{Problems, Source};
use expect_test::{Expect, expect};

use crate::endpoint::WorkloadApiEndpoint;
use crate::identity::{FilesKey, IdentitySource, KeyPlace};
use crate::proxy::*;
use crate::reference::MESH;
use crate::signer::SignerConfig;
use crate::{check_files, document_files, fields, load_documents, read, reference};

proptest::proptest! {
    /// Whatever a file holds, the answer is a config or problems.
    #[test]
    fn no_text_makes_loading_panic(at in 0usize..900, cut in 0usize..40, text in "[ -~\n]{0,12}") {
        let example = reference::GATEWAY;
        let at = at.min(example.len());
        let end = (at + cut).min(example.len());
        let damaged = format!("{}{text}{}", &example[..at], &example[end..]);
        let folder = Folder::new();
        if let Err(Problems(found)) = ProxyConfig::load(&folder.put("proxy.yaml", &damaged)) {
            proptest::prop_assert!(!found.is_empty());
        }
    }
}

/// A folder with the day-one documents; files are added by name.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.put("mesh.yaml", MESH);
        folder
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Problems as a user reads them, without the folder's own name.
    fn shown(&self, Problems(found): &Problems) -> String {
        let folder = format!("{}/", self.0.path().display());
        let lines = found.iter().map(|d| {
            let hint = d.hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("{}:{}:{} {}: {}{hint}\n", d.file, d.line, d.column, d.code, d.message)
        });
        lines.collect::<String>().replace(&folder, "")
    }
}

fn refused(text: &str, expected: Expect) {
    let folder = Folder::new();
    let file = folder.put("proxy.yaml", text);
    let problems = ProxyConfig::load(&file).expect_err("refused");
    expected.assert_eq(&folder.shown(&problems));
}

fn spec(text: &str) -> String {
    format!("apiVersion: countersign.dev/v1alpha1\nkind: ProxyConfig\nspec:\n{text}")
}

const SIDECAR: &str = "  identity: {source: {workloadApi: {socket: agent.sock}}}
  namespace: shop
  listeners: {inbound: [{address: \"127.0.0.1:7001\"}]}
  app: [{port: 7001, address: \"127.0.0.1:7002\"}]
  documents: {files: [mesh.yaml]}
";

#[test]
fn the_sidecar_of_the_reference_loads() {
    let folder = Folder::new();
    folder.put("policies/.keep", "");
    let file = folder.put("proxy.yaml", reference::SIDECAR);
    let (config, documents) = ProxyConfig::load(&file).unwrap_or_else(|p| panic!("{p}"));
    assert_eq!(config.namespace, "shop");
    assert_eq!(
        config.identity,
        IdentitySource::WorkloadApi {
            endpoint: WorkloadApiEndpoint::Unix(PathBuf::from("/run/spire/agent.sock"))
        }
    );
    assert_eq!(config.app_address(8080), Some("127.0.0.1:3000".parse().unwrap()));
    assert_eq!(config.limits.conns_max, Some(2000));
    assert_eq!(config.limits.request_ms_max, 30_000);
    assert_eq!(config.limits.inflight_max, 4096);
    assert_eq!(config.outbound[2].destination.as_ref().unwrap().to_string(), "billing/api");
    assert!(documents.destination("billing", "api").is_some());
}

/// W-2, in a file: a path of this machine, or one of two forms of URL.
#[test]
fn w2_a_workload_api_is_a_path_or_one_of_two_urls() {
    let folder = Folder::new();
    folder.put("mesh.yaml", MESH);
    let load = |socket: &str| {
        let named = format!("socket: \"{socket}\"");
        let file = folder.put("proxy.yaml", &spec(&SIDECAR.replace("socket: agent.sock", &named)));
        ProxyConfig::load(&file).map(|(config, _)| config.identity)
    };
    for (written, shown) in [
        ("/run/agent.sock", "unix:///run/agent.sock"),
        ("unix:///run/agent.sock", "unix:///run/agent.sock"),
        ("tcp://127.0.0.1:8081", "tcp://127.0.0.1:8081"),
        ("tcp://[::1]:8081", "tcp://[::1]:8081"),
    ] {
        match load(written) {
            Ok(IdentitySource::WorkloadApi { endpoint }) => assert_eq!(endpoint.to_string(), shown),
            other => panic!("{written}: {other:?}"),
        }
    }
    for bad in
        ["unix:/run/a", "unix://run/a", "tcp://localhost:1", "http://127.0.0.1:1", "unix:///a?b"]
    {
        let problems = load(bad).unwrap_err().to_string();
        assert!(problems.contains("unix:///absolute/path or tcp://<IP>:<port>"), "{problems}");
    }
}

/// One file may hold key and certificates; the trust anchors are named always.
#[test]
fn the_key_of_an_identity_in_files_may_be_in_the_certificate_file() {
    let folder = Folder::new();
    folder.put("mesh.yaml", MESH);
    let load = |files: &str| {
        let source = SIDECAR.replace("workloadApi: {socket: agent.sock}", files);
        let file = folder.put("proxy.yaml", &spec(&source));
        ProxyConfig::load(&file).map(|(config, _)| config.identity)
    };
    let path = |name: &str| folder.0.path().join(name);
    for (written, key) in [("", None), (", key: tls.key", Some(FilesKey::File(path("tls.key"))))] {
        let found = load(&format!("files: {{certificate: id.pem, bundle: trust.pem{written}}}"));
        let (certificate, bundle) = (path("id.pem"), path("trust.pem"));
        assert_eq!(found.unwrap(), IdentitySource::Files { certificate, key, bundle });
    }
    let problems = load("files: {certificate: id.pem}").unwrap_err().to_string();
    assert!(problems.contains("bundle"), "{problems}");
}

/// A key in a token: named in full, or by what `identity.key` says for all.
#[test]
fn keys_in_tokens_are_named_by_uri() {
    let folder = Folder::new();
    folder.put("mesh.yaml", MESH);
    let load = |identity: &str| {
        let source = SIDECAR.replace("{source: {workloadApi: {socket: agent.sock}}}", identity);
        let file = folder.put("proxy.yaml", &spec(&source));
        ProxyConfig::load(&file).map(|(config, _)| config)
    };
    let files = |key: &str| {
        format!("source: {{files: {{certificate: id.pem, key: \"{key}\", bundle: trust.pem}}}}")
    };
    let token = "key: {pkcs11: {module: /usr/lib/p11-kit-client.so, token: mesh, pinFile: pin, signTimeout: 200ms}}";
    let full =
        "pkcs11:token=mesh;id=%01?module-path=/usr/lib/p11-kit-client.so&pin-source=file:pin";
    let key_of = |config: ProxyConfig| match config.identity {
        IdentitySource::Files { key: Some(FilesKey::Pkcs11(key)), .. } => key,
        other => panic!("{other:?}"),
    };
    let found = key_of(load(&format!("{{{}}}", files(full))).unwrap());
    assert_eq!(found.id.as_deref(), Some(&[1][..]));
    assert_eq!(found.token.pin_file, Some(folder.0.path().join("pin")));
    assert_eq!(found.token.sign_timeout.as_millis(), 50);
    let found = key_of(load(&format!("{{{}, {token}}}", files("pkcs11:object=orders"))).unwrap());
    assert_eq!(
        found.to_string(),
        "key \"orders\" in PKCS#11 token \"mesh\" of /usr/lib/p11-kit-client.so"
    );
    assert_eq!(found.token.sign_timeout.as_millis(), 200);
    let config = load(&format!("{{{}, {token}}}", files("pkcs11:object=orders"))).unwrap();
    assert!(matches!(config.key, KeyPlace::Pkcs11(token) if token == found.token));

    for (identity, says) in [
        (files("pkcs11:object=a"), "which PKCS#11 module"),
        (files("pkcs11:token=a?module-path=/m.so"), "names a token, and a key"),
        (files("pkcs11:object=a?pin-value=1"), "a PIN does not belong"),
        (
            format!("{}, {token}", files("key.pem")),
            "never used: the key of these files is in a file",
        ),
        (
            format!("source: {{workloadApi: {{socket: a.sock}}}}, {token}"),
            "never used: the Workload API delivers its own key",
        ),
        (
            format!(
                "{}, {}",
                files("pkcs11:object=a"),
                token.replace("mesh", "\"pkcs11:object=x\"")
            ),
            "names a key, and a token",
        ),
        (
            format!("{}, {}", files("pkcs11:object=a"), token.replace("200ms", "2s")),
            "from 1ms to 1000ms",
        ),
    ] {
        let problems = load(&format!("{{{identity}}}")).unwrap_err().to_string();
        assert!(problems.contains(says), "{identity}: {problems}");
    }
}

#[test]
fn the_gateway_of_the_reference_loads() {
    let folder = Folder::new();
    let file = folder.put("proxy.yaml", reference::GATEWAY);
    let (config, _) = ProxyConfig::load(&file).unwrap_or_else(|p| panic!("{p}"));
    assert_eq!(config.gateway.len(), 2);
    assert_eq!(config.tls_groups, [TlsGroup::X25519MlKem768]);
    let relative = folder.0.path().join("id.pem");
    assert!(
        matches!(&config.identity, IdentitySource::Files { certificate, .. } if *certificate == relative)
    );
    assert_eq!(
        config.route("api.example.com", "/v1/users/7").unwrap().cors_preflight,
        CorsPreflight::Pass
    );
    assert!(config.route("api.example.com", "/v1/users2").is_none());
    assert!(config.route("other.example.com", "/v1/users").is_none());
}

/// One with another identity; `identity` starts at the margin.
fn with_identity(identity: &str) -> String {
    let indented: Vec<String> = identity.lines().map(|line| format!("  {line}")).collect();
    spec(&SIDECAR.replace(SIDECAR.lines().next().unwrap(), &indented.join("\n")))
}

#[test]
fn the_other_sources_of_the_reference_load() {
    let folder = Folder::new();
    folder.put("mesh.yaml", MESH);
    for (number, text) in reference::IDENTITIES.split("---\n").enumerate() {
        let file = folder.put(&format!("{number}.yaml"), &with_identity(text));
        let (config, _) = ProxyConfig::load(&file).unwrap_or_else(|p| panic!("{text}\n{p}"));
        assert!(config.expected_id.is_some(), "{text}");
    }
}

#[test]
fn the_vault_source_of_its_page_loads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/identity/vault.md");
    let page = fs::read_to_string(path).unwrap();
    let (_, block) = page.split_once("<!-- test: config -->\n```yaml\n").unwrap();
    let folder = Folder::new();
    folder.put("mesh.yaml", MESH);
    let file = folder.put("proxy.yaml", &with_identity(block.split("```").next().unwrap()));
    let (config, _) = ProxyConfig::load(&file).unwrap_or_else(|p| panic!("{p}"));
    assert!(matches!(&config.identity, IdentitySource::Vault(role) if role.life_s == 3_600));
}

#[test]
fn a_vault_source_that_cannot_work_is_refused() {
    let refused = |more: &str, expected: Expect| {
        let folder = Folder::new();
        folder.put("mesh.yaml", MESH);
        let text = with_identity(&format!("identity:\n  source:\n    vault:\n{more}"));
        let file = folder.put("proxy.yaml", &text);
        let problems = ProxyConfig::load(&file).expect_err("refused");
        expected.assert_eq(&folder.shown(&problems));
    };
    refused(
        "      address: http://vault.example.com:8200/v1\n      mount: v1/../sys\n      role: a/b\n      \
             ttl: 2d\n      trustRefresh: 1s\n      login:\n        kubernetes: {role: orders}\n        \
             appRole: {roleId: a, secretIdFile: b}\n",
        expect![[r#"
            proxy.yaml:7:18 E013: `http://vault.example.com:8200/v1` is not the address of a server (as in `https://vault.example.com:8200`, without a path)
            proxy.yaml:8:16 E013: `v1/../sys` is not a path of the server (as in `pki` or `teams/shop/pki`, without `v1/`)
            proxy.yaml:9:15 E013: `a/b` is not the name of a role (the name alone, as in `orders`)
            proxy.yaml:10:14 E013: 172800 s is no life for a certificate (from 10 s to 86400 s; `1h` is usual)
            proxy.yaml:11:23 E013: the authorities would be asked for too often (at least 5s: every workload asks)
            proxy.yaml:13:11 E013: a vault source logs in one way (write `{kubernetes: {role: NAME, tokenFile: PATH}}`, `{jwt: …}` or `{appRole: {roleId: ID, secretIdFile: PATH}}`)
        "#]],
    );
    refused(
        "      address: http://10.0.0.1:8200\n      role: orders\n      login:\n        appRole: {}\n",
        expect![[r#"
            proxy.yaml:7:18 E013: `http://10.0.0.1:8200`: credentials would travel unprotected (`https`; plain `http` only to an agent on loopback)
            proxy.yaml:10:20 E013: `vault.login.appRole` needs `secretIdFile`
            proxy.yaml:10:20 E013: an `appRole` login has one role id (`roleId: ID` or `roleIdFile: PATH`)
        "#]],
    );
    refused(
        "      address: http://127.0.0.1:8200\n      role: orders\n      login:\n        jwt: {role: orders, tokenFile: t}\n    files: {certificate: a, key: b, bundle: c}\n",
        expect![[r#"
            proxy.yaml:6:7 E013: an identity has one source, here are several (keep `files` or `vault`)
        "#]],
    );
    refused(
        "      address: http://127.0.0.1:8200\n      role: orders\n      login:\n        jwt: {role: orders, tokenFile: t}\n",
        expect![[r#"
            proxy.yaml:5:5 E013: `vault` does not know who this process is (write `expectedId: spiffe://…`: the role signs the name that is asked for)
        "#]],
    );
}

/// Whole documents in a page written by hand.
fn blocks(page: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let text = fs::read_to_string(path).unwrap();
    let yaml = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    yaml.filter(|block| block.starts_with("apiVersion")).map(str::to_owned).collect()
}

#[test]
fn documents_in_the_docs_load() {
    let folder = Folder::new();
    folder.put("policies/.keep", "");
    folder.put("mesh.yaml", MESH);
    let pages = ["interception.md", "identity/files.md", "identity/spire.md"].map(blocks);
    assert!(pages.iter().all(|processes| !processes.is_empty()));
    for block in pages.into_iter().flatten().filter(|block| block.contains("kind: ProxyConfig")) {
        let file = folder.put("proxy.yaml", &block);
        ProxyConfig::load(&file).unwrap_or_else(|problems| panic!("{block}\n{problems}"));
    }
    let mesh = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policy/cases/mesh.yaml");
    let folder = Folder::new();
    folder.put("mesh.yaml", &fs::read_to_string(mesh).unwrap());
    for (number, block) in blocks("policy.md").iter().enumerate() {
        if !block.contains("kind: PolicyTest") {
            folder.put(&format!("{number}.yaml"), block);
        }
    }
    let documents =
        load_documents(&[folder.0.path().to_path_buf()]).unwrap_or_else(|p| panic!("{p}"));
    assert!(!documents.access.is_empty() && !documents.destinations.is_empty());
}

#[test]
fn the_two_documents_of_day_one_load_without_warnings() {
    let folder = Folder::new();
    folder.put("orders.yaml", reference::ORDERS);
    let documents =
        load_documents(&[folder.0.path().to_path_buf()]).unwrap_or_else(|p| panic!("{p}"));
    assert_eq!(documents.access.len(), 1);
    assert_eq!(documents.warnings, []);
}

#[test]
fn the_longest_prefix_wins_and_a_named_host_wins_first() {
    let route = |host: Option<&str>, prefix: &str, name: &str| Route {
        host: host.map(str::to_owned),
        prefix: prefix.to_owned(),
        destination: DestinationRef {
            namespace: "a".to_owned(),
            name: name.to_owned(),
            port: None,
        },
        cors_preflight: CorsPreflight::Authenticate,
    };
    let folder = Folder::new();
    let (mut config, _) = ProxyConfig::load(&folder.put("p.yaml", &spec(SIDECAR))).unwrap();
    config.routes = vec![
        route(None, "/", "all"),
        route(None, "/v1/orders", "orders"),
        route(Some("x.example"), "/", "x"),
    ];
    let found =
        |host: &str, path: &str| config.route(host, path).map(|r| r.destination.name.as_str());
    assert_eq!(found("y.example", "/v2"), Some("all"));
    assert_eq!(found("y.example", "/v1/orders/7"), Some("orders"));
    assert_eq!(found("x.example", "/v1/orders/7"), Some("x"));
}

#[test]
fn all_problems_of_all_files_come_at_once() {
    let folder = Folder::new();
    folder.put("mesh.yaml", &MESH.replace("trustDomain", "trustDomian"));
    let text =
        SIDECAR.replace("workloadApi", "workloadAPI").replace("127.0.0.1:7001", "localhost:7001");
    let text = format!("{text}  limtis: {{CONNS_MAX: 3}}\n  workers: many\n");
    let file = folder.put("proxy.yaml", &spec(&text));
    let problems = ProxyConfig::load(&file).expect_err("refused");
    expect![[r#"
        proxy.yaml:4:23 E013: unknown field `workloadAPI` in `identity.source` (did you mean `workloadApi`?)
        proxy.yaml:6:35 E013: `localhost:7001` has a name, not an IP address (write `127.0.0.1:7001`)
        proxy.yaml:9:3 E013: unknown field `limtis` in `spec` (did you mean `limits`?)
        proxy.yaml:10:12 E013: a whole number from 1 to 256 was expected, not `many`
        mesh.yaml:5:3 E013: MeshConfig needs `trustDomain`
        mesh.yaml:5:3 E013: unknown field `trustDomian` in MeshConfig (did you mean `trustDomain`?)
    "#]].assert_eq(&folder.shown(&problems));
}

#[test]
fn references_to_nothing_are_named_with_the_nearest() {
    refused(
        &spec(&SIDECAR.replace(
            "7001\"}]}",
            "7001\"}], outbound: [{address: \"127.0.0.1:7003\", destination: shop/order}]}",
        )),
        expect![[r#"
            proxy.yaml:6:107 E005: there is no Destination `shop/order` (did you mean `shop/orders`?)
        "#]],
    );
}

#[test]
fn a_gateway_leads_to_requests_in_the_mesh() {
    let folder = Folder::new();
    let refused = |from: &str, to: &str| {
        folder.put("mesh.yaml", &MESH.replace(from, to));
        let problems = ProxyConfig::load(&folder.put("gateway.yaml", reference::GATEWAY));
        folder.shown(&problems.expect_err("refused"))
    };
    let tcp = refused("{port: 8080, protocol: http}", "{port: 8080, protocol: tcp}");
    expect![[r#"
        gateway.yaml:18:9 E004: `shop/orders` speaks no HTTP, and a gateway routes requests (declare its port `http` or `grpc`)
    "#]].assert_eq(&tcp);
    let ids = "mesh: {identities: [\"spiffe://prod.example.com/ns/shop/sa/orders\"]}";
    assert!(MESH.contains(ids), "{MESH}");
    let outside = refused(ids, "tls: {serverNames: [a.example.net], roots: system}");
    expect![[r#"
        gateway.yaml:18:9 E004: `shop/orders` is outside the mesh, and a gateway leads into it (let a workload of the mesh call it, with a policy of its own)
    "#]].assert_eq(&outside);
}

#[test]
fn a_destination_with_several_ports_is_named_with_one() {
    let folder = Folder::new();
    folder.put(
        "mesh.yaml",
        &MESH.replace(
            "ports: [{port: 8080, protocol: http}]",
            "ports: [{port: 8080, protocol: http}, {port: 5432, protocol: tcp}]",
        ),
    );
    let outbound = |destination: &str| {
        let listener = format!(
            "7001\"}}], outbound: [{{address: \"127.0.0.1:7003\", destination: \"{destination}\"}}]}}"
        );
        ProxyConfig::load(&folder.put("p.yaml", &spec(&SIDECAR.replace("7001\"}]}", &listener))))
    };
    let refused = |destination| folder.shown(&outbound(destination).expect_err("refused"));
    expect![[r#"
        p.yaml:6:107 E005: `shop/orders` has the ports 8080, 5432, and none of them is 80 (name one of them, as in `shop/orders:PORT`)
    "#]].assert_eq(&refused("shop/orders"));
    expect![[r#"
        p.yaml:6:107 E005: `shop/orders` has no port 8081; it has 8080, 5432 (name one of them, as in `shop/orders:PORT`)
    "#]].assert_eq(&refused("shop/orders:8081"));
    expect![[r#"
        p.yaml:6:107 E013: `shop/orders:x` does not name a Destination (write `namespace/name`, as in `shop/orders`, or `shop/orders:8080`)
    "#]].assert_eq(&refused("shop/orders:x"));
    let (config, _) = outbound("shop/orders:5432").unwrap();
    assert_eq!(config.outbound[0].destination.as_ref().unwrap().to_string(), "shop/orders:5432");
}

#[test]
fn bounds_have_names_and_ceilings() {
    let limits = "  limits: {CONNS_MAXX: 1, H1_HEAD_MS_MAX: 70000, TOKEN_BYTES_MAX: 1, INFLIGHT_MAX: 0, REQUEST_MS_MAX: soon}\n";
    refused(
        &spec(&format!("{SIDECAR}{limits}")),
        expect![[r#"
        proxy.yaml:9:12 E013: there is no bound `CONNS_MAXX` (did you mean `CONNS_MAX`?)
        proxy.yaml:9:43 E013: `H1_HEAD_MS_MAX` must be a whole number from 1 to 10000, not `70000` (it may only be lowered; the default is 10000)
        proxy.yaml:9:50 E013: `TOKEN_BYTES_MAX` cannot be changed (docs/config.md says which bounds can)
        proxy.yaml:9:84 E013: `INFLIGHT_MAX` must be a whole number from 1 to 65536, not `0` (the default is 4096)
        proxy.yaml:9:103 E013: `REQUEST_MS_MAX` must be a whole number from 1 to 3600000, not `soon` (the default is 60000)
    "#]],
    );
}

#[test]
fn calls_that_would_come_back_are_refused() {
    let text = SIDECAR
        .replace("127.0.0.1:7002", "127.0.0.1:7001")
        .replace("7001\"}]}", "7001\"}], outbound: [{address: \"[::]:7001\"}]}");
    refused(
        &spec(&text),
        expect![[r#"
        proxy.yaml:6:76 P002: `listeners.outbound` would listen on [::]:7001, as `listeners.inbound` does on 127.0.0.1:7001 (give each listener its own port)
        proxy.yaml:7:9 P003: the app address 127.0.0.1:7001 is one of this process's own listeners (name the port the app itself listens on)
    "#]],
    );
}

#[test]
fn what_comes_later_is_refused_by_name() {
    let text = SIDECAR
        .replace("documents: {files: [mesh.yaml]}", "documents: {controller: {address: \"c:1\"}}");
    refused(
        &spec(&text),
        expect![[r#"
        proxy.yaml:8:15 E013: `controller` is not supported yet (remove it; it would have no effect)
    "#]],
    );
}

const CAPTURED: &str = "  identity: {source: {workloadApi: {socket: agent.sock}}}
  namespace: shop
  labels: {app: orders}
  listeners: {inbound: [{address: \"[::]:15006\", mode: redirect}], outbound: [{address: \"127.0.0.1:15001\", mode: redirect}, {address: \"[::1]:15001\", mode: redirect}]}
  documents: {files: [mesh.yaml]}
";

#[test]
fn a_redirected_pod_needs_no_app_entry() {
    let folder = Folder::new();
    let (config, _) = ProxyConfig::load(&folder.put("p.yaml", &spec(CAPTURED))).unwrap();
    assert!(config.is_captured());
    assert_eq!(config.readiness, Some("[::]:15021".parse().unwrap()));
    assert_eq!(config.interception, Interception::default());
    assert_eq!(config.tcp.after_peer_expiry_s, 86_400);
    assert_eq!(config.port_protocol(8080), None);
    assert_eq!(config.port_protocol(5432), Some(PortProtocol::Tcp));
    assert_eq!(config.app_port(8080), None);
    let (explicit, _) = ProxyConfig::load(&folder.put("p.yaml", &spec(SIDECAR))).unwrap();
    assert!(!explicit.is_captured());
    assert_eq!(explicit.readiness, None);
}

#[test]
fn the_pod_may_be_told_its_addresses_by_the_environment() {
    let text = spec(&format!("{CAPTURED}  interception: {{podIps: [\"10.0.0.9\"]}}\n"));
    let sources = [Source { name: "p.yaml", text: &text }];
    let read = |pod_ips: &str| {
        let mut findings = Findings::new(&sources);
        let nodes = yaml::documents(&mut findings, 0);
        let environment =
            read::Environment { pod_ips: Some(pod_ips.to_owned()), ..Default::default() };
        let written = read::proxy_config(Path::new("p.yaml"), &nodes, &environment, &mut findings);
        let found = findings.finish().err().map(|problems| problems.0[0].message.clone());
        (written.config.unwrap().interception.pod_ips, found)
    };
    let ips = |all: &[&str]| all.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
    assert_eq!(
        read("10.0.0.7, fd00::7,10.0.0.9"),
        (ips(&["10.0.0.7", "10.0.0.9", "fd00::7"]), None)
    );
    assert_eq!(read("::ffff:10.0.0.7").0, ips(&["10.0.0.7", "10.0.0.9"]));
    let (_, found) = read("10.0.0.7,pod");
    assert_eq!(found.as_deref(), Some("COUNTERSIGN_POD_IPS: `pod` is not an IP address"));
}

/// The variable is the standard's: its two forms and nothing more, however it is written in a file.
#[test]
fn w2_the_variable_takes_urls_only() {
    let text = spec(&SIDECAR.replace("{socket: agent.sock}", "{}"));
    let sources = [Source { name: "p.yaml", text: &text }];
    let read = |socket: Option<&str>| {
        let mut findings = Findings::new(&sources);
        let nodes = yaml::documents(&mut findings, 0);
        let spiffe_socket = socket.map(str::to_owned);
        let environment = read::Environment { spiffe_socket, ..Default::default() };
        let written = read::proxy_config(Path::new("p.yaml"), &nodes, &environment, &mut findings);
        let found = findings.finish().err().map(|problems| problems.0[0].message.clone());
        (written.config.map(|config| config.identity), found)
    };
    for good in ["unix:///run/agent.sock", "tcp://127.0.0.1:8081"] {
        let endpoint = good.parse().unwrap();
        let identity = IdentitySource::WorkloadApi { endpoint };
        assert_eq!(read(Some(good)), (Some(identity), None));
    }
    for bad in ["", "/run/agent.sock", "agent.sock", "unix:agent.sock", "tcp://agent:8081"] {
        let (_, found) = read(Some(bad));
        let found = found.unwrap_or_default();
        assert!(found.starts_with("SPIFFE_ENDPOINT_SOCKET: "), "{bad}: {found}");
    }
    let (_, found) = read(None);
    assert!(found.unwrap().contains("SPIFFE_ENDPOINT_SOCKET is not set"));
}

#[test]
fn listeners_that_do_not_fit_the_redirect_are_refused() {
    let text = CAPTURED
        .replace("\"[::]:15006\", mode: redirect", "\"127.0.0.1:15006\", mode: tproxy")
        .replace("\"[::1]:15001\", mode: redirect", "\"[::]:15003\", mode: tproxy");
    let text = format!(
        "{text}  app: [{{port: 80, address: \"127.0.0.1:3000\", tls: pass, protocol: http}}]\n  \
         interception: {{skipInboundPorts: [80, 80], skipOutboundCidrs: [\"10.0.0.0/8\", \"10.1.0.0/16\"], podIps: [pod], egressOther: maybe}}\n"
    );
    refused(
        &spec(&text),
        expect![[r#"
        proxy.yaml:7:25 P009: nothing from outside reaches 127.0.0.1:15006 (write `[::]:15006`)
        proxy.yaml:7:157 E013: unknown value `tproxy` (choose one of `explicit` and `redirect`)
        proxy.yaml:9:9 P009: port 80 is left out by `skipInboundPorts` (connections to it never come here: remove one of the two)
        proxy.yaml:9:9 P009: under `tproxy` the app is called from the client's address, which cannot reach 127.0.0.1:3000 (leave `address` out, or use `redirect`)
        proxy.yaml:9:9 E004: port 80 is declared `http`, and `tls: pass` hides what is inside (write `protocol: tcp` or another `tls`)
        proxy.yaml:10:41 E019: port 80 stands in the list twice
        proxy.yaml:10:80 E019: `10.1.0.0/16` and `10.0.0.0/8` overlap (keep the wider one)
        proxy.yaml:10:105 E013: `pod` is not an IP address (write the pod's own address, without a prefix)
        proxy.yaml:10:124 E013: unknown value `maybe` (choose one of `allow` and `drop`)
    "#]],
    );
    refused(
        &spec(&CAPTURED.replace(", {address: \"[::1]:15001\", mode: redirect}", "").replace(
            "\"127.0.0.1:15001\", mode: redirect",
            "\"0.0.0.0:15001\", mode: redirect, destination: shop/orders",
        )),
        expect![[r#"
            proxy.yaml:7:78 P009: 0.0.0.0:15001 would take calls of other pods as the app's own (write `127.0.0.1:15001`, and `[::1]:15001` for IPv6)
            proxy.yaml:7:78 P009: a redirected connection names its own destination, not always `shop/orders` (leave `destination` out, or write `mode: explicit`)
        "#]],
    );
    let one_way = CAPTURED.replace(
        "outbound: [{address: \"127.0.0.1:15001\", mode: redirect}, {address: \"[::1]:15001\", mode: redirect}]",
        "outbound: [{address: \"127.0.0.1:15001\"}]",
    );
    let nothing = format!("{SIDECAR}  interception: {{proxyUid: 0}}\n")
        .replace("7002\"}]", "7002\", protocol: grpc, detectTimeout: 2s, upgrades: [a]}]");
    refused(
        &spec(&nothing),
        expect![[r#"
        proxy.yaml:7:80 E013: telling a protocol takes from 1ms to 1000ms, not 2000ms (declare the port's `protocol`, then nothing is waited for)
        proxy.yaml:7:80 E004: nothing is waited for on a port whose `protocol` is declared (remove `detectTimeout`)
        proxy.yaml:7:94 E004: `upgrades` is for `protocol: http`, not `grpc` (remove `upgrades`)
        proxy.yaml:9:17 P009: nothing is redirected here, so `interception` has no effect (remove it, or write `mode: redirect` for the listeners)
        proxy.yaml:9:28 E013: a whole number from 1 to 4294967294 was expected, not `0`
    "#]],
    );
    refused(
        &spec(&one_way),
        expect![[r#"
        proxy.yaml:7:25 P009: the redirect takes both directions, and nothing takes outbound ones (add `outbound: [{address: "127.0.0.1:15001", mode: redirect}]`)
    "#]],
    );
}

#[test]
fn a_rule_about_requests_on_an_opaque_port_is_refused() {
    let folder = Folder::new();
    folder.put(
        "orders.yaml",
        &reference::ORDERS.replace("  direction", "  ports: [5432, 7000]\n  direction"),
    );
    let text = CAPTURED.replace("[mesh.yaml]", "[mesh.yaml, orders.yaml]");
    let shown = |text: &str| {
        let problems = ProxyConfig::load(&folder.put("p.yaml", &spec(text))).expect_err("refused");
        folder.shown(&problems)
    };
    expect![[r#"
        p.yaml:4:3 E004: rule `shop/own-orders/read-own` (orders.yaml:10) is about requests, but port 5432 is `tcp` unless declared: nobody looks into its bytes (declare `app: [{port: 5432, protocol: http}]`, or write the rule with `tcp: {any: true}`)
    "#]].assert_eq(&shown(&text));
    let declared =
        format!("{text}  app: [{{port: 7000, protocol: tcp}}, {{port: 5432, protocol: http}}]\n");
    expect![[r#"
        p.yaml:9:9 E004: rule `shop/own-orders/read-own` (orders.yaml:10) is about requests, but port 7000 is declared `tcp`: nobody looks into its bytes (declare `app: [{port: 7000, protocol: http}]`, or write the rule with `tcp: {any: true}`)
    "#]].assert_eq(&shown(&declared));
    let guard = "apiVersion: countersign.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: guard, namespace: countersign-system}\n\
                 spec: {selector: {all: true}, direction: inbound, rules: [{name: no-trace, effect: deny, match: {http: {methods: [TRACE]}}}]}\n";
    folder.put("guard.yaml", guard);
    let text = CAPTURED.replace("[mesh.yaml]", "[mesh.yaml, guard.yaml]");
    let text = format!("{text}  app: [{{port: 9000, protocol: tcp}}, {{port: 8080}}]\n");
    let (_, documents) = ProxyConfig::load(&folder.put("p.yaml", &spec(&text))).unwrap();
    expect![[r#"
        p.yaml:9:9 P010: rule `countersign-system/guard/no-trace` (guard.yaml:4) is about requests on every port, so port 9000, which is `tcp`, takes no connection (give that policy the `ports` it is about)
    "#]].assert_eq(&folder.shown(&Problems(documents.warnings)));
    let all_http = declared.replace("7000, protocol: tcp", "7000, protocol: http");
    assert!(ProxyConfig::load(&folder.put("p.yaml", &spec(&all_http))).is_ok());
}

#[test]
fn a_gateway_needs_routes_and_one_context_policy() {
    let text = SIDECAR.replace("inbound: [{address: \"127.0.0.1:7001\"}]", "gateway: [{address: \"127.0.0.1:7001\", redirectToHttps: true}, {address: \"127.0.0.1:7009\"}]");
    refused(
        &spec(&text),
        expect![[r#"
        proxy.yaml:6:25 P005: a gateway listener without routes answers 404 to everything (add `gateway: {routes: [{destination: NAMESPACE/NAME}]}`)
        proxy.yaml:6:25 P005: `redirectToHttps` leads nowhere: no gateway listener has `tls` (add a listener with `tls: {certificate: PATH, key: PATH}`)
        proxy.yaml:6:25 P008: no ContextPolicy selects this gateway, so it could mint nothing (add one in namespace `shop` whose selector matches the labels of this process)
    "#]],
    );
}

#[test]
fn addresses_and_ranges_say_what_to_write() {
    let text = SIDECAR.replace(
        "inbound: [{address: \"127.0.0.1:7001\"}]",
        "gateway: [{address: \":443\"}, {address: \"1.2.3.4:150006\"}, {address: \"127.0.0.1:80\", proxyProtocol: {from: [\"0.0.0.0/0\", \"10.0.0.1/8\", lb]}}]",
    );
    let text = format!("{text}  admin: {{address: \"10.0.0.1:15000\"}}\n");
    refused(
        &spec(&text),
        expect![[r#"
        proxy.yaml:6:35 E013: `:443` has no IP address (write `0.0.0.0:443` for IPv4 or `[::]:443` for both)
        proxy.yaml:6:54 E013: 150006 is not a port (1-65535) (write an IP address and a port, as in `127.0.0.1:15001` or `[::]:15006`)
        proxy.yaml:6:73 P005: a gateway listener without routes answers 404 to everything (add `gateway: {routes: [{destination: NAMESPACE/NAME}]}`)
        proxy.yaml:6:73 P008: no ContextPolicy selects this gateway, so it could mint nothing (add one in namespace `shop` whose selector matches the labels of this process)
        proxy.yaml:6:122 E009: `0.0.0.0/0` would let every client choose its own address (name the addresses of your own load balancers)
        proxy.yaml:6:135 E013: `10.0.0.1/8` has bits beyond its prefix (write `10.0.0.0/8`)
        proxy.yaml:6:149 E013: `lb` is not an address range (write it as `10.20.1.0/24`; a single address is `10.20.1.7/32`)
        proxy.yaml:9:10 E013: 10.0.0.1:15000 is not a loopback address; admin shows what a process knows (write `127.0.0.1:15000`)
    "#]],
    );
}

#[test]
fn the_identity_must_fit_mesh_and_namespace() {
    let text = SIDECAR
        .replace("}}}\n", "}}, expectedId: \"spiffe://test.example.com/ns/shop/sa/orders\"}\n");
    refused(
        &spec(&text),
        expect![[r#"
        proxy.yaml:4:71 P006: `spiffe://test.example.com/ns/shop/sa/orders` is not of this mesh, whose trust domain is `prod.example.com`
    "#]],
    );
    let folder = Folder::new();
    let text = text.replace("test.example.com/ns/shop", "prod.example.com/ns/other");
    let (_, documents) = ProxyConfig::load(&folder.put("p.yaml", &spec(&text))).unwrap();
    assert!(documents.warnings.iter().any(|w| w.code == "P007"));
}

#[test]
fn files_that_cannot_be_read_are_problems() {
    refused(
        &spec(&SIDECAR.replace("[mesh.yaml]", "[mesh.yaml, gone.yaml]")),
        expect![[r#"
        proxy.yaml:8:34 P001: `gone.yaml` does not exist
    "#]],
    );
    let problems = ProxyConfig::load(Path::new("/nowhere/proxy.yaml")).expect_err("refused");
    expect![[r#"
        error[P001]: `/nowhere/proxy.yaml` does not exist
          --> /nowhere/proxy.yaml:1:1"#]]
    .assert_eq(&problems.to_string());
}

#[test]
fn folders_are_read_in_order_without_hidden_files() {
    let folder = Folder::new();
    for name in ["d/b.yml", "d/a.yaml", "d/notes.txt", "d/..data/a.yaml", "d/sub/c.yaml"] {
        folder.put(name, "");
    }
    let files = document_files(&[folder.0.path().join("d")]).unwrap();
    let names: Vec<_> = files
        .iter()
        .map(|f| f.strip_prefix(folder.0.path()).unwrap().display().to_string())
        .collect();
    assert_eq!(names, ["d/a.yaml", "d/b.yml", "d/sub/c.yaml"]);
}

#[test]
fn check_takes_files_of_any_kind() {
    let folder = Folder::new();
    let good = folder.put("proxy.yaml", &spec(SIDECAR));
    let bad = folder.put("bad.yaml", &spec(&SIDECAR.replace("namespace", "nmaespace")));
    let mesh = folder.0.path().join("mesh.yaml");
    assert!(check_files(&[good.clone(), mesh]).is_ok());
    let problems = check_files(&[good, bad]).expect_err("refused");
    expect![[r#"
        bad.yaml:4:3 E013: `spec` needs `namespace`
        bad.yaml:5:3 E013: unknown field `nmaespace` in `spec` (did you mean `namespace`?)
    "#]]
    .assert_eq(&folder.shown(&problems));
}

const KUBERNETES: &str = "  identity: {source: {kubernetesCsr: {server: \"https://10.0.0.1:443\", trust: {file: roots.pem}}}}
  namespace: shop
  listeners: {outbound: [{address: \"127.0.0.1:15001\"}]}
  documents: {files: [mesh.yaml]}
";

#[test]
fn kubernetes_names_its_api_server_and_one_place_of_trust() {
    let folder = Folder::new();
    let (config, _) = ProxyConfig::load(&folder.put("proxy.yaml", &spec(KUBERNETES))).unwrap();
    let IdentitySource::KubernetesCsr(csr) = config.identity else { panic!("{config:?}") };
    assert_eq!(csr.api.server, "https://10.0.0.1:443");
    assert_eq!((csr.signer_name.as_str(), csr.expiration_s), ("countersign.dev/workload", 3600));
    assert!(csr.api.token_file.ends_with("serviceaccount/token"), "{:?}", csr.api);

    let refused = |from: &str, to: &str| {
        let text = spec(&KUBERNETES.replace(from, to));
        folder.shown(&ProxyConfig::load(&folder.put("proxy.yaml", &text)).expect_err("refused"))
    };
    expect![[r#"
        proxy.yaml:4:47 E013: `http://10.0.0.1` is not the address of an API server (as in `https://10.0.0.1:443`)
    "#]]
    .assert_eq(&refused("https://10.0.0.1:443", "http://10.0.0.1"));
    expect![[r#"
        proxy.yaml:4:78 E013: trust comes from exactly one place (write `{file: PATH}` or `{clusterTrustBundle: NAME}`)
    "#]]
    .assert_eq(&refused("file: roots.pem", "file: roots.pem, clusterTrustBundle: trust"));
    expect![[r#"
        proxy.yaml:4:99 E013: `../secrets` is not the name of an object in Kubernetes (as in `countersign.dev:workload:trust`)
    "#]]
    .assert_eq(&refused("file: roots.pem", "clusterTrustBundle: ../secrets"));
    expect![[r#"
        proxy.yaml:4:90 E013: a whole number from 600 to 86400 was expected, not `599`
    "#]]
    .assert_eq(&refused("trust:", "expirationSeconds: 599, trust:"));
    expect![[r#"
        proxy.yaml:4:22 E013: an identity has one source, here are several (keep `files` or `kubernetesCsr`)
    "#]]
    .assert_eq(&refused("kubernetesCsr", "files: {}, kubernetesCsr"));
}

const SIGNER: &str = "apiVersion: countersign.dev/v1alpha1
kind: SignerConfig
spec:
  trustDomain: prod.example.com
  kubernetes: {server: \"https://10.0.0.1\", ca: ca.crt, tokenFile: token}
  authority: {certificate: ca.pem, key: ca.key}
  lifetime: {min: 20s, max: 1h}
  clusterTrustBundle: \"countersign.dev:workload:trust\"
";

#[test]
fn a_signer_is_told_whom_it_signs_for_and_how_long() {
    let folder = Folder::new();
    let (config, none) = SignerConfig::load(&folder.put("signer.yaml", SIGNER)).unwrap();
    assert_eq!(config.trust_domain.as_str(), "prod.example.com");
    assert_eq!((config.life_s, config.per_minute), ((20, 3600), 600));
    assert!(none.is_none());
    assert!(check_files(&[folder.put("signer.yaml", SIGNER)]).is_ok());

    let refused = |from: &str, to: &str| {
        let text = SIGNER.replace(from, to);
        let problems = check_files(&[folder.put("signer.yaml", &text)]).expect_err("refused");
        folder.shown(&problems)
    };
    expect![[r#"
        signer.yaml:7:13 E013: `min` is longer than `max` (write the shorter one as `min`)
    "#]]
    .assert_eq(&refused("20s", "2h"));
    expect![[r#"
        signer.yaml:7:29 E013: no life of a certificate (from `10s` to `24h`)
    "#]]
    .assert_eq(&refused("1h", "48h"));
    expect![[r#"
        signer.yaml:8:23 E013: `trust` is not a bundle of the signer `countersign.dev/workload` (begin it with `countersign.dev:workload:`)
    "#]]
    .assert_eq(&refused("countersign.dev:workload:trust", "trust"));
    expect![[r#"
        signer.yaml:4:3 E013: `spec` needs `authority`
        signer.yaml:6:3 E013: unknown field `autority` in `spec` (did you mean `authority`?)
    "#]]
    .assert_eq(&refused("authority", "autority"));
}

#[test]
fn the_reference_lists_exactly_the_fields_of_its_examples() {
    let mut written = BTreeSet::new();
    for text in [reference::SIDECAR, reference::GATEWAY, reference::IDENTITIES] {
        let sources = [Source { name: "example", text }];
        for node in yaml::documents(&mut Findings::new(&sources), 0) {
            paths(node.get("spec").unwrap_or(&node), "", &mut written);
        }
    }
    // Shown, and tested, on a page of its own: docs/identity/federation.md.
    written.insert("listeners.inbound[].trustDomains".to_owned());
    let listed: BTreeSet<String> = fields::FIELDS.iter().map(|f| f.path.to_owned()).collect();
    assert_eq!(listed, written);
}

/// The paths of all leaves; what has free keys or several forms counts as one leaf.
fn paths(node: &Node, at: &str, found: &mut BTreeSet<String>) {
    const LEAVES: &[&str] =
        &["labels", "limits", "audit.sink", "identity.source.kubernetesCsr.trust"];
    match &node.value {
        Value::Map(entries) if !LEAVES.contains(&at) => {
            for (key, value) in entries {
                let path =
                    if at.is_empty() { key.text.clone() } else { format!("{at}.{}", key.text) };
                paths(value, &path, found);
            }
        }
        Value::List(items) if items.iter().any(|item| matches!(item.value, Value::Map(_))) => {
            for item in items {
                paths(item, &format!("{at}[]"), found);
            }
        }
        _ => {
            found.insert(at.to_owned());
        }
    }
}

/// Another trust domain is let in where both the mesh and the listener name it.
#[test]
fn a_listener_names_federated_domains() {
    let sidecar = SIDECAR.replace("7001\"}]}", "7001\", trustDomains: [b.test, a.test]}]}");
    let folder = Folder::new();
    let federation = "  federation:\n    - {trustDomain: a.test, bundle: {source: true}}\n    - {trustDomain: b.test, bundle: {file: b.pem}}\n";
    folder.put("mesh.yaml", &format!("{}{federation}", MESH.trim_end().to_owned() + "\n"));
    let (config, documents) =
        ProxyConfig::load(&folder.put("proxy.yaml", &spec(&sidecar))).unwrap();
    let names: Vec<&str> =
        config.inbound[0].trust_domains.iter().map(|domain| domain.as_str()).collect();
    assert_eq!(names, ["a.test", "b.test"]);
    assert_eq!(documents.mesh.federation.len(), 2);
    let own = SIDECAR.replace("7001\"}]}", "7001\", trustDomains: [prod.example.com, A.test]}]}");
    refused(
        &spec(&own),
        expect![[r#"
        proxy.yaml:6:68 P011: `prod.example.com` is this mesh itself, whose workloads may always call (name other trust domains only)
        proxy.yaml:6:86 E013: `A.test` is not a trust domain: the trust domain holds a character outside `a-z 0-9 . _ -` (no upper case, port or userinfo) (as in `partner.example`)
    "#]],
    );
}

/// What the page about federation shows is what may be written.
#[test]
fn the_documents_of_the_federation_page_load() {
    let page = include_str!("../../docs/identity/federation.md");
    let blocks: Vec<&str> = page
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```").map(|(block, _)| block))
        .collect();
    let [mesh, proxy, access] = blocks.as_slice() else { panic!("{} blocks", blocks.len()) };
    let folder = Folder::new();
    folder.put("mesh.yaml", mesh);
    folder.put("access.yaml", access);
    let proxy = proxy.replace("[mesh.yaml]", "[mesh.yaml, access.yaml]");
    let loaded = ProxyConfig::load(&folder.put("proxy.yaml", &proxy));
    let (config, documents) = loaded.unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.inbound[0].trust_domains.len(), 2);
    assert_eq!((documents.mesh.federation.len(), documents.access.len()), (4, 1));
    assert!(documents.warnings.iter().all(|warning| warning.code != "P011"));
}

/// Whoever reaches the local API speaks for the workload, so nobody outside the pod may.
#[test]
fn the_local_api_is_on_loopback_and_on_a_port_of_its_own() {
    let sidecar = format!(
        "{}  local: {{addresses: [\"127.0.0.1:15004\", \"[::1]:15004\"]}}\n",
        spec(SIDECAR)
    );
    let folder = Folder::new();
    folder.put("mesh.yaml", MESH);
    let (config, _) = ProxyConfig::load(&folder.put("proxy.yaml", &sidecar)).unwrap();
    let ports: Vec<String> = config.local.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["127.0.0.1:15004", "[::1]:15004"]);
    assert!(config.own_addresses().any(|(field, _)| field == "local"));
    let open = format!(
        "{}  local: {{addresses: [\"10.1.2.3:15004\", \"127.0.0.1:15000\"]}}\n",
        spec(SIDECAR)
    );
    refused(
        &open,
        expect![[r#"
        proxy.yaml:9:23 E013: 10.1.2.3:15004 is not a loopback address; whoever reaches the local API speaks for this workload (write `127.0.0.1:15004`)
        proxy.yaml:9:41 P002: `local` would listen on 127.0.0.1:15000, as `admin` does on 127.0.0.1:15000 (give each listener its own port)
    "#]],
    );
}

#[test]
fn grants_have_keys_a_life_and_a_count() {
    let text = |grants: &str| format!("{}  grants: {grants}\n", spec(SIDECAR));
    let folder = Folder::new();
    folder.put("mesh.yaml", MESH);
    let written = text("{keyFiles: [a.pem, b.pem], maxTtl: 2h, maxRedemptions: 1}");
    let (config, _) = ProxyConfig::load(&folder.put("proxy.yaml", &written)).unwrap();
    let grants = &config.grants;
    assert_eq!((grants.key_files.len(), grants.max_ttl_s, grants.max_redemptions), (2, 7200, 1));
    refused(
        &text("{keyFiles: [], maxTtl: 25h, maxRedemptions: 0}"),
        expect![[r#"
        proxy.yaml:9:22 E001: an empty list matches nothing (name at least one entry, or leave the field out)
        proxy.yaml:9:34 E013: a deferred grant lives from `1s` to `24h` (without the field it is `24h`)
        proxy.yaml:9:55 E013: a whole number from 1 to 100 was expected, not `0`
    "#]],
    );
}

/// What the page about the token service shows is what may be written.
#[test]
fn the_documents_of_the_token_service_page_load() {
    let page = include_str!("../../docs/context/token-service.md");
    let blocks: Vec<&str> = page
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```").map(|(block, _)| block))
        .collect();
    let [mesh, tokens, proxy, access] = blocks.as_slice() else {
        panic!("{} blocks", blocks.len())
    };
    let folder = Folder::new();
    folder.put("mesh.yaml", mesh);
    folder.put("tokens.yaml", tokens);
    folder.put("access.yaml", access);
    let loaded = ProxyConfig::load(&folder.put("proxy.yaml", proxy));
    let (config, documents) = loaded.unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.app[0].service, Some(AppService::Issuer));
    assert!(documents.warnings.is_empty(), "{:?}", documents.warnings);
    let service = documents.gateways[0].spec.token_service.as_ref().unwrap();
    assert_eq!((service.requesters.len(), service.replacements), (2, 3));
    assert_eq!(service.requesters[0].rate, 10);
}

#[test]
fn a_port_that_this_process_answers_has_no_app() {
    let folder = Folder::new();
    folder.put("mesh.yaml", MESH);
    let text = SIDECAR.replace("address: \"127.0.0.1:7002\"", "service: issuer, protocol: http");
    let text = spec(&text);
    let problems = ProxyConfig::load(&folder.put("proxy.yaml", &text)).expect_err("refused");
    assert!(problems.to_string().contains("`service` answers itself"), "{problems}");
}
