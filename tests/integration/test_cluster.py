"""Presence and fan-out in a cluster of three NATS nodes with three brokers, while one of them is killed, sleeps or is cut off.

An oracle lists once and applies what it hears from then on; both that and what the holder lists must be what the agents themselves did.
Most agents speak over one connection (tests/swarm.py): their death is their silence. Where connections matter they have their own.
MUSTER_TEST_LONG runs all, with the numbers and times that are promised and the defaults; otherwise some, with a tenth, and faster.
"""

from __future__ import annotations

import base64
import json
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from typing import Any

import nats.errors
import nkeys
import pytest

from client import Client, Message
from cluster import Cluster, Network, Node
from harness import LONG, ROOT_TOKEN, Musterd, wait_until
from swarm import Busy, Oracle, Swarm, mint, shard_of

TENANT = "acme"
BEAT = 5.0 if LONG else 1.0
DEAD_AFTER = 3 * BEAT
PRESENCE = {"name": "presence", "config": {"replicas": 3} if LONG else {"heartbeat": "1s", "dead_after": "3s", "grace": "1s", "roll_call": "1s", "replicas": 3}}
FANOUT = {"name": "fanout", "config": {"replicas": 3}}
COMPLAINTS = ("AddressSanitizer", "ThreadSanitizer", "LeakSanitizer", "runtime error:", "broken invariant")


LONG_ONLY = pytest.mark.skipif(not LONG, reason="takes long")


def crowd(short: int, long: int) -> int:
    return long if LONG else short


@pytest.fixture(scope="module", params=[False] + [True] * (LONG and Network.possible()), ids=lambda apart: "apart" if apart else "together")
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster, None, None]:
    """apart: each node in a network namespace, and each broker knows its own node only."""
    cluster = Cluster(apart=request.param)
    try:
        cluster.start(TENANT)
        cluster.gather([PRESENCE, FANOUT], pinned=request.param)
        wait_until(lambda: [b for b in cluster.brokers if holds(b)], 30, "somebody to hold the tenant's shard")
        yield cluster
        for broker in cluster.brokers:
            broker.resume()
            assert not broker.alive or broker.stop() == 0, f"{broker.name} did not end cleanly\n{broker.log()[-3000:]}"
            for complaint in COMPLAINTS:
                assert complaint not in broker.log(), f"{broker.name}: {complaint}\n{broker.log()[-6000:]}"
    finally:
        cluster.close()


