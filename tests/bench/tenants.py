"""What a broker is with many tenants, each with a stream of its history. Called by presence.py."""

from __future__ import annotations

import json
import time
from contextlib import closing

from client import Client
from harness import wait_until
from report import Report, load
from stage import Cpu, Stage, private_mib

REST_S = 10


def tenants(report: Report, n: int) -> None:
    with closing(Stage()) as stage:
        stage.start()
        began = time.monotonic()
        for at in range(0, n, 250):
            stage.cli("tenant", "add", *(f"n{i}" for i in range(at, min(n, at + 250))))
        added = time.monotonic() - began
        report.progress(f"presence tenants: {n:,} added")
        one = stage.musterd()

        def started() -> float:
            begins = time.monotonic()
            one.start(ready=False)
            one.wait_ready(180)
            return time.monotonic() - begins

        began = time.monotonic()
        first = started()
        client = Client(stage.nats.url, stage.creds)
        wait_until(lambda: json.loads(client.request("$JS.API.INFO", b"", 30).data)["streams"] >= n, 180, "every tenant to have its stream")
        streams = json.loads(client.request("$JS.API.INFO", b"", 30).data)["streams"]
        client.close()
        made = time.monotonic() - began
        one.stop(40)
        report.progress("presence tenants: all streams are there; started again")
        again = started()
        time.sleep(3)
        cpu = Cpu(one.pid, stage.nats.pid)
        time.sleep(REST_S)
        busy, nats_busy = (used / REST_S / 1e4 for used in cpu.each())
        mib, nats_mib = private_mib(one.pid), private_mib(stage.nats.pid)
    report.say(f"\n{n:,} tenants, each with a stream of its history ({streams:,} streams, one server, R1; {load()})")
    report.say(f"  added in {added:.1f} s; a broker is ready in {first:.2f} s the first time, all streams are there after {made:.1f} s; ready again in {again:.2f} s")
    report.say(f"  memory {mib:.1f} MiB private of the broker, {nats_mib:.0f} of nats-server; at rest "
               f"{report.judge(f'broker at rest with {n:,} tenants, % of a core', busy, 1)}, nats-server {nats_busy:.2f} %")
    report.keep("presence/tenants", {"n": n, "streams": streams, "added_s": added, "first_s": first, "made_s": made, "again_s": again, "mib": mib,
                                     "nats_mib": nats_mib, "percent": busy, "nats_percent": nats_busy})
