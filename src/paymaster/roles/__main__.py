"""`python -m paymaster.roles NAME`: what the supervisor starts; `paymaster role` made lean."""

from __future__ import annotations

import argparse
import sys

from paymaster.kernel.errors import PaymasterError
from paymaster.roles.process import Running, run_role
from paymaster.settings import load_settings


def main() -> None:
    """Run one role until SIGTERM."""
    parser = argparse.ArgumentParser(prog="paymaster.roles")
    parser.add_argument("role")
    parser.add_argument("--health-port", type=int, required=True)
    parser.add_argument("--exit-with-parent", action="store_true")
    parser.add_argument("--share-port", action="store_true")
    given = parser.parse_args()
    how = Running(given.role, given.health_port, given.exit_with_parent, given.share_port)
    try:
        run_role(load_settings(), how)
    except PaymasterError as error:
        sys.exit(f"paymaster: {error}")


if __name__ == "__main__":
    main()
