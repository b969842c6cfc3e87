"""Presence beside raw NATS: questions, beats, a burst of arrivals, deaths, and what a broker is with many tenants. Called by bench.py.

Agents of "own connections" log in like any client, one process holding all of them. 100,000 have not so many ports on one machine: they speak over
16 connections with a broker's credentials, each under its own name; of such the brokers see beats and no connections.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from statistics import median
from typing import Any

from client import Client
from crowd import SHARED, Crowd, known, minted
from harness import BUILD, Musterd, Site, wait_until
from rig import cpu_us

GRACE = "500ms"
BEATS_PER_S, BEATS = 50_000, 250_000
WATCHERS = 8
DEATHS = 100
TENANTS = 1000
SHARDS = 16
OWN = "own"  # the tenant of those with connections, and credentials, of their own


def broker(site: Site, name: str = "presence", **config: Any) -> Musterd:
    made = Musterd(name, site.folder, site.broker_config())
    made.config["plugins"].append({"name": "presence", "config": config})
    site.brokers.append(made)
    made.start()
    return made


def stop(site: Site, *brokers: Musterd) -> None:
    for one in brokers:
        if one.alive:
            one.resume()
            one.stop()
        site.brokers.remove(one)


def private_mib(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def spread(values: list[float], form: str = "{:,.0f}") -> str:
    return f"{form.format(median(values))} [{form.format(min(values))}..{form.format(max(values))}]"


# ---- questions


def _asker(site: Site, creds: Path, subject: str, count: int, window: int, body: str) -> dict[str, float]:
    done = subprocess.run([str(BUILD / "bin/bench/asker"), "--url", site.nats.url, "--creds", str(creds), "--subject", subject,
                           "--box", "mst.t0.box.a1.bench", "--window", str(window), "--count", str(count), "--body", body], capture_output=True, text=True,
                          timeout=300)
    if done.returncode:
        raise AssertionError(f"asker: {done.stdout}{done.stderr}")
    return {key: float(value) for key, value in (pair.split("=") for pair in done.stdout.split())}


def requests(report: Any, site: Site, rounds: int) -> None:
    """presence.get, one at a time and 8 at a time, beside an echo on the bare library that answers as many bytes."""
    one = broker(site)
    crowd = Crowd(site, "t0", 100)
    crowd.do("login")
    crowd.do("join")
    crowd.do("beating 5000")
    question = '{"agent":"c7"}'
    echoed = question + " " * 450  # about what the answer takes
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ("bare 1", "get 1", "bare 8", "get 8")}
    for live, window, count in ((True, 1, 10_000), (False, 8, 50_000)):
        for _ in range(rounds):
            bare = subprocess.Popen([str(BUILD / "bin/bench/bare_echo"), "--url", site.nats.url, "--creds", str(site.nats.folder / "broker.creds"),
                                     "--subject", "bench.echo", *(["--live"] if live else [])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert bare.stdout and bare.stdout.readline() == "ready\n"
            found[f"bare {window}"].append(_asker(site, site.nats.folder / "broker.creds", "bench.echo", count, window, echoed))
            bare.communicate()
            found[f"get {window}"].append(_asker(site, site.agent("t0", "a1"), "mst.t0.rpc.a1.presence.get", count, window, question))
    crowd.close()
    stop(site, one)
    report.say(f"\npresence.get beside an echo on the bare library (load {os.getloadavg()[0]:.1f})")
    for name, runs in found.items():
        report.say(f"  {name:8} p50 {spread([r['p50_us'] for r in runs]):>22} us   p99 {spread([r['p99_us'] for r in runs]):>24} us   {spread([r['rate'] for r in runs]):>26}/s")
    p50, p99 = (median(a[key] / b[key] for a, b in zip(found["get 1"], found["bare 1"])) for key in ("p50_us", "p99_us"))
    rate = median(a["rate"] / b["rate"] for a, b in zip(found["get 8"], found["bare 8"]))
    report.say(f"  one at a time: p50 {p50:.2f} x, target <= 1.3: {verdict(p50 <= 1.3)}; p99 {p99:.2f} x, target <= 2: {verdict(p99 <= 2)}; "
               f"8 at a time: rate {rate:.2f} x, target >= 0.8: {verdict(rate >= 0.8)}")
    report.keep("presence/requests", found | {"p50": p50, "p99": p99, "rate": rate})


# ---- beats


def _bare_beats(site: Site, crowd: Crowd) -> float:
    """What a program on the bare library takes for each of the same messages."""
    bare = subprocess.Popen([str(BUILD / "bin/bench/bare_echo"), "--url", site.nats.url, "--creds", str(site.nats.folder / "broker.creds"),
                             "--subject", "mst.*.rpc.*.presence.beat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert bare.stdout and bare.stdout.readline() == "ready\n"
    before = cpu_us(bare.pid)
    crowd.do(f"beat {BEATS_PER_S} {BEATS}")
    used = cpu_us(bare.pid) - before
    bare.communicate()
    return used / BEATS


def beats(report: Any, site: Site, size: int, rounds: int) -> None:
    """Memory of an agent, the broker's CPU for a beat, and the same agents beating as they should for a while."""
    known(site, "t0", size)
    one = broker(site)
    before = private_mib(one.pid)
    crowd = Crowd(site, "t0", size)
    crowd.do("login")
    crowd.do("beating 5000")  # whoever is in; the last may come later than the first would be given up
    joined = crowd.do("join")
    crowd.do("beating 0")
    held = (private_mib(one.pid) - before) * 1024 * 1024 / size
    packed = one.metric("muster_roster_bytes") / size
    ours, bare = [], []
    for _ in range(rounds):
        start = cpu_us(one.pid)
        crowd.do(f"beat {BEATS_PER_S} {BEATS}")
        ours.append((cpu_us(one.pid) - start) / BEATS)
        bare.append(_bare_beats(site, crowd))
    start = cpu_us(one.pid)
    crowd.do("beating 5000")
    steady = crowd.do("wait 20000")
    busy = (cpu_us(one.pid) - start) / 20e6 * 100
    crowd.close()
    stop(site, one)
    over = median(a - b for a, b in zip(ours, bare))
    report.say(f"\npresence, {size:,} agents over {SHARED} connections (load {os.getloadavg()[0]:.1f})")
    report.say(f"  joined in {joined['seconds']:.2f} s ({size / joined['seconds']:,.0f}/s, all heard by the watcher), {joined['again']} asked again")
    report.say(f"  memory an agent    {held:8,.0f} bytes of the process, with the cache of credentials and what came in the burst; {packed:,.0f} in the roster"
               f"   target <= 1,024: {verdict(held <= 1024)}")
    report.say(f"  CPU of a beat      {spread(ours, '{:.2f}')} us; a program on the bare library takes {spread(bare, '{:.2f}')} to hear one;"
               f" over it {over:.2f} us, target <= 1: {verdict(over <= 1)}")
    report.say(f"  beating every 5 s  {busy:.1f} % of a core; false leaves in 20 s: {steady['stray']}, target 0: {verdict(steady['stray'] == 0)}")
    report.keep(f"presence/beats/{size}", {"join": joined, "bytes": held, "roster_bytes": packed, "us": ours, "bare_us": bare, "over_us": over, "percent": busy, "stray": steady["stray"]})


