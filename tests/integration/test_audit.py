"""Who did what: one record for each request that writes and each refusal of identity or permission, in the stream and in the log."""

from __future__ import annotations

import json
import os
import pwd
import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from client import Client
from harness import Site, wait_until
from pluginrig import echo, own_broker

Record = dict[str, Any]


class Rig:
    def __init__(self) -> None:
        self.site = Site().start("acme", "zeta")
        self.broker = own_broker(self.site, echo())
        self.broker.start()
        self.clients: list[Client] = []

    def client(self, tenant: str, name: str, role: str = "agent") -> Client:
        client = Client(self.site.nats.url, self.site.agent(tenant, name, role), tenant, name)
        self.clients.append(client)
        return client

    def insider(self, tenant: str = "", name: str = "") -> Client:
        """Speaks as anybody."""
        client = Client(self.site.nats.url, self.site.nats.folder / "broker.creds", tenant, name)
        self.clients.append(client)
        return client

    def ask(self, client: Client, tenant: str, name: str, verb: str, body: Any = None, raw: bytes | None = None) -> Any:
        data = raw if raw is not None else json.dumps(body or {}).encode()
        return json.loads(client.request(f"mst.{tenant}.rpc.{name}.{verb}", data).data)

    def stored(self, subject: str = "mst._in.*.audit.>") -> list[tuple[str, Record]]:
        return [(m.subject, json.loads(m.data)) for m in self.insider().read_stream("AUDIT", subject)]

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.broker.kill()
        self.site.close()


@pytest.fixture(scope="module")
def rig() -> Generator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def heard_of(heard: Any, **wanted: Any) -> list[Record]:
    records = [json.loads(m.data) for m in heard.messages]
    return [r for r in records if all(r.get(k) == v for k, v in wanted.items())]


def test_admin_and_operator_hear_who_wrote_what(rig: Rig) -> None:
    admin, operator = rig.client("acme", "boss", "admin"), rig.client("zeta", "root", "operator")
    mine, all_ = admin.subscribe("mst.acme.audit.>"), operator.subscribe("mst.*.audit.>")
    alice, zoe = rig.client("acme", "alice"), rig.client("zeta", "zoe")
    rig.ask(alice, "acme", "alice", "echo.say", {"text": "my secret is 4711"})
    rig.ask(zoe, "zeta", "zoe", "echo.say", {"text": "x"})
    wait_until(lambda: heard_of(mine, agent="alice") and heard_of(all_, agent="zoe"), 5, "the records to be heard")
    (record,) = heard_of(mine, agent="alice")
    assert record == {"at": record["at"], "tenant": "acme", "agent": "alice", "role": "agent", "service": "echo", "verb": "say",
                      "result": "ok", "broker": record["broker"]}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", record["at"])
    assert heard_of(all_, agent="alice") and not heard_of(mine, tenant="zeta")
    assert "mst.acme.audit.echo.say.alice" in [m.subject for m in mine.messages]
    assert not any(b"4711" in m.data for m in all_.messages) and "4711" not in rig.broker.log()
    assert re.search(r"info  audit: acme\.alice as agent echo\.say: ok", rig.broker.log())


def test_what_a_request_is_about_is_told(rig: Rig) -> None:
    """The field that the definition names, and no more of the body."""
    lena = rig.client("acme", "lena")
    rig.ask(lena, "acme", "lena", "echo.say", {"text": "mine", "how": "loud"})
    wait_until(lambda: rig.stored("mst._in.acme.audit.echo.say.lena"), 5, "the record")
    ((_, record),) = rig.stored("mst._in.acme.audit.echo.say.lena")
    assert record["object"] == "loud" and "mine" not in json.dumps(record)


def test_errors_are_told_by_their_code(rig: Rig) -> None:
    bert = rig.client("acme", "bert")
    assert rig.ask(bert, "acme", "bert", "echo.say", {"text": 7})["error"]["code"] == "invalid_argument"
    wait_until(lambda: [r for _, r in rig.stored("mst._in.acme.audit.echo.say.bert") if r["result"] == "invalid_argument"], 5,
               "the record of an error")


