"""HTTP for the demo: what a careful client does. Retries carry the same key and the same body."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from paymaster.kernel.errors import Refusal

_TRIES = 40


class Client:
    """Speaks to one base address; 503, 429 and lost connections are tried again."""

    def __init__(self, http: httpx.AsyncClient, base_url: str, key: str | None = None) -> None:
        self._http = http
        self._base = base_url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def showing(self, key: str) -> Client:
        """The same server, called as somebody else."""
        return Client(self._http, self._base, key)

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        params: dict[str, Any] | None = None,
        accept: tuple[int, ...] = (),
    ) -> httpx.Response:
        """Send until there is an answer. Raises Refusal `demo-refused` for one that is not 2xx."""
        sent = {**self._headers, **(headers or {})}
        if body is not None:
            content = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        last = ""
        for attempt in range(_TRIES):
            try:
                answer = await self._http.request(
                    method, self._base + path, content=content, headers=sent, params=params
                )
            except httpx.TransportError as error:
                last = type(error).__name__
            else:
                if answer.is_success or answer.status_code in accept:
                    return answer
                last = f"{answer.status_code} {answer.text[:300]}"
                if answer.status_code not in (429, 502, 503):
                    break
            await asyncio.sleep(min(0.1 * (attempt + 1), 1.0))
        raise Refusal("demo-refused", f"{method} {path}: {last}")

    async def get(self, path: str, **params: Any) -> Any:
        """A JSON object."""
        return (await self.send("GET", path, params=params or None)).json()

    async def put(self, path: str, body: Any) -> Any:
        """Make or change something; idempotent by its address."""
        return (await self.send("PUT", path, body)).json()

    async def post(self, path: str, body: Any = None, *, key: str | None = None) -> Any:
        """Do something, under an Idempotency-Key where given."""
        headers = {"Idempotency-Key": key} if key else None
        return (await self.send("POST", path, {} if body is None else body, headers=headers)).json()

    async def all(self, path: str, **params: Any) -> list[dict[str, Any]]:
        """Every item of a list, page by page."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = await self.get(path, **params, **({"cursor": cursor} if cursor else {}))
            found += page["data"]
            cursor = page.get("next_cursor")
            if not cursor:
                return found
