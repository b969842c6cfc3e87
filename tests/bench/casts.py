"""message.cast beside clients that know the names: one on the NATS library, and bare bytes on the agent's own connection. Called by fanout.py."""

from __future__ import annotations

from contextlib import closing
from statistics import median

from crowd import SHARED, Crowd
from report import Report, load, spread
from stage import Cpu, Stage

CASTERS = {"bare": "bare client of the NATS library", "tell": "bare bytes on the agent's own connection", "cast": "message.cast by label"}
TIMES, WINDOWS = 100, (1, 8)
Runs = dict[str, dict[str, list[float]]]


def _round(stage: Stage, crowd: Crowd, pids: dict[str, int], window: int, found: Runs) -> None:
    """Of each caster: deliveries a second, and CPU of it and of NATS for one."""
    n = TIMES * (crowd.n - 1)
    for how, pid in pids.items():
        cpu = Cpu(pid, stage.nats.pid)
        found[how]["rate"].append(n / crowd.do(f"{how} {TIMES} {window}")["seconds"])
        for of, used in zip(("own", "nats"), cpu.each()):
            found[how][of].append(used / n)


def casts(report: Report, agents: int, rounds: int, note: str) -> None:
    """Casts to all who are present, and the same messages with the same header from those who know who they are.

    The tenant keeps no history: a stream that captures them costs all of them many times what sending does, and would hide the difference.
    """
    found: dict[int, Runs] = {window: {how: {"rate": [], "own": [], "nats": []} for how in CASTERS} for window in WINDOWS}
    with closing(Stage()) as stage:
        stage.start()
        stage.cli("tenant", "add", "f3", "--history", "off")
        [one] = stage.started(fanout=True)
        crowd = stage.crowd("f3", agents, "login", "join", "beating 5000", "listen to")
        bare = stage.program("bare_cast", "--subject", "bench.f3.cast", "--box", "mst.f3.to", "--count", str(agents - 1), "--body", note)
        pids = {"bare": bare.pid, "tell": crowd.process.pid, "cast": one.pid}
        _round(stage, crowd, pids, 1, {how: {"rate": [], "own": [], "nats": []} for how in CASTERS})  # warm
        for _ in report.rounds("fanout casts", rounds):
            for window in WINDOWS:
                _round(stage, crowd, pids, window, found[window])
        stage.end(bare)
        crowd.close()
    report.say(f"\nfan-out, casts of 200 bytes to {agents - 1:,} agents who are present, simulated over {SHARED} connections; one broker, no history ({load()})")
    for window, casters in found.items():
        for how, name in CASTERS.items():
            runs = casters[how]
            report.say(f"  {window} under way, {name:40} {spread(runs['rate']):>30} deliveries/s, CPU of the sender {median(runs['own']):.2f} us, of NATS {median(runs['nats']):.2f} us")
        bare_ratio, tell_ratio = (median(a / b for a, b in zip(casters["cast"]["rate"], casters[how]["rate"])) for how in ("bare", "tell"))
        report.say(f"  {window} under way: a cast of the bare client's {report.judge(f'message.cast / bare client, {window} under way', bare_ratio, 0.7, below=False)};"
                   f" of the bare bytes {tell_ratio:.2f}, for comparison")
    report.keep("fanout/casts", found)
