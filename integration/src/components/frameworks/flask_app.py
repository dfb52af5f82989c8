"""A web service as people write them: Flask, a pool of connections, a pool of threads.

It calls the service at BILLING and knows nothing of sidecars, users or contexts.
"""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import requests
from flask import Flask, jsonify, request
from requests.adapters import HTTPAdapter

BILLING = os.environ["BILLING"]

app = Flask(__name__)
session = requests.Session()
session.mount("http://", HTTPAdapter(pool_connections=4, pool_maxsize=16))
pool = ThreadPoolExecutor(max_workers=8)


def bill(path):
    """One call of the other service, over whichever connection of the pool is free."""
    answer = session.get(BILLING + path, timeout=20)
    return {"status": answer.status_code, "body": answer.json()}


@app.get("/v1/users/<user>/orders")
def orders(user):
    return jsonify(user=request.headers.get("Countersign-User"), calls=[bill(request.full_path)])


@app.get("/v1/users/<user>/fanout")
def fanout(user):
    calls = list(pool.map(bill, [f"{request.path}?part={part}" for part in range(4)]))
    return jsonify(user=request.headers.get("Countersign-User"), calls=calls)


@app.get("/v1/users/<user>/later")
def later(user):
    """Answers at once and calls afterwards, from a thread of its own."""
    path = request.full_path
    threading.Thread(target=lambda: bill(path)).start()
    return jsonify(user=request.headers.get("Countersign-User"), calls=[])


def wait_and_bill(path):
    while not os.path.exists(os.environ["GO_ON"]):
        time.sleep(0.05)
    bill(path)


@app.get("/v1/users/<user>/job")
def job(user):
    """Starts a job that goes on long after its request, when somebody says so."""
    path = request.full_path
    threading.Thread(target=wait_and_bill, args=(path,)).start()
    return jsonify(user=request.headers.get("Countersign-User"), calls=[])
