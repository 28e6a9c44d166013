"""Break-glass: more than one's role for minutes, told to everybody, and over by itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.served import Served, serve
from tests.staffing import browser, cookie_for, invite
from tests.world import PostgresServer, owner_rows

from paymaster.people import staff
from paymaster.people.staff_roles import Role
from paymaster.roles import staffing

GLASS = {"reason": "the bank calls", "minutes": 30}


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path) as found:
        yield found


async def test_a_lent_role_is_loud_and_ends_by_itself(served: Served) -> None:
    boss = await invite(served, "boss", Role.ADMIN)
    anna = await invite(served, "anna", Role.SUPPORT)
    name = staff.person_text(anna)
    async with (
        browser(served, await cookie_for(served, boss)) as admin,
        browser(served, await cookie_for(served, anna)) as api,
    ):
        assert (await api.post("/v1/proofs")).status_code == 403
        with capture_logs() as logs:
            made = await admin.post(f"/v1/staff/{name}/break-glass", json=GLASS)
        assert made.status_code == 201, made.text
        [lent] = made.json()["break_glass"]
        assert (lent["role"], lent["reason"]) == ("admin", "the bank calls")
        loud = [one for one in logs if one["log_level"] == "error"]
        assert [(one["event"], one["person"], one["what"]) for one in loud] == [
            ("break_glass", name, "started")
        ]
        again = await admin.post(f"/v1/staff/{name}/break-glass", json=GLASS)
        assert again.json()["code"] == "break-glass-open"
        me = (await api.get("/v1/me")).json()
        assert (me["role"], me["break_glass"]) == ("support", ["admin"])
        assert "staff" not in me["scopes"]
        path = f"/v1/staff/{name}/role"
        for_good = await api.post(path, json={"role": "admin", "reason": "while I can"})
        assert (for_good.status_code, for_good.json()["code"]) == (403, "scope-missing")
        assert (await api.post("/v1/keys", json={"name": "x"})).status_code == 403
        assert (await api.post("/v1/proofs")).status_code == 200
        shown = (await api.get("/v1/staff")).json()["data"]
        assert [len(one["break_glass"]) for one in shown] == [0, 1]
        await staffing.measure(served.deps)
        text = (await api.get("/metrics")).text
        assert 'paymaster_break_glass_active{environment="acme/test"} 1.0' in text
        assert await staffing.end_due(served.deps) == 0
        served.world.clock.advance(timedelta(minutes=15))
        assert (await api.get("/v1/me")).is_success
        served.world.clock.advance(timedelta(minutes=15))
        # Over before anybody noted it.
        assert (await api.post("/v1/proofs")).status_code == 403
        assert (await api.get("/v1/me")).json()["break_glass"] == []
        with capture_logs() as logs:
            assert await staffing.end_due(served.deps) == 1
        assert [one["what"] for one in logs if one["log_level"] == "error"] == ["ended"]
        assert await staffing.end_due(served.deps) == 0
        await staffing.measure(served.deps)
        text = (await api.get("/metrics")).text
        assert 'paymaster_break_glass_active{environment="acme/test"} 0.0' in text
    acts = owner_rows(
        served.world,
        "SELECT action, subject, reason, actor FROM control.audit"
        " WHERE action LIKE 'break_glass.%%' ORDER BY commit_id",
    )
    by = f"person:{staff.person_text(boss)}"
    assert acts == [
        ("break_glass.started", name, "the bank calls", by),
        ("break_glass.ended", name, "the bank calls", "role:relay"),
    ]
    events = owner_rows(
        served.world,
        "SELECT payload FROM control.outbox WHERE topic = 'security.break_glass'"
        " ORDER BY commit_id",
    )
    assert [one[0]["what"] for one in events] == ["started", "ended"]
    assert events[0][0]["environment_id"] == 1
    assert "example.test" not in json.dumps([one[0] for one in events])


async def test_what_cannot_be_lent(served: Served) -> None:
    boss = await invite(served, "boss", Role.ADMIN)
    anna = await invite(served, "anna", Role.SUPPORT)
    path = f"/v1/staff/{staff.person_text(anna)}"
    async with browser(served, await cookie_for(served, boss)) as admin:
        too_long = await admin.post(f"{path}/break-glass", json={**GLASS, "minutes": 241})
        assert too_long.json()["code"] == "break-glass-minutes"
        blank = await admin.post(f"{path}/break-glass", json={**GLASS, "reason": " "})
        assert blank.json()["code"] == "reason-missing"
        stranger = "/v1/staff/pe_0000000000000ZZ/break-glass"
        assert (await admin.post(stranger, json=GLASS)).json()["code"] == "person-unknown"
        assert (await admin.post(f"{path}/break-glass", json=GLASS)).is_success
        assert (await admin.post(f"{path}/disable", json={"reason": "enough"})).is_success
        refused = await admin.post(f"{path}/break-glass", json={**GLASS, "role": "risk"})
        assert refused.json()["code"] == "person-without-role"
    open_ones = owner_rows(
        served.world, "SELECT count(*) FROM control.break_glass WHERE ended_at IS NULL"
    )
    assert open_ones == [(0,)], "disabling ends what was lent"
