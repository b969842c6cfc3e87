"""Plugins in a child that go wrong: the broker and its other plugins go on, nothing of theirs is lost, and the child comes back."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

import processes
from agent import Agent
from harness import Musterd, Site, wait_until
from pluginrig import EACCES, SANITIZED, Agents, echo, end_of, installation, isolated, own_broker, plugin

Start = Callable[..., Musterd]
INSERT = "INSERT INTO public.notes VALUES ('acme', %s)"


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    with installation() as site:
        yield site


@pytest.fixture
def start(request: pytest.FixtureRequest, site: Site) -> Generator[Start, None, None]:
    """start(entry, …) is a running broker of the test's own with a good plugin `old` in a child beside, and cdc if asked."""
    made: list[Musterd] = []

    def begin(*plugins: dict[str, Any], cdc: bool = False, ready: bool = True) -> Musterd:
        good = isolated(plugin("old_v0_2", "old"), site, allow={})
        made.append(own_broker(site, *plugins, good, cdc=cdc))
        made[-1].start(ready=ready)
        return made[-1]

    yield begin
    for server in made:
        end_of(server, request.node.report_call.failed)


def bad(site: Site, allow: dict[str, Any] | None = None, config: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return isolated(echo("bad", **(config or {})), site, allow, **{"restart": {"delay": "200ms", "max_delay": "2s"}, **more})


def child_of(server: Musterd) -> int:
    return processes.child_of(server, "echo.bad")


def restarts(server: Musterd) -> int:
    return int(server.metric("muster_echo_child_restarts_total", 'instance="bad"'))


def works(a1: Agent) -> bool:
    return a1.ask("echo", "say", {"text": "x"}).body.get("text") == "x"


class Others:
    """Rows through cdc and requests to the good plugin, all of which must be heard and answered."""

    def __init__(self, site: Site, agents: Agents) -> None:
        self._site, self._a2 = site, agents("acme", "a2")
        self._heard = self._a2.client.subscribe("mst.acme.cdc.>")
        self._written: list[str] = []

    def go_on(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        with self._site.postgres.connect(autocommit=True) as link:
            while time.monotonic() < end:
                self._written.append(f"n{time.monotonic_ns()}")
                link.execute(INSERT, (self._written[-1],))
                assert self._a2.ask("old", "say", {"text": "y"}).body["text"] == "y"

    def check(self) -> None:
        wait_until(lambda: len(self._heard.messages) >= len(self._written), 20, "every row")
        heard = [json.loads(m.data)["new"]["note"] for m in self._heard.messages]
        assert heard == self._written, "each once, in order"


# ---- crashes --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how, number", [("segv", "SIGSEGV"), ("abort", "SIGABRT"), ("stack", "SIGSEGV")])
def test_a_crash_is_the_childs_alone(start: Start, site: Site, agents: Agents, how: str, number: str) -> None:
    server = start(bad(site), cdc=True)
    a1, others = agents("acme", "a1"), Others(site, agents)
    before = child_of(server)
    others.go_on(0.3)
    assert a1.ask("lab", "crash", {"how": how}).error["code"] == "unavailable"
    others.go_on(1)
    wait_until(lambda: works(a1), 20, "the next child")
    assert child_of(server) not in (0, before) and restarts(server) == 1
    line = next(line for line in server.log().splitlines() if "muster: crash:" in line)
    for words in (number, "plugin=echo", "instance=bad", "version=1.2.3", "callback=message", "subject=rpc.a1.lab.crash"):
        assert words in line, line
    assert re.search(r"its process ended by signal \d+ .*muster: crash: .*started again in 0\.\d s", server.log())
    wait_until(lambda: server.get("/readyz")[0] == 200, 10, "the broker to be ready again")
    others.check()
    assert server.stop() == 0


def test_while_it_is_away_the_broker_says_so(start: Start, site: Site, agents: Agents) -> None:
    server = start(bad(site, restart={"delay": "3s", "max_delay": "3s"}))
    os.kill(child_of(server), signal.SIGKILL)
    wait_until(lambda: server.get("/readyz")[0] == 503, 5, "a broker that is not ready")
    text = server.get("/readyz")[1]
    for words in ("restarting", "plugin echo 1.2.3", "signal 9", "started again in"):
        assert words in text, text
    assert agents("acme", "a2").ask("old", "say", {"text": "y"}).body["text"] == "y"
    wait_until(lambda: server.get("/readyz")[0] == 200, 10, "a broker that is ready again")


def test_requests_that_it_had_are_unavailable_and_others_wait_for_the_next(start: Start, site: Site, agents: Agents) -> None:
    server = start(bad(site, restart={"delay": "1s", "max_delay": "1s"}))
    a1 = agents("acme", "a1")
    held = a1.client.subscribe(a1.box("held"))
    a1.tell("lab", "hold", {"ms": 60000}, reply=a1.box("held"))
    assert works(a1)
    os.kill(child_of(server), signal.SIGKILL)
    wait_until(lambda: held.messages, 5, "an answer for what was held")
    assert json.loads(held.messages[0].data)["error"]["code"] == "unavailable"
    assert a1.ask("echo", "say", {"text": "waits"}, timeout=15).body["text"] == "waits", "it came while there was no child"
    assert restarts(server) == 1


def test_what_nobody_waits_for_is_given_to_the_next_child_once(start: Start, site: Site, agents: Agents) -> None:
    server = start(bad(site))
    a1 = agents("acme", "a1")
    a1.tell("lab", "crash")
    wait_until(lambda: restarts(server) == 2, 20, "two children that the message ended")
    wait_until(lambda: works(a1), 20, "the third, which does not get it")
    time.sleep(1)
    assert restarts(server) == 2
    assert server.metric("muster_failed_total", 'instance="bad"') >= 0


def test_the_delay_doubles(start: Start, site: Site, agents: Agents) -> None:
    server = start(bad(site, restart={"delay": "200ms", "max_delay": "900ms"}))
    for n in range(1, 5):
        wait_until(lambda: child_of(server), 10, "a child")
        os.kill(child_of(server), signal.SIGKILL)
        wait_until(lambda: restarts(server) == n, 10, "the plan to start it again")
    delays = [float(found) for found in re.findall(r"started again in (\d+\.\d) s", server.log())]
    assert len(set(zip(delays, range(99)))) >= 4
    for delay, expected in zip(dict.fromkeys(delays), (0.2, 0.4, 0.8, 0.9)):
        assert 0.7 * expected - 0.1 <= delay <= 1.3 * expected + 0.1, delays


def test_kill_9_of_the_broker_takes_the_child_along(start: Start, site: Site) -> None:
    server = start(bad(site))
    child = child_of(server)
    assert child
    server.signal(signal.SIGKILL)
    wait_until(lambda: not processes.runs(child), 2, "the end of a child whose broker is gone")


# ---- hangs ----------------------------------------------------------------------------------------------------------------------


def test_a_hang_is_told_and_ended(start: Start, site: Site, agents: Agents) -> None:
    server = start(bad(site), cdc=True)
    a1, others = agents("acme", "a1"), Others(site, agents)
    before = child_of(server)
    box = a1.client.subscribe(a1.box("hang"))
    a1.tell("lab", "hang", reply=a1.box("hang"))
    others.go_on(1)
    wait_until(lambda: server.get("/readyz")[0] == 503, 6, "a broker that tells of a hang")
    text = server.get("/readyz")[1]
    for words in ("stalled", "plugin echo 1.2.3", "message", "rpc.a1.lab.hang"):
        assert words in text, text
    others.go_on(1)
    wait_until(lambda: child_of(server) not in (0, before), 20, "another child")
    assert json.loads(box.messages[0].data)["error"]["code"] == "unavailable"
    assert "had not returned for 10 s" in server.log()
    wait_until(lambda: works(a1), 10, "an answer")
    others.check()
    assert server.stop() == 0


def test_a_hang_that_ends_is_forgiven(start: Start, site: Site, agents: Agents) -> None:
    server = start(bad(site))
    a1 = agents("acme", "a1")
    a1.tell("lab", "hang", {"ms": 4000})
    wait_until(lambda: server.get("/readyz")[0] == 503, 6, "a broker that tells of a hang")
    wait_until(lambda: server.get("/readyz")[0] == 200, 10, "a broker that is content")
    assert works(a1) and restarts(server) == 0


def test_a_broker_ends_in_time_whatever_the_child_does(start: Start, site: Site, agents: Agents) -> None:
    server = start(bad(site, config={"misbehave": "destroy"}))
    began = time.monotonic()
    assert server.stop() == 0, "what hangs in destroy() is ended"
    assert time.monotonic() - began < 8 and "destroy() has not returned in time" in server.log()


def test_what_is_held_is_answered_when_the_broker_drains(start: Start, site: Site, agents: Agents) -> None:
    server = start(bad(site))
    a1 = agents("acme", "a1")
    box = a1.client.subscribe(a1.box("held"))
    a1.tell("lab", "hold", {"ms": 1500}, reply=a1.box("held"))
    assert works(a1)
    assert server.stop() == 0
    wait_until(lambda: box.messages, 5, "the answer")
    assert json.loads(box.messages[0].data) == {"held": 1, "agent": "a1"}


# ---- greed ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(SANITIZED, reason="a sanitizer cannot live with a limit of memory")
def test_a_leak_ends_at_its_limit(start: Start, site: Site, agents: Agents) -> None:
    server = start(bad(site, limits={"memory": "96MiB"}), cdc=True)
    a1, others = agents("acme", "a1"), Others(site, agents)
    before = server.metric("process_resident_memory_bytes")
    assert a1.ask("lab", "leak", {"mb": 20}).body == {"code": 0}
    assert a1.ask("lab", "leak", {"mb": 200}).error["code"] == "unavailable"
    others.go_on(1)
    wait_until(lambda: works(a1), 20, "the next child")
    assert restarts(server) == 1 and server.metric("process_resident_memory_bytes") - before < 32 << 20
    others.check()


def test_a_flood_waits_for_itself(start: Start, site: Site, agents: Agents) -> None:
    server = start(bad(site), cdc=True)
    a1, others = agents("acme", "a1"), Others(site, agents)
    heard = agents("acme", "a3").client.subscribe("mst.acme.all._muster.flood")
    before = server.metric("process_resident_memory_bytes")
    box = a1.client.subscribe(a1.box("flood"))
    a1.tell("lab", "flood", {"n": 50000, "bytes": 4000}, reply=a1.box("flood"))
    others.go_on(3)
    wait_until(lambda: box.messages, 60, "the end of the flood")
    assert json.loads(box.messages[0].data)["sent"] == 50000
    wait_until(lambda: len(heard.messages) == 50000, 60, "all of it")
    assert SANITIZED or server.metric("process_resident_memory_bytes") - before < 200 << 20
    others.check()
    assert server.stop() == 0


def test_a_core_is_shared(start: Start, site: Site, agents: Agents) -> None:
    server = start(bad(site, limits={"cpu": 0.2}))
    a1 = agents("acme", "a1")
    box = a1.client.subscribe(a1.box("hang"))
    child = child_of(server)
    ticks = lambda: sum(int(word) for word in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13])  # noqa: E731
    began, before = time.monotonic(), ticks()
    a1.tell("lab", "hang", {"ms": 4000}, reply=a1.box("hang"))
    wait_until(lambda: box.messages, 30, "the end of a busy callback")
    used = (ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)
    assert used < 0.3, f"{used} cores"
    if used > 0.1:  # a machine that has no more for it leaves nothing to hold back
        assert server.metric("muster_echo_child_throttled_milliseconds_total", 'instance="bad"') > 0
    assert restarts(server) == 0, "what is stopped is not hanging"


def test_a_flood_is_held_to_so_many_messages(start: Start, site: Site, agents: Agents) -> None:
    """What is over limits.messages waits, and nothing of it is lost; the child is not taken for one that hangs meanwhile."""
    server = start(bad(site, limits={"messages": 1000}))
    a1 = agents("acme", "a1")
    heard = agents("acme", "a3").client.subscribe("mst.acme.all._muster.flood")
    box = a1.client.subscribe(a1.box("flood"))
    began = time.monotonic()
    a1.tell("lab", "flood", {"n": 5000, "bytes": 10}, reply=a1.box("flood"))
    wait_until(lambda: box.messages, 60, "the end of the flood")
    wait_until(lambda: len(heard.messages) == 5000, 60, "all of it")
    assert 3.5 < time.monotonic() - began < 20, "a second's worth goes at once, the rest as it may"
    assert server.metric("muster_echo_child_paced_total", 'instance="bad"') > 10
    assert restarts(server) == 0 and "stalled" not in server.log()


# ---- what it may ----------------------------------------------------------------------------------------------------------------


def test_what_is_not_allowed_is_refused_in_the_call(start: Start, site: Site, agents: Agents) -> None:
    allow = {"subscribe": ["rpc.*.lab.*", "rpc.*.pulse.beat", "all.*.shout", "rpc.*.mine.>"], "capabilities": ["cross_tenant", "stream", "system"]}
    server = start(bad(site, allow))
    a1 = agents("acme", "a1")
    assert a1.ask("lab", "listen", {"subject": "rpc.*.mine.x"}).body["code"] == 0
    for pattern in ("rpc.*.other.x", "rpc.*.old.say", "evt.task.>", "box.>", "all.>", ">", "_INBOX.>"):
        assert a1.ask("lab", "listen", {"subject": pattern}).body["code"] == EACCES, pattern
    for subject in ("to.a1._muster.note", "to.a1.a2.note", "box.a1.x", "msg.a1", "cdc.main.public.t.insert.k", "evt.task.done.k", "rpc.a1.old.say"):
        assert a1.ask("lab", "publish", {"subject": subject}).body["code"] == EACCES, subject
    assert a1.ask("lab", "event", {"subject": "evt.echo.said.k1", "text": '{"n": 1}'}).body["code"] == 0
    assert works(a1) and restarts(server) == 0


@pytest.mark.parametrize("capability", ["cross_tenant", "stream"])
def test_a_capability_that_is_not_allowed_refuses_the_start(site: Site, capability: str) -> None:
    allow = {"subscribe": [">"], "capabilities": [word for word in ("cross_tenant", "stream") if word != capability]}
    server = own_broker(site, isolated(echo("bad"), site, allow))
    server.start(ready=False)
    wait_until(lambda: not server.alive, 20, "the end of the start")
    line = next(line for line in server.log().splitlines() if "allow.capabilities" in line)
    assert "plugin echo 1.2.3" in line and "plugins.bad" in line and capability in line


def test_only_its_tenants(start: Start, site: Site, agents: Agents) -> None:
    allow = {"subscribe": [">"], "publish": [">"], "capabilities": ["cross_tenant", "stream", "system"], "tenants": ["acme"]}
    server = start(bad(site, allow))
    a1, zed = agents("acme", "a1"), agents("zeta", "zed")
    assert works(a1)
    assert zed.ask("echo", "say", {"text": "x"}).error["code"] == "not_found"
    tenants = a1.ask("lab", "tenants").body
    assert "acme" in json.dumps(tenants) and "zeta" not in json.dumps(tenants), tenants
    assert a1.ask("lab", "refresh", {"name": "zeta"}).body["code"] != 0
    assert zed.ask("old", "say", {"text": "y"}).body["text"] == "y"
    assert restarts(server) == 0
