#!/usr/bin/env python3
"""Context tokens with a JOSE library that is not ours: python jose.py verify | mint < JSON.

verify {"token"}: checks the signature with the key of the certificate in `x5c`, prints the claims.
mint {"key", "header", "claims"}: prints a token signed with the PEM key. Used by interop.rs.
"""
import base64
import json
import sys

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jws
from joserfc.jwk import ECKey

REGISTRY = jws.JWSRegistry(algorithms=["ES256"])
REGISTRY.max_header_length = 4096  # the default, 512 bytes, has no room for a certificate
given = json.load(sys.stdin)


def verify():
    header = json.loads(base64.urlsafe_b64decode(given["token"].split(".")[0] + "=="))
    leaf = x509.load_der_x509_certificate(base64.b64decode(header["x5c"][0]))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    key = ECKey.import_key(
        leaf.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    claims = json.loads(jws.deserialize_compact(given["token"], key, registry=REGISTRY).payload)
    assert header["typ"] == "txntoken+jwt" and header["alg"] == "ES256", header
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [claims["iss"]]
    json.dump(claims, sys.stdout)


def mint():
    key = ECKey.import_key(given["key"])
    payload = json.dumps(given["claims"])
    print(jws.serialize_compact(given["header"], payload, key, registry=REGISTRY))


{"verify": verify, "mint": mint}[sys.argv[1]]()
