"""What an operator can set. No secret is a setting: keys come from the secret stores.

groups    the fields, with their defaults, limits and documentation
load      environment over TOML file over defaults
explain   where a value came from; the generated reference page
"""

from paymaster.settings.explain import explain, masked, reference
from paymaster.settings.groups import (
    Api,
    Database,
    Hooks,
    Limits,
    Log,
    Roles,
    SecretSettings,
    SecretStoreKind,
)
from paymaster.settings.load import Settings, load_settings

__all__ = [
    "Api",
    "Database",
    "Hooks",
    "Limits",
    "Log",
    "Roles",
    "SecretSettings",
    "SecretStoreKind",
    "Settings",
    "explain",
    "load_settings",
    "masked",
    "reference",
]
