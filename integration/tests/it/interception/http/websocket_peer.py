#!/usr/bin/env python3
"""A WebSocket server or client: python websocket_peer.py serve PORT | call PORT HOST.

The client calls HOST by way of its sidecar on PORT and prints what it saw as JSON.
"""
import asyncio
import json
import sys

import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve


async def echo(peer):
    await peer.send(peer.request.headers.get("countersign-caller", ""))
    async for message in peer:
        if message == "close":
            await peer.close(4001, "done here")
            return
        await peer.send(message)


async def server(port):
    async with serve(echo, "127.0.0.1", int(port), max_size=None):
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()


async def client(port, host):
    seen = {}
    where = {"host": "127.0.0.1", "port": int(port), "proxy": None, "max_size": None}
    async with connect("ws://%s/chat" % host, **where) as peer:
        seen["caller"] = await peer.recv()
        await peer.send("hello wörld")
        seen["text"] = await peer.recv()
        await peer.send(bytes(300_000))
        seen["binary"] = len(await peer.recv())
        for number in range(200):
            await peer.send(str(number))
        seen["many"] = len([await peer.recv() for _ in range(200)])
        await asyncio.wait_for(await peer.ping(), 20)
        seen["pong"] = True
        await peer.send("close")
        try:
            await peer.recv()
        except websockets.ConnectionClosed as closed:
            seen["close"] = [closed.rcvd.code, closed.rcvd.reason]
    try:
        async with connect("ws://nowhere.shop/chat", **where):
            seen["unknown"] = 101
    except websockets.InvalidStatus as error:
        seen["unknown"] = error.response.status_code
    json.dump(seen, sys.stdout)


asyncio.run({"serve": server, "call": client}[sys.argv[1]](*sys.argv[2:]))
