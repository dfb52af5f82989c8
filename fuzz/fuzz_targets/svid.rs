//! X509-SVIDs: chains of DER certificates, leaf first, as a peer may present them.
#![no_main]

use countersign_certs_client::svid::{self, Usage};
use countersign_certs_client::{Bundle, TrustBundles};
use countersign_fuzz::{DOMAIN, certificates};

/// The authority of the corpus; its key is gone.
const AUTHORITY: &[u8] = include_bytes!("../corpus/svid/authority");
/// 2030-01-01.
const NOW: u64 = 1_893_456_000;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let chain = certificates(bytes);
    let bundle = Bundle::from_concatenated_der(AUTHORITY).unwrap();
    let bundles = TrustBundles::from_iter([(DOMAIN.parse().unwrap(), bundle)]);
    for usage in [Usage::Signature, Usage::TlsClient, Usage::TlsServer] {
        match svid::validate(&chain, &bundles, usage, svid::unix_time(NOW)) {
            Ok(found) => {
                assert_eq!(found.id.trust_domain().as_str(), DOMAIN);
                assert_eq!(svid::claimed_id(&chain[0]), Ok(found.id));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    for certificate in &chain {
        let _ = svid::facts(certificate);
        let _ = svid::location(certificate);
        let _ = svid::spki(certificate);
        let _ = svid::not_after(certificate);
    }
});
