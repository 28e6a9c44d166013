"""`paymaster funding`: whether what users are owed is there."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from paymaster.cli.opening import environment_of, opened
from paymaster.compose import Deps
from paymaster.funding.report import report


def funding(
    tenant: Annotated[str, typer.Option(help="Name of the app or legal entity.")] = "default",
    mode: Annotated[str, typer.Option(help="live or test")] = "test",
    by_kind: Annotated[
        bool, typer.Option("--by-kind", help="Split what users have; reads all their accounts.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What users are owed against settled funds, and what each account can still pay."""

    async def work(deps: Deps) -> dict[str, Any]:
        environment = environment_of(deps, tenant, mode)
        return await report(deps.dbs, environment.id, deps.settings.funding, by_kind=by_kind)

    found = opened(work)
    if as_json:
        typer.echo(json.dumps(found))
    else:
        _show(found)


_FIGURES = (
    "settled", "incoming", "refunding", "leaving", "between_cells", "transit", "owed", "receivable",
    "debts", "budgets", "commission", "fees", "suspense", "equity", "fx", "rail_fees", "losses",
    "cover", "missing",
)  # fmt: skip
_WIDE = 160
_FLOAT = ("settled", "leaving", "under_way", "queued", "free")


def _show(found: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    currencies: list[dict[str, Any]] = found["currencies"]
    split: list[dict[str, dict[str, str]]] = [one["owed_by_kind"] or {} for one in currencies]
    table = Table("", *(one["currency"] for one in currencies))
    for name in _FIGURES:
        table.add_row(name.replace("_", " "), *(one[name]["amount"] for one in currencies))
        for kind in sorted(set[str]().union(*split)) if name == "owed" else ():
            parts = (part.get(kind, {}).get("amount", "") for part in split)
            table.add_row(f"  {kind}", *parts)
    console.print(table)
    table = Table()
    for name in ("account", *_FLOAT, "runs dry", "top up"):
        table.add_column(name.replace("_", " "), no_wrap=name == "runs dry", overflow="fold")
    for one in found["rail_accounts"]:
        ahead = one["forecast"]
        dry = ahead["runs_dry_on"] or ("-" if ahead["per_day"] else "unknown")
        table.add_row(
            f"{one['rail_account']} {one['currency']}",
            *(one[name]["amount"] for name in _FLOAT),
            dry,
            ahead["top_up"]["amount"],
        )
    console.print(table)
