"""Who may speak, and ask for what: names, roles, narrowing, and what is told to whom."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest

from agent import Agent, unseen
from client import Client
from harness import Musterd, Site, wait_until
from pluginrig import installation, own_broker, plugin

COMPLAINTS = ("AddressSanitizer", "ThreadSanitizer", "runtime error:", "broken invariant")
ROLES = {"agent": 1, "observer": 2, "user": 3, "human": 4, "admin": 5, "operator": 6}
# What each role may of the verbs of tests/plugin/desk.c (broker/auth/access.h).
MAY = {
    "agent": {"look", "change", "mine", "buy"},
    "observer": {"look", "mine"},
    "user": {"mine", "buy"},
    "human": {"look", "change", "decide", "mine", "buy"},
    "admin": {"look", "change", "decide", "rule", "mine", "buy"},
    "operator": {"look", "change", "decide", "rule", "mine", "buy"},
}
NEEDS = {"look": "read", "change": "write", "decide": "human", "rule": "admin", "mine": "read", "buy": "write"}


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    with installation() as site:
        yield site


@contextmanager
def running(site: Site, **entry: object) -> Generator[Musterd, None, None]:
    broker = own_broker(site, plugin("desk", "desk", **entry))
    broker.start()
    wait_until(lambda: broker.get("/readyz")[0] == 200, 20, "the broker to be ready")
    try:
        yield broker
    finally:
        if broker.alive:
            assert broker.stop() == 0, broker.log()[-3000:]
        for complaint in COMPLAINTS:
            assert complaint not in broker.log(), broker.log()[-6000:]


@pytest.fixture
def broker(site: Site) -> Generator[Musterd, None, None]:
    with running(site) as broker:
        yield broker


@pytest.fixture
def mint(site: Site) -> Generator[Callable[..., Agent], None, None]:
    """mint("acme", "a1", "observer", "--verbs", "desk.look") makes a name and connects as it; each test has names of its own."""
    made: list[tuple[str, Agent]] = []

    def make(tenant: str, name: str, role: str = "agent", *options: str) -> Agent:
        path = site.folder / f"{tenant}-{name}-{time.monotonic_ns()}.creds"
        site.cli("agent", "add", tenant, name, "--role", role, "--out", str(path), *options)
        site._creds[tenant, name] = path
        made.append((tenant, Agent(site, tenant, name)))
        return made[-1][1]

    yield make
    for tenant, agent in made:
        agent.close()
        site.cli("agent", "revoke", tenant, agent.name, check=False)  # a test may have removed it


def refused(broker: Musterd, reason: str) -> float:
    return broker.metric("muster_refused_total", f'reason="{reason}"')


def code(agent: Agent, verb: str, service: str = "desk") -> str:
    answer = agent.ask(service, verb)
    return str(answer.error["code"]) if "error" in answer.body else ""


def until(agent: Agent, verb: str, expected: str, deadline: float = 5) -> None:
    def answered() -> bool:
        time.sleep(0.05)
        return code(agent, verb) == expected

    wait_until(answered, deadline, f"{verb} to answer {expected!r}")


# ---- roles ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_each_role_may_what_the_table_says(site: Site, mint: Callable[..., Agent], isolation: str) -> None:
    entry = {"isolation": isolation}
    if isolation == "process":
        entry["allow"] = {"subscribe": ["rpc.*.desk.>", "rpc.*.plain.>", "all.*.desk"]}
    with running(site, **entry) as broker:
        for role, number in ROLES.items():
            agent, before = mint("acme", f"{role}-{isolation}", role), refused(broker, "role")
            for verb in NEEDS:
                answer = agent.ask("desk", verb)
                if verb in MAY[role]:
                    assert answer.body["role"] == number and answer.body["agent"] == agent.name
                    continue
                assert answer.error["code"] == "permission_denied"
                assert f"role {role} may not ask for desk.{verb}: access is {NEEDS[verb]}" in answer.error["message"]
            assert refused(broker, "role") == before + len(NEEDS) - len(MAY[role])
            assert agent.ask("no", "such").error["code"] == "not_found", "there is no such verb, whoever asks"


def test_a_verb_that_every_broker_hears_is_refused_once(site: Site, broker: Musterd, mint: Callable[..., Agent]) -> None:
    watcher = mint("acme", "watcher", "observer")
    with running(site) as other:
        answers = watcher.client.subscribe(watcher.box("p"))
        for verb in ("look", "change", "change"):
            watcher.tell("plain", verb, reply=watcher.box("p"))
        wait_until(lambda: len(answers.messages) >= 4, 5, "two answers and two refusals")
        time.sleep(0.3)
        bodies = [json.loads(m.data) for m in answers.messages]
        assert len([b for b in bodies if b.get("role") == 2]) == 2, "both brokers answer what may be asked"
        assert len([b for b in bodies if "error" in b]) == 2
        assert refused(broker, "role") + refused(other, "role") == 2


def test_an_operator_works_in_every_tenant_under_a_name_of_its_own(site: Site, broker: Musterd, mint: Callable[..., Agent]) -> None:
    """Its creds are of acme; nobody in zeta can be called so."""
    boss, usual = mint("acme", "boss", "operator"), mint("zeta", "boss")
    assert boss.ask("desk", "rule").body == {"agent": "boss", "role": 6, "tenant": "acme", "heard": 0, "last": 0}
    box = boss.client.subscribe("mst.zeta.box._op_boss.>")
    boss.client.publish("mst.zeta.rpc._op_boss.desk.rule", b"{}", reply="mst.zeta.box._op_boss.1")
    wait_until(lambda: len(box.messages) == 1, 5, "the answer")
    body = json.loads(box.messages[0].data)
    assert (body["agent"], body["role"], body["tenant"]) == ("_op_boss", 6, "zeta")
    assert usual.ask("desk", "look").body["role"] == 1
    # Another's box there is not its own.
    before = refused(broker, "reply_subject")
    boss.client.publish("mst.zeta.rpc._op_boss.desk.rule", b"{}", reply="mst.zeta.box.boss.1")
    wait_until(lambda: refused(broker, "reply_subject") == before + 1, 5, "the foreign box to be refused")
    # Revoked in its own tenant is revoked everywhere: the row is quicker than NATS, which is not told here.
    box = unseen(site, boss).client.subscribe("mst.zeta.box._op_boss.>")
    site.postgres.query("UPDATE muster.credentials SET revoked_at = now() WHERE tenant = 'acme' AND agent = 'boss'")

    def answered() -> dict[str, object]:
        at = len(box.messages)
        boss.client.publish("mst.zeta.rpc._op_boss.desk.rule", b"{}", reply="mst.zeta.box._op_boss.2")
        wait_until(lambda: len(box.messages) > at, 5, "an answer")
        return dict(json.loads(box.messages[-1].data).get("error", {}))

    wait_until(lambda: answered().get("code") == "unauthenticated", 5, "the operator to be refused")


def test_two_operators_of_one_name(site: Site, mint: Callable[..., Agent]) -> None:
    mint("acme", "chief", "operator")
    second = site.cli("agent", "add", "zeta", "chief", "--role", "operator", check=False)
    assert second.returncode == 1 and "already_exists" in second.stderr
    with pytest.raises(Exception, match="one_operator_a_name"):
        site.postgres.query("INSERT INTO muster.credentials (tenant, agent, role) VALUES ('zeta', 'chief', 'operator')")


# ---- names ----------------------------------------------------------------------------------------------------------------------


def test_a_name_without_a_row(site: Site, broker: Musterd, mint: Callable[..., Agent]) -> None:
    """NATS lets it in, the brokers do not; the same name elsewhere is nobody's concern."""
    ghost, other = unseen(site, mint("acme", "ghost")), mint("zeta", "ghost")
    site.postgres.query("DELETE FROM muster.credentials WHERE tenant = 'acme' AND agent = 'ghost'")
    before = refused(broker, "name")
    answer = ghost.ask("desk", "look").error
    assert answer == {"code": "unauthenticated", "message": 'the name "ghost" is not known'}
    assert refused(broker, "name") == before + 1
    assert other.ask("desk", "look").body["tenant"] == "zeta"
    site.postgres.query("INSERT INTO muster.credentials (tenant, agent, role) VALUES ('acme', 'ghost', 'observer')")
    until(ghost, "look", "")
    assert ghost.ask("desk", "look").body["role"] == 2