def test_a_refused_name_is_told(rig: Rig) -> None:
    rig.site.agent("acme", "carl")
    carl = rig.insider("acme", "carl")  # its own login is cut at once where servers can
    rig.site.postgres.query("UPDATE muster.credentials SET revoked_at = now() WHERE agent = 'carl'")
    wait_until(lambda: rig.ask(carl, "acme", "carl", "echo.say", {"text": "x"}).get("error", {}).get("code") == "unauthenticated", 5,
               "the broker to refuse")
    wait_until(lambda: [r for _, r in rig.stored("mst._in.acme.audit.echo.say.carl") if r["result"] == "unauthenticated"], 5,
               "the record of the refusal")


def test_a_refused_verb_is_told(rig: Rig) -> None:
    dora = rig.client("acme", "dora", "observer")
    assert rig.ask(dora, "acme", "dora", "echo.say", {"text": "x"})["error"]["code"] == "permission_denied"
    wait_until(lambda: rig.stored("mst._in.acme.audit.echo.say.dora"), 5, "the record of the refusal")
    ((_, record),) = rig.stored("mst._in.acme.audit.echo.say.dora")
    assert record["result"] == "permission_denied" and record["role"] == "observer"


def test_a_forged_reply_subject_is_told(rig: Rig) -> None:
    eve = rig.client("acme", "eve")
    eve.publish("mst.acme.rpc.eve.echo.say", b'{"text":"x"}', reply="mst.acme.box.alice.1")
    wait_until(lambda: [r for _, r in rig.stored("mst._in.acme.audit.echo.say.eve") if r["result"] == "permission_denied"], 5,
               "the record of the forgery")


def test_who_waits_for_no_answer_is_told_too(rig: Rig) -> None:
    fred = rig.client("acme", "fred")
    fred.publish("mst.acme.rpc.fred.echo.say", b'{"text":"x"}')
    wait_until(lambda: rig.stored("mst._in.acme.audit.echo.say.fred"), 5, "the record")


def test_refusals_of_one_name_do_not_drive_out_others(rig: Rig) -> None:
    gina, hugo = rig.client("acme", "gina", "observer"), rig.client("acme", "hugo")
    rig.ask(gina, "acme", "gina", "echo.say", {"text": "x"})  # what comes before a name is known waits, and is bounded there
    before = rig.broker.metric("muster_audited_dropped_total", 'reason="refusals"')
    gina.publish_many("mst.acme.rpc.gina.echo.say", 20000, b'{"text":"x"}')
    rig.ask(hugo, "acme", "hugo", "echo.say", {"text": "x"})
    wait_until(lambda: rig.stored("mst._in.acme.audit.echo.say.hugo"), 5, "the record of the other")
    wait_until(lambda: rig.broker.metric("muster_audited_dropped_total", 'reason="refusals"') > before + 1000, 20, "the flood to be read")
    assert len(rig.stored("mst._in.acme.audit.echo.say.gina")) < 300


@contextmanager
def full_stream(rig: Rig) -> Generator[None]:
    """The stream takes nothing meanwhile."""
    insider = rig.insider()
    config = json.loads(insider.request("$JS.API.STREAM.INFO.AUDIT").data)["config"]

    def update(**changes: Any) -> None:
        answer = json.loads(insider.request("$JS.API.STREAM.UPDATE.AUDIT", json.dumps(config | changes).encode()).data)
        assert "error" not in answer, answer

    update(max_msgs=1, discard="new")
    try:
        yield
    finally:
        update()


