"""Many letters under way at once, and never two of one key.

The next letter of a key leaves when the broker has confirmed the one before. So the first copies of
a key's letters lie in the broker in their order, whatever else happens: a connection lost in the
middle, a process killed, a publisher that has lost its lease and does not know it yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from paymaster.kernel.errors import Busy
from paymaster.messages.broker.letter import Letter
from paymaster.messages.broker.link import BrokerRefused, Wire, away


@dataclass(slots=True)
class Flown:
    """What became of letters. `taken` counts those at the beginning that are settled, either way.

    `refused` says by place in the list which of them the broker does not take, and why. `fault` is
    why the others did not go. `unclear`: one of them is refused, which one is not known.
    """

    taken: int = 0
    refused: dict[int, str] = field(default_factory=dict[int, str])
    fault: Busy | None = None
    unclear: bool = False


async def fly(wire: Wire, letters: Sequence[Letter], in_flight: int, seconds: float) -> Flown:
    """Send letters, for about so many seconds at most."""
    flown, settled = Flown(), [False] * len(letters)
    waiting = iter(_by_key(letters))

    async def work() -> None:
        """Key after key, until none is left or nothing goes any more."""
        for places in waiting:
            for place in places:
                if flown.unclear or flown.fault is not None:
                    return
                try:
                    detail = await _send(wire, letters[place])
                except BrokerRefused:
                    flown.unclear = True
                    return
                except Busy as fault:
                    flown.fault = flown.fault or fault
                    return
                if detail is not None:
                    flown.refused[place] = detail
                settled[place] = True

    async def watch() -> None:
        await wire.gone.wait()
        raise away("The connection was lost.")

    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            workers = [group.create_task(work()) for _ in range(min(in_flight, len(letters)))]
            await asyncio.gather(*workers)
            watching.cancel()
    except* TimeoutError:
        flown.fault = flown.fault or away("The broker is slow.")
    except* Busy:
        flown.fault = flown.fault or away("The connection was lost.")
    flown.taken = settled.index(False) if False in settled else len(settled)
    flown.refused = {at: why for at, why in flown.refused.items() if at < flown.taken}
    if flown.taken < len(letters) and not flown.unclear and flown.fault is None:
        flown.fault = away("The connection was lost.")
    return flown


async def _send(wire: Wire, letter: Letter) -> str | None:
    """None when it was taken, else why it never will be. Raises BrokerRefused, Busy."""
    size = len(letter.body)
    if size > wire.limit_bytes:
        return f"It has {size} bytes; {wire.limit_bytes} are allowed."
    try:
        await wire.send(letter)
    except BrokerRefused as error:
        if not error.certain:
            raise
        return error.detail
    return None


async def alone(wire: Wire, letter: Letter) -> str | None:
    """Send one letter: None when it was taken, else why it never will be. Raises Busy."""
    try:
        return await _send(wire, letter)
    except BrokerRefused as error:
        return error.detail


def _by_key(letters: Sequence[Letter]) -> list[list[int]]:
    """The places of each key's letters, in order."""
    found: dict[str, list[int]] = {}
    for place, letter in enumerate(letters):
        found.setdefault(letter.key, []).append(place)
    return list(found.values())
