"""Bills that do not say what happened: each difference is found, and called by its name, or heals.

The table of docs/concepts/reconciliation.md is the one that is tested here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from tests.contract.bill_world import ALIPAY, WECHAT, BillWorld, bill_world
from tests.world import PostgresServer

from paymaster.kernel.ids import Ref
from paymaster.reconcile import resolve

SUMS = frozenset({"statement-gap", "balance-differs"})
"""What says that a bill's rows and balances do not fit."""

DIFFERENCES: dict[tuple[str, str], frozenset[str]] = {
    (WECHAT, "omit"): SUMS | {"missing-at-provider"},
    (WECHAT, "extra"): SUMS | {"booked-twice"},
    (WECHAT, "alter"): SUMS | {"amount-differs", "missing-at-provider"},
    (WECHAT, "next_day"): frozenset(),
    (WECHAT, "pair"): frozenset(),
    (WECHAT, "creating"): frozenset(),
    (WECHAT, "legacy_header"): frozenset(),
    (WECHAT, "odd_text"): frozenset(),
    (ALIPAY, "bill_omit"): SUMS | {"missing-at-provider"},
    (ALIPAY, "bill_extra"): SUMS | {"unknown-line"},
    (ALIPAY, "bill_alter"): SUMS | {"amount-differs", "missing-at-provider"},
    (ALIPAY, "bill_shift"): frozenset(),
    (ALIPAY, "bill_missing"): frozenset(),
    (ALIPAY, "bill_old_headers"): frozenset(),
}
"""By provider and the sandbox's knob, the kinds of breaks that are open in the end."""


@dataclass(frozen=True)
class Told:
    """Breaks of both accounts, by account and kind."""

    open: dict[str, frozenset[str]]
    ended: dict[str, frozenset[str]]


async def told(world: BillWorld) -> Told:
    async def kinds(kind: str, state: str) -> frozenset[str]:
        found = await world.value(
            "SELECT coalesce(array_agg(DISTINCT kind), '{}') FROM break"
            " WHERE rail_account_id = %s AND state = %s",
            world.account(kind).id,
            state,
        )
        return frozenset(found)

    both = (WECHAT, ALIPAY)
    return Told(
        {kind: await kinds(kind, "open") for kind in both},
        {kind: await kinds(kind, "resolved") for kind in both},
    )


async def payments(world: BillWorld, times: int) -> list[int]:
    """One after the other, over both, none in the same second as another."""
    made: list[int] = []
    for place in range(times):
        amount = f"{10 + place}.{50 + place}"
        made += [await world.pay(kind, amount) for kind in (WECHAT, ALIPAY)]
        await world.ask()
    return made


async def arm(world: BillWorld, kind: str, knob: str) -> None:
    """What is wrong with the next bill, or with what the log says of the next transfer."""
    if kind == WECHAT:
        await world.wechat.mishap(knob, "bill.flow")
    else:
        await world.found.control("/alipay/faults", {knob: 1})


async def story(world: BillWorld, wechat: str, alipay: str) -> list[int]:
    """A sound day, one with the differences, and as many days as it takes to miss a payment."""
    first = await payments(world, 2)
    await world.morning()
    assert await world.ever() == []
    second = await payments(world, 1)
    if alipay != "bill_missing":
        await arm(world, ALIPAY, alipay)
    second += await payments(world, 3)
    await world.until(23)
    await arm(world, WECHAT, wechat)
    if alipay == "bill_missing":
        await arm(world, ALIPAY, alipay)
    await world.morning()
    if alipay == "bill_missing":
        await world.found.control("/alipay/faults", {alipay: 0})
    third: list[int] = []
    for _ in range(4):
        third += await payments(world, 1)
        await world.morning()
    return first + second + third


@pytest.mark.parametrize(
    ("wechat", "alipay", "source"),
    [
        ("omit", "bill_omit", "log"),
        ("extra", "bill_extra", "csv"),
        ("alter", "bill_alter", "log"),
        ("next_day", "bill_shift", "csv"),
        ("pair", "bill_old_headers", "csv"),
        ("creating", "bill_missing", "csv"),
        ("legacy_header", "bill_shift", "log"),
        ("odd_text", "bill_old_headers", "log"),
    ],
)
async def test_each_difference_is_found_or_heals(
    postgres: PostgresServer, tmp_path: Path, wechat: str, alipay: str, source: str
) -> None:
    async with bill_world(postgres, tmp_path, source=source, topups="own") as world:
        made = await story(world, wechat, alipay)
        found = await told(world)
        assert found.open == {
            WECHAT: DIFFERENCES[WECHAT, wechat],
            ALIPAY: DIFFERENCES[ALIPAY, alipay],
        }
        for one in made:
            assert await world.state(one) == "paid", "no difference moves a payment"
            assert await world.times_paid(one) == 1
        for kind, knob in ((WECHAT, wechat), (ALIPAY, alipay)):
            if DIFFERENCES[kind, knob]:
                continue
            assert found.ended[kind] <= SUMS, "what heals was only a matter of sums"
            assert await world.in_books("cash", kind) == await world.balance(kind)
            assert await world.in_books("clearing", kind) == 0
            assert await world.in_books("suspense", kind) == 0
        await world.desk.assert_proven()


