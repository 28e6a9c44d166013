"""Send a stored order: the same content, signed anew at every try.

An answer to an order never says that it was paid; it says that the provider has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from paymaster.rails import meaning
from paymaster.rails.alipay import calls, codes, wire
from paymaster.rails.base import Outcome, Prepared, RailAccount, Verdict
from paymaster.rails.deps import RailDeps
from paymaster.rails.meaning import Kind
from paymaster.rails.yuan import UnreadableError


async def send(deps: RailDeps, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
    """See Rail."""
    said = await calls.ask(deps, account, calls.TRANSFER, prepared.body)
    if not said.done:
        raise codes.failure(said)
    try:
        found = wire.transfer(said.found)
    except UnreadableError as error:
        raise meaning.error(Kind.MALFORMED, f"The answer cannot be read: {error}.") from None
    if found.key != prepared.keys[0]:
        raise meaning.error(Kind.MALFORMED, "The answer is about another payment.")
    if found.verdict is Verdict.UNKNOWN:
        return [found]
    return [replace(found, verdict=Verdict.ACCEPTED, code=None)]
