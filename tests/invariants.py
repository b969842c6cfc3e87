"""What must hold of every task in a database, whatever was done to it and whatever broke meanwhile; and of every request for help and run.

broken(connection) gives what does not hold of tasks, a line each; [] is well. all_broken() asks the other two machines too, and what one of
them says of another. A connection sees every tenant's rows: a superuser's. The allowed edges stand here a second time, from the table of states,
and not from muster.edges. That each property can be seen to be broken: integration/test_invariants.py.

As a program: python3 tests/invariants.py DSN.
"""

from __future__ import annotations

import sys
from typing import Any

import psycopg

import help_invariants
import invariants_runs
import law

EDGES = {
    "": "blocked scheduled queued",
    "blocked": "queued scheduled cancelled expired",
    "scheduled": "queued cancelled expired",
    "queued": "offered cancelled expired",
    "offered": "running queued cancelled expired",
    "running": "queued succeeded scheduled failed dead input_required cancelling expired",
    "input_required": "running queued scheduled failed cancelled expired",
    "cancelling": "cancelled expired",
}
PAIRS = [f"{start}>{end}" for start, ends in EDGES.items() for end in ends.split()]
HELD = "('offered', 'running', 'input_required', 'cancelling')"
OVER = "('succeeded', 'failed', 'dead', 'cancelled', 'expired')"

CHECKS = {
    "an edge that there is not":
        "SELECT tenant, task_id, seq, from_state, to_state, verb FROM muster.task_history"
        " WHERE (verb <> 'import' OR seq > 1) AND NOT from_state || '>' || to_state = ANY (%(pairs)s)",
    "an edge by a verb, or by somebody, that does not have it":
        "SELECT tenant, task_id, seq, verb, role, from_state, to_state FROM muster.task_history"
        " WHERE (verb <> 'import' OR seq > 1) AND NOT verb || ' ' || role || ' ' || from_state || '>' || to_state = ANY (%(steps)s)",
    "a change after the end":
        f"SELECT tenant, task_id, seq FROM muster.task_history WHERE from_state IN {OVER}",
    "a number that is missing or double":
        "SELECT tenant, task_id, count(*), min(seq), max(seq) FROM muster.task_history GROUP BY 1, 2"
        " HAVING min(seq) <> 1 OR max(seq) <> count(*)",
    "a change that does not begin where the one before it ended":
        "SELECT tenant, task_id, seq, from_state, was FROM (SELECT *, lag(to_state, 1, '') OVER (PARTITION BY tenant, task_id ORDER BY seq) AS was"
        " FROM muster.task_history) AS h WHERE from_state <> was",
    "two holders of one epoch":
        "SELECT tenant, task_id, epoch, array_agg(DISTINCT holder) FROM muster.task_history WHERE holder IS NOT NULL"
        " GROUP BY 1, 2, 3 HAVING count(DISTINCT holder) > 1",
    "an epoch held by nobody, or handed out twice":
        "SELECT tenant, task_id, epoch, count(*) FROM muster.task_history WHERE to_state = 'offered' GROUP BY 1, 2, 3 HAVING count(*) > 1 OR epoch = 0",
    "an epoch that went back":
        "SELECT tenant, task_id, seq FROM (SELECT *, lag(epoch, 1, 0::bigint) OVER (PARTITION BY tenant, task_id ORDER BY seq) AS was"
        " FROM muster.task_history) AS h WHERE epoch < was",
    "a row that is not what its history says":
        "SELECT t.tenant_id, t.task_id, t.status, t.seq, t.epoch, h.to_state, h.seq, h.epoch FROM public.agent_tasks AS t"
        " LEFT JOIN LATERAL (SELECT * FROM muster.task_history AS h WHERE h.tenant = t.tenant_id AND h.task_id = t.task_id"
        "                    ORDER BY h.seq DESC LIMIT 1) AS h ON true"
        " WHERE (h.to_state, h.seq, h.epoch) IS DISTINCT FROM (t.status, t.seq, t.epoch)",
    "a history without a row":
        "SELECT DISTINCT h.tenant, h.task_id FROM muster.task_history AS h"
        " WHERE NOT EXISTS (SELECT FROM public.agent_tasks AS t WHERE t.tenant_id = h.tenant AND t.task_id = h.task_id)",
    "a result without success, or more than one success":
        "SELECT t.tenant_id, t.task_id, t.status, n FROM public.agent_tasks AS t"
        " CROSS JOIN LATERAL (SELECT count(*) AS n FROM muster.task_history AS h"
        "                     WHERE h.tenant = t.tenant_id AND h.task_id = t.task_id AND h.to_state = 'succeeded') AS h"
        " WHERE n <> CASE t.status WHEN 'succeeded' THEN 1 ELSE 0 END OR t.result IS NOT NULL AND t.status <> 'succeeded'",
    "a holder where there is none, or none where there is one":
        f"SELECT tenant, task_id, seq, to_state, holder FROM muster.task_history WHERE (holder IS NOT NULL) <> (to_state IN {HELD}) AND verb <> 'import'",
    "a clock that nobody looks at":
        f"SELECT tenant_id, task_id, status, wake_at, until, deadline FROM public.agent_tasks"
        f" WHERE CASE WHEN status IN {OVER} THEN wake_at IS NOT NULL ELSE wake_at IS DISTINCT FROM"
        "  least(until, progress_until, deadline, CASE WHEN started_at IS NULL THEN start_by END) END"
        f" OR until IS NULL AND status IN ('scheduled', 'offered', 'cancelling')",
    "blocked on nobody who could tell it":
        "SELECT t.tenant_id, t.task_id FROM public.agent_tasks AS t WHERE t.status = 'blocked' AND NOT EXISTS ("
        "  SELECT FROM muster.task_deps AS d JOIN public.agent_tasks AS p ON p.tenant_id = d.tenant AND p.task_id = d.parent"
        "  WHERE d.tenant = t.tenant_id AND d.task_id = t.task_id AND NOT d.met AND p.followed"
        f"   AND (p.status NOT IN {OVER} OR NOT p.settled))",
    "tried more often than it may be, or not lost as often as its history says":
        "SELECT t.tenant_id, t.task_id, t.attempt, t.max_attempts, t.crashes, n FROM public.agent_tasks AS t CROSS JOIN LATERAL ("
        "  SELECT count(*) FILTER (WHERE h.verb = 'session_lost' AND h.from_state = 'running') AS n,"
        "   bool_or(h.verb = 'session_lost' AND h.to_state = 'dead') AS poison, bool_or(h.role = 'sql' OR h.verb = 'import') AS other"
        "  FROM muster.task_history AS h WHERE h.tenant = t.tenant_id AND h.task_id = t.task_id) AS h"
        " WHERE n <> t.crashes AND NOT other OR t.attempt > t.max_attempts AND NOT other OR poison AND n < 3",
    "in another place of the queue than it belongs":
        "SELECT tenant_id, task_id, pos, route FROM public.agent_tasks WHERE status = 'queued'"
        " AND (pos = 0 OR route <> muster.task_route(wanted, capabilities, labels, group_key))",
}


