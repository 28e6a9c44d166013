"""Where users live, remembered: a row of the directory is never changed, and stays for ever.

So what was found once is true, whatever other processes do. Who is not found is asked for again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final
from weakref import WeakKeyDictionary

from paymaster.db.cells import Databases
from paymaster.db.tx import ControlRead
from paymaster.kernel.ids import Ref
from paymaster.people import users

MOST: Final = 100_000
"""Users remembered for each environment: some 25 MB."""


class Places:
    """The places of users by environment and external id."""

    def __init__(self) -> None:
        self._known: dict[int, dict[str, Ref]] = {}

    async def find(
        self, tx: ControlRead, environment_id: int, names: Collection[str]
    ) -> Mapping[str, Ref]:
        """The users of these names, and others; unknown ones are missing."""
        known = self._known.setdefault(environment_id, {})
        missing = {name for name in names if name not in known}
        if len(known) + len(missing) > MOST:
            # A new one: whoever was given the old one goes on with it.
            known, missing = {}, set(names)
            self._known[environment_id] = known
        if missing:
            known |= await users.refs(tx, environment_id, missing)
        return known


_OF: WeakKeyDictionary[Databases, Places] = WeakKeyDictionary()


def places_in(dbs: Databases) -> Places:
    """What is remembered of these databases."""
    return _OF.setdefault(dbs, Places())
