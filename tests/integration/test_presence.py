"""Who is here: hello, status, bye and beats of real agents, the events that tell of them, and what follows the events from a list on."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Generator
from typing import Any

import pytest
from nats.errors import NoRespondersError

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
        site.start("acme", "zeta", "yard")  # yard: in which nothing is told but late
        site.cli("agent", "add", "acme", *MANY, "--out", str(site.folder / "many"))
        for ago in (31, 29):
            site.postgres.query("INSERT INTO public.agent_sessions (tenant_id, session_id, agent_id, status, ended_at)"
                                f" VALUES ('zeta', 'ago{ago}', 'old', 'failed', now() - interval '{ago} days')")
        yield site
    finally:
        site.close()


def presence(site: Site, name: str) -> Musterd:
    broker = own_broker(site, {"name": "presence", "config": CONFIG})
    broker.config["broker"] = {**broker.config["broker"], "id": name}
    return broker


@pytest.fixture(scope="module")
def brokers(site: Site, request: pytest.FixtureRequest) -> Generator[list[Musterd], None, None]:
    """Two, of which tests may kill one and start it again; their logs are shown where a test failed."""
    brokers = [presence(site, "b0"), presence(site, "b1")]
    for broker in brokers:
        broker.start()
    wait_until(lambda: held(brokers) == [8, 8], 60, "both to hold as many shards: none moves any more")
    yield brokers
    for broker in brokers:
        if request.session.testsfailed:
            print(f"--- {broker.config['broker']['id']}\n{broker.log()[-30000:]}")
        broker.resume()
        if broker.alive:
            assert broker.stop() == 0, broker.log()[-3000:]
        assert "Sanitizer" not in broker.log() and "runtime error" not in broker.log(), broker.log()[-5000:]


def held(brokers: list[Musterd]) -> list[float]:
    return [broker.metric("muster_presence_shards") for broker in brokers]


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

    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=1"}
    ann.client.publish(ann.subject("presence", "status"), b'{"status": "online"}', headers={"other": "x", **trace})
    ear.wait("status", "ann", 3)
    assert {k: v for k, v in ear.messages[-1].headers.items() if not k.startswith(("Muster-", "Nats-"))} == trace


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


def test_sessions_are_not_kept_for_ever(site: Site, brokers: list[Musterd]) -> None:
    wait_until(lambda: site.postgres.query("SELECT session_id FROM public.agent_sessions WHERE agent_id = 'old'") == [("ago29",)], 20,
               "the session that ended 31 days ago to be forgotten")
    assert sum(broker.metric("muster_presence_sessions_purged_total") for broker in brokers) == 1


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


# Of each field what it may not be, from INTERFACE 4 and the definitions; and how the message names what came, where that is not plain.
LONG, DEEP = "x" * 65, {"k": "v" * 4096}
REFUSED: dict[str, dict[str, list[Any]]] = {
    "presence.hello": {
        "name": [7, None, "", "x" * 257], "capabilities": ["code", None, {"a": 1}, [7], [""], [LONG], ["x"] * 65],
        "labels": ["a", None, ["a"], {"k": 7}, {"k": "v" * 257}, {"x" * 65: "v"}, {f"k{n}": "v" for n in range(65)}],
        "capacity": ["3", None, 0, 10001, 1.5], "auto_accept": ["true", None, 1], "delivery": ["fax", None, 1, ""], "metadata": ["x", None, [1], DEEP],
        "session": [7, None, "", LONG], "request_id": [7, None, "", "x" * 129], "colour": [1]},
    "presence.beat": {"load": ["1", None, -0.1, 1000001], "request_id": ["r"], "status": ["busy"]},
    "presence.status": {
        "status": ["idle", None, 1, ""], "task": [7, "", "x" * 257], "load": ["1", None, -1, 1e7], "metadata": [[], None, DEEP],
        "request_id": ["", "x" * 129], "session": ["s1"]},
    "presence.bye": {"session": [7, None, "", LONG], "request_id": [1], "reason": ["done"]},
    "presence.list": {
        "status": ["idle", None, 3, ["busy"]], "capability": [7, None, "", LONG, ["code"]], "label": ["a", None, {}, {"k": 1}, {f"k{n}": "v" for n in range(17)}],
        "limit": ["10", None, 0, 1001, 2.5, -1], "after": [7, None, "", "x", "-1", "1x", "18446744073709551616", " 1"], "agent": ["ann"]},
    "presence.get": {"agent": [7, None, "", "a b", LONG], "limit": [1]},
    "presence.count": {"status": ["idle", None], "capability": [7, "", LONG], "label": [7, {}, {"k": None}], "limit": [5]},
    "session.register": {"session_id": [7, None, "", LONG], "metadata": ["x", None, []], "request_id": [""], "status": ["active"]},
    "session.status": {"session_id": [7, None, "", LONG], "status": ["idle", None, 1], "request_id": ["x" * 129], "metadata": [{}]},
    "session.active": {"limit": ["1", None, 0, 1001], "after": [7, None, "", LONG], "agent": ["ann"]},
    "stats.hub": {"agent": ["ann"]},
}
NEEDED = {"presence.status": {"status": "busy"}, "presence.get": {"agent": "ann"}, "session.register": {"session_id": "s1"},
          "session.status": {"session_id": "s1", "status": "active"}}


def shown(value: Any) -> str:
    """What the message has of what came, at least."""
    if isinstance(value, bool) or value is None:
        return "true" if value else "null" if value is None else "false"
    if isinstance(value, str):
        return f'"{value[:20]}'
    return str(value) if isinstance(value, int) else ""


@pytest.mark.parametrize("verb", REFUSED)
def test_what_is_refused_is_named(ann: Agent, verb: str) -> None:
    """The field, what came and what was expected; and nothing happens."""
    needed = NEEDED.get(verb, {})
    wrong = [({**needed, field: value}, field, value) for field, values in REFUSED[verb].items() for value in values]
    wrong += [({k: v for k, v in needed.items() if k != field}, field, ...) for field in needed]
    faults = []
    for body, field, value in wrong:
        answer = ann.ask(*verb.split("."), body)
        if "error" not in answer.body:
            faults.append(f"{body}: was taken")
            continue
        error = answer.error
        came = "nothing" if value is ... else "an unknown field" if "unknown field" in error["message"] else shown(value)
        if error["code"] != "invalid_argument" or error.get("field", "").partition(".")[0].partition("[")[0] != field or \
           field not in error["message"] or "expected" not in error["message"] or came not in error["message"] or len(error["message"]) > 400:
            faults.append(f"{str(body)[:100]}: {error}")
    assert not faults, "\n".join(faults)
    assert ann.ask("presence", "get", {"agent": "ann"}).error["code"] == "not_found"


def test_a_request_is_carried_out_once(ann: Agent, agents: Agents, brokers: list[Musterd]) -> None:
    """The same request_id with the same body gets the first answer, whatever happened since and whichever broker is asked."""
    ear = Ear(agents("acme", "bob"))
    hello = {"request_id": "h1", "labels": {"zone": "a"}}
    first = ask(ann, "hello", hello)
    assert ask(ann, "status", {"status": "busy", "task": "t1", "request_id": "s1"}) == {}
    assert ask(ann, "status", {"status": "away", "request_id": "s2"}) == {}
    assert ask(ann, "hello", hello) == first and ask(ann, "hello", {"labels": {"zone": "a"}, "request_id": "h1"}, packed=True) == first
    assert ask(ann, "status", {"status": "busy", "task": "t1", "request_id": "s1"}) == {}
    assert ask(ann, "get", {"agent": "ann"})["status"] == "away", "what came again was carried out again"
    assert ask(ann, "bye", {"request_id": "h1"}) == {}, "another verb has ids of its own"
    ear.wait("leave", "ann")
    assert ask(ann, "hello", {"session": "s9"})["session"] == "s9"
    assert ask(ann, "bye", {"request_id": "h1"}) == {} and ask(ann, "hello", hello) == first
    assert ask(ann, "get", {"agent": "ann"})["session"] == "s9"
    ear.wait("join", "ann", 2)
    assert [len(ear.of(kind, "ann")) for kind in ("join", "status", "leave")] == [2, 2, 1]

    error = ann.ask("presence", "hello", {"request_id": "h1"}).error
    assert (error["code"], error["field"]) == ("already_exists", "request_id") and "h1 came again with another body" in error["message"]
    assert ann.ask("presence", "status", {"status": "busy", "request_id": ""}).error["field"] == "request_id"
    refused = [ann.ask("presence", "hello", {"request_id": "m1", "metadata": {"k": "v" * 4096}}).error for _ in range(2)]
    assert refused[0] == refused[1] and refused[0]["field"] == "metadata"


def test_requests_at_once(agents: Agents) -> None:
    """Twice in a row without waiting: both get one answer, and what follows keeps its place."""
    cat, ear = agents("acme", "cat"), Ear(agents("acme", "bob"))
    answers = cat.client.subscribe(cat.box("once.*"))
    for n in range(3):
        cat.tell("presence", "hello", {"request_id": "x1"}, reply=cat.box(f"once.{n}"))
    cat.tell("presence", "status", {"status": "busy", "request_id": "x2"}, reply=cat.box("once.3"))
    cat.tell("presence", "bye", {}, reply=cat.box("once.4"))
    bodies = {m.subject[-1]: json.loads(m.data) for m in wait_until(lambda: len(answers.messages) == 5 and answers.messages, 10, "five answers")}
    assert bodies["0"]["session"] and bodies["0"] == bodies["1"] == bodies["2"]
    assert bodies["3"] == bodies["4"] == {}
    ear.wait("leave", "cat")
    assert [m.subject.split(".")[4] for m in ear.messages if m.subject.endswith(".cat")] == ["join", "status", "leave"]


class Crowd:
    """Many agents over one connection with a broker's credentials, each under its own name."""

    def __init__(self, site: Site, brokers: list[Musterd]) -> None:
        self._brokers = brokers
        self.client = Client(site.nats.url, site.nats.folder / "broker.creds")
        self._answers = self.client.subscribe(f"{ROOT_TOKEN}.acme.box.*.crowd.*")

    def all(self, verb: str, body: dict[str, Any], names: list[str] = MANY) -> list[dict[str, Any]]:
        """At once, however slow this program is: brokers that stand still hear all of them when they go on."""
        first = len(self._answers.messages)
        for broker in self._brokers:
            broker.pause()
        self.client.publish_all([(f"{ROOT_TOKEN}.acme.rpc.{name}.presence.{verb}", f"{ROOT_TOKEN}.acme.box.{name}.crowd.{verb}")
                                 for name in names], json.dumps(body).encode())
        for broker in self._brokers:
            broker.resume()
        wait_until(lambda: len(self._answers.messages) >= first + len(names), 20, f"{len(names)} answers to {verb}")
        return [json.loads(m.data) for m in self._answers.messages[first:]]


