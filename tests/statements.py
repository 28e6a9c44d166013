"""Payouts that have left and statements that come in, for the tests of reconciliation."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta

from tests.sent import Payout, insert_batch, insert_transfer, send_payout
from tests.world import PostgresServer, World, make_world

from paymaster.db import inbox, outbox
from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.ids import reference
from paymaster.kernel.money import Money
from paymaster.ledger import balance
from paymaster.ledger import proof as ledger_proof
from paymaster.ledger.chart import Account
from paymaster.rails.base import LineKind, RailAccount, Statement, StatementLine
from paymaster.reconcile import match, proof, statement
from paymaster.reconcile.catalogue import Catalogue, Funding
from paymaster.reconcile.commands import HANDLERS
from paymaster.reconcile.match import Progress
from paymaster.secrets.local import Ed25519Signer, HmacSigner, LocalKek
from paymaster.secrets.port import SecretVersion
from paymaster.secrets.sealing import Sealer
from paymaster.secrets.signers import Signers

BANK = RailAccount(7, "bank", "iso20022", "EUR", {"iban": "DE02120300000000202051"})
WALLET = RailAccount(8, "wallet", "sandbox_wallet", "EUR", {})
CAMPAIGN = 9
FUNDING = "CP0A1ZC4R7M2K9T"
DAY = date(2026, 11, 19)
"""Yesterday of the world's clock."""


class Keys:
    """A store with a KEK, a fingerprint key and a signing key made for this run."""

    def __init__(self) -> None:
        self._keys = {name: secrets.token_bytes(32) for name in ("kek", "fingerprint", "day-close")}

    def get(self, name: str) -> list[SecretVersion]:
        value = self._keys.get(name)
        return [SecretVersion("1", value)] if value else []


@dataclass
class Office:
    """Where statements are worked on: a world with accounts, keys and a campaign."""

    world: World
    keys: Keys = field(default_factory=Keys)
    names: int = 0

    @property
    def sealer(self) -> Sealer:
        return Sealer(LocalKek(self.keys), HmacSigner(self.keys))

    @property
    def signer(self) -> Ed25519Signer:
        return Ed25519Signer(self.keys)

    @property
    def signers(self) -> Signers:
        return Signers(self.signer)

    @property
    def cells(self) -> frozenset[int]:
        return frozenset(cell.number for cell in self.world.dbs.cells())

    # What went out

    async def payout(
        self, amount: str = "10.00", *, cell: int = 1, state: str = "sent", batch: int | None = None
    ) -> Payout:
        """A withdrawal whose attempt is `sending`, `unknown`, `sent`, `paid` or `rejected`."""
        (made,) = await self.payouts([amount], cell=cell, state=state, batch=batch)
        return made

    async def payouts(
        self,
        amounts: Sequence[str],
        *,
        cell: int = 1,
        state: str = "sent",
        batch: int | None = None,
        account: RailAccount = BANK,
    ) -> list[Payout]:
        async def work(tx: CellTx) -> list[Payout]:
            return [await send_payout(tx, account, text, state, batch) for text in amounts]

        return await self.world.run(work, cell)

    async def batch(self, cell: int = 1) -> tuple[int, str]:
        """An order for many payments: id and key."""

        async def work(tx: CellTx) -> tuple[int, str]:
            batch_id = tx.id()
            await insert_batch(tx, batch_id, BANK.id)
            return batch_id, reference(tx.cell, batch_id)

        return await self.world.run(work, cell)

    async def transfer(self, amount: str, batch: int | None = None) -> tuple[int, str]:
        """A treasury transfer from the bank to the wallet that was sent: id and reference."""
        money = Money.parse(amount, "EUR")
        return await self.world.run(
            lambda tx: insert_transfer(tx, BANK.id, WALLET.id, money, batch)
        )

    # What comes in

    async def store(
        self, *statements: Statement, account: RailAccount = BANK
    ) -> list[statement.Stored]:
        """Keep statements as if one file had brought them."""
        self.names += 1

        async def work(tx: CellTx) -> list[statement.Stored]:
            file_id = tx.id()
            await tx.execute(
                "INSERT INTO rail_file (id, rail_account_id, name, digest, sealed, state,"
                " received_at) VALUES (%s, %s, %s, %s, %s, 'read', %s)",
                (file_id, account.id, f"f{self.names}", b"d", b"s", tx.now),
            )
            return await statement.store_all(tx, self.sealer, account, file_id, statements)

        return await self.world.run(work)

    def catalogue(self) -> Catalogue:
        return Catalogue({FUNDING: Funding(CAMPAIGN, "EUR"), "CPUSD000000001": Funding(10, "USD")})

    async def match(self, limit: int = 1000) -> Progress:
        """One call of the matching."""
        return await self.world.run(
            lambda tx: match.match_due(tx, self.sealer, self.catalogue(), self.cells, limit)
        )

    async def deliver(
        self, *, only: int | None = None, lose_position: bool = False, lose: bool = False
    ) -> int:
        """Carry commands between cells as the relay does; how many were carried out.

        `lose_position`: the relay forgets how far it was. `lose`: the messages vanish.
        """
        done = 0
        for cell in sorted(self.cells):
            if only is not None and cell != only:
                continue
            reached, messages = await self.world.read(lambda tx: _after(tx, "test-relay"), cell)
            for message in messages:
                if message.target_cell is not None and not lose:
                    done += await self.hand_over(cell, message)
            if not lose_position:
                await self.world.run(
                    lambda tx, seq=reached: outbox.advance(tx, "test-relay", seq), cell
                )
        return done

    async def hand_over(self, source_cell: int, message: outbox.Outgoing) -> int:
        """Give a command to its cell: carried out once, however often it is given."""
        incoming = inbox.Incoming(
            f"cell-{source_cell}",
            str(message.message_id),
            message.topic,
            None,
            None,
            message.trace_id,
        )

        async def work(tx: CellTx) -> int:
            if await inbox.once(tx, incoming) is not None:
                return 0
            result = await HANDLERS[message.topic](tx, source_cell, message)
            await inbox.done(tx, incoming.source, incoming.message_id, result)
            return 1

        assert message.target_cell is not None
        return await self.world.run(work, message.target_cell)

    async def settle(self) -> None:
        """Match and deliver until nothing is left to do."""
        for _ in range(20):
            progress = await self.match()
            if not progress.claimed and not await self.deliver():
                return
        raise AssertionError("reconciliation does not come to rest")

    # What is known

    async def cash(self, account: RailAccount = BANK) -> str:
        return (-await self.balance("cash", account.id)).text()

    async def balance(self, kind: str, owner: int, cell: int = 1) -> Money:
        account = Account(kind, owner, "EUR")
        return Money(
            await self.world.read(lambda tx: balance.account_balance(tx, account), cell), "EUR"
        )

    async def breaks(self, state: str = "open") -> list[tuple[str, str]]:
        rows = await self.world.read(
            lambda tx: tx.tuples(
                "SELECT kind, subject FROM break WHERE state = %s ORDER BY kind, subject", (state,)
            )
        )
        return [(row[0], row[1]) for row in rows]

    async def kinds(self, state: str = "open") -> list[str]:
        return [kind for kind, _ in await self.breaks(state)]

    async def lines(self) -> dict[str, str]:
        rows = await self.world.read(
            lambda tx: tx.tuples("SELECT line_id, state FROM statement_line ORDER BY line_id")
        )
        return {row[0]: row[1] for row in rows}

    async def line(self, line_id: str) -> int:
        return await self.world.read(
            lambda tx: tx.value("SELECT id FROM statement_line WHERE line_id = %s", (line_id,))
        )

    async def withdrawal(self, payout: Payout) -> str:
        return await self.world.read(
            lambda tx: tx.value(
                "SELECT state FROM withdrawal WHERE id = %s", (payout.withdrawal_id,)
            ),
            payout.cell,
        )

    async def topics(self, topic: str, cell: int = 1) -> list[dict[str, object]]:
        rows = await self.world.read(
            lambda tx: tx.tuples(
                "SELECT payload FROM outbox WHERE topic = %s ORDER BY message_id", (topic,)
            ),
            cell,
        )
        return [row[0] for row in rows]

    async def assert_proven(self) -> None:
        """Books and lines agree in every cell, and nothing is under way between cells."""
        between = 0
        for cell in self.cells:
            differences = await self.world.read(ledger_proof.prove, cell)
            differences += await self.world.read(proof.prove, cell)
            assert differences == []
            rows = await self.world.read(
                lambda tx: tx.tuples("SELECT balance FROM account WHERE kind = 'intercell'"), cell
            )
            between += sum(row[0] for row in rows)
        assert between == 0


