"""A rule set: rules with their parameters, as data, under one version.

{"version": 3, "rules": [
  {"id": "user-hour", "rule": "velocity", "version": 1,
   "parameters": {"scope": "user", "window_seconds": 3600, "count": 5}}]}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from paymaster.kernel.errors import Problem, Refusal
from paymaster.screen.facts import Window
from paymaster.screen.rules import KNOWN
from paymaster.screen.rules.base import Parameters, Rule

MAX_RULES = 200
_ID = re.compile(r"[a-z][a-z0-9_-]{0,39}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """One rule of a set. `id` is unique in the set; `version` is that of the rule's code."""

    id: str
    kind: str
    version: int
    parameters: Mapping[str, Any]
    rule: Rule = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules in the order in which they are asked."""

    version: int
    rules: tuple[RuleSpec, ...]

    @classmethod
    def read(cls, stored: str | bytes | Mapping[str, Any]) -> RuleSet:
        """Read and check a rule set. A rule's `id` defaults to its name, its version to the newest.

        Raises Refusal `rule-invalid` with every fault and its JSON pointer.
        """
        document = _document(stored)
        problems = [
            Problem(f"/{name}", "A rule set has only version and rules.")
            for name in document
            if name not in ("version", "rules")
        ]
        version, listed = document.get("version"), document.get("rules")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            problems.append(Problem("/version", "Give a whole number from 1."))
            version = 1
        if not isinstance(listed, list) or len(cast("list[object]", listed)) > MAX_RULES:
            problems.append(Problem("/rules", f"Give a list of at most {MAX_RULES} rules."))
            listed = []
        rules: list[RuleSpec] = []
        for index, entry in enumerate(cast("list[object]", listed)):
            spec = _spec(entry, f"/rules/{index}", problems)
            if spec is None:
                continue
            if any(spec.id == other.id for other in rules):
                problems.append(Problem(f"/rules/{index}/id", "Another rule has this id."))
            rules.append(spec)
        if problems:
            raise Refusal("rule-invalid", "The rule set is not valid.", problems=problems)
        return cls(version, tuple(rules))

    def data(self) -> dict[str, Any]:
        """The set as data, with every id and version written out; `read` takes it back."""
        return {
            "version": self.version,
            "rules": [
                {
                    "id": spec.id,
                    "rule": spec.kind,
                    "version": spec.version,
                    "parameters": dict(spec.parameters),
                }
                for spec in self.rules
            ],
        }

    def canonical(self) -> bytes:
        """The one way to write it as JSON: sorted names, no spaces."""
        return msgspec.json.encode(self.data(), order="sorted")

    def windows(self) -> frozenset[Window]:
        """Every window that has to be measured before the set can judge."""
        needed: frozenset[Window] = frozenset()
        return needed.union(*(spec.rule.windows() for spec in self.rules))


def _document(stored: str | bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(stored, Mapping):
        return stored
    try:
        document: object = json.loads(stored)
    except ValueError:
        raise Refusal("rule-invalid", "The rule set is not JSON.") from None
    if not isinstance(document, dict):
        raise Refusal("rule-invalid", "The rule set is not a JSON object.")
    return cast("dict[str, Any]", document)


def _spec(entry: object, pointer: str, problems: list[Problem]) -> RuleSpec | None:
    """One rule; None when so little is right that its parameters cannot be read."""
    if not isinstance(entry, Mapping):
        problems.append(Problem(pointer, "Give an object with rule and parameters."))
        return None
    given = cast("Mapping[str, Any]", entry)
    problems.extend(
        Problem(f"{pointer}/{name}", "A rule has only id, rule, version and parameters.")
        for name in given
        if name not in ("id", "rule", "version", "parameters")
    )
    kind = given.get("rule")
    versions = KNOWN.get(kind) if isinstance(kind, str) else None
    if not isinstance(kind, str) or versions is None:
        problems.append(Problem(f"{pointer}/rule", f"Give one of {', '.join(KNOWN)}."))
        return None
    version = given.get("version", max(versions))
    if not isinstance(version, int) or version not in versions or isinstance(version, bool):
        problems.append(Problem(f"{pointer}/version", f"{kind} has no such version."))
        return None
    rule_id, parameters = given.get("id", kind), given.get("parameters", {})
    if not isinstance(rule_id, str) or _ID.match(rule_id) is None:
        problems.append(
            Problem(f"{pointer}/id", "Use at most 40 of a-z, 0-9, - and _, a letter first.")
        )
        return None
    if not isinstance(parameters, Mapping):
        problems.append(Problem(f"{pointer}/parameters", "Give an object."))
        return None
    read = cast("Mapping[str, Any]", parameters)
    reader = Parameters(read, f"{pointer}/parameters", problems)
    rule = versions[version].read(reader)
    reader.finish()
    return RuleSpec(rule_id, kind, version, read, rule)
