"""The words of letters: in both languages, escaped, and without a stranger's header."""

from __future__ import annotations

from typing import Any

import pytest
from tests.world import START

from paymaster.kernel.language import LANGUAGES
from paymaster.messages.compose_mail import Envelope, message, write
from paymaster.messages.letters import LETTERS


def sample() -> dict[str, Any]:
    """Values for every template."""
    return {
        "app": "Acme",
        "id": "wd_0100000000000ZZ",
        "amount": {"amount": "12.50", "currency": "EUR"},
        "kind": "totp",
        "currency": "EUR",
        "usable_at": "soon",
        "answer_by": "soon",
        "cooling_off_until": "soon",
        "endpoint": "we_1",
        "reason": "failing",
        "why": "The account was closed.",
        "mask": "DE89 … 3000",
        "failures": 3,
        "failing_since": "then",
        "subject": "pk_test_1a2b3c4d",
        "times": 2,
        "until": "soon",
        "what": "started",
        "role": "admin",
        "person": "pe_1",
        "by": "cli",
        "ends_at": "soon",
    }


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("topic", LETTERS)
def test_every_letter_can_be_written_in_every_language(topic: str, language: Any) -> None:
    written = write(LETTERS[topic].template, language, sample())
    assert written.subject
    assert "\n" not in written.subject
    assert len(written.paragraphs) >= 2
    assert "{" not in "".join(written.paragraphs)
    assert (language == "zh") == any("\u4e00" <= letter <= "\u9fff" for letter in written.subject)


@pytest.mark.parametrize("ending", ["\r\n", "\n", "\r", "\u2028", "\n\n", "\x0b", "\x00\n"])
def test_no_value_makes_a_header(ending: str) -> None:
    text = f"x{ending}Bcc: eve@example.com{ending}"
    written = write("locked_out", "en", {**sample(), "subject": text, "kind": text})
    made = message(written, "en", "http://x", envelope())
    raw = made.as_bytes()
    head, _, _ = raw.partition(b"\r\n\r\n")
    assert b"\nbcc:" not in head.lower()
    assert made["Bcc"] is None
    assert sorted(made.keys()) == [
        "Auto-Submitted", "Content-Language", "Content-Type", "Date", "From", "MIME-Version",
        "Message-ID", "Subject", "To",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["sender_name", "recipients", "message_id"])
def test_a_line_break_in_an_envelope_is_refused(name: str) -> None:
    bad: Any = ["a@b.example\r\nBcc: eve@example.com"]
    given = {name: bad if name == "recipients" else bad[0]}
    written = write("locked_out", "en", sample())
    with pytest.raises(ValueError):  # noqa: PT011 - the library says which
        message(written, "en", "http://x", envelope(**given)).as_bytes()


def test_times_are_written_for_people() -> None:
    values = {**sample(), "usable_at": "2026-11-21T20:11:59.414Z"}
    written = write("destination_added", "en", values)
    assert written.paragraphs[0].endswith("from 2026-11-21 20:11 UTC on.")


def test_html_is_escaped() -> None:
    written = write("locked_out", "en", {**sample(), "subject": "<script>alert(1)</script>"})
    made = message(written, "en", "http://x", envelope())
    html = made.get_body(("html",))
    assert html is not None
    assert "<script>" not in html.get_content()
    assert "&lt;script&gt;" in html.get_content()


def envelope(**given: Any) -> Envelope:
    values: dict[str, Any] = {
        "sender": "no-reply@app.example",
        "sender_name": "Acme",
        "recipients": ["anna@example.com"],
        "message_id": "ev_1",
        "date": START,
        **given,
    }
    return Envelope(**values)
