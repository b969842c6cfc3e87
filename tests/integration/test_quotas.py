"""Quotas: what a tenant or an agent may take, live, beside neighbours that notice nothing; by requests, and by what NATS alone carries."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import nkeys
import pytest

from agent import Agent, Answer, read
from client import Client
from harness import ROOT_TOKEN, Musterd, Site, nats_release, run_cli, wait_until
from pluginrig import Agents, echo, installation, isolated, own_broker

LIVE = 1.0  # seconds that a changed limit may take


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    with installation() as site:
        site.cli("tenant", "add", "busy")
        yield site


@pytest.fixture(scope="module")
def broker(site: Site) -> Generator[Musterd, None, None]:
    broker = own_broker(site, echo())
    broker.start()
    yield broker
    code = broker.stop()
    log = broker.log()
    assert code == 0 and "Sanitizer" not in log and "runtime error" not in log, log[-5000:]


@pytest.fixture(scope="module")
def agents(site: Site, broker: Musterd) -> Generator[Agents, None, None]:
    agents = Agents(site)
    yield agents
    agents.close()


@pytest.fixture
def limits(site: Site, agents: Agents) -> Generator[Callable[..., None], None, None]:
    """limits("requests_per_s=5"): set them for busy and wait until the broker has them. Taken away in the end."""
    a1, taken = agents("busy", "probe"), []

    def change(*values: str) -> None:
        began = time.monotonic()
        mark = len(taken) + 1
        site.cli("tenant", "limits", "busy", *values, f"echo.shouts={mark}")
        taken.extend(value.partition("=")[0] for value in values)
        wait_until(lambda: shouts(a1) == mark, 10, "the limits to be known")
        assert time.monotonic() - began < LIVE + 1.5, "the command itself takes a moment"

    yield change
    site.cli("tenant", "limits", "busy", *[f"{name}=none" for name in {*taken, "echo.shouts"}])
    wait_until(lambda: shouts(a1) == -1, 10, "the limits to be gone")


def shouts(agent: Agent) -> int:
    body = agent.ask("lab", "limits").body
    return int(body.get("shouts", -2))


def over(answer: Answer, limit: str, value: int) -> int:
    """The refusal names limit and value; gives retry_after_ms."""
    error = answer.error
    assert error["code"] == "resource_exhausted" and error["field"] == limit, error
    assert f"limit {limit} of {value} is reached" in error["message"], error
    return int(error["retry_after_ms"])


def many(agent: Agent, n: int, service: str = "echo", verb: str = "say", **body: Any) -> list[Answer]:
    """n requests at once; the answers that came within a second of the last one."""
    subject = agent.box(f"n{time.monotonic_ns()}")
    box = agent.client.subscribe(subject)
    agent.client.publish_many(agent.subject(service, verb), n, json.dumps(body or {"text": "x"}).encode(), reply=subject)
    seen = -1
    while seen != len(box.messages):
        seen = len(box.messages)
        time.sleep(1)
    return [read(message) for message in box.messages]


def refusals(answers: list[Answer]) -> list[Answer]:
    return [answer for answer in answers if "error" in answer.body]


# ---- requests --------------------------------------------------------------------------------------------------------------------------


def test_bytes(limits: Callable[..., None], agents: Agents, broker: Musterd) -> None:
    """A body that is larger than a second's worth gets through, and is paid for afterwards."""
    b1, before = agents("busy", "b1"), broker.metric("muster_over_limit_total", 'limit="bytes_per_s"')
    limits("bytes_per_s=20KiB")
    time.sleep(1)
    text = {"text": "x", "tags": ["y" * 60] * 3}
    big = json.dumps({"text": "x" * 100, "pad": "y" * 60000}).encode()
    assert read(b1.client.request(b1.subject("echo", "say"), big)).error["code"] == "invalid_argument"  # it was taken: pad is no field
    answer = b1.ask("echo", "say", text)
    wait = over(answer, "bytes_per_s", 20480)
    assert 1000 < wait <= 4000
    assert agents("acme", "a1").ask("echo", "say", text).body["text"] == "x"
    time.sleep(wait / 1000)
    assert b1.ask("echo", "say", text).body["text"] == "x", "after retry_after_ms"
    assert broker.metric("muster_over_limit_total", 'limit="bytes_per_s"') == before + 1


