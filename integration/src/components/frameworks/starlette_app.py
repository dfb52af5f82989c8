"""A web service as people write them: Starlette on asyncio, one asynchronous client for all calls.

It calls the service at BILLING and knows nothing of sidecars, users or contexts.
"""

import asyncio
import os

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse
from starlette.routing import Route

BILLING = os.environ["BILLING"]
client = httpx.AsyncClient(timeout=20, limits=httpx.Limits(max_connections=16))


async def bill(path):
    answer = await client.get(BILLING + path)
    return {"status": answer.status_code, "body": answer.json()}


def path_of(request):
    return f"{request.url.path}?{request.url.query}"


def told(request, calls, **more):
    user = request.headers.get("Countersign-User")
    return JSONResponse({"user": user, "calls": calls}, **more)


async def orders(request):
    return told(request, [await bill(path_of(request))])


async def fanout(request):
    calls = [bill(f"{request.url.path}?part={part}") for part in range(4)]
    return told(request, await asyncio.gather(*calls))


async def later(request):
    """Answers at once and calls afterwards, as a task of the framework."""
    return told(request, [], background=BackgroundTask(bill, path_of(request)))


async def wait_and_bill(path):
    while not os.path.exists(os.environ["GO_ON"]):
        await asyncio.sleep(0.05)
    await bill(path)


jobs = set()


async def job(request):
    """Starts a job that goes on long after its request, when somebody says so."""
    jobs.add(asyncio.create_task(wait_and_bill(path_of(request))))
    return told(request, [])


app = Starlette(
    routes=[
        Route("/v1/users/{user}/" + handler.__name__, handler)
        for handler in (orders, fanout, later, job)
    ]
)
