"""AWS: Secrets Manager as a source of secrets, KMS to open and to sign.

Everything goes through boto3, which blocks, so each call has a thread of its own. boto3 comes with
the extra `aws`; without the extra nothing here is imported. Who we are is boto3's business:
environment, web identity of a pod, profile of the machine.
Source: AWS Secrets Manager API Reference (ListSecrets, ListSecretVersionIds, GetSecretValue),
AWS KMS API Reference (GenerateDataKey, Decrypt, GetPublicKey, Sign).
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from paymaster.kernel.errors import Broken, Busy, PaymasterError, Refusal
from paymaster.kernel.guard import forbid_network
from paymaster.secrets.port import SecretVersion, decoded, is_name
from paymaster.secrets.warm import EntryRefused
from paymaster.settings import AwsSettings

_CONNECT_SECONDS, _ANSWER_SECONDS = 5, 15
_GONE = frozenset({"ResourceNotFoundException"})
_DENIED = frozenset({"AccessDeniedException", "AccessDenied"})
_AGAIN = frozenset({
    "ThrottlingException", "InternalServiceError", "ServiceUnavailable",
    "KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException",
})  # fmt: skip
CURRENT, PENDING = "AWSCURRENT", "AWSPENDING"
_KEY_BYTES = 32
_MOST_RAW_BYTES = 4096
_ALGORITHMS = ("ECDSA_SHA_256", "RSASSA_PSS_SHA_256")


class _Refused(Exception):
    """AWS answered with an error; only its code is kept, for its text may repeat what was sent."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class AwsClient:
    """One service of AWS. Nothing is imported or connected before the first call."""

    def __init__(self, service: str, settings: AwsSettings) -> None:
        self._service = service
        self._set = settings
        self._made: Any = None
        self._lock = asyncio.Lock()

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """One call. Raises _Refused, Busy `secret-store-down`, Refusal `extra-missing`."""
        forbid_network()
        async with self._lock:
            if self._made is None:
                self._made = await asyncio.to_thread(_client, self._service, self._set)
        return await asyncio.to_thread(_called, self._made, operation, parameters)

    async def close(self) -> None:
        """Let go of connections."""
        if self._made is not None:
            await asyncio.to_thread(self._made.close)


def _client(service: str, settings: AwsSettings) -> Any:
    try:
        boto3 = cast("Any", importlib.import_module("boto3"))
        config = cast("Any", importlib.import_module("botocore.config")).Config
    except ImportError:
        raise Refusal(
            "extra-missing",
            "The library boto3 is not installed: install Paymaster as `paymaster[aws]`.",
        ) from None
    given = config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_ANSWER_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 3},
    )
    return boto3.session.Session(region_name=settings.region or None).client(
        service, endpoint_url=settings.endpoint_url, config=given
    )


