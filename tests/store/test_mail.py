"""Letters: to whom, in which language, once, encrypted, and never with a stranger's header."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.mailing import Mailbox, smtp
from tests.messaging import Desk, desk
from tests.tls import certificate
from tests.world import PostgresServer

from paymaster.db.outbox import Message, put
from paymaster.messages.letters import LETTERS

ADDRESS = "anna@example.com"


@pytest.fixture
async def box() -> AsyncIterator[Mailbox]:
    async with smtp() as made:
        yield made


def settings(box: Mailbox, **more: Any) -> dict[str, Any]:
    return {
        "host": "127.0.0.1",
        "port": box.port,
        "security": "none",
        "sender": "no-reply@app.example",
        "sender_name": "Acme",
        "operators": ("ops@app.example", "duty@app.example"),
        **more,
    }


async def earner(office: Desk, **profile: Any) -> str:
    """A user with a profile; the text id."""
    made = await office.served.ok(
        "PUT", "/v1/users/anna", {"profile": {"email": ADDRESS, **profile}}
    )
    return str(made["id"])


async def paid(office: Desk, user: str, topic: str = "withdrawal.paid") -> None:
    payload = {
        "id": "wd_0100000000000ZZ",
        "user": user,
        "amount": {"amount": "12.50", "currency": "EUR"},
        "kind": "iban",
        "currency": "EUR",
        "usable_at": "2026-11-21T09:00:00.000Z",
        "factor": "fa_x",
        "cooling_off_until": "2026-11-21T09:00:00.000Z",
    }
    await office.served.world.run(lambda tx: put(tx, [Message(topic, user, payload)]))


async def write_all(office: Desk) -> None:
    await office.fan_out()
    for one in office.notify.mailers.values():
        while await one.step():
            pass


async def rows(office: Desk) -> list[tuple[Any, ...]]:
    return await office.served.world.read(
        lambda tx: tx.tuples("SELECT template, state, outcome, tries FROM mail ORDER BY seq")
    )


@pytest.mark.parametrize(
    ("language", "words"), [("de", "was paid"), ("zh-CN", "提现"), (None, "was paid")]
)
async def test_the_earner_reads_it_in_a_language_of_theirs(
    postgres: PostgresServer, tmp_path: Path, box: Mailbox, language: str | None, words: str
) -> None:
    async with desk(postgres, tmp_path, email=settings(box)) as office:
        user = await earner(office, **({"language": language} if language else {}))
        await paid(office, user)
        await write_all(office)
        [letter] = box.letters
        assert box.recipients == [[ADDRESS]]
        assert letter["Message-ID"].startswith("<ev_01")
        assert letter["Subject"].startswith("[test] ")
        assert letter["Auto-Submitted"] == "auto-generated"
        text, html = (letter.get_body((kind,)) for kind in ("plain", "html"))
        assert text is not None
        assert html is not None
        for part in (text, html):
            content = part.get_content()
            assert words in content
            assert "12.50" in content
            assert "http://127.0.0.1:8080" in content
        assert await rows(office) == [("withdrawal_paid", "sent", "sent", 1)]


async def test_each_event_makes_one_letter_however_often_it_is_fanned_out(
    postgres: PostgresServer, tmp_path: Path, box: Mailbox
) -> None:
    async with desk(postgres, tmp_path, email=settings(box)) as office:
        await paid(office, await earner(office))
        await office.fan_out()
        other = office.again()
        await write_all(office)
        await other.fan_outs["1"].step()
        await write_all(office)
        await other.close()
        assert len(box.letters) == 1


async def test_unknown_after_sending_goes_again_under_the_same_id(
    postgres: PostgresServer, tmp_path: Path, box: Mailbox
) -> None:
    async with desk(postgres, tmp_path, email=settings(box)) as office:
        await paid(office, await earner(office))
        await office.fan_out()
        mailer = office.notify.mailers["1"]

        async def die(*_: object) -> None:
            raise SystemExit

        mailer._end = die  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(SystemExit):
            await mailer.step()
        other = office.again()
        assert await other.mailers["1"].step() == 0
        office.served.world.clock.advance(timedelta(minutes=5))
        assert await other.mailers["1"].step() == 1
        await other.close()
        first, second = box.letters
        assert first["Message-ID"] == second["Message-ID"]
        assert await rows(office) == [("withdrawal_paid", "sent", "sent", 2)]


@pytest.mark.parametrize(
    ("profile", "topic", "outcome"),
    [
        ({"email": None}, "withdrawal.paid", "no-address"),
        ({"email_notices": False}, "withdrawal.paid", "not-wanted"),
        ({"email_notices": False}, "destination.added", "sent"),
        ({"email_notices": False}, "security.factor_removed", "sent"),
    ],
)
async def test_who_wants_no_letters_gets_those_about_security_only(
    postgres: PostgresServer,
    tmp_path: Path,
    box: Mailbox,
    profile: dict[str, Any],
    topic: str,
    outcome: str,
) -> None:
    async with desk(postgres, tmp_path, email=settings(box)) as office:
        await paid(office, await earner(office, **profile), topic)
        await write_all(office)
        assert [row[2] for row in await rows(office)] == [outcome]
        assert len(box.letters) == (outcome == "sent")


@pytest.mark.parametrize(
    ("wanted", "topics"),
    [("all", ["withdrawal.paid", "destination.added"]), ("security", ["destination.added"]),
     ("none", [])],
)  # fmt: skip
async def test_the_operator_says_which_letters_there_are(
    postgres: PostgresServer, tmp_path: Path, box: Mailbox, wanted: str, topics: list[str]
) -> None:
    async with desk(postgres, tmp_path, email=settings(box, earner_notices=wanted)) as office:
        user = await earner(office)
        await paid(office, user)
        await paid(office, user, "destination.added")
        await write_all(office)
        expected = [LETTERS[topic].template for topic in topics]
        assert [row[0] for row in await rows(office)] == expected


async def test_operators_are_told_of_a_disabled_endpoint(
    postgres: PostgresServer, tmp_path: Path, box: Mailbox
) -> None:
    async with desk(postgres, tmp_path, email=settings(box)) as office:
        view = await office.endpoint("http://127.0.0.1:9/")
        path = f"/v1/webhook-endpoints/{view.id}/disable"
        await office.served.ok("POST", path, {})
        await write_all(office)
        [letter] = box.letters
        assert box.recipients == [["ops@app.example", "duty@app.example"]]
        assert view.id in letter["Subject"]
        assert letter["Message-ID"].startswith("<ec_01")


@pytest.mark.parametrize(
    ("rejects", "answer", "state", "outcome"),
    [
        ("550 no such mailbox", "250 OK", "failed", "refused-550"),
        ("451 later", "250 OK", "waiting", "SMTPRecipientsRefused"),
        (None, "554 no", "failed", "refused-554"),
        (None, "421 later", "waiting", "SMTPDataError"),
    ],
)
async def test_a_definite_no_ends_it_and_all_else_is_tried_again(
    postgres: PostgresServer,
    tmp_path: Path,
    box: Mailbox,
    rejects: str | None,
    answer: str,
    state: str,
    outcome: str,
) -> None:
    box.rejects, box.answer = rejects, answer
    async with desk(postgres, tmp_path, email=settings(box)) as office:
        await paid(office, await earner(office))
        await write_all(office)
        assert [row[1:3] for row in await rows(office)] == [(state, outcome)]


async def test_no_server_there_and_given_up_in_the_end(
    postgres: PostgresServer, tmp_path: Path, box: Mailbox
) -> None:
    nobody = settings(box, port=1)
    async with desk(postgres, tmp_path, email=nobody) as office:
        await paid(office, await earner(office))
        for _ in range(8):
            await write_all(office)
            office.served.world.clock.advance(timedelta(hours=14))
        assert await rows(office) == [("withdrawal_paid", "failed", "SMTPConnectError", 7)]


async def test_a_letter_that_cannot_be_written_stops_no_other(
    postgres: PostgresServer, tmp_path: Path, box: Mailbox
) -> None:
    async with desk(postgres, tmp_path, email=settings(box)) as office:
        user = await earner(office)
        broken = Message("withdrawal.paid", user, {"user": user})
        nobodys = Message("withdrawal.paid", "cp_0100000000000ZZ", {})
        await office.served.world.run(lambda tx: put(tx, [broken, nobodys]))
        await paid(office, user)
        await write_all(office)
        assert [row[1:3] for row in await rows(office)] == [
            ("waiting", "our-fault"),
            ("sent", "sent"),
        ]


async def test_starttls_with_login(postgres: PostgresServer, tmp_path: Path) -> None:
    public, private = certificate(tmp_path, "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    async with smtp(context, login=True) as box:
        wanted = settings(box, security="starttls", username="paymaster", authorities=public)
        async with desk(postgres, tmp_path / "data", email=wanted) as office:
            secret = office.served.deps.settings.database.data_dir / "secrets" / "smtp-password"
            secret.write_text("made up for the test")
            secret.chmod(0o600)
            await paid(office, await earner(office))
            await write_all(office)
    assert box.encrypted == [True]
    assert box.logins == [b"made up for the test"]


async def test_a_server_without_encryption_gets_nothing(
    postgres: PostgresServer, tmp_path: Path, box: Mailbox
) -> None:
    wanted = settings(box, security="starttls")
    async with desk(postgres, tmp_path, email=wanted) as office:
        await paid(office, await earner(office))
        await write_all(office)
        assert box.letters == []
        assert [row[1] for row in await rows(office)] == ["waiting"]


async def test_old_events_make_no_letters(
    postgres: PostgresServer, tmp_path: Path, box: Mailbox
) -> None:
    async with desk(postgres, tmp_path, email=settings(box)) as office:
        await paid(office, await earner(office))
        office.served.world.clock.advance(timedelta(days=2))
        await write_all(office)
        assert await rows(office) == []


async def test_the_address_is_in_no_log_and_in_no_table(
    postgres: PostgresServer,
    tmp_path: Path,
    box: Mailbox,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    box.rejects = f"550 <{ADDRESS}> is not known here"
    caplog.set_level(logging.DEBUG)
    async with desk(postgres, tmp_path, email=settings(box)) as office:
        await paid(office, await earner(office))
        await write_all(office)
        assert [row[1] for row in await rows(office)] == ["failed"]
        kept = await office.served.world.read(
            lambda tx: tx.tuples(
                "SELECT m::text FROM mail m UNION ALL SELECT o::text FROM outbox o"
            )
        )
    said = capsys.readouterr()
    # The server of the test logs what it hears; that is not ours.
    ours = [one.getMessage() for one in caplog.records if one.name != "mail.log"]
    assert ADDRESS not in f"{kept}{ours}{said.out}{said.err}"


@pytest.mark.parametrize(
    "text",
    ["", "anna", "a@b@c", "anna@example.com\r\nBcc: eve@example.com", "anna <a@b.example>",
     "a b@c.example", "ä@example.com", "a" * 65 + "@example.com", '"a b"@example.com', "a@b\x00c"],
)  # fmt: skip
async def test_addresses_that_are_none_are_refused(
    postgres: PostgresServer, tmp_path: Path, text: str
) -> None:
    async with desk(postgres, tmp_path) as office:
        body = {"profile": {"email": text}}
        answer = await office.served.api.put("/v1/users/anna", json=body)
        assert answer.status_code in (400, 422)


@pytest.mark.parametrize(
    ("topic", "template"),
    [("destination.paused", "destination_paused"), ("withdrawal.failed", "withdrawal_failed")],
)
async def test_a_letter_about_a_failure_says_what_to_do(
    postgres: PostgresServer, tmp_path: Path, box: Mailbox, topic: str, template: str
) -> None:
    async with desk(postgres, tmp_path, email=settings(box)) as office:
        user = await earner(office, language="zh")
        payload = {
            "id": "wd_0100000000000ZZ",
            "user": user,
            "amount": {"amount": "12.50", "currency": "EUR"},
            "kind": "iban",
            "currency": "EUR",
            "failures": 3,
            "reason": "AG01",
            "code": "AG01",
        }
        await office.served.world.run(lambda tx: put(tx, [Message(topic, user, payload)]))
        await write_all(office)
        [letter] = box.letters
        text = letter.get_body(("plain",))
        assert text is not None
        assert "此类账户无法收款。请添加其他收款账户后重新提现。" in text.get_content()
        assert await rows(office) == [(template, "sent", "sent", 1)]
