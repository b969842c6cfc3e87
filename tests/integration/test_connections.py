"""muster.sys/1 through the plugin `conns`: who connects and who goes as the servers tell it, in operator mode and with passwords.

MUSTER_NATS_SERVERS names more nats-server programs, separated by colons: the tests run with each of them, too.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from client import Client
from harness import LONG, ROOT_TOKEN, Musterd, Nats, Server, Site, free_port, installed, run_cli, wait_until
from pluginrig import EINVAL, ENOTFOUND, ETIME, plugin
from proxy import Proxy

CONNECT, DISCONNECT, GAP, SERVER_LOST, SERVER_BACK = 1, 2, 3, 4, 5
EABI, ELINK = -6, -10
RELOADED = "Reloaded server configuration"  # nats-server's last word on SIGHUP
Row = dict[str, Any]
SERVERS = [installed("nats-server"), *filter(None, os.environ.get("MUSTER_NATS_SERVERS", "").split(":"))]


class Rig:
    """A site with one broker that runs conns."""

    def __init__(self, static: bool, program: str, *more: dict[str, Any]) -> None:
        self.site = Site(static)
        self.site.nats.program = program
        (self.site.nats.folder / "local.conf").write_text('ping_interval: "10m"\n')  # bare connections answer no pings
        self.site.start("acme", "zeta")
        self.static = static
        self.broker = self.make_broker("musterd", plugin("conns", "conns"), *more)
        self._clients: list[Client] = []
        self._logins: dict[tuple[str, str], dict[str, Any]] = {}

    @property
    def version(self) -> tuple[int, int]:
        found = re.search(r"v(\d+)\.(\d+)", subprocess.run([self.site.nats.program, "--version"], text=True, capture_output=True).stdout)
        assert found
        return int(found[1]), int(found[2])

    def nats_section(self, port: int | None = None) -> dict[str, Any]:
        folder = self.site.nats.folder
        section: dict[str, Any] = {"urls": [f"nats://127.0.0.1:{port or self.site.nats.port}"]}
        if self.static:
            return {**section, "user": "broker", "password_file": str(folder / "broker.pass"), "system_user": "system",
                    "system_password_file": str(folder / "system.pass")}
        return {**section, "creds": str(folder / "broker.creds"), "system_creds": str(folder / "system.creds")}

    def make_broker(self, name: str, *plugins: dict[str, Any]) -> Musterd:
        broker = Musterd(name, self.site.folder, {"nats": self.nats_section(), "postgres": self.site.broker_config()["postgres"],
                                                  "plugins": list(plugins)})
        self.site.brokers.append(broker)
        return broker

    def login(self, tenant: str, agent: str, role: str = "agent", *options: str) -> dict[str, Any]:
        """What a client needs to be this agent, which was made with these options."""
        if (tenant, agent) not in self._logins:
            if self.static:
                password = self.site.cli("agent", "add", tenant, agent, "--role", role, *options).stdout.strip()
                self._logins[tenant, agent] = {"user": f"{tenant}.{agent}", "password": password}
                # nats-server was seen to go on listing a connection that came and went while it read its configuration again.
                read = self.site.nats.log().count(RELOADED)
                self.site.nats.signal(signal.SIGHUP)
                wait_until(lambda: self.site.nats.log().count(RELOADED) > read, 10, "nats-server to have read its configuration")
                wait_until(lambda: self._lets_in(tenant, agent), 10, "nats-server to know the user")
                time.sleep(0.2)  # what was tried is told before a test begins
            elif options:
                path = self.site.folder / f"{tenant}-{agent}.creds"
                self.site.cli("agent", "add", tenant, agent, "--role", role, "--out", str(path), *options)
                self._logins[tenant, agent] = {"creds": path}
            else:
                self._logins[tenant, agent] = {"creds": self.site.agent(tenant, agent, role)}
        return self._logins[tenant, agent]

    def _lets_in(self, tenant: str, agent: str) -> bool:
        link, answer = self.raw(**self._logins[tenant, agent])
        link.close()
        return answer == b"PONG\r\n"

    def raw(self, user: str, password: str, port: int | None = None, **connect: Any) -> tuple[socket.socket, bytes]:
        """A bare connection, and what the server answered."""
        link = socket.create_connection(("127.0.0.1", port or self.site.nats.port))
        link.settimeout(5)
        assert link.recv(4096).startswith(b"INFO ")
        body = {"verbose": False, "pedantic": False, "user": user, "pass": password, "lang": "raw", "version": "0", **connect}
        link.sendall(b"CONNECT " + json.dumps(body).encode() + b"\r\nPING\r\n")
        return link, link.recv(4096)

    def client(self, tenant: str, agent: str, role: str = "agent", port: int | None = None, **options: Any) -> Client:
        url = f"nats://127.0.0.1:{port}" if port else self.site.nats.url
        client = Client(url, tenant=tenant, agent=agent, **self.login(tenant, agent, role), **options)
        self._clients.append(client)
        return client

    def insider(self, kind: str) -> Client:
        """A client in the brokers' or in the system account."""
        folder = self.site.nats.folder
        login: dict[str, Any] = ({"user": kind, "password": (folder / f"{kind}.pass").read_text().strip()} if self.static
                                 else {"creds": folder / f"{kind}.creds"})
        client = Client(self.site.nats.url, **login)
        self._clients.append(client)
        return client

    def start(self) -> Rig:
        self.broker.start()
        self.asker = self.client("acme", "asker")
        return self

    def end(self, client: Client) -> None:
        """Close it, and remember who it was."""
        ids(client)
        self._clients.remove(client)
        client.close()

    def ask(self, verb: str, **body: Any) -> dict[str, Any]:
        answer = self.asker.request(f"{ROOT_TOKEN}.acme.rpc.asker.conns.{verb}", json.dumps(body).encode(), timeout=30)
        return dict(json.loads(answer.data))

    def events(self, start: int = 0) -> list[Row]:
        """All that watch() told, from number start on."""
        found: list[Row] = []
        while True:
            answer = self.ask("seen", **{"from": start + len(found)})
            found += answer["rows"]
            if start + len(found) >= answer["n"]:
                return found

    def mark(self) -> int:
        return int(self.ask("seen", **{"from": 1 << 30})["n"])

    def await_event(self, start: int, what: str, match: Callable[[Row], bool], deadline: float = 5) -> Row:
        return dict(wait_until(lambda: next((row for row in self.events(start) if match(row)), None), deadline, what))

    def await_end(self, start: int, client_id: int, deadline: float = 5) -> Row:
        return self.await_event(start, f"the end of connection {client_id}",
                                lambda row: bool(row["kind"] == DISCONNECT and row["client"] == client_id), deadline)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.site.close()