def test_a_row_that_changes_is_followed(site: Site, broker: Musterd, mint: Callable[..., Agent]) -> None:
    agent, row = unseen(site, mint("acme", "moody")), "tenant = 'acme' AND agent = 'moody'"

    def change(what: str, verb: str, expected: str) -> None:
        site.postgres.query(f"UPDATE muster.credentials SET {what} WHERE {row}")
        until(agent, verb, expected, 1.0)

    assert code(agent, "change") == ""
    change("role = 'observer'", "change", "permission_denied")
    change("role = 'human'", "decide", "")
    change("revoked_at = now()", "look", "unauthenticated")
    assert "has been revoked" in agent.ask("desk", "look").error["message"] and refused(broker, "revoked") >= 1
    change("revoked_at = NULL", "look", "")
    change("expires_at = now() - interval '1 second'", "look", "unauthenticated")
    assert "has expired" in agent.ask("desk", "look").error["message"] and refused(broker, "expired") >= 1
    change("expires_at = 'infinity'", "look", "")
    change("expires_at = now() + interval '700 ms'", "look", "")
    time.sleep(0.8)
    assert code(agent, "look") == "unauthenticated", "nobody tells the time"
    change("expires_at = NULL", "look", "")
    site.postgres.query(f"DELETE FROM muster.credentials WHERE {row}")
    until(agent, "look", "unauthenticated", 1.0)


