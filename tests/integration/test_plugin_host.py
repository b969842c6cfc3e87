"""The child of a plugin, with a broker that a test plays: the same plugin as in test_plugins.py, told and asked by frames."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from childrig import Child, echo_settings, i32, i64, listed, message, text, u8, u32, u64
from harness import wait_until
from pluginrig import PLUGINS, SANITIZED

EINVAL, EAGAIN, EACCES, ETIME, EABI, ESTALE, ENOTFOUND, EEXIST, ELINK = -1, -3, -4, -5, -6, -7, -8, -9, -10
CAPABILITIES = ("cross_tenant", "stream", "sql")
ALLOWED = {"subscribe": ("all.*.shout", "rpc.*.echo.>"), "publish": ("all._p_echo.>", "rpc._p_echo.>", "all._muster.flood", "to.*._muster.>")}


@pytest.fixture
def fresh() -> Generator[Child, None, None]:
    child = Child(PLUGINS / "echo.so")
    yield child
    child.close()


class Echo:
    """A child with the echo plugin, started; its subscriptions by subject."""

    def __init__(self, child: Child, **settings: object) -> None:
        self.child = child
        child.take("HELLO")
        child.settings(echo_settings(), capabilities=CAPABILITIES, places={"greeting": "muster.yaml:5:9"}, **{**ALLOWED, **settings})  # type: ignore[arg-type]
        child.tenant(1, "acme")
        child.tenant(2, "zeta", requests_per_s=5)
        assert child.outcome("CREATE", "CREATED") == (0, "")
        child.send("ON_LINK", 0, u8(1))
        assert child.outcome("START", "STARTED") == (0, "")
        self.subs: dict[str, int] = {}
        while any(frame.name == "SUBSCRIBE" for frame in child.frames):
            frame = child.take("SUBSCRIBE")
            frame.u32()
            self.subs[str(frame.text())] = frame.id

    def lab(self, verb: str, body: object = None, **more: object) -> object:
        return self.child.ask(self.subs["rpc.*.lab.*"], f"rpc.a1.lab.{verb}", body, **more)

    def begin(self, verb: str, body: object = None, **more: object) -> int:
        return self.child.deliver(self.subs["rpc.*.lab.*"], f"rpc.a1.lab.{verb}", body, wants_answer=True, **more)

    def answer(self, ident: int) -> object:
        return self.child.take("REPLY", ident).json()


@pytest.fixture
def echo(fresh: Child) -> Echo:
    return Echo(fresh)


# ---- life ------------------------------------------------------------------------------------------------------------------------


def test_a_whole_life(echo: Echo) -> None:
    child = echo.child
    said = child.ask(echo.subs["rpc.*.echo.say"], "rpc.a1.echo.say", {"text": "hi"})
    assert said["text"] == "hi" and said["greeting"] == "hello" and said["tenant"] == "acme" and said["agent"] == "a1"
    done = child.take("DONE")
    assert (done.i32(), done.u8()) == (0, 0)
    health = child.take("HEALTH")
    assert (health.u32(), health.text(), health.text()) == (0, "ok", "hello")
    child.send("DRAIN", 0, i64(time.monotonic_ns() + 10**9))
    child.take("DRAINED")
    child.send("DESTROY")
    child.take("GONE")
    assert (2, "drains for a while") in child.logs
    code, words = child.end()
    assert (code, words) == (0, "")


def test_hello_and_start_are_quick() -> None:
    took = []
    for _ in range(5):
        child = Child(PLUGINS / "echo.so")
        Echo(child)
        took.append(time.monotonic() - child.begun)
        child.close()
    assert min(took) < 2  # a sanitizer takes its time; the bench says more


def test_the_end_is_quick() -> None:
    """The main thread does not wait until it looks again, each tenth of a second."""
    took = []
    for _ in range(8):
        child = Child(PLUGINS / "echo.so")
        Echo(child)
        child.send("DESTROY")
        child.take("GONE")
        begin = time.monotonic()
        child.process.wait(10)
        took.append(time.monotonic() - begin)
        child.close()
    assert min(took) < 0.03 or SANITIZED, took


def test_a_file_that_is_no_plugin_is_refused(tmp_path: Path) -> None:
    for name, says in (("no_symbol", "not a plugin"), ("newer_minor", "ABI"), ("short_struct", "descriptor of"), ("missing", "No such file")):
        child = Child(PLUGINS / f"{name}.so")
        refused = child.take("REFUSED")
        assert refused.i32() < 0
        why = str(refused.text())
        assert says in why and name in why
        assert child.end()[0] == 1
        child.close()


def test_create_that_fails_says_why(fresh: Child) -> None:
    fresh.take("HELLO")
    fresh.settings(echo_settings(misbehave=1), capabilities=CAPABILITIES, places={"greeting": "muster.yaml:5:9"})
    assert fresh.outcome("CREATE", "CREATED") == (EINVAL, "misbehaves in create, greeting at muster.yaml:5:9")


def test_start_that_fails_says_why_and_is_destroyed(fresh: Child) -> None:
    fresh.take("HELLO")
    fresh.settings(echo_settings(misbehave=2), capabilities=CAPABILITIES, **ALLOWED)  # type: ignore[arg-type]
    assert fresh.outcome("CREATE", "CREATED") == (0, "")
    assert fresh.outcome("START", "STARTED") == (ETIME, "misbehaves in start")
    fresh.send("DESTROY")
    fresh.take("GONE")
    assert fresh.end() == (0, "")


def test_a_capability_that_was_not_granted(fresh: Child) -> None:
    fresh.take("HELLO")
    fresh.settings(echo_settings(), capabilities=("cross_tenant", "sql"))
    code, why = fresh.outcome("CREATE", "CREATED")
    assert code == EACCES and "muster.stream/1 needs the capability \"stream\"" in str(why)


def test_settings_that_do_not_fit(fresh: Child) -> None:
    fresh.take("HELLO")
    fresh.settings(text("hello"), capabilities=CAPABILITIES)
    code, why = fresh.outcome("CHECK", "CHECKED")
    assert code == EINVAL and "do not fit its option table" in str(why)


def test_the_end_of_the_socket_ends_a_hung_child(fresh: Child) -> None:
    echo = Echo(fresh)
    echo.begin("hang")
    stalled = fresh.take("STALLED")
    assert stalled.text() == "message" and stalled.text() == "rpc.a1.lab.hang" and stalled.i64() >= 250 * 10**6
    fresh.take("STALLED")  # it goes on
    begin = time.monotonic()
    assert fresh.end()[0] == 1
    assert time.monotonic() - begin < 2


def test_a_hung_lane_does_not_answer_a_ping(echo: Echo) -> None:
    echo.child.ping()
    echo.begin("slow", {"ms": 700})
    echo.child.send("PING", 77)
    echo.child.none("PONG", 0.4)
    echo.child.take("PONG", 77)


@pytest.mark.parametrize("how", ["segv", "abort", "stack"])
def test_a_crash_names_plugin_and_callback(echo: Echo, how: str) -> None:
    echo.begin("crash", {"how": how})
    with pytest.raises(EOFError):
        echo.child.take("REPLY")
    code, words = echo.child.end()
    if "Sanitizer" not in words:
        assert code in (-signal.SIGSEGV, -signal.SIGABRT)
        assert "in plugin=echo instance=test version=1.2.3 source=test callback=message subject=rpc.a1.lab.crash" in words


def test_what_the_broker_says_must_fit(fresh: Child) -> None:
    fresh.take("HELLO")
    fresh.send("CREATE")
    with pytest.raises(EOFError, match="create before settings"):
        fresh.take("CREATED")
    assert fresh.end()[0] == 1


def test_without_a_broker_it_says_what_it_is() -> None:
    import subprocess

    from harness import BUILD

    done = subprocess.run([str(BUILD / "bin" / "musterd"), "--plugin-host", "x"], capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and "no socket of a broker" in done.stderr


# ---- messages --------------------------------------------------------------------------------------------------------------------


def test_every_message_is_done_once(echo: Echo) -> None:
    cases = {"silent": 0, "fail": EINVAL}
    for verb, code in cases.items():
        done = echo.child.take("DONE", echo.begin(verb))
        assert (done.i32(), done.u8()) == (code, 0)
    done = echo.child.take("DONE", echo.child.deliver(999, "rpc.a1.lab.silent"))
    assert done.i32() == ELINK  # no such subscription


def test_an_answer_goes_once(echo: Echo) -> None:
    first = echo.begin("twice")
    assert echo.answer(first) == {"answer": 1}
    assert echo.lab("last") == {"code": ENOTFOUND}
    assert [frame.id for frame in echo.child.frames if frame.name == "REPLY"] == []


def test_errors(echo: Echo) -> None:
    error = echo.child.take("REPLY_ERROR", echo.begin("error", {"code": "not_found", "field": "x", "message": "gone"}))
    assert (error.text(), error.text(), error.text()) == ("not_found", "x", "gone")
    assert echo.lab("error", {"code": "no_such_code"}) == {"code": EINVAL}
    assert echo.lab("large", {"bytes": 1000001}) == {"code": EINVAL}
    assert len(echo.child.take("REPLY", echo.begin("large", {"bytes": 1000000})).bytes()) == 1000000


def test_held_messages(echo: Echo) -> None:
    ident = echo.begin("hold", {"ms": 50})
    done = echo.child.take("DONE", ident)
    assert (done.i32(), done.u8()) == (0, 1)
    assert echo.answer(ident) == {"held": 1, "agent": "a1"}
    echo.child.take("DROP", ident)
    assert echo.lab("held") == {"code": EINVAL}


def test_a_message_comes_again_and_its_tenant_waits(echo: Echo) -> None:
    again = echo.begin("again", {"times": 3})
    behind = [echo.begin("lane") for _ in range(3)]
    other = echo.begin("lane", tenant=2)
    order = []
    for _ in range(5):
        frame = echo.child.take("REPLY")
        order.append(frame.id)
    assert order[0] == other  # another tenant's does not wait
    assert order[1:] == [again, *behind]
    for ident in (again, *behind, other):
        assert echo.child.take("DONE", ident).i32() == 0


def test_the_bound_of_what_is_held(echo: Echo) -> None:
    sub = echo.subs["rpc.*.lab.*"]
    frames = b""
    n = 16384 + 10
    import struct

    from childrig import TYPES

    for i in range(n):
        fields = u64(sub) + message("rpc.a1.lab.hold", {"ms": 600000}, wants_answer=True)
        frames += struct.pack("<IHHQ", len(fields) + 12, TYPES["MSG"], 0, 10**6 + i) + fields
        if len(frames) > 60000:
            echo.child.socket.settimeout(20)
            echo.child.socket.sendall(frames)
            frames = b""
            echo.child._read(0.001)
    echo.child.socket.settimeout(20)
    echo.child.socket.sendall(frames)
    echo.child.wait(lambda: sum(f.name == "DONE" for f in echo.child.frames) == n, "all are done")
    held = [f for f in echo.child.frames if f.name == "DONE" and (f.i32(), f.u8())[1] == 1]
    assert len(held) == 16384
    assert sum(f.name == "REPLY_ERROR" for f in echo.child.frames) == 10


def test_pause_keeps_what_is_here(echo: Echo) -> None:
    assert echo.lab("rest", {"ms": 300}) == {"code": 0}
    assert echo.child.take("PAUSE").u8() == 1
    ident = echo.begin("lane")
    echo.child.none("REPLY", 0.15)
    assert echo.child.take("PAUSE").u8() == 0  # by a timer of the plugin's
    echo.answer(ident)


def test_order_of_messages(echo: Echo) -> None:
    idents = [echo.begin("lane") for _ in range(300)]
    done = []
    while len(done) < 300:
        done.append(echo.child.take("DONE").id)
    assert done == idents


# ---- out -------------------------------------------------------------------------------------------------------------------------


def test_publish_and_its_done(echo: Echo) -> None:
    ident = echo.begin("publish", {"subject": "all._p_echo.shout", "text": "{}"})
    out = echo.child.take("PUBLISH")
    assert out.id and out.out() == {"tenant": 1, "subject": "all._p_echo.shout", "headers": {"X-Echo": "yes"}, "payload": b"{}"}
    echo.child.send("SENT", out.id, i32(0))
    assert echo.answer(ident) == {"code": 0, "inside": 0}


def test_what_may_not_be_named(echo: Echo) -> None:
    for subject, code in (("cdc.main.x", EACCES), ("evt.other.x.y", EACCES), ("all._p_other.x", EACCES), ("bad subject", EINVAL), ("all.*.x", EINVAL)):
        assert echo.lab("publish", {"subject": subject, "text": "{}"})["code"] == code, subject  # type: ignore[index]
    for subject, code in (("rpc.*.task.>", EACCES), (">", EACCES), ("evt.echo.>", 0), ("evt.other.>", EACCES), ("..", EINVAL)):
        assert echo.lab("listen", {"subject": subject})["code"] == code, subject  # type: ignore[index]


def test_requests(echo: Echo) -> None:
    ident = echo.begin("ask", {"subject": "to.a2._muster.ping", "text": "{}", "timeout_ms": 500})
    asked = echo.child.take("REQUEST")
    assert asked.i64() == 500 * 10**6
    assert asked.out()["subject"] == "to.a2._muster.ping"
    echo.child.send("ANSWER", asked.id, i32(0) + message("to.a2.pong", raw=b"pong"))
    assert echo.answer(ident) == {"code": 0, "text": "pong"}
    ident = echo.begin("ask", {"subject": "to.a2._muster.ping", "text": "{}"})
    echo.child.send("ANSWER", echo.child.take("REQUEST").id, i32(ETIME))
    assert echo.answer(ident) == {"code": ETIME, "text": ""}


def test_the_link_is_away(echo: Echo) -> None:
    echo.child.send("ON_LINK", 0, u8(0))
    assert echo.lab("publish", {"subject": "all._p_echo.shout", "text": "{}"}) == {"code": ELINK}
    echo.child.send("ON_LINK", 0, u8(1))
    count = echo.child.ask(echo.subs["rpc.*.echo.count"], "rpc.a1.echo.count")
    assert (count["up"], count["down"]) == (1, 1)


def test_a_flood_meets_the_bound_and_goes_on(echo: Echo) -> None:
    """The parent reads nothing: 32,768 frames wait in the child, then it is told that there is room."""
    ident = echo.begin("flood", {"n": 50000, "bytes": 200})
    time.sleep(0.5)
    echo.child.wait(lambda: sum(f.name == "PUBLISH" for f in echo.child.frames) == 50000, "all are published", 60)
    done = echo.child.take("REPLY", ident).json()
    assert done["sent"] == 50000 and done["refused"] >= 1 and done["code"] == 0
    assert echo.child.ask(echo.subs["rpc.*.echo.count"], "rpc.a1.echo.count")["writable"] >= 1


def test_open_calls_end_with_elink_before_destroy(echo: Echo) -> None:
    ident = echo.begin("publish", {"subject": "all._p_echo.shout", "text": "{}"})
    echo.child.take("PUBLISH")
    asked = echo.begin("ask", {"subject": "to.a2._muster.ping", "text": "{}"})
    echo.child.take("REQUEST")
    echo.child.send("DESTROY")
    echo.child.take("GONE")
    assert echo.answer(ident) == {"code": ELINK, "inside": 0}
    assert echo.answer(asked) == {"code": ELINK, "text": ""}
    assert echo.child.end()[0] == 0


# ---- what is stored --------------------------------------------------------------------------------------------------------------


def open_stream(echo: Echo) -> int:
    ident = echo.begin("reopen", {"name": "echo_main", "subjects": "echo.>", "max_msgs": 100, "per_subject": 10})
    opened = echo.child.take("STREAM_OPEN")
    call = opened.u64()
    assert (opened.text(), opened.text(), opened.u32(), opened.i64(), opened.i64()) == ("echo_main", "echo.>", 0, 3600 * 10**9, 0)
    assert (opened.i64(), opened.i64()) == (100, 10)
    info = u64(1) + u64(7) + u64(7) + u64(700) + i64(0)
    echo.child.send("INFO", call, i32(0) + text(None) + info)
    assert echo.answer(ident) == {"code": 0, "last_seq": 7, "n_msgs": 7}
    return opened.id


def test_streams(echo: Echo) -> None:
    stream = open_stream(echo)
    ident = echo.begin("append", {"subject": "echo.said", "text": "{}", "expected": 7})
    append = echo.child.take("APPEND")
    assert append.u64() == stream
    assert append.out() == {"tenant": 1, "subject": "echo.said", "headers": {"X-Echo": "stored"}, "payload": b"{}"}
    assert (append.u64(), append.u64()) == (7, 0)
    echo.child.send("APPENDED", append.id, i32(ESTALE) + u64(9))
    assert echo.answer(ident) == {"code": ESTALE, "seq": 9}

    ident = echo.begin("last_of", {"subject": "echo.said"})
    last = echo.child.take("STREAM_LAST")
    assert (last.u64(), last.u64(), last.text()) == (stream, 1, "echo.said")
    echo.child.send("STORED", last.id, i32(0) + u8(1) + u8(0) + message("echo.said", raw=b"{}", seq=9, agent=None))
    found = echo.answer(ident)
    assert found["seq"] == 9 and found["tenant"] == "acme" and found["subject"] == "echo.said"  # type: ignore[index]

    ident = echo.begin("info", {"close": 1})
    echo.child.take("STREAM_INFO")
    echo.child.take("STREAM_CLOSE", stream)
    assert echo.answer(ident) == {"code": ELINK, "last_seq": -1, "n_msgs": -1}
    assert echo.lab("append", {"subject": "echo.said"}) == {"code": EINVAL}
    assert echo.lab("reopen", {"name": "CDC_main", "subjects": "cdc.main.>"}) == {"code": EACCES}


def test_kv(echo: Echo) -> None:
    ident = echo.begin("kv_put", {"key": "a.b", "value": "v", "revision": 3})
    put = echo.child.take("KV_PUT")
    assert (put.u64(), put.text(), put.bytes(), put.u64(), put.i64(), put.u64()) == (0, "a.b", b"v", 3, 0, 0)
    echo.child.send("VALUE", put.id, i32(0) + text(None) + u32(0) + u64(4))
    assert echo.answer(ident) == {"code": 0, "value": "", "revision": 4}
    ident = echo.begin("kv_get", {"key": "a.b"})
    get = echo.child.take("KV_GET")
    echo.child.send("VALUE", get.id, i32(0) + text(None) + u32(1) + b"v" + u64(4))
    assert echo.answer(ident) == {"code": 0, "value": "v", "revision": 4}
    assert echo.lab("kv_get", {"key": "a..b"}) == {"code": EINVAL}


def test_a_scan_and_a_read_come_in_pieces(echo: Echo) -> None:
    ident = echo.begin("kv_scan", {"prefix": "a"})
    scan = echo.child.take("KV_SCAN")
    assert (scan.u64(), scan.text()) == (0, "a")
    for i in (1, 2):
        echo.child.send("ENTRY", scan.id, i32(0) + u8(1) + text(f"a{i}") + u32(1) + b"v" + u64(i) + i64(0))
    echo.child.none("REPLY", 0.1)
    echo.child.send("ENTRY", scan.id, i32(0) + u8(0))
    assert echo.answer(ident) == {"code": 0, "n": 2, "list": "a1:v@1\na2:v@2\n"}
    echo.child.send("ENTRY", scan.id, i32(0) + u8(0))  # late, and nobody waits
    stream = open_stream(echo)
    ident = echo.begin("read_on", {"from": 3, "max": 10, "subject": "echo.>", "close": 2})
    read = echo.child.take("STREAM_READ")
    assert (read.u64(), read.u64(), read.text(), read.u64(), read.u32()) == (stream, 1, "echo.>", 3, 10)
    for seq in (3, 4, 5):  # the plugin closes the stream at the second; the third comes too late
        echo.child.send("STORED", read.id, i32(0) + u8(1) + u8(1) + message("echo.said", raw=b"{}", seq=seq, agent=None))
    assert echo.answer(ident) == {"code": ELINK, "n": 2, "list": "echo.said:{}@3\necho.said:{}@4\n"}
    assert echo.lab("read_on", {"max": 1001}) == {"code": EINVAL}


def test_streams_of_others_are_not_for_a_child(echo: Echo) -> None:
    assert echo.lab("attach", {"name": "EVT"}) == {"code": EABI}
    assert echo.lab("reopen", {"name": "echo_main", "subjects": "echo.>", "republish": "evt.>"}) == {"code": EACCES}
    open_stream(echo)
    assert echo.lab("follow") == {"code": EABI, "told": 0}
    assert echo.lab("hold_back") == {"code": 0, "told_inside": 0} and echo.lab("unfollow") == {"code": 0}


def test_leases(echo: Echo) -> None:
    def held() -> object:
        return echo.lab("lease", {"name": "job"})

    def until(seconds: float) -> bytes:
        return i64(time.monotonic_ns() + int(seconds * 1e9))

    assert echo.lab("acquire", {"name": "job", "ttl_ms": 3000})["code"] == 0  # type: ignore[index]
    lease = echo.child.take("LEASE")
    assert (lease.text(), lease.i64()) == ("job", 3 * 10**9)
    assert echo.lab("acquire", {"name": "job"})["code"] == EEXIST  # type: ignore[index]
    assert echo.lab("acquire", {"name": "job.x", "ttl_ms": 5})["code"] == EINVAL  # type: ignore[index]
    assert echo.lab("lease_put", {"name": "job", "key": "k", "value": "v"})["code"] == ESTALE  # type: ignore[index]
    echo.child.send("LEASE_GOT", lease.id, u64(7) + until(0.6))
    told = {"broker": "broker-1", "code": 0, "told": 7, "got": 1}
    assert held() == {**told, "epoch": 7, "lost": 0, "why": 0}
    echo.child.send("LEASE_GOT", lease.id, u64(7) + until(0.8))  # renewed: nothing is called
    ident = echo.begin("lease_put", {"name": "job", "key": "k", "value": "v"})
    put = echo.child.take("KV_PUT")
    assert (put.u64(), put.text(), put.bytes(), put.u64(), put.i64(), put.u64()) == (0, "k", b"v", 2**64 - 1, 0, lease.id)
    echo.child.send("VALUE", put.id, i32(0) + text(None) + u32(0) + u64(1))
    assert echo.answer(ident) == {"broker": "broker-1", "code": 0}
    time.sleep(0.9)
    assert held() == {**told, "epoch": 0, "lost": 0, "why": 0}  # by the clock, before anybody said so
    assert echo.lab("lease_put", {"name": "job", "key": "k", "value": "v"})["code"] == ESTALE  # type: ignore[index]
    echo.child.send("LEASE_LOST", lease.id, i32(ETIME))
    assert held() == {**told, "epoch": 0, "lost": 1, "why": ETIME}
    echo.child.send("LEASE_GOT", lease.id, u64(8) + until(60))
    assert held() == {**told, "told": 8, "got": 2, "epoch": 8, "lost": 1, "why": ETIME}
    assert echo.lab("release", {"name": "job"})["code"] == 0  # type: ignore[index]
    echo.child.take("LEASE_RELEASE", lease.id)
    echo.child.send("LEASE_GOT", lease.id, u64(9) + until(60))  # on its way when it was released
    assert echo.lab("lease", {"name": "job"})["code"] == ENOTFOUND  # type: ignore[index]
    assert echo.lab("acquire", {"name": "brief", "brief": 1})["code"] == 0  # type: ignore[index]
    brief = echo.child.take("LEASE")
    echo.child.send("LEASE_GOT", brief.id, u64(1) + until(60))
    echo.child.take("LEASE_RELEASE", brief.id)  # inside on_got


def connection(kind: int, client: int, tenant: int = 1) -> bytes:
    return b"".join([u32(kind), u64(tenant), text("a1" if tenant else None), text("S1"), u64(client), text("its name"), text(None), i64(7)])


def test_connections() -> None:
    child = Child(PLUGINS / "conns.so")
    child.take("HELLO")
    child.settings(i32(1), capabilities=("system",))
    child.tenant(1, "acme")
    assert child.outcome("CREATE", "CREATED") == (0, "")
    assert child.outcome("START", "STARTED") == (0, "")
    sub, watch = child.take("SUBSCRIBE").id, child.take("SYS_WATCH").id
    child.send("SYS_EVENT", watch, connection(3, 0, tenant=0))
    child.send("SYS_EVENT", watch, connection(1, 9))
    seen = child.ask(sub, "rpc.a1.conns.seen")["rows"]
    assert [(row["kind"], row["tenant"], row["client"]) for row in seen] == [(3, "(null)", 0), (1, "acme", 9)]
    assert seen[1] == {"kind": 1, "client": 9, "at": 7, "tenant": "acme", "agent": "a1", "server": "S1", "name": "its name", "reason": "(null)"}

    ident = child.deliver(sub, "rpc.a1.conns.list", wants_answer=True)
    asked = child.take("SYS_LIST")
    for client in (4, 5):
        child.send("SYS_LISTED", asked.id, i32(0) + u8(1) + connection(1, client))
    child.send("SYS_LISTED", asked.id, i32(ETIME) + u8(0))
    listed_ones = child.take("REPLY", ident).json()
    assert (listed_ones["code"], listed_ones["n"], listed_ones["distinct"]) == (ETIME, 2, 2)

    ident = child.deliver(sub, "rpc.a1.conns.kick", {"server": "S1", "client": 4}, wants_answer=True)
    kick = child.take("SYS_KICK")
    assert (kick.text(), kick.u64()) == ("S1", 4)
    child.send("SENT", kick.id, i32(ENOTFOUND))
    assert child.take("REPLY", ident).json()["code"] == ENOTFOUND

    child.ask(sub, "rpc.a1.conns.unwatch")
    child.take("SYS_UNWATCH", watch)
    child.send("SYS_EVENT", watch, connection(2, 9))  # on its way
    assert child.ask(sub, "rpc.a1.conns.seen")["n"] == 2
    ident = child.deliver(sub, "rpc.a1.conns.list", wants_answer=True)
    child.take("SYS_LIST")
    child.send("DESTROY")
    child.take("GONE")
    assert child.take("REPLY", ident).json()["code"] == ELINK
    assert child.end() == (0, "")
    child.close()


def test_reload(echo: Echo) -> None:
    echo.child.send("RELOAD", 0, listed([text("greeting") + text("muster.yaml:9:9")]) + echo_settings("good day"))
    assert (lambda f: (f.i32(), f.text()))(echo.child.take("RELOADED")) == (0, "")
    assert echo.child.ask(echo.subs["rpc.*.echo.say"], "rpc.a1.echo.say", {"text": "hi"})["greeting"] == "good day"
    assert echo.lab("where") == {"greeting": "muster.yaml:9:9", "sql": ""}
    echo.child.send("RELOAD", 0, listed([]) + echo_settings("refused"))
    code, why = (lambda f: (f.i32(), f.text()))(echo.child.take("RELOADED"))
    assert code < 0 and why
    assert echo.child.ask(echo.subs["rpc.*.echo.say"], "rpc.a1.echo.say", {"text": "hi"})["greeting"] == "good day"


# ---- tenants, settings, metrics ----------------------------------------------------------------------------------------------------


def test_tenants(echo: Echo) -> None:
    found = echo.lab("tenants", {"find": "zeta"})
    assert found == {"code": 0, "names": "acme zeta ", "found": "zeta", "tables": 0, "serial": 0}
    assert echo.lab("limits", tenant=2) == {"code": 0, "requests_per_s": 5, "encoding": 1, "watches": -1, "shouts": -1, "nothing": -1,
                                           "short": EINVAL}
    echo.child.tenant(2, "zeta", watches=3, shouts=9)
    assert {name: echo.lab("limits", tenant=2)[name] for name in ("watches", "shouts")} == {"watches": 3, "shouts": 9}
    echo.child.tenant(2, "zeta", known=False)
    row = text("public") + text("notes") + text("tenant_id") + text(None) + text(None) + u32(1)
    for _ in range(3):
        echo.child.send("TABLE", 0, u64(7) + row)
    echo.child.send("ON_TABLES", 0, u64(7))
    assert echo.lab("tenants", {"find": "zeta"}) == {"code": 0, "names": "acme ", "found": "", "tables": 3, "serial": 7}
    echo.child.send("ON_TABLES", 0, u64(0))
    assert echo.lab("tenants")["tables"] == 3  # type: ignore[index]
    echo.child.send("ON_TABLES", 0, u64(8))
    assert echo.lab("tenants") == {"code": 0, "names": "acme ", "found": "", "tables": 0, "serial": 8}
    ident = echo.begin("refresh", {"name": "late"})
    asked = echo.child.take("REFRESH")
    assert asked.text() == "late"
    echo.child.tenant(3, "late")
    echo.child.send("FOUND", asked.id, i32(0) + u64(3))
    assert echo.answer(ident) == {"code": 0, "name": "late"}


def test_a_tenant_that_was_not_told_ends_it(echo: Echo) -> None:
    echo.child.deliver(echo.subs["rpc.*.lab.*"], "rpc.a1.lab.lane", tenant=99)
    with pytest.raises(EOFError, match="a tenant that it has not told"):
        echo.child.take("DONE")
    assert echo.child.end()[0] == 1


def test_metrics_are_gathered_and_none_is_lost(echo: Echo) -> None:
    made = {}
    for frame in [f for f in echo.child.frames if f.name == "METRIC_MAKE"]:
        kind, name, _, label = frame.u32(), frame.text(), frame.text(), frame.text()
        made[str(name)] = (frame.id, kind, label)
    assert made["said_total"][1:] == (0, "agent") and made["open"][1:] == (1, None) and made["took_seconds"][1] == 2
    for i in range(500):
        echo.child.deliver(echo.subs["rpc.*.echo.say"], "rpc.a1.echo.say", {"text": "x"}, agent=f"a{i % 3}")
    added: dict[str, int] = {}
    observed = 0

    def all_are_here() -> bool:
        nonlocal observed
        while echo.child.metrics:
            frame = echo.child.metrics.pop(0)
            op, value, number, counts = frame.u32(), frame.text(), frame.i64(), [frame.u64() for _ in range(frame.u32())]
            if frame.id == made["said_total"][0]:
                assert op == 0
                added[str(value)] = added.get(str(value), 0) + number
            elif frame.id == made["took_seconds"][0]:
                assert op == 2 and number > 0
                observed += sum(counts)
        return sum(added.values()) == 500 and observed == 500

    echo.child.wait(all_are_here, "all were told")
    assert added == {"a0": 167, "a1": 167, "a2": 166}


def test_wrong_threads_are_told(echo: Echo) -> None:
    ident = echo.begin("wrong_thread")
    try:
        assert echo.answer(ident) == {"code": EINVAL}
    except EOFError as end:  # a debug build aborts
        assert "SIGABRT" in str(end) or "Sanitizer" in str(end)


def test_health_is_told_when_it_changes(echo: Echo) -> None:
    echo.child.take("HEALTH")
    for _ in range(3):
        echo.lab("late_health", {"state": 2, "code": "half", "text": "as asked"})
    health = echo.child.take("HEALTH")
    assert (health.u32(), health.text(), health.text()) == (2, "half", "as asked")
    echo.child.none("HEALTH")
    for i in range(50):
        echo.lab("late_health", {"state": 2, "code": "half", "text": f"words {i}"})
    time.sleep(0.3)
    echo.child.ping()
    told = [f for f in echo.child.frames if f.name == "HEALTH"]
    assert told and len(told) < 40
    assert (told[-1].u32(), told[-1].text(), told[-1].text()) == (2, "half", "words 49")


def test_timers_descriptors_and_posts(echo: Echo) -> None:
    assert echo.lab("pipe") == {"text": "ping", "events": 1}
    assert echo.lab("tick", {"ms": 1})["never"] == EINVAL  # type: ignore[index]
    wait_until(lambda: echo.child.ask(echo.subs["rpc.*.echo.count"], "rpc.a1.echo.count")["ticks"] == 1, 10, "the timer")
    assert echo.lab("post", {"n": 5000})["posts"] == 5000  # type: ignore[index]


def test_idle_costs_little(echo: Echo) -> None:
    pid = echo.child.process.pid
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert int(status["Threads"]) == 2 or SANITIZED
    before = os.times()
    first = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    time.sleep(1)
    then = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    assert sum(map(int, then)) - sum(map(int, first)) <= 5, before
