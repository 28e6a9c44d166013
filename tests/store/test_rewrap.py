"""A new key-encryption key: everything stored comes under it while requests go on, crash or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.awaiting import plant_confirmation
from tests.planting import plant
from tests.sealed import new_version, seal_all, superuser
from tests.served import IBAN, Served, serve
from tests.world import ACTOR, START, PostgresServer

from paymaster.db import inbox, seal_verify, sealed
from paymaster.db.seal import Place
from paymaster.db.sealed import COLUMNS, UNDER_USER_KEY
from paymaster.db.tx import CellTx
from paymaster.earn import dead_letter
from paymaster.earn.event import Fault
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import parse_text_id
from paymaster.observe.metrics import metrics_response
from paymaster.people import destinations, fingerprints, users
from paymaster.rails.destinations import check
from paymaster.roles.rewrap import Rewrapper, Tempo, rewrappers
from paymaster.secrets.sealing import place

EACH = 25
TEMPO = Tempo(look=10, take=7)
PLACES = {
    "inbox": lambda n: place("inbox", "rail-7", f"m{n:03}"),
    "batch": lambda n: place("batch", 1, n),
    "confirmation": lambda n: place("confirmation", 1, n),
    "charge": lambda n: place("charge", 1, n),
    "rail_file": lambda n: place("rail_file", n),
    "statement_line": lambda n: place("statement_line", 7, f"L{n}"),
    "webhook_secret": lambda n: place("webhook_secret", n),
}
NAMED = {"inbox": "substring(message_id from 2)::int", "confirmation": "attempt_id"}


async def all_of(one: Rewrapper) -> None:
    """Step by step until nothing is due."""
    while await one.step():
        continue


@dataclass
class Kept:
    """An installation with values of every kind, and what is in them."""

    served: Served
    folder: Path
    letters: list[int]

    @property
    def places(self) -> list[Place]:
        return [self.served.world.dbs.control, self.served.world.cell]

    def rewrapper(self, where: Place, tempo: Tempo = TEMPO) -> Rewrapper:
        return Rewrapper(self.served.deps, where, tempo)

    async def rewrap(self) -> None:
        """Until nothing is due anywhere."""
        for where in self.places:
            one = self.rewrapper(where)
            while await one.step():
                continue
            await one.give_up()

    async def key_ids(self) -> dict[str, dict[str, int]]:
        """How many values of each table are under which key."""
        found: dict[str, dict[str, int]] = {}
        for where, kind in zip(self.places, ("control", "cell"), strict=True):
            for column in sealed.columns(kind):
                found[f"{kind}.{column.table}"] = await where.read(
                    lambda tx, c=column: sealed.counts(tx, c)
                )
        return found

    async def assert_all_open(self, profiles: dict[str, str]) -> None:
        """Every value of every kind opens and says what was put in."""
        sealer = self.served.deps.secrets.sealer
        for table, where in PLACES.items():
            schema = "control" if table == "webhook_secret" else "cell_1"
            with superuser(self.served.world, schema) as owner:
                names = NAMED.get(table, "id")
                rows = owner.execute(
                    f"SELECT {names} AS n, sealed FROM {table} WHERE sealed IS NOT NULL".encode()
                    + (b" AND source = 'rail-7'" if table == "inbox" else b"")
                ).fetchall()
            assert len(rows) == EACH
            for row in rows:
                opened = sealer.open_bytes(bytes(row["sealed"]), where(row["n"]))
                assert opened == f"{table} {row['n']}".encode()

        for number in self.letters:
            letter = await self.served.world.run(
                lambda tx, n=number: dead_letter.opened(tx, sealer, n)
            )
            assert letter == b"a line"
        for name, holder in profiles.items():
            shown = await self.served.ok("GET", f"/v1/users/{name}")
            assert shown["profile"]["city"] == holder


@pytest.fixture
async def kept(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Kept]:
    settle: dict[str, Any] = {"settle_seconds": 0}
    async with serve(postgres, tmp_path, secrets=settle) as served:
        yield Kept(served, tmp_path / "secrets", await fill(served))


async def fill(served: Served) -> list[int]:
    """Values of every kind that carries its key, and users with a key."""
    sealer, world = served.deps.secrets.sealer, served.world
    for number in range(5):
        await served.ok("PUT", f"/v1/users/old-{number}", {"profile": {"city": f"Old {number}"}})
        await served.ok("POST", f"/v1/users/old-{number}/destinations", IBAN)

    def value(table: str, number: int) -> bytes:
        return sealer.seal_bytes(f"{table} {number}".encode(), PLACES[table](number))

    async def write(tx: CellTx) -> list[int]:
        await inbox.receive(tx, [
            inbox.Incoming("rail-7", f"m{n:03}", "t", None, value("inbox", n), "t")
            for n in range(EACH)
        ])  # fmt: skip
        faults = [("csv", Fault(n, "x", "y", b"a line")) for n in range(EACH)]
        await dead_letter.bury(tx, sealer, faults)
        return [row[0] for row in await tx.tuples("SELECT id FROM dead_letter")]

    letters = await world.run(write)
    with superuser(world, "cell_1") as owner:
        for n in range(EACH):
            owner.execute(
                "INSERT INTO batch VALUES (%s, %s, 7, %s, 'd', 1, 1, 'EUR', 'sent', 0, NULL, 0,"
                " %s, NULL, NULL, 't', 1)",
                (n, f"b{n}", value("batch", n), START),
            )
            plant_confirmation(owner, n, value("confirmation", n))
            made = {"key": f"k{n}", "purpose": "user", "sealed": value("charge", n)}
            plant(world, "cell_1", "charge", id=n, **made)
            owner.execute(
                "INSERT INTO rail_file VALUES (%s, 7, %s, 'd', %s, 'read', NULL, NULL, %s)",
                (n, f"f{n}", value("rail_file", n), START),
            )
            owner.execute(
                "INSERT INTO statement_line (id, statement_id, rail_account_id, line_id, kind,"
                " amount, fee, asset, booked_on, sealed, state, accepted, entry_id, entry_fee,"
                " version) VALUES (%s, 1, 7, %s, 'other', 1, 0, 'EUR', '2026-11-19', %s,"
                " 'matched', false, 1, 1, 1)",
                (n, f"L{n}", value("statement_line", n)),
            )
        owner.execute("SET search_path TO control")
        for n in range(EACH):
            owner.execute(
                "INSERT INTO webhook_secret (id, endpoint_id, sealed, created_at)"
                " VALUES (%s, 1, %s, %s)",
                (n, value("webhook_secret", n), START),
            )
    return letters


async def test_everything_comes_under_the_new_key_while_requests_go_on(kept: Kept) -> None:
    served, old = kept.served, kept.served.deps.secrets.kek.current_id()
    for where in kept.places:
        await seal_all(where)
    before = await kept.key_ids()
    empty = {"control.inbox"}
    assert {name: set(found) for name, found in before.items() if name not in empty} == {
        name: {old} for name in before if name not in empty
    }
    profiles = {f"old-{number}": f"Old {number}" for number in range(5)}
    stop = asyncio.Event()

    async def meanwhile() -> int:
        done = 0
        while not stop.is_set():
            name = f"new-{done}"
            await served.ok("PUT", f"/v1/users/{name}", {"profile": {"city": f"New {done}"}})
            await served.ok("POST", f"/v1/users/{name}/destinations", IBAN)
            profiles[name] = f"New {done}"
            assert (await served.ok("GET", "/v1/users/old-0"))["profile"]["city"] == "Old 0"
            done += 1
        return done

    caller = asyncio.create_task(meanwhile())
    new_version(kept.folder, "kek")
    await kept.rewrap()
    stop.set()
    assert await caller > 0
    new = served.deps.secrets.kek.current_id()
    assert new != old
    await kept.rewrap()
    for table, found in (await kept.key_ids()).items():
        assert set(found) <= {new}, table
    (kept.folder / "kek").unlink()  # the old key may go now
    await kept.assert_all_open(profiles)
    for where in kept.places:
        await seal_all(where)
        assert not (await seal_verify.verify(where)).findings


async def test_what_another_transaction_holds_is_waited_for_by_nobody_and_done_later(
    kept: Kept,
) -> None:
    old = kept.served.deps.secrets.kek.current_id()
    new_version(kept.folder, "kek")
    with psycopg.connect(kept.served.world.owner_dsn) as holder:
        holder.execute("SELECT FROM cell_1.inbox WHERE message_id = 'm003' FOR UPDATE")
        async with asyncio.timeout(30):
            await kept.rewrap()
        assert (await kept.key_ids())["cell.inbox"][old] == 1
        holder.rollback()
    await kept.rewrap()
    assert old not in (await kept.key_ids())["cell.inbox"]


@pytest.mark.parametrize("crashes", [1, 3, 9])
async def test_a_crash_in_any_step_loses_nothing(kept: Kept, crashes: int) -> None:
    """A process that ends is replaced by another, which goes on where it was."""
    new_version(kept.folder, "kek")
    for crash in range(crashes):
        one = kept.rewrapper(kept.served.world.cell)
        for _ in range(crash):
            await one.step()
        task = asyncio.create_task(one.step())
        await asyncio.sleep(0.002 * crash)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await one.give_up()
    await kept.rewrap()
    new = kept.served.deps.secrets.kek.current_id()
    assert {key for found in (await kept.key_ids()).values() for key in found} == {new}
    (kept.folder / "kek").unlink()
    await kept.assert_all_open({f"old-{number}": f"Old {number}" for number in range(5)})


async def test_a_value_that_no_key_opens_is_named_and_stops_no_other(kept: Kept) -> None:
    old = kept.served.deps.secrets.kek.current_id()
    with superuser(kept.served.world, "cell_1") as owner:
        owner.execute(
            "UPDATE batch SET sealed = overlay(sealed placing 'xxxxxxxxxxxx'::bytea from 3 for 12)"
            " WHERE id = 3"
        )
    new_version(kept.folder, "kek")
    one = kept.rewrapper(kept.served.world.cell)
    with pytest.raises(Broken, match="1 values of batch") as caught:
        await all_of(one)
    assert caught.value.slug == "rewrap-stuck"
    await all_of(one)  # the others go on
    found = await kept.key_ids()
    assert found["cell.batch"]["xxxxxxxxxxxx"] == 1
    assert all(old not in counted for name, counted in found.items() if name.startswith("cell"))


async def test_a_table_is_done_only_after_a_pass_that_began_late_enough(kept: Kept) -> None:
    tempo = Tempo(settle=timedelta(seconds=90))
    new_version(kept.folder, "kek")
    one = kept.rewrapper(kept.served.world.cell, tempo)

    async def undone() -> set[str]:
        rows = await kept.served.world.read(sealed.progress)
        return {row.name for row in rows.values() if row.done_at is None}

    for _ in range(60):
        await one.step()
    assert "data_key" in await undone()
    kept.served.world.clock.advance(timedelta(seconds=91))
    for _ in range(60):
        await one.step()
    assert await undone() == set()
    assert await one.step() == 0


async def test_only_one_process_at_a_time_rewraps_a_schema(kept: Kept) -> None:
    new_version(kept.folder, "kek")
    first, second = (kept.rewrapper(kept.served.world.cell) for _ in range(2))
    assert await first.step() > 0
    assert await second.step() == 0
    await first.give_up()
    assert await second.step() > 0


async def test_the_metric_says_how_many_are_left_under_which_key(kept: Kept) -> None:
    old = kept.served.deps.secrets.kek.current_id()

    def shown() -> str:
        return metrics_response(kept.served.deps.metrics)[0].decode()

    await kept.rewrap()
    line = 'paymaster_sealed_values{{key_id="{}",kind="cell:1.batch"}} {}.0'
    assert line.format(old, EACH) in shown()
    new_version(kept.folder, "kek")
    await kept.rewrap()
    assert line.format(old, 0) in shown()
    assert line.format(kept.served.deps.secrets.kek.current_id(), EACH) in shown()


async def test_an_erased_user_stays_erased(kept: Kept) -> None:
    """A key that is deleted between look and write is not brought back."""
    new_version(kept.folder, "kek")
    ref = parse_text_id("us", (await kept.served.ok("GET", "/v1/users/old-1"))["id"])
    column = sealed.DATA_KEY
    key_id = kept.served.deps.secrets.kek.current_id()
    found = await kept.served.world.read(lambda tx: sealed.look(tx, column, key_id, None, 100))
    assert (str(ref.id),) in found.stale

    async def erase_then_put(tx: CellTx) -> None:
        await tx.execute("DELETE FROM data_key WHERE user_id = %s", (ref.id,))
        await sealed.put(tx, column, [((str(ref.id),), b"wrapped", key_id)])

    await kept.served.world.run(erase_then_put)
    assert not await kept.served.world.read(
        lambda tx: users.data_keys(tx, kept.served.deps.secrets.sealer, [ref.id])
    )


async def test_every_sealed_column_of_the_catalogue_is_known(kept: Kept) -> None:
    """A new table with sealed values must be told to the rewrapping, or said to need none."""
    with psycopg.connect(kept.served.world.owner_dsn) as owner:
        rows = owner.execute(
            "SELECT n.nspname, c.relname, a.attname FROM pg_attribute a"
            " JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname IN ('control', 'cell_1') AND c.relkind IN ('r', 'p')"
            " AND NOT c.relispartition AND a.atttypid = 'bytea'::regtype AND a.attnum > 0"
        ).fetchall()
    known = {
        (kind, f"{column.table}.{'wrapped' if column is sealed.DATA_KEY else 'sealed'}")
        for column in COLUMNS
        for kind in column.kinds
    }
    under_user = {("cell", name) for name in UNDER_USER_KEY}
    found = {("control" if s == "control" else "cell", f"{t}.{c}") for s, t, c in rows}
    sealed_ones = {one for one in found if one[1].endswith((".sealed", ".wrapped"))}
    assert sealed_ones - {("cell", "sealed_key.wrapped")} == known | under_user
    harmless = ("hash", "digest", "digests", "marks", "previous", "signature", "sha256", "nonce",
                "fingerprint", "challenge", "answer", "key_hash", "body_hash",
                "certificate")  # fmt: skip
    others = {name for _, name in found - sealed_ones}
    assert {n for n in others if not n.split(".")[1].endswith(harmless)} == set()


# ------------------------------------------------------------------------------- fingerprints


async def test_fingerprints_come_under_the_new_key_and_look_ups_find_both(kept: Kept) -> None:
    served, sealer = kept.served, kept.served.deps.secrets.sealer
    dbs, cell = served.world.dbs, served.world.cell
    await served.ok("PUT", "/v1/users/gone", {})
    gone = parse_text_id("de", (await served.ok("POST", "/v1/users/gone/destinations", IBAN))["id"])
    ref = parse_text_id("us", (await served.ok("GET", "/v1/users/gone"))["id"])
    with superuser(served.world, "cell_1") as owner:
        owner.execute("DELETE FROM data_key WHERE user_id = %s", (ref.id,))
    source = check("iban", IBAN["details"]).fingerprint_source
    [before] = sealer.fingerprints("iban", source)

    async def stored() -> dict[int, bytes]:
        rows = await cell.read(lambda tx: tx.tuples("SELECT id, fingerprint FROM destination"))
        return {row[0]: bytes(row[1]) for row in rows}

    async def shared() -> set[int]:
        """How many users share each destination, as screening finds it."""
        ids = [number for number in await stored() if number != gone.id]
        prints = await cell.read(lambda tx: destinations.fingerprints_of(tx, sealer, ids))
        found = await dbs.control.read(lambda tx: destinations.shared_by(tx, 1, prints))
        return set(found.values())

    assert set((await stored()).values()) == {before}
    assert await shared() == {6}
    new_version(kept.folder, "fingerprint")
    after = sealer.fingerprint("iban", source)
    assert await shared() == {6}  # before the sweep
    again = await served.ok("POST", "/v1/users/old-0/destinations", IBAN)
    swept = await fingerprints.sweep(dbs, cell, sealer, ACTOR, 0, 2)
    assert (swept.changed, swept.last is None) == (2, False)
    assert await shared() == {6}  # in the middle of it
    await kept.rewrap()
    now = await stored()
    assert now.pop(gone.id) == before  # cannot be opened any more
    assert set(now.values()) == {after}
    assert await served.ok("POST", "/v1/users/old-0/destinations", IBAN) == again
    (kept.folder / "fingerprint").unlink()
    assert await shared() == {5}  # the erased user is known by the old key only
    assert await served.ok("POST", "/v1/users/old-0/destinations", IBAN) == again
    assert len(await stored()) == 6


def test_every_schema_has_a_lane(kept: Kept) -> None:
    assert set(rewrappers(kept.served.deps)) == {"control", "cell:1"}
