"""The same load on 1, 2 and 4 brokers, which share the cores with all the rest. Called by presence.py, fanout.py and tasks.py.

The names of the tenants are such that each falls into a shard of its own.
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from statistics import median

from crowd import Crowd
from report import Report, load, plural
from stage import Cpu, Stage, server_us

BROKERS = (1, 2, 4)
TENANTS = [f"g{letter}" for letter in "abcdefgh"]
BEATS, CASTS, SENDS, CHANGES = 20_000, 20, 2000, 16_000
WORKERS, TASKS, PLEAS = 20, 1000, 40


def _all(crowds: list[Crowd], order: str) -> float:
    """Seconds until the last of them has done it."""
    began = time.monotonic()
    for crowd in crowds:
        crowd.begin(order)
    for crowd in crowds:
        crowd.end()
    return time.monotonic() - began


def presence_growth(report: Report, size: int) -> None:
    total = size * len(TENANTS)
    lines = []
    with closing(Stage()) as stage:
        stage.start(*TENANTS)
        for n in BROKERS:
            report.progress(f"presence growth: {plural(n, 'broker')}")
            brokers = stage.started(n)
            pids = [one.pid for one in brokers]
            crowds = [stage.crowd(tenant, size, "login") for tenant in TENANTS]
            cpu = Cpu(*pids)
            joins, join_us = total / _all(crowds, "join"), [used / total for used in cpu.each()]
            cpu = Cpu(*pids)
            beats, beat_us = BEATS * len(TENANTS) / _all(crowds, f"beat 0 {BEATS}"), [used / (BEATS * len(TENANTS)) for used in cpu.each()]
            wrong = sum(stage.wrong(crowd) for crowd in crowds)
            assert wrong == 0, f"the roster is other than it should be by {wrong} agents"
            lines.append(f"  {plural(n, 'broker'):9}  hello {joins:8,.0f}/s, {median(join_us):6.1f} us of each broker;   beats {beats:9,.0f}/s, {median(beat_us):5.2f} us of each broker, which all hear each")
            report.keep(f"presence/growth/{n}", {"joins": joins, "join_us": join_us, "beats": beats, "beat_us": beat_us})
            for crowd in crowds:
                crowd.close()
            stage.stop(*brokers)
    report.say(f"\npresence, growth: {len(TENANTS)} tenants of {size} agents, simulated over 16 connections each, join at once, then beat without a pause; {os.cpu_count()} cores for all ({load()})")
    for line in lines:
        report.say(line)


def _changes(stage: Stage, crowds: list[Crowd]) -> float:
    """Changes a second, each of which one watch matches, from the first insert until the last is heard."""
    each = CHANGES // len(crowds)
    began = time.monotonic()
    for crowd in crowds:
        crowd.begin(f"heard {each}")
    with stage.postgres.connect(autocommit=True) as connection:
        for at in range(0, each, 100):
            for crowd in crowds:
                connection.execute("INSERT INTO public.watched (tenant_id, owner, note) SELECT %s, n %% %s, repeat('x', 80) FROM generate_series(%s::int, %s) n",
                                   (crowd.tenant, crowd.n, at, at + 99))
    for crowd in crowds:
        crowd.end()
    return each * len(crowds) / (time.monotonic() - began)


def fanout_growth(report: Report, size: int) -> None:
    lines = []
    with closing(Stage()) as stage:
        stage.start(*TENANTS)
        stage.postgres.query("CREATE TABLE public.watched (id bigserial, tenant_id text NOT NULL, owner int, note text, PRIMARY KEY (tenant_id, id))")
        stage.postgres.query("ALTER TABLE public.watched REPLICA IDENTITY FULL")
        stage.cli("publish", "public.watched", "--tenant-column", "tenant_id")
        for n in BROKERS:
            report.progress(f"fanout growth: {plural(n, 'broker')}")
            brokers = stage.started(n, fanout=True)
            pids = [one.pid for one in brokers]
            crowds = [stage.crowd(tenant, size, "login", "join", "beating 5000", "listen to", "listen sub", "open watched") for tenant in TENANTS]
            cpu = Cpu(*pids)
            casts, cast_us = CASTS * len(crowds) / _all(crowds, f"cast {CASTS} 4"), [used / CASTS / len(crowds) for used in cpu.each()]
            sends = SENDS * len(crowds) / _all(crowds, f"send {SENDS} 32")
            cpu = Cpu(*pids)
            changes, change_us = _changes(stage, crowds), [used / CHANGES for used in cpu.each()]
            lines.append(f"  {plural(n, 'broker'):9}  casts {casts:6,.0f}/s ({casts * (size - 1):9,.0f} deliveries/s, {sum(cast_us) / (size - 1):.2f} us of all brokers each);"
                         f"   sends {sends:7,.0f}/s;   watch changes {changes:7,.0f}/s, us of each broker a change {', '.join(f'{us:.1f}' for us in change_us)}")
            report.keep(f"fanout/growth/{n}", {"casts": casts, "cast_us": cast_us, "sends": sends, "changes": changes, "change_us": change_us})
            for crowd in crowds:
                crowd.close()
            stage.stop(*brokers)
            stage.postgres.query("TRUNCATE muster.watches")
    report.say(f"\nfan-out, growth: {len(TENANTS)} tenants of {size} agents, simulated over 16 connections each, cast to all, send to inboxes, and watch rows, a filter each;"
               f" {os.cpu_count()} cores for all ({load()})")
    for line in lines:
        report.say(line)


def tasks_growth(report: Report) -> None:
    lines, total, pleas = [], TASKS * len(TENANTS), PLEAS * len(TENANTS)
    with closing(Stage()) as stage:
        stage.start(*TENANTS)
        for n in BROKERS:
            report.progress(f"tasks growth: {plural(n, 'broker')}")
            brokers = stage.started(n, tasks=True)
            crowds = [stage.crowd(tenant, WORKERS, "slots 50 0", "login", "listen to", "join", "beating 5000", "tasks 200 32", watchers=0) for tenant in TENANTS]
            stage.analyze()
            cpu, before = Cpu(*(one.pid for one in brokers)), server_us(stage.postgres.pid)
            rate, each, postgres = total / _all(crowds, f"tasks {TASKS} 64"), [used / total for used in cpu.each()], (server_us(stage.postgres.pid) - before) / total
            helped = pleas / _all(crowds, f"help {PLEAS} 4")
            lines.append(f"  {plural(n, 'broker'):9}  lifecycles {rate:7,.0f}/s, us of each broker {', '.join(f'{us:.0f}' for us in each)}, of PostgreSQL {postgres:.0f};   help to its end {helped:6,.0f}/s")
            report.keep(f"tasks/growth/{n}", {"rate": rate, "us": each, "postgres_us": postgres, "help": helped})
            for crowd in crowds:
                crowd.close()
            stage.stop(*brokers)
            stage.postgres.query("TRUNCATE public.agent_tasks CASCADE")
    report.say(f"\ntasks, growth: {len(TENANTS)} tenants of {WORKERS} agents, {TASKS:,} tasks each, 64 under way, and {PLEAS} requests for help, 4 under way; {os.cpu_count()} cores for all ({load()})")
    for line in lines:
        report.say(line)
