"""Row level security, attacked as a SQL user would: whatever is tried, no row of another tenant is read, written or locked."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from harness import Postgres, Site, run_cli, wait_until
from oracle import Watcher

Connection = psycopg.Connection[Any]

TABLES = ["agent_runs", "agent_sessions", "agent_memories", "agent_tasks", "agent_events"]
VIEWS = ["active_sessions", "hub_statistics", "task_status_summary", "agent_run_summaries"]
# Of every table, one row a tenant under the same id.
ROWS = {
    "agent_runs": "INSERT INTO public.agent_runs (tenant_id, id, user_id, agent_name, agent_id, task_id) VALUES (%(t)s, 'x', 'u1', %(s)s, 'a1', 't1')",
    "agent_sessions": "INSERT INTO public.agent_sessions (tenant_id, id, session_id, agent_id) VALUES (%(t)s, 'x', 's1', %(s)s)",
    "agent_memories": "INSERT INTO public.agent_memories (tenant_id, id, agent_id, session_id, content, embedding)"
                      " VALUES (%(t)s, 'x', 'a1', 's1', %(s)s, '{1,0,0}')",
    "agent_tasks": "INSERT INTO public.agent_tasks (tenant_id, id, task_id, description, status) VALUES (%(t)s, 'x', 't1', %(s)s, 'queued')",
    "agent_events": "INSERT INTO public.agent_events (tenant_id, id, agent_id, event_type) VALUES (%(t)s, 'x', 'a1', %(s)s)",
}
SECRET = {"agent_runs": "agent_name", "agent_sessions": "agent_id", "agent_memories": "content", "agent_tasks": "description",
          "agent_events": "event_type"}  # the column that holds "<tenant> secret"
LONG = "t" * 64
# What the roles of tenants may change of a row: whose session it is they may not.
FORGED = {**{table: f"{column} = 'forged'" for table, column in SECRET.items()}, "agent_sessions": "metadata = '[\"forged\"]'"}
SAME = {**{table: f"{column} = {column}" for table, column in SECRET.items()}, "agent_sessions": "metadata = metadata"}


@pytest.fixture(scope="module")
def postgres() -> Generator[Postgres, None, None]:
    folder = Path(tempfile.mkdtemp(prefix="muster-rls-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user when the tests run as root
    server = Postgres(folder, migrated=True)
    try:
        server.start()
        muster(server, "tenant", "add", "acme", "zeta", LONG)
        for tenant in ("acme", "zeta"):
            muster(server, "tenant", "role", tenant, "--out", str(folder / f"{tenant}.dsn"))
        server.query("CREATE ROLE alice LOGIN; GRANT muster_t_acme TO alice; GRANT CREATE ON SCHEMA public TO alice, muster_t_acme")
        server.query("INSERT INTO muster.credentials (tenant, agent, role) VALUES ('acme', 'a1', 'agent'), ('zeta', 'z1', 'agent')")
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def muster(server: Postgres, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run_cli(list(argv), {"MUSTER_POSTGRES_ADMIN_DSN": server.dsn(), "MUSTER_POSTGRES_DSN": server.dsn("muster_broker")}, check)


@pytest.fixture(scope="module")
def owner(postgres: Postgres) -> Generator[Connection, None, None]:
    """One session for all: what its triggers have compiled stays."""
    with postgres.connect(autocommit=True) as connection:
        yield connection


@pytest.fixture(autouse=True)
def rows(owner: Connection) -> None:
    """acme and zeta have a row in each table, alike but for the secret."""
    with owner.transaction():
        owner.execute("TRUNCATE public.agent_runs, public.agent_sessions, public.agent_memories, public.agent_tasks, public.agent_events")
        for table in TABLES:
            for tenant in ("acme", "zeta"):
                owner.execute(ROWS[table], {"t": tenant, "s": f"{tenant} secret"})


@pytest.fixture
def as_role(postgres: Postgres) -> Generator[Callable[[str], Connection], None, None]:
    """as_role("muster_app") is a session of that role that serves acme: the roles that need to be told are told."""
    opened: list[Connection] = []

    def make(role: str) -> Connection:
        opened.append(psycopg.connect(postgres.dsn(role), autocommit=True))
        if role in ("muster_app", "muster_broker"):
            opened[-1].execute("SET app.current_tenant = 'acme'")
        return opened[-1]

    yield make
    for connection in opened:
        connection.close()


SERVED = ["muster_t_acme", "alice", "muster_app", "muster_broker"]  # all of them in the place of acme
UNTRUSTED = ["muster_t_acme", "alice"]


def zeta_is_untouched(postgres: Postgres) -> None:
    for table in TABLES:
        assert postgres.query(f"SELECT id, {SECRET[table]} FROM public.{table} WHERE tenant_id = 'zeta'") == [("x", "zeta secret")]
        assert postgres.query(f"SELECT count(*) FROM public.{table} WHERE tenant_id NOT IN ('acme', 'zeta')") == [(0,)]


# What is seen


@pytest.mark.parametrize("role", SERVED)
def test_a_role_sees_its_own_tenant_and_no_other(as_role: Callable[[str], Connection], role: str) -> None:
    session = as_role(role)
    for relation in TABLES + VIEWS:
        assert session.execute(f"SELECT DISTINCT tenant_id FROM public.{relation}").fetchall() == [("acme",)], relation
    for table in TABLES:
        assert session.execute(f"SELECT {SECRET[table]} FROM public.{table}").fetchall() == [("acme secret",)]
    assert session.execute("SELECT agent_name FROM public.get_active_agent_runs('u1')").fetchall() == [("acme secret",)]
    assert session.execute("SELECT content FROM public.search_memories('{1,0,0}', 'acme')").fetchall() == [("acme secret",)]
    assert session.execute("SELECT content FROM public.search_memories('{1,0,0}', 'zeta')").fetchall() == []


@pytest.mark.parametrize("role", ["mallory", "muster_t_~2b3kqtw6qjfvt5ls", "muster_app", "muster_broker"])
def test_who_has_no_tenant_sees_nothing(postgres: Postgres, as_role: Callable[[str], Connection], role: str) -> None:
    """A stranger, a tenant's role that no record names, and those who have not said whom they serve."""
    if role not in ("muster_app", "muster_broker"):
        postgres.query(sql.SQL("DROP ROLE IF EXISTS {0}; CREATE ROLE {0} LOGIN").format(sql.Identifier(role)))  # type: ignore[arg-type]
        with pytest.raises(errors.InsufficientPrivilege):
            as_role(role).execute("SELECT FROM public.agent_runs")
        postgres.query(sql.SQL("GRANT muster_tenants TO {}").format(sql.Identifier(role)))  # type: ignore[arg-type]
    for value in (None, "", "ACME", "acme ", "%", "acme,zeta", "acme' OR true --"):
        session = as_role(role)
        session.execute("RESET app.current_tenant" if value is None else sql.SQL("SET app.current_tenant = {}").format(value))
        for relation in TABLES + VIEWS:
            assert session.execute(f"SELECT count(*) FROM public.{relation}").fetchone() == (0,)
        with pytest.raises(errors.InsufficientPrivilege):
            session.execute(ROWS["agent_events"], {"t": "acme", "s": "forged"})


@pytest.mark.parametrize("role", UNTRUSTED)
@pytest.mark.parametrize("setting", [
    "SET app.current_tenant = 'zeta'", "SET SESSION app.current_tenant TO zeta", "SELECT set_config('app.current_tenant', 'zeta', false)"])
