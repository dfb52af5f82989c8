//! JWT bundles, as an authority or the endpoint of another trust domain may send them.
#![no_main]

use countersign_certs_client::{JwksForm, JwtBundle};

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    for form in [JwksForm::WorkloadApi, JwksForm::SpiffeBundle] {
        let Ok(bundle) = JwtBundle::parse(text, form) else { continue };
        let again = JwtBundle::parse(bundle.jwks(), JwksForm::WorkloadApi).unwrap();
        assert_eq!(again.kids(), bundle.kids());
        #[cfg(feature = "proxy")]
        let _ = countersign_proxy::gateway::callers::jwt_svid::SvidKeys::of(&bundle);
    }
});
