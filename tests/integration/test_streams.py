"""Streams as a plugin has them: its own with their bounds and their republishing, and those of others that it reads."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest

from agent import Agent
from client import Client, Subscription
from harness import LONG, NATS_VERSION, Site, wait_until
from pluginrig import EACCES, EEXIST, EINVAL, ELINK, ENOTFOUND, Agents, echo, end_of, own_broker


class Scene:
    """A broker with the plugin `echo` on one version of the server, an agent, and a client with the broker's rights."""

    def __init__(self, nats: str) -> None:
        self.site = Site(nats=nats)
        self.agents = Agents(self.site)
        self.n_streams = 0

    def start(self) -> Scene:
        self.site.start("acme")
        self.site.cli("tenant", "add", "zeta", "--history", "off")
        self.broker = own_broker(self.site, echo())
        self.broker.start()
        self.insider = Client(self.site.nats.url, self.site.nats.folder / "broker.creds")
        self.a1 = self.agents("acme", "a1")
        return self

    @property
    def stream(self) -> str:
        return f"T_{self.n_streams}"

    def consumers(self) -> list[str]:
        said = json.loads(self.insider.request(f"$JS.API.CONSUMER.NAMES.{self.stream}", b"").data)
        return list(said["consumers"] or [])

    def close(self, failed: bool) -> None:
        self.agents.close()
        if hasattr(self, "insider"):
            self.insider.close()
        if hasattr(self, "broker"):
            end_of(self.broker, failed)
        self.site.close()


@pytest.fixture(scope="module", params=sorted({NATS_VERSION, "2.10"}))
def scene(request: pytest.FixtureRequest) -> Generator[Scene]:
    scene = Scene(request.param)
    try:
        yield scene.start()
    finally:
        scene.close(bool(request.session.testsfailed))


@pytest.fixture
def a1(scene: Scene) -> Agent:
    """Streams of a test before are gone; a new one has another name, because some servers find messages of one that was removed again."""
    scene.n_streams += 1
    for name in scene.insider.streams():
        if name.startswith("T_"):
            scene.insider.delete_stream(name)
    return scene.a1


def store(scene: Scene, n: int, subject: str = "mst._in.acme.shelf.x") -> None:
    """So many messages more, numbered as they are stored."""
    before = scene.insider.stream_info(scene.stream).state.last_seq
    scene.insider.publish_all([(subject, "")] * n)
    wait_until(lambda: scene.insider.stream_info(scene.stream).state.last_seq == before + n, 10, "the messages to be stored")


def followed(agent: Agent) -> dict[str, Any]:
    return dict(agent.ask("lab", "followed").body)


def wait_followed(agent: Agent, **wanted: object) -> dict[str, Any]:
    """Until all of it is so."""
    def is_so() -> dict[str, Any] | None:
        said = followed(agent)
        return said if all(said[key] == value for key, value in wanted.items()) else None

    try:
        return dict(wait_until(is_so, 20, f"{wanted}"))
    except AssertionError as error:
        said = followed(agent)
        raise AssertionError(f"{error}: {said.pop('list')[-400:]} {said}") from None


def read(agent: Agent, **how: object) -> list[str]:
    return str(agent.ask("lab", "read_on", how).body["list"]).splitlines()


