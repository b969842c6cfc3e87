"""Inboxes, history, groups: what is stored is read whole and in order, by whoever may, from wherever it stopped."""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from agent import Agent, read
from client import Client
from harness import Musterd, Site, wait_until
from pluginrig import Agents, asking, own_broker, serving

PLUGINS = [{"name": "fanout", "config": {}}, {"name": "presence", "config": {"heartbeat": "1s", "dead_after": "10s", "grace": "300ms"}}]


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    site = Site()
    try:
        site.start("acme", "zeta", "yard")
        yield site
    finally:
        site.close()


@pytest.fixture(scope="module")
def one(site: Site, request: pytest.FixtureRequest) -> Generator[Musterd, None, None]:
    with serving(site, *PLUGINS, cdc=True, session=request.session) as broker:
        yield broker


@pytest.fixture(scope="module")
def two(site: Site, one: Musterd) -> Generator[Musterd, None, None]:
    """A second broker: requests go to either."""
    with serving(site, *PLUGINS) as broker:
        yield broker


@pytest.fixture(scope="module")
def agents(site: Site, two: Musterd) -> Generator[Agents, None, None]:
    with asking(site) as agents:
        yield agents


@pytest.fixture(scope="module")
def nats(site: Site) -> Generator[Client, None, None]:
    client = Client(site.nats.url, site.nats.folder / "broker.creds")
    yield client
    client.close()


def history(reader: Agent, channel: str, packed: bool = False, **more: Any) -> dict[str, Any]:
    answer = reader.ask("message", "history", {"channel": channel, **more}, packed=packed).body
    assert "error" not in answer, answer
    return answer


def bodies(answer: dict[str, Any]) -> list[Any]:
    return [m["body"] for m in answer["messages"]]


NO_POSITION = {"epoch": 0, "seq": 0}  # of a list that no events complete


def error(agent: Agent, verb: str, body: dict[str, Any], service: str = "message") -> str:
    return str(agent.ask(service, verb, body).error["code"])


def mint(site: Site, agents: Agents, tenant: str, *names: str) -> list[Agent]:
    return [agents(tenant, name) for name in names]


# ---- order --------------------------------------------------------------------------------------------------------------------


def _sent(sender: str, i: int) -> tuple[dict[str, Any], list[str]]:
    """What is sent and who has it then: one name or several, with a request_id or without, or nobody."""
    whom, names = [({"to": "o1"}, ["o1"]), ({"to": "o2"}, ["o2"]), ({"group": "line"}, ["o1", "o2", "o3"]), ({"to": "o1"}, ["o1"]),
                   ({"to": "nobody"}, []), ({"all": True}, ["o1", "o2", "o3", "s1", "s2"]), ({"to": "o1"}, ["o1"])][i % 7]
    once = {"request_id": f"order-{i}"} if i % 3 == 1 else {}
    return {**whom, "type": "n", "payload": [sender, i], **once}, names


def test_what_one_sends_is_stored_in_that_order(site: Site, one: Musterd, nats: Client) -> None:
    """1,000 under way together, by each of two senders. Of one broker: the first of this file, before there are two."""
    agents, n = Agents(site), 1000
    for name in ("o1", "o2", "o3"):
        agents("yard", name).ask("group", "join", {"group": "line"})
    senders = {name: agents("yard", name) for name in ("s1", "s2")}
    boxes = {name: sender.client.subscribe(sender.box("order")) for name, sender in senders.items()}
    wanted: dict[tuple[str, str], list[int]] = {(sender, name): [] for sender in senders for name in ("o1", "o2", "o3", "s1", "s2")}
    for name, sender in senders.items():
        sends = [_sent(name, i) for i in range(n)]
        for i, (_, names) in enumerate(sends):
            for to in names:
                wanted[name, to].append(i)
        sender.client.publish_each([(sender.subject("message", "send"), json.dumps(body).encode(), sender.box("order")) for body, _ in sends])
    wait_until(lambda: all(len(box.messages) == n for box in boxes.values()), 60, "an answer for each")
    refused = [read(m).body for box in boxes.values() for m in box.messages if b"error" in m.data]
    assert len(refused) == 2 * len(range(4, n, 7)) and {r["error"]["code"] for r in refused} == {"not_found"}
    for (name, to), numbers in wanted.items():
        stored = [json.loads(m.data) for m in nats.read_stream("MAIL", f"mst._in.yard.msg.{to}")]
        assert [i for sender, i in stored if sender == name] == numbers, (name, to)
    agents.close()


def test_who_can_read_no_inbox_is_sent_nothing(site: Site, one: Musterd, nats: Client) -> None:
    """Roles that hear no inbox; the same with a request_id, whose refusal is as good as the first answer."""
    agents = Agents(site)
    sender = agents("yard", "s1")
    for role in ("user", "observer"):
        site.agent("yard", f"no-{role}", role)
        for once in ({}, {"request_id": f"no-{role}"}, {"request_id": f"no-{role}"}):
            refused = sender.ask("message", "send", {"to": f"no-{role}", "type": "n", "payload": 1, **once}).error
            assert (refused["code"], refused["field"]) == ("failed_precondition", "to") and f"role {role}" in refused["message"]
        assert not nats.read_stream("MAIL", f"mst._in.yard.msg.no-{role}")
    for role in ("human", "admin"):
        site.agent("yard", f"a-{role}", role)
        assert "seq" in sender.ask("message", "send", {"to": f"a-{role}", "type": "n", "payload": 1}).body
    agents.close()


# ---- inbox --------------------------------------------------------------------------------------------------------------------


