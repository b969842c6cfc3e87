"""The life of a plugin's process beside a broker that is slow, busy or stopped itself: what is not the child's fault is not held against it,
and nothing of it is left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

import processes
from harness import Musterd, Site, wait_until
from pluginrig import PLUGINS, Agents, echo, end_of, installation, isolated, own_broker, reload

Start = Callable[..., Musterd]
BLAMED = re.compile(r"its callback .* ha[sd] not returned for")


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    with installation() as site:
        yield site


@pytest.fixture
def start(request: pytest.FixtureRequest, site: Site) -> Generator[Start, None, None]:
    made: list[Musterd] = []

    def begin(*plugins: dict[str, Any]) -> Musterd:
        made.append(own_broker(site, *plugins))
        made[-1].start()
        return made[-1]

    yield begin
    for server in made:
        end_of(server, request.node.report_call.failed)


def bad(site: Site, config: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return isolated(echo("bad", **(config or {})), site, **{"restart": {"delay": "200ms", "max_delay": "400ms"}, **more})


def child_of(server: Musterd) -> int:
    return processes.child_of(server, "echo.bad")


def restarts(server: Musterd) -> int:
    return int(server.metric("muster_echo_child_restarts_total", 'instance="bad"'))


# ---- the broker's own delays --------------------------------------------------------------------------------------------------------


def test_a_broker_that_stood_still_does_not_blame_its_children(start: Start, site: Site, agents: Agents) -> None:
    """A machine that was paused, or a lane that another plugin held up: the child had nobody to answer."""
    server = start(bad(site))
    child = child_of(server)
    server.signal(signal.SIGSTOP)
    time.sleep(11.5)
    server.signal(signal.SIGCONT)
    time.sleep(1.5)
    assert child_of(server) == child and restarts(server) == 0
    assert not BLAMED.search(server.log())


def test_what_used_its_share_meanwhile_is_stopped_and_not_ended(start: Start, site: Site, agents: Agents) -> None:
    """Nobody stopped it while the broker stood still: what it used too much is not held against its life."""
    server = start(bad(site, limits={"cpu": 0.05}))
    a1 = agents("acme", "a1")
    child = child_of(server)
    a1.tell("lab", "hang", {"ms": 3000})
    server.signal(signal.SIGSTOP)
    time.sleep(3)
    server.signal(signal.SIGCONT)
    wait_until(lambda: a1.ask("echo", "say", {"text": "x"}, timeout=20).body.get("text") == "x", 30, "an answer")
    assert child_of(server) == child and restarts(server) == 0
    assert not BLAMED.search(server.log())


def test_a_stopped_child_ends_with_its_broker(start: Start, site: Site, agents: Agents) -> None:
    """One that has used its share cannot see the end of its socket."""
    server = start(bad(site, limits={"cpu": 0.05}))
    child = child_of(server)
    agents("acme", "a1").tell("lab", "hang", {"ms": 5000})
    wait_until(lambda: (Path("/proc") / str(child) / "stat").read_text().rpartition(")")[2].split()[0] == "T", 10, "a stopped child")
    server.signal(signal.SIGKILL)
    wait_until(lambda: not processes.runs(child), 2, "the end of the child")


# ---- limits.messages ----------------------------------------------------------------------------------------------------------------


def test_settings_reach_a_child_whose_messages_wait(start: Start, site: Site, agents: Agents) -> None:
    """Its answer to them waits behind what is over limits.messages: it does not hang."""
    server = start(bad(site, limits={"messages": 10}))
    a1 = agents("acme", "a1")
    child = child_of(server)
    a1.tell("lab", "flood", {"n": 200, "bytes": 10})
    wait_until(lambda: server.metric("muster_echo_child_paced_total", 'instance="bad"') > 1, 10, "messages that wait")
    told = reload(server, lambda plugins: plugins[0]["config"].update(greeting="changed"))
    assert child_of(server) == child and restarts(server) == 0, told


def test_long_messages_count_as_many(start: Start, site: Site, agents: Agents) -> None:
    """A flood of few and long ones would hold up everybody's link."""
    server = start(bad(site, limits={"messages": 1000}))
    a1 = agents("acme", "a1")
    box = a1.client.subscribe(a1.box("flood"))
    began = time.monotonic()
    a1.tell("lab", "flood", {"n": 50, "bytes": 400000}, reply=a1.box("flood"))
    wait_until(lambda: server.metric("muster_bus_sent_bytes_total", 'link="live"') > 19_000_000, 30, "all but the last")
    assert 3 < time.monotonic() - began < 20, "98 each, of which a thousand go at once"
    wait_until(lambda: box.messages, 10, "the end of the flood")
    assert restarts(server) == 0


# ---- fairness -----------------------------------------------------------------------------------------------------------------------


