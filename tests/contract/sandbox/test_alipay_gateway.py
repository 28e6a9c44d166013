"""The old interface of the Alipay sandbox: signed parameters, and answers signed as they stand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.contract.sandbox.alipay_client import (
    APP_ID,
    Customer,
    open_customer,
    order,
    rsa_sign,
    sorted_params,
)
from tests.contract.sandbox.support import Client

from paymaster_sandbox import World

METHOD = "alipay.fund.trans.uni.transfer"


@pytest.mark.parametrize("charset", ["utf-8", "GBK"])
async def test_a_transfer_in_both_charsets(
    customer: Customer, client: Client, charset: str
) -> None:
    made = await customer.gateway(METHOD, order("R1"), charset)
    assert (made["code"], made["msg"], made["status"]) == ("10000", "Success", "SUCCESS")
    refused = await customer.gateway(METHOD, order("R1", "9.99"), charset)
    assert refused["sub_code"] == "PAYMENT_INFO_INCONSISTENCY"
    assert "参数不一致" in refused["sub_msg"]
    assert (await client.books())["references"] == {"R1": 1}


async def test_both_interfaces_know_the_same_transfers(customer: Customer) -> None:
    made = await customer.transfer("R1")
    wanted = {
        "out_biz_no": "R1",
        "product_code": "TRANS_ACCOUNT_NO_PWD",
        "biz_scene": "DIRECT_TRANSFER",
    }
    found = await customer.gateway("alipay.fund.trans.common.query", wanted)
    assert found["order_id"] == made.body["order_id"]
    missing = await customer.gateway(
        "alipay.fund.trans.common.query", {**wanted, "out_biz_no": "R2"}
    )
    assert (missing["code"], missing["sub_code"]) == ("40004", "ORDER_NOT_EXIST")


async def test_the_answer_is_signed_as_it_is_written(customer: Customer) -> None:
    """Slashes are escaped, so that whoever writes the object again verifies something else."""
    params = customer.gateway_params(
        "alipay.trade.precreate",
        {"out_trade_no": "O1", "total_amount": "1.00", "subject": "x"},
    )
    answer = await customer.post(params)
    assert "\\/qr\\/" in answer.text
    opened = customer.opened(answer, "alipay.trade.precreate")
    assert opened["qr_code"].startswith(f"{customer.url}/qr/")


@pytest.mark.parametrize(
    ("change", "sub_code"),
    [
        ({"app_id": ""}, "isv.missing-app-id"),
        ({"app_id": "2021000000000000"}, "isv.invalid-app-id"),
        ({"method": ""}, "isv.missing-method"),
        ({"method": "alipay.nothing"}, "isv.invalid-method"),
        ({"version": "2.0"}, "isv.invalid-version"),
        ({"sign_type": "RSA"}, "isv.invalid-signature-type"),
        ({"timestamp": "2020-01-01 00:00:00"}, "isv.invalid-timestamp"),
        ({"timestamp": ""}, "isv.missing-timestamp"),
        ({"app_cert_sn": ""}, "isv.missing-app-cert-sn"),
        ({"app_cert_sn": "0" * 32}, "isv.app-cert-not-exist"),
        ({"alipay_root_cert_sn": ""}, "isv.missing-alipay-root-cert-sn"),
        ({"alipay_root_cert_sn": "0" * 32}, "isv.invalid-alipay-root-cert-sn"),
        ({"format": "XML"}, "isv.invalid-format"),
    ],
)
async def test_common_parameters_are_checked(
    customer: Customer, client: Client, change: dict[str, str], sub_code: str
) -> None:
    params = {**customer.gateway_params(METHOD, order("R1")), **change}
    params["sign"] = rsa_sign(sorted_params(params, "sign").encode())
    envelope = (await customer.post(params)).json()
    assert "sign" not in envelope
    (inner,) = envelope.values()
    assert inner["sub_code"] == sub_code
    assert (await client.books())["references"] == {}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda params: {**params, "sign": ""},
        lambda params: {**params, "sign": params["sign"][:-8] + "AAAAAAA="},
        lambda params: {**params, "biz_content": json.dumps(order("R1", "99.00"))},
        lambda params: {**params, "notify_url": "http://elsewhere.example"},
    ],
)
async def test_what_is_not_signed_is_not_done(
    customer: Customer, client: Client, spoil: Any
) -> None:
    answer = await customer.post(spoil(customer.gateway_params(METHOD, order("R1"))))
    inner = answer.json()["alipay_fund_trans_uni_transfer_response"]
    assert inner["sub_code"] in ("isv.missing-signature", "isv.invalid-signature")
    assert (await client.books())["references"] == {}


async def test_bytes_that_are_not_of_the_charset_are_refused(customer: Customer) -> None:
    answer = await customer.http.post(
        f"{customer.url}/gateway.do", content=b"charset=utf-8&subject=%B9%A4"
    )
    assert answer.json()["error_response"]["sub_code"] == "isv.invalid-charset"


@pytest.mark.parametrize("content", ["{", "[]", '"x"'])
async def test_content_must_be_an_object(customer: Customer, content: str) -> None:
    params = {**customer.gateway_params(METHOD, order("R1")), "biz_content": content}
    params["sign"] = rsa_sign(sorted_params(params, "sign").encode())
    inner = (await customer.post(params)).json()["alipay_fund_trans_uni_transfer_response"]
    assert inner["sub_code"] == "isv.invalid-parameter"


async def test_transfers_need_certificates(world: World, client: Client) -> None:
    customer = await open_customer(
        client.http, world.http_url, world.alipay_url, public_key_mode=True
    )
    refused = await customer.gateway(METHOD, order("R1"))
    assert (refused["code"], refused["sub_code"]) == ("40006", "isv.insufficient-isv-permissions")


async def test_customers_are_opened_once(client: Client, customer: Customer) -> None:
    body = {
        "app_id": APP_ID, "seller_id": "2088000000000001", "opening_minor": 1_000_000,
        "certificate": customer.app_certificate,
    }  # fmt: skip
    assert (await client.control("alipay/apps", **body))["created"] is False
    moved = {**body, "seller_id": "2088000000000009"}
    answer = await client.http.post("/_control/alipay/apps", json=moved)
    assert answer.status_code == 409
    for wrong in (
        {**body, "app_id": "x"},
        {**body, "request": "y"},
        {**body, "certificate": "no certificate"},
        {**body, "products": ["everything"]},
    ):
        answer = await client.http.post("/_control/alipay/apps", json=wrong)
        assert answer.status_code == 400, answer.text