def test_a_message_is_stored_before_it_is_answered(site: Site, agents: Agents, nats: Client) -> None:
    sender, receiver = mint(site, agents, "acme", "ann", "bob")
    heard = receiver.client.subscribe("mst.acme.msg.bob")
    told = sender.ask("message", "send", {"to": "bob", "type": "note", "payload": {"n": 1}}).body
    stored = nats.read_stream("MAIL", "mst._in.acme.msg.bob")
    assert [m.stream_seq for m in stored] == [told["seq"]] and json.loads(stored[0].data) == {"n": 1}
    assert stored[0].headers["Muster-From"] == "ann" and stored[0].headers["Muster-Type"] == "note" and stored[0].headers["Muster-Id"]
    wait_until(lambda: heard.messages, 5, "the message, live")
    assert heard.messages[0].headers["Nats-Sequence"] == str(told["seq"])
    answer = history(receiver, "inbox")
    assert bodies(answer) == [{"n": 1}] and answer["complete"] and answer["last_seq"] == told["seq"]
    message = answer["messages"][0]
    assert message["subject"] == "mst.acme.msg.bob" and message["seq"] == told["seq"] and message["headers"]["Muster-From"] == "ann"
    assert message["time"].endswith("Z") and abs(time.time() - _seconds(message["time"])) < 60


def _seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def test_an_inbox_is_read_from_the_last_ack(site: Site, agents: Agents) -> None:
    sender, reader = mint(site, agents, "acme", "ann", "carl")
    seqs = [sender.ask("message", "send", {"to": "carl", "type": "n", "payload": n}).body["seq"] for n in range(5)]
    assert bodies(history(reader, "inbox")) == [0, 1, 2, 3, 4]
    assert reader.ask("message", "ack", {"seq": seqs[1]}).body == {"acked": seqs[1]}
    answer = history(reader, "inbox")
    assert bodies(answer) == [2, 3, 4] and answer["complete"]
    assert reader.ask("message", "ack", {"seq": seqs[0]}).body == {"acked": seqs[1]}, "never back"
    assert bodies(history(reader, "inbox", limit=2)) == [2, 3]
    first = history(reader, "inbox", after={"epoch": answer["epoch"], "seq": 0})
    assert bodies(first) == [0, 1, 2, 3, 4] and first["complete"]
    assert error(reader, "ack", {"seq": seqs[-1] + 1000}) == "invalid_argument"
    assert reader.ask("message", "ack", {"seq": seqs[-1]}).body == {"acked": seqs[-1]}
    empty = history(reader, "inbox")
    assert bodies(empty) == [] and empty["last_seq"] == seqs[-1] and empty["complete"]


def test_a_request_id_stores_once_at_any_broker(site: Site, agents: Agents) -> None:
    sender, reader = mint(site, agents, "acme", "ann", "dora")
    body = {"to": "dora", "type": "n", "payload": {"k": 1}, "request_id": "r1"}
    told = [sender.ask("message", "send", body).body for _ in range(6)]
    assert len({json.dumps(t) for t in told}) == 1 and "seq" in told[0]
    assert bodies(history(reader, "inbox")) == [{"k": 1}]
    assert error(sender, "send", {**body, "payload": {"k": 2}}) == "already_exists"


def test_what_was_claimed_and_not_finished_is_stored_once(site: Site, agents: Agents) -> None:
    """A broker that died between storing and answering: who asks again has it once."""
    sender, reader = mint(site, agents, "acme", "ann", "dirk")
    body = {"to": "dirk", "type": "n", "payload": 1, "request_id": "lost"}
    first = sender.ask("message", "send", body).body
    claim = ("UPDATE muster.requests SET answer = jsonb_build_object('ok', jsonb_build_object('claim', %s::text, 'at', clock_timestamp() - {}))"
             " WHERE tenant = 'acme' AND agent = 'ann' AND request_id = 'lost'")
    used = history(reader, "inbox")["messages"][0]["headers"]["Muster-Id"]
    with site.postgres.connect() as connection:
        connection.execute(claim.format("interval '1 s'"), [used])
    assert sender.ask("message", "send", body).body == first
    assert bodies(history(reader, "inbox")) == [1]
    with site.postgres.connect() as connection:
        connection.execute(claim.format("interval '3 min'"), [used])
    assert error(sender, "send", body) == "aborted", "the stream knows it no more: nobody can tell"


def test_groups_and_everybody(site: Site, agents: Agents) -> None:
    z = mint(site, agents, "zeta", "z1", "z2", "z3")
    assert z[0].ask("group", "join", {"group": "team"}).body == {} and z[1].ask("group", "join", {"group": "team"}).body == {}
    assert z[1].ask("group", "join", {"group": "team"}).body == {}, "again"
    assert z[2].ask("group", "list").body == {"groups": [{"group": "team", "members": ["z1", "z2"]}], **NO_POSITION}
    assert z[2].ask("message", "send", {"group": "team", "type": "n", "payload": "to the team"}).body == {"delivered_to": 2}
    assert z[2].ask("message", "send", {"all": True, "type": "n", "payload": "to all"}).body == {"delivered_to": 3}
    assert [bodies(history(a, "inbox")) for a in z] == [["to the team", "to all"], ["to the team", "to all"], ["to all"]]
    assert z[0].ask("group", "leave", {"group": "team"}).body == {}
    first = z[2].ask("group", "list", {"limit": 1}).body
    assert first == {"groups": [{"group": "team", "members": ["z2"]}], **NO_POSITION}
    z[2].ask("group", "join", {"group": "team"})
    first = z[2].ask("group", "list", {"limit": 1}).body
    assert (first["epoch"], first["seq"]) == (0, 0)
    assert first["groups"] == [{"group": "team", "members": ["z2"]}]
    assert z[2].ask("group", "list", {"after": first["next"]}).body == {"groups": [{"group": "team", "members": ["z3"]}], **NO_POSITION}
    site.cli("tenant", "limits", "zeta", "group.members=2")
    wait_until(lambda: error(z[0], "join", {"group": "team"}, "group") == "resource_exhausted", 10, "the limit")


