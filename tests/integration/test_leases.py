"""muster.lease/1 between brokers: who holds, and who takes over when the holder dies, sleeps, ends, hangs, or loses NATS."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable, Generator
from typing import Any

import nats
import pytest

from agent import Agent
from client import Client
from harness import LONG, Musterd, Site, wait_until
from pluginrig import EEXIST, EINVAL, ELINK, ENOTFOUND, ESTALE, ETIME, Agents, echo, installation, own_broker
from proxy import Proxy

TTL = 3.0  # s, the least there may be
SOON = 2.0  # s, for who is heard to have gone, whatever its ttl
TAKEN_OVER = TTL + TTL / 5 + 6  # and what a busy machine may take
SUBJECT = "$KV.muster_leases.echo.work"


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
def a1(agents: Agents) -> Agent:
    return agents("acme", "a1")


@pytest.fixture(scope="module")
def insider(site: Site) -> Generator[Client, None, None]:
    client = Client(site.nats.url, site.nats.folder / "broker.creds")
    yield client
    client.close()


@pytest.fixture
def start(site: Site) -> Generator[Callable[..., list[Musterd]], None, None]:
    """Brokers b0, b1, … that contend for `work`; they end cleanly, but for those that a test has killed."""
    made: list[Musterd] = []

    def make(n: int, **config: Any) -> list[Musterd]:
        nats_port = config.pop("nats_port", None)
        for _ in range(n):
            broker = own_broker(site, echo(**config if "lease" in config else {"lease": "work", **config}))
            broker.config["nats"] = site.nats_section(nats_port)
            broker.config["broker"] = {**broker.config["broker"], "id": f"b{len(made)}"}
            made.append(broker)
            broker.start()
        return made[-n:]

    yield make
    for broker in made:
        broker.resume()
        if broker.alive:
            assert broker.stop() == 0, broker.log()[-3000:]
        assert "Sanitizer" not in broker.log() and "runtime error" not in broker.log(), broker.log()[-5000:]


def held(broker: Musterd) -> bool:
    return broker.metric("muster_lease_held", 'lease="work"') == 1


def holder(brokers: list[Musterd], deadline: float) -> Musterd:
    found: list[Musterd] = wait_until(lambda: [b for b in brokers if b.alive and held(b)], deadline, "somebody to hold the lease")
    return found[0]


def ask(agent: Agent, broker: Musterd, verb: str, **body: Any) -> dict[str, Any]:
    """The answer of this broker: with several any may get a request."""
    wanted = broker.config["broker"]["id"]

    def answer() -> dict[str, Any] | None:
        got = agent.ask("lab", verb, {"name": "work", "broker": wanted, **body}).body
        return got if got["broker"] == wanted else None

    return wait_until(answer, 10, f"{wanted} to answer")


def record(insider: Client) -> dict[str, Any]:
    answer = json.loads(insider.request("$JS.API.STREAM.MSG.GET.KV_muster_leases", json.dumps({"last_by_subj": SUBJECT}).encode()).data)
    return {**json.loads(base64.b64decode(answer["message"]["data"])), "seq": answer["message"]["seq"]}


def test_one_of_three_holds(start: Callable[..., list[Musterd]], a1: Agent, insider: Client) -> None:
    brokers = start(3)
    first = holder(brokers, 15)
    epoch = ask(a1, first, "lease")["epoch"]
    assert epoch >= (time.time() - 60) * 1000
    end = time.monotonic() + 2 * TTL
    while time.monotonic() < end:
        assert [b for b in brokers if held(b)] == [first]
        time.sleep(0.1)
    for broker in brokers:
        mine = ask(a1, broker, "lease")
        assert mine["epoch"] == (epoch if broker is first else 0)
        assert (mine["got"], mine["lost"]) == (int(broker is first), 0)
    kept = record(insider)
    assert (kept["epoch"], kept["held"], kept["ttl_ms"], kept["broker"]) == (epoch, True, 3000, first.config["broker"]["id"])


def test_the_holder_is_killed(start: Callable[..., list[Musterd]], a1: Agent, insider: Client) -> None:
    """The servers tell that its connections have ended, and nobody waits for 15 s."""
    brokers = start(3, lease_ttl="15s")
    first = holder(brokers, 15)
    epoch = ask(a1, first, "lease")["epoch"]
    kept = record(insider)
    assert [at["client"] > 0 and len(at["server"]) == 56 for at in kept["at"]] == [True, True], kept
    first.kill()
    second = holder([b for b in brokers if b is not first], SOON)
    assert ask(a1, second, "lease")["epoch"] == epoch + 1


def test_a_holder_that_renews_lives_whatever_its_record_names(start: Callable[..., list[Musterd]], a1: Agent, insider: Client) -> None:
    """One that has just connected anew may still write the connections that have ended. Otherwise two such brokers would take turns at once."""
    brokers = start(2, lease_ttl="15s")
    first = holder(brokers, 15)
    kept = record(insider)
    first.kill()
    [second] = [b for b in brokers if b is not first]
    holder([second], SOON)
    kept |= {"epoch": ask(a1, second, "lease")["epoch"] + 10}
    for _ in range(15):
        insider.publish(SUBJECT, json.dumps(kept).encode())
        time.sleep(0.2)
        assert not held(second) and record(insider)["holder"] == kept["holder"]
    holder([second], SOON)
    assert ask(a1, second, "lease")["epoch"] == kept["epoch"] + 1


def test_all_are_killed_and_one_comes_back(start: Callable[..., list[Musterd]]) -> None:
    """Nobody was there to hear it: the server is asked."""
    [first] = start(1, lease_ttl="15s")
    holder([first], 15)
    first.kill()
    first.start()
    holder([first], SOON)


def test_the_holder_is_cut_off_for_a_moment(start: Callable[..., list[Musterd]], site: Site, a1: Agent, insider: Client) -> None:
    proxy = Proxy(site.nats.port)
    try:
        [first] = start(1, lease_ttl="15s", nats_port=proxy.port)
        holder([first], 15)
        [other] = start(1, lease_ttl="15s")
        epoch = ask(a1, first, "lease")["epoch"]
        before = record(insider)
        proxy.cut()
        proxy.heal()
        wait_until(lambda: record(insider)["at"] != before["at"], 1, "the record to name the new connections")
        first.wait_ready()
        assert ask(a1, first, "lease_put", key="cut", value="kept")["code"] == 0
        time.sleep(SOON)
        assert not held(other)
        mine = ask(a1, first, "lease")
        assert (mine["epoch"], mine["lost"]) == (epoch, 0)
    finally:
        proxy.close()


def test_the_holder_is_cut_off(start: Callable[..., list[Musterd]], site: Site, a1: Agent) -> None:
    """It lives and holds by the clock, but the other has it, and nothing that it puts counts any more."""
    proxy = Proxy(site.nats.port)
    try:
        [first] = start(1, lease_ttl="15s", nats_port=proxy.port)
        holder([first], 15)
        [other] = start(1, lease_ttl="15s")
        epoch = ask(a1, first, "lease")["epoch"]
        proxy.cut()
        wait_until(lambda: held(other), SOON, "the other to have it")
        assert held(first)
        proxy.heal()
        first.wait_ready()
        assert ask(a1, first, "lease_put", key="cut", value="late")["code"] in (ESTALE, ELINK)
        wait_until(lambda: ask(a1, first, "lease")["why"] == ESTALE, 2, "it to be told")
        assert ask(a1, other, "lease")["epoch"] == epoch + 1
        assert ask(a1, other, "lease_put", key="cut", value="in time")["code"] == 0
    finally:
        proxy.close()


def test_the_holder_ends(start: Callable[..., list[Musterd]], a1: Agent, insider: Client) -> None:
    brokers = start(2)
    first = holder(brokers, 15)
    other = brokers[1 - brokers.index(first)]
    epoch = ask(a1, first, "lease")["epoch"]
    first.signal(15)
    wait_until(lambda: held(other), 1, "the other to have it")
    assert ask(a1, other, "lease")["epoch"] == epoch + 1
    assert first.stop() == 0
    assert other.stop() == 0
    assert record(insider)["held"] is False, "a broker that ends leaves nothing held"


def test_the_holder_lets_go(start: Callable[..., list[Musterd]], a1: Agent) -> None:
    brokers = start(2)
    first = holder(brokers, 15)
    other = brokers[1 - brokers.index(first)]
    epoch = ask(a1, first, "lease")["epoch"]
    assert ask(a1, first, "release")["code"] == 0
    wait_until(lambda: held(other), 1, "the other to have it")
    assert not held(first)
    assert ask(a1, other, "lease")["epoch"] == epoch + 1
    assert ask(a1, first, "acquire")["code"] == 0
    time.sleep(TTL)
    assert ask(a1, first, "lease")["got"] == 0 and held(other)


def test_the_holder_sleeps(start: Callable[..., list[Musterd]], a1: Agent, insider: Client) -> None:
    """What it finds when it wakes: an epoch of 0 before it has been told, and fenced writes that are refused."""
    brokers = start(2)
    first = holder(brokers, 15)
    other = brokers[1 - brokers.index(first)]
    name = first.config["broker"]["id"]
    assert a1.ask("lab", "reopen", {"name": "FENCED", "subjects": "fenced.>"}).body["code"] == 0
    box = a1.client.subscribe(a1.box("slept.>"))
    first.pause()
    for n in range(20):  # half of them wait for it, in front of everything else
        a1.tell("lab", "lease", {"name": "work"}, reply=a1.box(f"slept.{n}"))
    wait_until(lambda: held(other), TAKEN_OVER, "the other to have it")
    first.resume()
    wait_until(lambda: len(box.messages) == 20, 10, "all answers")
    waited = [json.loads(m.data) for m in box.messages if json.loads(m.data)["broker"] == name]
    assert waited, "none was asked of it"
    assert [a["epoch"] for a in waited] == [0] * len(waited)
    wait_until(lambda: ask(a1, first, "lease")["lost"] == 1, 5, "it to be told")
    assert ask(a1, first, "lease")["why"] in (ESTALE, ETIME)
    assert held(other) and not held(first)
    put = ask(a1, first, "lease_put", key="woken", value="late")
    assert put["code"] == ESTALE
    assert ask(a1, other, "lease_put", key="woken", value="in time")["code"] == 0


@pytest.mark.skipif(not LONG, reason="16 s")
def test_the_holder_sleeps_with_the_usual_ttl(start: Callable[..., list[Musterd]], a1: Agent) -> None:
    """Its connections stay, so it is waited for: for its ttl from its last renewal on, which all have heard."""
    brokers = start(3, lease_ttl="15s")
    first = holder(brokers, 15)
    epoch = ask(a1, first, "lease")["epoch"]
    time.sleep(4)
    first.pause()
    began = time.monotonic()
    second = holder([b for b in brokers if b is not first], 20)
    assert 11 < time.monotonic() - began <= 16
    first.resume()
    wait_until(lambda: ask(a1, first, "lease")["lost"] == 1, 5, "it to be told")
    assert ask(a1, second, "lease")["epoch"] == epoch + 1


def hang(agent: Agent, broker: Musterd, seconds: float) -> None:
    """Hang the lane of this broker; another one that gets the request says at once that it did nothing."""
    name = broker.config["broker"]["id"]
    for _ in range(50):
        place = agent.box(f"hang{time.monotonic_ns()}")
        box = agent.client.subscribe(place)
        agent.tell("lab", "hang", {"ms": int(seconds * 1000), "broker": name}, reply=place)
        time.sleep(0.3)
        if not box.messages:
            return
    raise AssertionError(f"{name} was never asked")


def test_the_lane_of_the_holder_hangs(start: Callable[..., list[Musterd]], a1: Agent, insider: Client) -> None:
    brokers = start(2)
    first = holder(brokers, 15)
    other = brokers[1 - brokers.index(first)]
    epoch = ask(a1, first, "lease")["epoch"]
    hang(a1, first, 7)
    time.sleep(0.7)
    before = record(insider)
    wait_until(lambda: first.metric("muster_lane_stalled") == 1, 3, "the lane to count as stalled")
    assert record(insider) == before, "a lane that hangs renews nothing"
    wait_until(lambda: held(other), TAKEN_OVER, "the other to have it")
    assert first.metric("muster_lane_stalled") == 1, "it hangs still"
    wait_until(lambda: first.metric("muster_lane_stalled") == 0, 20, "the lane to go on")
    mine = ask(a1, first, "lease")
    assert mine["epoch"] == 0
    assert ask(a1, other, "lease")["epoch"] == epoch + 1
    wait_until(lambda: ask(a1, first, "lease")["lost"] == 1, 5, "it to be told")


def test_one_of_several_lanes_holds(site: Site, a1: Agent) -> None:
    broker = own_broker(site, echo(lanes=3, lease="laned"))
    try:
        broker.start()
        wait_until(lambda: broker.metric("muster_lease_held", 'lease="laned"') == 1, 5, "a lane to hold it")
        time.sleep(1)
        assert sorted(v for k, v in broker.metrics().items() if k.startswith("muster_lease_held{") and "laned" in k) in ([1.0], [0.0, 1.0], [0.0, 0.0, 1.0])
        assert broker.metric("muster_lease_taken_total", 'lease="laned"') == 1
        assert broker.stop() == 0
    finally:
        broker.kill()


def test_nats_is_restarted(start: Callable[..., list[Musterd]], site: Site, a1: Agent) -> None:
    brokers = start(2, lease_ttl="15s")
    first = holder(brokers, 15)
    epoch = ask(a1, first, "lease")["epoch"]
    for _ in range(2):
        site.nats.kill()
        time.sleep(0.5)
        site.nats.start()
        for broker in brokers:
            broker.wait_ready()
        time.sleep(4)  # a renewal is due every 3 s
    mine = ask(a1, first, "lease")
    assert (mine["epoch"], mine["got"], mine["lost"]) == (epoch, 1, 0)


def test_nats_is_away_for_too_long(start: Callable[..., list[Musterd]], site: Site, a1: Agent) -> None:
    brokers = start(2)
    first = holder(brokers, 15)
    epoch = ask(a1, first, "lease")["epoch"]
    site.nats.kill()
    wait_until(lambda: not held(first), TTL + 1, "the lease to run out")
    assert held(brokers[1 - brokers.index(first)]) is False
    site.nats.start()
    again = holder(brokers, TAKEN_OVER + 2)
    for broker in brokers:
        broker.wait_ready()
    assert ask(a1, again, "lease")["epoch"] > epoch
    mine = ask(a1, first, "lease")
    assert mine["lost"] >= 1 and mine["why"] == ETIME


def test_the_bucket_is_lost(start: Callable[..., list[Musterd]], a1: Agent, insider: Client) -> None:
    brokers = start(2)
    first = holder(brokers, 15)
    epoch = ask(a1, first, "lease")["epoch"]
    assert json.loads(insider.request("$JS.API.STREAM.DELETE.KV_muster_leases", b"").data)["success"]

    def newer() -> bool:
        now = [b for b in brokers if held(b)]
        return len(now) == 1 and ask(a1, now[0], "lease")["epoch"] > epoch

    wait_until(newer, TAKEN_OVER, "one new tenure in a new bucket")


def test_a_record_that_is_none(start: Callable[..., list[Musterd]], a1: Agent, insider: Client) -> None:
    """Whatever somebody wrote there, it counts as one of an unknown holder, and the holder gives way."""
    brokers = start(1)
    first = holder(brokers, 15)
    epoch = ask(a1, first, "lease")["epoch"]
    insider.publish(SUBJECT, b"not a record")
    wait_until(lambda: ask(a1, first, "lease")["why"] == ESTALE, 2, "the holder to hear of it")
    wait_until(lambda: ask(a1, first, "lease")["epoch"] > epoch, TAKEN_OVER, "it to be taken over")
    insider.publish(SUBJECT, b"", headers={"KV-Operation": "DEL"})
    wait_until(lambda: ask(a1, first, "lease")["lost"] == 2, 2, "the holder to hear of that too")
    wait_until(lambda: ask(a1, first, "lease")["got"] == 3, TAKEN_OVER, "it to be taken again")


def written(insider: Client) -> list[tuple[int, str]]:
    """Epoch and broker of every message of the writers, in order."""
    messages = insider.read_stream("WRITTEN")
    return [(int(body["epoch"]), str(body["broker"])) for body in (json.loads(m.data) for m in messages)]


def tenures(insider: Client) -> int:
    """0 where NATS has just come back and does not answer yet."""
    try:
        return len({epoch for epoch, _ in written(insider)})
    except (nats.errors.Error, TimeoutError):
        return 0


def test_what_is_written_under_a_lease_is_in_order(site: Site, insider: Client) -> None:
    """Brokers die, sleep, end, hang, NATS goes and comes: in the stream no epoch comes after a later one, and each is one broker's."""
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    brokers = [own_broker(site, echo(lease="written", writer=True)) for _ in range(3)]
    for n, broker in enumerate(brokers):
        broker.config["broker"] = {**broker.config["broker"], "id": f"w{n}"}
        broker.start()
    try:
        end = time.monotonic() + (180 if LONG else 25)
        while time.monotonic() < end or (time.monotonic() < end + 60 and tenures(insider) < 3):
            holders = [b for b in brokers if b.alive and b.metric("muster_lease_held", 'lease="written"')]
            trouble(dice, dice.choice(holders or brokers) if dice.random() < 0.7 else dice.choice(brokers), site)
        for broker in brokers:
            broker.resume()
            if not broker.alive:
                broker.start(ready=False)
        for broker in brokers:
            broker.wait_ready()
        before = len(written(insider))
        wait_until(lambda: len(written(insider)) > before + 10, 15, "the writing to go on")
    finally:
        for broker in brokers:
            broker.resume()
        codes = [broker.stop() for broker in brokers]
    told = written(insider)
    epochs = [epoch for epoch, _ in told]
    assert epochs == sorted(epochs), f"seed {seed}"
    assert len({epoch for epoch, _ in told}) == len(set(told)), f"seed {seed}: an epoch of two brokers"
    assert len(set(epochs)) > 2, f"seed {seed}: nothing happened"
    assert codes == [0, 0, 0]
    for broker in brokers:
        assert "Sanitizer" not in broker.log() and "runtime error" not in broker.log(), broker.log()[-5000:]