def test_a_tenants_role_is_not_moved_by_the_setting(postgres: Postgres, as_role: Callable[[str], Connection], role: str, setting: str) -> None:
    try:
        postgres.query(f"ALTER ROLE {role} SET app.current_tenant = 'zeta'")
        for session in (as_role(role), psycopg.connect(postgres.dsn(role), options="-c app.current_tenant=zeta", autocommit=True)):
            session.execute(setting)
            assert session.execute("SELECT tenant_id FROM public.agent_runs").fetchall() == [("acme",)]
            session.close()
    finally:
        postgres.query(f"ALTER ROLE {role} RESET ALL")


def test_a_prepared_statement_follows_the_setting_and_the_role(postgres: Postgres, as_role: Callable[[str], Connection]) -> None:
    """Plans are kept for the session; whose rows they give is not."""
    app = as_role("muster_app")
    app.execute("SET plan_cache_mode = force_generic_plan")
    app.execute("PREPARE mine AS SELECT tenant_id FROM public.agent_runs")
    for tenant in ("acme", "zeta", "acme"):
        app.execute(sql.SQL("SET app.current_tenant = {}").format(tenant))
        assert app.execute("EXECUTE mine").fetchall() == [(tenant,)]
    postgres.query("GRANT muster_t_zeta TO alice")
    try:
        alice = as_role("alice")
        alice.execute("PREPARE mine AS SELECT tenant_id FROM public.agent_runs ORDER BY 1")
        assert alice.execute("EXECUTE mine").fetchall() == [("acme",), ("zeta",)], "who was granted two tenants sees two"
        for tenant in ("acme", "zeta"):
            alice.execute(f"SET ROLE muster_t_{tenant}")
            assert alice.execute("EXECUTE mine").fetchall() == [(tenant,)]
        alice.execute("RESET ROLE")
        postgres.query("REVOKE muster_t_zeta FROM alice")
        assert alice.execute("EXECUTE mine").fetchall() == [("acme",)], "what is revoked ends at once"
    finally:
        postgres.query("REVOKE muster_t_zeta FROM alice")


# What is written


@pytest.mark.parametrize("role", SERVED)
@pytest.mark.parametrize("table", TABLES)
def test_nothing_is_written_for_another_tenant(postgres: Postgres, as_role: Callable[[str], Connection], role: str, table: str) -> None:
    session, forged = as_role(role), FORGED[table]
    for tenant in ("zeta", "nobody", "Acme"):
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            session.execute(ROWS[table], {"t": tenant, "s": "forged"})
    with pytest.raises(errors.InsufficientPrivilege):  # no conflict tells that the row is there
        session.execute(ROWS[table].replace("'x'", "'never'") + " ON CONFLICT DO NOTHING", {"t": "zeta", "s": "forged"})
    with pytest.raises(errors.InsufficientPrivilege):
        session.execute(ROWS[table] + f" ON CONFLICT (tenant_id, id) DO UPDATE SET {forged}", {"t": "zeta", "s": "forged"})
    with pytest.raises(errors.InsufficientPrivilege):  # moved: by the policy, or by the grant of columns
        session.execute(f"UPDATE public.{table} SET tenant_id = 'zeta', id = 'moved'")
    if role in UNTRUSTED and table == "agent_events":  # a record: they add to it
        for statement in (f"UPDATE public.{table} SET {forged}", f"SELECT FROM public.{table} FOR UPDATE", f"DELETE FROM public.{table}"):
            with pytest.raises(errors.InsufficientPrivilege):
                session.execute(statement)
        zeta_is_untouched(postgres)
        return
    assert session.execute(f"UPDATE public.{table} SET {forged} WHERE tenant_id = 'zeta'").rowcount == 0
    assert session.execute(f"UPDATE public.{table} SET {SAME[table]} RETURNING tenant_id").fetchall() == [("acme",)]
    assert session.execute(f"SELECT tenant_id FROM public.{table} FOR UPDATE").fetchall() == [("acme",)]
    assert session.execute(f"MERGE INTO public.{table} AS t USING (SELECT 'x' AS id) AS s ON t.id = s.id WHEN MATCHED THEN"
                           f" UPDATE SET {forged}").rowcount == 1
    if role in UNTRUSTED:
        with pytest.raises(errors.InsufficientPrivilege):
            session.execute(f"DELETE FROM public.{table}")
    else:
        assert session.execute(f"DELETE FROM public.{table} WHERE id = 'x'").rowcount == 1
    zeta_is_untouched(postgres)


@pytest.mark.parametrize("role", ["muster_app", "muster_broker"])
def test_expired_memories_are_deleted_of_ones_own(postgres: Postgres, as_role: Callable[[str], Connection], role: str) -> None:
    postgres.query("UPDATE public.agent_memories SET expires_at = now() - interval '1 s'")
    assert as_role(role).execute("SELECT public.delete_expired_memories()").fetchone() == (1,)
    zeta_is_untouched(postgres)
    assert postgres.query("SET ROLE muster_engine; SELECT public.delete_expired_memories()") == []
    assert postgres.query("SELECT count(*) FROM public.agent_memories") == [(0,)], "the engine's sweep sees every tenant"


# What is refused as a whole

