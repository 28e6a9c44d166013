"""Calls that others' interfaces answered wrongly: races, blanks, filters.

What each entry is and where else it is shown: docs/internals/regressions.md.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tests.served import IBAN, Served, earner, serve
from tests.world import PostgresServer, owner_rows

pytestmark = pytest.mark.asyncio(loop_scope="module")

BLANK = ["", " ", "   ", "\t", "\u00a0\u00a0\u00a0", "EU ", " EUR", "\u200bEUR"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path_factory.mktemp("served"), cells=2) as found:
        yield found


async def ask(served: Served, key: str, **body: Any) -> httpx.Response:
    return await served.api.post("/v1/withdrawals", json=body, headers={"Idempotency-Key": key})


async def test_midaz_1894_cancelled_as_soon_as_it_was_answered(served: Served) -> None:
    """What had just been answered was not found by the call after it."""
    for turn in range(5):
        name = f"quick-{turn}"
        destination = await earner(served, name)
        asked = await ask(
            served,
            name,
            user=name,
            destination=destination["id"],
            amount={"amount": "20.00", "currency": "EUR"},
        )
        assert asked.status_code == 202, asked.text
        address = f"/v1/withdrawals/{asked.json()['id']}"
        assert (await served.ok("POST", f"{address}/cancel"))["state"] == "cancelled"
        found = await served.ok("GET", f"/v1/users/{name}/balances")
        assert [one["available"]["amount"] for one in found["data"]] == ["20.00"]


async def test_formance_wallets_110_the_same_new_thing_from_many_at_once_is_one(
    served: Served,
) -> None:
    """Looked first, created then: two callers at once made two."""
    start = {"starts_at": "2026-01-01T00:00:00Z", "sponsor": "race", "currency": "EUR"}
    for method, path, body in (
        ("PUT", "/v1/users/race", {}),
        ("POST", "/v1/users/race/destinations", IBAN),
        ("PUT", "/v1/sponsors/race", {"name": "R"}),
        ("PUT", "/v1/campaigns/race", {"name": "R", **start}),
        ("PUT", "/v1/rail-accounts/race", bank("O")),
    ):
        calls = (served.api.request(method, path, json=body) for _ in range(8))
        answers = await asyncio.gather(*calls)
        assert {one.status_code for one in answers} <= {200, 201}, [a.text for a in answers]
        assert [one.status_code for one in answers].count(201) == 1, path
        assert len({one.json().get("id", one.json().get("name")) for one in answers}) == 1, path
        assert owner_rows(served.world, f"SELECT {ROWS[path]}") == [(1,)], path


async def test_formance_wallets_110_each_of_several_at_once_is_told_its_own(
    served: Served,
) -> None:
    """Who came second was told that the thing is made, and got the settings of the first."""
    holders = [f"Holder {number}" for number in range(8)]
    address = "/v1/rail-accounts/other"
    answers = await asyncio.gather(
        *(served.api.put(address, json=bank(holder)) for holder in holders)
    )
    assert [one.json()["settings"]["holder"] for one in answers] == holders
    assert sorted(one.status_code for one in answers) == [200] * 7 + [201]
    assert sorted(one.json()["version"] for one in answers) == list(range(1, 9))
    last = max(answers, key=lambda one: one.json()["version"]).json()
    (found,) = (
        one
        for one in (await served.ok("GET", "/v1/rail-accounts"))["data"]
        if one["name"] == "other"
    )
    assert found == last


def bank(holder: str) -> dict[str, Any]:
    settings = {
        "iban": "DE89370400440532013000",
        "holder": holder,
        "transport": "directory",
        "outgoing": "out",
        "incoming": "in",
    }
    return {"rail": "iso20022", "currency": "EUR", "settings": settings}


def in_cells(tables: str) -> str:
    """How many of them there are in both cells."""
    counts = (f"(SELECT count(*) FROM {tables.format(n=n)})" for n in (1, 2))
    return " + ".join(counts)


ROWS = {
    "/v1/users/race": in_cells("cell_{n}.app_user WHERE external_id = 'race'"),
    "/v1/users/race/destinations": in_cells(
        "cell_{n}.app_user u JOIN cell_{n}.destination d ON d.user_id = u.id"
        " WHERE u.external_id = 'race'"
    ),
    "/v1/sponsors/race": "count(*) FROM control.sponsor WHERE external_id = 'race'",
    "/v1/campaigns/race": "count(*) FROM control.campaign WHERE external_id = 'race'",
    "/v1/rail-accounts/race": "count(*) FROM control.rail_account WHERE name = 'race'",
}


async def test_blnk_173_a_blank_currency_is_refused_everywhere(served: Served) -> None:
    """A transaction in the currency "" or " " was taken."""
    destination = await earner(served, "blank")
    await served.ok("PUT", "/v1/sponsors/blank", {"name": "B"})
    start = {"name": "B", "starts_at": "2026-01-01T00:00:00Z", "sponsor": "blank"}
    before = assets(served)
    for number, currency in enumerate(BLANK):
        answers = [
            await ask(
                served,
                f"blank-{number}",
                user="blank",
                destination=destination["id"],
                amount={"amount": "1.00", "currency": currency},
            ),
            await served.api.post(
                "/v1/users/blank/destinations", json={**IBAN, "currency": currency}
            ),
            await served.api.put("/v1/campaigns/blank", json={**start, "currency": currency}),
            await served.api.put(
                "/v1/rail-accounts/blank",
                json={"rail": "sandbox_wallet", "currency": currency, "settings": {}},
            ),
        ]
        for answer in answers:
            assert answer.status_code in {400, 422}, (currency, answer.text)
            told = answer.json()
            fields = [one["pointer"] for one in told.get("errors", [])]
            assert told["code"] == "currency-unknown" or any(
                "currency" in field for field in fields
            ), (currency, answer.text)
    assert assets(served) == before == {"EUR"}


def assets(served: Served) -> set[str]:
    """Every currency of the books and of what may become money."""
    return {
        row[0]
        for row in owner_rows(
            served.world,
            "SELECT asset FROM account UNION SELECT asset FROM withdrawal"
            " UNION SELECT currency FROM destination UNION SELECT currency FROM control.campaign"
            " UNION SELECT currency FROM control.rail_account",
        )
    }


async def test_tigerbeetle_several_filters_give_what_matches_all_of_them(served: Served) -> None:
    """A query with several conditions left out rows that matched."""
    for number in range(6):
        served.world.clock.advance(timedelta(minutes=10))
        await served.ok("PUT", f"/v1/users/filter-{number}", {})
        await served.ok("PUT", f"/v1/sponsors/filter-{number}", {"name": "F"})
        change = {"status": ("suspended", "active")[number % 2], "reason": "asked"}
        await served.ok("PUT", "/v1/users/filter-0", change)
    everything = await acts(served)
    assert len({one["id"] for one in everything}) == len(everything) >= 18
    times = sorted({one["acted_at"] for one in everything})
    choices: dict[str, list[str]] = {
        "action": ["user.create", "sponsor.put", "user.suspended"],
        "actor": sorted({one["actor"] for one in everything}),
        "subject": [everything[0]["subject"]],
        "since": [times[len(times) // 2]],
        "until": [times[-2]],
    }
    several = 0
    for chosen in itertools.product(*([None, *values] for values in choices.values())):
        wanted = {name: v for name, v in zip(choices, chosen, strict=True) if v is not None}
        found = await acts(served, **wanted)
        assert found == [one for one in everything if matches(one, wanted)], wanted
        several += bool(found) and len(wanted) > 1
    assert several > 10, "most combinations must find something"


async def acts(served: Served, **filters: str) -> list[dict[str, Any]]:
    """All pages, small ones: a row may fall out between two of them as well."""
    rows: list[dict[str, Any]] = []
    more: dict[str, Any] = {"limit": 7}
    while True:
        page = await served.ok("GET", "/v1/audit", params={**filters, **more})
        rows += page["data"]
        if page["next_cursor"] is None:
            return rows
        more["cursor"] = page["next_cursor"]


def matches(one: dict[str, Any], wanted: dict[str, str]) -> bool:
    if not wanted.get("since", "") <= one["acted_at"] < wanted.get("until", "9"):
        return False
    return all(one[name] == wanted.get(name, one[name]) for name in ("action", "actor", "subject"))
