"""Batches of transfers, for merchants of before 2025: up to a thousand, each for itself.

ACCEPTED -> PROCESSING -> FINISHED, or CLOSED when nothing of it could begin
each transfer: INIT -> PROCESSING -> SUCCESS | FAIL
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from paymaster_sandbox.chassis import journal
from paymaster_sandbox.wechat import crypto, mishaps, parties, scenes
from paymaster_sandbox.wechat.envelope import Call, Envelope, Reply
from paymaster_sandbox.wechat.errors import missing, refused, short_of_money, wrong
from paymaster_sandbox.wechat.fields import ORDER_NO, Fields
from paymaster_sandbox.wechat.keys import read_public
from paymaster_sandbox.wechat.payouts import Payout, Payouts
from paymaster_sandbox.wechat.times import beijing
from paymaster_sandbox.wechat.transfer_api import check_payee, check_payer
from paymaster_sandbox.wechat.transfers import DAY

if TYPE_CHECKING:
    from starlette.routing import Route

    from paymaster_sandbox.chassis.schedule import Schedule
    from paymaster_sandbox.chassis.store import Row, Tx
    from paymaster_sandbox.wechat.flow import Flow
    from paymaster_sandbox.wechat.notices import Notices
    from paymaster_sandbox.wechat.parties import Merchant
    from paymaster_sandbox.wechat.platform import Platform

SCHEMA = """
CREATE TABLE IF NOT EXISTS wechat_batch (
    batch_id TEXT PRIMARY KEY, mchid TEXT NOT NULL, out_no TEXT NOT NULL, params TEXT NOT NULL,
    appid TEXT NOT NULL, name TEXT NOT NULL, remark TEXT NOT NULL, scene TEXT,
    notify_url TEXT, total INTEGER NOT NULL, count INTEGER NOT NULL, state TEXT NOT NULL,
    reason TEXT, created INTEGER NOT NULL, updated INTEGER NOT NULL, UNIQUE (mchid, out_no)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS wechat_detail (
    detail_id TEXT PRIMARY KEY, batch_id TEXT NOT NULL, out_no TEXT NOT NULL,
    openid TEXT NOT NULL, name TEXT, amount INTEGER NOT NULL, remark TEXT NOT NULL,
    state TEXT NOT NULL, reason TEXT, updated INTEGER NOT NULL, UNIQUE (batch_id, out_no)
) WITHOUT ROWID;
"""

_MOST: Final = 1000
_BASE: Final = "/v3/transfer/batches"
_QUERY_DAYS: Final = 30
_PER_PAGE: Final = (20, 100)
_BATCH: Final = (
    "batch_id, out_no, appid, state, name, remark, total, count, created, updated, scene, reason"
)
_DETAIL: Final = "detail_id, out_no, state, amount, remark, reason, openid, name, updated"


@dataclass(frozen=True, slots=True)
class Detail:
    """One transfer as it was asked for."""

    out_no: str
    openid: str
    name: str | None
    amount: int
    remark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch as it was asked for."""

    out_no: str
    appid: str
    name: str
    remark: str
    scene: str | None
    notify_url: str | None
    total: int
    details: list[Detail]

    @property
    def params(self) -> str:
        """Everything but the number, in the clear and in one order."""
        asked = [[one.out_no, one.openid, one.name, one.amount, one.remark] for one in self.details]
        return json.dumps(
            [self.appid, self.name, self.remark, self.scene, self.notify_url, self.total, asked],
            ensure_ascii=False,
        )


class Batches:
    """Takes batches in, works them off and shows them."""

    def __init__(
        self, schedule: Schedule, flow: Flow, notices: Notices, platform: Platform
    ) -> None:
        self._schedule = schedule
        self._flow = flow
        self._payouts = Payouts(flow)
        self._notices = notices
        self._platform = platform
        schedule.handle("wechat.batch.work", self._work)
        schedule.handle("wechat.batch.finish", self._finish)

    def routes(self, envelope: Envelope) -> list[Route]:
        """The paths."""
        return [
            envelope.route("POST", _BASE, "batch.create", self._create),
            *(
                envelope.route("GET", f"{_BASE}/{path}", "batch.query", handler)
                for path, handler in (
                    ("out-batch-no/{out_no}", self._by_out_no),
                    ("batch-id/{batch_id}", self._by_id),
                    ("out-batch-no/{out_no}/details/out-detail-no/{out_detail}", self._detail),
                    ("batch-id/{batch_id}/details/detail-id/{detail_id}", self._detail),
                )
            ),
        ]

    def _create(self, tx: Tx, call: Call) -> Reply:
        check_payer(call, "batches")
        wanted = self._read(tx, call)
        merchant = call.merchant
        known = tx.one(
            "SELECT params, batch_id, created, state FROM wechat_batch WHERE mchid = ?"
            " AND out_no = ?",
            merchant.mchid, wanted.out_no,
        )  # fmt: skip
        if known is None:
            known = self._take(tx, merchant, wanted)
        elif known[0] != wanted.params:
            raise refused("单号已存在但信息不一致")
        return Reply(
            {
                "out_batch_no": wanted.out_no,
                "batch_id": known[1],
                "create_time": beijing(known[2]),
                "batch_status": known[3],
            }
        )

    def _read(self, tx: Tx, call: Call) -> Batch:
        given = call.fields()
        appid = given.text("appid", 32)
        if not parties.bound(tx, appid, call.merchant.mchid):
            raise refused("APPID不存在或与商户号不匹配")
        scene = given.maybe("transfer_scene_id", 36)
        if scene is not None and scene != "1001":
            scenes.check_scene(scene, call.merchant.scenes)
        wanted = Batch(
            out_no=given.text("out_batch_no", 32, ORDER_NO), appid=appid,
            name=given.text("batch_name", 32), remark=given.text("batch_remark", 32), scene=scene,
            notify_url=given.maybe("notify_url", 256), total=given.fen("total_amount"),
            details=[
                self._read_detail(tx, call, appid, one)
                for one in given.groups("transfer_detail_list", _MOST)
            ],
        )  # fmt: skip
        count = given.fen("total_num")
        given.done()
        if count != len(wanted.details) or wanted.total != sum(
            detail.amount for detail in wanted.details
        ):
            raise wrong("total_amount", "总金额或总笔数与明细不符")
        if len({detail.out_no for detail in wanted.details}) != count:
            raise wrong("transfer_detail_list", "商家明细单号重复")
        return wanted

    def _read_detail(self, tx: Tx, call: Call, appid: str, given: Fields) -> Detail:
        openid = given.text("openid", 64)
        check_payee(tx, call.merchant, appid, openid)
        name: str | None = None
        if given.has("user_name"):
            sealed = given.text("user_name", 1024)
            name = self._platform.decrypt(tx, call.merchant, call.serial, "user_name", sealed)
        amount = given.fen("transfer_amount")
        if amount > call.merchant.most:
            raise refused("超过单笔转账上下限")
        if amount >= 200_000 and name is None:
            raise wrong("user_name", "转账金额大于等于2000元时必填")
        if amount < 30 and name is not None:
            raise wrong("user_name", "转账金额小于0.3元时不允许填写")
        out_no = given.text("out_detail_no", 32, ORDER_NO)
        remark = given.text("transfer_remark", 32)
        given.done()
        return Detail(out_no, openid, name, amount, remark)

    def _take(self, tx: Tx, merchant: Merchant, wanted: Batch) -> Row:
        """Lock the money of the whole batch. Raises V3Error if there is not as much."""
        if not self._payouts.covered(tx, merchant, wanted.total):
            raise short_of_money()
        number = self._flow.number(tx, "1030")
        tx.run(
            "INSERT INTO wechat_batch (batch_id, mchid, out_no, params, appid, name, remark,"
            " scene, notify_url, total, count, state, created, updated)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'ACCEPTED', ?, ?)",
            number, merchant.mchid, wanted.out_no, wanted.params, wanted.appid, wanted.name,
            wanted.remark, wanted.scene, wanted.notify_url, wanted.total, len(wanted.details),
            tx.now, tx.now,
        )  # fmt: skip
        for one in wanted.details:
            tx.run(
                "INSERT INTO wechat_detail (detail_id, batch_id, out_no, openid, name, amount,"
                " remark, state, updated) VALUES (?, ?, ?, ?, ?, ?, ?, 'INIT', ?)",
                self._flow.number(tx, "1040"), number, one.out_no, one.openid, one.name,
                one.amount, one.remark, tx.now,
            )  # fmt: skip
        after = mishaps.setting(tx, "accept_seconds")
        self._schedule.put(tx, "wechat.batch.work", number, after)
        return (wanted.params, number, tx.now, "ACCEPTED")

    def _work(self, tx: Tx, number: str) -> None:
        merchant, batch = self._merchant(tx, number)
        if not self._payouts.covered(tx, merchant, batch["total"]):
            self._close(tx, number, "CLOSED", "OVERDUE_CLOSE")
            return
        self._state(tx, number, "PROCESSING")
        for payout in self._waiting(tx, merchant, number):
            self._payouts.lock(tx, payout)
        tx.run("UPDATE wechat_detail SET state = 'PROCESSING' WHERE batch_id = ?", number)
        after = mishaps.setting(tx, "paid_seconds")
        self._schedule.put(tx, "wechat.batch.finish", number, after)

    def _finish(self, tx: Tx, number: str) -> None:
        merchant, _ = self._merchant(tx, number)
        for payout in self._waiting(tx, merchant, number):
            reason = self._payouts.objection(tx, payout)
            if reason is None:
                self._payouts.pay(tx, payout)
            else:
                self._payouts.give_back(tx, payout)
            tx.run(
                "UPDATE wechat_detail SET state = ?, reason = ?, updated = ? WHERE detail_id = ?",
                "SUCCESS" if reason is None else "FAIL", reason, tx.now, payout.bill_no,
            )  # fmt: skip
        self._close(tx, number, "FINISHED", None)

    def _waiting(self, tx: Tx, merchant: Merchant, number: str) -> list[Payout]:
        rows = tx.all(
            "SELECT out_no, detail_id, openid, name, amount, remark FROM wechat_detail"
            " WHERE batch_id = ? AND state IN ('INIT', 'PROCESSING') ORDER BY detail_id",
            number,
        )
        return [
            Payout(
                merchant=merchant, reference=row[0], bill_no=row[1], openid=row[2], name=row[3],
                amount=row[4], product="batch", note=row[5],
            )
            for row in rows
        ]  # fmt: skip

    def _close(self, tx: Tx, number: str, state: str, reason: str | None) -> None:
        self._state(tx, number, state, reason)
        merchant, batch = self._merchant(tx, number)
        facts: dict[str, object] = {
            "mchid": merchant.mchid, "out_batch_no": batch["out_no"], "batch_id": number,
            "batch_status": state, "total_num": batch["count"], "total_amount": batch["total"],
            **self._sums(tx, number), "update_time": beijing(batch["updated"]),
        }  # fmt: skip
        if reason is not None:
            facts["close_reason"] = reason
        event = f"MCHTRANSFER.BATCH.{state}"
        self._notices.tell(tx, merchant, batch["notify_url"], event, "mchtransfer", facts)

    def _state(self, tx: Tx, number: str, state: str, reason: str | None = None) -> None:
        tx.run(
            "UPDATE wechat_batch SET state = ?, reason = ?, updated = ? WHERE batch_id = ?",
            state, reason, tx.now, number,
        )  # fmt: skip
        journal.note(tx, "wechat.batch", batch=number, state=state)

    def _sums(self, tx: Tx, number: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for state in ("SUCCESS", "FAIL"):
            row = tx.one(
                "SELECT coalesce(sum(amount), 0), count(*) FROM wechat_detail"
                " WHERE batch_id = ? AND state = ?",
                number, state,
            )  # fmt: skip
            assert row is not None
            found[f"{state.lower()}_amount"], found[f"{state.lower()}_num"] = row
        return found

    def _merchant(self, tx: Tx, number: str) -> tuple[Merchant, dict[str, Any]]:
        row = tx.one(
            "SELECT mchid, out_no, total, count, notify_url, updated FROM wechat_batch"
            " WHERE batch_id = ?",
            number,
        )
        assert row is not None
        merchant = parties.merchant(tx, row[0])
        assert merchant is not None
        names = ("out_no", "total", "count", "notify_url", "updated")
        return merchant, dict(zip(names, row[1:], strict=True))

    def _shown(self, tx: Tx, call: Call) -> Row:
        """The batch of the path, once it can be seen. Raises V3Error."""
        by_id = "batch_id" in call.request.path_params
        where = "batch_id = ?" if by_id else "out_no = ?"
        row = tx.one(
            f"SELECT {_BATCH} FROM wechat_batch WHERE mchid = ? AND {where}",  # noqa: S608 - constant
            call.merchant.mchid,
            call.part("batch_id" if by_id else "out_no"),
        )
        lag = mishaps.setting(tx, "not_found_lag_seconds")
        if row is None or row[8] > tx.now - lag or row[8] < tx.now - _QUERY_DAYS * DAY:
            raise missing()
        return row

    def _by_out_no(self, tx: Tx, call: Call) -> Reply:
        row = self._shown(tx, call)
        batch: dict[str, object] = {
            "mchid": call.merchant.mchid, "batch_id": row[0], "out_batch_no": row[1],
            "appid": row[2], "batch_status": row[3], "batch_type": "API", "batch_name": row[4],
            "batch_remark": row[5], "total_amount": row[6], "total_num": row[7],
            "create_time": beijing(row[8]), "update_time": beijing(row[9]),
            **self._sums(tx, row[0]),
        }  # fmt: skip
        if row[10] is not None:
            batch["transfer_scene_id"] = row[10]
        if row[11] is not None:
            batch["close_reason"] = row[11]
        offset, limit = _page(call)
        content: dict[str, object] = {"transfer_batch": batch, "offset": offset, "limit": limit}
        if _flag(call, "need_query_detail") and row[3] == "FINISHED":
            content["transfer_detail_list"] = self._list(tx, call, row[0], offset, limit)
        return Reply(content)

    _by_id = _by_out_no

    def _list(
        self, tx: Tx, call: Call, number: str, offset: int, limit: int
    ) -> list[dict[str, object]]:
        wanted = call.query("detail_status") or "ALL"
        if wanted not in ("ALL", "SUCCESS", "FAIL"):
            raise wrong("detail_status", "枚举值错误", "query")
        rows = tx.all(
            "SELECT detail_id, out_no, state FROM wechat_detail WHERE batch_id = ?1"
            " AND (?2 = 'ALL' OR state = ?2) ORDER BY detail_id LIMIT ?3 OFFSET ?4",
            number, wanted, limit, offset,
        )  # fmt: skip
        names = ("detail_id", "out_detail_no", "detail_status")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _detail(self, tx: Tx, call: Call) -> Reply:
        batch = self._shown(tx, call)
        by_id = "detail_id" in call.request.path_params
        where = "detail_id = ?" if by_id else "out_no = ?"
        row = tx.one(
            f"SELECT {_DETAIL} FROM wechat_detail WHERE batch_id = ? AND {where}",  # noqa: S608 - constant
            batch[0],
            call.part("detail_id" if by_id else "out_detail"),
        )
        if row is None or batch[3] in ("ACCEPTED", "CLOSED"):
            raise missing()
        content: dict[str, object] = {
            "mchid": call.merchant.mchid, "batch_id": batch[0], "out_batch_no": batch[1],
            "appid": batch[2], "detail_id": row[0], "out_detail_no": row[1],
            "detail_status": row[2], "transfer_amount": row[3], "transfer_remark": row[4],
            "openid": row[6], "initiate_time": beijing(batch[8]), "update_time": beijing(row[8]),
        }  # fmt: skip
        if row[5] is not None:
            content["fail_reason"] = row[5]
        if row[7] is not None:
            public = read_public(call.merchant.public_key)
            content["user_name"] = crypto.encrypt_field(public, row[7])
        return Reply(content)


def _flag(call: Call, name: str) -> bool:
    found = call.query(name)
    if found not in ("true", "false"):
        raise wrong(name, "应为true或false", "query")
    return found == "true"


def _page(call: Call) -> tuple[int, int]:
    offset, limit = call.query("offset") or "0", call.query("limit") or str(_PER_PAGE[0])
    if not (offset.isdecimal() and limit.isdecimal() and 0 < int(limit) <= _PER_PAGE[1]):
        raise wrong("limit", "分页参数错误", "query")
    return int(offset), int(limit)
