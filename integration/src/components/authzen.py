"""A decision point that speaks the AuthZEN Authorization API 1.0 over TLS.

Decides by a JSON file that is read for every question: {"ticket": {"SUP-1": {"status": "open", ...}},
"device": {"d-1": {...}}}. A resource that is not there, or whose "decision" is false, is a no, with its
"reason". Prints one line per question. The file "fault" makes it fail in ways real ones do.
"""

import json
import pathlib
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, CERTIFICATE, KEY, FOLDER, TOKEN = sys.argv[1:]
FOLDER = pathlib.Path(FOLDER)


def fault():
    try:
        return (FOLDER / "fault").read_text().strip()
    except FileNotFoundError:
        return ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.headers.get("X-Request-ID"):
            self.send_header("X-Request-ID", self.headers["X-Request-ID"])
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        length = int(self.headers.get("Content-Length", "0"))
        question = json.loads(self.rfile.read(length))
        print(json.dumps(question, sort_keys=True), flush=True)
        if self.path != "/access/v1/evaluation":
            return self.answer(404, b"{}")
        if self.headers.get("Authorization") != "Bearer " + TOKEN:
            return self.answer(401, b"{}")
        match fault():
            case "stall":
                time.sleep(30)
            case "garbage":
                return self.answer(200, b"<html>decision: true</html>", "text/html")
            case "huge":
                return self.answer(200, b'{"decision":true,"x":"' + b"a" * 200_000 + b'"}')
            case "error":
                return self.answer(500, b'{"decision":true}')
            case "redirect":
                self.send_response(302)
                self.send_header("Location", "https://localhost/yes")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            case "half":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"decision":true}')
                return self.connection.close()
            case "text":
                return self.answer(200, b'{"decision":"true"}')
            case "twice":
                return self.answer(200, b'{"decision":true,"decision":true}')
        known = json.loads((FOLDER / "resources.json").read_text())
        subject, resource = question["subject"], question["resource"]
        assert subject["type"] and subject["id"] and question["action"]["name"]
        found = known.get(resource["type"], {}).get(resource["id"])
        if found is None:
            return self.decide(False, {"reason": "unknown_" + resource["type"]})
        found = dict(found)
        self.decide(found.pop("decision", True), found)

    def decide(self, decision, context):
        self.answer(200, json.dumps({"decision": decision, "context": context}).encode())


class Server(ThreadingHTTPServer):
    daemon_threads = True


server = Server(("127.0.0.1", int(PORT)), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print("ready", flush=True)
threading.Thread(target=server.serve_forever).start()
