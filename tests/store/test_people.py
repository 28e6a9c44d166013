"""Users, their destinations and the app's keys on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from tests.earning import ENVIRONMENT, Earning, earning_world
from tests.world import ACTOR, PostgresServer, owner_rows

from paymaster.db.tx import ControlTx
from paymaster.kernel.errors import Forbidden, NotFound, Refusal, Unauthenticated, Unprocessable
from paymaster.kernel.ids import Ref, new_trace_id
from paymaster.people import credentials, destinations, users
from paymaster.people.machine import Status
from paymaster.people.profile import Device, Profile, parse
from paymaster.people.users import Upsert, Upserted

IBAN = {"iban": "DE89 3704 0044 0532 0130 00", "holder": "Max Muster"}
OTHER = {"iban": "GB82 WEST 1234 5698 7654 32", "holder": "Max Muster"}


@pytest.fixture
async def earning(postgres: PostgresServer) -> AsyncIterator[Earning]:
    async with earning_world(postgres, cells=2) as made:
        yield made


async def upsert(e: Earning, name: str, *rest: Any) -> Upserted:
    return await users.upsert(
        e.world.dbs, e.sealer, ENVIRONMENT, ACTOR, new_trace_id(), name, *rest
    )


async def test_an_upsert_may_be_repeated(earning: Earning):
    profile = Profile("DE", "Berlin", "de-DE", 1990, (Device("d1", "android"),))
    first = await upsert(earning, "anna@example", profile)
    again = await upsert(earning, "anna@example")
    assert (first.created, again.created) == (True, False)
    assert first.view == again.view
    assert first.view is not None
    assert first.view.profile == profile
    assert first.view.wire()["profile"]["city"] == "Berlin"
    changed = await upsert(earning, "anna@example", Profile("FR"))
    assert changed.view is not None
    assert changed.view.profile == Profile("FR")


async def test_concurrent_upserts_make_one_user(earning: Earning):
    made = await asyncio.gather(*(upsert(earning, "same", Profile("DE")) for _ in range(8)))
    assert sum(one.created for one in made) == 1
    assert len({one.view.ref for one in made if one.view}) == 1


async def test_users_are_spread_and_found(earning: Earning):
    names = [f"user-{number}" for number in range(40)]
    await earning.add_users(*names)
    cells = [ref.cell for ref in earning.users.values()]
    assert 8 < cells.count(1) < 32
    dbs = earning.world.dbs
    assert await users.find_many(dbs, ENVIRONMENT, [*names, "nobody"]) == earning.users
    assert await users.find(dbs, ENVIRONMENT, "nobody") is None
    with pytest.raises(NotFound, match="user-unknown"):
        users.require_ref(None)


async def test_an_upsert_cut_off_after_the_claim_is_completed_by_repeating(earning: Earning):
    made = await upsert(earning, "cut", Profile("DE"))
    assert made.view is not None
    ref = made.view.ref
    schema = f"cell_{ref.cell}"
    for table in ("pii", "data_key", "app_user"):
        column = "id" if table == "app_user" else "user_id"
        owner_rows(
            earning.world,
            f"WITH d AS (DELETE FROM {schema}.{table} WHERE {column} = %s RETURNING 1)"
            " SELECT * FROM d",
            ref.id,
        )
    with pytest.raises(NotFound, match="user-unknown"):
        await earning.world.read(lambda tx: users.get(tx, earning.sealer, ref.id), ref.cell)
    again = await upsert(earning, "cut", Profile("FR"))
    assert again.view is not None
    assert again.view.ref == ref


async def test_a_profile_is_stored_sealed(earning: Earning):
    made = await upsert(earning, "anna", Profile("DE", "Wanne-Eickel"))
    assert made.view is not None
    schema = f"cell_{made.view.ref.cell}"
    [(sealed,)] = owner_rows(earning.world, f"SELECT sealed FROM {schema}.pii")
    assert b"Eickel" not in bytes(sealed)
    for table in ("audit", "outbox"):
        rows = owner_rows(earning.world, f"SELECT t::text FROM {schema}.{table} t")
        assert rows
        assert not any("Eickel" in row[0] or "anna" in row[0] for row in rows)


async def test_a_status_moves_as_the_machine_allows(earning: Earning):
    await upsert(earning, "u")
    for status in (Status.SUSPENDED, Status.ACTIVE, Status.SUSPENDED, Status.CLOSED):
        made = await upsert(earning, "u", None, status, "because")
        assert made.view is not None
        assert (made.view.status, made.view.status_reason) == (status, "because")
    assert made.view.version == 5
    with pytest.raises(Unprocessable, match="user-closed"):
        await upsert(earning, "u", None, Status.ACTIVE)
    outcomes = await users.upsert_many(
        earning.world.dbs,
        earning.sealer,
        ENVIRONMENT,
        ACTOR,
        new_trace_id(),
        [Upsert("u", None, Status.ACTIVE), Upsert("new", Profile("DE"))],
    )
    assert [(one.slug, one.created) for one in outcomes] == [("user-closed", False), (None, True)]


async def test_bad_external_ids_are_refused(earning: Earning):
    for name in ("", "x" * 129, "a\x00b", "a\nb", "\ud800"):
        with pytest.raises(Refusal, match="external-id-malformed"):
            await upsert(earning, name)
    with pytest.raises(Refusal, match="duplicate-in-batch"):
        await users.upsert_many(
            earning.world.dbs,
            earning.sealer,
            ENVIRONMENT,
            ACTOR,
            new_trace_id(),
            [Upsert("a"), Upsert("a")],
        )


async def test_after_erasure_nothing_opens_and_nothing_is_sealed(earning: Earning):
    made = await upsert(earning, "gone", Profile("DE"))
    assert made.view is not None
    ref = made.view.ref
    where = await add(earning, ref)
    owner_rows(
        earning.world,
        f"WITH d AS (DELETE FROM cell_{ref.cell}.data_key RETURNING 1) SELECT * FROM d",
    )
    left = await earning.world.read(lambda tx: users.get(tx, earning.sealer, ref.id), ref.cell)
    assert left.profile is None
    with pytest.raises(Unprocessable, match="user-erased"):
        await upsert(earning, "gone", Profile("DE"))
    payees = await earning.world.read(
        lambda tx: destinations.open_payees(tx, earning.sealer, [where.ref.id]), ref.cell
    )
    assert payees == {}


async def add(e: Earning, ref: Ref, details: Any = IBAN, currency: str = "EUR", **rest: Any):
    return await destinations.register(
        e.world.dbs, e.sealer, ACTOR, new_trace_id(), ref, "iban", currency, details, **rest
    )


async def test_a_destination_is_checked_masked_sealed_and_cools_off(earning: Earning):
    await earning.add_users("u")
    ref = earning.users["u"]
    cooling = timedelta(hours=3)
    view = await add(earning, ref, cooling=cooling)
    assert view.created
    assert view.usable_at == earning.world.clock.now() + cooling
    assert "0400" not in str(view.wire())
    assert view.mask.endswith("3000")
    payees = await earning.world.read(
        lambda tx: destinations.open_payees(tx, earning.sealer, [view.ref.id, 5]), ref.cell
    )
    assert payees[view.ref.id].details["iban"] == "DE89370400440532013000"
    for table in ("destination", "audit", "outbox"):
        rows = owner_rows(earning.world, f"SELECT t::text FROM cell_{ref.cell}.{table} t")
        assert not any("DE89" in row[0] or "Muster" in row[0] for row in rows)
    with pytest.raises(Unprocessable, match="destination-invalid"):
        await add(earning, ref, {**IBAN, "iban": "DE00 3704 0044 0532 0130 00"})
    with pytest.raises(Refusal, match="currency-unknown"):
        await add(earning, ref, currency="XXX")


async def test_the_same_destination_again_is_the_same(earning: Earning):
    await earning.add_users("u")
    ref = earning.users["u"]
    made = await asyncio.gather(*(add(earning, ref) for _ in range(6)))
    assert len({view.id for view in made}) == 1
    assert sum(view.created for view in made) == 1
    earning.keys.rotate("fingerprint")
    again = await add(earning, ref, {"iban": "de89370400440532013000", "holder": "Max Muster"})
    assert again.id == made[0].id
    assert (await add(earning, ref, currency="USD")).id != made[0].id
    listed = await earning.world.read(lambda tx: destinations.listing(tx, ref.id), ref.cell)
    assert [view.currency for view in listed] == ["EUR", "USD"]


async def test_a_closed_destination_stays_closed(earning: Earning):
    await earning.add_users("u")
    ref = earning.users["u"]
    view = await add(earning, ref)
    for _ in range(2):
        closed = await earning.world.run(
            lambda tx: destinations.close(tx, view.ref.id, "returned by the bank"), ref.cell
        )
        assert (closed.state, closed.closed_reason) == ("closed", "returned by the bank")
    with pytest.raises(Unprocessable, match="destination-closed"):
        await add(earning, ref)
    assert (await add(earning, ref, OTHER)).created
    with pytest.raises(NotFound, match="destination-unknown"):
        await earning.world.run(lambda tx: destinations.close(tx, 1, "x"), ref.cell)


async def test_one_destination_of_many_users_is_found_over_all_cells(earning: Earning):
    names = [f"u{number}" for number in range(5)]
    await earning.add_users(*names)
    assert len({ref.cell for ref in earning.users.values()}) == 2
    views = [await add(earning, earning.users[name]) for name in names[:3]]
    earning.keys.rotate("fingerprint")
    views += [await add(earning, earning.users[name]) for name in names[3:]]
    views.append(await add(earning, earning.users["u0"], OTHER))
    counts = [await shared(earning, view.ref) for view in views]
    assert counts == [5, 5, 5, 5, 5, 1]


async def shared(e: Earning, ref: Ref) -> int:
    prints = await e.world.read(
        lambda tx: destinations.fingerprints_of(tx, e.sealer, [ref.id]), ref.cell
    )
    counts = await e.world.dbs.control.read(
        lambda tx: destinations.shared_by(tx, ENVIRONMENT, prints)
    )
    return counts[ref.id]


async def test_users_who_are_not_active_add_no_destination(earning: Earning):
    made = await upsert(earning, "u", None, Status.SUSPENDED)
    assert made.view is not None
    with pytest.raises(Unprocessable, match="user-suspended"):
        await add(earning, made.view.ref)
    with pytest.raises(NotFound, match="user-unknown"):
        await add(earning, Ref(1, 1))


async def test_a_key_is_verified_and_its_use_noted_once_a_day(earning: Earning):
    dbs = earning.world.dbs
    issued = await earning.control(
        lambda tx: credentials.issue(tx, ENVIRONMENT, "server", ["events:write", "read"])
    )
    assert issued.key.startswith("pk_test_")
    assert issued.key not in repr(issued)
    found = await credentials.verify(dbs, issued.key)
    assert (found.environment_id, found.scopes) == (ENVIRONMENT, {"events:write", "read"})
    assert issued.key.startswith(found.prefix)
    with pytest.raises(Forbidden, match="scope-missing"):
        found.principal.require("operate")
    await credentials.verify(dbs, issued.key)
    [(used, stored)] = owner_rows(
        earning.world, "SELECT last_used_on, secret_hash FROM control.credential"
    )
    assert used == earning.world.clock.now().date()
    assert issued.key.rpartition("_")[2].encode() not in bytes(stored)


async def test_what_is_no_key_is_refused_and_what_cannot_be_one_not_made(earning: Earning):
    issued = await earning.control(
        lambda tx: credentials.issue(tx, ENVIRONMENT, "server", ["read"])
    )
    key = issued.key
    other = "A" if key[-1] != "A" else "B"
    mistyped = (key[:-1] + other, key[:-1], "", key.replace("_test_", "_live_"), key + "\n")
    for one in mistyped:
        with pytest.raises(Unauthenticated, match="credential-invalid"):
            await credentials.verify(earning.world.dbs, one)
    faults: list[tuple[str, list[str]]] = [
        ("x", []),
        ("x", ["everything"]),
        ("", ["read"]),
        ("a\nb", ["read"]),
    ]
    for name, scopes in faults:
        with pytest.raises(Unprocessable, match="credential-invalid"):
            await earning.control(
                lambda tx, n=name, s=scopes: credentials.issue(tx, ENVIRONMENT, n, s)
            )


async def test_keys_expire_rotate_with_overlap_and_are_revoked(earning: Earning):
    dbs, clock = earning.world.dbs, earning.world.clock

    async def first(tx: ControlTx) -> credentials.Issued:
        return await credentials.issue(
            tx, ENVIRONMENT, "server", ["read"], tx.now + timedelta(days=30)
        )

    old = await earning.control(first)
    prefix = old.view.prefix
    new = await earning.control(
        lambda tx: credentials.rotate(tx, ENVIRONMENT, prefix, timedelta(days=1))
    )
    assert (new.view.scopes, new.view.expires_at) == (old.view.scopes, old.view.expires_at)
    await credentials.verify(dbs, old.key)
    await credentials.verify(dbs, new.key)
    clock.advance(timedelta(days=1))
    with pytest.raises(Unauthenticated, match="credential-expired"):
        await credentials.verify(dbs, old.key)
    with pytest.raises(Unprocessable, match="credential-expired"):
        await earning.control(lambda tx: credentials.rotate(tx, ENVIRONMENT, prefix, timedelta(0)))
    await credentials.verify(dbs, new.key)
    for _ in range(2):
        await earning.control(
            lambda tx: credentials.revoke(tx, ENVIRONMENT, new.view.prefix, "leaked")
        )
    with pytest.raises(Unauthenticated, match="credential-revoked"):
        await credentials.verify(dbs, new.key)
    with pytest.raises(NotFound, match="credential-unknown"):
        await earning.control(lambda tx: credentials.revoke(tx, 2, prefix, "other environment"))
    listed = await earning.control(lambda tx: credentials.listing(tx, ENVIRONMENT))
    assert [view.prefix for view in listed] == [prefix, new.view.prefix]


@pytest.mark.parametrize(
    ("value", "pointers"),
    [
        ({"country": "de"}, {"/country"}),
        ({"country": "DE", "shoe": 1, "language": "Deutsch!"}, {"/shoe", "/language"}),
        ({"birth_year": 1899}, {"/birth_year"}),
        ({"birth_year": True}, {"/birth_year"}),
        ({"city": ""}, {"/city"}),
        ({"devices": [{"platform": "ios"}, 1]}, {"/devices/0/id", "/devices/1"}),
        ({"devices": "all"}, {"/devices"}),
        ({"devices": [{"id": "x", "serial": "y"}]}, {"/devices/0"}),
    ],
)
def test_a_profile_with_faults_is_refused(value: dict[str, Any], pointers: set[str]):
    with pytest.raises(Unprocessable, match="profile-invalid") as caught:
        parse(value, 2026)
    assert {problem.pointer for problem in caught.value.problems} == pointers


def test_a_profile_survives_sealing():
    profile = parse({"country": "CN", "language": "zh-CN", "devices": [{"id": "d"}]}, 2026)
    assert Profile.decoded(profile.encoded()) == profile
    assert parse({}, 2026) == Profile()
