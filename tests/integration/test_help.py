"""The service help with a stock client: who is asked, respond(), share_knowledge, rounds, panels, humans, tasks that wait, lost sessions, two brokers."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Generator
from typing import Any

import psycopg
import pytest

import invariants
from agent import Agent
from client import Message
from harness import Musterd, Site, wait_until
from help_invariants import broken
from pack import unpack
from pluginrig import Agents, asking, end_of, own_broker, reload, serving

PRESENCE = {"name": "presence", "config": {"heartbeat": "1s", "dead_after": "10s", "grace": "300ms"}}
HELP = {"name": "help", "config": {"sweep": "100ms", "offer_for": "700ms", "verdict_for": "1h"}}


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    site = Site()
    try:
        site.start("acme", "zeta")
        for tenant, name, role in (("acme", "hum", "human"), ("acme", "root", "admin"), ("acme", "watcher", "observer")):
            site.agent(tenant, name, role)
        yield site
        with site.postgres.connect() as connection:
            assert broken(connection) == [] and invariants.broken(connection) == []
    finally:
        site.close()


@pytest.fixture(scope="module")
def one(site: Site, request: pytest.FixtureRequest) -> Generator[Musterd, None, None]:
    with serving(site, PRESENCE, HELP, {"name": "tasks", "config": {"sweep": "100ms"}}, cdc=True, session=request.session) as broker:
        yield broker


@pytest.fixture(scope="module")
def agents(site: Site, one: Musterd) -> Generator[Agents, None, None]:
    with asking(site) as agents:
        yield agents


class Person:
    """An agent with a name of its own for each test, and what it hears."""

    def __init__(self, agent: Agent) -> None:
        self.agent, self.name = agent, agent.name
        self.heard = agent.client.subscribe(f"mst.{agent.tenant}.to.{agent.name}.>")

    def hello(self, *capabilities: str, **more: Any) -> Person:
        assert "session" in self.agent.ask("presence", "hello", {"capabilities": list(capabilities), **more}).body
        return self

    def ok(self, verb: str, packed: bool = False, service: str = "help", **body: Any) -> dict[str, Any]:
        answer = self.agent.ask(service, verb, body, packed=packed)
        assert "Nats-Service-Error" not in answer.headers, answer.body
        return answer.body

    def refused(self, verb: str, service: str = "help", **body: Any) -> dict[str, Any]:
        return self.agent.ask(service, verb, body).error

    def of(self, type_: str, help_id: str) -> list[Message]:
        return [m for m in self.heard.messages if m.subject.endswith(f"._muster.{type_}") and json.loads(m.data).get("help_id") == help_id]

    def one(self, type_: str, help_id: str) -> Message:
        wait_until(lambda: self.of(type_, help_id), 10, f"{type_} of {help_id} to {self.name}")
        assert len(self.of(type_, help_id)) == 1
        return self.of(type_, help_id)[0]

    def respond(self, message: Message, body: bytes) -> None:
        """What a stock client's msg.respond() does."""
        assert message.reply.startswith(f"mst.{self.agent.tenant}.rpc.{self.name}.help.")
        self.agent.client.publish(message.reply, body)

    def share(self, asker: Person, body: bytes) -> None:
        self.agent.client.publish(f"mst.{self.agent.tenant}.to.{asker.name}.{self.name}.share_knowledge", body)

    def bye(self) -> None:
        self.agent.ask("presence", "bye")


People = Callable[..., Person]


@pytest.fixture
def people(agents: Agents, request: pytest.FixtureRequest) -> Generator[People, None, None]:
    """people("ann", "cap") is an agent of this test, present with these capabilities; without any it is not present."""
    made: list[Person] = []
    tag = base64.b32encode(request.node.name.encode()).decode().rstrip("=")[-12:].lower()

    def make(name: str, *capabilities: str, tenant: str = "acme", own: bool = True, **hello: Any) -> Person:
        person = Person(agents(tenant, f"{name}-{tag}" if own else name))
        if capabilities:
            person.hello(*capabilities, **hello)
        made.append(person)
        return person
    yield make
    for person in made:
        person.bye()


def state(person: Person, help_id: str) -> str:
    return str(person.ok("get", help_id=help_id)["state"])


