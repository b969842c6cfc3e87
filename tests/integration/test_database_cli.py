"""muster migrate, publish and tenant: what they do, what they refuse, and that a refusal says what to do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from harness import Postgres, installed, run_cli, wait_until

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def postgres() -> Generator[Postgres, None, None]:
    folder = Path(tempfile.mkdtemp(prefix="muster-cli-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user when the tests run as root
    server = Postgres(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


class Database:
    """One database of the cluster, with the command line as its operator runs it."""

    def __init__(self, postgres: Postgres, name: str) -> None:
        self.postgres, self.name = postgres, name

    def dsn(self, role: str = "postgres") -> str:
        return f"postgresql://{role}@127.0.0.1:{self.postgres.port}/{self.name}"

    def query(self, statement: str, parameters: Any = None, role: str = "postgres") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn(role), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def cli(self, *argv: str, role: str = "postgres", code: int = 0) -> Done:
        done = run_cli(list(argv), {"MUSTER_POSTGRES_ADMIN_DSN": self.dsn(role)}, check=False)
        assert done.returncode == code, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
        if code:
            assert done.stderr.startswith(f"muster {argv[0]}: "), done.stderr
        return done

    def refused(self, *argv: str, role: str = "postgres", code: int = 1) -> str:
        return self.cli(*argv, role=role, code=code).stderr


@pytest.fixture
def make_database(postgres: Postgres) -> Generator[Callable[..., Database], None, None]:
    names: list[str] = []

    def make(options: str = "") -> Database:
        names.append(f"db{len(names)}")
        postgres.query(f"CREATE DATABASE {names[-1]} {options}")
        return Database(postgres, names[-1])

    yield make
    for name in names:
        postgres.query(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def template(postgres: Postgres) -> str:
    """A database as `muster migrate` leaves it, with a tenant; copied where migrate itself is not what is tested."""
    postgres.query("CREATE DATABASE migrated")
    migrated = Database(postgres, "migrated")
    migrated.cli("migrate")
    migrated.cli("tenant", "add", "acme")
    return migrated.name


@pytest.fixture
def database(make_database: Callable[..., Database], template: str) -> Database:
    return make_database(f"TEMPLATE {template}")


def recorded(database: Database) -> list[tuple[Any, ...]]:
    return database.query("SELECT name, sha256, applied_at FROM muster.migrations ORDER BY number")


# migrate


def test_migrate_twice_does_nothing(make_database: Callable[..., Database]) -> None:
    database = make_database()
    assert {row["state"] for row in json.loads(database.cli("migrate", "--status", "--json").stdout)} == {"pending", "each run"}
    assert "applied 001_roles\n" in database.cli("migrate").stdout
    before = recorded(database)
    done = database.cli("migrate")
    assert done.stdout == f"0 applied, {len(before)} in all\n" and done.stderr == ""
    assert recorded(database) == before
    status = json.loads(database.cli("migrate", "--status", "--json").stdout)
    assert status.pop() == {"name": "always", "state": "each run"}
    assert [row["name"] for row in status] == [name for name, _, _ in before]
    assert {row["state"] for row in status} == {"applied"}


def test_the_broker_may_ask_for_the_status(database: Database) -> None:
    assert "001_roles" in database.cli("migrate", "--status", role="muster_broker").stdout
    assert "may not create roles" in database.refused("migrate", role="muster_broker")


def test_a_changed_migration_is_refused_by_name(make_database: Callable[..., Database]) -> None:
    database = make_database()
    database.cli("migrate")
    database.query("UPDATE muster.migrations SET sha256 = repeat('0', 64) WHERE number = 2")
    last = database.query("DELETE FROM muster.migrations WHERE number = (SELECT max(number) FROM muster.migrations)"
                          " RETURNING name")[0][0]
    assert "002_registry was applied to this database with other contents" in database.refused("migrate")
    assert last not in {name for name, _, _ in recorded(database)}, "nothing is applied on top of what is not known"
    status = database.cli("migrate", "--status", code=1)
    assert re.search(r"^002_registry +changed", status.stdout, re.MULTILINE)


def test_a_failed_migration_leaves_nothing(make_database: Callable[..., Database]) -> None:
    database = make_database()
    database.query("CREATE SCHEMA muster")
    message = database.refused("migrate")
    assert "001_roles: " in message and "already exists" in message
    assert database.query("SELECT count(*) FROM pg_class WHERE relnamespace = 'muster'::regnamespace") == [(0,)]
    database.query("DROP SCHEMA muster")
    database.cli("migrate")


def test_a_newer_database_is_left_alone(database: Database) -> None:
    database.query("INSERT INTO muster.migrations VALUES (999, '999_future', repeat('a', 64))")
    database.query("ALTER PUBLICATION muster_registry ADD TABLE muster.requests")
    assert database.cli("migrate").stdout.startswith("0 applied")
    assert re.search(r"^999_future +newer", database.cli("migrate", "--status").stdout, re.MULTILINE)
    assert database.query("SELECT count(*) FROM pg_publication_tables WHERE pubname = 'muster_registry'") == [(3,)]


def held(database: Database) -> list[Any]:
    """What a dump of schemas does not carry: who may do what, publications, owners."""
    return [database.query(statement) for statement in (
        "SELECT proname, pronargs, proacl::text[] FROM pg_proc WHERE proname = 'pg_logical_emit_message' ORDER BY 2",
        "SELECT oid::regprocedure::text, proowner::regrole::text, has_function_privilege('public', oid, 'EXECUTE'),"
        " has_function_privilege('muster_broker', oid, 'EXECUTE') FROM pg_proc WHERE pronamespace = 'muster'::regnamespace ORDER BY 1",
        "SELECT relname, relowner::regrole::text, has_table_privilege('muster_broker', oid, 'SELECT'),"
        " has_table_privilege('muster_broker', oid, 'DELETE') FROM pg_class"
        " WHERE relnamespace = 'muster'::regnamespace AND relkind = 'r' ORDER BY 1",
        "SELECT nspowner::regrole::text, has_schema_privilege('muster_broker', oid, 'USAGE'), has_schema_privilege('public', oid, 'USAGE')"
        " FROM pg_namespace WHERE nspname = 'muster'",
        "SELECT pubname, pubowner::regrole::text, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot FROM pg_publication ORDER BY 1",
        "SELECT pubname, schemaname, tablename FROM pg_publication_tables ORDER BY 1, 2, 3",
        "SELECT rolname, rolcanlogin, rolreplication, rolsuper FROM pg_roles WHERE rolname LIKE 'muster%' ORDER BY 1",
        "SELECT defaclrole::regrole::text, defaclacl::text[] FROM pg_default_acl")]


def doctor(database: Database, config: str = "") -> dict[str, str]:
    """What doctor says of the database with the brokers' role, by code."""
    env = {"MUSTER_POSTGRES_DSN": database.dsn("muster_broker"), "MUSTER_NATS_URLS": "nats://127.0.0.1:9", "MUSTER_CONFIG": config}
    done = run_cli(["doctor", "--json"], env, check=False)
    return {c["code"]: f"{c['level']}: {c['text']}" for c in json.loads(done.stdout)["checks"]}