def test_what_is_stored_is_heard_elsewhere(scene: Scene, a1: Agent) -> None:
    heard = scene.insider.subscribe("mst.*.t.>")
    assert a1.ask("lab", "reopen", {"name": scene.stream, "subjects": "shelf.3.>", "republish": "t.>"}).body["code"] == 0
    assert a1.ask("lab", "append", {"subject": "shelf.3.join.a1", "text": '{"n": 1}'}).body == {"code": 0, "seq": 1}
    wait_until(lambda: heard.messages, 5, "what was stored")
    assert [(m.subject, m.data, m.headers["Nats-Sequence"]) for m in heard.messages] == [("mst.acme.t.join.a1", b'{"n": 1}', "1")]
    assert a1.ask("lab", "reopen", {"name": scene.stream, "subjects": "shelf.3.>"}).body["code"] == EEXIST, "another republishing"
    assert a1.ask("lab", "reopen", {"name": "T_x2", "subjects": "rack.*.x.*", "republish": "t.*.*"}).body["code"] == 0
    assert a1.ask("lab", "append", {"subject": "rack.one.x.two"}).body["code"] == 0
    wait_until(lambda: len(heard.messages) == 2, 5, "the second")
    assert heard.messages[1].subject == "mst.acme.t.one.two"
    for bad in ("t.x", "t.*", "t.*.>", "t..>", ">.t"):
        assert a1.ask("lab", "reopen", {"name": "T_x3", "subjects": "shelf.4.>", "republish": bad}).body["code"] == EINVAL, bad


def test_the_broker_has_made_the_same_streams(a1: Agent) -> None:
    """Those that the broker keeps for its plugins are opened by them as they are."""
    mail = {"name": "MAIL", "subjects": "msg.*", "per_subject": 10000, "max_age_s": 7 * 86400}
    assert a1.ask("lab", "reopen", mail).body["code"] == 0
    presence = {"name": "PRES_3", "subjects": "pres.3.>", "republish": "evt.presence.>"}
    assert a1.ask("lab", "reopen", presence).body["code"] == 0


def test_bounds_of_messages(scene: Scene, a1: Agent) -> None:
    assert a1.ask("lab", "reopen", {"name": scene.stream, "subjects": "shelf.>", "max_msgs": 5, "per_subject": 2}).body["code"] == 0
    for i in range(4):
        assert a1.ask("lab", "append", {"subject": "shelf.a", "text": str(i)}).body["code"] == 0
    assert read(a1) == ["shelf.a:2@3", "shelf.a:3@4"]
    for i in range(4):
        assert a1.ask("lab", "append", {"subject": f"shelf.b{i}", "text": str(i)}).body["code"] == 0
    assert read(a1) == ["shelf.a:3@4", "shelf.b0:0@5", "shelf.b1:1@6", "shelf.b2:2@7", "shelf.b3:3@8"]
    assert a1.ask("lab", "reopen", {"name": scene.stream, "subjects": "shelf.>", "max_msgs": 2}).body["n_msgs"] == 2, "brought to what is said"
    assert scene.insider.stream_info(scene.stream).config.max_msgs_per_subject == -1
    assert a1.ask("lab", "reopen", {"name": "T_x2", "subjects": "rack.>", "max_msgs": -1}).body["code"] == EINVAL
    assert a1.ask("lab", "reopen", {"name": "T_x2", "subjects": "rack.>", "per_subject": -1}).body["code"] == EINVAL


def test_a_stream_of_others(scene: Scene, a1: Agent) -> None:
    assert a1.ask("lab", "attach", {"name": scene.stream}).body["code"] == ENOTFOUND
    assert a1.ask("lab", "info").body["code"] == ENOTFOUND and read(a1) == []
    scene.insider.add_stream(scene.stream, ["mst._in.*.shelf.>"])
    for tenant, n in (("acme", 1), ("zeta", 2), ("acme", 3)):
        scene.insider.publish(f"mst._in.{tenant}.shelf.x", str(n).encode())
    wait_until(lambda: a1.ask("lab", "info").body["last_seq"] == 3, 5, "the stream to be seen by the handle there is")
    assert a1.ask("lab", "attach", {"name": scene.stream}).body == {"code": 0, "last_seq": 3, "n_msgs": 3}
    assert read(a1) == ["shelf.x:1@1", "shelf.x:2@2", "shelf.x:3@3"]
    assert read(a1, subject="shelf.>") == ["shelf.x:1@1", "shelf.x:3@3"]
    assert a1.ask("lab", "last_of").body["tenant"] == "acme"
    assert a1.ask("lab", "append", {"subject": "shelf.x"}).body["code"] == EACCES
    assert scene.insider.stream_info(scene.stream).state.messages == 3
    for bad in ("", "a b", "MSG", "a.b", "x" * 65):
        assert a1.ask("lab", "attach", {"name": bad}).body["code"] == EINVAL, bad


