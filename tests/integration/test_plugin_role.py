"""muster plugin role: the login that a plugin in a child gets, what it may reach, and its password."""

from __future__ import annotations

import shutil
import stat
import tempfile
from collections.abc import Generator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from harness import Postgres, run_cli, wait_until


@pytest.fixture(scope="module")
def postgres() -> Generator[Postgres, None, None]:
    """Who is a plugin has to know its password; the others are trusted."""
    folder = Path(tempfile.mkdtemp(prefix="muster-role-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user when the tests run as root
    server = Postgres(folder)
    hba = server.data / "pg_hba.conf"
    names = ",".join(f"muster_plugin_{name}" for name in ("audit", "rotated", "kept", "let"))
    hba.write_text(f"host all {names} 127.0.0.1/32 scram-sha-256\n{hba.read_text()}")
    try:
        server.start()
        for argv in (["migrate"], ["tenant", "add", "acme"]):
            run_cli(argv, {"MUSTER_POSTGRES_ADMIN_DSN": server.dsn()})
        server.query("CREATE TABLE public.orders (id int PRIMARY KEY, tenant_id text)")
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def role(postgres: Postgres, *argv: str, code: int = 0) -> str:
    done = run_cli(["plugin", "role", *argv], {"MUSTER_POSTGRES_ADMIN_DSN": postgres.dsn()}, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


def test_it_may_connect_and_no_more(postgres: Postgres, tmp_path: Path) -> None:
    file = tmp_path / "audit.dsn"
    assert role(postgres, "audit", "--out", str(file)) == f"{file}: the connection string of muster_plugin_audit\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    dsn = file.read_text().strip()
    assert "user='muster_plugin_audit' password='" in dsn and f"port='{postgres.port}'" in dsn
    tables = postgres.query("SELECT quote_ident(relname) FROM pg_class WHERE relnamespace = 'muster'::regnamespace AND relkind IN ('r', 'p', 'v')")
    functions = postgres.query("SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'muster'::regnamespace")
    assert len(tables) >= 4 and functions
    with psycopg.connect(dsn, autocommit=True) as plugin:
        for (table,) in tables:
            for statement in (f"SELECT FROM muster.{table}", f"DELETE FROM muster.{table}"):
                with pytest.raises(errors.InsufficientPrivilege):
                    plugin.execute(statement)
        with pytest.raises(errors.InsufficientPrivilege):
            plugin.execute("SELECT FROM public.orders")
        for statement in ("CREATE SCHEMA mine", "CREATE ROLE mine", "CREATE TABLE muster.mine ()", "SET ROLE muster_broker", "SET ROLE muster_owner",
                          "SELECT pg_create_logical_replication_slot('mine', 'pgoutput')", "SELECT pg_read_file('pg_hba.conf')"):
            with pytest.raises(errors.InsufficientPrivilege):
                plugin.execute(statement)
        assert plugin.execute("SELECT count(*) FROM pg_proc p WHERE pronamespace = 'muster'::regnamespace"
                              " AND has_schema_privilege('muster', 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE')").fetchone() == (0,)
    row = postgres.query("SELECT rolsuper, rolbypassrls, rolreplication, rolcreatedb, rolcreaterole, rolconnlimit, rolcanlogin"
                         " FROM pg_roles WHERE rolname = 'muster_plugin_audit'")
    assert row == [(False, False, False, False, False, 20, True)]


def test_it_gets_only_so_many_connections(postgres: Postgres, tmp_path: Path) -> None:
    role(postgres, "kept", "--out", str(tmp_path / "k"), "--connections", "1")
    dsn = (tmp_path / "k").read_text().strip()
    with psycopg.connect(dsn):
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            psycopg.connect(dsn)


def test_again_is_another_password_and_the_same_grants(postgres: Postgres, tmp_path: Path) -> None:
    file = tmp_path / "r"
    role(postgres, "rotated", "--out", str(file))
    first = file.read_text().strip()
    postgres.query("GRANT SELECT ON public.orders TO muster_plugin_rotated")
    postgres.query("ALTER ROLE muster_plugin_rotated CREATEDB")
    role(postgres, "rotated", "--out", str(file))
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(first)
    wait_until(lambda: psycopg.connect(file.read_text().strip()).execute("SELECT count(*) FROM public.orders").fetchone() == (0,), 5, "the grant")
    assert postgres.query("SELECT rolcreatedb FROM pg_roles WHERE rolname = 'muster_plugin_rotated'") == [(False,)]


def test_one_that_was_let_into_our_schema_is_refused(postgres: Postgres, tmp_path: Path) -> None:
    file = tmp_path / "l"
    role(postgres, "let", "--out", str(file))
    before = file.read_text()
    for what, named in (("USAGE ON SCHEMA muster", "schema muster"), ("pg_monitor, muster_app, muster_broker", "schema muster")):
        postgres.query(f"GRANT {what} TO muster_plugin_let")
        told = role(postgres, "let", "--out", str(file), code=1)
        assert "somebody has let muster_plugin_let into " in told and named in told
        postgres.query(f"REVOKE {what} FROM muster_plugin_let")
    assert file.read_text() == before
    psycopg.connect(before.strip()).close()


def test_a_file_that_cannot_be_written_leaves_no_role(postgres: Postgres, tmp_path: Path) -> None:
    told = role(postgres, "nowhere", "--out", str(tmp_path / "no" / "such"), code=1)
    assert "no/such" in told
    assert postgres.query("SELECT FROM pg_roles WHERE rolname = 'muster_plugin_nowhere'") == []


@pytest.mark.parametrize("argv, said", [
    ([], "0 names came, the NAME of a plugin was expected"),
    (["a b"], "a b came, the name of a plugin was expected"),
    (["x" * 50], "of at most 49 bytes"),
    (["x", "--connections", "0"], "--connections 0 came, 1 to 10000 was expected"),
    (["x", "--what"], "--what came, NAME [--out FILE] [--connections N] was expected"),
])
def test_what_is_asked_wrongly_is_told(postgres: Postgres, argv: list[str], said: str) -> None:
    assert said in role(postgres, *argv, code=2)
