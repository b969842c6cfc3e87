"""What a request for help costs in PostgreSQL alone, step by step: CPU of one backend, from the kernel's account of it, so that other load counts less.

    tests/.venv/bin/python tests/bench/help_sql.py [--ended 100000] [--requests 400] [--rounds 5] [--statements]

A request is what the bench `tasks help` makes of it: 20 candidates, three of whom are asked and claim, two of them too late; the first answers and is
accepted; each step a transaction. With problems that have no words in common, and with problems that are all alike, each in a table that has next to
nothing in it and in one where --ended requests with accepted answers are kept. --statements tells, instead, what the statements inside cost.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from harness import Postgres, run_cli  # noqa: E402
from task_sql import Backend  # noqa: E402

STEPS = ["request", "claim", "claim too late", "answer", "accept"]
SETTINGS = {"timeout_ms": 600000, "offer_ms": 10000, "claim_ms": 300000, "verdict_ms": 300000, "rounds": 3, "rejections": 3, "depth": 4, "quota": 100, "prior": 3,
            "auto_accept": True}  # as the plugin sends them
CANDIDATES = [{"agent": f"w{i}"} for i in range(20)]


def apart(n: int) -> str:
    """Ten words of many thousands."""
    return f"plea={n} " + " ".join(f"w{random.randrange(20000)}x" for _ in range(10))


def alike(n: int) -> str:
    return f"plea={n} the module does not build: its type is unknown at line {random.randrange(20000)} of the file"


PROBLEMS: dict[str, Callable[[int], str]] = {"apart": apart, "alike": alike}


class Asker:
    def __init__(self, postgres: Postgres, problem: Callable[[int], str]) -> None:
        self.backend, self.problem, self.n = Backend(postgres, "muster_broker"), problem, 0
        self.used = dict.fromkeys(STEPS, 0.0)

    def call(self, step: str, actor: str, **args: Any) -> dict[str, Any]:
        """A batch of one, in a pipeline, as brokers send it."""
        connection, before = self.backend.connection, self.backend.used()
        with connection.pipeline():
            connection.execute("SELECT set_config('app.current_tenant', 'acme', true)", prepare=True)
            cursor = connection.execute(f"SELECT muster.help_{step.split()[0]}('acme', %s, %s)", [actor, json.dumps(args)], prepare=True)  # type: ignore[arg-type]
            connection.commit()
        found = cursor.fetchall()
        self.used[step] += self.backend.used() - before
        return dict(found[0][0])

    def ask(self) -> None:
        self.n += 1
        asked = self.call("request", "ann", problem=self.problem(self.n), context={"file": "api.ts", "line": 42}, capabilities=["review"], session="s-ann",
                          set=SETTINGS, candidates=CANDIDATES)["ok"]
        help_id, (first, *others) = asked["help_id"], asked["offered_to"]
        assert "ok" in self.call("claim", first, help_id=help_id, session="s-w")
        for other in others:
            assert "error" in self.call("claim too late", other, help_id=help_id, session="s-w")
        assert "ok" in self.call("answer", first, help_id=help_id, solution={"do": "cast it"}, confidence=0.9, session="s-w")
        assert "ok" in self.call("accept", "ann", help_id=help_id, session="s-ann")

    def run(self, n: int) -> dict[str, float]:
        """Microseconds a request, by step; the two late claims together."""
        for _ in range(20):
            self.ask()
        self.used = dict.fromkeys(STEPS, 0.0)
        for _ in range(n):
            self.ask()
        return {step: used / n for step, used in self.used.items()}


def fill(postgres: Postgres, n: int, problem: Callable[[int], str]) -> None:
    """Ended requests, as the machine leaves them."""
    with postgres.connect(autocommit=True) as admin:
        admin.execute("TRUNCATE muster.help, muster.help_experts, muster.help_history, muster.help_marks, muster.help_trust, public.agent_memories")
        admin.execute("CREATE TEMPORARY TABLE problems (i bigint, problem text)")
        with admin.cursor() as cursor, cursor.copy("COPY problems FROM STDIN") as copy:
            for i in range(n):
                copy.write_row((i, problem(i)))
        admin.execute("CREATE TEMPORARY TABLE ended AS SELECT 'h' || lpad(i::text, 8, '0') AS id, problem, muster.help_lexemes(problem) AS words,"
                      " clock_timestamp() - (%s - i) * interval '1 second' AS at, 'w' || i %% 20 AS agent FROM problems", [n])
        admin.execute("INSERT INTO muster.help (tenant, help_id, asker, problem, words, marks, mode, k, state, seq, epoch, rounds, rejections, escalate, auto_accept, offer_ms, claim_ms,"
                      " verdict_ms, deadline, answered_by, created_at, updated_at, completed_at)"
                      " SELECT 'acme', id, 'ann', problem, words, ARRAY(SELECT muster.help_marks_of(words)), 'first', 3, 'accepted', 5, 1, 3, 3, false, true, 10000, 300000, 300000, at, agent, at, at, at FROM ended")
        admin.execute("INSERT INTO muster.help_experts (tenant, help_id, agent, state, epoch, offered_at, solution, confidence, answered_at, verdict, verdict_at)"
                      " SELECT 'acme', id, agent, 'answered', 1, at, '{\"do\": \"cast it\"}', 0.9, at, 'accepted', at FROM ended")
        admin.execute("INSERT INTO muster.help_history (tenant, help_id, seq, at, from_state, to_state, epoch, role, verb)"
                      " SELECT 'acme', id, seq, at, '', 'open', 0, 'any', 'request' FROM ended, generate_series(1, 5) AS seq")
        admin.execute("INSERT INTO muster.help_marks (tenant, mark, at, help_id) SELECT 'acme', m, created_at, help_id FROM muster.help, unnest(marks) AS m")
        admin.execute("INSERT INTO muster.help_trust (tenant, agent, verdicts, at) SELECT 'acme', 'w' || i, repeat('+', 20), clock_timestamp() FROM generate_series(0, 19) AS i")
        admin.execute("VACUUM ANALYZE")


def told(cost: dict[str, float]) -> str:
    return f"{sum(cost.values()):6.0f} us: " + ", ".join(f"{step} {us:.0f}" for step, us in cost.items())


def costs(postgres: Postgres, ended: int, requests: int, rounds: int) -> None:
    for what, problem in PROBLEMS.items():
        found: dict[int, dict[str, float]] = {}
        for n in (100, ended):
            fill(postgres, n, problem)
            asker = Asker(postgres, problem)
            runs = [asker.run(requests) for _ in range(rounds)]
            asker.backend.close()
            found[n] = {step: statistics.median(run[step] for run in runs) for step in STEPS}
            print(f"problems {what}, {n:7,} ended  {told(found[n])}", flush=True)
        ratio = {step: found[ended][step] / found[100][step] for step in STEPS}
        print(f"problems {what}, ratio {sum(found[ended].values()) / sum(found[100].values()):.2f}, of the request alone {ratio['request']:.2f}", flush=True)


def statements(postgres: Postgres, ended: int, requests: int) -> None:
    """By pg_stat_statements, which costs some itself."""
    for what, problem in PROBLEMS.items():
        fill(postgres, ended, problem)
        asker = Asker(postgres, problem)
        asker.run(20)
        postgres.query("SELECT public.pg_stat_statements_reset()")
        asker.run(requests)
        print(f"problems {what}")
        for calls, mean, total, buffers, query in postgres.query(
                "SELECT calls, mean_exec_time * 1000, total_exec_time / %s * 1000, (shared_blks_hit + shared_blks_read) / calls, query FROM public.pg_stat_statements"
                " ORDER BY total_exec_time DESC LIMIT 30", [requests + 20]):
            print(f"  {calls / (requests + 20):5.2f} x {mean:7.1f} us = {total:7.1f}  {buffers:4} buffers  {' '.join(query.split())[:150]}")
        asker.backend.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ended", type=int, default=100000)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--statements", action="store_true")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="muster-bench-"))
    folder.chmod(0o755)
    postgres = Postgres(folder)
    try:
        with (postgres.data / "postgresql.conf").open("a") as conf:
            conf.write("shared_buffers = 256MB\nmax_wal_size = 8GB\nautovacuum = off\n")
            if asked.statements:
                conf.write("shared_preload_libraries = 'pg_stat_statements'\npg_stat_statements.track = all\n")
        postgres.start()
        run_cli(["migrate"], {"MUSTER_POSTGRES_ADMIN_DSN": postgres.dsn(), "MUSTER_POSTGRES_DSN": postgres.dsn("muster_broker")})
        postgres.query("INSERT INTO muster.tenants (name) VALUES ('acme')")
        if asked.statements:
            postgres.query("CREATE EXTENSION pg_stat_statements SCHEMA public")
            statements(postgres, asked.ended, asked.requests)
        else:
            costs(postgres, asked.ended, asked.requests, asked.rounds)
    finally:
        postgres.kill()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
