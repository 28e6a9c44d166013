"""`paymaster sim`: the whole system in one process, with time and faults from a seed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from paymaster.kernel.errors import Refusal


def sim(
    seed: Annotated[int, typer.Option("--seed", help="The first seed.")] = 1,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds from there.")] = 1,
    days: Annotated[int, typer.Option("--days", min=2, max=60, help="Virtual days.")] = 30,
    users: Annotated[int, typer.Option("--users", min=1, max=1000, help="Users.")] = 50,
    faults: Annotated[
        str, typer.Option("--faults", help="all, none, or names separated by commas.")
    ] = "all",
    rails: Annotated[
        str,
        typer.Option("--rails", help="float,bank or wechat,alipay; without it the seed chooses."),
    ] = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="End with one line of JSON on standard output.")
    ] = False,
    shrink: Annotated[
        bool, typer.Option("--shrink", help="Make failing scripts shorter; write sim-SEED.json.")
    ] = False,
    mutant: Annotated[
        str | None, typer.Option("--mutant", help="Take one guard out of the code before.")
    ] = None,
    mutants: Annotated[
        bool, typer.Option("--mutants", help="Every mutant: is each found within 50 seeds?")
    ] = False,
    script: Annotated[
        Path | None, typer.Option("--script", help="Play this script instead of a seed's.")
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Processes side by side.")
    ] = 1,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="Write the steps of the last run to this file.")
    ] = None,
) -> None:
    """Simulate days of business under faults and check every invariant; exit code 1 if one fails.

    The same seed is the same run. Needs no installation: it has a database server of its own.
    """
    if importlib.util.find_spec("paymaster_sim") is None:
        raise Refusal("simulation-missing", "This installation came without the simulation.")
    from paymaster_sim.command import Options, main, main_mutants

    if mutants:
        asked = Options(seed, seeds, days, users, faults, workers=workers, rails=rails)
        raise typer.Exit(main_mutants(asked))
    options = Options(
        seed, seeds, days, users, faults, as_json, shrink, mutant, script, workers, trace, rails
    )
    raise typer.Exit(main(options))