@pytest.mark.parametrize("service", ["message", "group", "watch", "presence", "session", "stats"])
def test_verbs_that_are_none(agents: Agents, service: str) -> None:
    """Nothing is done in their name, and every service answers them in the same words."""
    ann = agents("acme", "ann")
    ann.ask("group", "join", {"group": "kept"})
    before, nothing = ann.ask("group", "list", {"group": "kept"}).body, ann.ask("nothing", "nope").error
    assert nothing["code"] == "not_found"
    for body in ({}, {"group": "kept", "session_id": "s", "status": "failed"}, {"group": 'kept","x":"'}):
        assert ann.ask(service, "nope", body, timeout=3).error == nothing
    assert before["groups"] and ann.ask("group", "list", {"group": "kept"}).body == before
    ann.ask("group", "leave", {"group": "kept"})


@pytest.mark.parametrize("body,code", [
    ({"to": "nobody", "type": "n", "payload": 1}, "not_found"),
    ({"type": "n", "payload": 1}, "invalid_argument"),
    ({"to": "bob", "all": True, "type": "n", "payload": 1}, "invalid_argument"),
    ({"all": False, "type": "n", "payload": 1}, "invalid_argument"),
    ({"to": "z1", "type": "n", "payload": 1}, "not_found"),
])
def test_who_cannot_receive(agents: Agents, body: dict[str, Any], code: str) -> None:
    agents("zeta", "z1")
    assert error(agents("acme", "ann"), "send", body) == code


def test_what_is_not_told_in_time_is_dead(site: Site, agents: Agents) -> None:
    sender, reader = mint(site, agents, "acme", "ann", "emil")
    seqs = [sender.ask("message", "send", {"to": "emil", "type": "n", "payload": n, **({"ttl_ms": 300} if n % 2 else {})}).body["seq"]
            for n in range(4)]
    wait_until(lambda: bodies(history(reader, "dead")) == [1, 3], 5, "the two to expire")
    assert bodies(history(reader, "inbox")) == [0, 2]
    boss = Agent.__new__(Agent)
    boss.tenant, boss.name = "acme", "boss"
    boss.client = Client(site.nats.url, site.agent("acme", "boss", "admin"), "acme", "boss")
    assert bodies(history(boss, "dead", agent="emil")) == [1, 3]
    boss.close()
    assert error(sender, "history", {"channel": "dead", "agent": "emil"}) == "permission_denied"
    reader.ask("message", "ack", {"seq": seqs[2]})
    assert bodies(history(reader, "dead")) == [3]


def test_what_is_dead_was_not_dealt_with_in_time(site: Site, agents: Agents) -> None:
    """Acknowledged in time, it is in neither channel."""
    sender, reader = mint(site, agents, "acme", "ann", "dodo")
    send = lambda n, **more: sender.ask("message", "send", {"to": "dodo", "type": "n", "payload": n, **more}).body["seq"]  # noqa: E731
    first = send(0, ttl_ms=400)
    assert bodies(history(reader, "inbox")) == [0] and bodies(history(reader, "dead")) == []
    reader.ask("message", "ack", {"seq": first})
    send(1, ttl_ms=400)
    wait_until(lambda: bodies(history(reader, "dead")) == [1], 5, "the second to expire")
    told = history(reader, "dead")
    from_start = {"after": {"epoch": told["epoch"], "seq": first - 1}}
    assert told["complete"] and bodies(history(reader, "dead", **from_start)) == [1], "the first was dealt with in time"
    assert bodies(history(reader, "inbox", **from_start)) == [], "and its time is over"


def test_what_a_bound_took_is_not_dead_either(agents: Agents, nats: Client) -> None:
    sender, reader = agents("acme", "ann"), agents("acme", "full")
    seq = sender.ask("message", "send", {"to": "full", "type": "n", "payload": 0, "ttl_ms": 1}).body["seq"]
    nats.publish_all([("mst._in.acme.msg.full", "")] * 10_000, b"2")
    wait_until(lambda: nats.streams()["MAIL"].last_seq >= seq + 10_000, 20, "the bound to take it")
    told = history(reader, "dead")
    assert bodies(told) == [] and not told["complete"]
    assert not history(reader, "inbox", limit=1)["complete"]


def test_payloads_come_as_they_are(agents: Agents) -> None:
    sender, reader = agents("acme", "ann"), agents("acme", "fay")
    raw = bytes(range(256))
    sender.ask("message", "send", {"to": "fay", "type": "n", "payload": raw}, packed=True)
    sender.ask("message", "send", {"to": "fay", "type": "n", "payload": {"x": [1, 2.5, None, "ü"]}}, packed=True)
    sender.ask_raw("message", "send", b'{"to": "fay", "type": "n", "payload": {"big": 12345678901234567890123, "f": 1.0}}')
    told = history(reader, "inbox")
    assert base64.b64decode(told["messages"][0]["body"]["base64"]) == raw
    assert told["messages"][2]["body"] == {"big": 12345678901234567890123, "f": 1.0}
    packed = history(reader, "inbox", packed=True)
    assert packed["messages"][0]["body"] == raw and packed["last_seq"] == told["last_seq"] and packed["complete"] is True


# ---- channels of agents -------------------------------------------------------------------------------------------------------


