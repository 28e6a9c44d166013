"""`paymaster demo`."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer
from rich.console import Console

from paymaster.cli.demo import story as stages
from paymaster.cli.demo import world
from paymaster.cli.demo.answers import generate, read
from paymaster.cli.demo.client import Client
from paymaster.cli.demo.show import Narrator, money_table, statement_table
from paymaster.cli.demo.state import State, StateFile, fingerprint
from paymaster.cli.demo.story import Story
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
        Path | None, typer.Option(help="Data folder; default .paymaster/demo-<answers>.")
    ] = None,
    cells: Annotated[int, typer.Option(min=1, max=3, help="1, or 3 on two servers.")] = 1,
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
    folder = data or Path(os.environ.get("PAYMASTER__DATABASE__DATA_DIR", ".paymaster")) / (
        f"demo-{answers.name.split('.')[0] if answers else 'generated'}"
    )
    folder = folder.resolve()
    console = Console(stderr=as_json, quiet=as_json)
    mark = fingerprint([vars_of(a) for a in log], price.minor, currency, cells, seed)
    today = WallClock().now().date()
    file = StateFile(folder)
    state = file.load(mark, today - timedelta(days=1), today)
    world.configure(folder, cells)
    summary = asyncio.run(_tell(state, file, folder, log, price, cells, seed, console, as_json))
    if as_json:
        typer.echo(json.dumps(summary))
    if not closes_clean(summary):
        raise typer.Exit(1)


def vars_of(answer: Any) -> list[str]:
    """The fields of an answer, for the fingerprint."""
    return [answer.annotation, answer.worker, answer.item, answer.response, answer.gold]


STAGES = (
    ("Open accounts at the bank and the wallet provider", stages.open_accounts),
    ("A sponsor offers work", stages.offer_work),
    ("The sponsor's payment arrives at the bank", stages.sponsor_pays),
    ("Workers answer: the whole log, twice", stages.workers_answer),
    ("Workers withdraw what they earned", stages.workers_withdraw),
    ("The money leaves: one bank file, wallet payouts", stages.money_leaves),
    ("Statements are matched line by line", stages.reconcile),
)


async def _tell(
    state: State,
    file: StateFile,
    folder: Path,
    log: list[Any],
    price: Money,
    cells: int,
    seed: int,
    console: Console,
    quiet: bool,
) -> dict[str, Any]:
    from datetime import date

    with Narrator(console, quiet=quiet) as narrator:
        narrator.stage("Set up the database and start every role")
        await world.prepare(state, cells)
        file.save(state)
        first_day = date.fromisoformat(state.funding_day)
        async with (
            world.running(folder, seed, first_day) as addresses,
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
                log,
                price,
                seed,
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
    console.print(money_table(summary, price.currency))
    console.print(statement)
    return summary


async def _statement(story: Story) -> Any:
    plan = story.state.withdrawals or []
    worker = plan[0]["worker"] if plan else story.workers[0]
    path = f"/v1/users/{quote(worker, safe='')}/statement"
    found = await story.app.get(path, currency=story.currency, kind="available", limit=8)
    return statement_table(worker, found["data"])
