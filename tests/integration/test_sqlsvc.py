"""The SQL service of a lane and the registry of tenants against a real PostgreSQL that is locked, killed, stopped and restarted."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from harness import Postgres, binary, free_port, wait_until

SCHEMA = """
CREATE TABLE seen (id text, tenant text, setting text);
CREATE FUNCTION note(p_tenant text, p_id text) RETURNS text LANGUAGE sql AS $$
    INSERT INTO seen VALUES (p_id, p_tenant, current_setting('app.current_tenant')) RETURNING setting
$$;

CREATE TABLE locked (id int PRIMARY KEY);
INSERT INTO locked VALUES (1);
CREATE TABLE pledges (kept boolean CHECK (kept));
CREATE FUNCTION break_pledge() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE 'broken at the commit'; END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON pledges DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION break_pledge();
CREATE FUNCTION bad(p_how text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    CASE p_how
        WHEN 'raise' THEN RAISE 'as asked';
        WHEN 'check' THEN INSERT INTO pledges VALUES (false);
        WHEN 'deferred' THEN INSERT INTO pledges VALUES (true);
        WHEN 'lock' THEN PERFORM FROM locked FOR UPDATE;
        WHEN 'disk' THEN RAISE disk_full;
    END CASE;
    RETURN 'done';
END $$;

CREATE TABLE effects (id text);
CREATE FUNCTION muster.test_effect(tenant text, agent text, args jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.effects VALUES (args ->> 'id');
    RETURN jsonb_build_object('ok', args);
END $$;

CREATE TABLE shape (a int);
"""


@pytest.fixture(scope="module")
def postgres() -> Generator[Postgres, None, None]:
    folder = Path(tempfile.mkdtemp(prefix="muster-sqlsvc-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user when the tests run as root
    server = Postgres(folder, migrated=True)
    try:
        server.start()
        server.query(SCHEMA)
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def check(name: str, dsn: str) -> str:
    done = subprocess.run([binary("sqlsvc_check"), name, dsn], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{name}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(autouse=True)
def clean(postgres: Postgres) -> None:
    postgres.query("TRUNCATE seen, pledges, effects, muster.requests")


def test_each_of_ten_thousand_writes_runs_as_its_own_tenant(postgres: Postgres) -> None:
    check("writes", postgres.dsn())


def test_a_bad_item_hurts_only_itself(postgres: Postgres) -> None:
    with postgres.connect() as holder:
        holder.execute("SELECT FROM locked FOR UPDATE")
        check("guilty", postgres.dsn())


def test_a_tenant_is_never_seen_by_the_next_statement(postgres: Postgres) -> None:
    check("leak", postgres.dsn())


def test_an_item_reaches_the_rows_of_its_own_tenant_only(postgres: Postgres) -> None:
    check("walls", postgres.dsn("muster_broker"))
    assert postgres.query("SELECT count(*) FROM public.agent_events") == [(190,)]


@pytest.mark.parametrize("name", ["kill", "kill_plain"])
def test_killed_backends_neither_lose_nor_repeat(postgres: Postgres, name: str) -> None:
    print(check(name, postgres.dsn()))


def test_wrong_use_is_refused(postgres: Postgres) -> None:
    check("new", postgres.dsn())


def test_a_full_queue_says_so_and_when_it_is_not(postgres: Postgres) -> None:
    check("full", postgres.dsn())


def test_a_tenant_waits_for_a_turn_of_another_and_not_for_all_it_has(postgres: Postgres) -> None:
    check("turns", postgres.dsn())


def test_a_tenants_group_holds_nobody_up_but_itself(postgres: Postgres) -> None:
    check("beside", postgres.dsn())


def test_a_tenant_that_fills_its_queue_leaves_room_to_others(postgres: Postgres) -> None:
    check("share", postgres.dsn())


def test_a_plan_that_a_migration_outgrew_is_made_anew(postgres: Postgres) -> None:
    check("replan", postgres.dsn())


def test_without_a_server_every_call_is_answered_in_time() -> None:
    check("away", f"postgresql://postgres@127.0.0.1:{free_port()}/muster")


class Lines:
    """A program whose lines are awaited."""

    def __init__(self, *argv: str) -> None:
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.lines: queue.Queue[str] = queue.Queue()
        self.seen: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.strip())

    def await_line(self, start: str, deadline: float) -> str:
        end = time.monotonic() + deadline
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no line {start!r} within {deadline} s, but {self.seen}") from None
            self.seen.append(line)
            if line.startswith(start):
                return line

    def await_lines(self, wanted: set[str], deadline: float) -> None:
        """All of them, in whatever order; others may stand between."""
        end = time.monotonic() + deadline
        while wanted:
            wanted = wanted - {self.await_line("", end - time.monotonic())}

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_restart_of_the_server_heals(postgres: Postgres, end: str) -> None:
    program = Lines(binary("sqlsvc_check"), "restart", postgres.dsn())
    try:
        program.await_line("up", 10)
        getattr(postgres, end)()
        program.await_line("down", 5)
        time.sleep(1.5)  # longer than an item may wait, so that some must fail
        postgres.start()
        program.await_line("up", 10)
        assert program.process.wait(30) == 0
    finally:
        program.kill()
        if not postgres.alive:
            postgres.start()


def test_a_batch_of_slow_writes_is_not_taken_for_a_dead_link(postgres: Postgres) -> None:
    check("slow", postgres.dsn())


@pytest.fixture
def behind_a_silent_host(postgres: Postgres) -> Generator[str, None, None]:
    """Two hosts of which the first takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        yield f"postgresql://127.0.0.1:{port},127.0.0.1:{postgres.port}/muster?target_session_attrs=read-write"


def test_a_host_that_never_answers_does_not_hide_the_next(behind_a_silent_host: str) -> None:
    check("hosts", behind_a_silent_host + "&user=postgres")


def test_tenants_are_followed_behind_a_host_that_never_answers(behind_a_silent_host: str) -> None:
    program = Lines(binary("tenants_check"), behind_a_silent_host + "&user=muster_broker")
    try:
        program.await_line("down no connection within 5 s", 10)
        program.await_line("up", 10)
    finally:
        program.kill()


def test_a_server_that_falls_silent_is_given_up(postgres: Postgres) -> None:
    program = Lines(binary("sqlsvc_check"), "stall", postgres.dsn())
    try:
        program.await_line("ready", 10)
        [[pid]] = postgres.query("SELECT pid FROM pg_stat_activity WHERE application_name = 'muster victim'")
        os.kill(pid, signal.SIGSTOP)
        try:
            program.say("")
            assert program.process.wait(30) == 0
        finally:
            os.kill(pid, signal.SIGCONT)
    finally:
        program.kill()


@pytest.fixture
def tenants(postgres: Postgres) -> Generator[Lines, None, None]:
    postgres.query("DELETE FROM muster.tables")
    postgres.query("DELETE FROM muster.tenants")
    postgres.query("INSERT INTO muster.tenants (name, limits) VALUES ('acme', '{\"requests_per_s\": 7}'), ('zeta', '{}')")
    program = Lines(binary("tenants_check"), postgres.dsn("muster_broker"))
    program.await_line("tenants acme(7) zeta(-1)", 10)
    program.await_line("up", 10)
    yield program
    program.kill()


def test_tenants_come_go_and_change(postgres: Postgres, tenants: Lines) -> None:
    postgres.query("INSERT INTO muster.tenants (name) VALUES ('beta')")
    tenants.await_line("tenants acme(7) beta(-1) zeta(-1)", 2)
    postgres.query("UPDATE muster.tenants SET limits = '{\"requests_per_s\": \"many\"}' WHERE name = 'acme'")
    tenants.await_line("tenants acme(-1) beta(-1) zeta(-1)", 2)
    postgres.query("DELETE FROM muster.tenants WHERE name = 'zeta'")
    tenants.await_line("tenants acme(-1) beta(-1)", 2)
    postgres.query("INSERT INTO muster.tables (schema_name, table_name, tenant) VALUES ('public', 'seen', 'acme')")
    tenants.await_line("tables public.seen:-:acme:0 serial=2", 2)
    tenants.say("quit")
    assert tenants.process.wait(10) == 0


def test_a_fresh_lookup_finds_a_tenant_and_misses_a_stranger(postgres: Postgres, tenants: Lines) -> None:
    with postgres.connect(autocommit=True) as connection:
        connection.execute("ALTER TABLE muster.tenants DISABLE TRIGGER ALL")  # no notice: only the lookup can know
        connection.execute("INSERT INTO muster.tenants (name) VALUES ('late')")
        connection.execute("ALTER TABLE muster.tenants ENABLE TRIGGER ALL")
    tenants.say("refresh late")
    tenants.await_line("refreshed late 0 late", 2)
    tenants.say("refresh nobody")
    tenants.await_line("refreshed nobody -8 -", 2)
    tenants.say("refresh _in")
    tenants.await_line("refresh refused -8", 2)


def test_a_thousand_changes_are_read_a_few_times(postgres: Postgres, tenants: Lines) -> None:
    with postgres.connect(autocommit=True) as connection:
        for i in range(300):
            connection.execute("INSERT INTO muster.tenants (name) VALUES (%s)", (f"n{i:03}",))
    wait_until(lambda: "n299" in tenants.await_line("tenants", 5), 10, "the last tenant")
    assert len([line for line in tenants.seen if line.startswith("tenants")]) < 30


def test_a_half_open_link_is_noticed_and_replaced(postgres: Postgres, tenants: Lines) -> None:
    [[pid]] = postgres.query("SELECT pid FROM pg_stat_activity WHERE application_name = 'muster check'")
    os.kill(pid, signal.SIGSTOP)
    try:
        tenants.await_line("down", 10.5)
        postgres.query("INSERT INTO muster.tenants (name) VALUES ('meanwhile')")
        tenants.await_lines({"up", "tenants acme(7) meanwhile(-1) zeta(-1)"}, 15)
    finally:
        os.kill(pid, signal.SIGCONT)
