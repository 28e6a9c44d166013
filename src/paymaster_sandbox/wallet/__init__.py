"""Sandpay: a wallet provider with a JSON API, signed webhooks and daily settlement files."""
