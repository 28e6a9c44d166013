"""What a run plays with: one currency, and the ways to be paid in it.

Every run has our account at the bank, where sponsors pay. In euros people are paid there or in a
wallet; in yuan by WeChat Pay or Alipay. A script names the ways that it uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from paymaster.dispatch.accounts import NewAccount
from paymaster.kernel.errors import Refusal
from paymaster_sim import cast, merchants
from paymaster_sim.merchants import ALIPAY, APPID, CONSENT, WECHAT
from paymaster_sim.place import Place
from paymaster_sim.site import Site

Details = Mapping[str, str]
SHARE = 20
"""Of so many seeds one is in yuan, unless somebody says otherwise: it costs as much as three."""

CONSENTED = 3
"""Of so many seeds in yuan one is played with payees who have agreed once and for all."""


@dataclass(frozen=True, slots=True)
class Mix:
    """One currency.

    `ways` says how the n-th person is paid: kind of destination, its details, and how the world
    outside calls that person.
    """

    name: str
    currency: str
    ways: Mapping[str, Callable[[int], tuple[str, Details, str]]]
    accounts: Callable[[Place, Site], Sequence[NewAccount]]


def _iban(number: int) -> tuple[str, Details, str]:
    found = cast.iban(1000 + number)
    return "iban", {"iban": found, "holder": f"Payee {number}"}, found


def _wallet(number: int) -> tuple[str, Details, str]:
    found = cast.wallet(number + 1)
    return "sandbox-wallet", {"wallet": found}, found


def openid(number: int) -> str:
    """How our app at WeChat knows the n-th person."""
    return f"o{number:027d}"


def user_id(number: int) -> str:
    """The n-th person's account at Alipay."""
    return f"2088{number + 1000:012d}"


def _wechat(number: int) -> tuple[str, Details, str]:
    return "wechat", {"appid": APPID, "openid": openid(number)}, openid(number)


def _alipay(number: int) -> tuple[str, Details, str]:
    return "alipay", {"user_id": user_id(number)}, user_id(number)


def _bank(place: Place, currency: str) -> NewAccount:
    settings = {
        "transport": "directory",
        "outgoing": str(place.outside / "sftp" / "in"),
        "incoming": str(place.outside / "sftp" / "out"),
        "iban": cast.iban(cast.OUR_NUMBER),
        "holder": "Zahlstelle GmbH",
    }
    return NewAccount(cast.BANK, "iso20022-unique", currency, settings, {}, payout_window="15:00")


def _euros(place: Place, _: Site) -> Sequence[NewAccount]:
    topup = cast.iban(cast.PROVIDER_NUMBER)
    float_ = {"url": "http://sandpay.sim", "topup_iban": topup, "holder": "Sandpay"}
    keys = {"api_key": "sandpay-api-key", "webhook_secret": "sandpay-webhook-secret"}
    wallet = NewAccount(cast.WALLET, "sandbox-wallet", "EUR", float_, keys)
    return (_bank(place, "EUR"), wallet)


def _yuan(*names: str) -> Callable[[Place, Site], Sequence[NewAccount]]:
    def accounts(place: Place, site: Site) -> Sequence[NewAccount]:
        ours = site.safe.merchants
        return (_bank(place, merchants.CURRENCY), *(ours.account(name) for name in names))

    return accounts


EURO = Mix("euro", "EUR", {cast.WALLET: _wallet, cast.BANK: _iban}, _euros)
YUAN = Mix("yuan", merchants.CURRENCY, {WECHAT: _wechat, ALIPAY: _alipay}, _yuan(WECHAT, ALIPAY))
AGREED = Mix(
    "agreed", merchants.CURRENCY, {CONSENT: _wechat, ALIPAY: _alipay}, _yuan(CONSENT, ALIPAY)
)
MIXES = (EURO, YUAN, AGREED)


def mix_of(rails: Sequence[str]) -> Mix:
    """The mix that has all of these ways. Raises Refusal `rails-unknown`."""
    for mix in MIXES:
        if rails and set(rails) <= set(mix.ways):
            return mix
    known = " or ".join(",".join(mix.ways) for mix in MIXES)
    raise Refusal("rails-unknown", f"No run has the rails {','.join(rails)!r}; take {known}.")


def rails_of(seed: int, asked: str = "") -> tuple[str, ...]:
    """The ways that a seed's script uses; the seed chooses where nobody has. As `mix_of`.

    Of those who are to be paid by WeChat Pay it lets a third of the seeds have agreed.
    """
    rails = tuple(asked.split(",")) if asked else tuple((EURO if seed % SHARE else YUAN).ways)
    mix_of(rails)
    if seed % CONSENTED:
        return rails
    return tuple(CONSENT if name == WECHAT else name for name in rails)
