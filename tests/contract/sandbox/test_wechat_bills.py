"""Daily files: exact bytes over the provider's own books, sums that add up, planted differences."""

from __future__ import annotations

import gzip
import hashlib
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.contract.sandbox.support import Receiver, eventually
from tests.contract.sandbox.test_wechat_enterprise import message, read, trusting
from tests.contract.sandbox.test_wechat_orders import fields, order
from tests.contract.sandbox.wechat_support import BILLS, MCHID, Merchant, bill, clock

from paymaster_sandbox import World

BEIJING = timezone(timedelta(hours=8))
FLOW = (
    "记账时间,微信支付业务单号,资金流水单号,业务名称,业务类型,收支类型,收支金额(元),账户结余(元),"
    "资金变更提交申请人,备注,业务凭证号"
)
PAY = "/v3/pay/transactions"


def today(world: World) -> date:
    with world.chassis.tx() as tx:
        return datetime.fromtimestamp(tx.now / 1_000_000, UTC).astimezone(BEIJING).date()


async def at_noon(world: World) -> date:
    """Move to noon in Beijing of the next day, so that a test's day does not end under it."""
    day = today(world) + timedelta(days=1)
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=BEIJING)
    world.move_clock(round(noon.timestamp() * 1_000_000), 0)
    return day


async def ready(world: World, day: date) -> None:
    after = day + timedelta(days=1)
    ten = datetime(after.year, after.month, after.day, 10, 1, tzinfo=BEIJING)
    world.move_clock(round(ten.timestamp() * 1_000_000), 0)


async def published(merchant: Merchant, path: str, day: date, **more: str) -> httpx.Response:
    query = "&".join(f"{name}={value}" for name, value in {"bill_date": str(day), **more}.items())
    return await merchant.get(f"/v3/bill/{path}?{query}")


async def fetched(merchant: Merchant, answer: httpx.Response, *, packed: bool = True) -> bytes:
    assert answer.status_code == 200, answer.text
    found = answer.json()
    target = httpx.URL(found["download_url"])
    raw = await merchant.get(target.raw_path.decode())
    assert raw.status_code == 200
    assert "wechatpay-signature" not in raw.headers
    body = gzip.decompress(raw.content) if packed else raw.content
    assert found["hash_type"] == "SHA1"
    assert found["hash_value"] == hashlib.sha1(body, usedforsecurity=False).hexdigest()
    return body


