"""The schema of muster under attack: who may do what, and that a request is carried out once."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from harness import Postgres, wait_until

Connection = psycopg.Connection[Any]

SERVICE = """
CREATE TABLE muster.test_calls (n serial, args jsonb);
CREATE FUNCTION muster.test_service(tenant text, agent text, args jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_n integer;
BEGIN
    INSERT INTO muster.test_calls (args) VALUES (args) RETURNING n INTO v_n;
    RETURN CASE WHEN args ? 'error' THEN muster.error(args ->> 'error', 'as asked')
                WHEN args ? 'raw' THEN args -> 'raw'
                ELSE jsonb_build_object('ok', jsonb_build_object('n', v_n, 'tenant', tenant, 'agent', agent)) END;
END
$$;
CREATE FUNCTION muster.test_other_shape(tenant text, agent text, args text) RETURNS jsonb
    LANGUAGE sql RETURN '{"ok": 1}'::jsonb;
CREATE FUNCTION muster.test_other_result(tenant text, agent text, args jsonb) RETURNS text
    LANGUAGE sql RETURN 'ok';
CREATE FUNCTION muster.test_helper(a text, b text, c jsonb) RETURNS jsonb
    LANGUAGE sql RETURN '{"ok": 1}'::jsonb;
CREATE FUNCTION public.test_elsewhere(tenant text, agent text, args jsonb) RETURNS jsonb
    LANGUAGE sql RETURN '{"ok": 1}'::jsonb;
GRANT EXECUTE ON FUNCTION muster.test_service(text, text, jsonb) TO muster_broker;
"""


@pytest.fixture(scope="module")
def postgres() -> Generator[Postgres, None, None]:
    folder = Path(tempfile.mkdtemp(prefix="muster-sql-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user when the tests run as root
    server = Postgres(folder, migrated=True)
    try:
        server.start()
        server.query("CREATE ROLE mallory LOGIN")
        server.query("INSERT INTO muster.tenants (name) VALUES ('acme'), ('zeta')")
        server.query("INSERT INTO muster.credentials (tenant, agent, role) VALUES ('acme', 'a1', 'agent')")
        server.query(SERVICE)
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def session(postgres: Postgres) -> Generator[Callable[[str], Connection], None, None]:
    """session("muster_broker") is a connection of that role with autocommit."""
    opened: list[Connection] = []

    def make(role: str = "muster_broker") -> Connection:
        opened.append(psycopg.connect(postgres.dsn(role), autocommit=True))
        return opened[-1]

    yield make
    for connection in opened:
        connection.close()


FORBIDDEN = [
    "SELECT muster.emit('acme', 'task', 'queued', 't1', '{}')",
    "SELECT pg_logical_emit_message(true, 'muster.evt', '{}'::text)",
    "SELECT pg_logical_emit_message(true, 'muster.evt', '\\x7b7d'::bytea)",
    "SELECT pg_logical_emit_message(false, 'muster.evt', '{}'::text)",
    "SELECT * FROM muster.credentials",
    "SELECT * FROM muster.tenants",
    "SELECT * FROM muster.requests",
    "INSERT INTO muster.tables (schema_name, table_name, tenant) VALUES ('public', 'x', 'acme')",
    "UPDATE muster.tenants SET limits = '{}'",
    "SELECT muster.once('acme', 'a1', 'x.y', 'r', sha256(''), 'test_service', '{}')",
    "SELECT muster.call('test_service', 'acme', 'a1', '{}')",
    "SELECT muster.purge_requests()",
    "CREATE FUNCTION muster.mine(text, text, jsonb) RETURNS jsonb LANGUAGE sql RETURN '{\"ok\": 1}'::jsonb",
    "ALTER PUBLICATION muster_evt ADD TABLE pg_class",
    "SET ROLE muster_owner",
]


@pytest.mark.parametrize("role", ["mallory", "muster_app"])
@pytest.mark.parametrize("statement", FORBIDDEN)
def test_an_ordinary_role_gets_nothing(session: Callable[[str], Connection], role: str, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        session(role).execute(statement)


@pytest.mark.parametrize("statement", [
    "SELECT pg_logical_emit_message(true, 'muster.evt', '{}'::text)",
    "INSERT INTO muster.tables (schema_name, table_name, tenant) VALUES ('public', 'x', 'acme')",
    "UPDATE muster.migrations SET sha256 = ''",
    "ALTER PUBLICATION muster DROP TABLE muster.tenants",
    "CREATE TABLE muster.mine ()",
    "CREATE ROLE other",
])
def test_the_broker_gets_no_more_than_it_needs(session: Callable[[str], Connection], statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        session("muster_broker").execute(statement)


def test_every_signature_of_the_emit_function_is_closed(postgres: Postgres) -> None:
    open_ones = postgres.query(
        "SELECT oid::regprocedure FROM pg_proc WHERE proname = 'pg_logical_emit_message'"
        " AND (has_function_privilege('public', oid, 'EXECUTE') OR has_function_privilege('mallory', oid, 'EXECUTE'))")
    assert open_ones == []
    assert postgres.query(
        "SELECT count(*) FROM pg_proc WHERE pronamespace = 'muster'::regnamespace AND proname NOT LIKE 'test%'"
        " AND has_function_privilege('public', oid, 'EXECUTE')") == [(0,)]


def test_roles_have_their_attributes(postgres: Postgres) -> None:
    rows = postgres.query("SELECT rolname, rolcanlogin, rolreplication, rolsuper OR rolbypassrls OR rolcreaterole"
                          " FROM pg_roles WHERE rolname LIKE 'muster%' ORDER BY 1")
    assert rows == [("muster_app", True, False, False), ("muster_broker", True, True, False),
                    ("muster_engine", False, False, False), ("muster_owner", False, False, False),
                    ("muster_tenants", False, False, False)]
    assert postgres.query("SELECT pubname, pubinsert AND pubupdate AND pubdelete AND pubtruncate AND pubviaroot,"
                          " pubowner::regrole::text FROM pg_publication ORDER BY 1") == [
        ("muster", True, "muster_owner"), ("muster_evt", True, "muster_owner"), ("muster_registry", True, "muster_owner")]


def messages(postgres: Postgres, slot: str) -> list[dict[str, Any]]:
    """What a slot has of muster.evt, read the way the brokers do."""
    rows = postgres.query(
        "SELECT data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL, 'proto_version', '1',"
        " 'publication_names', 'muster_evt', 'messages', 'true')", (slot,))
    found = []
    for (data,) in rows:
        if data[:1] == b"M":
            assert data[1] == 1, "emitted inside the transaction"
            prefix, _, rest = data[10:].partition(b"\0")
            assert prefix == b"muster.evt"
            found.append(json.loads(rest[4:].decode("utf-8")))
    return found


def test_emit_tells_at_commit_and_only_then(postgres: Postgres, session: Callable[[str], Connection]) -> None:
    postgres.query("SELECT pg_create_logical_replication_slot('sql_test', 'pgoutput')")
    try:
        broker = session("muster_broker")
        with pytest.raises(ZeroDivisionError), broker.transaction():
            broker.execute("SELECT muster.emit('acme', 'task', 'queued', 'never', '{}')")
            raise ZeroDivisionError
        broker.execute("SELECT muster.emit('acme', 'task', 'queued', %s, %s)", ("käse/1", '{"a": 1.10, "b": "é\\n"}'))
        assert messages(postgres, "sql_test") == [
            {"tenant": "acme", "service": "task", "event": "queued", "key": "käse/1", "body": {"a": 1.10, "b": "é\n"}}]
    finally:
        postgres.query("SELECT pg_drop_replication_slot('sql_test')")


@pytest.mark.parametrize(("field", "arguments"), [
    ("tenant", ("a b", "task", "queued", "k", "{}")), ("tenant", (None, "task", "queued", "k", "{}")),
    ("tenant", ("_muster", "task", "queued", "k", "{}")), ("tenant", ("acme\n", "task", "queued", "k", "{}")),
    ("tenant", ("x" * 65, "task", "queued", "k", "{}")), ("service", ("acme", "ta.sk", "queued", "k", "{}")),
    ("service", ("acme", "", "queued", "k", "{}")), ("event", ("acme", "task", ">", "k", "{}")),
    ("event", ("acme", "task", "*", "k", "{}")), ("key", ("acme", "task", "queued", "", "{}")),
    ("key", ("acme", "task", "queued", None, "{}")), ("key", ("acme", "task", "queued", "k" * 1025, "{}")),
    ("body", ("acme", "task", "queued", "k", "[]")), ("body", ("acme", "task", "queued", "k", None)),
    ("body", ("acme", "task", "queued", "k", json.dumps({"a": "x" * 1000000}))),
])
def test_emit_refuses_by_field(session: Callable[[str], Connection], field: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(errors.InvalidParameterValue) as refused:
        session("muster_broker").execute("SELECT muster.emit(%s, %s, %s, %s, %s)", arguments)
    assert f"muster.emit: {field}: " in str(refused.value) and "expected" in str(refused.value)


def once(connection: Connection, request_id: str | None, args: Any = None, body: str = "", function: str | None = "test_service",
         agent: str = "a1", verb: str = "test.do") -> Any:
    connection.execute("SELECT set_config('app.current_tenant', 'acme', false)")  # as a group commit does for each item
    row = connection.execute(
        "SELECT muster.once('acme', %s, %s, %s, %s, %s, %s)",
        (agent, verb, request_id, hashlib.sha256(body.encode()).digest(), function, json.dumps(args or {}))).fetchone()
    assert row
    return row[0]


def calls(postgres: Postgres) -> int:
    return int(postgres.query("SELECT count(*) FROM muster.test_calls")[0][0])


def test_once_gives_the_first_answer_again(postgres: Postgres, session: Callable[[str], Connection]) -> None:
    before, broker = calls(postgres), session("muster_broker")
    first = once(broker, "replay")
    assert first["ok"]["agent"] == "a1" and first["ok"]["tenant"] == "acme"
    assert once(session("muster_broker"), "replay") == first
    conflict = once(broker, "replay", body="other")
    assert conflict["error"]["code"] == "already_exists" and conflict["error"]["field"] == "request_id"
    assert calls(postgres) == before + 1
    assert once(broker, "replay", agent="a2") != first, "another agent's id is another request"
    assert once(broker, "replay", verb="test.undo") != first, "so is another verb's"
    assert once(broker, None) != once(broker, None), "without an id every call is carried out"
    assert calls(postgres) == before + 5


def test_once_in_one_batch(postgres: Postgres, session: Callable[[str], Connection]) -> None:
    before, broker = calls(postgres), session("muster_broker")
    with broker.transaction():
        assert once(broker, "batch") == once(broker, "batch")
        assert once(broker, "batch", body="other")["error"]["code"] == "already_exists"
    assert calls(postgres) == before + 1


def test_once_keeps_verdicts_and_not_excuses(session: Callable[[str], Connection]) -> None:
    broker = session("muster_broker")
    verdict = once(broker, "verdict", {"error": "failed_precondition"})
    assert once(broker, "verdict", {}) == verdict
    for excuse in ("unavailable", "resource_exhausted", "deadline_exceeded", "internal"):
        assert once(broker, excuse, {"error": excuse})["error"]["code"] == excuse
        assert "ok" in once(broker, excuse), "the id is still free"


@pytest.mark.parametrize("request_id", ["", "x" * 129])
def test_once_bounds_the_id(session: Callable[[str], Connection], request_id: str) -> None:
    answer = once(session("muster_broker"), request_id)
    assert answer["error"]["code"] == "invalid_argument" and answer["error"]["field"] == "request_id"


@pytest.mark.parametrize("function", [
    "pg_sleep", "once", "call", "error", "emit", "test_other_shape", "test_other_result", "test_helper",
    "test_elsewhere", "public.test_elsewhere", "muster.test_service", '"test_service"', "test_service; DROP TABLE muster.tenants --", "test_service(text,text,jsonb)",
    "TEST_SERVICE", "", None,
])
def test_only_service_functions_can_be_called(session: Callable[[str], Connection], function: str | None) -> None:
    for request_id in (None, f"function-{function}"):
        with pytest.raises(errors.UndefinedFunction, match="was expected"):
            once(session("muster_broker"), request_id, function=function)


@pytest.mark.parametrize("raw", [{}, {"error": "text"}, {"error": {"message": "no code"}}, [], "ok", None])
def test_a_service_function_that_gives_no_outcome_is_a_fault(session: Callable[[str], Connection], raw: Any) -> None:
    with pytest.raises(errors.RaiseException, match="test_service: .* was expected"):
        once(session("muster_broker"), f"raw-{raw}", {"raw": raw})


def broker_session(session: Callable[[str], Connection], lock_timeout: str) -> Connection:
    connection = session("muster_broker")
    connection.execute(f"SET lock_timeout = '{lock_timeout}'")
    return connection


@pytest.mark.parametrize("commit", [True, False])
def test_the_second_broker_waits_for_the_first(
        postgres: Postgres, session: Callable[[str], Connection], commit: bool) -> None:
    """What the first one decided holds; when it decided nothing, the second one carries the request out."""
    before, request_id = calls(postgres), f"wait-{commit}"
    first, second = broker_session(session, "50ms"), broker_session(session, "30s")
    answers: list[Any] = []
    first.execute("BEGIN")
    answers.append(once(first, request_id))
    waiting = threading.Thread(target=lambda: answers.append(once(second, request_id)))
    waiting.start()
    try:
        wait_until(lambda: postgres.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") == [(1,)],
                   10, "the second broker to wait")
    finally:
        first.execute("COMMIT" if commit else "ROLLBACK")
        waiting.join()
    assert (answers[0] == answers[1]) is commit
    assert calls(postgres) == before + 1


def test_a_wait_that_is_too_long_is_an_outcome_not_an_abort(session: Callable[[str], Connection]) -> None:
    first, second = broker_session(session, "50ms"), broker_session(session, "50ms")
    first.execute("BEGIN")
    once(first, "slow")
    second.execute("BEGIN")
    assert "ok" in once(second, "before")
    start = time.monotonic()
    answer = once(second, "slow")
    assert time.monotonic() - start < 5
    assert answer["error"]["code"] == "unavailable" and answer["error"]["retry_after_ms"] > 0
    second.execute("COMMIT")  # would raise if the transaction had been aborted
    first.execute("COMMIT")
    assert "ok" in once(second, "slow")


def test_two_batches_in_opposite_order_both_commit(postgres: Postgres, session: Callable[[str], Connection]) -> None:
    before = calls(postgres)
    first, second = broker_session(session, "50ms"), broker_session(session, "50ms")
    for connection, request_id in ((first, "cross-1"), (second, "cross-2")):
        connection.execute("BEGIN")
        assert "ok" in once(connection, request_id)
    assert once(first, "cross-2")["error"]["code"] == "unavailable"
    assert once(second, "cross-1")["error"]["code"] == "unavailable"
    first.execute("COMMIT")
    second.execute("COMMIT")
    assert calls(postgres) == before + 2


def test_many_brokers_with_one_id(postgres: Postgres, session: Callable[[str], Connection]) -> None:
    before, rounds, n_brokers = calls(postgres), 20, 8
    sessions = [broker_session(session, "10s") for _ in range(n_brokers)]
    start = threading.Barrier(n_brokers)
    answers: list[list[Any]] = [[] for _ in range(rounds)]

    def work(connection: Connection) -> None:
        for i in range(rounds):
            start.wait(30)
            answers[i].append(once(connection, f"many-{i}"))

    threads = [threading.Thread(target=work, args=(connection,)) for connection in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(got) for got in answers] == [n_brokers] * rounds
    assert all(answer == got[0] and "ok" in answer for got in answers for answer in got)
    assert calls(postgres) == before + rounds


def test_an_id_is_free_again_after_24_hours(postgres: Postgres, session: Callable[[str], Connection]) -> None:
    broker = session("muster_broker")
    first = once(broker, "old")
    postgres.query("UPDATE muster.requests SET created_at = created_at - interval '23 hours' WHERE request_id = 'old'")
    assert once(broker, "old") == first
    postgres.query("UPDATE muster.requests SET created_at = created_at - interval '61 minutes' WHERE request_id = 'old'")
    second = once(broker, "old", body="other")
    assert "ok" in second and second != first
    assert once(broker, "old", body="other") == second


def test_purge_takes_what_is_old_and_no_more_than_asked(postgres: Postgres, session: Callable[[str], Connection]) -> None:
    broker = session("muster_broker")
    for i in range(5):
        once(broker, f"purge-{i}")
    postgres.query("UPDATE muster.requests SET created_at = created_at - interval '25 hours' WHERE request_id LIKE 'purge-%'"
                   " AND request_id <> 'purge-4'")
    assert [broker.execute("SELECT muster.purge_requests(3)").fetchone() for _ in range(3)] == [(3,), (1,), (0,)]
    assert postgres.query("SELECT request_id FROM muster.requests WHERE request_id LIKE 'purge-%'") == [("purge-4",)]


def test_changes_are_notified(postgres: Postgres, session: Callable[[str], Connection]) -> None:
    listener = session("muster_broker")
    listener.execute("SELECT muster.listen()")
    for statement in (
            "INSERT INTO muster.tenants (name) VALUES ('told')",
            "INSERT INTO muster.credentials (tenant, agent, role) VALUES ('told', 'b1', 'agent')",
            "UPDATE muster.credentials SET revoked_at = now() WHERE tenant = 'told'",
            "INSERT INTO muster.tables (schema_name, table_name, tenant) VALUES ('s', 't', 'acme')",
            "UPDATE muster.tables SET table_name = 'u' WHERE table_name = 't'",
            "TRUNCATE muster.tables",
            "DELETE FROM muster.tenants WHERE name = 'told'"):
        postgres.query(statement)
    told = [json.loads(notice.payload) for notice in listener.notifies(timeout=5, stop_after=9)]
    assert told[:7] == [
        {"kind": "tenant", "op": "insert", "tenant": "told"},
        {"kind": "credential", "op": "insert", "tenant": "told", "agent": "b1"},
        {"kind": "credential", "op": "update", "tenant": "told", "agent": "b1"},
        {"kind": "table", "op": "insert", "schema": "s", "table": "t"},
        {"kind": "table", "op": "update", "schema": "s", "table": "t"},
        {"kind": "table", "op": "update", "schema": "s", "table": "u"},
        {"kind": "table", "op": "truncate"}]
    assert {"kind": "tenant", "op": "delete", "tenant": "told"} in told[7:]
    assert {"kind": "credential", "op": "delete", "tenant": "told", "agent": "b1"} in told[7:]


@pytest.mark.parametrize("statement", [
    "INSERT INTO muster.tenants (name) VALUES ('_muster')",
    "INSERT INTO muster.tenants (name) VALUES ('a.b')",
    "INSERT INTO muster.tenants (name) VALUES (repeat('x', 65))",
    "INSERT INTO muster.tenants (name, history) VALUES ('h', 'r2')",
    "INSERT INTO muster.tenants (name, limits) VALUES ('l', '[]')",
    "INSERT INTO muster.credentials (tenant, agent, role) VALUES ('acme', 'x', 'root')",
    "INSERT INTO muster.credentials (tenant, agent, role) VALUES ('acme', '_muster', 'agent')",
    "INSERT INTO muster.credentials (tenant, agent, role, public_key) VALUES ('acme', 'x', 'agent', 'UABC')",
    "INSERT INTO muster.tables (schema_name, table_name) VALUES ('public', 'x')",
    "INSERT INTO muster.tables (schema_name, table_name, tenant, tenant_column) VALUES ('public', 'x', 'acme', 'c')",
])
def test_rows_that_mean_nothing_are_refused(postgres: Postgres, statement: str) -> None:
    with pytest.raises(errors.CheckViolation):
        postgres.query(statement)


def test_a_name_has_one_role(postgres: Postgres) -> None:
    with pytest.raises(errors.UniqueViolation):
        postgres.query("INSERT INTO muster.credentials (tenant, agent, role) VALUES ('acme', 'a1', 'admin')")
    with pytest.raises(errors.ForeignKeyViolation):
        postgres.query("INSERT INTO muster.credentials (tenant, agent, role) VALUES ('nobody', 'a1', 'agent')")
