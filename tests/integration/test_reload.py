"""SIGHUP: what plugins take over while they run, what they refuse, and what waits for a restart."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from harness import Musterd, Site, wait_until
from pluginrig import SANITIZED, Agents, echo, installation, own_broker, plugin, reload

Start = Callable[..., Musterd]


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    with installation() as site:
        yield site


@pytest.fixture
def broker(site: Site) -> Generator[Start, None, None]:
    """broker(echo(), …) runs; it must end cleanly."""
    made: list[Musterd] = []

    def make(*plugins: dict[str, Any], **settings: Any) -> Musterd:
        made.append(own_broker(site, *plugins))
        made[-1].config.update(settings)
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


def greet(greeting: str, n: int = 0, **more: Any) -> Callable[[list[Any]], None]:
    def change(plugins: list[Any]) -> None:
        plugins[n]["config"].update(greeting=greeting, **more)
    return change


def said(agents: Agents, tenant: str = "acme") -> Any:
    return agents(tenant, "a1").ask("echo", "say", {"text": "x"}).body["greeting"]


ONE = "done; 1 settings taken over, 0 wait for a restart"


def test_a_setting_is_taken_over(broker: Start, agents: Agents) -> None:
    server = broker(echo(greeting="hello you"))
    for greeting in ("good morning", "good evening"):
        before = said(agents)
        assert reload(server, greet(greeting)) == [f'plugins.echo.greeting: "{before}" -> "{greeting}"; taken over', ONE]
        assert said(agents) == greeting
        assert reload(server, greet(greeting)) == ["done; 0 settings wait for a restart"], "it is in force"
    assert reload(server) == ['plugins.echo.greeting: "good evening" -> "hello you"; taken over', ONE], "as it was at the start"
    assert server.metric("muster_reload_failures_total", 'instance="echo"') == 0


def test_positions_are_those_of_the_configuration_in_force(broker: Start, agents: Agents) -> None:
    server = broker(echo(greeting="hello"))
    a1 = agents("acme", "a1")
    before = a1.ask("lab", "where").body["greeting"]
    reload(server, lambda plugins: (plugins[0].update(config={"greeting": "hi"}), plugins.insert(0, plugins[0] | {"instance": "other"})))
    after = a1.ask("lab", "where").body["greeting"]
    assert before and after and before != after
    line, column = map(int, after.split(":")[-2:])
    assert server.config_path.read_text().splitlines()[line - 1][column - 1:].startswith('"greeting": "hi"')


def test_a_refused_setting_leaves_the_old_one_in_force(broker: Start, agents: Agents) -> None:
    server = broker(echo(greeting="hello"))
    for count in (1, 2):
        refusal, waiting, end = reload(server, greet("refused"))
        assert refusal.startswith("plugins.echo: plugin echo 1.2.3: reload() failed (-1): greeting: it will not say that, at ")
        assert refusal.endswith("; it goes on with what it had")
        assert waiting == "plugins.echo.greeting: hello -> refused; waits for a restart"
        assert end == "done; 1 settings wait for a restart"
        assert server.metric("muster_reload_failures_total", 'plugin="echo"', 'instance="echo"') == count
        assert said(agents) == "hello"
    assert reload(server, greet("hi"))[0] == "plugins.echo.greeting: hello -> hi; taken over"


def test_an_instance_takes_over_all_or_nothing(broker: Start, agents: Agents) -> None:
    """What cannot be taken over keeps back what could: nobody would know which settings belong together."""
    server = broker(echo(greeting="hello"))
    assert reload(server, greet("hi", misbehave="destroy")) == [
        "plugins.echo.greeting: hello -> hi; waits for a restart",
        "plugins.echo.misbehave: no -> destroy; waits for a restart", "done; 2 settings wait for a restart"]
    assert said(agents) == "hello"


def test_only_the_instances_that_changed_are_told(broker: Start) -> None:
    server = broker(echo("one", greeting="refused"), echo("two", greeting="hello"))
    assert reload(server, greet("hi", n=1)) == ["plugins.two.greeting: hello -> hi; taken over", ONE]
    failed, *_ = reload(server, lambda plugins: (greet("hi", 0)(plugins), greet("refused", 1)(plugins)))
    assert failed.startswith("plugins.one.greeting: refused -> hi; taken over")
    assert server.metric("muster_reload_failures_total", 'instance="two"') == 1


def test_every_lane_takes_over(broker: Start, agents: Agents, site: Site) -> None:
    names = [f"lane{n}" for n in range(6)]
    for name in names:
        site.cli("tenant", "add", name)
    server = broker(echo(lanes=3, greeting="hello"))
    assert reload(server, greet("hi")) == ["plugins.echo.greeting: hello -> hi; taken over", ONE]
    assert {said(agents, name) for name in names} == {"hi"}
    assert len({agents(name, "a1").ask("lab", "lane").body["lane"] for name in names}) > 1


def test_no_plugin_sees_a_file_with_a_fault(broker: Start, agents: Agents) -> None:
    server = broker(echo(greeting="hello"), plugin("echo", "other"))
    told = reload(server, lambda plugins: (greet("hi")(plugins), plugins[1]["config"].update(greting="x")), end="nothing was changed")
    assert "did you mean greeting?" in told[0] and len(told) == 1
    assert said(agents) == "hello"


def test_a_plugin_without_reload_waits(broker: Start) -> None:
    """Its descriptor is too short to have one; what lies behind it in memory would abort."""
    server = broker(plugin("short", "short"))
    assert reload(server, lambda plugins: plugins[0]["config"].update(number=2)) == [
        "plugins.short.number: 1 -> 2; waits for a restart", "done; 1 settings wait for a restart"]


def test_a_file_that_was_replaced_waits(broker: Start, site: Site) -> None:
    entry = echo()
    copied = site.folder / "copied.so"
    shutil.copy(entry["path"], copied)
    server = broker({**entry, "path": str(copied)})
    copied.unlink()
    shutil.copy(entry["path"], copied)
    assert reload(server, greet("hi")) == ["plugins.echo: its file is another one now; waits for a restart",
                                           "plugins.echo.greeting: hello -> hi; taken over",
                                           "done; 1 settings taken over, 1 wait for a restart"]


class Manager:
    """Hears, as a service manager does, that the broker lives."""

    def __init__(self, path: str) -> None:
        self.n, self.longest_silence, self._ends = 0, 0.0, False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._socket.settimeout(0.1)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        heard: float | None = None
        while not self._ends:
            try:
                word = self._socket.recv(1024)
            except TimeoutError:
                continue
            if word == b"WATCHDOG=1":
                now = time.monotonic()
                self.longest_silence = max(self.longest_silence, now - (heard or now))
                heard, self.n = now, self.n + 1

    def __enter__(self) -> Manager:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        self._thread.join()
        self._socket.close()


def test_files_that_hang_cost_nobody_else_the_reload(agents: Agents, site: Site) -> None:
    """Each takes its ten seconds to be looked at: the others are told then, and the service manager hears that the broker lives."""
    file = site.folder / "turned.so"
    shutil.copy(plugin("short", "short")["path"], file)
    turned = [plugin("short", name, required=False, isolation="process") | {"path": str(file)} for name in ("two", "three")]
    server, manager = own_broker(site, echo(greeting="hello"), *turned), Manager(str(site.folder / "manager"))
    with manager:
        server.start(env={"NOTIFY_SOCKET": str(site.folder / "manager")})
        wait_until(lambda: manager.n > 0, 10, "a first word")
        shutil.copy(plugin("hangs_at_load", "short")["path"], f"{file}.new")
        os.rename(f"{file}.new", file)
        told = reload(server, greet("hi"), deadline=40)
        time.sleep(0.5)  # until the next word
    assert manager.longest_silence < 15, "it would be ended"
    assert "plugins.echo.greeting: hello -> hi; taken over" in told, told
    assert said(agents) == "hi"
    assert server.stop() == 0


@pytest.mark.skipif(SANITIZED, reason="times are of a build that is not slowed down")
def test_a_lane_that_hangs_does_not_hold_up_the_others(broker: Start, agents: Agents) -> None:
    server = broker(echo("one", greeting="hello"), plugin("short", "short"), echo("two", greeting="hello"))
    agents("acme", "a1").tell("lab", "hang", {"ms": 8000})  # one of the two takes it
    wait_until(lambda: max(server.metric("muster_lane_stalled", f'lane="echo.{name}"') for name in ("one", "two")) == 1, 10, "a stall")
    began = time.monotonic()
    told = reload(server, lambda plugins: (greet("hi", 0)(plugins), greet("hi", 2)(plugins)))
    assert time.monotonic() - began < 9
    assert any(line.endswith("its lane hangs, and nothing was changed; it goes on with what it had") for line in told), told
    assert [line.partition("; ")[2] for line in sorted(told) if "hello -> hi" in line].count("taken over") == 1, told
    assert told[-1] == "done; 1 settings taken over, 1 wait for a restart"
    wait_until(lambda: server.get("/readyz")[0] == 200, 30, "the lanes to go on")
    change = lambda plugins: (greet("hi", 0)(plugins), greet("hi", 2)(plugins))  # noqa: E731
    reload(server, change)
    assert reload(server, change) == ["done; 0 settings wait for a restart"]


def test_a_reload_that_hangs_is_left_alone_and_told_of_in_the_end(broker: Start, agents: Agents) -> None:
    server = broker(echo(greeting="hello"))
    late, waiting, end = reload(server, greet("slow"))
    assert late.endswith("reload() has not returned in time; what becomes of it will be told; it goes on with what it had")
    assert waiting == "plugins.echo.greeting: hello -> slow; waits for a restart" and end == "done; 1 settings wait for a restart"
    again = reload(server, greet("slow"))[0]
    assert again == "plugins.echo: plugin echo 1.2.3: an earlier reload() is not through; it goes on with what it had"
    wait_until(lambda: "reload() has returned at last: the changed settings are taken over" in server.log(), 20, "its end")
    assert said(agents) == "slow"
    assert reload(server, greet("slow")) == ["done; 0 settings wait for a restart"]