@pytest.fixture
def crowd(site: Site, brokers: list[Musterd]) -> Generator[Crowd, None, None]:
    crowd = Crowd(site, brokers)
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
    wait_until(lambda: [m for m in ear.messages if ".count._" in m.subject and json.loads(m.data)["by_status"]["busy"] == len(MANY)], 20, "the count")
    digests = [m for m in ear.messages if m.subject.endswith(("join._", "status._"))]
    assert digests and len([m for m in ear.messages if ".count._" not in m.subject]) < 2 * len(MANY)  # as they came: test_presence.c is exact
    assert len({epoch for epoch, _ in ear.positions()}) == 1
    seqs = [seq for _, seq in ear.positions()]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    now = ask(bob, "list", {"limit": 1000})
    expected = {agent["agent_id"]: told(agent) for agent in now["agents"]}
    here = roster_of(ear, (middle[0]["epoch"], middle[0]["seq"]), middle[0]["agents"])
    assert {name: told(agent) for name, agent in here.items()} == expected and len(expected) == len(MANY)
    crowd.all("bye", {})
    assert ask(bob, "count")["count"] == 0


def test_a_broker_without_tenants_has_no_part(site: Site, brokers: list[Musterd]) -> None:
    """PostgreSQL has not told it yet which there are, so it contends for no shard: others let none go for it."""
    third, nats = presence(site, "b3"), Client(site.nats.url, site.nats.folder / "broker.creds")
    third.config["postgres"] = {"dsn": "host=127.0.0.1 port=1 dbname=muster"}
    third.start(ready=False)
    try:
        wait_until(lambda: third.metric("muster_bus_received_messages_total") > 0, 10, "it to find NATS")
        time.sleep(2)  # longer than between two words of who is there
        said = {message.subject.split(".")[-1] for message in nats.read_stream("KV_muster_presence") if ".broker." in message.subject}
    finally:
        third.kill()
        nats.close()
    assert said == {"b0", "b1"} and held(brokers) == [8, 8]


