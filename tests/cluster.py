"""A NATS cluster of several nodes with as many brokers, for what must survive the loss of one: each broker knows all nodes."""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats.errors

from client import Client
from harness import NATS_VERSION, Musterd, Nats, Server, Site, free_port, run_cli, wait_until

_made = 0  # networks


class Network:
    """A namespace a node, on one switch, so that links between nodes can be cut without a word to anybody. Needs root. The switch is in a
    namespace as well: what the machine's own firewall says of forwarding is none of its business."""

    def __init__(self, nodes: int) -> None:
        global _made
        _made += 1
        tag, octet = f"m{os.getpid() % 100000}{_made % 10}", 1 + (os.getpid() * 7 + _made) % 250
        self.switch, self.names = f"{tag}s", [f"{tag}n{n}" for n in range(nodes)]
        self.addresses = [f"10.213.{octet}.{n + 1}" for n in range(nodes)]
        atexit.register(self.close)
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "switch0", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "switch0", "up")
        for name in self.names:
            _ip("netns", "add", name)
        for name, address in zip(["", *self.names], [f"10.213.{octet}.254", *self.addresses]):
            self._plug(name, f"{name or tag}o", f"{name or tag}i", address)

    def _plug(self, name: str, outer: str, inner: str, address: str) -> None:
        """name "": this machine itself."""
        inside = ["-n", name] if name else []
        _ip("link", "add", outer, "type", "veth", "peer", "name", inner)
        _ip("link", "set", outer, "netns", self.switch)
        _ip("-n", self.switch, "link", "set", outer, "master", "switch0", "up")
        if name:
            _ip("link", "set", inner, "netns", name)
        _ip(*inside, "addr", "add", f"{address}/24", "dev", inner)
        _ip(*inside, "link", "set", inner, "up")
        if name:
            _ip(*inside, "link", "set", "lo", "up")

    @staticmethod
    def possible() -> bool:
        return os.geteuid() == 0 and all(shutil.which(program) for program in ("ip", "iptables"))

    def cut(self, node: int) -> None:
        """Nothing passes between this node and the others; its clients and it still hear each other."""
        for other, address in enumerate(self.addresses):
            for chain, side in (("INPUT", "-s"), ("OUTPUT", "-d")):
                if other != node:
                    _ip("netns", "exec", self.names[node], "iptables", "-A", chain, side, address, "-j", "DROP")

    def heal(self, node: int) -> None:
        _ip("netns", "exec", self.names[node], "iptables", "-F")

    def close(self) -> None:
        for name in (*self.names, self.switch):
            _ip("netns", "del", name, check=False)


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, stdout=subprocess.DEVNULL, stderr=None if check else subprocess.DEVNULL)


class Node(Server):
    """One nats-server of the cluster, with a store of its own and the accounts of all."""

    def __init__(self, number: int, nats: Nats, address: str, namespace: str) -> None:
        super().__init__(f"node{number}", nats.folder)
        self.number, self.address, self.namespace = number, address, namespace
        self.port, self.route = free_port(), free_port()
        self.program, self.config = nats.program, nats.folder / f"node{number}.conf"
        self._base = nats.config.read_text()

    @property
    def url(self) -> str:
        return f"nats://{self.address}:{self.port}"

    @property
    def store(self) -> Path:
        return self.folder / self.name

    def write(self, dials: list[Node]) -> None:
        routes = ", ".join(f'"nats://{node.address}:{node.route}"' for node in dials)
        text = re.sub(r"listen: .*", f'listen: "{self.address}:{self.port}"', self._base)
        text = re.sub(r"jetstream: .*", f'jetstream: {{store_dir: "{self.store}"}}', text)
        own = (f'server_name: {self.name}\n'
               f'cluster: {{name: muster, listen: "{self.address}:{self.route}", routes: [{routes}]}}\n')
        self.config.write_text(text.replace('include "local.conf"', own))

    def start(self) -> None:
        inside = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        self.spawn([*inside, self.program, "-c", str(self.config)])


def _takes_copies(client: Client, copies: int) -> bool:
    """Nodes that have just met know of no peers to place a stream on for seconds; what is asked for meanwhile may stay without an answer."""
    try:
        config = {"name": "PROBE", "subjects": ["probe"], "num_replicas": copies, "storage": "file", "retention": "limits", "max_msgs": 1}
        made = "error" not in json.loads(client.request("$JS.API.STREAM.CREATE.PROBE", json.dumps(config).encode(), 3).data)
        return "error" not in json.loads(client.request("$JS.API.STREAM.DELETE.PROBE", b"", 3).data) and made
    except (nats.errors.Error, TimeoutError):
        return False


def _answers(client: Client) -> bool:
    try:
        return "error" not in json.loads(client.request("$JS.API.STREAM.NAMES", b"", 0.5).data)
    except (nats.errors.Error, TimeoutError):
        return False


