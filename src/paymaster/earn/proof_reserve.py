"""`prove` for what became of rewards: reserve, reversals, write-offs, figures."""

from __future__ import annotations

from typing import LiteralString

from paymaster.ledger.proof_pages import POSTINGS_OF_E, Pages

PAGE = 2_000

_USERS: LiteralString = (
    "SELECT id FROM app_user WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)
_RESERVES: LiteralString = (
    "SELECT reward_id FROM reserve WHERE reward_id > %(low)s"
    " ORDER BY reward_id OFFSET %(size)s LIMIT 1"
)
_REVERSALS: LiteralString = (
    "SELECT reward_id FROM reward_reversal WHERE reward_id > %(low)s"
    " ORDER BY reward_id OFFSET %(size)s LIMIT 1"
)
_WRITE_OFFS: LiteralString = (
    "SELECT id FROM write_off WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)

# What entry `asked.id` of kind `asked.kind` moved, by the kinds of its accounts. An entry of a
# month that is in an archive is gone, and then not held against the row (`kept` is false).
_MOVED: LiteralString = f"""
    CROSS JOIN LATERAL (
        SELECT count(e.id) > 0 OR coalesce(asked.made_at > max(a.through), true) AS kept,
            coalesce(sum(p.amount) FILTER (WHERE s.kind = 'vesting'
                AND s.owner_id = asked.user_id), 0) AS vesting,
            coalesce(sum(p.amount) FILTER (WHERE s.kind = 'available'
                AND s.owner_id = asked.user_id), 0) AS available,
            coalesce(sum(p.amount) FILTER (WHERE s.kind = 'reserve'
                AND s.owner_id = asked.user_id AND d.kind <> 'debt'), 0) AS reserve,
            coalesce(sum(p.amount) FILTER (WHERE s.kind = 'debt'
                AND s.owner_id = asked.user_id), 0) AS debt,
            coalesce(sum(p.amount) FILTER (WHERE s.kind = 'loss'), 0) AS loss,
            coalesce(sum(p.amount) FILTER (WHERE d.kind = 'loss'), 0) AS loss_back,
            coalesce(sum(p.amount) FILTER (WHERE s.kind = 'budget'
                AND s.owner_id = asked.campaign_id), 0) AS budget,
            coalesce(sum(p.amount) FILTER (WHERE d.kind = 'budget'
                AND d.owner_id = asked.campaign_id), 0) AS budget_back,
            coalesce(sum(p.amount) FILTER (WHERE d.kind = 'reserve'
                AND d.owner_id = asked.user_id), 0) AS kept_aside
        FROM (SELECT max(recorded_through) AS through FROM archive) a LEFT JOIN LATERAL (
            SELECT id, commit_id, first_posting_id, last_posting_id FROM entry
            WHERE id = asked.id AND kind = asked.kind LIMIT 1
        ) e ON true LEFT JOIN LATERAL (
            SELECT source_id, destination_id, amount FROM posting WHERE {POSTINGS_OF_E} OFFSET 0
        ) p ON true LEFT JOIN account s ON s.id = p.source_id
            LEFT JOIN account d ON d.id = p.destination_id
    ) AS m
"""

_BY_USER: dict[str, LiteralString] = {
    "earn-reserve": """
        SELECT coalesce(a.owner_id, r.user_id) || ' ' || coalesce(a.asset, r.asset),
            coalesce(a.balance, 0), coalesce(r.total, 0)
        FROM (
            SELECT owner_id, asset, balance FROM account
            WHERE kind = 'reserve' AND owner_id > %(low)s AND owner_id <= %(high)s
        ) a
        FULL JOIN (
            SELECT user_id, asset, sum(remaining) AS total FROM reserve
            WHERE remaining > 0 AND user_id > %(low)s AND user_id <= %(high)s
            GROUP BY user_id, asset
        ) r ON r.user_id = a.owner_id AND r.asset = a.asset
        WHERE coalesce(a.balance, 0) <> coalesce(r.total, 0) LIMIT 100
    """,
    "earn-chargebacks": """
        SELECT coalesce(f.subject, r.user_id::text) || ' ' || coalesce(f.asset, r.asset),
            coalesce(f.figures, 'nothing'), coalesce(r.figures, 'nothing')
        FROM (
            SELECT subject, asset,
                sum(rewards) || ' ' || sum(credited) || ' ' || sum(reversed) AS figures
            FROM chargeback_day WHERE scope = 'user' AND subject IN (
                SELECT id::text FROM app_user WHERE id > %(low)s AND id <= %(high)s)
            GROUP BY 1, 2
        ) f FULL JOIN (
            SELECT w.user_id, w.asset,
                count(*) || ' ' || sum(w.amount) || ' ' || sum(w.taken) AS figures
            FROM reward w JOIN applied_policy p ON p.id = w.policy_id
                AND jsonb_typeof(p.terms -> 'chargeback') = 'object'
            WHERE w.user_id > %(low)s AND w.user_id <= %(high)s
                AND (w.state IN ('vesting', 'credited') OR w.taken > 0)
            GROUP BY 1, 2
        ) r ON r.user_id::text = f.subject AND r.asset = f.asset
        WHERE f.figures IS DISTINCT FROM r.figures LIMIT 100
    """,
    "earn-owing": """
        SELECT d.owner_id || ' ' || d.asset, a.kind || ' ' || a.balance, 'nothing while owing'
        FROM account d JOIN account a ON a.owner_id = d.owner_id AND a.asset = d.asset
            AND a.kind IN ('available', 'reserve') AND a.balance > 0
        WHERE d.kind = 'debt' AND d.balance < 0
            AND d.owner_id > %(low)s AND d.owner_id <= %(high)s LIMIT 100
    """,
}

_RESERVE_ENTRIES: LiteralString = f"""
    SELECT asked.reward_id || ' ' || asked.kind, asked.amount, m.moved
    FROM (
        SELECT reward_id, user_id, 'reserve' AS kind, entry_reserve AS id, amount,
            created_at AS made_at, NULL::bigint AS campaign_id
        FROM reserve WHERE reward_id > %(low)s AND reward_id <= %(high)s
        UNION ALL
        SELECT reward_id, user_id, 'reserve_release', entry_release, released,
            coalesce(released_at, created_at), NULL
        FROM reserve WHERE reward_id > %(low)s AND reward_id <= %(high)s
    ) asked CROSS JOIN LATERAL (
        SELECT m.kept, CASE asked.kind WHEN 'reserve' THEN m.kept_aside ELSE m.reserve END AS moved
        FROM (SELECT 1) one {_MOVED}
    ) m
    WHERE m.kept AND m.moved <> asked.amount LIMIT 100
"""
_REVERSED: LiteralString = f"""
    SELECT asked.reward_id || '/' || asked.number,
        concat_ws(' ', asked.from_vesting, asked.from_available, asked.from_reserve, asked.owed),
        concat_ws(' ', m.vesting, m.available, m.reserve, m.debt)
    FROM (
        SELECT *, entry_id AS id, 'reverse' AS kind, reversed_at AS made_at FROM reward_reversal
        WHERE reward_id > %(low)s AND reward_id <= %(high)s
    ) asked {_MOVED}
    WHERE m.kept AND (asked.amount <> m.budget_back OR asked.from_vesting <> m.vesting
        OR asked.from_available <> m.available OR asked.from_reserve <> m.reserve
        OR asked.owed <> m.debt) LIMIT 100
"""
_TAKEN: LiteralString = """
    SELECT r.id, r.taken, coalesce(v.total, 0)
    FROM (SELECT id, taken FROM reward WHERE id > %(low)s AND id <= %(high)s) r FULL JOIN (
        SELECT reward_id, sum(amount) AS total FROM reward_reversal
        WHERE reward_id > %(low)s AND reward_id <= %(high)s GROUP BY 1
    ) v ON v.reward_id = r.id
    WHERE r.taken IS DISTINCT FROM coalesce(v.total, 0) LIMIT 100
"""
_GIVEN_UP: LiteralString = f"""
    SELECT asked.number || '/' || asked.place || ' ' || asked.kind,
        concat_ws(' ', asked.from_budget, asked.amount - asked.from_budget),
        CASE asked.kind WHEN 'write_off' THEN concat_ws(' ', m.budget, m.loss)
            ELSE concat_ws(' ', m.budget_back, m.loss_back) END
    FROM (
        SELECT id AS number, place, user_id, campaign_id, 'write_off' AS kind, entry_id AS id,
            amount, from_budget, written_off_at AS made_at
        FROM write_off WHERE id > %(low)s AND id <= %(high)s
        UNION ALL
        SELECT id, place, user_id, campaign_id, 'write_off_undone', entry_undo,
            CASE state WHEN 'undone' THEN amount ELSE 0 END,
            CASE state WHEN 'undone' THEN from_budget ELSE 0 END,
            coalesce(undone_at, written_off_at)
        FROM write_off WHERE id > %(low)s AND id <= %(high)s
    ) asked {_MOVED}
    WHERE m.kept AND (asked.from_budget, asked.amount - asked.from_budget)
        <> (CASE asked.kind WHEN 'write_off' THEN m.budget ELSE m.budget_back END,
            CASE asked.kind WHEN 'write_off' THEN m.loss ELSE m.loss_back END) LIMIT 100
"""
_REWARDS: LiteralString = (
    "SELECT id FROM reward WHERE id > %(low)s ORDER BY id OFFSET %(size)s LIMIT 1"
)

PAGES = (
    Pages("reserves and figures of users", _USERS, _BY_USER, PAGE),
    Pages("reserves", _RESERVES, {"earn-reserve-entries": _RESERVE_ENTRIES}, PAGE),
    Pages("reversals", _REVERSALS, {"earn-reversals": _REVERSED}, PAGE),
    Pages("rewards taken back", _REWARDS, {"earn-taken": _TAKEN}, PAGE * 10),
    Pages("write-offs", _WRITE_OFFS, {"earn-write-offs": _GIVEN_UP}, PAGE),
)

CHECKS = tuple(name for pages in PAGES for name in pages.checks)
"""The names of all checks."""
