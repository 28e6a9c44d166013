"""How a letter looks: a text part and an HTML part from one template, in the reader's language.

A template is plain text; its first line is the subject, blank lines part paragraphs. The HTML part
is made of the same paragraphs, escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from paymaster.kernel.language import TAGS, Language

_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d):[\d.]+Z")
"""How an event writes a time."""


@dataclass(frozen=True, slots=True)
class Written:
    """The words of a letter."""

    subject: str
    paragraphs: Sequence[str]


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who writes to whom under which id. `message_id` is the same at every try.

    `test`: it is about a test environment, and the subject says so.
    """

    sender: str
    sender_name: str
    recipients: Sequence[str] = field(repr=False)
    message_id: str
    date: datetime
    test: bool = False


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("paymaster.messages", "templates"),
        autoescape=select_autoescape(("html",), ("txt",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write(template: str, language: Language, values: Mapping[str, Any]) -> Written:
    """Fill in a template. Line breaks in values become spaces: they cannot begin a paragraph.

    Times are written as people read them, to the minute.
    """
    plain = {name: _readable(value) for name, value in values.items()}
    text = _environment().get_template(f"{language}/{template}.txt").render(plain)
    subject, _, rest = text.partition("\n")
    paragraphs = [" ".join(part.split()) for part in rest.split("\n\n")]
    return Written(" ".join(subject.split()), [part for part in paragraphs if part])


def _readable(value: object) -> object:
    if not isinstance(value, str):
        return value
    moment = _MOMENT.fullmatch(value)
    return f"{moment[1]} {moment[2]} UTC" if moment else " ".join(value.split())


def message(written: Written, language: Language, link: str, envelope: Envelope) -> EmailMessage:
    """The letter, ready to be sent. Raises ValueError for what cannot stand in a header."""
    made = EmailMessage(policy=SMTP)
    made["From"] = Address(envelope.sender_name, addr_spec=envelope.sender)
    made["To"] = [Address(addr_spec=one) for one in envelope.recipients]
    made["Subject"] = f"[test] {written.subject}" if envelope.test else written.subject
    made["Date"] = format_datetime(envelope.date)
    made["Message-ID"] = f"<{envelope.message_id}@{envelope.sender.rpartition('@')[2]}>"
    made["Auto-Submitted"] = "auto-generated"
    made.set_content("\n\n".join([*written.paragraphs, link]) + "\n")
    page = _environment().get_template("layout.html")
    html = page.render(
        subject=written.subject,
        paragraphs=written.paragraphs,
        link=link,
        language=TAGS[language],
        sender=envelope.sender_name,
    )
    made.add_alternative(html, subtype="html")
    made["Content-Language"] = TAGS[language]
    return made
