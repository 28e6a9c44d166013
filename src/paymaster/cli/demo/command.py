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

from paymaster.cli.demo import story as stages
from paymaster.cli.demo import world
from paymaster.cli.demo.answers import Answer, generate, read
from paymaster.cli.demo.client import Client
from paymaster.cli.demo.scene import Story
from paymaster.cli.demo.show import Narrator, money_table, statement_table
from paymaster.cli.demo.state import StateFile, fingerprint
from paymaster.cli.demo.summary import closes_clean, summarise
from paymaster.kernel.clock import WallClock
from paymaster.kernel.errors import Refusal
from paymaster.kernel.money import Money
from paymaster.secrets.opening import secrets_directory
from paymaster.settings import load_settings


def demo(
    answers: Annotated[
        Path | None,
        typer.Option(help="A crowd-work log (tab-separated); default: a small generated economy."),
    ] = None,
    reward: Annotated[str, typer.Option(help="For an answer equal to gold.")] = "0.02",
    currency: Annotated[str, typer.Option(help="ISO 4217 code.")] = "EUR",
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
    price = Money.parse(reward, currency)
    if price.minor <= 0:
        raise Refusal("reward-invalid", "The reward must be positive.")
    log = read(answers) if answers else generate(seed)
    if not log:
        raise Refusal("answers-unreadable", "The log has no answers.")
    mark = fingerprint([astuple(answer) for answer in log], price.minor, currency, cells, seed)
    root = Path(os.environ.get("PAYMASTER__DATABASE__DATA_DIR", ".paymaster"))
    folder = (data or root / f"demo-{mark[:8]}").resolve()
    plan = Plan(folder, mark, log, price, cells, copies, seed)
    world.configure(folder, cells)
    summary = asyncio.run(_tell(plan, Console(quiet=as_json)))
    if as_json:
        typer.echo(json.dumps(summary))
    if not closes_clean(summary):
        raise typer.Exit(1)


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


STAGES = (
    ("Open accounts at the bank and the wallet provider", stages.open_accounts),
    ("A sponsor offers work", stages.offer_work),
    ("The sponsor's payment arrives at the bank", stages.sponsor_pays),
    ("Workers answer: the whole log, twice", stages.workers_answer),
    ("Workers withdraw what they earned", stages.workers_withdraw),
    ("The money leaves: one bank file, wallet payouts", stages.money_leaves),
    ("Statements are matched line by line", stages.reconcile),
)


async def _tell(plan: Plan, console: Console) -> dict[str, Any]:
    """Play it, show it, and return the summary."""
    today = WallClock().now().date()
    file = StateFile(plan.folder)
    state = file.load(plan.mark, today - timedelta(days=2), today - timedelta(days=1))
    with Narrator(console, quiet=console.quiet) as narrator:
        narrator.stage("Set up the database and start every role")
        await world.prepare(state, plan.cells)
        file.save(state)
        first_day = date.fromisoformat(state.funding_day)
        async with (
            world.running(plan.folder, plan.seed, first_day, plan.copies) as addresses,
            httpx.AsyncClient(timeout=60, trust_env=False) as http,
        ):
            stages.keep_secrets(addresses, secrets_directory(load_settings()))
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
                narrator.step,
            )
            for title, stage in STAGES:
                narrator.stage(title)
                await stage(story)
            narrator.stage("The books are proven and the day is closed")
            proof = await stages.close_day(story)
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