async def test_what_heals_was_seen(postgres: PostgresServer, tmp_path: Path) -> None:
    """A row on the next day's bill: the day is not closed until it has come, and then it is."""
    async with bill_world(postgres, tmp_path, topups="own") as world:
        await payments(world, 2)
        await world.morning()
        day = world.today()
        await payments(world, 3)
        await world.until(23)
        # That the last row of a day is missing is only seen by the balances of the next day.
        await world.wechat.mishap("next_day", "bill.flow")
        await world.wechat.mishap("odd_text", "bill.flow")
        await world.morning()
        seen = (await told(world)).open[WECHAT]
        assert seen in (SUMS, frozenset())
        await payments(world, 1)
        await world.morning()
        assert (await told(world)).open == {WECHAT: frozenset(), ALIPAY: frozenset()}
        await world.close(day)


async def test_a_wrong_amount_is_ended_by_accepting_it(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with bill_world(postgres, tmp_path, topups="own") as world:
        await story(world, "alter", "bill_old_headers")
        ((line,),) = await world.payouts.world.read(
            lambda tx: tx.tuples("SELECT id FROM statement_line WHERE state = 'break'")
        )
        await world.payouts.world.run(
            lambda tx: resolve.retry(
                tx, Ref(tx.cell, line), "The bill is a fen off.", accept_difference=True
            )
        )
        await world.settle()
        assert (await told(world)).open[WECHAT] == SUMS
        assert await world.in_books("clearing", WECHAT) == 0
        assert await world.in_books("suspense", WECHAT) == 0
        await world.desk.assert_proven()


async def end_gaps(world: BillWorld) -> None:
    """No statement will come: what moved is a line now."""
    gaps = await world.value(
        "SELECT array_agg(id) FROM break WHERE state = 'open' AND kind = 'statement-gap'"
    )
    for gap in list(gaps):
        await world.payouts.world.run(
            lambda tx, one=gap: resolve.resolve(tx, one, "The provider lost the row.")
        )
    await world.settle()


async def test_a_lost_row_is_ended_by_a_person(postgres: PostgresServer, tmp_path: Path) -> None:
    """At both providers: the line of the gap is the payment that was missing."""
    async with bill_world(postgres, tmp_path, topups="own") as world:
        first = world.today()
        await story(world, "omit", "bill_omit")
        await end_gaps(world)
        for kind in (WECHAT, ALIPAY):
            account = world.account(kind).id
            key = await world.value(
                "SELECT key FROM attempt WHERE rail_account_id = %s AND booked_on IS NULL", account
            )
            line = await world.value(
                "SELECT id FROM statement_line WHERE rail_account_id = %s AND state = 'break'",
                account,
            )
            await world.payouts.world.run(
                lambda tx, one=line, it=key: resolve.retry(
                    tx, Ref(tx.cell, one), "It is this payment.", reference=it
                )
            )
        await world.settle()
        assert (await told(world)).open == {WECHAT: frozenset(), ALIPAY: frozenset()}
        for kind in (WECHAT, ALIPAY):
            assert await world.in_books("clearing", kind) == 0
            assert await world.in_books("suspense", kind) == 0
            assert await world.in_books("cash", kind) == await world.balance(kind)
        await world.desk.assert_proven()
        for place in range(5):
            await world.close(first + timedelta(days=place))


async def test_a_row_too_many_is_ended_by_a_person(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """The row and the line of its gap cancel each other out, whatever they are explained by."""
    async with bill_world(postgres, tmp_path, topups="own") as world:
        await story(world, "extra", "bill_extra")
        await end_gaps(world)
        lines = await world.value(
            "SELECT array_agg(b.id) FROM break b WHERE state = 'open'"
            " AND kind IN ('booked-twice', 'unknown-line')"
        )
        assert len(lines) == 4
        for one in lines:
            await world.payouts.world.run(
                lambda tx, it=one: resolve.resolve(tx, it, "Not so.", resolve.Target("loss"))
            )
        await world.settle()
        assert (await told(world)).open == {WECHAT: frozenset(), ALIPAY: frozenset()}
        for kind in (WECHAT, ALIPAY):
            assert await world.in_books("cash", kind) == await world.balance(kind)
        assert await world.minor("loss", 0) == 0
        await world.desk.assert_proven()


def test_the_page_has_the_table_that_was_tested() -> None:
    """Each knob has its row, with just the breaks that are open in the end."""
    page = Path(__file__).parents[2] / "docs/concepts/reconciliation.md"
    section = page.read_text().partition("## Differences in a bill")[2].partition("\n## ")[0]
    rows: dict[tuple[str, str], frozenset[str]] = {}
    for row in section.splitlines():
        cells = [cell.strip() for cell in row.strip("| ").split("|")]
        if len(cells) != 4 or not cells[1].startswith("`"):
            continue
        kinds = frozenset(re.findall(r"`([a-z-]+)`", cells[2]))
        for knob in re.findall(r"`([a-z_]+)`", cells[1]):
            rows[ALIPAY if knob.startswith("bill_") else WECHAT, knob] = kinds
    assert rows == DIFFERENCES
