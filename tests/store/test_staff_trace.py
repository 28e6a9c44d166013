"""Whatever a person changes is in the audit trail, by the route table: who, from where, and why."""

from __future__ import annotations

from pathlib import Path

from tests.served import serve
from tests.staffing import browser, cookie_for, invite
from tests.walking import ROUTES, Walked, asked, furnish, resolved
from tests.world import PostgresServer, owner_rows

from paymaster.people.staff import person_text
from paymaster.people.staff_roles import Role

ACTS = """
    SELECT action, origin, reason FROM control.audit WHERE actor = %s
    UNION ALL SELECT action, origin, reason FROM cell_1.audit WHERE actor = %s
"""
LEFT_OUT = {
    "POST /oauth/token",
    "POST /v1/days/{day}/close",
    "POST /v1/proofs",
    "POST /v1/approvals/{approval}/approve",
}
"""The first asks for nobody but its body; for the others what is planted here is no real row."""


async def test_every_route_that_changes_something_names_the_person(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    networks = {"allowed_networks": ["127.0.0.0/8"]}
    async with serve(postgres, tmp_path, webhooks=networks) as served:
        names = (await furnish(served)).real
        number = await invite(served, "anna", Role.ADMIN)
        actor = f"person:{person_text(number)}"
        done: list[str] = []
        async with browser(served, await cookie_for(served, number)) as api:
            api.headers["X-Reason"] = "walked"
            for route in ROUTES:
                if route.method == "GET" or str(route) in LEFT_OUT:
                    continue
                before = owner_rows(served.world, ACTS, actor, actor)
                request = asked(route, names, {"reason": "walked"} if _reasoned(route) else None)
                answer = await api.request(route.method, request.path, **request.parts())
                assert answer.status_code < 500, (str(route), answer.text)
                after = owner_rows(served.world, ACTS, actor, actor)
                if answer.is_success:
                    done.append(str(route))
                    assert len(after) > len(before), f"{route} left no act"
                else:
                    assert len(after) == len(before), f"{route} was refused, and left an act"
            rows = owner_rows(served.world, ACTS, actor, actor)
        assert len(done) > 20, done
        assert {origin for _, origin, _ in rows} == {"192.0.2.7"}
        # Where the reason is part of the address it has words of its own until others are given;
        # what a closed destination takes with it says so.
        ours = {"walked", "asked for", "destination-closed"}
        assert {reason for _, _, reason in rows} == ours


def _reasoned(route: Walked) -> bool:
    """Whether the body of a route takes a reason."""
    said = route.operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = resolved(said.get("schema", {}))
    for choice in (schema, *(resolved(one) for one in schema.get("anyOf", ()))):
        if "reason" in choice.get("properties", {}):
            return True
    return False
