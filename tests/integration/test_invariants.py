"""What tests/invariants.py holds databases to can be seen to be broken: each property is reported of a database in which it was broken by hand."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import help_invariants
import invariants
import invariants_runs
from harness import Postgres

Connection = psycopg.Connection[Any]
TASK, HELP, RUN = "muster.task_history", "muster.help_history", "muster.run_history"

# By machine and property: what breaks it. A request for help is known by its problem.
BREAKS: dict[str, dict[str, str]] = {
    "task": {
        "an edge that there is not": f"UPDATE {TASK} SET from_state = 'queued' WHERE task_id = 'done' AND to_state = 'succeeded'",
        "an edge by a verb, or by somebody, that does not have it": f"UPDATE {TASK} SET role = 'owner' WHERE task_id = 'done' AND to_state = 'succeeded'",
        "a change after the end": f"INSERT INTO {TASK} SELECT tenant, task_id, 5, at, 'succeeded', 'queued', epoch, NULL, actor, role, verb FROM {TASK} WHERE task_id = 'done' AND seq = 4",
        "a number that is missing or double": f"DELETE FROM {TASK} WHERE task_id = 'done' AND seq = 2",
        "a change that does not begin where the one before it ended": f"UPDATE {TASK} SET to_state = 'running' WHERE task_id = 'done' AND seq = 2",
        "two holders of one epoch": f"UPDATE {TASK} SET holder = 'w2' WHERE task_id = 'done' AND to_state = 'running'",
        "an epoch held by nobody, or handed out twice": f"UPDATE {TASK} SET to_state = 'offered' WHERE task_id = 'done' AND to_state = 'running'",
        "an epoch that went back": f"UPDATE {TASK} SET epoch = 9 WHERE task_id = 'done' AND to_state = 'offered'",
        "a row that is not what its history says": "UPDATE public.agent_tasks SET status = 'succeeded' WHERE task_id = 'runs'",
        "a history without a row": "DELETE FROM public.agent_tasks WHERE task_id = 'done'",
        "a result without success, or more than one success": "UPDATE public.agent_tasks SET result = '1' WHERE task_id = 'runs'",
        "a holder where there is none, or none where there is one": f"UPDATE {TASK} SET holder = NULL WHERE task_id = 'runs' AND to_state = 'running'",
        "a clock that nobody looks at": "UPDATE public.agent_tasks SET wake_at = NULL WHERE task_id = 'later'",
        "blocked on nobody who could tell it": "DELETE FROM muster.task_deps WHERE task_id = 'blocked'",
        "tried more often than it may be, or not lost as often as its history says": "UPDATE public.agent_tasks SET crashes = 1 WHERE task_id = 'done'",
        "in another place of the queue than it belongs": "UPDATE public.agent_tasks SET route = route + 1 WHERE task_id = 'waits'",
    },
    "help": {
        "an edge that there is not": f"UPDATE {HELP} SET from_state = 'open' WHERE help_id = '#claimed' AND to_state = 'claimed'",
        "an edge by a verb, or by somebody, that does not have it": f"UPDATE {HELP} SET verb = 'answer' WHERE help_id = '#claimed' AND to_state = 'claimed'",
        "a change after the end": f"UPDATE {HELP} SET from_state = 'expired' WHERE help_id = '#claimed' AND to_state = 'claimed'",
        "a number that is missing or double": f"DELETE FROM {HELP} WHERE help_id = '#claimed' AND seq = 2",
        "a change that does not begin where the one before it ended": f"UPDATE {HELP} SET to_state = 'escalated' WHERE help_id = '#claimed' AND seq = 2",
        "an epoch that went back, or was handed out twice": f"UPDATE {HELP} SET epoch = 0 WHERE help_id = '#claimed'",
        "a holder where there is none, or none where there is one": f"UPDATE {HELP} SET holder = NULL WHERE help_id = '#claimed'",
        "a row that is not what its history says": "UPDATE muster.help SET epoch = epoch + 1 WHERE help_id = '#claimed'",
        "a history, an expert or a mark without a request": "DELETE FROM muster.help WHERE help_id = '#claimed'",
        "claimed by nobody, by too many, or a claim of what is not claimed": "UPDATE muster.help_experts SET state = 'claimed' WHERE help_id = '#claimed'",
        "more rounds, or rejections, than it may have, or more asked than a round does": "UPDATE muster.help SET rejected = rejections + 1 WHERE help_id = '#claimed'",
        "answered by nobody": "UPDATE muster.help_experts SET state = 'extra' WHERE help_id = '#answered'",
        "accepted without an answer": "UPDATE muster.help_experts SET verdict = NULL WHERE help_id = '#accepted'",
        "the asker was asked, or who is asked by him": "UPDATE muster.help SET ancestors = '{w2}' WHERE help_id = '#claimed'",
        "a clock that nobody looks at": "UPDATE muster.help SET wake_at = NULL WHERE help_id = '#claimed'",
    },
    "run": {
        "an edge that there is not": f"UPDATE {RUN} SET from_state = 'pending' WHERE run_id = 'verified' AND to_state = 'verification_passed'",
        "an edge by a verb, or by somebody, that does not have it": f"UPDATE {RUN} SET role = 'worker' WHERE run_id = 'verified' AND to_state = 'verification_passed'",
        "a change after the end": f"UPDATE {RUN} SET from_state = 'failed' WHERE run_id = 'works' AND to_state = 'in_progress'",
        "a number that is missing or double": f"DELETE FROM {RUN} WHERE run_id = 'verified' AND seq = 2",
        "a change that does not begin where the one before it ended": f"UPDATE {RUN} SET to_state = 'blocked' WHERE run_id = 'verified' AND seq = 2",
        "an epoch that went back": f"UPDATE {RUN} SET verify_epoch = 9 WHERE run_id = 'verified' AND seq = 2",
        "a run that somebody else took up under the same epoch": f"UPDATE {RUN} SET to_state = 'in_progress', verb = 'take' WHERE run_id = 'verified' AND seq < 3",
        "two verifiers of one epoch": f"UPDATE {RUN} SET to_state = 'verification_in_progress', verify_epoch = 1 WHERE run_id = 'verified' AND seq = 2",
        "a verdict of who did not hold it, or of who had worked on it": f"UPDATE {RUN} SET actor = 'v2' WHERE run_id = 'verified' AND verb = 'pass'",
        "a run that has to be verified, completed without": f"UPDATE {RUN} SET to_state = 'verification_failed' WHERE run_id = 'verified' AND to_state = 'verification_passed'",
        "verified without a verdict": "UPDATE public.agent_runs SET verified = true WHERE id = 'works'",
        "verdicts that are not counted": "UPDATE public.agent_runs SET verification_attempts = 2 WHERE id = 'verified'",
        "a row that is not what its history says": "UPDATE public.agent_runs SET held_by = 'w2' WHERE id = 'works'",
        "a history without a row": "DELETE FROM public.agent_runs WHERE id = 'works'",
        "a holder where there is none, or none where there is one": "UPDATE public.agent_runs SET held_by = NULL WHERE id = 'works'",
        "an end without its time, or a time without an end": "UPDATE public.agent_runs SET completed_at = NULL WHERE id = 'verified'",
        "a clock that is missing": "UPDATE public.agent_runs SET until = NULL WHERE id = 'verifies'",
        "a pause, or a right of the first, of what is not begun again": "UPDATE public.agent_runs SET run_after = clock_timestamp() WHERE id = 'works'",
        "a tier of what is not escalated, or none of what is": "UPDATE public.agent_runs SET tier = 1 WHERE id = 'works'",
        "passed by fewer than it needs, or twice by one": "UPDATE public.agent_runs SET verifiers = 2 WHERE id = 'verified'",
        "verified by who has passed it already": "UPDATE public.agent_runs SET passed_by = '{v1}' WHERE id = 'verifies'",
        "lost or verified more often than it may be": "UPDATE public.agent_runs SET crashes = 3 WHERE id = 'works'",
        "a progress out of its bounds": "UPDATE public.agent_runs SET progress_percent = 101 WHERE id = 'works'",
        "two runs of a task of which one is alone": "UPDATE public.agent_runs SET exclusive = true, task_id = 'runs' WHERE id IN ('works', 'verifies')",
    },
    "between": {
        "help for a task that has ended": "UPDATE public.agent_tasks SET status = 'cancelled' WHERE task_id = 'asks'",
        "a run that goes on, whose task was cancelled or has expired":
            "UPDATE public.agent_tasks SET status = 'expired', completed_at = clock_timestamp() WHERE task_id = 'runs'; UPDATE public.agent_runs SET task_id = 'runs' WHERE id = 'works'",
        "a task that waits for help, and the help has ended": "UPDATE muster.help SET state = 'expired' WHERE help_id = '#asked'",
    },
}
CHECKS = {"task": invariants.CHECKS, "help": help_invariants.CHECKS, "run": invariants_runs.CHECKS, "between": invariants.BETWEEN}
BROKEN: dict[str, Callable[[Connection], list[str]]] = {
    "task": invariants.broken, "help": help_invariants.broken, "run": invariants_runs.broken, "between": lambda admin: invariants.broken(admin, invariants.BETWEEN)}


@pytest.fixture(scope="module")
def postgres() -> Generator[Postgres, None, None]:
    folder = Path(tempfile.mkdtemp(prefix="muster-invariants-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user when the tests run as root
    server = Postgres(folder, migrated=True)
    try:
        server.start()
        server.query("INSERT INTO muster.tenants (name) VALUES ('acme')")
        with psycopg.connect(server.dsn("muster_broker"), autocommit=True) as broker:
            broker.execute("SELECT set_config('app.current_tenant', 'acme', false)")
            make(broker)
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def make(broker: Connection) -> None:
    """Of each machine some, in the states that are broken below."""
    def do(function: str, actor: str, **args: Any) -> None:
        outcome = broker.execute(f"SELECT muster.{function}(%s, %s, %s)", ["acme", actor, json.dumps(args)]).fetchall()[0][0]  # type: ignore[arg-type]
        assert "ok" in outcome, (function, args, outcome)

    for task_id, more in {"done": {}, "runs": {}, "asks": {}, "waits": {"capabilities": ["none"]}, "later": {"run_after": "2999-01-01T00:00:00Z"},
                          "blocked": {"dependencies": ["waits"]}}.items():
        do("task_submit", "boss", task_id=task_id, description="x", **more)
    for task_id in ("done", "runs", "asks"):
        do("task_assign", "_muster", task_id=task_id, agent="w1", session="w1-1", auto_accept=True)
    do("task_complete", "w1", task_id="done", result=1)
    for problem, asker, more in (("claimed", "ann", {}), ("answered", "ann", {}), ("accepted", "ann", {}), ("asked", "w1", {"task_id": "asks"})):
        do("help_request", asker, problem=problem, candidates=[{"agent": "w2"}, {"agent": "w3"}], set={}, **more)
    requests = dict(broker.execute("SELECT problem, help_id FROM muster.help").fetchall())
    do("help_claim", "w2", help_id=requests["claimed"])
    do("help_answer", "w2", help_id=requests["answered"], solution="x")
    do("help_answer", "w2", help_id=requests["accepted"], solution="x")
    do("help_accept", "ann", help_id=requests["accepted"])
    for run_id in ("works", "verifies", "verified"):
        do("run_start", "boss", run_id=run_id, agent_name="x", agent_id="w1", verify="required")
        do("run_progress", "w1", run_id=run_id)
    for run_id in ("verifies", "verified"):
        do("run_status", "w1", run_id=run_id, status="awaiting_verification")
        do("run_verification", "v1", run_id=run_id, status="verification_in_progress")
    do("run_verification", "v1", run_id="verified", status="verification_passed")


@pytest.fixture
def admin(postgres: Postgres) -> Generator[Connection, None, None]:
    """What it breaks is whole again afterwards."""
    with postgres.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        yield connection
        connection.rollback()


def test_all_holds_and_each_property_has_its_break(admin: Connection) -> None:
    assert invariants.all_broken(admin) == []
    assert {machine: set(breaks) for machine, breaks in BREAKS.items()} == {machine: set(checks) for machine, checks in CHECKS.items()}


def named(admin: Connection, text: str) -> str:
    for problem, help_id in admin.execute("SELECT problem, help_id FROM muster.help").fetchall():
        text = text.replace(f"#{problem}", help_id)
    return text


@pytest.mark.parametrize("machine, what", [(machine, what) for machine, breaks in BREAKS.items() for what in breaks])
def test_what_is_broken_is_reported(admin: Connection, machine: str, what: str) -> None:
    for statement in named(admin, BREAKS[machine][what]).split("; "):
        assert admin.execute(statement).rowcount > 0, "nothing was broken"  # type: ignore[arg-type]
    found = BROKEN[machine](admin)
    assert any(line.startswith(f"{what}: ") for line in found), found


@pytest.mark.parametrize("machine, key", [("task", "runs"), ("help", "#claimed"), ("run", "works")])
def test_what_is_lost_is_named(admin: Connection, machine: str, key: str) -> None:
    (table, _, column), key = invariants.KEPT[machine], named(admin, key)
    assert invariants.lost(admin, "acme", [key], machine) == []
    admin.execute(f"DELETE FROM {table} WHERE {column} = %s", [key])  # type: ignore[arg-type]
    assert invariants.lost(admin, "acme", [key], machine) == [key]


def test_all_machines_are_asked(admin: Connection) -> None:
    for machine, what in (("task", "two holders of one epoch"), ("help", "answered by nobody"), ("run", "two verifiers of one epoch"),
                          ("between", "a task that waits for help, and the help has ended")):
        admin.execute(named(admin, BREAKS[machine][what]))  # type: ignore[arg-type]
    assert {line.split(":")[0] for line in invariants.all_broken(admin)} == set(BREAKS)
