//! One handshake between sidecars in memory, both ends together: our configurations and verifiers,
//! P-256 certificates, with the classical and with the hybrid key exchange.

use std::io::{Read, Write};
use std::sync::Arc;

use countersign_certs_client::{Bundle, Crls, Identity, SigningKey, TrustBundles};
use countersign_config::TlsGroup;
use countersign_policy::Revocations;
use countersign_proxy::tls::verify::{ExpectedIds, Trust};
use countersign_proxy::tls::{Alpn, MeshTls, provider};
use countersign_workload_id::TrustDomain;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use super::Steps;
use crate::identities::{Identities, Leaf, ORDERS_ID, TRUST_DOMAIN};

/// Few: a handshake is millions of instructions, and its signatures differ by less than 1 %.
const TURNS: usize = 16;

pub(super) fn run(steps: &Steps<'_>) {
    let identities = Identities::create().expect("identities");
    for (name, group) in [
        ("handshake/x25519", TlsGroup::X25519),
        ("handshake/x25519mlkem768", TlsGroup::X25519MlKem768),
    ] {
        let (client, server) = configurations(&identities, group);
        steps.step(name, TURNS, || handshake(&client, &server));
    }
}

fn configurations(all: &Identities, group: TlsGroup) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let domain = TrustDomain::parse(TRUST_DOMAIN).expect("a trust domain");
    let mut bundles = TrustBundles::new();
    let bundle = Bundle::from_pem(all.authority.pem().as_bytes()).expect("a bundle");
    bundles.insert(domain.clone(), bundle);
    let trust = Trust {
        bundles: Arc::new(bundles),
        crls: Arc::new(Crls::default()),
        revocations: Arc::new(Revocations::default()),
    };
    let provider = provider(&[group]);
    let of = |leaf: &Leaf, id: &str| {
        let identity = Arc::new(identity(leaf, id));
        MeshTls::build(&identity, &trust, (&domain, &[]), &provider, 1).expect("a configuration")
    };
    let expected = ExpectedIds::new(vec![ORDERS_ID.parse().expect("an id")]).expect("an id");
    let client = of(&all.gateway, crate::identities::GATEWAY_ID);
    let client = client.client(&Arc::new(expected), Alpn::H2).expect("a client");
    (client, of(&all.orders, ORDERS_ID).server(&[]).expect("a server"))
}

fn identity(leaf: &Leaf, id: &str) -> Identity {
    Identity {
        id: id.parse().expect("an id"),
        chain_der: vec![leaf.certificate.der().clone()],
        key: SigningKey::from_pkcs8(&leaf.key.serialize_der()).expect("a key"),
        not_before: 0,
        not_after: u64::MAX,
        leaf_sha256: [0; 32],
    }
}

fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) {
    let name = ServerName::try_from("countersign.invalid").expect("a name");
    let mut client = ClientConnection::new(Arc::clone(client), name).expect("a client");
    let mut server = ServerConnection::new(Arc::clone(server)).expect("a server");
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() {
        while client.wants_write() {
            client.write_tls(&mut wire).expect("memory");
        }
        take(&mut wire, |bytes| {
            server.read_tls(bytes).expect("memory");
            server.process_new_packets().expect("a good handshake");
        });
        while server.wants_write() {
            server.write_tls(&mut wire).expect("memory");
        }
        take(&mut wire, |bytes| {
            client.read_tls(bytes).expect("memory");
            client.process_new_packets().expect("a good handshake");
        });
    }
    // One byte through it: the server has accepted the client's certificate.
    client.writer().write_all(b"x").expect("memory");
    client.write_tls(&mut wire).expect("memory");
    server.read_tls(&mut wire.as_slice()).expect("memory");
    server.process_new_packets().expect("a good record");
    let mut byte = [0];
    server.reader().read_exact(&mut byte).expect("one byte");
}

fn take(wire: &mut Vec<u8>, mut feed: impl FnMut(&mut &[u8])) {
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        feed(&mut rest);
    }
    wire.clear();
}
