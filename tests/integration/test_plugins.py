"""What a plugin can do: every service table of muster/plugin.h through the plugin `echo`, in a real broker."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator
from typing import Any

import pytest

from agent import Agent
from client import Client
from harness import Musterd, Site, wait_until
from pack import pack, unpack
from pluginrig import (EACCES, EEXIST, EINVAL, ELINK, ENOTFOUND, ESTALE, ETIME, SANITIZED, Agents, echo, installation,
                       isolated, own_broker, plugin)


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    with installation() as site:
        yield site


@pytest.fixture(scope="module", params=["none", "process"])
def shared(request: pytest.FixtureRequest, site: Site) -> Generator[Musterd, None, None]:
    """One broker for all tests here, with the plugin in it and with the plugin in a child; it must end cleanly after them."""
    entries = [echo(sql=True, greeting="hey"), plugin("old_v0_3", "old")]
    broker = own_broker(site, *(entries if request.param == "none" else [isolated(entries[0], site), isolated(entries[1], site, allow={})]), cdc=True)
    broker.start()
    yield broker
    assert broker.stop() == 0, broker.log()[-3000:]
    assert "Sanitizer" not in broker.log() and "runtime error" not in broker.log(), broker.log()[-5000:]


@pytest.fixture(scope="module")
def agents(site: Site) -> Generator[Agents, None, None]:
    agents = Agents(site)
    yield agents
    agents.close()


@pytest.fixture
def a1(shared: Musterd, agents: Agents) -> Agent:
    return agents("acme", "a1")


@pytest.fixture(scope="module")
def insider(site: Site) -> Generator[Client, None, None]:
    """A client with the broker's rights."""
    client = Client(site.nats.url, site.nats.folder / "broker.creds")
    yield client
    client.close()


def test_a_plugin_of_the_abi_before_works(a1: Agent) -> None:
    answer = wait_until(lambda: (body := a1.ask("old", "say", {"text": "x"}).body).get("ticks") and body, 5, "its timer")
    assert answer["text"] == "x" and answer["role"] == 1


@pytest.mark.parametrize("packed", [False, True])
def test_a_request_and_its_answer(a1: Agent, packed: bool) -> None:
    answer = a1.ask("echo", "say", {"text": "hä?"}, packed=packed)
    assert answer.body.pop("said") > 0
    assert answer.body == {"text": "hä?", "greeting": "hey", "agent": "a1", "tenant": "acme", "lane": 0, "verb": "say",
                           "subject": "rpc.a1.echo.say"}
    assert "Nats-Service-Error" not in answer.headers


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("body, field, words", [
    ({}, "text", "text"),
    ({"text": 7}, "text", "string"),
    ({"text": ""}, "text", "1"),
    ({"text": "x" * 101}, "text", "100"),
    ({"text": "x", "txet": "y"}, "txet", "times"),
    ({"text": "x", "times": 11}, "times", "10"),
    ({"text": "x", "times": 1.5}, "times", "integer"),
    ({"text": "x", "tags": ["ok", "not ok"]}, "tags[1]", "not ok"),
    ({"text": "x", "tags": ["a", "b", "c", "d"]}, "tags", "3"),
    ({"text": "x", "how": "shrill"}, "how", "loud"),
    ({"text": None}, "text", "null"),
])
def test_a_body_is_held_against_its_definition(a1: Agent, body: dict[str, Any], field: str, words: str, packed: bool) -> None:
    error = a1.ask("echo", "say", body, packed=packed).error
    assert error["code"] == "invalid_argument" and error["field"] == field
    assert words in error["message"], error["message"]


@pytest.mark.parametrize("data, words", [
    (b"[]", "map"),
    (b"nonsense", "map"),
    (b'{"a": 1, "a": 2}', "twice"),
    (b'{"a": ' * 33 + b"1" + b"}" * 33, "32"),
    (b'{"a": [' + b"1," * 4096 + b"1]}", "4,096"),
    (b'{"a": "' + b"x" * 1000000 + b'"}', "1000000"),
    (b'{"a": 1', "end"),
    (b"\x81\xa1a", "end"),
], ids=["array", "words", "twice", "deep", "long", "large", "cut", "packed"])
@pytest.mark.parametrize("service, verb", [("echo", "count"), ("lab", "lane")])
def test_a_body_is_held_to_the_limits(a1: Agent, service: str, verb: str, data: bytes, words: str) -> None:
    packed = data[0] == 0x81
    error = a1.ask_raw(service, verb, data, packed=packed).error
    assert error["code"] == "invalid_argument" and words in error["message"], error["message"]


