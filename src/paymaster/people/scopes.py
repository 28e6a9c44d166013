"""Scopes: what a key or a role may do. Each route asks for one."""

from __future__ import annotations

SCOPES: dict[str, str] = {
    "read": "read everything of the environment that is not personal",
    "users": "make and change users and their destinations",
    "campaigns": "make and change sponsors, campaigns, tasks and gold answers",
    "events:write": "send events",
    "withdrawals": "request and cancel withdrawals",
    "operate": "review, hold, reverse, reconcile",
    "risk": "place and lift regulatory holds",
    "holds:read": "read regulatory holds, of which nobody may be tipped off",
    "webhooks": "make and change endpoints that are told of events",
    "audit": "read who did what",
    "staff": "keys, issuers, persons and their roles",
}
"""What a key may do."""

DEFAULT_SCOPES = tuple(one for one in SCOPES if one not in ("risk", "holds:read", "audit", "staff"))
"""What a key may do when nothing is said: the work of an app's server, not that of its staff."""
