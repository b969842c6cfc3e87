"""The broker against bare programs, in alternating runs, as medians and ratios. Called by tests/bench/run."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

from agent import Agent
from childrig import Child
from fanout import fanout
from harness import BUILD, Musterd, wait_until
from logins import logins
from pluginrig import echo, isolated
from presence import presence
from report import Report, spread
from rig import Result, Rig, children, cpu_us
from tasks import tasks

IDLE_SECONDS = 10
LATENCY_SECONDS = 8
LANES_RATE, LANES_SECONDS = 250, 5


def verdict(value: float, target: float, below: bool = False) -> str:
    return "met" if (value <= target if below else value >= target) else "MISSED"


# ---- cdc ------------------------------------------------------------------------------------------------------------------------

READER, NULL, PIPE, PLAIN, MUSTER = "bare reader", "plugin, null sink", "bare pipe", "bare pipe, no republish", "muster"


def same_bytes(rig: Rig, table: str, rows: int) -> int:
    """The bare pipe must carry what muster carries: compare the first messages of both streams; the size of a body."""
    rig.pipe(table, keep=True)
    bare = rig.first_messages(f"r{rig.runs}", 40)
    rig.drop_stream(f"r{rig.runs}")
    rig.muster(table, rows, keep=True)
    ours = rig.first_messages(f"r{rig.runs}", 40)
    rig.drop_stream(f"r{rig.runs}")
    # The first change of a channel lists the columns, and is longer.
    pairs = [(a, b) for a, b in zip(bare, ours) if '"columns":' not in b[2]]
    for a, b in pairs:
        assert a == b, f"the bare pipe is not muster's equal:\n{a}\n{b}"
    assert len(pairs) > 20
    return len(pairs[0][0][2])


def one_workload(report: Report, rig: Rig, name: str, size: int, rows: int, rounds: int) -> float:
    table = f"bench_{size}"
    rig.fill(table, rows, size)
    body = same_bytes(rig, table, rows)
    runs: dict[str, list[Result]] = {READER: [], NULL: [], PIPE: [], PLAIN: [], MUSTER: []}
    for done in range(rounds):
        print(f"cdc, {name}: {done} of {rounds} rounds done", file=sys.stderr)
        runs[READER].append(rig.reader(table))
        runs[NULL].append(rig.null(table))
        runs[PIPE].append(rig.pipe(table))
        runs[MUSTER].append(rig.muster(table, rows))
        runs[PLAIN].append(rig.pipe(table, republish=False))
    rig.drop_slot(table)
    report.say(f"\ncdc, {name} ({rows:,} rows, bodies of {body} bytes, load {os.getloadavg()[0]:.1f})")
    report.say(f"  {'':26}{'rows/s':>30}   CPU us/row: own  walsender  nats")
    for who, results in runs.items():
        rates = [r.rate for r in results]
        report.say(f"  {who:26}{spread(rates):>30}   {median(r.cpu_us for r in results):15.1f}  {median(r.sender_us for r in results):9.1f}"
                   f"  {median(r.nats_us for r in results):4.1f}")
    for label, who, base, target in (("decode and route, null sink / bare reader", NULL, READER, 0.90),
                                     ("muster / bare pipe, both republished", MUSTER, PIPE, 0.80),
                                     ("muster / bare pipe without republish", MUSTER, PLAIN, None)):
        ratios = [a.rate / b.rate for a, b in zip(runs[who], runs[base])]
        judged = f"target >= {target:.2f}: {verdict(median(ratios), target)}" if target else "for comparison"
        report.say(f"  {label:44}{spread(ratios, '{:.2f}'):>20}   {judged}")
        report.keep(f"cdc/{size}/{who} to {base}", {"ratios": ratios, "median": median(ratios), "target": target})
    report.keep(f"cdc/{size}/runs", {who: [vars(r) | {"rate": r.rate} for r in results] for who, results in runs.items()})
    return median(r.rate for r in runs[MUSTER])


def cdc(report: Report, rig: Rig, rows: int, rounds: int) -> None:
    one_workload(report, rig, "transactions of 1 row", 1, rows, rounds)
    one_workload(report, rig, "transactions of 1,000 rows", 1000, rows, rounds)


# ---- latency ----------------------------------------------------------------------------------------------------------------------


def measure_latency(rig: Rig, source: str, table: str, rate: int, count: int) -> dict[str, float]:
    done = subprocess.run(
        [str(BUILD / "bin" / "bench" / "latency"), "--dsn", rig.site.postgres.dsn(), "--url", rig.site.nats.url, "--creds", rig.creds,
         "--source", source, "--table", table, "--rate", str(rate), "--count", str(count)], capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise AssertionError(f"latency: {done.stdout}{done.stderr}")
    return {key: float(value) for key, value in re.findall(r"(\w+)=(-?\d+)", done.stdout)}


class LiveMuster:
    """A broker that streams what is written from now on."""

    def __init__(self, rig: Rig, table: str, *further: dict[str, Any]) -> None:
        rig.runs += 1
        self.rig, self.source = rig, f"r{rig.runs}"
        self.broker = rig.broker(self.source, *further)
        self.broker.start()  # makes the slot

    def close(self) -> None:
        self.rig.stop(self.broker)
        self.rig.drop_slot(self.source)
        self.rig.drop_stream(self.source)


class LivePipe:
    """The same as a bare reader and publisher that sends every message at once."""

    def __init__(self, rig: Rig, table: str) -> None:
        rig.runs += 1
        self.rig, self.source = rig, f"r{rig.runs}"
        rig.sql("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (self.source,))
        rig.make_stream(self.source, True)
        self.child = rig.program("bare_pipe", "--dsn", rig.site.postgres.dsn(), "--slot", self.source, "--publication", "muster", "--table",
                                 table, "--source", self.source, "--url", rig.site.nats.url, "--creds", rig.creds, "--live")
        wait_until(lambda: rig.active_pid(self.source), 20, "the pipe to stream")

    def close(self) -> None:
        self.child.terminate()
        self.child.wait()
        self.rig.drop_slot(self.source)
        self.rig.drop_stream(self.source)


def latency(report: Report, rig: Rig, rounds: int) -> None:
    table = rig.table("bench_live")
    live = LiveMuster(rig, table)
    ceiling = median(measure_latency(rig, live.source, table, 0, 20000)["rate"] for _ in range(3))
    live.close()
    report.say(f"\nlatency, commit's return to message in hand (ceiling of 2 writers, PostgreSQL, broker and NATS here: {ceiling:,.0f} tx/s;"
               f" load {os.getloadavg()[0]:.1f})")
    report.keep("latency/ceiling", ceiling)
    for rate, p50_target, p99_target in ((1000, 500, 3000), (int(ceiling / 2), None, 5000)):
        found: dict[str, list[dict[str, float]]] = {"bare pipe": [], "muster": []}
        for _ in range(rounds):
            for who, kind in (("bare pipe", LivePipe), ("muster", LiveMuster)):
                live = kind(rig, table)
                found[who].append(measure_latency(rig, live.source, table, rate, rate * LATENCY_SECONDS))
                live.close()
        report.say(f"  {rate:,} tx/s")
        for who, results in found.items():
            p50, p99, worst = ([r[key] for r in results] for key in ("p50_us", "p99_us", "max_us"))
            judged = ""
            if who == "muster":
                judged = f"   target p99 <= {p99_target / 1000:g} ms: {verdict(median(p99), p99_target, below=True)}"
                if p50_target:
                    judged += f", p50 <= {p50_target / 1000:g} ms: {verdict(median(p50), p50_target, below=True)}"
            report.say(f"    {who:12} p50 {spread(p50):>22} us   p99 {spread(p99):>26} us   max {median(worst):8,.0f} us{judged}")
        ratios = [a["p50_us"] / b["p50_us"] for a, b in zip(found["muster"], found["bare pipe"])]
        tails = [a["p99_us"] / b["p99_us"] for a, b in zip(found["muster"], found["bare pipe"])]
        report.say(f"    muster / bare pipe: p50 {spread(ratios, '{:.2f}')}, p99 {spread(tails, '{:.2f}')}")
        report.keep(f"latency/{rate}", found)


# ---- lanes ------------------------------------------------------------------------------------------------------------------------


def lanes(report: Report, rig: Rig, rounds: int) -> None:
    """The latency of rows while another plugin's lane hangs, or is flooded with more than it can do. The lane sleeps: one that burns a
    core as well is the scheduler's matter."""
    table = rig.table("bench_lanes")
    rig.site.cli("tenant", "add", "loud")
    live, loud = LiveMuster(rig, table, echo("bad")), Agent(rig.site, "loud", "a1")
    found: dict[str, list[dict[str, float]]] = {"alone": [], "beside a hung lane": [], "beside a flooded lane": []}

    def measure(name: str) -> None:
        found[name].append(measure_latency(rig, live.source, table, LANES_RATE, LANES_RATE * LANES_SECONDS))

    def hang() -> None:
        loud.tell("lab", "slow", {"ms": (LANES_SECONDS + 1) * 1000})

    def flood() -> None:
        for _ in range(1900):  # 2,000 may wait
            loud.tell("lab", "slow", {"ms": (LANES_SECONDS + 1) * 1000 // 1900 + 1})

    measure("alone")
    found["alone"].clear()  # connections and caches are warm now
    for _ in range(rounds):
        for name, trouble in (("beside a hung lane", hang), ("beside a flooded lane", flood)):
            wait_until(lambda: loud.ask("echo", "say", {"text": "x"}, timeout=30).body, 60, "the lane to be idle")
            measure("alone")
            trouble()
            measure(name)
    loud.close()
    live.close()
    report.say(f"\nlanes, latency of rows at {LANES_RATE} tx/s beside another plugin's bad lane (load {os.getloadavg()[0]:.1f})")
    for name, runs in found.items():
        p50, p99 = ([r[key] for r in runs] for key in ("p50_us", "p99_us"))
        report.say(f"  {name:24} p50 {spread(p50):>22} us   p99 {spread(p99):>26} us")
    for k, name in enumerate(("beside a hung lane", "beside a flooded lane")):
        base = found["alone"][k::2]  # measured just before
        p50 = [a["p50_us"] / b["p50_us"] for a, b in zip(found[name], base)]
        p99 = [a["p99_us"] / b["p99_us"] for a, b in zip(found[name], base)]
        report.say(f"  {name} / alone: p50 {spread(p50, '{:.2f}')}, p99 {spread(p99, '{:.2f}')}   target p50 <= 1.10: {verdict(median(p50), 1.1, True)}")
    report.keep("lanes", found)


# ---- plugin -----------------------------------------------------------------------------------------------------------------------

BARE, IN_BROKER, IN_CHILD = "bare service", "plugin in the broker", "plugin in a child"
SATURATED = 256  # requests under way
NOTES_PER_S = 10_000
BAD_CPU = 0.2  # cores for a plugin that goes wrong, on a machine that has few


class Echoing:
    """What answers: a program on the NATS library alone, or a broker with the plugin, in it or in a child."""

    def __init__(self, rig: Rig, who: str, *bare: str) -> None:
        self.rig, self.who = rig, who
        if who == BARE:
            self.bare = rig.program("bare_echo", "--url", rig.site.nats.url, "--creds", rig.creds, "--subject", "mst.*.*.*.>", *bare)
            assert self.bare.stdout and self.bare.stdout.readline() == "ready\n"
            self.pids = [self.bare.pid]
            return
        entry: dict[str, Any] = {"path": str(BUILD / "bin" / "bench" / "bench.so"), "isolation": "none"}
        if who == IN_CHILD:
            entry |= {"isolation": "process", "allow": {"subscribe": ["all.*.note"]}}
        self.broker = Musterd("plugin", rig.site.folder, rig.site.broker_config())
        self.broker.config["plugins"] = [entry]
        rig.site.brokers.append(self.broker)
        self.broker.start()
        self.pids = [self.broker.pid, *children(self.broker.pid)]
        assert len(self.pids) == (2 if who == IN_CHILD else 1)

    def cpu(self) -> float:
        return sum(cpu_us(pid) for pid in self.pids)

    def close(self) -> None:
        if self.who == BARE:
            self.bare.communicate()
        else:
            self.rig.stop(self.broker)


def asked(rig: Rig, target: Echoing, count: int, subject: str, *argv: str) -> dict[str, float]:
    before, nats = target.cpu(), cpu_us(rig.site.nats.pid)
    done = subprocess.run([str(BUILD / "bin" / "bench" / "asker"), "--url", rig.site.nats.url, "--creds", str(rig.site.agent("t0", "a1")),
                           "--subject", f"mst.t0.{subject}", "--count", str(count), *argv], capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise AssertionError(f"asker: {done.stdout}{done.stderr}")
    if "--box" not in argv:
        time.sleep(0.3)  # what is under way
    found = {key: float(value) for key, value in re.findall(r"(\w+)=(-?\d+)", done.stdout)}
    return found | {"cpu_us": (target.cpu() - before) / count, "nats_us": (cpu_us(rig.site.nats.pid) - nats) / count}


def tell_hops(report: Report, title: str, found: dict[str, list[dict[str, float]]], keys: tuple[tuple[str, str, str], ...]) -> None:
    report.say(f"  {title}")
    for who, results in found.items():
        report.say(f"    {who:22}" + "".join(f"  {label} {spread([r[key] for r in results], form):>24}" for key, label, form in keys))
    for who, base in ((IN_BROKER, BARE), (IN_CHILD, BARE), (IN_CHILD, IN_BROKER)):
        pairs = list(zip(found[who], found[base]))
        report.say(f"    {who} / {base}:" + "".join(f"  {label} {spread([a[key] / b[key] for a, b in pairs if b[key]], '{:.2f}')}" for key, label, _ in keys))
    report.keep(f"plugin/{title}", found)


def hops(report: Report, rig: Rig, rounds: int) -> None:
    one: dict[str, list[dict[str, float]]] = {BARE: [], IN_BROKER: [], IN_CHILD: []}
    full: dict[str, list[dict[str, float]]] = {BARE: [], IN_BROKER: [], IN_CHILD: []}
    notes: dict[str, list[dict[str, float]]] = {BARE: [], IN_BROKER: [], IN_CHILD: []}
    box = ("--box", "mst.t0.box.a1.bench")
    for done in range(rounds):
        print(f"plugin: {done} of {rounds} rounds done", file=sys.stderr)
        for who in one:
            say = "rpc.a1.bench.say"
            target = Echoing(rig, who, "--live")
            asked(rig, target, 2000, say, *box, "--window", "16")  # warm
            one[who].append(asked(rig, target, 20_000, say, *box, "--window", "1"))
            if who == BARE:  # each kind of load as it is best for the library
                target.close()
                target = Echoing(rig, who)
            full[who].append(asked(rig, target, 200_000, say, *box, "--window", str(SATURATED)))
            notes[who].append(asked(rig, target, 5 * NOTES_PER_S, "all.a1.note", "--rate", str(NOTES_PER_S)))
            if who != BARE:
                heard = Agent(rig.site, "t0", "a2")
                assert heard.ask("bench", "count").body["notes"] == 5 * NOTES_PER_S
                heard.close()
            target.close()
    report.say(f"\nplugin, a request of 200 bytes and its answer (load {os.getloadavg()[0]:.1f}); CPU of broker and child together")
    times = (("p50_us", "p50 us", "{:,.0f}"), ("p99_us", "p99 us", "{:,.0f}"), ("cpu_us", "CPU us", "{:.1f}"))
    tell_hops(report, "one at a time", one, times)
    tell_hops(report, f"{SATURATED} at a time", full, (("rate", "requests/s", "{:,.0f}"), *times))
    tell_hops(report, f"{NOTES_PER_S:,} messages a second that nobody answers", notes, (("cpu_us", "CPU us", "{:.1f}"),))


def size(report: Report, rig: Rig, rounds: int) -> None:
    """What a child costs while nothing happens, and how long it takes to have one."""
    starts, resident, private = [], [], []
    for _ in range(rounds):
        child = Child(BUILD / "bin" / "bench" / "bench.so")
        child.take("HELLO")
        child.settings(b"")
        child.outcome("CREATE", "CREATED")
        child.outcome("START", "STARTED")
        starts.append((time.monotonic() - child.begun) * 1000)
        child.ping()
        status = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path(f"/proc/{child.process.pid}/status").read_text(), re.MULTILINE))
        resident.append(int(status["VmRSS"]) / 1024)
        private.append(int(status["RssAnon"]) / 1024)
        child.close()
    report.say(f"  a child at rest: resident {spread(resident, '{:.1f}')} MiB, of it private {spread(private, '{:.1f}')}   target <= 8: "
               f"{verdict(median(resident), 8, True)}; from its start to STARTED {spread(starts, '{:.0f}')} ms   target <= 50: {verdict(median(starts), 50, True)}")
    report.keep("plugin/child", {"resident_mib": resident, "private_mib": private, "start_ms": starts})


def bad_children(report: Report, rig: Rig, rounds: int) -> None:
    """The latency of rows beside a child that crashes again and again, spins, or publishes without end, each held to BAD_CPU of a core."""
    table = rig.table("bench_beside")
    rig.sql("CREATE ROLE muster_plugin_echo LOGIN")  # the plugin asks for a link, and makes none
    bad = isolated(echo("bad"), rig.site, limits={"cpu": BAD_CPU}, restart={"delay": "100ms", "max_delay": "100ms"})
    live, loud = LiveMuster(rig, table, bad), Agent(rig.site, "t0", "a1")
    found: dict[str, list[dict[str, float]]] = {"alone": [], "beside one that crashes": [], "beside one that hangs": [], "beside one that floods": []}
    over = threading.Event()

    def repeat(verb: str, body: dict[str, Any], seconds: float) -> threading.Thread:
        def run() -> None:
            while not over.is_set():
                loud.tell("lab", verb, body)
                over.wait(seconds)
        over.clear()
        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def measure(name: str) -> None:
        found[name].append(measure_latency(rig, live.source, table, LANES_RATE, LANES_RATE * LANES_SECONDS))

    troubles: dict[str, tuple[str, dict[str, Any], float]] = {
        "beside one that crashes": ("crash", {"how": "segv"}, 0.3), "beside one that hangs": ("hang", {"ms": (LANES_SECONDS + 1) * 1000}, 1000),
        "beside one that floods": ("flood", {"n": 150_000, "bytes": 200}, 1000)}
    measure("alone")
    found["alone"].clear()  # connections and caches are warm now
    for _ in range(rounds):
        for name, (verb, body, seconds) in troubles.items():
            wait_until(lambda: "error" not in loud.ask("echo", "say", {"text": "x"}, timeout=30).body, 60, "the child to serve")
            measure("alone")
            thread = repeat(verb, body, seconds)
            measure(name)
            over.set()
            thread.join()
            wait_until(lambda: "error" not in loud.ask("lab", "flood", {"n": 1}, timeout=60).body, 120, "the trouble to be over")
    loud.close()
    live.close()
    report.say(f"\nplugin, latency of rows at {LANES_RATE} tx/s beside a bad child held to {BAD_CPU} cores (load {os.getloadavg()[0]:.1f})")
    for name, runs in found.items():
        p50, p99 = ([r[key] for r in runs] for key in ("p50_us", "p99_us"))
        report.say(f"  {name:24} p50 {spread(p50):>22} us   p99 {spread(p99):>26} us")
    for k, name in enumerate(troubles):
        base = found["alone"][k::3]  # measured just before
        p50 = [a["p50_us"] / b["p50_us"] for a, b in zip(found[name], base)]
        p99 = [a["p99_us"] / b["p99_us"] for a, b in zip(found[name], base)]
        report.say(f"  {name} / alone: p50 {spread(p50, '{:.2f}')}, p99 {spread(p99, '{:.2f}')}   target p99 <= 1.10: {verdict(median(p99), 1.1, True)}")
    report.keep("plugin/beside", found)


def plugin(report: Report, rig: Rig, rounds: int) -> None:
    hops(report, rig, rounds)
    size(report, rig, rounds)
    bad_children(report, rig, rounds)


# ---- quotas -----------------------------------------------------------------------------------------------------------------------

QUOTA, TIMES = 500, 10  # requests a second that a tenant may send, and how many times that it does
NEIGHBOUR_RATE, NEIGHBOUR_SECONDS = 500, 8


def neighbour(rig: Rig, target: Echoing) -> dict[str, float]:
    done = subprocess.run([str(BUILD / "bin" / "bench" / "asker"), "--url", rig.site.nats.url, "--creds", str(rig.site.agent("t1", "a1")),
                           "--subject", "mst.t1.rpc.a1.bench.say", "--box", "mst.t1.box.a1.bench", "--window", "256",
                           "--rate", str(NEIGHBOUR_RATE), "--count", str(NEIGHBOUR_RATE * NEIGHBOUR_SECONDS)],
                          capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise AssertionError(f"asker: {done.stdout}{done.stderr}")
    return {key: float(value) for key, value in re.findall(r"(\w+)=(-?\d+)", done.stdout)}


def quotas(report: Report, rig: Rig, rounds: int) -> None:
    """The latency of a tenant's requests alone, and beside a tenant at TIMES its quota, in alternating runs."""
    target = Echoing(rig, IN_BROKER)
    rig.site.cli("tenant", "limits", "t0", f"requests_per_s={QUOTA}")
    loud = [str(BUILD / "bin" / "bench" / "asker"), "--url", rig.site.nats.url, "--creds", str(rig.site.agent("t0", "a1")), "--subject",
            "mst.t0.rpc.a1.bench.say", "--box", "mst.t0.box.a1.bench", "--lenient", "--rate", str(QUOTA * TIMES), "--count",
            str(QUOTA * TIMES * (NEIGHBOUR_SECONDS + 2))]
    found: dict[str, list[dict[str, float]]] = {"alone": [], "beside": []}
    neighbour(rig, target)  # warm
    for done in range(rounds):
        print(f"quotas: {done} of {rounds} rounds done", file=sys.stderr)
        found["alone"].append(neighbour(rig, target))
        before = target.broker.metric("muster_over_limit_total", 'limit="requests_per_s"')
        flood = subprocess.Popen(loud, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(1)
        found["beside"].append(neighbour(rig, target))
        assert flood.poll() is None, "the flood ended before the neighbour did"
        flood.communicate()
        refused = target.broker.metric("muster_over_limit_total", 'limit="requests_per_s"') - before
        assert refused > QUOTA * (TIMES - 2) * NEIGHBOUR_SECONDS, f"only {refused} requests were over the quota"
    rig.site.cli("tenant", "limits", "t0", "requests_per_s=none")
    target.close()
    report.say(f"\nquotas, {NEIGHBOUR_RATE} requests a second of one tenant, alone and beside another that sends {TIMES} times its {QUOTA} a second"
               f" (load {os.getloadavg()[0]:.1f})")
    for name, runs in found.items():
        p50, p99 = ([r[key] for r in runs] for key in ("p50_us", "p99_us"))
        report.say(f"  {name:8} p50 {spread(p50):>22} us   p99 {spread(p99):>26} us")
    p50, p99 = ([b[key] / a[key] for a, b in zip(found["alone"], found["beside"])] for key in ("p50_us", "p99_us"))
    report.say(f"  beside / alone: p50 {spread(p50, '{:.2f}')}, p99 {spread(p99, '{:.2f}')}   target p99 < 1.20: {verdict(median(p99), 1.2, True)}")
    report.keep("quotas", found)


# ---- rest -------------------------------------------------------------------------------------------------------------------------


def rest(report: Report, rig: Rig, rounds: int) -> None:
    config = rig.site.broker()
    config.start()
    config.stop()  # the first start makes slots, streams and buckets
    starts = []
    for _ in range(rounds):
        begin = time.monotonic()
        config.start(ready=False)
        wait_until(lambda: config.get("/readyz")[0] == 200, 30, f"the broker to be ready\n{config.log()}")
        starts.append((time.monotonic() - begin) * 1000)
        if len(starts) < rounds:
            config.stop()
    time.sleep(2)
    before = cpu_us(config.pid)
    time.sleep(IDLE_SECONDS)
    busy = (cpu_us(config.pid) - before) / 1e6 / IDLE_SECONDS * 100
    status = Path(f"/proc/{config.pid}/status").read_text()
    figures = dict(re.findall(r"^(VmRSS|RssAnon|Threads):\s+(\d+)", status, re.MULTILINE))
    resident = int(figures["VmRSS"]) / 1024
    rig.stop(config)
    report.say("\nbroker at rest (cdc main and evt, nothing happens)")
    report.say(f"  resident        {resident:6.1f} MiB (of it private {int(figures['RssAnon']) / 1024:.1f})   target <= 30: {verdict(resident, 30, True)}")
    report.say(f"  CPU             {busy:6.2f} %   target < 1: {verdict(busy, 1, True)}")
    report.say(f"  start to ready  {spread(starts)} ms   target <= 300: {verdict(median(starts), 300, True)}")
    report.say(f"  threads         {figures['Threads']:>6}")
    report.keep("rest", {"resident_mib": resident, "cpu_percent": busy, "start_ms": starts, "threads": int(figures["Threads"])})


def on_rig(report: Report, what: set[str], rows: int, rounds: int) -> None:
    """Those that need the tables and slots of a rig."""
    parts = {"cdc": lambda: cdc(report, rig, rows, rounds), "latency": lambda: latency(report, rig, rounds), "lanes": lambda: lanes(report, rig, rounds),
             "plugin": lambda: plugin(report, rig, rounds), "quotas": lambda: quotas(report, rig, rounds), "rest": lambda: rest(report, rig, rounds)}
    if not what & parts.keys():
        return
    rig = Rig()
    try:
        for name in parts:
            if name in what:
                report.part(name, 3600, parts[name])
    finally:
        rig.close()


PARTS = ("cdc", "latency", "lanes", "plugin", "quotas", "rest", "logins", "presence", "fanout", "tasks")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/bench/run", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__,
                                     epilog="What the figures mean: tests/bench/README.md. Progress is told on standard error; the exit status is 1 where a part failed.")
    parser.add_argument("what", nargs="?", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--rows", type=int, default=200_000, help="of cdc: a multiple of 1000 (200000)")
    parser.add_argument("--rounds", type=int, default=5, help="alternating runs of each contender, of which the median counts (5)")
    parser.add_argument("--logins", type=int, default=10_000, help="of logins (10000)")
    parser.add_argument("--agents", type=int, nargs="+", default=[1000, 10_000, 100_000],
                        help="of presence: how many are on one broker, each by itself (1000 10000 100000); the largest bounds the crowds of the other parts, and of fanout")
    parser.add_argument("--queued", type=int, default=1_000_000, help="of tasks: how many wait, beside 1,000 (1000000)")
    parser.add_argument("--part", default="", metavar="TEXT", help="only parts whose name has it, as progress tells them: deaths, beats, watches")
    parser.add_argument("--json", action="store_true", help="every run as JSON on standard output, the report on standard error")
    args = parser.parse_args()
    if args.rows < 1000 or args.rows % 1000 or args.rounds < 1:
        parser.error("--rows: expected a multiple of 1000; --rounds: expected 1 or more")
    if min(args.agents) < 100:
        parser.error("--agents: expected 100 or more")
    return args


def main() -> int:
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends with it
    what = set(PARTS) if args.what == "all" else {args.what}
    report = Report(args.json, args.part)
    report.conditions(rows=args.rows, rounds=args.rounds, agents=args.agents, fsync="on", synchronous_commit="on")
    on_rig(report, what, args.rows, args.rounds)
    if "logins" in what:
        report.part("logins", 1800, lambda: logins(report, args.logins, args.rounds))
    if "presence" in what:
        presence(report, args.agents, args.rounds, min(3, args.rounds))
    if "fanout" in what:
        fanout(report, max(args.agents), args.rounds, min(3, args.rounds))
    if "tasks" in what:
        tasks(report, args.queued, args.rounds, min(3, args.rounds))
    return report.end()


sys.exit(main())
