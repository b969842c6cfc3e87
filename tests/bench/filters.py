"""What a change costs the broker while 10,000 watch with a filter each, beside the same changes while nobody does. Called by fanout.py."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from statistics import median

from client import Client
from crowd import known
from harness import BUILD, wait_until
from report import Report, load, spread
from stage import SHARDS, Cpu, Stage, settle

CHANGES, TENANTS, PER_TRANSACTION = 40_000, 100, 100
MANY = [f"w{i}" for i in range(TENANTS)]


@dataclass(frozen=True)
class Case:
    name: str
    tenants: list[str]
    table: str
    columns: str
    values: str  # of change n
    filter_of: Callable[[int], str]


def _equal(i: int) -> str:
    return f"owner=eq.{i}"


def _ranges(i: int) -> str:
    return (f"owner=gt.{i + 100_000}", f"owner=lt.-{i + 10}", f"owner=gte.{200_000 + i},owner=lte.{200_100 + i}")[i % 3]


def _mixed(i: int) -> str:
    return (_equal(i), _ranges(i), f"owner=in.({i},{i + 20_000})", f"note=eq.n{i}", f"note=gt.y{i}", f"id=lt.-{i}")[i % 6]


def _cases(n: int) -> list[Case]:
    return [Case("equality, none matches", ["f2"], "filtered", "owner", "-1", _equal), Case("ranges, none matches", ["f2"], "filtered", "owner", "-1", _ranges),
            Case("a mix, none matches", ["f2"], "filtered", "owner", "-1", _mixed),
            Case("equality, 1 change in 1,000", ["f2"], "filtered", "owner", f"CASE WHEN n % 1000 = 7 THEN n % {n} ELSE -1 END", _equal),
            Case(f"a mix of {TENANTS} tenants", MANY, "shared", "tenant_id, owner", f"'w' || n % {TENANTS}, -1", _mixed)]


def _shard(tenant: str) -> int:
    found = 2166136261
    for byte in tenant.encode():
        found = ((found ^ byte) * 16777619) & 0xFFFFFFFF
    return found % SHARDS


def _watch(stage: Stage, client: Client, case: Case, n: int) -> None:
    """n watches, as watch.open would leave them: each opened at the end of the stream."""
    at = json.dumps({"CDC_main": client.streams()["CDC_main"].last_seq})
    with stage.postgres.connect() as connection, connection.cursor() as cursor:
        for tenant in case.tenants:
            rows = [(tenant, f"w{i}", f"c{i}", json.dumps({"schema": "public", "table": case.table, "filter": case.filter_of(i)}), _shard(tenant), at)
                    for i in range(n // len(case.tenants))]
            cursor.executemany("INSERT INTO muster.watches (tenant, id, agent, role, spec, shard, position) VALUES (%s, %s, %s, 'agent', %s, %s, %s)", rows)


def _cost(stage: Stage, client: Client, case: Case, watched: int) -> tuple[float, float]:
    """Microseconds for a change in a broker made anew, from the log of PostgreSQL into the stream and by its watches; and which part of the changes
    went by them from memory, without coming back from JetStream."""
    stage.postgres.query("DELETE FROM muster.watches")
    if watched:
        _watch(stage, client, case, watched)
    [one] = stage.started(fanout={"watch_linger": "1h"})
    wait_until(lambda: one.metric("muster_fanout_watches") == watched, 60, f"{watched} watches to be served")
    settle(one.pid)
    cpu, stored = Cpu(one.pid), client.streams()["CDC_main"].messages
    with stage.postgres.connect(autocommit=True) as connection:
        for at in range(0, CHANGES, PER_TRANSACTION):
            connection.execute(f"INSERT INTO public.{case.table} ({case.columns}, note) SELECT {case.values}, repeat('x', 80) FROM generate_series({at}, {at + PER_TRANSACTION - 1}) n")
    wait_until(lambda: client.streams()["CDC_main"].messages >= stored + CHANGES, 120, "the changes to be in the stream")
    time.sleep(1)
    wait_until(lambda: not watched or one.metric("muster_fanout_watch_messages_total") >= CHANGES, 60, "them to have gone by the watches")
    used, memory = cpu.used() / CHANGES, one.metric("muster_stream_handed_over_total") / CHANGES
    stage.stop(one)
    return used, memory


def _floor(stage: Stage) -> float:
    """Microseconds for a message of the same stream in a bare pull consumer that does nothing with it."""
    done = subprocess.run([str(BUILD / "bin/bench/bare_puller"), "--url", stage.nats.url, "--creds", str(stage.creds), "--subject", "CDC_main", "--count", str(CHANGES)],
                          capture_output=True, text=True, timeout=120, check=True)
    return float(done.stdout.removeprefix("cpu_us=")) / CHANGES


def filters(report: Report, n: int, rounds: int, few: int) -> None:
    with closing(Stage()) as stage:
        stage.start("f2", *MANY)
        for table in ("filtered", "shared"):
            stage.postgres.query(f"CREATE TABLE public.{table} (id bigserial PRIMARY KEY, tenant_id text, owner int, note text)")
            stage.postgres.query(f"ALTER TABLE public.{table} REPLICA IDENTITY FULL")
        stage.cli("publish", "public.filtered", "--tenant", "f2")
        stage.cli("publish", "public.shared")
        for tenant in ("f2", *MANY):
            known(stage, tenant, n if tenant == "f2" else max(1, n // TENANTS))
        stage.stop(*stage.started())  # makes the slot and the stream
        client = Client(stage.nats.url, stage.creds)
        report.say(f"\nfan-out, {n:,} watches with filters, nobody connected: CPU of a broker made anew for a change of {CHANGES:,}, in transactions of {PER_TRANSACTION} ({load()})")
        for i, case in enumerate(_cases(n)):
            found: dict[str, list[float]] = {"none": [], "watched": [], "memory": []}
            for _ in report.rounds(f"fanout filters, {case.name}", rounds if i == 0 else few):
                found["none"].append(_cost(stage, client, case, 0)[0])
                used, memory = _cost(stage, client, case, n)
                found["watched"].append(used)
                found["memory"].append(memory)
            floor, base = _floor(stage), median(found["none"])
            ratio = median(b / a for a, b in zip(found["none"], found["watched"]))
            report.say(f"  {case.name:27}  nobody watches {spread(found['none'], '{:.1f}')} us   watched {spread(found['watched'], '{:.1f}')} us   of it"
                       f" {report.judge(f'a change with {n:,} watches / with none, {case.name}', ratio, 1.25)}   {median(found['memory']):.0%} from memory   a consumer that does nothing takes {floor:.1f} us: {1 + floor / base:.2f}")
            report.keep(f"fanout/filters/{case.name}", found | {"ratio": ratio, "floor": floor})
        client.close()
