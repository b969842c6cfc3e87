"""A burst of logins: with creds, which the server judges alone, and with tokens, which it asks the brokers about (auth callout).

The plugin is tests/plugin/logins.c: what a token costs to verify is not in it. Each login makes a row of muster.credentials.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from statistics import median
from typing import Any

from harness import BUILD, Musterd, Site, nats_program, nats_versions, run_cli
from pluginrig import plugin

BROKERS, LANES, ROUNDS = 2, 1, 3
AT_ONCE = 1000  # under way: with ten times as many on two cores the server comes to nobody within its 10 s, and all try again


def _burst(site: Site, n: int, creds: Path, *token: str) -> dict[str, Any]:
    done = subprocess.run([str(BUILD / "bin/bench/logins"), str(site.nats.port), str(n), str(AT_ONCE), str(creds), *token], capture_output=True, text=True,
                          timeout=300, check=True)
    return dict(json.loads(done.stdout))


def _broker(site: Site, name: str) -> Musterd:
    folder = site.nats.folder
    creds = {f"{kind}creds": str(folder / f"{kind.strip('_') or 'broker'}.creds") for kind in ("", "callout_")}
    broker = Musterd(name, site.folder, {
        "nats": {"urls": [site.nats.url], "callout_key_file": str(folder / "callout.nk"), **creds},
        "postgres": {"dsn": site.postgres.dsn("muster_broker")}, "plugins": [plugin("logins", "logins", lanes=LANES)]})
    site.brokers.append(broker)
    broker.start()
    return broker


def _say(report: Any, name: str, runs: list[dict[str, Any]]) -> float:
    rate = median(run["n"] / run["seconds"] for run in runs)
    report.say(f"  {name:10} {rate:8,.0f}/s   p50 {median(run['p50_ms'] for run in runs):8,.0f} ms   "
               f"p99 {median(run['p99_ms'] for run in runs):8,.0f} ms   longest {max(run['max_ms'] for run in runs):8,.0f} ms   "
               f"tries a login {sum(run['tries'] for run in runs) / sum(run['n'] for run in runs):.3f}")
    report.keep(f"logins/{name}", runs)
    return rate


def logins(report: Any, n: int, rounds: int = ROUNDS) -> None:
    site = Site()
    try:
        site.nats.program = nats_program(nats_versions()[-1])
        run_cli(["nats-config", "--dir", str(site.nats.folder), "--callout"], {})
        site.start("acme")
        creds = site.agent("acme", "somebody")
        brokers = [_broker(site, f"b{i}") for i in range(BROKERS)]
        found: dict[str, list[dict[str, Any]]] = {"creds": [], "callout": [], "again": []}
        for i in range(rounds):
            found["creds"].append(_burst(site, n, creds))
            found["callout"].append(_burst(site, n, site.nats.folder / "sentinel.creds", f"acme.r{i}-"))
            found["again"].append(_burst(site, n, site.nats.folder / "sentinel.creds", f"acme.r{i}-"))
        refused = sum(broker.metric("muster_logins_refused_total") for broker in brokers)
        report.say(f"\nlogins, {n:,}, {AT_ONCE:,} at a time, {BROKERS} brokers with {LANES} lane, nats-server {nats_versions()[-1]}, clients on the same machine")
        bare = _say(report, "creds", found["creds"])
        new, again = _say(report, "callout", found["callout"]), _say(report, "again", found["again"])
        report.say(f"  callout / creds: {new / bare:.2f} with names that are new (each a row), {again / bare:.2f} with names that are known; "
                   f"refused: {refused:.0f}")
        report.keep("logins/refused", refused)
        for broker in brokers:
            broker.stop()
    finally:
        site.close()