def becomes(person: Person, help_id: str, wanted: str) -> None:
    wait_until(lambda: state(person, help_id) == wanted, 15, f"{help_id} to be {wanted}")


# ---- from the question to the answer ------------------------------------------------------------------------------------------


def test_a_request_from_its_question_to_its_end(people: People) -> None:
    ann, bob, cid = people("ann"), people("bob", "ts", "fix"), people("cid", "ts")
    answer = ann.ok("request", problem="Type error in TypeScript", context={"file": "api.ts", "line": 42}, capabilities=["ts", "fix"])
    help_id = answer["help_id"]
    assert answer == {"help_id": help_id, "state": "offered", "offered_to": [bob.name], "prior": []}
    told = json.loads(bob.one("request_help", help_id).data)
    assert {key: told[key] for key in ("help_id", "epoch", "problem", "context", "from", "depth")} == {
        "help_id": help_id, "epoch": 0, "problem": "Type error in TypeScript", "context": {"file": "api.ts", "line": 42}, "from": ann.name, "depth": 0}
    claim = bob.ok("claim", help_id=help_id, epoch=told["epoch"])
    assert claim == {"help_id": help_id, "epoch": 1, "state": "claimed"}
    assert cid.refused("claim", help_id=help_id)["code"] == "permission_denied"
    assert bob.refused("answer", help_id=help_id, epoch=0, solution="x")["code"] == "aborted"
    assert bob.ok("answer", help_id=help_id, epoch=1, solution={"cast": "number"}, confidence=0.9) == {"help_id": help_id, "state": "answered"}
    shared = json.loads(ann.one("share_knowledge", help_id).data)
    assert shared == {"help_id": help_id, "from": bob.name, "confidence": 0.9, "solution": {"cast": "number"}}
    assert bob.refused("accept", help_id=help_id)["code"] == "permission_denied"
    assert ann.ok("accept", help_id=help_id) == {"help_id": help_id, "state": "accepted"}
    got = cid.ok("get", packed=True, help_id=help_id)
    assert got["state"] == "accepted" and got["answered_by"] == bob.name and got["answers"][0]["verdict"] == "accepted"
    history = ann.ok("history", help_id=help_id)
    assert [row["to"] for row in history["history"]] == ["open", "offered", "claimed", "answered", "accepted"] and history["epoch"] >= 0
    assert ann.refused("withdraw", help_id=help_id)["code"] == "failed_precondition"
    assert cid.heard.messages == []


def test_events_tell_each_state(people: People) -> None:
    ann, bob = people("ann"), people("bob", "ev")
    events = ann.agent.client.subscribe("mst.acme.evt.help.>")
    help_id = ann.ok("request", problem="events", capabilities=["ev"])["help_id"]
    bob.ok("answer", help_id=help_id, solution=1)
    ann.ok("accept", help_id=help_id)
    wait_until(lambda: any(m.subject == f"mst.acme.evt.help.accepted.{help_id}" for m in events.messages), 10, "the last event")
    mine = [m for m in events.messages if m.subject.endswith(help_id)]
    assert [m.subject.split(".")[4] for m in mine] == ["open", "offered", "claimed", "answered", "accepted"]
    assert {k: v for k, v in json.loads(mine[-1].data).items() if k not in ("from", "at")} == ann.ok("get", help_id=help_id)


def test_without_a_capability_everybody_is_an_expert(people: People) -> None:
    ann = people("ann", "x")
    crew = [people(f"bob{n}", "y") for n in range(5)]
    answer = ann.ok("request", problem="anybody")
    assert len(answer["offered_to"]) == 3 and set(answer["offered_to"]) <= {person.name for person in crew}
    wider = ann.ok("request", problem="more of you", k=16)["offered_to"]
    assert set(wider) == {person.name for person in crew} and ann.name not in wider


def test_labels_and_status_decide_who_is_asked(people: People) -> None:
    ann, away = people("ann"), people("away", "lb", labels={"hall": "3"})
    people("other", "lb", labels={"hall": "4"})
    there = people("there", "lb", labels={"hall": "3", "floor": "1"})
    assert "Nats-Service-Error" not in away.agent.ask("presence", "status", {"status": "away"}).headers
    assert ann.ok("request", problem="p", capabilities=["lb"], labels={"hall": "3"})["offered_to"] == [there.name]


