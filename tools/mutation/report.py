"""The score of each group, and every survivor with the reason why it lives, where one is known.

`survivors.toml` gives reasons. It hides nothing: whoever is in it counts as alive.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tools.mutation.find import find
from tools.mutation.run import HERE, PROJECT, Result

SURVIVORS = HERE / "survivors.toml"


def reasons() -> dict[str, str]:
    """Why the survivors that are known live, by their key."""
    if not SURVIVORS.exists():
        return {}
    tables: list[dict[str, str]] = tomllib.loads(SURVIVORS.read_text()).get("survivor", [])
    return {table["key"]: table["reason"] for table in tables}


def gone() -> Iterator[str]:
    """The survivors with a reason whose place is no longer in the code."""
    known = reasons()
    files = {key.partition(": ")[0] for key in known}
    there = {one.key for name in files if (PROJECT / name).exists() for one in find(PROJECT, name)}
    yield from (key for key in known if key not in there)


def report(results: Sequence[Result], path: Path | None) -> None:
    """Print the score of each group and every survivor; write the same for programs."""
    known = reasons()
    figures = [_figures(results, name) for name in dict.fromkeys(one.group for one in results)]
    figures.append(_figures(results, None))
    for row in figures:
        print(
            f"{row['group']:12} {row['mutants']:6} mutants {row['killed']:6} killed"
            f" {row['slow']:4} of them for their time  {row['score']:5.1f} %"
        )
    alive = sorted(one for one in results if one.outcome == "survived")
    for one in alive:
        print(f"survived: {one.key} [{known.get(one.key, 'no reason given')}]")
    if path is not None:
        told = [{**one._asdict(), "reason": known.get(one.key)} for one in alive]
        path.write_text(json.dumps({"groups": figures, "survivors": told}, indent=1) + "\n")


def _figures(results: Sequence[Result], group: str | None) -> dict[str, Any]:
    here = [one for one in results if group in (None, one.group)]
    killed = sum(one.outcome != "survived" for one in here)
    return {
        "group": group or "all",
        "mutants": len(here),
        "killed": killed,
        "slow": sum(one.outcome == "slow" for one in here),
        "score": round(100 * killed / len(here), 1) if here else 0.0,
    }
