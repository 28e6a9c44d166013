"""The reference page of all types of events, in Markdown."""

from __future__ import annotations

from paymaster.messages.catalogue import GROUPS, TYPES, EventType, Field

_INTRO = """# Types of events

<!-- Generated from src/paymaster/messages/catalogue.py; do not edit. -->

What subscribers are told: how to subscribe and what arrives is in
[Webhooks](../integrate/webhooks.md), or [from a message broker](../operate/broker.md).
`GET /v1/webhook-event-types` answers the same as data.

Payloads hold ids, states, amounts and times, nothing personal. Types and fields are added; none is
taken away or changes its meaning. Ignore what you do not know.

Ids are text. A money is `{"amount": "12.50", "currency": "EUR"}`, a time RFC 3339 in UTC, a day
`2026-01-31`. A field with `?` may be null.
"""


def reference() -> str:
    """The page."""
    lines = [_INTRO]
    for group in GROUPS:
        types = [one for one in TYPES.values() if one.group == group]
        lines += [f"## {group}", "", "| Type | When |", "|---|---|"]
        lines += [f"| `{one.name}` | {one.meaning} |" for one in types]
        for fields, names in _by_fields(types):
            whose = "" if len(names) == len(types) else f" of {', '.join(names)}"
            lines += ["", f"Fields{whose}:", "", "| Field | Kind | Meaning |", "|---|---|---|"]
            lines += [
                f"| `{one.name}` | {one.kind}{'?' if one.maybe else ''} | {one.meaning} |"
                for one in fields
            ]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _by_fields(types: list[EventType]) -> list[tuple[tuple[Field, ...], list[str]]]:
    """The different payloads of a group, and which types have them."""
    found: dict[tuple[Field, ...], list[str]] = {}
    for one in types:
        found.setdefault(one.fields, []).append(f"`{one.name}`")
    return list(found.items())
