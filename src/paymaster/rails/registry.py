"""Which rails there are: the built-in ones, and those that installed packages bring.

A package adds a rail by an entry point in the group `paymaster.rails`: the name is the rail's, the
object a function of `RailDeps` that returns the rail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from importlib.metadata import entry_points
from typing import cast

from paymaster.kernel.errors import Broken
from paymaster.rails.alipay.rail import AlipayRail
from paymaster.rails.base import Rail
from paymaster.rails.deps import RailDeps
from paymaster.rails.iso20022.rail import Iso20022Rail
from paymaster.rails.sandbox_wallet.rail import SandboxWalletRail
from paymaster.rails.wechat.rail import WeChatPayRail

GROUP = "paymaster.rails"
UNIQUE_MESSAGE_DAYS = 7
"""How long a bank of `iso20022-unique` is relied on to refuse a second file with the same MsgId."""

RailFactory = Callable[[RailDeps], Rail]


def _iso20022_unique(deps: RailDeps) -> Rail:
    """The bank has promised to refuse a file whose MsgId it has seen: replay is safe."""
    window = timedelta(days=UNIQUE_MESSAGE_DAYS)
    return Iso20022Rail(deps, name="iso20022-unique", replay_window=window)


BUILT_IN: Mapping[str, RailFactory] = {
    "alipay": AlipayRail,
    "iso20022": Iso20022Rail,
    "iso20022-unique": _iso20022_unique,
    "sandbox-wallet": SandboxWalletRail,
    "wechat-pay": WeChatPayRail,
}
"""Rails of this package by name."""


class Registry:
    """Names to factories. A package may not take the name of a built-in rail."""

    def __init__(self, factories: Mapping[str, RailFactory] | None = None) -> None:
        self._factories = dict(BUILT_IN if factories is None else factories)

    @classmethod
    def installed(cls) -> Registry:
        """The built-in rails and those of installed packages.

        Raises Broken `rail-name-taken`, or what the package raises when it is imported.
        """
        factories = dict(BUILT_IN)
        for point in entry_points(group=GROUP):
            if point.name in factories:
                raise Broken("rail-name-taken", f"Two packages bring a rail called {point.name!r}.")
            factories[point.name] = cast("RailFactory", point.load())
        return cls(factories)

    def names(self) -> tuple[str, ...]:
        """Every rail, sorted."""
        return tuple(sorted(self._factories))

    def build(self, name: str, deps: RailDeps) -> Rail:
        """A rail of that name. Raises Broken `rail-unknown` or `rail-malformed`."""
        factory = self._factories.get(name)
        if factory is None:
            raise Broken("rail-unknown", f"No rail {name!r}; there are {', '.join(self.names())}.")
        rail = cast("object", factory(deps))
        if not isinstance(rail, Rail) or rail.caps.name != name:
            raise Broken("rail-malformed", f"What calls itself {name!r} is not that rail.")
        return rail
