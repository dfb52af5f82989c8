#!/usr/bin/env python3
"""gRPC deadlines and refusals: python grpc_deadlines.py serve PORT | call PORT AUTHORITY."""
import base64
import json
import sys
import time
from concurrent import futures

import grpc


def left(request, context):
    return str(context.time_remaining()).encode()


def ticks(request, context):
    for number in range(5):
        yield str(number).encode()
        time.sleep(0.1)
    if request == b"endless":
        while context.is_active():
            time.sleep(0.05)


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", {
        "Left": grpc.unary_unary_rpc_method_handler(left),
        "Ticks": grpc.unary_stream_rpc_method_handler(ticks),
    }),))
    assert server.add_insecure_port("127.0.0.1:%s" % port) == int(port)
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


def call(port, authority):
    seen = {}
    options = (("grpc.default_authority", authority),)
    with grpc.insecure_channel("127.0.0.1:%s" % port, options) as channel:
        try:
            channel.unary_unary("/shop.Orders/Delete")(b"", timeout=20)
        except grpc.RpcError as error:
            metadata = dict(list(error.initial_metadata() or ()) + list(error.trailing_metadata() or ()))
            seen["code"] = error.code().name
            seen["details"] = base64.b64encode(metadata["grpc-status-details-bin"]).decode()
        seen["left"] = float(channel.unary_unary("/shop.Orders/Left")(b"", timeout=30))
        stream = channel.unary_stream("/shop.Orders/Ticks")
        seen["ticks"] = len(list(stream(b"", timeout=20)))
        try:
            list(stream(b"endless", timeout=1.5))
        except grpc.RpcError as error:
            seen["late"] = error.code().name
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](*sys.argv[2:])