def test_an_agent(limits: Callable[..., None], agents: Agents) -> None:
    """One agent at its limit; the others of its tenant have theirs."""
    limits("agent_requests_per_s=20")
    time.sleep(1.2)
    greedy = many(agents("busy", "greedy"), 200)
    assert 20 <= len(greedy) - len(refusals(greedy)) <= 60
    for answer in refusals(greedy):
        assert 1 <= over(answer, "agent_requests_per_s", 20) <= 1000
    assert agents("busy", "modest").ask("echo", "say", {"text": "x"}).body["text"] == "x"


def test_bytes_of_an_agent(limits: Callable[..., None], agents: Agents) -> None:
    limits("agent_bytes_per_s=1KiB")
    b1 = agents("busy", "wordy")
    answers = many(b1, 60, text="x" * 100)
    assert 0 < len(answers) - len(refusals(answers)) <= 12
    over(refusals(answers)[0], "agent_bytes_per_s", 1024)
    assert agents("busy", "modest").ask("echo", "say", {"text": "x"}).body["text"] == "x"


@pytest.mark.parametrize("limit", ["in_flight", "agent_in_flight"])
def test_requests_that_wait(limits: Callable[..., None], agents: Agents, limit: str) -> None:
    """Each place is given back with its answer, also where that is an error."""
    b1 = agents("busy", "b1")
    limits(f"{limit}=5")
    for verb, body in (("hold", {"ms": 600}), ("slow", {"ms": 1}), ("hold", {"ms": 600})):
        if verb == "slow":
            for _ in range(3):
                assert "error" in b1.ask("lab", "fail", {"code": -1}).body
            time.sleep(0.2)  # the answer is read before its place is free
            continue
        answers = many(b1, 30, "lab", verb, **body)
        assert len(answers) - len(refusals(answers)) == 5, [a.body for a in answers]
        assert over(refusals(answers)[0], limit, 5) > 0
    assert b1.ask("echo", "say", {"text": "x"}).body["text"] == "x"
    assert agents("acme", "a1").ask("echo", "say", {"text": "x"}).body["text"] == "x"


@pytest.mark.parametrize(("limit", "value"), [("queued_messages", 1), ("queued_bytes", 65536)])
def test_what_waits_for_a_plugin(limits: Callable[..., None], agents: Agents, broker: Musterd, limit: str, value: int) -> None:
    """The refusal says which limit it was, as of the others, and no more of them go out than of the others."""
    w1, before = agents("busy", "w1"), broker.metric("muster_over_limit_total", f'limit="{limit}"')
    limits(f"{limit}={value}")
    w1.ask("echo", "say", {"text": "x"})  # its name is known from then on
    began = time.monotonic()
    answers = refusals(many(w1, 2000, text="x" * 20, tags=["y" * 60] * 3))
    assert 0 < len(answers) <= 100 * (time.monotonic() - began), f"{len(answers)} answers"
    for answer in answers:
        assert over(answer, limit, value) >= 1
    assert broker.metric("muster_over_limit_total", f'limit="{limit}"') - before >= len(answers)
    assert agents("acme", "a1").ask("echo", "say", {"text": "x"}).body["text"] == "x"


def test_at_most_a_hundred_answers_a_second(limits: Callable[..., None], agents: Agents) -> None:
    limits("agent_requests_per_s=1")
    began = time.monotonic()
    answers = many(agents("busy", "flood"), 5000)
    assert 100 <= len(refusals(answers)) <= 100 * (int(time.monotonic() - began) + 2)


# ---- objects ---------------------------------------------------------------------------------------------------------------------------


