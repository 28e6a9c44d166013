"""What the simulations share."""

from tests.simulating import sim_server  # noqa: F401 - a fixture for all
