"""Fan-out beside raw NATS: casts, inboxes, a herd that reads what it missed, watches with filters, and growth with brokers. Called by bench.py.

Agents are a crowd over 16 connections with a broker's credentials, each under its own name.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from statistics import median
from typing import Any

from client import Client
from crowd import Crowd, known
from harness import BUILD, Musterd, Site, wait_until
from presence import spread, stop, verdict
from rig import cpu_us

AGENTS, WATCHES = 1000, 10_000
NOTE = '{"text":"' + "0123456789" * 18 + '012345678"}'
ROWS, MISSED = 20_000, 50


def _broker(site: Site, name: str = "fanout") -> Musterd:
    made = Musterd(name, site.folder, site.broker_config())
    made.config["plugins"] += [{"name": "presence", "config": {}}, {"name": "fanout", "config": {}}]
    site.brokers.append(made)
    made.start()
    return made


def _crowd(site: Site, tenant: str, n: int) -> Crowd:
    known(site, tenant, n)
    crowd = Crowd(site, tenant, n)
    for command in ("login", "join", "beating 5000", "listen"):
        crowd.do(command)
    return crowd


def _bare_stored(site: Site, count: int, window: int) -> float:
    """Publishes a second into a stream of the same kind, each acknowledged, as many under way."""
    done = subprocess.run([str(BUILD / "bin/bench/asker"), "--url", site.nats.url, "--creds", str(site.nats.folder / "broker.creds"), "--subject", "bench.bare.x",
                           "--box", "mst.f0.box.c0.bench", "--window", str(window), "--count", str(count), "--body", NOTE], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return float(dict(pair.split("=") for pair in done.stdout.split())["rate"])


def messages(report: Any, site: Site, rounds: int) -> None:
    one = _broker(site)
    crowd = _crowd(site, "f0", AGENTS)
    found: dict[str, list[float]] = {"shout": [], "tell": [], "cast": [], "send": [], "bare": []}
    for _ in range(rounds):
        found["shout"].append(100 * AGENTS / crowd.do("shout 100")["seconds"])
        found["tell"].append(50 * AGENTS / crowd.do("tell 50")["seconds"])
        found["cast"].append(50 * (AGENTS - 1) / crowd.do("cast 50 8")["seconds"])
        found["bare"].append(_bare_stored(site, 10_000, 64))
        found["send"].append(10_000 / crowd.do("send 10000 64")["seconds"])
    crowd.close()
    stop(site, one)
    ratio = median(a / b for a, b in zip(found["cast"], found["tell"]))
    stored = median(a / b for a, b in zip(found["send"], found["bare"]))
    report.say(f"\nfan-out, messages of 200 bytes to {AGENTS:,} agents (load {os.getloadavg()[0]:.1f})")
    report.say(f"  raw, one broadcast subject heard by all    {spread(found['shout'])} deliveries/s (no broker between)")
    report.say(f"  raw, one message to each                   {spread(found['tell'])} deliveries/s")
    report.say(f"  message.cast by capability                 {spread(found['cast'])} deliveries/s   of the raw ones {ratio:.2f}, target >= 0.7: {verdict(ratio >= 0.7)}")
    report.say(f"  raw publishes into a stream, 64 under way  {spread(found['bare'])}/s")
    report.say(f"  message.send into an inbox, 64 under way   {spread(found['send'])}/s   of the raw ones {stored:.2f}, for comparison")
    report.keep("fanout/messages", found | {"cast_to_raw": ratio, "send_to_raw": stored})


class _Consumers:
    """How many consumers JetStream has at most, meanwhile."""

    def __init__(self, site: Site) -> None:
        self.most, self._over = 0, threading.Event()
        self._client = Client(site.nats.url, site.nats.folder / "broker.creds")
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.is_set():
            self.most = max(self.most, int(json.loads(self._client.request("$JS.API.INFO", b"").data)["consumers"]))
            self._over.wait(0.02)

    def close(self) -> int:
        self._over.set()
        self._thread.join()
        self._client.close()
        return self.most


def herd(report: Any, site: Site) -> None:
    """Agents that come back at once and read what they missed: each its inbox, then a channel that all have."""
    one = _broker(site)
    crowd = _crowd(site, "f1", AGENTS)
    missed = MISSED * AGENTS
    crowd.do(f"send {missed} 256")
    report.say(f"\nfan-out, a herd: {AGENTS:,} agents read at once, {MISSED} missed messages each (load {os.getloadavg()[0]:.1f})")
    for channel, what in (("inbox", "each its inbox"), ("all", "one channel")):
        if channel == "all":
            crowd.do(f"shout {MISSED}")
        consumers, before = _Consumers(site), cpu_us(one.pid)
        told = crowd.do(f"history {channel}")
        used, most = (cpu_us(one.pid) - before) / missed, consumers.close()
        report.say(f"  {what:15} answered in {told['seconds']:6.2f} s   {missed / told['seconds']:9,.0f} messages/s, {used:.1f} us of the broker each;"
                   f" JetStream consumers at most {most}; errors {told['errors']}")
        report.keep(f"fanout/herd/{channel}", {**told, "us": used, "consumers": most})
    crowd.close()
    stop(site, one)


def _rows(site: Site, owner: str, rows: int) -> None:
    with site.postgres.connect(autocommit=True) as connection:
        for at in range(0, rows, 100):
            connection.execute(f"INSERT INTO public.watched (owner, note) SELECT {owner}, repeat('x', 80) FROM generate_series({at}, {at + 99}) n")


def watches(report: Any, site: Site, rounds: int) -> None:
    """The broker's CPU for a change: nobody watches; 10,000 watch and it matches none of them; and it matches one."""
    site.postgres.query("CREATE TABLE public.watched (id bigserial PRIMARY KEY, owner int, note text)")
    site.postgres.query("ALTER TABLE public.watched REPLICA IDENTITY FULL")
    site.cli("publish", "public.watched", "--tenant", "f2")
    site.cli("tenant", "limits", "f2", f"watches={2 * WATCHES}")
    one = _broker(site)
    crowd = _crowd(site, "f2", WATCHES)
    client = Client(site.nats.url, site.nats.folder / "broker.creds")

    def cost(owner: str, heard: int) -> float:
        start, stored = cpu_us(one.pid), client.streams()["CDC_main"].messages
        if heard:
            crowd.begin(f"heard {heard}")
        _rows(site, owner, ROWS)
        wait_until(lambda: client.streams()["CDC_main"].messages >= stored + ROWS, 120, "the rows to be in the stream")
        if heard:
            crowd.end()
        else:
            crowd.do("wait 500")
        return (cpu_us(one.pid) - start) / ROWS

    cost("-1", 0)  # warm
    found = {"nobody watches": [cost("-1", 0) for _ in range(rounds)]}
    opened = crowd.do("open")
    found["none matches"] = [cost("-1", 0) for _ in range(rounds)]
    found["one matches"] = [cost(f"n % {WATCHES}", ROWS) for _ in range(rounds)]
    client.close()
    crowd.close()
    stop(site, one)
    base = median(found["nobody watches"])
    report.say(f"\nfan-out, {WATCHES:,} watches with the filter owner=eq.<n> on one table (load {os.getloadavg()[0]:.1f}), opened in {opened['seconds']:.1f} s")
    for name, runs in found.items():
        report.say(f"  {name:15} {spread(runs, '{:.1f}')} us of the broker a change, {median(runs) / base:.2f} x"
                   + (f"   target <= 1.25: {verdict(median(runs) / base <= 1.25)}" if name == "none matches" else ""))
    report.keep("fanout/watches", found | {"opened": opened})