def test_what_a_service_counts(site: Site, agents: Agents, limits: Callable[..., None]) -> None:
    """A plugin reads its own limit, live, and those of the broker's table."""
    b1 = agents("busy", "b1")
    limits("watches=7")
    body = b1.ask("lab", "limits").body
    assert (body["watches"], body["nothing"]) == (7, -1) and body["shouts"] > 0
    assert agents("acme", "a1").ask("lab", "limits").body["watches"] == 1000, "that of the configuration"


def test_a_count_that_no_plugin_knows_is_told(site: Site, broker: Musterd) -> None:
    """By the command line, which reads the plugins of its configuration."""
    config = ["-c", str(broker.config_path)]
    done = site.cli(*config, "tenant", "limits", "busy", "echo.shouts=3", "echo.shuots=3")
    assert done.stderr == "muster tenant: note: no plugin of this configuration counts echo.shuots\n"
    assert json.loads(done.stdout) == {"echo.shouts": 3, "echo.shuots": 3}
    site.cli("tenant", "limits", "busy", "echo.shouts=none", "echo.shuots=none")


def test_what_a_service_in_a_child_counts(site: Site, broker: Musterd) -> None:
    """The same through a child, which is told of changes."""
    broker.stop()
    child = own_broker(site, isolated(echo(), site))
    agents = Agents(site)
    try:
        child.start()
        b1 = agents("busy", "b1")
        assert b1.ask("lab", "limits").body["shouts"] == -1
        for value in (5, 6):
            site.cli("tenant", "limits", "busy", f"echo.shouts={value}", "watches=2")
            wait_until(lambda: b1.ask("lab", "limits").body["shouts"] == value, 5, "the child to be told")
        assert b1.ask("lab", "limits").body["watches"] == 2
    finally:
        site.cli("tenant", "limits", "busy", "echo.shouts=none", "watches=none")
        agents.close()
        child.stop()
        broker.start()


# ---- all brokers -----------------------------------------------------------------------------------------------------------------------


def test_a_rate_is_that_of_all_brokers(site: Site, broker: Musterd, agents: Agents, limits: Callable[..., None]) -> None:
    """Ten times the rate, spread over three brokers by NATS: together they let the rate pass, after a burst each."""
    others = [own_broker(site, echo()) for _ in range(2)]
    rate, seconds = 50, 8
    try:
        for other in others:
            other.start()
        limits(f"requests_per_s={rate}")
        time.sleep(1.5)
        asker = agents("busy", "b1")
        box = asker.client.subscribe(asker.box("all"))
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            asker.client.publish_many(asker.subject("echo", "say"), rate, b'{"text": "x"}', reply=asker.box("all"))
            time.sleep(0.1)
        took = time.monotonic() - began
        time.sleep(1)
        served = sum(b"resource_exhausted" not in m.data for m in list(box.messages))
        assert rate * took * 0.7 <= served <= rate * (took + 4), f"{served} in {took:.1f} s"
        shares = [b.metric("muster_messages_total") for b in [broker, *others]]
        assert all(share > 0 for share in shares), shares
    finally:
        for other in others:
            other.stop()


# ---- history ---------------------------------------------------------------------------------------------------------------------------


def test_history_has_its_bounds_at_once(site: Site, broker: Musterd) -> None:
    client = Client(site.nats.url, site.nats.folder / "broker.creds")
    try:
        def config() -> tuple[int, int]:
            found = client.stream_info("MSG_busy").config
            return int(found.max_msgs), int(found.max_bytes)

        assert config() == (100000, -1)
        site.cli("tenant", "limits", "busy", "stream_messages=50", "stream_bytes=1MiB")
        wait_until(lambda: config() == (50, 1 << 20), LIVE + 1, "the stream to be bounded")
        sender = Agent(site, "busy", "speaker")
        sender.client.publish_many(f"{ROOT_TOKEN}.busy.all.speaker.note", 200, b"x")
        wait_until(lambda: client.stream_info("MSG_busy").state.messages == 50, 5, "the oldest to go")
        sender.close()
        site.cli("tenant", "limits", "busy", "stream_messages=none", "stream_bytes=none")
        wait_until(lambda: config() == (100000, -1), LIVE + 1, "the stream to have its own bounds again")
    finally:
        client.close()


