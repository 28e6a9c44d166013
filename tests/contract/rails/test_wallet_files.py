"""The wallet provider's notifications and settlement files, read from bytes."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import datetime, timedelta

import pytest
from tests.contract.support import NOON, deps

from paymaster.kernel.errors import Refusal, Unauthenticated
from paymaster.rails.base import LineKind, Notice, RailAccount, Verdict
from paymaster.rails.sandbox_wallet.rail import SandboxWalletRail
from paymaster.rails.sandbox_wallet.settlement import file_name

KEY = "010000000000001"
RAIL = SandboxWalletRail(deps({"hook": "new", "old-hook": "old"}))
ACCOUNT = RailAccount(
    9,
    "wallet",
    "sandbox-wallet",
    "EUR",
    {"url": "http://unused"},
    {"webhook_secret": "hook", "webhook_secret_previous": "old-hook"},
)


def event(kind: str = "payout.paid", **changes: object) -> bytes:
    payout = {
        "id": "po_1",
        "reference": KEY,
        "wallet": "SW-0000000019",
        "amount": "12.34",
        "currency": "EUR",
        "status": kind.partition(".")[2],
        "failure_code": None,
        "fee": "0.00",
        "created_at": "2025-03-12T12:00:00Z",
    } | changes
    found = {"id": "ev_1", "type": kind, "created_at": "2025-03-12T12:00:00Z", "data": payout}
    return json.dumps(found).encode()


def headers(body: bytes, at: datetime = NOON, key: str = "new", event_id: str = "ev_1"):
    timestamp = str(int(at.timestamp()))
    signed = f"{event_id}.{timestamp}.".encode() + body
    return {
        "sandpay-id": event_id,
        "sandpay-timestamp": timestamp,
        "sandpay-signature": "v1=" + hmac.new(key.encode(), signed, hashlib.sha256).hexdigest(),
    }


def read(sent: dict[str, str], body: bytes, now: datetime = NOON) -> list[Notice]:
    return list(RAIL.read_webhook(ACCOUNT, sent, body, now))


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("payout.paid", Verdict.PAID),
        ("payout.failed", Verdict.REJECTED),
        ("payout.returned", Verdict.RETURNED),
    ],
)
def test_a_genuine_notification_is_translated(kind: str, verdict: Verdict) -> None:
    body = event(kind)
    (notice,) = read(headers(body), body)
    assert notice.event_id == "ev_1"
    assert (notice.outcome.key, notice.outcome.verdict) == (KEY, verdict)
    assert str(notice.outcome.amount) == "12.34 EUR"


def test_both_secrets_are_taken_while_one_is_replaced() -> None:
    body = event()
    assert read(headers(body, key="old"), body) == read(headers(body), body)


def test_an_unknown_event_is_acknowledged_and_means_nothing() -> None:
    body = event("payout.celebrated")
    assert read(headers(body), body) == []


@pytest.mark.parametrize("seconds", [-300, 0, 300])
def test_a_fresh_notification_is_taken(seconds: int) -> None:
    body = event()
    assert read(headers(body, NOON + timedelta(seconds=seconds)), body)


@pytest.mark.parametrize("seconds", [-86_400, -301, 301, 99_999])
def test_a_stale_or_future_notification_is_refused(seconds: int) -> None:
    body = event()
    with pytest.raises(Unauthenticated) as caught:
        read(headers(body, NOON + timedelta(seconds=seconds)), body)
    assert caught.value.slug == "webhook-stale"


def forgeries() -> list[tuple[dict[str, str], bytes]]:
    body = event()
    good = headers(body)
    return [
        (headers(body, key="wrong"), body),
        (headers(body, key=""), body),
        (good, body + b" "),
        (good, body.replace(b"12.34", b"99.34")),
        (good | {"sandpay-id": "ev_2"}, body),
        (good | {"sandpay-timestamp": str(int(NOON.timestamp()) + 1)}, body),
        (good | {"sandpay-signature": good["sandpay-signature"].removeprefix("v1=")}, body),
        (good | {"sandpay-signature": ""}, body),
        (good | {"sandpay-signature": "v1=ä"}, body),
        ({}, body),
        (headers(body, event_id="") | {"sandpay-id": ""}, body),
        *(({k: v for k, v in good.items() if k != missing}, body) for missing in good),
    ]


@pytest.mark.parametrize(("sent", "body"), forgeries())
def test_a_forged_notification_is_refused(sent: dict[str, str], body: bytes) -> None:
    with pytest.raises(Unauthenticated) as caught:
        read(sent, body)
    assert caught.value.slug == "webhook-signature"


def test_without_a_configured_secret_nothing_is_believed() -> None:
    body = event()
    account = RailAccount(9, "wallet", "sandbox-wallet", "EUR", {}, {})
    with pytest.raises(Unauthenticated):
        RAIL.read_webhook(account, headers(body), body, NOON)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 50_000,
        event().replace(b"ev_1", b"ev_2"),
        event(reference=None),
        event(amount=12.34),
        event(amount="12.345"),
        event(currency="XXX"),
        event(failure_code=7),
        json.dumps({"id": "ev_1", "type": "payout.paid", "data": None}).encode(),
        b"x" * 70_000,
    ],
)
def test_what_is_signed_but_senseless_is_malformed(body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        read(headers(body), body)
    assert caught.value.slug == "webhook-malformed"


CSV = (
    "line,kind,id,reference,amount,fee,currency,booked_at\n"
    "L1,opening,,,100.00,0.00,EUR,2025-03-12T00:00:00.000Z\n"
    f"L2,payout,po_1,{KEY},-12.34,0.10,EUR,2025-03-12T12:00:00.000Z\n"
    f"L3,return,po_1,{KEY},12.34,0.00,EUR,2025-03-12T13:00:00.000Z\n"
    "L4,topup,,010000000000005,50.00,0.00,EUR,2025-03-12T14:00:00.000Z\n"
    "L5,adjustment,,,-1.00,0.00,EUR,2025-03-12T15:00:00.000Z\n"
    "L6,closing,,,148.90,0.00,EUR,2025-03-12T23:59:59.999Z\n"
)
NAME = file_name("2025-03-12", "EUR", hashlib.sha256(CSV.encode()).hexdigest())


def test_a_settlement_is_translated_line_by_line() -> None:
    notices, (statement,) = RAIL.read_file(ACCOUNT, NAME, CSV.encode())
    assert statement.day.isoformat() == "2025-03-12"
    assert not statement.difference
    found = [(line.line_id, line.kind, str(line.amount), str(line.fee)) for line in statement.lines]
    assert found == [
        ("L2", LineKind.PAYOUT, "-12.34 EUR", "0.10 EUR"),
        ("L3", LineKind.RETURN, "12.34 EUR", "0.00 EUR"),
        ("L4", LineKind.TOPUP, "50.00 EUR", "0.00 EUR"),
        ("L5", LineKind.OTHER, "-1.00 EUR", "0.00 EUR"),
    ]
    said = [(n.event_id, n.outcome.key, n.outcome.verdict, str(n.outcome.amount)) for n in notices]
    assert said == [
        ("settlement/L2", KEY, Verdict.PAID, "12.34 EUR"),
        ("settlement/L3", KEY, Verdict.RETURNED, "12.34 EUR"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("148.90", "147.90", "-1.00 EUR"),
        (f"L2,payout,po_1,{KEY},-12.34,0.10,EUR,2025-03-12T12:00:00.000Z\n", "", "-12.44 EUR"),
        ("-12.34", "-13.34", "1.00 EUR"),
    ],
)
def test_sums_that_are_wrong_are_named(old: str, new: str, difference: str) -> None:
    _, (statement,) = RAIL.read_file(ACCOUNT, NAME, CSV.replace(old, new).encode())
    assert str(statement.difference) == difference


@pytest.mark.parametrize(
    ("body", "slug"),
    [
        ("", "statement-malformed"),
        (CSV[:-1], "statement-malformed"),
        (CSV[: CSV.index("L6")], "statement-malformed"),
        (CSV[: CSV.index("L4") + 9], "statement-malformed"),
        (CSV.replace("line,kind", "kind,line"), "statement-malformed"),
        (CSV.replace("L3", "L2"), "statement-malformed"),
        (CSV.replace("topup", "gift"), "statement-malformed"),
        (CSV.replace("-12.34", "12.34"), "statement-malformed"),
        (CSV.replace("-12.34", "-12.345"), "statement-malformed"),
        (CSV.replace("-12.34", "-1e1"), "statement-malformed"),
        (CSV.replace("0.10", "-0.10"), "statement-malformed"),
        (CSV.replace("T12:00:00.000Z", "T12:00:00"), "statement-malformed"),
        (CSV.replace("L4,", '"L4,'), "statement-malformed"),
        (CSV.replace("L1,opening", "L1,closing"), "statement-malformed"),
        (CSV + "L7,payout,,,-1.00,0.00,EUR,2025-03-12T12:00:00Z\n", "statement-malformed"),
        (CSV.replace("EUR", "USD"), "statement-foreign"),
        (CSV.replace("EUR", "USD", 1), "statement-foreign"),
    ],
)
def test_a_settlement_that_cannot_be_relied_on_is_refused(body: str, slug: str) -> None:
    with pytest.raises(Refusal) as caught:
        RAIL.read_file(ACCOUNT, NAME, body.encode())
    assert caught.value.slug == slug


@pytest.mark.parametrize(
    "name", ["a.csv", NAME + "x", "sandpay-2025-13-40-EUR-" + "0" * 16 + ".csv"]
)
def test_only_our_own_names_are_read(name: str) -> None:
    with pytest.raises(Refusal) as caught:
        RAIL.read_file(ACCOUNT, name, CSV.encode())
    assert caught.value.slug == "statement-malformed"
