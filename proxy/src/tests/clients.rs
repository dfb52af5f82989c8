use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;

/// Seconds since the Unix epoch: the middle of every certificate's life but the short one's.
const NOW: u64 = 1_800_000_000;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn params(ends: u64) -> CertificateParams {
    let at = |seconds: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let mut params = CertificateParams::default();
    params.not_before = at(NOW - 1_000);
    params.not_after = at(ends);
    params
}

fn authority() -> Authority {
    let mut params = params(NOW + 100_000);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn client(authority: &Authority, ends: u64) -> ClientCertificate {
    let leaf = params(ends).signed_by(&KeyPair::generate().unwrap(), authority).unwrap();
    ClientCertificate::of_handshake(Some(&[leaf.der().clone()])).unwrap()
}

fn roots(named: &[(&str, &Authority)]) -> Arc<ClientRoots> {
    let files = named.iter().map(|(name, _)| ((*name).to_owned(), PathBuf::from(name))).collect();
    let mut sorted = named.to_vec();
    sorted.sort_by_key(|(name, _)| *name);
    let contents: Vec<_> = sorted.iter().map(|(_, one)| one.pem().into_bytes()).collect();
    let provider = crate::tls::provider(&[]);
    Arc::new(
        ClientRoots::build(&files, &contents, &provider).unwrap_or_else(|(_, why)| panic!("{why}")),
    )
}

fn at(seconds: u64) -> Now {
    Now::from_micros(seconds * 1_000_000)
}

fn names(vouching: &[Arc<str>]) -> Vec<&str> {
    vouching.iter().map(|name| &**name).collect()
}

#[test]
fn each_authority_vouches_for_its_own_clients_only() {
    let (devices, proxies, stranger) = (authority(), authority(), authority());
    let roots = roots(&[("proxies", &proxies), ("devices", &devices)]);
    let client_of = |authority| client(authority, NOW + 1_000);
    assert_eq!(names(&client_of(&devices).vouched_by(&roots, at(NOW))), ["devices"]);
    assert_eq!(names(&client_of(&proxies).vouched_by(&roots, at(NOW))), ["proxies"]);
    assert!(client_of(&stranger).vouched_by(&roots, at(NOW)).is_empty());
    assert!(ClientCertificate::of_handshake(None).is_none());
    assert!(ClientCertificate::of_handshake(Some(&[])).is_none());
}

/// A connection may live longer than what was true when it began.
#[test]
fn what_was_vouched_for_ends_with_the_certificate_and_with_the_authority() {
    let (devices, other) = (authority(), authority());
    let before = roots(&[("devices", &devices)]);
    let client = client(&devices, NOW + 100);
    assert_eq!(names(&client.vouched_by(&before, at(NOW))), ["devices"]);
    assert_eq!(names(&client.vouched_by(&before, at(NOW + 99))), ["devices"]);
    assert!(client.vouched_by(&before, at(NOW + 101)).is_empty());
    let client = self::client(&devices, NOW + 100);
    assert_eq!(names(&client.vouched_by(&before, at(NOW))), ["devices"]);
    let after = roots(&[("devices", &other)]);
    assert!(client.vouched_by(&after, at(NOW)).is_empty(), "the authority was replaced");
}

#[test]
fn files_without_an_authority_are_refused_by_name() {
    let files = BTreeMap::from([("devices".to_owned(), PathBuf::from("devices.pem"))]);
    let provider = crate::tls::provider(&[]);
    for (content, expected) in [("", "no certificate"), ("-----BEGIN CERTIFICATE-----\nAA", "")] {
        let built = ClientRoots::build(&files, &[content.as_bytes().to_vec()], &provider);
        let Err((file, why)) = built else { panic!("{content}") };
        assert_eq!(file, PathBuf::from("devices.pem"));
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn attack_sends_a_chain_that_is_too_long() {
    let one = authority();
    let any = AnyClient::new(None, crate::tls::provider(&[]));
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    let der = one.der();
    let chain = |length: usize| vec![der.clone(); length];
    assert!(any.verify_client_cert(der, &chain(PEER_CHAIN_CERTS_MAX - 1), now).is_ok());
    assert!(any.verify_client_cert(der, &chain(PEER_CHAIN_CERTS_MAX), now).is_err());
    let long = CertificateDer::from(vec![0; PEER_CHAIN_BYTES_MAX + 1]);
    assert!(any.verify_client_cert(&long, &[], now).is_err());
}