def ids(client: Client) -> tuple[str, int]:
    """Server and client id, as the server told them to the client when this was asked first."""
    known = vars(client)
    if "ids" not in known:
        known["ids"] = client._nc._server_info["server_id"], client._nc.client_id
    return known["ids"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=[(static, program) for program in SERVERS for static in (False, True)],
                ids=lambda p: f"{'static' if p[0] else 'operator'}-{SERVERS.index(p[1])}")
def rig(request: pytest.FixtureRequest) -> Generator[Rig, None, None]:
    rig = Rig(*request.param)
    failed_before = request.session.testsfailed
    try:
        yield rig.start()
        assert rig.broker.stop() == 0, rig.broker.log()[-3000:]
        assert "Sanitizer" not in rig.broker.log() and "runtime error" not in rig.broker.log(), rig.broker.log()[-5000:]
    finally:
        if request.session.testsfailed > failed_before:
            print(rig.broker.log()[-6000:], rig.site.nats.log()[-3000:], file=sys.stderr)
        rig.close()


def test_a_gap_comes_first_and_then_what_happens(rig: Rig) -> None:
    first = rig.events()[0]
    assert first["kind"] == GAP and first["tenant"] == first["agent"] == first["server"] == "(null)" and first["client"] == 0
    start, before = rig.mark(), time.time()
    client = rig.client("acme", "a1", name="what I call myself")
    server, number = ids(client)
    row = rig.await_event(start, "the connect", lambda row: bool(row["client"] == number))
    assert {**row, "at": 0} == {"kind": CONNECT, "tenant": "acme", "agent": "a1", "server": server, "client": number, "at": 0,
                                "name": "what I call myself", "reason": "(null)"}
    assert abs(row["at"] / 1e9 - before) < 5
    rig.end(client)
    end = rig.await_end(start, number)
    assert {**end, "at": 0} == {**row, "kind": DISCONNECT, "reason": "Client Closed", "at": 0} and end["at"] > row["at"]


