//! Certificates that break a rule of X509-SVIDs or SPIFFE IDs, made by openssl and presented on
//! the wire, by who calls and by who answers.

use std::fs;

use countersign_integration::client::{self, Call, Conn};
use countersign_integration::openssl::{Issue, Openssl};
use countersign_integration::outcome::refused;
use countersign_integration::{App, Lab, Leaf, Mesh, lab, programs, tls, wait};
use serde_json::json;

const NO_CA: &str = "basicConstraints=critical,CA:FALSE";
const SIGNS: &str = "keyUsage=critical,digitalSignature";
const BOTH: &str = "extendedKeyUsage=serverAuth,clientAuth";
const CA: &str = "basicConstraints=critical,CA:TRUE";
const CA_SIGNS: &str = "keyUsage=critical,keyCertSign,cRLSign";

/// A chain and the reason it is refused for; `None`: it is good.
struct Case {
    name: String,
    chain: Leaf,
    reason: Option<&'static str>,
}

/// Who makes the cases.
struct Maker {
    openssl: Openssl,
    cases: Vec<Case>,
}

impl Maker {
    /// The ID every case would have if it could.
    fn id() -> String {
        format!("spiffe://{}/ns/shop/sa/orders", lab::DOMAIN)
    }

    fn leaf(&mut self, reason: Option<&'static str>, extensions: &[&str]) {
        let name = format!("case{}", self.cases.len());
        let chain = self.openssl.leaf(&name, extensions, 1);
        self.case(extensions.join(" "), chain, reason);
    }

    fn case(&mut self, name: impl Into<String>, chain: Leaf, reason: Option<&'static str>) {
        self.cases.push(Case { name: name.into(), chain, reason });
    }

    /// what the leaf may do.
    fn usages(&mut self) {
        let san = &format!("subjectAltName=URI:{}", Maker::id());
        self.leaf(None, &[NO_CA, SIGNS, BOTH, san]);
        self.leaf(None, &[SIGNS, san]);
        self.leaf(None, &["keyUsage=critical,digitalSignature,keyAgreement", BOTH, san]);
        self.leaf(Some("not_a_leaf"), &[CA, SIGNS, BOTH, san]);
        for usage in ["digitalSignature,keyCertSign", "digitalSignature,cRLSign", "keyAgreement"] {
            let usage = &format!("keyUsage=critical,{usage}");
            self.leaf(Some("bad_key_usage"), &[NO_CA, usage, BOTH, san]);
        }
        self.leaf(Some("bad_key_usage"), &[NO_CA, BOTH, san]);
        self.leaf(Some("bad_key_usage"), &[NO_CA, "keyUsage=digitalSignature", BOTH, san]);
        for usage in ["serverAuth", "clientAuth", "anyExtendedKeyUsage", "codeSigning"] {
            let usage = &format!("extendedKeyUsage={usage}");
            self.leaf(Some("bad_eku"), &[NO_CA, SIGNS, usage, san]);
        }
        let unknown = "1.2.3.4=critical,ASN1:UTF8String:x";
        self.leaf(Some("critical_extension"), &[NO_CA, SIGNS, BOTH, san, unknown]);
        self.leaf(None, &[NO_CA, SIGNS, BOTH, san, "1.2.3.4=ASN1:UTF8String:x"]);
    }

    /// and the rules of SPIFFE IDs.
    fn names(&mut self) {
        let id = Maker::id();
        self.leaf(Some("bad_san"), &[NO_CA, SIGNS, BOTH]);
        self.leaf(Some("bad_san"), &[NO_CA, SIGNS, BOTH, "subjectAltName=DNS:orders.shop"]);
        let twice = format!("subjectAltName=URI:{id},URI:spiffe://{}/ns/shop/sa/web", lab::DOMAIN);
        self.leaf(Some("bad_san"), &[NO_CA, SIGNS, BOTH, &twice]);
        self.leaf(
            Some("bad_san"),
            &[NO_CA, SIGNS, BOTH, &format!("subjectAltName=URI:{id},URI:{id}")],
        );
        let others = format!("subjectAltName=URI:{id},DNS:orders.shop,IP:127.0.0.1,email:a@b.c");
        self.leaf(None, &[NO_CA, SIGNS, BOTH, &others]);
        let long = format!("spiffe://{}/{}", lab::DOMAIN, "a".repeat(2048));
        for bad in [
            "spiffe://lab.test",
            "spiffe://lab.test/",
            "spiffe:///ns/shop/sa/orders",
            "https://lab.test/ns/shop/sa/orders",
            "SPIFFE://lab.test/ns/shop/sa/orders",
            "spiffe://LAB.test/ns/shop/sa/orders",
            "spiffe://lab.test:443/ns/shop/sa/orders",
            "spiffe://user@lab.test/ns/shop/sa/orders",
            "spiffe://lab.test/ns/shop/sa/orders?x=1",
            "spiffe://lab.test/ns/shop/sa/orders#x",
            "spiffe://lab.test/ns/shop/sa/orders/",
            "spiffe://lab.test/ns//shop/sa/orders",
            "spiffe://lab.test/ns/shop/sa/../sa/orders",
            "spiffe://lab.test/ns/shop/sa/./orders",
            "spiffe://lab.test/ns/shop/sa/%6frders",
            "spiffe://lab%2etest/ns/shop/sa/orders",
            "spiffe://lab.test/ns/shop/sa/orders~1",
            &long,
        ] {
            // openssl's files know comments.
            let san = format!("subjectAltName=URI:{}", bad.replace('#', "\\#"));
            self.leaf(Some("bad_san"), &[NO_CA, SIGNS, BOTH, &san]);
        }
        let foreign = "subjectAltName=URI:spiffe://other.test/ns/shop/sa/orders";
        self.leaf(Some("unknown_trust_domain"), &[NO_CA, SIGNS, BOTH, foreign]);
    }

