"""What an operator can set. No secret is a setting: keys come from the secret stores.

broker    those of the message broker
edge      those of what faces the network
funding   those of the funding guard
groups    the fields, with their defaults, limits and documentation
keys      those of secret stores and keys
messages  those of webhooks to apps and email
streams   those of the status stream
fx        those of quotes and rates
payouts   those of paying
payin     those of taking money in
load      environment over TOML file over defaults
explain   where a value came from; the generated reference page
"""

from paymaster.settings.broker import Broker
from paymaster.settings.edge import Peers, Providers, Web
from paymaster.settings.explain import explain, masked, reference
from paymaster.settings.funding import Funding
from paymaster.settings.fx import Fx
from paymaster.settings.groups import (
    Api,
    Database,
    Hooks,
    Limits,
    Log,
    Roles,
)
from paymaster.settings.keys import (
    AwsSettings,
    HsmSettings,
    SecretSettings,
    SecretStoreKind,
    VaultSettings,
)
from paymaster.settings.load import Settings, load_settings
from paymaster.settings.messages import Email, Webhooks
from paymaster.settings.payin import PayIn
from paymaster.settings.payouts import Payouts
from paymaster.settings.staff import Staff
from paymaster.settings.step_up import StepUp
from paymaster.settings.streams import Streams

__all__ = [
    "Api",
    "AwsSettings",
    "Broker",
    "Database",
    "Email",
    "Funding",
    "Fx",
    "Hooks",
    "HsmSettings",
    "Limits",
    "Log",
    "PayIn",
    "Payouts",
    "Peers",
    "Providers",
    "Roles",
    "SecretSettings",
    "SecretStoreKind",
    "Settings",
    "Staff",
    "StepUp",
    "Streams",
    "VaultSettings",
    "Web",
    "Webhooks",
    "explain",
    "load_settings",
    "masked",
    "reference",
]
