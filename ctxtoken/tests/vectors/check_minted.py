#!/usr/bin/env python3
"""Verifies a token minted here with JOSE libraries that are not ours.

    cargo run -p countersign-ctxtoken --example mint_and_verify -- --export | python check_minted.py

Reads {"jwks": ..., "token": ...}; prints the claims, or fails.
"""
import json
import sys

from joserfc import jws as joserfc_jws
from joserfc.jwk import KeySet
from jwcrypto import jwk as jwcrypto_jwk
from jwcrypto import jws as jwcrypto_jws

ALGORITHMS = ["ES256", "Ed25519"]

given = json.load(sys.stdin)
# `use` is ours ("csign-ctx"); libraries know only "sig".
keys = [{k: v for k, v in key.items() if k != "use"} for key in given["jwks"]["keys"]]

seen = joserfc_jws.deserialize_compact(
    given["token"].encode(), KeySet.import_key_set({"keys": keys}), algorithms=ALGORITHMS)
claims = json.loads(seen.payload)
header = seen.protected
assert header["typ"] == "txntoken+jwt" and set(header) == {"alg", "typ", "kid"}, header

other = jwcrypto_jws.JWS()
other.allowed_algs = ALGORITHMS
other.deserialize(given["token"])
key = next(key for key in keys if key["kid"] == header["kid"])
other.verify(jwcrypto_jwk.JWK(**key))
assert json.loads(other.payload) == claims

json.dump(claims, sys.stdout, indent=1)
print()
