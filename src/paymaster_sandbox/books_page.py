"""The page at the sandbox's main address: every provider's books, and a hand to play the people.

It works without JavaScript; every button is a form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from starlette.responses import RedirectResponse
from starlette.routing import Route

from paymaster_sandbox.alipay.wire import yuan
from paymaster_sandbox.chassis import journal
from paymaster_sandbox.chassis.clock import SECOND, stamp
from paymaster_sandbox.chassis.money import format_minor
from paymaster_sandbox.http import guarded, loopback
from paymaster_sandbox.markup import Pages, form
from paymaster_sandbox.wechat import truth as wechat_truth
from paymaster_sandbox.wechat.errors import V3Error

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from paymaster_sandbox.chassis.store import Tx
    from paymaster_sandbox.world import World

_SHOWN: Final = 50
_STEPS: Final = (("1 minute", 60), ("1 hour", 3_600), ("25 hours", 90_000))

_BOOKS: Final = """
<p>Virtual time: <strong>{{ now }}</strong>. The books
{% if proven %}balance{% else %}<strong>do not balance</strong>{% endif %}.
Paid twice: {{ duplicates|join(", ") or "nothing" }}.
{% for label, seconds in steps %}
<form method="post" action="/play/clock">
<input type="hidden" name="seconds" value="{{ seconds }}"><button>{{ label }} later</button>
</form>
{% endfor %}
</p>

<h2>Waiting for a person: WeChat Pay</h2>
<table>
<tr><th>what</th><th>who</th><th>reference</th><th class="number">CNY</th><th></th></tr>
{% for each in waiting %}
<tr><td>{{ each.kind }}</td><td>{{ each.person }}</td><td>{{ each.reference }}</td>
<td class="number">{{ each.amount }}</td><td>
{% for act in each.acts %}
<form method="post" action="/play/wechat">
<input type="hidden" name="kind" value="{{ each.kind }}">
<input type="hidden" name="id" value="{{ each.id }}">
<input type="hidden" name="act" value="{{ act }}">
<button>{{ act }}</button>
</form>
{% endfor %}
</td></tr>
{% else %}
<tr><td colspan="5">Nothing. What nobody confirms expires after 24 hours.</td></tr>
{% endfor %}
</table>

<h2>Waiting for a person: Alipay orders</h2>
<table>
<tr><th>order</th><th>for</th><th>state</th><th class="number">CNY</th><th></th></tr>
{% for each in orders %}
<tr><td>{{ each.out_trade_no }}</td><td>{{ each.subject }}</td><td>{{ each.status }}</td>
<td class="number">{{ each.amount }}</td><td>
{% for user in users %}
<form method="post" action="/play/alipay">
<input type="hidden" name="token" value="{{ each.token }}">
<input type="hidden" name="user" value="{{ user.user_id }}">
<button>pay as {{ user.name }}</button>
</form>
{% endfor %}
</td></tr>
{% else %}
<tr><td colspan="5">Nothing.</td></tr>
{% endfor %}
</table>

{% for book in accounts %}
<h2>{{ book.title }}</h2>
<table>
<tr><th>account</th><th>figures</th></tr>
{% for name, figures in book.rows.items() %}
<tr><td>{{ name }}</td><td>
{% for label, figure in figures.items() %}{{ label }}: {{ figure }}{{ "; " if not loop.last }}
{% endfor %}
</td></tr>
{% else %}
<tr><td colspan="2">None is open.</td></tr>
{% endfor %}
</table>
{% endfor %}

<h2>Alipay transfers</h2>
<table>
<tr><th>number</th><th>to</th><th>state</th><th class="number">CNY</th></tr>
{% for each in transfers %}
<tr><td>{{ each.out_biz_no }}</td><td>{{ each.shown }}</td>
<td>{{ each.status }}{{ " " ~ each.error if each.error }}</td>
<td class="number">{{ each.amount }}</td></tr>
{% else %}
<tr><td colspan="4">None.</td></tr>
{% endfor %}
</table>

