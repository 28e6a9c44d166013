"""`python -m tools.mutation`: mutate, test, tell the score."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from tools.mutation.covering import measure
from tools.mutation.run import PROJECT, drawn, report, tried


def main() -> int:
    """0 when the score is reached, else 1."""
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument("--sample", type=int, default=500, help="mutants of the sampled files")
    parser.add_argument("--seed", type=int, default=1, help="which sample")
    parser.add_argument("--only", action="append", default=[], help="a group of targets.toml")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--score", type=float, default=80.0, help="per cent that must be killed")
    parser.add_argument("--json", type=Path, help="write score and survivors there")
    parser.add_argument("--measured", type=Path, help="keep what runs which line there")
    parser.add_argument("--again", type=Path, help="only what survived in the report of this file")
    parser.add_argument("--list", action="store_true", help="only list the mutants")
    options = parser.parse_args()
    work = drawn(options.sample, options.seed, options.only)
    if options.again:
        survived = {one["key"] for one in json.loads(options.again.read_text())["survivors"]}
        work = [one for one in work if one[1].key in survived]
    if options.list:
        for _, mutant in work:
            print(f"{mutant.module}:{mutant.row} {mutant.fault}: {mutant.line}")
        return 0
    print(f"{len(work)} mutants", flush=True)
    place = options.measured or Path(tempfile.mkdtemp(prefix="paymaster-covering-"))
    covering = measure(PROJECT, place)
    results = []
    for result in tried(work, options.workers, covering):
        results.append(result)
        if result.outcome == "survived" or len(results) % 50 == 0:
            where = f"{result.mutant.module}:{result.mutant.row} {result.mutant.fault}"
            print(f"{len(results)}/{len(work)} {result.outcome} {where}", flush=True)
    report(results, options.json)
    killed = sum(result.outcome != "survived" for result in results)
    return int(100 * killed < options.score * len(results))


if __name__ == "__main__":
    sys.exit(main())
