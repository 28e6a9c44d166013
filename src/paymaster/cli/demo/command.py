"""`paymaster demo`."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer
from rich.console import Console

from paymaster.cli.demo import accounts, clocks, merchants, world
from paymaster.cli.demo import rails as over_rails
from paymaster.cli.demo import story as stages
from paymaster.cli.demo.answers import Answer, generate, read
from paymaster.cli.demo.client import Client
from paymaster.cli.demo.scene import RAILS, Story
from paymaster.cli.demo.show import Narrator, money_table, statement_table
from paymaster.cli.demo.state import State, StateFile, fingerprint
from paymaster.cli.demo.summary import closes_clean, summarise
from paymaster.kernel.clock import WallClock, business_day
from paymaster.kernel.errors import Refusal
from paymaster.kernel.money import Money
from paymaster.rails.yuan import CNY
from paymaster.secrets.opening import secrets_directory
from paymaster.settings import load_settings


def demo(
    answers: Annotated[
        Path | None,
        typer.Option(help="A crowd-work log (tab-separated); default: a small generated economy."),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(help="For an answer equal to gold; default 0.02, with --rails 0.10."),
    ] = None,
    currency: Annotated[
        str | None, typer.Option(help="ISO 4217 code; default EUR, with --rails always CNY.")
    ] = None,
    rails: Annotated[
        str,
        typer.Option(help="Pay by wechat, alipay or wechat,alipay; default: bank and wallet."),
    ] = "",
    data: Annotated[
        Path | None, typer.Option(help="Data folder; default: one of its own in .paymaster.")
    ] = None,
    cells: Annotated[int, typer.Option(min=1, max=3, help="1, or 3 on two servers.")] = 1,
    copies: Annotated[int, typer.Option(min=1, max=4, help="Copies of every role.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the generated economy and the sandboxes.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print only the summary, one JSON object.")
    ] = False,
) -> None:
    """From answers to people paid and a closed day; exit code 0 only if the day closes clean."""
    chosen = _rails(rails)
    price = _price(chosen, reward, currency)
    log = read(answers) if answers else generate(seed)
    if not log:
        raise Refusal("answers-unreadable", "The log has no answers.")
    rows = [astuple(answer) for answer in log]
    mark = fingerprint(rows, price.minor, price.currency, cells, seed, *chosen)
    root = Path(os.environ.get("PAYMASTER__DATABASE__DATA_DIR", ".paymaster"))
    folder = (data or root / f"demo-{mark[:8]}").resolve()
    plan = Plan(folder, mark, log, price, cells, copies, seed, chosen)
    file, state = _state(plan)
    state.hooks_port = world.configure(folder, cells, state.hooks_port)
    summary = asyncio.run(_tell(plan, file, state, Console(quiet=as_json)))
    if as_json:
        typer.echo(json.dumps(summary))
    if not closes_clean(summary):
        raise typer.Exit(1)


def _rails(named: str) -> tuple[str, ...]:
    """What `--rails` names, in our order. Raises Refusal `demo-rails`."""
    given = {one.strip() for one in named.split(",")} - {""}
    if given - set(RAILS):
        raise Refusal("demo-rails", f"--rails knows {' and '.join(RAILS)}, with a comma between.")
    return tuple(one for one in RAILS if one in given)


def _price(rails: Sequence[str], reward: str | None, currency: str | None) -> Money:
    """Of a right answer. Raises Refusal `reward-invalid` or `demo-rails`."""
    if rails and currency not in (None, CNY):
        raise Refusal("demo-rails", f"{' and '.join(rails)} pay CNY, not {currency}.")
    usual = CNY if rails else "EUR"
    price = Money.parse(reward or ("0.10" if rails else "0.02"), currency or usual)
    if price.minor <= 0:
        raise Refusal("reward-invalid", "The reward must be positive.")
    return price


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for on the command line."""

    folder: Path
    mark: str
    answers: Sequence[Answer]
    reward: Money
    cells: int
    copies: int
    seed: int
    rails: Sequence[str]


STAGES = (
    ("Open accounts at the bank and the wallet provider", accounts.open_accounts),
    ("A sponsor offers work", stages.offer_work),
    ("The sponsor's payment arrives at the bank", stages.sponsor_pays),
    ("Workers answer: the whole log, twice", stages.workers_answer),
    ("Workers withdraw what they earned", stages.workers_withdraw),
    ("The money leaves: one bank file, wallet payouts", stages.money_leaves),
    ("Statements are matched line by line", stages.reconcile),
)
RAIL_STAGES = (
    ("Open accounts at the bank and the providers", merchants.open_accounts),
    ("A sponsor offers work", stages.offer_work),
    ("The sponsor's payment arrives at the bank", stages.sponsor_pays),
    ("Workers answer: the whole log, twice", stages.workers_answer),
    ("Workers link their accounts and withdraw what they earned", over_rails.workers_withdraw),
    ("The money leaves, and payees accept it", over_rails.money_leaves),
    ("Hours pass: one accepts late, one never does", over_rails.hours_pass),
    ("Bills are matched line by line", over_rails.reconcile),
)


def _state(plan: Plan) -> tuple[StateFile, State]:
    """What an earlier start of the same demo left, or its beginning."""
    now, file = WallClock().now(), StateFile(plan.folder)
    if plan.rails:
        # So long ago that Paymaster asks for the bills of this day and of the next.
        payouts = business_day(now, clocks.ZONE) - timedelta(days=3)
    else:
        payouts = now.date() - timedelta(days=1)
    return file, file.load(plan.mark, payouts - timedelta(days=1), payouts)


async def _tell(plan: Plan, file: StateFile, state: State, console: Console) -> dict[str, Any]:
    """Play it, show it, and return the summary."""
    first_day = date.fromisoformat(state.funding_day)
    if plan.rails:
        first_day = merchants.first_day(date.fromisoformat(state.payout_day))
    with Narrator(console, quiet=console.quiet) as narrator:
        narrator.stage("Set up the database and start every role")
        await world.prepare(state, plan.cells, clocks.ZONE if plan.rails else "UTC")
        file.save(state)
        async with (
            world.running(plan.folder, plan.seed, first_day, plan.copies) as addresses,
            httpx.AsyncClient(timeout=60, trust_env=False) as http,
        ):
            secrets = secrets_directory(load_settings())
            accounts.keep_secrets(addresses, secrets)
            story = Story(
                Client(http, addresses.api, state.app_key),
                Client(http, addresses.api, state.operator_key),
                Client(http, addresses.sandbox),
                addresses,
                state,
                file.save,
                plan.answers,
                plan.reward,
                plan.seed,
                plan.rails,
                secrets,
                narrator.step,
            )
            for title, stage in RAIL_STAGES if plan.rails else STAGES:
                narrator.stage(title)
                await stage(story)
            narrator.stage("The books are proven and the day is closed")
            proof = await (over_rails.close_days if plan.rails else stages.close_day)(story)
            summary = await summarise(story, proof)
            narrator.done()
            statement = await _statement(story)
    console.print(money_table(summary, plan.reward.currency))
    console.print(statement)
    return summary


async def _statement(story: Story) -> Any:
    plan = story.state.withdrawals or []
    worker = plan[0]["worker"] if plan else story.workers[0]
    path = f"/v1/users/{quote(worker, safe='')}/statement"
    found = await story.app.get(path, currency=story.currency, kind="available", limit=8)
    return statement_table(worker, found["data"])
