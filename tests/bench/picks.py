"""What it costs to give out one task while many wait: CPU of PostgreSQL and the broker for a task that is taken and completed. Called by tasks.py.

By the kernel's exact account, so that other load counts less; eight agents with one slot each, so that every task is picked by itself.
"""

from __future__ import annotations

from contextlib import closing
from statistics import median
from typing import Any

from crowd import Crowd
from harness import Musterd
from report import Report, load, spread
from stage import Stage, server_us, threads_us

FEW, DRAINED, CLAIMED = 1000, 800, 40_000
PAYLOAD = '{"kind": "resize", "url": "https://example.org/pictures/1.png", "w": 640, "h": 480}'


def _fill(stage: Stage, n: int) -> None:
    """They are queued as a dump would bring them: without triggers and events; the broker finds them by looking."""
    with stage.postgres.connect(autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")
        admin.execute("INSERT INTO public.agent_tasks (tenant_id, id, task_id, assigned_by, description, payload, status, pos, seq)"
                      " SELECT 'acme', 't' || i, 't' || i, 'c0', 'Resize a picture', %s, 'queued', 1000000 + i, 1 FROM generate_series(1, %s) AS i", (PAYLOAD, n))
        admin.execute("VACUUM ANALYZE public.agent_tasks")
        admin.execute("CHECKPOINT")


class Queue:
    """So many tasks wait, and agents that do not begin before they are told."""

    def __init__(self, stage: Stage, waiting: int) -> None:
        self.stage, self.waiting = stage, waiting
        stage.start("acme")
        _fill(stage, waiting)
        self.broker: Musterd = stage.started(tasks=True)[0]
        self.crowd: Crowd = stage.crowd("acme", 8, "slots 1 0", "login", "listen to", "join", "beating 5000", watchers=0)
        self.crowd.do("drain 100")
        stage.analyze()

    def refill(self) -> None:
        """As many wait as at first."""
        [[left]] = self.stage.postgres.query("SELECT count(*) FROM public.agent_tasks WHERE status = 'queued'")
        if left < self.waiting:
            self.crowd.do(f"flood {self.waiting - left} 64")

    def drain(self, n: int = DRAINED) -> dict[str, float]:
        """Microseconds a task, and milliseconds until the next is in the hand of who has done one."""
        before = server_us(self.stage.postgres.pid), threads_us(self.broker.pid)
        told = self.crowd.do(f"drain {n}")
        return {"postgres_us": (server_us(self.stage.postgres.pid) - before[0]) / n, "broker_us": (threads_us(self.broker.pid) - before[1]) / n, "ms": told["seconds"] * 1000 * 8 / n}


def _us(run: dict[str, float]) -> float:
    return run["postgres_us"] + run["broker_us"]


def _line(runs: list[dict[str, float]]) -> str:
    return (f"{spread([_us(r) for r in runs]):>18} us of CPU (PostgreSQL {median(r['postgres_us'] for r in runs):.0f}, broker {median(r['broker_us'] for r in runs):.0f});"
            f"   done to next done {spread([r['ms'] for r in runs], '{:.2f}'):>18} ms")


def picks(report: Report, queued: int, rounds: int) -> None:
    found: dict[str, list[dict[str, float]]] = {"few": [], "many": [], "during": [], "behind": []}
    with closing(Stage()) as small, closing(Stage()) as large:
        few, many = Queue(small, FEW), Queue(large, queued)
        for _ in report.rounds(f"tasks pick, {queued:,}", rounds):
            few.refill()
            for name, queue in (("few", few), ("many", many)):
                found[name].append(queue.drain())
        report.progress("tasks pick: an old snapshot is held")
        with large.postgres.connect() as old:
            old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            old.execute("SELECT count(*) FROM muster.tenants")
            claimed = min(CLAIMED, queued // 2)
            found["during"] = [many.drain(claimed // 10) for _ in range(10)]
            for _ in range(rounds):
                few.refill()
                found["few"].append(few.drain())
                found["behind"].append(many.drain())
        for queue in (few, many):
            queue.crowd.close()
    base: list[dict[str, Any]] = found["few"]
    ratio = {name: median(_us(a) / _us(b) for a, b in zip(found[name], runs)) for name, runs in (("many", base[:rounds]), ("behind", base[rounds:]))}
    report.say(f"\ntasks, what a pick costs: assigned, completed, the next; 8 agents with one slot, one broker ({load()})")
    report.say(f"  {FEW:,} wait      {_line(base)}")
    report.say(f"  {queued:,} wait  {_line(found['many'])}   {report.judge(f'pick with {queued:,} queued / with {FEW:,}', ratio['many'], 1.5)}")
    report.say(f"  {claimed:,} of them, under a snapshot that is held  {_line(found['during'])}")
    report.say(f"  behind them       {_line(found['behind'])}   {report.judge(f'pick behind {claimed:,} claims under an old snapshot / with {FEW:,}', ratio['behind'], 2)}")
    report.keep("tasks/pick", found)
