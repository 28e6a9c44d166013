"""A status stream over three kills of its process: nothing is lost, nothing comes twice."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import httpx
import pytest
from tests.live import Live, fund, live, people
from tests.streaming import caller, reading

from paymaster.kernel.ids import text_id

KILLS, REQUESTS = 3, 60


class Follower:
    """An app that listens, and comes back wherever it was cut off."""

    def __init__(self, made: Live, token: str) -> None:
        self.made, self.token = made, token
        self.last_id: str | None = None
        self.told: list[str] = []
        self.connected = 0
        self.listens = asyncio.Event()

    async def follow(self, until: int) -> None:
        """Until so many events were told."""
        url = f"http://127.0.0.1:{self.made.port}"
        async with caller() as http:
            while len(self.told) < until:
                await self.made.listening.wait()
                with contextlib.suppress(httpx.TransportError, StopAsyncIteration):
                    async with reading(url, self.token, last_id=self.last_id, http=http) as reader:
                        if reader.answer.status_code != 200:
                            continue
                        self.connected += 1
                        while len(self.told) < until:
                            found = await reader.next()
                            assert found.type not in ("reset", "end"), found
                            self.last_id = found.last_id
                            self.listens.set()
                            if found.type != "balances":
                                self.told.append(found.data["id"])
                await asyncio.sleep(0.02)


@pytest.mark.long
async def test_a_stream_goes_on_over_kills_of_its_process(tmp_path: Path) -> None:
    async with live(tmp_path) as (made, deps):
        who, other = await people(deps, 2)
        await fund(deps, [who, other], 100_000)
        headers = {"Authorization": f"Bearer {made.key}"}
        base = f"http://127.0.0.1:{made.port}"
        async with httpx.AsyncClient(trust_env=False, base_url=base, headers=headers) as api:
            token = (await api.post(f"/v1/users/{who.name}/tokens")).json()["token"]
            follower = Follower(made, token)
            following = asyncio.create_task(follower.follow(REQUESTS))
            await follower.listens.wait()  # a stream tells what comes after its beginning

            async def ask(number: int) -> None:
                """Until it was taken; the key keeps it from being made twice."""
                for person in (who, other):
                    body = {
                        "user": person.name, "destination": person.destination,
                        "amount": {"amount": "1.00", "currency": "EUR"},
                    }  # fmt: skip
                    key = {"Idempotency-Key": f"{person.name}-{number}"}
                    while True:
                        with contextlib.suppress(httpx.TransportError):
                            answer = await api.post("/v1/withdrawals", json=body, headers=key)
                            if answer.status_code == 202:
                                break
                        await asyncio.sleep(0.05)

            for number in range(REQUESTS):
                if number % (REQUESTS // KILLS) == REQUESTS // KILLS // 2:
                    made.kill_api()
                    made.start_api()
                    await made.ready()
                await ask(number)
            async with asyncio.timeout(60):
                await following
        mine = text_id("us", who.ref.cell, who.ref.id)
        rows = made.rows(
            "SELECT c.first_seq + o.ordinal FROM commit c JOIN outbox o ON o.commit_id = c.id"
            " WHERE o.key = %s AND o.topic LIKE 'withdrawal.%%' ORDER BY 1",
            mine,
        )
        assert follower.told == [text_id("ev", 1, int(str(row[0]))) for row in rows]
        assert follower.connected >= KILLS, "it was cut off in between"
