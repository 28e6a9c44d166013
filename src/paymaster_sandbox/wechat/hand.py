"""The hand that plays the user: takes the money, refuses it, pays an order, agrees or withdraws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paymaster_sandbox.wechat import parties
from paymaster_sandbox.wechat.authorisations import Wanted
from paymaster_sandbox.wechat.errors import refused
from paymaster_sandbox.wechat.orders import OrderError

if TYPE_CHECKING:
    from paymaster_sandbox.chassis.store import Tx
    from paymaster_sandbox.wechat.authorisations import Authorisations, Authorization
    from paymaster_sandbox.wechat.orders import Order, Orders
    from paymaster_sandbox.wechat.parties import Merchant
    from paymaster_sandbox.wechat.transfers import Transfers


class Hand:
    """What waits for a person, and what the person may do with it."""

    def __init__(self, transfers: Transfers, agreements: Authorisations, orders: Orders) -> None:
        self._transfers = transfers
        self._orders = orders
        self._agreements = agreements

    def waiting(self, tx: Tx) -> list[dict[str, object]]:
        """Everything that waits for a user: `kind`, `id`, and what a page may show."""
        bills: list[dict[str, object]] = [
            {
                "kind": "transfer",
                "id": bill.bill_no,
                "mchid": bill.mchid,
                "reference": bill.out_no,
                "openid": bill.openid,
                "person": _person(tx, bill.openid),
                "amount_fen": bill.amount,
                "remark": bill.remark,
                "package_info": bill.package,
                "acts": ["confirm", "refuse"],
            }
            for bill in self._transfers.waiting(tx)
        ]
        asked = [_agreement(tx, one, ["confirm", "refuse"]) for one in self._agreements.waiting(tx)]
        given = [_agreement(tx, one, ["withdraw"]) for one in self._agreements.in_effect(tx)]
        return [*bills, *asked, *given, *(_order(one) for one in self._orders.waiting(tx))]

    def act(self, tx: Tx, kind: str, number: str, act: str, reason: str | None) -> str:
        """Do it; the state afterwards. Raises V3Error if that cannot be done (any more).

        `reason` is why it is refused or withdrawn; for an order, the openid of who pays.
        """
        if (kind, act) == ("transfer", "confirm"):
            return self._transfers.confirm(tx, number).state
        if (kind, act) == ("transfer", "refuse"):
            return self._transfers.refuse(tx, number, reason or "OTHER_FAIL_REASON_TYPE").state
        if (kind, act) == ("authorization", "confirm"):
            return self._agreements.agree(tx, number).state
        if kind == "authorization" and act in ("refuse", "withdraw"):
            found = self._agreements.get(tx, number)
            late = "USER_OVERDUE_UNCONFIRMED" if act == "refuse" else "USER_CLOSE"
            return self._agreements.close(tx, found, reason or late).state
        if (kind, act) == ("order", "pay"):
            try:
                return self._orders.pay(tx, number, reason).state
            except OrderError as error:
                raise refused(f"the order is {error.reason}") from error
        raise refused(f"cannot {act} a {kind}")

    def agree_at_once(
        self, tx: Tx, merchant: Merchant, appid: str, openid: str, scene: str, out_no: str
    ) -> None:
        """The merchant asks for an agreement, and the user gives it there and then.

        Nobody is told of it. Raises V3Error if there is one already.
        """
        wanted = Wanted(
            out_no=out_no, appid=appid, openid=openid, scene=scene, display="收款人",
            perception=None, notify_url="",
        )  # fmt: skip
        self._agreements.agree(tx, self._agreements.ask(tx, merchant, wanted).id)


def _order(one: Order) -> dict[str, object]:
    return {
        "kind": "order",
        "id": one.prepay_id,
        "mchid": one.mchid,
        "reference": one.out_no,
        "openid": one.openid or "",
        "person": "",
        "amount_fen": one.total,
        "remark": one.description,
        "acts": ["pay"],
    }


def _agreement(tx: Tx, one: Authorization, acts: list[str]) -> dict[str, object]:
    return {
        "kind": "authorization",
        "id": one.id,
        "mchid": one.mchid,
        "reference": one.out_no,
        "openid": one.openid,
        "person": _person(tx, one.openid),
        "remark": one.display,
        "package_info": one.package,
        "state": one.state,
        "acts": acts,
    }


def _person(tx: Tx, openid: str) -> str:
    user = parties.user(tx, openid)
    return "" if user is None else user.person