def test_an_answer_to_the_broker_may_have_any_body(a1: Agent) -> None:
    """respond() of any client is the accept, whatever it says (INTERFACE 2): with a ref nothing is checked."""
    a1.client.publish(a1.subject("echo", "say") + ".ref1", b"+OK")
    wait_until(lambda: a1.ask("echo", "count").body["last_text"] == "ref1 +OK", 5, "the answer")


@pytest.mark.parametrize("verb, body, code, words", [
    ("silent", {}, "internal", "no answer"),
    ("fail", {"code": EINVAL}, "invalid_argument", "failed"),
    ("fail", {"code": ENOTFOUND}, "not_found", "failed"),
    ("fail", {"code": ETIME}, "deadline_exceeded", "failed"),
    ("fail", {"code": -77}, "internal", "failed"),
    ("error", {"code": "aborted", "message": "read again", "field": "epoch"}, "aborted", "read again"),
    ("error", {"code": "unavailable", "message": "with\nlines"}, "unavailable", "with"),
])
def test_errors(a1: Agent, verb: str, body: dict[str, Any], code: str, words: str) -> None:
    error = a1.ask("lab", verb, body).error
    assert error["code"] == code and words in error["message"]
    assert error.get("field") == body.get("field")


def test_an_error_code_that_there_is_not(a1: Agent) -> None:
    assert a1.ask("lab", "error", {"code": "broken"}).body == {"code": EINVAL}


def test_an_answer_is_given_once(a1: Agent) -> None:
    box = a1.client.subscribe(a1.box("once"))
    a1.tell("lab", "twice", reply=a1.box("once"))
    assert a1.ask("lab", "last").body == {"code": ENOTFOUND}
    assert [json.loads(m.data) for m in box.messages] == [{"answer": 1}]


def test_an_answer_that_is_too_large_is_refused_and_the_request_stays_open(a1: Agent) -> None:
    assert len(a1.client.request(a1.subject("lab", "large"), b'{"bytes": 1000000}').data) == 1000000
    assert a1.ask("lab", "large", {"bytes": 1000001}).body == {"code": EINVAL}


def test_held_messages_are_answered_later(a1: Agent) -> None:
    box = a1.client.subscribe(a1.box("held.*"))
    for n in range(20):
        a1.tell("lab", "hold", {"ms": 300}, reply=a1.box(f"held.{n}"))
    a1.ask("echo", "say", {"text": "meanwhile"})
    assert box.messages == []
    wait_until(lambda: len(box.messages) == 20, 10, "20 answers")
    assert all(json.loads(m.data) == {"held": 1, "agent": "a1"} for m in box.messages)
    assert a1.ask("lab", "held").body == {"code": EINVAL}, "only the message of the callback can be held"


def test_given_back_comes_again(a1: Agent) -> None:
    assert a1.ask("lab", "again", {"times": 3}).body == {"times": 3}


def test_queue_and_plain_subscriptions(a1: Agent, agents: Agents) -> None:
    before = a1.ask("echo", "count").body
    for _ in range(5):
        a1.tell("pulse", "beat")
    zed = agents("zeta", "zed")
    zed.client.publish("mst.zeta.all.zed.shout", b"hear me")
    wait_until(lambda: a1.ask("echo", "count").body["heard"] > before["heard"], 10, "what was said to all")
    after = a1.ask("echo", "count").body
    assert after["beats"] == before["beats"] + 5
    assert after["last_agent"] == "zed" and after["last_text"] == "hear me"
    assert after["up"] >= 1 and after["down"] == 0 and after["tables"] >= 1


def test_subscriptions_come_and_go(a1: Agent) -> None:
    assert a1.ask("lab", "listen", {"subject": "grp.team.*.note"}).body == {"code": 0}
    heard = a1.ask("lab", "heard").body["heard"]

    def say_and_hear() -> bool:
        a1.client.publish("mst.acme.grp.team.a1.note", b"x")
        return bool(a1.ask("lab", "heard").body["heard"] > heard)

    wait_until(say_and_hear, 10, "the new subscription")
    assert a1.ask("lab", "heard").body["text"] == "grp.team.a1.note x"
    a1.ask("lab", "unlisten")
    heard = a1.ask("lab", "heard").body["heard"]
    for _ in range(5):
        a1.client.publish("mst.acme.grp.team.a1.note", b"x")
    assert a1.ask("lab", "heard").body["heard"] == heard
    for bad in ({"subject": ""}, {"subject": "a..b"}, {"subject": "a b"}, {"subject": "x", "max_msgs": 0}, {"subject": "x", "overflow": 9}):
        assert a1.ask("lab", "listen", bad).body == {"code": EINVAL}, bad


