//! SPIFFE bundles, as the endpoint of another trust domain may serve them.
#![no_main]

use countersign_certs_client::BundleDoc;

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    let _ = BundleDoc::parse(text);
    let domain = countersign_fuzz::DOMAIN.parse().unwrap();
    let _ = BundleDoc::of_file(text, &domain);
});
