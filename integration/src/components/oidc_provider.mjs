// oidc-provider as a server for tests: `node oidc_provider.mjs CONFIG.json`.
// Users log in through its own development forms, API clients by their secret; access tokens are
// JWTs, bound to a DPoP key or client certificate where the client asks for it. A client whose name
// starts with `ci` gets tokens with the claims of GitHub's runners.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import http from 'node:http';
import https from 'node:https';
import { pathToFileURL } from 'node:url';

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const resolve = createRequire(`${config.modules}/package.json`).resolve;
const { Provider } = await import(pathToFileURL(resolve('oidc-provider')));

const REDIRECT = 'http://127.0.0.1/callback';
const person = (client_id, more) => ({
  client_id, redirect_uris: [REDIRECT], response_types: ['code'], application_type: 'native',
  grant_types: ['authorization_code', 'refresh_token'], token_endpoint_auth_method: 'none', ...more,
});
const machine = (client_id) => ({
  client_id, client_secret: 'secret', redirect_uris: [], response_types: [],
  grant_types: ['client_credentials'],
});

// https://docs.github.com/actions: the claims of a workflow's token.
const githubClaims = (ref, owner) => ({
  sub: `repo:${owner}/shop:ref:${ref}`, repository: `${owner}/shop`, repository_owner: owner,
  repository_owner_id: '4747', ref, ref_type: 'branch', workflow: 'release', actor: 'ann',
  event_name: 'push', run_id: '1', run_attempt: '1', runner_environment: 'github-hosted',
  job_workflow_ref: `${owner}/shop/.github/workflows/release.yml@${ref}`,
});
const ci = {
  'ci-main': githubClaims('refs/heads/main', 'acme'),
  'ci-branch': githubClaims('refs/heads/feature', 'acme'),
  'ci-stranger': githubClaims('refs/heads/main', 'mallory'),
};

const provider = new Provider(config.issuer, {
  jwks: { keys: config.keys },
  clients: [
    person('webshop'), person('webshop-dpop', { dpop_bound_access_tokens: true }),
    person('webshop-mtls', { tls_client_certificate_bound_access_tokens: true }),
    ...Object.keys(ci).map(machine),
  ],
  scopes: ['openid', 'offline_access', 'orders.read'],
  pkce: { required: () => true },
  ttl: { AccessToken: 300, ClientCredentials: 300, IdToken: 300 },
  claims: { openid: ['sub', 'groups'] },
  conformIdTokenClaims: false,
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, groups: id === 'alice' ? ['support', 'everyone'] : ['everyone'] }),
  }),
  extraTokenClaims: (_, token) => (token.accountId
    ? { uid: token.accountId, groups: token.accountId === 'alice' ? ['support', 'everyone'] : ['everyone'] }
    : undefined),
  formats: {
    customizers: {
      jwt(_, token, parts) {
        const github = ci[parts.payload.client_id];
        if (!github) return;
        delete parts.payload.client_id;
        Object.assign(parts.payload, github, { nbf: parts.payload.iat });
        parts.header = { ...parts.header, typ: 'JWT' };
      },
    },
  },
  features: {
    devInteractions: { enabled: true },
    clientCredentials: { enabled: true },
    dPoP: { enabled: true },
    mTLS: {
      enabled: true,
      certificateBoundAccessTokens: true,
      getCertificate: (ctx) => ctx.socket.getPeerX509Certificate?.(),
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => config.audience,
      useGrantedResource: () => true,
      getResourceServerInfo: (_, resource) => ({
        scope: 'orders.read',
        audience: config.audience,
        accessTokenFormat: 'jwt',
        accessTokenTTL: 300,
        jwt: { sign: { alg: resource.endsWith('/es256') ? 'ES256' : 'RS256' } },
      }),
    },
  },
});
provider.on('server_error', (_, error) => console.error(error));

const { hostname, port } = new URL(config.issuer);
const server = config.tls
  ? https.createServer({
    cert: readFileSync(config.tls.certificate), key: readFileSync(config.tls.key),
    requestCert: true, rejectUnauthorized: false,
  }, provider.callback())
  : http.createServer(provider.callback());
server.on('request', ({ url }) => url === '/jwks' && console.log('keys were asked for'));
server.listen(port, hostname, () => console.log('listening'));
