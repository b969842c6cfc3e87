"""Who is gone, and how that is learned: connections, silence, suspects, and what PostgreSQL keeps of sessions."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any

import pytest
from nats.errors import NoRespondersError

from agent import Agent
from client import Client
from harness import ROOT_TOKEN, Musterd, Site, wait_until
from pluginrig import Agents, end_of, own_broker

CONFIG = {"heartbeat": "500ms", "dead_after": "2s", "grace": "500ms", "roll_call": "1s", "lost_after": "8s", "stuck_after": "1500ms"}
MANY = [f"m{n}" for n in range(12)]


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    site = Site()
    try:
        site.start("acme")
        site.cli("agent", "add", "acme", *MANY, "--out", str(site.folder / "many"))
        yield site
    finally:
        site.close()


@pytest.fixture(scope="module")
def broker(site: Site, request: pytest.FixtureRequest) -> Generator[Musterd, None, None]:
    broker = own_broker(site, {"name": "presence", "config": CONFIG})
    broker.start()
    yield broker
    broker.stop()
    end_of(broker, request.session.testsfailed > 0)


@pytest.fixture
def agents(site: Site, broker: Musterd) -> Generator[Agents, None, None]:
    agents = Agents(site)
    yield agents
    agents.close()


def ask(agent: Agent, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    return agent.ask("presence", verb, body).body


class Caller(Agent):
    """An agent that may be closed in the middle of a test."""

    _closed = False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            super().close()


class Ear:
    """What is told of one agent, in order: (event, reason), and the body of each."""

    def __init__(self, watcher: Agent, of: str) -> None:
        self._heard = watcher.client.subscribe(f"{ROOT_TOKEN}.acme.evt.presence.>")
        self._of = of

    @property
    def bodies(self) -> list[tuple[str, dict[str, Any]]]:
        found = []
        for message in list(self._heard.messages):
            kind, body = message.subject.split(".")[4], json.loads(message.data)
            for each in body.get("agents", [body]) if isinstance(body, dict) else []:
                if each.get("agent_id") == self._of:
                    found.append((kind, each))
        return found

    @property
    def told(self) -> list[tuple[str, str | None]]:
        return [(kind, body.get("reason")) for kind, body in self.bodies]

    def wait(self, event: str, reason: str | None = None, deadline: float = 10) -> float:
        """Wait for it and say when it came."""
        wait_until(lambda: (event, reason) in self.told, deadline, f"{event} ({reason}) of {self._of}; told was {self.told}")
        return time.monotonic()


class Hearts:
    """Beats of agents, by whatever client sends them; an agent can be told to be silent."""

    def __init__(self) -> None:
        self._beating: dict[str, Client] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.3):
            for name, client in list(self._beating.items()):
                if client.connected:
                    client.publish_soon(f"{ROOT_TOKEN}.acme.rpc.{name}.presence.beat", b"{}")

    def start(self, name: str, client: Client) -> None:
        self._beating[name] = client

    def stop(self, names: Iterable[str]) -> None:
        for name in names:
            self._beating.pop(name, None)

    def close(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture
def hearts() -> Generator[Hearts, None, None]:
    hearts = Hearts()
    yield hearts
    hearts.close()


@pytest.fixture
def watcher(agents: Agents) -> Agent:
    return agents("acme", "watcher")


@pytest.fixture
def come(site: Site, hearts: Hearts, watcher: Agent, broker: Musterd) -> Generator[Callable[..., tuple[Agent, Ear]], None, None]:
    """come("ann") is ann, who has said hello and beats, and what is told of her from before that."""
    here: list[Agent] = []

    def make(name: str, session: str = "", beats: bool = True) -> tuple[Agent, Ear]:
        ear, agent = Ear(watcher, name), Caller(site, "acme", name)
        here.append(agent)
        assert ask(agent, "hello", {"session": session} if session else {})["heartbeat_ms"] == 500
        if beats:
            hearts.start(name, agent.client)
        ear.wait("join")
        return agent, ear

    yield make
    for agent in here:
        hearts.stop([agent.name])
        agent.close()


def session_of(site: Site, session: str) -> tuple[Any, ...]:
    rows = site.postgres.query("SELECT agent_id, status, gone_reason, state IS NOT NULL, ended_at IS NOT NULL FROM public.agent_sessions"
                               " WHERE tenant_id = 'acme' AND session_id = %s", [session])
    return rows[0] if rows else ()


# Connections


def test_who_loses_the_last_connection_is_gone_after_the_grace(site: Site, come: Callable[..., tuple[Agent, Ear]], hearts: Hearts) -> None:
    ann, ear = come("ann", "s-ann")
    second = Client(site.nats.url, site.agent("acme", "ann"), "acme", "ann")
    wait_until(lambda: session_of(site, "s-ann") == ("ann", "active", None, True, False), 10, "the row of the session")
    hearts.start("ann", second)
    ann.close()
    time.sleep(0.8)  # longer than the grace
    assert ear.told == [("join", None)], "one connection is left"
    hearts.stop(["ann"])
    began = time.monotonic()
    second.close()
    assert 0.4 < ear.wait("leave", "disconnected") - began < 1.5
    wait_until(lambda: session_of(site, "s-ann") == ("ann", "failed", "disconnected", False, True), 10, "the end of the session")


def test_who_is_back_within_the_grace_has_not_been_away(site: Site, come: Callable[..., tuple[Agent, Ear]], hearts: Hearts) -> None:
    bob, ear = come("bob")
    hearts.stop(["bob"])
    bob.close()
    time.sleep(0.2)
    again = Client(site.nats.url, site.agent("acme", "bob"), "acme", "bob")
    hearts.start("bob", again)
    time.sleep(1)
    hearts.stop(["bob"])
    assert ear.told == [("join", None)]
    again.close()
    ear.wait("leave", "disconnected")


def test_who_says_nothing_any_more_is_gone_though_connected(come: Callable[..., tuple[Agent, Ear]], hearts: Hearts) -> None:
    _, ear = come("cat")
    time.sleep(0.7)
    hearts.stop(["cat"])
    began = time.monotonic()
    assert 1.0 < ear.wait("leave", "timeout") - began < 3


def test_who_says_bye_or_begins_anew_has_completed_the_session(site: Site, come: Callable[..., tuple[Agent, Ear]]) -> None:
    dan, ear = come("dan", "s-dan-1")
    assert ask(dan, "hello", {"session": "s-dan-2"})["session"] == "s-dan-2"
    wait_until(lambda: session_of(site, "s-dan-1") == ("dan", "completed", "replaced", False, True), 10, "the first session's end")
    assert ask(dan, "bye") == {}
    ear.wait("leave", "bye")
    wait_until(lambda: session_of(site, "s-dan-2") == ("dan", "completed", "bye", False, True), 10, "the second session's end")
    assert [event for event, _ in ear.told] == ["join", "join", "leave"]


def test_who_is_cut_off_with_all_others_comes_back_and_nobody_is_gone(site: Site, broker: Musterd, come: Callable[..., tuple[Agent, Ear]]) -> None:
    """NATS is killed and started again: clients and broker lose it at once, and find it at their own pace."""
    callers = {name: come(name) for name in ("jan", "kay", "lea")}
    site.nats.kill()
    time.sleep(1)
    site.nats.start()
    watcher = callers["jan"][0]
    wait_until(lambda: len(listed(watcher)) >= 3, 20, "the roster to be told again")
    time.sleep(3.2)  # longer than a silence, and the wait that follows it
    for name, (agent, ear) in callers.items():
        assert "leave" not in [event for event, _ in ear.told], (name, ear.told)
        assert ask(agent, "get", {"agent": name})["suspect"] is False
    for agent, _ in callers.values():
        assert ask(agent, "bye") == {}


# Suspects


def test_many_who_fall_silent_at_once_are_called_before_they_are_gone(site: Site, hearts: Hearts, watcher: Agent, broker: Musterd) -> None:
    """Simulated: all of them over one connection that is a broker's."""
    client = Client(site.nats.url, site.nats.folder / "broker.creds", "acme", "m0")
    calls = watcher.client.subscribe(f"{ROOT_TOKEN}.acme.all._muster.roll_call")
    ears = {name: Ear(watcher, name) for name in MANY}
    for name in MANY:
        client.publish(f"{ROOT_TOKEN}.acme.rpc.{name}.presence.hello", b"{}")
        hearts.start(name, client)
    for ear in ears.values():
        ear.wait("join")
    time.sleep(0.7)
    hearts.stop(MANY)
    for ear in ears.values():
        ear.wait("suspect", "silent")
    wait_until(lambda: calls.messages, 5, "a roll call")
    assert json.loads(calls.messages[0].data) == {"within_ms": 1000}
    for name in MANY[:6]:
        hearts.start(name, client)
    for name in MANY[:6]:
        wait_until(lambda name=name: ears[name].told[-1] == ("status", None), 5, f"{name} to be trusted again")
    for name in MANY[6:]:
        ears[name].wait("leave", "timeout")
    for name in MANY[:6]:
        assert [event for event, _ in ears[name].told] == ["join", "suspect", "status"]
    hearts.stop(MANY)
    for name in MANY[:6]:
        client.publish(f"{ROOT_TOKEN}.acme.rpc.{name}.presence.bye", b"{}")
    client.close()


