"""Plugins that go wrong: not loaded, not started, crashing, hanging, flooded, called from the wrong thread. Each is told by name."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import LONG, Musterd, Site, wait_until
from pluginrig import EINVAL, PLUGINS, SANITIZED, Agents, echo, end_of, installation, isolated, own_broker, plugin

Start = Callable[..., Musterd]


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    with installation() as site:
        yield site


@pytest.fixture
def broker(request: pytest.FixtureRequest, site: Site) -> Generator[Start, None, None]:
    """broker(echo(), …) is a broker of the test's own, not yet started; killed at the end."""
    made: list[Musterd] = []

    def make(*plugins: dict[str, Any], cdc: bool = False) -> Musterd:
        made.append(own_broker(site, *plugins, cdc=cdc))
        return made[-1]

    yield make
    for server in made:
        end_of(server, request.node.report_call.failed)


def ended(server: Musterd, deadline: float = 30) -> int:
    """Its exit code; negative: the signal."""
    wait_until(lambda: not server.alive, deadline, f"the end of {server.name}\n{server.log()[-3000:]}")
    assert server.process
    return server.process.wait()


# ---- loading --------------------------------------------------------------------------------------------------------------------

REFUSED = {
    "no_symbol": ("muster_plugin_entry_v0", "not a plugin"),
    "wrong_major": ("ABI major 7", "has 0"),
    "other_major": ("ABI 9.",),
    "newer_minor": ("plugin bad 4.5.6", "made for ABI 0.", "this broker loads ABI 0."),
    "older_minor": ("plugin bad 4.5.6", "made for ABI 0.", "this broker loads ABI 0."),
    "taken_name": ("plugin tasks 4.5.6", "name of a plugin that comes with Muster"),
    "taken_service": ("plugin bad 4.5.6", "service task"),
    "short_struct": ("plugin bad 4.5.6", "bytes"),
    "no_functions": ("plugin bad 4.5.6", "create, start or destroy"),
    "definition": ("plugin bad 4.5.6", "service bad", "three"),
    "missing": ("No such file",),
}


