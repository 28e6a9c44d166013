"""The sandbox as a process: `paymaster-sandbox serve --data DIR`."""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from paymaster_sandbox.chassis.store import DirectoryBusyError
from paymaster_sandbox.world import World, WorldConfig

_PARENT_CHECK_SECONDS = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    given = _parser().parse_args(arguments)
    config = WorldConfig(
        data=given.data,
        seed=given.seed,
        http_port=given.http_port,
        sftp_port=given.sftp_port,
        wechat_port=given.wechat_port,
        wechat_tls_port=given.wechat_tls_port,
        alipay_port=given.alipay_port,
        date=given.date,
    )
    try:
        asyncio.run(_serve(config, exit_with_parent=given.exit_with_parent))
    except (DirectoryBusyError, OSError) as error:
        sys.stderr.write(f"paymaster-sandbox: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="paymaster-sandbox", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run every provider")
    serve.add_argument("--data", type=Path, required=True, help="directory of books and keys")
    serve.add_argument("--seed", type=int, default=1, help="what is drawn by lot comes from it")
    for name in ("http", "sftp", "wechat", "wechat-tls", "alipay"):
        serve.add_argument(f"--{name}-port", type=int, default=0, help="0: any free port")
    serve.add_argument("--date", type=date.fromisoformat, help="first virtual day; default today")
    serve.add_argument(
        "--exit-with-parent", action="store_true", help="stop when the starting process is gone"
    )
    return parser


async def _serve(config: WorldConfig, *, exit_with_parent: bool) -> None:
    """Run until a signal, the parent's end, or a defect."""
    parent = os.getppid()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with World(config) as world:
        sys.stdout.write(json.dumps(world.ready) + "\n")
        sys.stdout.flush()
        waits: list[asyncio.Task[Any]] = [
            asyncio.create_task(stopped.wait()),
            asyncio.create_task(world.broken()),
        ]
        if exit_with_parent:
            waits.append(asyncio.create_task(_orphaned(parent)))
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in done:
            task.result()


async def _orphaned(parent: int) -> None:
    """Wait until this process has another parent than at its start."""
    while True:
        await asyncio.sleep(_PARENT_CHECK_SECONDS)
        if os.getppid() != parent:
            return