def test_what_a_plugin_hears_is_of_known_names(site: Site, broker: Musterd, mint: Callable[..., Agent]) -> None:
    """A broadcast, which is no request: its sender is proven, and has a role."""
    loud, ghost, asker = mint("acme", "loud", "human"), unseen(site, mint("acme", "ghost2")), mint("acme", "asker")
    site.postgres.query("DELETE FROM muster.credentials WHERE tenant = 'acme' AND agent = 'ghost2'")
    before = refused(broker, "name")
    loud.client.publish("mst.acme.all.loud.desk", b"x")
    wait_until(lambda: asker.ask("desk", "look").body["heard"] == 1, 5, "the broadcast")
    assert asker.ask("desk", "look").body["last"] == 4
    ghost.client.publish("mst.acme.all.ghost2.desk", b"x")
    wait_until(lambda: refused(broker, "name") == before + 1, 5, "the ghost to be refused")
    assert asker.ask("desk", "look").body["heard"] == 1


def test_what_was_known_holds_while_the_database_is_away(site: Site, broker: Musterd, mint: Callable[..., Agent]) -> None:
    known, stranger = mint("acme", "known"), mint("acme", "stranger")
    assert code(known, "look") == ""
    site.postgres.kill()
    try:
        wait_until(lambda: "trying again" in broker.log(), 10, "the broker to notice")
        assert code(known, "look") == ""
        answer = stranger.ask("desk", "look").error
        assert answer["code"] == "unavailable" and "stranger" in answer["message"] and answer["retry_after_ms"] > 0
    finally:
        site.postgres.start()
    until(stranger, "look", "", 15)


def test_what_changed_while_nobody_could_tell(site: Site, broker: Musterd, mint: Callable[..., Agent]) -> None:
    """The connection that hears of changes is gone for a moment: what is cached is read again."""
    agent = unseen(site, mint("acme", "absent"))
    assert code(agent, "look") == ""
    with site.postgres.connect() as connection:
        connection.execute("SET session_replication_role = replica")  # no notice
        connection.execute("UPDATE muster.credentials SET revoked_at = now() WHERE tenant = 'acme' AND agent = 'absent'")
    assert code(agent, "look") == "", "nobody has told"
    site.postgres.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'muster %'")
    until(agent, "look", "unauthenticated", 15)


