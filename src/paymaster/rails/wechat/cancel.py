"""Take back a transfer that is not final. The provider decides later; only a query ends it."""

from __future__ import annotations

from urllib.parse import quote

from paymaster.rails import meaning
from paymaster.rails.base import Outcome, RailAccount
from paymaster.rails.deps import RailDeps
from paymaster.rails.meaning import Kind
from paymaster.rails.wechat import calls
from paymaster.rails.wechat.query import query
from paymaster.rails.wechat.send import BILLS
from paymaster.rails.wechat.settings import Product, product


async def cancel(deps: RailDeps, account: RailAccount, key: str) -> Outcome:
    """See Cancels. Batches and old payments cannot be taken back: NeverSent."""
    if product(account) not in {Product.BILLS, Product.AUTHORISED}:
        raise meaning.error(Kind.ACCOUNT, "Payments of this product cannot be taken back.")
    # The body is empty, and that is what is signed. Whatever is answered, the bill itself is asked.
    await calls.ask(deps, account, "POST", f"{BILLS}/out-bill-no/{quote(key)}/cancel")
    return await query(deps, account, key)
