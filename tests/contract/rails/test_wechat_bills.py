"""WeChat's daily files: read by name, whole or not at all, and no proof that a payee was paid."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
import pytest_asyncio
from tests.contract.sandboxes import Outside, outside
from tests.contract.wechat_world import WeChatHarness

from paymaster.kernel.errors import RailUnknown, Refusal
from paymaster.kernel.ids import reference
from paymaster.kernel.money import Money
from paymaster.rails.base import LineKind, RailAccount, RemoteFile, Statement, StatementLine
from paymaster.rails.wechat import bills, calls, flow, receipts
from paymaster.rails.wechat.table import Table

HEADER = (
    "记账时间,微信支付业务单号,资金流水单号,业务名称,业务类型,收支类型,收支金额(元),账户结余(元),"
    "资金变更提交申请人,备注,业务凭证号"
)
SUMS = "资金流水总笔数,收入笔数,收入金额,支出笔数,支出金额"
ACCOUNT = RailAccount(1, "wx", "wechat-pay", "CNY", {"mchid": "1900000001"}, {})
OURS = reference(1, 77)
NAME = f"wechat-flow-1900000001-OPERATION-2026-03-01-{'0' * 16}.csv"


def row(
    number: str, kind: str, amount: str, balance: str, voucher: str = "", note: str = "",
    at: str = "2026-03-01 10:00:00",
) -> str:  # fmt: skip
    direction = "支出" if amount.startswith("-") else "收入"
    values = (
        at, "42", number, kind, kind, direction, amount.lstrip("-"), balance, "1900000001", note,
        voucher,
    )  # fmt: skip
    return ",".join(f"`{value}" for value in values)


def file(rows: list[str], sums: str, header: str = HEADER) -> bytes:
    return ("\r\n".join(["\ufeff" + header, *rows, SUMS, sums]) + "\r\n").encode()


DAY = [
    row("F1", "充值", "100.00", "100.00"),
    row("F2", "商家转账", "-12.34", "87.66", OURS, "a, `b` and, c"),
    row("F3", "商家转账", "-2.00", "85.66", reference(1, 78)),
    row("F4", "商家转账退回", "2.00", "87.66", reference(1, 78)),
    row("F5", "扣除交易手续费", "-0.06", "87.60"),
    row("F6", "交易", "10.00", "97.60", "ORDER-1"),
    row("F7", "提现", "-7.60", "90.00"),
]
WHOLE = file(DAY, "`7.0,`3.0,`112.00,`4.0,`22.00")


def test_each_row_is_what_it_is() -> None:
    (found,) = flow.read(ACCOUNT, "OPERATION", NAME, WHOLE)
    assert isinstance(found, Statement)
    assert (found.opening, found.closing) == (Money(0, "CNY"), Money(9000, "CNY"))
    assert not found.difference
    lines = {line.line_id: line for line in found.lines}
    kinds = {number: line.kind for number, line in lines.items()}
    assert kinds == {
        "F1": LineKind.TOPUP, "F2": LineKind.SET_APART, "F3": LineKind.OTHER, "F5": LineKind.FEE,
        "F6": LineKind.INCOMING, "F7": LineKind.OTHER,
    }  # fmt: skip
    assert (lines["F2"].amount, lines["F2"].reference) == (Money(-1234, "CNY"), OURS)
    assert lines["F3"].amount == Money(0, "CNY"), "what came back the same day moved nothing"
    assert "F4" in (lines["F3"].remittance or "")


def test_a_booked_row_proves_no_payment() -> None:
    notices, statements = bills.read(ACCOUNT, NAME, WHOLE)
    assert (list(notices), len(statements)) == ([], 1)


def test_what_comes_back_another_day_is_a_return() -> None:
    back = file([row("F8", "商家转账退回", "2.00", "92.00", OURS)], "`1.0,`1.0,`2.00,`0.0,`0.00")
    (found,) = flow.read(ACCOUNT, "OPERATION", NAME, back)
    (line,) = found.lines
    assert (line.kind, line.amount) == (LineKind.GIVEN_BACK, Money(200, "CNY"))


def test_a_row_of_yesterday_belongs_to_the_day_whose_bill_has_it() -> None:
    """The balance of the last row of today is what today closed with."""
    rows = [
        row("F0", "商家转账", "-5.00", "60.00", OURS, at="2026-02-28 23:59:59"),
        row("F1", "充值", "10.00", "70.00", at="2026-03-01 08:00:00"),
    ]
    (found,) = flow.read(ACCOUNT, "OPERATION", NAME, file(rows, "`2.0,`1.0,`10.00,`1.0,`5.00"))
    assert (found.opening.minor, found.closing.minor) == (6500, 7000)
    assert [line.booked_on.day for line in found.lines] == [28, 1]
    only = file(rows[:1], "`1.0,`0.0,`0.00,`1.0,`5.00")
    (found,) = flow.read(ACCOUNT, "OPERATION", NAME, only)
    assert (found.opening.minor, found.closing.minor) == (6500, 6000)


@pytest.mark.parametrize("at", ["2026-03-02 00:00:00", "2026-02-18 23:59:59"])
def test_a_row_of_tomorrow_or_of_long_ago_is_not_believed(at: str) -> None:
    body = file([row("F1", "充值", "1.00", "1.00", at=at)], "`1.0,`1.0,`1.00,`0.0,`0.00")
    with pytest.raises(Refusal) as caught:
        flow.read(ACCOUNT, "OPERATION", NAME, body)
    assert caught.value.slug == "statement-malformed"


def test_a_missing_row_is_seen_where_the_day_opens() -> None:
    """It opened with 100.00; without a row of -2.00 it seems to have opened with less."""
    rows = [
        row("F1", "提现", "-1.00", "99.00", at="2026-03-01 10:00:00"),
        row("F3", "提现", "-3.00", "94.00", at="2026-03-01 12:00:00"),
    ]
    (found,) = flow.read(ACCOUNT, "OPERATION", NAME, file(rows, "`2.0,`0.0,`0.00,`2.0,`4.00"))
    assert (found.opening.minor, found.closing.minor, found.difference.minor) == (9800, 9400, 0)


def test_what_a_person_wrote_cannot_break_a_row() -> None:
    noted = row("F1", "商家转账", "-1.00", "9.00", OURS, "a,`b`,`\\r\\n`c,``,")
    (found,) = flow.read(ACCOUNT, "OPERATION", NAME, file([noted], "`1.0,`0.0,`0.00,`1.0,`1.00"))
    (line,) = found.lines
    assert (line.reference, line.kind) == (OURS, LineKind.SET_APART)


def test_the_owner_may_say_that_top_ups_are_his() -> None:
    own = replace(ACCOUNT, settings={**ACCOUNT.settings, "topups": "own"})
    (found,) = flow.read(own, "OPERATION", NAME, WHOLE)
    kinds = {line.line_id: line.kind for line in found.lines}
    assert (kinds["F1"], kinds["F7"]) == (LineKind.OWN, LineKind.OWN)
    assert (kinds["F2"], kinds["F6"]) == (LineKind.SET_APART, LineKind.INCOMING)


def test_columns_are_found_by_name() -> None:
    names = HEADER.split(",")
    turned = [names[-1], *names[:-1]]
    rows = [",`".join(["`" + one.split(",`")[-1], one[1:].rpartition(",`")[0]]) for one in DAY]
    wide = ",".join(turned).replace("(", "\uff08").replace(")", "\uff09")
    moved = file(rows, "`7.0,`3.0,`112.00,`4.0,`22.00", wide)
    assert flow.read(ACCOUNT, "OPERATION", NAME, moved) == (
        flow.read(ACCOUNT, "OPERATION", NAME, WHOLE)
    )


def test_a_file_that_begins_with_the_newest_row_is_the_same_day() -> None:
    rows = [
        row("F2", "提现", "-1.00", "9.00", at="2026-03-01 11:00:00"),
        row("F1", "充值", "4.00", "10.00"),
    ]
    (found,) = flow.read(ACCOUNT, "OPERATION", NAME, file(rows, "`2.0,`1.0,`4.00,`1.0,`1.00"))
    assert (found.opening.minor, found.closing.minor) == (600, 900)


def test_a_day_without_a_row_is_no_statement() -> None:
    assert flow.read(ACCOUNT, "OPERATION", NAME, file([], "`0.0,`0.0,`0.00,`0.0,`0.00")) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        WHOLE[:-2],
        WHOLE[: len(WHOLE) // 2] + b"\n",
        WHOLE.replace("业务凭证号".encode(), b"voucher"),
        WHOLE.replace(b"`7.0,", b"`8.0,"),
        WHOLE.replace(b"`112.00,", b"`112.01,"),
        WHOLE.replace(b"`12.34", b"`12.345"),
        WHOLE.replace("支出".encode(), "借".encode(), 1),
        WHOLE.replace(b"2026-03-01 10", b"2026-03-02 10", 1),
        WHOLE.replace(b"`F2", b"`F1"),
        WHOLE.replace(b"`42,", b"", 1),
        WHOLE.replace("充值".encode(), b"\xff\xfe"),
        WHOLE + b"more\r\n",
        file(DAY, "`7.0,`3.0,`112.00,`4.0"),
    ],
)
def test_what_is_not_whole_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        flow.read(ACCOUNT, "OPERATION", NAME, body)
    assert caught.value.slug == "statement-malformed"


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        (NAME.replace("1900000001", "1900000002"), "statement-foreign"),
        (NAME.replace("OPERATION", "BASIC"), "statement-foreign"),
        (NAME.replace("03-01", "13-01"), "statement-foreign"),
        ("flow.csv", "statement-malformed"),
    ],
)
def test_another_accounts_file_is_refused(name: str, slug: str) -> None:
    with pytest.raises(Refusal) as caught:
        flow.read(ACCOUNT, "OPERATION", name, WHOLE)
    assert caught.value.slug == slug


TRADE = (
    "交易时间,公众账号ID,商户号,特约商户号,设备号,微信订单号,商户订单号,用户标识,交易类型,交易状态,"
    "付款银行,货币种类,应结订单金额,代金券金额,微信退款单号,商户退款单号,退款金额,充值券退款金额,"
    "退款类型,退款状态,商品名称,商户数据包,手续费,费率,订单金额,申请退款金额,费率备注"
)
TRADE_SUMS = (
    "总交易单数,应结订单总金额,退款总金额,充值券退款总金额,手续费总金额,订单总金额,申请退款总金额"
)


def trade_rows(body: bytes) -> Table:
    return Table(body, ("交易时间", "商户号", "手续费"), "总交易单数", free="商品名称")


def test_another_bill_of_the_provider_row_by_row() -> None:
    first = ["2026-03-01 09:00:00", "wx1", "19", "0", "", "4200", "ORDER-1", "o1", "JSAPI"]
    first += ["SUCCESS", "OTHERS", "CNY", "1.00", "0.00", "0", "0", "0.00", "0.00", "", ""]
    first += ["Tea, with `milk`", "", "0.00600", "0.60%", "1.00", "0.00", ""]
    line = ",".join(f"`{value}" for value in first)
    sums = "`1.0,`1.00,`0.00,`0.00,`0.01000,`1.00,`0.00"
    whole = ("\r\n".join(["\ufeff" + TRADE, line, TRADE_SUMS, sums]) + "\r\n").encode()
    (found,) = trade_rows(whole)
    assert len(found) == 27
    assert (found["商户订单号"], found["商品名称"]) == ("ORDER-1", "Tea, with `milk`")
    assert found["手续费"] == "0.00600"
    with pytest.raises(Refusal):
        list(trade_rows(whole.replace(b"`1.0,`1.00", b"`2.0,`1.00")))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Outside]:
    async with outside(tmp_path_factory.mktemp("world")) as world:
        yield world


async def days(harness: WeChatHarness, seen: set[str]) -> list[RemoteFile]:
    await harness.close_day()
    rail = harness.make_rail()
    got = list(await rail.fetch(harness.account, frozenset(seen)))
    seen |= {one.name for one in got}
    return got


@pytest.mark.asyncio(loop_scope="module")
async def test_the_days_of_the_sandbox_add_up(found: Outside) -> None:
    harness = await WeChatHarness.open(found, "transfer-bills", 1)
    seen = set[str]()
    await days(harness, seen)
    paid, waits = *harness.instructions(1), *harness.instructions(1, behaviour="wait")
    rail = harness.make_rail()
    for item in (paid, waits):
        await rail.send(
            harness.account, rail.prepare(harness.account, item.key, [item], paid.created_at)
        )
    lines: list[StatementLine] = []
    for _ in range(4):
        for one in await days(harness, seen):
            for statement in rail.read_file(harness.account, one.name, one.body)[1]:
                assert not statement.difference
                lines += statement.lines
    out = {line.reference: line for line in lines if line.kind is LineKind.SET_APART}
    assert out[paid.key].amount == -paid.amount
    back = [line for line in lines if line.kind is LineKind.GIVEN_BACK]
    assert [(line.reference, line.amount) for line in back] == [(waits.key, waits.amount)]
    assert (await rail.query(harness.account, waits.key)).code == "OVERDUE_CLOSE"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_receipt_is_made_and_checked(found: Outside) -> None:
    harness = await WeChatHarness.open(found, "transfer-bills", 2)
    (item,) = harness.instructions(1)
    named = {**item.payee.details, "name": "王小明"}
    rail = harness.make_rail()
    item = type(item)(
        item.key, item.amount, type(item.payee)("wechat", named), "x", item.created_at
    )
    await rail.send(
        harness.account, rail.prepare(harness.account, item.key, [item], item.created_at)
    )
    await harness.rest()
    body = await rail.receipt(harness.account, item.key)
    for _ in range(200):
        if body is not None:
            break
        await harness.rest()
        body = await rail.receipt(harness.account, item.key)
    assert body is not None
    assert body.startswith(b"%PDF")
    deps, url = rail._deps, f"{receipts.PATH}/{item.key}"
    said = (await calls.ask(deps, harness.account, "GET", url)).found
    assert hashlib.sha256(body).hexdigest() == str(said["hash_value"]).lower()
    finished = receipts.ReceiptState.FINISHED
    address = str(said["download_url"])
    false = receipts.Receipt(item.key, finished, "0" * 64, "SHA256", address)
    with pytest.raises(RailUnknown):
        await receipts.download(deps, harness.account, false)
