"""Receipts of transfers: asked for, made, and fetched while their address holds."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from fpdf import FPDF

from paymaster_sandbox.chassis.clock import SECOND, moment
from paymaster_sandbox.wechat.bill_api import download_url
from paymaster_sandbox.wechat.envelope import Call, Envelope, Reply
from paymaster_sandbox.wechat.errors import missing, refused
from paymaster_sandbox.wechat.fields import ORDER_NO
from paymaster_sandbox.wechat.times import beijing
from paymaster_sandbox.wechat.transfers import DAY

if TYPE_CHECKING:
    from starlette.routing import Route

    from paymaster_sandbox.chassis.schedule import Schedule
    from paymaster_sandbox.chassis.store import Tx
    from paymaster_sandbox.wechat.bills import Bills
    from paymaster_sandbox.wechat.transfers import Bill, Transfers

SCHEMA = """
CREATE TABLE IF NOT EXISTS wechat_receipt (
    bill_no TEXT PRIMARY KEY, state TEXT NOT NULL, body BLOB, created INTEGER NOT NULL,
    updated INTEGER NOT NULL
) WITHOUT ROWID;
"""

_BASE: Final = "/v3/fund-app/mch-transfer/elecsign"
_WITHIN: Final = 183 * DAY
_LASTS: Final = 600 * SECOND


class Receipts:
    """The two calls."""

    def __init__(self, schedule: Schedule, transfers: Transfers, files: Bills) -> None:
        self._schedule = schedule
        self._transfers = transfers
        self._files = files
        schedule.handle("wechat.receipt", self._make)

    def routes(self, envelope: Envelope) -> list[Route]:
        """The paths."""
        return [
            envelope.route("POST", f"{_BASE}/{kind}", "receipt.create", self._ask)
            for kind in ("out-bill-no", "transfer-bill-no")
        ] + [
            envelope.route("GET", f"{_BASE}/{path}", "receipt.query", self._query)
            for path in ("out-bill-no/{out_no}", "transfer-bill-no/{bill_no}")
        ]

    def _ask(self, tx: Tx, call: Call) -> Reply:
        given = call.fields()
        if call.request.url.path.endswith("transfer-bill-no"):
            bill = self._by_number(tx, call, given.text("transfer_bill_no", 64, ORDER_NO))
        else:
            out_no = given.text("out_bill_no", 32, ORDER_NO)
            bill = self._transfers.known(tx, call.merchant, out_no)
        given.done()
        if bill is None:
            raise missing()
        if bill.state != "SUCCESS" or bill.name is None:
            raise refused("仅转账成功且校验过姓名的单据可申请电子回单")
        if tx.now - bill.updated > _WITHIN:
            raise refused("仅支持申请六个月内的电子回单")
        new = tx.run(
            "INSERT OR IGNORE INTO wechat_receipt (bill_no, state, created, updated)"
            " VALUES (?, 'GENERATING', ?, ?)",
            bill.bill_no, tx.now, tx.now,
        )  # fmt: skip
        if new:
            self._schedule.put(tx, "wechat.receipt", bill.bill_no)
        row = tx.one("SELECT state, created FROM wechat_receipt WHERE bill_no = ?", bill.bill_no)
        assert row is not None
        return Reply({"state": row[0], "create_time": beijing(row[1])})

    def _by_number(self, tx: Tx, call: Call, bill_no: str) -> Bill | None:
        return self._transfers.numbered(tx, call.merchant, bill_no)

    def _make(self, tx: Tx, bill_no: str) -> None:
        body = _paper(self._transfers.get(tx, bill_no))
        tx.run(
            "UPDATE wechat_receipt SET state = 'FINISHED', body = ?, updated = ?"
            " WHERE bill_no = ?",
            body, tx.now, bill_no,
        )  # fmt: skip

    def _query(self, tx: Tx, call: Call) -> Reply:
        bill = (
            self._by_number(tx, call, call.part("bill_no"))
            if "bill_no" in call.request.path_params
            else self._transfers.known(tx, call.merchant, call.part("out_no"))
        )
        row = None if bill is None else tx.one(
            "SELECT state, created, updated, body FROM wechat_receipt WHERE bill_no = ?",
            bill.bill_no,
        )  # fmt: skip
        if row is None:
            raise missing()
        content: dict[str, object] = {
            "state": row[0], "create_time": beijing(row[1]), "update_time": beijing(row[2]),
        }  # fmt: skip
        if row[0] == "FINISHED":
            token = self._files.token(tx, call.merchant, bytes(row[3]), _LASTS)
            content |= {
                "hash_type": "SHA256", "hash_value": hashlib.sha256(row[3]).hexdigest(),
                "download_url": download_url(call, token),
            }  # fmt: skip
        return Reply(content)


def _paper(bill: Bill) -> bytes:
    """One page that says who was paid what."""
    paper = FPDF()
    paper.set_creation_date(moment(bill.updated))
    paper.add_page()
    paper.set_font("Helvetica", size=12)
    for line in (
        "Transfer receipt (sandbox)", f"Merchant {bill.mchid}", f"Order {bill.out_no}",
        f"Transfer {bill.bill_no}", f"Payee {bill.openid}",
        f"Amount CNY {bill.amount // 100}.{bill.amount % 100:02}", beijing(bill.updated),
    ):  # fmt: skip
        paper.cell(text=line, new_x="LMARGIN", new_y="NEXT")
    return bytes(paper.output())