# Between the machines. What one does for another it does in the same transaction, or the sweeper after it: these hold when nothing is due.
BETWEEN = {
    "help for a task that has ended":
        "SELECT h.tenant, h.help_id, h.state, t.task_id, t.status FROM muster.help AS h JOIN public.agent_tasks AS t ON t.tenant_id = h.tenant AND t.task_id = h.task_id"
        f" WHERE h.state NOT IN {help_invariants.OVER} AND t.status IN {OVER} AND t.settled",
    "a run that goes on, whose task was cancelled or has expired":
        "SELECT r.tenant_id, r.id, r.status, t.task_id, t.status FROM public.agent_runs AS r JOIN public.agent_tasks AS t USING (tenant_id, task_id)"
        " WHERE r.status IN ('pending', 'in_progress') AND t.status IN ('cancelled', 'expired') AND r.started_at < t.completed_at"
        " AND NOT EXISTS (SELECT FROM muster.run_ends AS e WHERE e.tenant = t.tenant_id AND e.task_id = t.task_id)",
    "a task that waits for help, and the help has ended":
        "SELECT t.tenant_id, t.task_id, h.help_id, h.state FROM public.agent_tasks AS t JOIN muster.help AS h ON h.tenant = t.tenant_id"
        f" AND h.help_id = t.question ->> 'help_id' WHERE t.status = 'input_required' AND h.state IN {help_invariants.OVER}",
}


def broken(connection: psycopg.Connection[Any], checks: dict[str, str] = CHECKS) -> list[str]:
    """What does not hold: the property and up to three examples of each."""
    found = []
    for what, statement in checks.items():
        rows = connection.execute(statement, {"pairs": PAIRS, "steps": law.STEPS["task"]} if "%(" in statement else None).fetchmany(3)  # type: ignore[call-overload]
        if rows:
            found.append(f"{what}: {rows}")
    return found


def all_broken(connection: psycopg.Connection[Any]) -> list[str]:
    """The same of all three machines, and of what lies between them."""
    found = [("task", broken(connection)), ("help", help_invariants.broken(connection)), ("run", invariants_runs.broken(connection)),
             ("between", broken(connection, BETWEEN))]
    return [f"{machine}: {line}" for machine, lines in found for line in lines]


KEPT = {"task": ("public.agent_tasks", "tenant_id", "task_id"), "help": ("muster.help", "tenant", "help_id"), "run": ("public.agent_runs", "tenant_id", "id")}


def lost(connection: psycopg.Connection[Any], tenant: str, ids: list[str], machine: str = "task") -> list[str]:
    """Of tasks, requests or runs whose submission was acknowledged, those that are neither live nor ended: that are not there."""
    table, whose, key = KEPT[machine]
    return [row[0] for row in connection.execute(
        f"SELECT given FROM unnest(%s::text[]) AS i (given) WHERE NOT EXISTS (SELECT FROM {table} AS t WHERE t.{whose} = %s AND t.{key} = given)",  # type: ignore[call-overload]
        [ids, tenant])]


if __name__ == "__main__":
    with psycopg.connect(sys.argv[1]) as database:
        lines = all_broken(database)
    print("\n".join(lines) or "all holds")
    sys.exit(bool(lines))
