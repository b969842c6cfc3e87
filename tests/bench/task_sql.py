"""What tasks cost in PostgreSQL alone: CPU of one backend, from the kernel's account of it, so that other load counts less.

    tests/.venv/bin/python tests/bench/task_sql.py [--rows 1000000] [--lifecycles 2000] [--rounds 5]

lifecycle   submit, assign with auto_accept under a lease, complete: the functions, and the raw SQL of the same rows (an INSERT, two UPDATEs, four rows of
            history, no events), alternating, 100 a commit on one connection, statements prepared and pipelined.
pick        peek (256 from the cursor) and assign, a task, with 1,000 and with --rows queued; then while 40,000 are claimed under a snapshot
            that is held open, from the cursor and behind them, and what a look from the very start costs then.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from harness import Postgres, run_cli  # noqa: E402

PAYLOAD = {"kind": "resize", "url": "https://example.org/pictures/1.png", "w": 640, "h": 480}
SMALLEST = -(2 ** 63)
Step = tuple[str, Callable[[str], tuple[Any, ...]]]


def identifier() -> str:
    """A UUIDv7, as the machine makes them."""
    stamp, rest = f"{int(time.time() * 1000):012x}", uuid.uuid4().hex
    return f"{stamp[:8]}-{stamp[8:]}-7{rest[:3]}-{rest[3:7]}-{rest[7:19]}"


class Backend:
    """A connection that serves acme, and what its backend has used."""

    def __init__(self, postgres: Postgres, role: str) -> None:
        self.connection = psycopg.connect(postgres.dsn())
        self.connection.prepare_threshold = 0
        self.connection.execute(f"SET ROLE {role}")  # type: ignore[arg-type]
        self.connection.execute("SELECT set_config('app.current_tenant', 'acme', false)")
        self.connection.commit()

    def used(self) -> float:
        """Microseconds of CPU."""
        return int(Path(f"/proc/{self.connection.info.backend_pid}/schedstat").read_text().split()[0]) / 1000

    def run(self, steps: list[Step], ids: list[str]) -> float:
        """Every step of every task, 100 a commit; microseconds a task."""
        before = self.used()
        for at in range(0, len(ids), 100):
            with self.connection.pipeline():
                for statement, parameters in steps:
                    for task in ids[at:at + 100]:
                        self.connection.execute(statement, parameters(task), prepare=True)  # type: ignore[arg-type]
                self.connection.commit()
        return (self.used() - before) / len(ids)

    def close(self) -> None:
        self.connection.close()


def call(verb: str, actor: str, **args: Any) -> Step:
    return f"SELECT muster.task_{verb}('acme', '{actor}', %s)", lambda task: (json.dumps({"task_id": task} | args),)


ASSIGN: Step = "SELECT muster.task_give('acme', %s, 'w1', 's1', 1, true, 5000, 'task.3', 1, '_muster')", lambda task: (task,)
MACHINE = [call("submit", "boss", description="Resize a picture", payload=PAYLOAD), ASSIGN, call("complete", "w1", epoch=1, result={"ok": True})]
HISTORY = ("INSERT INTO muster.task_history (tenant, task_id, seq, at, from_state, to_state, epoch, holder, actor, role, verb)"
           " VALUES ('acme', %s, %s, clock_timestamp(), %s, %s, %s, %s, %s, 'x', 'y')")
RAW: list[Step] = [
    ("INSERT INTO public.agent_tasks (tenant_id, id, task_id, assigned_by, description, payload, status, seq, pos) VALUES"
     " ('acme', %s, %s, 'boss', 'Resize a picture', %s, 'queued', 1, (extract(epoch FROM clock_timestamp()) * 1e6)::bigint)",
     lambda task: (task, task, json.dumps(PAYLOAD))),
    (HISTORY, lambda task: (task, 1, "", "queued", 0, None, "boss")),
    ("UPDATE public.agent_tasks SET status = 'running', assigned_to = 'w1', session_id = 's1', epoch = epoch + 1, seq = 3, attempt = 1,"
     " started_at = clock_timestamp(), updated_at = clock_timestamp() WHERE tenant_id = 'acme' AND task_id = %s AND status || '' = 'queued'", lambda task: (task,)),
    (HISTORY, lambda task: (task, 2, "queued", "offered", 1, "w1", "_muster")),
    (HISTORY, lambda task: (task, 3, "offered", "running", 1, "w1", "w1")),
    ("UPDATE public.agent_tasks SET status = 'succeeded', result = '{\"ok\": true}', seq = 4, completed_at = clock_timestamp(),"
     " updated_at = clock_timestamp() WHERE tenant_id = 'acme' AND task_id = %s AND status || '' = 'running' AND epoch = 1", lambda task: (task,)),
    (HISTORY, lambda task: (task, 4, "running", "succeeded", 1, None, "w1"))]


def lifecycles(postgres: Postgres, n: int, rounds: int) -> None:
    used: dict[str, list[float]] = {"raw": [], "machine": []}
    for _ in range(rounds):
        for name, role, steps in (("raw", "muster_owner", RAW), ("machine", "muster_broker", MACHINE)):
            backend = Backend(postgres, role)
            backend.run(steps, [identifier() for _ in range(300)])
            used[name].append(backend.run(steps, [identifier() for _ in range(n)]))
            backend.close()
    raw, machine = statistics.median(used["raw"]), statistics.median(used["machine"])
    print(f"lifecycle: {machine:.0f} us of CPU by the machine, {raw:.0f} us by raw SQL of the same rows: {raw / machine:.2f} of its rate"
          f" (median of {rounds}; machine {min(used['machine']):.0f}-{max(used['machine']):.0f}, raw {min(used['raw']):.0f}-{max(used['raw']):.0f})", flush=True)


def fill(postgres: Postgres, rows: int) -> None:
    with postgres.connect(autocommit=True) as admin:
        admin.execute("TRUNCATE public.agent_tasks")
        admin.execute("SET session_replication_role = replica")
        admin.execute("INSERT INTO public.agent_tasks (tenant_id, id, task_id, description, payload, pos, seq)"
                      " SELECT 'acme', 't' || i, 't' || i, 'Resize a picture', %s, 1000000 + i, 1 FROM generate_series(1, %s) AS i", [json.dumps(PAYLOAD), rows])
        admin.execute("VACUUM ANALYZE public.agent_tasks")


def peek(backend: Backend, position: tuple[int, str], limit: int) -> list[tuple[Any, ...]]:
    return backend.connection.execute("SELECT * FROM muster.task_peek('acme', 0, %s, %s, %s)", [*position, limit], prepare=True).fetchall()


def pick(backend: Backend, n: int, position: tuple[int, str]) -> tuple[float, tuple[int, str]]:
    """Microseconds a pick, and where the next begins."""
    before, done = backend.used(), 0
    while done < n:
        rows = peek(backend, position, min(256, n - done))
        backend.connection.commit()
        position = (rows[-1][1], rows[-1][0])
        backend.run([ASSIGN], [row[0] for row in rows])
        done += len(rows)
    return (backend.used() - before) / n, position


def picks(postgres: Postgres, rows: int) -> None:
    cost = {}
    for size in (1000, rows):
        fill(postgres, size)
        backend = Backend(postgres, "muster_broker")
        _, position = pick(backend, 100, (SMALLEST, ""))
        cost[size], position = pick(backend, 800, position)
        print(f"pick with {size:,} queued: {cost[size]:.0f} us ({cost[size] / cost[1000]:.2f} of that with 1,000)", flush=True)
        if size == rows:
            held_back(postgres, backend, position, cost[1000])
        backend.close()


def held_back(postgres: Postgres, backend: Backend, position: tuple[int, str], few: float) -> None:
    with postgres.connect() as old:
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT count(*) FROM muster.tenants")
        during, position = pick(backend, 40000, position)
        behind, position = pick(backend, 1000, position)
        before = backend.used()
        peek(backend, (SMALLEST, ""), 256)
        print(f"under an old snapshot: 40,000 picks at {during:.0f} us, those behind them {behind:.0f} us ({behind / few:.2f});"
              f" a look from the start {backend.used() - before:.0f} us", flush=True)
        backend.connection.commit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000000)
    parser.add_argument("--lifecycles", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="muster-bench-"))
    folder.chmod(0o755)
    postgres = Postgres(folder)
    try:
        postgres.start()
        postgres.query("ALTER SYSTEM SET shared_buffers = '256MB'")
        postgres.stop()
        postgres.start()
        run_cli(["migrate"], {"MUSTER_POSTGRES_ADMIN_DSN": postgres.dsn(), "MUSTER_POSTGRES_DSN": postgres.dsn("muster_broker")})
        postgres.query("INSERT INTO muster.tenants (name) VALUES ('acme')")
        postgres.query("INSERT INTO muster.fences (name, epoch) VALUES ('task.3', 1)")
        lifecycles(postgres, asked.lifecycles, asked.rounds)
        if asked.rows:
            picks(postgres, asked.rows)
    finally:
        postgres.kill()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