def test_broadcasts_direct_messages_and_groups(site: Site, agents: Agents) -> None:
    a, b = agents("acme", "ann"), agents("acme", "gus")
    for n in range(3):
        a.client.publish("mst.acme.all.ann.note", json.dumps(n).encode(), headers={"traceparent": f"00-{n}"})
        a.client.publish("mst.acme.to.gus.ann.note", b"to gus")
        a.client.publish("mst.acme.grp.red.ann.note", b'"red"')
    wait_until(lambda: len(history(b, "all")["messages"]) >= 3, 5, "three broadcasts")
    told = history(b, "all")
    assert bodies(told)[-3:] == [0, 1, 2] and told["complete"]
    assert told["messages"][-1]["headers"]["traceparent"] == "00-2" and told["messages"][-1]["subject"] == "mst.acme.all.ann.note"
    assert bodies(history(b, "to")) == [{"base64": base64.b64encode(b"to gus").decode()}] * 3
    assert bodies(history(a, "to")) == [], "what is to others is not shown"
    assert bodies(history(b, "grp.red")) == ["red"] * 3 and bodies(history(b, "grp.blue")) == []
    place = {"epoch": told["epoch"], "seq": told["messages"][-2]["seq"]}
    assert bodies(history(b, "all", after=place)) == [2]
    since = told["messages"][-2]["time"]
    assert bodies(history(b, "all", since=since)) == [1, 2]
    other = history(b, "all", after={"epoch": told["epoch"] + 1, "seq": 1})
    assert not other["complete"] and bodies(other)[-3:] == [0, 1, 2], "another stream's position"


def test_pages_make_up_the_whole(agents: Agents) -> None:
    a, b = agents("acme", "paul"), agents("acme", "page")
    n = 2500
    a.client.publish_all([("mst.acme.grp.pages.paul.n", "")] * 900, b"7")
    a.client.publish_all([("mst.acme.grp.pages.paul.m", "")] * 900, b"8")
    a.client.publish_all([("mst.acme.grp.pages.paul.o", "")] * (n - 1800), b"9")
    wait_until(lambda: history(b, "grp.pages", limit=1)["messages"], 5, "the first")
    found: list[Any] = []
    after: dict[str, Any] = {}
    while True:
        told = history(b, "grp.pages", limit=1000, **after)
        if not told["messages"]:
            break
        assert told["complete"]
        found += told["messages"]
        after = {"after": {"epoch": told["epoch"], "seq": found[-1]["seq"]}}
        if len(found) >= n and found[-1]["seq"] == told["last_seq"]:
            break
    assert bodies({"messages": found}) == [7] * 900 + [8] * 900 + [9] * (n - 1800)
    assert [m["seq"] for m in found] == sorted({m["seq"] for m in found})


def test_a_cut_start_is_told(agents: Agents, nats: Client) -> None:
    """More of one subject than the stream keeps: what is left is not passed off as all."""
    a, b = agents("zeta", "z1"), agents("zeta", "z2")
    a.client.publish_all([("mst.zeta.all.z1.cut", "")] * 5, b"1")
    wait_until(lambda: len(history(b, "all")["messages"]) == 5, 5, "five")
    first = history(b, "all")
    assert first["complete"]
    place = {"epoch": first["epoch"], "seq": first["messages"][0]["seq"]}
    a.client.publish_all([("mst.zeta.all.z1.cut", "")] * 1200, b"2")
    wait_until(lambda: nats.streams()["MSG_zeta"].last_seq >= 1205, 10, "1205")
    assert not history(b, "all", after=place, limit=1000)["complete"]
    beyond = history(b, "all", after={"epoch": first["epoch"], "seq": 1 << 40})
    assert beyond["messages"] == [] and not beyond["complete"] and beyond["last_seq"] == 1205, "not what was asked for"
    last = history(b, "all", after={"epoch": first["epoch"], "seq": first["last_seq"] + 1000}, limit=1000)
    assert last["complete"] and len(last["messages"]) == 200


@pytest.mark.parametrize("channel", ["all", "to", "inbox", "dead", "grp.far"])
def test_a_position_that_the_stream_has_not_reached(agents: Agents, channel: str) -> None:
    """Whoever has it read another stream: nothing is passed off as all that came since."""
    ann, far = agents("acme", "ann"), agents("acme", "far")
    ann.client.publish("mst.acme.grp.far.ann.note", b"1")
    ann.client.publish("mst.acme.to.far.ann.note", b"1")
    ann.ask("message", "send", {"to": "far", "type": "n", "payload": 1})
    wait_until(lambda: history(far, "grp.far")["messages"] and history(far, "to")["messages"], 5, "the first")
    told = history(far, channel)
    for beyond in (100_000, 1 << 60):
        answer = history(far, channel, after={"epoch": told["epoch"], "seq": beyond})
        assert answer["messages"] == [] and not answer["complete"] and answer["epoch"] == told["epoch"] and answer["last_seq"] < beyond
    ended = history(far, channel, after={"epoch": told["epoch"], "seq": max(told["last_seq"], 1)})
    assert ended["messages"] == [] and ended["complete"]