def test_two_tenants_are_two_worlds(people: People) -> None:
    ann, zed = people("ann"), people("zed", "tw", tenant="zeta")
    help_id = ann.ok("request", problem="x", capabilities=["tw"])["help_id"]
    assert state(ann, help_id) == "open" and zed.heard.messages == []
    for verb, more in (("get", {}), ("claim", {}), ("answer", {"solution": 1}), ("withdraw", {})):
        assert zed.refused(verb, help_id=help_id, **more) == {"code": "not_found", "field": "help_id", "message": f"help_id: there is no help request {help_id}"}
    ann.ok("withdraw", help_id=help_id)


def test_what_cannot_be_is_refused_by_name(people: People, agents: Agents) -> None:
    ann = people("ann")
    for body, field in (({}, "problem"), ({"problem": ""}, "problem"), ({"problem": "x", "k": 17}, "k"), ({"problem": "x", "mode": "all"}, "mode"),
                        ({"problem": "x", "candidates": []}, "candidates"), ({"problem": "x", "session": "s"}, "session"),
                        ({"problem": "x", "context": json.loads("[" * 26 + "]" * 26)}, "context")):
        error = ann.refused("request", **body)
        assert error["code"] == "invalid_argument" and error["field"] == field, error
    assert ann.refused("resolve", help_id="x", solution=1)["code"] == "permission_denied"
    assert agents("acme", "watcher").ask("help", "request", {"problem": "x"}).error["code"] == "permission_denied"
    assert agents("acme", "watcher").ask("help", "stats").body["total"] >= 0
    assert ann.refused("get", help_id="none")["code"] == "not_found"


def test_a_request_id_asks_once(people: People) -> None:
    ann, bob = people("ann"), people("bob", "once")
    first = ann.ok("request", problem="once", capabilities=["once"], request_id="r1")
    assert ann.ok("request", problem="once", capabilities=["once"], request_id="r1") == first
    assert ann.refused("request", problem="other", request_id="r1")["code"] == "already_exists"
    bob.one("request_help", first["help_id"])
    time.sleep(0.2)
    bob.one("request_help", first["help_id"])


# ---- respond() and share_knowledge --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"yes", b"{}", b'{"decline": false}', b"\xff\xfe", b"[1]"])
def test_any_response_claims(people: People, body: bytes) -> None:
    ann, bob = people("ann"), people("bob", "rsp")
    help_id = ann.ok("request", problem=f"respond {body!r}", capabilities=["rsp"])["help_id"]
    message = bob.one("request_help", help_id)
    for _ in range(2):
        bob.respond(message, body)
    becomes(ann, help_id, "claimed")
    bob.respond(message, b'{"solution": "after the claim", "confidence": 1}')
    becomes(ann, help_id, "answered")
    assert json.loads(ann.one("share_knowledge", help_id).data)["solution"] == "after the claim"


def test_a_response_answers_or_declines(people: People, site: Site) -> None:
    ann, bob, cid = people("ann"), people("bob", "rad"), people("cid", "rad")
    help_id = ann.ok("request", problem="respond", capabilities=["rad"])["help_id"]
    bob.respond(bob.one("request_help", help_id), b'{"decline": true, "reason": "busy"}')
    wait_until(lambda: site.postgres.query("SELECT 1 FROM muster.help_experts WHERE help_id = %s AND state = 'declined'", [help_id]), 10, "him to have declined")
    cid.respond(cid.one("request_help", help_id), b"\x81\xa8solution\xa3yes")  # MessagePack
    becomes(ann, help_id, "answered")
    got = ann.ok("get", help_id=help_id)
    assert [(a["agent"], a["solution"]) for a in got["answers"]] == [(cid.name, "yes")] and got["offered_to"] == sorted([bob.name, cid.name])
    forged = cid.of("request_help", help_id)[0].reply.replace(cid.name, bob.name)
    answer = bob.agent.client.request(forged, b'{"solution": "no"}')
    assert json.loads(answer.data)["error"]["code"] == "failed_precondition"  # he has declined
    assert json.loads(bob.agent.client.request(bob.agent.subject("help", "claim.x"), b"{}").data)["error"]["code"] == "invalid_argument"


