"""How funding is shown: the API, the command, the metrics."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.scripted_rails import ScriptedRail
from tests.served import earner, serve
from tests.world import ACTOR, PostgresServer

from paymaster.cli import funding as command
from paymaster.db import outbox
from paymaster.db.tx import CellTx, ControlTx
from paymaster.dispatch import accounts
from paymaster.dispatch.accounts import NewAccount, PayoutAccount
from paymaster.funding.report import report
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.observe import metrics_response
from paymaster.roles import funding


async def test_it_is_shown(
    postgres: PostgresServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serve(postgres, tmp_path) as served:
        await earner(served, "anna", "20.00")
        rails = {"wallet": ScriptedRail("wallet")}

        async def work(tx: ControlTx) -> PayoutAccount:
            return await accounts.add(tx, 1, 1, NewAccount("bank", "wallet", "EUR", {}, {}), rails)

        account = await served.world.dbs.control.run(ACTOR, "", work)

        async def pay(tx: CellTx) -> None:
            fee = recipes.rail_fee(account.id, Money.parse("5.00", "EUR"))
            assert all(one.done for one in await post(tx, [Entry(tx.id(), "fee", "x", fee)]))

        await served.world.run(pay)
        shown = await served.ok("GET", "/v1/funding?by_kind=true")
        assert shown["mode"] == "alert"
        [euro] = shown["currencies"]
        assert (euro["owed"]["amount"], euro["settled"]["amount"]) == ("20.00", "15.00")
        assert (euro["short"], euro["missing"]["amount"]) == (True, "5.00")
        assert euro["owed_by_kind"]["available"] == {"amount": "20.00", "currency": "EUR"}
        [bank] = shown["rail_accounts"]
        assert (bank["rail_account"], bank["free"]["amount"]) == ("bank", "-5.00")
        assert bank["forecast"]["per_day"] is None
        assert bank["forecast"]["top_up"]["amount"] == "5.00"
        plain = await served.ok("GET", "/v1/funding")
        assert plain["currencies"][0]["owed_by_kind"] is None
        reader = {"authorization": f"Bearer {await served.key(['webhooks'])}"}
        await served.refused(403, "scope-missing", "GET", "/v1/funding", headers=reader)
        # The command shows the same.
        found = await report(served.deps.dbs, 1, served.deps.settings.funding, by_kind=True)
        assert found["currencies"] == shown["currencies"]
        [account_shown] = found["rail_accounts"]
        for name in ("settled", "leaving", "under_way", "queued", "free"):
            account_shown[name] = {"amount": "-1234567890.12", "currency": "EUR"}
        command._show(found)
        table = capsys.readouterr().out
        assert table.count("-1234567890.12") == 5, "no figure is cut short, also in a file"
        figures = set(euro) - {"currency", "short", "owed_by_kind", "other"}
        assert {name for name in figures if f" {name.replace('_', ' ')} " not in table} == set()
        # The role measures and tells.
        lanes = {lane.name: lane for lane in funding.lanes(served.deps)}
        await lanes["funding:acme/test"].step()
        text = metrics_response(served.deps.metrics)[0].decode()
        labels = 'currency="EUR",environment="acme/test"'
        assert f'paymaster_funding_minor_units{{{labels},kind="missing"}} 500.0' in text
        assert 'paymaster_float_minor_units{account="acme/test/bank"' in text
        assert await lanes["outflow:acme/test"].step() == 1
        _, messages = await served.world.read(lambda tx: outbox.after(tx, 0, 1000))
        [told] = [one for one in messages if one.topic == "funding.short"]
        assert told.payload["missing"] == {"amount": "5.00", "currency": "EUR"}