PROCESS = """
import sys, time
from client import Client
client = Client(sys.argv[1], None, "acme", "killed", **eval(sys.argv[2]))
print(client._nc._server_info["server_id"], client._nc.client_id, flush=True)
time.sleep(600)
"""


def test_the_end_of_a_killed_process_is_told_within_a_second(rig: Rig) -> None:
    login = {key if key != "creds" else "user_credentials": str(value) for key, value in rig.login("acme", "killed").items()}
    start = rig.mark()
    child = subprocess.Popen([sys.executable, "-c", PROCESS, rig.site.nats.url, repr(login)], stdout=subprocess.PIPE, text=True,
                             env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)})
    assert child.stdout
    server, number = child.stdout.readline().split()
    child.kill()
    killed = time.monotonic()
    row = rig.await_end(start, int(number))
    assert (row["server"], row["tenant"], row["agent"]) == (server, "acme", "killed") and time.monotonic() - killed < 1
    child.wait()


def test_connections_of_one_agent_are_told_apart(rig: Rig) -> None:
    start = rig.mark()
    first, second = rig.client("zeta", "twice"), rig.client("zeta", "twice", name="twice")
    for client in (first, second):
        number = ids(client)[1]
        rig.await_event(start, "both connects", lambda row, number=number: bool(row["client"] == number))  # type: ignore[misc]
    listed = [row for row in rig.ask("list")["rows"] if row["agent"] == "twice"]
    assert [(row["server"], row["client"]) for row in listed] == sorted([ids(first), ids(second)], key=lambda pair: pair[1])
    assert all(row["kind"] == CONNECT and row["tenant"] == "zeta" and row["reason"] == "(null)" and row["at"] for row in listed)
    rig.end(first)
    rig.await_end(start, ids(first)[1])
    assert [row["client"] for row in rig.ask("list")["rows"] if row["agent"] == "twice"] == [ids(second)[1]]
    rig.end(second)
    rig.await_end(start, ids(second)[1])


def test_a_narrowed_agent_is_told_as_any_other_and_held_to_less(rig: Rig) -> None:
    """Its permissions are written out, in a JWT or in the server's configuration."""
    rig.login("acme", "thin", "agent", "--groups", "red", "--tables", "public.orders")
    start = rig.mark()
    thin = rig.client("acme", "thin")
    row = rig.await_event(start, "the connect", lambda row: bool(row["client"] == ids(thin)[1]))
    assert (row["tenant"], row["agent"]) == ("acme", "thin")
    for subject in ("grp.red.>", "cdc.*.public.orders.>", "all.>", "to.thin.>"):
        thin.subscribe(f"{ROOT_TOKEN}.acme.{subject}")
    assert not thin.errors
    for n, subject in enumerate(("grp.>", "grp.blue.>", "cdc.>", "cdc.*.public.>", "log.grp.blue.>")):
        thin.subscribe(f"{ROOT_TOKEN}.acme.{subject}")
        wait_until(lambda n=n: len(thin.errors) == n + 1, 5, f"{subject} to be refused")  # type: ignore[misc]
    rig.end(thin)
    rig.await_end(start, row["client"])


def test_brokers_and_others_who_are_no_agents_are_not_shown(rig: Rig) -> None:
    start = rig.mark()
    insiders = [rig.insider("broker"), rig.insider("system")]
    if not rig.static:  # with passwords nothing tells an operator's user from an agent's
        insiders.append(rig.client("acme", "boss", "operator"))
    last = rig.client("acme", "last")
    rig.await_event(start, "the last of them", lambda row: bool(row["client"] == ids(last)[1]))
    hidden = {ids(client)[1] for client in insiders}
    answer = rig.ask("list")
    assert answer["code"] == 0 and answer["n"] == answer["distinct"]
    for rows in (rig.events(start), answer["rows"]):
        assert rows and not [row for row in rows if row["client"] in hidden]
        assert {row["tenant"] for row in rows} <= {"acme", "zeta"} and not [row for row in rows if row["agent"].startswith("_")]
    for client in (*insiders, last):
        rig.end(client)