class Cluster(Site):
    """A site whose NATS are several nodes. A broker's first node is the one with its number; pinned, it knows no other."""

    def __init__(self, nodes: int = 3, apart: bool = False, version: str = NATS_VERSION or "2.10") -> None:
        """2.10: a node of 2.9.10 can end with a nil pointer when a stream is read in the moment in which it is made."""
        super().__init__(nats=version)
        self.network = Network(nodes) if apart else None
        names, addresses = (self.network.names, self.network.addresses) if self.network else ([""] * nodes, ["127.0.0.1"] * nodes)
        self.nodes = [Node(n, self.nats, addresses[n], names[n]) for n in range(nodes)]
        for node in self.nodes:
            node.write(self.nodes[: node.number] or [node])  # two that dial each other at once can end up without a route for long

    def start(self, *tenants: str, up: int = 0) -> Cluster:
        """up: the first so many nodes alone. In one of a hundred first starts of 2.10.26 (none of 300 of 2.15) nothing that one node says to the
        group of all nodes is heard, until it is started again: it never becomes a peer, and no stream has a copy there."""
        self.postgres.start()
        nodes = self.nodes[: up or len(self.nodes)]
        for again in (True, True, False):
            for node in nodes:
                node.start()
                wait_until(lambda: "Server is ready" in node.log(), 15, f"{node.name}\n{node.log()[-2000:]}")
            try:
                self.wait_for_nats(30, nodes)
                self._wait_for_peers(len(nodes))
                break
            except AssertionError as error:
                if not again:
                    raise
                print(f"the nodes are started afresh: {error}", file=sys.stderr)
                for node in nodes:
                    node.kill()
                    node.log_path.unlink()
                    shutil.rmtree(node.store)
        for tenant in tenants:
            self.cli("tenant", "add", tenant)
        return self

    def _wait_for_peers(self, copies: int) -> None:
        client = self.client(0)
        try:
            wait_until(lambda: _takes_copies(client, copies), 20, f"a stream on all nodes\n{self.nodes[0].log()[-2000:]}")
        finally:
            client.close()

    def wait_for_nats(self, deadline: float = 30, nodes: list[Node] | None = None) -> None:
        """JetStream answers by way of every node."""
        for node in nodes or self.nodes:
            client = self.client(node.number)
            try:
                wait_until(lambda: _answers(client), deadline, f"JetStream to answer by {node.name}\n{node.log()[-2000:]}")
            finally:
                client.close()

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    @property
    def servers(self) -> list[Server]:
        return [*self.brokers, *self.nodes, self.postgres]

    def nats_section(self, port: int | None = None) -> dict[str, Any]:
        return {**super().nats_section(port), "urls": self.urls}

    def cli(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        self.nats.port = next((node.port for node in self.nodes if node.alive), self.nodes[0].port)
        return super().cli(*argv, check=check)

    def doctor(self, broker: Musterd) -> dict[str, tuple[str, str, str]]:
        """What it says of JetStream's servers, with a broker's configuration: level, code and text."""
        done = run_cli(["-c", str(broker.config_path), "doctor", "--json"], {}, check=False)
        return {c["what"]: (c["level"], c["code"], c["text"]) for c in json.loads(done.stdout)["checks"]
                if c["what"].startswith("jetstream ") or (c["code"] == "peers_few" and c["what"].startswith("plugin "))}

    def member(self, number: int, plugins: list[dict[str, Any]], pinned: bool = False) -> Musterd:
        """Broker b<number>, not yet started; no two of them need one machine's anything."""
        broker = self.broker(f"b{number}")
        first = number % len(self.nodes)
        broker.config["broker"] = {**broker.config["broker"], "id": broker.name}
        broker.config["nats"]["urls"] = [self.urls[first]] if pinned else self.urls[first:] + self.urls[:first]
        broker.config["plugins"] = plugins
        return broker

    def gather(self, plugins: list[dict[str, Any]], pinned: bool = False) -> None:
        """A broker a node. The first makes the streams: where several do at once, a server may leave one without an answer for seconds."""
        brokers = [self.member(n, plugins, pinned) for n in range(len(self.nodes))]
        try:
            brokers[0].start(ready=False)
            brokers[0].wait_ready(60)
            for broker in brokers[1:]:
                broker.start(ready=False)
            for broker in brokers:
                broker.wait_ready(60)
        except AssertionError:
            for node in self.nodes:
                print(f"--- {node.name}\n{node.log()[-4000:]}", file=sys.stderr)
            raise

    def client(self, *nodes: int, creds: Path | None = None, tenant: str = "", agent: str = "") -> Client:
        """Of a broker, or of whom creds says; by any node, or by these."""
        urls = [self.urls[n] for n in nodes] or self.urls
        return Client(urls, creds or self.nats.folder / "broker.creds", tenant, agent)

    def leader_of(self, client: Client, stream: str) -> Node:
        """The node that has the stream's first copy, and takes what is appended."""
        name = client.stream_info(stream).cluster.leader
        return next(node for node in self.nodes if node.name == name)

    def close(self) -> None:
        super().close()
        if self.network:
            self.network.close()

    @contextmanager
    def partition(self, number: int) -> Iterator[None]:
        """The node is on its own, with the clients that it has."""
        assert self.network
        self.network.cut(number)
        try:
            yield
        finally:
            self.network.heal(number)
