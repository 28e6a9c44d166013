"""Files from banks: kept before they are read, refused without a trace elsewhere, read once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from datetime import date
from random import Random
from typing import Any

import pytest
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import FileRail
from tests.withdrawals import assert_proven, available
from tests.world import PostgresServer, owner_rows

from paymaster.db.tx import CellTx
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.kernel.errors import Conflict, NeverSent, Refusal
from paymaster.kernel.ids import reference
from paymaster.kernel.money import Money
from paymaster.rails.base import Notice, Outcome, RemoteFile, Statement, Verdict
from paymaster.secrets.sealing import Sealer
from paymaster.settle import unmatched
from paymaster.settle.apply import apply_due
from paymaster.settle.files import Polled, poll
from paymaster.settle.refused_files import read_again

_numbers = itertools.count(1)


@pytest.fixture
def bank() -> FileRail:
    return FileRail("bank", batch_items=10)


@pytest.fixture
async def payouts(postgres: PostgresServer, bank: FileRail) -> AsyncIterator[Payouts]:
    async with payout_world(postgres, bank, cells=2) as found:
        yield found
        await assert_proven(found.world)
        await assert_paid_once(found)


class Reconciliation:
    """Stands where statements are stored."""

    def __init__(self) -> None:
        self.stored: list[tuple[int, str]] = []
        self.refuses: Refusal | None = None

    async def __call__(
        self,
        tx: CellTx,
        sealer: Sealer,
        account: PayoutAccount,
        file_id: int,
        statements: Sequence[Statement],
    ) -> None:
        assert tx.cell == 1
        if self.refuses is not None:
            raise self.refuses
        self.stored += [(file_id, statement.statement_id) for statement in statements]


@pytest.fixture
def books() -> Reconciliation:
    return Reconciliation()


def statement(name: str) -> Statement:
    zero = Money.zero("EUR")
    return Statement(name, "DE", date(2026, 11, 20), zero, zero, ())


def about(key: str, verdict: Verdict, **rest: Any) -> Notice:
    return Notice(f"m/{key}", Outcome(key, verdict, code=rest.pop("code", None)), **rest)


async def visit(payouts: Payouts, books: Reconciliation) -> Polled:
    account = payouts.accounts["bank"]
    return await poll(payouts.world.dbs, payouts.rails, payouts.sealer, account, books)


async def apply(payouts: Payouts, cell: int = 1) -> None:
    await apply_due(payouts.world.dbs.cell(cell), payouts.sealer, Random(1))


async def sent(payouts: Payouts, *amounts: str, cell: int = 1) -> tuple[list[int], str]:
    """Withdrawals sent in one file, and the file's key."""
    withdrawals = [
        await approved(payouts, await new_payee(payouts, next(_numbers), cell=cell), amount)
        for amount in amounts
    ]
    (order,) = await payouts.claim(cell)
    await payouts.deliver([order], cell)
    return withdrawals, order.prepared.batch_key


async def states(payouts: Payouts, withdrawals: list[int], cell: int = 1) -> list[str]:
    return [(await payouts.states(each, cell))[0] for each in withdrawals]


def leaves(bank: FileRail, name: str, *notices: Notice, body: bytes = b"report") -> None:
    bank.out.append(RemoteFile(name, body + name.encode()))
    bank.notices[name] = list(notices)


async def files(payouts: Payouts) -> list[tuple[object, ...]]:
    return owner_rows(payouts.world, "SELECT name, state, slug, detail FROM rail_file ORDER BY id")


async def test_a_report_is_kept_read_and_applied(
    payouts: Payouts, bank: FileRail, books: Reconciliation
) -> None:
    withdrawals, _ = await sent(payouts, "1.00", "2.00")
    keys = [await payouts.key_of(each) for each in withdrawals]
    bank.paid[keys[1]] = 0
    leaves(
        bank, "a.xml", about(keys[0], Verdict.PAID), about(keys[1], Verdict.REJECTED, code="AC04")
    )
    assert await visit(payouts, books) == Polled(fetched=1, read=1)
    assert await states(payouts, withdrawals) == ["sent", "sent"]
    await apply(payouts)
    assert await states(payouts, withdrawals) == ["paid", "failed"]
    assert await files(payouts) == [("a.xml", "read", None, None)]
    assert await visit(payouts, books) == Polled()


async def test_a_refused_file_order_gives_every_payment_back_once(
    payouts: Payouts, bank: FileRail, books: Reconciliation
) -> None:
    earner = await new_payee(payouts, next(_numbers))
    withdrawals = [await approved(payouts, earner, "1.00") for _ in range(3)]
    (order,) = await payouts.claim()
    await payouts.deliver([order])
    for key in order.prepared.keys:
        bank.paid[key] = 0
    batch_key = order.prepared.batch_key
    whole = Notice("m/1", Outcome(batch_key, Verdict.REJECTED, code="NARR"), batch_key)
    leaves(bank, "a.xml", whole)
    leaves(bank, "b.xml", whole)
    await visit(payouts, books)
    await apply(payouts)
    assert await states(payouts, withdrawals) == ["failed"] * 3
    assert await available(payouts.world, earner) == ("100.00", "0.00")
    assert await payouts.value("SELECT count(*) FROM entry WHERE kind = 'release'") == 3