def test_the_name_that_a_client_gives_itself_proves_nothing(rig: Rig) -> None:
    rig.login("acme", "victim")
    start = rig.mark()
    thief = rig.client("acme", "thief", name="acme.victim")
    row = rig.await_event(start, "the connect", lambda row: bool(row["client"] == ids(thief)[1]))
    assert (row["agent"], row["name"]) == ("thief", "acme.victim")
    if rig.static:
        for lie in ({"nkey": "acme.victim"}, {"nkey": "acme.victim", "sig": "", "jwt": ""}):
            link, answer = rig.raw(**rig.login("acme", "thief"), **lie)
            assert b"Authorization Violation" in answer, answer
            link.close()
        link, answer = rig.raw(**rig.login("acme", "thief"), name="raw thief", jwt="e30.eyJuYW1lIjoidmljdGltIn0.x", auth_token="acme.victim")
        assert answer == b"PONG\r\n"
        time.sleep(0.3)
        link.close()
    rig.end(thief)
    rig.await_end(start, ids(thief)[1])
    assert not [row for row in rig.events(start) if row["agent"] == "victim"]


def test_connections_of_a_tenant_that_comes_later_are_told_by_a_gap(rig: Rig) -> None:
    rig.site.cli("tenant", "add", "later")
    login = rig.login("later", "early")
    rig.site.cli("tenant", "rm", "later", "--force")
    time.sleep(0.2)
    start = rig.mark()
    client = Client(rig.site.nats.url, tenant="later", agent="early", **login)
    ids(client)
    time.sleep(0.5)
    assert not rig.events(start) and not [row for row in rig.ask("list")["rows"] if row["tenant"] == "later"]
    rig.site.cli("tenant", "add", "later")
    rig.await_event(start, "a gap", lambda row: bool(row["kind"] == GAP), 5)

    def listed() -> list[int]:
        return [row["client"] for row in rig.ask("list")["rows"] if row["tenant"] == "later"]

    # From 2.10 on brokers have cut it, whom nobody knew, and it has come back.
    wait_until(lambda: client.connected and listed() == [client._nc.client_id], 10, "it to be listed with the connection that it has")
    number = client._nc.client_id
    client.close()
    rig.await_end(start, number)


def test_kick(rig: Rig) -> None:
    client = rig.client("acme", "unwanted")
    server, number = ids(client)
    start = rig.mark()
    insider = ids(rig.insider("broker"))
    assert rig.ask("kick", server=server, client=1 << 40)["code"] == ENOTFOUND
    assert rig.ask("kick", server="N" + "A" * 55, client=number)["code"] == ENOTFOUND
    assert rig.ask("kick", server=insider[0], client=insider[1])["code"] == ENOTFOUND, "a broker was cut"
    assert [rig.ask("kick", server=bad, client=number)["code"] for bad in ("", "a.b", "*", "x" * 64)] == [EINVAL] * 4
    assert rig.ask("kick", server=server, client=0)["code"] == EINVAL
    if rig.version < (2, 10):
        assert rig.ask("kick", server=server, client=number)["code"] == EABI
        assert client.connected and not [row for row in rig.events(start) if row["client"] == number and row["kind"] == DISCONNECT]
    else:
        assert rig.ask("kick", server=server, client=number)["code"] == 0
        assert rig.await_end(start, number)["reason"] == "Kicked"
        assert rig.ask("kick", server=server, client=number)["code"] == ENOTFOUND
    rig.end(client)


def test_a_plugin_may_unwatch_and_watch_again(rig: Rig) -> None:
    assert rig.ask("unwatch")["code"] == 0
    start = rig.mark()
    client = rig.client("acme", "unseen")
    assert ids(client)[1] in [row["client"] for row in rig.ask("list")["rows"]]
    assert not rig.events(start)
    assert rig.ask("watch")["code"] == 0
    rig.await_event(start, "the first word after watch()", lambda row: bool(row["kind"] == GAP))
    rig.end(client)
    rig.await_end(start, ids(client)[1])


def test_a_lane_that_does_not_keep_up_is_told_a_gap(rig: Rig) -> None:
    """8,192 events may wait. What comes after them and the gap is told again."""
    if not rig.static:
        pytest.skip("thousands of logins: with passwords only, which take the server less")
    login, before = rig.login("acme", "flood"), rig.broker.metric("muster_sys_gaps_total")
    start, told = rig.mark(), rig.broker.metric("muster_sys_events_total")
    rig.asker.publish(f"{ROOT_TOKEN}.acme.rpc.asker.conns.sleep", b'{"ms": 8000}')
    rig.raw(**login)[0].close()  # the event at which the lane falls asleep
    wait_until(lambda: rig.broker.metric("muster_sys_events_total") >= told + 2, 5, "the first events")
    for _ in range(4200):
        rig.raw(**login)[0].close()
    wait_until(lambda: rig.broker.metric("muster_sys_gaps_total") == before + 1, 20, "the gap")
    rig.await_event(start, "the gap on the lane", lambda row: bool(row["kind"] == GAP), 40)
    number = ids(last := rig.client("acme", "after"))[1]
    rig.await_event(start, "what comes later", lambda row: bool(row["client"] == number), 5)
    assert len(rig.events(start)) < 8192
    rig.end(last)


