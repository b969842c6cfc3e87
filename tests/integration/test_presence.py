"""Who is here: hello, status, bye and beats of real agents, the events that tell of them, and what follows the events from a list on."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Generator
from typing import Any

import pytest

from agent import Agent
from client import Client, Message
from harness import ROOT_TOKEN, Musterd, Site, wait_until
from pluginrig import Agents, own_broker

CONFIG = {"heartbeat": "500ms", "dead_after": "60s", "grace": "300ms", "digest_above": 15, "count_above": 20}
MANY = [f"m{n:03}" for n in range(40)]


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    site = Site()
    try:
        site.start("acme", "zeta")
        site.cli("agent", "add", "acme", *MANY, "--out", str(site.folder / "many"))
        yield site
    finally:
        site.close()


def presence(site: Site, name: str) -> Musterd:
    broker = own_broker(site, {"name": "presence", "config": CONFIG})
    broker.config["broker"] = {**broker.config["broker"], "id": name}
    return broker


@pytest.fixture(scope="module")
def brokers(site: Site) -> Generator[list[Musterd], None, None]:
    """Two, of which tests may kill one and start it again."""
    brokers = [presence(site, "b0"), presence(site, "b1")]
    for broker in brokers:
        broker.start()
    yield brokers
    for broker in brokers:
        broker.resume()
        if broker.alive:
            assert broker.stop() == 0, broker.log()[-3000:]
        assert "Sanitizer" not in broker.log() and "runtime error" not in broker.log(), broker.log()[-5000:]


@pytest.fixture
def agents(site: Site, brokers: list[Musterd]) -> Generator[Agents, None, None]:
    agents = Agents(site)
    yield agents
    agents.close()


@pytest.fixture
def ann(agents: Agents) -> Generator[Agent, None, None]:
    ann = agents("acme", "ann")
    yield ann
    ask(ann, "bye")


def ask(agent: Agent, verb: str, body: dict[str, Any] | None = None, **how: Any) -> dict[str, Any]:
    return agent.ask("presence", verb, body, **how).body


class Ear:
    """What an agent hears of presence, event by event; a digest is one."""

    def __init__(self, agent: Agent) -> None:
        self._heard = agent.client.subscribe(f"{ROOT_TOKEN}.{agent.tenant}.evt.presence.>")

    @property
    def messages(self) -> list[Message]:
        return list(self._heard.messages)

    def of(self, event: str, agent: str) -> list[dict[str, Any]]:
        """The bodies of the events of one agent, from digests too."""
        found = []
        for message in self.messages:
            kind, key = message.subject.split(".")[4:6]
            body = json.loads(message.data)
            if kind == event:
                found += [each for each in body.get("agents", [body] if key != "_" else []) if each["agent_id"] == agent]
        return found

    def wait(self, event: str, agent: str, n: int = 1) -> dict[str, Any]:
        return wait_until(lambda: self.of(event, agent)[n - 1:], 10, f"{n} {event} of {agent}")[0]

    def positions(self) -> list[tuple[int, int]]:
        return [(int(m.headers["Muster-Epoch"]), int(m.headers["Muster-Seq"])) for m in self.messages]


HELLO = {"name": "Ann", "capabilities": ["code", "review"], "labels": {"zone": "a"}, "capacity": 3, "auto_accept": False, "delivery": "pull",
         "metadata": {"model": "x", "n": [1, 2.5]}}


def test_hello(ann: Agent, agents: Agents) -> None:
    bob = agents("acme", "bob")
    ear = Ear(bob)
    said = ask(ann, "hello", HELLO)
    assert said["session"] and said["agents"] == 1 and said["epoch"] > 0 and said["seq"] >= 1
    assert (said["heartbeat_ms"], said["dead_after_ms"], said["grace_ms"]) == (500, 60000, 300)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", said["server_time"])

    join = ear.wait("join", "ann")
    assert join["from"] is None and join["at"]
    assert join["tenant_id"] == "acme" and join["session"] == said["session"] and join["status"] == "online"
    assert (said["epoch"], said["seq"]) == ear.positions()[0]
    seen = ask(bob, "get", {"agent": "ann"})
    assert {k: v for k, v in seen.items() if k != "last_heartbeat"} == \
        {k: v for k, v in join.items() if k not in ("from", "at", "last_heartbeat")}
    assert {k: seen[k] for k in HELLO} == HELLO
    assert seen["task"] is None and seen["load"] is None and seen["suspect"] is False

    again = ask(ann, "hello", {**HELLO, "session": said["session"]})
    assert again["session"] == said["session"] and again["seq"] == said["seq"]  # nothing has changed, and nobody is told
    assert bob.ask("presence", "get", {"agent": "nobody"}).error["code"] == "not_found"


def test_status_and_beats(ann: Agent, agents: Agents) -> None:
    bob = agents("acme", "bob")
    assert ann.ask("presence", "beat").error["message"] == "this agent is not present: say hello first"
    assert ann.ask("presence", "status", {"status": "busy"}).error["code"] == "failed_precondition"
    ask(ann, "hello", HELLO)
    ear = Ear(bob)
    assert ask(ann, "status", {"status": "busy", "task": "t1", "load": 0.5}) == {}
    changed = ear.wait("status", "ann")
    assert (changed["status"], changed["from"], changed["task"], changed["load"]) == ("busy", "online", "t1", 0.5)
    assert changed["metadata"] == HELLO["metadata"]

    before = ask(bob, "get", {"agent": "ann"})
    ann.tell("presence", "beat", {"load": 0.75})
    after = wait_until(lambda: (now := ask(bob, "get", {"agent": "ann"}))["load"] == 0.75 and now, 5, "the load of the beat")
    assert after["last_heartbeat"] > before["last_heartbeat"]
    assert {**after, "load": 0, "last_heartbeat": 0} == {**before, "load": 0, "last_heartbeat": 0}
    for _ in range(5):
        assert ask(ann, "beat") == {}
    assert ask(ann, "status", {"status": "busy", "task": "t1"}) == {}
    assert ask(ann, "status", {"status": "away", "metadata": {"new": True}}) == {}
    changed = ear.wait("status", "ann", 2)  # neither beats nor the same status once more were told
    assert (changed["status"], changed["from"], changed["task"], changed["metadata"]) == ("away", "busy", None, {"new": True})
    assert len(ear.messages) == 2


def test_sessions_replace(ann: Agent, agents: Agents) -> None:
    bob = agents("acme", "bob")
    ear = Ear(bob)
    ask(ann, "hello", {"session": "s1"})
    ask(ann, "status", {"status": "busy"})
    ask(ann, "hello", {"session": "s2", "capabilities": ["x"]})
    assert ear.wait("join", "ann", 2)["session"] == "s2"
    seen = ask(bob, "get", {"agent": "ann"})
    assert (seen["session"], seen["status"], seen["capabilities"]) == ("s2", "online", ["x"])
    assert ask(ann, "bye", {"session": "s1"}) == {}  # of the incarnation before: nothing happens
    assert ask(bob, "get", {"agent": "ann"})["session"] == "s2"
    assert ask(ann, "bye") == {}
    assert ear.wait("leave", "ann")["reason"] == "bye"
    assert ask(ann, "bye") == {}
    assert [len(ear.of(kind, "ann")) for kind in ("join", "status", "leave")] == [2, 1, 1]
    assert bob.ask("presence", "get", {"agent": "ann"}).error["code"] == "not_found"


def test_find(agents: Agents) -> None:
    made = {"f1": {"capabilities": ["code"], "labels": {"zone": "a", "os": "l"}}, "f2": {"capabilities": ["code", "test"], "labels": {"zone": "b"}},
            "f3": {"labels": {"zone": "a"}}}
    for name, hello in made.items():
        ask(agents("zeta", name), "hello", hello)
    f1 = agents("zeta", "f1")
    ask(agents("zeta", "f2"), "status", {"status": "busy"})

    def found(**query: Any) -> list[str]:
        body = ask(f1, "list", query)
        assert ask(f1, "count", query)["count"] == len(body["agents"])
        return [agent["agent_id"] for agent in body["agents"]]

    assert found() == ["f1", "f2", "f3"]
    assert found(capability="code") == ["f1", "f2"]
    assert found(capability="code", label={"zone": "b"}) == ["f2"]
    assert found(label={"zone": "a", "os": "l"}) == ["f1"]
    assert found(status="busy") == ["f2"] and found(status="away") == []
    assert ask(f1, "count") == {"count": 3, "by_status": {"online": 2, "busy": 1, "away": 0, "suspect": 0}}
    page = ask(f1, "list", {"limit": 2})
    assert [a["agent_id"] for a in page["agents"]] == ["f1", "f2"]
    rest = ask(f1, "list", {"limit": 2, "after": page["next"]})
    assert [a["agent_id"] for a in rest["agents"]] == ["f3"] and "next" not in rest
    assert f1.ask("presence", "list", {"after": "x"}).error["field"] == "after"
    assert ask(f1, "list", packed=True)["agents"][1]["agent_id"] == "f2"
    assert ask(agents("acme", "bob"), "count")["count"] == 0  # of another tenant
    for name in made:
        ask(agents("zeta", name), "bye")


@pytest.mark.parametrize("body, field", [
    ({"capabilities": ["x" * 65]}, "capabilities"), ({"labels": {"k": "v" * 257}}, "labels"), ({"metadata": {"k": "v" * 4096}}, "metadata"),
    ({"capacity": 0}, "capacity"), ({"delivery": "fax"}, "delivery"), ({"colour": 1}, "colour")])
def test_hello_is_checked(ann: Agent, body: dict[str, Any], field: str) -> None:
    error = ann.ask("presence", "hello", body).error
    assert error["code"] == "invalid_argument" and error["field"] == field and field in error["message"]


class Crowd:
    """Many agents over one connection with a broker's credentials, each under its own name."""

    def __init__(self, site: Site) -> None:
        self.client = Client(site.nats.url, site.nats.folder / "broker.creds")
        self._answers = self.client.subscribe(f"{ROOT_TOKEN}.acme.box.*.crowd.*")

    def all(self, verb: str, body: dict[str, Any], names: list[str] = MANY) -> list[dict[str, Any]]:
        first = len(self._answers.messages)
        self.client.publish_all([(f"{ROOT_TOKEN}.acme.rpc.{name}.presence.{verb}", f"{ROOT_TOKEN}.acme.box.{name}.crowd.{verb}")
                                 for name in names], json.dumps(body).encode())
        wait_until(lambda: len(self._answers.messages) >= first + len(names), 20, f"{len(names)} answers to {verb}")
        return [json.loads(m.data) for m in self._answers.messages[first:]]