def test_who_floods_a_slow_child_waits_alone(start: Start, site: Site, agents: Agents) -> None:
    """Its messages may not take all places of those under way: another tenant's comes next, as it does without a child."""
    server = start(bad(site))
    a1, zed = agents("acme", "a1"), agents("zeta", "zed")
    box = a1.client.subscribe(a1.box("slow"))
    a1.client.publish_many(a1.subject("lab", "slow"), 1500, b'{"ms": 5}', a1.box("slow"))
    wait_until(lambda: len(box.messages) > 100, 20, "a child that is at it")
    took = []
    for _ in range(8):
        began = time.monotonic()
        zed.ask("lab", "slow", {"ms": 5})
        took.append(time.monotonic() - began)
    assert len(box.messages) < 1500 and sorted(took)[6] < 0.2, took
    wait_until(lambda: len(box.messages) == 1500, 60, "all answers")
    assert not [m for m in box.messages if b"error" in m.data]


def test_a_slow_child_is_not_a_hanging_one(start: Start, site: Site, agents: Agents) -> None:
    """Twelve seconds of work wait in it, of which no piece takes long."""
    server = start(bad(site))
    a1 = agents("acme", "a1")
    box = a1.client.subscribe(a1.box("slow"))
    a1.client.publish_many(a1.subject("lab", "slow"), 500, b'{"ms": 25}', a1.box("slow"))
    wait_until(lambda: len(box.messages) == 500, 40, "all answers")
    assert not [m for m in box.messages if b"error" in m.data]
    assert restarts(server) == 0 and not BLAMED.search(server.log())


# ---- restarts -----------------------------------------------------------------------------------------------------------------------


def test_what_waits_for_the_next_child_waits_for_one_that_starts(start: Start, site: Site, agents: Agents, tmp_path: Path) -> None:
    """The first that is made after a crash does not start: what nobody waits for is the second's then."""
    file = Path(shutil.copy(PLUGINS / "echo.so", site.folder / "echo_waits.so"))
    hidden = file.with_suffix(".hidden")
    server = start({**bad(site), "path": str(file)})
    a1 = agents("acme", "a1")
    child = child_of(server)
    a1.tell("lab", "hang", {"ms": 1000})
    for n in range(5):
        a1.client.publish("mst.acme.all.a1.shout", b'{"text": "s%d"}' % n)
    time.sleep(0.3)
    file.rename(hidden)
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: restarts(server) >= 2, 10, "one that did not start")
    hidden.rename(file)
    wait_until(lambda: child_of(server) and server.get("/readyz")[0] == 200, 20, "one that did")
    wait_until(lambda: a1.ask("echo", "count", {}, timeout=10).body["heard"] == 5, 10, "all that was shouted")


def test_nothing_of_many_children_is_left(start: Start, site: Site) -> None:
    server = start(bad(site, restart={"delay": "100ms", "max_delay": "100ms"}))
    fds = lambda: len(list((Path("/proc") / str(server.pid) / "fd").iterdir()))  # noqa: E731
    before = fds()
    for n in range(20):
        wait_until(lambda: child_of(server), 10, "a child")
        os.kill(child_of(server), signal.SIGKILL)
        wait_until(lambda: restarts(server) > n, 10, "its end to be seen")
    wait_until(lambda: child_of(server) and server.get("/readyz")[0] == 200, 10, "the last")
    assert fds() <= before + 1
    threads = (Path("/proc") / str(server.pid) / "task").iterdir()
    children = [int(pid) for task in threads for pid in (task / "children").read_text().split()]
    assert len(children) == 1, children


# ---- words --------------------------------------------------------------------------------------------------------------------------


def test_the_last_words_are_the_last(start: Start, site: Site, agents: Agents) -> None:
    """However much it wrote before them."""
    server = start(bad(site))
    agents("acme", "a1").ask("lab", "crash", {"how": "noisy"})
    wait_until(lambda: restarts(server) == 1, 20, "the plan to start it again")
    line = next(line for line in server.log().splitlines() if "started again in" in line)
    assert "plugin echo 1.2.3" in line and "muster: crash: SIGSEGV" in line, line


# ---- lanes --------------------------------------------------------------------------------------------------------------------------


def children_of(server: Musterd) -> set[int]:
    found = set()
    for entry in (Path("/proc") / str(server.pid) / "task").iterdir():
        found.update(int(pid) for pid in (entry / "children").read_text().split() if processes.runs(int(pid)))
    return found


def test_each_lane_has_a_child_of_its_own(start: Start, site: Site, agents: Agents) -> None:
    """One that ends is its lane's trouble alone; changed limits reach all."""
    server = start(isolated(echo("bad", lanes=2), site, restart={"delay": "1500ms", "max_delay": "1500ms"}))
    a1 = agents("acme", "a1")
    lane, before, undisturbed = a1.ask("lab", "lane").body["lane"], children_of(server), []
    assert len(before) == 2
    for n, child in enumerate(before):
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: restarts(server) > n, 5, "its end to be seen")  # noqa: B023
        began = time.monotonic()
        assert a1.ask("echo", "say", {"text": "x"}).body["text"] == "x"
        undisturbed.append(time.monotonic() - began < 0.5)
        wait_until(lambda: len(children_of(server)) == 2 and server.get("/readyz")[0] == 200, 10, "the other again")
    assert sorted(undisturbed) == [False, True]
    between = children_of(server)
    told = reload(server, lambda plugins: plugins[0].update(limits={"cpu": 0.5}))
    wait_until(lambda: len(children_of(server)) == 2 and not children_of(server) & between, 10, f"two others: {told}")
    assert a1.ask("lab", "lane").body["lane"] == lane and restarts(server) == 2
