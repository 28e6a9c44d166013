"""Rules that decide whether a withdrawal may go; pure, versioned, replayable.

facts      what is known about a request
rules/     one rule a file
rule_set   rules and their parameters as data
judge      facts and rules in, verdict out; the same again on replay
verdict    the outcome and every reason
defaults   the rule set of a new environment
"""

from paymaster.screen.defaults import default_rule_set
from paymaster.screen.facts import (
    Act,
    DestinationFacts,
    Facts,
    Figure,
    KycLevel,
    Scope,
    Standing,
    UserFacts,
    Window,
)
from paymaster.screen.judge import evaluate, replay
from paymaster.screen.rule_set import RuleSet
from paymaster.screen.verdict import Outcome, Reason, Verdict

__all__ = [
    "Act",
    "DestinationFacts",
    "Facts",
    "Figure",
    "KycLevel",
    "Outcome",
    "Reason",
    "RuleSet",
    "Scope",
    "Standing",
    "UserFacts",
    "Verdict",
    "Window",
    "default_rule_set",
    "evaluate",
    "replay",
]
