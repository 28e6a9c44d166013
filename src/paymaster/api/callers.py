"""Who sent a request: a server by its key or token, an earner by a token.

API keys are looked up by `Hot`, merged with those of other requests; what is here is for everybody
else. Nothing is cached but the keys of issuers: a key that is revoked, a user who is suspended, an
issuer that is trusted no longer is refused by the next request.
"""

from __future__ import annotations

from paymaster.compose import Deps
from paymaster.db.tx import ControlRead
from paymaster.kernel.errors import Unauthenticated
from paymaster.people import credentials, oidc_login, oidc_token, tokens
from paymaster.people.credentials import Credential
from paymaster.people.oidc_keys import IssuerKeys
from paymaster.people.oidc_token import invalid
from paymaster.people.principal import Principal
from paymaster.people.tokens import AccessToken, UserToken


class Callers:
    """Recognises the tokens that come to this process."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self.issuer_keys = IssuerKeys(deps.http)

    async def of_token(self, text: str, origin: str | None, trace_id: str) -> Principal:
        """Who a bearer token names: one of ours, or of an issuer that an environment trusts.

        Raises Unauthenticated `token-invalid`, `token-expired`, `credential-revoked` or
        `credential-expired`, Forbidden `user-suspended` or `user-closed`, Busy
        `issuer-unavailable`.
        """
        deps, token = self._deps, oidc_token.read(text)
        if token.issuer != tokens.ISSUER:
            return await oidc_login.log_in(
                deps.dbs, deps.secrets.sealer, self.issuer_keys, token, origin, trace_id
            )
        found = tokens.verify(deps.secrets.ed25519, deps.dbs, token, deps.clock.now())
        credential = await self._standing(found)
        if isinstance(found, UserToken):
            if not await oidc_login.is_there(deps.dbs, found.user):
                raise invalid("The token names no user of its environment.")
            within = credential.scopes & found.scopes
            return oidc_login.of_user(found.environment.id, found.user, within)
        await credentials.note_use(deps.dbs, credential)
        return credential.narrowed(found.scopes)

    async def _standing(self, found: UserToken | AccessToken) -> Credential:
        """The key that a token of ours stands on: one that is revoked takes its tokens with it.

        A user's token outlives the end of its key's time, which a rotation brings about.
        """

        async def work(tx: ControlRead) -> Credential | Unauthenticated:
            return await credentials.by_prefix(
                tx, found.prefix, expired=isinstance(found, UserToken)
            )

        credential = await self._deps.dbs.control.read(work)
        if isinstance(credential, Unauthenticated):
            raise credential
        if credential.environment_id != found.environment.id:
            raise invalid("The token names a key of another environment.")
        return credential
