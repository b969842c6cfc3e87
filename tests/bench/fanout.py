"""Fan-out beside raw NATS: broadcasts, batches, inboxes, a herd that reads what it missed; see casts.py, watches.py and growth.py. Called by bench.py.

Agents are a crowd over 16 connections with a broker's credentials, each under its own name.
"""

from __future__ import annotations

import json
import threading
from contextlib import closing
from statistics import median
from typing import Any

import nats.errors

from casts import casts
from client import Client
from crowd import SHARED
from filters import filters
from growth import fanout_growth
from report import Report, load, spread
from stage import Cpu, Stage
from watches import watches

NOTE = '{"text":"' + "0123456789" * 18 + '012345678"}'
AGENTS, MISSED = 1000, 50
SAID = 1000  # times, to all
BATCH_MS, BATCHED_WINDOW = 50, 500
STORED, STORED_WINDOW = 20_000, 64


# ---- broadcast


def broadcast(report: Report, agents: int, rounds: int) -> None:
    """One who tells all: on a subject of nobody's, on Muster's own with no broker between, and through watches of it in batches."""
    with closing(Stage()) as stage:
        stage.start("f0", "f1")
        stage.cli("tenant", "add", "f2", "--history", "off")
        [one] = stage.started(fanout=True)
        crowd = stage.crowd("f0", agents, "login", "join", "beating 5000", "listen raw", "listen all")
        forgetful = stage.crowd("f2", agents, "login", "join", "beating 5000", "listen all")
        batched = stage.crowd("f1", agents, "login", "join", "beating 5000", "listen sub", f"follow {BATCH_MS}", "wait 500")
        runs = {"raw": (crowd, f"raw {SAID} 8"), "shout": (crowd, f"shout {SAID} 8"), "forgotten": (forgetful, f"shout {SAID} 8"),
                "batched": (batched, f"shout {SAID} {BATCHED_WINDOW}")}
        found: dict[str, list[float]] = {name: [] for name in runs}
        cpu: dict[str, list[list[float]]] = {name: [] for name in runs}
        for round_ in range(rounds + 1):
            report.progress(f"fanout broadcast: {f'round {round_} of {rounds}' if round_ else 'warm-up'}")
            for name, (who, order) in runs.items():
                used = Cpu(stage.nats.pid, one.pid)
                seconds = who.do(order)["seconds"]
                if round_:
                    found[name].append(SAID * agents / seconds)
                    cpu[name].append([us / SAID / agents for us in used.each()])
        for each in (crowd, forgetful, batched):
            each.close()

    def ratio(name: str) -> float:
        return median(x / y for x, y in zip(found[name], found["raw"]))

    report.say(f"\nfan-out, messages of 200 bytes to {agents:,} agents, simulated over {SHARED} connections; one broker ({load()})")
    for name, what in (("raw", "raw NATS, one subject heard by all"), ("shout", "Muster's broadcast, history kept"), ("forgotten", "Muster's broadcast, no history"),
                       ("batched", f"watches of it, batches of {BATCH_MS} ms")):
        nats, ours = (median(us[i] for us in cpu[name]) for i in (0, 1))
        report.say(f"  {what:36} {spread(found[name]):>34} deliveries/s; CPU each: nats-server {nats:.2f} us, broker {ours:.2f} us")
    report.say(f"  Muster's broadcast / raw: {report.judge('broadcast / raw NATS', ratio('shout'), 0.95, below=False)} (no broker between: 1.0, and 5 % for noise);"
               f" without history {ratio('forgotten'):.2f}, for comparison")
    report.say(f"  batches / raw: {report.judge('watch batches / raw NATS', ratio('batched'), 0.7, below=False)}")
    report.keep("fanout/broadcast", found | {"cpu_us": cpu})


# ---- inboxes


