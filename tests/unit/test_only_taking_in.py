"""An account that only takes money in is never chosen to pay, whatever its name."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from tests.contract.support import deps

from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.choosing import routes
from paymaster.dispatch.desk import Desk
from paymaster.dispatch.expected import expected_by
from paymaster.dispatch.route import pick
from paymaster.kernel.money import Money
from paymaster.rails.base import RailAccount
from paymaster.rails.registry import Registry
from paymaster.secrets.sealing import Sealer

NOW = datetime(2026, 3, 1, 4, 0, tzinfo=UTC)
RAILS = {"wechat-pay": Registry().build("wechat-pay", deps())}


def account(number: int, name: str, product: str) -> PayoutAccount:
    settings = {"product": product, "payin": "v3"}
    rail = RailAccount(number, name, "wechat-pay", "CNY", settings)
    return PayoutAccount(rail, 1, "UTC", "always", "active", 1)


TILL = account(1, "a-till", "none")
PAYS = account(2, "pays", "transfer-bills")


def chosen(*accounts: PayoutAccount) -> Any:
    desk = Desk({one.id: one for one in accounts}, RAILS, cast("Sealer", None))
    found = pick(desk.candidates(), "wechat", Money.zero("CNY"))
    return None if found is None else found.account


def test_the_account_that_pays_is_chosen_though_the_other_comes_first_by_name() -> None:
    assert chosen(TILL, PAYS) is PAYS


def test_with_no_other_a_payment_waits_rather_than_fails() -> None:
    assert chosen(TILL) is None
    assert routes([TILL], RAILS) == {}
    assert routes([TILL, PAYS], RAILS) == {("wechat", "CNY"): frozenset({"wechat-pay"})}


def test_no_time_is_foretold_by_it() -> None:
    def told(*accounts: PayoutAccount) -> datetime | None:
        return expected_by(
            {one.id: one for one in accounts}, RAILS, "approved",
            kind="wechat", currency="CNY", account_id=None, sent_at=None, now=NOW,
        )  # fmt: skip

    assert told(TILL) is None
    assert told(TILL, PAYS) is not None