FORBIDDEN = [
    # other roles
    *[f"SET ROLE {role}" for role in ("postgres", "muster_owner", "muster_engine", "muster_broker", "muster_app", "muster_t_zeta")],
    "SET SESSION AUTHORIZATION muster_t_zeta", "GRANT muster_t_zeta TO CURRENT_USER", "GRANT muster_tenants TO CURRENT_USER",
    "ALTER ROLE CURRENT_USER BYPASSRLS", "ALTER ROLE muster_t_zeta PASSWORD 'x'", "CREATE ROLE muster_t_other", "DROP OWNED BY muster_t_zeta",
    "ALTER TABLE public.agent_runs OWNER TO CURRENT_USER",
    # the table as a whole
    "TRUNCATE public.agent_runs", "DROP TABLE public.agent_runs", "ALTER TABLE public.agent_runs DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE public.agent_runs NO FORCE ROW LEVEL SECURITY", "CREATE POLICY mine ON public.agent_runs USING (true)",
    "ALTER POLICY role ON public.agent_runs USING (true)", "DROP POLICY role ON public.agent_runs",
    "CREATE INDEX ON public.agent_memories (content)", "CREATE STATISTICS public.s ON content, agent_id FROM public.agent_memories",
    "CREATE RULE r AS ON SELECT TO public.agent_runs DO INSTEAD SELECT", "CLUSTER public.agent_runs USING agent_runs_pkey",
    "CREATE TRIGGER t BEFORE INSERT ON public.agent_runs FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE TABLE public.child () INHERITS (public.agent_runs)", "ALTER TABLE public.mine INHERIT public.agent_runs",
    "CREATE TABLE public.fk (tenant_id text, id text, FOREIGN KEY (tenant_id, id) REFERENCES public.agent_runs)",
    "CREATE OR REPLACE VIEW public.active_sessions AS SELECT", "ALTER VIEW public.active_sessions SET (security_invoker = false)",
    "CREATE OR REPLACE FUNCTION public.delete_expired_memories() RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
    # locks that stop others
    *[f"LOCK TABLE public.{table} IN {mode} MODE" for table in TABLES for mode in ("SHARE", "EXCLUSIVE", "ACCESS EXCLUSIVE")],
    # what is Muster's own
    *[f"SELECT * FROM muster.{table}" for table in ("tenants", "credentials", "requests", "tables", "tenant_roles", "channel", "migrations", "audit", "inboxes",
                                                   "groups", "watches", "fanout_counts", "run_history", "run_ends", "help", "help_experts", "help_history", "help_marks", "help_trust")],
    *[f"SELECT muster.run_{verb}('zeta', 'a', '{{}}')" for verb in ("start", "progress", "complete", "verification", "get", "list", "export", "session_lost")],
    "SELECT muster.run_due('x', NULL, 10)", "SELECT muster.run_stuck('0s', 10)", "SELECT muster.run_tiers('{1h}', 10)", "SELECT muster.run_tier('zeta', 'x', '{1h}')", "SELECT muster.run_orphans('x', 10)", "SELECT muster.run_purge('0s', 10)",
    "SELECT muster.event_purge('0s', 10)", "SELECT muster.run_fire('zeta', 'x', 'x')", "SELECT muster.run_watch('zeta', 'x', now(), true)", "SELECT muster.run_late('zeta', 'x')",
    "SELECT muster.listen()", "SELECT muster.limit('zeta', 'watches')", "SELECT muster.tenants_of('muster_t_zeta')",
    "SELECT muster.forget('zeta')", "SELECT muster.purge_requests()", "SELECT muster.emit('zeta', 'task', 'queued', 'x', '{}')",
    "SELECT muster.once('zeta', 'a', 'x.y', 'r', sha256(''), 'forget', '{}')", "CREATE FUNCTION muster.mine() RETURNS int LANGUAGE sql RETURN 1",
    "INSERT INTO public.agent_sessions (tenant_id, session_id, agent_id, state) VALUES ('acme', 'forged', 'a1', '{}')",
    *[f"UPDATE public.agent_sessions SET {column} = {column}" for column in ("agent_id", "session_id", "started_at", "state", "fence", "gone_reason",
                                                                           "last_seen_at", "tenant_id", "id")],
    "SELECT muster.purge_sessions('0s', 10)",
    "INSERT INTO public.agent_sessions (tenant_id, session_id, agent_id, fence) VALUES ('acme', 'forged', 'a1', 9223372036854775807)",
    # the log and what is beside the tables
    "SELECT pg_logical_emit_message(true, 'muster.evt', '{}')", "SELECT pg_create_logical_replication_slot('mine', 'pgoutput')",
    "SELECT pg_logical_slot_peek_changes('muster_main', NULL, NULL)", "CREATE PUBLICATION mine FOR TABLE public.agent_runs",
    "ALTER PUBLICATION muster DROP TABLE public.agent_runs", "DROP PUBLICATION muster",
    "SELECT stavalues1 FROM pg_statistic", "SELECT rolpassword FROM pg_authid", "SELECT pg_read_file('pg_hba.conf')",
    "COPY public.agent_runs TO PROGRAM 'cat'", "COPY public.agent_runs TO '/tmp/rows'", "SELECT pg_terminate_backend(pg_backend_pid() - 1)",
    "LOAD 'auto_explain'", "SET session_replication_role = replica", "CREATE EXTENSION pageinspect", "ALTER SYSTEM SET row_security = off",
]


@pytest.mark.parametrize("role", UNTRUSTED)
@pytest.mark.parametrize("statement", FORBIDDEN)
def test_a_tenants_role_may_not(postgres: Postgres, as_role: Callable[[str], Connection], role: str, statement: str) -> None:
    session = as_role(role)
    if "public.mine " in statement:
        postgres.query("DROP TABLE IF EXISTS public.mine; CREATE TABLE public.mine (LIKE public.agent_runs);"
                       f"ALTER TABLE public.mine OWNER TO {role}")
    if "pg_terminate_backend" in statement:
        with postgres.connect() as other:
            statement = f"SELECT pg_terminate_backend({other.info.backend_pid})"
            with pytest.raises(errors.InsufficientPrivilege):
                session.execute(statement)
        return
    with pytest.raises(errors.InsufficientPrivilege):
        session.execute(f"BEGIN; {statement}; COMMIT" if statement.startswith("LOCK") else statement)  # type: ignore[call-overload]
    zeta_is_untouched(postgres)


@pytest.mark.parametrize("role", UNTRUSTED)
def test_a_tenants_role_ends_no_session_of_the_roster(postgres: Postgres, as_role: Callable[[str], Connection], role: str) -> None:
    """What it has registered itself it may end; whom a broker keeps it may not, before the broker has seen the end."""
    session = as_role(role)
    ended = "UPDATE public.agent_sessions SET status = 'completed', ended_at = now(), metadata = '{}' WHERE session_id = 's1'"
    postgres.query("UPDATE public.agent_sessions SET state = '{}' WHERE tenant_id = 'acme'")
    assert session.execute(ended).rowcount == 0
    assert postgres.query("SELECT status, ended_at FROM public.agent_sessions WHERE tenant_id = 'acme'") == [("active", None)]
    postgres.query("UPDATE public.agent_sessions SET state = NULL WHERE tenant_id = 'acme'")
    assert session.execute(ended).rowcount == 1


@pytest.mark.parametrize("role", SERVED)
def test_a_grant_of_what_one_was_lent_grants_nothing(postgres: Postgres, as_role: Callable[[str], Connection], role: str) -> None:
    """To PostgreSQL that is a warning and no error."""
    rights = "SELECT array_agg(relacl::text ORDER BY relname) FROM pg_class WHERE relname LIKE 'agent\\_%'"
    before, heard, session = postgres.query(rights), [], as_role(role)
    session.add_notice_handler(lambda notice: heard.append(notice.sqlstate))
    session.execute("GRANT ALL ON public.agent_runs, public.agent_memories TO PUBLIC")
    assert set(heard) == {"01007"} and postgres.query(rights) == before


@pytest.mark.parametrize("role", [*SERVED, "muster_owner"])
@pytest.mark.parametrize("table", TABLES)
def test_without_row_security_a_table_is_refused_by_name(postgres: Postgres, as_role: Callable[[str], Connection], role: str, table: str) -> None:
    """What a snapshot sets: a copy that would lack rows is an error and not an empty copy."""
    session = as_role(role if role != "muster_owner" else "postgres")
    if role == "muster_owner":
        session.execute("SET ROLE muster_owner")
        assert session.execute(f"SELECT count(*) FROM public.{table}").fetchone() == (0,), "the owner is bound too"
    session.execute("SET row_security = off")
    for statement in (f"SELECT * FROM public.{table}", f"COPY public.{table} TO STDOUT"):
        with pytest.raises(errors.InsufficientPrivilege, match=f'row-level security policy for table "{table}"'):
            session.execute(statement)


@pytest.mark.parametrize("role", SERVED)
def test_copy_gives_ones_own_rows_and_takes_none(as_role: Callable[[str], Connection], role: str) -> None:
    session = as_role(role)
    for table in TABLES:
        with session.cursor().copy(f"COPY public.{table} (tenant_id) TO STDOUT") as copy:
            assert list(copy.rows()) == [("acme",)]
    with pytest.raises(errors.FeatureNotSupported, match="row-level security"), \
            session.cursor().copy("COPY public.agent_events (tenant_id, agent_id, event_type) FROM STDIN") as copy:
        copy.write_row(("zeta", "a1", "forged"))


# Code of the attacker inside the query