def test_an_inbox_is_whole_whatever_others_lack(site: Site, agents: Agents, nats: Client) -> None:
    """All inboxes are in one stream. Where it lacks a message of somebody else who goes on from what was read still has all of it."""
    sender, reader, other = mint(site, agents, "acme", "ann", "ivy", "olaf")
    lost = [sender.ask("message", "send", {"to": "olaf", "type": "n", "payload": n}).body["seq"] for n in range(2)][1]
    box = sender.client.subscribe(sender.box("ivy"))
    sender.client.publish_each([(sender.subject("message", "send"), json.dumps({"to": "ivy", "type": "n", "payload": n}).encode(),
                                 sender.box("ivy")) for n in range(1100)])
    wait_until(lambda: len(box.messages) == 1100, 20, "all to be stored")
    nats.delete_message("MAIL", lost)
    first = history(reader, "inbox", limit=500)
    told = history(reader, "inbox", limit=500, after={"epoch": first["epoch"], "seq": first["messages"][-1]["seq"]})
    rest = history(reader, "inbox", limit=500, after={"epoch": first["epoch"], "seq": told["messages"][-1]["seq"]})
    assert first["complete"] and told["complete"] and rest["complete"] and sorted(bodies(first) + bodies(told) + bodies(rest)) == list(range(1100))
    reader.ask("message", "ack", {"seq": first["messages"][0]["seq"]})
    assert history(reader, "inbox", limit=10)["complete"] and bodies(history(other, "inbox")) == [0]


def test_a_time_that_is_to_come(site: Site, agents: Agents) -> None:
    ann, eve = mint(site, agents, "acme", "ann", "eve")
    assert history(eve, "inbox", since="2100-01-01T00:00:00Z")["last_seq"] == 0
    seq = ann.ask("message", "send", {"to": "eve", "type": "n", "payload": 1}).body["seq"]
    ann.ask("message", "send", {"to": "bob", "type": "n", "payload": 1})
    for since, n in (("2100-01-01T00:00:00Z", 0), ("2000-01-01T00:00:00Z", 1)):
        answer = history(eve, "inbox", since=since)
        assert len(answer["messages"]) == n and answer["complete"] and answer["last_seq"] == seq


@pytest.mark.parametrize("channel,code", [
    ("nothing", "invalid_argument"), ("evt.", "invalid_argument"), ("evt.a.b", "invalid_argument"), ("evt.*", "invalid_argument"),
    ("cdc.main.public", "invalid_argument"), ("cdc.main.public.>", "invalid_argument"), ("grp.>", "invalid_argument"),
    ("cdc.other.public.orders", "not_found"),
])
def test_channels_that_are_none(agents: Agents, channel: str, code: str) -> None:
    assert error(agents("acme", "ann"), "history", {"channel": channel}) == code


# ---- events and changes -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emit(site: Site) -> Callable[..., None]:
    def emit(tenant: str, service: str, numbers: range) -> None:
        with site.postgres.connect() as connection:
            connection.execute("SET ROLE muster_owner")
            for n in numbers:
                connection.execute("SELECT muster.emit(%s, %s, 'made', %s, %s)", [tenant, service, f"k{n}", json.dumps({"n": n})])

    return emit


def numbers(answer: dict[str, Any]) -> list[int]:
    return [b["n"] for b in bodies(answer)]


def test_events_have_their_own_positions(agents: Agents, emit: Callable[..., None]) -> None:
    a = agents("acme", "ann")
    for n in range(30):  # mixed with those of another channel and another tenant
        emit("acme", "stock", range(n, n + 1))
        emit("acme", "other", range(n, n + 1))
        emit("zeta", "stock", range(n, n + 1))
    wait_until(lambda: len(history(a, "evt.stock")["messages"]) == 30, 10, "30 events")
    told = history(a, "evt.stock")
    assert numbers(told) == list(range(30)) and told["complete"] and told["last_seq"] == 30
    assert [m["seq"] for m in told["messages"]] == list(range(1, 31))
    assert told["messages"][4]["subject"] == "mst.acme.evt.stock.made.k4"
    assert told["messages"][4]["headers"]["Muster-Epoch"] == str(told["epoch"])
    for seq in (0, 1, 17, 29, 30):
        part = history(a, "evt.stock", after={"epoch": told["epoch"], "seq": seq})
        assert numbers(part) == list(range(seq, 30)) and part["complete"] and part["epoch"] == told["epoch"]
    assert numbers(history(a, "evt.stock", after={"epoch": told["epoch"], "seq": 10}, limit=3)) == [10, 11, 12]
    unknown = history(a, "evt.stock", after={"epoch": told["epoch"] + 1, "seq": 5})
    assert not unknown["complete"] and numbers(unknown) == list(range(30))
    ahead = history(a, "evt.stock", after={"epoch": told["epoch"], "seq": 99})
    assert not ahead["complete"]
    emit("acme", "stock", range(30, 33))
    wait_until(lambda: history(a, "evt.stock", after={"epoch": told["epoch"], "seq": 30})["last_seq"] == 33, 10, "three more")
    assert numbers(history(a, "evt.stock", after={"epoch": told["epoch"], "seq": 29})) == [29, 30, 31, 32]
    assert numbers(history(a, "evt.stock", since=told["messages"][28]["time"]))[:2] == [28, 29]
    empty = history(a, "evt.never")
    assert bodies(empty) == [] and empty["complete"]


def test_a_cut_channel_of_events(agents: Agents, emit: Callable[..., None], nats: Client) -> None:
    a = agents("acme", "ann")
    emit("acme", "worn", range(10))
    wait_until(lambda: len(history(a, "evt.worn")["messages"]) == 10, 10, "10 events")
    told = history(a, "evt.worn")
    place = {"epoch": told["epoch"], "seq": 3}
    assert history(a, "evt.worn", after=place)["complete"]
    stored = nats.read_stream("EVT", "mst._in.acme.evt.worn.>")
    for message in stored[:6]:
        nats.delete_message("EVT", message.stream_seq)
    fresh = agents("acme", "hal")
    assert numbers(history(fresh, "evt.worn", after={"epoch": told["epoch"], "seq": 6})) == [6, 7, 8, 9]


