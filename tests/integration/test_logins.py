"""Logins with tokens (auth callout) through the plugin `logins`, which lets in whoever says who he is, in operator mode and with passwords.

nats-server 2.10 and newer asks; the older one that distributions have does not, and must be served all the same.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Generator
from typing import Any

import nats
import pytest

from client import Client
from harness import LONG, ROOT_TOKEN, nats_program, nats_release, nats_versions, run_cli, wait_until
from loginrig import COMPLAINTS, FORMS, VIOLATION, Rig
from pluginrig import plugin

RELOADED = "Reloaded server configuration"


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: f"{form[0]}-{'static' if form[1] else 'operator'}")
def rig(request: pytest.FixtureRequest) -> Generator[Rig, None, None]:
    version, static = request.param
    rig = Rig(nats_program(version), static)
    broker = rig.broker()
    broker.config["broker"]["log"]["level"] = "debug"
    failed_before = request.session.testsfailed
    try:
        broker.start()
        yield rig
        rig.end_clients()
        assert broker.stop() == 0, broker.log()[-3000:]
        assert not any(word in broker.log() for word in COMPLAINTS), broker.log()[-5000:]
    finally:
        if request.session.testsfailed > failed_before:
            print(broker.log()[-6000:], rig.site.nats.log()[-3000:], file=sys.stderr)
        rig.close()


@pytest.fixture(autouse=True)
def leave_nobody_connected(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    yield
    if "rig" in request.fixturenames:
        request.getfixturevalue("rig").end_clients()


def counted(rig: Rig, reason: str) -> float:
    return rig.site.brokers[0].metric("muster_logins_refused_total", f'reason="{reason}"')


def test_who_is_let_in_has_the_permissions_of_its_role_and_no_more(rig: Rig) -> None:
    a, b, observer = rig.client("acme.in1"), rig.client("acme.in2"), rig.client("acme.in3.observer")
    assert rig.row("acme", "in1") == ("agent", None, True) and rig.row("acme", "in3") == ("observer", None, True)
    heard = b.subscribe(f"{ROOT_TOKEN}.acme.to.in2.>")
    a.publish(f"{ROOT_TOKEN}.acme.to.in2.in1.hi", b"1")
    wait_until(lambda: heard.messages, 5, "the message of another agent")
    secret = rig.insider("broker").subscribe(">")
    for client, subject in ((a, f"{ROOT_TOKEN}.acme.to.in2.in3.hi"), (a, f"{ROOT_TOKEN}.zeta.to.x.in1.hi"), (a, f"{ROOT_TOKEN}._in.acme.evt.x"),
                            (a, "$JS.API.STREAM.LIST"), (a, "$SYS.REQ.USER.AUTH"), (observer, f"{ROOT_TOKEN}.acme.to.in2.in3.hi")):
        client.errors.clear()
        client.publish(subject, b"no")
        wait_until(lambda client=client: any("permissions violation" in e for e in client.errors), 5, f"the refusal of {subject}")
    for subject in (f"{ROOT_TOKEN}.zeta.>", f"{ROOT_TOKEN}.acme.to.in2.>", f"{ROOT_TOKEN}.acme.rpc.>", ">", f"{ROOT_TOKEN}.*.evt.>"):
        a.errors.clear()
        a.subscribe(subject)
        wait_until(lambda: any("permissions violation" in e for e in a.errors), 5, f"the refusal of {subject}")
    assert not [m for m in secret.messages if m.data == b"no"]


def test_a_client_that_names_itself_otherwise_is_who_its_token_says(rig: Rig) -> None:
    options: dict[str, Any] = {"name": "zeta.boss"}
    client = rig.client("acme.named", **options)
    listed = json.loads(rig.insider("system").request(
        "$SYS.REQ.SERVER.PING.CONNZ", json.dumps({"auth": True, "limit": 1024}).encode()).data)["data"]["connections"]
    assert [c["authorized_user"] for c in listed if c.get("name") == "zeta.boss"] == ["acme.named"]
    asked = json.loads(client.request(f"{ROOT_TOKEN}.acme.rpc.named.conns.list", b"{}").data)
    assert ("acme", "named") in {(row["tenant"], row["agent"]) for row in asked["rows"]}


@pytest.mark.parametrize("token,reason", [
    ("refuse.no_luck", "no_luck"), ("refuse.No-Word", "bad_code"), ("nobody", "no_token"), ("", "no_token"),
    ("nope.a1", "unknown_tenant"), ("acme._op_x", "bad_token"), ("_in.a1", "bad_token"), ("acme.a*", "bad_token"), ("acme.>", "bad_token"),
    ("acme.a b", "bad_token"), ("acme." + "a" * 65, "bad_token"), ("acme.ä", "bad_token"), ("acme.a1\r\nPUB x 1\r\n", "bad_token"),
    ("acme.x.operator", "bad_token"), ("acme.x.plugin", "bad_token"), ("acme.x.king", "bad_token"), ("acme.x.agent.-1000", "bad_token")])
def test_who_cannot_be_anybody_is_refused_at_once_and_counted(rig: Rig, token: str, reason: str) -> None:
    before, rows = counted(rig, reason), rig.site.postgres.query("SELECT count(*) FROM muster.credentials")
    assert rig.refused(token) < 5
    assert counted(rig, reason) == before + 1
    assert rig.site.postgres.query("SELECT count(*) FROM muster.credentials") == rows


def test_a_name_keeps_its_role_and_whoever_was_revoked_stays_out(rig: Rig) -> None:
    rig.client("acme.roled.observer")
    rig.refused("acme.roled.admin")
    assert rig.row("acme", "roled") == ("observer", None, True)
    assert "the token says role admin, the name has role observer already" in rig.site.brokers[0].log()
    assert rig.client("zeta.roled.admin").connected
    rig.site.postgres.query("UPDATE muster.credentials SET revoked_at = now() WHERE tenant = 'acme' AND agent = 'roled'")
    before = counted(rig, "revoked")
    rig.refused("acme.roled.observer")
    assert counted(rig, "revoked") == before + 1
    rig.site.postgres.query("UPDATE muster.credentials SET expires_at = now() - interval '1 s' WHERE tenant = 'zeta' AND agent = 'roled'")
    rig.refused("zeta.roled.admin")
    assert counted(rig, "expired") >= 1


def test_a_name_that_is_revoked_is_cut(rig: Rig) -> None:
    """No file of the server says anything of it: the row alone."""
    gone, stays = rig.client("acme.cut"), rig.client("acme.uncut")
    rig.site.postgres.query("UPDATE muster.credentials SET revoked_at = now() WHERE tenant = 'acme' AND agent = 'cut'")
    wait_until(lambda: not gone.connected, 1.5, "the brokers to cut the connection")
    rig.refused("acme.cut")
    assert stays.connected


def test_who_has_an_old_token_is_cut_and_comes_back_with_the_new_one(rig: Rig) -> None:
    old = rig.client("acme.turned")
    rig.site.postgres.query("UPDATE muster.credentials SET public_key = 'U' || repeat('A', 55) WHERE tenant = 'acme' AND agent = 'turned'")
    wait_until(lambda: not old.connected, 1.5, "the brokers to cut the connection")
    new = rig.client("acme.turned")
    time.sleep(1.2)  # longer than they take to look
    assert new.connected


def test_a_narrowed_name_is_as_narrow_with_a_token(rig: Rig) -> None:
    rig.site.postgres.query("INSERT INTO muster.credentials (tenant, agent, role, groups, tables)"
                            " VALUES ('acme', 'thin', 'agent', '{red}', '{public.orders}')")
    client = rig.client("acme.thin.agent")
    for subject in ("grp.red.>", "log.grp.red.>", "cdc.*.public.orders.>", "all.>"):
        client.subscribe(f"mst.acme.{subject}")
    assert not client.errors
    for n, subject in enumerate(("grp.>", "grp.blue.>", "log.grp.>", "cdc.>", "cdc.main.public.users.>")):
        client.subscribe(f"mst.acme.{subject}")
        wait_until(lambda n=n: len(client.errors) == n + 1, 5, f"{subject} to be refused")


def test_a_name_that_may_less_than_its_role_may_no_more_with_a_token(rig: Rig) -> None:
    rig.site.postgres.query("INSERT INTO muster.credentials (tenant, agent, role, groups, expires_at)"
                            " VALUES ('acme', 'narrow', 'agent', '{red,green}', 'infinity') ON CONFLICT DO NOTHING")
    client = rig.client("acme.narrow")
    heard = client.subscribe(f"{ROOT_TOKEN}.acme.grp.red.>")
    client.publish(f"{ROOT_TOKEN}.acme.grp.red.narrow.x", b"1")
    wait_until(lambda: heard.messages, 5, "its own group")
    client.subscribe(f"{ROOT_TOKEN}.acme.grp.blue.>")
    wait_until(lambda: any("permissions violation" in error for error in client.errors), 5, "the refusal of another group")


def test_a_connection_ends_with_its_token(rig: Rig) -> None:
    client = rig.client("acme.brief.agent.3000")
    assert client.connected
    wait_until(lambda: not client.connected, 8, "the server to cut the connection")
    rig.site.postgres.query("UPDATE muster.credentials SET expires_at = now() + interval '3 s' WHERE agent = 'brief'")
    sooner = rig.client("acme.brief.agent.600000")
    wait_until(lambda: not sooner.connected, 8, "the end that the name has")


def test_creds_work_as_before_and_passwords_are_not_given_any_more(rig: Rig) -> None:
    if rig.static:
        refused = rig.site.cli("agent", "add", "acme", "old", check=False)
        assert refused.returncode == 2 and "give --token" in refused.stderr and rig.row("acme", "old") is None
        client = rig.client("acme.bare", user="zeta.boss", password="acme.bare")  # what is no token may come as a password
        assert client.connected and not rig.site.nats.log().count("Failed to reload")
        rig.site.nats.signal(signal.SIGHUP)
        wait_until(lambda: RELOADED in rig.site.nats.log(), 10, "nats-server to have read its configuration")
        return
    admitted = rig.site.brokers[0].metric("muster_logins_admitted_total")
    client = Client(rig.site.nats.url, tenant="acme", agent="old", creds=rig.site.agent("acme", "old"))
    rig.clients.append(client)
    kept = client.subscribe(f"{ROOT_TOKEN}.acme.to.old.>")
    client.publish(f"{ROOT_TOKEN}.acme.to.old.old.x", b"1")
    wait_until(lambda: kept.messages, 5, "its own message")
    assert rig.site.brokers[0].metric("muster_logins_admitted_total") == admitted
    rig.refused("acme.old.admin")  # the name is taken, by whatever it logs in


def test_the_sentinel_alone_opens_nothing(rig: Rig) -> None:
    if rig.static:
        assert rig.refused("") < 5
        return
    with pytest.raises(Exception, match=VIOLATION):
        Client(rig.site.nats.url, creds=rig.folder / "sentinel.creds", allow_reconnect=False)


def test_a_connection_holds_no_more_subscriptions_than_the_limit(rig: Rig) -> None:
    clients = [rig.client("acme.many"), rig.client("zeta.many")]

    async def open_many(client: Client, n: int) -> None:
        for i in range(n):
            await client._nc.subscribe(f"{ROOT_TOKEN}.acme.to.many.{i}" if client is clients[0] else f"{ROOT_TOKEN}.zeta.to.many.{i}")
        await client._nc.flush()

    for client in clients:  # each its own 500
        client._run(open_many(client, 450))
    assert all(client.connected for client in clients)
    with pytest.raises(Exception):
        clients[0]._run(open_many(clients[0], 3000))
    assert clients[1].connected
    assert rig.client("acme.many").connected


def test_an_answer_may_come_later_and_one_that_comes_too_late_is_over(rig: Rig) -> None:
    assert rig.client("late.300.acme.later").connected
    broker = rig.site.brokers[0]
    late = broker.metric("muster_logins_unanswered_total", 'reason="late"')
    assert rig.unanswered("never") >= 2
    wait_until(lambda: broker.metric("muster_logins_unanswered_total", 'reason="late"') == late + 1, 15, "the login to be given up")
    assert broker.metric("muster_login_seconds_count") > 0


def test_an_admission_of_a_smaller_struct_is_not_read_beyond_its_size(rig: Rig) -> None:
    rig.refused("short")
    assert "a short admit gave -1" in rig.site.brokers[0].log()


def test_connects_and_ends_are_told_as_with_creds(rig: Rig) -> None:
    asker = rig.client("acme.asker")

    def events() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            answer = json.loads(asker.request(f"{ROOT_TOKEN}.acme.rpc.asker.conns.seen", json.dumps({"from": len(found)}).encode()).data)
            found += answer["rows"]
            if len(found) >= answer["n"]:
                return found

    client = rig.client("acme.told")
    number = client._nc.client_id
    wait_until(lambda: [e for e in events() if e["kind"] == 1 and e["client"] == number and e["agent"] == "told"], 5, "the connect")
    server = client._nc._server_info["server_id"]
    answer = asker.request(f"{ROOT_TOKEN}.acme.rpc.asker.conns.kick", json.dumps({"server": server, "client": number}).encode())
    assert json.loads(answer.data).get("code", 0) == 0, answer.data
    wait_until(lambda: [e for e in events() if e["kind"] == 2 and e["client"] == number and e["tenant"] == "acme"], 5, "the end")
    wait_until(lambda: not client.connected, 5, "the cut")


def test_no_token_is_in_any_log(rig: Rig) -> None:
    for token in ("Tr0ub4dor", "acme.x y.Tr0ub4dor", "refuse.Tr0ub4dor"):
        rig.refused(token)
    assert "Tr0ub4dor" not in rig.site.brokers[0].log() and "Tr0ub4dor" not in rig.site.nats.log()


# ---- several brokers ---------------------------------------------------------------------------------------------------------------


NEWEST = nats_versions()[-1]


@pytest.fixture
def plain() -> Generator[Rig, None, None]:
    rig = Rig(nats_program(NEWEST))
    try:
        yield rig
        for broker in rig.site.brokers:
            assert not any(word in broker.log() for word in COMPLAINTS), broker.log()[-5000:]
    finally:
        rig.close()


async def _log_in(url: str, creds: str, token: str, deadline: float, tries: list[int]) -> float:
    """Seconds until it was in, trying again like any client that reconnects."""
    begun = time.monotonic()
    while True:
        tries[0] += 1
        try:
            nc = await nats.connect(url, user_credentials=creds, token=token, allow_reconnect=False, connect_timeout=15)
            await nc.flush()  # nats-py takes the end of a connection for its begin
            await nc.close()
            return time.monotonic() - begun
        except Exception:
            if time.monotonic() - begun > deadline:
                raise
            await asyncio.sleep(0.2)


def burst(rig: Rig, n: int, deadline: float = 60) -> tuple[list[float], int]:
    tries = [0]

    async def run() -> list[float]:
        return list(await asyncio.gather(*(_log_in(rig.site.nats.url, rig.beside["user_credentials"], f"acme.b{i}", deadline, tries)
                                           for i in range(n))))

    return asyncio.run(run()), tries[0]


def test_a_broker_killed_in_a_burst_costs_tries_and_no_refusals(plain: Rig) -> None:
    n = 2000 if LONG else 400
    brokers = [plain.broker(f"b{i}", plugin("logins", "logins", lanes=2)) for i in range(3)]
    for broker in brokers:
        broker.start()
    timer = threading.Timer(0.3, brokers[0].kill)
    timer.start()
    took, tries = burst(plain, n)
    timer.join()
    assert len(took) == n and not brokers[0].alive
    assert plain.site.postgres.query("SELECT count(*) FROM muster.credentials WHERE agent LIKE 'b%'") == [(n,)]
    shares = [broker.metric("muster_logins_admitted_total") for broker in brokers[1:]]
    assert all(share > 0 for share in shares) and sum(shares) <= tries
    assert sum(broker.metric("muster_logins_refused_total") for broker in brokers[1:]) == 0
    for broker in brokers[1:]:
        assert broker.stop() == 0, broker.log()[-3000:]


def test_a_broker_that_stops_politely_loses_no_login(plain: Rig) -> None:
    brokers = [plain.broker(f"b{i}", plugin("logins", "logins")) for i in range(2)]
    for broker in brokers:
        broker.start()
    timer = threading.Timer(0.3, lambda: brokers[0].signal(signal.SIGTERM))
    timer.start()
    took, tries = burst(plain, 300)
    timer.join()
    wait_until(lambda: not brokers[0].alive, 20, "the broker to end")
    assert len(took) == 300 and tries <= 330
    assert brokers[1].stop() == 0


def test_while_the_database_is_away_logins_are_not_refused_and_come_back_with_it(plain: Rig) -> None:
    broker = plain.broker("musterd", plugin("logins", "logins"))
    broker.start()
    assert plain.client("acme.before").connected
    plain.site.postgres.kill()
    assert plain.unanswered("acme.meanwhile") < 15
    assert broker.metric("muster_logins_refused_total") == 0
    assert broker.metric("muster_logins_unanswered_total", 'reason="database_away"') >= 1
    plain.site.postgres.start()
    wait_until(lambda: _comes_in(plain, "acme.meanwhile"), 30, "logins to work again")
    assert broker.stop() == 0


def test_who_was_revoked_while_no_broker_heard_it_is_cut_afterwards(plain: Rig) -> None:
    """Names that only listen: no broker has had a reason to ask for them."""
    broker = plain.broker()
    broker.start()
    stays, first, second, third = (plain.client(f"acme.{name}") for name in ("stays", "first", "second", "third"))
    query = plain.site.postgres.query
    query("ALTER ROLE muster_broker NOLOGIN")
    query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'muster_broker'")
    wait_until(lambda: broker.get("/readyz")[0] != 200, 10, "the broker to notice")
    query("UPDATE muster.credentials SET revoked_at = now() WHERE agent = 'first'")
    query("DELETE FROM muster.credentials WHERE agent = 'second'")
    query("ALTER ROLE muster_broker LOGIN")
    wait_until(lambda: not first.connected and not second.connected, 15, "the connections to be cut")
    assert broker.stop() == 0
    query("UPDATE muster.credentials SET revoked_at = now() WHERE agent = 'third'")
    broker.start()
    wait_until(lambda: not third.connected, 5, "the connection to be cut")
    assert stays.connected and broker.stop() == 0


def _comes_in(rig: Rig, token: str) -> bool:
    try:
        return rig.client(token).connected
    except Exception:
        return False


def test_nobody_can_ask_in_a_servers_place(rig: Rig) -> None:
    """The servers let no client publish where they ask, not even a broker; what a broker does with bytes of others tests/fuzz tries."""
    insider, before = rig.insider("callout"), rig.site.brokers[0].metric("muster_bus_received_messages_total", 'link="callout"')
    answers = insider.subscribe("_FORGED.>")
    insider.publish("$SYS.REQ.USER.AUTH", b"a.b.c", reply="_FORGED.1")
    wait_until(lambda: any("permissions violation" in error for error in insider.errors), 5, "the refusal")
    assert rig.site.brokers[0].metric("muster_bus_received_messages_total", 'link="callout"') == before and not answers.messages


@pytest.mark.skipif(nats_release(nats_program()) >= (2, 10), reason="the installed nats-server asks")
def test_an_older_server_is_served_and_asks_nobody() -> None:
    rig = Rig(nats_program())
    try:
        broker = rig.broker("musterd", plugin("logins", "logins"))
        broker.start()
        parts = {(part["kind"], part["name"]): part for part in json.loads(broker.get("/readyz")[1])["components"]}
        assert (parts["link", "callout"]["state"], parts["link", "callout"]["code"]) == ("degraded", "server_too_old")
        assert "asks nobody who may log in" in broker.log()
        client = Client(rig.site.nats.url, tenant="acme", agent="a1", creds=rig.site.agent("acme", "a1"))
        rig.clients.append(client)
        heard = client.subscribe(f"{ROOT_TOKEN}.acme.all.>")
        client.publish(f"{ROOT_TOKEN}.acme.all.a1.hi", b"1")
        wait_until(lambda: heard.messages, 5, "creds to work")
        stranger = Client(rig.site.nats.url, token="acme.a2", allow_reconnect=False, **rig.beside)  # into the account that is asked
        rig.clients.append(stranger)
        stranger.publish(f"{ROOT_TOKEN}.acme.all.a2.hi", b"2")
        wait_until(lambda: any("permissions violation" in error for error in stranger.errors), 5, "the sentinel to be refused everything")
        assert len(heard.messages) == 1 and broker.metric("muster_logins_admitted_total") == 0
        assert broker.stop() == 0
    finally:
        rig.close()


# ---- what is missing, and said -----------------------------------------------------------------------------------------------------


def test_without_its_login_the_plugin_does_not_start_and_doctor_says_why(plain: Rig) -> None:
    broker = plain.broker("musterd", plugin("logins", "logins"))
    for wrong, told in (({"callout_creds": None, "callout_key_file": None}, "needs nats.callout_creds (or nats.callout_user"),
                        ({"callout_key_file": str(plain.folder / "broker.creds")}, "nats.callout_key_file: "),
                        ({"callout_creds": str(plain.folder / "callout.nk")}, "nats.callout_creds: "),
                        ({"callout_creds": "/nowhere"}, "expected credentials of operator mode")):
        broker.config["nats"] = {k: v for k, v in (plain.nats_section() | wrong).items() if v}
        broker.start(ready=False)
        wait_until(lambda: not broker.alive, 20, "the broker to give up")
        assert told in broker.log(), broker.log()[-1500:]
    broker.config["nats"] = {k: v for k, v in plain.nats_section().items() if not k.startswith("callout")}
    broker.config_path.write_text(json.dumps(broker.config))
    report = json.loads(run_cli(["-c", str(broker.config_path), "doctor", "--json"], {}, check=False).stdout)
    assert "callout_missing" in {check["code"] for check in report["checks"]}
    assert re.search(r"SA[A-Z2-7]{56}", broker.log()) is None


def test_a_key_beside_no_login_is_refused_by_the_check(plain: Rig) -> None:
    broker = plain.broker("musterd", plugin("logins", "logins"))
    del broker.config["nats"]["callout_key_file"]
    broker.start(ready=False)
    wait_until(lambda: not broker.alive, 10, "the broker to give up")
    assert "nats.callout_creds: needs nats.callout_key_file beside it" in broker.log()


def test_in_a_child_no_plugin_may_let_anybody_in(plain: Rig) -> None:
    broker = plain.broker("musterd", {**plugin("logins", "logins"), "isolation": "process"})
    broker.start(ready=False)
    wait_until(lambda: not broker.alive, 20, "the broker to give up")
    assert "asks for the capability login, which a plugin in the broker alone may have" in broker.log()


@pytest.mark.parametrize("version", nats_versions())
def test_operators_of_the_static_form_enter_by_password_after_a_restart(version: str) -> None:
    rig = Rig(nats_program(version), True, callout=False)
    nats = rig.site.nats
    try:
        rig.site.cli("agent", "add", "acme", "before", "--out", str(rig.folder / "before.pass"))
        run_cli(["nats-config", "--dir", str(rig.folder), "--callout"], {})
        nats.stop()
        nats.start()
        broker = rig.broker()
        broker.start()
        assert Client(nats.url, tenant="acme", agent="before", **password(rig, "before")).connected, "who had a password keeps it"
        said = rig.site.cli("agent", "add", "acme", "ops", "--role", "operator", "--out", str(rig.folder / "ops.pass")).stderr
        assert said.count("restart nats-server") == 1 and "SIGHUP" not in said
        assert rig.site.cli("agent", "add", "acme", "old", check=False).returncode == 2
        nats.stop()
        nats.start()
        broker.wait_ready()
        operator = Client(nats.url, tenant="acme", agent="_op_ops", **password(rig, "ops"))
        heard = operator.subscribe(f"{ROOT_TOKEN}.zeta.evt.>")
        rig.insider("broker").publish(f"{ROOT_TOKEN}.zeta.evt.x", b"1")
        wait_until(lambda: heard.messages, 5, "what every tenant is told")
        assert rig.client("acme.token").connected
        admitted = broker.metric("muster_logins_admitted_total")
        rotated = rig.site.cli("agent", "rotate", "acme", "ops", "--out", str(rig.folder / "ops2.pass")).stderr
        assert "restart" not in rotated, "a new password of a known name takes a reload"
        nats.signal(signal.SIGHUP)
        wait_until(lambda: not operator.connected, 10, "the old password to be out of force")
        rotated_in = Client(nats.url, tenant="acme", agent="_op_ops", **password(rig, "ops", "ops2.pass"))
        wait_until(lambda: rotated_in.connected, 10, "the new password to be taken, also by a server that is still reading")
        rig.site.cli("agent", "revoke", "acme", "ops")
        run_cli(["nats-config", "--dir", str(rig.folder)], {})
        nats.signal(signal.SIGHUP)
        wait_until(lambda: nats.log().count("Reloaded server configuration") >= 2, 10, "the users to be read again")
        assert "Failed to reload" not in nats.log() and broker.metric("muster_logins_admitted_total") == admitted
        with pytest.raises(Exception, match=VIOLATION):
            Client(nats.url, tenant="acme", agent="_op_ops", allow_reconnect=False, **password(rig, "ops", "ops2.pass"))
    finally:
        rig.close()


def password(rig: Rig, agent: str, file: str = "") -> dict[str, str]:
    return {"user": f"acme.{agent}", "password": (rig.folder / (file or f"{agent}.pass")).read_text().strip()}


def test_the_callout_is_kept_by_later_runs_and_taken_back(plain: Rig) -> None:
    before = {path.name: path.read_text() for path in plain.folder.glob("*") if path.suffix in (".creds", ".nk")}
    run_cli(["nats-config", "--dir", str(plain.folder)], {})
    plain.site.cli("agent", "add", "acme", "x", "--out", str(plain.folder / "x.creds"))
    plain.site.cli("agent", "revoke", "acme", "x")
    after = {path.name: path.read_text() for path in plain.folder.glob("*") if path.name in before}
    assert before == after and (plain.folder / "accounts.conf").read_text().count(": eyJ") == 4
    assert oct((plain.folder / "callout.nk").stat().st_mode & 0o777) == "0o600"
    run_cli(["nats-config", "--dir", str(plain.folder), "--no-callout"], {})
    assert (plain.folder / "accounts.conf").read_text().count(": eyJ") == 3
    assert "authorization" not in (plain.folder / "nats-server.conf").read_text()
