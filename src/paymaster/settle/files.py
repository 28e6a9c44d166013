"""What providers leave for us: fetched, kept sealed as it came, then read.

A file is kept before it is read, so that nothing that a bank has said is lost and everything can be
read again. One that is truncated, altered or not ours is refused with its reason and changes
nothing else. Statements go to reconciliation first; only when it has taken them are the answers
about payments put into the inboxes of their cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from paymaster.db.cells import Databases
from paymaster.db.pool import CellDb
from paymaster.db.tx import Actor, CellRead, CellTx
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.kernel.errors import Busy, PaymasterError, RailError, Refusal
from paymaster.kernel.ids import new_trace_id
from paymaster.observe import get_logger
from paymaster.rails.base import FetchesFiles, Notice, Rail, RemoteFile, Statement
from paymaster.secrets.sealing import Sealer, place
from paymaster.settle import notice
from paymaster.settle.inboxes import put

ACTOR = Actor("role:settle")
MAX_NAMES = 20_000
"""So many names of files are told to a rail as known, the newest ones."""

_READ_AT_ONCE = 100
_log = get_logger(__name__)

OnStatements = Callable[[CellTx, Sealer, PayoutAccount, int, Sequence[Statement]], Awaitable[None]]
"""Stores the statements of a file (its id) in the treasury cell; harmless to repeat."""


@dataclass(frozen=True, slots=True)
class Polled:
    """What a visit brought."""

    fetched: int = 0
    read: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file that lies in the treasury cell and has not been read."""

    id: int
    name: str
    digest: bytes
    sealed: bytes = field(repr=False)


async def poll(
    dbs: Databases,
    rails: Mapping[str, Rail],
    sealer: Sealer,
    account: PayoutAccount,
    on_statements: OnStatements,
) -> Polled:
    """Fetch and read what is new on an account.

    Raises RailError when the provider cannot be reached; what was fetched earlier has been read.
    """
    rail = rails.get(account.rail.rail)
    if rail is None or not isinstance(rail, FetchesFiles):
        return Polled()
    treasury = dbs.treasury(account.environment_id)
    # What an earlier visit kept and did not get to read comes first.
    read, refused = await _read_kept(dbs, rail, sealer, account, on_statements)

    async def names(tx: CellRead) -> frozenset[str]:
        rows = await tx.tuples(
            "SELECT name FROM rail_file WHERE rail_account_id = %s ORDER BY id DESC LIMIT %s",
            (account.id, MAX_NAMES),
        )
        return frozenset(row[0] for row in rows)

    seen = await treasury.read(names)
    try:
        files = await rail.fetch(account.rail, seen)
    except RailError as error:
        _log.warning("files_unreachable", rail_account=account.rail.name, slug=error.slug)
        raise
    if not files:
        return Polled(0, read, refused)
    fetched = await _keep(treasury, sealer, account, files)
    more_read, more_refused = await _read_kept(dbs, rail, sealer, account, on_statements)
    return Polled(fetched, read + more_read, refused + more_refused)


async def _keep(
    treasury: CellDb, sealer: Sealer, account: PayoutAccount, files: Sequence[RemoteFile]
) -> int:
    """Keep files, each in a transaction of its own; how many were new."""
    new = 0
    for file in files:
        digest = hashlib.sha256(file.body).digest()
        context = place("rail_file", account.id, file.name, digest.hex())
        sealed = sealer.seal_bytes(file.body, context)

        async def work(tx: CellTx, name: str, digest: bytes, sealed: bytes) -> int:
            return await tx.execute(
                """
                INSERT INTO rail_file (id, rail_account_id, name, digest, sealed, state,
                    received_at)
                VALUES (%s, %s, %s, %s, %s, 'received', %s)
                ON CONFLICT (rail_account_id, name, digest) DO NOTHING
                """,
                (tx.id(), account.id, name, digest, sealed, tx.now),
            )

        new += await treasury.run(
            ACTOR,
            new_trace_id(),
            lambda tx, f=file, d=digest, s=sealed, w=work: w(tx, f.name, d, s),
        )
    return new


async def _read_kept(
    dbs: Databases,
    rail: FetchesFiles,
    sealer: Sealer,
    account: PayoutAccount,
    on_statements: OnStatements,
) -> tuple[int, int]:
    """Read all kept files, oldest first: how many were read, how many refused."""
    treasury = dbs.treasury(account.environment_id)

    async def kept(tx: CellRead) -> list[_Kept]:
        return await tx.fetch(
            "SELECT id, name, digest, sealed FROM rail_file"
            " WHERE rail_account_id = %s AND state = 'received' ORDER BY id LIMIT %s",
            (account.id, _READ_AT_ONCE),
            _Kept,
        )

    read = refused = 0
    while True:
        files = await treasury.read(kept)
        for file in files:
            if await _read(dbs, rail, sealer, account, on_statements, file):
                read += 1
            else:
                refused += 1
        if len(files) < _READ_AT_ONCE:
            return read, refused


async def _read(
    dbs: Databases,
    rail: FetchesFiles,
    sealer: Sealer,
    account: PayoutAccount,
    on_statements: OnStatements,
    file: _Kept,
) -> bool:
    """Read one file; False when it was refused."""
    treasury, trace_id = dbs.treasury(account.environment_id), new_trace_id()
    try:
        context = place("rail_file", account.id, file.name, file.digest.hex())
        body = sealer.open_bytes(file.sealed, context)
        found, statements = rail.read_file(account.rail, file.name, body)

        async def take(tx: CellTx) -> None:
            await on_statements(tx, sealer, account, file.id, statements)

        if statements:
            await treasury.run(ACTOR, trace_id, take)
    except Busy:
        raise
    except Exception as error:  # noqa: BLE001 - a file that cannot be read stops no other
        known = isinstance(error, PaymasterError)
        slug = error.slug if known else "file-unreadable"
        detail = error.detail if known else f"Reading it failed: {type(error).__name__}."
        if not isinstance(error, Refusal):
            _log.exception("file_failed", rail_account=account.rail.name, slug=slug)
        await _mark(treasury, file.id, "refused", slug, detail, trace_id)
        return False
    await _tell(dbs, sealer, account, file, found, trace_id)
    await _mark(treasury, file.id, "read", None, None, trace_id)
    return True


async def _tell(
    dbs: Databases,
    sealer: Sealer,
    account: PayoutAccount,
    file: _Kept,
    found: Sequence[Notice],
    trace_id: str,
) -> None:
    """Put the answers of a file into the inboxes of their cells, once each."""
    source, digest = f"file:{account.rail.name}", file.digest.hex()[:32]
    named = [
        Notice(f"{digest}/{each.event_id}", each.outcome, each.batch_key, each.but_not)
        for each in found
    ]
    messages = [
        (notice.about(one), notice.pack(sealer, source, account.id, one, None, trace_id))
        for one in named
    ]
    await put(dbs, account.environment_id, ACTOR, messages, trace_id)


async def _mark(
    treasury: CellDb, file_id: int, state: str, slug: str | None, detail: str | None, trace_id: str
) -> None:
    async def work(tx: CellTx) -> None:
        await tx.execute(
            "UPDATE rail_file SET state = %s, slug = %s, detail = %s"
            " WHERE id = %s AND state = 'received'",
            (state, slug, detail[:1000] if detail else None, file_id),
        )

    await treasury.run(ACTOR, trace_id, work)
