"""Making a failing script shorter: what can be left out without it failing otherwise, is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from paymaster_sim.script import Act, Script
from paymaster_sim.stage import Found, Stage

RUNS = 250
"""So many runs are spent on one script at most."""

Told = Callable[[int, int], None]
"""Is told how many acts are left, and how many runs were made."""


def silent(_acts: int, _runs: int) -> None:
    """Tells nobody."""


class _Search:
    """Tries to leave acts out, as long as runs are left."""

    def __init__(self, stage: Stage, script: Script, name: str, runs: int, told: Told) -> None:
        self.script = script
        self._stage = stage
        self._name = name
        self._left = runs
        self._made = 0
        self._told = told

    @property
    def over(self) -> bool:
        """Whether no run is left."""
        return self._made >= self._left

    def without(self, gone: Iterable[int]) -> bool:
        """Whether it still fails in the same way; then what was left out stays out."""
        places = [place for place in gone if self.script.acts[place].kind != "open"]
        if not places or self.over:
            return False
        shorter = self.script.without(places)
        self._made += 1
        found = self._stage.play(shorter).violation
        if found is None or found.name != self._name:
            return False
        self.script = shorter
        self._told(len(shorter.acts), self._made)
        return True

    def groups(self, key: Callable[[Act], object]) -> None:
        """Leave out all acts that have something in common, group by group."""
        for value in dict.fromkeys(key(act) for act in self.script.acts):
            self.without([p for p, act in enumerate(self.script.acts) if key(act) == value])

    def pieces(self) -> None:
        """Leave out runs of neighbours, ever shorter ones: the usual delta debugging."""
        length = max(len(self.script.acts) // 2, 1)
        while not self.over:
            place, shorter = 0, False
            while place < len(self.script.acts) and not self.over:
                if self.without(range(place, min(place + length, len(self.script.acts)))):
                    shorter = True
                else:
                    place += length
            if length == 1 and not shorter:
                return
            length = max(length // 2, 1) if not shorter or length > 1 else 1


def shrink(
    stage: Stage, script: Script, found: Found, *, runs: int = RUNS, told: Told = silent
) -> Script:
    """A script with as few acts as could be found that violates the same invariant."""
    search = _Search(stage, script, found.name, runs, told)
    late = found.day * 86_400
    search.without(_later(script.acts, late))
    search.groups(lambda act: act.fault)
    search.groups(lambda act: act.kind if act.fault is None else act.fault)
    search.groups(lambda act: act.at // 86_400)
    search.pieces()
    return search.script


def _later(acts: Sequence[Act], seconds: float) -> list[int]:
    return [place for place, act in enumerate(acts) if act.at > seconds]
