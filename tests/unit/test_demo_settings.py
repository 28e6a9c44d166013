"""The demo tells its own story, whatever the environment says."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

from paymaster.cli.demo.world import configure
from paymaster.settings import load_settings


def test_its_payments_do_not_wait_for_a_float_on_a_statement(tmp_path: Path) -> None:
    told = {
        "PAYMASTER__FUNDING__MODE": "enforce",
        "PAYMASTER__FUNDING__MODES": '{"demo/test": "enforce"}',
    }
    with mock.patch.dict(os.environ, told):
        configure(tmp_path, 1)
        funding = load_settings().funding
    assert funding.mode_of("demo", "test") == "alert"
