// An OAuth client of its own making for tests: `node oauth_client.mjs '{"do": …}'` prints what came out.
//   login    a person logs in through the provider's forms (authorization code, PKCE)
//   token    any other grant at the token endpoint, with `form`
//   proof    a DPoP proof by an earlier key, for a request to somebody else
//   keys     private keys for a provider, one for each name and algorithm
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import http from 'node:http';
import https from 'node:https';
import { pathToFileURL } from 'node:url';

const asked = JSON.parse(process.argv[2]);
const resolve = createRequire(`${asked.modules}/package.json`).resolve;
const jose = await import(pathToFileURL(resolve('jose')));
const REDIRECT = 'http://127.0.0.1/callback';
const tls = asked.tls && {
  ca: readFileSync(asked.tls.ca),
  cert: asked.tls.certificate && readFileSync(asked.tls.certificate),
  key: asked.tls.key && readFileSync(asked.tls.key),
};
const cookies = new Map();

function call(method, url, headers = {}, body = undefined) {
  return new Promise((done, fail) => {
    const jar = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const all = { ...headers, ...(jar && { cookie: jar }) };
    if (body) all['content-type'] = 'application/x-www-form-urlencoded';
    const web = url.startsWith('https:') ? https : http;
    const request = web.request(url, { method, headers: all, ...tls }, (response) => {
      for (const line of response.headers['set-cookie'] ?? []) {
        const [name, value] = line.split(';')[0].split('=');
        cookies.set(name, value);
      }
      let text = '';
      response.on('data', (piece) => { text += piece; });
      response.on('end', () => done({ status: response.statusCode, headers: response.headers, text }));
    });
    request.on('error', fail);
    request.end(body?.toString());
  });
}

async function keys() {
  const made = Object.entries(asked.keys).map(async ([kid, alg]) => {
    const { privateKey } = await jose.generateKeyPair(alg, { extractable: true });
    return { ...await jose.exportJWK(privateKey), kid, alg, use: 'sig' };
  });
  return Promise.all(made);
}

async function newKey() {
  const { privateKey } = await jose.generateKeyPair(asked.alg ?? 'ES256', { extractable: true });
  return jose.exportJWK(privateKey);
}

async function proof(jwk, method, url, { token, nonce } = {}) {
  const alg = jwk.kty === 'RSA' ? 'RS256' : jwk.kty === 'OKP' ? 'EdDSA' : 'ES256';
  const { d, p, q, dp, dq, qi, ...open } = jwk;
  const claims = { jti: randomUUID(), htm: method, htu: url, ...(nonce && { nonce }) };
  if (token) claims.ath = createHash('sha256').update(token).digest('base64url');
  return new jose.SignJWT(claims).setIssuedAt()
    .setProtectedHeader({ alg, typ: 'dpop+jwt', jwk: open })
    .sign(await jose.importJWK(jwk, alg));
}

async function tokens(endpoint, form, jwk) {
  const headers = jwk ? { dpop: await proof(jwk, 'POST', endpoint) } : {};
  const answer = await call('POST', endpoint, headers, new URLSearchParams(form));
  if (answer.status !== 200) throw new Error(`${answer.status} ${answer.text}`);
  return { ...JSON.parse(answer.text), jwk };
}

async function login(about) {
  const verifier = randomBytes(32).toString('base64url');
  const query = new URLSearchParams({
    client_id: asked.client, response_type: 'code', redirect_uri: REDIRECT, state: 'x',
    scope: 'openid orders.read', resource: asked.resource, code_challenge_method: 'S256',
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
  });
  let next = `${about.authorization_endpoint}?${query}`;
  for (let step = 0; step < 12; step += 1) {
    const page = await call('GET', next);
    if (page.status >= 300 && page.status < 400) {
      next = new URL(page.headers.location, next).href;
    } else {
      const action = page.text.match(/action="([^"]+)"/)[1];
      const prompt = page.text.match(/name="prompt" value="([^"]+)"/)[1];
      const sent = await call('POST', new URL(action, next).href, {}, new URLSearchParams(
        { prompt, login: asked.user, password: 'any' },
      ));
      next = new URL(sent.headers.location, next).href;
    }
    if (next.startsWith(REDIRECT)) break;
  }
  const code = new URL(next).searchParams.get('code');
  if (!code) throw new Error(`no code came back: ${next}`);
  return tokens(about.token_endpoint, {
    grant_type: 'authorization_code', client_id: asked.client, redirect_uri: REDIRECT, code,
    code_verifier: verifier, resource: asked.resource,
  }, asked.dpop ? await newKey() : undefined);
}

async function main() {
  if (asked.do === 'keys') return keys();
  if (asked.do === 'proof') return { proof: await proof(asked.jwk, asked.method, asked.url, asked) };
  const about = JSON.parse((await call('GET', `${asked.issuer}/.well-known/openid-configuration`)).text);
  if (asked.do === 'login') return login(about);
  return tokens(about.token_endpoint, asked.form, asked.dpop ? await newKey() : undefined);
}
console.log(JSON.stringify(await main()));
