//! Revocation lists, as whoever is between an authority and us may change them.
#![no_main]

use countersign_certs_client::{Bundle, Crl, Crls};
use countersign_certs_client::crl::Numbered;
use countersign_fuzz::{DOMAIN, certificates};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let domain = DOMAIN.parse().unwrap();
    let _ = Crl::from_der(bytes).claimed_serials(&domain);
    for crl in Crl::from_pem(bytes).into_iter().flatten() {
        let _ = crl.claimed_serials(&domain);
    }
    // The numbers of certificates are what lists are compared with.
    if let Ok(numbers) = Numbered::of(&certificates(bytes)) {
        assert!(!Crls::default().revoke(&domain, &numbers), "no list, nothing revoked");
    }
    let _ = Bundle::from_concatenated_der(bytes);
});