# ---- what NATS alone carries ------------------------------------------------------------------------------------------------------------


class Raw:
    """A bare connection, which says everything at once."""

    def __init__(self, port: int, login: Callable[[str], dict[str, Any]]) -> None:
        self.link = socket.create_connection(("127.0.0.1", port))
        self.link.settimeout(120)
        self.rest = b""
        word, _, info = self._line().partition(b" ")
        assert word == b"INFO"
        connect = {"verbose": False, "pedantic": False, **login(json.loads(info).get("nonce", ""))}
        self.link.sendall(b"CONNECT " + json.dumps(connect).encode() + b"\r\n")

    def _line(self) -> bytes:
        while b"\r\n" not in self.rest:
            data = self.link.recv(1 << 16)
            assert data, "the server has closed the connection"
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\r\n")
        return line

    def count(self, word: bytes) -> int:
        """Lines that begin with word until the server has read all."""
        self.link.sendall(b"PING\r\n")
        n = 0
        while (line := self._line()) != b"PONG":
            n += line.startswith(word)
            if line == b"PING":  # who never answers is taken to be dead
                self.link.sendall(b"PONG\r\n")
        return n


def signed(creds: Path, nonce: str) -> dict[str, Any]:
    """What a creds file says to the server's nonce."""
    jwt, seed = re.findall(r"-----BEGIN [^-]*-----\s*(\S+)\s*-----", creds.read_text())
    signature = nkeys.from_seed(seed.encode()).sign(nonce.encode())
    return {"jwt": jwt, "sig": base64.urlsafe_b64encode(signature).rstrip(b"=").decode()}


@pytest.mark.parametrize("static", [False, True], ids=["operator", "static"])
def test_300_000_subscriptions_are_refused_at_the_limit(static: bool) -> None:
    """By the server, which has the limit from the credential: no broker runs."""
    site = Site(static)
    try:
        site.start("acme")
        if static:
            password = site.cli("agent", "add", "acme", "hoarder").stdout.strip()
            site.nats.signal(signal.SIGHUP)
            wait_until(lambda: "Reloaded server configuration" in site.nats.log(), 10, "the server to know the user")
            raw = Raw(site.nats.port, lambda nonce: {"user": "acme.hoarder", "pass": password})
        else:
            creds = site.agent("acme", "hoarder")
            raw = Raw(site.nats.port, lambda nonce: signed(creds, nonce))
        assert subscribe(raw, 300_000) == 300_000 - 500
    finally:
        site.close()


def test_the_limit_of_a_tenant_stands_in_its_credentials() -> None:
    """Those that are made, or rotated, while it has one; the server holds them to it, with no broker there. They may what the others may."""
    site = Site()
    try:
        site.start("acme")
        before = site.agent("acme", "a0")
        site.cli("tenant", "limits", "acme", "subscriptions=20")
        creds = site.agent("acme", "a1")
        assert subscribe(Raw(site.nats.port, lambda nonce: signed(creds, nonce)), 100, "a1") == 80
        assert subscribe(Raw(site.nats.port, lambda nonce: signed(before, nonce)), 100, "a0") == 0
        one, other = Client(site.nats.url, creds, "acme", "a1"), Client(site.nats.url, before, "acme", "a0")
        heard = one.subscribe(f"{ROOT_TOKEN}.acme.to.a1.>")
        other.publish(f"{ROOT_TOKEN}.acme.to.a1.a0.x", b"1")
        wait_until(lambda: heard.messages, 5, "a message")
        one.publish(f"{ROOT_TOKEN}.acme.to.a0.a1.x", b"1")
        assert not one.errors
        one.publish(f"{ROOT_TOKEN}.acme.to.a1.a0.x", b"1")
        wait_until(lambda: any("ermissions" in e for e in one.errors), 5, "a foreign name to be refused")
        one.close()
        other.close()
    finally:
        site.close()