def test_ten_thousand_names_at_once(site: Site, mint: Callable[..., Agent]) -> None:
    """A broker that starts among many agents asks for them in few statements, and serves all."""
    n, acme = 10000, [f"many-{i}" for i in range(10000)]
    with site.postgres.connect() as connection:
        connection.execute("INSERT INTO muster.credentials (tenant, agent, role) SELECT 'acme', 'many-' || i, 'agent'"
                           " FROM generate_series(0, 9999) AS i")
    insider = Client(site.nats.url, site.nats.folder / "broker.creds")  # speaks as anybody
    try:
        with running(site) as broker:
            box = insider.subscribe("mst.acme.box.>")
            began = time.monotonic()
            insider.publish_all([(f"mst.acme.rpc.{name}.desk.look", f"mst.acme.box.{name}.1") for name in acme])
            wait_until(lambda: len(box.messages) >= n, 60, "all answers")
            seconds = time.monotonic() - began
            bodies = [json.loads(m.data) for m in box.messages]
            bad = [b for b in bodies if b.get("role") != 1]
            assert not bad, (len(bad), bad[:3])
            assert {b["agent"] for b in bodies} == set(acme)
            print(f"{n} names that were not known: {seconds:.2f} s")
            assert refused(broker, "waiting") == 0
    finally:
        insider.close()
        site.postgres.query("DELETE FROM muster.credentials WHERE agent LIKE 'many-%'")


def test_the_flood_of_a_revoked_name_gets_few_answers(site: Site, broker: Musterd, mint: Callable[..., Agent]) -> None:
    agent, calm = unseen(site, mint("acme", "revenant")), mint("acme", "calm")
    assert code(agent, "look") == "" and code(calm, "look") == ""
    site.postgres.query("UPDATE muster.credentials SET revoked_at = now() WHERE tenant = 'acme' AND agent = 'revenant'")
    until(agent, "look", "unauthenticated")
    box, before, began = agent.client.subscribe(agent.box("f")), refused(broker, "revoked"), time.monotonic()
    agent.client.publish_many(agent.subject("desk", "look"), 20000, b"{}", reply=agent.box("f"))
    wait_until(lambda: refused(broker, "revoked") >= before + 20000, 30, "all to be refused")
    assert code(calm, "look") == ""
    assert 0 < len(box.messages) <= 100 * (time.monotonic() - began + 2)


# ---- narrowing ------------------------------------------------------------------------------------------------------------------


def rows(site: Site, tenant: str, agent: str) -> dict[str, object]:
    [row] = [r for r in json.loads(site.cli("agent", "list", tenant, "--json").stdout) if r["agent"] == agent]
    return dict(row)


def test_narrowed_verbs(site: Site, broker: Musterd, mint: Callable[..., Agent]) -> None:
    agent, before = mint("acme", "narrow", "human", "--verbs", "desk.look,plain.*"), refused(broker, "verbs")
    assert code(agent, "look") == "" and code(agent, "look", "plain") == "" and code(agent, "change", "plain") == ""
    error = agent.ask("desk", "change").error
    assert error["code"] == "permission_denied"
    assert error["message"] == "role human may not ask for desk.change: the credential is narrowed to other verbs"
    assert code(agent, "decide") == "permission_denied" and refused(broker, "verbs") == before + 2
    assert rows(site, "acme", "narrow")["verbs"] == ["desk.look", "plain.*"]
    site.postgres.query("UPDATE muster.credentials SET verbs = '{desk.decide}' WHERE tenant = 'acme' AND agent = 'narrow'")
    until(agent, "decide", "", 1.0)
    assert code(agent, "look") == "permission_denied"


def violations(agent: Agent, act: Callable[[], object]) -> int:
    """How often the server refused what act() did."""
    before = len(agent.client.errors)
    act()
    time.sleep(0.2)
    return len(agent.client.errors) - before