def test_what_agents_said_to_each_other(scene: Scene, a1: Agent) -> None:
    assert a1.ask("lab", "attach", {"name": scene.stream, "own": 1}).body["code"] == EINVAL, "a tenant is of MSG alone"
    wait_until(lambda: a1.ask("lab", "attach", {"name": "MSG", "own": 1}).body["code"] == 0, 10, "the history")
    a1.client.publish("mst.acme.all.a1.hello", b"one")
    a1.client.publish("mst.acme.grp.g1.a1.hello", b"two")
    wait_until(lambda: a1.ask("lab", "info").body["n_msgs"] >= 2, 5, "both to be stored")
    assert read(a1) == ["all.a1.hello:one@1", "grp.g1.a1.hello:two@2"]
    assert read(a1, subject="grp.>") == ["grp.g1.a1.hello:two@2"]
    assert a1.ask("lab", "last_of", {"subject": "all.>"}).body["text"] == "one"
    zed = scene.agents("zeta", "zed")
    assert zed.ask("lab", "last_of", {"subject": "all.>"}).body["code"] == EACCES, "the history is not zeta's"
    assert zed.ask("lab", "attach", {"name": "MSG", "own": 1}).body["code"] == ENOTFOUND, "zeta keeps none"


def open_shelf(scene: Scene, agent: Agent, **options: object) -> None:
    assert agent.ask("lab", "reopen", {"name": scene.stream, "subjects": "shelf.>", **options}).body["code"] == 0


def test_a_stream_is_followed(scene: Scene, a1: Agent) -> None:
    open_shelf(scene, a1)
    store(scene, 3)
    assert a1.ask("lab", "follow").body == {"code": 0, "told": 0}
    said = wait_followed(a1, ends=1)
    assert said["list"].splitlines() == ["shelf.x:{}@1", "shelf.x:{}@2", "shelf.x:{}@3", "-3"]
    store(scene, 2, "mst._in.zeta.shelf.y")
    said = wait_followed(a1, n=5)
    assert said["list"].splitlines()[4:] == ["shelf.y:{}@4", "shelf.y:{}@5"]
    a1.ask("lab", "unfollow")
    store(scene, 1)
    a1.ask("lab", "follow", {"from": 0})
    wait_followed(a1, ends=1, n=0)
    store(scene, 1)
    assert wait_followed(a1, n=1)["list"].splitlines() == ["-3", "shelf.x:{}@7"], "what comes from now on"
    a1.ask("lab", "follow", {"from": 3})
    assert wait_followed(a1, ends=1)["list"].splitlines()[0] == "shelf.x:{}@3"
    a1.ask("lab", "follow", {"subject": "shelf.y"})
    assert wait_followed(a1, ends=1)["n"] == 0, "acme has none there"
    a1.ask("lab", "follow", {"subject": "shelf.x"})
    assert wait_followed(a1, ends=1)["n"] == 5
    assert a1.ask("lab", "follow", {"subject": "a..b"}).body["code"] == EINVAL
    assert a1.ask("lab", "follow", {"max": 5001}).body["code"] == EINVAL


