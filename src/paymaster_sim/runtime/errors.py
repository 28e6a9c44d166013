"""What can go wrong with a simulation itself; never an outcome of the code that is simulated."""

from __future__ import annotations


class SimulationError(Exception):
    """The simulation cannot go on, and the run says nothing about the code."""


class ProcessDied(Exception):
    """The simulated process that was called has died: its caller knows nothing of the outcome."""
