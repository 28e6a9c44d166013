"""`paymaster listen`: the events of a test environment, forwarded to a server on this machine.

It asks the API for what has happened, again and again, so nothing needs to reach this machine from
outside. What it forwards is signed as a delivery is; what the server answers is shown, not retried.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.text import Text

from paymaster.kernel.clock import WallClock, monotonic_seconds
from paymaster.kernel.errors import Refusal

WAIT_SECONDS, AGAIN_SECONDS, LOCAL_SECONDS = 20, 2.0, 30.0
_ADDRESS = "/v1/webhook-events/next"
_BUSY = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answered:
    """What the local server said: a status, or why there is none."""

    status: int | None
    outcome: str
    duration_ms: int


def listen(
    forward_to: Annotated[
        str | None, typer.Option(help="Where to send each event, http://127.0.0.1:PORT/path.")
    ] = None,
    events: Annotated[
        str, typer.Option(help="Types, `group.*` or `*`, separated by commas.")
    ] = "*",
    key: Annotated[
        str | None,
        typer.Option(envvar="PAYMASTER_API_KEY", help="An API key with the scope `read`."),
    ] = None,
    api: Annotated[
        str | None,
        typer.Option(envvar="PAYMASTER_API_URL", help="The API. Default: `api.public_url`."),
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option(
            envvar="PAYMASTER_LISTEN_SECRET", help="Sign with this `whsec_...`. Default: a new one."
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many events.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object an event.")
    ] = False,
) -> None:
    """Show the events of a test environment as they happen, and forward them to a local server."""
    from paymaster.messages import signing
    from paymaster.settings import load_settings

    if key is None:
        raise Refusal("listen-key-missing", "Give a key: --key, or PAYMASTER_API_KEY.")
    if forward_to is not None and not forward_to.startswith(("http://", "https://")):
        raise Refusal("listen-target", "--forward-to begins with http:// or https://.")
    signer, console = secret or signing.new_secret(), Console(highlight=False)
    signing.key_of(signer)
    if forward_to is not None:
        _say(console, as_json, {"secret": signer, "forward_to": forward_to})
    base = (api or load_settings().api.public_url).rstrip("/")
    with (
        httpx.Client(base_url=base, headers={"Authorization": f"Bearer {key}"}) as client,
        httpx.Client(timeout=LOCAL_SECONDS, trust_env=False) as local,
    ):
        try:
            for number, event in enumerate(_events(client, events), start=1):
                answered = None if forward_to is None else _forward(
                    local, forward_to, signer, event
                )  # fmt: skip
                _show(console, as_json, event, answered)
                if number == count:
                    break
        except KeyboardInterrupt:
            return


def _events(client: httpx.Client, types: str) -> Iterator[dict[str, Any]]:
    """Events from now on. Raises Refusal `listen-refused` or `listen-live`."""
    cursor: str | None = None
    said = ""
    while True:
        asked = {"types": types, "wait_seconds": str(WAIT_SECONDS)}
        if cursor is not None:
            asked["cursor"] = cursor
        try:
            answer = client.get(_ADDRESS, params=asked, timeout=WAIT_SECONDS + 10.0)
        except httpx.TransportError as error:
            said = _trouble(client, f"{type(error).__name__}: {error}", said)
            continue
        if answer.status_code in _BUSY:
            said = _trouble(client, f"it answers {answer.status_code}", said)
            continue
        said = ""
        if not answer.is_success:
            raise Refusal("listen-refused", f"The API said {answer.status_code}: {_detail(answer)}")
        told = answer.json()
        if told["mode"] != "test":
            raise Refusal("listen-live", "This key is of a live environment; use a test one.")
        cursor = told["cursor"]
        yield from told["data"]


def _trouble(client: httpx.Client, what: str, said: str) -> str:
    """Say once why nothing comes, and wait."""
    if what != said:
        typer.echo(f"The API at {client.base_url} cannot be used ({what}); trying again.", err=True)
    time.sleep(AGAIN_SECONDS)
    return what


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return "it did not say why."


def _forward(local: httpx.Client, url: str, secret: str, event: dict[str, Any]) -> Answered:
    from paymaster.messages import signing
    from paymaster.messages.post import HEADERS

    body = json.dumps(
        {name: event[name] for name in ("type", "timestamp", "mode", "data")},
        separators=(",", ":"),
        ensure_ascii=False,
    ).encode()
    signed = signing.headers([signing.key_of(secret)], event["id"], WallClock().now(), body)
    began = monotonic_seconds()
    try:
        answer = local.post(url, content=body, headers={**HEADERS, **signed})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Answered(None, type(error).__name__, _since(began))
    outcome = "delivered" if answer.is_success else "status"
    return Answered(answer.status_code, outcome, _since(began))


def _since(began: float) -> int:
    return int((monotonic_seconds() - began) * 1000)


def _say(console: Console, as_json: bool, found: dict[str, Any]) -> None:
    if as_json:
        typer.echo(json.dumps(found))
    else:
        console.print(f"Forwarding to {found['forward_to']}, signed with")
        console.print(Text(found["secret"], style="bold"))


def _show(
    console: Console, as_json: bool, event: dict[str, Any], answered: Answered | None
) -> None:
    if as_json:
        found: dict[str, Any] = dict(event)
        if answered is not None:
            found["answer"] = {
                "status": answered.status,
                "outcome": answered.outcome,
                "duration_ms": answered.duration_ms,
            }
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    line = Text()
    line.append(f"{event['timestamp']}  ", style="dim")
    line.append(f"{event['type']:<28}", style="bold")
    line.append(f" {event['id']}")
    if answered is not None:
        good = answered.outcome == "delivered"
        said = str(answered.status) if answered.status is not None else answered.outcome
        line.append(f"  {said} in {answered.duration_ms} ms", style="green" if good else "red")
    console.print(line, soft_wrap=True)