async def test_what_is_said_of_one_payment_beats_what_is_said_of_the_file(
    payouts: Payouts, bank: FileRail, books: Reconciliation
) -> None:
    withdrawals, batch_key = await sent(payouts, "1.00", "2.00", "3.00")
    keys = [await payouts.key_of(each) for each in withdrawals]
    bank.paid[keys[1]] = 0
    leaves(
        bank,
        "a.xml",
        Notice("m/1", Outcome(batch_key, Verdict.PAID), batch_key, frozenset({keys[1]})),
        about(keys[1], Verdict.REJECTED, code="AC01"),
    )
    await visit(payouts, books)
    await apply(payouts)
    assert await states(payouts, withdrawals) == ["paid", "failed", "paid"]
    assert await payouts.world.read(lambda tx: unmatched.listing(tx, 10)) == []


async def test_a_report_about_an_unknown_order_is_visible(
    payouts: Payouts, bank: FileRail, books: Reconciliation
) -> None:
    unknown = reference(1, 4711)
    leaves(bank, "a.xml", Notice("m/1", Outcome(unknown, Verdict.REJECTED), unknown))
    leaves(bank, "b.xml", about("invoice-1", Verdict.PAID))
    assert await visit(payouts, books) == Polled(fetched=2, read=2)
    await apply(payouts)
    found = await payouts.world.read(lambda tx: unmatched.listing(tx, 10))
    assert sorted(each.result["slug"] for each in found) == ["attempt-unknown", "notice-unmatched"]


async def test_answers_go_to_the_cells_they_are_about(
    payouts: Payouts, bank: FileRail, books: Reconciliation
) -> None:
    (first,), _ = await sent(payouts, "1.00")
    (second,), _ = await sent(payouts, "2.00", cell=2)
    keys = [await payouts.key_of(first), await payouts.key_of(second, cell=2)]
    leaves(bank, "a.xml", *(about(key, Verdict.PAID) for key in keys))
    await visit(payouts, books)
    await apply(payouts, 1)
    await apply(payouts, 2)
    assert await states(payouts, [first]) == ["paid"]
    assert await states(payouts, [second], 2) == ["paid"]


@pytest.mark.parametrize(
    ("body", "slug"), [(b"broken", "statement-malformed"), (b"poison", "file-unreadable")]
)
async def test_a_bad_file_is_refused_and_the_others_are_read(
    payouts: Payouts, bank: FileRail, books: Reconciliation, body: bytes, slug: str
) -> None:
    (withdrawal,), _ = await sent(payouts, "1.00")
    key = await payouts.key_of(withdrawal)
    leaves(bank, "a.xml", about(key, Verdict.REJECTED), body=body)
    leaves(bank, "b.xml", about(key, Verdict.PAID))
    assert await visit(payouts, books) == Polled(fetched=2, read=1, refused=1)
    await apply(payouts)
    assert await states(payouts, [withdrawal]) == ["paid"]
    name, state, found, detail = (await files(payouts))[0]
    assert (name, state, found) == ("a.xml", "refused", slug)
    assert detail
    assert await visit(payouts, books) == Polled()


async def test_statements_go_to_reconciliation_with_their_file(
    payouts: Payouts, bank: FileRail, books: Reconciliation
) -> None:
    leaves(bank, "a.xml")
    bank.statements["a.xml"] = [statement("s1"), statement("s2")]
    await visit(payouts, books)
    (file_id,) = {file_id for file_id, _ in books.stored}
    assert [name for _, name in books.stored] == ["s1", "s2"]
    assert await payouts.value("SELECT count(*) FROM rail_file WHERE id = %s", file_id) == 1


async def test_when_reconciliation_refuses_a_file_its_answers_are_not_believed_either(
    payouts: Payouts, bank: FileRail, books: Reconciliation
) -> None:
    (withdrawal,), _ = await sent(payouts, "1.00")
    books.refuses = Refusal("statement-conflict", "Another statement of this day is here.")
    leaves(bank, "a.xml", about(await payouts.key_of(withdrawal), Verdict.PAID))
    bank.statements["a.xml"] = [statement("s1")]
    assert await visit(payouts, books) == Polled(fetched=1, refused=1)
    await apply(payouts)
    assert await states(payouts, [withdrawal]) == ["sent"]
    assert (await files(payouts))[0][1:3] == ("refused", "statement-conflict")