def test_who_beats_and_does_not_get_on_is_suspect_once(come: Callable[..., tuple[Agent, Ear]]) -> None:
    eve, ear = come("eve")
    assert ask(eve, "status", {"status": "busy", "task": "dig"}) == {}
    ear.wait("suspect", "stuck")
    time.sleep(0.7)
    assert [event for event, _ in ear.told] == ["join", "status", "suspect"], "its beats do not clear it, and it is told once"
    assert ask(eve, "status", {"status": "busy", "task": "dig"}) == {}
    wait_until(lambda: ear.told[-1][0] == "status" and not ear.bodies[-1][1]["suspect"], 5, "a word of the task to clear it")
    time.sleep(0.7)
    assert ear.told[-1][0] == "status"
    assert ask(eve, "bye") == {}


# What PostgreSQL keeps


def test_after_a_restart_of_all_brokers_the_roster_is_there_and_doubted(site: Site, broker: Musterd, come: Callable[..., tuple[Agent, Ear]],
                                                                        hearts: Hearts, watcher: Agent) -> None:
    _, fay_ear = come("fay", "s-fay")
    gil, gil_ear = come("gil", "s-gil")
    assert ask(gil, "status", {"status": "away", "task": "rest"}) == {}
    for session in ("s-fay", "s-gil"):
        wait_until(lambda session=session: session_of(site, session)[1:] == ("active", None, True, False), 10, "rows of the sessions")
    hearts.stop(["gil"])
    broker.kill()
    site.postgres.query("ALTER FUNCTION muster.sessions_present(text, integer) RENAME TO away")  # as where `muster migrate` was forgotten
    broker.start(ready=False)
    wait_until(lambda: "sessions_loading): the sessions of 1 shards are being read from PostgreSQL: function muster.sessions_present("
               in broker.log(), 20, "the reason")
    refused = watcher.ask("presence", "list").error
    assert refused["code"] == "unavailable" and refused["retry_after_ms"] > 0, "who asks while a shard is taken over is told so"
    at = len(broker.log())
    site.postgres.query("ALTER FUNCTION muster.away(text, integer) RENAME TO sessions_present")
    broker.wait_ready()
    assert "catching_up" not in broker.log()[at:], "the same reason until the end"
    agents = wait_until(lambda: listed(watcher), 20, "a broker that answers")
    assert {agent["agent_id"] for agent in agents} == {"fay", "gil"}
    gil_ear.wait("leave", "timeout")
    wait_until(lambda: ask(watcher, "get", {"agent": "fay"}).get("suspect") is False, 10, "fay to be trusted")
    assert ("leave", "timeout") not in fay_ear.told
    assert ("suspect", "restart") in gil_ear.told


