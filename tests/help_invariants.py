"""What must hold of every request for help in a database, as invariants.py has it for tasks; broken(connection) gives what does not.

As a program: python3 tests/help_invariants.py DSN.
"""

from __future__ import annotations

import sys
from typing import Any

import psycopg

import law

EDGES = {
    "": "open",
    "open": "accepted offered escalated withdrawn expired",
    "offered": "accepted claimed open escalated withdrawn expired",
    "claimed": "claimed answered open withdrawn expired",
    "answered": "accepted open escalated withdrawn unanswered",
    "escalated": "answered withdrawn expired",
}
PAIRS = [f"{start}>{end}" for start, ends in EDGES.items() for end in ends.split()]
OVER = "('accepted', 'withdrawn', 'expired', 'unanswered')"
EXPERTS = "SELECT FROM muster.help_experts AS e WHERE e.tenant = h.tenant AND e.help_id = h.help_id"

CHECKS = {
    "an edge that there is not":
        "SELECT tenant, help_id, seq, from_state, to_state FROM muster.help_history WHERE NOT from_state || '>' || to_state = ANY (%(pairs)s)",
    "an edge by a verb, or by somebody, that does not have it":
        "SELECT tenant, help_id, seq, verb, role, from_state, to_state FROM muster.help_history"
        " WHERE verb <> 'import' AND NOT verb || ' ' || role || ' ' || from_state || '>' || to_state = ANY (%(steps)s)",
    "a change after the end":
        f"SELECT tenant, help_id, seq FROM muster.help_history WHERE from_state IN {OVER}",
    "a number that is missing or double":
        "SELECT tenant, help_id, count(*), min(seq), max(seq) FROM muster.help_history GROUP BY 1, 2 HAVING min(seq) <> 1 OR max(seq) <> count(*)",
    "a change that does not begin where the one before it ended":
        "SELECT tenant, help_id, seq, from_state, was FROM (SELECT *, lag(to_state, 1, '') OVER (PARTITION BY tenant, help_id ORDER BY seq) AS was"
        " FROM muster.help_history) AS h WHERE from_state <> was",
    "an epoch that went back, or was handed out twice":
        "SELECT tenant, help_id, seq FROM (SELECT *, lag(epoch, 1, 0::bigint) OVER (PARTITION BY tenant, help_id ORDER BY seq) AS was"
        " FROM muster.help_history) AS h WHERE epoch <> was + CASE WHEN to_state = 'claimed' THEN 1 ELSE 0 END",
    "a holder where there is none, or none where there is one":
        "SELECT tenant, help_id, seq, to_state, holder FROM muster.help_history WHERE (holder IS NOT NULL) <> (to_state = 'claimed')",
    "a row that is not what its history says":
        "SELECT h.tenant, h.help_id, h.state, h.seq, h.epoch, x.to_state, x.seq, x.epoch FROM muster.help AS h LEFT JOIN LATERAL (SELECT * FROM muster.help_history AS x"
        " WHERE x.tenant = h.tenant AND x.help_id = h.help_id ORDER BY x.seq DESC LIMIT 1) AS x ON true"
        " WHERE (x.to_state, x.seq, x.epoch) IS DISTINCT FROM (h.state, h.seq, h.epoch)",
    "a history, an expert or a mark without a request":
        "SELECT x.tenant, x.help_id FROM (SELECT tenant, help_id FROM muster.help_history UNION SELECT tenant, help_id FROM muster.help_experts"
        " UNION SELECT tenant, help_id FROM muster.help_marks) AS x"
        " WHERE NOT EXISTS (SELECT FROM muster.help AS h WHERE h.tenant = x.tenant AND h.help_id = x.help_id)",
    "claimed by nobody, by too many, or a claim of what is not claimed":
        "SELECT h.tenant, h.help_id, h.state, h.k, n FROM muster.help AS h CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE e.state = 'claimed') AS claims, count(*) AS n"
        " FROM muster.help_experts AS e WHERE e.tenant = h.tenant AND e.help_id = h.help_id AND (e.state = 'claimed' OR e.state = 'answered' AND e.verdict IS NULL)) AS e"
        " WHERE CASE WHEN h.state = 'claimed' THEN n NOT BETWEEN 1 AND CASE h.mode WHEN 'first' THEN 1 ELSE h.k END ELSE claims > 0 END",
    "more rounds, or rejections, than it may have, or more asked than a round does":
        "SELECT h.tenant, h.help_id, h.round, h.rounds, h.rejected, h.rejections FROM muster.help AS h WHERE h.round > h.rounds"
        " OR h.rejected > h.rejections AND h.state IN ('open', 'offered', 'claimed') OR EXISTS (SELECT FROM muster.help_history AS x WHERE x.tenant = h.tenant"
        "  AND x.help_id = h.help_id AND x.verb = 'offer' AND jsonb_array_length(x.detail -> 'to') > h.k * 2 ^ (h.rounds - 1))",
    "answered by nobody":
        f"SELECT h.tenant, h.help_id FROM muster.help AS h WHERE h.state = 'answered' AND NOT EXISTS ({EXPERTS} AND e.state = 'answered' AND e.verdict IS NULL)",
    "accepted without an answer":
        f"SELECT h.tenant, h.help_id FROM muster.help AS h WHERE h.state = 'accepted' AND h.prior_of IS NULL AND NOT EXISTS ({EXPERTS} AND e.verdict = 'accepted'"
        " AND e.agent = h.answered_by)",
    "the asker was asked, or who is asked by him":
        "SELECT h.tenant, h.help_id, e.agent FROM muster.help AS h JOIN muster.help_experts AS e ON e.tenant = h.tenant AND e.help_id = h.help_id"
        " WHERE e.offered_at IS NOT NULL AND e.agent = ANY (h.ancestors)",
    "a clock that nobody looks at":
        f"SELECT tenant, help_id, state, wake_at FROM muster.help WHERE CASE WHEN state IN {OVER} THEN wake_at IS NOT NULL OR offer_at IS NOT NULL OR completed_at IS NULL"
        " ELSE wake_at IS NULL OR wake_at IS DISTINCT FROM muster.help_wake(state, until, half_at, deadline) END",
}


def broken(connection: psycopg.Connection[Any]) -> list[str]:
    """What does not hold: the property and up to three examples of each."""
    found = []
    for what, statement in CHECKS.items():
        rows = connection.execute(statement, {"pairs": PAIRS, "steps": law.STEPS["help"]} if "%(" in statement else None).fetchmany(3)  # type: ignore[call-overload]
        if rows:
            found.append(f"{what}: {rows}")
    return found


if __name__ == "__main__":
    with psycopg.connect(sys.argv[1]) as database:
        lines = broken(database)
    print("\n".join(lines) or "all holds")
    sys.exit(bool(lines))
