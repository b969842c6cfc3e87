"""How soon every watcher hears of an agent's death: alone, with the broker that decides, and of agents that are there and silent. Called by presence.py."""

from __future__ import annotations

from contextlib import closing
from statistics import median
from typing import Any

from harness import Musterd
from report import Report, load, spread
from stage import Stage

GRACE, GRACE_MS, WATCHERS, BROKERS = "500ms", 500, 8, 2
HEARTBEAT = {"heartbeat": "1s", "dead_after": "3s"}
FAULTS = {"": ("process killed, p99 past the grace, ms", "p99_ms", 50), "kill": ("broker killed, longest, ms", "max_ms", 5000), "pause": ("broker stopped, longest, ms", "max_ms", 16000)}


def _decides(brokers: list[Musterd]) -> Musterd:
    """Who stored the events of those that came: its shard has the tenant."""
    return max(brokers, key=lambda one: one.metric("muster_presence_events_total", 'event="join"'))


def _fallen(stage: Stage, size: int, brokers: list[Musterd], fault: str) -> dict[str, Any]:
    """The broker that decides is struck, and at the same moment a fifth of the agents lose their connections, as those of a killed process do."""
    crowd = stage.crowd("own", size, "login", "join", "beating 1000", "wait 1500", watchers=WATCHERS, own=True)
    struck = _decides(brokers)
    if fault:
        getattr(struck, fault)()
    result = crowd.do(f"cut {size // 5}")
    if fault == "pause":
        struck.resume()  # it comes back into a world that went on
        crowd.do("wait 3000")
    crowd.do("wait 500")
    result["wrong"] = stage.wrong(crowd)
    crowd.close()
    stage.await_nobody("own")
    return result


def _fallen_brokers(stage: Stage, size: int, fault: str) -> dict[str, Any]:
    brokers = stage.started(BROKERS, grace=GRACE, **HEARTBEAT)
    result = _fallen(stage, size, brokers, fault)
    stage.stop(*brokers)
    return result


def _silent(stage: Stage, size: int) -> dict[str, Any]:
    """Their connections stay, as half-open ones do, and nothing comes any more."""
    crowd = stage.crowd("own", size, "login", "join", "beating 1000", "wait 2500", watchers=WATCHERS, own=True)
    result = crowd.do(f"hush {size // 25}")
    result["wrong"] = stage.wrong(crowd)
    crowd.close()
    stage.await_nobody("own")
    return result


def _say_fallen(report: Report, fault: str, runs: list[dict[str, Any]], size: int) -> None:
    what, key, target = FAULTS[fault]
    past = [run[key] - (0 if fault else GRACE_MS) for run in runs]
    wrong = sum(run["wrong"] for run in runs)
    report.say(f"  {what:42} {spread(past):>24}   of these {report.judge(what, median(past), target, form='{:,.0f}')}; p50 {median(r['p50_ms'] for r in runs):,.0f} ms with the grace;"
               f" roster wrong {report.judge(f'roster wrong, {what}', wrong, 0, form='{:.0f}')}; {size // 5} deaths x {len(runs)}")
    report.keep(f"presence/deaths/{fault or 'none'}", runs)


def deaths(report: Report, size: int, rounds: int, few: int) -> None:
    with closing(Stage()) as stage:
        stage.start("own")
        report.say(f"\npresence, deaths among {size} agents on connections of their own, as each of {WATCHERS} watchers hears of them; {BROKERS} brokers, grace {GRACE},"
                   f" beats of 1 s ({load()})")
        brokers = stage.started(BROKERS, grace=GRACE, **HEARTBEAT)
        _say_fallen(report, "", [_fallen(stage, size, brokers, "") for _ in report.rounds("presence deaths, process killed", rounds)], size)
        runs = [_silent(stage, size) for _ in report.rounds("presence deaths, half-open", rounds)]
        stage.stop(*brokers)
        for fault, name, times in (("kill", "broker killed", rounds), ("pause", "broker stopped", few)):
            _say_fallen(report, fault, [_fallen_brokers(stage, size, fault) for _ in report.rounds(f"presence deaths, {name}", times)], size)
    late = [run["max_ms"] / 1000 for run in runs]
    wrong = sum(run["wrong"] for run in runs)
    report.say(f"  {'half-open, longest, beats after the last':42} {spread(late, '{:.2f}'):>24}   of these "
               f"{report.judge('half-open, beats of 1 s after the last', median(late), 3.2)} (3 beats, and 0.2 until it is looked at and told);"
               f" roster wrong {report.judge('roster wrong, half-open', wrong, 0, form='{:.0f}')}; {size // 25} deaths x {len(runs)}")
    report.keep("presence/deaths/half_open", runs)
