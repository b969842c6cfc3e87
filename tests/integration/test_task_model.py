"""The machine of tasks in PostgreSQL against the reference in tests/model, step by step: the code of each outcome, and every row that changed."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest
from psycopg import errors

from harness import LONG, Postgres, binary
from invariants import EDGES, broken
from machine import database
from modelrig import Rig, Row, disagreement, edge_changes, edges_changed, edges_too_many, function_changed, noticed, steps_taken, told

STATES = " blocked scheduled queued offered running input_required cancelling succeeded failed dead cancelled expired".split(" ")
VERBS = ("submit assign accept decline progress complete fail need_input cancelled provide_input cancel retry input_failed pass fire session_lost hello"
         " settle pause resume plain").split()
CODES = "ok not_found failed_precondition aborted deadline_exceeded permission_denied already_exists raised".split()
ACTORS = ["w0", "w1", "w2", "w3", "boss", "eve", "root", "hum"]
ROLES = {"root": "admin", "hum": "human"}
HOUR = 3600000
STEP = ("verb slot generation actor epoch_mode epoch agent flag value wanted max_attempts run_after timeout progress_timeout run_on_failure"
        " d0 g0 d1 g1 parent parent_generation made made_generation code").split()
ROW = 9  # numbers of a row
CLOCKS = ["until = clock_timestamp() - interval '1 second' WHERE until IS NOT NULL", "progress_until = clock_timestamp() - interval '1 second'"
          " WHERE progress_until IS NOT NULL", "deadline = clock_timestamp() - interval '1 second' WHERE true",
          "start_by = clock_timestamp() - interval '1 second' WHERE true"]


def name(slot: int, generation: int) -> str:
    return f"t{slot}-{generation}"


class Tasks(Rig):
    program, machine = "task_model_trace", "task"
    verbs, actors, codes, fields = VERBS, ACTORS, CODES, STEP
    tables = "public.agent_tasks, public.agent_sessions, muster.task_history, muster.task_deps, muster.task_late, muster.task_pauses"

    def __init__(self, postgres: Postgres) -> None:
        super().__init__(postgres)
        self.sessions = [0] * 4
        # What waits for one task and is the child of another, both of which have ended, may be queued for a moment before it is
        # cancelled, or not: it has ended, and one number more or less.
        self.either: set[str] = set()
        for agent in range(4):
            self.hello(agent)

    def key(self, step: dict[str, int]) -> str:
        return name(step["slot"], step["generation"])

    def ask(self, verb: str, actor: str, args: dict[str, Any]) -> str:
        if actor in ROLES:
            args["role"] = ROLES[actor]
        outcome = self.broker.execute(f"SELECT muster.task_{verb}('acme', %s, %s)", [actor, json.dumps(args)], prepare=True).fetchall()[0][0]
        if "error" in outcome:
            self.said = outcome["error"]["message"]
            return str(outcome["error"]["code"])
        return "ok"

    def hello(self, agent: int) -> None:
        self.sessions[agent] += 1
        self.admin.execute("INSERT INTO public.agent_sessions (tenant_id, session_id, agent_id, state) VALUES ('acme', %s, %s, '{}')",
                           [f"w{agent}-{self.sessions[agent]}", f"w{agent}"])

    def lose(self, agent: int) -> str:
        session = f"w{agent}-{self.sessions[agent]}"
        self.admin.execute("UPDATE public.agent_sessions SET gone_reason = 'timeout', state = NULL WHERE session_id = %s", [session])
        return self.ask("session_lost", "_muster", {"agent": f"w{agent}", "session": session})

    def turn(self, task: str, clock: int) -> None:
        self.admin.execute(f"UPDATE public.agent_tasks SET {CLOCKS[clock]} AND task_id = %s", [task])
        self.admin.execute("UPDATE public.agent_tasks SET wake_at = muster.task_wake(status, until, progress_until, deadline, start_by, started_at)"
                           " WHERE task_id = %s", [task])

    def plain(self, task: str, state: str, agent: str) -> str:
        offers = state == "offered" and self.rows[task][0] == "queued"
        try:
            self.app.execute("UPDATE public.agent_tasks SET status = %s" + (", assigned_to = %s" if offers else "") + " WHERE task_id = %s",
                             [state, agent, task] if offers else [state, task])
        except errors.CheckViolation as refused:
            assert f"is {self.rows[task][0]}" in str(refused)
            return "raised"
        if offers:
            self.admin.execute("UPDATE public.agent_tasks SET until = until + interval '1 hour', wake_at ="
                               " muster.task_wake(status, until + interval '1 hour', progress_until, deadline, start_by, started_at) WHERE task_id = %s", [task])
        return "ok"

    def submit(self, step: dict[str, int]) -> str:
        args: dict[str, Any] = {
            "task_id": name(step["made"], step["made_generation"] - step["flag"]), "description": "x", "max_attempts": step["max_attempts"],
            "dependencies": [name(step[f"d{i}"], step[f"g{i}"]) for i in range(2) if step[f"d{i}"] >= 0],
            "on_parent_failure": "run" if step["run_on_failure"] else "cancel"}
        if step["wanted"] >= 0:
            args["assigned_to"] = f"w{step['wanted']}"
        if step["parent"] >= 0:
            args["parent"] = name(step["parent"], step["parent_generation"])
        if step["run_after"]:
            args["run_after"] = "2999-01-01T00:00:00Z"
        if step["timeout"]:
            args["timeout_ms"] = HOUR
        if step["progress_timeout"]:
            args["progress_timeout_ms"] = HOUR
        return self.ask("submit", "boss", args)

    def retry(self, step: dict[str, int], task: str, actor: str) -> str:
        """The machine names the new one; the model calls it by its slot."""
        code = self.ask("retry", actor, {"task_id": task})
        if code == "ok":
            with self.admin.transaction():
                made = self.admin.execute("UPDATE public.agent_tasks SET task_id = %s WHERE retry_of = %s AND task_id NOT LIKE 't%%' RETURNING id",
                                          [name(step["made"], step["made_generation"]), task]).fetchall()[0][0]
                for table in ("history", "deps"):
                    self.admin.execute(f"UPDATE muster.task_{table} SET task_id = %s WHERE task_id = %s", [name(step["made"], step["made_generation"]), made])
        return code

    def do(self, step: dict[str, int]) -> str:
        verb, task, actor = VERBS[step["verb"]], name(step["slot"], step["generation"]), ACTORS[step["actor"]]
        if verb == "submit":
            return self.submit(step)
        if verb == "retry":
            return self.retry(step, task, actor)
        if verb == "session_lost":
            return self.lose(step["agent"])
        if verb == "hello":
            self.hello(step["agent"])
            return "ok"
        if verb == "settle":
            while self.broker.execute("SELECT muster.task_settle('_muster', 1000)").fetchall()[0][0]:
                pass
            return "ok"
        if verb in ("pause", "resume"):
            return self.ask(verb, "root", {})
        if verb == "plain":
            return self.plain(task, STATES[step["value"]], f"w{step['agent']}")
        if verb in ("pass", "fire"):
            self.turn(task, step["value"])
            if verb == "fire":
                self.admin.execute("SELECT muster.task_fire('acme', %s, '_muster')", [task])
            return "ok"
        return self.ask(verb, "_muster" if verb == "assign" else actor, self.args(verb, step, task))

    def args(self, verb: str, step: dict[str, int], task: str) -> dict[str, Any]:
        args: dict[str, Any] = {"task_id": task}
        if verb == "assign":
            args |= {"agent": f"w{step['agent']}", "session": f"w{step['agent']}-{self.sessions[step['agent']]}", "auto_accept": bool(step["flag"]), "offer_ms": HOUR}
            if step["value"]:
                args["seq"] = self.rows[task][2] + 1 - step["value"]
            return args
        if step["epoch_mode"]:
            args["epoch"] = step["epoch"]
        return args | {"complete": {"result": step["value"]}, "fail": {"error": "e", "retryable": bool(step["flag"])}, "progress": {"percent": 10},
                       "input_failed": {"retryable": bool(step["flag"])}, "need_input": {"question": "?"}, "provide_input": {"input": "!"}}.get(verb, {})

    def read(self, keys: list[str] | None) -> dict[str, Row]:
        found = self.admin.execute("SELECT task_id, status, epoch, seq, attempt, crashes, assigned_to, array(SELECT unnest(excluded) ORDER BY 1)"
                                   " FROM public.agent_tasks" + (" WHERE tenant_id = 'acme' AND task_id = ANY (%s)" if keys is not None else ""),
                                   [keys] if keys is not None else None)
        return {row[0]: row[1:] for row in found}

    def allow(self, step: dict[str, int], rows: dict[str, Row], found: dict[str, Row]) -> dict[str, Row]:
        if VERBS[step["verb"]] == "settle":
            self.either |= {task for task, row in rows.items() if row[0] == "cancelled" and abs(row[2] - found[task][2]) == 1}
        return {task: (*row[:2], found[task][2], *row[3:]) if task in self.either else row for task, row in rows.items()}

    def names_no_state(self, step: dict[str, int]) -> bool:
        return step["slot"] < 0 or VERBS[step["verb"]] == "submit"

    def expected(self, numbers: list[int]) -> dict[str, Row]:
        rows = {}
        for at in range(0, len(numbers), ROW):
            slot, generation, state, epoch, seq, attempt, crashes, assigned, excluded = numbers[at:at + ROW]
            if state:
                rows[name(slot, generation)] = (STATES[state], epoch, seq, attempt, crashes, f"w{assigned}" if assigned >= 0 else None,
                                                [f"w{i}" for i in range(4) if excluded >> i & 1])
        return rows


@pytest.fixture(scope="module")
def postgres() -> Generator[Postgres, None, None]:
    with database() as server:
        yield server


UNTRIED = ("submit sql", "provide_input engine")  # a plain INSERT, and an answer to a request for help: other tests have them


def test_the_database_does_what_the_model_does(postgres: Postgres) -> None:
    """Each edge of the law is gone, and each verb is tried in each state, in the long form."""
    seed, steps = os.environ.get("MUSTER_TEST_SEED", "1"), os.environ.get("MUSTER_TEST_STEPS") or ("100000" if LONG else "2000")
    tasks, tried = Tasks(postgres), Counter[str]()
    assert disagreement(tasks, seed, steps, tried) == ""
    assert broken(tasks.admin) == []
    taken = steps_taken(tasks)
    print(told(taken), told(tried), sep="\n")
    assert not LONG or [step for step, n in taken.items() if not n and not step.startswith(UNTRIED)] == []
    assert not LONG or [(verb, state) for verb in OF_ONE for state in STATES[1:] if not any(t.startswith(f"{verb} in {state}: ") for t in tried)] == []
    assert len(tried) > 150 and sum(n > 0 for n in taken.values()) > 60, (len(tried), taken)
    tasks.close()


OF_ONE = [verb for verb in VERBS if verb not in "submit session_lost hello settle pause resume".split()]
GIVE = "task_give(text,text,text,text,integer,boolean,integer,text,bigint,text)"
CHANGES = [  # what would be a fault of the machine: a function, what stands there, and what does not belong there
    ("task_complete(text,text,jsonb)", "AND (v_epoch IS NULL OR t.epoch = v_epoch) AND", "AND"),
    ("task_hold(public.agent_tasks,text,jsonb,text,text[])", "AND (v_epoch IS NULL OR v_epoch = t.epoch)", ""),
    ("task_progress(text,text,jsonb)", "AND (v_epoch IS NULL OR t.epoch = v_epoch) AND", "AND"),
    (GIVE, "AND t.status || '' = 'queued'", "AND t.status || '' IN ('queued', 'running')"),
    (GIVE, "epoch = t.epoch + 1", "epoch = t.epoch"),
    ("task_release(public.agent_tasks,text)", "t.crashes >= 2", "t.crashes >= 3"),
    ("task_release(public.agent_tasks,text)", "t.crashed <@ ARRAY[t.assigned_to] AND muster.task_somebody(t, ARRAY[t.assigned_to])", "false"),
    ("task_try_again(public.agent_tasks,text,text,text,text,jsonb)", "t.attempt >= t.max_attempts", "t.attempt > t.max_attempts"),
    ("task_input_failed(text,text,jsonb)", "t.attempt < t.max_attempts", "t.attempt <= t.max_attempts"),
    ("task_parent_over(public.agent_tasks,text,boolean,text)", "IF t.blocked_on > 0 THEN", "IF t.blocked_on > 1 THEN"),
    ("task_decline(text,text,jsonb)", "t.status = 'running' AND t.progressed", "false"),
    ("task_stop(public.agent_tasks,text,text,text)", "IF t.status = 'cancelling' THEN", "IF false THEN"),
    ("task_fire(text,text,text)", "IF t.deadline <= v_now THEN", "IF t.deadline <= v_now AND t.status <> 'cancelling' THEN"),
    ("task_retry(text,text,jsonb)", "NOT IN ('failed', 'dead', 'cancelled', 'expired')", "NOT IN ('failed', 'dead', 'cancelled', 'expired', 'succeeded')"),
]
# The three that most tasks are made of have their edges in their statements; plain SQL has those of the table.
SEED = 2  # with which what the short form changes is noticed early
UNREAD = ("submit", "complete who", "offer who")


@pytest.mark.parametrize("n", range(len(CHANGES) if LONG else 2))
def test_a_fault_of_a_function_is_noticed(postgres: Postgres, n: int) -> None:
    with postgres.connect(autocommit=True) as admin:
        assert noticed(Tasks, postgres, function_changed(admin, *CHANGES[n]), 40000 if LONG else 2000, SEED)


def test_an_edge_that_is_not_the_laws_is_noticed(postgres: Postgres) -> None:
    """Each edge with each of its fields otherwise, and each that there is not; two of them in the short form."""
    with postgres.connect(autocommit=True) as admin:
        changes = edge_changes(admin, "task", UNREAD) + edges_too_many("task", EDGES, STATES[1:])
        chosen = changes if LONG else [change for change in changes if change[0] in ("provide_input input_required>running: epoch_up", "queued>succeeded by plain SQL")]
        assert [what for what, statement in chosen if not noticed(Tasks, postgres, edges_changed(admin, statement), 40000 if LONG else 2000, SEED)] == [] and chosen


@pytest.mark.skipif(not LONG, reason="ten million steps; the build's tests run half a million")
def test_the_model_holds_what_it_must() -> None:
    subprocess.run([binary("task_model_run"), "7", "10000000"], check=True)
