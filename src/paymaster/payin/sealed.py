"""What of a charge is sealed: who pays, from where, and what opens the provider's page.

Whoever has what opens the page can pay, and nobody can take money with it; it names a payer all the
same. It is kept until the charge has an end.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from paymaster.kernel.errors import Broken
from paymaster.rails.payin import Checkout, Shows
from paymaster.secrets.sealing import Sealer, place


class Way(msgspec.Struct, frozen=True):
    """What the payer's side gets, as it is kept."""

    shows: str
    expires_at: datetime
    content: str | None = None
    parameters: dict[str, str] = {}


class Secret(msgspec.Struct, frozen=True):
    """The form under the seal."""

    payer: str | None = None
    client_ip: str | None = None
    back_to: str | None = None
    way: Way | None = None

    def with_way(self, found: Checkout) -> Secret:
        """The same, with what the provider gave."""
        way = Way(found.shows.value, found.expires_at, found.content, dict(found.parameters))
        return Secret(self.payer, self.client_ip, self.back_to, way)

    @property
    def checkout(self) -> Checkout | None:
        """What the payer's side gets, once the provider gave it."""
        way = self.way
        if way is None:
            return None
        return Checkout(Shows(way.shows), way.expires_at, way.content, way.parameters)


def close(sealer: Sealer, cell: int, charge_id: int, secret: Secret) -> bytes:
    """Seal it."""
    return sealer.seal_bytes(msgspec.json.encode(secret), place("charge", cell, charge_id))


def read(sealer: Sealer, cell: int, charge_id: int, sealed: bytes | None) -> Secret:
    """Open it; nothing is left of a charge that has its end. Raises Broken `sealed-damaged`."""
    if sealed is None:
        return Secret()
    plain = sealer.open_bytes(sealed, place("charge", cell, charge_id))
    try:
        return msgspec.json.decode(plain, type=Secret)
    except msgspec.DecodeError as error:
        raise Broken("sealed-damaged", f"A charge cannot be read: {error}") from None
