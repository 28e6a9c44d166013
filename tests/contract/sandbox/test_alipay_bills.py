"""The account log and its files: what was booked, unless a knob says not."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import pytest
from tests.contract.sandbox.alipay_client import ADA, CARD, Customer, card_order
from tests.contract.sandbox.support import Client
from tests.contract.sandbox.test_alipay_trades import pay, precreate

DAY = {"start_time": "2026-01-05 00:00:00", "end_time": "2026-01-07 23:59:59"}


@pytest.fixture
async def noon(client: Client) -> None:
    """It is noon of the fifth in Beijing."""
    await client.control("clock", set="2026-01-05T04:00:00Z")


async def log(customer: Customer, **more: str) -> list[dict[str, Any]]:
    answer = await customer.call("GET", "/data/bill/accountlog/query", **{**DAY, **more})
    assert answer.status == 200, answer.body
    return answer.body["detail_list"]


async def archive(customer: Customer, day: str = "2026-01-05") -> dict[str, str]:
    answer = await customer.call(
        "GET", "/data/dataservice/bill/downloadurl/query", bill_type="signcustomer", bill_date=day
    )
    assert answer.status == 200, answer.body
    got = await customer.http.get(answer.body["bill_download_url"])
    assert got.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(got.content), metadata_encoding="gbk") as packed:
        assert packed.testzip() is None
        return {name: packed.read(name).decode("gbk") for name in packed.namelist()}


async def detail(customer: Customer, day: str = "2026-01-05") -> list[str]:
    files = await archive(customer, day)
    (name,) = (name for name in files if name.endswith("_账务明细.csv"))
    return files[name].split("\r\n")


async def test_the_log_has_every_movement(customer: Customer, client: Client, noon: None) -> None:
    await customer.transfer("R1")
    await precreate(customer)
    await pay(client, customer)
    await client.control("oracle", payee=CARD, outcome="fail")
    await customer.call("POST", "/fund/trans/uni/transfer", **card_order("R2"))
    await client.control("clock", advance_seconds=60)
    lines = [
        (line["type"], line["direction"], line["trans_amount"], line["merchant_order_no"])
        for line in await log(customer)
    ]
    assert lines == [
        ("充值", "收入", "10000.00", ""),
        ("转账", "支出", "12.34", "R1"),
        ("在线支付", "收入", "88.80", "ORDER-1"),
        ("收费", "支出", "0.53", "ORDER-1"),
        ("转账", "支出", "12.34", "R2"),
        ("转账退回", "收入", "12.34", "R2"),
    ]
    assert (await log(customer))[-1]["balance"] == await customer.balance()
    assert (await log(customer, merchant_order_no="R1"))[0]["other_account"] == ADA


async def test_pages_and_windows(customer: Customer, client: Client, noon: None) -> None:
    for number in range(5):
        await customer.transfer(f"R{number}", "1.00")
    paged = await customer.call(
        "GET", "/data/bill/accountlog/query", **DAY, page_no="2", page_size="4"
    )
    assert (paged.body["total_size"], len(paged.body["detail_list"])) == ("6", 2)
    for wrong in (
        {"end_time": "2026-02-06 00:00:00"},
        {"end_time": "2026-01-04 00:00:00"},
        {"start_time": "yesterday"},
        {"page_size": "2001"},
        {"page_no": "0"},
    ):
        refused = await customer.call("GET", "/data/bill/accountlog/query", **{**DAY, **wrong})
        assert refused.body["code"] == "INVALID_PARAMETER"


async def test_the_file_of_a_day(customer: Customer, client: Client, noon: None) -> None:
    await customer.transfer("R1", order_title='工资, "一月"')
    await customer.transfer("R2", "0.66")
    await client.control("clock", set="2026-01-06T02:00:00Z")
    lines = await detail(customer)
    assert lines[0] == "#支付宝账务明细查询"
    assert lines[1] == "#账号\uff1a[20880000000000010156]"
    assert lines[2] == (
        "#起始日期\uff1a[2026年01月05日 00:00:00]   终止日期\uff1a[2026年01月06日 00:00:00]"
    )
    assert "账务明细列表" in lines[3]
    assert lines[4].split(",")[:3] == ["账务流水号", "业务流水号", "商户订单号"]
    assert "收入金额\uff08+元\uff09" in lines[4]
    assert lines[6].split(",")[2] == "R1\t"
    assert ",-12.34\t," in lines[6]
    assert lines[9] == "#支出合计\uff1a2笔\uff0c共-13.00元"
    assert lines[10] == "#收入合计\uff1a1笔\uff0c共10000.00元"
    assert lines[11].startswith("#导出时间")
    files = await archive(customer)
    assert any(name.endswith("(汇总).csv") for name in files)
    await client.control("alipay/faults", bill_old_headers=1)
    assert "收入金额(+元)" in (await detail(customer))[4]


async def test_the_address_lasts_half_a_minute_and_the_file_comes_at_nine(
    customer: Customer, client: Client, noon: None
) -> None:
    ask = {"bill_type": "signcustomer", "bill_date": "2026-01-05"}
    path = "/data/dataservice/bill/downloadurl/query"
    for moment in ("2026-01-05T16:30:00Z", "2026-01-06T00:59:00Z"):
        await client.control("clock", set=moment)
        assert (await customer.call("GET", path, **ask)).body["code"] == "BILL_NOT_EXIST"
    await client.control("clock", set="2026-01-06T01:00:01Z")
    url = (await customer.call("GET", path, **ask)).body["bill_download_url"]
    assert (await customer.http.get(url)).status_code == 200
    await client.control("clock", advance_seconds=31)
    assert (await customer.http.get(url)).status_code == 403
    assert (await customer.http.get(f"{customer.url}/bill/download?token=x")).status_code == 403
    await client.control("alipay/faults", bill_missing=1)
    assert (await customer.call("GET", path, **ask)).body["code"] == "BILL_NOT_EXIST"
    trade = await customer.call("GET", path, **{**ask, "bill_type": "other"})
    assert trade.body["code"] == "INVALID_PARAMETER"


async def test_planted_differences(customer: Customer, client: Client, noon: None) -> None:
    await client.control("alipay/faults", bill_omit=1)
    await customer.transfer("OMIT")
    await client.control("alipay/faults", bill_alter=1)
    await customer.transfer("ALTER")
    await client.control("alipay/faults", bill_shift=1)
    await customer.transfer("SHIFT")
    await client.control("alipay/faults", bill_extra=1)
    await customer.transfer("EXTRA")
    lines = {line["merchant_order_no"]: line for line in await log(customer)}
    assert "OMIT" not in lines
    assert lines["ALTER"]["trans_amount"] == "13.34"
    assert lines["SHIFT"]["trans_dt"].startswith("2026-01-06 ")
    extra = set(lines) - {"", "ALTER", "SHIFT", "EXTRA"}
    assert len(extra) == 1
    await client.control("clock", set="2026-01-06T02:00:00Z")
    assert not any("SHIFT" in line for line in await detail(customer))
    assert await customer.balance() == "9950.64", "the money itself is as it was ordered"
    books = await client.books()
    assert books["proven"]
    assert books["paid_minor"] == {"CNY": 4 * 1234}


async def test_the_whole_log_adds_up_to_the_balance(
    customer: Customer, client: Client, noon: None
) -> None:
    for number in range(7):
        await customer.transfer(f"R{number}", f"{number + 1}.11")
    await client.control("alipay/return", app_id=customer.app_id, out_biz_no="R3")
    total = sum(
        int(line["trans_amount"].replace(".", "")) * (1 if line["direction"] == "收入" else -1)
        for line in await log(customer)
    )
    assert f"{total // 100}.{total % 100:02}" == await customer.balance()
