"""The page from a merchant account to the first payout: its blocks, run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.live import free_port

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "start" / "wechat-alipay.md"
MINUTES = 6
# The background processes end with the shell, however it ends.
BEFORE = "set -eu\ntrap 'kill $(jobs -p); wait' EXIT\n"


@pytest.mark.long
@pytest.mark.timeout(MINUTES * 60 + 60)
@pytest.mark.skipif(
    not all(shutil.which(name) for name in ("bash", "curl", "jq", "openssl")),
    reason="the page needs bash, curl, jq and openssl",
)
def test_the_page_leads_to_paid_workers_and_a_closed_day(tmp_path: Path) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    api, hooks = free_port(), free_port()
    programs = str(Path(sys.executable).parent)
    running = subprocess.Popen(
        ["bash", "-c", BEFORE + "".join(blocks)],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(PROJECT / "src"),
            "API": f"http://127.0.0.1:{api}",
            "HOOKS": f"http://127.0.0.1:{hooks}",
            "PAYMASTER__API__PORT": str(api),
            "PAYMASTER__API__PUBLIC_URL": f"http://127.0.0.1:{api}",
            "PAYMASTER__HOOKS__PORT": str(hooks),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed, _ = running.communicate(timeout=MINUTES * 60)
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGTERM)
        printed, _ = running.communicate(timeout=60)
    assert running.returncode == 0, printed[-3000:]
    last = printed.splitlines()[-1]
    assert '"signature"' in last, "the day is closed and signed"
    assert '"incoming":{"CNY":"0.00"}' in last, "what was paid in is on the bills"