def growth(report: Any, site: Site) -> None:
    report.say(f"\nfan-out, growth: 4 tenants of 250 agents cast and send at once; {os.cpu_count()} cores for all")
    for n in (1, 2, 4):
        brokers = [_broker(site, f"g{i}") for i in range(n)]
        time.sleep(3)  # until they have shared the shards
        crowds = [_crowd(site, f"g{i}", 250) for i in range(4)]
        rates = []
        for command, each in (("cast 50 8", 50 * 249), ("send 2500 64", 2500)):
            began = time.monotonic()
            for crowd in crowds:
                crowd.begin(command)
            for crowd in crowds:
                crowd.end()
            rates.append(each * len(crowds) / (time.monotonic() - began))
        report.say(f"  {n} broker{'s' if n > 1 else ' '}  casts {rates[0]:9,.0f} deliveries/s   sends {rates[1]:8,.0f}/s")
        report.keep(f"fanout/growth/{n}", {"cast": rates[0], "send": rates[1]})
        for crowd in crowds:
            crowd.close()
        stop(site, *brokers)


def fanout(report: Any, rounds: int) -> None:
    site = Site()
    try:
        site.start("f0", "f1", "f2", "g0", "g1", "g2", "g3")
        client = Client(site.nats.url, site.nats.folder / "broker.creds")
        client.add_stream("BARE", ["bench.bare.>"])
        client.close()
        messages(report, site, rounds)
        herd(report, site)
        watches(report, site, rounds)
        growth(report, site)
    finally:
        site.close()