def answer_of(agent: Agent, service: str, verb: str) -> dict[str, Any]:
    """Nothing while nobody leads: clients ask again."""
    try:
        return agent.ask(service, verb, timeout=0.5).body
    except (TimeoutError, NoRespondersError):
        return {}


def listed(agent: Agent) -> list[dict[str, Any]]:
    return list(answer_of(agent, "presence", "list").get("agents", []))


def test_events_go_on_while_postgresql_is_away_and_rows_follow(site: Site, come: Callable[..., tuple[Agent, Ear]]) -> None:
    site.agent("acme", "hal")
    site.postgres.pause()
    try:
        hal, ear = come("hal", "s-hal")
        assert ask(hal, "bye") == {}
        ear.wait("leave", "bye")
    finally:
        site.postgres.resume()
    wait_until(lambda: session_of(site, "s-hal") == ("hal", "completed", "bye", False, True), 30, "the row, once PostgreSQL is back")


def test_a_broker_that_comes_late_does_not_write(site: Site) -> None:
    def record(epoch: int, **row: Any) -> dict[str, Any]:
        rows = [{"session": "s-late", "agent": "ida", "status": "active", "begins": True, "at": "2026-01-01T00:00:00Z", "epoch": epoch, **row}]
        with site.postgres.connect() as connection:
            connection.execute("SET LOCAL ROLE muster_broker; SET LOCAL app.current_tenant = 'acme'")
            return dict(connection.execute("SELECT muster.record_sessions(%s::jsonb)", [json.dumps(rows)]).fetchone()[0]["ok"])  # type: ignore[index]

    assert record(7, state={"agent_id": "ida", "metadata": {"a": 1}}) == {"stored": 1, "refused": 0}
    assert record(6, status="failed", begins=False, reason="timeout") == {"stored": 0, "refused": 1}
    assert session_of(site, "s-late") == ("ida", "active", None, True, False)
    assert record(7, agent="eve") == {"stored": 1, "refused": 0}, "its own, though another agent's has this name already"
    assert record(8, status="failed", begins=False, reason="timeout") == {"stored": 1, "refused": 0}
    assert session_of(site, "s-late") == ("ida", "failed", "timeout", False, True)


