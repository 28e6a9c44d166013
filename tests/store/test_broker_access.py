"""To which broker we speak: certificates on both sides, secrets that are never told."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.brokers import Nats, authority
from tests.publishing import SECRETS, in_stream
from tests.served import make_settings, serve
from tests.world import PostgresServer

from paymaster.db import outbox
from paymaster.db.outbox import Message
from paymaster.kernel.errors import Busy, PaymasterError
from paymaster.messages.broker.link import Access, open_wire
from paymaster.roles.health import health_app
from paymaster.roles.publish import Publish
from paymaster.settings import Broker, Peers


def settings(server: Nats, **more: Any) -> Broker:
    return Broker(urls=(server.url,), timeout_seconds=1, **more)


def _tls(folder: Path) -> str:
    return (
        f'tls {{ cert_file: "{folder}/broker.pem", key_file: "{folder}/broker-key.pem",'
        f' ca_file: "{folder}/ca.pem", verify: true }}'
    )


async def test_certificates_on_both_sides(tmp_path: Path) -> None:
    ours, theirs = authority(tmp_path / "ours"), authority(tmp_path / "theirs")
    own = Nats(tmp_path, _tls(ours), scheme="tls")
    own.start()
    given = settings(own)
    try:
        mine = Peers(
            ca=ours / "ca.pem",
            certificate=ours / "{role}.pem",
            key=ours / "{role}-key.pem",
        )
        wire = await open_wire(Access(given, mine, SECRETS.__getitem__))
        await wire.close()
        # A certificate of another authority, none at all, and a server of another authority.
        foreign = given.model_copy(
            update={
                "ca": ours / "ca.pem",
                "certificate": theirs / "notify.pem",
                "key": theirs / "notify-key.pem",
            }
        )
        nobody = given.model_copy(update={"ca": ours / "ca.pem"})
        elsewhere = given.model_copy(update={"ca": theirs / "ca.pem"})
        for one, peers in ((foreign, Peers()), (nobody, Peers()), (elsewhere, mine)):
            with pytest.raises(Busy, match="No connection to NATS"):
                await open_wire(Access(one, peers, SECRETS.__getitem__))
    finally:
        own.kill()


async def test_no_password_and_no_event_goes_where_tls_was_taken_away(tmp_path: Path) -> None:
    """As by somebody between, who answers in the server's place and offers none."""
    given: list[str] = []

    def secret(name: str) -> str:
        given.append(name)
        return "x"

    own = Nats(tmp_path)
    own.start()
    plain = own.url.replace("nats://", "tls://")
    logins: list[dict[str, Any]] = [
        {"login": "password", "username": "pay"},
        {"login": "token"},
        {},
    ]
    for login in logins:
        wanted = Broker(urls=(plain,), **login)
        with pytest.raises(Busy, match="SecureConnWanted"):
            await open_wire(Access(wanted, Peers(ca=None), secret))
    own.kill()
    assert given == []


async def test_a_password_is_needed_and_never_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    password = SECRETS["broker-password"]
    own = Nats(tmp_path, f'authorization {{ user: "pay", password: "{password}" }}')
    own.start()
    try:
        with_it = settings(own, login="password", username="pay")
        await (await open_wire(Access(with_it, Peers(), SECRETS.__getitem__))).close()
        for wrong in (
            Access(settings(own), Peers(), SECRETS.__getitem__),
            Access(with_it, Peers(), lambda _: password + "x"),
        ):
            with pytest.raises(Busy) as refused:
                await open_wire(wrong)
            assert password not in str(refused.value)
        assert password not in caplog.text
    finally:
        own.kill()


async def test_the_role_publishes_what_happens_and_says_how_it_goes(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    own = Nats(tmp_path)
    own.start()
    given = {"urls": (own.url,), "begin": "beginning"}
    async with serve(postgres, tmp_path / "data", broker=given) as served:
        made = Publish(served.deps)
        assert made.info() == {}
        said = Message("user.active", "us_010000000000001", {"user": "us_010000000000001"})
        await served.world.run(lambda tx: outbox.put(tx, [said]))
        lanes = {lane.name: lane for lane in made.lanes()}
        assert list(lanes) == ["broker:control", "broker:1", "broker-gauges"]
        for lane in lanes.values():
            while await lane.step():
                continue
        app = health_app(served.deps, "notify", list(lanes.values()), made.info)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://role") as client:
            shown = (await client.get("/readyz")).json()
        lag = {"control": 0.0, "1": 0.0}
        assert shown["status"] == "ok"
        assert shown["broker"] == {
            "connected": True, "fault": None, "lag_seconds": lag,
            "laid_aside": dict.fromkeys(lag, 0),
        }  # fmt: skip
        assert len(await in_stream(own.url, Broker())) == 1
        for ending in made.endings():
            await ending()
        quiet = Publish(replace(served.deps, settings=make_settings(tmp_path / "data")))
        assert quiet.lanes() == []
    own.kill()


async def test_without_the_libraries_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "faststream.nats", None)
    monkeypatch.delitem(sys.modules, "paymaster.messages.broker.nats", raising=False)
    with pytest.raises(PaymasterError, match=r"brokers-missing.*paymaster\[brokers\]"):
        await open_wire(
            Access(Broker(urls=("nats://127.0.0.1:4222",)), Peers(), SECRETS.__getitem__)
        )
