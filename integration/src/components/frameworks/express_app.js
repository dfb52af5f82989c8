// A web service as people write them: Express, an agent that keeps connections.
//
// It calls the service at BILLING and knows nothing of sidecars, users or contexts.
'use strict';

const fs = require('fs');
const http = require('http');
const express = require('express');

const billing = process.env.BILLING;
const agent = new http.Agent({ keepAlive: true, maxSockets: 16 });

// One call by the module `http`, over whichever connection of the agent is free.
function bill(path) {
  return new Promise((resolve, reject) => {
    http.get(billing + path, { agent }, (answer) => {
      let body = '';
      answer.on('data', (piece) => (body += piece));
      answer.on('end', () => resolve({ status: answer.statusCode, body: JSON.parse(body) }));
    }).on('error', reject);
  });
}

// The same by `fetch`, which has a pool of its own.
async function fetched(path) {
  const answer = await fetch(billing + path);
  return { status: answer.status, body: await answer.json() };
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const app = express();
const told = (request, calls) => ({ user: request.get('Countersign-User') ?? null, calls });
const route = (name, handler) =>
  app.get(`/v1/users/:user/${name}`, (request, response, next) =>
    handler(request, response).catch(next));

route('orders', async (request, response) => {
  await pause(1);
  response.json(told(request, [await bill(request.url)]));
});
route('fanout', async (request, response) => {
  const parts = [0, 1, 2, 3].map((part) => `${request.path}?part=${part}`);
  response.json(told(request, await Promise.all(parts.map((path, n) => (n % 2 ? bill : fetched)(path)))));
});
route('later', async (request, response) => {
  response.json(told(request, []));
  await pause(20);
  await bill(request.url);
});
route('job', async (request, response) => {
  response.json(told(request, []));
  while (!fs.existsSync(process.env.GO_ON)) await pause(50);
  await bill(request.url);
});

app.listen(Number(process.env.PORT), process.env.HOST ?? '127.0.0.1', () => console.log('ready'));
