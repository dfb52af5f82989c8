#!/usr/bin/env python3
"""Makes tokens with JOSE libraries that are not ours, for src/tests/vectors.rs.

    python3 -m venv /tmp/jose && /tmp/jose/bin/pip install joserfc==1.8.0 jwcrypto==1.6.1 cryptography
    /tmp/jose/bin/python make_vectors.py > vectors.json

Keys and signatures are new in each run; the result is committed and its `now` is pinned.
"""
import base64
import datetime
import hashlib
import hmac
import json
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from joserfc import jws as joserfc_jws
from joserfc.jwk import ECKey, OKPKey
from jwcrypto import jwk as jwcrypto_jwk
from jwcrypto import jws as jwcrypto_jws

NOW = 1795194010
DOMAIN = "prod.example.com"
GATEWAY = f"spiffe://{DOMAIN}/ns/edge/sa/gateway"
ORDERS = f"spiffe://{DOMAIN}/ns/shop/sa/orders"

CLAIMS = {
    "iss": GATEWAY, "aud": DOMAIN, "iat": NOW - 10, "exp": NOW + 50,
    "txn": "01a1f9e6-9359-7e8d-bfc5-2f2007d3fcf2", "jti": "sUBCq5r81Enqa632cABTLw",
    "sub": "user:alice", "scope": "orders.read", "req_wl": GATEWAY,
    "rctx": {
        "v": 1, "origin": "user", "to": ORDERS, "req_ip": "203.0.113.7", "ip_src": "xff:1",
        "idp": "corp", "client_id": "webshop", "authn": "mfa", "amr": ["pwd", "otp", "mfa"],
        "auth_time": 1795193188, "groups": ["support"],
        "dev": {"id": "d-7f3a", "managed": True, "tier": "2", "src": "mtls"},
        "tls": {"v": "1.3", "sni": "shop.example.com"},
        "just": {"kind": "ticket", "ref": "SUP-1234", "by": "tickets", "checked": True},
    },
    "tctx": {"m": "GET", "h": "shop.example.com", "p": "/v1/users/{user}/orders", "params": {"user": "42"}},
}
ALGORITHMS = ["ES256", "Ed25519"]


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def compact(value) -> bytes:
    # Escapes and spaces as no minter of ours writes them: JSON is JSON.
    return json.dumps(value, ensure_ascii=True, indent=1).encode()


