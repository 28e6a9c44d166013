"""The settings shown to people: where each value came from, and the reference page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast, get_args

from pydantic.fields import FieldInfo

from paymaster.settings.load import (
    DEFAULT_FILE,
    FILE_VARIABLE,
    PREFIX,
    Settings,
    group_model,
    leaves,
)

_MASKED = "***"


def explain(settings: Settings) -> list[tuple[str, str, str]]:
    """Every setting as `(name, value with passwords masked, where it came from)`."""
    rows: list[tuple[str, str, str]] = []
    for name, _ in leaves():
        group, field = name.split(".")
        value: object = getattr(getattr(settings, group), field)
        rows.append((name, _shown(value), settings.origin(name)))
    return rows


_HOW_READ = (
    "Each setting `group.field` is read from the environment variable "
    f"`{PREFIX}GROUP__FIELD`, else from the table `[group]` of the TOML file named by "
    f"`{FILE_VARIABLE}` (default: `{DEFAULT_FILE}` in the working directory, if there is one), "
    "else it has its default. An unknown name is refused. No secret is a setting: see "
    "[Secrets](../operate/secrets.md). `paymaster doctor` shows every value and its origin."
)


def reference() -> str:
    """The reference page, in Markdown."""
    lines = [
        "# Settings",
        "",
        "<!-- Generated from src/paymaster/settings; do not edit. -->",
        "",
        _HOW_READ,
    ]
    for group, info in Settings.model_fields.items():
        model = group_model(info)
        lines += ["", f"## {group}", "", (model.__doc__ or "").strip(), ""]
        lines += ["| Setting | Values | Default | Meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{group}.{name}` | {_values(field)} | {_default(field)} | {field.description} |"
            for name, field in model.model_fields.items()
        ]
    return "\n".join(lines) + "\n"


_URL_PASSWORD = re.compile(r"(://[^:/\s]*):\S*@")
_WORD_PASSWORD = re.compile(r"(?i)(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)")


def masked(address: str) -> str:
    """A database address without its password."""
    return _WORD_PASSWORD.sub(rf"\1{_MASKED}", _URL_PASSWORD.sub(rf"\1:{_MASKED}@", address))


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        entries = cast("dict[str, str]", value).items()
        return ", ".join(f"{key}={masked(text)}" for key, text in sorted(entries)) or "-"
    if isinstance(value, tuple):
        return ", ".join(str(part) for part in cast("tuple[object, ...]", value))
    return masked(str(value))


def _values(field: FieldInfo) -> str:
    """What may be written there: a kind, and its range."""
    kind: object = field.annotation
    if kind is int or kind is float:
        name = "whole number" if kind is int else "number"
        return f"{name} {_bound(field, 'ge')} to {_bound(field, 'le')}"
    choices = [word for word in get_args(kind) if isinstance(word, str)]
    if choices:
        return ", ".join(f"`{word}`" for word in choices)
    kinds: dict[object, str] = {
        str: "text",
        Path: "path",
        str | None: "address",
        Path | None: "path",
        dict[str, str]: "table",
    }
    return kinds.get(kind, "list")


def _default(field: FieldInfo) -> str:
    value: object = field.get_default(call_default_factory=True)
    if isinstance(value, tuple):
        return f"`{', '.join(str(part) for part in cast('tuple[object, ...]', value))}`"
    return f"`{value}`" if value not in (None, {}) else "none"


def _bound(field: FieldInfo, side: str) -> str:
    """The least (`ge`) or most (`le`) that is allowed."""
    return next((str(getattr(rule, side)) for rule in field.metadata if hasattr(rule, side)), "any")
