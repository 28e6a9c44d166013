"""Rails are found by name; packages can bring their own."""

from __future__ import annotations

from datetime import date
from importlib.metadata import EntryPoint

import pytest
from tests.contract.support import bank_account, deps

from paymaster.kernel.errors import Broken, Unprocessable
from paymaster.rails import registry
from paymaster.rails.base import (
    AnswersWebhooks,
    Cancels,
    ChecksAccounts,
    FetchesFiles,
    Queries,
    Rail,
    RailAccount,
    ReadsWebhooks,
)
from paymaster.rails.calendar import CALENDARS, easter_sunday
from paymaster.rails.deps import RailDeps
from paymaster.rails.iso20022.rail import Iso20022Rail
from paymaster.rails.registry import Registry


def mule_rail(given: RailDeps) -> Rail:
    return Iso20022Rail(given, name="mule")


def test_every_built_in_rail_is_built() -> None:
    found = Registry.installed()
    assert set(found.names()) >= {
        "alipay", "iso20022", "iso20022-unique", "sandbox-wallet", "wechat-pay",
    }  # fmt: skip
    for name in found.names():
        rail = found.build(name, deps())
        assert rail.caps.name == name
        assert isinstance(rail, ChecksAccounts)


def test_capability_is_what_a_rail_implements() -> None:
    bank, wallet = (Registry().build(name, deps()) for name in ("iso20022", "sandbox-wallet"))
    assert isinstance(bank, FetchesFiles)
    assert not isinstance(bank, Queries)
    assert not isinstance(bank, ReadsWebhooks)
    assert isinstance(wallet, FetchesFiles)
    assert isinstance(wallet, Queries)
    assert isinstance(wallet, ReadsWebhooks)
    wechat, alipay = (Registry().build(name, deps()) for name in ("wechat-pay", "alipay"))
    for rail in (wechat, alipay):
        assert isinstance(rail, FetchesFiles)
        assert isinstance(rail, Queries)
        assert isinstance(rail, AnswersWebhooks)
    assert isinstance(wechat, Cancels)
    assert not isinstance(alipay, Cancels)


def test_only_banks_that_promise_it_get_a_file_twice() -> None:
    assert Registry().build("iso20022", deps()).caps.replay_window is None
    assert Registry().build("iso20022-unique", deps()).caps.replay_window is not None


def points(*found: EntryPoint):
    return lambda *, group: [point for point in found if point.group == group]


def test_a_package_brings_a_rail(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mule", f"{__name__}:mule_rail", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", points(point))
    monkeypatch.setattr(EntryPoint, "load", lambda _: mule_rail)
    assert Registry.installed().build("mule", deps()).caps.name == "mule"


def test_a_package_cannot_replace_a_rail(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("iso20022", f"{__name__}:mule_rail", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", points(point))
    with pytest.raises(Broken):
        Registry.installed()


def test_unknown_and_misnamed_rails_are_broken() -> None:
    with pytest.raises(Broken):
        Registry().build("pigeon", deps())
    with pytest.raises(Broken):
        Registry({"donkey": mule_rail}).build("donkey", deps())


@pytest.mark.parametrize(
    ("settings", "pointer"),
    [
        ({"iban": "DE00"}, "/settings/iban"),
        ({"iban": ""}, "/settings/iban"),
        ({"bic": "X"}, "/settings/bic"),
        ({"version": "12"}, "/settings/version"),
        ({"calendar": "lunar"}, "/settings/calendar"),
        ({"cut_off": "noon"}, "/settings/calendar"),
        ({"zone": "Mars/North"}, "/settings/calendar"),
        ({"transport": "pigeon"}, "/settings/transport"),
        ({"port": "70000"}, "/settings/port"),
        ({"host_key": ""}, "/settings/host_key"),
        ({"charge_bearer": "THEM"}, "/settings/charge_bearer"),
    ],
)
def test_a_wrong_bank_account_is_named_field_by_field(
    settings: dict[str, str], pointer: str
) -> None:
    rail = Iso20022Rail(deps())
    whole = {"host": "127.0.0.1", "user": "us", "host_key": "ssh-ed25519 AAAA"}
    rail.check_account(bank_account(**whole))
    with pytest.raises(Unprocessable) as caught:
        rail.check_account(bank_account(**(whole | settings)))
    assert pointer in {problem.pointer for problem in caught.value.problems}


def test_a_directory_account_needs_no_key() -> None:
    settings = {"transport": "directory", "outgoing": "/a", "incoming": "/b"}
    account = bank_account(**settings)
    Iso20022Rail(deps()).check_account(
        RailAccount(1, "a", "iso20022", "EUR", account.settings, secrets={})
    )


@pytest.mark.parametrize(
    ("year", "day"),
    [(1961, date(1961, 4, 2)), (2000, date(2000, 4, 23)), (2025, date(2025, 4, 20)),
     (2038, date(2038, 4, 25)), (2285, date(2285, 3, 22))],
)  # fmt: skip
def test_easter(year: int, day: date) -> None:
    assert easter_sunday(year) == day


def test_the_target_calendar() -> None:
    closed = ["2025-01-01", "2025-04-18", "2025-04-21", "2025-05-01", "2025-12-25", "2025-12-26"]
    for written in closed:
        assert not CALENDARS["target"](date.fromisoformat(written))
    assert CALENDARS["target"](date(2025, 4, 22))
    assert not CALENDARS["weekdays"](date(2025, 4, 19))
    assert CALENDARS["every-day"](date(2025, 4, 20))