async def test_a_crash_after_keeping_is_made_up_for(
    payouts: Payouts, bank: FileRail, books: Reconciliation
) -> None:
    (withdrawal,), _ = await sent(payouts, "1.00")
    leaves(bank, "a.xml", about(await payouts.key_of(withdrawal), Verdict.PAID))
    bank.statements["a.xml"] = [statement("s1")]
    await visit(payouts, books)
    # As if the process had died before the file was marked: everything is done again, once.
    owner_rows(payouts.world, "UPDATE rail_file SET state = 'received' RETURNING 1")
    bank.unreachable = True
    with pytest.raises(NeverSent):
        await visit(payouts, books)
    assert (await files(payouts))[0][1] == "read"
    await apply(payouts)
    assert await states(payouts, [withdrawal]) == ["paid"]
    assert await payouts.value("SELECT count(*) FROM inbox") == 1


async def test_the_same_file_under_another_name_changes_nothing(
    payouts: Payouts, bank: FileRail, books: Reconciliation
) -> None:
    (withdrawal,), _ = await sent(payouts, "1.00")
    notice = about(await payouts.key_of(withdrawal), Verdict.PAID)
    bank.out = [RemoteFile("a.xml", b"same"), RemoteFile("copy.xml", b"same")]
    bank.notices = {"a.xml": [notice], "copy.xml": [notice]}
    assert await visit(payouts, books) == Polled(fetched=2, read=2)
    await apply(payouts)
    assert await states(payouts, [withdrawal]) == ["paid"]
    assert await payouts.value("SELECT count(*) FROM inbox") == 1


async def test_a_bank_that_uses_a_message_id_twice_is_heard_twice(
    payouts: Payouts, bank: FileRail, books: Reconciliation
) -> None:
    (withdrawal,), _ = await sent(payouts, "1.00")
    key = await payouts.key_of(withdrawal)
    leaves(bank, "a.xml", about(key, Verdict.ACCEPTED))
    leaves(bank, "b.xml", about(key, Verdict.PAID))
    await visit(payouts, books)
    await apply(payouts)
    assert await states(payouts, [withdrawal]) == ["paid"]


async def test_two_visits_at_once_keep_and_read_once(
    payouts: Payouts, bank: FileRail, books: Reconciliation
) -> None:
    (withdrawal,), _ = await sent(payouts, "1.00")
    leaves(bank, "a.xml", about(await payouts.key_of(withdrawal), Verdict.PAID))
    await asyncio.gather(visit(payouts, books), visit(payouts, books))
    assert len(await files(payouts)) == 1
    assert await payouts.value("SELECT count(*) FROM inbox") == 1


async def test_what_a_bank_wrote_is_sealed(
    payouts: Payouts, bank: FileRail, books: Reconciliation
) -> None:
    leaves(bank, "a.xml", body=b"Kim Beispiel, DE89370400440532013000")
    await visit(payouts, books)
    ((sealed,),) = owner_rows(payouts.world, "SELECT sealed FROM rail_file")
    assert b"Kim" not in bytes(sealed)


async def test_a_report_that_names_every_payment_apart_leaves_nothing_open(
    payouts: Payouts, bank: FileRail, books: Reconciliation
) -> None:
    withdrawals, batch_key = await sent(payouts, "1.00", "2.00")
    keys = [await payouts.key_of(each) for each in withdrawals]
    whole = Notice("m/1", Outcome(batch_key, Verdict.ACCEPTED), batch_key, frozenset(keys))
    leaves(bank, "a.xml", whole, *(about(key, Verdict.PAID) for key in keys))
    await visit(payouts, books)
    await apply(payouts)
    assert await states(payouts, withdrawals) == ["paid", "paid"]
    assert await payouts.world.read(lambda tx: unmatched.listing(tx, 10)) == []


async def test_a_refused_file_is_read_again_when_its_cause_was_put_right(
    payouts: Payouts, bank: FileRail, books: Reconciliation
) -> None:
    (withdrawal,), _ = await sent(payouts, "1.00")
    leaves(bank, "a.xml", about(await payouts.key_of(withdrawal), Verdict.PAID), body=b"poison")
    await visit(payouts, books)
    ((file_id,),) = owner_rows(payouts.world, "SELECT id FROM rail_file")
    bank.read_file = lambda _account, name, _body: (bank.notices[name], [])  # pyright: ignore[reportAttributeAccessIssue]
    assert await visit(payouts, books) == Polled()
    row = await payouts.world.run(lambda tx: read_again(tx, int(str(file_id)), "reader mended"))
    assert row.state == "received"
    assert await visit(payouts, books) == Polled(read=1)
    await apply(payouts)
    assert await states(payouts, [withdrawal]) == ["paid"]
    with pytest.raises(Conflict, match="file-read"):
        await payouts.world.run(lambda tx: read_again(tx, int(str(file_id)), "again"))
