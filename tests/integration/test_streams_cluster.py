"""A stream of three copies is followed while servers of the cluster are killed: nothing is left out, and nothing comes twice."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest

from agent import Agent
from cluster import Cluster
from harness import LONG, wait_until
from pluginrig import echo, end_of

PART, ROUNDS = 200, 6


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    cluster = Cluster()
    try:
        yield cluster.start("acme")
    finally:
        for broker in cluster.brokers:
            end_of(broker, bool(request.session.testsfailed))
        cluster.close()


@pytest.mark.skipif(not LONG, reason="a cluster takes its time to find new leaders: MUSTER_TEST_LONG=1")
def test_a_leader_and_the_consumers_node_are_killed(cluster: Cluster) -> None:
    broker = cluster.member(0, [echo()])
    broker.start()
    insider, a1 = cluster.client(), Agent(cluster, "acme", "a1")
    a1.client.close()
    a1.client = cluster.client(creds=cluster.agent("acme", "a1"), tenant="acme", agent="a1")  # by any node
    how = {"name": "T_1", "subjects": "shelf.>", "replicas": 3}
    wait_until(lambda: a1.ask("lab", "reopen", how).body["code"] == 0, 30, "the stream")
    a1.ask("lab", "follow", {"subject": "shelf.x"})
    for n in range(ROUNDS):
        victim = consumer_node(cluster, insider) if n % 2 else cluster.leader_of(insider, "T_1")
        victim.kill()
        fill(insider, (n + 1) * PART)
        wait_until(lambda: followed(a1)["last"] >= (n + 1) * PART, 60, "the messages")
        victim.start()
        cluster.wait_for_nats()
    said = followed(a1)
    total = ROUNDS * PART
    assert (said["ordered"], said["gaps"], said["gone"]) == (1, 0, 0)
    last = int(insider.stream_info("T_1").state.last_seq)
    assert said["last"] == said["n"] == last >= total and said["sum"] == last * (last + 1) // 2
    a1.close()
    insider.close()


def fill(insider: Any, up_to: int) -> None:
    """What got no acknowledgement is sent again: it may be stored twice, under two sequences."""
    while True:
        try:
            last = int(insider.stream_info("T_1").state.last_seq)
            if last >= up_to:
                return
            insider.request("mst._in.acme.shelf.x", str(last + 1).encode(), 0.5)
        except Exception:  # no leader yet, or none that answers
            continue


def followed(agent: Any) -> dict[str, Any]:
    try:
        return dict(agent.ask("lab", "followed", timeout=2).body)
    except Exception:  # its node was killed: the client finds another
        return {"last": 0}


def consumer_node(cluster: Cluster, insider: Any) -> Any:
    """The node where the consumer is, which has one copy only."""
    def place() -> Any:
        said = json.loads(insider.request("$JS.API.CONSUMER.LIST.T_1", b"").data)
        names = [consumer["cluster"].get("leader") for consumer in said["consumers"] or []]
        return next((node for node in cluster.nodes if node.name in names), None)

    return wait_until(place, 20, "the consumer")