@pytest.mark.parametrize(("body", "solution"), [
    (b'{"solution": {"use": "sand"}}', {"use": "sand"}), (b'{"type": "share_knowledge", "payload": {"solution": 7}}', 7), (b'{"knowledge": "k"}', {"knowledge": "k"}),
    (b"\x81\xa8solution\xa3yes", "yes"), (b"plain words", {"base64": "cGxhaW4gd29yZHM="}),
    (b"[" * 30 + b"]" * 30, {"base64": base64.b64encode(b"[" * 30 + b"]" * 30).decode()}),
    (b'{"solution": 1e-999}', {"base64": base64.b64encode(b'{"solution": 1e-999}').decode()})])
def test_a_stock_share_knowledge_is_the_answer(people: People, body: bytes, solution: Any) -> None:
    """As the guide's expert does it: heard the request, sends what it knows to who asked."""
    ann, bob, eve = people("ann"), people("bob", "shk"), people("eve")
    help_id = ann.ok("request", problem="share", capabilities=["shk"])["help_id"]
    eve.share(ann, b'{"solution": "I was not asked"}')
    bob.one("request_help", help_id)
    bob.share(ann, body)
    becomes(ann, help_id, "answered")
    (answer,) = ann.ok("get", help_id=help_id)["answers"]
    assert (answer["agent"], answer["solution"]) == (bob.name, solution)
    time.sleep(0.1)
    assert ann.of("share_knowledge", help_id) == []  # she has heard him


def test_what_the_asker_responds_is_the_verdict(people: People) -> None:
    """On the answer that came with it, and on no other. A client that responds to everything says nothing."""
    ann, bob, cid = people("ann"), people("bob", "vdt"), people("cid", "vdt")
    help_id = ann.ok("request", problem="verdict", capabilities=["vdt"], k=1)["help_id"]

    def says(message: Message, body: bytes) -> dict[str, Any]:
        said = ann.agent.client.request(message.reply, body).data
        return dict(unpack(said) if said[0] >= 0x80 else json.loads(said))  # as it was asked

    def answer(expert: Person, n: int) -> Message:
        expert.one("request_help", help_id)
        expert.ok("answer", help_id=help_id, solution=n)
        wait_until(lambda: len(ann.of("share_knowledge", help_id)) == n, 10, f"answer {n}")
        return ann.of("share_knowledge", help_id)[-1]

    asked = [next(p for p in (bob, cid) if p.name == name) for name in ann.ok("get", help_id=help_id)["offered_to"]]
    first = answer(asked[0], 1)
    for body in (b"", b"{}", b"thanks", b"true", b"[true]", b"\x80", b"\xff", b'{"accept": "yes"}', b'{"accept": 1}', b'{"ok": true}', b'{"decline": false}', b'{"accept": null}'):
        assert says(first, body) == {}
    assert state(ann, help_id) == "answered"
    assert says(first, b'{"accept": false, "reason": "wrong"}')["state"] == "open"
    second = answer(cid if asked == [bob] else bob, 2)
    assert "wrong" in [row.get("reason") for row in ann.ok("history", help_id=help_id)["history"]]
    assert says(first, b'{"accept": true}')["error"]["code"] == "aborted" and state(ann, help_id) == "answered"
    for body in (b'{"accept": true}', b"\x81\xa6accept\xc3"):
        assert says(second, body)["state"] == "accepted"
    late = ann.ok("request", problem="verdict two", capabilities=["vdt"])["help_id"]
    last = bob.one("request_help", late)
    bob.ok("answer", help_id=late, solution=3)
    assert says(ann.one("share_knowledge", late), b'{"decline": true}')["state"] == "open"
    ann.ok("withdraw", help_id=late)
    assert json.loads(bob.agent.client.request(last.reply, b"").data)["error"]["code"] == "failed_precondition"


def test_a_cancel_is_received(people: People) -> None:
    ann, bob = people("ann"), people("bob", "cnc")
    help_id = ann.ok("request", problem="never mind", capabilities=["cnc"])["help_id"]
    ann.ok("withdraw", help_id=help_id)
    assert json.loads(bob.agent.client.request(bob.one("help_cancel", help_id).reply, b"").data) == {}


