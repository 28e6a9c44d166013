"""The collector waits for batches, but never for ever."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Generator

import pytest

from paymaster.kernel.garbage import AT_LEAST_EVERY, FOR_ALL_EVERY, Calm


@pytest.fixture(autouse=True)
def collector() -> Generator[None]:
    was = gc.isenabled()
    gc.enable()
    yield
    if not was:
        gc.disable()


class Ring:
    def __init__(self) -> None:
        self.me = self


def test_it_is_off_inside_and_on_again_afterwards():
    calm = Calm()
    with calm.kept():
        assert not gc.isenabled()
        with calm.kept():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_is_on_again_after_a_failure():
    with pytest.raises(ValueError, match="why"), Calm().kept():
        raise ValueError("why")
    assert gc.isenabled()


def test_it_stays_off_where_it_was_off():
    gc.disable()
    with Calm().kept():
        pass
    assert not gc.isenabled()


def test_batches_that_overlap_without_end_do_not_keep_it_away():
    calm = Calm()
    with calm.kept():
        lost = weakref.ref(Ring())
        for _ in range(AT_LEAST_EVERY - 1):
            with calm.kept():
                pass
        assert lost() is not None
        with calm.kept():
            pass
        assert lost() is None


def test_what_is_lost_after_it_has_been_met_is_not_kept_for_ever():
    calm = Calm()

    def comes(times: int) -> None:
        for _ in range(times * AT_LEAST_EVERY):
            with calm.kept():
                pass

    with calm.kept():
        ring = Ring()
        comes(1)
        lost = weakref.ref(ring)
        del ring
        comes(FOR_ALL_EVERY - 2)
        assert lost() is not None
        comes(1)
        assert lost() is None