def trouble(dice: random.Random, broker: Musterd, site: Site) -> None:
    kind = dice.choice(["kill", "sleep", "sleep", "end", "nats"])
    if not broker.alive:
        broker.start(ready=False)
    elif kind == "kill":
        broker.kill()
    elif kind == "sleep":
        broker.pause()
        time.sleep(dice.uniform(0, 2 * TTL))
        broker.resume()
    elif kind == "end":
        broker.signal(15)
        wait_until(lambda: not broker.alive, 15, "it to end")
    else:
        site.nats.kill()
        time.sleep(dice.uniform(0, TTL))
        site.nats.start()
    time.sleep(dice.uniform(0, TTL))


def test_calls(start: Callable[..., list[Musterd]], a1: Agent) -> None:
    [broker] = start(1, lease="another")

    def lab(verb: str, **body: Any) -> dict[str, Any]:
        return a1.ask("lab", verb, body).body

    for bad in ("", ".x", "a..b", "x y", "x" * 201):
        assert lab("acquire", name=bad)["code"] == EINVAL, bad
    for ttl_ms in (1, 2999, 3600001, -1):
        assert lab("acquire", name="x", ttl_ms=ttl_ms)["code"] == EINVAL, ttl_ms
    assert lab("acquire", name="x")["code"] == 0
    assert lab("acquire", name="x")["code"] == EEXIST
    wait_until(lambda: lab("lease", name="x")["epoch"], 5, "the lease")
    assert lab("lease", name="x")["epoch"] == lab("lease", name="x")["told"]
    assert lab("release", name="x")["code"] == 0
    assert lab("release", name="x")["code"] == ENOTFOUND
    assert lab("acquire", name="x", brief=1)["code"] == 0, "let go inside on_got"
    wait_until(lambda: lab("lease", name="x")["code"] == ENOTFOUND, 5, "it to be let go")
    assert broker.metric("muster_lease_held", 'lease="x"') == 0
    assert broker.metric("muster_lease_taken_total", 'lease="x"') == 2
    began = time.monotonic()
    for _ in range(50):  # released while a write is on its way, again and again
        assert lab("acquire", name="x")["code"] == 0
        assert lab("release", name="x")["code"] == 0
    assert lab("acquire", name="x")["code"] == 0
    wait_until(lambda: lab("lease", name="x")["epoch"], 2, "the lease after all that")
    assert time.monotonic() - began < 5