@pytest.mark.parametrize("isolation", ["none", "process"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_does_not_fit_is_refused(broker: Start, name: str, isolation: str) -> None:
    server = broker({**plugin(name, "odd"), "isolation": isolation})
    server.start(ready=False)
    assert ended(server) == 1
    line = next(line for line in server.log().splitlines() if f"{PLUGINS}/{name}.so" in line)
    assert all(words in line for words in REFUSED[name]), line


def test_a_file_that_is_not_required_may_be_refused(broker: Start, agents: Agents) -> None:
    server = broker(*(plugin(name, name, required=False) for name in REFUSED), echo())
    server.start()
    for name, words in REFUSED.items():
        assert f"{PLUGINS}/{name}.so" in server.get("/readyz")[1] and all(word in server.get("/readyz")[1] for word in words)
    assert agents("acme", "a1").ask("echo", "say", {"text": "x"}).body["text"] == "x"
    assert server.stop() == 0


def test_a_service_has_one_plugin(broker: Start) -> None:
    server = broker(echo(), plugin("taken", "taken"))
    server.start(ready=False)
    assert ended(server) == 1
    line = next(line for line in server.log().splitlines() if "taken.so" in line)
    assert "plugin bad 4.5.6" in line and "service echo" in line and "plugin echo" in line


@pytest.mark.parametrize("version", sorted(path.stem.removeprefix("old_") for path in PLUGINS.glob("old_v*.so")))
def test_a_plugin_of_an_older_header_still_works(broker: Start, agents: Agents, version: str) -> None:
    """Built against a header that was released, and never built again in the field."""
    server = broker(plugin(f"old_{version}", "old"))
    server.start()
    a1 = agents("acme", "a1")
    wait_until(lambda: a1.ask("old", "say", {"text": "x"}).body["ticks"] > 2, 10, "its timer")
    assert a1.ask("old", "say", {}).error["field"] == "text"
    assert server.stop() == 0


@pytest.mark.parametrize("isolation", ["none", "process"])
@pytest.mark.parametrize("misbehave, words", [
    ("create", "misbehaves in create, greeting at"),
    ("start", "misbehaves in start"),
])
def test_a_plugin_that_fails_to_start(broker: Start, site: Site, agents: Agents, misbehave: str, words: str, isolation: str) -> None:
    """Required, it ends the broker; otherwise the rest goes on without it, and /readyz keeps what it said."""
    def made(entry: dict[str, Any]) -> dict[str, Any]:
        return isolated(entry, site) if isolation == "process" else entry

    server = broker(made(echo(misbehave=misbehave, greeting="x")))
    server.start(ready=False)
    assert ended(server) == 1
    line = next(line for line in server.log().splitlines() if words in line)
    assert f"plugin echo 1.2.3 ({PLUGINS}/echo.so)" in line and misbehave in line

    server = broker(made(echo("bad", required=False, misbehave=misbehave, greeting="x")), echo("good"))
    server.start()
    assert words in server.get("/readyz")[1]
    a1 = agents("acme", "a1")
    assert {a1.ask("echo", "say", {"text": "x"}).body["greeting"] for _ in range(5)} == {"hello"}, "only the good one answers"
    assert server.stop() == 0


def test_a_plugin_that_calls_too_early(broker: Start) -> None:
    server = broker(echo(misbehave="early"))
    server.start(ready=False)
    assert ended(server) in (1, -signal.SIGABRT), "debug builds abort"
    assert "plugin echo 1.2.3 called start_timer() in create()" in server.log()


# ---- crashing -------------------------------------------------------------------------------------------------------------------


def crash_line(server: Musterd) -> str:
    return next(line for line in server.log().splitlines() if line.startswith("muster: crash: "))


@pytest.mark.parametrize("how, number", [
    ("segv", signal.SIGSEGV), ("abort", signal.SIGABRT), ("fpe", signal.SIGFPE), ("stack", signal.SIGSEGV)])
def test_a_crash_names_who_did_what(broker: Start, agents: Agents, how: str, number: signal.Signals) -> None:
    server = broker(echo("main"))
    server.start()
    agents("acme", "a1").tell("lab", "crash", {"how": how})
    assert ended(server) == -number
    assert crash_line(server) == (f"muster: crash: {number.name} in plugin=echo instance=main version=1.2.3 source=test "
                                  "callback=message subject=rpc.a1.lab.crash")


def test_a_crash_in_create_names_the_plugin(broker: Start) -> None:
    server = broker(echo("main", misbehave="crash"))
    server.start(ready=False)
    assert ended(server) == -signal.SIGABRT
    assert "plugin=echo instance=main version=1.2.3" in crash_line(server) and "callback=create" in crash_line(server)


def test_a_call_from_a_wrong_thread(broker: Start, agents: Agents) -> None:
    server = broker(echo())
    server.start()
    box = agents("acme", "a1").client.subscribe(agents("acme", "a1").box("wrong"))
    agents("acme", "a1").tell("lab", "wrong_thread", reply=agents("acme", "a1").box("wrong"))
    wait_until(lambda: not server.alive or box.messages, 10, "an abort of a debug build, or the answer")
    assert "plugin echo 1.2.3 called host_subscribe() on another thread than its lane" in server.log()
    if server.alive:
        assert json.loads(box.messages[0].data) == {"code": EINVAL}
    else:
        assert ended(server) == -signal.SIGABRT


@pytest.mark.parametrize("what", ["service", "make", "prepare"])
def test_a_call_that_comes_after_create(broker: Start, agents: Agents, what: str) -> None:
    server = broker(echo())
    server.start()
    box = agents("acme", "a1").client.subscribe(agents("acme", "a1").box(what))
    agents("acme", "a1").tell("lab", "late", {"what": what}, reply=agents("acme", "a1").box(what))
    wait_until(lambda: not server.alive or box.messages, 10, "an abort of a debug build, or the answer")
    assert re.search(rf"plugin echo 1.2.3 called \w*{what}\w*\(\) after create\(\); muster/plugin.h says \[init\]", server.log())
    if server.alive:
        assert json.loads(box.messages[0].data) == {"code": EINVAL}
    else:
        assert ended(server) == -signal.SIGABRT


# ---- hanging --------------------------------------------------------------------------------------------------------------------


def stalled(server: Musterd, lane: str) -> bool:
    return server.metric("muster_lane_stalled", f'lane="{lane}"') == 1


def test_a_hanging_lane_is_told_and_told_when_it_is_over(broker: Start, agents: Agents) -> None:
    server = broker(echo("slow"), plugin("echo", "other", config={}))
    server.start()
    a1 = agents("acme", "a1")
    a1.tell("lab", "hang", {"ms": 5000})
    wait_until(lambda: stalled(server, "echo.slow") or stalled(server, "echo.other"), 10, "muster_lane_stalled")
    status, body = server.get("/readyz")
    assert status == 503
    for words in ("echo 1.2.3", "message", "rpc.a1.lab.hang"):
        assert words in body, body
    wait_until(lambda: server.get("/readyz")[0] == 200, 20, "the lane to go on")
    assert not stalled(server, "echo.slow") and not stalled(server, "echo.other")
    assert a1.ask("echo", "say", {"text": "x"}).body["text"] == "x"
    assert "has run for" in server.log(), "a warning before it counts as stalled"


def test_a_hang_in_start_is_told(broker: Start) -> None:
    server = broker(echo("main", misbehave="hang"))
    server.start(ready=False)
    wait_until(lambda: stalled(server, "echo.main"), 20, "muster_lane_stalled")
    assert "start" in server.get("/readyz")[1] and server.get("/readyz")[0] == 503


@pytest.mark.parametrize("how", ["message", "destroy"])
def test_a_broker_with_a_hanging_plugin_ends_all_the_same(broker: Start, agents: Agents, how: str) -> None:
    server = broker(echo("main", misbehave="destroy" if how == "destroy" else "no"))
    server.start()
    if how == "message":
        agents("acme", "a1").tell("lab", "hang")
        wait_until(lambda: stalled(server, "echo.main"), 10, "muster_lane_stalled")
    server.signal(signal.SIGTERM)
    assert ended(server) == 1
    assert f'plugin echo 1.2.3 does not end: it hangs in its callback "{how}"' in server.log()


@contextmanager
def stopped_thread(server: Musterd, name: str) -> Generator[None, None, None]:
    """One thread of the broker stands still, as if it hung; the others run."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    attach, detach = 16, 17
    assert server.process
    tasks = Path(f"/proc/{server.process.pid}/task")
    [tid] = [int(task.name) for task in tasks.iterdir() if (task / "comm").read_text().strip() == name]
    assert ptrace(attach, tid, None, None) == 0, os.strerror(ctypes.get_errno())
    os.waitpid(tid, 0x40000000)  # __WALL: a thread
    try:
        yield
    finally:
        if ptrace(detach, tid, None, None) != 0:
            os.waitpid(tid, 0x40000000)  # it has ended, and its process ends when we have seen it


def test_the_brokers_own_lane_is_watched_too(broker: Start, agents: Agents) -> None:
    server = broker(echo())
    server.start()
    agents("acme", "a1").ask("echo", "count")
    with stopped_thread(server, "core"):
        wait_until(lambda: stalled(server, "core"), 10, "muster_lane_stalled")
        status, body = server.get("/readyz")
        assert status == 503 and "the broker's own lane" in body and "no sign of life" in body, body
        assert agents("acme", "a1").ask("echo", "say", {"text": "x"}).body["text"] == "x", "the others go on"
    wait_until(lambda: server.get("/readyz")[0] == 200, 10, "the lane to go on")
    assert not stalled(server, "core")
    assert server.stop() == 0


def test_a_broker_whose_own_lane_hangs_ends_all_the_same(broker: Start) -> None:
    server = broker(echo())
    server.start()
    with stopped_thread(server, "core"):
        server.signal(signal.SIGTERM)
        wait_until(lambda: "the broker's own lane does not end: it hangs" in server.log(), 20, "the broker to give it up")
        time.sleep(0.5)
    assert ended(server) == 1


INSERT = "INSERT INTO public.notes VALUES ('acme', %s)"
BLOCK = 100


def latencies(site: Site, heard: Any, n: int) -> list[float]:
    """Seconds from before the commit until the change was heard, one row at a time."""
    found = []
    with site.postgres.connect(autocommit=True) as link:
        for _ in range(n):
            seen, began = len(heard.messages), time.monotonic()
            link.execute(INSERT, (f"n{time.monotonic_ns()}",))
            while len(heard.messages) == seen:
                assert time.monotonic() - began < 20, "a change was not heard"
                time.sleep(0.0002)
            found.append(time.monotonic() - began)
    return found


@pytest.mark.alone
@pytest.mark.parametrize("how", ["hang", "flood"])
def test_cdc_goes_on_beside_a_bad_lane(broker: Start, agents: Agents, site: Site, how: str) -> None:
    """Rows are heard as soon while another lane hangs or is flooded. Blocks with and without the trouble alternate, so that a busy machine
    slows both. The long run holds the ratio of the medians to 1.1, the short one to what no noise explains."""
    server = broker(echo("bad"), cdc=True)
    server.start()
    watcher, loud = agents("acme", "watcher"), agents("zeta", "loud")
    heard = watcher.client.subscribe("mst.acme.cdc.>")
    latencies(site, heard, 20)  # connections and caches warm
    alone, beside = [], []
    for _ in range(10 if LONG else 2):
        wait_until(lambda: loud.ask("echo", "say", {"text": "x"}, timeout=30).body, 30, "the lane to be idle")
        alone += latencies(site, heard, BLOCK)
        if how == "hang":
            loud.tell("lab", "slow", {"ms": 6000})  # asleep: a lane that also burns a core is the scheduler's matter
            wait_until(lambda: stalled(server, "echo.bad"), 10, "muster_lane_stalled")
        else:
            for _ in range(1500):
                loud.tell("lab", "slow", {"ms": 3})
        beside += latencies(site, heard, BLOCK)
    ratio = statistics.median(beside) / statistics.median(alone)
    assert ratio < (1.1 if LONG else 3), f"{ratio:.2f}: {statistics.median(beside) * 1e3:.2f} ms, alone {statistics.median(alone) * 1e3:.2f} ms"


# ---- flooding -------------------------------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_a_flooding_tenant_leaves_the_other_served(broker: Start, agents: Agents) -> None:
    """zeta sends more than its lane can do: acme's requests go between, zeta's are dropped and counted, memory stays."""
    server = broker(echo("main"))
    server.start()
    a1, loud = agents("acme", "a1"), agents("zeta", "loud")
    a1.ask("echo", "say", {"text": "x"})
    before = server.metric("process_resident_memory_bytes")
    box = loud.client.subscribe(loud.box("flood"))
    for _ in range(6000):
        loud.tell("lab", "slow", {"ms": 2}, reply=loud.box("flood"))
    waiting = []
    for _ in range(20):
        began = time.monotonic()
        a1.ask("echo", "say", {"text": "x"})
        waiting.append(time.monotonic() - began)
    dropped = server.metric("muster_tenant_dropped_total", 'tenant="zeta"')
    assert dropped > 0 and server.metric("muster_tenant_dropped_total", 'tenant="acme"') == 0
    assert server.metric("muster_dropped_total", 'reason="subscription"', 'instance="main"') == dropped
    backlog = 2000 * 0.002
    assert statistics.median(waiting) < backlog / 10, "acme's requests waited behind zeta's"
    wait_until(lambda: sum(b"resource_exhausted" in m.data for m in box.messages) >= dropped, 30, "an answer to each that was dropped")
    assert SANITIZED or server.metric("process_resident_memory_bytes") - before < 100 << 20


def test_the_configuration_limits_tenants_that_have_no_limit_of_their_own(site: Site, broker: Start, agents: Agents) -> None:
    site.cli("tenant", "limits", "zeta", "requests_per_s=1000")
    server = broker(echo())
    server.config["limits"] = {"requests_per_s": 1, "burst": 5}
    server.start()

    def served(tenant: str) -> int:
        agent = agents(tenant, "a9")
        box = agent.client.subscribe(agent.box("r"))
        for _ in range(30):
            agent.tell("echo", "say", {"text": "x"}, reply=agent.box("r"))
        wait_until(lambda: len(box.messages) == 30, 20, f"an answer to each request of {tenant}")
        return sum(b"resource_exhausted" not in m.data for m in box.messages)

    assert 5 <= served("acme") < 20 and served("zeta") == 30
    site.cli("tenant", "limits", "zeta", "requests_per_s=none")



# ---- lanes ----------------------------------------------------------------------------------------------------------------------


def test_tenants_are_spread_over_lanes(broker: Start, site: Site, agents: Agents) -> None:
    """Each tenant has one lane, for queue and plain subscriptions alike."""
    names = [f"t{n}" for n in range(8)]
    for name in names:
        site.cli("tenant", "add", name)
    server = broker(echo("spread", lanes=3))
    server.start()
    lanes = {name: {agents(name, "a").ask("lab", "lane").body["lane"] for _ in range(3)} for name in names}
    assert all(len(found) == 1 for found in lanes.values())
    one_of_each = {min(found): name for name, found in lanes.items()}
    assert len(one_of_each) > 1, "eight tenants on one of three lanes: a chance of 1 in 2,000"
    for name in names:
        for _ in range(3):
            agents(name, "a").tell("pulse", "beat")
    wait_until(lambda: sum(agents(name, "a").ask("echo", "count").body["beats"] for name in one_of_each.values()) == 3 * len(names),
               10, "every beat, once")
    assert server.metric("muster_lane_stalled", 'lane="echo.spread.2"') == 0
    assert server.stop() == 0