def test_many_connections_are_listed_while_others_come_and_go(rig: Rig) -> None:
    """Pages of 256 rows; the connections that go meanwhile move the others to other pages."""
    if not rig.static:
        pytest.skip("thousands of logins: with passwords only, which take the server less")
    login, passing_login, n = rig.login("zeta", "many"), rig.login("zeta", "passing"), 10000 if LONG else 3000

    def listed(agent: str) -> dict[str, Any]:
        answer = rig.ask("list", agent=agent)
        return {} if answer["code"] == ETIME else answer

    def count(agent: str) -> int:
        answer = wait_until(lambda: listed(agent), 20, "a server that is in time on a busy machine")
        assert answer["code"] == 0 and answer["n"] == answer["distinct"]
        return int(answer["n"])

    before = {agent: count(agent) for agent in ("many", "passing")}
    assert max(before.values()) < 5, before
    passing = [rig.raw(**passing_login)[0] for _ in range(300)]
    links = [rig.raw(**login)[0] for _ in range(n)]
    wait_until(lambda: count("many") == n + before["many"] and count("passing") == 300 + before["passing"], 20, "all to be listed")
    leaving = threading.Thread(target=lambda: [(link.close(), time.sleep(0.01 if i < 150 else 0)) for i, link in enumerate(passing)])
    leaving.start()
    counts = []
    while leaving.is_alive() or len(counts) < 2:
        counts.append(count("many"))
    leaving.join()
    assert set(counts) == {n + before["many"]}, counts
    wait_until(lambda: count("passing") == before["passing"], 20, "those that went to be gone")
    for link in links:
        link.close()
    wait_until(lambda: count("many") == before["many"], 20, "all to be gone")


def test_after_a_restart_of_the_server_a_gap_leads_to_how_it_is(rig: Rig) -> None:
    """The link to the system account is told in /readyz meanwhile; the broker needs it for nothing else."""
    staying, going = rig.client("acme", "staying"), rig.client("acme", "going")
    start = rig.mark()
    rig.site.nats.kill()
    with contextlib.suppress(concurrent.futures.CancelledError):  # it gives up connecting anew
        rig.end(going)
    wait_until(lambda: '"nats_away"' in rig.broker.get("/readyz")[1] and link(rig.broker)["state"] == "degraded", 10, "the link to be told as away")
    assert rig.broker.metric("muster_bus_reconnects_total", 'link="system"') == 0
    rig.site.nats.start()
    rig.broker.wait_ready()
    wait_until(lambda: link(rig.broker)["state"] == "ok", 10, "the link to be told as back")
    wait_until(lambda: staying.connected and rig.asker.connected, 10, "the clients to be back")
    rig.await_event(start, "the gap", lambda row: bool(row["kind"] == GAP), 5)
    rows = wait_until(lambda: [row for row in rig.ask("list")["rows"] if row["agent"] == "staying"], 10, "the agent to be listed")
    assert [(row["server"], row["client"]) for row in rows] == [(staying._nc._server_info["server_id"], staying._nc.client_id)]
    assert not [row for row in rig.ask("list")["rows"] if row["agent"] == "going"]
    assert rig.broker.metric("muster_bus_reconnects_total", 'link="system"') >= 1
    number = staying._nc.client_id
    rig.end(staying)
    rig.await_end(start, number)


def link(broker: Musterd) -> Row:
    """What /readyz says of the link to the system account."""
    status, body = broker.get("/readyz")
    return dict(next(c for c in json.loads(body)["components"] if (c["kind"], c["name"]) == ("link", "system")))