    /// who vouches for it, and in which order that is said.
    fn chains(&mut self, folder: &std::path::Path, program: std::path::PathBuf) {
        let san = format!("subjectAltName=URI:{}", Maker::id());
        let good: &[&str] = &[NO_CA, SIGNS, BOTH, &san];
        let upper = self.openssl.issue(&authority("upper", "/CN=upper", &[CA, CA_SIGNS]));
        let leaf = self.openssl.issue(&below("below-upper", "upper", good));
        self.case("with its issuer", chain(&leaf, &[&upper]), None);
        self.case("without its issuer", leaf.clone(), Some("untrusted_chain"));
        self.case("issuer first", chain(&upper, &[&leaf]), Some("bad_san"));
        let stranger = self.openssl.issue(&authority("stranger", "/CN=stranger", &[CA, CA_SIGNS]));
        let odd = chain(&leaf, &[&stranger, &upper]);
        self.case("another one between", odd, Some("chain_out_of_order"));
        let many: Vec<&Leaf> = std::iter::repeat_n(&upper, 6).collect();
        self.case("seven certificates", chain(&leaf, &many), Some("chain_too_long"));

        let holder = self.openssl.issue(&authority("holder", "/CN=holder", good));
        let forged = self.openssl.issue(&below("below-leaf", "holder", good));
        self.case("a leaf signs", chain(&forged, &[&holder]), Some("bad_key_usage"));

        for (name, constraint, reason) in [
            ("uri", "nameConstraints=critical,permitted;URI:lab.test", Some("name_constraint")),
            (
                "not-uri",
                "nameConstraints=critical,excluded;URI:other.test",
                Some("name_constraint"),
            ),
            ("dns", "nameConstraints=critical,permitted;DNS:lab.test", None),
        ] {
            let subject = format!("/CN={name}");
            let issuer =
                self.openssl.issue(&authority(name, &subject, &[CA, CA_SIGNS, constraint]));
            let leaf = self.openssl.issue(&below(&format!("below-{name}"), name, good));
            self.case(constraint, chain(&leaf, &[&issuer]), reason);
        }

        fs::create_dir(folder.join("other")).unwrap();
        let other = Openssl::new(program, &folder.join("other"), lab::DOMAIN);
        self.case("another authority", other.leaf("x", good, 1), Some("untrusted_chain"));
        self.case("ended", self.openssl.leaf("ended", good, -1), Some("expired"));
    }
}

