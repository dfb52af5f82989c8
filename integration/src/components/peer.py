#!/usr/bin/env python3
"""Servers and clients of protocols whose libraries are Python's: python peer.py WHAT ARGUMENT...

Servers listen on every address of both families and print "ready"; clients print one JSON object
with what they saw. Nothing here knows of sidecars.
"""
import asyncio
import hashlib
import json
import smtplib
import socketserver
import socket
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


# HTTP/1.1: events that wait to be asked for, bodies that are not read before.

class Web(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    go = threading.Semaphore(0)
    moved = 0

    def log_message(self, *_):
        pass

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/go":
            Web.go.release()
            return self.answer(b"gone\n")
        if self.path == "/moved":
            return self.answer(str(Web.moved).encode())
        if self.path == "/events":
            return self.events()
        if self.path.startswith("/bytes/"):
            return self.pour(int(self.path.rsplit("/", 1)[1]))
        self.answer(self.path.encode())

    def events(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(1, 4):
            event = b"data: event %d\n\n" % number
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.wfile.flush()
            if number < 3:
                Web.go.acquire()
        self.wfile.write(b"0\r\n\r\n")

    def pour(self, total):
        self.send_response(200)
        self.send_header("Content-Length", str(total))
        self.end_headers()
        Web.moved = 0
        piece = bytes(range(256)) * 64
        while Web.moved < total:
            self.wfile.write(piece[:total - Web.moved])
            Web.moved += len(piece)

    def do_POST(self):
        total = int(self.headers["Content-Length"])
        if self.path == "/hold":
            Web.go.acquire()
        left, seen = total, hashlib.sha256()
        while left:
            piece = self.rfile.read(min(left, 65536))
            if not piece:
                return
            seen.update(piece)
            left -= len(piece)
        self.answer(seen.hexdigest().encode())


class DualStack(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "web", self.server_address[1]


def web(port):
    server = DualStack(("::", int(port)), Web)
    print("ready", flush=True)
    server.serve_forever()


# WebSocket

def ws_serve(port):
    import websockets

    async def echo(connection):
        async for message in connection:
            if message == "close":
                await connection.close(4711, "as asked")
                return
            await connection.send(message)

    async def main():
        async with websockets.serve(echo, None, int(port), max_size=None):
            print("ready", flush=True)
            await asyncio.Future()

    asyncio.run(main())


def ws_call(host, port):
    import websockets

    async def main():
        seen = {}
        where = "ws://[%s]:%s/chat" % (host, port) if ":" in host else "ws://%s:%s/chat" % (host, port)
        async with websockets.connect(where, max_size=None, proxy=None) as connection:
            for name, message in (("text", "grüße"), ("binary", bytes(range(256)) * 4096)):
                await connection.send(message)
                seen[name] = await connection.recv() == message
            await (await connection.ping())
            seen["ping"] = True
            await connection.send("close")
            try:
                await connection.recv()
            except websockets.ConnectionClosed as closed:
                seen["close"] = closed.rcvd.code
        return seen

    return asyncio.run(main())


# gRPC

def grpc_serve(port):
    import grpc

    def get(request, context):
        context.set_trailing_metadata((("x-length", str(len(request))),))
        return request

    def collect(requests, context):
        return b"".join(requests)

    def split(request, context):
        for byte in request:
            yield bytes([byte])

    def chat(requests, context):
        yield from requests

    def never(request, context):
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait()
        return b""

    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", {
        "Get": grpc.unary_unary_rpc_method_handler(get),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Split": grpc.unary_stream_rpc_method_handler(split),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Never": grpc.unary_unary_rpc_method_handler(never),
        "Admin": grpc.unary_unary_rpc_method_handler(get),
    }),))
    assert server.add_insecure_port("[::]:%s" % port) == int(port)
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


def grpc_call(host, port):
    import grpc

    def code(method, timeout):
        try:
            method(b"x", timeout=timeout)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    seen = {}
    where = "ipv6:[%s]:%s" % (host, port) if ":" in host else "ipv4:%s:%s" % (host, port)
    options = (("grpc.enable_http_proxy", 0),)
    with grpc.insecure_channel(where, options) as channel:
        big = bytes(range(256)) * 4000
        reply, info = channel.unary_unary("/shop.Orders/Get").with_call(big, timeout=20)
        seen["unary"] = reply == big
        seen["trailer"] = dict(info.trailing_metadata()).get("x-length")
        parts = [b"part %d;" % number for number in range(100)]
        seen["collect"] = channel.stream_unary("/shop.Orders/Collect")(iter(parts), timeout=20) == b"".join(parts)
        seen["split"] = b"".join(channel.unary_stream("/shop.Orders/Split")(b"letters", timeout=20)) == b"letters"
        seen["chat"] = list(channel.stream_stream("/shop.Orders/Chat")(iter(parts), timeout=20)) == parts
        seen["deadline"] = code(channel.unary_unary("/shop.Orders/Never"), 0.5)
        seen["denied"] = code(channel.unary_unary("/shop.Orders/Admin"), 20)
    return seen


# SMTP and NATS: only their clients

def smtp_call(host, port, subject):
    with smtplib.SMTP(host, int(port), "client.test", timeout=20) as client:
        code, text = client.ehlo()
        body = "\r\n".join("line %d of %s" % (number, subject) for number in range(500))
        refused = client.sendmail("a@shop.test", ["b@shop.test"], "Subject: %s\r\n\r\n%s\r\n" % (subject, body))
    return {"ehlo": code, "server": text.decode().split()[0], "refused": len(refused)}


def nats_call(host, port):
    import nats

    async def main():
        seen = {}
        name = "[%s]" % host if ":" in host else host
        client = await nats.connect("nats://%s:%s" % (name, port), connect_timeout=20, allow_reconnect=False)
        got, done = [], asyncio.Event()

        async def keep(message):
            got.append(message.data)
            if len(got) == 1000:
                done.set()

        async def reply(message):
            await message.respond(message.data[::-1])

        await client.subscribe("orders.*", cb=keep)
        await client.subscribe("mirror", cb=reply)
        sent = [b"order %d" % number for number in range(1000)]
        for message in sent:
            await client.publish("orders.new", message)
        await asyncio.wait_for(done.wait(), 20)
        seen["published"] = got == sent
        seen["request"] = (await client.request("mirror", b"stressed", timeout=20)).data.decode()
        await client.close()
        return seen

    return asyncio.run(main())


if __name__ == "__main__":
    what = {"web": web, "ws-serve": ws_serve, "ws-call": ws_call, "grpc-serve": grpc_serve,
            "grpc-call": grpc_call, "smtp-call": smtp_call, "nats-call": nats_call}[sys.argv[1]]
    seen = what(*sys.argv[2:])
    if seen is not None:
        print(json.dumps(seen))