def test_writes_of_one_name_do_not_drive_out_others(rig: Rig) -> None:
    """While the stream takes nothing: who writes more than there is room for loses records of its own."""
    flood, zoe = rig.client("acme", "flood"), rig.client("zeta", "busyzoe")
    with full_stream(rig):
        for _ in range(100):
            for _ in range(100):
                flood.publish("mst.acme.rpc.flood.echo.say", b'{"text":"x"}')
            rig.ask(flood, "acme", "flood", "echo.say", {"text": "x"})  # so that no more than these wait
        wait_until(lambda: rig.broker.metric("muster_audited_dropped_total", 'reason="full"') > 0, 5, "the ring to be full")
        for _ in range(5):
            rig.ask(zoe, "zeta", "busyzoe", "echo.say", {"text": "x"})
    wait_until(lambda: len(rig.stored("mst._in.zeta.audit.echo.say.busyzoe")) == 5, 20, "the records of who shares the broker")


def test_who_is_refused_while_its_records_wait_is_still_recorded_later(rig: Rig) -> None:
    """How much of a name waits, and how often it was refused in this second, are two things."""
    rita = rig.client("acme", "rita")

    def stored() -> int:
        return len(rig.stored("mst._in.acme.audit.echo.say.rita"))

    with full_stream(rig):
        for _ in range(1500):
            rita.publish("mst.acme.rpc.rita.echo.say", b'{"text":"x"}')
        rig.ask(rita, "acme", "rita", "echo.say", {"text": "x"})
        rita.publish("mst.acme.rpc.rita.echo.say", b'{"text":"x"}', reply="mst.acme.box.alice.1")
        rig.ask(rita, "acme", "rita", "echo.say", {"text": "x"})
    wait_until(lambda: stored() == 1503, 20, "all that waited to be stored")
    rig.ask(rita, "acme", "rita", "echo.say", {"text": "x"})
    wait_until(lambda: stored() == 1504, 5, "what comes after to be stored")


def test_what_was_done_while_nats_was_away_is_stored_once(rig: Rig) -> None:
    """Nobody can ask then; but what was asked just before is not lost, and no record comes twice."""
    iris = rig.client("acme", "iris")
    for _ in range(200):
        iris.publish("mst.acme.rpc.iris.echo.say", b'{"text":"x"}')
    wait_until(lambda: rig.broker.log().count("acme.iris as agent echo.say") == 200, 10, "the broker to have done all")
    wait_until(lambda: len(rig.stored("mst._in.acme.audit.echo.say.iris")) == 200, 10, "all to be stored")
    rig.site.nats.kill()
    rig.site.nats.start()
    rig.broker.wait_ready()
    wait_until(lambda: iris.connected, 10, "the agent to be back")
    rig.ask(iris, "acme", "iris", "echo.say", {"text": "y"})
    wait_until(lambda: len(rig.stored("mst._in.acme.audit.echo.say.iris")) == 201, 10, "the record of after")


def test_agents_neither_hear_nor_forge_it(rig: Rig) -> None:
    jane = rig.client("acme", "jane")
    heard = jane.subscribe("mst.acme.audit.>")
    jane.publish("mst._in.acme.audit.echo.say.boss", b"{}")
    jane.publish("mst.acme.audit.echo.say.boss", b"{}")
    rig.ask(jane, "acme", "jane", "echo.say", {"text": "x"})
    wait_until(lambda: rig.stored("mst._in.acme.audit.echo.say.jane"), 5, "the record")
    assert not heard.messages and any("ermissions" in e for e in jane.errors)
    assert not rig.stored("mst._in.acme.audit.echo.say.boss")


def administered(rig: Rig, tenant: str) -> list[Record]:
    return sorted((r for _, r in rig.stored(f"mst._in.{tenant}.audit.*.*._muster")), key=lambda r: r["at"])


