"""What the broker says no to, in the words of INTERFACE 3, and where its answers go. What an agent may not publish or hear is in test_walls.py."""

from __future__ import annotations

import json
import time
from collections.abc import Generator

import pytest

from agent import Agent, read
from client import Client, Message
from harness import Musterd, Site, wait_until
from pluginrig import Agents, echo, installation, own_broker


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    with installation() as site:
        yield site


@pytest.fixture(scope="module")
def broker(site: Site) -> Generator[Musterd, None, None]:
    broker = own_broker(site, echo(), cdc=True)
    broker.start()
    yield broker
    assert broker.stop() == 0, broker.log()[-3000:]


@pytest.fixture(scope="module")
def agents(site: Site) -> Generator[Agents, None, None]:
    agents = Agents(site)
    yield agents
    agents.close()


@pytest.fixture
def a1(broker: Musterd, agents: Agents) -> Agent:
    return agents("acme", "a1")


def test_a_stream_that_acknowledges_agents_stops_the_start(site: Site) -> None:
    """By name: any agent could purge streams and forge messages through it. First here, before the brokers that it would stop as well."""
    insider = Client(site.nats.url, site.nats.folder / "broker.creds")
    insider.add_stream("SPY", ["mst.*.rpc.>"])
    server = own_broker(site, echo())
    try:
        server.start(ready=False)
        wait_until(lambda: not server.alive, 30, "the end of the broker")
        assert server.process and server.process.wait() == 1
        line = next(line for line in server.log().splitlines() if "SPY" in line)
        assert "mst.*.rpc.>" in line and "no_ack" in line
    finally:
        server.kill()
        insider.delete_stream("SPY")
        insider.close()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("service, verb", [("nothing", "here"), ("echo", "shout"), ("echo", "SAY")])
def test_an_unknown_service_or_verb_is_not_found(a1: Agent, service: str, verb: str, packed: bool) -> None:
    answer = a1.ask(service, verb, {"text": "x"}, packed=packed)
    assert set(answer.body) == {"error"} and answer.error == {
        "code": "not_found", "message": "there is no such service or verb"}
    assert answer.headers["Nats-Service-Error-Code"] == "404"
    assert answer.headers["Nats-Service-Error"] == "there is no such service or verb"


def test_every_unknown_thing_is_not_found_in_the_same_words(a1: Agent) -> None:
    answers = [a1.ask(service, verb).body for service, verb in (("echo", "no"), ("no", "say"), ("no", "no"))]
    assert answers[0] == answers[1] == answers[2]


def test_an_answer_to_a_client_without_an_inbox_prefix(a1: Agent, agents: Agents) -> None:
    """R.T.to.A._muster.reply is the one other place; another agent's is not."""
    mine, a2 = a1.client.subscribe("mst.acme.to.a1._muster.>"), agents("acme", "a2")
    other = a2.client.subscribe("mst.acme.to.a2._muster.>")
    a1.tell("echo", "say", {"text": "x"}, reply="mst.acme.to.a1._muster.reply")
    a1.tell("echo", "say", {"text": "x"}, reply="mst.acme.to.a2._muster.reply")
    a1.tell("echo", "say", {"text": "y"}, reply="mst.acme.to.a1._muster.reply")
    wait_until(lambda: len(mine.messages) == 2, 5, "two answers")
    assert [json.loads(m.data)["text"] for m in mine.messages] == ["x", "y"] and other.messages == []


STRANGE = ("mst.acme.to.a1._muster.reply2", "mst.acme.to.a1._muster.reply.x", "mst.acme.box.a1", "mst.acme.box.a12.x", "mst.acme.box.a2.x",
           "mst.zeta.box.a1.x", "mst.acme.rpc.a1.echo.say", "mst.acme.all.a1.x", "mst._in.acme.evt.x.y.z", "MST.acme.box.a1.x",
           "_INBOX.x", "$JS.API.STREAM.PURGE.EVT", "$SRV.PING", "x")


def test_strange_reply_subjects_are_refused_and_counted(a1: Agent, broker: Musterd) -> None:
    said = a1.ask("echo", "say", {"text": "x"}).body["said"]
    before = broker.metric("muster_refused_total", 'reason="reply_subject"')
    for reply in STRANGE:
        a1.tell("echo", "say", {"text": "x"}, reply=reply)
    wait_until(lambda: broker.metric("muster_refused_total", 'reason="reply_subject"') == before + len(STRANGE), 10, "each to be counted")
    assert a1.ask("echo", "say", {"text": "x"}).body["said"] == said + 1, "what is refused is not done either"