@pytest.mark.parametrize("pattern", ["rpc.*.task.submit", "rpc.*.task.>", "rpc.*.*.*", "rpc.>", ">"])
def test_requests_to_the_services_of_muster_are_not_for_others(a1: Agent, pattern: str) -> None:
    assert a1.ask("lab", "listen", {"subject": pattern}).body["code"] == EACCES


def test_publish_tells_when_it_is_done(a1: Agent, agents: Agents) -> None:
    a2 = agents("acme", "a2")
    box = a2.client.subscribe("mst.acme.to.a2.>")
    assert a1.ask("lab", "publish", {"subject": "to.a2._muster.note", "text": "hi"}).body == {"code": 0, "inside": 0}
    wait_until(lambda: box.messages, 5, "the note")
    assert box.messages[0].data == b"hi" and box.messages[0].headers["X-Echo"] == "yes"
    for bad in ("", "to.*.x", "to..x", "to.a2.a b", "x" * 600):
        assert a1.ask("lab", "publish", {"subject": bad}).body["code"] == EINVAL, bad


def test_an_event_goes_through_the_database(a1: Agent) -> None:
    heard = a1.client.subscribe("mst.acme.evt.echo.>")
    assert a1.ask("lab", "event", {"subject": "evt.echo.said.k1", "text": '{"n": 1}'}).body == {"code": 0, "inside": 0}
    wait_until(lambda: heard.messages, 20, "the event")
    assert heard.messages[0].subject == "mst.acme.evt.echo.said.k1" and json.loads(heard.messages[0].data)["n"] == 1
    assert "Muster-Seq" in heard.messages[0].headers
    assert a1.ask("lab", "event", {"subject": "evt.echo.said.k1", "text": "no json"}).body["code"] == EINVAL
    assert a1.ask("lab", "event", {"subject": "evt.echo", "text": "{}"}).body["code"] == EINVAL
    assert a1.ask("lab", "publish", {"subject": "evt.echo.said.k1", "text": "{}"}).body["code"] == EINVAL, "it has a header"
    assert a1.ask("lab", "ask", {"subject": "evt.echo.said.k1", "text": "{}"}).body["code"] == EINVAL


def test_a_plugin_asks_an_agent(a1: Agent, agents: Agents) -> None:
    a2, mallory = agents("acme", "a2"), agents("acme", "mallory")
    asked = a2.client.subscribe("mst.acme.to.a2._muster.question")
    box = a1.client.subscribe(a1.box("asked"))
    a1.tell("lab", "ask", {"subject": "to.a2._muster.question", "text": "why?", "timeout_ms": 5000}, reply=a1.box("asked"))
    wait_until(lambda: asked.messages, 5, "the question")
    question = asked.messages[0]
    assert question.data == b"why?" and question.reply.startswith("mst.acme.to._muster.a2.")
    mallory.client.publish(question.reply.replace(".a2.", ".mallory."), b"a lie")
    time.sleep(0.2)
    assert box.messages == []
    a2.client.publish(question.reply, b"because")
    wait_until(lambda: box.messages, 5, "the answer")
    assert json.loads(box.messages[0].data) == {"code": 0, "text": "because"}
    assert a1.ask("lab", "ask", {"subject": "to.nobody._muster.question", "timeout_ms": 200}).body["code"] in (ETIME, ENOTFOUND)
    assert a1.ask("lab", "ask", {"subject": "to.a2._muster.question", "timeout_ms": 0}).body["code"] == EINVAL