/// Issued by another certificate that was made here.
fn below<'a>(name: &'a str, issuer: &'a str, extensions: &'a [&'a str]) -> Issue<'a> {
    Issue { name, subject: "/O=openssl", extensions, days: 1, issuer: Some(issuer) }
}

/// Issued by the authority itself.
fn authority<'a>(name: &'a str, subject: &'a str, extensions: &'a [&'a str]) -> Issue<'a> {
    Issue { name, subject, extensions, days: 1, issuer: None }
}

/// A leaf with certificates behind it.
fn chain(leaf: &Leaf, issuers: &[&Leaf]) -> Leaf {
    let mut whole = leaf.clone();
    for issuer in issuers {
        whole.chain.extend(issuer.chain.iter().cloned());
        whole.chain_pem.push_str(&issuer.chain_pem);
    }
    whole
}

fn cases(test: &str, lab: &Lab) -> Option<Vec<Case>> {
    let program = programs::system(test, "openssl")?;
    // Its authority becomes the one of the lab.
    let openssl = Openssl::new(program.clone(), lab.folder(), lab::DOMAIN);
    let mut maker = Maker { openssl, cases: Vec::new() };
    maker.usages();
    maker.names();
    maker.chains(lab.folder(), program);
    assert!(maker.cases.len() > 45);
    Some(maker.cases)
}

/// A workload whose own certificate is of openssl's authority too.
fn identity(lab: &Lab, account: &str) -> serde_json::Value {
    let folder = lab.folder();
    let path = |ending: &str| folder.join(format!("{account}.{ending}"));
    json!({"files": {"certificate": path("pem"), "key": path("key"), "bundle": path("bundle")}})
}

/// Issues it and writes the trust file, which nobody replaces later.
fn own_certificate(lab: &Lab, account: &str) {
    let program = programs::system("svids", "openssl").unwrap();
    let openssl = Openssl::existing(program, lab.folder());
    let san = format!("subjectAltName=URI:{}", lab.id("shop", account));
    openssl.leaf(account, &[NO_CA, SIGNS, BOTH, &san], 1);
    let bundle = lab.folder().join("bundle.pem");
    fs::copy(bundle, lab.folder().join(format!("{account}.bundle"))).unwrap();
}

/// Who calls with a certificate that breaks a rule gets no connection, and the metric says why.
#[tokio::test]
async fn attack_calls_with_a_malformed_svid() {
    let lab = Lab::new();
    let Some(cases) = cases("attack_calls_with_a_malformed_svid", &lab) else { return };
    own_certificate(&lab, "callee");
    let app = App::mirror();
    let source = identity(&lab, "callee");
    let callee =
        lab.orders(&app, |spec| spec.with(|config| config["identity"]["source"] = source)).await;
    for Case { name, chain, reason } in &cases {
        let result = reason.unwrap_or("ok");
        let label = format!("result=\"{result}\"");
        let before = callee.metric("countersign_tls_handshakes_total", &[&label]).await;
        let outcome = async {
            let config = tls::client(Some(chain), &[tls::MESH_H2]);
            let mut conn = Conn::tls(callee.inbound(), config).await?;
            conn.send(Call::get("orders.shop", "/")).await
        };
        let reply = outcome.await;
        assert_eq!(reply.is_err(), reason.is_some(), "{name}: {:?}", reply.map(|r| r.status));
        wait::until(&format!("{name}: {result}"), async || {
            let now = callee.metric("countersign_tls_handshakes_total", &[&label]).await;
            (now > before).then_some(())
        })
        .await;
    }
    let good = cases.iter().filter(|case| case.reason.is_none()).count();
    assert_eq!(app.seen().len(), good);
}

/// Who answers with one gets no request.
#[tokio::test]
async fn attack_answers_with_a_malformed_svid() {
    let lab = Lab::new();
    let Some(cases) = cases("attack_answers_with_a_malformed_svid", &lab) else { return };
    own_certificate(&lab, "web");
    let host = |number: usize| format!("case{number}.shop");
    let mut mesh: Mesh = lab.mesh();
    let servers: Vec<App> = cases
        .iter()
        .map(|case| App::tls_mirror(tls::server(&case.chain, &[tls::MESH_H2])))
        .collect();
    for (number, server) in servers.iter().enumerate() {
        let name = format!("shop/case{number}");
        mesh = mesh.destination(&name, &host(number), server.address, &[&Maker::id()]);
    }
    let mesh = lab.write("web-mesh.yaml", &mesh.document());
    let source = identity(&lab, "web");
    let web = lab.proxy("shop", "web").outbound().documents(&[&mesh]);
    let web = web.with(|config| config["identity"]["source"] = source).start().await;
    for (number, Case { name, reason, .. }) in cases.iter().enumerate() {
        let reply = client::call(web.outbound(), Call::get(&host(number), "/")).await;
        let Some(reason) = reason else {
            assert_eq!(reply.status, 200, "{name}: {}", reply.text());
            continue;
        };
        refused(&web, &reply, "server_identity_unexpected").await;
        let label = format!("result=\"{reason}\"");
        let count = web.metric("countersign_tls_handshakes_total", &[&label]).await;
        assert!(count >= 1.0, "{name}: not {reason}");
        assert!(servers[number].seen().is_empty(), "{name}");
    }
}

/// an empty subject and a name that is not critical: nobody would take it from us, so we do
/// not take it from our source.
#[tokio::test]
async fn attack_source_delivers_a_malformed_svid() {
    let lab = Lab::new();
    let Some(program) = programs::system("attack_source_delivers", "openssl") else { return };
    let openssl = Openssl::new(program, lab.folder(), lab::DOMAIN);
    let san = format!("subjectAltName=URI:{}", lab.id("shop", "orders"));
    let critical = format!("subjectAltName=critical,URI:{}", lab.id("shop", "orders"));
    let mesh = lab.write("mesh.yaml", &lab.mesh().document());
    let issue = |extensions: &[&str]| {
        let issue = Issue { name: "own", subject: "/", extensions, days: 1, issuer: None };
        openssl.issue(&issue);
        fs::copy(lab.folder().join("bundle.pem"), lab.folder().join("own.bundle")).unwrap();
    };
    issue(&[NO_CA, SIGNS, BOTH, &san]);
    let source = identity(&lab, "own");
    let spec = lab.proxy("shop", "orders").inbound(countersign_integration::ports::free());
    let spec = spec.documents(&[&mesh]).with(|config| config["identity"]["source"] = source);
    let proxy = spec.launch();
    let says = "the subject is empty and the subject alternative name is not critical";
    wait::until_true("the reason", || proxy.log().contains(says)).await;
    assert_ne!(proxy.ready().await.unwrap().0, 200);
    issue(&[NO_CA, SIGNS, BOTH, &critical]);
    proxy.until_ready().await;
}