@pytest.mark.parametrize("role", UNTRUSTED)
@pytest.mark.parametrize("table", TABLES)
def test_a_function_in_the_query_hears_of_no_foreign_row(as_role: Callable[[str], Connection], role: str, table: str) -> None:
    """However cheap it says it is, it runs behind the policy; an error message of a cast likewise."""
    session, heard, column = as_role(role), [], SECRET[table]
    session.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    session.execute("CREATE FUNCTION pg_temp.leak(v text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS"
                    " $$ BEGIN RAISE NOTICE 'heard %', v; RETURN true; END $$")
    session.execute("CREATE FUNCTION pg_temp.same(a text, b text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS"
                    " $$ BEGIN RAISE NOTICE 'heard % %', a, b; RETURN a OPERATOR(pg_catalog.=) b; END $$")
    session.execute("CREATE OPERATOR pg_temp.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.same)")
    for settings in ("", "SET enable_seqscan = off", "SET enable_indexscan = off; SET enable_bitmapscan = off"):
        session.execute(settings or "SELECT")  # type: ignore[call-overload]
        for statement in (f"SELECT FROM public.{table} WHERE pg_temp.leak({column})",
                          f"SELECT FROM public.{table} WHERE {column} OPERATOR(pg_temp.===) 'anything'",
                          f"SELECT FROM public.{table} AS a JOIN public.{table} AS b ON pg_temp.leak(a.{column} || b.{column})",
                          f"SELECT pg_temp.leak({column}) FROM public.{table} GROUP BY 1 HAVING pg_temp.leak(min({column}))",
                          f"INSERT INTO public.{table} (tenant_id, {column}) SELECT tenant_id, {column} FROM public.{table}"
                          f" WHERE pg_temp.leak({column}) AND false",
                          *([] if table == "agent_events" else [f"UPDATE public.{table} SET {SAME[table]} WHERE pg_temp.leak({column})"])):
            session.execute(statement)  # type: ignore[call-overload]
    assert heard and not [text for text in heard if text and "zeta" in text]
    with pytest.raises(errors.InvalidTextRepresentation) as told:
        session.execute(f"SELECT FROM public.{table} WHERE {column}::int > 0 AND tenant_id::text <> 'acme' OR {column}::int > 0")
    assert "acme secret" in str(told.value) and "zeta" not in str(told.value)


@pytest.mark.parametrize("role", UNTRUSTED)
def test_names_in_front_of_ours_change_nothing(as_role: Callable[[str], Connection], role: str) -> None:
    """Temporary tables, functions and operators in the search path before public and pg_catalog."""
    session = as_role(role)
    session.execute("CREATE TEMP TABLE agent_runs (LIKE public.agent_runs); CREATE TEMP TABLE agent_memories (LIKE public.agent_memories)")
    session.execute("CREATE FUNCTION pg_temp.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'zeta' $$;"
                    "CREATE FUNCTION pg_temp.pg_has_role(name, oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';"
                    "CREATE FUNCTION pg_temp.texteq(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';"
                    "CREATE OPERATOR pg_temp.= (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.texteq)")
    session.execute("SET search_path = pg_temp, public, pg_catalog")
    assert session.execute("SELECT tenant_id FROM public.agent_runs").fetchall() == [("acme",)]
    assert session.execute("SELECT agent_name FROM public.get_active_agent_runs('u1')").fetchall() == [("acme secret",)]
    assert session.execute("SELECT content FROM public.search_memories('{1,0,0}', 'acme')").fetchall() == [("acme secret",)]
    assert session.execute("SELECT count(*) FROM public.search_memories('{1,0,0}', 'zeta')").fetchone() == (0,)


def test_a_view_of_one_tenant_shows_another_nothing(postgres: Postgres, as_role: Callable[[str], Connection]) -> None:
    """A view and a SECURITY DEFINER function of acme, lent to zeta: zeta gets no more than acme has, and acme nothing of zeta's."""
    acme, zeta = as_role("muster_t_acme"), as_role("muster_t_zeta")
    acme.execute("CREATE VIEW public.lent AS SELECT * FROM public.agent_runs; GRANT SELECT ON public.lent TO muster_t_zeta")
    acme.execute("CREATE FUNCTION public.lent_too() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS 'SELECT agent_name FROM public.agent_runs'")
    try:
        assert acme.execute("SELECT agent_name FROM public.lent").fetchall() == [("acme secret",)]
        assert ("acme secret",) not in zeta.execute("SELECT agent_name FROM public.lent").fetchall()
        assert zeta.execute("SELECT public.lent_too()").fetchall() == [("acme secret",)], "lent by acme itself"
    finally:
        postgres.query("DROP VIEW public.lent; DROP FUNCTION public.lent_too()")


# What tells of others without showing them


@pytest.mark.parametrize("role", [*UNTRUSTED, "muster_app"])
def test_statistics_show_no_values(postgres: Postgres, as_role: Callable[[str], Connection], role: str) -> None:
    postgres.query("INSERT INTO public.agent_events (tenant_id, agent_id, event_type) SELECT 'zeta', 'z', 'zeta secret' FROM generate_series(1, 500)")
    postgres.query("ANALYZE public.agent_events, public.agent_memories")
    assert postgres.query("SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'agent_events'") == [(True,)]
    session = as_role(role)
    assert session.execute("SELECT * FROM pg_stats WHERE schemaname = 'public' AND tablename LIKE 'agent\\_%'").fetchall() == []
    assert session.execute("SELECT * FROM pg_stats_ext").fetchall() == []
    plan = str(session.execute("EXPLAIN (VERBOSE) SELECT * FROM public.agent_events WHERE event_type = 'zeta secret'").fetchall())
    assert "muster.tenants_of" in plan or "current_setting" in plan
    postgres.query("DELETE FROM public.agent_events WHERE agent_id = 'z'")


@pytest.mark.parametrize("role", [*UNTRUSTED, "muster_app"])
def test_what_others_ask_is_not_shown(as_role: Callable[[str], Connection], role: str) -> None:
    zeta, broker = as_role("muster_t_zeta"), as_role("muster_broker")
    zeta.execute("SELECT 'zeta secret', * FROM public.agent_runs")
    broker.execute("SELECT muster.listen(), 'zeta secret'")
    told = as_role(role).execute("SELECT query FROM pg_stat_activity WHERE usename IN ('muster_t_zeta', 'muster_broker')").fetchall()
    assert len(told) == 2 and all("secret" not in str(row) for row in told)


@pytest.mark.parametrize("role", [*UNTRUSTED, "muster_app"])
def test_nobody_else_hears_of_tenants_and_agents(postgres: Postgres, as_role: Callable[[str], Connection], role: str) -> None:
    """The brokers' channel has a name that only they can read; the one of old names nobody."""
    listener, broker = as_role(role), as_role("muster_broker")
    listener.execute("LISTEN muster; LISTEN \"*\"; LISTEN muster_")
    broker.execute("RESET app.current_tenant; SELECT muster.listen()")
    postgres.query("INSERT INTO muster.tenants (name) VALUES ('heard')")
    postgres.query("INSERT INTO muster.credentials (tenant, agent, role) VALUES ('heard', 'whisper', 'agent')")
    postgres.query("DELETE FROM muster.tenants WHERE name = 'heard'")
    heard = [json.loads(notice.payload) for notice in broker.notifies(timeout=5, stop_after=4)]
    assert {"kind": "credential", "op": "insert", "tenant": "heard", "agent": "whisper"} in heard
    other = [notice.payload for notice in listener.notifies(timeout=0.5)]
    assert other and all(json.loads(payload) == {"kind": "tenant", "op": "truncate"} for payload in other)