def shard_of(tenant: str) -> int:
    shard = 2166136261
    for c in tenant.encode():
        shard = (shard ^ c) * 16777619 & 0xffffffff
    return shard % 16


def store_late(nats: Client, agent: str, epoch: int) -> None:
    """A join in yard that a holder before had sent under its epoch, and that NATS stores only now."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
    event = {"agent_id": agent, "tenant_id": "yard", "status": "online", "suspect": False, "task": None, "started_at": now, "last_heartbeat": now,
             "capabilities": [], "labels": {}, "capacity": 1, "auto_accept": True, "delivery": "push", "load": None, "metadata": {},
             "session": "late", "from": None, "at": now}
    nats.publish(f"{ROOT_TOKEN}._in.yard.pres.{shard_of('yard')}.join.{agent}", json.dumps(event).encode(),
                 headers={"Muster-Epoch": str(epoch), "Muster-Seq": "7"})


def holder_of_yard(nats: Client, brokers: list[Musterd]) -> Musterd | None:
    """As its lease says; None: one that is dead."""
    asked = json.dumps({"last_by_subj": f"$KV.muster_leases.presence.shard.{shard_of('yard')}"}).encode()
    kept = json.loads(nats.request("$JS.API.STREAM.MSG.GET.KV_muster_leases", asked).data)["message"]["data"]
    named = json.loads(base64.b64decode(kept))["broker"]
    return next((broker for broker in brokers if broker.alive and broker.config["broker"]["id"] == named), None)


def answered(asker: Agent, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """None while nobody leads, as when a shard moves: clients ask again."""
    try:
        return ask(asker, verb, body, timeout=0.5)
    except (TimeoutError, NoRespondersError):
        return None


def listed(asker: Agent) -> dict[str, Any] | None:
    return answered(asker, "list")


def test_a_late_event_of_the_holder_before(site: Site, agents: Agents, brokers: list[Musterd]) -> None:
    """What it had sent when it was followed, and NATS stored only then, all have heard: it is so, for both brokers and for lists."""
    zed, zoe = agents("yard", "zed"), agents("yard", "zoe")
    nats = Client(site.nats.url, site.nats.folder / "broker.creds")

    def known() -> list[float]:
        return [broker.metric("muster_presence_agents") for broker in brokers]

    wait_until(lambda: known() == [0, 0], 10, "all who were here before to be gone")
    before, at = known(), ask(zed, "list")
    assert at["seq"] == 0, "nothing was told in this epoch"
    store_late(nats, "zoe", at["epoch"] - 1)
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

    def is_here(agent: Agent) -> bool:
        try:
            return "session" in ask(agent, "hello", timeout=2)
        except TimeoutError:
            return False  # whose name no broker knew yet: from 2.10 on it was cut, with what it had asked

    wait_until(lambda: known() == [0, 0], 10, "all who were here before to be gone")
    before = known()
    for _ in range(2):  # it may come back under its name
        site.cli("tenant", "add", "brief")
        gil = Agent(site, "brief", "gil")
        wait_until(lambda gil=gil: is_here(gil), 10, "a session")
        wait_until(lambda: known() == [n + 1 for n in before], 10, "both to know gil")
        site.cli("tenant", "rm", "brief", "--force")
        wait_until(lambda: known() == before, 5, "both to forget gil")
        gil.close()
        site._creds.pop(("brief", "gil")).unlink()
    zed = agents("zeta", "zed")
    assert ask(zed, "list")["agents"] == []


def test_a_limit_of_requests_leaves_the_living_here(site: Site, agents: Agents, brokers: list[Musterd]) -> None:
    """What both brokers hear counts once, and beats, which ask nothing, not at all: a busy tenant does not lose its agents."""
    zed, zoe = agents("zeta", "zed"), agents("zeta", "zoe")
    ask(zoe, "hello")
    site.cli("tenant", "limits", "zeta", "requests_per_s=20")

    def is_over() -> bool:
        return bool("error" in ask(zed, "count"))

    def all_of(n: int) -> bool:
        time.sleep(1.1)  # what a second gives
        return not any([is_over() for _ in range(n)])

    wait_until(is_over, 10, "the limit")
    assert all(all_of(15) for _ in range(3)), "15 of 20 requests a second"
    wait_until(is_over, 10, "the limit once more")
    zoe.tell("presence", "beat", {"load": 0.5})
    time.sleep(0.3)
    assert ask(zed, "get", {"agent": "zoe"})["load"] == 0.5, "the beat"
    site.cli("tenant", "limits", "zeta", "requests_per_s=none")
    wait_until(lambda: "error" not in ask(zoe, "bye"), 5, "zoe to leave")


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
        after = answered(bob, "list", {"limit": 1000})
        assert after or time.monotonic() - begin < 20, "nobody took the shard over"
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
    found = answered(asker, "get", {"agent": name})
    return str(found.get("status")) if found else None


@pytest.mark.parametrize("when", ["listed", "led"])
def test_a_late_event_after_two_take_overs(site: Site, agents: Agents, brokers: list[Musterd], when: str) -> None:
    """Two holders die one after the other, and the first one's event is stored when the second has told nothing: after the third broker has listed
    under the second's epoch, or when it leads itself. It is in effect in the end, in lists and in every roster."""
    third = presence(site, "b2")
    third.start()
    zed, zoe = agents("yard", "zed"), agents("yard", "zoe")
    nats = Client(site.nats.url, site.nats.folder / "broker.creds")
    every = [*brokers, third]
    try:
        wait_until(lambda: answered(zed, "hello", {"session": "z1"}), 20, "zed to be here")
        heads = zed.client.subscribe(f"{ROOT_TOKEN}.yard.evt._.head")
        first = wait_until(lambda: holder_of_yard(nats, every), 10, "a holder")
        epoch = wait_until(lambda: listed(zed), 20, "a list")["epoch"]
        left = [broker for broker in every if broker is not first]
        first.kill()
        wait_until(lambda: (now := listed(zed)) and now["epoch"] > epoch and now["seq"] == 0, 20, "the second to lead")
        second = wait_until(lambda: holder_of_yard(nats, left), 10, "the second holder")
        last = next(broker for broker in left if broker is not second)
        if when == "listed":
            wait_until(lambda: any(json.loads(m.data)["evt.presence"]["epoch"] > epoch for m in heads.messages), 10, "the head notice")
            time.sleep(0.2)  # and the list to be answered, where one is asked for
            second.pause()
            store_late(nats, "zoe", epoch)
            time.sleep(0.2)
        second.kill()
        wait_until(lambda: listed(zed) and holder_of_yard(nats, left) is last, 20, "the third to lead")
        if when == "led":
            store_late(nats, "zoe", epoch)
        wait_until(lambda: (now := listed(zed)) and sorted(a["agent_id"] for a in now["agents"]) == ["zed", "zoe"], 5, "the list to have both")
        for broker in (first, second):
            broker.start()
        counts = [broker.metric("muster_presence_agents") for broker in every]
        wait_until(lambda: len({broker.metric("muster_presence_agents") for broker in every}) == 1, 10, f"all to know the same: {counts}")
        for agent in (zed, zoe):
            wait_until(lambda agent=agent: answered(agent, "bye") == {}, 20, "its end")
        wait_until(lambda: answered(zed, "count", {}) == {"count": 0, "by_status": dict.fromkeys(["online", "busy", "away", "suspect"], 0)}, 10,
                   "both to be gone")
    finally:
        nats.close()
        for broker in brokers:
            if not broker.alive:
                broker.start()
        if third.alive:
            third.stop()


def test_beats_of_who_was_revoked_are_told_of_once(site: Site, brokers: list[Musterd]) -> None:
    """Every broker hears them, and one has the queue group's copy, which is read as soon as one was not taken."""

    def told() -> float:
        return sum(broker.metric("muster_refused_total", 'reason="revoked"') for broker in brokers)

    site.cli("agent", "add", "acme", "former", "--out", str(site.folder / "former.creds"))
    client = Client(site.nats.url, site.nats.folder / "broker.creds")
    subject, before = f"{ROOT_TOKEN}.acme.rpc.former.presence.beat", told()
    client.publish(subject, b"{}")
    time.sleep(0.3)
    assert told() == before
    site.cli("agent", "revoke", "acme", "former")

    def refused() -> bool:
        client.publish(subject, b"{}")
        time.sleep(0.2)
        return told() > before

    wait_until(refused, 10, "the brokers to know that it was revoked")
    before = told()
    for _ in range(5):
        client.publish(subject, b"{}")
    wait_until(lambda: told() >= before + 5, 5, "five beats to be refused")
    time.sleep(0.3)
    assert told() == before + 5
    client.close()
