"""Reading the settings: environment variables over one optional TOML file over defaults."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import Field, PrivateAttr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from paymaster.kernel.errors import Problem, Refusal
from paymaster.settings.broker import Broker
from paymaster.settings.edge import Peers, Providers
from paymaster.settings.funding import Funding
from paymaster.settings.fx import Fx
from paymaster.settings.groups import (
    Api,
    Database,
    Group,
    Hooks,
    Limits,
    Log,
    Roles,
)
from paymaster.settings.keys import AwsSettings, HsmSettings, SecretSettings, VaultSettings
from paymaster.settings.messages import Email, Webhooks
from paymaster.settings.payin import PayIn
from paymaster.settings.payouts import Payouts
from paymaster.settings.staff import Staff
from paymaster.settings.step_up import StepUp
from paymaster.settings.streams import Streams

PREFIX = "PAYMASTER__"
FILE_VARIABLE = "PAYMASTER_CONFIG"
DEFAULT_FILE = Path("paymaster.toml")


class Settings(BaseSettings):
    """All settings. Make it with `load_settings`, which also explains where a value came from."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        nested_model_default_partial_update=True,
    )

    database: Database = Field(default_factory=Database)
    api: Api = Field(default_factory=Api)
    hooks: Hooks = Field(default_factory=Hooks)
    roles: Roles = Field(default_factory=Roles)
    secrets: SecretSettings = Field(default_factory=SecretSettings)
    vault: VaultSettings = Field(default_factory=VaultSettings)
    aws: AwsSettings = Field(default_factory=AwsSettings)
    hsm: HsmSettings = Field(default_factory=HsmSettings)
    log: Log = Field(default_factory=Log)
    limits: Limits = Field(default_factory=Limits)
    peers: Peers = Field(default_factory=Peers)
    providers: Providers = Field(default_factory=Providers)
    step_up: StepUp = Field(default_factory=StepUp)
    staff: Staff = Field(default_factory=Staff)
    payouts: Payouts = Field(default_factory=Payouts)
    payin: PayIn = Field(default_factory=PayIn)
    webhooks: Webhooks = Field(default_factory=Webhooks)
    email: Email = Field(default_factory=Email)
    streams: Streams = Field(default_factory=Streams)
    fx: Fx = Field(default_factory=Fx)
    broker: Broker = Field(default_factory=Broker)
    funding: Funding = Field(default_factory=Funding)

    _origins: dict[str, str] = PrivateAttr(default_factory=dict[str, str])

    def origin(self, name: str) -> str:
        """Where `group.field` came from: environment, file, default, or code."""
        return self._origins.get(name, "code")

    def note_origins(self, origins: Mapping[str, str]) -> None:
        """For `load_settings`, which alone knows."""
        self._origins.update(origins)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the library calls it by these names
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment over what `load_settings` read from the file."""
        return (env_settings, init_settings)


def group_model(info: FieldInfo) -> type[Group]:
    """The model of a group."""
    return cast("type[Group]", info.annotation)


def leaves() -> Iterator[tuple[str, FieldInfo]]:
    """Every `group.field` with its definition."""
    for group, info in Settings.model_fields.items():
        for name, field in group_model(info).model_fields.items():
            yield f"{group}.{name}", field


def load_settings(file: Path | None = None) -> Settings:
    """Read the settings. `file` goes before `PAYMASTER_CONFIG`, which goes before ./paymaster.toml.

    Raises Refusal `settings-invalid` with every fault found, `settings-file` when the named file
    cannot be read. Unknown names are faults: a misspelt limit must not be silently absent.
    """
    path, values = _read_file(file)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise _invalid(
            Problem(
                _name(fault["loc"]),
                "there is no such setting" if fault["type"] == "extra_forbidden" else fault["msg"],
            )
            for fault in error.errors(include_input=False)
        ) from None
    except SettingsError as error:
        raise _invalid([Problem("", str(error))]) from None
    unknown = [variable for variable in os.environ if _is_unknown(variable)]
    if unknown:
        raise _invalid(Problem(variable, "There is no such setting.") for variable in unknown)
    settings.note_origins({name: _origin(name, path, values) for name, _ in leaves()})
    return settings


def _read_file(file: Path | None) -> tuple[Path | None, dict[str, Any]]:
    named = file or (Path(os.environ[FILE_VARIABLE]) if os.environ.get(FILE_VARIABLE) else None)
    path = named or DEFAULT_FILE
    try:
        with path.open("rb") as handle:
            return path, tomllib.load(handle)
    except FileNotFoundError as error:
        if named is None:
            return None, {}
        raise Refusal("settings-file", f"There is no settings file {path}.") from error
    except OSError as error:
        raise Refusal("settings-file", f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refusal("settings-file", f"{path} is not TOML: {error}.") from error


def _invalid(problems: Iterable[Problem]) -> Refusal:
    found = list(problems)
    first = f"{found[0].pointer}: {found[0].detail}" if found else ""
    return Refusal("settings-invalid", f"The settings are wrong. {first}", problems=found)


def _name(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def _is_unknown(variable: str) -> bool:
    """A variable of our prefix whose group we do not have (pydantic looks inside the groups)."""
    if not variable.upper().startswith(PREFIX):
        return False
    return variable[len(PREFIX) :].lower().split("__")[0] not in Settings.model_fields


def _origin(name: str, path: Path | None, values: Mapping[str, Any]) -> str:
    group, field = name.split(".")
    exact, whole = f"{PREFIX}{group}__{field}".upper(), f"{PREFIX}{group}".upper()
    for variable in os.environ:
        upper = variable.upper()
        if upper == exact or upper.startswith(exact + "__"):
            return f"environment {variable}"
    for variable in os.environ:
        if variable.upper() == whole:
            return f"environment {variable}"
    table: object = values.get(group)
    if isinstance(table, dict) and field in table:
        return f"file {path}"
    return "default"