@pytest.fixture
def crowd(site: Site, brokers: list[Musterd]) -> Generator[Crowd, None, None]:
    crowd = Crowd(site)
    yield crowd
    crowd.client.close()


def roster_of(ear: Ear, at: tuple[int, int], listed: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A list, and the events after its position: what a client does."""
    here = {agent["agent_id"]: agent for agent in listed}
    for message, position in zip(ear.messages, ear.positions(), strict=True):
        kind, key = message.subject.split(".")[4:6]
        body = json.loads(message.data)
        if position <= at or kind == "count":
            continue
        for agent in body.get("agents", [body]):
            if kind == "leave":
                here.pop(agent["agent_id"], None)
            else:
                here[agent["agent_id"]] = agent
    return here


def told(agent: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in agent.items() if k not in ("from", "at", "reason", "last_heartbeat", "load")}


def test_storm(crowd: Crowd, agents: Agents) -> None:
    """Joins at once are few events; a list in the middle of it and the events after it are the roster; large tenants hear counts."""
    bob = agents("acme", "bob")
    ear = Ear(bob)
    middle: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: middle.append(ask(bob, "list", {"limit": 1000})))
    thread.start()
    crowd.all("hello", {"capabilities": ["code"]})
    crowd.all("status", {"status": "busy"})
    thread.join()
    wait_until(lambda: [m for m in ear.messages if ".count._" in m.subject and json.loads(m.data)["by_status"]["busy"] == len(MANY)], 5, "the count")
    digests = [m for m in ear.messages if m.subject.endswith(("join._", "status._"))]
    assert digests and len(ear.messages) < 2 * len(MANY) / 2
    assert len({epoch for epoch, _ in ear.positions()}) == 1
    seqs = [seq for _, seq in ear.positions()]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    now = ask(bob, "list", {"limit": 1000})
    expected = {agent["agent_id"]: told(agent) for agent in now["agents"]}
    here = roster_of(ear, (middle[0]["epoch"], middle[0]["seq"]), middle[0]["agents"])
    assert {name: told(agent) for name, agent in here.items()} == expected and len(expected) == len(MANY)
    crowd.all("bye", {})
    assert ask(bob, "count")["count"] == 0


def test_shards_are_shared(brokers: list[Musterd]) -> None:
    def held() -> list[float]:
        return [broker.metric("muster_presence_shards") for broker in brokers]

    wait_until(lambda: sum(held()) == 16 and min(held()) >= 4, 20, f"both to hold shards: {held()}")


def test_a_late_event_of_the_holder_before(site: Site, agents: Agents, brokers: list[Musterd]) -> None:
    """What it had sent when it was followed, and NATS stored only then, all have heard: it is so, for both brokers and for lists."""
    zed, zoe = agents("zeta", "zed"), agents("zeta", "zoe")
    nats = Client(site.nats.url, site.nats.folder / "broker.creds")

    def known() -> list[float]:
        return [broker.metric("muster_presence_agents") for broker in brokers]

    before, at = known(), ask(zed, "list")
    assert at["seq"] == 0, "nothing was told in this epoch"
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
    shard = 2166136261
    for c in b"zeta":
        shard = (shard ^ c) * 16777619 & 0xffffffff
    event = {"agent_id": "zoe", "tenant_id": "zeta", "status": "online", "suspect": False, "task": None, "started_at": now, "last_heartbeat": now,
             "capabilities": [], "labels": {}, "capacity": 1, "auto_accept": True, "delivery": "push", "load": None, "metadata": {},
             "session": "late", "from": None, "at": now}
    nats.publish(f"{ROOT_TOKEN}._in.zeta.pres.{shard % 16}.join.zoe", json.dumps(event).encode(),
                 headers={"Muster-Epoch": str(at["epoch"] - 1), "Muster-Seq": "7"})
    wait_until(lambda: known() == [n + 1 for n in before], 15, "both to know zoe")
    wait_until(lambda: [agent["session"] for agent in ask(zed, "list")["agents"]] == ["late"], 5, "the list to say so")
    assert ask(zoe, "bye") == {}
    wait_until(lambda: known() == before, 10, "both to know that zoe has left")
    assert ask(zed, "list")["seq"] == 2, "what nobody heard under this epoch has a position: who missed it reads the roster"
    nats.close()


def test_a_tenant_that_is_removed(site: Site, agents: Agents, brokers: list[Musterd]) -> None:
    """Its agents are kept by no broker, and nobody waits for its roster."""
    def known() -> list[float]:
        return [broker.metric("muster_presence_agents") for broker in brokers]

    before = known()
    for _ in range(2):  # it may come back under its name
        site.cli("tenant", "add", "brief")
        gil = Agent(site, "brief", "gil")
        wait_until(lambda gil=gil: "session" in ask(gil, "hello"), 10, "a session")
        wait_until(lambda: known() == [n + 1 for n in before], 10, "both to know gil")
        site.cli("tenant", "rm", "brief", "--force")
        wait_until(lambda: known() == before, 5, "both to forget gil")
        gil.close()
        site._creds.pop(("brief", "gil")).unlink()
    zed = agents("zeta", "zed")
    assert ask(zed, "list")["agents"] == []


def test_take_over(crowd: Crowd, agents: Agents, brokers: list[Musterd]) -> None:
    """kill -9 of the holder: the other answers with the same roster, under a new epoch, and events go on from 1."""
    bob = agents("acme", "bob")
    ear = Ear(bob)
    before_kill = [broker.metric("muster_presence_events_total") for broker in brokers]
    crowd.all("hello", {"labels": {"k": "v"}}, MANY[:10])
    crowd.all("status", {"status": "busy"}, MANY[:5])
    before = ask(bob, "list", {"limit": 1000})
    grown = [broker.metric("muster_presence_events_total") - n for broker, n in zip(brokers, before_kill, strict=True)]
    assert min(grown) == 0 and max(grown) > 0  # one alone tells
    brokers[grown.index(max(grown))].kill()
    begin = time.monotonic()
    after = None
    while after is None:
        try:
            after = ask(bob, "list", {"limit": 1000}, timeout=0.2)
        except Exception:
            assert time.monotonic() - begin < 20, "nobody took the shard over"
    print(f"taken over after {time.monotonic() - begin:.2f} s")
    assert after["epoch"] > before["epoch"] and after["seq"] == 0
    assert [told(agent) for agent in sorted(after["agents"], key=lambda a: a["agent_id"])] == \
        [told(agent) for agent in sorted(before["agents"], key=lambda a: a["agent_id"])]
    n = len(ear.messages)
    crowd.all("status", {"status": "away"}, MANY[:1])
    wait_until(lambda: ear.messages[n:], 5, "the event of the new holder")
    assert ear.positions()[n] == (after["epoch"], 1)

    back = brokers[grown.index(max(grown))]
    back.start()  # asks for the list before it is ready, and follows from there
    crowd.all("status", {"status": "busy"}, MANY[:1])
    brokers[1 - grown.index(max(grown))].kill()
    wait_until(lambda: status_of(bob, MANY[0]) == "busy", 20, "the broker that came back to know the roster")
    brokers[1 - grown.index(max(grown))].start()
    crowd.all("bye", {}, MANY[:10])


def status_of(asker: Agent, name: str) -> str | None:
    try:
        return str(ask(asker, "get", {"agent": name}, timeout=0.3)["status"])
    except Exception:
        return None