def test_narrowed_groups_and_tables(site: Site, broker: Musterd, mint: Callable[..., Agent]) -> None:
    """NATS enforces these: own groups and tables pass, all others are refused at the client; a rotation keeps them."""
    agent = mint("acme", "few", "agent", "--groups", "red,A", "--tables", "public.notes,audit.*,public.Odd Name")
    assert rows(site, "acme", "few")["groups"] == ["red", "A"] and len(rows(site, "acme", "few")["tables"]) == 3  # type: ignore[arg-type]

    def check() -> None:
        may = ["grp.red.>", "grp.A.x.y", "log.grp.red.>", "log.all.>", "all.>", "cdc.*.public.notes.>", "cdc.main.audit.anything.>", "evt.>"]
        may_not = ["grp.>", "grp.blue.>", "log.grp.>", "log.grp.blue.>", "cdc.>", "cdc.*.public.>", "cdc.main.public.orders.>"]
        for subject in may:
            assert violations(agent, lambda: agent.client.subscribe(f"mst.acme.{subject}")) == 0, subject  # noqa: B023
        for subject in may_not:
            assert violations(agent, lambda: agent.client.subscribe(f"mst.acme.{subject}")) == 1, subject  # noqa: B023
        assert violations(agent, lambda: agent.client.publish("mst.acme.grp.red.few.x", b"x")) == 0
        assert violations(agent, lambda: agent.client.publish("mst.acme.grp.blue.few.x", b"x")) == 1
        assert violations(agent, lambda: agent.client.publish("mst.acme.grp.red.other.x", b"x")) == 1
        assert violations(agent, lambda: agent.client.publish("mst.zeta.all.few.x", b"x")) == 1
        assert code(agent, "look") == ""

    check()
    path = site.folder / "few-rotated.creds"
    site.cli("agent", "rotate", "acme", "few", "--out", str(path))
    agent.close()
    site._creds["acme", "few"] = path
    agent.client = Client(site.nats.url, path, "acme", "few")
    check()
    assert rows(site, "acme", "few")["groups"] == ["red", "A"]


def test_a_narrowing_ends_with_its_credential(site: Site, mint: Callable[..., Agent]) -> None:
    mint("acme", "again", "agent", "--verbs", "desk.look", "--groups", "red")
    site.cli("agent", "revoke", "acme", "again")
    site.cli("agent", "add", "acme", "again", "--out", str(site.folder / "again.creds"))
    row = rows(site, "acme", "again")
    assert row["verbs"] is None and row["groups"] is None
    assert "groups=" not in site.cli("agent", "list", "acme").stdout.split("again")[1].split("\n")[0]


@pytest.mark.parametrize(("option", "value"), [
    ("--groups", ""), ("--groups", "a,,b"), ("--groups", "_muster"), ("--groups", "a.b"), ("--groups", "*"), ("--groups", ">"),
    ("--groups", ",".join(f"g{i}" for i in range(65))), ("--tables", "orders"), ("--tables", "a.b.c"), ("--tables", ".x"), ("--tables", "x."),
    ("--tables", "*.*"), ("--tables", "*.a"), ("--tables", "a.b*"), ("--tables", "a.>"),
    ("--verbs", "look"), ("--verbs", "*.look"), ("--verbs", "desk.>"), ("--verbs", "desk.a b"), ("--verbs", "desk.look,")])
def test_what_is_no_narrowing(site: Site, option: str, value: str) -> None:
    wrong = site.cli("agent", "add", "acme", "wrong", option, value, check=False)
    assert wrong.returncode == 2 and option in wrong.stderr, wrong.stderr
    assert "wrong" not in site.cli("agent", "list", "acme").stdout


def test_the_database_holds_narrowings_to_the_same(site: Site) -> None:
    for column, value in (("groups", "{_muster}"), ("groups", "{a.b}"), ("groups", "{}"), ("tables", "{x}"), ("tables", "{a.>}"),
                          ("verbs", "{*.x}"), ("verbs", "{NULL}")):
        with pytest.raises(Exception, match=f"legal_{column}"):
            site.postgres.query(f"INSERT INTO muster.credentials (tenant, agent, role, {column}) VALUES ('acme', 'w', 'agent', %s)", (value,))


def test_a_broker_that_was_there_before_the_schema_hears_of_revocations() -> None:
    """Brokers hear of changes on a channel that the schema names: who came before it listens to that one all the same."""
    site = Site(migrated=False)
    try:
        site.postgres.start()
        site.nats.start()
        broker = own_broker(site, plugin("desk", "desk"))
        broker.start(ready=False)
        wait_until(lambda: "cannot be followed" in broker.log() or "muster migrate" in broker.log(), 20, "the broker to miss the schema")
        site.cli("migrate")
        site.cli("tenant", "add", "acme")
        broker.wait_ready()
        agent = unseen(site, Agent(site, "acme", "early"))
        try:
            until(agent, "look", "", 20)
            site.postgres.query("UPDATE muster.credentials SET revoked_at = now() WHERE tenant = 'acme' AND agent = 'early'")
            until(agent, "look", "unauthenticated")
        finally:
            agent.close()
    finally:
        site.close()
