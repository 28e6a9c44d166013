"""The examples of docs/integrate/webhooks.md verify what we send; the schedule there is ours."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from paymaster.messages import schedule, signing

PAGE = Path(__file__).resolve().parents[2] / "docs" / "integrate" / "webhooks.md"
BODY = '{"type":"day.closed","text":"多"}'

TRY_IT = """
const headers = JSON.parse(process.argv[2]), secret = process.argv[3], body = process.argv[4];
const now = Number(process.argv[5]);
console.log(verify(secret, headers, Buffer.from(body), now).type);
for (const [name, change] of [
  ["body", () => verify(secret, headers, Buffer.from(body + " "), now)],
  ["late", () => verify(secret, headers, Buffer.from(body), now + 301)],
  ["other", () => verify("whsec_" + Buffer.alloc(32).toString("base64"), headers,
    Buffer.from(body), now)],
]) {
  try { change(); console.log(name + " taken"); } catch { console.log(name + " refused"); }
}
"""


def test_the_javascript_verifies(tmp_path: Path) -> None:
    import json

    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: install nodejs")
    found = re.search(r"```js\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    (tmp_path / "try.mjs").write_text(found[1] + TRY_IT)
    at, secrets = datetime(2026, 11, 20, 9, tzinfo=UTC), [signing.new_secret() for _ in "ab"]
    keys = [signing.key_of(secret) for secret in secrets]
    headers = signing.headers(keys, "ev_1", at, BODY.encode())
    for secret in secrets:
        command = [node, str(tmp_path / "try.mjs"), json.dumps(headers), secret, BODY]
        said = subprocess.run(
            [*command, str(at.timestamp())], capture_output=True, text=True, check=True
        )
        assert said.stdout.split("\n")[:4] == [
            "day.closed", "body refused", "late refused", "other refused",
        ]  # fmt: skip


def shown() -> list[timedelta]:
    """The waits of the table, in the order of tries."""
    units = {"second": 1, "minute": 60, "hour": 3600}
    found: dict[int, timedelta] = {}
    for first, last, number, unit in re.findall(
        r"\| (\d+)(?: to (\d+))? \| (\d+) (second|minute|hour)s?", PAGE.read_text()
    ):
        for attempt in range(int(first), int(last or first) + 1):
            found[attempt] = timedelta(seconds=int(number) * units[unit])
    return [found[attempt] for attempt in sorted(found)]


def test_the_schedule_is_the_one_of_the_page() -> None:
    assert tuple(shown()) == schedule.DELAYS
    assert sum(schedule.DELAYS, timedelta(0)) > schedule.GIVEN_UP_AFTER


def test_it_is_given_up_after_all_tries_and_three_days_and_no_sooner() -> None:
    began = datetime(2026, 11, 20, tzinfo=UTC)
    tries = len(schedule.DELAYS) + 1
    assert schedule.is_over(tries, began, began + timedelta(days=3))
    assert not schedule.is_over(tries - 1, began, began + timedelta(days=30))
    assert not schedule.is_over(tries + 9, began, began + timedelta(days=2))
