"""A plugin hears that what it sends finds little room, and can have its messages wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from harness import Musterd, Site, wait_until
from pluginrig import Agents, echo, installation, own_broker

Start = Callable[..., Musterd]


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    with installation() as site:
        yield site


@pytest.fixture
def broker(site: Site) -> Generator[Start, None, None]:
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


def heard(server: Musterd, instance: str) -> tuple[int, int]:
    """How often it was told to pause and to resume."""
    lines = [line for line in server.log().splitlines() if f" echo.{instance}: " in line]
    return sum("hears of little room" in line for line in lines), sum("hears of room again" in line for line in lines)


def test_all_instances_hear_of_a_full_outbox(broker: Start, agents: Agents, site: Site) -> None:
    """They share it, so each is told, and told when half of it is free. One whose lane is busy meanwhile misses what is over by then."""
    server = broker(echo("one"), echo("two"))
    a1 = agents("acme", "a1")
    a1.ask("echo", "count")
    box = a1.client.subscribe(a1.box("flood"))
    a1.tell("lab", "flood", {"n": 60000, "bytes": 4000}, reply=a1.box("flood"))
    wait_until(lambda: heard(server, "one")[0] and heard(server, "two")[0], 30, "both to hear")
    wait_until(lambda: box.messages, 60, "the end of the flood")
    wait_until(lambda: all(len(set(heard(server, name))) == 1 for name in ("one", "two")), 30, "both to hear of room")


def test_an_instance_hears_of_its_own_statements(broker: Start, agents: Agents) -> None:
    """16,384 may wait: four fifths are 13,107."""
    server = broker(echo("one", sql=True), echo("two", sql=True))
    a1 = agents("acme", "a1")
    few = a1.ask("lab", "many", {"n": 13000}, timeout=60).body
    assert few == {"sent": 13000, "failed": 0}
    assert heard(server, "one") == (0, 0) == heard(server, "two")
    many = a1.ask("lab", "many", {"n": 14000}, timeout=60).body
    assert many == {"sent": 14000, "failed": 0}
    wait_until(lambda: sorted([heard(server, "one"), heard(server, "two")]) == [(0, 0), (1, 1)], 10, "the one that asked to hear, once")


@pytest.mark.alone
def test_messages_wait_while_an_instance_rests(broker: Start, agents: Agents) -> None:
    server = broker(echo())
    a1 = agents("acme", "a1")
    box = a1.client.subscribe(a1.box("r"))
    assert a1.ask("lab", "rest", {"ms": 1500}).body == {"code": 0}
    began = time.monotonic()
    for n in range(1200):
        a1.tell("echo", "say", {"text": f"{n}"}, reply=a1.box("r"))
    wait_until(lambda: len(box.messages) == 200, 10, "what is beyond the bound of the subscription")
    assert time.monotonic() - began < 1.4, "this machine is too busy to tell"
    assert all(b"resource_exhausted" in m.data for m in box.messages)
    assert server.metric("muster_dropped_total", 'reason="subscription"') == 200
    wait_until(lambda: len(box.messages) == 1200, 10, "the rest, once it is over")
    assert time.monotonic() - began > 1.2
    texts = [m.data for m in box.messages[200:]]
    assert all(f'"text":"{n}"'.encode() in text.replace(b" ", b"") for n, text in enumerate(texts)), "in order"
    assert a1.ask("echo", "say", {"text": "x"}).body["text"] == "x"


def test_a_broker_whose_plugin_rests_for_ever_stops_at_once(broker: Start, agents: Agents) -> None:
    server = broker(echo())
    a1 = agents("acme", "a1")
    box = a1.client.subscribe(a1.box("r"))
    a1.ask("lab", "rest")
    for _ in range(3):
        a1.tell("echo", "say", {"text": "x"}, reply=a1.box("r"))
    wait_until(lambda: server.metric("muster_messages_total") >= 4, 10, "the messages to be there")
    time.sleep(0.2)
    assert not box.messages
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 5
    wait_until(lambda: len(box.messages) == 3, 10, "all to be told")
    assert all(b"unavailable" in m.data for m in box.messages)
    server.start()
