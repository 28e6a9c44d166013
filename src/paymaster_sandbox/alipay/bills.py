"""The account log, and the files made of it. Both say what was booked, unless a knob says not."""

from __future__ import annotations

import csv
import io
import secrets
import zipfile
from datetime import date, datetime, timedelta
from typing import Final

from paymaster_sandbox.alipay import trouble
from paymaster_sandbox.alipay.apps import LINE_COLUMNS, App, Apps, Call, Line
from paymaster_sandbox.alipay.wire import (
    BEIJING,
    ProblemError,
    beijing,
    from_beijing,
    invalid,
    missing,
    text,
    yuan,
)
from paymaster_sandbox.chassis.clock import SECOND, microseconds, moment
from paymaster_sandbox.chassis.store import Tx

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS alipay_download (
    token TEXT PRIMARY KEY, app_id TEXT NOT NULL, day TEXT NOT NULL, until INTEGER NOT NULL
) WITHOUT ROWID;
"""

_DAY: Final = 86_400 * SECOND
_LONGEST: Final = 31 * _DAY
_LARGEST_PAGE: Final = 2000
_URL_LASTS: Final = 30 * SECOND
_READY_HOUR: Final = 9
_RULE: Final = "-" * 41
_HEADERS: Final = (
    "账务流水号", "业务流水号", "商户订单号", "商品名称", "发生时间", "对方账号",
    "收入金额\uff08+元\uff09", "支出金额\uff08-元\uff09", "账户余额\uff08元\uff09", "交易渠道",
    "业务类型", "备注",
)  # fmt: skip
_TYPES: Final = ("类型", "笔数", "金额\uff08元\uff09")
_FULL: Final = str.maketrans({"\uff08": "(", "\uff09": ")"})


class Bills:
    """Gives out what the account log has."""

    def __init__(self, apps: Apps) -> None:
        self._apps = apps

    def log(self, tx: Tx, call: Call) -> dict[str, object]:
        """A page of the account log (`alipay.data.bill.accountlog.query`)."""
        call.needs("bills")
        fields = call.fields
        for name in ("start_time", "end_time"):
            if not fields.get(name):
                raise missing(name)
        start = from_beijing(fields["start_time"], "start_time")
        end = from_beijing(fields["end_time"], "end_time")
        if end < start or end - start > _LONGEST:
            raise invalid("end_time")
        page = _count(fields.get("page_no", "1"), "page_no", 1_000_000)
        size = _count(fields.get("page_size", "2000"), "page_size", _LARGEST_PAGE)
        lines = _lines(tx, call.app, start, end + SECOND)
        for name, column in (("alipay_order_no", "order_no"), ("merchant_order_no", "merchant_no")):
            if fields.get(name):
                lines = [line for line in lines if getattr(line, column) == fields[name]]
        shown = lines[(page - 1) * size : page * size]
        return {
            "page_no": str(page),
            "page_size": str(size),
            "total_size": str(len(lines)),
            "detail_list": [_detail(line) for line in shown],
        }

    def address(self, tx: Tx, call: Call) -> dict[str, object]:
        """Where a day's file is, for half a minute (`...bill.downloadurl.query`)."""
        call.needs("bills")
        if text(call.fields, "bill_type", 32) != "signcustomer":
            raise invalid("bill_type")
        try:
            day = date.fromisoformat(text(call.fields, "bill_date", 10))
        except ValueError as error:
            raise invalid("bill_date") from error
        ready = _start(day + timedelta(days=1)) + _READY_HOUR * 3600 * SECOND
        if tx.now < ready or trouble.setting(tx, "bill_missing"):
            raise ProblemError("40004", "isp.bill_not_exist", "账单不存在")
        token = secrets.token_urlsafe(24)
        tx.run(
            "INSERT INTO alipay_download (token, app_id, day, until) VALUES (?, ?, ?, ?)",
            token, call.app.app_id, day.isoformat(), tx.now + _URL_LASTS,
        )  # fmt: skip
        return {"bill_download_url": f"{call.base_url}/bill/download?token={token}"}

    def file(self, tx: Tx, token: str) -> bytes | None:
        """The archive behind an address; None if it is too late, or never was one."""
        row = tx.one(
            "SELECT app_id, day FROM alipay_download WHERE token = ? AND until >= ?", token, tx.now
        )
        app = None if row is None else self._apps.find(tx, row[0])
        if row is None or app is None:
            return None
        day = date.fromisoformat(row[1])
        lines = _lines(tx, app, _start(day), _start(day + timedelta(days=1)))
        old = trouble.setting(tx, "bill_old_headers") > 0
        name = f"{app.seller_id}0156_{day:%Y%m%d}"
        return _archive(
            {
                f"{name}_账务明细.csv": _details(app, day, lines, tx.now, old=old),
                f"{name}_账务明细(汇总).csv": _summary(app, day, lines, tx.now),
            }
        )


