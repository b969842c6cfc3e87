"""Tasks and help: lifecycles beside raw SQL, how soon a task is in a hand, floods, death, help; see picks.py and growth.py for the rest. Called by bench.py.

Agents are simulated over 16 connections, but where they die. They speak for each under its own name, hear their assignments and complete them at once.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import closing
from statistics import median
from typing import Any

from crowd import Crowd
from growth import tasks_growth
from harness import BUILD, Musterd
from picks import picks
from report import Report, load, spread
from stage import Cpu, Stage, server_us

AGENTS, SLOTS = 20, 50
LIFECYCLES, WINDOW = 10_000, 512
GROUP, SINGLES, SINGLE_LIFECYCLES = 100, 8, 4000  # of the raw SQL: rows a commit; clients with a statement a commit, and their lifecycles
RATE, FLOW_S = 1000, 10
FLOOD, FLOOD_WINDOW, QUIET_RATE, QUIET_S = 100_000, 256, 100, 10
WARM = "tasks 2000 64"


def crowd_of(stage: Stage, tenant: str, agents: int = AGENTS, slots: int = SLOTS, asks: bool = False) -> Crowd:
    """Agents that are there, and hear what is said to them."""
    return stage.crowd(tenant, agents, f"slots {slots} {int(asks)}", "login", "listen to", "join", "beating 5000", watchers=0)


def forget(stage: Stage) -> None:
    stage.postgres.query("TRUNCATE public.agent_tasks CASCADE")


# ---- lifecycles


def _raw(stage: Stage, clients: int, count: int, window: int, name: str) -> dict[str, float]:
    """Lifecycles a second of so many clients on bare libpq."""
    argv = [str(BUILD / "bin/bench/bare_tasks"), "--dsn", stage.postgres.dsn(), "--count", str(count // clients), "--window", str(window), "--source"]
    made = [subprocess.Popen([*argv, f"{name}{i}"], stdout=subprocess.PIPE, text=True) for i in range(clients)]
    stage.programs += made
    lines = []
    for one in made:
        lines.append(one.communicate(timeout=120)[0])
        stage.programs.remove(one)
        assert one.returncode == 0, "bare_tasks failed"
    return {"rate": sum(float(line.partition("=")[2]) for line in lines)}


def _lifecycles(stage: Stage, one: Musterd, crowd: Crowd) -> dict[str, float]:
    cpu, before = Cpu(one.pid, stage.nats.pid, crowd.process.pid), server_us(stage.postgres.pid)
    told = crowd.do(f"tasks {LIFECYCLES} {WINDOW}")
    broker, nats, own = (used / LIFECYCLES for used in cpu.each())
    return {"rate": LIFECYCLES / told["seconds"], "broker_us": broker, "nats_us": nats, "crowd_us": own, "postgres_us": (server_us(stage.postgres.pid) - before) / LIFECYCLES}


def lifecycles(report: Report, rounds: int) -> None:
    """Submit, accepted, completed: each step acknowledged, with its history; beside the same rows by raw SQL on a server of its own."""
    found: dict[str, list[dict[str, float]]] = {"group": [], "single": [], "auto": [], "asks": []}
    with closing(Stage()) as stage, closing(Stage()) as bare:
        for each in (stage, bare):
            each.start("acme", "asks")
        [one] = stage.started(tasks=True)
        crowds = {"auto": crowd_of(stage, "acme"), "asks": crowd_of(stage, "asks", asks=True)}
        for crowd in crowds.values():
            crowd.do(WARM)
        _raw(bare, 1, 2000, GROUP, "warm")
        for done in report.rounds("tasks lifecycle", rounds):
            for each in (stage, bare):
                each.analyze()
            found["group"].append(_raw(bare, 1, LIFECYCLES, GROUP, f"g{done}-"))
            found["auto"].append(_lifecycles(stage, one, crowds["auto"]))
            found["single"].append(_raw(bare, SINGLES, SINGLE_LIFECYCLES, 1, f"s{done}-"))
            found["asks"].append(_lifecycles(stage, one, crowds["asks"]))
        for crowd in crowds.values():
            crowd.close()
    rates = {name: [run["rate"] for run in runs] for name, runs in found.items()}
    to_group, to_single, asks = (median(a / b for a, b in zip(rates[x], rates[y])) for x, y in (("auto", "group"), ("auto", "single"), ("asks", "group")))
    report.say(f"\ntasks, lifecycles: submit, accepted, completed, each acknowledged, four rows of history; {AGENTS} agents, {WINDOW} under way, one broker ({load()})")
    report.say(f"  raw SQL of the same rows, {GROUP} a commit, one connection      {spread(rates['group']):>24}/s")
    report.say(f"  raw SQL, a statement a step and a commit, {SINGLES} clients     {spread(rates['single']):>24}/s")
    for name, what in (("auto", "tasks, accepted as they are assigned"), ("asks", "tasks, accepted by the agent")):
        parts = "  ".join(f"{who} {median(r[f'{who}_us'] for r in found[name]):.0f}" for who in ("broker", "postgres", "nats", "crowd"))
        report.say(f"  {what:59} {spread(rates[name]):>24}/s   CPU us each: {parts}")
    report.say(f"  of the raw ones in groups {report.judge('lifecycles / raw SQL in groups', to_group, 0.75, below=False)}; accepted by the agent {asks:.2f}")
    report.say(f"  of the raw single ones    {report.judge('lifecycles / raw SQL, 8 clients', to_single, 4.5, below=False)}")
    report.keep("tasks/lifecycle", found)


# ---- in the hand


def _flow(stage: Stage, one: Musterd, crowd: Crowd, rate: int) -> dict[str, Any]:
    cpu, before, n = Cpu(one.pid), server_us(stage.postgres.pid), rate * FLOW_S
    told = crowd.do(f"flow {rate} {n}")
    return told | {"broker_us": cpu.used() / n, "postgres_us": (server_us(stage.postgres.pid) - before) / n, "rate": n / told["seconds"]}


def hand(report: Report, rounds: int) -> None:
    """At the rate of the target, and at one that a busy machine takes, too: beyond what it can do the figure is the length of a queue."""
    found: dict[int, list[dict[str, Any]]] = {RATE: [], RATE // 5: []}
    with closing(Stage()) as stage:
        stage.start("acme")
        [one] = stage.started(tasks=True)
        crowd = crowd_of(stage, "acme")
        crowd.do(WARM)
        for _ in report.rounds("tasks hand", rounds):
            for rate, runs in found.items():
                stage.analyze()
                runs.append(_flow(stage, one, crowd, rate))
        crowd.close()
    report.say(f"\ntasks, submit until in an agent's hand, so many a second for {FLOW_S} s, {AGENTS} agents that complete them, one broker ({load()})")
    for rate, runs in found.items():
        p50, p99 = ([run[key] for run in runs] for key in ("p50_ms", "p99_ms"))
        judged = f"   p50 {report.judge('in the hand, p50, ms', median(p50), 3)};   p99 {report.judge('in the hand, p99, ms', median(p99), 15)}" if rate == RATE else ""
        report.say(f"  {rate:5,}/s   p50 {spread(p50, '{:.2f}'):>22} ms   p99 {spread(p99, '{:.2f}'):>24} ms   max {median(run['max_ms'] for run in runs):.0f} ms   done {median(r['rate'] for r in runs):,.0f}/s;"
                   f"   CPU us each: broker {median(r['broker_us'] for r in runs):.0f}  postgres {median(r['postgres_us'] for r in runs):.0f}{judged}")
    report.keep("tasks/hand", found)


# ---- a flood


def flood(report: Report, rounds: int) -> None:
    """One tenant floods, and its agents work on what it has; another submits as it always does."""
    alone, beside, seconds = [], [], []
    with closing(Stage()) as stage:
        stage.start("quiet", "loud")
        stage.started(tasks=True)
        quiet, loud = crowd_of(stage, "quiet"), crowd_of(stage, "loud", slots=4)
        for crowd in (quiet, loud):
            crowd.do(WARM)
        stage.analyze()
        for _ in report.rounds("tasks flood", rounds):
            alone.append(quiet.do(f"flow {QUIET_RATE} {QUIET_RATE * QUIET_S}"))
            loud.begin(f"flood {FLOOD} {FLOOD_WINDOW}")
            time.sleep(1)
            beside.append(quiet.do(f"flow {QUIET_RATE} {QUIET_RATE * QUIET_S}"))
            seconds.append(loud.end()["seconds"])
            _drop(stage, "loud")
        for crowd in (quiet, loud):
            crowd.close()
    assert min(seconds) > QUIET_S + 1, "the flood was over before what is beside it"
    p99 = {name: [run["p99_ms"] for run in runs] for name, runs in (("alone", alone), ("beside", beside))}
    ratio = median(a / b for a, b in zip(p99["beside"], p99["alone"]))
    report.say(f"\ntasks, a flood: one tenant submits {FLOOD:,}, {FLOOD_WINDOW} under way, its agents work; another submits {QUIET_RATE} a second, {QUIET_S} s; until in the hand ({load()})")
    for name, runs in (("alone", alone), ("beside", beside)):
        report.say(f"  {name:7} p50 {spread([r['p50_ms'] for r in runs], '{:.2f}'):>22} ms   p99 {spread(p99[name], '{:.2f}'):>24} ms")
    report.say(f"  p99 of it {report.judge('flood of another tenant, p99', ratio, 2)};   the flood itself {FLOOD / median(seconds):,.0f} submits/s")
    report.keep("tasks/flood", {"alone": alone, "beside": beside, "flood_s": seconds})


def _drop(stage: Stage, tenant: str) -> None:
    """What waits is deleted; what is in hands is done."""
    stage.postgres.query("DELETE FROM public.agent_tasks WHERE tenant_id = %s AND status = 'queued'", (tenant,))
    stage.analyze()
    end = time.monotonic() + 120
    while stage.postgres.query("SELECT count(*) FROM public.agent_tasks WHERE tenant_id = %s AND status IN ('queued', 'offered', 'running')", (tenant,))[0][0]:
        assert time.monotonic() < end, f"tasks of {tenant} are left"
        time.sleep(0.5)


# ---- death

DYING, DEAD, HELD = 50, 10, 100  # agents, those of them that die, tasks that they hold
HEARTBEAT, DEAD_AFTER_S = {"heartbeat": "1s", "dead_after": "3s"}, 3


def _heirs(stage: Stage, order: str) -> dict[str, Any]:
    """Each agent holds two tasks; those of the dead come to others."""
    crowd = stage.crowd("own", DYING, "slots 8 0", "login", "listen to", "join", "beating 1000", f"flood {HELD} 32", "wait 1500", watchers=0, own=True)
    told = crowd.do(f"{order} {DEAD}")
    crowd.do(f"drain {HELD}")
    crowd.close()
    stage.await_nobody("own")
    forget(stage)
    return told


def death(report: Report, rounds: int) -> None:
    found: dict[str, list[dict[str, Any]]] = {"heirs": [], "orphans": []}
    with closing(Stage()) as stage:
        stage.start("own")
        stage.started(tasks=True, **HEARTBEAT)
        for _ in report.rounds("tasks dead agent", rounds):
            for order, runs in found.items():
                runs.append(_heirs(stage, order))
    report.say(f"\ntasks of dead agents: {DEAD} of {DYING} die, on connections of their own, holding {HELD // DYING} each; until each task is in another's hand; grace 2s, beats of 1 s ({load()})")
    for order, what, target in (("heirs", "connection died, longest, s", 3.0), ("orphans", "silent, longest after the last beat, s", DEAD_AFTER_S + 1.0)):
        longest = [run["max_ms"] / 1000 for run in found[order]]
        report.say(f"  {what:42} {spread(longest, '{:.2f}'):>22}   {report.judge(f'task of a dead agent, {what}', median(longest), target)};   p50 {median(r['p50_ms'] for r in found[order]) / 1000:.2f} s;"
                   f" {found[order][0]['n']} tasks x {len(longest)}")
    report.keep("tasks/death", found)


# ---- help

EXPERTS = 20
PLEAS = {"one at a time": ("help", 400, 1), "8 at a time": ("help", 400, 8), "one at a time, problems all alike": ("alike", 100, 1)}  # orders, requests, under way


def helped(report: Report, rounds: int) -> None:
    found: dict[str, list[dict[str, Any]]] = {what: [] for what in PLEAS}
    with closing(Stage()) as stage:
        stage.start("acme")
        [one] = stage.started(tasks=True)
        crowd = crowd_of(stage, "acme", EXPERTS + 1)
        crowd.do("help 200 8")
        for _ in report.rounds("tasks help", rounds):
            stage.analyze()
            for what, (order, n, window) in PLEAS.items():
                cpu, before = Cpu(one.pid), server_us(stage.postgres.pid)
                told = crowd.do(f"{order} {n} {window}")
                found[what].append(told | {"rate": n / told["seconds"], "broker_us": cpu.used() / n, "postgres_us": (server_us(stage.postgres.pid) - before) / n})
        crowd.close()
    report.say(f"\nhelp, ask until claimed: {EXPERTS} experts, three of whom are asked and claim, the first answers and is accepted; durable; one broker ({load()})")
    for what, runs in found.items():
        p50, p99 = ([run[key] for run in runs] for key in ("p50_ms", "p99_ms"))
        judged = (f"   p50 {report.judge('help, ask to claimed, p50, ms', median(p50), 5)};   p99 {report.judge('help, ask to claimed, p99, ms', median(p99), 25)}" if what == "one at a time" else "")
        report.say(f"  {what:33} p50 {spread(p50, '{:.2f}'):>20} ms   p99 {spread(p99, '{:.2f}'):>22} ms   {spread([r['rate'] for r in runs]):>18}/s to their end;"
                   f"   CPU us each: broker {median(r['broker_us'] for r in runs):.0f}  postgres {median(r['postgres_us'] for r in runs):.0f}{judged}")
    report.keep("tasks/help", found)


# ---- all


def tasks(report: Report, queued: int, rounds: int, few: int) -> None:
    """queued: how many wait at most; few: of runs that are long."""
    report.part("tasks lifecycle", 600, lambda: lifecycles(report, rounds))
    report.part("tasks hand", 240, lambda: hand(report, rounds))
    report.part("tasks pick", 900, lambda: picks(report, queued, rounds))
    report.part("tasks flood", 900, lambda: flood(report, few))
    report.part("tasks dead agent", 420, lambda: death(report, rounds))
    report.part("tasks help", 300, lambda: helped(report, rounds))
    report.part("tasks growth", 420, lambda: tasks_growth(report))
