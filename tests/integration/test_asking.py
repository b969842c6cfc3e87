"""A plugin asks services: as itself and as nobody else, answered where no agent can hear or speak."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest

from agent import Agent
from harness import Musterd, Site, wait_until
from pluginrig import EACCES, EINVAL, ENOTFOUND, ETIME, Agents, echo, installation, own_broker, plugin

SAY = "rpc._p_asker.echo.say"


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    with installation() as site:
        yield site


def run(site: Site, greeting: str) -> Musterd:
    broker = own_broker(site, echo(greeting=greeting), plugin("asker", "asker"))
    broker.start()
    return broker


def end(broker: Musterd) -> None:
    assert broker.stop() == 0, broker.log()[-3000:]
    assert "Sanitizer" not in broker.log() and "runtime error" not in broker.log(), broker.log()[-5000:]


@pytest.fixture(scope="module")
def one(site: Site) -> Generator[Musterd, None, None]:
    broker = run(site, "one")
    yield broker
    end(broker)


@pytest.fixture(scope="module")
def agents(site: Site) -> Generator[Agents, None, None]:
    agents = Agents(site)
    yield agents
    agents.close()


@pytest.fixture
def a1(one: Musterd, agents: Agents) -> Agent:
    return agents("acme", "a1")


def ask(agent: Agent, subject: str, **more: Any) -> Any:
    """What asker says; the body of the answer as a value."""
    told = agent.ask("asker", "ask", {"subject": subject, **more}, timeout=20).body
    if "text" in told:
        told["text"] = json.loads(told["text"])
    return told


def test_a_service_sees_who_asks_and_for_whom(a1: Agent, agents: Agents) -> None:
    for agent, tenant in ((a1, "acme"), (agents("zeta", "z1"), "zeta")):
        told = ask(agent, SAY, body='{"text": "hi"}')
        assert told["code"] == 0 and told["text"]["text"] == "hi" and told["text"]["agent"] == "_p_asker"
        assert told["text"]["tenant"] == tenant and told["text"]["subject"] == SAY
        assert told["tenant"] == tenant and told["agent"] is None and told["subject"].startswith("box._p_asker.")


def test_errors_of_a_service_are_answers(a1: Agent) -> None:
    told = ask(a1, SAY, body='{"texd": "hi"}')
    assert told["code"] == 0 and told["headers"] == 2 and told["text"]["error"]["code"] == "invalid_argument"
    assert ask(a1, "rpc._p_asker.nothing.here")["text"]["error"]["code"] == "not_found"
    assert ask(a1, "rpc._p_asker.lab.silent")["text"]["error"]["code"] == "internal"


def test_the_answer_of_an_agent_says_whose_it_is(a1: Agent, agents: Agents) -> None:
    a2 = agents("acme", "a2")
    asked = a2.client.subscribe("mst.acme.to.a2._muster.question")
    box = a1.client.subscribe(a1.box("asked"))
    a1.tell("asker", "ask", {"subject": "to.a2._muster.question"}, reply=a1.box("asked"))
    wait_until(lambda: asked.messages, 5, "the question")
    a2.client.publish(asked.messages[0].reply, b'"because"')
    wait_until(lambda: box.messages, 5, "the answer")
    told = json.loads(box.messages[0].data)
    assert told["agent"] == "a2" and told["tenant"] == "acme" and told["text"] == '"because"'
    assert f"mst.acme.{told['subject']}" == asked.messages[0].reply


def test_nobody_waits_for_ever(a1: Agent) -> None:
    assert ask(a1, "rpc._p_asker.lab.slow", body='{"ms": 1500}', timeout_ms=300) == {"code": ETIME}


def test_a_request_without_an_answer(a1: Agent) -> None:
    before = a1.ask("echo", "count").body["beats"]
    assert ask(a1, "rpc._p_asker.pulse.beat", publish=True) == {"code": 0}
    wait_until(lambda: a1.ask("echo", "count").body["beats"] == before + 1, 10, "the beat")


@pytest.mark.parametrize("publish", [False, True])
@pytest.mark.parametrize("sender", ["a1", "_muster", "_p_echo", "_p_asker2", "_p_", "_op_a1", "asker"])
def test_a_plugin_asks_as_itself_alone(a1: Agent, sender: str, publish: bool) -> None:
    assert ask(a1, f"rpc.{sender}.echo.say", body='{"text": "x"}', **({"publish": True} if publish else {})) == {"code": EACCES}


def test_no_agent_has_the_name_of_a_plugin(a1: Agent, site: Site) -> None:
    with pytest.raises(AssertionError, match="without _ in front was expected"):
        site.cli("agent", "add", "acme", "_p_asker", "--out", "/dev/null")


def test_no_agent_hears_or_forges_an_answer(a1: Agent, one: Musterd, agents: Agents) -> None:
    mallory = agents("acme", "mallory")
    heard = [mallory.client.subscribe(pattern) for pattern in ("mst.acme.box._p_asker.>", "mst.acme.box.>", "mst.*.box._p_asker.>")]
    subject = ask(a1, SAY, body='{"text": "hi"}')["subject"]
    refused = one.metric("muster_refused_total", 'reason="reply_subject"')
    mallory.client.publish(f"mst.acme.{subject}", b"a lie")
    mallory.client.publish("mst.acme.rpc._p_asker.echo.say", b'{"text": "x"}', reply=mallory.box("x"))
    mallory.client.publish("mst.acme.rpc.mallory.echo.say", b'{"text": "x"}', reply=f"mst.acme.{subject}")
    wait_until(lambda: one.metric("muster_refused_total", 'reason="reply_subject"') == refused + 1, 10, "the third to be refused")
    assert ask(a1, SAY, body='{"text": "again"}')["text"]["text"] == "again"
    assert all(not box.messages for box in heard)


def test_each_answer_has_a_place_that_says_nothing_of_the_next(a1: Agent) -> None:
    first, second = (ask(a1, SAY, body='{"text": "x"}')["subject"].split(".") for _ in range(2))
    assert first[:3] == second[:3], "the box of this broker"
    assert first[3].split("-")[1] != second[3].split("-")[1] and len(first[3].split("-")[1]) == 16


def test_requests_count_against_the_tenant(site: Site, a1: Agent, agents: Agents) -> None:
    """Of a tenant with one request a second, the one that asks asker leaves none for asker."""
    site.cli("tenant", "add", "poor")
    site.cli("tenant", "limits", "poor", "requests_per_s=1", "burst=2")

    def refused() -> bool:
        told = agents("poor", "p1").ask("asker", "ask", {"subject": SAY, "body": '{"text": "x"}'}).body
        return "resource_exhausted" in told.get("text", "")

    wait_until(refused, 15, "asker's request to be refused")


def test_two_brokers_answer_each_other(site: Site, one: Musterd, a1: Agent) -> None:
    """Any broker's plugin may answer; the answer finds the plugin that asked."""
    two = run(site, "two")
    try:
        told = [ask(a1, SAY, body='{"text": "x"}') for _ in range(60)]
        assert {t["text"]["greeting"] for t in told} == {"one", "two"}
        boxes = {(t["subject"].split(".")[2], t["text"]["greeting"]) for t in told}
        assert len(boxes) == 4, "each broker's plugin was answered by both"
    finally:
        end(two)


