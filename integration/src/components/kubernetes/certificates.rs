//! The certificates of a cluster: of the API server, of its administrator, of kubelets; and the
//! key of service account tokens, which is RSA as in most clusters.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SanType,
};

use crate::pki::Leaf;

/// Made once for a cluster.
pub(super) struct Certificates {
    issuer: Issuer<'static, KeyPair>,
    /// May do everything.
    pub(super) admin: Leaf,
}

impl Certificates {
    /// Makes them and writes `ca.crt`, `api.crt`, `api.key`, `sa.key` and `sa.pub`.
    pub(super) fn new(folder: &Path) -> Certificates {
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = params("kubernetes", "");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        write("ca.crt", &params.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(params, key);

        let mut api = self::params("kube-apiserver", "");
        api.subject_alt_names = vec![
            SanType::DnsName("localhost".try_into().unwrap()),
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        ];
        api.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let api = issue(&issuer, api);
        write("api.crt", &api.chain_pem);
        write("api.key", &api.key_pem);

        let tokens = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        write("sa.key", &tokens.serialize_pem());
        write("sa.pub", &tokens.public_key_pem());
        let admin = issue(&issuer, client("admin", "system:masters"));
        Certificates { issuer, admin }
    }

    /// The certificate of a node's kubelet.
    pub(super) fn kubelet(&self, node: &str) -> Leaf {
        issue(&self.issuer, client(&format!("system:node:{node}"), "system:nodes"))
    }
}

fn client(name: &str, group: &str) -> CertificateParams {
    let mut params = params(name, group);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn params(name: &str, group: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if !group.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(60)).into();
    params.not_after = (now + Duration::from_secs(24 * 3600)).into();
    params
}

fn issue(issuer: &Issuer<'static, KeyPair>, params: CertificateParams) -> Leaf {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    Leaf {
        chain: vec![certificate.der().clone()],
        key: key.serialize_der(),
        chain_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
        not_after: 0,
    }
}