def test_who_is_faster_wins(people: People) -> None:
    ann, crew = people("ann"), [people(f"bob{n}", "fst") for n in range(3)]
    help_id = ann.ok("request", problem="first", capabilities=["fst"])["help_id"]
    for bob in crew:
        bob.one("request_help", help_id)
    for bob in crew:
        bob.agent.tell("help", "answer", {"help_id": help_id, "solution": bob.name}, reply=bob.agent.box("a"))
    becomes(ann, help_id, "answered")
    wait_until(lambda: len(ann.ok("get", help_id=help_id)["answers"]) == 3, 10, "the late answers")
    assert len([a for a in ann.ok("get", help_id=help_id)["answers"] if not a.get("extra")]) == 1
    assert len(ann.of("share_knowledge", help_id)) == 1


# ---- rounds, panels, humans ---------------------------------------------------------------------------------------------------


def test_rounds_go_on_to_others(people: People) -> None:
    ann, crew = people("ann"), [people(f"bob{n}", "rnd") for n in range(6)]
    help_id = ann.ok("request", problem="rounds", capabilities=["rnd"], k=1)["help_id"]
    wait_until(lambda: sum(len(bob.of("request_help", help_id)) for bob in crew) == 1 + 2 + 4, 15, "three rounds")
    time.sleep(0.3)
    assert sum(len(bob.of("request_help", help_id)) for bob in crew) == 7 and all(bob.of("request_help", help_id) for bob in crew)
    assert ann.ok("get", help_id=help_id)["round"] == 2


def test_declining_asks_others_at_once(people: People) -> None:
    ann, bob = people("ann"), people("bob", "dcl")
    help_id = ann.ok("request", problem="decline", capabilities=["dcl"])["help_id"]
    cid = people("cid", "dcl")
    assert bob.ok("decline", help_id=help_id, reason="no time")["state"] == "open"
    cid.ok("answer", help_id=json.loads(cid.one("request_help", help_id).data)["help_id"], solution="s")
    assert ann.ok("reject", help_id=help_id, reason="no")["state"] == "open"
    dan = people("dan", "dcl")
    dan.one("request_help", help_id)
    assert len(bob.of("request_help", help_id)) == 1 and len(cid.of("request_help", help_id)) == 1


def test_who_comes_later_is_asked(people: People) -> None:
    ann = people("ann")
    answer = ann.ok("request", problem="nobody yet", capabilities=["ltr"])
    assert answer["offered_to"] == [] and answer["state"] == "open"
    bob = people("bob", "ltr")
    bob.one("request_help", answer["help_id"])
    assert bob.ok("answer", help_id=answer["help_id"], solution=1)["state"] == "answered"


def test_a_panel_hears_several(people: People) -> None:
    ann, crew = people("ann"), [people(f"bob{n}", "pnl") for n in range(3)]
    help_id = ann.ok("request", problem="panel", capabilities=["pnl"], mode="panel", k=3)["help_id"]
    for n, bob in enumerate(crew):
        if n == 1:
            bob.one("request_help", help_id)
            bob.share(ann, json.dumps({"solution": n, "confidence": 0.9}).encode())
            wait_until(lambda: len(ann.ok("get", help_id=help_id)["answers"]) == 2, 10, "the second")
        else:
            assert bob.ok("answer", help_id=help_id, solution=n, confidence=0.1)["state"] == ("answered" if n == 2 else "claimed")
    told = json.loads(ann.one("share_knowledge", help_id).data)
    assert told["solution"] == 1 and [a["solution"] for a in told["answers"]] == [0, 1, 2]
    assert ann.ok("accept", help_id=help_id, agent=crew[0].name)["state"] == "accepted"
    short = ann.ok("request", problem="panel in a hurry", capabilities=["pnl"], mode="panel", timeout_ms=800)["help_id"]
    crew[0].ok("answer", help_id=short, solution="alone")
    becomes(ann, short, "answered")