def inboxes(report: Report, agents: int, rounds: int) -> None:
    with closing(Stage()) as stage:
        stage.start("f0")
        client = Client(stage.nats.url, stage.creds)
        client.add_stream("BARE", ["bench.bare.>"])
        client.close()
        [one] = stage.started(fanout=True)
        crowd = stage.crowd("f0", agents, "login", "join", "beating 5000")
        found: dict[str, list[float]] = {"bare": [], "send": []}
        us = []
        for _ in report.rounds("fanout inboxes", rounds):
            found["bare"].append(stage.asked(stage.creds, "bench.bare.x", STORED, STORED_WINDOW, NOTE, box="mst.f0.box.c0.bench")["rate"])
            cpu = Cpu(one.pid)
            found["send"].append(STORED / crowd.do(f"send {STORED} {STORED_WINDOW}")["seconds"])
            us.append(cpu.used() / STORED)
        crowd.close()
    stored = median(a / b for a, b in zip(found["send"], found["bare"]))
    report.say(f"\nfan-out, durable messages of 200 bytes to the inboxes of {agents:,} agents, {STORED_WINDOW} under way ({load()})")
    report.say(f"  raw JetStream publishes with PubAck {spread(found['bare']):>26}/s")
    report.say(f"  message.send, answered once stored  {spread(found['send']):>26}/s, {spread(us, '{:.1f}')} us of the broker each; of the raw ones {stored:.2f}, for comparison")
    report.keep("fanout/inboxes", found | {"send_to_raw": stored, "us": us})


# ---- a herd


class _Consumers:
    """How many consumers JetStream has at most, meanwhile. A server with much to do may not say."""

    def __init__(self, stage: Stage) -> None:
        self.most, self.unanswered, self._over = 0, 0, threading.Event()
        self._client = Client(stage.nats.url, stage.creds)
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.is_set():
            try:
                self.most = max(self.most, int(json.loads(self._client.request("$JS.API.INFO").data)["consumers"]))
            except (nats.errors.Error, TimeoutError, KeyError):
                self.unanswered += 1
            self._over.wait(0.02)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._client.close()


def herd(report: Report, agents: int) -> None:
    """Agents that come back at once and read what they missed: each its inbox, then a channel that all have."""
    missed = MISSED * agents
    lines = []
    with closing(Stage()) as stage:
        stage.start("f1")
        [one] = stage.started(fanout=True)
        crowd = stage.crowd("f1", agents, "login", "join", "beating 5000")
        report.progress(f"fanout herd: {missed:,} messages are sent")
        sent = crowd.do(f"send {missed} 256")["seconds"]
        client = Client(stage.nats.url, stage.creds)
        for _ in range(MISSED):
            client.publish("mst.f1.all.c0.note", NOTE.encode())
        client.close()
        for channel, what in (("inbox", "each its inbox"), ("all", "one channel")):
            report.progress(f"fanout herd: {what}")
            reads = [one.metric(f"muster_fanout_history_{kind}reads_total") for kind in ("", "wide_")]
            with closing(_Consumers(stage)) as consumers:
                cpu = Cpu(one.pid)
                told: dict[str, Any] = crowd.do(f"history {channel}")
                used = cpu.used() / missed
            reads = [one.metric(f"muster_fanout_history_{kind}reads_total") - before for kind, before in zip(("", "wide_"), reads)]
            lines.append(f"  {what:15} answered in {told['seconds']:6.2f} s   {missed / told['seconds']:9,.0f} messages/s, {used:.1f} us of the broker each;"
                         f" JetStream consumers at most {consumers.most}{f' ({consumers.unanswered} looks unanswered)' if consumers.unanswered else ''},"
                         f" reads of one channel {reads[0]:,.0f}, of many {reads[1]:,.0f}")
            lines.append(f"  {'':15} refused for now, and asked again when they were told to: {told['again']:,}")
            report.keep(f"fanout/herd/{channel}", {**told, "us": used, "consumers": consumers.most, "looks_unanswered": consumers.unanswered, "reads": reads})
        crowd.close()
    report.say(f"\nfan-out, a herd: {agents:,} agents, simulated over {SHARED} connections, read at once, {MISSED} missed messages each (sent in {sent:.0f} s; {load()})")
    for line in lines:
        report.say(line)


def fanout(report: Report, most: int, rounds: int, few: int) -> None:
    """most: agents, at most; few: of runs that are many."""
    some, many = min(AGENTS, most), min(10_000, most)
    report.part("fanout broadcast", 300, lambda: broadcast(report, some, rounds))
    report.part("fanout casts", 180, lambda: casts(report, some, rounds, NOTE))
    report.part("fanout inboxes", 180, lambda: inboxes(report, some, rounds))
    report.part("fanout herd", 420, lambda: herd(report, many))
    report.part("fanout watches", 420, lambda: watches(report, many, rounds))
    report.part("fanout filters", 600, lambda: filters(report, many, rounds, few))
    report.part("fanout growth", 300, lambda: fanout_growth(report, min(250, some)))