def test_keys(a1: Agent, agents: Agents) -> None:
    key = f"k{time.monotonic_ns()}"
    assert a1.ask("lab", "kv_get", {"key": key}).body == {"code": ENOTFOUND, "value": "", "revision": 0}
    first = a1.ask("lab", "kv_put", {"key": key, "value": "one", "revision": 0}).body
    assert first["code"] == 0 and first["revision"] > 0
    assert a1.ask("lab", "kv_get", {"key": key}).body == {"code": 0, "value": "one", "revision": first["revision"]}
    assert a1.ask("lab", "kv_put", {"key": key, "value": "two", "revision": 0}).body["code"] == ESTALE
    second = a1.ask("lab", "kv_put", {"key": key, "value": "two", "revision": first["revision"]}).body
    assert second["code"] == 0 and second["revision"] > first["revision"]
    assert a1.ask("lab", "kv_put", {"key": key, "value": "", "revision": -1}).body["code"] == 0
    assert a1.ask("lab", "kv_get", {"key": key}).body["value"] == ""
    for bad in ("", ".x", "x.", "a b", "a*", "a>", "x" * 201):
        assert a1.ask("lab", "kv_get", {"key": bad}).body["code"] == EINVAL, bad
    assert a1.ask("lab", "kv_put", {"key": "large", "value": "x" * 65537}).body["code"] == EINVAL


def test_a_fenced_stream(a1: Agent, agents: Agents, shared: Musterd, insider: Client) -> None:
    zed, isolated = agents("zeta", "zed"), shared.config["plugins"][-1]["isolation"] == "process"
    insider.request("$JS.API.STREAM.DELETE.echo", b"")  # of the run before
    republished = insider.subscribe("mst.acme.echo.>")
    assert a1.ask("lab", "append", {"text": "{}"}).body["code"] == EINVAL, "nothing is open yet"
    assert a1.ask("lab", "reopen").body == {"code": 0, "last_seq": 0, "n_msgs": 0}
    assert a1.ask("lab", "append", {"text": '{"n": 1}', "expected": 0}).body == {"code": 0, "seq": 1}
    assert zed.ask("lab", "append", {"text": '{"n": 2}', "expected": 1}).body == {"code": 0, "seq": 2}
    assert a1.ask("lab", "append", {"text": "{}", "expected": 1}).body == {"code": ESTALE, "seq": 2}
    assert a1.ask("lab", "append", {"text": "{}", "subject": "other.said"}).body["code"] == (EACCES if isolated else ENOTFOUND)
    assert a1.ask("lab", "append", {"text": "{}", "subject": "echo_other.said"}).body["code"] == ENOTFOUND, "no stream takes it"
    for bad in ("", "echo.*", "echo.>", "echo..x", "echo. x", "echo." + "x" * 600):
        assert a1.ask("lab", "append", {"subject": bad}).body["code"] == EINVAL, bad
    assert a1.ask("lab", "last_of").body == {
        "code": 0, "text": '{"n": 2}', "seq": 2, "subject": "echo.said", "header": "stored", "tenant": "zeta"}
    assert a1.ask("lab", "last_of", {"subject": "echo.>"}).body["seq"] == 1, "acme's own"
    assert a1.ask("lab", "last_of", {"subject": "echo.other"}).body["code"] == ENOTFOUND
    assert a1.ask("lab", "reopen").body == {"code": 0, "last_seq": 2, "n_msgs": 2}
    codes = []
    while ELINK not in codes and len(codes) < 50:  # the server's answer may come before the close
        codes.append(a1.ask("lab", "info", {"close": 1}).body["code"])
        if ELINK not in codes:
            a1.ask("lab", "reopen")
    assert ELINK in codes, "what is due when a stream is closed"
    assert a1.ask("lab", "info").body["code"] == EINVAL, "it is closed"
    wait_until(lambda: republished.messages, 5, "what was stored, heard")
    assert [m.data for m in republished.messages] == [b'{"n": 1}']
    assert a1.ask("lab", "reopen", {"subjects": "echo.*"}).body["code"] == EEXIST
    assert a1.ask("lab", "reopen", {"name": "QUOTED", "subjects": 'a"b.\\.>'}).body["code"] == (EACCES if isolated else 0)
    for bad in ({"name": "a b"}, {"name": ""}, {"subjects": "a..b"}):
        assert a1.ask("lab", "reopen", bad).body["code"] == EINVAL, bad


def test_the_database(a1: Agent, agents: Agents, site: Site) -> None:
    assert a1.ask("lab", "read", {"text": "x"}).body == {
        "code": 0, "first": "x", "second": "acme", "third": "null", "error": "", "sqlstate": ""}
    assert agents("zeta", "zed").ask("lab", "read", {"text": "x"}).body["second"] == "zeta"
    note = f"n{time.monotonic_ns()}"
    assert json.loads(a1.ask("lab", "write", {"text": note}).body["first"]) == {"note": note}
    again = a1.ask("lab", "write", {"text": note}).body
    assert again["code"] == EINVAL and again["sqlstate"] == "23505" and again["error"]
    assert site.postgres.query("SELECT tenant_id FROM public.notes WHERE note = %s", (note,)) == [("acme",)]