def test_a_human_is_asked_when_nobody_can(people: People) -> None:
    ann, hum = people("ann"), people("hum", own=False)
    answer = ann.ok("request", problem="wise one", capabilities=["nobody-has-it"], escalate=True)
    help_id = answer["help_id"]
    becomes(ann, help_id, "escalated")
    message = hum.one("request_help", help_id)
    assert json.loads(message.data)["escalated"] is True
    refusal = json.loads(hum.agent.client.request(message.reply, b"{}").data)
    assert refusal["error"]["field"] == "solution"
    hum.respond(message, b'{"solution": "patience"}')
    told = json.loads(ann.one("share_knowledge", help_id).data)
    assert told["from"] == "hum" and told["solution"] == "patience"
    ann.ok("accept", help_id=help_id)
    ann.hello("x")
    assert ann.ok("request", problem="wise at once", capabilities=["nobody-has-it"], escalate=True)["state"] == "escalated"
    by_verb = ann.ok("request", problem="wise two", capabilities=["nobody-has-it"])["help_id"]
    assert ann.ok("escalate", help_id=by_verb)["state"] == "escalated"
    assert hum.ok("resolve", help_id=by_verb, solution=42)["state"] == "answered"
    by_admin = ann.ok("request", problem="an admin", capabilities=["nobody"], escalate=True)["help_id"]
    assert people("root", own=False).ok("resolve", help_id=by_admin, solution=43)["state"] == "answered"  # as all that has the access human


def test_rounds_used_escalate_and_the_default_stands_in(people: People) -> None:
    ann, bob = people("ann"), people("bob", "dfl")
    help_id = ann.ok("request", problem="default", capabilities=["dfl"], default_answer={"go": False}, timeout_ms=1500, auto_accept=True, verdict_ms=300)["help_id"]
    bob.one("request_help", help_id)
    bob.one("help_cancel", help_id)  # half of the time is over
    assert json.loads(ann.one("share_knowledge", help_id).data)["solution"] == {"go": False}
    becomes(ann, help_id, "accepted")
    late = ann.ok("request", problem="too late", capabilities=["dfl"], timeout_ms=300)["help_id"]
    becomes(ann, late, "expired")
    assert json.loads(bob.one("help_cancel", late).data)["reason"] == "deadline"
    silent = ann.ok("request", problem="no verdict", capabilities=["dfl"], auto_accept=False, verdict_ms=200)["help_id"]
    bob.ok("answer", help_id=silent, solution=1)
    becomes(ann, silent, "unanswered")


def test_a_long_answer_takes_nobody_elses_with_it(people: People, site: Site) -> None:
    """What is due at once is done by one statement, and told piece by piece."""
    ann, bob, zoe, w1 = people("ann"), people("bob"), people("zoe", tenant="zeta"), people("w1", "long")
    short = zoe.ok("request", problem="what is the colour of the sea?", default_answer="blue" * 70000)["help_id"]
    zoe.ok("escalate", help_id=short)
    long = bob.ok("request", problem="how long is it?", mode="panel", k=2, capabilities=["long"])["help_id"]
    w1.ok("answer", help_id=long, solution="very " * 89000)
    with site.postgres.connect() as admin:
        admin.execute("UPDATE muster.help SET deadline = now(), wake_at = now() - (tenant = 'zeta')::int * interval '1 s' WHERE help_id = ANY (%s)", [[short, long]])
    assert json.loads(zoe.one("share_knowledge", short).data)["solution"] == "blue" * 70000
    assert json.loads(bob.one("share_knowledge", long).data)["from"] == w1.name
    assert ann.ok("list", limit=1)["requests"]


def test_a_lock_that_somebody_keeps_stops_no_clock(people: People, site: Site) -> None:
    """As of tasks."""
    ann = people("ann")
    with psycopg.connect(site.postgres.dsn("muster_app")) as app:
        app.execute("SELECT pg_advisory_lock(hashtext('muster.help_due'), -1)")
        becomes(ann, ann.ok("request", problem="anybody there?", timeout_ms=200)["help_id"], "expired")


