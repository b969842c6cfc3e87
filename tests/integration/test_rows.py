"""What the statements of presence and fan-out cost and give where a tenant has many rows, and where agents choose awkward names."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness import Postgres

ROWS = 10000


@pytest.fixture(scope="module")
def postgres() -> Generator[Postgres, None, None]:
    folder = Path(tempfile.mkdtemp(prefix="muster-rows-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user when the tests run as root
    server = Postgres(folder, migrated=True)
    try:
        server.start()
        server.query("INSERT INTO muster.tenants (name) VALUES ('acme'), ('zeta')")
        server.query("INSERT INTO muster.credentials (tenant, agent, role)"
                     f" SELECT 'acme', 'a' || i, 'agent' FROM generate_series(1, {ROWS}) AS i")
        server.query("INSERT INTO muster.groups (tenant, name, agent) SELECT 'acme', 'g' || i % 1000, 'a' || i"
                     f" FROM generate_series(1, {ROWS}) AS i")
        server.query("INSERT INTO public.agent_sessions (tenant_id, session_id, agent_id, state)"
                     f" SELECT 'acme', 's' || i, 'a' || i, jsonb_build_object('x', repeat('y', 200)) FROM generate_series(1, {ROWS}) AS i")
        server.query("VACUUM ANALYZE")
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def broker(postgres: Postgres) -> Generator[psycopg.Connection[Any], None, None]:
    with psycopg.connect(postgres.dsn("muster_broker"), autocommit=True) as connection:
        connection.execute("SET app.current_tenant = 'acme'")
        yield connection


@pytest.mark.parametrize("statement", [
    "SELECT muster.message_receivers('acme', 'a77', NULL)",
    "SELECT muster.message_receivers('acme', NULL, 'g77')",
    """SELECT muster.message_claim('acme', 'a1', '{"to": "a77", "id": "x"}')""",
    """SELECT muster.session_active('acme', 'a1', '{"limit": 10}')""",
    """SELECT muster.session_active('acme', 'a1', '{"limit": 10, "after": "s5"}')""",
    "SELECT muster.sessions_present('s5', 10)"])
def test_what_is_read_is_what_is_asked_for(broker: psycopg.Connection[Any], statement: str) -> None:
    broker.execute("SET plan_cache_mode = force_generic_plan")
    broker.execute(statement)  # the catalogue is read the first time
    plan = broker.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}").fetchall()[0][0][0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 120, plan
    assert plan["Temp Written Blocks"] == 0


def record(broker: psycopg.Connection[Any], *rows: dict[str, Any]) -> dict[str, Any]:
    whole = [{"status": "active", "begins": True, "epoch": 5, "at": "2026-01-01T00:00:00Z", "state": {"x": 1}} | row for row in rows]
    return dict(broker.execute("SELECT muster.record_sessions(%s)", [json.dumps(whole)]).fetchall()[0][0]["ok"])


def updates(broker: psycopg.Connection[Any], table: str) -> tuple[int, int]:
    broker.execute("SELECT pg_stat_force_next_flush()")
    found = broker.execute("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = %s", [table]).fetchall()[0]
    return int(found[0]), int(found[1])


def test_a_change_of_status_is_written_in_place(broker: psycopg.Connection[Any]) -> None:
    """No index has an entry more for it: pages have room, and no index says anything of what changes."""
    for n in range(200):
        record(broker, {"session": f"fresh{n}", "agent": "a1"})
    before = updates(broker, "agent_sessions")
    for n in range(200):
        record(broker, {"session": f"fresh{n}", "agent": "a1", "begins": False, "state": {"x": 2}})
    after = updates(broker, "agent_sessions")
    assert after[0] - before[0] == 200
    assert after[1] - before[1] > 180


def test_the_answer_of_a_message_takes_the_place_of_its_claim(broker: psycopg.Connection[Any]) -> None:
    before = updates(broker, "requests")
    for n in range(200):
        broker.execute("SELECT muster.message_begin('acme', 'a1', 'message.send', %s, sha256(''), %s)", [f"r{n}", '{"to": "a77", "id": "x"}'])
    for n in range(200):
        broker.execute("""SELECT muster.message_done('acme', 'a1', 'message.send', %s, '{"seq": 1}')""", [f"r{n}"])
    after = updates(broker, "requests")
    assert after[0] - before[0] == 200
    assert after[1] - before[1] > 180


@pytest.mark.parametrize("rows", [
    [{"session": "x", "agent": "a1"}, {"session": "a1/x", "agent": "a1"}], [{"session": "x", "agent": "a1"}, {"session": "a1/x", "agent": "a2"}]])
def test_names_that_meet_do_not_undo_the_others(broker: psycopg.Connection[Any], rows: list[dict[str, Any]]) -> None:
    """Who comes second with a name has it behind its own; that one may be taken as well."""
    broker.execute("DELETE FROM public.agent_sessions WHERE session_id LIKE '%x'")
    assert record(broker, {"session": "x", "agent": "b"}) == {"stored": 1, "refused": 0}
    assert record(broker, *rows, {"session": "bystander/x", "agent": "a3"}) == {"stored": 2, "refused": 1}
    assert broker.execute("SELECT session_id FROM public.agent_sessions WHERE session_id LIKE '%x' ORDER BY 1").fetchall() == [
        ("a1/x",), ("bystander/x",), ("x",)]


def test_sessions_that_ended_long_ago_are_forgotten(postgres: Postgres, broker: psycopg.Connection[Any]) -> None:
    """In batches, whatever another broker is about to delete; not those of other tenants, of the roster, that go on, or that ended of late."""
    def purge(connection: psycopg.Connection[Any], limit: int) -> Any:
        return connection.execute("SELECT muster.purge_sessions('30d'::interval, %s)", (limit,)).fetchone()

    insert = ("INSERT INTO public.agent_sessions (tenant_id, session_id, agent_id, status, ended_at, state)"
              " VALUES (%s, %s, 'old', %s, now() - %s::interval, %s)")
    with postgres.connect() as admin:
        for n in range(1, 6):
            admin.execute(insert, ("acme", f"old{n}", "completed", "31d", None))
            admin.execute(insert, ("zeta", f"old{n}", "failed", "31d", None))
        for name, status, ago, state in [("on", "active", "90d", None), ("here", "completed", "90d", "{}"), ("new", "failed", "29d", None),
                                         ("open", "completed", None, None)]:
            admin.execute(insert, ("acme", name, status, ago, state))
    with psycopg.connect(postgres.dsn("muster_broker")) as other:
        other.execute("SET app.current_tenant = 'acme'")
        assert purge(other, 3) == ({"ok": {"purged": 3}},)
        broker.execute("SET lock_timeout = '1s'")
        assert purge(broker, 10) == ({"ok": {"purged": 2}},), "the other one's are passed over, not waited for"
        other.rollback()
    assert purge(broker, 10) == ({"ok": {"purged": 3}},)
    left = postgres.query("SELECT tenant_id, session_id FROM public.agent_sessions WHERE agent_id = 'old' ORDER BY 1, 2")
    assert left == [("acme", "here"), ("acme", "new"), ("acme", "on"), ("acme", "open"), *[("zeta", f"old{n}") for n in range(1, 6)]]
    plan = broker.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT muster.purge_sessions('30d'::interval, 100)").fetchall()[0][0][0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 120, plan
    postgres.query("DELETE FROM public.agent_sessions WHERE agent_id = 'old'")