def test_large_objects_are_their_owners(postgres: Postgres, as_role: Callable[[str], Connection]) -> None:
    row = as_role("muster_t_zeta").execute("SELECT lo_from_bytea(0, 'zeta secret')").fetchone()
    assert row
    for statement in (f"SELECT lo_get({row[0]})", f"SELECT lo_put({row[0]}, 0, 'x')", f"SELECT lo_unlink({row[0]})"):
        with pytest.raises(errors.InsufficientPrivilege):
            as_role("muster_t_acme").execute(statement)  # type: ignore[call-overload]


# The whole of it, so that what is added later is held to the same


def test_every_table_of_tenants_forces_row_security(postgres: Postgres) -> None:
    """A table with a tenant in it is walled, for its owner too, but for how tables are routed, which holds no tenant's data."""
    assert postgres.query(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname IN ('muster', 'public') AND c.relkind IN ('r', 'p') AND pg_get_userbyid(c.relowner) LIKE 'muster%'"
        " AND (EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname IN ('tenant', 'tenant_id')) OR c.relname = 'tenants')"
        " AND NOT (c.relrowsecurity AND c.relforcerowsecurity) ORDER BY 1") == [("muster.tables",)]
    assert postgres.query("SELECT polrelid::regclass::text FROM pg_policy p WHERE pg_get_expr(polqual, polrelid) = 'true'"
                          " AND polroles <> ARRAY['muster_engine'::regrole::oid]") == [], "the engine alone passes every row"
    assert postgres.query("SELECT polrelid::regclass::text, polcmd, polroles::regrole[]::text FROM pg_policy"
                          " WHERE NOT polpermissive OR polwithcheck IS NOT NULL ORDER BY 1") == [
                              ("agent_runs", "*", "{muster_app,muster_tenants}"),  # only fewer rows
                              ("agent_sessions", "w", "{muster_tenants}"),  # as that
                              ("muster.audit", "a", "{muster_owner}")], "it writes, and reads nothing"


def test_every_view_and_function_is_as_it_must_be(postgres: Postgres) -> None:
    assert postgres.query("SELECT relname FROM pg_class WHERE relkind = 'v' AND pg_get_userbyid(relowner) LIKE 'muster%'"
                          " AND NOT coalesce(reloptions, '{}') @> '{security_invoker=true}'") == []
    assert postgres.query(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pg_get_userbyid(proowner) LIKE 'muster%' AND prosqlbody IS NULL"
        " AND NOT coalesce(proconfig, '{}') @> ARRAY['search_path=pg_catalog, pg_temp']") == []
    assert postgres.query("SELECT proname, proowner::regrole::text FROM pg_proc WHERE prosecdef AND pg_get_userbyid(proowner) LIKE 'muster%'"
                          " ORDER BY 1") == sorted(
        [("audit_change", "muster_owner"), ("emit", "muster_owner"), ("purge_requests", "muster_engine"), ("tenants_of", "muster_engine")]
        + [(f"task_{verb}", "muster_engine") for verb in "due orphans settle purge tenants".split()] + [(f"task_{verb}", "muster_owner") for verb in (
            "submit submit_many retry give accept decline progress complete fail need_input provide_input input_failed cancel cancelled pause resume"
            " unroutable session_lost fire settle_one plain plain_done forgotten").split()]
        + [(name, "muster_engine") for name in "run_due run_stuck run_tiers run_orphans run_purge event_purge".split()] + [(f"run_{verb}", "muster_owner") for verb in (
            "start progress status complete fail escalate retry cancel verification session_lost late fire watch tier end_with plain plain_done forgotten").split()]
        + [(f"help_{verb}", "muster_engine") for verb in "due looking orphans purge involved".split()] + [(f"help_{verb}", "muster_owner") for verb in (
            "request offer claim decline answer knowledge accept reject escalate resolve withdraw retry session_lost fire task_over").split()])
    assert postgres.query("SELECT oid::regprocedure::text FROM pg_proc WHERE pg_get_userbyid(proowner) LIKE 'muster%'"
                          " AND has_function_privilege('public', oid, 'EXECUTE')") == []
    assert postgres.query("SELECT relname FROM pg_class, (VALUES ('public'), ('muster_app'), ('muster_tenants')) AS r (role) WHERE relkind = 'S'"
                          " AND pg_get_userbyid(relowner) LIKE 'muster%' AND has_sequence_privilege(role, pg_class.oid, 'USAGE, SELECT')") == [], \
        "a sequence would tell everybody how much others do"
    assert postgres.query("SELECT has_schema_privilege('muster_owner', 'public', 'CREATE')") == [(False,)]


def test_the_registry_shows_a_broker_one_tenant_while_it_serves_one(as_role: Callable[[str], Connection]) -> None:
    broker = as_role("muster_broker")
    for statement in ("SELECT tenant FROM muster.credentials", "SELECT name FROM muster.tenants", "SELECT tenant FROM muster.tenant_roles"):
        assert broker.execute(statement).fetchall() == [("acme",)]
    broker.execute("INSERT INTO muster.requests VALUES ('acme', 'a1', 'x.y', 'r1', sha256(''), '{}')")
    for statement in ("INSERT INTO muster.requests VALUES ('zeta', 'a1', 'x.y', 'r1', sha256(''), '{}')",
                      "SELECT muster.once('zeta', 'a1', 'x.y', 'r2', sha256(''), NULL, '{}')",
                      "INSERT INTO muster.credentials (tenant, agent, role) VALUES ('zeta', 'evil', 'admin')",
                      "UPDATE muster.credentials SET tenant = 'zeta'"):
        with pytest.raises((errors.InsufficientPrivilege, errors.UndefinedFunction)):
            broker.execute(statement)  # type: ignore[call-overload]
    broker.execute("RESET app.current_tenant")
    assert len(broker.execute("SELECT FROM muster.credentials").fetchall()) == 2
    assert broker.execute("SELECT FROM muster.requests").fetchall() == [], "answers are a tenant's own, always"
    broker.execute("SET app.current_tenant = 'acme'")
    assert broker.execute("DELETE FROM muster.requests").rowcount == 1


def test_limits_are_read_in_sql(postgres: Postgres, as_role: Callable[[str], Connection]) -> None:
    muster(postgres, "tenant", "limits", "acme", "watches=7")
    broker = as_role("muster_broker")
    assert broker.execute("SELECT muster.limit('acme', 'watches'), muster.limit('acme', 'burst'), muster.limit('zeta', 'watches')").fetchone() \
        == (7, None, None)
    postgres.query("""UPDATE muster.tenants SET limits = '{"watches": "many"}' WHERE name = 'acme'""")
    assert broker.execute("SELECT muster.limit('acme', 'watches')").fetchone() == (None,)
    postgres.query("UPDATE muster.tenants SET limits = '{}'")


# The tables' own rules, and search


@pytest.mark.parametrize("embedding", [
    "'[1, 0, 0]'", "'{1,0,0}'", "ARRAY[1, 0, 0]", "ARRAY[1.0, 0, 0]", "ARRAY[1, 0, 0]::real[]", "ARRAY[1, 0, 0]::float8[]", "'[1,0,0]'::jsonb"])
def test_an_embedding_comes_in_any_form(as_role: Callable[[str], Connection], embedding: str) -> None:
    found = as_role("muster_t_acme").execute(f"SELECT id, tenant_id, content, similarity FROM public.search_memories({embedding}, 'acme', 10, 0.7)")  # type: ignore[call-overload]
    assert found.fetchall() == [("x", "acme", "acme secret", 1.0)]


