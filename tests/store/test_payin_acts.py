"""Refunds that people end by hand, what two persons are asked for, codes that hold too little."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.desk import limit
from tests.store.test_payin_api import Counter, counter_of
from tests.world import PostgresServer

from paymaster.api import topup_refunds
from paymaster.kernel.ids import parse_text_id
from paymaster.payin import decide
from paymaster.payin.decide import Finding
from paymaster.rails.payin import Checkout, RefundVerdict


@pytest.fixture
async def counter(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Counter]:
    async with counter_of(postgres, tmp_path) as made:
        yield made


async def test_what_no_code_can_hold_is_refused(counter: Counter) -> None:
    made, known = await counter.ask(), counter.rail.open_charge

    async def long(account: Any, charge: Any) -> Checkout:
        return replace(await known(account, charge), content="x" * 4000)

    counter.rail.open_charge = long
    await counter.round()
    await counter.served.refused(422, "topup-no-code", "GET", f"/v1/topups/{made['id']}/qr.png")


async def test_a_refund_is_ended_by_hand_and_above_its_limit_by_two(counter: Counter) -> None:
    served, paid = counter.served, await counter.paid()
    counter.rail.refund_verdict = RefundVerdict.STUCK
    path = f"/v1/topups/{paid['id']}/refunds"
    whole = {"reason": "unspent"}
    made = await served.ok("POST", path, whole, headers={"Idempotency-Key": "f1"})
    await counter.round()
    one = f"{path}/{made['id']}"
    said = {"finding": "not_done", "reason": "the portal of today"}
    assert (await served.ok("GET", one))["state"] == "stuck"
    other = await counter.paid(key="k2")
    elsewhere = f"/v1/topups/{other['id']}/refunds/{made['id']}/decide"
    await served.refused(404, "not-found", "POST", elsewhere, said)
    await limit(served, "topup_refund.decide", "9.99")
    await served.refused(403, "person-needed", "POST", f"{one}/decide", said)
    await limit(served, "topup_refund.decide", "10.00")
    ended = await served.ok("POST", f"{one}/decide", said)
    assert (ended["state"], ended["code"]) == ("failed", "decided-by-hand")
    assert (await served.ok("GET", f"/v1/topups/{paid['id']}"))["refunded"]["amount"] == "0.00"
    await served.refused(409, "refund-decided", "POST", f"{one}/decide", said)


async def test_all_that_is_left_is_weighed_as_it_is_when_it_is_given_back(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refund fails between the reading of a top-up and the act: more is left than was read."""
    served, paid = counter.served, await counter.paid()
    path = f"/v1/topups/{paid['id']}/refunds"
    most = {"amount": {"amount": "9.00", "currency": "EUR"}, "reason": "x"}
    made = await served.ok("POST", path, most, headers={"Idempotency-Key": "f1"})
    await counter.round()
    await limit(served, "topup.refund", "5.00")
    reading = topup_refunds.topup_of

    async def slow(call: Any, topup: str) -> Any:
        found = await reading(call, topup)
        ref = parse_text_id("tf", made["id"])
        await served.world.run(lambda tx: decide.decide(tx, ref.id, Finding.NOT_DONE, "x"))
        return found

    monkeypatch.setattr(topup_refunds, "topup_of", slow)
    await served.refused(
        403, "person-needed", "POST", path, {"reason": "all"}, headers={"Idempotency-Key": "f2"}
    )