# ---- a burst


def burst(report: Any, site: Site, size: int, rounds: int) -> None:
    """Agents with connections of their own: until all are in, and until all have said hello and every watcher has heard of every one."""
    own = minted(site, OWN, size)
    one = broker(site, grace=GRACE)
    raw, seen, tries = [], [], 0
    for _ in range(rounds):
        crowd = Crowd(site, OWN, size, WATCHERS, own)
        raw.append(float(crowd.do("login")["seconds"]))
        crowd.close()
        crowd = Crowd(site, OWN, size, WATCHERS, own)
        told = crowd.do("arrive")
        seen.append(float(told["seconds"]))
        tries += told["again"]
        crowd.close()
        _await_nobody(site, OWN)
    stop(site, one)
    ratio = median(a / b for a, b in zip(seen, raw))
    report.say(f"\npresence, {size:,} agents arrive at once, each on a connection of its own; {WATCHERS} watchers (load {os.getloadavg()[0]:.1f})")
    report.say(f"  raw logins                              {spread(raw, '{:.2f}')} s")
    report.say(f"  logins, hello, all seen by all watchers {spread(seen, '{:.2f}')} s   ratio {ratio:.2f}, target <= 2: {verdict(ratio <= 2)}; "
               f"hellos asked again {tries}")
    report.keep("presence/burst", {"raw": raw, "seen": seen, "ratio": ratio, "again": tries})


