"""`python -m paymaster_bench`: the same as `paymaster bench`, without the rest of the commands."""

from __future__ import annotations

import typer

from paymaster.cli.bench import bench

if __name__ == "__main__":
    typer.run(bench)