def test_two_brokers_hear_the_same(rig: Rig) -> None:
    second = rig.make_broker("second", plugin("conns", "conns"))
    rig.login("zeta", "heard")
    second.start()
    try:
        wait_until(lambda: second.metric("muster_conns_seen_total", 'kind="gap"') == 1, 20, "the first word")
        before = [broker.metric("muster_conns_seen_total", 'kind="disconnect"') for broker in (rig.broker, second)]
        client = rig.client("zeta", "heard")
        rig.end(client)
        wait_until(lambda: [broker.metric("muster_conns_seen_total", 'kind="disconnect"') for broker in (rig.broker, second)]
                   == [before[0] + 1, before[1] + 1], 5, "both to hear it")
    finally:
        assert second.stop() == 0, second.log()[-3000:]


# ---- what stands in the configuration ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain() -> Generator[Rig, None, None]:
    rig = Rig(False, SERVERS[0])
    yield rig
    rig.close()


def test_without_a_login_of_the_system_account_the_plugin_does_not_start(plain: Rig) -> None:
    broker = plain.make_broker("none", plugin("conns", "conns"))
    del broker.config["nats"]["system_creds"]
    broker.start(ready=False)
    wait_until(lambda: not broker.alive, 10, "the broker to end")
    assert "plugin conns 1.0.0" in broker.log() and "muster.sys/1 needs nats.system_creds (or nats.system_user and" in broker.log()
    broker.config["nats"]["system_creds"] = "/nowhere/system.creds"
    broker.start(ready=False)
    wait_until(lambda: not broker.alive, 10, "the broker to end")
    assert "nats.system_creds: /nowhere/system.creds: No such file or directory, expected a readable file" in broker.log()


def test_the_link_is_opened_wherever_there_is_a_login_for_it(plain: Rig) -> None:
    """Also without a plugin that asks: who is revoked is cut."""
    broker = plain.make_broker("idle")
    broker.start()
    wait_until(lambda: link(broker)["state"] == "ok", 10, "the system account to be heard")
    assert 'link="system"' in broker.get("/metrics")[1]
    assert broker.stop() == 0
    del broker.config["nats"]["system_creds"]
    broker.start()
    assert '"system"' not in broker.get("/readyz")[1] and 'link="system"' not in broker.get("/metrics")[1]
    assert broker.stop() == 0
    broker.config["nats"]["system_creds"] = "/nowhere/system.creds"
    broker.start()
    assert "who is revoked is not cut by this broker" in broker.log() and "/nowhere/system.creds" in broker.log()
    assert broker.stop() == 0


@pytest.mark.parametrize("wrong,code,told", [("broker", "not_system_account", "expected the system account of the same servers"),
                                             ("bad", "nats_away", "the system account is away")])
def test_a_login_of_another_account_is_told(plain: Rig, wrong: str, code: str, told: str) -> None:
    broker = plain.make_broker(wrong, plugin("conns", "conns"))
    path = plain.site.nats.folder / f"{wrong}.creds"
    if wrong == "bad":  # of other keys
        other = plain.site.folder / "other"
        plain.site.cli("nats-config", "--dir", str(other))
        path = other / "system.creds"
    broker.config["nats"]["system_creds"] = str(path)
    broker.start()
    wait_until(lambda: link(broker)["code"] == code, 10, "the fault to be told")
    assert link(broker)["state"] == "degraded" and told in link(broker)["text"], link(broker)
    assert broker.get("/readyz")[0] == 200
    assert broker.stop() == 0


def test_each_lane_sees_its_own_tenants(plain: Rig) -> None:
    broker = plain.make_broker("lanes", plugin("conns", "conns", lanes=2))
    tenants = ["acme", "zeta", *(f"t{i}" for i in range(6))]
    for tenant in tenants[2:]:
        plain.site.cli("tenant", "add", tenant)
    broker.start()
    askers = {tenant: plain.client(tenant, "asker") for tenant in tenants}

    def ask(tenant: str, verb: str) -> list[Row]:
        return list(json.loads(askers[tenant].request(f"{ROOT_TOKEN}.{tenant}.rpc.asker.conns.{verb}", b"{}", timeout=30).data)["rows"])

    def lanes(verb: str) -> set[frozenset[str]]:
        """The tenants that each lane shows, where each tenant's request goes to its lane."""
        shown = {tenant: frozenset(row["tenant"] for row in ask(tenant, verb) if row["kind"] == CONNECT) for tenant in tenants}
        return set(shown.values()) if all(tenant in seen for tenant, seen in shown.items()) else set()

    for verb in ("seen", "list"):
        found = wait_until(lambda verb=verb: lanes(verb), 10, f"every lane to show its tenants ({verb})")
        assert len(found) == 2 and sorted(sum(map(list, found), [])) == sorted(tenants), (verb, found)
    assert broker.stop() == 0