def _await_nobody(site: Site, tenant: str) -> None:
    end = time.monotonic() + 60
    while site.cli("agents", "count", "--tenant", tenant, "--json").stdout.find('"count":0') < 0:
        assert time.monotonic() < end, "agents that are gone are still present"
        time.sleep(0.1)


# ---- deaths


def _fallen(site: Site, own: Path, fault: str) -> dict[str, Any]:
    """Two brokers; the one that has the most shards is struck, and at the same moment agents lose their connections."""
    brokers = [broker(site, name, grace=GRACE, heartbeat="1s", dead_after="3s") for name in ("b1", "b2")]
    crowd = Crowd(site, OWN, 500, WATCHERS, own)
    crowd.do("login")
    crowd.do("join")
    crowd.do("beating 1000")
    time.sleep(4)
    holder = max(brokers, key=lambda b: b.metric("muster_presence_shards"))
    if fault:
        getattr(holder, fault)()
    result = crowd.do(f"cut {DEATHS}")
    crowd.do("wait 1000")
    crowd.close()
    stop(site, *brokers)
    return result


def deaths(report: Any, site: Site, size: int, rounds: int) -> None:
    own = minted(site, OWN, size)
    grace_ms = float(GRACE.removesuffix("ms"))
    report.say(f"\npresence, deaths of {DEATHS} of 500 agents on connections of their own, as each of {WATCHERS} watchers hears of them (grace {GRACE})")
    for fault, title, target in (("", "connection lost", 50), ("kill", "and the broker killed", 5000), ("pause", "and the broker stopped", 16000)):
        runs = [_fallen(site, own, fault) for _ in range(rounds if not fault else max(1, rounds // 2))]
        key = "p99_ms" if not fault else "max_ms"
        past = [run[key] - grace_ms for run in runs]
        stray = sum(run["stray"] for run in runs)
        report.say(f"  {title:24} p50 {median(r['p50_ms'] for r in runs) - grace_ms:8,.0f} ms past the grace, {key[:3]} {spread(past):>24} ms, "
                   f"target <= {target:,}: {verdict(median(past) <= target)}; false leaves {stray}, target 0: {verdict(stray == 0)}")
        report.keep(f"presence/deaths/{fault or 'none'}", runs)
    _half_open(report, site, rounds)


def _half_open(report: Any, site: Site, rounds: int) -> None:
    known(site, "t0", 500)
    one = broker(site, heartbeat="1s", dead_after="3s")
    found = []
    for _ in range(rounds):
        crowd = Crowd(site, "t0", 500, WATCHERS)
        crowd.do("login")
        crowd.do("join")
        crowd.do("beating 1000")
        crowd.do("wait 2500")
        found.append(crowd.do("hush 20"))
        crowd.close()
        _await_nobody(site, "t0")
    stop(site, one)
    beats_late = [run["max_ms"] / 1000 for run in found]
    stray = sum(run["stray"] for run in found)
    report.say(f"  {'half-open':24} longest {spread(beats_late, '{:.2f}')} beats of 1 s after the last one, target <= 3 and the tick: {verdict(median(beats_late) <= 3.2)};"
               f" false leaves {stray}, target 0: {verdict(stray == 0)}")
    report.keep("presence/deaths/half_open", found)


# ---- growth, and many tenants


def growth(report: Any, site: Site) -> None:
    """The same load on 1, 2 and 4 brokers: 8 tenants of 500 agents join at once, and beat as fast as they can."""
    size, tenants = 500, [f"t{i}" for i in range(8)]
    for tenant in tenants:
        known(site, tenant, size)
    report.say(f"\npresence, growth: {len(tenants)} tenants of {size} agents join at once, then beat without a pause; {os.cpu_count()} cores for all")
    for n in (1, 2, 4):
        brokers = [broker(site, f"g{i}") for i in range(n)]
        _await_shared(brokers)
        crowds = [Crowd(site, tenant, size) for tenant in tenants]
        for crowd in crowds:
            crowd.do("login")
        began = time.monotonic()
        for crowd in crowds:
            crowd.begin("join")
        for crowd in crowds:
            crowd.end()
        joins = size * len(tenants) / (time.monotonic() - began)
        before, began = [cpu_us(b.pid) for b in brokers], time.monotonic()
        for crowd in crowds:
            crowd.begin("beat 0 20000")
        for crowd in crowds:
            crowd.end()
        beats_s = 20_000 * len(tenants) / (time.monotonic() - began)
        used = [(cpu_us(b.pid) - was) / (20_000 * len(tenants)) for b, was in zip(brokers, before)]
        shards = [int(b.metric("muster_presence_shards")) for b in brokers]
        report.say(f"  {n} broker{'s' if n > 1 else ' '}  joins {joins:8,.0f}/s   beats {beats_s:9,.0f}/s, every broker hears each: {median(used):.2f} us of each;"
                   f" shards {shards}")
        report.keep(f"presence/growth/{n}", {"joins": joins, "beats": beats_s, "us": used, "shards": shards})
        for crowd in crowds:
            crowd.close()
        stop(site, *brokers)
        _sweep(site)


def _await_shared(brokers: list[Musterd]) -> None:
    """A broker counts the others for some seconds before it lets shards go."""
    wait_until(lambda: sorted(int(b.metric("muster_presence_shards")) for b in brokers) == [SHARDS // len(brokers)] * len(brokers), 30,
               "each broker to hold its part of the shards")


def _sweep(site: Site) -> None:
    """Nobody of before is in the way of the next."""
    site.postgres.query("TRUNCATE public.agent_sessions CASCADE")


def many_tenants(report: Any) -> None:
    site = Site()
    try:
        site.start()
        names = [f"n{i}" for i in range(TENANTS)]
        began = time.monotonic()
        site.cli("tenant", "add", *names)
        added = time.monotonic() - began
        one = Musterd("many", site.folder, site.broker_config())
        one.config["plugins"].append({"name": "presence", "config": {}})
        site.brokers.append(one)
        began = time.monotonic()
        one.start()
        first = time.monotonic() - began
        _await_streams(site)
        made = time.monotonic() - began
        one.stop()
        began = time.monotonic()
        one.start()
        again = time.monotonic() - began
        time.sleep(3)
        before, nats = cpu_us(one.pid), cpu_us(site.nats.pid)
        time.sleep(10)
        busy, nats_busy = (cpu_us(one.pid) - before) / 1e5, (cpu_us(site.nats.pid) - nats) / 1e5
        report.say(f"\n{TENANTS:,} tenants, each with a stream of its history (one server, R1)")
        report.say(f"  added in {added:.1f} s; a broker is ready in {first:.2f} s the first time, all streams are there after {made:.1f} s; ready again in {again:.2f} s")
        report.say(f"  memory {private_mib(one.pid):.1f} MiB private of the broker, {private_mib(site.nats.pid):.0f} of nats-server; "
                   f"at rest {busy:.2f} % of a core, nats-server {nats_busy:.2f} %")
        report.keep("presence/tenants", {"added_s": added, "first_s": first, "made_s": made, "again_s": again, "mib": private_mib(one.pid),
                                         "nats_mib": private_mib(site.nats.pid), "percent": busy, "nats_percent": nats_busy})
        stop(site, one)
    finally:
        site.close()


def _await_streams(site: Site) -> None:
    client = Client(site.nats.url, site.nats.folder / "broker.creds")
    end = time.monotonic() + 120
    while json.loads(client.request("$JS.API.INFO", b"").data)["streams"] < TENANTS:
        assert time.monotonic() < end, "not every tenant has its stream"
        time.sleep(0.2)
    client.close()


def presence(report: Any, sizes: list[int], rounds: int) -> None:
    site = Site()
    try:
        site.start(OWN, *(f"t{i}" for i in range(8)))
        known(site, "t0", 100)
        requests(report, site, rounds)
        _sweep(site)
        own = max(500, min(10_000, max(sizes)))  # with a connection of their own
        deaths(report, site, own, rounds)
        _sweep(site)
        burst(report, site, own, max(1, rounds // 2))
        _sweep(site)
        growth(report, site)
        for size in sizes:
            beats(report, site, size, rounds)
            _sweep(site)
    finally:
        site.close()
    many_tenants(report)
