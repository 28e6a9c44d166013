"""Which of its certificates the provider signs with, through rotations."""

from __future__ import annotations

from typing import Final

from paymaster_sandbox.alipay import trouble
from paymaster_sandbox.alipay.certificates import Certificates, serial_number
from paymaster_sandbox.alipay.signing import sign
from paymaster_sandbox.chassis.seed import Seed
from paymaster_sandbox.chassis.store import Tx

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS alipay_generation (
    number INTEGER PRIMARY KEY, since INTEGER NOT NULL
);
"""


class Ring:
    """The signing certificates: the newest signs, older ones may still be asked for."""

    def __init__(self, certificates: Certificates, seed: Seed) -> None:
        self.certificates = certificates
        self._seed = seed

    def newest(self, tx: Tx) -> int:
        """The present generation."""
        number = tx.value("SELECT max(number) FROM alipay_generation")
        if number is None:
            return self.rotate(tx)
        return int(number)

    def rotate(self, tx: Tx) -> int:
        """Begin to sign with a new certificate; its generation."""
        return tx.insert("INSERT INTO alipay_generation (since) VALUES (?)", tx.now)

    def sign(self, tx: Tx, message: bytes) -> tuple[str, str]:
        """The signature, and the serial number of the certificate it was made with."""
        key, certificate = self.certificates.signing(self._generation(tx))
        return sign(key, message), serial_number(certificate)

    def pem(self, tx: Tx, number: str | None = None) -> str | None:
        """A certificate by its serial number, by default the newest; None if it is not ours."""
        newest = self.newest(tx)
        for generation in range(newest, 0, -1):
            certificate = self.certificates.signing(generation)[1]
            if number in (None, serial_number(certificate)):
                return self.certificates.certificate(generation)
        return None

    def _generation(self, tx: Tx) -> int:
        """Mostly the newest; during a rotation some of its servers still have the one before."""
        newest = self.newest(tx)
        behind = trouble.setting(tx, "old_certificate_permille")
        if newest > 1 and behind and self._seed.below(tx, "alipay.ring", 1000) < behind:
            return newest - 1
        return newest