@pytest.mark.parametrize("options", [[], ["-x"], ["-x", "-O"]])
def test_a_restored_database_is_closed_again(database: Database, make_database: Callable[..., Database], options: list[str]) -> None:
    """Then migrate has nothing to apply, and all the same everything to do."""
    before = held(database)
    dump = subprocess.run([installed("pg_dump"), "-n", "muster", "-n", "public", *options, database.dsn()],
                          text=True, capture_output=True, check=True).stdout
    restored = make_database()
    restored.query("DROP SCHEMA public")
    subprocess.run([installed("psql"), "-qX", "-v", "ON_ERROR_STOP=1", restored.dsn()], input=dump, text=True,
                   capture_output=True, check=True)
    restored.query("ALTER ROLE muster_app NOLOGIN CREATEDB")
    assert held(restored) != before
    if not options:
        assert re.match("broken: every role may call it.*`muster migrate`", doctor(restored)["emit_open"])
    assert restored.cli("migrate").stdout.startswith("0 applied")
    assert held(restored) == before
    assert "emit_open" not in doctor(restored) and doctor(restored).keys() == doctor(database).keys()


def test_the_manual_says_how_to_leave_nothing_for_pg_upgrade(database: Database) -> None:
    """Its dump must not name the function by the signature that a newer version no longer has."""
    if int(database.query("SHOW server_version_num")[0][0]) >= 170000:
        pytest.skip("this server has the newer signature")

    def dump() -> str:
        return subprocess.run([installed("pg_dump"), "--schema-only", database.dsn()], text=True, capture_output=True, check=True).stdout

    page = (Path(__file__).parents[2] / "deploy/man/muster.1").read_text()
    statements = re.findall(r"^\.Bd -literal.*?\n(GRANT EXECUTE ON FUNCTION pg_logical.*?)^\.Ed", page, re.MULTILINE | re.DOTALL)
    assert "FUNCTION pg_catalog.pg_logical_emit_message" in dump()
    database.query(statements[0])
    assert "FUNCTION pg_catalog.pg_logical_emit_message" not in dump()
    database.cli("migrate")
    assert "FUNCTION pg_catalog.pg_logical_emit_message" in dump()


def test_doctor_finds_privileges_that_are_wrong(database: Database) -> None:
    function = database.query("SELECT min(oid::regprocedure::text) FROM pg_proc WHERE proname = 'pg_logical_emit_message'")[0][0]
    database.query(f"REVOKE EXECUTE ON FUNCTION {function} FROM muster_owner")
    assert "muster.emit() fails" in doctor(database)["emit_closed"]
    database.query(f"GRANT EXECUTE ON FUNCTION {function} TO PUBLIC")
    assert "`muster migrate`" in doctor(database)["emit_open"]
    database.cli("migrate")
    assert not {"emit_open", "emit_closed"} & doctor(database).keys()


