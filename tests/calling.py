"""HTTP clients for what runs on this machine."""

from __future__ import annotations

import ssl

NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For `verify`: trusts no certificate. What tests call shows none; to read the list of those whom
everybody trusts would take each client 25 ms, as long as many a test."""
