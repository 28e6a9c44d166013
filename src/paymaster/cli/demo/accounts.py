"""Our accounts at the bank and the wallet provider, on both sides, and the rules of screening."""

from __future__ import annotations

import os
from pathlib import Path

from paymaster.cli.demo import payees
from paymaster.cli.demo.scene import BANK, WALLET, Story
from paymaster.cli.demo.world import MODE, TENANT, Addresses
from paymaster.kernel.money import Money


def keep_secrets(addresses: Addresses, directory: Path) -> None:
    """Put the providers' keys where Paymaster's file store finds them."""
    for name, source in (
        ("sandbank-client-key", addresses.client_key_file),
        ("sandpay-api-key", addresses.api_key_file),
        ("sandpay-webhook-secret", addresses.webhook_secret_file),
    ):
        keep_secret(directory, name, source.read_bytes())


def keep_secret(directory: Path, name: str, value: bytes) -> None:
    """Write one secret, or write it anew."""
    fresh = directory / f".{name}"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(value)
    fresh.replace(directory / name)


def hook(story: Story, account: str) -> str:
    """Where a provider tells us about an account."""
    return f"{story.addresses.hooks}/v1/hooks/{TENANT}/{MODE}/{account}"


async def open_accounts(story: Story) -> None:
    """Our bank account and our merchant account at the wallet provider, on both sides."""
    await set_rules(story)
    await open_bank(story)
    await _open_wallet(story)


async def open_bank(story: Story) -> None:
    """Our bank account: sponsors pay in there."""
    ours = payees.german_iban(payees.OUR_IBAN_NUMBER)
    await story.sandbox.post(
        "/_control/accounts",
        {
            "iban": ours,
            "currency": story.currency,
            "opening_balance": story.major(500).text(),
            "holder": "Demo Rewards",
        },
    )
    await story.operator.put(
        f"/v1/rail-accounts/{BANK}",
        {
            "rail": "iso20022-unique",
            "currency": story.currency,
            "time_zone": "UTC",
            "payout_window": "manual",
            "settings": {
                "iban": ours,
                "holder": "Demo Rewards",
                "transport": "sftp",
                "host": story.addresses.sftp_host,
                "port": str(story.addresses.sftp_port),
                "user": "paymaster",
                "host_key": story.addresses.host_key,
            },
            "secrets": {"client_key": "sandbank-client-key"},
        },
    )


async def _open_wallet(story: Story) -> None:
    provider = payees.german_iban(payees.PROVIDER_IBAN_NUMBER)
    await story.sandbox.post(
        "/_control/wallet-merchant",
        {
            "currency": story.currency,
            "iban": provider,
            "opening_balance": Money.zero(story.currency).text(),
            "webhook_url": hook(story, WALLET),
        },
    )
    merchant = {"url": story.addresses.sandbox, "topup_iban": provider, "holder": "Sandpay"}
    await story.operator.put(
        f"/v1/rail-accounts/{WALLET}",
        {
            "rail": "sandbox-wallet",
            "currency": story.currency,
            "time_zone": "UTC",
            "payout_window": "always",
            "settings": merchant,
            "secrets": {"api_key": "sandpay-api-key", "webhook_secret": "sandpay-webhook-secret"},
        },
    )


async def set_rules(story: Story) -> None:
    """Screening for this demo: a minimum of one unit of its currency, and velocity."""
    found = await story.operator.get("/v1/screening/rules")
    if found["version"] != 1:
        return
    velocity = {"scope": "user", "window_seconds": 3600, "count": 5}
    rules = [
        {"rule": "standing"},
        {"rule": "minimum", "parameters": {"amounts": {story.currency: "1"}}},
        {"id": "user-hour", "rule": "velocity", "parameters": velocity},
        {"rule": "shared_destination", "parameters": {"users": 3}},
    ]
    await story.operator.put("/v1/screening/rules", {"based_on": 1, "rules": rules})