def test_two_migrates_do_not_clash(make_database: Callable[..., Database]) -> None:
    """In one database they wait for each other; in two they make the same roles."""
    databases = [make_database(), make_database()]
    outcomes: list[int] = []
    runs = [threading.Thread(target=lambda d=d: outcomes.append(d.cli("migrate").returncode)) for d in databases * 3]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert outcomes == [0] * 6
    assert len(recorded(databases[0])) == len(recorded(databases[1])) > 0


def test_migrate_waits_for_who_is_at_it(make_database: Callable[..., Database]) -> None:
    database = make_database()
    with psycopg.connect(database.dsn(), autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(4716820301)")
        run = threading.Thread(target=lambda: outputs.append(database.cli("migrate").stdout))
        outputs: list[str] = []
        run.start()
        run.join(1)
        assert run.is_alive() and database.query("SELECT to_regclass('muster.migrations')") == [(None,)]
        other.execute("SELECT pg_advisory_unlock(4716820301)")
        run.join()
    assert "waiting" in outputs[0] and "applied 001_roles" in outputs[0]


def test_wrong_roles_are_put_right(make_database: Callable[..., Database]) -> None:
    database = make_database()
    database.query("DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'muster_broker') THEN"
                   " CREATE ROLE muster_broker; END IF; END $$")
    database.query("ALTER ROLE muster_broker SUPERUSER BYPASSRLS NOLOGIN NOREPLICATION PASSWORD 'kept'")
    database.cli("migrate")
    assert database.query("SELECT rolsuper, rolbypassrls, rolcanlogin, rolreplication, rolpassword IS NOT NULL"
                          " FROM pg_authid WHERE rolname = 'muster_broker'") == [(False, False, True, True, True)]


def test_a_role_that_may_only_create_roles_is_told_what_is_missing(make_database: Callable[..., Database]) -> None:
    """On 15 such a role cannot close the emit function; it must not end with a schema whose door is open."""
    database = make_database()
    database.query("DROP ROLE IF EXISTS maker")
    database.query("CREATE ROLE maker LOGIN CREATEROLE")
    try:
        message = database.refused("migrate", role="maker")
        assert re.match(r"muster migrate: 00\d_\w+: .*; nothing of it was kept\n$", message), message
        assert database.query("SELECT to_regprocedure('muster.emit(text,text,text,text,jsonb)')") == [(None,)]
    finally:
        database.query("DROP OWNED BY maker")
        database.query("DROP ROLE maker")


GRAB = ("CREATE FUNCTION muster.grab() RETURNS int LANGUAGE plpgsql AS"
        " $$ BEGIN EXECUTE 'ALTER ROLE mallory SUPERUSER'; RETURN 1; END $$;")


@pytest.mark.parametrize(("schema", "create", "said"), [
    ("", "CREATE SCHEMA muster;" + GRAB + "CREATE VIEW muster.migrations AS SELECT muster.grab() AS number, 'x' AS name, 'y' AS sha256,"
     " now() AS applied_at; CREATE VIEW muster.tenants AS SELECT muster.grab()::text AS name", "schema muster belongs to mallory"),
    ("CREATE SCHEMA muster AUTHORIZATION muster_owner; GRANT CREATE ON SCHEMA muster TO mallory",
     "CREATE TABLE muster.migrations (number int, name text, sha256 text, applied_at timestamptz)",
     "muster.migrations belongs to mallory"),
    ("CREATE SCHEMA muster AUTHORIZATION muster_owner; GRANT CREATE, USAGE ON SCHEMA muster TO mallory", GRAB,
     "function muster.grab() belongs to mallory"),
    ("CREATE SCHEMA muster AUTHORIZATION muster_owner; CREATE VIEW muster.migrations AS SELECT 1 AS number;"
     " ALTER VIEW muster.migrations OWNER TO muster_owner", "SELECT", "muster.migrations is no ordinary table"),
])
def test_nothing_of_a_strangers_schema_is_run(make_database: Callable[..., Database], template: str, schema: str, create: str,
                                              said: str) -> None:
    """Who may create a schema must not become superuser because a superuser reads it."""
    database = make_database()
    database.query("DROP ROLE IF EXISTS mallory; CREATE ROLE mallory LOGIN")
    try:
        database.query(f"GRANT CREATE ON DATABASE {database.name} TO mallory; CREATE TABLE t (tenant_id text PRIMARY KEY)")
        database.query(schema or "SELECT")
        database.query(create, role="mallory")
        for argv in (["migrate"], ["migrate", "--status"], ["publish", "t"], ["publish", "t", "--tenant", "acme"],
                     ["tenant", "list"], ["tenant", "add", "x"], ["agent", "list"]):
            assert said in database.refused(*argv)
        done = run_cli(["doctor", "--json"], {"MUSTER_POSTGRES_DSN": database.dsn(), "MUSTER_NATS_URLS": "nats://127.0.0.1:9"}, check=False)
        assert {c["code"]: c["text"] for c in json.loads(done.stdout)["checks"]}["schema_foreign"].startswith(said)
        assert database.query("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'") == [(False,)]
        assert database.query("SELECT count(*) FROM pg_publication") == [(0,)]
    finally:
        database.query("DROP SCHEMA muster CASCADE; DROP OWNED BY mallory; DROP ROLE mallory")


def test_wal_level_is_warned_about(postgres: Postgres, make_database: Callable[..., Database]) -> None:
    database = make_database()
    postgres.query("ALTER SYSTEM SET wal_level = replica")
    postgres.stop()
    postgres.start()
    try:
        assert "ALTER SYSTEM SET wal_level = logical" in database.cli("migrate").stderr
    finally:
        postgres.query("ALTER SYSTEM RESET wal_level")
        postgres.stop()
        postgres.start()
    assert database.cli("migrate").stderr == ""


@pytest.mark.parametrize(("encoding", "warned"), [("WIN1252", True), ("EUC_JP", True), ("UTF8", False), ("SQL_ASCII", False)])
def test_an_encoding_with_more_than_unicode_is_warned_about(make_database: Callable[..., Database], encoding: str, warned: bool) -> None:
    database = make_database(f"ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    said = database.cli("migrate").stderr
    found = doctor(database).get("encoding", "")
    if warned:
        assert re.fullmatch(f"muster migrate: warning: the database's encoding is {encoding}: .* UTF8 was expected\n", said), said
        assert found.startswith(f"hint: {encoding}: ") and "every tenant" in found
    else:
        assert said == found == ""


def test_a_latin1_database_emits_utf8(make_database: Callable[..., Database]) -> None:
    database = make_database("ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    assert "encoding is LATIN1" in database.cli("migrate").stderr
    database.query("SELECT pg_create_logical_replication_slot('latin', 'pgoutput')")
    try:
        database.query("SELECT muster.emit('acme', 'task', 'queued', 'é', '{}')", role="muster_broker")
        rows = database.query("SELECT data FROM pg_logical_slot_get_binary_changes('latin', NULL, NULL, 'proto_version', '1',"
                              " 'publication_names', 'muster_evt', 'messages', 'true')")
        assert any("é".encode() in data for (data,) in rows)
    finally:
        database.query("SELECT pg_drop_replication_slot('latin')")


@pytest.mark.parametrize(("dsn", "expected"), [
    ("", "set MUSTER_POSTGRES_ADMIN_DSN"),
    ("postgresql://postgres:hunter2@[127.0.0.1", "not a connection string"),
    ("postgresql://postgres:hunter2@127.0.0.1:1/muster", "port 1 failed"),
    ("host=127.0.0.1 port=1 password=hunter2 nonsense", "not a connection string"),
])
def test_a_useless_dsn_is_told_without_its_password(dsn: str, expected: str) -> None:
    done = run_cli(["migrate"], {"MUSTER_POSTGRES_ADMIN_DSN": dsn}, check=False)
    assert done.returncode == 1 and expected in done.stderr and done.stderr.count("\n") == 1
    assert "hunter2" not in done.stdout + done.stderr


# publish


def published(database: Database) -> list[str]:
    return [name for (name,) in database.query(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_publication_tables WHERE pubname = 'muster'"
        " AND tablename NOT LIKE 'agent\\_%' ORDER BY 1")]


def settings(database: Database) -> list[tuple[Any, ...]]:
    return database.query("SELECT schema_name, table_name, tenant_column, tenant, owner_column, subject_key"
                          " FROM muster.tables WHERE table_name NOT LIKE 'agent\\_%' ORDER BY 1, 2")


def test_publish_keeps_its_settings(database: Database) -> None:
    database.query("CREATE TABLE orders (tenant_id text, id int, user_id text, PRIMARY KEY (tenant_id, id))")
    done = database.cli("publish", "Orders", "--owner-column", "user_id", "--subject-key")
    assert "owner column" in done.stderr and "ALTER TABLE public.orders REPLICA IDENTITY FULL;" in done.stderr
    assert settings(database) == [("public", "orders", "tenant_id", None, "user_id", True)]
    assert database.query("SELECT count(*) FROM orders", role="muster_broker") == [(0,)]
    database.cli("publish", "public.orders", "--tenant", "acme")
    assert settings(database) == [("public", "orders", None, "acme", None, False)]
    assert published(database) == ["public.orders"]


def test_publish_quoted_names_in_a_closed_schema(database: Database) -> None:
    database.query('CREATE SCHEMA "my.app"')
    database.query('CREATE TABLE "my.app"."Wei""rd" ("Tenant" text PRIMARY KEY)')
    database.cli("publish", '"my.app"."Wei""rd"', "--tenant-column", "Tenant")
    assert settings(database) == [("my.app", 'Wei"rd', "Tenant", None, None, False)]
    assert database.query('SELECT count(*) FROM "my.app"."Wei""rd"', role="muster_broker") == [(0,)]


@pytest.mark.parametrize(("create", "mend"), [
    ("CREATE TABLE t (id int PRIMARY KEY, tenant_id text)", "ALTER TABLE public.t REPLICA IDENTITY FULL;"),
    ("CREATE TABLE t (id int, tenant_id text)", "ALTER TABLE public.t REPLICA IDENTITY FULL;"),
    ("CREATE TABLE t (id int, tenant_id text, PRIMARY KEY (id, tenant_id) DEFERRABLE)",
     "ALTER TABLE public.t REPLICA IDENTITY FULL;"),
    ("CREATE TABLE t (id int PRIMARY KEY, tenant_id text NOT NULL); CREATE UNIQUE INDEX \"U x\" ON t (tenant_id, id)",
     'ALTER TABLE public.t REPLICA IDENTITY USING INDEX "U x";'),
    ("CREATE TABLE t (id int PRIMARY KEY, tenant_id text); CREATE UNIQUE INDEX u ON t (tenant_id, id)",
     "ALTER TABLE public.t REPLICA IDENTITY FULL;"),
    ("CREATE TABLE t (id int PRIMARY KEY, tenant_id text NOT NULL); CREATE UNIQUE INDEX u ON t (id) INCLUDE (tenant_id)",
     "ALTER TABLE public.t REPLICA IDENTITY FULL;"),
    ("CREATE TABLE t (id int PRIMARY KEY, tenant_id text NOT NULL);"
     " CREATE UNIQUE INDEX u ON t (tenant_id, id) WHERE id > 0", "ALTER TABLE public.t REPLICA IDENTITY FULL;"),
    ("CREATE TABLE t (id int, tenant_id text, PRIMARY KEY (tenant_id, id)); ALTER TABLE t REPLICA IDENTITY NOTHING",
     "ALTER TABLE public.t REPLICA IDENTITY DEFAULT;"),
    ("CREATE TABLE t (id int, tenant_id text, n int NOT NULL UNIQUE, PRIMARY KEY (tenant_id, id));"
     " ALTER TABLE t REPLICA IDENTITY USING INDEX t_n_key", "ALTER TABLE public.t REPLICA IDENTITY DEFAULT;"),
])
def test_an_identity_without_the_tenant_is_refused_and_mended_as_told(database: Database, create: str, mend: str) -> None:
    database.query(create)
    message = database.refused("publish", "t")
    assert re.findall(r"ALTER TABLE.*;", message) == [mend]
    assert published(database) == [] and settings(database) == []
    database.query(mend)
    database.cli("publish", "t")
    database.query("INSERT INTO t (id, tenant_id) VALUES (1, 'acme')" if "n int" not in create else
                   "INSERT INTO t VALUES (1, 'acme', 1)")
    database.query("UPDATE t SET id = 2")  # PostgreSQL refuses it where there is no identity
    assert published(database) == ["public.t"]


def test_a_mapped_table_needs_any_identity(database: Database) -> None:
    database.query("CREATE TABLE keyed (id int PRIMARY KEY); CREATE TABLE bare (id int)")
    database.cli("publish", "keyed", "--tenant", "acme")
    assert "ALTER TABLE public.bare REPLICA IDENTITY FULL;" in database.refused("publish", "bare", "--tenant", "acme")


def test_every_partition_needs_the_identity(database: Database) -> None:
    database.query("CREATE TABLE p (id int, tenant_id text) PARTITION BY RANGE (id);"
                   "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);"
                   "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20);"
                   "ALTER TABLE p REPLICA IDENTITY FULL; ALTER TABLE p1 REPLICA IDENTITY FULL")
    assert re.findall(r"ALTER TABLE.*;", database.refused("publish", "p")) == ["ALTER TABLE public.p2 REPLICA IDENTITY FULL;"]
    database.query("ALTER TABLE p2 REPLICA IDENTITY FULL")
    database.cli("publish", "p")
    database.query("INSERT INTO p VALUES (11, 'acme')")
    database.query("UPDATE p SET tenant_id = 'zeta'")


def test_children_are_not_published_along(database: Database) -> None:
    """A child has a key and a tenant of its own, or none: its UPDATEs must not fail because of the parent."""
    database.query("CREATE TABLE par (tenant_id text PRIMARY KEY, x int); CREATE TABLE bare () INHERITS (par);"
                   'CREATE TABLE "Grand" () INHERITS (bare); INSERT INTO bare VALUES (\'acme\', 1)')
    done = database.cli("publish", "par")
    assert done.stderr == ("muster publish: note: public.par has children whose rows are not sent with its own: public.bare,"
                           ' public."Grand"; publish those whose rows are to be sent by their own names\n')
    assert published(database) == ["public.par"]
    database.query("UPDATE par SET x = 2")


def test_publish_waits_for_who_writes(database: Database) -> None:
    """A transaction that wrote before would be captured as if the table were not published."""
    database.query("CREATE TABLE t (tenant_id text PRIMARY KEY); CREATE TABLE child () INHERITS (t)")
    with psycopg.connect(database.dsn()) as writer:
        writer.execute("INSERT INTO t VALUES ('acme')")
        message = database.refused("publish", "t")
        assert re.fullmatch(r"muster publish: t: transactions that write to it or change it have not ended within 10 s, and nothing was"
                            r" published; try again when they have \(pg_stat_activity shows them\)\n", message), message
        run = threading.Thread(target=lambda: database.cli("publish", "t"))
        run.start()
        wait_until(lambda: database.query("SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'ShareRowExclusiveLock'"), 9, "publish to wait")
        writer.commit()
        run.join()
        assert published(database) == ["public.t"]
        writer.execute("INSERT INTO t VALUES ('zeta')")
        database.cli("publish", "t", "--tenant", "acme")  # the settings alone wait for nobody


def test_the_same_table_twice_is_told_once(database: Database) -> None:
    database.query("CREATE TABLE alt (tenant_id text PRIMARY KEY, id int); CREATE TABLE neu (tenant_id text PRIMARY KEY)")
    assert database.cli("publish", "alt", "public.alt", "ALT", "neu").stdout.count("published ") == 2
    assert published(database) == ["public.alt", "public.neu"]


@pytest.mark.parametrize(("kind", "said"), [
    ("char(8)", 'character(8), which PostgreSQL pads with blanks, so that its rows would go to nobody; first: ALTER TABLE public.t'
                ' ALTER COLUMN "Org" TYPE text;'),
    ("padded", "is public.padded, which PostgreSQL pads"), ("boolean", "boolean, whose values are no names"), ("bytea", "bytea, whose"),
    ("timestamptz", "timestamp with time zone, whose"), ("numeric(8,2)", "numeric(8,2), whose"), ("numeric", "numeric, whose"),
    ("text[]", "text[], whose"), ("jsonb", "jsonb, whose"), ("float8", "double precision, whose"),
    *((kind, "") for kind in ("text", "varchar(8)", "name", "uuid", "smallint", "int", "bigint", "numeric(18)", "mood", "label", "amount")),
])
def test_the_type_of_a_tenant_column(database: Database, kind: str, said: str) -> None:
    database.query("CREATE TYPE mood AS ENUM ('acme'); CREATE DOMAIN label AS text; CREATE DOMAIN padded AS char(8);"
                   "CREATE DOMAIN amount AS numeric(18)")
    database.query(f'CREATE TABLE t (id int, "Org" {kind}); ALTER TABLE t REPLICA IDENTITY FULL')
    if said:
        assert said in database.refused("publish", "t", "--tenant-column", "Org")
        database.query("ALTER PUBLICATION muster ADD TABLE t; INSERT INTO muster.tables VALUES ('public', 't', 'Org')")
        config = json.dumps({"plugins": [{"name": "cdc", "instance": "main", "config": {"slot": "none"}}]})
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(config)
            file.flush()
            assert doctor(database, file.name)["table_refused"].startswith("broken: the rows are not delivered: tenant column")
    else:
        database.cli("publish", "t", "--tenant-column", "Org")


@pytest.mark.parametrize(("create", "argv", "expected"), [
    ("", ["missing"], 'no table "missing" in schema "public"'),
    ("", ["nowhere.t"], 'no table "t" in schema "nowhere"'),
    ("CREATE VIEW v AS SELECT 'acme' AS tenant_id", ["v"], "a view came"),
    ("CREATE MATERIALIZED VIEW mv AS SELECT 'acme' AS tenant_id", ["mv"], "a materialized view came"),
    ("CREATE SEQUENCE s", ["s"], "an ordinary or partitioned table was expected"),
    ("CREATE UNLOGGED TABLE u (tenant_id text PRIMARY KEY)", ["u"], "temporary or unlogged"),
    ("", ["muster.credentials"], "a table of the system"),
    ("", ["pg_catalog.pg_class"], "a table of the system"),
    ("CREATE TABLE t (id int PRIMARY KEY)", ["t"], 'no column "tenant_id"; --tenant T'),
    ("CREATE TABLE t (id int PRIMARY KEY)", ["t", "--tenant-column", "org"], 'no column "org"'),
    ("CREATE TABLE t (id int PRIMARY KEY)", ["t", "--tenant", "acme", "--owner-column", "u"], '--owner-column: the table has no'),
    ("CREATE TABLE t (id int PRIMARY KEY)", ["t", "--tenant", "nobody"], "muster tenant add nobody"),
    ("CREATE TABLE t (id int PRIMARY KEY, tenant_id text GENERATED ALWAYS AS (id::text) STORED);"
     " ALTER TABLE t REPLICA IDENTITY FULL", ["t"], "generated"),
])
def test_what_cannot_be_published_is_refused(database: Database, create: str, argv: list[str], expected: str) -> None:
    database.query(create or "SELECT 1")
    assert expected in database.refused("publish", *argv)
    assert published(database) == [] and settings(database) == []


@pytest.mark.parametrize("argv", [
    [], ["t", "--tenant", "acme", "--tenant-column", "c"], ["t", "--tenant"], ["t", "--nonsense"], ["t", "--tenant", "_x"],
    ["t", "--tenant", "a b"], ["a.b.c"], ["a b"], ['"a'], [""], ["x" * 64], ["t; DROP TABLE t"]])
def test_wrong_use_of_publish(database: Database, argv: list[str]) -> None:
    database.query("CREATE TABLE t (tenant_id text PRIMARY KEY)")
    assert "expected" in database.refused("publish", *argv, code=2)


def test_several_tables_all_or_none(database: Database) -> None:
    database.query("CREATE TABLE a (tenant_id text PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    database.refused("publish", "a", "b")
    assert published(database) == [] and settings(database) == []
    database.query("ALTER TABLE b ADD tenant_id text; ALTER TABLE b REPLICA IDENTITY FULL")
    assert database.cli("publish", "a", "b").stdout.count("published ") == 2
    assert published(database) == ["public.a", "public.b"]


def test_publish_as_the_owner_of_the_table(database: Database) -> None:
    database.query("DROP ROLE IF EXISTS app; CREATE ROLE app LOGIN; CREATE SCHEMA app AUTHORIZATION app")
    try:
        database.query("CREATE TABLE app.t (tenant_id text PRIMARY KEY)", role="app")
        assert "set MUSTER_POSTGRES_ADMIN_DSN" in database.refused("publish", "app.t", role="app")
        database.query("GRANT muster_owner TO app")
        database.cli("publish", "app.t", role="app")
        assert published(database) == ["app.t"]
        assert database.query("SELECT count(*) FROM app.t", role="muster_broker") == [(0,)]
        assert "denied" in database.refused("publish", "app.t", role="muster_broker")
    finally:
        database.query("DROP OWNED BY app CASCADE")
        database.query("DROP ROLE app")


def test_publish_before_migrate_says_so(make_database: Callable[..., Database]) -> None:
    database = make_database()
    database.query("CREATE TABLE t (tenant_id text PRIMARY KEY)")
    assert "muster migrate" in database.refused("publish", "t")


def test_names_of_a_hostile_schema_do_not_matter(database: Database) -> None:
    """A superuser's search_path must not let anybody's function or table stand in for PostgreSQL's."""
    database.query("CREATE TABLE t (tenant_id text PRIMARY KEY)")
    database.query("CREATE FUNCTION public.format(text, name, name) RETURNS text LANGUAGE plpgsql AS"
                   " $$ BEGIN RAISE 'called'; END $$")
    database.query(f"ALTER DATABASE {database.name} SET search_path = public, pg_catalog")
    database.cli("migrate")
    database.cli("publish", "t")
    database.cli("tenant", "rm", "acme")


# tenant


def test_tenants_come_and_go(database: Database) -> None:
    assert "added tenant t1" in database.cli("tenant", "add", "t1", "t2", "--history", "r3", "--encoding", "msgpack").stdout
    listed = {row["tenant"]: row for row in json.loads(database.cli("tenant", "list", "--json", role="muster_broker").stdout)}
    assert set(listed) == {"acme", "t1", "t2"}
    assert listed["acme"]["history"] == "r1" and listed["acme"]["encoding"] == "json" and listed["acme"]["limits"] == {}
    assert listed["t1"]["history"] == "r3" and listed["t1"]["encoding"] == "msgpack"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", listed["t1"]["created_at"])
    assert [row["tenant"] for row in json.loads(database.cli("tenant", "list", "--json", "--tenant", "t2").stdout)] == ["t2"]
    assert "exists already" in database.refused("tenant", "add", "t3", "t1")
    assert "t3" not in database.cli("tenant", "list").stdout, "all or none"
    database.cli("tenant", "rm", "t1")
    assert "there is no tenant t1" in database.refused("tenant", "rm", "t1")


@pytest.mark.parametrize("argv", [["tenant", "list"], ["agent", "list"], ["plugin", "list"], ["migrate", "--status"]])
def test_every_listing_takes_json_and_a_tenant(database: Database, argv: list[str]) -> None:
    everything = json.loads(database.cli(*argv, "--json").stdout)
    assert json.loads(database.cli(*argv, "--tenant", "acme", "--json").stdout) == everything
    assert "--tenant" in database.refused(*argv, "--tenant", code=2)


def test_limits_take_json(database: Database) -> None:
    assert json.loads(database.cli("tenant", "limits", "acme", "--json").stdout) == {}
    assert json.loads(database.cli("tenant", "limits", "--json", "acme", "watches=3").stdout) == {"watches": 3}
    assert "--yaml came" in database.refused("tenant", "limits", "acme", "--yaml", code=2)


def test_a_listing_says_when_there_is_no_such_tenant(database: Database) -> None:
    for argv in (["agent", "list", "acmee"], ["agent", "list", "--tenant", "acmee", "--json"], ["tenant", "list", "--tenant", "acmee"],
                 ["tenant", "limits", "acmee"], ["tenant", "rm", "acmee"]):
        done = database.cli(*argv, code=1)
        assert done.stdout == "" and done.stderr == f"muster {argv[0]}: there is no tenant acmee; did you mean acme?\n"
    assert "see `muster tenant list`" in database.refused("agent", "list", "nobody")
    assert json.loads(database.cli("agent", "list", "acme", "--json").stdout) == []


def test_a_tenant_in_use_is_not_removed(database: Database) -> None:
    database.query("INSERT INTO muster.credentials (tenant, agent, role) VALUES ('acme', 'a1', 'agent')")
    assert "muster agent revoke acme" in database.refused("tenant", "rm", "acme")
    database.query("UPDATE muster.credentials SET revoked_at = now()")
    database.query("CREATE TABLE t (id int PRIMARY KEY)")
    database.cli("publish", "t", "--tenant", "acme")
    assert "public.t" in database.refused("tenant", "rm", "acme", "--force")
    database.query("DELETE FROM muster.tables")
    database.cli("tenant", "rm", "acme")


def test_force_takes_the_credentials_along(database: Database) -> None:
    database.query("INSERT INTO muster.credentials (tenant, agent, role) VALUES ('acme', 'a1', 'agent')")
    database.query("INSERT INTO muster.requests VALUES ('acme', 'a1', 'x.y', 'r1', sha256(''), '{}')")
    assert "until they expire" in database.cli("tenant", "rm", "acme", "--force").stderr
    for table in ("credentials", "requests", "tenants"):
        assert database.query(f"SELECT count(*) FROM muster.{table}") == [(0,)]


def test_limits_are_set_and_taken_away(database: Database) -> None:
    assert json.loads(database.cli("tenant", "limits", "acme", "requests_per_s=200", "burst=400", "queued_bytes=2MiB").stdout) == {
        "requests_per_s": 200, "burst": 400, "queued_bytes": 2 << 20}
    assert json.loads(database.cli("tenant", "limits", "acme", "burst=none", "queued_bytes=").stdout) == {"requests_per_s": 200}
    assert json.loads(database.cli("tenant", "limits", "acme").stdout) == {"requests_per_s": 200}
    assert json.loads(database.cli("tenant", "limits", "acme", "requests_per_s=", "task.open=5", "subscriptions=500").stdout) == {
        "task.open": 5, "subscriptions": 500}


@pytest.mark.parametrize(("argv", "code", "expected"), [
    (["burst=5"], 1, "without requests_per_s"), (["speed=5"], 2, "requests_per_s, burst"), (["burst"], 2, "KEY=VALUE"),
    (["requests_per_s=0"], 2, "from 1 to"), (["requests_per_s=-1"], 2, "-1 came"), (["requests_per_s=1.5"], 2, "1.5 came"),
    (["requests_per_s=1KiB"], 2, "1KiB came"), (["subscriptions=501"], 2, "limits.subscriptions"),
    (["task.open=-1"], 2, "task.open"), (["task.=1"], 2, "<service>.<name>"), (["in_flight=65537"], 2, "65537 came"),
    (["queued_bytes=99999999999999999999"], 2, "queued_bytes"), (["queued_bytes=8796093022208GiB"], 2, "queued_bytes"),
])
def test_wrong_limits_are_refused(database: Database, argv: list[str], code: int, expected: str) -> None:
    assert expected in database.refused("tenant", "limits", "acme", *argv, code=code)
    assert json.loads(database.cli("tenant", "limits", "acme").stdout) == {}


@pytest.mark.parametrize("argv", [
    [], ["sing"], ["add"], ["add", "_x"], ["add", "a.b"], ["add", "x" * 65], ["add", ""], ["add", "ok", "--history", "r5"],
    ["add", "ok", "--encoding", "xml"], ["add", "ok", "--history"], ["rm"], ["rm", "a", "b"], ["list", "acme"], ["limits"]])
def test_wrong_use_of_tenant(database: Database, argv: list[str]) -> None:
    database.refused("tenant", *argv, code=2)
    assert database.query("SELECT count(*) FROM muster.tenants") == [(1,)]


def test_a_tenant_cannot_be_added_by_anybody(database: Database) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        database.query("INSERT INTO muster.tenants (name) VALUES ('x')", role="muster_app")
    assert "denied" in database.refused("tenant", "add", "x", role="muster_app")