def test_search_finds_the_nearest_of_the_same_dimension(postgres: Postgres, as_role: Callable[[str], Connection]) -> None:
    app = as_role("muster_app")
    for id_, embedding, expires in (("near", [0.9, 0.1, 0.0], None), ("far", [0, 1, 0], None), ("other", [1, 0], None), ("gone", [1, 0, 0], "2000-01-01"),
                                    ("opposite", [-1, 0, 0], None), ("none", None, None)):
        app.execute("INSERT INTO public.agent_memories (tenant_id, id, agent_id, content, embedding, expires_at)"
                    " VALUES ('acme', %s, 'a1', 'c', %s, %s)", (id_, embedding, expires))
    search = "SELECT id, similarity FROM public.search_memories(%s, 'acme'"
    rows = app.execute(search + ")", ([2.0, 0.0, 0.0],)).fetchall()
    assert [id_ for id_, _ in rows] == ["x", "near"]
    assert rows[0][1] == pytest.approx(1) and rows[1][1] == pytest.approx(0.9 / (0.82 ** 0.5))
    assert [row[0] for row in app.execute(search + ", 1)", ([1.0, 0.0, 0.0],))] == ["x"]
    assert len(app.execute(search + ", 10, -2)", ([1.0, 0.0, 0.0],)).fetchall()) == 4
    for nowhere in ([0.0, 0.0, 0.0], [float("nan"), 1.0, 0.0], [1.0], []):
        assert app.execute(search + ", 10, -2)", (nowhere,)).fetchall() == []
    for bad in ("{0,0,0}", "{NaN,1}", "{1,Infinity}", "{1,NULL}", "{}", "{{1,2},{3,4}}"):
        with pytest.raises(errors.CheckViolation):
            app.execute("UPDATE public.agent_memories SET embedding = %s::real[] WHERE id = 'near'", (bad,))


@pytest.mark.parametrize("statement", [
    "INSERT INTO public.agent_runs (tenant_id, agent_name) VALUES ('acme', 'n')",
    "INSERT INTO public.agent_runs (agent_name, agent_id) VALUES ('n', 'a')",
    "UPDATE public.agent_runs SET status = 'done'", "UPDATE public.agent_runs SET progress_percent = 101",
    "UPDATE public.agent_sessions SET status = 'away'", "UPDATE public.agent_tasks SET status = 'pending'",
    "UPDATE public.agent_tasks SET priority = 'urgent'",
    "INSERT INTO public.agent_tasks (tenant_id, task_id, description) VALUES ('acme', 't1', 'again')",
    "INSERT INTO public.agent_sessions (tenant_id, session_id, agent_id) VALUES ('acme', 's1', 'again')",
])
def test_a_row_that_is_none_is_refused(as_role: Callable[[str], Connection], statement: str) -> None:
    with pytest.raises((errors.IntegrityError, errors.CheckViolation, errors.InsufficientPrivilege)):
        as_role("muster_app").execute(statement)  # type: ignore[call-overload]


def test_an_insert_needs_what_the_documents_say(as_role: Callable[[str], Connection]) -> None:
    app = as_role("muster_app")
    row = app.execute("INSERT INTO public.agent_runs (tenant_id, agent_name, agent_id) VALUES ('acme', 'n', 'a')"
                      " RETURNING id, status, progress_percent, metadata, verification_evidence, updated_at").fetchone()
    assert row and re.fullmatch(r"[0-9a-f-]{36}", row[0]) and row[1:5] == ("pending", 0, {}, [])
    later = app.execute("UPDATE public.agent_runs SET status = 'in_progress' WHERE id = %s RETURNING updated_at", (row[0],)).fetchone()
    assert later and later[0] > row[5]
    tenant = as_role("muster_t_acme")
    at = tenant.execute("UPDATE public.agent_runs SET current_step = 's', updated_at = '2000-01-01T00:00:00Z' WHERE id = %s RETURNING updated_at", (row[0],)).fetchone()
    assert at and at[0] > later[0]
    views = {view: [column.name for column in app.execute(f"SELECT * FROM public.{view}").description or []] for view in VIEWS}
    assert views["active_sessions"] == ["tenant_id", "agent_id", "session_id", "started_at", "metadata", "memory_count", "last_memory_at"]
    assert views["hub_statistics"] == ["tenant_id", "total_agents", "total_sessions", "total_memories", "first_memory_at", "last_memory_at"]
    assert views["task_status_summary"] == ["tenant_id", "status", "priority", "task_count", "avg_duration_seconds"]
    assert views["agent_run_summaries"][-2:] == ["task_description", "duration_seconds"]
    assert app.execute("SELECT task_description FROM public.agent_run_summaries WHERE id = 'x'").fetchone() == ("acme secret",)


# The command line


def test_a_role_is_made_with_its_tenant(postgres: Postgres) -> None:
    assert postgres.query("SELECT tenant::text, role FROM muster.tenant_roles ORDER BY 1")[::2] == [("acme", "muster_t_acme"), ("zeta", "muster_t_zeta")]
    assert postgres.query("SELECT rolname FROM pg_roles WHERE rolname LIKE 'muster\\_t\\_%' AND (rolsuper OR rolbypassrls OR rolcreaterole"
                          " OR rolcreatedb OR rolreplication OR NOT rolinherit)") == []
    role = postgres.query("SELECT role FROM muster.tenant_roles WHERE tenant = %s", (LONG,))[0][0]
    assert re.fullmatch(r"muster_t_~[a-z2-7]{16}", role), "PostgreSQL would cut a longer one"
    assert postgres.query("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", (role,)) == [(False,)]


def test_a_login_is_written_to_a_file_and_nowhere_else(postgres: Postgres, tmp_path: Path) -> None:
    file = tmp_path / "acme.dsn"
    done = muster(postgres, "tenant", "role", "acme", "--out", str(file), "--connections", "3")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    password = re.search(r"password='?([^' ]+)", file.read_text())
    assert password and len(password[1]) >= 40 and password[1] not in done.stdout + done.stderr + postgres.log()
    assert postgres.query("SELECT rolpassword LIKE 'SCRAM-SHA-256$%', rolconnlimit FROM pg_authid WHERE rolname = 'muster_t_acme'") == [(True, 3)]
    with psycopg.connect(file.read_text().strip()) as session:
        assert session.execute("SELECT tenant_id FROM public.agent_runs").fetchall() == [("acme",)]
    muster(postgres, "tenant", "role", "acme")
    assert postgres.query("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'muster_t_acme'") == [(True,)], "a login stays one"
    postgres.query("ALTER ROLE muster_t_acme CONNECTION LIMIT -1")


