"""Users who agree once to take a merchant's transfers without confirming each."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from paymaster_sandbox.chassis import journal
from paymaster_sandbox.wechat import parties
from paymaster_sandbox.wechat.errors import missing, refused
from paymaster_sandbox.wechat.times import beijing
from paymaster_sandbox.wechat.transfers import DAY

if TYPE_CHECKING:
    from paymaster_sandbox.chassis.base import Chassis
    from paymaster_sandbox.chassis.schedule import Schedule
    from paymaster_sandbox.chassis.store import Tx
    from paymaster_sandbox.wechat.flow import Flow
    from paymaster_sandbox.wechat.notices import Notices
    from paymaster_sandbox.wechat.parties import Merchant
    from paymaster_sandbox.wechat.transfers import Bill

SCHEMA = """
CREATE TABLE IF NOT EXISTS wechat_authorization (
    id TEXT PRIMARY KEY, mchid TEXT NOT NULL, out_no TEXT NOT NULL, params TEXT NOT NULL,
    appid TEXT NOT NULL, openid TEXT NOT NULL, scene TEXT NOT NULL, display TEXT NOT NULL,
    perception TEXT, notify_url TEXT NOT NULL, bill_no TEXT, state TEXT NOT NULL,
    package TEXT NOT NULL, created INTEGER NOT NULL, agreed INTEGER, closed INTEGER, reason TEXT,
    UNIQUE (mchid, out_no)
) WITHOUT ROWID;
"""

CLOSE_REASONS: Final = (
    "CLOSE_VIA_MCH_API", "USER_CLOSE", "USER_OVERDUE_UNCONFIRMED", "TRANSFER_RISK",
    "USER_ACCOUNT_ABNORMAL",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the merchant asks a user to agree to. `bill_no`: while confirming that transfer."""

    out_no: str
    appid: str
    openid: str
    scene: str
    display: str
    perception: str | None
    notify_url: str
    bill_no: str | None = None

    @property
    def params(self) -> str:
        """Everything but the number, in one order."""
        return json.dumps(
            [self.appid, self.openid, self.scene, self.display, self.perception, self.notify_url],
            ensure_ascii=False,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """One agreement, given or not. `id` is shown once it has been given."""

    id: str
    mchid: str
    out_no: str
    params: str
    appid: str
    openid: str
    scene: str
    display: str
    perception: str | None
    notify_url: str
    bill_no: str | None
    state: str
    package: str
    created: int
    agreed: int | None
    closed: int | None
    reason: str | None

    def public(self) -> dict[str, object]:
        """As the API shows it."""
        found: dict[str, object] = {
            "out_authorization_no": self.out_no,
            "appid": self.appid,
            "openid": self.openid,
            "user_display_name": self.display,
            "state": self.state,
            "transfer_scene_id": self.scene,
            "create_time": beijing(self.created),
        }
        if self.perception is not None:
            found["user_recv_perception"] = self.perception
        if self.agreed is not None:
            found["authorization_id"] = self.id
            found["authorize_time"] = beijing(self.agreed)
        if self.closed is not None:
            found["close_info"] = {
                "close_time": beijing(self.closed), "close_reason": self.reason
            }  # fmt: skip
        return found


_COLUMNS = tuple(field.name for field in fields(Authorization))


class Authorisations:
    """Every change of an agreement."""

    def __init__(self, chassis: Chassis, schedule: Schedule, flow: Flow, notices: Notices) -> None:
        self._chassis = chassis
        self._schedule = schedule
        self._flow = flow
        self._notices = notices
        schedule.handle("wechat.authorization.expire", self._expire)
        schedule.handle("wechat.authorization.behave", self._behave)

    def ask(self, tx: Tx, merchant: Merchant, wanted: Wanted) -> Authorization:
        """Ask a user, or find that this number has asked before.

        Raises:
            V3Error: the number was used for something else or is closed, or the user has another
                agreement for the scene, asked or given.
        """
        known = self._by_number(tx, merchant.mchid, wanted.out_no)
        if known is not None:
            if known.params != wanted.params:
                raise refused("单号已存在但信息不一致")
            if known.state == "CLOSED":
                raise refused("授权单已关闭, 请更换单号")
            return known
        other = tx.one(
            "SELECT out_no FROM wechat_authorization WHERE mchid = ? AND openid = ? AND scene = ?"
            " AND state <> 'CLOSED'",
            merchant.mchid, wanted.openid, wanted.scene,
        )  # fmt: skip
        if other is not None:
            raise refused("用户在该场景下已有授权单, 请使用原单号")
        number = self._flow.number(tx, "20")
        package = "".join(self._chassis.seed.id(tx, "pkg") for _ in range(4))
        tx.run(
            f"INSERT INTO wechat_authorization ({', '.join(_COLUMNS)})"  # noqa: S608 - constant
            f" VALUES ({', '.join('?' * len(_COLUMNS))})",
            number, merchant.mchid, wanted.out_no, wanted.params, wanted.appid, wanted.openid,
            wanted.scene, wanted.display, wanted.perception, wanted.notify_url, wanted.bill_no,
            "WAIT_USER_CONFIRM", package, tx.now, None, None, None,
        )  # fmt: skip
        self._schedule.put(tx, "wechat.authorization.expire", number, DAY)
        if wanted.bill_no is None:
            self._schedule.put(tx, "wechat.authorization.behave", number)
        return self.get(tx, number)

    def get(self, tx: Tx, number: str) -> Authorization:
        """The agreement of that id. Raises V3Error."""
        found = self._one(tx, "id = ?", number)
        if found is None:
            raise missing()
        return found

    def shown(self, tx: Tx, merchant: Merchant, out_no: str) -> Authorization:
        """The merchant's agreement of its own number. Raises V3Error."""
        found = self._by_number(tx, merchant.mchid, out_no)
        if found is None:
            raise missing()
        return found

    def effective(
        self, tx: Tx, merchant: Merchant, scene: str, *, number: str | None, out_no: str | None
    ) -> Authorization:
        """The agreement that a transfer names. Raises V3Error unless it holds for the scene."""
        if number is not None:
            found = self._one(tx, "id = ? AND mchid = ?", number, merchant.mchid)
        else:
            found = self._by_number(tx, merchant.mchid, out_no or "")
        if found is None:
            raise missing("授权单不存在")
        if found.scene != scene:
            raise refused("转账场景与授权不一致")
        if found.state != "TAKING_EFFECT":
            raise refused("授权未生效")
        return found

    def waiting(self, tx: Tx) -> list[Authorization]:
        """Those that wait for their user by themselves, oldest first."""
        rows = tx.all(
            "SELECT id FROM wechat_authorization WHERE state = 'WAIT_USER_CONFIRM'"
            " AND bill_no IS NULL ORDER BY created"
        )
        return [self.get(tx, number) for (number,) in rows]

    def in_effect(self, tx: Tx) -> list[Authorization]:
        """Those that hold."""
        rows = tx.all("SELECT id FROM wechat_authorization WHERE state = 'TAKING_EFFECT'")
        return [self.get(tx, number) for (number,) in rows]

    def agree(self, tx: Tx, number: str) -> Authorization:
        """The user agrees, and the merchant is told. Raises V3Error if it is too late."""
        found = self.get(tx, number)
        if found.state != "WAIT_USER_CONFIRM":
            raise refused(f"授权单状态为{found.state}")
        tx.run(
            "UPDATE wechat_authorization SET state = 'TAKING_EFFECT', agreed = ? WHERE id = ?",
            tx.now, number,
        )  # fmt: skip
        journal.note(tx, "wechat.authorization", out_no=found.out_no, state="TAKING_EFFECT")
        merchant = parties.merchant(tx, found.mchid)
        assert merchant is not None
        self._notices.tell(
            tx, merchant, found.notify_url, "MCHTRANSFER.AUTHORIZATION.CONFIRMED", "mch_payment",
            {"mchid": found.mchid, **self.get(tx, number).public()},
        )  # fmt: skip
        return self.get(tx, number)

    def agree_with(self, tx: Tx, bill: Bill) -> None:
        """The user confirmed a transfer that asked for the agreement as well."""
        row = tx.one(
            "SELECT id FROM wechat_authorization WHERE bill_no = ? AND state = 'WAIT_USER_CONFIRM'",
            bill.bill_no,
        )
        if row is not None:
            self.agree(tx, row[0])

    def close(self, tx: Tx, found: Authorization, reason: str) -> Authorization:
        """End it, unless it has ended."""
        tx.run(
            "UPDATE wechat_authorization SET state = 'CLOSED', closed = ?, reason = ?"
            " WHERE id = ? AND state <> 'CLOSED'",
            tx.now, reason, found.id,
        )  # fmt: skip
        journal.note(tx, "wechat.authorization", out_no=found.out_no, state="CLOSED")
        return self.get(tx, found.id)

    def _expire(self, tx: Tx, number: str) -> None:
        found = self.get(tx, number)
        if found.state == "WAIT_USER_CONFIRM":
            self.close(tx, found, "USER_OVERDUE_UNCONFIRMED")

    def _behave(self, tx: Tx, number: str) -> None:
        found = self.get(tx, number)
        user = parties.user(tx, found.openid)
        if found.state == "WAIT_USER_CONFIRM" and user and user.behaviour == "confirm":
            self.agree(tx, number)

    def _by_number(self, tx: Tx, mchid: str, out_no: str) -> Authorization | None:
        return self._one(tx, "mchid = ? AND out_no = ?", mchid, out_no)

    def _one(self, tx: Tx, condition: str, *values: str) -> Authorization | None:
        row = tx.one(
            f"SELECT {', '.join(_COLUMNS)} FROM wechat_authorization WHERE {condition}",  # noqa: S608 - constant
            *values,
        )
        if row is None:
            return None
        found: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
        return Authorization(**found)
