"""Presence beside raw NATS: questions, beats, memory, bursts of arrivals; see deaths.py, growth.py and tenants.py for the rest. Called by bench.py.

Agents with connections of their own log in like any client, one process holding all of them. 100,000 have not so many ports on one machine: they
speak over 16 connections with a broker's credentials, each under its own name; of such the brokers see beats and no connections.
"""

from __future__ import annotations

import time
from contextlib import closing
from statistics import median

from crowd import SHARED, Crowd
from deaths import deaths
from growth import presence_growth
from report import Report, load, plural, spread
from stage import Cpu, Stage, private_mib
from tenants import tenants

GRACE = "500ms"
BEATS_PER_S, BEATS, STEADY_S = 50_000, 150_000, 10
WATCHERS = 8
OWN_MOST = 10_000  # connections of one crowd

# ---- questions

QUESTION = '{"agent":"c7"}'
ECHOED = QUESTION + " " * 450  # about what the answer takes
WAYS = {"one at a time": (1, 1, 10_000), "8 clients": (1, 8, 24_000), "8 on one connection": (8, 1, 40_000)}  # under way of a client, clients, requests


def requests(report: Report, rounds: int) -> None:
    """presence.get beside an echo on the bare library that answers as many bytes."""
    with closing(Stage()) as stage:
        stage.start("t0")
        stage.started()
        crowd = stage.crowd("t0", 100, "login", "join", "beating 5000")
        asks = stage.agent("t0", "a1")
        echo = {name: stage.program("bare_echo", "--subject", f"bench.{name}", *argv) for name, argv in (("live", ["--live"]), ("full", []))}
        found: dict[str, list[dict[str, float]]] = {f"{who}, {way}": [] for way in WAYS for who in ("echo", "get")}
        for _ in report.rounds("presence requests", rounds):
            for way, (window, clients, count) in WAYS.items():
                as_best = "live" if window == 1 else "full"  # each kind of load as it is best for the library
                found[f"echo, {way}"].append(stage.asked(stage.creds, f"bench.{as_best}", count, window, ECHOED, clients=clients))
                found[f"get, {way}"].append(stage.asked(asks, "mst.t0.rpc.a1.presence.get", count, window, QUESTION, clients=clients))
        for program in echo.values():
            stage.end(program)
        crowd.close()
    report.say(f"\npresence.get beside an echo on the bare library, 100 agents present, a broker ({load()})")
    for name, runs in found.items():
        report.say(f"  {name:26} p50 {spread([r['p50_us'] for r in runs]):>22} us   p99 {spread([r['p99_us'] for r in runs]):>24} us   {spread([r['rate'] for r in runs]):>26}/s")

    def ratio(way: str, key: str) -> float:
        return median(a[key] / b[key] for a, b in zip(found[f"get, {way}"], found[f"echo, {way}"]))

    report.say(f"  get / echo, one at a time: p50 {report.judge('presence.get / echo, p50', ratio('one at a time', 'p50_us'), 1.3)};"
               f" p99 {report.judge('presence.get / echo, p99', ratio('one at a time', 'p99_us'), 2)}")
    report.say(f"  get / echo, rate of 8 clients: {report.judge('presence.get / echo, rate of 8 clients', ratio('8 clients', 'rate'), 0.8, below=False)};"
               f" 8 under way on one connection: {ratio('8 on one connection', 'rate'):.2f}, for comparison")
    report.keep("presence/requests", found)


# ---- beats and memory


def _bare_beats(stage: Stage, crowd: Crowd) -> float:
    """What a program on the bare library takes for each of the same messages."""
    bare = stage.program("bare_echo", "--subject", "mst.*.rpc.*.presence.beat")
    cpu = Cpu(bare.pid)
    crowd.do(f"beat {BEATS_PER_S} {BEATS}")
    used = cpu.used()
    stage.end(bare)
    return used / BEATS


def _await_rest(stage: Stage, crowd: Crowd) -> None:
    """Sessions are written to the database behind the events, and what the burst has left is given back some seconds later; the agents beat on."""
    end = time.monotonic() + 60
    while stage.postgres.query("SELECT count(*) FROM public.agent_sessions")[0][0] < crowd.n and time.monotonic() < end:
        crowd.do("wait 500")
    crowd.do("wait 12000")