def test_a_role_of_somebody_else_is_not_taken_unasked(postgres: Postgres) -> None:
    postgres.query("CREATE ROLE muster_t_gamma LOGIN; CREATE ROLE bob LOGIN; GRANT muster_t_gamma TO bob")
    assert "--adopt" in muster(postgres, "tenant", "add", "gamma").stderr
    refused = muster(postgres, "tenant", "role", "gamma", check=False)
    assert refused.returncode == 1 and "muster_t_gamma exists and is not of this database" in refused.stderr
    postgres.query("GRANT muster_app TO muster_t_gamma")
    refused = muster(postgres, "tenant", "role", "gamma", "--adopt", check=False)
    assert refused.returncode == 1 and "into role muster_app" in refused.stderr
    postgres.query("REVOKE muster_app FROM muster_t_gamma")
    assert "muster_t_gamma" in muster(postgres, "tenant", "role", "gamma", "--adopt").stdout
    muster(postgres, "tenant", "rm", "gamma")
    assert postgres.query("SELECT FROM pg_roles WHERE rolname = 'muster_t_gamma'") == []
    assert "there is no tenant gamma" in muster(postgres, "tenant", "role", "gamma", check=False).stderr
    for wrong in (["a", "b"], ["acme", "--connections", "3"], ["acme", "--out", "f", "--connections", "0"], ["--no"]):
        assert muster(postgres, "tenant", "role", *wrong, check=False).returncode == 2
    postgres.query("DROP ROLE bob")


def test_the_next_tenant_of_a_name_inherits_nothing(postgres: Postgres, as_role: Callable[[str], Connection]) -> None:
    """Neither rows for the new one, nor the new one's rows for whom the old role was granted to."""
    muster(postgres, "tenant", "add", "delta")
    postgres.query("CREATE ROLE carol LOGIN; GRANT muster_t_delta TO carol; GRANT CREATE ON SCHEMA public TO muster_t_delta")
    for table in TABLES:
        postgres.query(ROWS[table], {"t": "delta", "s": "delta secret"})
    postgres.query("INSERT INTO muster.requests VALUES ('delta', 'a1', 'x.y', 'r1', sha256(''), '{}')")
    carol = as_role("carol")
    assert carol.execute("SELECT tenant_id FROM public.agent_runs").fetchall() == [("delta",)]
    done = muster(postgres, "tenant", "rm", "delta")
    assert "note: the role muster_t_delta of delta stays" in done.stderr, "it has a grant that is not ours to take"
    for table in TABLES:
        assert postgres.query(f"SELECT FROM public.{table} WHERE tenant_id = 'delta'") == []
    assert postgres.query("SELECT FROM muster.requests WHERE tenant = 'delta'") == []
    zeta_is_untouched(postgres)
    assert "--adopt" in muster(postgres, "tenant", "add", "delta").stderr
    postgres.query(ROWS["agent_runs"], {"t": "delta", "s": "new secret"})
    assert carol.execute("SELECT * FROM public.agent_runs").fetchall() == []
    postgres.query("DROP OWNED BY muster_t_delta; DROP ROLE muster_t_delta, carol; DELETE FROM public.agent_runs WHERE tenant_id = 'delta'")
    muster(postgres, "tenant", "rm", "delta")


def test_a_tenant_is_removed_under_the_brokers_login_too(postgres: Postgres) -> None:
    postgres.query("INSERT INTO muster.tenants (name) VALUES ('eps')")
    for table in TABLES:
        postgres.query(ROWS[table], {"t": "eps", "s": "eps secret"})
    run_cli(["tenant", "rm", "eps"], {"MUSTER_POSTGRES_DSN": postgres.dsn("muster_broker"), "MUSTER_POSTGRES_ADMIN_DSN": ""})
    assert postgres.query("SELECT FROM public.agent_memories WHERE tenant_id = 'eps'") == []
    zeta_is_untouched(postgres)


@pytest.mark.parametrize("role", ["postgres", "muster_broker"])
def test_an_answer_that_came_after_the_end_is_not_the_next_tenants(postgres: Postgres, role: str) -> None:
    """A broker's transaction that is under way when its tenant is removed ends after it."""
    env = {"MUSTER_POSTGRES_DSN": postgres.dsn("muster_broker"), "MUSTER_POSTGRES_ADMIN_DSN": postgres.dsn() if role == "postgres" else ""}
    run_cli(["tenant", "add", "iota", "kappa"], env)
    with psycopg.connect(postgres.dsn("muster_broker")) as broker:
        broker.execute("SELECT set_config('app.current_tenant', 'iota', true)")
        broker.execute("INSERT INTO muster.requests VALUES ('iota', 'a1', 'x.y', 'r1', sha256(''), '{}')")
        run_cli(["tenant", "rm", "iota"], env)
    run_cli(["tenant", "add", "iota", "lambda"], env)
    assert postgres.query("SELECT FROM muster.requests WHERE tenant = 'iota'") == []
    for tenant in ("iota", "kappa", "lambda"):
        run_cli(["tenant", "rm", tenant], env)


def test_members_of_the_owner_administer(postgres: Postgres) -> None:
    """What they could before there was row security: it would not refuse them but show them nothing."""
    postgres.query("CREATE ROLE keeper LOGIN; GRANT muster_owner TO keeper; CREATE SCHEMA keeper AUTHORIZATION keeper;"
                   " CREATE TABLE keeper.t (id int PRIMARY KEY); ALTER TABLE keeper.t OWNER TO keeper")

    def keeper(*argv: str) -> str:
        return run_cli(list(argv), {"MUSTER_POSTGRES_ADMIN_DSN": postgres.dsn("keeper")}).stdout

    try:
        keeper("tenant", "add", "theta")
        assert "theta" in keeper("tenant", "list") and "acme" in keeper("tenant", "list")
        keeper("publish", "keeper.t", "--tenant", "acme")
        assert postgres.query("SELECT tenant FROM muster.tables WHERE schema_name = 'keeper'") == [("acme",)]
        for table in TABLES:
            postgres.query(ROWS[table], {"t": "theta", "s": "theta secret"})
        with psycopg.connect(postgres.dsn("keeper"), autocommit=True) as session:
            for table in TABLES:
                assert session.execute(sql.SQL("SELECT FROM public.{}").format(sql.Identifier(table))).fetchall() == []
        keeper("tenant", "rm", "theta")
        assert postgres.query("SELECT FROM public.agent_memories WHERE tenant_id = 'theta'") == []
        zeta_is_untouched(postgres)
    finally:
        postgres.query("DELETE FROM muster.tables WHERE schema_name = 'keeper'; DROP OWNED BY keeper CASCADE; DROP ROLE keeper")


# migrate