def test_tenants(a1: Agent) -> None:
    found = a1.ask("lab", "tenants", {"find": "zeta"}).body
    assert found["names"].split() == ["acme", "zeta"] and found["found"] == "zeta" and found["serial"] > 0
    assert found["tables"] == 6, "notes, and Muster's five"
    assert a1.ask("lab", "tenants", {"find": "nobody"}).body["found"] == ""
    assert a1.ask("lab", "limits").body == {"code": 0, "requests_per_s": 0, "encoding": 1, "watches": 1000, "shouts": -1, "nothing": -1,
                                           "short": EINVAL}
    assert a1.ask("lab", "refresh", {"name": "zeta"}).body == {"code": 0, "name": "zeta"}
    assert a1.ask("lab", "refresh", {"name": "nobody"}).body == {"code": ENOTFOUND, "name": ""}
    assert a1.ask("lab", "refresh", {"name": "x" * 65}).body["code"] == EINVAL


def test_positions_of_settings(a1: Agent, shared: Musterd) -> None:
    where = a1.ask("lab", "where").body
    assert re.fullmatch(re.escape(str(shared.config_path)) + r":\d+:\d+", where["greeting"])
    assert where["sql"] != where["greeting"]


def test_metrics(a1: Agent, shared: Musterd) -> None:
    a1.ask("echo", "say", {"text": "x"})
    assert a1.ask("lab", "measure", {"value": 41}).body == {"bad_name": EINVAL}
    wait_until(lambda: shared.metric("muster_echo_open") == 42, 2, "what a child has counted comes within a tenth of a second")
    assert shared.metric("muster_echo_said_total", 'agent="a1"', 'instance="echo"') > 0
    assert shared.metric("muster_echo_said_total", 'agent="x"') == 0, "a counter is not set, and does not fall"
    assert shared.metric("muster_echo_open") == 42
    assert shared.metric("muster_echo_took_seconds_count") > 1


BODIES = [{"a": None, "b": True, "c": [1, -2, 2**53 + 1], "d": {"e": {}, "f": []}, "g": 1.5, "h": "ü"}, {}]


@pytest.mark.parametrize("body", BODIES)
def test_the_codec(a1: Agent, body: dict[str, Any]) -> None:
    assert a1.ask("lab", "mirror", body).body == {"body": body, "again": body}
    assert a1.ask("lab", "mirror", body, packed=True).body == {"body": body, "again": body}


def test_binaries(a1: Agent) -> None:
    message = a1.client.request(a1.subject("lab", "mirror"), pack({"x": b"\x00\xff"}))
    assert unpack(message.data)["body"] == {"x": b"\x00\xff"}


def test_clocks_descriptors_and_threads(a1: Agent) -> None:
    ticks = a1.ask("echo", "count").body["ticks"]
    tick = a1.ask("lab", "tick", {"ms": 20}).body
    assert tick["code"] == 0 and tick["never"] == EINVAL and abs(tick["wall"] / 1e9 - time.time()) < 60
    wait_until(lambda: a1.ask("echo", "count").body["ticks"] == ticks + 1, 5, "the one timer that was not stopped")
    assert a1.ask("lab", "pipe").body == {"text": "ping", "events": 1}
    assert a1.ask("lab", "post", {"n": 100000}, timeout=30).body["posts"] == 100000


def test_what_an_instance_knows_of_itself(a1: Agent) -> None:
    assert a1.ask("lab", "lane").body["dsn"] == "none", "the capability postgres is not listed"
    assert a1.ask("lab", "lane").body["plugin"] == "echo"


def test_health(a1: Agent, shared: Musterd) -> None:
    a1.ask("lab", "late_health", {"state": 2, "code": "half", "text": "works in part"})
    assert shared.get("/readyz")[0] == 200 and "works in part" in shared.get("/readyz")[1]
    a1.ask("lab", "late_health", {"state": 3, "code": "away", "text": "does not work"})
    assert shared.get("/readyz")[0] == 503 and "does not work" in shared.get("/readyz")[1]
    a1.ask("lab", "late_health", {"state": 9, "code": "x", "text": "a state that there is not"})
    assert "does not work" in shared.get("/readyz")[1]
    a1.ask("lab", "late_health", {"state": 0})
    assert shared.get("/readyz")[0] == 200


