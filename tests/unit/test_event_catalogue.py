"""Every topic that subscribers may hear is a documented type, and the page says so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from paymaster.compose import MACHINES
from paymaster.messages import catalogue, page
from paymaster.messages.catalogue import TYPES
from paymaster.messages.letters import BY_TEMPLATE, LETTERS

PROJECT = Path(__file__).resolve().parents[2]
SOURCES = PROJECT / "src" / "paymaster"
STATES = {machine.name: machine.states() for machine in MACHINES}

FAMILIES = {
    "withdrawal": STATES["withdrawal"],
    "reward": STATES["reward"],
    "user_task": STATES["task"],
    "attempt": STATES["attempt"],
    "transfer": STATES["transfer"],
    "topup": STATES["charge"],
    "topup_refund": STATES["charge_refund"],
    "user": {"active", "suspended", "closed"},
    "campaign": {"created", "changed"},
    "task": {"created", "changed"},
    "approval": {"proposed", "approved", "refused", "withdrawn", "expired"},
    "hold": {"placed", "lifted"},
}
"""What the part after the dot of a topic made at run time can be."""

COMMANDS = {"ASK", "GRANT", "RETURN", "RECALL", "RECALLED", "IDLE", "BOOK", "BOOKED"}
"""Constants that name commands to other cells."""

PASSED_ON = {"topic", "_message"}
"""Names of arguments: the topic stands where they are called."""


@cache
def parsed() -> list[tuple[Path, ast.Module]]:
    """Every file of the program."""
    return [(path, ast.parse(path.read_text())) for path in sorted(SOURCES.rglob("*.py"))]


def messages() -> Iterator[tuple[str, ast.expr]]:
    """The first argument of everything that makes a message."""
    for path, module in parsed():
        if path.is_relative_to(SOURCES / "db" / "outbox.py"):
            continue
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and node.args:
                name = ast.unparse(node.func).rpartition(".")[2]
                if name in ("Message", "Line"):
                    yield f"{path.relative_to(SOURCES)}:{node.lineno}", node.args[0]
                elif name in ("_tell", "_announce"):
                    for given in node.args[1:3]:
                        if isinstance(given, ast.Constant) and "." in str(given.value):
                            yield f"{path.relative_to(SOURCES)}:{node.lineno}", given


def constants() -> dict[str, str]:
    """Topics that have a name of their own."""
    found: dict[str, str] = {}
    for path, module in parsed():
        for node in module.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(
                node.value, ast.Constant
            ):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name) and "." in str(node.value.value):
                    found[f"{path.stem}.{target.id}"] = str(node.value.value)
                    found.setdefault(target.id, str(node.value.value))
    return found


@cache
def topics() -> dict[str, str]:
    """Every topic that can be sent, and where."""
    found: dict[str, str] = {}
    known = constants()
    for where, topic in messages():
        text = ast.unparse(topic)
        if isinstance(topic, ast.Constant):
            found[str(topic.value)] = where
        elif isinstance(topic, ast.JoinedStr):
            first = topic.values[0]
            assert isinstance(first, ast.Constant), where
            family = str(first.value).rstrip(".")
            assert family in FAMILIES, f"{where}: say in FAMILIES what {text} can be"
            found.update(dict.fromkeys((f"{family}.{one}" for one in FAMILIES[family]), where))
        elif text.rpartition(".")[2] not in COMMANDS | PASSED_ON:
            name = f"{where.partition(':')[0].rpartition('/')[2].removesuffix('.py')}.{text}"
            value = known.get(name) or known.get(text) or known.get(text.rpartition(".")[2])
            assert value is not None, f"{where}: what topic is {text}?"
            found[value] = where
    return found


def test_every_topic_is_a_type() -> None:
    found = topics()
    assert len(found) > 50
    missing = {topic: where for topic, where in found.items() if topic not in TYPES}
    assert not missing, f"say in messages/catalogue.py what they mean: {missing}"


def test_every_type_is_a_topic() -> None:
    # Locks are told of through one function for both of its topics.
    told = {*topics(), "security.locked_out", "security.guessing"}
    assert set(TYPES) - told == set()


def test_every_letter_is_about_a_type() -> None:
    assert set(LETTERS) <= set(TYPES)
    assert len(BY_TEMPLATE) == len(LETTERS)


def test_no_field_is_personal() -> None:
    names = {field.name for one in TYPES.values() for field in one.fields}
    for word in ("name", "email", "phone", "iban", "address", "holder", "external_id", "profile"):
        assert word not in names
    assert "reason" not in {field.name for field in TYPES["withdrawal.denied"].fields}


def test_a_payload_is_cut_down_to_its_fields() -> None:
    made = TYPES["user.closed"].data({"user": "us_1", "reason": "typed by somebody"})
    assert made == {"user": "us_1"}


def test_subscriptions() -> None:
    assert all(map(catalogue.is_subscription, ["*", "user.*", "user.closed"]))
    assert not any(map(catalogue.is_subscription, ["", "user", "user.", ".*", "user.closed.*"]))
    wanted = frozenset({"user.*", "day.closed"})
    assert catalogue.covers(wanted, "user.created")
    assert catalogue.covers(wanted, "day.closed")
    assert not catalogue.covers(wanted, "user_task.started")


def test_the_page_is_made_from_the_data() -> None:
    shown = (PROJECT / "docs" / "reference" / "events.md").read_text()
    assert shown == page.reference(), "write paymaster.messages.page.reference() to that file"
