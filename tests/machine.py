"""A machine as SQL, by itself: a database with its tables, and the connection of a broker that serves one tenant."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from harness import Postgres


@contextmanager
def database(*statements: str) -> Generator[Postgres, None, None]:
    """Migrated, with the tenants acme and zeta, and what the statements make."""
    folder = Path(tempfile.mkdtemp(prefix="muster-machine-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user when the tests run as root
    server = Postgres(folder, migrated=True)
    try:
        server.start()
        for statement in ("INSERT INTO muster.tenants (name) VALUES ('acme'), ('zeta')", *statements):
            server.query(statement)
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


class Caller:
    """One session for all, as a broker's: what it has compiled stays."""

    machine: str

    def __init__(self, postgres: Postgres, tenant: str = "acme") -> None:
        self.postgres = postgres
        self.connection = psycopg.connect(postgres.dsn("muster_broker"), autocommit=True)
        self.connection.execute("SELECT set_config('app.current_tenant', %s, false)", [tenant])
        self.tenant = tenant

    def call(self, function: str, actor: str, **args: Any) -> dict[str, Any]:
        found = self.connection.execute(f"SELECT muster.{function}(%s, %s, %s)", [self.tenant, actor, json.dumps(args)]).fetchall()  # type: ignore[arg-type]
        return dict(found[0][0])

    def ask(self, verb: str, actor: str, **args: Any) -> dict[str, Any]:
        return self.call(f"{self.machine}_{verb}", actor, **args)

    def do(self, verb: str, actor: str, **args: Any) -> dict[str, Any]:
        outcome = self.ask(verb, actor, **args)
        assert "ok" in outcome, outcome
        return dict(outcome["ok"])

    def refused(self, verb: str, actor: str, **args: Any) -> tuple[str, str]:
        outcome = self.ask(verb, actor, **args)
        assert "error" in outcome, outcome
        return outcome["error"]["code"], outcome["error"]["message"]

    def value(self, statement: str, *args: Any) -> Any:
        return self.connection.execute(statement, args).fetchall()[0][0]  # type: ignore[arg-type]

    def rest(self) -> None:
        """Nothing of one test is left for the next."""
        self.connection.rollback()
        self.connection.execute("RESET lock_timeout")
