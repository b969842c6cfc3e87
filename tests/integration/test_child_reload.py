"""SIGHUP and plugins in a child: settings that it takes over, and another child that takes the place of one, without a request lost."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from processes import child_of
from harness import Musterd, Site, wait_until
from pluginrig import PLUGINS, Agents, echo, installation, isolated, own_broker, reload

Start = Callable[..., Musterd]


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    with installation() as site:
        yield site


@pytest.fixture
def broker(site: Site) -> Generator[Start, None, None]:
    """broker(entry, …) runs; it must end cleanly."""
    made: list[Musterd] = []

    def make(*plugins: dict[str, Any]) -> Musterd:
        made.append(own_broker(site, *plugins))
        made[-1].start()
        return made[-1]

    yield make
    for server in made:
        assert server.stop() == 0, server.log()[-3000:]
        assert "Sanitizer" not in server.log() and "runtime error" not in server.log(), server.log()[-5000:]


@pytest.fixture(scope="module")
def agents(site: Site) -> Generator[Agents, None, None]:
    agents = Agents(site)
    yield agents
    agents.close()


def said(agents: Agents) -> Any:
    return agents("acme", "a1").ask("echo", "say", {"text": "x"}).body.get("greeting")


class Asking:
    """An agent that asks all the time, and must be answered each time."""

    def __init__(self, agents: Agents) -> None:
        self._agent, self._ends, self.failures, self.n = agents("acme", "a2"), False, list[str](), 0
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ends:
            answer = self._agent.ask("echo", "say", {"text": "x"}, timeout=20).body
            self.n += 1
            if answer.get("text") != "x":
                self.failures.append(str(answer))

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        self._thread.join()


def own_file(site: Site, name: str = "echo") -> Path:
    copy = Path(site.folder) / f"{time.monotonic_ns()}" / f"{name}.so"
    copy.parent.mkdir()
    shutil.copy(PLUGINS / "echo.so", copy)
    return copy


def write_version(path: Path, version: bytes) -> None:
    """Another file of that name, whose plugin says that it is of another version."""
    other = path.with_suffix(".new")
    other.write_bytes((PLUGINS / "echo.so").read_bytes().replace(b"1.2.3\0", version + b"\0"))
    os.replace(other, path)


def test_a_setting_is_taken_over_by_the_same_child(broker: Start, site: Site, agents: Agents) -> None:
    server = broker(isolated(echo(greeting="hello"), site))
    before = child_of(server, "echo.echo")
    lines = reload(server, lambda plugins: plugins[0]["config"].update(greeting="good day"))
    assert lines == ['plugins.echo.greeting: hello -> "good day"; taken over', "done; 1 settings taken over, 0 wait for a restart"]
    assert said(agents) == "good day" and child_of(server, "echo.echo") == before
    lines = reload(server, lambda plugins: plugins[0]["config"].update(greeting="refused"))
    assert any("it will not say that" in line and "goes on with what it had" in line for line in lines) and said(agents) == "good day", lines


@pytest.mark.parametrize("change", [
    {"limits": {"memory": "200MiB"}},
    {"allow": {"subscribe": [">"], "publish": [">"], "capabilities": ["cross_tenant", "stream", "system"]}},
    {"config": {"sql": True, "greeting": "hi"}},
])
def test_other_changes_are_taken_over_by_another_child(broker: Start, site: Site, agents: Agents, change: dict[str, Any]) -> None:
    server = broker(isolated(echo(), site))
    before = child_of(server, "echo.echo")
    with Asking(agents) as asking:
        lines = reload(server, lambda plugins: plugins[0].update(change))
        assert lines[-1].endswith("taken over, 0 wait for a restart") and "taken over" in lines[0], lines
        assert child_of(server, "echo.echo") not in (0, before)
        assert reload(server, lambda plugins: plugins[0].update(change)) == ["done; 0 settings wait for a restart"], "it is in force"
    assert not asking.failures and asking.n > 0, asking.failures
    assert said(agents) == change.get("config", {}).get("greeting", "hello")


def test_the_child_after_it_has_what_is_in_force(broker: Start, site: Site, agents: Agents) -> None:
    """What a child is held to outlives the configuration that it was read from."""
    server = broker(isolated(echo(), site, restart={"delay": "200ms", "max_delay": "1s"}))
    reload(server, lambda plugins: plugins[0].update(limits={"files": 300}))
    reload(server, lambda plugins: plugins[0].update(limits={"files": 300}, config={"greeting": "hi"}))
    os.kill(child_of(server, "echo.echo"), 9)
    wait_until(lambda: said(agents) == "hi", 20, "the next child")
    assert agents("acme", "a1").ask("lab", "listen", {"subject": "evt.x.>"}).body["code"] == 0


def test_what_the_child_holds_is_answered_first(broker: Start, site: Site, agents: Agents) -> None:
    server = broker(isolated(echo(), site))
    a1 = agents("acme", "a1")
    box = a1.client.subscribe(a1.box("held"))
    a1.tell("lab", "hold", {"ms": 1000}, reply=a1.box("held"))
    assert said(agents)
    reload(server, lambda plugins: plugins[0].update(limits={"files": 300}))
    wait_until(lambda: box.messages, 5, "the answer")
    assert b'"held":1' in box.messages[0].data.replace(b" ", b"")


def test_what_drain_unsubscribes_waits_for_the_child_after_it(broker: Start, site: Site, agents: Agents) -> None:
    server = broker(isolated(echo(), site))
    a1, a2 = agents("acme", "a1"), agents("acme", "a2")
    box = a1.client.subscribe(a1.box("held"))
    a1.tell("lab", "hold", {"ms": 1500}, reply=a1.box("held"))
    assert said(agents)
    at = len(server.log())

    def shout_while_it_drains() -> None:
        wait_until(lambda: "drains for a while" in server.log()[at:], 10, "the drain")
        time.sleep(0.2)
        assert not box.messages, "it drains still"
        a2.client.publish("mst.acme.all.a2.shout", b"hear me")

    with ThreadPoolExecutor() as pool:
        shouted = pool.submit(shout_while_it_drains)
        reload(server, lambda plugins: plugins[0].update(limits={"files": 300}))
        shouted.result()
    wait_until(lambda: a1.ask("lab", "heard", {}).body == {"heard": 1, "text": "hear me"}, 5, "the shout")


def test_another_file(broker: Start, site: Site, agents: Agents) -> None:
    path = own_file(site)
    server = broker({**isolated(echo(), site), "path": str(path)})
    before = child_of(server, "echo.echo")
    write_version(path, b"1.2.4")
    with Asking(agents) as asking:
        lines = reload(server)
    assert "plugins.echo: its file is another one now (1.2.3 -> 1.2.4); taken over" in lines, lines
    assert child_of(server, "echo.echo") not in (0, before) and not asking.failures
    assert "plugin echo 1.2.4 has taken the place" in server.log()
    os.kill(child_of(server, "echo.echo"), 9)
    wait_until(lambda: said(agents) == "hello", 20, "the child after it")
    assert any("plugin echo 1.2.4" in line and "signal 9" in line for line in server.log().splitlines())


@pytest.mark.parametrize("fault", ["broken", "refuses", "crashes"])
def test_a_file_that_does_not_do_leaves_the_old_one_running(broker: Start, site: Site, agents: Agents, fault: str) -> None:
    path = own_file(site)
    server = broker({**isolated(echo(), site), "path": str(path)})
    before = child_of(server, "echo.echo")
    with Asking(agents) as asking:
        if fault == "broken":
            path.with_suffix(".new").write_bytes(b"no library")
            os.replace(path.with_suffix(".new"), path)
            lines = reload(server, end="nothing was changed")
            assert str(path) in "".join(lines)
        else:
            misbehave = "create" if fault == "refuses" else "crash"
            lines = reload(server, lambda plugins: plugins[0]["config"].update(misbehave=misbehave))
            words = "misbehaves in create" if fault == "refuses" else "signal"
            assert any(words in line and "goes on with what it had" in line for line in lines), lines
    assert child_of(server, "echo.echo") == before and said(agents) == "hello" and not asking.failures


def test_the_others_are_left_alone(broker: Start, site: Site, agents: Agents) -> None:
    server = broker(isolated(echo("one"), site), isolated(echo("two"), site), echo("three"))
    before = child_of(server, "echo.two")
    reload(server, lambda plugins: plugins[0].update(limits={"files": 300}))
    assert child_of(server, "echo.two") == before


def test_a_child_that_hangs_leaves_the_others_their_time(broker: Start, site: Site, agents: Agents) -> None:
    server = broker(isolated(echo("one"), site), echo("two", greeting="hello"))
    told = reload(server, lambda plugins: (plugins[0]["config"].update(misbehave="stuck"), plugins[1]["config"].update(greeting="hi")), deadline=30)
    assert "plugins.two.greeting: hello -> hi; taken over" in told, told