# session.*, stats.hub


def test_sessions_are_registered_and_ended_by_hand(site: Site, agents: Agents) -> None:
    ann, bob = agents("acme", "ann"), agents("acme", "bob")
    made = ann.ask("session", "register", {"session_id": "by-hand", "metadata": {"n": 1}, "request_id": "r1"}).body
    assert made["session_id"] == "by-hand" and made["agent_id"] == "ann" and made["status"] == "active" and made["metadata"] == {"n": 1}
    assert ann.ask("session", "register", {"session_id": "by-hand", "metadata": {"n": 1}, "request_id": "r1"}).body == made
    assert ann.ask("session", "register", {"session_id": "other", "request_id": "r1"}).error["code"] == "already_exists"
    assert ann.ask("session", "register", {"session_id": "by-hand"}, packed=True).body["metadata"] == {"n": 1}
    refused = bob.ask("session", "register", {"session_id": "by-hand"}).error
    assert (refused["code"], refused["field"]) == ("already_exists", "session_id")
    assert bob.ask("session", "status", {"session_id": "by-hand", "status": "completed"}).error["code"] == "permission_denied"
    assert bob.ask("session", "status", {"session_id": "never", "status": "completed"}).error["code"] == "not_found"
    assert bob.ask("session", "status", {"session_id": "by-hand", "status": "done"}).error["field"] == "status"
    assert "by-hand" in [row["session_id"] for row in bob.ask("session", "active", {}).body["sessions"]]
    ended = ann.ask("session", "status", {"session_id": "by-hand", "status": "completed"}).body
    assert ended["status"] == "completed" and ended["ended_at"].endswith("Z")
    assert "by-hand" not in [row["session_id"] for row in bob.ask("session", "active", {}).body["sessions"]]