def test_earlier_answers_come_first(people: People) -> None:
    ann, bob, cid = people("ann"), people("bob", "pri"), people("cid")
    help_id = ann.ok("request", problem="Compiler rejects generics in module zork", capabilities=["pri"])["help_id"]
    bob.ok("answer", help_id=help_id, solution="add a bound")
    ann.ok("accept", help_id=help_id)
    again = cid.ok("request", problem="the compiler rejects generics in module zork!", capabilities=["pri"])
    assert [(p["help_id"], p["solution"], p["from"]) for p in again["prior"]] == [(help_id, "add a bound", bob.name)] and again["offered_to"] == [bob.name]
    assert cid.ok("accept", help_id=again["help_id"], prior=help_id)["state"] == "accepted"
    bob.one("help_cancel", again["help_id"])


# ---- chains, tasks, death -----------------------------------------------------------------------------------------------------


def test_a_asks_b_asks_a_does_not_happen(people: People) -> None:
    ann, bob, cid = people("ann", "chn"), people("bob", "chn"), people("cid", "other")
    first = ann.ok("request", problem="chain", capabilities=["chn"])
    assert first["offered_to"] == [bob.name]
    bob.ok("claim", help_id=first["help_id"])
    second = bob.ok("request", problem="chain below")
    got = bob.ok("get", help_id=second["help_id"])
    assert second["offered_to"] == [cid.name] and got["parent"] == first["help_id"] and got["depth"] == 1
    assert json.loads(cid.one("request_help", second["help_id"]).data)["depth"] == 1
    ann.ok("withdraw", help_id=first["help_id"], reason="found it")
    assert json.loads(bob.one("help_cancel", first["help_id"]).data)["reason"] == "found it"


def test_a_task_waits_and_goes_on(people: People) -> None:
    ann, bob, boss = people("ann", "wrk"), people("bob", "tsk"), people("boss")
    task_id = boss.ok("submit", service="task", description="dig", assigned_to=ann.name)["task_id"]
    wait_until(lambda: boss.ok("get", service="task", task_id=task_id)["state"] == "running", 10, "the task to run")
    help_id = ann.ok("request", problem="how deep", capabilities=["tsk"], task_id=task_id)["help_id"]
    assert boss.ok("get", service="task", task_id=task_id)["state"] == "input_required"
    assert ann.refused("complete", service="task", task_id=task_id, result=1)["code"] == "failed_precondition"
    bob.ok("answer", help_id=help_id, solution="2 m")
    ann.ok("accept", help_id=help_id)
    task = boss.ok("get", service="task", task_id=task_id)
    assert task["state"] == "running" and task["epoch"] == 2 and task["input"]["solution"] == "2 m"
    wait_until(lambda: any(m.subject.endswith("._muster.task_input") for m in ann.heard.messages), 10, "task_input")
    lost = ann.ok("request", problem="how wide", capabilities=["tsk"], task_id=task_id)["help_id"]
    boss.ok("cancel", service="task", task_id=task_id)
    becomes(ann, lost, "withdrawn")
    bob.one("help_cancel", lost)


def test_who_leaves_gives_back_what_it_has(people: People) -> None:
    ann, bob = people("ann", "lv0"), people("bob", "lve")
    help_id = ann.ok("request", problem="leave", capabilities=["lve"])["help_id"]
    bob.ok("claim", help_id=help_id)
    cid = people("cid", "lve")
    own = bob.ok("request", problem="mine", capabilities=["lve"])["help_id"]
    cid.one("request_help", own)
    bob.bye()
    cid.one("request_help", help_id)
    assert state(ann, own) == "withdrawn" and ann.ok("get", help_id=help_id)["offered_to"] == sorted([bob.name, cid.name])
    ann.bye()
    becomes(cid, help_id, "withdrawn")


def test_lists(people: People) -> None:
    ann, bob = people("ann"), people("bob", "lst")
    ids = [ann.ok("request", problem=f"list {n}", capabilities=["lst"])["help_id"] for n in range(3)]
    page = bob.ok("list", asker=ann.name, limit=2)
    assert [row["help_id"] for row in page["requests"]] == ids[:0:-1] and page["seq"] > 0
    assert [row["help_id"] for row in bob.ok("list", asker=ann.name, limit=2, after=page["next"])["requests"]] == ids[:1]
    assert {row["help_id"] for row in bob.ok("list", expert=bob.name, state="offered")["requests"]} == set(ids)


