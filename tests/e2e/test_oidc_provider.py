"""The provider that other tests log in with: it gives out what an app and a console need."""

from __future__ import annotations

import httpx
import jwt
from tests.oidc_provider import OidcProvider, app_client, follow, web_client

BACK = "http://127.0.0.1:1/back"


def test_it_logs_in_and_rotates_its_keys(oidc_provider: OidcProvider) -> None:
    oidc_provider.configure(
        clients=[
            app_client(),
            app_client("app-ed", algorithm="EdDSA"),
            web_client("console", BACK),
        ],
        claims={"anna": {"groups": ["finance"]}},
    )
    first = jwt.get_unverified_header(oidc_provider.log_in("anna").access_token)
    assert (first["alg"], first["typ"]) == ("RS256", "at+jwt")
    oidc_provider.rotate_keys()
    second = jwt.get_unverified_header(oidc_provider.log_in("anna").access_token)
    assert second["kid"] != first["kid"]
    keys = httpx.get(f"{oidc_provider.issuer}/jwks", trust_env=False).json()["keys"]
    assert {first["kid"], second["kid"]} <= {key["kid"] for key in keys}
    tokens = oidc_provider.log_in("anna", "app-ed")
    shown = jwt.decode(tokens.id_token, options={"verify_signature": False})
    assert (shown["sub"], shown["aud"]) == ("anna", "app-ed")
    assert oidc_provider.counts()["keys"] == 1


def test_it_refuses_nobody(oidc_provider: OidcProvider) -> None:
    asked = {
        "client_id": "app",
        "response_type": "code",
        "redirect_uri": "http://127.0.0.1:1/callback",
        "scope": "openid",
        "login_hint": "nobody",
        "code_challenge": "x" * 43,
        "code_challenge_method": "S256",
    }
    start = str(httpx.URL(f"{oidc_provider.issuer}/auth", params=asked))
    with httpx.Client(trust_env=False) as browser:
        at = follow(browser, start, "http://127.0.0.1:1/callback")
    assert httpx.URL(at).params["error"] == "access_denied"
