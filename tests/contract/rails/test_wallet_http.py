"""The wallet client against a real server: every class of answer is read for what it proves."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from tests.contract.http_server import Answering, Asked, Reply
from tests.contract.support import NOON, deps, instruction, payee_iban, payee_wallet

from paymaster.kernel.errors import (
    Broken,
    NeverSent,
    RailError,
    RailRefused,
    RailUnknown,
    Unprocessable,
)
from paymaster.kernel.guard import TRANSACTION_OPEN
from paymaster.rails.base import Prepared, RailAccount, Verdict
from paymaster.rails.http import new_client
from paymaster.rails.sandbox_wallet.rail import SandboxWalletRail

SECRETS = {"key": "sk_made_up", "hook": "made up as well"}
ITEM = instruction(1, payee_wallet(1), 1234)


def account(url: str) -> RailAccount:
    return RailAccount(
        9,
        "wallet",
        "sandbox-wallet",
        "EUR",
        {"url": url},
        {"api_key": "key", "webhook_secret": "hook"},
    )


def payout(**changes: object) -> dict[str, object]:
    return {
        "id": "po_1",
        "reference": ITEM.key,
        "wallet": ITEM.payee.details["wallet"],
        "amount": "12.34",
        "currency": "EUR",
        "status": "pending",
        "failure_code": None,
        "fee": "0.00",
        "created_at": "2025-03-12T12:00:00Z",
    } | changes


@asynccontextmanager
async def world(
    answer: Callable[[Asked], Reply],
) -> AsyncGenerator[tuple[SandboxWalletRail, RailAccount, Answering]]:
    async with Answering(answer).running() as server, new_client() as client:
        client.timeout = httpx.Timeout(1.0)
        yield SandboxWalletRail(deps(SECRETS, client)), account(server.url), server


def prepare(rail: SandboxWalletRail) -> Prepared:
    return rail.prepare(account("http://unused"), "01B7", [ITEM], NOON)


async def test_the_request_on_the_wire() -> None:
    async with world(lambda _: Reply.json(201, payout())) as (rail, ours, server):
        (outcome,) = await rail.send(ours, prepare(rail))
        (asked,) = server.asked
        assert (asked.method, asked.path) == ("POST", "/v1/payouts")
        assert asked.headers["authorization"] == "Bearer sk_made_up"
        assert asked.headers["idempotency-key"] == ITEM.key
        assert asked.headers["content-type"] == "application/json"
        assert asked.body == (
            b'{"amount":"12.34","currency":"EUR","reference":"010000000000001",'
            b'"wallet":"SW-0000000019"}'
        )
        assert (outcome.key, outcome.verdict, outcome.provider_id) == (
            ITEM.key,
            Verdict.ACCEPTED,
            "po_1",
        )
        assert outcome.amount == ITEM.amount


@pytest.mark.parametrize(
    ("status", "failure", "verdict"),
    [
        ("pending", None, Verdict.ACCEPTED),
        ("paid", None, Verdict.PAID),
        ("failed", "wallet_closed", Verdict.REJECTED),
        ("returned", "wallet_closed", Verdict.RETURNED),
        ("teleported", None, Verdict.UNKNOWN),
    ],
)
async def test_what_a_payout_s_status_means(
    status: str, failure: str | None, verdict: Verdict
) -> None:
    said = payout(status=status, failure_code=failure)
    async with world(
        lambda asked: Reply.json(200, said if asked.method == "POST" else {"data": [said]})
    ) as (rail, ours, _):
        (sent,) = await rail.send(ours, prepare(rail))
        asked = await rail.query(ours, ITEM.key)
        assert sent == asked
        assert (sent.verdict, sent.code) == (verdict, failure)


def failing(status: int, code: str | None = "some_code", **headers: str) -> Reply:
    if code is None:
        return Reply(status, b"<html>proxy</html>")
    return Reply.json(status, {"code": code, "message": "no"}, **headers)


@pytest.mark.parametrize(
    ("reply", "kind", "slug"),
    [
        (failing(400, "invalid_request"), RailRefused, "provider-refused"),
        (failing(402, "insufficient_funds"), RailRefused, "provider-refused"),
        (failing(404, "wallet_unknown"), RailRefused, "provider-refused"),
        (failing(422, "wallet_closed"), RailRefused, "provider-refused"),
        (failing(401, "unauthorized"), NeverSent, "provider-turned-away"),
        (failing(403, None), NeverSent, "provider-turned-away"),
        (failing(425), NeverSent, "provider-turned-away"),
        (failing(429, "rate_limited"), NeverSent, "provider-turned-away"),
        (failing(408), RailUnknown, "provider-error"),
        (failing(409, "idempotency_key_reused"), RailUnknown, "provider-error"),
        (failing(404, None), RailUnknown, "provider-error"),
        (failing(400, None), RailUnknown, "provider-error"),
        (failing(302, None), RailUnknown, "provider-error"),
        (failing(500, "internal"), RailUnknown, "provider-error"),
        (failing(503), RailUnknown, "provider-error"),
        (Reply(201, b"{"), RailUnknown, "provider-answer-malformed"),
        (Reply(201, b"[]"), RailUnknown, "provider-answer-malformed"),
        (Reply(201, b"[" * 100_000), RailUnknown, "provider-answer-malformed"),
        (Reply.json(201, payout(amount="12.35")), RailUnknown, "provider-answer-malformed"),
        (Reply.json(201, payout(amount=12.34)), RailUnknown, "provider-answer-malformed"),
        (Reply.json(201, payout(reference="X")), RailUnknown, "provider-answer-malformed"),
        (Reply.json(201, payout(wallet="SW-X")), RailUnknown, "provider-answer-malformed"),
        (Reply.json(200, {}), RailUnknown, "provider-answer-malformed"),
        (Reply(201, b"x" * 2_000_000), RailUnknown, "provider-answer-too-large"),
        (Reply.json(201, payout(), X="y"), None, ""),
    ],
)
async def test_what_an_answer_proves(reply: Reply, kind: type[RailError] | None, slug: str) -> None:
    async with world(lambda _: reply) as (rail, ours, server):
        if kind is None:
            await rail.send(ours, prepare(rail))
        else:
            with pytest.raises(kind) as caught:
                await rail.send(ours, prepare(rail))
            assert caught.value.slug == slug
        assert len(server.asked) == 1, "one call sends once, whatever happens"


async def test_the_provider_s_code_and_pause_are_handed_on() -> None:
    reply = Reply.json(429, {"code": "rate_limited", "message": "m"}, **{"Retry-After": "7"})
    async with world(lambda _: reply) as (rail, ours, _):
        with pytest.raises(NeverSent) as caught:
            await rail.send(ours, prepare(rail))
        assert caught.value.extra == {"code": "rate_limited", "retry_after_seconds": "7"}


@pytest.mark.parametrize(
    "reply",
    [
        Reply.json(201, payout(), X="y"),
        Reply(201, json.dumps(payout()).encode(), cut_after=0),
        Reply(201, json.dumps(payout()).encode(), cut_after=20),
        Reply(201, json.dumps(payout()).encode(), cut_after=60),
        Reply(201, json.dumps(payout()).encode(), wait_seconds=3),
    ],
    ids=["whole", "no byte", "half a header", "half a body", "too late"],
)
async def test_a_lost_answer_is_unknown_and_found_by_asking(reply: Reply) -> None:
    lost = reply.cut_after is not None or reply.wait_seconds > 0
    async with world(
        lambda asked: reply if asked.method == "POST" else Reply.json(200, {"data": [payout()]})
    ) as (rail, ours, _):
        if lost:
            with pytest.raises(RailUnknown) as caught:
                await rail.send(ours, prepare(rail))
            assert caught.value.slug == "provider-silent"
        else:
            await rail.send(ours, prepare(rail))
        assert (await rail.query(ours, ITEM.key)).verdict is Verdict.ACCEPTED


async def test_a_closed_port_was_never_sent() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    async with new_client() as client:
        rail = SandboxWalletRail(deps(SECRETS, client))
        with pytest.raises(NeverSent) as caught:
            await rail.send(account(url), prepare(rail))
        assert caught.value.slug == "provider-unreachable"
        asked = await rail.query(account(url), ITEM.key)
        assert asked.verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("url", ["", "ftp://127.0.0.1/", "http://[", "nonsense"])
async def test_a_wrong_address_was_never_sent(url: str) -> None:
    async with new_client() as client:
        rail = SandboxWalletRail(deps(SECRETS, client))
        with pytest.raises(NeverSent):
            await rail.send(account(url), prepare(rail))


@pytest.mark.parametrize("secrets", [{}, {"key": " "}, {"key": "a\nb"}, {"key": "schlüssel"}])
async def test_without_a_usable_key_nothing_is_sent(secrets: dict[str, str]) -> None:
    async with Answering(lambda _: Reply.json(201, payout())).running() as server:
        async with new_client() as client:
            rail = SandboxWalletRail(deps(secrets, client))
            with pytest.raises(NeverSent) as caught:
                await rail.send(account(server.url), prepare(rail))
        assert caught.value.slug == "rail-secret-missing"
        assert server.asked == []


async def test_nothing_is_called_inside_a_transaction() -> None:
    async with world(lambda _: Reply.json(201, payout())) as (rail, ours, server):
        prepared = prepare(rail)
        token = TRANSACTION_OPEN.set(True)
        try:
            attempts = (rail.send(ours, prepared), rail.query(ours, ITEM.key))
            for attempt in (*attempts, rail.fetch(ours, frozenset())):
                with pytest.raises(Broken) as caught:
                    await attempt
                assert caught.value.slug == "network-inside-transaction"
            with pytest.raises(Broken):
                await rail._deps.http.get(server.url)
        finally:
            TRANSACTION_OPEN.reset(token)
        assert server.asked == []


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        ([], Verdict.NOT_FOUND),
        ([payout(status="failed"), payout(id="po_2", status="paid")], Verdict.PAID),
        ([payout(status="returned"), payout(id="po_2", status="failed")], Verdict.RETURNED),
        ([payout(reference="010000000000009")], Verdict.UNKNOWN),
        ([{}], Verdict.UNKNOWN),
        ({}, Verdict.UNKNOWN),
        (None, Verdict.UNKNOWN),
    ],
)
async def test_a_look_up_says_only_what_it_proves(data: object, verdict: Verdict) -> None:
    async with world(lambda _: Reply.json(200, {"data": data})) as (rail, ours, server):
        found = await rail.query(ours, ITEM.key)
        assert (found.key, found.verdict) == (ITEM.key, verdict)
        assert server.asked[0].path == f"/v1/payouts?reference={ITEM.key}"


@pytest.mark.parametrize("status", [401, 404, 429, 500])
async def test_a_look_up_that_fails_is_unknown_never_not_found(status: int) -> None:
    async with world(lambda _: failing(status)) as (rail, ours, _):
        assert (await rail.query(ours, ITEM.key)).verdict is Verdict.UNKNOWN


async def test_cancelling_a_call_leaves_the_client_usable() -> None:
    slow = Reply(201, json.dumps(payout()).encode(), wait_seconds=0.5)
    async with world(lambda asked: slow if asked.method == "POST" else failing(500)) as found:
        rail, ours, _ = found
        task = asyncio.create_task(rail.send(ours, prepare(rail)))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await rail.query(ours, ITEM.key)).verdict is Verdict.UNKNOWN


def test_what_cannot_go_is_refused_before_it_is_sent() -> None:
    rail = SandboxWalletRail(deps(SECRETS))
    for bad in (
        instruction(2, payee_iban(2)),
        instruction(2, payee_wallet(2), currency="USD"),
        instruction(2, payee_wallet(2), minor=0),
    ):
        with pytest.raises(RailRefused) as caught:
            rail.prepare(account("http://unused"), "01B7", [bad], NOON)
        assert [problem.pointer for problem in caught.value.problems] == ["/" + bad.key]
    with pytest.raises(Broken):
        rail.prepare(account("http://unused"), "01B7", [ITEM, ITEM], NOON)


def test_an_incomplete_account_is_named_field_by_field() -> None:
    rail = SandboxWalletRail(deps(SECRETS))
    rail.check_account(account("http://127.0.0.1:1"))
    with pytest.raises(Unprocessable) as caught:
        rail.check_account(RailAccount(9, "w", "sandbox-wallet", "EUR", {"url": "gopher://x"}))
    assert {problem.pointer for problem in caught.value.problems} == {
        "/settings/url",
        "/secrets/api_key",
        "/secrets/webhook_secret",
    }


CSV = (
    b"line,kind,id,reference,amount,fee,currency,booked_at\n"
    b"1,opening,,,100.00,0.00,EUR,2025-03-12T00:00:00Z\n"
    b"2,payout,po_1,010000000000001,-12.34,0.10,EUR,2025-03-12T12:00:00Z\n"
    b"3,return,po_1,010000000000001,12.34,0.00,EUR,2025-03-12T13:00:00Z\n"
    b"4,topup,,010000000000005,50.00,0.00,EUR,2025-03-12T14:00:00Z\n"
    b"5,closing,,,149.90,0.00,EUR,2025-03-12T23:59:59Z\n"
)


def settlements(body: bytes, listed: bytes | None = None) -> Callable[[Asked], Reply]:
    digest = hashlib.sha256(body if listed is None else listed).hexdigest()
    rows = [
        {"date": day, "currency": currency, "sha256": digest, "lines": 3}
        for day in ("2025-03-13", "2025-03-12")
        for currency in ("EUR", "USD")
    ]
    return lambda asked: (
        Reply(200, body) if asked.path.endswith(".csv") else Reply.json(200, {"data": rows})
    )


async def test_new_settlements_are_fetched_once_oldest_first() -> None:
    async with world(settlements(CSV)) as (rail, ours, server):
        files = await rail.fetch(ours, frozenset())
        assert [file.name[:22] for file in files] == [
            "sandpay-2025-03-12-EUR",
            "sandpay-2025-03-13-EUR",
        ]
        assert {file.body for file in files} == {CSV}
        asked = len(server.asked)
        assert await rail.fetch(ours, frozenset(file.name for file in files)) == []
        assert len(server.asked) == asked + 1
        notices, (statement,) = rail.read_file(ours, files[0].name, files[0].body)
        assert statement.day == NOON.date()
        assert [line.kind.value for line in statement.lines] == ["payout", "return", "topup"]
        assert [notice.outcome.verdict for notice in notices] == [Verdict.PAID, Verdict.RETURNED]


@pytest.mark.parametrize("body", [CSV[:-20], b"", b"<html>"])
async def test_a_settlement_that_is_not_what_was_listed_is_not_taken(body: bytes) -> None:
    async with world(settlements(body, CSV)) as (rail, ours, _):
        with pytest.raises(RailUnknown):
            await rail.fetch(ours, frozenset())
