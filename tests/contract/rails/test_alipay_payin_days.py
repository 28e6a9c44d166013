"""Charges and refunds in Alipay's account log and in the day's file."""

from __future__ import annotations

import pytest
from tests.contract.alipay_paying import PAGE, Shop
from tests.contract.sandboxes import outside

from paymaster.rails.base import LineKind


@pytest.mark.parametrize("source", ["log", "csv"])
async def test_a_day_names_every_charge_and_refund(
    tmp_path_factory: pytest.TempPathFactory, source: str
) -> None:
    async with outside(tmp_path_factory.mktemp("world")) as world:
        shop = await Shop.open(world, "v3", 5, statement=source)
        first = await shop.paid(minor=10_000)
        second = await shop.paid(PAGE, minor=50)
        await shop.opened()
        part, whole = shop.back(first, 2_500), shop.back(second, 50)
        for order in (part, whole):
            await shop.rail.refund(shop.account, order)
        await shop.outside.overnight()
        rail = shop.rail
        files = await rail.fetch(shop.account, frozenset())
        statements = [
            statement
            for file in files
            for statement in rail.read_file(shop.account, file.name, file.body)[1]
        ]
        lines = [line for statement in statements for line in statement.lines]

        def of(kind: LineKind) -> dict[str | None, int]:
            assert all(line.amount.currency == "CNY" for line in lines)
            return {line.reference: line.amount.minor for line in lines if line.kind is kind}

        assert of(LineKind.INCOMING) == {
            first.key: 10_000, second.key: 50, part.key: -2_500, whole.key: -50,
        }  # fmt: skip
        assert of(LineKind.FEE) == {first.key: -60}
        assert {line.kind for line in lines} <= {LineKind.TOPUP, LineKind.INCOMING, LineKind.FEE}
        assert all(not statement.difference.minor for statement in statements)
        assert sum(line.amount.minor for line in lines) == 10**8 + 7_440