def push(agent: Agent, subject: str, reply: str) -> int:
    code: int = ask(agent, subject, publish=True, reply=reply)["code"]
    return code


def test_respond_comes_to_the_plugin(one: Musterd, a1: Agent, agents: Agents) -> None:
    """Any body, and twice, as the one who was addressed; the client does no more than respond()."""
    a2 = agents("acme", "a2")
    pushed = a2.client.subscribe("mst.acme.to.a2._muster.wake")
    assert push(a1, "to.a2._muster.wake", "rpc.a2.asker.took.r7") == 0
    wait_until(lambda: pushed.messages, 5, "the message")
    assert pushed.messages[0].reply == "mst.acme.rpc.a2.asker.took.r7"
    for body in ("", '{"decline": true}', "no JSON", "[3]"):
        a2.client.publish(pushed.messages[0].reply, body.encode())
        wait_until(lambda body=body: a1.ask("asker", "last").body.get("text") == (body or "{}"), 5, f"respond({body!r})")  # type: ignore[misc]
    told = a1.ask("asker", "last").body
    assert told["agent"] == "a2" and told["tenant"] == "acme" and told["subject"] == "rpc.a2.asker.took.r7"


@pytest.mark.parametrize(("subject", "reply", "code"), [
    ("to.a2._muster.wake", "rpc.a1.asker.took.r7", EINVAL),
    ("to.a2._muster.wake", "rpc.a2.asker.took", EINVAL),
    ("to.a2._muster.wake", "box.a1.x", EINVAL),
    ("all._muster.wake", "rpc.a2.asker.took.r7", EINVAL),
    ("to.a2._muster.wake", "rpc.a2.echo.say.r7", EACCES),
])
def test_respond_goes_nowhere_else(a1: Agent, subject: str, reply: str, code: int) -> None:
    assert push(a1, subject, reply) == code


def test_what_a_name_may_hear(site: Site, a1: Agent, agents: Agents) -> None:
    """By its role and its narrowing, as they are now."""
    def hears(agent: Agent, subject: str, name: str | None = None) -> int:
        code: int = agent.ask("asker", "hears", {"subject": subject} | ({"agent": name} if name else {})).body["code"]
        return code

    assert hears(a1, "evt.presence.>") == hears(a1, "msg.a1") == hears(a1, "cdc.>") == 0
    assert hears(a1, "msg.a2") == hears(a1, "to.a2.>") == hears(a1, "audit.>") == EACCES
    assert hears(a1, "evt.>", "never-asked") == ENOTFOUND and hears(a1, "evt.>", "_p_asker") == 0 and hears(a1, "evt..x") == EINVAL
    site.postgres.query("UPDATE muster.credentials SET groups = '{red}', tables = '{public.notes}' WHERE tenant = 'acme' AND agent = 'a1'")
    try:
        wait_until(lambda: hears(a1, "grp.blue.>") == EACCES, 5, "the narrowing")
        assert hears(a1, "cdc.>") == hears(a1, "grp.>") == EACCES
        assert hears(a1, "grp.red.>") == hears(a1, "cdc.*.public.notes.>") == hears(a1, "evt.>") == 0
    finally:
        site.postgres.query("UPDATE muster.credentials SET groups = NULL, tables = NULL WHERE tenant = 'acme' AND agent = 'a1'")
    wait_until(lambda: hears(a1, "cdc.>") == 0, 5, "all of it again")