def subscribe(raw: Raw, n: int, agent: str = "hoarder") -> int:
    """Returns how many were refused."""
    refused = 0
    for start in range(0, n, 10_000):
        raw.link.sendall(b"".join(b"SUB mst.acme.to.%s.t%d %d\r\n" % (agent.encode(), i, i + 1) for i in range(start, min(n, start + 10_000))))
        refused += raw.count(b"-ERR 'maximum subscriptions exceeded'")
    return refused


FORMS = {"installed": (False, ""), "2.10": (False, "2.10"), "2.15": (False, "2.15"), "static-2.10": (True, "2.10")}


@pytest.fixture(params=list(FORMS))
def nats_site(request: pytest.FixtureRequest) -> Generator[Site, None, None]:
    static, version = FORMS[request.param]
    site = Site(static, nats=version)
    try:
        site.start("acme", "zeta")
        broker = own_broker(site, echo())
        site.brokers.append(broker)
        if static:
            folder = site.nats.folder
            broker.config["nats"] = {"urls": [site.nats.url], "user": "broker", "password_file": str(folder / "broker.pass"),
                                     "system_user": "system", "system_password_file": str(folder / "system.pass")}
            passwords[id(site)] = {(tenant, agent): site.cli("agent", "add", tenant, agent).stdout.strip()
                                   for tenant, agent in (("acme", "a1"), ("acme", "loud"), ("acme", "ear"), ("zeta", "z1"), ("zeta", "a1"))}
            site.nats.signal(signal.SIGHUP)
            wait_until(lambda: "Reloaded server configuration" in site.nats.log(), 10, "the server to know the users")
        broker.start()
        yield site
        assert broker.stop() == 0, broker.log()[-12000:]
        assert "Sanitizer" not in broker.log() and "runtime error" not in broker.log(), broker.log()[-5000:]
    finally:
        passwords.pop(id(site), None)
        site.close()


passwords: dict[int, dict[tuple[str, str], str]] = {}  # of static sites


def join(site: Site, tenant: str, agent: str) -> Client:
    if id(site) in passwords:
        return Client(site.nats.url, None, tenant, agent, user=f"{tenant}.{agent}", password=passwords[id(site)][tenant, agent])
    return Client(site.nats.url, site.agent(tenant, agent), tenant, agent)


def can_cut(site: Site) -> bool:
    return nats_release(site.nats.program) >= (2, 10)


def told_too_old(broker: Musterd) -> bool:
    """On /readyz, which is still ready; in a metric; and by doctor, which reads what the broker says."""
    status, body = broker.get("/readyz")
    if "servers_too_old" not in body:
        return False
    said = run_cli(["-c", str(broker.config_path), "doctor"], {}, check=False).stdout
    assert "servers_too_old" in said or "cuts nobody" in said, said
    return status == 200 and "servers_too_old" in body and broker.metric("muster_quota_cut_total", 'limit="too_old"') > 0


def reconnects(client: Client) -> int:
    return int(client._nc.stats["reconnects"])


def test_connections_above_the_limit_are_cut(nats_site: Site) -> None:
    site, broker = nats_site, nats_site.brokers[-1]
    clients = [join(site, "acme", "a1")]
    time.sleep(0.1)
    other = join(site, "zeta", "z1")
    try:
        for _ in range(5):
            clients.append(join(site, "acme", "a1"))
            time.sleep(0.05)
        site.cli("tenant", "limits", "acme", "connections=2")
        if not can_cut(site):
            wait_until(lambda: told_too_old(broker), 10, "the broker to tell")
            assert all(reconnects(c) == 0 for c in clients)
            return
        wait_until(lambda: broker.metric("muster_quota_cut_total", 'limit="connections"') >= 4, 10, "four to be cut")
        wait_until(lambda: sum(reconnects(c) > 0 for c in clients) == 4, 10, "the newest to notice")
        assert reconnects(clients[0]) == reconnects(clients[1]) == reconnects(other) == 0
        site.cli("tenant", "limits", "acme", "connections=none")
        wait_until(lambda: all(c.connected for c in clients), 10, "all to be there again")
        time.sleep(2)
        before = [reconnects(c) for c in clients]
        time.sleep(2.5)
        assert [reconnects(c) for c in clients] == before
    finally:
        for client in [*clients, other]:
            client.close()