def _lines(tx: Tx, app: App, start: int, end: int) -> list[Line]:
    rows = tx.all(
        f"SELECT {LINE_COLUMNS} FROM alipay_log"  # noqa: S608 - constant
        " WHERE app_id = ? AND at >= ? AND at < ? ORDER BY seq",
        app.app_id, start, end,
    )  # fmt: skip
    return [Line(*row) for row in rows]


def _detail(line: Line) -> dict[str, object]:
    return {
        "trans_dt": beijing(line.at),
        "account_log_id": line.id,
        "alipay_order_no": line.order_no,
        "merchant_order_no": line.merchant_no,
        "trans_amount": yuan(abs(line.amount)),
        "balance": yuan(line.balance),
        "direction": "收入" if line.amount > 0 else "支出",
        "type": line.kind,
        "other_account": line.other,
        "trans_memo": line.memo or line.title,
        "bill_source": "支付宝",
        "biz_desc": line.kind,
    }


def _count(value: object, name: str, most: int) -> int:
    found = str(value)
    if not found.isdecimal() or not 1 <= int(found) <= most:
        raise invalid(name)
    return int(found)


def _start(day: date) -> int:
    return microseconds(datetime(day.year, day.month, day.day, tzinfo=BEIJING))


def _preamble(title: str, app: App, day: date) -> list[str]:
    following = day + timedelta(days=1)
    return [
        f"#{title}",
        f"#账号\uff1a[{app.seller_id}0156]",
        f"#起始日期\uff1a[{_chinese(_start(day))}]   终止日期\uff1a[{_chinese(_start(following))}]",
    ]


def _chinese(at: int) -> str:
    local = moment(at).astimezone(BEIJING)
    return f"{local:%Y}年{local:%m}月{local:%d}日 {local:%H:%M:%S}"


def _details(app: App, day: date, lines: list[Line], now: int, *, old: bool) -> bytes:
    """The file of every line: values end with a tab, so that no program takes them for numbers."""
    out = io.StringIO()
    out.write("\r\n".join(_preamble("支付宝账务明细查询", app, day)) + "\r\n")
    out.write(f"#{_RULE}账务明细列表{_RULE}\r\n")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([name.translate(_FULL) if old else name for name in _HEADERS])
    for line in lines:
        income, expense = max(line.amount, 0), min(line.amount, 0)
        values = (
            line.id, line.order_no, line.merchant_no, line.title, beijing(line.at), line.other,
            yuan(income) if income else "", yuan(expense) if expense else "", yuan(line.balance),
            "支付宝", line.kind, line.memo,
        )  # fmt: skip
        writer.writerow([f"{value}\t" for value in values])
    out.write(f"#{_RULE}账务明细列表结束{_RULE}\r\n")
    for word, sign in (("支出", -1), ("收入", 1)):
        amounts = [line.amount for line in lines if line.amount * sign > 0]
        out.write(f"#{word}合计\uff1a{len(amounts)}笔\uff0c共{yuan(sum(amounts))}元\r\n")
    out.write(f"#导出时间\uff1a[{_chinese(now)}]\r\n")
    return out.getvalue().encode("gb18030")


def _summary(app: App, day: date, lines: list[Line], now: int) -> bytes:
    out = io.StringIO()
    out.write("\r\n".join(_preamble("支付宝账务汇总查询", app, day)) + "\r\n")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(_TYPES)
    for kind in sorted({line.kind for line in lines}):
        amounts = [line.amount for line in lines if line.kind == kind]
        writer.writerow([f"{kind}\t", f"{len(amounts)}\t", f"{yuan(sum(amounts))}\t"])
    out.write(f"#导出时间\uff1a[{_chinese(now)}]\r\n")
    return out.getvalue().encode("gb18030")


def _archive(files: dict[str, bytes]) -> bytes:
    """A ZIP archive whose names are in GBK and do not say so, as old Chinese archives have them.

    The library would write such names in UTF-8, so each is written as ASCII of the same length
    and put right in the finished bytes. Neither the sizes nor the checksums cover names.
    """
    made = io.BytesIO()
    renamed: list[tuple[bytes, bytes]] = []
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, (name, content) in enumerate(files.items()):
            wanted = name.encode("gbk")
            stand_in = f"{place}@".ljust(len(wanted), "@")
            renamed.append((stand_in.encode(), wanted))
            info = zipfile.ZipInfo(stand_in)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    whole = made.getvalue()
    for stand_in_bytes, wanted in renamed:
        whole = whole.replace(stand_in_bytes, wanted)
    return whole