def test_a_flooding_plugin_is_held_back_and_told_of_room(a1: Agent, shared: Musterd) -> None:
    heard = a1.client.subscribe("mst.acme.all._muster.flood")
    before = shared.metric("process_resident_memory_bytes")
    answer = a1.ask("lab", "flood", {"n": 50000, "bytes": 4000}, timeout=60).body
    assert answer["sent"] == 50000 and answer["code"] == 0 and answer["refused"] > 0, f"200 MB do not fit an outbox: {answer}"
    wait_until(lambda: len(heard.messages) == 50000, 60, "all of them")
    assert a1.ask("echo", "count").body["writable"] >= answer["refused"]
    assert SANITIZED or shared.metric("process_resident_memory_bytes") - before < 160 << 20


# ---- services as the broker tells them ------------------------------------------------------------------------------------------


def ask_services(insider: Client, subject: str, n: int = 1) -> list[dict[str, Any]]:
    reply = f"_INBOX.check.{time.monotonic_ns()}"
    box = insider.subscribe(reply)
    insider.publish(subject, reply=reply)
    wait_until(lambda: len(box.messages) >= n, 5, f"{n} answers to {subject}")
    return [json.loads(m.data) for m in box.messages]


def test_ping_info_and_stats(a1: Agent, shared: Musterd, insider: Client) -> None:
    ping = ask_services(insider, "$SRV.PING")[0]
    assert ping.pop("id") and ping.pop("version")
    assert ping == {"type": "io.nats.micro.v1.ping_response", "name": "muster", "metadata": {}}
    name = ask_services(insider, "$SRV.PING.muster")[0]["id"]
    info = ask_services(insider, f"$SRV.INFO.muster.{name}")[0]
    assert info["type"] == "io.nats.micro.v1.info_response" and info["description"]
    endpoints = {e["name"]: e for e in info["endpoints"]}
    assert endpoints["echo-say"] == {"name": "echo-say", "subject": "mst.*.rpc.*.echo.say", "queue_group": "muster",
                                     "metadata": {"plugin": "echo", "version": "1.2.3", "access": "write", "user": "false"}}
    assert {"echo-count", "lab-hold", "pulse-beat"} <= set(endpoints)


def stats_of(insider: Client, verb: str) -> dict[str, Any]:
    stats = ask_services(insider, "$SRV.STATS.muster")[0]
    assert stats["type"] == "io.nats.micro.v1.stats_response" and stats["started"].endswith("Z")
    return next(e for e in stats["endpoints"] if e["name"] == verb)


def test_requests_are_counted(a1: Agent, insider: Client) -> None:
    before = stats_of(insider, "lab-hold")
    for _ in range(4):
        a1.ask("lab", "hold", {"ms": 50})
    # Counted once the answer is on its way: it may be here first.
    wait_until(lambda: stats_of(insider, "lab-hold")["processing_time"] - before["processing_time"] >= 4 * 50e6, 5,
               "the time until the answer, not until the callback's end")
    after = stats_of(insider, "lab-hold")
    assert after["num_requests"] == before["num_requests"] + 4 and after["num_errors"] == before["num_errors"]
    assert after["average_processing_time"] == after["processing_time"] // after["num_requests"]

    errors = stats_of(insider, "echo-say")["num_errors"]
    a1.ask("echo", "say", {"txet": "x"})
    wait_until(lambda: stats_of(insider, "echo-say")["num_errors"] > errors, 5, "the error")
    wait_until(lambda: stats_of(insider, "echo-say")["last_error"].startswith("400:"), 5, "its text")
    assert stats_of(insider, "echo-say")["num_errors"] == errors + 1
    beats = stats_of(insider, "pulse-beat")["num_requests"]
    a1.tell("pulse", "beat")
    wait_until(lambda: stats_of(insider, "pulse-beat")["num_requests"] == beats + 1, 5, "a request without an answer, counted")


def test_an_answer_about_services_goes_nowhere_else(insider: Client, shared: Musterd) -> None:
    before = insider.streams()
    for reply in ("$JS.API.STREAM.PURGE.CDC_main", "$KV.muster_cdc.x", "mst._in.acme.cdc.main.x"):
        insider.publish("$SRV.INFO", reply=reply)
    assert ask_services(insider, "$SRV.PING")
    after = insider.streams()
    assert {n: s.messages for n, s in before.items() if not n.startswith("KV_")} == {
        n: s.messages for n, s in after.items() if not n.startswith("KV_")}
