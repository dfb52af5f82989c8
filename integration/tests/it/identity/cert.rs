//! `countersign cert`: what it says of files, sockets and live peers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use countersign_integration::components::spire::{Entry, Server, ServerSpec};
use countersign_integration::kubelet_writer::Volume;
use countersign_integration::openssl::Openssl;
use countersign_integration::pki::Request;
use countersign_integration::process::{self, Process};
use countersign_integration::wait;
use countersign_integration::{App, Authority, Lab, Leaf, documents, lab, ports, programs, tls};
use serde_json::Value;

/// What a run of `countersign cert` came to.
struct Answer {
    code: Option<i32>,
    text: String,
}

impl Answer {
    fn says(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.text);
        for part in parts {
            assert!(self.text.contains(part), "{part}\nnot in:\n{}", self.text);
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(programs::cli());
    command.arg("cert").args(words);
    command
}

fn cert(words: &[&str]) -> Answer {
    let done = process::run(&mut command(words));
    let text = String::from_utf8(done.stdout).unwrap() + &String::from_utf8_lossy(&done.stderr);
    Answer { code: done.status.code(), text }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Key and chain in one file.
fn one_file(folder: &Path, name: &str, leaf: &Leaf) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("{}{}", leaf.key_pem, leaf.chain_pem)).unwrap();
    path
}

/// Certificates by openssl, as an authority that was set up wrongly would issue them.
#[test]
fn a_certificate_is_explained_with_the_fix_at_its_authority() {
    let Some(program) = programs::system("cert", "openssl") else { return };
    let folder = tempfile::tempdir().unwrap();
    let ca = Openssl::new(program, folder.path(), lab::DOMAIN);
    let trust = folder.path().join("bundle.pem");
    let san = format!("subjectAltName=URI:spiffe://{}/ns/shop/sa/orders", lab::DOMAIN);
    let usage = "keyUsage=critical,digitalSignature";
    let both = "extendedKeyUsage=serverAuth,clientAuth";
    let second = "subjectAltName=URI:spiffe://lab.test/a,URI:spiffe://lab.test/b";
    let cases: [(&str, &[&str], i32, &str, &str); 7] = [
        ("good", &[&san, usage, both], 1, "", "yes: spiffe://lab.test/ns/shop/sa/orders"),
        ("late", &[&san, usage, both], -1, "expired", "cmctl renew"),
        ("none", &["subjectAltName=DNS:orders.shop", usage], 1, "bad_san", "`allowed_uri_sans`"),
        ("two", &[second, usage, both], 1, "bad_san", "2 URI names"),
        ("eku", &[&san, usage, "extendedKeyUsage=serverAuth"], 1, "bad_eku", "client_flag=true"),
        ("ku", &[&san, "keyUsage=digitalSignature", both], 1, "bad_key_usage", "not critical"),
        (
            "authority",
            &[&san, usage, both, "basicConstraints=critical,CA:TRUE"],
            1,
            "not_a_leaf",
            "isCA",
        ),
    ];
    for (name, extensions, days, reason, said) in cases {
        let leaf = ca.leaf(name, extensions, days);
        let file = one_file(folder.path(), &format!("{name}.one"), &leaf);
        let words = [text(&file), "--trust", text(&trust)];
        let code = i32::from(!reason.is_empty());
        let words = [&["verify"], &words[..]].concat();
        cert(&words).says(code, &[reason, said]);
        let answer = cert(&[&words[..], &["-o", "json"]].concat());
        answer.says(code, &[]);
        let json = answer.json();
        let reasons = json["problems"].as_array().unwrap();
        let found = reasons.iter().any(|problem| problem["reason"] == reason);
        assert_eq!(found, !reason.is_empty(), "{reasons:?}");
    }
}

