"""Streams for whose copies NATS has too few servers, and servers that are not what a cluster needs: said by name, and mended by themselves."""

from __future__ import annotations

import json
from collections.abc import Generator

import pytest

from client import Client
from cluster import Cluster
from harness import LONG, Musterd, Site, run_cli, wait_until
from pluginrig import end_of, own_broker

CROWDED = [{"name": "presence", "config": {"replicas": 3}}, {"name": "fanout", "config": {"replicas": 3}},
           {"name": "cdc", "instance": "evt", "config": {"slot": "muster_evt", "messages": ["muster.evt"], "replicas": 3}}]
STREAMS = {"presence.presence": "PRES_", "fanout.fanout": "MAIL ", "cdc.evt": "EVT "}


def refused(broker: Musterd) -> dict[str, str]:
    status, page = broker.get("/readyz")
    return {c["name"]: c["text"] for c in json.loads(page)["components"] if c["code"] == "peers_few"} if status else {}


def wait_refused(broker: Musterd) -> None:
    """By every plugin, with the stream, its replicas and what to do; the log has the server's own words, once an instance."""
    told = wait_until(lambda: len(refused(broker)) == len(STREAMS) and refused(broker), 30, "every plugin to be refused")
    for instance, stream in STREAMS.items():
        assert f"the stream {stream}" in told[instance] and "3 replicas" in told[instance] and "`muster doctor`" in told[instance], told
        assert len([line for line in broker.log().splitlines() if instance in line and "is refused: " in line and "it takes 3 servers" in line]) == 1


def all_streams(broker: Musterd) -> str:
    return next((c["code"] for c in json.loads(broker.get("/readyz")[1])["components"] if (c["kind"], c["name"]) == ("stream", "all")), "")


def test_one_server_is_too_few_for_three_replicas(site: Site, broker: Musterd) -> None:
    """And a stream of the broker's own that is in the way when it starts is looked at again soon, not in a minute."""
    insider = Client(site.nats.url, site.nats.folder / "broker.creds")
    insider.add_stream("AUDIT", ["elsewhere"])
    broker.start(ready=False)
    wait_until(lambda: broker.get("/readyz")[0] and all_streams(broker) == "stream_conflict", 30, "the stream to be found in the way")
    insider.delete_stream("AUDIT")
    insider.close()
    wait_until(lambda: all_streams(broker) == "ok", 20, "the stream to be made")
    wait_refused(broker)
    assert "replicas > 1 not supported in non-clustered mode" in broker.log()
    checks = json.loads(run_cli(["-c", str(broker.config_path), "doctor", "--json"], {}, check=False).stdout)["checks"]
    said = [(c["what"], c["level"], c["text"]) for c in checks if c["code"] == "peers_few" and c["what"] != "broker"]
    assert ("plugin presence", "broken", "replicas is 3, and NATS has 1 server that can have a copy of a stream: start more, or lower it") in said


@pytest.fixture
def site() -> Generator[Site]:
    site = Site()
    try:
        yield site.start("acme")
    finally:
        site.close()


@pytest.fixture
def broker(request: pytest.FixtureRequest, site: Site) -> Generator[Musterd]:
    """Not yet started."""
    broker = own_broker(site, *CROWDED)
    try:
        yield broker
    finally:
        end_of(broker, bool(request.session.testsfailed))


@pytest.fixture(params=["2.10", "2.15"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    """Two of its three nodes are up."""
    cluster = Cluster(version=request.param)
    try:
        yield cluster.start("acme", up=2)
    finally:
        for broker in cluster.brokers:
            end_of(broker, bool(request.session.testsfailed))
        cluster.close()


def levels(cluster: Cluster, broker: Musterd) -> dict[str, tuple[str, str]]:
    return {what: said[:2] for what, said in cluster.doctor(broker).items()}


WHOLE = {"jetstream cluster": ("ok", None)}


@pytest.mark.skipif(not LONG, reason="a cluster takes its time to find new leaders: MUSTER_TEST_LONG=1")
def test_a_cluster_that_becomes_whole_late(cluster: Cluster) -> None:
    broker = cluster.member(0, CROWDED)
    broker.start(ready=False)
    wait_refused(broker)
    assert "no suitable peers for placement" in broker.log()
    wait_until(lambda: levels(cluster, broker) == {**WHOLE, "plugin presence": ("broken", "peers_few")}, 20, "doctor to count two")
    cluster.nodes[2].start()
    broker.wait_ready(30)
    insider = cluster.client()
    wait_until(lambda: insider.stream_info("KV_muster_leases").config.num_replicas == 3, 20, "leases to be worth as much as what they are of")
    insider.close()
    wait_until(lambda: levels(cluster, broker) == WHOLE, 20, "doctor to find nothing")
    lost = next(node for node in cluster.nodes[1:] if f"{node.name} leads" not in cluster.doctor(broker)["jetstream cluster"][2])
    lost.kill()
    wait_until(lambda: levels(cluster, broker) == {f"jetstream on {lost.name}": ("hint", "nats_peer_away")}, 60, "doctor to miss it")
    cluster.nodes[3 - lost.number].kill()
    wait_until(lambda: levels(cluster, broker) == {"jetstream cluster": ("broken", "nats_leader_missing")}, 60, "doctor to miss a leader")
