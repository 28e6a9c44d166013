"""`python -m tools.mutation`: mutate, test, tell the score."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from tools.mutation.covering import measure
from tools.mutation.report import gone, report
from tools.mutation.run import PROJECT, drawn, known, tried


def main() -> int:
    """0 when the score is reached, else 1."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    left_over = list(gone())
    if left_over:
        sys.exit("survivors.toml names what is not in the code:\n" + "\n".join(left_over))
    work = drawn(options.sample, options.seed, options.only)
    if options.again:
        survived = {one["key"] for one in json.loads(options.again.read_text())["survivors"]}
        work = [one for one in work if one[1].key in survived]
    if options.list:
        for _, mutant in work:
            print(mutant.key)
        return 0
    before = known(options.results)
    results = [before[one.key] for _, one in work if one.key in before]
    work = [one for one in work if one[1].key not in before][: options.most]
    print(f"{len(work)} mutants, {len(results)} known", flush=True)
    if work:
        place = options.measured or Path(tempfile.mkdtemp(prefix="paymaster-covering-"))
        covering = measure(PROJECT, place, workers=options.workers)
        with (options.results or Path(os.devnull)).open("a") as kept:
            for count, result in enumerate(tried(work, options.workers, covering), 1):
                results.append(result)
                print(json.dumps(result._asdict()), file=kept, flush=True)
                if result.outcome != "killed" or count % 50 == 0:
                    print(f"{count}/{len(work)} {result.outcome} {result.key}", flush=True)
    report(results, options.json)
    killed = sum(result.outcome != "survived" for result in results)
    return int(100 * killed < options.score * len(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument("--sample", type=int, default=500, help="mutants of the sampled files")
    parser.add_argument("--seed", type=int, default=1, help="which sample, in which order")
    parser.add_argument("--only", action="append", default=[], help="a group of targets.toml")
    parser.add_argument("--most", type=int, help="stop after so many")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--score", type=float, default=80.0, help="per cent that must be killed")
    parser.add_argument("--results", type=Path, help="keep results there; what is there is known")
    parser.add_argument("--json", type=Path, help="write score and survivors there")
    parser.add_argument("--measured", type=Path, help="keep what runs which line there")
    parser.add_argument("--again", type=Path, help="only what survived in the report of this file")
    parser.add_argument("--list", action="store_true", help="only list the mutants")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Stopped; what is in the file of --results is known the next time.")
