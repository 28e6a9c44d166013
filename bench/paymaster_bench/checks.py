"""After a row: the books are proven, and every verdict is held against the model's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence

from paymaster.db.tx import CellRead
from paymaster.ledger import proof as ledger_proof
from paymaster.ledger.proof import Difference
from paymaster.proof import prove_cells
from paymaster_bench.caller import VERDICTS, History
from paymaster_bench.model import Books
from paymaster_bench.report import Check
from paymaster_bench.server import owner_rows
from paymaster_bench.workload import Accounts
from paymaster_bench.world import CELL, open_databases

_AT_ONCE = 5000


Proof = Callable[[CellRead], Awaitable[list[Difference]]]


async def prove(name: str, app_dsn: str, *, ledger_only: bool = False) -> Check:
    """Derive all balances, links, holds and states anew from the facts.

    `ledger_only` for rows whose entries are made up: no withdrawal and no statement stands behind
    what they move through clearing and cash.
    """
    if ledger_only:
        return await prove_with(name, app_dsn, [ledger_proof.prove])
    async with open_databases(app_dsn, 2) as dbs:
        found = await prove_cells(dbs, dbs.cells())
    return _proven(name, app_dsn, [d for proof in found for d in proof.differences])


async def prove_with(name: str, app_dsn: str, proofs: Sequence[Proof]) -> Check:
    """The same by some of the proofs only."""
    async with open_databases(app_dsn, 2) as dbs:
        differences = [d for proof in proofs for d in await dbs.cell(CELL).read(proof)]
    return _proven(name, app_dsn, differences)


def _proven(name: str, dsn: str, differences: Sequence[Difference]) -> Check:
    return Check(
        f"{name}: the books prove (postings)",
        not differences,
        int(owner_rows(dsn, "SELECT count(*) FROM posting")[0][0]),
        [f"{d.check} {d.subject}: {d.stored}, derived {d.derived}" for d in differences[:10]],
    )


def compare_verdicts(
    name: str, dsn: str, accounts: Accounts, histories: Sequence[History]
) -> list[Check]:
    """Replay every batch in the order of commits; compare every verdict and every balance.

    Two batches that met at an account were serialised by its lock, so the order of commits is an
    order in which the verdicts must make sense. Batches that posted nothing changed nothing; they
    are left out.
    """
    books = Books(
        accounts.clearing,
        {number: accounts.opening(number) for number in range(accounts.cash + 1)},
    )
    count, wrong = books.compare(_in_order(dsn, histories))
    return [
        Check(f"{name}: verdicts equal the model's", count > 0 and not wrong, count, wrong),
        _balances(name, dsn, accounts, books),
    ]


def _in_order(dsn: str, histories: Sequence[History]) -> Iterator[tuple[int, int, int, int, str]]:
    places: list[tuple[int, int, int, int]] = []
    for number, history in enumerate(histories):
        batch_of = {first: at for at, first in enumerate(history.firsts) if first}
        firsts = list(batch_of)
        for start in range(0, len(firsts), _AT_ONCE):
            rows = owner_rows(
                dsn,
                "SELECT e.id, c.last_seq, e.ordinal FROM entry e JOIN commit c"
                " ON c.id = e.commit_id WHERE e.id = ANY(%s)",
                firsts[start : start + _AT_ONCE],
            )
            places += [
                (seq, ordinal, number, batch_of[entry_id]) for entry_id, seq, ordinal in rows
            ]
    for _, _, number, at in sorted(places):
        history = histories[number]
        end = history.starts[at + 1] if at + 1 < len(history.starts) else len(history.ids)
        for index in range(history.starts[at], end):
            yield (
                history.ids[index],
                history.sources[index],
                history.destinations[index],
                history.amounts[index],
                VERDICTS[history.verdicts[index]].value,
            )


def _balances(name: str, dsn: str, accounts: Accounts, books: Books) -> Check:
    stored = {
        (kind, owner): balance
        for kind, owner, balance in owner_rows(dsn, "SELECT kind, owner_id, balance FROM account")
    }
    wrong: list[str] = []
    for number, expected in books.balances.items():
        account = accounts.account(number)
        found = stored.get((account.kind, account.owner_id), 0)
        if found != expected and len(wrong) < 10:
            wrong.append(f"{account.kind} {account.owner_id}: {found}, by the model {expected}")
    return Check(f"{name}: balances equal the model's", not wrong, len(books.balances), wrong)