def test_who_may_read(site: Site, agents: Agents) -> None:
    observer = Client(site.nats.url, site.agent("acme", "obs", "observer"), "acme", "obs")
    seen = Agent.__new__(Agent)
    seen.tenant, seen.name, seen.client = "acme", "obs", observer
    assert "messages" in history(seen, "all")
    for channel in ("inbox", "to"):
        assert error(seen, "history", {"channel": channel}) == "permission_denied"
    assert error(seen, "send", {"to": "ann", "type": "n", "payload": 1}) == "permission_denied"
    seen.close()


# ---- casts --------------------------------------------------------------------------------------------------------------------


class Crew:
    """Agents that are present, hear casts, and take what is cast to them when told to."""

    def __init__(self, site: Site, agents: Agents, n: int) -> None:
        self.agents = [agents("acme", f"crew{i}") for i in range(n)]
        self.heard = {}
        for i, agent in enumerate(self.agents):
            self.heard[agent.name] = agent.client.subscribe(f"mst.acme.to.{agent.name}.>")
            hello = {"capabilities": ["dig", f"of crew{i}: all", *(["lift"] if i % 2 else [])], "labels": {"team": "red" if i < 2 else "blue"}}
            assert "session" in agent.ask("presence", "hello", hello).body

    def take(self, name: str, body: bytes = b'{"ok": true}') -> None:
        agent = next(a for a in self.agents if a.name == name)
        agent.client.publish(self.heard[name].messages[-1].reply, body)


@pytest.fixture(scope="module")
def crew(site: Site, agents: Agents) -> Crew:
    crew = Crew(site, agents, 4)
    caller = agents("acme", "ann")
    wait_until(lambda: all(caller.ask("message", "cast", {"capabilities": ["dig"], "type": "warm", "payload": 0}).body["delivered_to"] == 4
                           for _ in range(8)), 10, "both brokers to know of all four")
    return crew


@pytest.mark.parametrize("whom,names", [
    ({"labels": {"team": "red"}}, {"crew0", "crew1"}),
    ({"capabilities": ["dig", "lift"]}, {"crew1", "crew3"}),
    ({"capabilities": ["lift"], "labels": {"team": "blue"}}, {"crew3"}),
    ({"capabilities": ["of crew2: all"]}, {"crew2"}),
    ({"agents": ["crew0", "crew2", "bob", "crew0"]}, {"crew0", "crew2"}),
    ({"agents": ["crew0", "crew3"], "capabilities": ["lift"]}, {"crew3"}),
    ({"capabilities": ["fly"]}, set()),
])
def test_a_cast_goes_to_those_who_match(agents: Agents, crew: Crew, whom: dict[str, Any], names: set[str]) -> None:
    agents("acme", "bob")
    kind = f"k{abs(hash(json.dumps(whom))) % 10000}"
    told = agents("acme", "ann").ask("message", "cast", {**whom, "type": kind, "payload": {"x": 1}}).body
    assert told == {"delivered_to": len(names), "receipts": []}
    got = lambda: {n for n, s in crew.heard.items() for m in s.messages if m.subject == f"mst.acme.to.{n}.ann.{kind}"}  # noqa: E731
    wait_until(lambda: got() == names, 5, f"{names} to hear it")
    assert sum(m.subject.endswith(kind) for s in crew.heard.values() for m in s.messages) == len(names)


def test_a_cast_waits_for_receipts(agents: Agents, crew: Crew) -> None:
    caller = agents("acme", "ann")
    box = caller.client.subscribe(caller.box("cast"))
    body = {"capabilities": ["dig"], "type": "dig", "payload": {"hole": 1}, "receipts": 2, "timeout_ms": 8000}
    caller.client.publish(caller.subject("message", "cast"), json.dumps(body).encode(), reply=caller.box("cast"),
                          headers={"traceparent": "00-aa"})
    wait_until(lambda: all(s.messages and s.messages[-1].subject.endswith(".dig") for s in crew.heard.values()), 5, "all to hear it")
    heard = crew.heard["crew2"].messages[-1]
    assert json.loads(heard.data) == {"hole": 1} and heard.headers["Muster-Cast"] and heard.headers["traceparent"] == "00-aa"
    stranger = agents("acme", "bob")
    forged = crew.heard["crew0"].messages[-1].reply.replace(".crew0.", ".bob.")
    stranger.client.publish(forged, b"{}")
    crew.take("crew2", b'{"mine": 2}')
    crew.take("crew2", b'{"mine": 3}')
    time.sleep(0.2)
    assert not box.messages, "one agent is one receipt, and who was not asked is none"
    crew.take("crew0", b"not json")
    wait_until(lambda: box.messages, 5, "the answer")
    told = json.loads(box.messages[0].data)
    assert told["delivered_to"] == 4
    assert [(r["agent"], r["body"]) for r in told["receipts"]] == [("crew2", {"mine": 2}), ("crew0", {"base64": "bm90IGpzb24="})]


def test_receipts_that_are_too_large_for_an_answer(agents: Agents, crew: Crew) -> None:
    caller = agents("acme", "ann")
    box = caller.client.subscribe(caller.box("large"))
    caller.tell("message", "cast", {"capabilities": ["dig"], "type": "large", "payload": 1, "receipts": 4, "timeout_ms": 20000}, caller.box("large"))
    for name, body in (("crew0", b"z" * 500_000), ("crew1", b"z" * 500_000), ("crew2", b"{}"), ("crew3", b"")):
        wait_until(lambda name=name: any(m.subject.endswith(".large") for m in crew.heard[name].messages), 5, "the cast")
        crew.take(name, body)
    wait_until(lambda: box.messages, 10, "the answer")
    receipts = {r["agent"]: r for r in json.loads(box.messages[0].data)["receipts"]}
    large = sorted([receipts["crew0"], receipts["crew1"]], key=lambda r: r["body"] is None)
    assert len(base64.b64decode(large[0]["body"]["base64"])) == 500_000 and "omitted" not in large[0]
    assert large[1]["body"] is None and large[1]["omitted"] == 500_000
    assert receipts["crew2"]["body"] == {} and "omitted" not in receipts["crew3"], "what is small has room still"


