#!/usr/bin/env python3
"""Context tokens with PyJWT: python pyjwt.py verify | mint < JSON. Used by interop.rs.

verify {"token", "jwks", "audience", "issuer"}: finds the key by its name in the set, verifies, prints
header and claims, or {"refused": why}.
mint {"key", "header", "claims"}: prints a token signed with the PEM key.
"""
import json
import sys

import jwt

given = json.load(sys.stdin)


def verify():
    keys = jwt.PyJWKSet.from_dict(given["jwks"])
    try:
        header = jwt.get_unverified_header(given["token"])
        key = keys[header["kid"]]
        claims = jwt.decode(
            given["token"], key, algorithms=["ES256"], audience=given["audience"],
            issuer=given["issuer"], options={"require": ["exp", "iat", "aud", "iss", "sub"]})
    except (jwt.PyJWTError, KeyError) as error:
        return {"refused": repr(error)}
    return {"header": header, "claims": claims}


def mint():
    token = jwt.encode(given["claims"], given["key"], algorithm="ES256", headers=given["header"])
    return {"token": token}


json.dump({"verify": verify, "mint": mint}[sys.argv[1]](), sys.stdout)
