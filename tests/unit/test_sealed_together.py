"""Bodies sealed under one key: each opens alone, and only where it belongs."""

from __future__ import annotations

import pytest
from tests.payouts import new_sealer

from paymaster.kernel.errors import Broken
from paymaster.secrets.sealing import place

PLACES = [place("batch", number) for number in range(3)]


def test_bodies_sealed_together_open_alone_and_only_in_their_own_place() -> None:
    sealer = new_sealer()
    sealed = sealer.seal_many([(b"the same order", here) for here in PLACES])
    for body, here in zip(sealed, PLACES, strict=True):
        assert sealer.open_bytes(body, here) == b"the same order"
    with pytest.raises(Broken, match="sealed-damaged"):
        sealer.open_bytes(sealed[0], PLACES[1])


def test_no_two_bodies_of_one_key_share_a_nonce() -> None:
    sealed = new_sealer().seal_many([(b"the same order", PLACES[0]) for _ in range(100)])
    length = len(b"the same order") + 16  # the tag
    heads = {body[: -length - 12] for body in sealed}
    assert len(heads) == 1, "one wrapped key stands in all of them"
    assert len({body[-length - 12 : -length] for body in sealed}) == len(sealed)


def test_each_call_has_a_key_of_its_own() -> None:
    sealer = new_sealer()
    one, other = (sealer.seal_many([(b"order", PLACES[0])])[0] for _ in range(2))
    assert one[:60] != other[:60]
    assert sealer.open_bytes(one, PLACES[0]) == sealer.open_bytes(other, PLACES[0])
    assert sealer.seal_many([]) == []