def doctor(rig: Rig, broker: Musterd) -> dict[str, str]:
    """What it says that is not ok: level by code."""
    broker.config_path.write_text(json.dumps(broker.config))
    report = json.loads(run_cli(["-c", str(broker.config_path), "doctor", "--json"], {}, check=False).stdout)
    return {check["code"]: check["level"] for check in report["checks"] if check["level"] != "ok" and check["code"]}


def test_doctor_says_what_following_connections_lacks(plain: Rig) -> None:
    broker = plain.make_broker("doctor", plugin("conns", "conns"))
    assert "system_missing" not in doctor(plain, broker)
    del broker.config["nats"]["system_creds"]
    assert doctor(plain, broker)["system_missing"] == "hint"


def test_doctor_says_when_names_can_be_forged() -> None:
    """A configuration as it was written before: without a key that nobody has, a server tells whatever name a client makes up."""
    rig = Rig(True, SERVERS[0])
    try:
        assert "names_forgeable" not in doctor(rig, rig.broker)
        rig.site.nats.stop()
        rig.site.nats.config.write_text(re.sub(r"  NOBODY: .*\n", "", rig.site.nats.config.read_text()))
        rig.site.nats.start()
        assert doctor(rig, rig.broker)["names_forgeable"] == "hint"
        link, answer = rig.raw(**rig.login("acme", "thief"), nkey="acme.victim")
        assert answer == b"PONG\r\n", "a server that does not let it in needs no key"
        link.close()
    finally:
        rig.close()


# ---- several servers -----------------------------------------------------------------------------------------------------------


OLD = "muster_old_conns_seen_total"


class Second(Server):
    """A further server of the cluster, without JetStream; it reads the accounts of the first."""

    def __init__(self, first: Nats) -> None:
        super().__init__("second", first.folder)
        self.port, routes = free_port(), [free_port(), free_port()]
        text = re.sub(r"listen: .*", f'listen: "127.0.0.1:{self.port}"', first.config.read_text())
        text = re.sub(r"jetstream: \{store_dir.*", "", text).replace('include "local.conf"', self._cluster("second", routes[1], routes[0]))
        self.program, self.config = first.program, first.folder / "second.conf"
        self.config.write_text(text)
        (first.folder / "local.conf").write_text(self._cluster("first", routes[0], routes[1]))

    @staticmethod
    def _cluster(name: str, own: int, other: int) -> str:
        return (f'server_name: {name}\ncluster: {{name: pair, listen: "127.0.0.1:{own}", '
                f'routes: ["nats://127.0.0.1:{other}"]}}\n')

    def start(self) -> None:
        self.spawn([self.program, "-c", str(self.config)])
        wait_until(lambda: "Server is ready" in self.log(), 10, "the second server")


@pytest.fixture(scope="module")
def pair() -> Generator[tuple[Rig, Second], None, None]:
    """Two servers in a cluster; the broker knows the first. Beside conns one that was built with the header of before."""
    rig = Rig(True, SERVERS[0], plugin("old_conns", "old"))
    second = Second(rig.site.nats)
    try:
        rig.site.nats.stop()
        rig.site.nats.start()
        second.start()
        wait_until(lambda: "Route connection created" in second.log(), 20, f"the route\n{second.log()}\n{rig.site.nats.log()}")
        rig.broker.start(ready=False)  # its streams may not come: half of the cluster has no JetStream
        rig.asker = rig.client("acme", "asker")
        second.signal(signal.SIGHUP)
        wait_until(lambda: link(rig.broker)["state"] == "ok", 20, "the link")
        yield rig, second
        assert rig.broker.stop() == 0, rig.broker.log()[-3000:]
    except AssertionError:
        print(rig.broker.log()[-6000:], file=sys.stderr)
        raise
    finally:
        second.kill()
        rig.close()


def test_clients_of_every_server_of_a_cluster_are_seen(pair: tuple[Rig, Second]) -> None:
    rig, second = pair
    rig.login("acme", "afar")
    second.signal(signal.SIGHUP)
    time.sleep(0.5)
    start = rig.mark()
    afar = rig.client("acme", "afar", port=second.port)
    here = rig.client("acme", "here")
    assert ids(afar)[0] != ids(here)[0]
    for client in (afar, here):
        rig.await_event(start, "the connect", lambda row, who=ids(client): (row["server"], row["client"]) == who)  # type: ignore[misc]
    answer = rig.ask("list")
    assert answer["code"] == 0 and {ids(afar), ids(here)} <= {(row["server"], row["client"]) for row in answer["rows"]}
    rig.end(afar)
    assert rig.await_end(start, ids(afar)[1])["server"] == ids(afar)[0]