@pytest.fixture
def other_database(postgres: Postgres) -> Generator[Callable[[], tuple[str, dict[str, str]]], None, None]:
    """A further database of the cluster, empty."""
    names: list[str] = []

    def make() -> tuple[str, dict[str, str]]:
        names.append(f"other{len(names)}")
        postgres.query(f"CREATE DATABASE {names[-1]}")
        dsn = postgres.dsn().replace("/muster", f"/{names[-1]}")
        return dsn, {"MUSTER_POSTGRES_ADMIN_DSN": dsn}

    yield make
    for name in names:
        postgres.query(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize(("theirs", "named", "away"), [
    ("CREATE TABLE public.agent_runs (id uuid PRIMARY KEY, tenant_id text)", "public.agent_runs", "ALTER TABLE public.agent_runs SET SCHEMA before_muster"),
    ("CREATE VIEW public.hub_statistics AS SELECT 1 AS one", "public.hub_statistics", "ALTER VIEW public.hub_statistics SET SCHEMA before_muster"),
    ("CREATE FUNCTION public.search_memories(a int) RETURNS int LANGUAGE sql RETURN a", "function public.search_memories(integer)",
     "ALTER FUNCTION public.search_memories(int) SET SCHEMA before_muster"),
])
def test_an_applications_own_tables_are_refused_by_name(
        other_database: Callable[[], tuple[str, dict[str, str]]], theirs: str, named: str, away: str) -> None:
    dsn, env = other_database()
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(theirs)  # type: ignore[call-overload]
        refused = run_cli(["migrate"], env, check=False)
        assert refused.returncode == 1 and refused.stderr.count("\n") == 1
        assert f"in the way of its own: {named}" in refused.stderr and "SET SCHEMA before_muster" in refused.stderr
        admin.execute("CREATE SCHEMA before_muster")
        admin.execute(away)  # type: ignore[call-overload]
    assert "applied 007_agent_tables\n" in run_cli(["migrate"], env).stdout
    assert run_cli(["migrate"], env).stdout.startswith("0 applied, ")


def test_migrate_puts_the_walls_up_again(other_database: Callable[[], tuple[str, dict[str, str]]]) -> None:
    """As after a restore without owners, policies and publications."""
    dsn, env = other_database()
    run_cli(["migrate"], env)
    state = ("SELECT array_agg(p.polrelid::regclass || ' ' || polname || ' ' || polroles::regrole[]::text || pg_get_expr(polqual, polrelid)"
             "  ORDER BY p.polrelid::regclass::text, polname) FROM pg_policy p",
             "SELECT array_agg(relname || relowner::regrole || relrowsecurity || relforcerowsecurity || relacl::text ORDER BY relname) FROM pg_class"
             " WHERE relnamespace IN ('muster'::regnamespace, 'public'::regnamespace) AND relkind IN ('r', 'v')",
             "SELECT array_agg(oid::regprocedure || proowner::text || proacl::text ORDER BY oid) FROM pg_proc"
             " WHERE pronamespace IN ('muster'::regnamespace, 'public'::regnamespace)",
             "SELECT array_agg(pubname || schemaname || tablename || attnames::text ORDER BY pubname, tablename) FROM pg_publication_tables")
    with psycopg.connect(dsn, autocommit=True) as admin:
        before = [admin.execute(question).fetchall() for question in state]
        for table in TABLES:
            for policy in ("engine", "setting", "role"):
                admin.execute(f"DROP POLICY {policy} ON public.{table}")
            admin.execute(f"ALTER TABLE public.{table} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY")
            admin.execute(f"ALTER TABLE public.{table} OWNER TO postgres; GRANT SELECT ON public.{table} TO muster_owner")
            admin.execute(f"REVOKE SELECT ON public.{table} FROM muster_owner")
        admin.execute("DROP POLICY setting ON muster.requests; ALTER VIEW public.active_sessions OWNER TO postgres;"
                      "ALTER FUNCTION muster.purge_requests(int) OWNER TO postgres; ALTER FUNCTION public.delete_expired_memories() OWNER TO postgres;"
                      "GRANT EXECUTE ON FUNCTION public.delete_expired_memories(), muster.purge_requests(int) TO PUBLIC; DROP PUBLICATION muster;"
                      "TRUNCATE muster.channel; GRANT INSERT ON public.agent_sessions TO muster_tenants")  # as 0.4 did
        run_cli(["migrate"], env)
        run_cli(["tenant", "add", "heard"], env)
        after = [admin.execute(question).fetchall() for question in state]
        for was, now in zip(before[:1] + before[3:], after[:1] + after[3:]):
            assert was == now
        assert admin.execute("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
                             " AND relrowsecurity AND relforcerowsecurity AND relowner = 'muster_owner'::regrole").fetchone() == (5,)
        assert admin.execute("SELECT has_table_privilege('muster_tenants', 'public.agent_sessions', 'INSERT')").fetchone() == (False,)
        assert admin.execute("SELECT oid::regprocedure FROM pg_proc WHERE pronamespace IN ('muster'::regnamespace, 'public'::regnamespace)"
                             " AND (proowner = 'postgres'::regrole OR has_function_privilege('public', oid, 'EXECUTE'))").fetchall() == []


def test_migrate_holds_nobody_up_behind_a_long_transaction(other_database: Callable[[], tuple[str, dict[str, str]]]) -> None:
    """A dump reads for hours. Who waits for a table that it reads makes everybody wait who comes after."""
    dsn, env = other_database()
    run_cli(["migrate"], env)
    with psycopg.connect(dsn) as dump, psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("ALTER TABLE muster.credentials DISABLE ROW LEVEL SECURITY")
        dump.execute("SELECT FROM muster.credentials")
        refused = run_cli(["migrate"], env, check=False)
        assert refused.returncode == 1 and "always: " in refused.stderr and "run it again when it is over" in refused.stderr
        dump.rollback()
        run_cli(["migrate"], env)
        assert admin.execute("SELECT relrowsecurity FROM pg_class WHERE oid = 'muster.credentials'::regclass").fetchone() == (True,)


def test_a_role_of_one_database_opens_nothing_in_another(
        postgres: Postgres, other_database: Callable[[], tuple[str, dict[str, str]]]) -> None:
    dsn, env = other_database()
    run_cli(["migrate"], env)
    assert "--adopt" in run_cli(["tenant", "add", "acme"], env).stderr
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(ROWS["agent_runs"], {"t": "acme", "s": "another's acme"})
    with psycopg.connect(dsn.replace("postgres@", "muster_t_acme@"), autocommit=True) as session:
        assert session.execute("SELECT * FROM public.agent_runs").fetchall() == []


# Capture


def test_rows_behind_the_wall_are_captured(site: Site, watch: Callable[[str], Watcher]) -> None:
    """Written by each kind of role, heard by the tenant alone, an embedding by nobody; what a role may not write nobody hears of."""
    site.broker().start()
    acme, zeta = watch("acme"), watch("zeta")
    site.cli("tenant", "role", "acme", "--out", str(site.folder / "acme.dsn"))
    with psycopg.connect(site.postgres.dsn("muster_app"), autocommit=True) as app, \
            psycopg.connect((site.folder / "acme.dsn").read_text().strip(), autocommit=True) as own:
        for tenant in ("acme", "zeta"):
            app.execute(sql.SQL("SET app.current_tenant = {}").format(tenant))
            for table in TABLES:
                app.execute(ROWS[table], {"t": tenant, "s": f"{tenant} secret"})
        for table in TABLES:
            if table != "agent_events":
                own.execute(f"UPDATE public.{table} SET {FORGED[table]}")
            with pytest.raises(errors.InsufficientPrivilege):
                own.execute(ROWS[table].replace("'x'", "'y'"), {"t": "zeta", "s": "forged"})
        app.execute("SET app.current_tenant = 'acme'")
        for table in TABLES:
            app.execute(f"DELETE FROM public.{table}")
    wait_until(lambda: len(acme.changes) >= 14 and len(zeta.changes) >= 5, 15, f"14 and 5 changes: {len(acme.changes)}, {len(zeta.changes)}")
    assert [(c.channel, c.body["op"]) for c in acme.changes] == [
        (f"main.public.{table}", op) for op in ("insert", "update", "delete") for table in TABLES
        if (table, op) != ("agent_events", "update")]
    assert [(c.channel, c.body["op"]) for c in zeta.changes] == [(f"main.public.{table}", "insert") for table in TABLES]
    assert "zeta" not in json.dumps([c.body for c in acme.changes]) and "acme" not in json.dumps([c.body for c in zeta.changes])
    memory = next(c.body for c in acme.changes if c.channel.endswith("agent_memories"))
    assert "embedding" not in memory["new"] and memory["new"]["content"] == "acme secret"
    assert all(c.body["key"] == {"tenant_id": c.tenant, "id": "x"} for c in acme.changes + zeta.changes)
