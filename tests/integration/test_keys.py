"""muster.kv/1 whole, and stream->read(): tenants apart, expiry, deletes, scans, what is cleared away; through the plugin `echo`."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from typing import Any

import pytest

from agent import Agent
from client import Client
from harness import LONG, Musterd, Site, wait_until
from pluginrig import EINVAL, ELINK, ENOTFOUND, ESTALE, Agents, echo, installation, own_broker, plugin


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    with installation() as site:
        yield site


@pytest.fixture(scope="module")
def shared(site: Site) -> Generator[Musterd, None, None]:
    broker = own_broker(site, echo())
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


@pytest.fixture
def stem() -> str:
    return f"t{time.monotonic_ns()}"


def lab(agent: Agent, verb: str, **body: Any) -> dict[str, Any]:
    return agent.ask("lab", verb, body).body


def keys(agent: Agent, prefix: str, **body: Any) -> dict[str, str]:
    answer = lab(agent, "kv_scan", prefix=prefix, **body)
    assert answer["code"] == 0, answer
    pairs = [line.rpartition("@")[0].partition(":") for line in answer["list"].splitlines()]
    assert len(pairs) == answer["n"]
    return {key: value for key, _, value in pairs}


def stored(insider: Client, stream: str) -> int:
    answer = json.loads(insider.request(f"$JS.API.STREAM.INFO.{stream}", b"").data)
    return int(answer["state"]["messages"]) if "error" not in answer else -1


def test_a_bucket_that_does_not_exist(a1: Agent, insider: Client) -> None:
    assert stored(insider, "KV_muster__echo") == -1
    assert lab(a1, "kv_get", key="x", own=0)["code"] == ENOTFOUND
    assert lab(a1, "kv_scan", prefix="", own=0) == {"code": 0, "n": 0, "list": ""}
    assert stored(insider, "KV_muster__echo") == -1, "reading makes none"


def test_a_tenants_keys_are_apart(a1: Agent, agents: Agents, insider: Client, stem: str) -> None:
    zed = agents("zeta", "zed")
    assert lab(a1, "kv_put", key=stem, value="ours")["code"] == 0
    assert lab(a1, "kv_put", key=stem, value="acme's", own=0, revision=0)["code"] == 0
    assert lab(zed, "kv_put", key=stem, value="zeta's", own=0, revision=0)["code"] == 0
    assert lab(a1, "kv_get", key=stem)["value"] == "ours"
    assert lab(a1, "kv_get", key=stem, own=0)["value"] == "acme's"
    assert lab(zed, "kv_get", key=stem, own=0)["value"] == "zeta's"
    assert keys(a1, stem) == {stem: "ours"}
    assert keys(a1, stem, own=0) == {stem: "acme's"}
    assert keys(zed, stem, own=0) == {stem: "zeta's"}
    assert lab(a1, "kv_del", key=stem, own=0)["code"] == 0
    assert lab(zed, "kv_get", key=stem, own=0)["value"] == "zeta's"
    for stream, subject in (("KV_muster_echo", f"$KV.muster_echo.{stem}"), ("KV_muster__echo", f"$KV.muster__echo.zeta.{stem}")):
        answer = json.loads(insider.request(f"$JS.API.STREAM.MSG.GET.{stream}", json.dumps({"last_by_subj": subject}).encode()).data)
        assert answer["message"]["subject"] == subject


def test_deletes(a1: Agent, insider: Client, stem: str) -> None:
    heard = insider.subscribe(f"$KV.muster_echo.{stem}")
    assert lab(a1, "kv_del", key=stem, revision=7)["code"] == 0, "what is not there is removed already"
    first = lab(a1, "kv_put", key=stem, value="one")
    assert lab(a1, "kv_del", key=stem, revision=first["revision"] + 1)["code"] == ESTALE
    assert lab(a1, "kv_get", key=stem)["value"] == "one"
    gone = lab(a1, "kv_del", key=stem, revision=first["revision"])
    assert gone["code"] == 0 and gone["revision"] > first["revision"]
    marker = {"KV-Operation": "DEL", "Nats-Expected-Last-Subject-Sequence": str(first["revision"])}
    wait_until(lambda: heard.messages[-1].headers == marker, 5, "the marker, behind what was refused")
    assert lab(a1, "kv_get", key=stem) == {"code": ENOTFOUND, "value": "", "revision": 0}
    assert keys(a1, stem) == {}
    assert lab(a1, "kv_del", key=stem, revision=first["revision"])["code"] == 0, "removed already"
    assert lab(a1, "kv_put", key=stem, value="x", revision=first["revision"])["code"] == ESTALE, "there is none of that revision"
    again = lab(a1, "kv_put", key=stem, value="two", revision=0)
    assert again["code"] == 0 and lab(a1, "kv_get", key=stem) == {"code": 0, "value": "two", "revision": again["revision"]}
    assert lab(a1, "kv_put", key=stem, value="x", revision=0)["code"] == ESTALE
    insider.publish(f"$KV.muster_echo.{stem}", headers={"KV-Operation": "PURGE"})
    wait_until(lambda: lab(a1, "kv_get", key=stem)["code"] == ENOTFOUND, 5, "a client's purge to be seen")
    assert lab(a1, "kv_del", key=stem)["code"] == 0


def test_a_key_expires(a1: Agent, insider: Client, stem: str) -> None:
    began = time.monotonic()
    first = lab(a1, "kv_put", key=f"{stem}.a", value="brief", ttl_ms=1500)
    assert first["code"] == 0
    assert lab(a1, "kv_put", key=f"{stem}.b", value="brief", ttl_ms=1500)["code"] == 0
    assert lab(a1, "kv_put", key=f"{stem}.c", value="long")["code"] == 0
    assert lab(a1, "kv_put", key=f"{stem}.d", value="kept", ttl_ms=1500)["code"] == 0
    assert keys(a1, f"{stem}.") == {f"{stem}.a": "brief", f"{stem}.b": "brief", f"{stem}.c": "long", f"{stem}.d": "kept"}
    assert lab(a1, "kv_put", key=f"{stem}.d", value="kept")["code"] == 0, "written anew, without an end"
    assert lab(a1, "kv_get", key=f"{stem}.a")["value"] == "brief"
    assert time.monotonic() - began < 1.4, "this machine is too slow for the test"
    time.sleep(1.6)
    before = stored(insider, "KV_muster_echo")
    assert lab(a1, "kv_get", key=f"{stem}.a")["code"] == ENOTFOUND
    assert keys(a1, f"{stem}.") == {f"{stem}.c": "long", f"{stem}.d": "kept"}
    wait_until(lambda: stored(insider, "KV_muster_echo") == before - 2, 5, "what has expired to be removed where it was met")


def test_an_expired_key_is_none(a1: Agent, stem: str) -> None:
    assert lab(a1, "kv_put", key=stem, value="brief", ttl_ms=1000)["code"] == 0
    assert lab(a1, "kv_put", key=stem, value="x", revision=0)["code"] == ESTALE
    time.sleep(1.1)
    assert lab(a1, "kv_put", key=stem, value="new", revision=0)["code"] == 0
    assert lab(a1, "kv_get", key=stem)["value"] == "new"


def test_scans(a1: Agent, stem: str) -> None:
    want = {}
    for name in ("a", "ab", "a.b", "a.bc", "a.b.c", "b", "=/~-_"):
        key = f"{stem}.{name}"
        want[key] = name
        assert lab(a1, "kv_put", key=key, value=name)["code"] == 0
    for prefix in ("", ".", ".a", ".a.", ".a.b", ".a.b.", ".b", ".=", ".c"):
        prefix = stem + prefix
        assert keys(a1, prefix) == {k: v for k, v in want.items() if k.startswith(prefix)}, prefix
    assert want.items() <= keys(a1, "").items()
    for bad in (".x", "a..b", "a*", "a b", "x" * 201):
        assert lab(a1, "kv_scan", prefix=bad)["code"] == EINVAL, bad


def test_a_large_scan(a1: Agent, stem: str) -> None:
    for n in range(300):
        assert lab(a1, "kv_put", key=f"{stem}.{n}", value="x")["code"] == 0
    began = time.monotonic()
    answer = lab(a1, "kv_scan", prefix=f"{stem}.")
    assert (answer["code"], answer["n"]) == (0, 300)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("body", [{"key": "a..b"}, {"key": "k", "ttl_ms": 999}, {"key": "k", "ttl_ms": -1}, {"key": "k", "value": "x" * 65537}],
                         ids=["dots", "short", "negative", "large"])
def test_what_put_refuses(a1: Agent, body: dict[str, Any]) -> None:
    assert lab(a1, "kv_put", **body)["code"] == EINVAL


def test_the_largest_value(a1: Agent, stem: str) -> None:
    assert lab(a1, "kv_put", key=stem, value="y" * 65536)["code"] == 0
    assert lab(a1, "kv_get", key=stem)["value"] == "y" * 99
    assert keys(a1, stem) == {stem: "y" * 100}


def test_values_that_are_on_their_way_have_a_bound(a1: Agent, stem: str) -> None:
    """16 MiB, and on_writable when half of that is free again."""
    before = a1.ask("echo", "count").body["writable"]
    assert a1.ask("lab", "kv_many", {"n": 1000, "bytes": 65536, "stem": stem}, timeout=60).body == {"sent": 256, "failed": 0}
    # Behind as many acknowledgements as its lane takes a turn, requests come between them and that.
    wait_until(lambda: a1.ask("echo", "count").body["writable"] == before + 1, 5, "on_writable")
    assert a1.ask("lab", "kv_many", {"n": 200, "bytes": 65536, "stem": stem}, timeout=60).body == {"sent": 200, "failed": 0}
    assert a1.ask("lab", "kv_many", {"n": 1000, "bytes": 100, "stem": stem}, timeout=60).body == {"sent": 1000, "failed": 0}
    assert a1.ask("echo", "count").body["writable"] == before + 1


def test_a_put_that_needs_a_lease(a1: Agent, stem: str) -> None:
    assert lab(a1, "kv_put", key=stem, value="x", lease="none")["code"] == ESTALE
    assert lab(a1, "acquire", name=stem)["code"] == 0
    wait_until(lambda: lab(a1, "lease", name=stem)["epoch"], 5, "the lease")
    assert lab(a1, "kv_put", key=stem, value="x", lease=stem)["code"] == 0
    assert lab(a1, "reopen", name="LEASED", subjects="leased.>")["code"] == 0
    assert lab(a1, "append", subject="leased.x", lease=stem) == {"code": 0, "seq": 1}
    assert lab(a1, "append", subject="leased.x", lease="none")["code"] == ESTALE
    assert lab(a1, "release", name=stem)["code"] == 0
    assert lab(a1, "kv_put", key=stem, value="y", lease=stem)["code"] == ESTALE
    assert lab(a1, "append", subject="leased.x", lease=stem)["code"] == ESTALE
    assert lab(a1, "info")["last_seq"] == 1, "nothing was sent"
    assert lab(a1, "kv_get", key=stem)["value"] == "x"


def read(agent: Agent, **body: Any) -> tuple[int, list[str]]:
    answer = lab(agent, "read_on", **body)
    return answer["code"], answer.get("list", "").splitlines()


def test_a_stream_is_read(a1: Agent, agents: Agents, insider: Client) -> None:
    zed = agents("zeta", "zed")
    assert lab(a1, "reopen", name="READ", subjects="read.>")["code"] == 0
    assert read(a1) == (ENOTFOUND, [])
    for n in range(1, 7):
        agent = a1 if n % 2 else zed
        assert lab(agent, "append", subject=f"read.n{n}", text=f'{{"n": {n}}}')["code"] == 0
    lines = [f'read.n{n}:{{"n": {n}}}@{n}' for n in range(1, 7)]
    assert read(a1) == (ENOTFOUND, lines), "fewer than ten are there"
    assert read(a1, max=4) == (0, lines[:4])
    assert read(a1, **{"from": 5}, max=4) == (ENOTFOUND, lines[4:])
    assert read(a1, **{"from": 5}, max=2) == (0, lines[4:])
    assert read(a1, **{"from": 0}, max=1) == (0, lines[:1])
    assert read(a1, **{"from": 7}) == (ENOTFOUND, [])
    assert read(a1, subject="read.>") == (ENOTFOUND, lines[0::2]), "acme's own"
    assert read(zed, subject="read.>", max=2) == (0, [lines[1], lines[3]])
    assert read(a1, subject="read.n3") == (ENOTFOUND, [lines[2]])
    done = json.loads(insider.request("$JS.API.STREAM.MSG.DELETE.READ", b'{"seq": 2}').data)
    assert done["success"]
    assert read(a1, max=3) == (0, [lines[0], lines[2], lines[3]])
    for bad in ({"max": 0}, {"max": 1001}, {"subject": "read..x"}):
        assert lab(a1, "read_on", **bad)["code"] == EINVAL, bad
    assert read(a1, close=2) == (ELINK, [lines[0], lines[2]]), "closed while it was read"
    assert lab(a1, "read_on")["code"] == EINVAL, "nothing is open"


def test_a_plugin_named_leases_has_no_keys(shared: Musterd, site: Site, agents: Agents, stem: str) -> None:
    """Its bucket would be the broker's own: it could forge leases."""
    shared.stop()
    broker = own_broker(site, plugin("leases", "leases"))
    try:
        broker.start()
        agent = agents("acme", "a1")
        for verb in ("kv_get", "kv_put", "kv_del", "kv_scan"):
            assert lab(agent, verb, key=stem)["code"] == EINVAL, verb
            assert lab(agent, verb, key=stem, own=0)["code"] == EINVAL, verb
        assert lab(agent, "acquire", name=stem)["code"] == 0
        wait_until(lambda: lab(agent, "lease", name=stem)["epoch"], 5, "the lease")
        assert broker.stop() == 0
    finally:
        broker.kill()
        shared.start()


@pytest.mark.skipif(not LONG, reason="waits for a sweep: MUSTER_TEST_LONG=1")
def test_what_nobody_reads_is_cleared_away(a1: Agent, insider: Client, stem: str) -> None:
    for n in range(20):
        assert lab(a1, "kv_put", key=f"{stem}.{n}", value="x", ttl_ms=1000, own=0)["code"] == 0
        assert lab(a1, "kv_put", key=f"{stem}.k{n}", value="x", own=0)["code"] == 0
        assert lab(a1, "kv_del", key=f"{stem}.k{n}", own=0)["code"] == 0
    before = stored(insider, "KV_muster__echo")
    wait_until(lambda: stored(insider, "KV_muster__echo") <= before - 20, 45, "the expired entries to go")
    wait_until(lambda: stored(insider, "KV_muster__echo") <= before - 40, 75, "the markers to go")