def test_a_cast_ends_in_time(agents: Agents, crew: Crew) -> None:
    caller = agents("acme", "ann")
    begun = time.monotonic()
    told = caller.ask("message", "cast", {"agents": ["crew1"], "type": "t", "payload": 1, "receipts": 5, "timeout_ms": 400}).body
    assert told == {"delivered_to": 1, "receipts": []} and 0.35 < time.monotonic() - begun < 3


def test_a_receipt_that_is_asked_is_answered(agents: Agents, crew: Crew) -> None:
    """An agent may give it by a request, and learns whether it counts."""
    caller, names = agents("acme", "ann"), ["crew0", "crew1"]
    box = caller.client.subscribe(caller.box("asked"))
    caller.tell("message", "cast", {"agents": names, "type": "asked", "payload": 1, "receipts": 2, "timeout_ms": 20000}, caller.box("asked"))
    wait_until(lambda: all(crew.heard[n].messages and crew.heard[n].messages[-1].subject.endswith(".asked") for n in names), 5, "the cast")
    one, two = crew.agents[:2]
    where = crew.heard["crew0"].messages[-1].reply
    for body in (b"not json", b"{}"):
        assert json.loads(one.client.request(where, body, timeout=5).data) == {}, "also twice"
    forged = read(agents("acme", "bob").client.request(where.replace(".crew0.", ".bob."), b"{}", timeout=5))
    assert forged.error["code"] == "not_found", "who was not asked"
    assert two.client.request(crew.heard["crew1"].messages[-1].reply, b"\x80", timeout=5).data == b"\x80"
    wait_until(lambda: box.messages, 5, "the answer")
    assert [r["agent"] for r in json.loads(box.messages[0].data)["receipts"]] == names
    late = read(one.client.request(where, b"{}", timeout=5))
    assert late.error["code"] == "not_found" and late.error["message"] == forged.error["message"]


def test_a_narrowed_name_takes_what_is_cast_to_it(site: Site, agents: Agents, one: Musterd) -> None:
    """The narrowing is of what it asks for; what is pushed to it it may answer."""
    path = site.folder / "narrowed.creds"
    site.cli("agent", "add", "acme", "narrowed", "--verbs", "presence.*", "--out", str(path))
    site._creds["acme", "narrowed"] = path
    narrowed, caller = agents("acme", "narrowed"), agents("acme", "ann")
    heard = narrowed.client.subscribe("mst.acme.to.narrowed.>")
    assert "session" in narrowed.ask("presence", "hello", {"capabilities": ["sieve"]}).body
    assert error(narrowed, "history", {"channel": "all"}) == "permission_denied"
    assert narrowed.ask("message", "receipt").error["code"] == "permission_denied", "without a ref it is a request"
    box = caller.client.subscribe(caller.box("sieve"))
    wait_until(lambda: all(caller.ask("message", "cast", {"capabilities": ["sieve"], "type": "warm", "payload": 0}).body["delivered_to"]
                           for _ in range(8)), 10, "both brokers to know of it")
    caller.tell("message", "cast", {"capabilities": ["sieve"], "type": "sieve", "payload": 1, "receipts": 1, "timeout_ms": 5000}, caller.box("sieve"))
    wait_until(lambda: heard.messages and heard.messages[-1].subject.endswith(".sieve"), 5, "the cast")
    assert json.loads(narrowed.client.request(heard.messages[-1].reply, b"{}", timeout=5).data) == {}
    wait_until(lambda: box.messages, 8, "the answer")
    assert [r["agent"] for r in json.loads(box.messages[0].data)["receipts"]] == ["narrowed"]


def test_a_cast_to_a_group_and_once(agents: Agents, crew: Crew) -> None:
    for agent in (*crew.agents[:3], agents("acme", "bob")):
        agent.ask("group", "join", {"group": "diggers"})
    caller = agents("acme", "ann")
    body = {"group": "diggers", "capabilities": ["dig"], "type": "once", "payload": 1, "request_id": "c1"}
    told = [caller.ask("message", "cast", body).body for _ in range(3)]
    assert told == [{"delivered_to": 3, "receipts": []}] * 3
    time.sleep(0.1)
    assert sum(m.subject.endswith(".once") for s in crew.heard.values() for m in s.messages) == 3
    assert error(caller, "cast", {"type": "t", "payload": 1}) == "invalid_argument"


def test_history_of_presence(agents: Agents, crew: Crew) -> None:
    """From a list on: its position is one that history takes."""
    a = agents("acme", "ann")
    listed = a.ask("presence", "list").body
    place = {"epoch": listed["epoch"], "seq": listed["seq"]}
    told = history(a, "evt.presence", after=place)
    assert bodies(told) == [] and told["complete"], told
    crew.agents[3].ask("presence", "status", {"status": "busy"})
    wait_until(lambda: history(a, "evt.presence", after=place)["messages"], 5, "the change")
    told = history(a, "evt.presence", after=place)
    assert told["complete"] and told["messages"][0]["subject"] == "mst.acme.evt.presence.status.crew3"
    assert told["messages"][0]["body"]["status"] == "busy"


# ---- faults -------------------------------------------------------------------------------------------------------------------


