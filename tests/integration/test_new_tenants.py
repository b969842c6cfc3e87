"""Requests of tenants that a broker does not know: it asks the database before it says no, and what that costs has bounds."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest

from agent import Agent, read, unseen
from client import Message
from harness import Musterd, Site, wait_until
from pluginrig import Agents, echo, installation, own_broker

# The rate of answers about unknown tenants, over all and for one (broker/core/waiting.h); the clock's seconds are not the test's.
ANSWERS, ANSWERS_OF_ONE = 100, 25
COMPLAINTS = ("AddressSanitizer", "ThreadSanitizer", "runtime error:", "broken invariant")
QUESTION = re.compile(r"FROM muster\.tenants WHERE name = \$1")


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    with installation() as site:
        yield site


@pytest.fixture(scope="module")
def agents(site: Site) -> Generator[Agents, None, None]:
    agents = Agents(site)
    yield agents
    agents.close()


@pytest.fixture
def broker(site: Site) -> Generator[Musterd, None, None]:
    broker = own_broker(site, echo())
    broker.start()
    yield broker
    if broker.alive:
        assert broker.stop() == 0, broker.log()[-3000:]
    for complaint in COMPLAINTS:
        assert complaint not in broker.log(), broker.log()[-6000:]


def quietly(site: Site, statement: str, *parameters: str) -> None:
    """Change the database without the notice that brokers follow."""
    with site.postgres.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(statement, parameters)


def add_quietly(site: Site, tenant: str) -> None:
    """With the name of a stranger(), whose row went with the tenant."""
    quietly(site, "INSERT INTO muster.tenants (name) VALUES (%s)", tenant)
    quietly(site, "INSERT INTO muster.credentials (tenant, agent, role) VALUES (%s, 's1', 'agent')", tenant)


def stranger(site: Site, agents: Agents, tenant: str) -> Agent:
    """An agent that no server cuts and whose tenant is gone. The broker need not have noticed."""
    site.cli("tenant", "add", tenant)
    agent = unseen(site, agents(tenant, "s1"))
    site.postgres.query("DELETE FROM muster.tenants WHERE name = %s", (tenant,))
    return agent


def refused(broker: Musterd, reason: str) -> float:
    return broker.metric("muster_refused_total", f'reason="{reason}"')


def code_of(body: dict[str, object]) -> str:
    error = body.get("error")
    return str(error["code"]) if isinstance(error, dict) else ""


def ask_until(agent: Agent, code: str, deadline: float = 10) -> None:
    """Until the answer has this error code, or "" for none; in no such hurry that the refusals become silent."""
    def answered() -> bool:
        time.sleep(0.1)
        return code_of(agent.ask("echo", "say", {"text": "x"}).body) == code

    wait_until(answered, deadline, f"an answer with the code {code!r}")


def known(agents: Agents) -> Agent:
    """An agent whose name the broker has asked for."""
    a1 = agents("acme", "a1")
    ask_until(a1, "")
    return a1


def forgotten(agent: Agent) -> None:
    """The broker has said that it does not know the tenant, and has forgotten that it asked."""
    ask_until(agent, "unauthenticated")
    time.sleep(1.1)


def codes(messages: list[Message]) -> list[str]:
    return [code_of(read(m).body) for m in messages]


def flood(agent: Agent, n: int, box: str, body: bytes = b'{"text": "x"}') -> float:
    """Publish n requests as fast as a client can; the seconds it took."""
    began = time.monotonic()
    agent.client.publish_many(agent.subject("echo", "say"), n, body, reply=agent.box(box))
    return time.monotonic() - began


@contextmanager
def stalled_registry(site: Site, broker: Musterd) -> Generator[None, None, None]:
    """The broker's connections to the database are there and give no answer; what is asked under their one name is the registry's."""
    pids = [pid for [pid] in site.postgres.query("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'muster %'")]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


# ---- known a moment later -------------------------------------------------------------------------------------------------------


def test_the_first_request_right_after_tenant_add(site: Site, broker: Musterd, agents: Agents) -> None:
    for n in range(20):
        tenant = f"fresh{n}"
        site.cli("tenant", "add", tenant)
        assert agents(tenant, "f1").ask("echo", "say", {"text": tenant}, timeout=5).body["tenant"] == tenant


def test_the_database_is_asked_and_not_waited_for(site: Site, broker: Musterd, agents: Agents) -> None:
    """No notice ever comes: what the broker knows it has asked for."""
    newcomers = [stranger(site, agents, f"quiet{n}") for n in range(20)]
    for agent in newcomers:
        ask_until(agent, "unauthenticated")
    time.sleep(1.1)
    for agent in newcomers:
        add_quietly(site, agent.tenant)
        assert agent.ask("echo", "say", {"text": "x"}, timeout=5).body["tenant"] == agent.tenant


def test_what_waited_is_served_in_the_order_it_came(site: Site, broker: Musterd, agents: Agents) -> None:
    agent = stranger(site, agents, "orderly")
    forgotten(agent)
    box = agent.client.subscribe(agent.box("o"))
    add_quietly(site, "orderly")
    for n in range(200):
        agent.tell("echo", "say", {"text": str(n)}, reply=agent.box("o"))
    wait_until(lambda: len(box.messages) == 200, 10, "200 answers")
    assert [read(m).body["text"] for m in box.messages] == [str(n) for n in range(200)]


def test_a_message_that_nobody_answers_waits_too(site: Site, agents: Agents) -> None:
    """On a subscription of its own, which each lane has: a heartbeat, heard once, by the lane of the tenant."""
    agent, broker = stranger(site, agents, "beating"), own_broker(site, echo(lanes=3))
    broker.start()
    try:
        forgotten(agent)
        add_quietly(site, "beating")
        for _ in range(3):
            agent.tell("pulse", "beat")
        wait_until(lambda: agent.ask("echo", "count").body["beats"] == 3, 5, "three heartbeats")
        assert broker.metric("muster_messages_total") >= 4 and refused(broker, "tenant") == 1
    finally:
        assert broker.stop() == 0


def test_a_tenant_that_returns_is_served_as_soon_as_the_registry_knows(site: Site, broker: Musterd, agents: Agents) -> None:
    agent = stranger(site, agents, "back")
    forgotten(agent)
    assert agent.ask("echo", "say").error["code"] == "unauthenticated"
    site.cli("tenant", "add", "back")
    site.postgres.query("INSERT INTO muster.credentials (tenant, agent, role) VALUES ('back', 's1', 'agent')")
    ask_until(agent, "", 5)


# ---- no -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_an_unknown_tenant_is_unauthenticated(site: Site, broker: Musterd, agents: Agents, packed: bool) -> None:
    agent = stranger(site, agents, f"gone{int(packed)}")
    forgotten(agent)
    before = refused(broker, "tenant")
    for service, verb in (("echo", "say"), ("echo", "say"), ("no", "such"), ("pulse", "beat")):
        began = time.monotonic()
        answer = agent.ask(service, verb, {"text": "x"}, packed=packed)
        assert time.monotonic() - began < 1
        assert answer.error == {"code": "unauthenticated", "message": f'the tenant "{agent.tenant}" is not known'}
    assert refused(broker, "tenant") >= before + 4
    lost = agent.client.subscribe(f"mst.{agent.tenant}.to.s1._muster.>")
    agent.tell("echo", "say", reply=f"mst.{agent.tenant}.to.s1._muster.reply")
    wait_until(lambda: len(lost.messages) == 1, 5, "the answer of a client without an inbox prefix")


def test_one_question_has_one_answer(site: Site, broker: Musterd, agents: Agents) -> None:
    """Also where every broker hears the request on a subscription of its own."""
    agent, other = stranger(site, agents, "once"), own_broker(site, echo())
    other.start()
    try:
        forgotten(agent)
        box = agent.client.subscribe(agent.box("r"))
        agent.tell("pulse", "beat", reply=agent.box("r"))
        agent.tell("echo", "say", reply=agent.box("r"))
        wait_until(lambda: len(box.messages) >= 2, 5, "an answer each")
        wait_until(lambda: refused(broker, "tenant") >= 1 and refused(other, "tenant") >= 1, 5, "both brokers to have heard")
    finally:
        assert other.stop() == 0
    assert broker.stop() == 0
    assert codes(box.messages) == ["unauthenticated"] * 2


def test_a_foreign_reply_subject_of_an_unknown_tenant(site: Site, broker: Musterd, agents: Agents) -> None:
    agent, a1 = stranger(site, agents, "forger"), agents("acme", "a1")
    forgotten(agent)
    heard, before = a1.client.subscribe(a1.box(">")), refused(broker, "reply_subject")
    for reply in ("mst.acme.box.a1.x", "mst.forger.box.s2.x", "$JS.API.STREAM.PURGE.EVT", "mst.forger.rpc.s1.echo.say"):
        agent.tell("echo", "say", reply=reply)
    wait_until(lambda: refused(broker, "reply_subject") == before + 4, 5, "each to be counted")
    time.sleep(1.1)
    assert agent.ask("echo", "say").error["code"] == "unauthenticated" and heard.messages == []


def test_without_the_database_it_is_unavailable(site: Site, broker: Musterd, agents: Agents) -> None:
    agent, a1 = stranger(site, agents, "homeless"), known(agents)
    forgotten(agent)
    site.postgres.kill()
    try:
        wait_until(lambda: "trying again" in broker.log(), 10, "the broker to notice")
        began = time.monotonic()
        error = agent.ask("echo", "say").error
        assert time.monotonic() - began < 1
        assert error["code"] == "unavailable" and 1 <= error["retry_after_ms"] <= 2000
        assert '"homeless"' in error["message"] and "database" in error["message"]
        assert a1.ask("echo", "say", {"text": "x"}).body["text"] == "x", "what was known holds"
        assert refused(broker, "registry") >= 1
    finally:
        site.postgres.start()
    add_quietly(site, "homeless")
    ask_until(agent, "", 15)


def test_a_database_that_hangs_is_not_waited_for_long(site: Site, broker: Musterd, agents: Agents) -> None:
    agent, a1 = stranger(site, agents, "patient"), known(agents)
    forgotten(agent)
    with stalled_registry(site, broker):
        began = time.monotonic()
        assert agent.ask("echo", "say").error["code"] == "unavailable"
        assert 1 < time.monotonic() - began < 4
        began = time.monotonic()
        assert agent.ask("echo", "say").error["code"] == "unavailable"
        assert time.monotonic() - began < 1, "the second does not wait for what the first has waited for"
        assert a1.ask("echo", "say", {"text": "x"}).body["text"] == "x"
    ask_until(agent, "unauthenticated", 15)


# ---- bounds ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def counted_questions(site: Site) -> Generator[Callable[[], int], None, None]:
    def tell(value: str) -> None:
        site.postgres.query(f"ALTER SYSTEM SET log_statement = '{value}'")
        site.postgres.query("SELECT pg_reload_conf()")
        wait_until(lambda: site.postgres.query("SHOW log_statement") == [(value,)], 5, "the setting")

    tell("all")
    before = len(QUESTION.findall(site.postgres.log()))
    yield lambda: len(QUESTION.findall(site.postgres.log())) - before
    tell("none")


def others_are_served(a1: Agent, seconds: float) -> int:
    """Ask until the time is over; how often."""
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        assert a1.ask("echo", "say", {"text": "x"}, timeout=3).body["text"] == "x"
        n += 1
    return n


def test_a_flood_of_an_unknown_tenant(site: Site, broker: Musterd, agents: Agents) -> None:
    agent, a1, n = stranger(site, agents, "flood"), agents("acme", "a1"), 30000
    forgotten(agent)
    box, before, began = agent.client.subscribe(agent.box("f")), refused(broker, "tenant"), time.monotonic()
    with counted_questions(site) as questions:
        flood(agent, n, "f")
        assert others_are_served(a1, 1) > 5
        wait_until(lambda: refused(broker, "tenant") + refused(broker, "waiting") >= before + n, 30, "the whole flood to be refused")
        seconds = time.monotonic() - began
        assert a1.ask("echo", "say", {"text": "x"}).body["text"] == "x"
        assert 1 <= questions() <= seconds + 2, "one question a second"
        assert 0 < len(box.messages) <= ANSWERS_OF_ONE * (seconds + 2)
    assert set(codes(box.messages)) <= {"unauthenticated", "resource_exhausted"}
    assert broker.metric("muster_unanswered_total") >= n - len(box.messages)
    time.sleep(1.1)
    assert agent.ask("echo", "say").error["code"] == "unauthenticated", "it is told again when it asks as others do"


def test_many_unknown_tenants_get_no_more_answers(site: Site, broker: Musterd, agents: Agents) -> None:
    crowd = [stranger(site, agents, f"crowd{n}") for n in range(8)]
    forgotten(crowd[-1])
    boxes = [agent.client.subscribe(agent.box("c")) for agent in crowd]
    before, began = refused(broker, "tenant"), time.monotonic()
    for agent in crowd:
        flood(agent, 500, "c")
    wait_until(lambda: refused(broker, "tenant") + refused(broker, "waiting") >= before + 4000, 30, "all to be refused")
    assert sum(len(box.messages) for box in boxes) <= ANSWERS * (time.monotonic() - began + 2)


def test_the_waiting_room_is_bounded(site: Site, broker: Musterd, agents: Agents) -> None:
    """Behind a question that is not answered: 30 MB come, and 4 MiB may wait."""
    agent, a1 = stranger(site, agents, "crush"), known(agents)
    forgotten(agent)
    box = agent.client.subscribe(agent.box("f"))
    with stalled_registry(site, broker):
        flood(agent, 300, "f", json.dumps({"text": "x" * 100_000}).encode())
        assert others_are_served(a1, 1) > 5
        assert refused(broker, "waiting") >= 250
        wait_until(lambda: refused(broker, "registry") >= 10, 10, "those that wait to be told")
    assert set(codes(box.messages)) <= {"resource_exhausted", "unavailable"} and box.messages
    for message in box.messages:
        assert 1 <= read(message).error["retry_after_ms"] <= 2000


def test_the_end_of_a_broker_where_requests_wait(site: Site, broker: Musterd, agents: Agents) -> None:
    agent, a1 = stranger(site, agents, "last"), agents("acme", "a1")
    forgotten(agent)
    box = agent.client.subscribe(agent.box("r"))
    with stalled_registry(site, broker):
        for _ in range(5):
            agent.tell("echo", "say", reply=agent.box("r"))
            agent.tell("pulse", "beat")
        a1.ask("echo", "say")  # comes after those
        assert broker.stop() == 0
    wait_until(lambda: len(box.messages) == 5, 5, "each to be told")
    assert codes(box.messages) == ["unavailable"] * 5


def test_a_tenant_whose_history_this_server_cannot_keep(site: Site, broker: Musterd) -> None:
    """/readyz names the stream and what helps, and what it says helps."""
    def told() -> str:
        return next((c["text"] for c in json.loads(broker.get("/readyz")[1])["components"] if c["code"] == "stream_missing"), "")

    site.cli("tenant", "add", "copies", "--history", "r3")
    text = str(wait_until(told, 20, "the broker to be refused"))
    assert text.startswith("stream MSG_copies: replicas > 1 not supported in non-clustered mode; tenant copies has --history r3, "), text
    remedy = re.search(r"UPDATE muster\.tenants .*", text)
    assert remedy
    site.postgres.query(remedy.group())
    wait_until(lambda: broker.get("/readyz")[0] == 200, 20, "the broker to be ready")
    site.cli("tenant", "rm", "copies")