def test_a_connection_with_too_many_subscriptions_is_cut(nats_site: Site) -> None:
    site, broker = nats_site, nats_site.brokers[-1]
    clients = [join(site, tenant, "a1") for tenant in ("acme", "acme", "zeta")]
    try:
        for client, tenant, n in zip(clients, ("acme", "acme", "zeta"), (30, 8, 30)):
            for i in range(n):
                client.subscribe(f"{ROOT_TOKEN}.{tenant}.to.a1.t{i}")
        site.cli("tenant", "limits", "acme", "subscriptions=10")
        if not can_cut(site):
            wait_until(lambda: told_too_old(broker), 10, "the broker to tell")
            return
        wait_until(lambda: reconnects(clients[0]) > 0, 10, "it to be cut")
        assert reconnects(clients[1]) == reconnects(clients[2]) == 0
        assert broker.metric("muster_quota_cut_total", 'limit="subscriptions"') > 0
    finally:
        for client in clients:
            client.close()


def test_a_tenant_over_out_bytes_is_cut(nats_site: Site) -> None:
    """Ten times what it may be delivered, from agent to agent; its neighbour sends as before."""
    site, broker = nats_site, nats_site.brokers[-1]
    loud, ear = (join(site, "acme", name) for name in ("loud", "ear"))
    quiet = join(site, "zeta", "z1")
    try:
        ear.subscribe(f"{ROOT_TOKEN}.acme.to.ear.>")
        heard = quiet.subscribe(f"{ROOT_TOKEN}.zeta.to.z1.>")
        site.cli("tenant", "limits", "acme", "out_bytes=512KiB")
        time.sleep(2.5)
        done = threading.Event()

        def flood() -> None:
            while not done.is_set():
                if loud.connected:
                    try:
                        loud.publish_many(f"{ROOT_TOKEN}.acme.to.ear.loud.x", 100, b"x" * 10000)
                    except Exception:  # noqa: BLE001 - it is cut
                        pass
                done.wait(0.2)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            if can_cut(site):
                wait_until(lambda: reconnects(ear) > 0, 20, "the receiver to be cut")
                wait_until(lambda: broker.metric("muster_quota_cut_total", 'limit="out_bytes"') >= 2, 10, "both to be cut")
                assert "out_bytes" in broker.log()
            else:
                wait_until(lambda: told_too_old(broker), 20, "the broker to tell")
            quiet.publish(f"{ROOT_TOKEN}.zeta.to.z1.z1.x", b"x")
            wait_until(lambda: heard.messages, 2, "the neighbour's message")
            assert reconnects(quiet) == 0
        finally:
            done.set()
            thread.join()
        if can_cut(site):  # what it owes is worked off
            wait_until(lambda: "may connect again" in broker.log(), 90, "the tenant to be let in")
            wait_until(lambda: loud.connected and ear.connected, 10, "both to be there")
    finally:
        for client in (loud, ear, quiet):
            client.close()


def test_without_a_system_account_it_is_told(site: Site, broker: Musterd) -> None:
    deaf = own_broker(site, echo())
    deaf.config["nats"].pop("system_creds")
    try:
        deaf.start()
        site.cli("tenant", "limits", "busy", "connections=1000")
        wait_until(lambda: "no_system_account" in deaf.get("/readyz")[1], 10, "it to be told")
        assert deaf.get("/readyz")[0] == 200
    finally:
        site.cli("tenant", "limits", "busy", "connections=none")
        deaf.stop()