@asynccontextmanager
async def office(postgres: PostgresServer, *, cells: int = 1) -> AsyncIterator[Office]:
    async with make_world(postgres, cells=cells) as world:
        yield Office(world)


async def _after(tx: CellRead, name: str) -> tuple[int, list[outbox.Outgoing]]:
    return await outbox.after(tx, await outbox.position(tx, name), 1000)


# Statements


def line(
    line_id: str,
    amount: str,
    *,
    kind: LineKind = LineKind.PAYOUT,
    key: str | None = None,
    fee: str = "0",
    remittance: str | None = None,
    code: str | None = None,
    currency: str = "EUR",
    day: date = DAY,
) -> StatementLine:
    return StatementLine(
        line_id,
        kind,
        Money.parse(amount, currency),
        Money.parse(fee, currency),
        day,
        key,
        remittance,
        code,
        "Erika Beispiel",
    )


def paid(payout: Payout, line_id: str | None = None, amount: str | None = None) -> StatementLine:
    """The line of a payment as ordered, or over another amount."""
    text = amount or payout.amount.text()
    return line(line_id or f"L{payout.key}", f"-{text}", key=payout.key)


def came_back(payout: Payout, line_id: str | None = None) -> StatementLine:
    """The line of its return."""
    return line(
        line_id or f"R{payout.key}",
        payout.amount.text(),
        kind=LineKind.RETURN,
        key=payout.key,
        code="AC04",
    )


def set_apart(payout: Payout, line_id: str | None = None) -> StatementLine:
    """The line of money that left for a payment whose payee may still have to accept it."""
    name = line_id or f"A{payout.key}"
    return line(name, f"-{payout.amount.text()}", kind=LineKind.SET_APART, key=payout.key)


def given_back(payout: Payout, line_id: str | None = None) -> StatementLine:
    """The line of the same money on the account again."""
    name = line_id or f"B{payout.key}"
    return line(name, payout.amount.text(), kind=LineKind.GIVEN_BACK, key=payout.key)


def sheet(
    opening: str, *lines: StatementLine, day: date = DAY, name: str | None = None
) -> Statement:
    """A statement that adds up."""
    start = Money.parse(opening, "EUR")
    moved = sum(each.amount.minor - each.fee.minor for each in lines)
    return Statement(
        name or f"S-{day.isoformat()}", "x", day, start, start + Money(moved, "EUR"), tuple(lines)
    )


def later(days: int) -> date:
    return DAY + timedelta(days=days)
