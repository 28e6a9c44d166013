"""`paymaster sandbox`: the providers that this machine plays, until Ctrl-C.

The sandbox is a program of its own, and this one knows no more of it than its command line and the
line of addresses that it prints: neither can be right or wrong because the other is.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

_STOPS_WITHIN_SECONDS = 15


def sandbox(
    data: Annotated[
        Path, typer.Option("--data", help="Folder of the sandbox's books and keys.")
    ] = Path("sandbox"),
    seed: Annotated[int, typer.Option("--seed", help="What is drawn by lot comes from it.")] = 1,
    date: Annotated[
        str | None, typer.Option("--date", help="First virtual day, as 2026-01-31.")
    ] = None,
    http_port: Annotated[
        int, typer.Option("--http-port", min=0, max=65_535, help="The page and the wallet; 0: any.")
    ] = 0,
    sftp_port: Annotated[int, typer.Option("--sftp-port", min=0, max=65_535, help="The bank.")] = 0,
    wechat_port: Annotated[
        int, typer.Option("--wechat-port", min=0, max=65_535, help="WeChat Pay.")
    ] = 0,
    wechat_tls_port: Annotated[
        int,
        typer.Option("--wechat-tls-port", min=0, max=65_535, help="WeChat Pay with certificates."),
    ] = 0,
    alipay_port: Annotated[
        int, typer.Option("--alipay-port", min=0, max=65_535, help="Alipay.")
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="The addresses as one line of JSON.")
    ] = False,
) -> None:
    """Play a bank, a wallet provider, WeChat Pay and Alipay on this machine, until Ctrl-C."""
    command = [sys.executable, "-m", "paymaster_sandbox", "serve", "--exit-with-parent"]
    command += ["--data", str(data), "--seed", str(seed)]
    for name, port in (
        ("http", http_port),
        ("sftp", sftp_port),
        ("wechat", wechat_port),
        ("wechat-tls", wechat_tls_port),
        ("alipay", alipay_port),
    ):
        command += [f"--{name}-port", str(port)]
    if date is not None:
        command += ["--date", date]
    raise typer.Exit(_run(command, as_json=as_json))


def _run(command: list[str], *, as_json: bool) -> int:
    """Start it, say where everything is, and stay until it ends; its exit code."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - our own program
    assert process.stdout is not None
    # A script's shell has what it starts with `&` ignore Ctrl-C: who sends it then means it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda _number, _frame: process.terminate())
    try:
        line = process.stdout.readline()
        if line:
            _show(json.loads(line), as_json=as_json)
        return process.wait()
    except KeyboardInterrupt:
        return _stopped(process)
    finally:
        process.stdout.close()


def _stopped(process: subprocess.Popen[bytes]) -> int:
    """Let it finish: a terminal's Ctrl-C has reached it too, anything else's has not."""
    process.terminate()
    try:
        return process.wait(_STOPS_WITHIN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _show(told: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(told), flush=True)
        return
    for name, where in {"page": f"{told['http']}/", **told}.items():
        print(f"{name.replace('_', ' '):<20} {where}")
    print("Ctrl-C stops it; the same --data continues.", flush=True)
