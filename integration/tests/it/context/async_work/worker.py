"""Two apps that share a queue (NATS JetStream) and know of their sidecars only the local API.

worker.py produce PORT NATS LOCAL CONSUMER     an HTTP service: every POST becomes a message
worker.py consume NATS LOCAL OUTBOUND TIMES    takes a message this many times, then acknowledges
"""
import asyncio
import hashlib
import http.client
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import nats


def ask(local, call, body, handle=None):
    headers = {"Countersign-Local": "1", "Content-Type": "application/json"}
    if handle:
        headers["Countersign-Context"] = handle
    conn = http.client.HTTPConnection(local, timeout=30)
    conn.request("POST", f"/v1/{call}", json.dumps(body), headers)
    answer = conn.getresponse()
    return answer.status, json.loads(answer.read())


async def publish(server, body, grant):
    queue = await nats.connect(server)
    stream = queue.jetstream()
    await stream.add_stream(name="work", subjects=["exports"])
    await stream.publish("exports", body, headers={"Countersign-Deferred": grant})
    await queue.close()


def produce(port, server, local, consumer):
    class Service(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            work = {"consumer": consumer, "ttl": 600, "digest": hashlib.sha256(body).hexdigest()}
            status, answer = ask(local, "defer", work, self.headers["Countersign-Context"])
            if status == 200:
                asyncio.run(publish(server, body, answer.pop("grant")))
                status = 202
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    ThreadingHTTPServer(("127.0.0.1", int(port)), Service).serve_forever()


def onward(outbound, handle):
    conn = http.client.HTTPConnection(outbound, timeout=30)
    conn.request("GET", "/v1/exports", headers={"Host": "ledger.shop", "Countersign-Context": handle})
    answer = conn.getresponse()
    return answer.status, answer.read().decode()


async def consume(server, local, outbound, times):
    queue = await nats.connect(server)
    work = await queue.jetstream().pull_subscribe("exports", durable="reports", stream="work")
    for turn in range(times):
        [message] = await work.fetch(1, timeout=30)
        digest = hashlib.sha256(message.data).hexdigest()
        grant = message.headers["Countersign-Deferred"]
        status, answer = ask(local, "resume", {"grant": grant, "digest": digest})
        told = {"delivery": message.metadata.num_delivered, "status": status, "answer": answer}
        if status == 200:
            told["onward"] = onward(outbound, answer["context"])
        print(json.dumps(told), flush=True)
        # As if it had broken down before it was done: the queue delivers again.
        await (message.ack() if turn + 1 == times else message.nak())
    await queue.close()


if sys.argv[1] == "produce":
    produce(*sys.argv[2:6])
else:
    asyncio.run(consume(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])))