def _called(client: Any, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    faults = cast("Any", importlib.import_module("botocore.exceptions"))
    try:
        return cast("dict[str, Any]", getattr(client, operation)(**parameters))
    except faults.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _AGAIN:
            raise Busy("secret-store-down", f"AWS answered {code}.") from None
        raise _Refused(code) from None
    except faults.NoCredentialsError:
        raise _Refused("no credentials") from None
    except faults.BotoCoreError as error:
        raise Busy("secret-store-down", f"AWS did not answer: {type(error).__name__}.") from None


def _denied(error: _Refused, what: str) -> PaymasterError:
    return Broken("secret-store-refused", f"AWS refused {what}: {error.code}.")


class AwsSecretsSource:
    """Secrets Manager. A secret is `<aws.prefix><name>`.

    The version that carries the label AWSCURRENT is the newest, whatever its age: moving the label
    back takes a rotation back. AWSPENDING alone is not in use yet; without a label it is no more.
    """

    kind = "aws"

    def __init__(self, settings: AwsSettings) -> None:
        self._set = settings
        self._client = AwsClient("secretsmanager", settings)

    async def names(self) -> Sequence[str] | None:
        """See Source."""
        found: list[str] = []
        more: dict[str, str] = {}
        while True:
            try:
                answer = await self._client.call(
                    "list_secrets",
                    Filters=[{"Key": "name", "Values": [self._set.prefix]}],
                    MaxResults=100,
                    **more,
                )
            except _Refused as error:
                if error.code in _DENIED:
                    return None
                raise _denied(error, "the list of secrets") from None
            names = [str(one.get("Name", "")) for one in answer.get("SecretList", [])]
            cut = len(self._set.prefix)
            found += [name[cut:] for name in names if name.startswith(self._set.prefix)]
            if not answer.get("NextToken"):
                return [name for name in found if is_name(name)]
            more = {"NextToken": str(answer["NextToken"])}

    async def versions(
        self, name: str, known: Mapping[str, SecretVersion]
    ) -> Sequence[SecretVersion]:
        """See Source."""
        whole, more = self._set.prefix + name, dict[str, str]()
        listed: list[dict[str, Any]] = []
        try:
            while True:
                answer = await self._client.call(
                    "list_secret_version_ids", SecretId=whole, IncludeDeprecated=False, **more
                )
                listed += cast("list[dict[str, Any]]", answer.get("Versions", []))
                if not answer.get("NextToken"):
                    break
                more = {"NextToken": str(answer["NextToken"])}
            used = [one for one in listed if set(one.get("VersionStages", ())) - {PENDING}]
            used.sort(key=_rank)
            return [await self._version(name, one, known) for one in used]
        except _Refused as error:
            # A secret that is marked for deletion is refused as an invalid request.
            if error.code in _GONE or error.code == "InvalidRequestException":
                return []
            what = f"the secret {name!r}"
            if error.code in _DENIED:
                raise EntryRefused(
                    "secret-store-refused", f"AWS refused {what}: {error.code}."
                ) from None
            raise _denied(error, what) from None

    async def _version(
        self, name: str, listed: Mapping[str, Any], known: Mapping[str, SecretVersion]
    ) -> SecretVersion:
        version_id = str(listed["VersionId"])
        before = known.get(version_id)
        if before is not None:
            return before
        answer = await self._client.call(
            "get_secret_value", SecretId=self._set.prefix + name, VersionId=version_id
        )
        binary = cast("bytes | None", answer.get("SecretBinary"))
        raw = str(answer.get("SecretString") or "").encode() if binary is None else bytes(binary)
        return SecretVersion(
            version_id, decoded(raw, name), _moment(listed.get("CreatedDate")), store=self.kind
        )

    async def close(self) -> None:
        """See Source."""
        await self._client.close()


def _rank(version: Mapping[str, Any]) -> tuple[bool, timedelta]:
    """The current one first, then the younger ones."""
    created = _moment(version.get("CreatedDate")) or datetime(1970, 1, 1, tzinfo=UTC)
    current = CURRENT in version.get("VersionStages", ())
    return not current, datetime(1970, 1, 1, tzinfo=UTC) - created


def _moment(given: object) -> datetime | None:
    return given.astimezone(UTC) if isinstance(given, datetime) else None


class Kms:
    """What KMS does for us. A key is an id, an ARN or `alias/...`."""

    def __init__(self, settings: AwsSettings) -> None:
        self._client = AwsClient("kms", settings)
        self._known: dict[str, tuple[str, bytes]] = {}

    async def new_wrapped(self, key: str, name: str) -> bytes:
        """32 random bytes, wrapped under a key of KMS for the secret `name`.

        Raises Broken `secret-store-refused`, Busy `secret-store-down`, Refusal `extra-missing`.
        """
        try:
            answer = await self._client.call(
                "generate_data_key_without_plaintext",
                KeyId=key,
                NumberOfBytes=_KEY_BYTES,
                EncryptionContext=_context(name),
            )
        except _Refused as error:
            raise _denied(error, f"a new key under {key}") from None
        return bytes(answer["CiphertextBlob"])

    async def opened(self, wrapped: bytes, name: str) -> bytes:
        """What was wrapped for the secret `name`. Raises as `new_wrapped`."""
        try:
            answer = await self._client.call(
                "decrypt", CiphertextBlob=wrapped, EncryptionContext=_context(name)
            )
        except _Refused as error:
            raise _denied(error, f"to open the secret {name!r}") from None
        return bytes(answer["Plaintext"])

    async def sign(self, key: str, message: bytes) -> bytes:
        """A signature over the SHA-256 of the message: ECDSA in DER, or RSA-PSS.

        Raises Broken `signer-refused`, Busy `signer-unreachable`, Refusal `extra-missing`.
        """
        algorithm, _ = await self._facts(key)
        long = len(message) > _MOST_RAW_BYTES
        answer = await self._signing(
            "sign",
            KeyId=key,
            Message=hashlib.sha256(message).digest() if long else message,
            MessageType="DIGEST" if long else "RAW",
            SigningAlgorithm=algorithm,
        )
        return bytes(answer["Signature"])

    async def public_key(self, key: str) -> bytes:
        """The public key in DER. Raises as `sign`."""
        return (await self._facts(key))[1]

    async def _facts(self, key: str) -> tuple[str, bytes]:
        if key not in self._known:
            answer = await self._signing("get_public_key", KeyId=key)
            offered = cast("list[str]", answer.get("SigningAlgorithms", []))
            algorithm = next((one for one in _ALGORITHMS if one in offered), None)
            if algorithm is None:
                raise Broken(
                    "signer-refused",
                    f"The KMS key {key} signs neither with {' nor with '.join(_ALGORITHMS)}.",
                )
            self._known[key] = (algorithm, bytes(answer["PublicKey"]))
        return self._known[key]

    async def _signing(self, operation: str, **parameters: Any) -> dict[str, Any]:
        try:
            return await self._client.call(operation, **parameters)
        except _Refused as error:
            raise Broken("signer-refused", f"KMS refused to sign: {error.code}.") from None
        except Busy as error:
            raise Busy("signer-unreachable", error.detail) from None

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.close()


def _context(name: str) -> dict[str, str]:
    """Bound to the wrapped key: one that lies under another name does not open."""
    return {"paymaster-secret": name}