def test_a_killed_broker_loses_and_doubles_nothing(site: Site, agents: Agents) -> None:
    """kill -9 while agents send with request ids and ask again until they are answered: each message once, in the order of its sender."""
    names, n = ["k0", "k1", "k2", "k3"], 60
    senders, reader = [agents("acme", name) for name in names], agents("acme", "kim")
    third = own_broker(site, *PLUGINS)
    third.start()
    retried = 0

    def send(agent: Agent) -> None:
        nonlocal retried
        for i in range(n):
            body = {"to": "kim", "type": "n", "payload": [agent.name, i], "request_id": f"{agent.name}-{i}"}
            deadline = time.monotonic() + 30
            while True:
                assert time.monotonic() < deadline
                try:
                    if "seq" in agent.ask("message", "send", body, timeout=1).body:
                        break
                except Exception:  # nobody answered in time: the killed one had it
                    pass
                retried += 1

    threads = [threading.Thread(target=send, args=(agent,)) for agent in senders]
    for thread in threads:
        thread.start()
    wait_until(lambda: third.metric("muster_fanout_stored_total") > 20, 20, "the third broker to be at work")
    third.kill()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    found: list[Any] = []
    while True:
        told = history(reader, "inbox", limit=1000, **({"after": {"epoch": told["epoch"], "seq": told["messages"][-1]["seq"]}} if found else {}))
        found += bodies(told)
        if not told["messages"] or told["messages"][-1]["seq"] >= told["last_seq"]:
            break
    assert {name: [i for who, i in found if who == name] for name in names} == {name: list(range(n)) for name in names}, retried


# ---- herds --------------------------------------------------------------------------------------------------------------------


def test_a_herd_shares_its_reads(site: Site, one: Musterd, two: Musterd, agents: Agents) -> None:
    """Many inboxes and one channel at once: each whole, from far fewer reads than readers."""
    names = [f"h{n}" for n in range(150)]
    folder = site.folder / "herd"
    folder.mkdir()
    site.cli("agent", "add", "zeta", *names, "--out", str(folder))
    sender = agents("zeta", "z1")
    total = [sender.ask("message", "send", {"all": True, "type": "n", "payload": n}, timeout=30).body["delivered_to"] for n in range(10)]
    assert min(total) >= len(names)
    before = sum(b.metric("muster_fanout_history_reads_total") + b.metric("muster_fanout_history_wide_reads_total") for b in (one, two))
    client = Client(site.nats.url, site.nats.folder / "broker.creds", "zeta", "h0")
    boxes = client.subscribe("mst.zeta.box.>")
    asked = [(f"mst.zeta.rpc.{name}.message.history", f"mst.zeta.box.{name}.x") for name in names]
    client.publish_all(asked, b'{"channel": "inbox"}')
    wait_until(lambda: len(boxes.messages) == len(names), 20, "an answer for each")
    for message in boxes.messages:
        told = json.loads(message.data)
        assert bodies(told) == list(range(10)) and told["complete"], told
        assert {m["subject"] for m in told["messages"]} == {f"mst.zeta.msg.{message.subject.split('.')[3]}"}
    reads = sum(b.metric("muster_fanout_history_reads_total") + b.metric("muster_fanout_history_wide_reads_total") for b in (one, two)) - before
    assert reads < len(names) * 0.8, reads
    client.close()


def test_a_herd_shares_reads_from_everywhere(site: Site, one: Musterd, two: Musterd, agents: Agents, emit: Callable[..., None], nats: Client) -> None:
    """Each begins elsewhere, by position or by time, and nothing was read before: each is answered right, for far less than a question to NATS each."""
    n_all, n_readers, limit = 200, 300, 20
    reader, chance = agents("zeta", "z1"), random.Random(7)
    nats.publish_each([("mst.zeta.grp.herd.z1.note", json.dumps({"n": n}).encode(), "") for n in range(n_all)])
    for service in ("herd", "flock"):
        emit("zeta", service, range(n_all))
    told = {}
    for channel in ("grp.herd", "evt.herd", "evt.flock"):
        wait_until(lambda: numbers(history(reader, channel, limit=1000)) == list(range(n_all)), 20, "all to be stored")
        told[channel] = history(reader, channel, limit=1000)
    for broker in (one, two):
        broker.stop()
    for broker in (one, two):
        broker.start()
    client = Client(site.nats.url, site.nats.folder / "broker.creds", "zeta", "z1")
    for number, (channel, how) in enumerate((("grp.herd", "since"), ("evt.herd", "after"), ("evt.flock", "since"))):
        whole = told[channel]
        asked = [chance.choice(whole["messages"][1:-1]) for _ in range(n_readers)]
        box = client.subscribe(f"mst.zeta.box.z1.h{number}.>")
        before = sum(broker.metric("muster_bus_sent_messages_total") for broker in (one, two))
        client.publish_each([("mst.zeta.rpc.z1.message.history", json.dumps(
            {"channel": channel, "limit": limit, how: {"epoch": whole["epoch"], "seq": at["seq"]} if how == "after" else at["time"]}).encode(),
            f"mst.zeta.box.z1.h{number}.{n}") for n, at in enumerate(asked)])
        wait_until(lambda: len(box.messages) == n_readers, 20, "an answer for each")
        sent = sum(broker.metric("muster_bus_sent_messages_total") for broker in (one, two)) - before
        for message in box.messages:
            at, answer = asked[int(message.subject.rpartition(".")[2])], json.loads(message.data)
            due = [m["seq"] for m in whole["messages"] if (m["seq"] > at["seq"] if how == "after" else m["time"] >= at["time"])]
            assert [m["seq"] for m in answer["messages"]] == due[:limit], (channel, at, answer)
            assert answer["complete"] and answer["last_seq"] == whole["last_seq"], answer
        assert sent < 1.5 * n_readers, (channel, sent)
    client.close()
