#!/usr/bin/env python3
"""A real gRPC server or client on raw bytes: python grpc_peer.py serve PORT | call PORT AUTHORITY.

The client prints one JSON object with what it saw. Used by interop.rs.
"""
import json
import sys
from concurrent import futures

import grpc


def get(request, context):
    metadata = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-caller", metadata.get("countersign-caller", "")),))
    return request


def chat(requests, context):
    yield from requests


def fail(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such order")


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", {
        "Get": grpc.unary_unary_rpc_method_handler(get),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
    }),))
    assert server.add_insecure_port("127.0.0.1:%s" % port) == int(port)
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


def failure(call):
    try:
        call(b"x", timeout=20)
    except grpc.RpcError as error:
        initial = {k: v for k, v in error.initial_metadata() or () if isinstance(v, str)}
        trailing = {k: v for k, v in error.trailing_metadata() or () if isinstance(v, str)}
        return {"code": error.code().name, "details": error.details(),
                "decision": initial.get("countersign-decision") or trailing.get("countersign-decision")}
    return {"code": "OK"}


def call(port, authority):
    options = (("grpc.default_authority", authority),)
    seen = {}
    with grpc.insecure_channel("127.0.0.1:%s" % port, options) as channel:
        big = bytes(range(256)) * 1000
        reply, info = channel.unary_unary("/shop.Orders/Get").with_call(big, timeout=20)
        seen["unary"] = reply == big
        seen["caller"] = dict(info.trailing_metadata()).get("x-caller")
        sent = [b"message %d" % number for number in range(50)]
        seen["stream"] = list(channel.stream_stream("/shop.Orders/Chat")(iter(sent), timeout=20)) == sent
        seen["fail"] = failure(channel.unary_unary("/shop.Orders/Fail"))
        seen["denied"] = failure(channel.unary_unary("/shop.Orders/Admin"))
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](*sys.argv[2:])