@pytest.fixture(autouse=True)
def whole(cluster: Cluster, request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """What a test has killed or stopped is there again for the next one."""
    yield
    report = getattr(request.node, "report_call", None)
    if report is None or report.failed:
        for server in cluster.servers:
            print(f"--- {server.name}\n{server.log()[-4000:]}", file=sys.stderr)
    for server in [*cluster.nodes, *cluster.brokers]:
        server.resume()
        if isinstance(server, Node) and not server.alive:
            server.start()
        if isinstance(server, Musterd) and not server.alive:
            server.start(ready=False)
    for broker in cluster.brokers:
        broker.wait_ready(60)


@pytest.fixture
def clients(cluster: Cluster) -> Generator[Callable[..., Client], None, None]:
    made: list[Client] = []

    def make(*nodes: int, **who: Any) -> Client:
        made.append(cluster.client(*nodes, **who))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def oracle(clients: Callable[..., Client]) -> Oracle:
    return Oracle(clients(), TENANT).begin()


@pytest.fixture(autouse=True)
def known(cluster: Cluster) -> None:
    mint(cluster, TENANT, ["oracle"])


@pytest.fixture
def swarm(cluster: Cluster, clients: Callable[..., Client], request: pytest.FixtureRequest) -> Generator[Callable[..., Swarm], None, None]:
    """Agents of a test, with names of its own; at its end those that are left say bye."""
    made: list[Swarm] = []

    def make(n: int, *nodes: int, what: str = "a") -> Swarm:
        names = [f"{request.node.originalname.removeprefix('test_')[:20]}-{what}{i}" for i in range(n)]
        mint(cluster, TENANT, names)
        made.append(Swarm(clients(*nodes), TENANT, names, clients(*nodes)))
        made[-1].beat(BEAT)
        return made[-1]

    yield make
    for one in made:
        one.bye(list(one.truth), 60)
        one.close()


def holds(broker: Musterd) -> bool:
    return broker.alive and broker.metric("muster_lease_held", f'lease="shard.{shard_of(TENANT)}"') == 1


def holder(cluster: Cluster, deadline: float = 20, but: Musterd | None = None) -> Musterd:
    found: list[Musterd] = wait_until(lambda: [b for b in cluster.brokers if b is not but and holds(b)], deadline, "somebody to hold the shard")
    return found[0]


def is_whole(client: Client, stream: str) -> bool:
    """At every node that is there: of one that was killed the others say for minutes that it is not `offline`, but when it was heard last."""
    try:
        cluster = client.stream_info(stream).cluster
    except (nats.errors.Error, TimeoutError):
        return False
    there = [replica for replica in cluster.replicas or [] if (replica.active or 0) < 10_000_000_000]
    return bool(cluster.leader) and all(replica.current and not replica.lag for replica in there)


def check(oracle: Oracle, swarm: Swarm, deadline: float = 30, stored: bool = False) -> None:
    """What holds at the end of each scenario. stored: the links between nodes lose what is heard; what is stored they do not."""
    assert swarm.late < DEAD_AFTER - BEAT, f"this machine is too slow for the test: its own beats came {swarm.late:.1f} s late"
    oracle.check_roster(swarm.truth, deadline, but=lambda name: name not in set(swarm.names))
    stream = f"PRES_{shard_of(TENANT)}"
    if stored:  # it is read from any node: one that is catching up has holes
        wait_until(lambda: is_whole(oracle.client, stream), 60, "every node to have all of the stream")
    oracle.check_order(oracle.client.read_stream(stream, f"{ROOT_TOKEN}._in.{TENANT}.pres.>") if stored else None)
    oracle.check_no_leave(swarm.truth)


def test_doctor_tells_a_server_that_is_no_peer(cluster: Cluster, clients: Callable[..., Client]) -> None:
    """It answers in the system account, as one does whose words to the others' group were lost when it started."""
    answer = {"server": {"name": "stranger", "jetstream": True}, "data": {"meta_cluster": {"name": "muster", "leader": "node0", "cluster_size": 2}}}
    clients(creds=cluster.nats.folder / "system.creds").answer("$SYS.REQ.SERVER.PING.JSZ", json.dumps(answer).encode())
    told = cluster.doctor(cluster.brokers[0])
    level, code, text = told.pop("jetstream on stranger")
    assert (level, code) == ("broken", "nats_peer_missing") and "no peer of node" in text and "restart its nats-server" in text
    assert not told, "nothing is said of the others"


def test_a_burst_of_joins(cluster: Cluster, swarm: Callable[..., Swarm], clients: Callable[..., Client]) -> None:
    watchers = [Oracle(clients(n), TENANT).begin() for n in range(3)]
    many = swarm(crowd(1000, 10000))
    began = time.monotonic()
    many.hello(many.names, 120)
    answered = time.monotonic() - began
    for watcher in watchers:
        watcher.wait_for(many.names, 60)
    print(f"{len(many.names)} joins: answered after {answered:.2f} s, heard by 3 watchers after {time.monotonic() - began:.2f} s, "
          f"in {len(watchers[0].heard.messages)} events")
    joined = [agent["agent_id"] for agent in watchers[0].events("join")]
    assert many.retried or sorted(joined) == sorted(many.names), "each once"
    for watcher in watchers:
        check(watcher, many, 60)


def test_a_broker_is_killed_under_load(cluster: Cluster, swarm: Callable[..., Swarm], oracle: Oracle) -> None:
    some = swarm(crowd(100, 2000))
    some.hello(some.names)
    half = some.names[: len(some.names) // 2]
    for _ in range(crowd(1, 3)):
        first = holder(cluster)
        with Busy(some, half) as busy:
            wait_until(lambda: busy.rounds > 2, 20, "load")
            first.kill()
            began = time.monotonic()
            holder(cluster, 2.5, but=first)
            moved = time.monotonic() - began
            at = busy.rounds
            wait_until(lambda: busy.rounds > at + 2, 30, "the load to go on")
        print(f"the shard moved after {moved:.2f} s; the longest round of statuses took {busy.longest:.2f} s")
        assert moved <= 2.5 and busy.longest <= 5
        check(oracle, some)
        first.start(ready=False)
        first.wait_ready(60)
    time.sleep(DEAD_AFTER)  # whoever was not heard by the new holder would be gone by now
    check(oracle, some)


@LONG_ONLY
def test_an_emitter_sleeps(cluster: Cluster, swarm: Callable[..., Swarm], oracle: Oracle) -> None:
    """20 s: another takes its shards, and the epoch fences it when it wakes."""
    some = swarm(crowd(100, 2000))
    some.hello(some.names)
    first = holder(cluster)
    with Busy(some, some.names[: len(some.names) // 2]) as busy:
        wait_until(lambda: busy.rounds > 2, 20, "load")
        first.pause()
        began = time.monotonic()
        holder(cluster, 17, but=first)
        print(f"the shard moved after {time.monotonic() - began:.2f} s")
        assert time.monotonic() - began <= 16.5
        time.sleep(max(0.0, 20 - (time.monotonic() - began)))
        first.resume()
        at = busy.rounds
        wait_until(lambda: busy.rounds > at + 2, 30, "the load to go on")
        wait_until(lambda: [holds(broker) for broker in cluster.brokers].count(True) == 1, 5, "one to hold it: the brokers share out anew")
    check(oracle, some)
    time.sleep(DEAD_AFTER)
    check(oracle, some)


def test_a_silent_death_is_told_meanwhile(cluster: Cluster, swarm: Callable[..., Swarm], oracle: Oracle) -> None:
    """The rules that hold a false leave back do not hold a true one back: a few die while the holder changes."""
    some = swarm(60)
    some.hello(some.names)
    dead = some.names[:3]
    some.fall_silent(dead)
    holder(cluster).kill()
    wait_until(lambda: {agent["agent_id"] for agent in oracle.events("leave")} >= set(dead), 3 * DEAD_AFTER + 10, "the dead to be told")
    assert {agent["reason"] for agent in oracle.events("leave") if agent["agent_id"] in dead} == {"timeout"}
    check(oracle, some)


def leave_reasons(oracle: Oracle, name: str) -> list[str]:
    return [agent["reason"] for agent in oracle.events("leave") if agent["agent_id"] == name]


@LONG_ONLY
def test_connections_that_end(cluster: Cluster, clients: Callable[..., Client], swarm: Callable[..., Swarm], oracle: Oracle) -> None:
    """Agents with connections of their own, on every node: gone past the grace when it ends, not when a node hands them to the next."""
    some = swarm(0)
    names = [f"own-{n}" for n in range(6)]
    own = {name: clients(n % 3, creds=cluster.agent(TENANT, name), tenant=TENANT, agent=name) for n, name in enumerate(names)}
    some.names = names
    for name, client in own.items():
        client.request(f"mst.{TENANT}.rpc.{name}.presence.hello", b'{"session": "%s-1"}' % name.encode())
        some.truth[name] = {"status": "online", "session": f"{name}-1"}
    check(oracle, some)
    for name in names[:3]:
        some.fall_silent([name])
        began = time.monotonic()
        own[name].close()
        wait_until(lambda: leave_reasons(oracle, name), 10, f"{name} to be gone")
        grace = 2.0 if LONG else 1.0
        assert grace - 0.2 <= time.monotonic() - began <= grace + 1, time.monotonic() - began  # a lane's time is that of its turn
        assert leave_reasons(oracle, name) == ["disconnected"]
    check(oracle, some)


@LONG_ONLY
def test_a_node_is_lost(cluster: Cluster, swarm: Callable[..., Swarm], clients: Callable[..., Client]) -> None:
    """The node that leads the tenant's stream, with the agents that it has; they come to another, as clients do."""
    insider = clients()
    stream = f"PRES_{shard_of(TENANT)}"
    lost = cluster.leader_of(insider, stream)
    others = [n for n in range(3) if n != lost.number]
    oracle = Oracle(clients(*others), TENANT).begin()
    there, here = swarm(crowd(50, 1000), lost.number, *others), swarm(crowd(50, 1000), *others, what="b")
    for one in (there, here):
        one.hello(one.names)
    with Busy(here, here.names[: len(here.names) // 2]) as busy:
        wait_until(lambda: busy.rounds > 2, 20, "load")
        lost.kill()
        at = busy.rounds
        wait_until(lambda: busy.rounds > at + 2, 60, "the load to go on")
    print(f"the longest round of statuses took {busy.longest:.2f} s")
    for one in (there, here):
        check(oracle, one, 60, stored=True)
    time.sleep(DEAD_AFTER if not LONG else 2 * DEAD_AFTER)
    for one in (there, here):
        check(oracle, one, 60, stored=True)
    lost.start()
    cluster.wait_for_nats()
    for one in (there, here):
        check(oracle, one, 60, stored=True)


@LONG_ONLY
def test_a_node_is_cut_off(cluster: Cluster, swarm: Callable[..., Swarm], clients: Callable[..., Client]) -> None:
    """30 s without a link between one node and the others; its agents and a broker are on its side. Nobody has gone."""
    if not cluster.network:
        pytest.skip("needs nodes that are apart")
    holder_now = holder(cluster)
    for number in {0, cluster.brokers.index(holder_now)}:
        others = [n for n in range(3) if n != number]
        oracle = Oracle(clients(others[0]), TENANT).begin()
        there, here = swarm(200, number, what=f"t{number}"), swarm(200, others[0], what=f"h{number}")
        for one in (there, here):
            one.hello(one.names)
        with Busy(here, here.names[:100]) as busy:
            with cluster.partition(number):
                time.sleep(30)
            at = busy.rounds
            wait_until(lambda: busy.rounds > at + 2, 60, "the load to go on")
        print(f"node {number}: the longest round of statuses took {busy.longest:.2f} s")
        for one in (there, here):
            check(oracle, one, 90, stored=True)


# ---- fan-out -------------------------------------------------------------------------------------------------------------------


class Mail:
    """What senders have put into every inbox of a group, each in its own order, and what must be read there."""

    def __init__(self, group: str, senders: Swarm) -> None:
        self.group, self.senders = group, senders
        self.sent: dict[str, list[int]] = defaultdict(list)

    def send(self, n: int) -> None:
        """A message of each sender, as a client that must not send twice asks again."""
        bodies = {name: {"group": self.group, "type": "note", "payload": {"from": name, "n": n}, "request_id": f"{name}-{n}"}
                  for name in self.senders.names}
        for name, answer in self.senders.ask("message", "send", bodies, 60, again=2).items():
            assert "delivered_to" in answer, answer
            self.sent[name].append(n)

    def check(self, name: str, messages: list[dict[str, Any]]) -> None:
        got: dict[str, list[int]] = defaultdict(list)
        for message in messages:
            got[message["body"]["from"]].append(message["body"]["n"])
        assert got == self.sent, f"{name} has {got}"
        positions = [message["seq"] for message in messages]
        assert positions == sorted(set(positions))


def test_a_herd_comes_back(cluster: Cluster, swarm: Callable[..., Swarm], clients: Callable[..., Client]) -> None:
    """50 messages each wait in inboxes, and as many in a channel, while a broker died over them; all ask at one time, of few consumers."""
    herd, senders = swarm(crowd(100, 10000)), swarm(5, what="s")
    cluster.postgres.query("INSERT INTO muster.groups SELECT %s, 'herd', unnest(%s::text[])", (TENANT, herd.names))
    mail = Mail("herd", senders)
    victim = holder(cluster)
    for n in range(10):
        if n == 5:
            victim.kill()
        mail.send(n)
    for n in range(10):
        senders.client.publish_each([(f"{ROOT_TOKEN}.{TENANT}.all.{name}.note", json.dumps({"from": name, "n": n}).encode(), "")
                                     for name in senders.names])
    insider, most = clients(), 0
    began = time.monotonic()
    answers = herd.ask("message", "history", {name: {"channel": "inbox"} for name in herd.names}, 180, again=30)
    print(f"{len(herd.names)} inboxes of {10 * len(senders.names)} messages were read in {time.monotonic() - began:.2f} s, "
          f"{herd.retried} asked again, refused: {set(herd.refused)}")
    for name, answer in answers.items():
        assert answer.get("complete") is True, answer
        mail.check(name, answer["messages"])
    for stream in ("MAIL", f"MSG_{TENANT}"):
        most = max(most, insider.stream_info(stream).state.consumer_count)
    assert most <= 48, f"{most} consumers"
    began = time.monotonic()
    answers = herd.ask("message", "history", {name: {"channel": "all", "limit": 1000} for name in herd.names}, 180, again=30)
    print(f"and a channel in {time.monotonic() - began:.2f} s")
    for name, answer in answers.items():
        mail.check(name, [m for m in answer["messages"] if m["subject"].split(".")[3] in senders.names])
    newest = {name: {"seq": answer["last_seq"]} for name, answer in herd.ask(
        "message", "history", {name: {"channel": "inbox"} for name in herd.names}, 180, again=30).items()}
    for answer in herd.ask("message", "ack", newest, 120, again=10).values():
        assert "error" not in answer, answer
    for answer in herd.ask("message", "history", {name: {"channel": "inbox"} for name in herd.names}, 180, again=30).values():
        assert answer["messages"] == []
    victim.start(ready=False)
    victim.wait_ready(60)


class Slow:
    """An agent whose watch is read at a hundredth of the speed at which it is written: through a socket of its own."""

    def __init__(self, cluster: Cluster, subject: str) -> None:
        text = (cluster.nats.folder / "broker.creds").read_text()
        self._link = socket.socket()
        self._link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._link.connect((cluster.nodes[0].address, cluster.nodes[0].port))
        self._file = self._link.makefile("rb")
        hello = json.loads(self._file.readline().removeprefix(b"INFO "))
        self._link.sendall(connect_line(text, hello["nonce"]) + f"SUB {subject} 1\r\nPING\r\n".encode())
        while self._file.readline() not in (b"PONG\r\n", b""):
            pass
        self.messages: list[dict[str, Any]] = []

    def read(self) -> None:
        """One message; a server's PING is answered."""
        words = self._file.readline().split()
        if words[:1] == [b"PING"]:
            self._link.sendall(b"PONG\r\n")
        elif words[:1] in ([b"MSG"], [b"HMSG"]):
            data = self._file.read(int(words[-1]) + 2)[:-2]
            skip = int(words[-2]) if words[0] == b"HMSG" else 0
            self.messages.append(json.loads(data[skip:]))

    def close(self) -> None:
        self._link.close()


def connect_line(creds: str, nonce: str) -> bytes:
    jwt, seed = (creds.split(f"-----BEGIN {what}-----\n")[1].split("\n")[0] for what in ("NATS USER JWT", "USER NKEY SEED"))
    key = nkeys.from_seed(seed.encode())
    signed = base64.urlsafe_b64encode(key.sign(nonce.encode())).rstrip(b"=").decode()
    return f"CONNECT {json.dumps({'jwt': jwt, 'sig': signed, 'verbose': False, 'pedantic': False, 'headers': True})}\r\n".encode()


def test_one_of_many_watchers_is_slow(cluster: Cluster, swarm: Callable[..., Swarm], clients: Callable[..., Client]) -> None:
    """Each watches the same subjects; one takes a hundredth of it. The others lose nothing and wait for nobody, and what it lost is told."""
    many, sender = swarm(crowd(100, 1000)), swarm(1, what="s")
    sender.names = sender.names[:1]
    name, slow_name = sender.names[0], many.names[0]
    bodies: dict[str, dict[str, Any]] = {agent: {"sources": [f"{ROOT_TOKEN}.{TENANT}.all.>"]} for agent in many.names}
    bodies[slow_name] |= {"interval_ms": 200, "max_bytes": 2000, "slow": "drop_old"}
    heard = clients().subscribe(f"{ROOT_TOKEN}.{TENANT}.sub.>")
    opened = many.ask("watch", "open", bodies, 60, again=5)
    for answer in opened.values():
        assert "watch" in answer, answer
    slow = Slow(cluster, opened[slow_name]["subject"])
    subjects = {answer["subject"] for agent, answer in opened.items() if agent != slow_name}
    n_messages = 200

    def ticks() -> list[Message]:
        """Of all but the slow one, whose batches are heard here, too: as fast as they come."""
        return [message for message in list(heard.messages) if message.subject in subjects and b'"pad"' in message.data]

    began = time.monotonic()
    for n in range(0, n_messages, 20):
        # One connection stands for all but the slow one: no more is under way than the server keeps for one.
        wait_until(lambda: len(ticks()) >= len(subjects) * (n - 60), 90, "those before to be heard")
        sender.client.publish_each([(f"{ROOT_TOKEN}.{TENANT}.all.{name}.tick", json.dumps({"n": k, "pad": "x" * 200}).encode(), "")
                                    for k in range(n, n + 20)])

    def counts() -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for message in ticks():
            found[message.subject].append(json.loads(message.data)["n"])
        return found

    wait_until(lambda: len(ticks()) >= len(subjects) * n_messages, 90, "all to have heard all")
    print(f"{len(subjects)} watchers heard {n_messages} messages each after {time.monotonic() - began:.2f} s")
    assert counts() == {subject: list(range(n_messages)) for subject in subjects}, "nothing lost, nothing twice, in order"

    def told() -> int:
        slow.read()
        return sum(len(batch["messages"]) + sum(batch.get("dropped", {}).values()) for batch in slow.messages)

    end = time.monotonic() + 30
    while told() < n_messages:
        assert time.monotonic() < end, f"delivered and dropped are {told()} of {n_messages}"
        time.sleep(0.2)  # one message in that time
    got = [message["body"]["n"] for batch in slow.messages for message in batch["messages"]]
    assert got == sorted(set(got)) and len(got) < n_messages, "it lost some, and kept the order"
    slow.close()
    for answer in many.ask("watch", "close", {agent: {"watch": answer["watch"]} for agent, answer in opened.items()}, 60, again=5).values():
        assert "error" not in answer, answer
