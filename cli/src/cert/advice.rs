//! How a problem is set right where the certificate came from: one line per authority.
//!
//! Invariant: a line names a setting of that product as it is written there; where a product cannot
//! make the mistake, it has no line.

const CERT_MANAGER: &str = "cert-manager";
const OPENSSL: &str = "openssl";
const POD_CERTIFICATE: &str = "PodCertificate";
const SPIRE: &str = "SPIRE";
const VAULT: &str = "Vault, OpenBao";
const ANYWHERE: &str = "anywhere";

/// The fixes for a reason; unknown reasons have none.
pub(super) fn fixes(reason: &str) -> &'static [(&'static str, &'static str)] {
    match reason {
        "bad_san" => BAD_SAN,
        "bad_key_usage" | "bad_eku" => BAD_USAGE,
        "bad_key" => BAD_KEY,
        "key_mismatch" => KEY_MISMATCH,
        "expired" => EXPIRED,
        "not_yet_valid" => &[
            (ANYWHERE, "compare the clocks of this machine and of the authority: `timedatectl`"),
            (VAULT, "role: `not_before_duration=60s`"),
            (SPIRE, "the server dates certificates back by itself: its clock is ahead of ours"),
        ],
        "chain_out_of_order" | "not_a_leaf" => &[
            (
                OPENSSL,
                "`cat leaf.pem intermediate.pem > tls.crt`: the leaf first, then its issuers",
            ),
            (CERT_MANAGER, "`isCA` must not be set in the Certificate of a workload"),
            (VAULT, "write `certificate` first, then `ca_chain`"),
        ],
        "chain_too_long" => &[(ANYWHERE, "at most 6 certificates and 32 KiB, without the root")],
        "untrusted_chain" => UNTRUSTED,
        "unknown_trust_domain" => &[(
            ANYWHERE,
            "the trust given holds no authority of that trust domain: name the right file, or \
             a bundle map with that domain in it",
        )],
        "bad_bundle" => &[
            (
                CERT_MANAGER,
                "`ca.crt` is empty where the issuer does not know its root: use trust-manager",
            ),
            (
                ANYWHERE,
                "a trust file holds authorities only (cA true, keyCertSign), whole and as PEM",
            ),
        ],
        "san_not_critical" => {
            &[(OPENSSL, "`subjectAltName = critical,URI:spiffe://…` where the subject is empty")]
        }
        "name_constraint" => &[(
            ANYWHERE,
            "the authority's name constraints must permit the trust domain: \
             openssl `permitted;URI:prod.example.com`",
        )],
        "critical_extension" => {
            &[(ANYWHERE, "leave the extension out, or do not mark it critical")]
        }
        "unexpected_identity" => &[
            (SPIRE, "`spire-server entry show`: whose selectors match that process?"),
            (
                CERT_MANAGER,
                "`kubectl get certificate`: which `uris` and `secretName` belong together?",
            ),
            (
                VAULT,
                "role: `allowed_uri_sans` names one identity; is it the role of another workload?",
            ),
            (ANYWHERE, "a pod address may have moved to another workload: who listens there now?"),
        ],
        "refused_by_peer" => &[(
            ANYWHERE,
            "the peer's log and `countersign why --last-denied` there name the reason: its trust, \
             the time, or a revocation",
        )],
        _ => &[],
    }
}

const BAD_SAN: &[(&str, &str)] = &[
    (
        CERT_MANAGER,
        "Certificate: `uris: [\"spiffe://prod.example.com/ns/shop/sa/orders\"]`, exactly one",
    ),
    (SPIRE, "`spire-server entry show`: the SPIFFE ID of an entry needs a path"),
    (
        VAULT,
        "role: `allowed_uri_sans` with the ID and `use_csr_sans=true`; the CSR must carry the ID",
    ),
    (
        POD_CERTIFICATE,
        "the signer of `signerName` decides; `countersign.dev/workload` writes the ID",
    ),
    (OPENSSL, "`subjectAltName = critical,URI:spiffe://prod.example.com/ns/shop/sa/orders`"),
];

const BAD_USAGE: &[(&str, &str)] = &[
    (CERT_MANAGER, "Certificate: `usages: [digital signature, server auth, client auth]`"),
    (VAULT, "role: `key_usage=DigitalSignature server_flag=true client_flag=true`"),
    (POD_CERTIFICATE, "the signer of `signerName` must write both extended usages"),
    (
        OPENSSL,
        "`keyUsage = critical,digitalSignature` and `extendedKeyUsage = serverAuth,clientAuth`",
    ),
];

const BAD_KEY: &[(&str, &str)] = &[
    (
        CERT_MANAGER,
        "Certificate: `privateKey: {algorithm: ECDSA, size: 256, rotationPolicy: Always}`",
    ),
    (SPIRE, "agent.conf: `workload_x509_svid_key_type = \"ec-p256\"`"),
    (VAULT, "role: `key_type=ec key_bits=256`"),
    (POD_CERTIFICATE, "`keyType: ECDSAP256`"),
    (OPENSSL, "`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"),
];

const KEY_MISMATCH: &[(&str, &str)] = &[
    (CERT_MANAGER, "mount `tls.crt` and `tls.key` of one Secret as one volume, without subPath"),
    (
        ANYWHERE,
        "look again in two seconds: a writer of two files replaces them one after the other",
    ),
];

const EXPIRED: &[(&str, &str)] = &[
    (
        CERT_MANAGER,
        "`kubectl describe certificate NAME`, `cmctl renew NAME`; subPath mounts never change",
    ),
    (SPIRE, "`spire-agent healthcheck`; the agent's log says why it cannot renew"),
    (VAULT, "`/ready` and the log of the proxy name the call and the answer"),
    (POD_CERTIFICATE, "`kubectl get podcertificaterequests`: is the signer running?"),
    (OPENSSL, "issue it again; nobody renews what was made by hand"),
];

const UNTRUSTED: &[(&str, &str)] = &[
    (CERT_MANAGER, "the trust file must hold the root of the issuer; while it changes, both"),
    (SPIRE, "`spire-server bundle show`: is its root in the trust file?"),
    (VAULT, "`vault read pki/cert/ca_chain`: is its root in the trust file?"),
    (
        POD_CERTIFICATE,
        "`kubectl get clustertrustbundles`: the same `signerName` for both projections",
    ),
    (OPENSSL, "`openssl verify -CAfile trust.pem -untrusted tls.crt tls.crt`"),
];