def test_it_is_asked_once_more(people: People, agents: Agents, site: Site) -> None:
    ann, bob = people("ann"), people("bob", "rty")
    help_id = ann.ok("request", problem="again", capabilities=["rty"])["help_id"]
    ann.ok("withdraw", help_id=help_id)
    assert bob.refused("retry", help_id=help_id)["code"] == "permission_denied"
    again = ann.ok("retry", help_id=help_id, request_id="once")
    assert ann.ok("retry", help_id=help_id, request_id="once") == again and again["state"] == "open"
    assert json.loads(bob.one("request_help", again["help_id"]).data)["problem"] == "again"
    assert agents("acme", "root").ask("help", "withdraw", {"help_id": again["help_id"]}).body["state"] == "withdrawn"
    third, = json.loads(site.cli("help", "retry", again["help_id"], "--tenant", "acme", "--json").stdout)
    bob.ok("answer", help_id=third["help_id"], solution=1)
    assert json.loads(ann.one("share_knowledge", third["help_id"]).data)["solution"] == 1 and ann.ok("get", help_id=third["help_id"])["retry_of"] == again["help_id"]


# ---- brokers ------------------------------------------------------------------------------------------------------------------


def test_settings_are_taken_over(people: People, one: Musterd) -> None:
    ann = people("ann")

    def change(plugins: list[Any]) -> None:
        next(entry for entry in plugins if entry["name"] == "help")["config"] |= {"timeout": "300ms", "open": 1}
    reload(one, change)
    help_id = ann.ok("request", problem="short", capabilities=["nobody-has-it"])["help_id"]
    assert ann.refused("request", problem="one too many")["code"] == "resource_exhausted"
    becomes(ann, help_id, "expired")
    reload(one)
    assert ann.ok("withdraw", help_id=ann.ok("request", problem="long", capabilities=["nobody-has-it"])["help_id"])["state"] == "withdrawn"


def test_postgresql_comes_back(people: People, site: Site, one: Musterd) -> None:
    """Nothing is done while it is away; what was due meanwhile is done then, and who was asked answers."""
    ann, bob = people("ann"), people("bob", "pgb")
    due, asked = (ann.ok("request", problem=problem, capabilities=["pgb"], timeout_ms=ms)["help_id"] for problem, ms in (("due", 800), ("asked", 600000)))
    site.postgres.kill()
    error = bob.refused("claim", help_id=asked)
    assert error["code"] in ("unavailable", "deadline_exceeded"), error
    time.sleep(1)
    site.postgres.start()
    one.wait_ready()
    wait_until(lambda: "state" in bob.agent.ask("help", "get", {"help_id": due}).body, 20, "an answer")
    becomes(ann, due, "expired")
    assert bob.ok("answer", help_id=asked, solution=1)["state"] == "answered"


def test_another_broker_knows_what_is_open(people: People, site: Site, one: Musterd) -> None:
    """Of two brokers one took some of the requests and is killed: what an expert shares is the answer all the same, and so it is of what was open before it came."""
    ann, bob = people("ann"), people("bob", "brk")
    before = ann.ok("request", problem="before", capabilities=["brk"])["help_id"]
    two = own_broker(site, PRESENCE, HELP)
    two.start()
    try:
        two.wait_ready()
        events = ann.agent.client.subscribe("mst.acme.evt.help.offered.*")
        ids = [ann.ok("request", problem=f"both {n}", capabilities=["brk"])["help_id"] for n in range(8)]
        wait_until(lambda: {m.subject.split(".")[-1] for m in events.messages} >= set(ids), 10, "the events")
        bob.share(ann, json.dumps({"solution": before, "help_id": before}).encode())
        becomes(ann, before, "answered")
        assert [a["solution"] for a in ann.ok("get", help_id=before)["answers"]] == [before]
    finally:
        end_of(two, False)
    for help_id in ids:
        bob.share(ann, json.dumps({"solution": help_id, "help_id": help_id}).encode())
    for help_id in ids:
        becomes(ann, help_id, "answered")
        assert [a["solution"] for a in ann.ok("get", help_id=help_id)["answers"]] == [help_id]