def test_odd_subjects_do_no_harm(a1: Agent, broker: Musterd) -> None:
    """Inside what its permissions let an agent publish: too few tokens, too many, names that are none, lengths. Each is answered."""
    before = broker.metric("muster_refused_total", 'reason="subject"')
    odd = ["mst.acme.rpc.a1.echo", "mst.acme.rpc.a1.echo.say.ref.more", "mst.acme.rpc.a1.echo.s:y", "mst.acme.rpc.a1._muster.say",
           "mst.acme.rpc.a1.echo.sä", "mst.acme.rpc.a1." + "x" * 65 + ".say", "mst.acme.rpc.a1.echo." + "x" * 900]
    box = a1.client.subscribe(a1.box("odd"))
    for subject in odd:
        a1.client.publish(subject, b"{}", reply=a1.box("odd"))
    wait_until(lambda: broker.metric("muster_refused_total", 'reason="subject"') == before + len(odd), 10, "each to be counted")
    wait_until(lambda: len(box.messages) == len(odd), 5, "each to be told")
    for error in (read(message).error for message in box.messages):
        assert error["code"] == "invalid_argument" and "<service>.<verb>" in error["message"]
    assert '"echo.s:y" came' in read(box.messages[2]).error["message"]
    assert a1.ask("echo", "say", {"text": "x"}).body["text"] == "x"


def test_a_long_reply_subject(a1: Agent) -> None:
    """A legal one may be as long as a subject."""
    for n in (500, 600, 1024):
        box = a1.box("x" * (n - len(a1.box(""))))
        heard = a1.client.subscribe(box)
        a1.tell("echo", "say", {"text": "x"}, reply=box)
        a1.tell("no", "such", reply=box)
        wait_until(lambda: len(heard.messages) == 2, 5, f"two answers on a subject of {n} bytes")


def test_over_the_limit_of_requests(site: Site, broker: Musterd, agents: Agents) -> None:
    """Told when to come again, a hundred times a second; then silence. The other tenant notices nothing."""
    site.cli("tenant", "add", "busy")
    busy, a1 = agents("busy", "b1"), agents("acme", "a1")
    busy.ask("echo", "say", {"text": "x"})
    site.cli("tenant", "limits", "busy", "requests_per_s=10", "burst=20")
    box, sent = busy.client.subscribe(busy.box("r")), 0

    def rate_refused() -> float:
        return broker.metric("muster_refused_total", 'reason="rate"')

    def refusals() -> list[Message]:
        return [m for m in list(box.messages) if b"resource_exhausted" in m.data]

    def served() -> int:
        return sum(b"resource_exhausted" not in m.data for m in list(box.messages))

    def ask(n: int) -> None:
        """n requests, until each has been served or refused."""
        nonlocal sent
        for _ in range(n):
            busy.tell("echo", "say", {"text": "x"}, reply=busy.box("r"))
        sent += n
        wait_until(lambda: served() + rate_refused() - before == sent, 30, "all to be accounted for")

    def limited() -> bool:
        ask(50)
        return bool(refusals())

    before = rate_refused()
    wait_until(limited, 20, "the limit to be known")
    time.sleep(2.2)  # so that the burst is there again
    served_before, told_before = served(), len(refusals())
    began = time.monotonic()
    ask(1000)
    seconds = time.monotonic() - began
    a1.ask("echo", "say", {"text": "x"})
    told = [read(m) for m in refusals()[told_before:]]
    assert 20 <= served() - served_before <= 20 + 10 * (seconds + 1) + 1
    assert 0 < len(told) <= 100 * (int(seconds) + 2), "a flood of refusals would be a flood of its own"
    for answer in told:
        assert answer.error["code"] == "resource_exhausted" and 1 <= answer.error["retry_after_ms"] <= 2000
    time.sleep(max(answer.error["retry_after_ms"] for answer in told) / 1000)
    assert busy.ask("echo", "say", {"text": "x"}).body["text"] == "x", "after retry_after_ms"