def parsed(body: bytes) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Rows and summary, by the names of the columns."""
    assert body.startswith(b"\xef\xbb\xbf")
    assert body.endswith(b"\r\n")
    lines = body.decode("utf-8-sig").split("\r\n")[:-1]
    header, *rows, names, sums = lines
    columns = header.split(",")
    found = [dict(zip(columns, row[1:].split(",`"), strict=True)) for row in rows]
    return found, dict(zip(names.split(","), sums[1:].split(",`"), strict=True))


async def flow(merchant: Merchant, day: date, account: str = "OPERATION") -> Any:
    answer = await published(merchant, "fundflowbill", day, account_type=account, tar_type="GZIP")
    return parsed(await fetched(merchant, answer))


async def some_transfers(merchant: Merchant, world: World) -> date:
    """One paid, one that the user let run out the day after."""
    day = await at_noon(world)
    openid = await merchant.user()
    for number, fen in (("A1", 1234), ("A2", 200)):
        await merchant.transfer(number, openid, fen)
    await merchant.act("A1")

    async def paid() -> bool:
        return await merchant.state("A1") == "SUCCESS"

    await eventually(paid)
    return day


async def test_transfers_are_in_the_flow_of_the_day_they_moved(
    merchant: Merchant, world: World
) -> None:
    day = await some_transfers(merchant, world)
    await ready(world, day)
    answer = await published(merchant, "fundflowbill", day, account_type="OPERATION")
    body = await fetched(merchant, answer, packed=False)
    assert body.decode("utf-8-sig").split("\r\n")[0] == FLOW
    rows, sums = parsed(body)
    assert [(row["业务凭证号"], row["收支类型"], row["收支金额(元)"]) for row in rows] == [
        ("A1", "支出", "12.34"), ("A2", "支出", "2.00"),
    ]  # fmt: skip
    assert rows[-1]["账户结余(元)"] == "9985.66"
    assert sums == {
        "资金流水总笔数": "2.0", "收入笔数": "0.0", "收入金额": "0.00", "支出笔数": "2.0",
        "支出金额": "14.34",
    }  # fmt: skip
    assert all(row["记账时间"].startswith(str(day)) for row in rows)
    await clock(world, 3 * 3600)
    await ready(world, day + timedelta(days=1))
    rows, sums = await flow(merchant, day + timedelta(days=1))
    assert [(row["业务凭证号"], row["收支类型"]) for row in rows] == [("A2", "收入")]
    assert rows[0]["账户结余(元)"] == "9987.66"


async def test_it_is_ready_at_ten_and_gone_after_three_months(
    merchant: Merchant, world: World
) -> None:
    day = await some_transfers(merchant, world)
    for wrong in (day, day + timedelta(days=1)):
        answer = await published(merchant, "fundflowbill", wrong, account_type="OPERATION")
        assert (answer.status_code, answer.json()["code"]) == (400, "PARAM_ERROR")
    await clock(world, 14 * 3600)
    early = await published(merchant, "fundflowbill", day, account_type="OPERATION")
    assert early.json()["code"] == "STATEMENT_CREATING"
    await ready(world, day)
    none = await published(merchant, "fundflowbill", day, account_type="FEES")
    assert none.json()["code"] == "NO_STATEMENT_EXIST"
    await clock(world, 93 * 86_400)
    late = await published(merchant, "fundflowbill", day, account_type="OPERATION")
    assert late.json()["code"] == "PARAM_ERROR"


async def test_tokens_run_out_and_belong_to_one_merchant(merchant: Merchant, world: World) -> None:
    day = await some_transfers(merchant, world)
    await ready(world, day)
    answer = await published(merchant, "fundflowbill", day, account_type="OPERATION")
    target = httpx.URL(answer.json()["download_url"]).raw_path.decode()
    other = Merchant(merchant.http, merchant.control, merchant.private, "1900000002")
    await other.register()
    assert (await other.get(target)).status_code == 400
    assert (await merchant.http.get(target)).status_code == 401
    assert (await merchant.get(target)).status_code == 200
    await clock(world, 301)
    assert (await merchant.get(target)).status_code == 400


async def test_the_trade_bill(merchant: Merchant, world: World, receiver: Receiver) -> None:
    day = await at_noon(world)
    for number, total in (("ORDER1", 10_000), ("ORDER2", 333)):
        await merchant.call("POST", f"{PAY}/native", order(number, receiver, total))
        await merchant.act(number, "pay", kind="order")
    body = {
        "out_trade_no": "ORDER1", "out_refund_no": "R1",
        "amount": {"refund": 2500, "total": 10_000, "currency": "CNY"},
    }  # fmt: skip
    assert (await merchant.call("POST", "/v3/refund/domestic/refunds", body)).status_code == 200
    await ready(world, day)
    counts = {"ALL": (3, 27), "SUCCESS": (2, 20), "REFUND": (1, 29)}
    for kind, (lines, columns) in counts.items():
        answer = await published(merchant, "tradebill", day, bill_type=kind, tar_type="GZIP")
        rows, sums = parsed(await fetched(merchant, answer))
        assert (len(rows), len(rows[0])) == (lines, columns)
        assert sums["总交易单数"] == f"{lines}.0"
        assert (
            sums["应结订单总金额"] == {"ALL": "103.33", "SUCCESS": "103.33", "REFUND": "0.00"}[kind]
        )
    answer = await published(merchant, "tradebill", day)
    rows, sums = parsed(await fetched(merchant, answer, packed=False))
    by_no = {(row["商户订单号"], row["交易状态"]): row for row in rows}
    assert by_no["ORDER1", "SUCCESS"]["手续费"] == "0.60000"
    refunded = by_no["ORDER1", "REFUND"]
    assert (refunded["手续费"], refunded["退款金额"], refunded["应结订单金额"]) == (
        "-0.15000", "25.00", "0.00",
    )  # fmt: skip
    assert (sums["手续费总金额"], sums["退款总金额"]) == ("0.47000", "25.00")
    rows, sums = await flow(merchant, day, "BASIC")
    assert [row["业务名称"] for row in rows] == [
        "交易", "扣除交易手续费", "交易", "扣除交易手续费", "退款", "返还手续费",
    ]  # fmt: skip
    books = await merchant.books()
    assert rows[-1]["账户结余(元)"] == f"{books['merchants'][MCHID]['BASIC_fen'] / 100:.2f}"


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("omit", -1), ("extra", 1), ("alter", 0), ("pair", 2), ("odd_text", 0), ("next_day", -1),
    ],
)  # fmt: skip
async def test_planted_differences_stay_and_the_sums_hide_them(
    merchant: Merchant, world: World, kind: str, change: int
) -> None:
    day = await some_transfers(merchant, world)
    await ready(world, day)
    await merchant.mishap("bill.flow", kind)
    rows, sums = await flow(merchant, day)
    assert len(rows) == 2 + change
    out = [row["收支金额(元)"].replace(".", "") for row in rows if row["收支类型"] == "支出"]
    assert sums["支出金额"].replace(".", "") == str(sum(int(text) for text in out))
    assert sum(int(text) for text in out) != 1434 or kind == "odd_text"
    if kind == "odd_text":
        assert "Tea, `white`\\r\\nand black" in [row["备注"] for row in rows]
    assert await flow(merchant, day) == (rows, sums)
    if kind == "next_day":
        await clock(world, 3 * 3600)
        await ready(world, day + timedelta(days=1))
        later, _ = await flow(merchant, day + timedelta(days=1))
        assert {row["业务凭证号"] for row in rows + later} == {"A1", "A2"}
        assert [row["记账时间"][:10] for row in later[:1]] == [str(day)]


async def test_old_headers_and_late_files(
    merchant: Merchant, world: World, receiver: Receiver
) -> None:
    day = await at_noon(world)
    await merchant.call("POST", f"{PAY}/native", order("ORDER1", receiver))
    await merchant.act("ORDER1", "pay", kind="order")
    await ready(world, day)
    await merchant.mishap("bill.trade", "creating")
    await merchant.mishap("bill.trade", "legacy_header")
    assert (await published(merchant, "tradebill", day)).json()["code"] == "STATEMENT_CREATING"
    rows, _ = parsed(
        await fetched(merchant, await published(merchant, "tradebill", day), packed=False)
    )
    assert (len(rows[0]), rows[0]["总金额"]) == (24, "100.00")
    assert "应结订单金额" not in rows[0]


async def test_the_old_downloads(
    merchant: Merchant, world: World, receiver: Receiver, tmp_path: Path
) -> None:
    day = await some_transfers(merchant, world)
    await merchant.call("POST", f"{PAY}/native", order("ORDER1", receiver))
    await merchant.act("ORDER1", "pay", kind="order")
    await ready(world, day)
    ask = fields(merchant, "MD5", bill_date=f"{day:%Y%m%d}", bill_type="ALL")
    body = (await merchant.http.post("/pay/downloadbill", content=message(ask))).content
    assert len(parsed(body)[0]) == 1
    none = fields(merchant, "MD5", bill_date=f"{day - timedelta(days=1):%Y%m%d}")
    answer = read((await merchant.http.post("/pay/downloadbill", content=message(none))).content)
    assert (answer["return_code"], answer["return_msg"]) == ("FAIL", "No Bill Exist")
    ask = fields(
        merchant, "HMAC-SHA256", bill_date=f"{day:%Y%m%d}", account_type="Operation",
        tar_type="GZIP",
    )  # fmt: skip
    context = trusting(world, merchant, tmp_path)
    async with httpx.AsyncClient(
        base_url=world.wechat_tls_url, verify=context, trust_env=False
    ) as client:
        file = await client.post("/pay/downloadfundflow", content=message(ask))
        wrong = fields(merchant, "MD5", bill_date=f"{day:%Y%m%d}", account_type="Operation")
        refused = await client.post("/pay/downloadfundflow", content=message(wrong))
    plain = gzip.decompress(file.content)
    assert len(parsed(plain)[0]) == 2
    digest = hashlib.sha1(plain, usedforsecurity=False).hexdigest()
    assert file.headers["digest"] == f"SHA={digest}"
    assert read(refused.content)["return_code"] == "FAIL"


async def test_receipts_are_for_transfers_whose_name_was_checked(
    merchant: Merchant, world: World
) -> None:
    openid = await merchant.user(behaviour="confirm")
    serial = next(iter(merchant.platform))
    named = bill("A1", openid, user_name=merchant.encrypted("张三", serial))
    await merchant.call("POST", BILLS, named, asks_for=serial)
    await merchant.transfer("A2", openid)

    async def paid() -> bool:
        return {await merchant.state(number) for number in ("A1", "A2")} == {"SUCCESS"}

    await eventually(paid)
    base = "/v3/fund-app/mch-transfer/elecsign/out-bill-no"
    nameless = await merchant.call("POST", base, {"out_bill_no": "A2"})
    assert (nameless.status_code, nameless.json()["code"]) == (400, "INVALID_REQUEST")
    asked = await merchant.call("POST", base, {"out_bill_no": "A1"})
    assert asked.json()["state"] == "GENERATING"

    async def made() -> dict[str, Any] | None:
        found = (await merchant.get(f"{base}/A1")).json()
        return found if found["state"] == "FINISHED" else None

    found = await eventually(made)
    number = (await merchant.get(f"{BILLS}/out-bill-no/A1")).json()["transfer_bill_no"]
    other = base.replace("out-bill-no", "transfer-bill-no")
    again = await merchant.call("POST", other, {"transfer_bill_no": number})
    assert again.json()["state"] == "FINISHED"
    same = (await merchant.get(f"{other}/{number}")).json()
    assert same["hash_value"] == found["hash_value"]
    target = httpx.URL(found["download_url"]).raw_path.decode()
    paper = (await merchant.get(target)).content
    assert paper.startswith(b"%PDF-")
    assert (found["hash_type"], found["hash_value"]) == (
        "SHA256", hashlib.sha256(paper).hexdigest(),
    )  # fmt: skip
    await clock(world, 601)
    assert (await merchant.get(target)).status_code == 400
    assert (await merchant.get(f"{base}/A2")).status_code == 404
