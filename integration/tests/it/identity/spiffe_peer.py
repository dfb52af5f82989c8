"""A workload written with py-spiffe: it gets its identity from a Workload API and speaks mutual TLS
with others, as a client and as a server. Prints JSON, one object a line.

    spiffe_peer.py call SOCKET HOST:PORT EXPECTED_ID HOST
    spiffe_peer.py serve SOCKET HOST:PORT EXPECTED_ID
    spiffe_peer.py watch SOCKET COUNT
    spiffe_peer.py jwt SOCKET AUDIENCE
"""

import json
import queue
import socket
import sys

from OpenSSL import SSL
from spiffe import JwtSource, JwtSvid, SpiffeId, WorkloadApiClient, X509Source
from spiffetls import create_ssl_context
from spiffetls.tlsconfig.authorize import authorize_id

HTTP1 = b"countersign/http1.1"


def say(told):
    print(json.dumps(told), flush=True)


def address(text):
    host, port = text.rsplit(":", 1)
    return host, int(port)


def read_head(conn):
    head = b""
    while b"\r\n\r\n" not in head:
        head += conn.recv(4096)
    return head.split(b"\r\n\r\n", 1)


def body_of(conn, head, rest):
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, value = line.split(b":", 1)
        if name.strip().lower() == b"content-length":
            length = int(value)
    while len(rest) < length:
        rest += conn.recv(4096)
    return rest[:length].decode()


def call(source, at, expected, host):
    context = create_ssl_context(SSL.TLS_CLIENT_METHOD, source, authorize_id(SpiffeId(expected)))
    context.set_alpn_protos([HTTP1])
    conn = SSL.Connection(context, socket.create_connection(address(at)))
    conn.set_connect_state()
    conn.do_handshake()
    conn.sendall(f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    head, rest = read_head(conn)
    say({"status": int(head.split()[1]), "body": body_of(conn, head, rest)})
    conn.close()


def serve(source, at, expected):
    context = create_ssl_context(SSL.TLS_SERVER_METHOD, source, authorize_id(SpiffeId(expected)))
    context.set_alpn_select_callback(lambda _, offered: HTTP1 if HTTP1 in offered else b"")
    listener = socket.create_server(address(at))
    say({"listening": at})
    while True:
        plain, _ = listener.accept()
        conn = SSL.Connection(context, plain)
        conn.set_accept_state()
        try:
            conn.do_handshake()
            while True:
                head, rest = read_head(conn)
                body_of(conn, head, rest)
                told = b"py-spiffe answers"
                conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(told), told))
        except SSL.Error as ended:
            say({"ended": repr(ended)})


def watch(source, count):
    news = queue.Queue()
    source.subscribe_for_updates(lambda: news.put(None))
    seen = set()
    while True:
        svid = source.svid
        serial = f"{svid.leaf.serial_number:x}"
        if serial not in seen:
            seen.add(serial)
            bundle = source.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
            say({"id": str(svid.spiffe_id), "serial": serial, "roots": len(bundle.x509_authorities)})
        if len(seen) == count:
            return
        news.get(timeout=60)


def jwt(path, audience):
    with JwtSource(socket_path=path) as source, WorkloadApiClient(socket_path=path) as client:
        svid = source.fetch_svid(audience={audience})
        bundle = source.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        here = JwtSvid.parse_and_validate(svid.token, bundle, {audience})
        there = client.validate_jwt_svid(svid.token, audience)
        try:
            client.validate_jwt_svid(svid.token, audience + "x")
            other = None
        except Exception as refused:  # the library has many kinds
            other = str(refused)
        say({
            "id": str(here.spiffe_id),
            "there": str(there.spiffe_id),
            "token": svid.token,
            "other": other,
        })


def main(what, path, *rest):
    path = f"unix://{path}"
    if what == "jwt":
        return jwt(path, *rest)
    with X509Source(socket_path=path) as source:
        if what == "watch":
            return watch(source, int(rest[0]))
        return {"call": call, "serve": serve}[what](source, *rest)


if __name__ == "__main__":
    main(*sys.argv[1:])
