"""What must hold of every run in a database, as tests/invariants.py says it of tasks. The edges stand here a second time, from the table of states."""

from __future__ import annotations

import sys
from typing import Any

import psycopg

import law

EDGES = {
    "": "pending",
    "pending": "in_progress blocked completed failed escalated_to_human cancelled",
    "in_progress": "blocked awaiting_verification completed failed escalated_to_human pending cancelled",
    "blocked": "in_progress failed escalated_to_human cancelled",
    "awaiting_verification": "verification_in_progress completed failed escalated_to_human",
    "verification_in_progress": "awaiting_verification verification_passed verification_failed failed",
    "verification_passed": "completed failed",
    "verification_failed": "pending in_progress escalated_to_human failed",
    "escalated_to_human": "completed pending failed",
}
PAIRS = [f"{start}>{end}" for start, ends in EDGES.items() for end in ends.split()]
OVER = "('completed', 'failed', 'cancelled')"

CHECKS = {
    "an edge that there is not":
        "SELECT tenant, run_id, seq, from_state, to_state, verb FROM muster.run_history"
        " WHERE (verb <> 'import' OR seq > 1) AND NOT from_state || '>' || to_state = ANY (%(pairs)s)",
    "an edge by a verb, or by somebody, that does not have it":
        "SELECT tenant, run_id, seq, verb, role, from_state, to_state FROM muster.run_history"
        " WHERE (verb <> 'import' OR seq > 1) AND NOT verb || ' ' || role || ' ' || from_state || '>' || to_state = ANY (%(steps)s)",
    "a change after the end":
        f"SELECT tenant, run_id, seq FROM muster.run_history WHERE from_state IN {OVER}",
    "a number that is missing or double":
        "SELECT tenant, run_id, count(*), min(seq), max(seq) FROM muster.run_history GROUP BY 1, 2 HAVING min(seq) <> 1 OR max(seq) <> count(*)",
    "a change that does not begin where the one before it ended":
        "SELECT tenant, run_id, seq, from_state, was FROM (SELECT *, lag(to_state, 1, '') OVER (PARTITION BY tenant, run_id ORDER BY seq) AS was"
        " FROM muster.run_history) AS h WHERE from_state <> was",
    "an epoch that went back":
        "SELECT tenant, run_id, seq FROM (SELECT *, lag(epoch, 1, 0::bigint) OVER w AS was, lag(verify_epoch, 1, 0::bigint) OVER w AS was_too"
        " FROM muster.run_history WINDOW w AS (PARTITION BY tenant, run_id ORDER BY seq)) AS h WHERE epoch < was OR verify_epoch < was_too",
    "a run that somebody else took up under the same epoch":
        "SELECT tenant, run_id, epoch FROM muster.run_history WHERE to_state = 'in_progress' AND verb = 'take' GROUP BY 1, 2, 3 HAVING count(*) > 1",
    "two verifiers of one epoch":
        "SELECT tenant, run_id, verify_epoch FROM muster.run_history WHERE to_state = 'verification_in_progress' GROUP BY 1, 2, 3"
        " HAVING count(*) > 1 OR verify_epoch = 0",
    "a verdict of who did not hold it, or of who had worked on it":
        "SELECT h.tenant, h.run_id, h.seq, h.actor FROM muster.run_history AS h WHERE h.verb IN ('pass', 'reject') AND (NOT EXISTS ("
        "  SELECT FROM muster.run_history AS v WHERE v.tenant = h.tenant AND v.run_id = h.run_id AND v.to_state = 'verification_in_progress'"
        "   AND v.verify_epoch = h.verify_epoch AND v.holder = h.actor) OR EXISTS ("
        "  SELECT FROM muster.run_history AS w WHERE w.tenant = h.tenant AND w.run_id = h.run_id AND w.seq < h.seq AND w.to_state = 'in_progress'"
        "   AND w.holder = h.actor))",
    "a run that has to be verified, completed without":
        "SELECT r.tenant_id, r.id FROM public.agent_runs AS r WHERE r.verify = 'required' AND r.status = 'completed' AND NOT EXISTS ("
        "  SELECT FROM muster.run_history AS h WHERE h.tenant = r.tenant_id AND h.run_id = r.id"
        "   AND (h.to_state = 'verification_passed' OR h.from_state = 'escalated_to_human' OR h.verb = 'import'))",
    "verified without a verdict":
        "SELECT r.tenant_id, r.id FROM public.agent_runs AS r WHERE r.verified AND NOT EXISTS ("
        "  SELECT FROM muster.run_history AS h WHERE h.tenant = r.tenant_id AND h.run_id = r.id AND (h.to_state = 'verification_passed' OR h.verb = 'import'))",
    "verdicts that are not counted":
        "SELECT r.tenant_id, r.id, r.verification_attempts, n FROM public.agent_runs AS r CROSS JOIN LATERAL ("
        "  SELECT count(*) AS n, bool_or(h.verb = 'import') AS old FROM muster.run_history AS h WHERE h.tenant = r.tenant_id AND h.run_id = r.id"
        "   AND (h.to_state IN ('verification_passed', 'verification_failed') OR h.verb = 'import')) AS h WHERE n <> r.verification_attempts AND NOT coalesce(old, false)",
    "a row that is not what its history says":
        "SELECT r.tenant_id, r.id, r.status, r.seq, r.epoch, h.to_state, h.seq, h.epoch FROM public.agent_runs AS r LEFT JOIN LATERAL ("
        "  SELECT * FROM muster.run_history AS h WHERE h.tenant = r.tenant_id AND h.run_id = r.id ORDER BY h.seq DESC LIMIT 1) AS h ON true"
        " WHERE (h.to_state, h.seq, h.epoch, h.verify_epoch, h.holder) IS DISTINCT FROM (r.status, r.seq, r.epoch, r.verify_epoch, r.held_by)",
    "a history without a row":
        "SELECT DISTINCT h.tenant, h.run_id FROM muster.run_history AS h"
        " WHERE NOT EXISTS (SELECT FROM public.agent_runs AS r WHERE r.tenant_id = h.tenant AND r.id = h.run_id)",
    "a holder where there is none, or none where there is one":
        "SELECT tenant_id, id, status, held_by, session_id FROM public.agent_runs WHERE (held_by IS NOT NULL) <> (status IN ('in_progress', 'verification_in_progress'))"
        " OR session_id IS NOT NULL AND held_by IS NULL",
    "an end without its time, or a time without an end":
        f"SELECT tenant_id, id, status, completed_at FROM public.agent_runs WHERE (completed_at IS NOT NULL) <> (status IN {OVER})",
    "a clock that is missing":
        "SELECT tenant_id, id, status, until FROM public.agent_runs WHERE (until IS NOT NULL) <> (status IN"
        " ('awaiting_verification', 'verification_in_progress', 'verification_passed', 'verification_failed') OR status = 'in_progress' AND timeout_ms IS NOT NULL)",
    "a pause, or a right of the first, of what is not begun again":
        "SELECT tenant_id, id, status FROM public.agent_runs WHERE (run_after IS NOT NULL OR open_at IS NOT NULL) AND status NOT IN ('pending', 'blocked')"
        " OR open_at < run_after",
    "a tier of what is not escalated, or none of what is":
        "SELECT tenant_id, id, status, tier FROM public.agent_runs WHERE (tier > 0) <> (status = 'escalated_to_human') OR tier_at IS NOT NULL AND tier = 0",
    "passed by fewer than it needs, or twice by one":
        "SELECT h.tenant, h.run_id, h.seq FROM muster.run_history AS h JOIN public.agent_runs AS r ON r.tenant_id = h.tenant AND r.id = h.run_id CROSS JOIN LATERAL ("
        "  SELECT count(*) AS n, count(DISTINCT p.actor) AS names, bool_or(p.verb = 'import') AS old FROM muster.run_history AS p"
        "  WHERE p.tenant = h.tenant AND p.run_id = h.run_id AND p.epoch = h.epoch AND (p.verb IN ('pass', 'import') OR p.to_state = 'verification_passed')) AS p"
        " WHERE h.to_state = 'verification_passed' AND h.verb <> 'import' AND NOT p.old AND (p.names < r.verifiers OR p.names < p.n)",
    "verified by who has passed it already":
        "SELECT tenant_id, id, held_by, passed_by FROM public.agent_runs WHERE status = 'verification_in_progress' AND held_by = ANY (passed_by)"
        " OR cardinality(passed_by) > verifiers",
    "lost or verified more often than it may be":
        "SELECT tenant_id, id, status, crashes, verification_attempts, verification_limit FROM public.agent_runs"
        " WHERE crashes > 2 AND status <> 'failed' OR crashes > 3 OR verification_attempts > verification_limit",
    "a progress out of its bounds":
        "SELECT tenant_id, id, progress_percent FROM public.agent_runs WHERE NOT progress_percent BETWEEN 0 AND 100"
        " OR status = 'completed' AND progress_percent <> 100 AND NOT EXISTS (SELECT FROM muster.run_history WHERE run_id = id AND verb = 'import')",
    "two runs of a task of which one is alone":
        f"SELECT a.tenant_id, a.task_id FROM public.agent_runs AS a JOIN public.agent_runs AS b ON a.tenant_id = b.tenant_id AND a.task_id = b.task_id AND a.id <> b.id"
        f" WHERE a.exclusive AND a.status NOT IN {OVER} AND b.status NOT IN {OVER}",
}


def broken(connection: psycopg.Connection[Any]) -> list[str]:
    """What does not hold: the property and up to three examples of each."""
    found = []
    for what, statement in CHECKS.items():
        rows = connection.execute(statement, {"pairs": PAIRS, "steps": law.STEPS["run"]} if "%(" in statement else None).fetchmany(3)  # type: ignore[call-overload]
        if rows:
            found.append(f"{what}: {rows}")
    return found


if __name__ == "__main__":
    with psycopg.connect(sys.argv[1]) as database:
        lines = broken(database)
    print("\n".join(lines) or "all holds")
    sys.exit(bool(lines))
