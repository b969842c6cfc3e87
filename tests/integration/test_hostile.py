"""What an agent with valid credentials can do to everybody else: headers by the thousand, floods, silence."""

from __future__ import annotations

import statistics
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from agent import Agent
from harness import Musterd, Site, wait_until
from pluginrig import SANITIZED, Agents, echo, installation, own_broker, plugin

PREAMBLE = b"NATS/1.0\r\n"


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    with installation() as site:
        yield site


@pytest.fixture
def broker(site: Site) -> Generator[Musterd, None, None]:
    broker = own_broker(site, echo("main"), plugin("echo", "second", config={}))
    broker.start()
    yield broker
    assert broker.stop() == 0, broker.log()[-3000:]
    for complaint in ("AddressSanitizer", "ThreadSanitizer", "runtime error:", "broken invariant"):
        assert complaint not in broker.log(), broker.log()[-6000:]


@pytest.fixture
def agents(site: Site) -> Generator[Agents, None, None]:
    agents = Agents(site)
    yield agents
    agents.close()


def publish_raw(agent: Agent, subject: str, headers: bytes, body: bytes = b"{}", reply: str = "", times: int = 1) -> None:
    """A message whose header block is any bytes."""
    command = f"HPUB {subject} {reply} {len(headers)} {len(headers) + len(body)}\r\n".encode() + headers + body + b"\r\n"

    async def send() -> None:
        for _ in range(times):
            await agent.client._nc._send_command(command)
        await agent.client._nc.flush()

    agent.client._run(send())


def resident_mib(broker: Musterd) -> float:
    status = Path(f"/proc/{broker.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


HEADERS = {
    "the same name": PREAMBLE + b"a:b\r\n" * 200_000 + b"\r\n",
    "many names": PREAMBLE + b"".join(b"n%d:b\r\n" % n for n in range(60_000)) + b"\r\n",
    "folded lines": PREAMBLE + b"a:b\r\n" + b" c\r\n" * 200_000 + b"\r\n",
    "one long value": PREAMBLE + b"a:" + b"b" * 900_000 + b"\r\n\r\n",
    "65 headers": PREAMBLE + b"".join(b"n%d:b\r\n" % n for n in range(65)) + b"\r\n",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_by_the_thousand(broker: Musterd, agents: Agents, kind: str) -> None:
    """Refused by their number and length, before anybody takes them apart: the other tenant notices nothing."""
    mallory, neighbour = agents("acme", "mallory"), agents("zeta", "n1")
    wait_until(lambda: neighbour.ask("echo", "say", {"text": "x"}).body, 10, "the service")
    mallory.ask("echo", "say", {"text": "x"})
    before = broker.metric("muster_refused_total", 'reason="headers"')
    box = mallory.client.subscribe(mallory.box("r"))
    publish_raw(mallory, mallory.subject("echo", "say"), HEADERS[kind], reply=mallory.box("r"), times=3)
    began = time.monotonic()
    neighbour.ask("echo", "say", {"text": "x"})
    assert time.monotonic() - began < 5, "a message of 1 MB held everybody up"
    wait_until(lambda: len(box.messages) == 3, 10, "three refusals")
    assert all(b"invalid_argument" in m.data and b"headers" in m.data for m in box.messages)
    assert broker.metric("muster_refused_total", 'reason="headers"') - before == 3


def test_as_many_headers_as_there_may_be(broker: Musterd, agents: Agents) -> None:
    a1 = agents("acme", "a1")
    box = a1.client.subscribe(a1.box("fits"))
    wait_until(lambda: a1.ask("echo", "say", {"text": "x"}).body, 10, "the service")
    publish_raw(a1, a1.subject("echo", "say"), PREAMBLE + b"".join(b"n%d:b\r\n" % n for n in range(64)) + b"\r\n", b'{"text": "x"}', a1.box("fits"))
    wait_until(lambda: box.messages, 10, "the answer")
    assert b'"text"' in box.messages[0].data


def test_headers_that_are_none_are_counted(broker: Musterd, agents: Agents) -> None:
    """A block that cannot be read takes its room in the bounds all the same."""
    mallory = agents("acme", "mallory")
    wait_until(lambda: mallory.ask("echo", "say", {"text": "x"}).body, 10, "the service")
    before = resident_mib(broker)
    mallory.tell("lab", "slow", {"ms": 4000})
    publish_raw(mallory, mallory.subject("lab", "slow"), PREAMBLE + b"x" * 30_000 + b"\r\n\r\n", b'{"ms": 1}', times=3000)
    room = (16 << 20) // 30_000  # messages that a tenant may have waiting
    wait_until(lambda: broker.metric("muster_dropped_total") > 3000 - room - 50, 20, "the bound of the tenant")
    assert SANITIZED or resident_mib(broker) - before < 120


def test_an_answer_with_headers_by_the_thousand(broker: Musterd, agents: Agents) -> None:
    """What an agent answers to a plugin's question is no less hostile."""
    mallory, neighbour = agents("acme", "mallory"), agents("zeta", "n1")
    wait_until(lambda: neighbour.ask("echo", "say", {"text": "x"}).body, 10, "the service")
    asked = mallory.client.subscribe("mst.acme.to.mallory._muster.>")
    mallory.tell("lab", "ask", {"subject": "to.mallory._muster.question", "timeout_ms": 3000}, reply=mallory.box("asked"))
    wait_until(lambda: asked.messages, 10, "the question")
    publish_raw(mallory, asked.messages[0].reply, HEADERS["the same name"], b"")
    began = time.monotonic()
    neighbour.ask("echo", "say", {"text": "x"})
    assert time.monotonic() - began < 5


def test_one_tenant_does_not_take_a_services_whole_room(broker: Musterd, agents: Agents) -> None:
    """Its oldest make room for who has less waiting."""
    loud, quiet = agents("acme", "loud"), agents("zeta", "q1")
    wait_until(lambda: quiet.ask("lab", "slow", {"ms": 1}).body is not None, 10, "the service")
    slow = loud, loud.subject("lab", "slow"), PREAMBLE + b"\r\n", b'{"ms": 8}'
    publish_raw(*slow, times=4000)  # more than there is room for
    waits = []
    for _ in range(30):
        publish_raw(*slow, times=50)  # what has become free is taken again
        began = time.monotonic()
        answer = quiet.ask("lab", "slow", {"ms": 1})
        assert "error" not in answer.body, answer.body
        waits.append(time.monotonic() - began)
    assert statistics.median(waits) < 1