def public_jwk(key) -> dict:
    """The public members, with the names a countersign key set has."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        numbers = key.public_key().public_numbers()
        members = {"crv": "P-256", "kty": "EC", "x": b64url(numbers.x.to_bytes(32, "big")),
                   "y": b64url(numbers.y.to_bytes(32, "big"))}
        alg = "ES256"
    else:
        raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        members = {"crv": "Ed25519", "kty": "OKP", "x": b64url(raw)}
        alg = "Ed25519"
    thumbprint = hashlib.sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode())
    return {**members, "kid": b64url(thumbprint.digest()[:12]), "alg": alg, "use": "csign-ctx"}


def private_jwk(key) -> dict:
    jwk = {k: v for k, v in public_jwk(key).items() if k in ("kty", "crv", "x", "y")}
    if isinstance(key, ec.EllipticCurvePrivateKey):
        jwk["d"] = b64url(key.private_numbers().private_value.to_bytes(32, "big"))
    else:
        jwk["d"] = b64url(key.private_bytes_raw())
    return jwk


def sign_joserfc(header: dict, claims: dict, key) -> str:
    make = ECKey if isinstance(key, ec.EllipticCurvePrivateKey) else OKPKey
    return joserfc_jws.serialize_compact(
        header, compact(claims), make.import_key(private_jwk(key)), algorithms=ALGORITHMS)


def sign_jwcrypto(header: dict, claims: dict, key) -> str:
    token = jwcrypto_jws.JWS(compact(claims))
    token.allowed_algs = ALGORITHMS
    token.add_signature(jwcrypto_jwk.JWK(**private_jwk(key)), protected=json.dumps(header))
    return token.serialize(compact=True)


def certificate(key) -> x509.Certificate:
    """An X509-SVID of the gateway, signed by a root that is not sent."""
    root = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "test root")])
    start = datetime.datetime.fromtimestamp(NOW - 60, datetime.timezone.utc)
    usage = dict.fromkeys(
        ["content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"], False)
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(name)
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(start).not_valid_after(start + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(GATEWAY)]), True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), True)
        .add_extension(x509.ExtendedKeyUsage(both), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .sign(root, hashes.SHA256()))


def by_hand(header: dict, claims: dict, sign) -> str:
    signed = f"{b64url(json.dumps(header).encode())}.{b64url(compact(claims))}"
    return f"{signed}.{b64url(sign(signed.encode()))}"


def main() -> None:
    p256 = ec.generate_private_key(ec.SECP256R1())
    p384 = ec.generate_private_key(ec.SECP384R1())
    edwards = ed25519.Ed25519PrivateKey.generate()
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    leaf = certificate(p256)
    leaf_der = leaf.public_bytes(Encoding.DER)

    es = {"alg": "ES256", "typ": "txntoken+jwt", "kid": public_jwk(p256)["kid"]}
    ed = {"alg": "Ed25519", "typ": "txntoken+jwt", "kid": public_jwk(edwards)["kid"]}
    x5c = {"alg": "ES256", "typ": "txntoken+jwt", "x5c": [base64.b64encode(leaf_der).decode()]}
    full_typ = {**es, "typ": "application/txntoken+jwt"}
    pem = p256.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der_signature = lambda m: p256.sign(m, ec.ECDSA(hashes.SHA256()))  # noqa: E731

    vectors = [
        ("joserfc ES256 kid", None, sign_joserfc(es, CLAIMS, p256)),
        ("joserfc ES256 kid, full media type", None, sign_joserfc(full_typ, CLAIMS, p256)),
        ("joserfc ES256 x5c", None, sign_joserfc(x5c, CLAIMS, p256)),
        ("joserfc Ed25519 kid", None, sign_joserfc(ed, CLAIMS, edwards)),
        ("jwcrypto ES256 kid", None, sign_jwcrypto(es, CLAIMS, p256)),
        ("jwcrypto ES256 x5c", None, sign_jwcrypto(x5c, CLAIMS, p256)),
        ("jwcrypto ES256 kid, non-ASCII subject", None,
         sign_jwcrypto(es, {**CLAIMS, "sub": "user:jos\u00e9/\U0001f600"}, p256)),
        ("another audience", "audience_wrong",
         sign_joserfc(es, {**CLAIMS, "aud": "test.example.com"}, p256)),
        ("audience as array", "claim_invalid", sign_joserfc(es, {**CLAIMS, "aud": [DOMAIN]}, p256)),
        ("expired", "token_expired", sign_joserfc(es, {**CLAIMS, "exp": NOW - 31}, p256)),
        ("cnf", "claim_invalid", sign_joserfc(es, {**CLAIMS, "cnf": {"jkt": "x"}}, p256)),
        ("kid of the other key", "key_unknown", sign_joserfc({**es, "kid": ed["kid"]}, CLAIMS, p256)),
        ("signed by another key", "signature_invalid",
         sign_joserfc(es, CLAIMS, ec.generate_private_key(ec.SECP256R1()))),
        ("typ JWT", "token_malformed", sign_joserfc({**es, "typ": "JWT"}, CLAIMS, p256)),
        ("alg none", "token_malformed", by_hand({**es, "alg": "none"}, CLAIMS, lambda m: b"0" * 64)),
        ("alg noNE", "token_malformed", by_hand({**es, "alg": "noNE"}, CLAIMS, lambda m: b"0" * 64)),
        ("HS256 with the public key", "token_malformed",
         by_hand({**es, "alg": "HS256"}, CLAIMS, lambda m: hmac.digest(pem, m, "sha256"))),
        ("RS256", "token_malformed", by_hand(
            {**es, "alg": "RS256"}, CLAIMS, lambda m: rsa_key.sign(m, padding.PKCS1v15(), hashes.SHA256()))),
        ("ES384", "token_malformed", by_hand(
            {**es, "alg": "ES384"}, CLAIMS, lambda m: p384.sign(m, ec.ECDSA(hashes.SHA384())))),
        ("DER signature", "signature_invalid", by_hand(es, CLAIMS, der_signature)),
        ("EdDSA", "token_malformed", by_hand({**ed, "alg": "EdDSA"}, CLAIMS, edwards.sign)),
        ("crit", "token_malformed", by_hand({**ed, "crit": ["exp"], "exp": 1}, CLAIMS, edwards.sign)),
        ("b64 false", "token_malformed",
         by_hand({**ed, "b64": False, "crit": ["b64"]}, CLAIMS, edwards.sign)),
        ("kid and x5c", "token_malformed", by_hand({**x5c, **ed}, CLAIMS, edwards.sign)),
    ]
    json.dump({
        "made_by": "make_vectors.py with joserfc 1.8.0 and jwcrypto 1.6.1",
        "now": NOW,
        "jwks": {"keys": [public_jwk(p256), public_jwk(edwards)]},
        "leaf": base64.b64encode(leaf_der).decode(),
        "leaf_spki": base64.b64encode(leaf.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode(),
        "leaf_not_after": int(leaf.not_valid_after_utc.timestamp()),
        "tokens": [{"name": n, "refused": r, "token": t} for n, r, t in vectors],
    }, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
