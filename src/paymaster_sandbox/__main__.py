"""`python -m paymaster_sandbox`."""

import sys

from paymaster_sandbox.cli import main

sys.exit(main())