def test_administration_is_told(rig: Rig) -> None:
    """By the command line, with who ran it; and by plain SQL, with the role that did it."""
    user = pwd.getpwuid(os.getuid()).pw_name
    rig.site.cli("tenant", "add", "gamma")
    rig.site.cli("agent", "add", "gamma", "kate", "--out", f"{rig.site.folder}/kate.creds")
    rig.site.cli("agent", "rotate", "gamma", "kate", "--out", f"{rig.site.folder}/kate.creds")
    rig.site.cli("tenant", "limits", "gamma", "requests_per_s=100")
    rig.site.cli("agent", "revoke", "gamma", "kate")
    rig.site.postgres.query("DELETE FROM muster.credentials WHERE tenant = 'gamma' AND agent = 'kate'")
    rig.site.cli("tenant", "rm", "gamma")
    wait_until(lambda: len(administered(rig, "gamma")) >= 7, 10, "the records of administration")
    records = administered(rig, "gamma")
    assert [(r["service"], r["verb"], r["object"]) for r in records] == [
        ("tenant", "add", "gamma"), ("agent", "add", "kate"), ("agent", "rotate", "kate"), ("tenant", "limits", "gamma"),
        ("agent", "revoke", "kate"), ("agent", "remove", "kate"), ("tenant", "rm", "gamma")]
    assert [r.get("by") for r in records] == [user, user, user, user, user, None, user]
    assert all(r["database_role"] == "postgres" and r["agent"] == "_muster" and r["result"] == "ok" for r in records)
    wait_until(lambda: rig.site.postgres.query("SELECT count(*) FROM muster.audit") == [(0,)], 10, "the rows to be gone")
    assert f"audit: gamma._muster by {user} agent.revoke kate: ok" in rig.broker.log()


def test_administration_is_told_in_the_order_in_which_it_was_done(rig: Rig) -> None:
    names = [f"late{i}" for i in range(60)]
    with rig.site.postgres.connect() as connection:
        for name in names:
            connection.execute("INSERT INTO muster.tenants (name) VALUES (%s)", (name,))
    wait_until(lambda: rig.site.postgres.query("SELECT count(*) FROM muster.audit") == [(0,)], 20, "the rows to be taken")
    objects = [r["object"] for _, r in rig.stored("mst._in.*.audit.tenant.add._muster") if r["object"].startswith("late")]
    rig.site.postgres.query("DELETE FROM muster.tenants WHERE name LIKE 'late%'")
    assert objects == names


def test_two_brokers_store_each_record_once(rig: Rig) -> None:
    second = own_broker(rig.site)
    second.start()
    try:
        rig.site.postgres.query("INSERT INTO muster.tenants (name) SELECT 'many' || i FROM generate_series(1, 1500) AS i")
        wait_until(lambda: rig.site.postgres.query("SELECT count(*) FROM muster.audit") == [(0,)], 20, "the rows to be taken")
        objects = [r["object"] for _, r in rig.stored("mst._in.*.audit.tenant.add._muster") if r["object"].startswith("many")]
        assert len(objects) == 1500 == len(set(objects))
    finally:
        rig.site.postgres.query("DELETE FROM muster.tenants WHERE name LIKE 'many%'")
        second.kill()


def test_what_a_broker_had_claimed_is_not_lost_with_it(rig: Rig) -> None:
    rig.site.postgres.query("INSERT INTO muster.tenants (name) VALUES ('orphan')")
    rig.site.postgres.query("UPDATE muster.audit SET claimed_until = now() - interval '1 second'")
    wait_until(lambda: [r for r in administered(rig, "orphan") if r["verb"] == "add"], 10, "the record")


def test_nobody_but_the_triggers_writes_rows(rig: Rig) -> None:
    with psycopg.connect(rig.site.postgres.dsn("muster_broker")) as connection:
        for statement in ("INSERT INTO muster.audit (tenant, service, verb, object, login) VALUES ('acme', 'agent', 'add', 'x', 'y')",
                          "UPDATE muster.audit SET login = 'somebody'", "TRUNCATE muster.audit", "SELECT muster.audit_change()"):
            with pytest.raises(psycopg.Error):
                connection.execute(statement)
            connection.rollback()
    with psycopg.connect(rig.site.postgres.dsn("muster_app")) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM muster.audit")
