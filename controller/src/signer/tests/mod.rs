//! Tests of the signer without an API server: what is decided, and what is signed.

mod authority;
mod cluster;
mod corpus;
mod decide;
mod reload;

use std::fs;
use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_certs_client::{KeyMaker, SigningKey, csr};
use countersign_config::{KubernetesApi, SignerConfig};
use countersign_workload_id::{TrustDomain, WorkloadId};
use serde_json::{Value, json};

use super::decide::Rules;
use super::request::Request;

const DOMAIN: &str = "prod.example.com";
const UID: &str = "5c0e7a0e-3b0f-4c55-9f6b-1d8f0a2b7c11";

fn domain() -> TrustDomain {
    TrustDomain::parse(DOMAIN).unwrap()
}

fn orders() -> WorkloadId {
    WorkloadId::new(&domain(), "shop", "orders").unwrap()
}

fn rules() -> Rules {
    Rules { trust_domain: domain(), life_s: (600, 7200) }
}

fn key() -> SigningKey {
    KeyMaker::Software.make().unwrap()
}

/// An object as the API server shows it after `shop/orders` asked from its pod.
fn object(name: &str, pem: &str) -> Value {
    json!({
        "metadata": {"name": name, "creationTimestamp": "2026-11-21T18:00:00Z"},
        "spec": {
            "request": STANDARD.encode(pem),
            "signerName": "countersign.dev/workload",
            "expirationSeconds": 3600,
            "usages": ["digital signature", "client auth", "server auth"],
            "username": "system:serviceaccount:shop:orders",
            "extra": {
                "authentication.kubernetes.io/credential-id": ["JTI=x"],
                "authentication.kubernetes.io/node-name": ["node-1"],
                "authentication.kubernetes.io/pod-name": ["orders-1"],
                "authentication.kubernetes.io/pod-uid": [UID],
            },
        },
        "status": {},
    })
}

/// The sound request of `shop/orders`.
fn sound_object() -> Value {
    object("csr-1", &csr::request(&key(), Some(&orders())).unwrap().pem)
}

fn request(object: Value) -> Request {
    Request::read(object).unwrap()
}

/// A folder with an authority and a token.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        files.write_authority();
        fs::write(files.path("token"), "the-token").unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Another authority than before.
    fn write_authority(&self) {
        self.write_authority_until(4096);
    }

    /// Another one, which ends with this year's first day.
    fn write_authority_until(&self, year: i32) {
        let key = rcgen::KeyPair::generate().unwrap();
        let usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let mut params = authority::params("root", usages);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(self.path("ca.pem"), certificate.pem()).unwrap();
        fs::write(self.path("ca.key"), key.serialize_pem()).unwrap();
    }

    fn config(&self, server: &str) -> SignerConfig {
        SignerConfig {
            file: self.path("signer.yaml"),
            trust_domain: domain(),
            api: KubernetesApi {
                server: server.to_owned(),
                ca: self.path("ca.crt"),
                token_file: self.path("token"),
            },
            signer_name: "countersign.dev/workload".to_owned(),
            certificate: self.path("ca.pem"),
            key: self.path("ca.key"),
            roots: None,
            life_s: (600, 7200),
            per_minute: 600,
            cluster_trust_bundle: Some("countersign.dev:workload:trust".to_owned()),
            documents: Vec::new(),
        }
    }
}
