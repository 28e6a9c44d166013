"""A test clock that is put forward by months, and what waited to be told before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.mailing import Mailbox, smtp
from tests.messaging import Desk, Receiver, desk
from tests.store.test_mail import earner, paid, rows, settings, write_all
from tests.world import START, PostgresServer

from paymaster.kernel.clock import rfc3339


@pytest.fixture
async def box() -> AsyncIterator[Mailbox]:
    async with smtp() as made:
        yield made


async def forward(office: Desk, days: int) -> None:
    to = rfc3339(START + timedelta(days=days))
    await office.served.ok("PUT", "/v1/test-clock", {"to": to})


async def forget(office: Desk) -> None:
    for place in office.notify._places:
        while await office.notify._forget(place):
            pass


async def test_what_waits_for_a_receiver_is_not_forgotten(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    receiver = Receiver(status=lambda _: 503)
    async with receiver.answering.running(), desk(postgres, tmp_path) as office:
        view = await office.endpoint(receiver.url)
        await office.says(3)
        await office.settle()
        await forward(office, 40)
        await forget(office)
        assert await office.states(view) == {"waiting": 3}
        receiver.status = lambda _: 200
        await office.settle()
        assert await office.states(view) == {"delivered": 3}


async def test_an_event_of_before_is_still_told_by_letter(
    postgres: PostgresServer, tmp_path: Path, box: Mailbox
) -> None:
    async with desk(postgres, tmp_path, email=settings(box)) as office:
        await paid(office, await earner(office))
        await forward(office, 40)
        await write_all(office)
        assert [state for _, state, *_ in await rows(office)] == ["sent"]
        assert len(box.letters) == 1


async def test_events_of_before_are_still_listed(postgres: PostgresServer, tmp_path: Path) -> None:
    async with desk(postgres, tmp_path) as office:
        await office.says(3)
        await forward(office, 40)
        shown = await office.served.ok("GET", "/v1/webhook-events?types=user.active")
        assert len(shown["data"]) == 3