#[test]
fn the_exit_code_tells_no_from_could_not_ask() {
    let lab = Lab::new();
    let orders = one_file(lab.folder(), "id.pem", &lab.ca.leaf("shop", "orders"));
    let trust = lab.folder().join("bundle.pem");
    let words = ["verify", text(&orders), "--trust", text(&trust), "--expect"];
    let expecting = |id: &str| cert(&[words.as_slice(), &[id]].concat());
    expecting(&lab.id("shop", "orders")).says(0, &["yes: spiffe://lab.test/ns/shop/sa/orders"]);
    expecting("spiffe://lab.test/ns/shop/**").says(0, &["yes: "]);
    expecting(&lab.id("shop", "billing")).says(1, &["no: ", "unexpected_identity", "spire-server"]);
    expecting("orders").says(2, &["--expect"]);
    cert(&["verify", text(&orders)]).says(2, &["--trust FILE"]);
    cert(&["inspect", "/nowhere/identity.pem"]).says(2, &["cannot read /nowhere/identity.pem"]);
    let nobody = ports::free().to_string();
    cert(&["inspect", &nobody]).says(2, &["cannot connect to 127.0.0.1"]);
    cert(&["inspect", "unix:///nowhere.sock"]).says(2, &["FetchX509", "cannot connect"]);
}

/// A sidecar asked by nobody in particular, by a workload, by a stranger.
#[tokio::test]
async fn a_live_sidecar_shows_who_it_is_and_whom_it_takes() {
    let lab = Lab::new();
    let app = App::mirror();
    let proxy = lab.orders(&app, |spec| spec).await;
    let at = proxy.inbound().to_string();
    let trust = lab.folder().join("bundle.pem");
    let cart = one_file(lab.folder(), "cart.pem", &lab.ca.leaf("shop", "cart"));

    let bare = cert(&["inspect", &at, "--trust", text(&trust)]);
    let refuses = "refuses who has none (CertificateRequired), as a sidecar must";
    bare.says(0, &["spiffe://lab.test/ns/shop/sa/orders", "TLSv1.3", "vouched for by", refuses]);

    let known = ["inspect", &at, "--trust", text(&trust), "--present", text(&cart)];
    cert(&known).says(0, &["countersign/h2", "accepted ours", "no problems"]);
    let json = cert(&[&known[..], &["-o", "json"]].concat()).json();
    assert_eq!(json["peer"]["client_certificate"]["accepted"]["presented"], true, "{json}");
    assert_eq!(json["peer"]["alpn"], "countersign/h2", "{json}");

    let stranger = Authority::new(lab::DOMAIN);
    let expired = lab.ca.issue(Request::new(&[&lab.id("shop", "cart")]).expired());
    for (name, leaf) in [("stranger", &stranger.leaf("shop", "cart")), ("expired", &expired)] {
        let file = one_file(lab.folder(), name, leaf);
        let refused = cert(&["inspect", &at, "--present", text(&file)]);
        refused.says(1, &["refused_by_peer", "countersign why --last-denied"]);
    }
    let other = stranger.write_bundle(lab.folder(), "other");
    cert(&["verify", &at, "--trust", text(&other)]).says(1, &["no: ", "untrusted_chain"]);
    let billing = lab.id("shop", "billing");
    let unexpected = cert(&["verify", &at, "--trust", text(&trust), "--expect", &billing]);
    unexpected.says(1, &["unexpected_identity", "may have moved to another workload"]);
    let orders = lab.id("shop", "orders");
    cert(&["verify", &at, "--trust", text(&trust), "--expect", &orders]).says(0, &["yes: "]);
    cert(&["verify", &at, "--alpn", "h3", "--trust", text(&trust)])
        .says(2, &["TLS handshake with"]);
}

/// What is no sidecar: a public server with a name of the Web, one with no protocols, plain TCP.
#[tokio::test]
async fn other_servers_are_told_apart() {
    let lab = Lab::new();
    let leaf = lab.ca.issue(Request::new(&[]).dns("api.example.com"));
    for (alpn, protocol) in
        [(&[b"h2".as_slice()][..], "h2"), (&[b"imap"], "no protocol agreed"), (&[], "no protocol")]
    {
        let web = App::tls_mirror(tls::public_server(&leaf, alpn));
        let found =
            cert(&["inspect", &web.address.to_string(), "--server-name", "api.example.com"]);
        let says = ["no SPIFFE ID", "DNS:api.example.com", "it takes anybody", protocol, "bad_san"];
        found.says(1, &says);
    }
    let plain = App::mirror();
    cert(&["inspect", &plain.address.to_string()]).says(2, &["TLS handshake with 127.0.0.1"]);
}