<h2>What happened last</h2>
<table>
<tr><th>when</th><th>what</th><th>facts</th></tr>
{% for each in events %}
<tr><td>{{ each.at }}</td><td>{{ each.kind }}</td><td>{{ each.facts }}</td></tr>
{% else %}
<tr><td colspan="3">Nothing yet.</td></tr>
{% endfor %}
</table>
"""
_REFUSED: Final = '<p>{{ message }}</p><p><a href="/">Back to the books</a></p>'


class BooksPage:
    """The page of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pages = Pages(books=_BOOKS, refused=_REFUSED)

    def routes(self) -> list[Route]:
        """The page and what its buttons do."""
        return [
            Route("/", guarded(loopback(self._show)), methods=["GET"]),
            Route("/play/clock", guarded(loopback(self._move)), methods=["POST"]),
            Route("/play/wechat", guarded(loopback(self._wechat)), methods=["POST"]),
            Route("/play/alipay", guarded(loopback(self._alipay)), methods=["POST"]),
        ]

    async def _show(self, _request: Request) -> Response:
        world = self._world
        books = world.books(brief=True)
        with world.chassis.tx() as tx:
            return self._pages.show(
                "books", "Paymaster sandbox", now=stamp(tx.now), proven=books["proven"],
                duplicates=books["duplicates"], steps=_STEPS, waiting=self._waiting(tx),
                orders=self._orders(tx), users=world.alipay.apps.users(tx),
                transfers=self._transfers(tx), accounts=_accounts(tx, books), events=_events(tx),
            )  # fmt: skip

    async def _move(self, request: Request) -> Response:
        filled = await form(request)
        seconds = filled.get("seconds", "")
        if seconds not in {str(step) for _, step in _STEPS}:
            return self._refuse("that is no step")
        self._world.move_clock(None, int(seconds) * SECOND)
        return RedirectResponse("/", 303)

    async def _wechat(self, request: Request) -> Response:
        filled = await form(request)
        try:
            with self._world.chassis.tx() as tx:
                self._world.wechat.hand.act(
                    tx, filled.get("kind", ""), filled.get("id", ""), filled.get("act", ""), None
                )
        except V3Error as error:
            return self._refuse(str(error))
        self._world.run_due()
        return RedirectResponse("/", 303)

    async def _alipay(self, request: Request) -> Response:
        filled = await form(request)
        alipay = self._world.alipay
        with self._world.chassis.tx() as tx:
            trade = alipay.trades.by_token(tx, filled.get("token", ""))
            user = alipay.apps.user(tx, filled.get("user", ""))
            paid = trade is not None and user is not None and alipay.trades.pay(tx, trade, user)
        if not paid:
            return self._refuse("the order cannot be paid")
        return RedirectResponse("/", 303)

    def _refuse(self, message: str) -> Response:
        return self._pages.show("refused", "That did not work", 409, message=message)

    def _waiting(self, tx: Tx) -> list[dict[str, Any]]:
        return [
            {**each, "amount": yuan(int(str(each.get("amount_fen") or 0)))}
            for each in self._world.wechat.hand.waiting(tx)
        ]

    def _orders(self, tx: Tx) -> list[dict[str, Any]]:
        return [
            {
                "token": trade.token,
                "out_trade_no": trade.out_trade_no,
                "subject": trade.subject,
                "status": trade.status,
                "amount": yuan(trade.total),
            }
            for trade in self._world.alipay.trades.newest(tx, _SHOWN)
            if trade.status in ("ANNOUNCED", "WAIT_BUYER_PAY")
        ]

    def _transfers(self, tx: Tx) -> list[dict[str, Any]]:
        return [
            {
                "out_biz_no": made.out_biz_no,
                "shown": made.shown,
                "status": made.status,
                "error": made.error,
                "amount": yuan(made.amount),
            }
            for made in self._world.alipay.transfers.newest(tx, _SHOWN)
        ]


def _accounts(tx: Tx, books: dict[str, Any]) -> list[dict[str, Any]]:
    """Every provider's customers, amounts written out."""
    wechat: Any = wechat_truth.books(tx)["merchants"]
    return [
        {"title": title, "rows": {name: _readable(name, figures) for name, figures in rows.items()}}
        for title, rows in (
            ("Bank", books["bank"]),
            ("Wallet provider", books["wallet"]),
            ("WeChat Pay", wechat),
            ("Alipay", books["alipay"]),
        )
    ]


def _readable(name: str, figures: dict[str, Any]) -> dict[str, str]:
    """Figures in words, those that are nothing left out; counts and their amounts stay apart."""
    currency = str(figures.get("currency", name if len(name) == 3 else "CNY"))
    shown: dict[str, str] = {}
    for label, figure in figures.items():
        bare = label.removesuffix("_minor").removesuffix("_fen")
        money = bare != label
        words = f"{bare} amount" if money and bare in figures else bare
        if figure not in (0, {}):
            shown[words.replace("_", " ")] = _words(figure, currency if money else None)
    return shown


def _words(figure: object, currency: str | None) -> str:
    """A figure, or several by name; amounts with their currency."""
    if isinstance(figure, dict):
        parts = cast("dict[str, object]", figure).items()
        return ", ".join(f"{name} {_words(part, currency)}" for name, part in parts)
    if isinstance(figure, int) and currency is not None:
        return f"{format_minor(figure, currency)} {currency}"
    return str(figure)


def _events(tx: Tx) -> list[dict[str, Any]]:
    return [
        {
            "at": event.pop("at"),
            "kind": event.pop("kind"),
            "facts": ", ".join(f"{name} {value}" for name, value in event.items() if name != "seq"),
        }
        for event in reversed(journal.recent(tx, _SHOWN))
    ]
