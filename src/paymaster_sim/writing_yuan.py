"""What goes wrong at WeChat Pay and Alipay, and with those who must confirm what they are paid.

The names are those of the same troubles elsewhere where there are such; F1 to F15 of what a
faithful sandbox must be able to do are all among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from paymaster_sim.clock import DAY_SECONDS
from paymaster_sim.merchants import ALIPAY, CONSENT, KEYS, WECHAT
from paymaster_sim.script import Act

if TYPE_CHECKING:
    from paymaster_sim.writing import Trouble

HOUR = 3600
SECOND = 1_000_000
_ORDERS: Mapping[str, str] = {WECHAT: "transfer.create", CONSENT: "transfer.authorized"}
_QUESTIONS = ("transfer.query", "transfer.cancel", "authorization.query")
_LIES = ("lied_no", "lied_no", "lied_short")
_TRANSFER = "alipay.fund.trans.uni.transfer"
_QUERY = "alipay.fund.trans.common.query"
_LAST_MOMENTS = (DAY_SECONDS - 30, DAY_SECONDS - 1, DAY_SECONDS + 1, DAY_SECONDS + HOUR)
_FAILS = ("PAYEE_ACCOUNT_ABNORMAL", "TRANSFER_RISK", "ACCOUNT_NOT_EXIST")
_CODES: Mapping[str, tuple[str, ...]] = {
    WECHAT: _FAILS,
    CONSENT: _FAILS,
    ALIPAY: ("PAYEE_NOT_EXIST", "PERMIT_CHECK_PERM_LIMITED", "PAYEE_USER_INFO_ERROR"),
}
_OUTCOMES: Mapping[str, tuple[str, ...]] = {
    WECHAT: ("reject", "fail", "closed"),
    CONSENT: ("reject", "fail", "closed"),
    ALIPAY: ("reject", "reject", "fail", "closed"),
}


def planned(random: Random, acts: Iterable[Act]) -> list[Act]:
    """Everybody who asks for money at WeChat means to confirm it, mostly within minutes."""
    found: list[Act] = []
    for act in acts:
        if act.kind != "want" or act.data["rail"] != WECHAT:
            found.append(act)
            continue
        after = random.choice((2, 20, 60, 60, 300, HOUR, 20 * HOUR))
        plan = {"act": "confirm", "after": after, "message": random.random() < 0.3}
        found.append(replace(act, data={**act.data, "payee": plan}))
    return found


def _either(
    kinds: Sequence[str], knobs: Sequence[str], per_month: float, most: int = 2
) -> Callable[[Trouble], list[Act]]:
    """The same at both: some of these mishaps at WeChat, some of these faults at Alipay."""

    def writer(trouble: Trouble) -> list[Act]:
        random, found = trouble.random, list[Act]()
        for at in trouble.before_waves(per_month):
            times = random.randint(1, most)
            if random.choice(trouble.rails) != ALIPAY:
                call = random.choice(_QUESTIONS)
                if random.random() < 0.7:
                    call = _ORDERS[trouble.rails[0]]
                data = {"call": call, "what": random.choice(kinds), "times": times}
                found.append(trouble.act(at, "mishap", **data))
            else:
                method = _TRANSFER if random.random() < 0.7 else _QUERY
                found.append(
                    trouble.act(at, "alipay", **{f"{random.choice(knobs)}@{method}": times})
                )
        return found

    return writer


def _notices(
    kinds: Sequence[str], knobs: Sequence[str], per_month: float
) -> Callable[[Trouble], list[Act]]:
    """What befalls notices, or is sent beside them."""

    def writer(trouble: Trouble) -> list[Act]:
        random, found = trouble.random, list[Act]()
        for at in trouble.before_waves(per_month):
            for _ in range(random.randint(1, 3)):
                if random.choice(trouble.rails) != ALIPAY:
                    kind = random.choice(kinds)
                    number = _number(random, kind, trouble.name)
                    data = {"call": "notice", "what": kind, "times": 1, "number": number}
                    found.append(trouble.act(at, "mishap", **data))
                    continue
                knob = random.choice(knobs)
                more: dict[str, Any] = {}
                if knob == "notice_late":
                    more["notice_late_seconds"] = _number(random, "late", trouble.name) // SECOND
                found.append(trouble.act(at, "alipay", **{knob: 1}, **more))
        return found

    return writer


def _number(random: Random, kind: str, fault: str) -> int:
    """How many copies, or how late, in microseconds."""
    if kind == "copies":
        return random.randint(2, 4)
    if kind == "late":
        waits = (1, 5, 30, 90) if fault == "reordered" else (HOUR, 12 * HOUR, 36 * HOUR)
        return random.choice(waits) * SECOND
    return 0


def _for_a_while(
    per_month: float, wechat: Mapping[str, Sequence[int]], alipay: Mapping[str, Sequence[int]]
) -> Callable[[Trouble], list[Act]]:
    """Settings of both, for half a day; at the end of it as they were."""

    def writer(trouble: Trouble) -> list[Act]:
        random, found = trouble.random, list[Act]()
        for at in trouble.before_waves(per_month):
            kind, chosen = random.choice((("setting", wechat), ("alipay", alipay)))
            values = {name: random.choice(among) for name, among in chosen.items()}
            found.append(trouble.act(at, kind, **values))
            found.append(trouble.act(at + DAY_SECONDS // 2, kind, **dict.fromkeys(values, 0)))
        return found

    return writer


def _copies(trouble: Trouble) -> list[Act]:
    """Several at WeChat one by one, at Alipay all of half a day."""
    found = _notices(("copies",), ("notice_lose",), 5)(trouble)
    kept = [act for act in found if act.kind == "mishap"]
    for at in trouble.before_waves(3) if ALIPAY in trouble.rails else ():
        kept.append(trouble.act(at, "alipay", notice_copies=3))
        kept.append(trouble.act(at + DAY_SECONDS // 2, "alipay", notice_copies=1))
    return kept


def _fates(per_month: float, outcomes: Mapping[str, Sequence[str]]) -> Callable[..., list[Act]]:
    """What becomes of the next payment to somebody."""

    def writer(trouble: Trouble) -> list[Act]:
        random, found = trouble.random, list[Act]()
        rails = [name for name in trouble.rails if name in outcomes]
        for at in trouble.before_waves(per_month) if rails else ():
            rail = random.choice(rails)
            data = {
                "person": random.randrange(trouble.users), "rail": rail,
                "outcome": random.choice(outcomes[rail]), "code": random.choice(_CODES[rail]),
                "after": random.choice((1, 30, HOUR, DAY_SECONDS, 3 * DAY_SECONDS)),
            }  # fmt: skip
            found.append(trouble.act(at, "fate", **data))
        return found

    return writer


def _rotated(trouble: Trouble) -> list[Act]:
    """A new key, and hours later we have it; there are as many as were made."""
    random, found = trouble.random, list[Act]()
    left = dict.fromkeys(("certificate", "public-key", ALIPAY), KEYS - 1)
    for at in trouble.before_waves(2):
        kind = random.choice(sorted(left))
        if left[kind]:
            left[kind] -= 1
            found.append(trouble.act(at, "rotate", key=kind))
            found.append(trouble.act(at + random.choice((60, HOUR, 5 * HOUR)), "learn"))
    return found


def _short(trouble: Trouble) -> list[Act]:
    """Little is there at the start; somebody tops up now and then."""
    return [
        trouble.act(at + random_hours * HOUR, "top-up", minor=trouble.random.randint(5_000, 20_000))
        for at in trouble.before_waves(2)
        if (random_hours := trouble.random.choice((1, 6, 30)))
    ]


def _unwilling(trouble: Trouble) -> list[Act]:
    """Payees with other plans for their next transfer than they had."""
    random, found = trouble.random, list[Act]()
    for at in trouble.before_waves(8) if WECHAT in trouble.rails else ():
        act = random.choice(("forget", "forget", "refuse", "confirm"))
        after = random.choice(_LAST_MOMENTS if act == "confirm" else (5, HOUR, 22 * HOUR))
        plan = {"act": act, "after": after, "message": random.random() < 0.5}
        askers = trouble.waves[at]
        if askers:
            found.append(trouble.act(at, "plan", person=random.choice(askers), plan=plan))
    return found


def _taken_back(trouble: Trouble) -> list[Act]:
    """At the very moment at which others are confirming, or just before their time is over."""
    random = trouble.random
    asked = [(at, key) for at, key, rail in trouble.asked if rail == WECHAT]
    chosen = random.sample(asked, min(len(asked), trouble.often(8)))
    waits = (1, 2, 20, 60, 60, 61, 300, HOUR, 20 * HOUR, DAY_SECONDS - 2)
    return [trouble.act(at + random.choice(waits), "take-back", key=key) for at, key in chosen]


def _consent_closed(trouble: Trouble) -> list[Act]:
    """Before they are paid, or meanwhile; half of them give it anew."""
    random, found = trouble.random, list[Act]()
    for at in trouble.before_waves(5) if CONSENT in trouble.rails else ():
        person = random.choice([*trouble.waves[at], random.randrange(trouble.users)])
        found.append(trouble.act(at + random.choice((0, 1, 60)), "consent", person=person, given=0))
        if random.random() < 0.5:
            found.append(
                trouble.act(at + random.choice((90, HOUR)), "consent", person=person, given=1)
            )
    return found


def _stalls(trouble: Trouble) -> list[Act]:
    """As with the wallet: whoever calls a provider stands still until another has the order too."""
    found: list[Act] = []
    for at in trouble.before_waves(3):
        before = trouble.random.random() < 0.3
        for name in ("dispatch-1", "dispatch-2") * 2:
            seconds = trouble.random.randint(100, 4000)
            found.append(trouble.act(at, "stall", process=name, seconds=seconds, before=before))
    return found


WRITERS: Mapping[str, Callable[[Trouble], list[Act]]] = {
    "answer-lost": _either(("cut_after",), ("drop_answers",), 7),
    "error-before": _either(("error_before", "cut_before"), ("fail_before", "drop_requests"), 5),
    "error-after": _either(("error_after",), ("fail_after", "processing"), 5),
    "not-found-lag": _for_a_while(
        4, {"not_found_lag_seconds": (45, 240)}, {"not_found_lag_seconds": (45, 240)}
    ),
    "forged": _notices(
        ("bad_signature", "unknown_serial", "stale", "signtest", "wrong_mchid", "tampered",
         "replayed"),
        ("notice_forge", "notice_tamper", "notice_wrong_app", "notice_replay"), 4,
    ),
    "duplicate": _copies,
    "late": _notices(("late",), ("notice_late",), 4),
    "reordered": _notices(("late",), ("notice_late",), 4),
    "missing": _notices(("lost",), ("notice_lose",), 5),
    "refused": _fates(5, _OUTCOMES),
    "returned": _fates(5, {ALIPAY: ("return",)}),
    "short": _short,
    "report-lost": lambda _: [],
    "stall": _stalls,
    "limited": _either(
        ("limited_before", "limited_after", "accepted_before", "accepted_after"),
        ("rate_limit", "accepted"), 4,
    ),
    "unlisted": _either(("code_before", "code_after"), ("unlisted_code", "refuse_unlisted"), 4),
    "doubtful": _either(
        ("bad_signature", "no_signature", "unknown_serial", "stale", "signtest", "truncated",
         "garbled", "reordered", "extra_fields"),
        ("bad_signature", "unsigned", "unknown_serial", "stale_timestamp", "truncated", "garbled",
         "reordered"), 6,
    ),
    "lied-no": _either(_LIES, _LIES, 5),
    "late-end": _for_a_while(
        4,
        {"accept_seconds": (0, 30, 600), "paid_seconds": (5, 600, 6 * HOUR),
         "cancel_seconds": (0, 30, 600), "cancel_too_late": (0, 1)},
        {"late_seconds": (5, 600, 6 * HOUR)},
    ),
    "rotated": _rotated,
    "provider-skew": _for_a_while(
        2, {"clock_skew_seconds": (-200, 200, 270)}, {"skew_seconds": (200, 270)}
    ),
    "unwilling": _unwilling,
    "taken-back": _taken_back,
    "consent-closed": _consent_closed,
}  # fmt: skip
"""Who writes each fault, where it is another story than in euros."""
