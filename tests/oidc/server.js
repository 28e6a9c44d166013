// An OpenID provider on loopback for the tests: oidc-provider with keys, clients and claims that a
// test may change while it runs.
//
// The first line of stdin is its configuration in JSON, the first line of stdout its issuer. It
// ends when stdin does.
//
//   POST /control/configure   {"clients": [...], "claims": {"anna": {...}}, "audience": "..."}
//   POST /control/rotate      a new signing key of each kind; {"keep": false} forgets the old ones
//   POST /control/down        {"down": true}: discovery and keys answer 503
//   GET  /control/counts      how often discovery document and keys were asked for
//
// Whoever is named in `login_hint` is logged in at once ("nobody": refused); without it a form asks.

import { createServer } from 'node:http';
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';
import { Provider } from 'oidc-provider';

const KINDS = {
  RS256: () => generateKeyPairSync('rsa', { modulusLength: 2048 }),
  ES256: () => generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  EdDSA: () => generateKeyPairSync('ed25519'),
};
const SCOPES = ['openid', 'profile', 'email', 'offline_access'];

const state = { clients: [], claims: {}, audience: 'paymaster', keys: [], down: false };
const counts = { discovery: 0, keys: 0 };
let issuer;
let provider;

function newKeys() {
  return Object.entries(KINDS).map(([alg, make]) => ({
    ...make().privateKey.export({ format: 'jwk' }), alg, use: 'sig', kid: randomUUID(),
  }));
}

function resourceServer(client) {
  const alg = client.idTokenSignedResponseAlg;
  return {
    scope: SCOPES.join(' '), audience: state.audience, accessTokenFormat: 'jwt',
    accessTokenTTL: 600, jwt: { sign: { alg } },
  };
}

function build() {
  provider = new Provider(issuer, {
    clients: state.clients,
    jwks: { keys: state.keys },
    scopes: SCOPES,
    claims: { openid: ['sub', 'groups', 'amr', 'acr'], profile: ['name'],
      email: ['email', 'email_verified'] },
    conformIdTokenClaims: false,
    cookies: { keys: ['test'] },
    enabledJWA: {
      idTokenSigningAlgValues: Object.keys(KINDS), userinfoSigningAlgValues: Object.keys(KINDS),
    },
    features: {
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: (ctx, client, oneOf) => (oneOf ? oneOf[0] ?? oneOf : undefined),
        getResourceServerInfo: (ctx, resource, client) => resourceServer(client),
        useGrantedResource: () => true,
      },
    },
    findAccount: (ctx, id) => ({
      accountId: id,
      claims: () => ({ sub: id, name: id, email: `${id}@example.test`, email_verified: true,
        ...state.claims[id] }),
    }),
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    loadExistingGrant: async (ctx) => {
      const grant = new ctx.oidc.provider.Grant({
        clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId,
      });
      grant.addOIDCScope(SCOPES.join(' '));
      const resources = [ctx.oidc.params.resource ?? []].flat();
      for (const one of resources) grant.addResourceScope(one, SCOPES.join(' '));
      await grant.save();
      return grant;
    },
    renderError: (ctx, out) => {
      ctx.type = 'json';
      ctx.body = out;
    },
    ttl: { AccessToken: 600, AuthorizationCode: 60, Grant: 3600, IdToken: 600, Interaction: 600,
      Session: 3600 },
  });
  provider.on('server_error', (ctx, error) => console.error(error));
}

async function bodyOf(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString();
}

function answer(response, status, body, type = 'application/json') {
  response.writeHead(status, { 'content-type': type });
  response.end(typeof body === 'string' ? body : JSON.stringify(body));
}

async function control(name, request, response) {
  const given = JSON.parse((await bodyOf(request)) || '{}');
  if (name === 'configure') Object.assign(state, given);
  else if (name === 'rotate') {
    state.keys = [...newKeys(), ...(given.keep === false ? [] : state.keys)];
  } else if (name === 'down') state.down = given.down;
  else if (name !== 'counts') return answer(response, 404, {});
  if (name === 'configure' || name === 'rotate') build();
  return answer(response, 200, counts);
}

async function interact(request, response) {
  const { params } = await provider.interactionDetails(request, response);
  const typed = request.method === 'POST'
    ? new URLSearchParams(await bodyOf(request)).get('login') : undefined;
  const login = typed ?? params.login_hint;
  if (!login) {
    return answer(response, 200, '<!doctype html><title>Log in</title>'
      + '<form method="post"><input name="login" autofocus><button>Log in</button></form>',
    'text/html');
  }
  const result = login === 'nobody'
    ? { error: 'access_denied', error_description: 'Nobody may not log in.' }
    : { login: { accountId: login } };
  return provider.interactionFinished(request, response, result,
    { mergeWithLastSubmission: false });
}

const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, 'http://here');
  const failed = (error) => answer(response, 500, { error: String(error) });
  if (pathname.startsWith('/control/')) {
    control(pathname.slice('/control/'.length), request, response).catch(failed);
    return;
  }
  if (pathname.startsWith('/interaction/')) {
    interact(request, response).catch(failed);
    return;
  }
  const asked = { '/.well-known/openid-configuration': 'discovery', '/jwks': 'keys' }[pathname];
  if (asked) counts[asked] += 1;
  if (asked && state.down) answer(response, 503, {});
  else provider.callback()(request, response);
});

const lines = createInterface({ input: process.stdin });
lines.once('line', (line) => {
  Object.assign(state, JSON.parse(line), { keys: newKeys() });
  server.listen(0, '127.0.0.1', () => {
    issuer = `http://127.0.0.1:${server.address().port}`;
    build();
    console.log(issuer);
  });
});
lines.once('close', () => process.exit(0));
