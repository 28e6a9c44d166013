"""Books in SQLAlchemy's ORM: accounts and postings, one session and one transaction a posting."""

from __future__ import annotations

from collections import deque
from typing import Any, Self

import psycopg
from sqlalchemy import BigInteger, event, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from paymaster_bench.calls import closed_loop, settle_memory
from paymaster_bench.measure import Slice
from paymaster_bench.report import Check
from paymaster_bench.rows.single import POOL
from paymaster_bench.workload import Move, Shape, Traffic

_MOST_A_SECOND = 4_000


class _Base(DeclarativeBase):
    pass


class OrmAccount(_Base):
    """An account with its balance."""

    __tablename__ = "orm_account"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    balance: Mapped[int] = mapped_column(BigInteger)
    floored: Mapped[bool]


class OrmPosting(_Base):
    """A posting with both balances after it."""

    __tablename__ = "orm_posting"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    source_id: Mapped[int] = mapped_column(BigInteger)
    destination_id: Mapped[int] = mapped_column(BigInteger)
    amount: Mapped[int] = mapped_column(BigInteger)
    source_balance: Mapped[int] = mapped_column(BigInteger)
    destination_balance: Mapped[int] = mapped_column(BigInteger)


class OrmBooks:
    """The contestant."""

    def __init__(self, dsn: str, traffic: Traffic, callers: int) -> None:
        async def connect() -> Any:
            return await psycopg.AsyncConnection.connect(dsn)

        self._engine = create_async_engine(
            "postgresql+psycopg://",
            async_creator=connect,
            pool_size=POOL,
            max_overflow=0,
            pool_timeout=120,
        )
        event.listen(self._engine.sync_engine, "connect", _search_path)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        self._traffic, self._callers = traffic, callers
        self._ready: deque[Move] = deque()
        self._posted = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._engine.dispose()

    async def load(self) -> None:
        """Make the tables and the accounts."""
        accounts = self._traffic.accounts
        async with self._engine.begin() as connection:
            await connection.run_sync(_Base.metadata.create_all)
            rows = [
                {"id": n, "balance": accounts.opening(n), "floored": accounts.has_floor(n)}
                for n in range(accounts.cash + 1)
            ]
            for start in range(0, len(rows), 10_000):
                await connection.execute(insert(OrmAccount), rows[start : start + 10_000])

    def closed_loop(self) -> Slice:
        """One posting a call, by as many callers as the others have."""
        return closed_loop(self._call, self._callers, self._prepare)

    def _prepare(self, seconds: float) -> None:
        missing = int(_MOST_A_SECOND * seconds) + self._callers - len(self._ready)
        if missing > 0:
            self._ready.extend(self._traffic.batches(Shape(missing), 1)[0].moves)
        settle_memory()

    async def _call(self) -> None:
        move = self._ready.popleft()
        async with self._sessions() as session, session.begin():
            if await _post(session, move):
                self._posted += 1

    async def check(self) -> Check:
        """The postings are all there, and every balance is the sum of its postings."""
        wrong: list[str] = []
        async with self._sessions() as session:
            count = await session.scalar(select(func.count()).select_from(OrmPosting))
            total = await session.scalar(select(func.sum(OrmAccount.balance)))
        if count != self._posted:
            wrong.append(f"{count} postings, {self._posted} were acknowledged")
        if total != 0:
            wrong.append(f"the balances sum to {total}")
        return Check("orm: its own books hold", not wrong, self._posted, wrong)


def _search_path(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("SET search_path TO public")
    cursor.close()
    connection.commit()


async def _post(session: AsyncSession, move: Move) -> bool:
    """Lock both accounts in order, check the floor, write the posting and the balances."""
    found = await session.scalars(
        select(OrmAccount)
        .where(OrmAccount.id.in_((move.source, move.destination)))
        .order_by(OrmAccount.id)
        .with_for_update()
    )
    accounts = {account.id: account for account in found}
    source, destination = accounts[move.source], accounts[move.destination]
    if source.floored and source.balance < move.amount:
        return False
    source.balance -= move.amount
    destination.balance += move.amount
    session.add(
        OrmPosting(
            id=move.entry_id,
            source_id=source.id,
            destination_id=destination.id,
            amount=move.amount,
            source_balance=source.balance,
            destination_balance=destination.balance,
        )
    )
    return True
