"""Asks a token service for a token of its own, and verifies the answer.

client.py ADDRESS CERTIFICATE KEY BUNDLE MY_ID SERVICE_ID TRUST_DOMAIN
"""

import base64
import http.client
import json
import ssl
import sys
import time
import urllib.parse

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.jwk import ECKey
from joserfc.jws import JWSRegistry

address, certificate, key_file, bundle, me, service, domain = sys.argv[1:]
host, port = address.rsplit(":", 1)

context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.minimum_version = ssl.TLSVersion.TLSv1_3
context.check_hostname = False  # the certificate names a workload, checked below
context.load_verify_locations(bundle)
context.load_cert_chain(certificate, key_file)

connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=30)
connection.connect()
leaf = x509.load_der_x509_certificate(connection.sock.getpeercert(binary_form=True))
names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
if names.get_values_for_type(x509.UniformResourceIdentifier) != [service]:
    sys.exit("this is not the token service")

with open(key_file, "rb") as file:
    key = ECKey.import_key(file.read())
now = int(time.time())
statement = jwt.encode(
    {"alg": "ES256", "typ": "JWT"},
    {"iss": me, "sub": me, "aud": service, "iat": now, "exp": now + 60},
    key,
)
form = urllib.parse.urlencode(
    {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "requested_token_type": "urn:ietf:params:oauth:token-type:txn_token",
        "audience": domain,
        "scope": "orders.read",
        "subject_token_type": "urn:ietf:params:oauth:token-type:self_signed",
        "subject_token": statement,
    }
)
connection.request(
    "POST",
    "/v1/token",
    form,
    {"Content-Type": "application/x-www-form-urlencoded"},
)
response = connection.getresponse()
answer = json.loads(response.read())
assert response.status == 200, answer
assert response.getheader("Cache-Control") == "no-store"
assert answer["token_type"] == "N_A"
assert answer["issued_token_type"] == "urn:ietf:params:oauth:token-type:txn_token"
assert "refresh_token" not in answer

# The signer is the service itself: its certificate travels in the token.
token = answer["access_token"]
header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
signer = x509.load_der_x509_certificate(base64.b64decode(header["x5c"][0]))
assert signer == leaf
public = ECKey.import_key(
    signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
)
registry = JWSRegistry(algorithms=["ES256"])
registry.max_header_length = 2_800  # a certificate chain is longer than its default
claims = jwt.decode(token, public, registry=registry).claims
assert claims["iss"] == service and claims["aud"] == domain
assert now <= claims["iat"] <= time.time()
assert claims["exp"] - claims["iat"] == answer["expires_in"] and 0 < answer["expires_in"] <= 60
print(json.dumps(claims))