def test_a_server_that_does_not_answer_ends_the_listing_after_the_others(pair: tuple[Rig, Second]) -> None:
    rig, second = pair
    time.sleep(3)  # both have answered the broker's own pings
    gaps = rig.broker.metric(OLD, 'kind="gap"')
    start = rig.mark()
    second.pause()
    time.sleep(0.2)  # a signal takes a moment to stop every thread
    try:
        began = time.monotonic()
        answer = rig.ask("list")
        assert answer["code"] == ETIME and "asker" in [row["agent"] for row in answer["rows"]]
        assert 1.9 < time.monotonic() - began < 4
        lost = rig.await_event(start, "the loss", lambda row: bool(row["kind"] == SERVER_LOST), 8)
        assert lost["tenant"] == lost["agent"] == "(null)" and lost["client"] == 0
        wait_until(lambda: rig.broker.metric(OLD, 'kind="gap"') == gaps + 1, 5, "the gap of who does not know the word")
        start = rig.mark()
    finally:
        second.resume()
    assert wait_until(lambda: rig.ask("list")["code"] == 0, 20, "both to answer")
    assert rig.await_event(start, "it to be back", lambda row: bool(row["kind"] == SERVER_BACK), 8)["server"] == lost["server"]
    wait_until(lambda: rig.broker.metric(OLD, 'kind="gap"') == gaps + 2, 5, "the second gap of who does not know the word")
    assert rig.broker.metric(OLD, 'kind="server_lost"') == 0 and not [row for row in rig.events(start) if row["kind"] == GAP]


def test_a_server_that_dies_with_its_clients_is_told(pair: tuple[Rig, Second]) -> None:
    """Also to a broker whose own links were there, and are at another server when the loss is noticed."""
    rig, second = pair
    rig.login("acme", "lost")
    second.signal(signal.SIGHUP)
    time.sleep(0.5)
    lost = rig.client("acme", "lost", port=second.port)
    wait_until(lambda: ids(lost)[1] in [row["client"] for row in rig.ask("list")["rows"]], 10, "it to be listed")
    start = rig.mark()
    mover, way = rig.make_broker("mover", plugin("conns", "conns")), Proxy(second.port)
    mover.config["nats"]["urls"] = [f"nats://127.0.0.1:{way.port}"]
    mover.start(ready=False)  # as long as it runs it may answer in place of the first
    wait_until(lambda: mover.get("/readyz")[1].startswith("{") and link(mover)["state"] == "ok", 20, "the link")
    time.sleep(3)
    second.kill()
    way.turn_to(rig.site.nats.port)
    wait_until(lambda: mover.metric("muster_conns_seen_total", 'kind="server_lost"') == 1, 20, "the one that has moved to tell it")
    assert mover.metric("muster_bus_reconnects_total", 'link="system"') == 1
    assert mover.stop() == 0, mover.log()[-3000:]
    way.close()
    assert rig.await_event(start, "the loss", lambda row: bool(row["kind"] == SERVER_LOST), 8)["server"] == ids(lost)[0]
    assert not [row for row in rig.events(start) if row["kind"] == DISCONNECT], "somebody told it after all"
    assert ids(lost)[0] not in [row["server"] for row in rig.ask("list")["rows"]]  # the client itself may be at the other server by now


def test_a_server_that_is_stopped_says_so_at_once(pair: tuple[Rig, Second]) -> None:
    """After the tests before it is another one, with an id of its own; what its clients were nobody tells."""
    rig, second = pair
    second.start()
    wait_until(lambda: second.log().count("Route connection created") >= 1, 20, "the route")
    leaving = rig.client("acme", "lost", port=second.port)
    wait_until(lambda: ids(leaving)[1] in [row["client"] for row in rig.ask("list")["rows"]], 10, "it to be listed")
    start = rig.mark()
    second.stop()
    assert rig.await_event(start, "the loss", lambda row: bool(row["kind"] == SERVER_LOST), 2)["server"] == ids(leaving)[0]
