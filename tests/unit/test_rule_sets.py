from typing import Any

import pytest

from paymaster.kernel.errors import Refusal
from paymaster.screen import RuleSet


@pytest.mark.parametrize(
    ("entry", "pointers"),
    [
        ("minimum", ["/rules/0"]),
        ({}, ["/rules/0/rule"]),
        ({"rule": "magic"}, ["/rules/0/rule"]),
        ({"rule": "minimum", "version": 99}, ["/rules/0/version"]),
        ({"rule": "minimum", "version": True}, ["/rules/0/version"]),
        ({"rule": "standing", "extra": 1}, ["/rules/0/extra"]),
        ({"rule": "standing", "id": "No Id"}, ["/rules/0/id"]),
        ({"rule": "standing", "parameters": []}, ["/rules/0/parameters"]),
        ({"rule": "standing", "parameters": {"a/b": 1}}, ["/rules/0/parameters/a~1b"]),
        ({"rule": "minimum"}, ["/rules/0/parameters/amounts"]),
        (
            {"rule": "minimum", "parameters": {"amounts": {"EUR": 5, "XXZ": "1", "USD": "1.234"}}},
            [
                "/rules/0/parameters/amounts/EUR",
                "/rules/0/parameters/amounts/XXZ",
                "/rules/0/parameters/amounts/USD",
            ],
        ),
        (
            {"rule": "minimum", "parameters": {"amounts": {"EUR": "-1", "*": "1.5"}}},
            ["/rules/0/parameters/amounts/EUR", "/rules/0/parameters/amounts/*"],
        ),
        (
            {"rule": "maximum", "parameters": {"amounts": [], "levels": {"gold": {"EUR": "1"}}}},
            ["/rules/0/parameters/amounts", "/rules/0/parameters/levels/gold"],
        ),
        (
            {"rule": "maximum", "parameters": {"amounts": {"EUR": "1"}, "outcome": "approved"}},
            ["/rules/0/parameters/outcome"],
        ),
        ({"rule": "daily_limit"}, ["/rules/0/parameters"]),
        ({"rule": "daily_limit", "parameters": {"count": 1.0}}, ["/rules/0/parameters/count"]),
        ({"rule": "daily_limit", "parameters": {"cuont": 1}},
         ["/rules/0/parameters", "/rules/0/parameters/cuont"]),
        (
            {"rule": "velocity", "parameters": {"scope": "moon", "window_seconds": 0}},
            [
                "/rules/0/parameters/scope",
                "/rules/0/parameters/window_seconds",
                "/rules/0/parameters",
            ],
        ),
        ({"rule": "cooling_off", "parameters": {"seconds": "1"}}, ["/rules/0/parameters/seconds"]),
    ],
)  # fmt: skip
def test_wrong_parameters_are_named(entry: Any, pointers: list[str]):
    with pytest.raises(Refusal) as caught:
        RuleSet.read({"version": 1, "rules": [entry]})
    assert caught.value.slug == "rule-invalid"
    assert [problem.pointer for problem in caught.value.problems] == pointers


@pytest.mark.parametrize(
    "document",
    [
        "not json",
        "[]",
        {"rules": []},
        {"version": 0, "rules": []},
        {"version": 1, "rules": {}},
        {"version": 1, "rules": [], "note": ""},
        {"version": 1, "rules": [{"rule": "standing"}, {"rule": "standing"}]},
        {"version": 1, "rules": [{"rule": "standing", "id": f"r{n}"} for n in range(201)]},
    ],
)
def test_a_document_that_is_no_rule_set_is_refused(document: Any):
    with pytest.raises(Refusal) as caught:
        RuleSet.read(document)
    assert caught.value.slug == "rule-invalid"