/// Each rotation is one line, and nothing else is.
#[tokio::test]
async fn watch_follows_a_volume_and_the_sidecar_that_lives_off_it() {
    let lab = Lab::new();
    let app = App::mirror();
    let volume = Volume::new(&lab.folder().join("volume"));
    let write = |seconds: u64| {
        let request = Request::new(&[&lab.id("shop", "orders")]).lives_s(seconds);
        let leaf = lab.ca.issue(request);
        let identity = format!("{}{}", leaf.key_pem, leaf.chain_pem);
        volume.write(&[("identity.pem", &identity), ("trust.pem", lab.ca.pem())]);
        leaf
    };
    write(1_000);
    let mesh = lab.write("mesh.yaml", &lab.mesh().document());
    let access = lab.write("access.yaml", &documents::access("shop", documents::anybody()));
    let files = serde_json::json!({
        "certificate": volume.path("identity.pem"), "bundle": volume.path("trust.pem"),
    });
    let source = serde_json::json!({"files": files});
    let proxy = countersign_integration::proxy::Spec::new(lab.folder(), "shop", "orders", source)
        .documents(&[&mesh, &access])
        .inbound(app.address)
        .start()
        .await;
    let folder = lab.folder().join("volume");
    let at = proxy.inbound().to_string();
    let watch = |name: &str, words: &[&str]| {
        let words = [&["watch"], words, &["--count", "2", "-o", "json"]].concat();
        Process::start(name, command(&words), lab.folder())
    };
    let of_folder = watch("of-folder", &[text(&folder)]);
    let of_peer = watch("of-peer", &[&at, "--every", "1"]);
    let watchers = [&of_folder, &of_peer];
    for rotations in 0..3 {
        for watcher in watchers {
            wait::until_true("the line", || watcher.stdout().lines().count() > rotations).await;
        }
        if rotations < 2 {
            write(2_000 + rotations as u64);
        }
    }
    for watcher in watchers {
        assert_eq!(watcher.ended().await.code(), Some(0), "{}", watcher.stderr());
        let output = watcher.stdout();
        let lines: Vec<Value> =
            output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let events: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
        assert_eq!(events, ["first", "rotated", "rotated"], "{output}");
        assert_eq!(lines[2]["spiffe_id"], lab.id("shop", "orders"));
        assert_ne!(lines[1]["certificates"][0]["serial"], lines[2]["certificates"][0]["serial"]);
    }
}

/// The socket of a SPIRE agent, asked as the proxy asks it.
#[tokio::test]
async fn a_spire_agent_is_inspected_and_watched() {
    let Some(server) = Server::start("cert", ServerSpec::new("lab.test")).await else { return };
    let agent = server.agent("one").await;
    let uid = rustix::process::geteuid().as_raw();
    server.entry(&Entry::new("/ns/shop/sa/orders", uid)).await;
    agent.until_known(uid).await;
    let socket = agent.socket();
    let found = cert(&["inspect", text(&socket)]);
    found.says(0, &["spiffe://lab.test/ns/shop/sa/orders", "vouched for by the authorities it"]);
    cert(&["verify", text(&socket), "--expect", "spiffe://lab.test/ns/shop/*/orders"])
        .says(0, &["yes: "]);
    let words = ["watch", text(&socket), "--count", "1"];
    let watcher = Process::start("watch", command(&words), server.folder());
    assert_eq!(watcher.ended().await.code(), Some(0), "{}", watcher.stderr());
    let lines = watcher.stdout();
    assert!(lines.contains("  first ") && lines.contains("  rotated "), "{lines}");
}