def test_many_messages_come_once_and_in_order(scene: Scene, a1: Agent) -> None:
    open_shelf(scene, a1)
    store(scene, 5000)
    for subject in ({}, {"subject": "shelf.>"}):
        a1.ask("lab", "follow", {"max": 100, **subject})
        said = wait_followed(a1, ends=1)
        assert (said["n"], said["sum"], said["ordered"], said["lost"], said["gaps"]) == (5000, 5000 * 5001 // 2, 1, 0, 0)


def test_what_is_held_back_stays_in_the_server(scene: Scene, a1: Agent) -> None:
    open_shelf(scene, a1)
    store(scene, 1000)
    a1.ask("lab", "follow", {"max": 50, "hold_at": 120})
    wait_followed(a1, n=120)
    store(scene, 10)
    assert followed(a1)["n"] == 120
    assert a1.ask("lab", "hold_back", {"on": 0}).body == {"code": 0, "told_inside": 0}
    said = wait_followed(a1, n=1010, ends=1)
    assert (said["sum"], said["lost"], said["gaps"]) == (1010 * 1011 // 2, 0, 0)


@pytest.mark.parametrize("subject", [{}, {"subject": "shelf.x"}], ids=["all", "some"])
def test_what_is_gone_is_told(scene: Scene, a1: Agent, subject: dict[str, str]) -> None:
    open_shelf(scene, a1, max_msgs=100)
    store(scene, 150)
    a1.ask("lab", "follow", {"hold_at": 30, "max": 10, **subject})
    said = wait_followed(a1, n=30)
    assert said["list"].splitlines()[:2] == ["-7", "shelf.x:{}@51"], "51 is the first there is"
    store(scene, 150)
    a1.ask("lab", "hold_back", {"on": 0})
    said = wait_followed(a1, last=300, ends=1)
    assert said["gaps"] == 2 and said["lost"] == 0
    lines = said["list"].splitlines()
    assert lines.index("-7", 1) < lines.index("shelf.x:{}@201") and said["n"] == len(set(lines)) - 2
    for n in range(340, 700, 40):
        store(scene, 40)
        assert wait_followed(a1, last=n)["gaps"] == 2, "who is at the end misses nothing"


def test_rare_subjects_are_no_gap(scene: Scene, a1: Agent) -> None:
    """The beginning of the stream passes the last message of a subject: nothing of it is lost."""
    open_shelf(scene, a1, max_msgs=100)
    store(scene, 3, "mst._in.acme.shelf.rare")
    a1.ask("lab", "follow", {"subject": "shelf.rare"})
    wait_followed(a1, n=3, ends=1)
    store(scene, 300)
    store(scene, 2, "mst._in.acme.shelf.rare")
    said = wait_followed(a1, n=5)
    assert said["gaps"] == 0 and said["lost"] == 0


def burst(agent: Agent, n: int, after: int, **how: object) -> dict[str, Any]:
    """So many messages by the plugin itself, whose payload is the sequence that each is to get."""
    return dict(agent.ask("lab", "burst", {"n": n, "expected": after, **how}).body)


def handed(scene: Scene) -> float:
    return scene.broker.metric("muster_stream_handed_over_total")


def whole(n: int) -> dict[str, int]:
    """What a follower has seen of a stream of n, each once, in order, and as it is stored."""
    return {"n": n, "last": n, "sum": n * (n + 1) // 2, "ordered": 1, "wrong": 0, "lost": 0, "gaps": 0, "gone": 0}


def test_own_messages_come_from_memory(scene: Scene, a1: Agent) -> None:
    open_shelf(scene, a1)
    a1.ask("lab", "follow")
    wait_followed(a1, ends=1)
    before, n = handed(scene), 0

    def no_consumer() -> bool:
        nonlocal n
        assert burst(a1, 1000, n) == {"code": 0, "seq": n + 1000, "sent": 1000}
        n += 1000
        return scene.consumers() == []

    wait_until(no_consumer, 30, "JetStream to send nothing that is here already")
    wait_followed(a1, **whole(n))
    assert handed(scene) > before
    wait_until(scene.consumers, 5, "a consumer for what comes after a pause")
    store(scene, 10)
    wait_followed(a1, **whole(n + 10))
    assert burst(a1, 5, n + 10)["code"] == 0, "a few are not worth another consumer"
    wait_followed(a1, **whole(n + 15))
    assert len(scene.consumers()) == 1


def test_others_write_between_own_messages(scene: Scene, a1: Agent) -> None:
    open_shelf(scene, a1)
    a1.ask("lab", "follow")
    wait_followed(a1, ends=1)
    before, n = handed(scene), 0
    for _ in range(5):
        assert burst(a1, 400, n)["code"] == 0
        store(scene, 7)
        n += 407
    wait_followed(a1, **whole(n))
    assert handed(scene) > before


def test_others_write_into_a_burst(scene: Scene, a1: Agent) -> None:
    """The fence refuses the rest of it; what was stored is seen once, whoever wrote it."""
    open_shelf(scene, a1)
    a1.ask("lab", "follow")
    wait_followed(a1, ends=1)
    burst(a1, 200, 0)
    seen = a1.client.subscribe(a1.box("bursts"))
    a1.tell("lab", "burst", {"n": 20_000, "expected": 200}, reply=a1.box("bursts"))
    scene.insider.publish_all([("mst._in.acme.shelf.x", "")] * 100)
    wait_until(lambda: seen.messages, 20, "the burst to be over")
    wait_until(lambda: scene.insider.stream_info(scene.stream).state.last_seq >= 300, 10, "what others wrote")
    wait_followed(a1, **whole(scene.insider.stream_info(scene.stream).state.last_seq))


def test_own_messages_find_no_room_before_a_slow_follower(scene: Scene, a1: Agent) -> None:
    open_shelf(scene, a1)
    a1.ask("lab", "follow", {"hold_at": 500})
    wait_followed(a1, ends=1)
    before = scene.broker.metric("muster_stream_not_handed_over_total")
    assert burst(a1, 12_000, 0, bytes=1000)["code"] == 0
    assert scene.broker.metric("muster_stream_not_handed_over_total") > before, "8 MiB wait at most"
    wait_followed(a1, n=500)
    a1.ask("lab", "hold_back", {"on": 0})
    wait_followed(a1, **whole(12_000))


@pytest.mark.parametrize("what", ["purged", "made anew"])
def test_the_stream_of_own_messages_changes(scene: Scene, a1: Agent, what: str) -> None:
    open_shelf(scene, a1)
    a1.ask("lab", "follow")
    wait_followed(a1, ends=1)
    assert burst(a1, 2000, 0)["code"] == 0
    wait_followed(a1, **whole(2000))
    if what == "purged":
        scene.insider.request(f"$JS.API.STREAM.PURGE.{scene.stream}", b"")
        assert burst(a1, 2000, 2000)["code"] == 0
        wait_followed(a1, **whole(4000))
        return
    scene.insider.delete_stream(scene.stream)
    scene.insider.add_stream(scene.stream, ["mst._in.*.shelf.>"])
    assert burst(a1, 3000, 0)["code"] == 0, "these are of another stream, whatever their sequences"
    said = wait_followed(a1, gone=1)
    assert (said["n"], said["wrong"]) == (2000, 0)


def test_the_server_starts_anew_amid_own_messages(scene: Scene, a1: Agent) -> None:
    open_shelf(scene, a1)
    a1.ask("lab", "follow")
    wait_followed(a1, ends=1)
    assert burst(a1, 2000, 0)["code"] == 0
    scene.site.nats.kill()
    scene.site.nats.start()
    wait_until(lambda: scene.insider.connected and a1.client.connected, 20, "the clients to be back")
    wait_until(lambda: scene.broker.get("/readyz")[0] == 200, 20, "the broker to be back")
    assert burst(a1, 2000, scene.insider.stream_info(scene.stream).state.last_seq)["code"] == 0
    wait_followed(a1, **(whole(4000) | {"lost": 1}))


@pytest.mark.parametrize("anew", [False, True])
def test_a_stream_that_is_gone(scene: Scene, a1: Agent, anew: bool) -> None:
    open_shelf(scene, a1)
    store(scene, 3)
    a1.ask("lab", "follow")
    wait_followed(a1, n=3)
    scene.insider.delete_stream(scene.stream)
    if anew:
        scene.insider.add_stream(scene.stream, ["mst._in.*.shelf.>"])
        scene.insider.publish("mst._in.acme.shelf.x", b"new")
    said = wait_followed(a1, gone=1)
    assert said["n"] == 3 and said["lost"] == 1
    assert a1.ask("lab", "attach", {"name": "T_x9"}).body["code"] == ENOTFOUND
    a1.ask("lab", "follow")
    assert wait_followed(a1, gone=1)["list"].splitlines() == ["-8"], "it never was"


@pytest.mark.skipif(not LONG, reason="a leader is given time to catch up with itself: MUSTER_TEST_LONG=1")
def test_a_stream_that_ends_before_what_is_expected(scene: Scene, a1: Agent) -> None:
    open_shelf(scene, a1)
    store(scene, 3)
    a1.ask("lab", "follow", {"from": 50})
    assert wait_followed(a1, gone=1)["list"].splitlines() == ["-10", "-8"]


def test_a_consumer_that_is_removed_is_made_anew(scene: Scene, a1: Agent) -> None:
    open_shelf(scene, a1)
    store(scene, 3)
    a1.ask("lab", "follow")
    wait_followed(a1, ends=1)
    for name in scene.consumers():
        scene.insider.request(f"$JS.API.CONSUMER.DELETE.{scene.stream}.{name}", b"")
    store(scene, 3)
    said = wait_followed(a1, n=6, ends=2)
    assert (said["sum"], said["lost"], said["gaps"]) == (21, 1, 0)


def steal_one(scene: Scene, box: str) -> Subscription:
    """The next message is given to somebody else, and the plugin's consumer believes that it was delivered."""
    stolen = scene.insider.subscribe(box)
    asking = f"$JS.API.CONSUMER.MSG.NEXT.{scene.stream}.{scene.consumers()[0]}"
    scene.insider.publish(asking, b'{"batch": 1, "expires": 30000000000}', reply=box)
    return stolen


def test_a_message_that_is_lost_on_its_way_is_fetched_again(scene: Scene, a1: Agent) -> None:
    open_shelf(scene, a1)
    store(scene, 3)
    a1.ask("lab", "follow")
    wait_followed(a1, ends=1)
    stolen = steal_one(scene, "_INBOX.thief")
    store(scene, 3)
    said = wait_followed(a1, n=6, ends=2)
    assert [m.subject for m in stolen.messages] == ["mst._in.acme.shelf.x"], "one was given to somebody else"
    assert (said["sum"], said["lost"], said["gaps"], said["ordered"]) == (21, 1, 0, 1)


def test_the_last_message_is_lost_on_its_way(scene: Scene, a1: Agent) -> None:
    """Nothing comes behind it by which it could be missed, but the server's signs of life."""
    open_shelf(scene, a1)
    store(scene, 3)
    a1.ask("lab", "follow")
    wait_followed(a1, ends=1)
    stolen = steal_one(scene, "_INBOX.thief2")
    store(scene, 2)
    said = wait_followed(a1, n=5, ends=2)
    assert [m.subject for m in stolen.messages] == ["mst._in.acme.shelf.x"], "the last was given to somebody else"
    assert (said["sum"], said["lost"], said["gaps"], said["ordered"]) == (15, 1, 0, 1)


@pytest.mark.skipif(not LONG, reason="waits until a consumer is forgotten: MUSTER_TEST_LONG=1")
def test_what_was_held_back_too_long_goes_on(scene: Scene, a1: Agent) -> None:
    """The server forgets a consumer that nobody asks."""
    open_shelf(scene, a1)
    store(scene, 100)
    a1.ask("lab", "follow", {"max": 10, "hold_at": 10})
    wait_followed(a1, n=10)
    wait_until(lambda: scene.consumers() == [], 90, "the consumer to be forgotten")
    a1.ask("lab", "hold_back", {"on": 0})
    said = wait_followed(a1, n=100, ends=1)
    assert (said["sum"], said["lost"], said["gaps"]) == (5050, 0, 0)


def test_large_messages(scene: Scene, a1: Agent) -> None:
    """More than may wait at once, in bytes."""
    open_shelf(scene, a1)
    for _ in range(20):
        scene.insider.publish("mst._in.acme.shelf.x", b"x" * 900_000)
    wait_until(lambda: scene.insider.stream_info(scene.stream).state.messages == 20, 10, "them to be stored")
    a1.ask("lab", "follow")
    said = wait_followed(a1, n=20, ends=1)
    assert (said["sum"], said["lost"], said["gaps"]) == (210, 0, 0)
    said = a1.ask("lab", "read_on", {"max": 20}).body
    assert (said["code"], said["n"]) == (0, 20)


def test_a_follow_ends(scene: Scene, a1: Agent) -> None:
    open_shelf(scene, a1)
    store(scene, 10)
    a1.ask("lab", "follow", {"stop_at": 4})
    wait_followed(a1, n=4)
    wait_until(lambda: scene.consumers() == [], 10, "its consumer to be removed")
    assert followed(a1)["n"] == 4
    a1.ask("lab", "follow", {"close_at": 5})
    wait_followed(a1, n=5)
    wait_until(lambda: scene.consumers() == [], 10, "its consumer to be removed")
    assert a1.ask("lab", "follow").body["code"] == EINVAL, "the stream is closed"


def test_the_server_starts_anew(scene: Scene, a1: Agent) -> None:
    """Its consumers are gone then; what was stored is not."""
    open_shelf(scene, a1)
    store(scene, 3)
    a1.ask("lab", "follow")
    wait_followed(a1, ends=1)
    scene.site.nats.kill()
    scene.site.nats.start()
    wait_until(lambda: scene.insider.connected and a1.client.connected, 20, "the clients to be back")
    wait_until(lambda: scene.broker.get("/readyz")[0] == 200, 20, "the broker to be back")
    store(scene, 3)
    said = wait_followed(a1, n=6)
    assert (said["sum"], said["lost"], said["gaps"], said["gone"]) == (21, 1, 0, 0)
    wait_followed(a1, ends=2)


def test_much_is_read_at_once(scene: Scene, a1: Agent) -> None:
    open_shelf(scene, a1)
    store(scene, 1200)
    heads = [line.rpartition("@")[2] for line in read(a1, max=1000)]
    assert heads == [str(n) for n in range(1, 1001)]
    said = a1.ask("lab", "read_on", {"from": 1001, "max": 1000}).body
    assert (said["code"], said["n"]) == (ENOTFOUND, 200)
    said = a1.ask("lab", "read_on", {"from": 201, "max": 1000}).body
    assert (said["code"], said["n"]) == (0, 1000)
    said = a1.ask("lab", "read_on", {"from": 1201, "max": 1000}).body
    assert (said["code"], said["n"]) == (ENOTFOUND, 0)
    said = a1.ask("lab", "read_on", {"subject": "shelf.y", "max": 1000}).body
    assert (said["code"], said["n"]) == (ENOTFOUND, 0)
    wait_until(lambda: scene.consumers() == [], 10, "the consumers of the reads to be removed")


def test_many_reads_share_a_few_consumers(scene: Scene, a1: Agent) -> None:
    open_shelf(scene, a1)
    store(scene, 50)
    heard = a1.client.subscribe(a1.box("reads"))
    for _ in range(200):
        a1.tell("lab", "read_on", {"max": 100}, reply=a1.box("reads"))
    most = 0
    while len(heard.messages) < 200:
        most = max(most, len(scene.consumers()))
    assert all(json.loads(m.data)["n"] == 50 for m in heard.messages)
    assert most <= 16, "eight that read, and as many that are just being removed"


def test_a_stream_is_closed_while_it_is_read(scene: Scene, a1: Agent) -> None:
    for n in (3, 100):
        open_shelf(scene, a1)
        store(scene, 20)
        said = a1.ask("lab", "read_on", {"max": n, "close": 2}).body
        assert (said["code"], said["n"]) == (ELINK, 2)