def beats(report: Report, size: int, rounds: int) -> None:
    """Memory of an agent, the broker's CPU for a beat, and the same agents beating as they should for a while."""
    with closing(Stage()) as stage:
        stage.start("t0")
        [one] = stage.started()
        before = private_mib(one.pid)
        crowd = stage.crowd("t0", size, "login", "beating 5000")  # whoever is in; the last may come later than the first would be given up
        joined = crowd.do("join")
        burst_held = (private_mib(one.pid) - before) * 1024 * 1024 / size
        _await_rest(stage, crowd)
        crowd.do("beating 0")
        held = (private_mib(one.pid) - before) * 1024 * 1024 / size
        packed = one.metric("muster_roster_bytes") / size
        ours, bare = [], []
        for _ in report.rounds(f"presence beats, {size:,} agents", rounds):
            cpu = Cpu(one.pid)
            crowd.do(f"beat {BEATS_PER_S} {BEATS}")
            ours.append(cpu.used() / BEATS)
            bare.append(_bare_beats(stage, crowd))
        cpu = Cpu(one.pid)
        crowd.do("beating 5000")
        crowd.do(f"wait {STEADY_S * 1000}")
        busy = cpu.used() / STEADY_S / 1e4
        wrong = stage.wrong(crowd)
        crowd.close()
    over = median(a - b for a, b in zip(ours, bare))
    ratio = median(a / b for a, b in zip(ours, bare))
    many = f"{size:,} agents"
    report.say(f"\npresence, {many} simulated over {SHARED} connections, one broker ({load()})")
    report.say(f"  joined in {joined['seconds']:.2f} s ({size / joined['seconds']:,.0f}/s, all heard by the watcher), {joined['again']} asked again")
    report.say(f"  memory an agent    {packed:,.0f} bytes in the roster; {burst_held:,.0f} of the process in the burst; of the process at rest, with the cache of credentials,"
               f" {report.judge(f'memory an agent, {many}, bytes', held, 1024, form='{:,.0f}') if size >= 1000 else f'{held:,.0f}'}")
    report.say(f"  CPU of a beat      {spread(ours, '{:.2f}')} us; a listener on the bare library {spread(bare, '{:.2f}')}, to which the server brings one copy and not two ({over:.2f} over it, {ratio:.2f} x);"
               f" of the broker {report.judge(f'CPU of a beat, {many}, us', median(ours), 1)}")
    report.say(f"  beating every 5 s  {busy:.1f} % of a core; of the roster other than it should be {report.judge(f'roster wrong, {many}', wrong, 0, form='{:.0f}')}")
    report.keep(f"presence/beats/{size}", {"join": joined, "bytes": held, "burst_bytes": burst_held, "roster_bytes": packed, "us": ours, "bare_us": bare, "over_us": over, "ratio": ratio, "percent": busy, "wrong": wrong})


# ---- a burst


def burst(report: Report, size: int, rounds: int) -> None:
    """Agents with connections of their own: until all are in, and until all have said hello and every watcher has heard of every one."""
    raw, seen, tries, wrong = [], [], 0, 0
    with closing(Stage()) as stage:
        stage.start("own")
        stage.started(grace=GRACE)
        for _ in report.rounds(f"presence burst of {size:,}", rounds):
            crowd = stage.crowd("own", size, watchers=WATCHERS, own=True)
            raw.append(float(crowd.do("login")["seconds"]))
            crowd.close()
            time.sleep(1)  # until the server has forgotten them
            crowd = stage.crowd("own", size, "beating 5000", watchers=WATCHERS, own=True)
            told = crowd.do("arrive")
            seen.append(float(told["seconds"]))
            tries += told["again"]
            wrong += stage.wrong(crowd)
            crowd.close()
            stage.await_nobody("own")
    ratio = median(a / b for a, b in zip(seen, raw))
    report.say(f"\npresence, {size:,} agents arrive at once, each on a connection of its own; {plural(WATCHERS, 'watcher')}, one broker ({load()})")
    report.say(f"  raw logins                              {spread(raw, '{:.2f}')} s")
    report.say(f"  logins, hello, all seen by all watchers {spread(seen, '{:.2f}')} s   of the raw logins {report.judge(f'burst of {size:,} / raw logins', ratio, 2)};"
               f" hellos asked again {tries}")
    report.say(f"  of the roster other than it should be   {report.judge('roster wrong after bursts', wrong, 0, form='{:.0f}')}")
    report.keep("presence/burst", {"raw": raw, "seen": seen, "ratio": ratio, "again": tries, "wrong": wrong})


# ---- all


def presence(report: Report, sizes: list[int], rounds: int, few: int) -> None:
    """few: of runs that are long."""
    own = min(OWN_MOST, max(sizes))
    report.part("presence requests", 300, lambda: requests(report, rounds))
    report.part("presence deaths", 420, lambda: deaths(report, min(500, own), rounds, few))
    report.part("presence burst", 420, lambda: burst(report, own, rounds))
    for size in sizes:
        report.part(f"presence beats, {size:,} agents", 420, lambda: beats(report, size, rounds))
    report.part("presence growth", 240, lambda: presence_growth(report, min(500, own)))
    report.part("presence tenants", 300, lambda: tenants(report, min(1000, own)))
    report.say(f"\npresence, all that was run: agents that watchers heard to have left, and had not: {report.judge('false leaves', Crowd.false_leaves, 0, form='{:.0f}')}"
               f" (beside them {Crowd.starved} of agents that the bench itself left silent for 12 s or the server cut; it cut {Crowd.lost} connections)")