def test_sessions_are_listed_page_by_page(agents: Agents) -> None:
    ann = agents("acme", "ann")
    wanted = [f"page-{n}" for n in range(5)]
    for session in wanted:
        ann.ask("session", "register", {"session_id": session})
    found, after = [], None
    while True:
        page = ann.ask("session", "active", {"limit": 2, **({"after": after} if after else {})}).body
        assert (page["epoch"], page["seq"]) == (0, 0), "no events complete it"
        found += [row["session_id"] for row in page["sessions"]]
        after = page.get("next")
        if not after:
            break
    assert [session for session in found if session in wanted] == wanted and found == sorted(found)


def nested(levels: int) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for _ in range(levels - 1):
        body = {"a": body}
    return body


def test_what_one_says_of_itself_keeps_nobody_from_reading(come: Callable[..., tuple[Agent, Ear]], agents: Agents) -> None:
    """What is deep or large has bounds where it is said: lists tell all of it, in either encoding."""
    (ann, _), bob = come("ann"), agents("acme", "bob")
    ask(ann, "hello", {"session": "deep", "metadata": nested(16)})
    assert ann.ask("presence", "hello", {"metadata": nested(17)}).error["field"] == "metadata"
    assert ann.ask("presence", "status", {"status": "busy", "metadata": nested(31)}).error["field"] == "metadata"
    assert ann.ask("session", "register", {"session_id": "deeper", "metadata": nested(17)}).error["field"] == "metadata"
    assert ann.ask("session", "register", {"session_id": "larger", "metadata": {"m": "x" * 65536}}).error["field"] == "metadata"
    large = [f"large-{n:02}" for n in range(16)]
    for session in large:
        ann.ask("session", "register", {"session_id": session, "metadata": {"m": "x" * 65000}})
    for packed in (False, True):
        assert "ann" in [agent["agent_id"] for agent in bob.ask("presence", "list", packed=packed).body["agents"]]
        first = bob.ask("session", "active", {"limit": 1000}, packed=packed).body
        rest = bob.ask("session", "active", {"limit": 1000, "after": first["next"]}, packed=packed).body
        found = [row["session_id"] for row in first["sessions"] + rest["sessions"]]
        assert [session for session in found if session in large] == large and "next" not in rest
    for session in large:
        ann.ask("session", "status", {"session_id": session, "status": "completed"})


def test_the_hub_is_told_at_a_glance(come: Callable[..., tuple[Agent, Ear]]) -> None:
    ann, _ = come("ann")
    ask(ann, "status", {"status": "busy", "task": "dig \"deep\""})
    hub = wait_until(lambda: answer_of(ann, "stats", "hub"), 20, "a broker that leads")
    assert (hub["tenant_id"], hub["agent_id"], hub["heartbeat_interval"], hub["memory_sync"]) == ("acme", "ann", 500, True)
    assert hub["active_agents"] == len(hub["agents"]) >= 1
    mine = next(agent for agent in hub["agents"] if agent["agent_id"] == "ann")
    assert (mine["status"], mine["task"], mine["suspect"]) == ("busy", 'dig "deep"', False)
    assert "evt.presence" in hub["channels"] and hub["timestamp"].endswith("Z")
    assert ann.ask("stats", "hub", packed=True).body["active_agents"] == hub["active_agents"]
    ask(ann, "bye")
