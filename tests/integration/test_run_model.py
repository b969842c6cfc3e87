"""The machine of runs in PostgreSQL against the reference in tests/model, step by step: the code of each outcome, and every row that changed."""

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
from invariants_runs import EDGES, broken
from machine import database
from modelrig import Rig, Row, disagreement, edge_changes, edges_changed, edges_too_many, function_changed, noticed, steps_taken, told

STATUSES = (" pending in_progress blocked awaiting_verification verification_in_progress verification_passed verification_failed escalated_to_human"
            " completed failed cancelled").split(" ")
VERBS = "start progress claim block submit complete fail escalate retry cancel verify pass reject rest late fire task_over session_lost hello plain".split()
CODES = "ok not_found failed_precondition aborted deadline_exceeded permission_denied already_exists raised".split()
ACTORS = ["w0", "w1", "w2", "w3", "boss", "eve", "root", "hum", "sql:muster_app"]
ROLES = {"root": "admin", "hum": "human"}
SETS = {"claim": "in_progress", "block": "blocked", "submit": "awaiting_verification"}
VERDICTS = {"verify": "verification_in_progress", "pass": "verification_passed", "reject": "verification_failed"}
STEP = "verb slot generation actor epoch_mode epoch agent flag taken value made code".split()
ROW = 18  # numbers of a row


def name(slot: int, generation: int) -> str:
    return f"r{slot}-{generation}"


class Runs(Rig):
    program, machine = "run_model_trace", "run"
    verbs, actors, codes, fields = VERBS, ACTORS, CODES, STEP
    tables = "public.agent_runs, public.agent_sessions, muster.run_history, muster.run_ends"

    def __init__(self, postgres: Postgres) -> None:
        super().__init__(postgres)
        self.sessions = [0] * 4
        for agent in range(4):
            self.hello(agent)

    def key(self, step: dict[str, int]) -> str:
        return name(step["slot"], step["generation"])

    def names_no_state(self, step: dict[str, int]) -> bool:
        return step["slot"] < 0 or VERBS[step["verb"]] == "start"

    def ask(self, verb: str, actor: str, args: dict[str, Any]) -> str:
        if actor in ROLES:
            args["role"] = ROLES[actor]
        outcome = self.broker.execute(f"SELECT muster.run_{verb}('acme', %s, %s)", [actor, json.dumps(args)], prepare=True).fetchall()[0][0]  # type: ignore[arg-type]
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

    def plain(self, run: str, status: str) -> str:
        try:
            self.app.execute("UPDATE public.agent_runs SET status = %s WHERE id = %s", [status, run])
        except errors.CheckViolation as refused:
            assert f"is {self.rows[run][0]}" in str(refused)
            return "raised"
        return "ok"

    def do(self, step: dict[str, int]) -> str:
        verb, run = VERBS[step["verb"]], name(step["slot"], step["generation"])
        actor = ACTORS[step["actor"]]
        if verb == "start":
            return self.ask("start", "boss", {"run_id": name(step["slot"], step["made"]), "agent_name": "a", "agent_id": f"w{step['agent']}",
                                              "task_id": f"task of {name(step['slot'], step['made'])}",
                                              "verify": "required" if step["flag"] & 1 else "none", "verifiers": 1 + (step["flag"] >> 3),
                                              "max_attempts": 2 if step["flag"] & 4 else 3} | ({"timeout_ms": 3600000} if step["flag"] & 2 else {}))
        if verb == "session_lost":
            return self.lose(step["agent"])
        if verb == "hello":
            self.hello(step["agent"])
            return "ok"
        if verb == "plain":
            return self.plain(run, STATUSES[step["value"]])
        if verb == "task_over":
            self.admin.execute("SELECT muster.run_end_with('acme', %s, %s)", [f"task of {run}", "expired" if step["flag"] else "cancelled"])
            return "ok"
        if verb == "rest":
            self.admin.execute("UPDATE public.agent_runs SET run_after = CASE WHEN run_after IS NOT NULL THEN clock_timestamp() - interval '1 second' END,"
                               " open_at = CASE WHEN open_at < clock_timestamp() OR open_at IS NOT NULL AND (%s OR open_at <= run_after)"
                               " THEN clock_timestamp() - interval '1 second' ELSE open_at END"
                               " WHERE id = %s", [bool(step["flag"]), run])
            return "ok"
        if verb in ("late", "fire"):
            self.admin.execute("UPDATE public.agent_runs SET until = clock_timestamp() - interval '1 second' WHERE id = %s AND until IS NOT NULL", [run])
            if verb == "fire":
                self.admin.execute("SELECT muster.run_fire('acme', %s, '_muster')", [run])
            return "ok"
        args: dict[str, Any] = {"run_id": run}
        if step["epoch_mode"]:
            args["epoch"] = step["epoch"]
        if verb in SETS:
            return self.ask("status", actor, args | {"status": SETS[verb]})
        if verb in VERDICTS:
            return self.ask("verification", actor, args | {"status": VERDICTS[verb]})
        return self.ask(verb, actor, args | {"complete": {"result": step["value"]}, "fail": {"error": "e"}, "escalate": {"reason": "?"}}.get(verb, {}))

    def freeze(self) -> None:
        """What waits does so until a step says that it is over."""
        self.admin.execute("UPDATE public.agent_runs SET run_after = run_after + interval '900 years', open_at = open_at + interval '900 years'"
                           " WHERE greatest(run_after, open_at) BETWEEN clock_timestamp() AND clock_timestamp() + interval '100 years'")

    def read(self, keys: list[str] | None) -> dict[str, Row]:
        self.freeze()
        found = self.admin.execute("SELECT id, status, epoch, verify_epoch, seq, attempt, crashes, verification_attempts, agent_id, held_by, verified, result,"
                                   " max_attempts, repeats, cardinality(passed_by), coalesce(run_after > clock_timestamp(), false), open_at IS NOT NULL"
                                   " FROM public.agent_runs" + (" WHERE tenant_id = 'acme' AND id = ANY (%s)" if keys is not None else ""),
                                   [keys] if keys is not None else None)
        return {row[0]: row[1:] for row in found}

    def expected(self, numbers: list[int]) -> dict[str, Row]:
        rows = {}
        for at in range(0, len(numbers), ROW):
            slot, generation, status, epoch, verify_epoch, seq, attempt, crashes, verdicts, agent, held, verified, result, *rest = numbers[at:at + ROW]
            if status:
                rows[name(slot, generation)] = (STATUSES[status], epoch, verify_epoch, seq, attempt, crashes, verdicts, ACTORS[agent],
                                                ACTORS[held] if held >= 0 else None, bool(verified), result if result >= 0 else None,
                                                *rest[:3], bool(rest[3]), bool(rest[4]))
        return rows


@pytest.fixture(scope="module")
def postgres() -> Generator[Postgres, None, None]:
    with database() as server:
        yield server


UNTRIED = ("start sql",)  # a plain INSERT: other tests have it


def test_the_database_does_what_the_model_does(postgres: Postgres) -> None:
    """Each edge of the law is gone, and each verb is tried in each status, in the long form."""
    seed, steps = os.environ.get("MUSTER_TEST_SEED", "1"), os.environ.get("MUSTER_TEST_STEPS") or ("100000" if LONG else "1500")
    runs, tried = Runs(postgres), Counter[str]()
    assert disagreement(runs, seed, steps, tried) == ""
    assert broken(runs.admin) == []
    taken = steps_taken(runs)
    print(told(taken), told(tried), sep="\n")
    assert not LONG or [step for step, n in taken.items() if not n and not step.startswith(UNTRIED)] == []
    assert not LONG or [(verb, status) for verb in OF_ONE for status in STATUSES[1:] if not any(t.startswith(f"{verb} in {status}: ") for t in tried)] == []
    assert len(tried) > 150 and sum(n > 0 for n in taken.values()) > 50, (len(tried), taken)
    runs.close()


OF_ONE = [verb for verb in VERBS if verb not in "start session_lost hello".split()]
UNREAD = ("start", "retry verification_failed>in_progress: who")  # only plain SQL goes straight on, and it is not asked who it is
SEED = 7  # with which what the short form changes is noticed early
CHANGES = [  # what would be a fault of the machine: a function, what stands there, and what does not belong there
    ("run_release(public.agent_runs,text)", "r.crashes >= 2", "r.crashes >= 3"),
    ("run_timeout(public.agent_runs,text)", "r.attempt < r.max_attempts", "r.attempt <= r.max_attempts"),
    ("run_pause(public.agent_runs,muster.edges,timestamp with time zone)", "r.repeats > 1", "r.repeats > 2"),
    ("run_retry(text,text,jsonb)", "r.verification_attempts + 3", "r.verification_attempts + 4"),
    ("run_verification(text,text,jsonb)", "cardinality(r.passed_by) < r.verifiers", "cardinality(r.passed_by) + 1 < r.verifiers"),
    ("run_plain_refusal(public.agent_runs,text)", "p_old.verification_attempts >= p_old.verification_limit", "p_old.verification_attempts > p_old.verification_limit"),
    ("run_plain()", "NEW.verifiers_lost < 2", "NEW.verifiers_lost < 3"),
    ("run_hold(public.agent_runs,text,jsonb,text,text[])", "v_works AND v_epoch IS DISTINCT FROM r.epoch AND v_epoch IS NOT NULL", "false"),
    ("run_part(public.agent_runs,text)", "p_agent IN (r.started_by, r.user_id)", "false"),
    ("run_verification(text,text,jsonb)", "r.held_by <> agent OR v_epoch::bigint <> r.verify_epoch", "r.held_by <> agent"),
    ("run_verifier_lost(public.agent_runs,text,text,text)", "r.verifiers_lost >= 3", "r.verifiers_lost >= 4"),
    ("run_after_verdict(public.agent_runs,text)", "r.verification_attempts < r.verification_limit", "r.verification_attempts <= r.verification_limit"),
    ("run_complete(text,text,jsonb)", "r.verify = 'required' AND r.status <> 'escalated_to_human'", "false"),
    ("run_plain_refusal(public.agent_runs,text)", "p_to = 'completed' AND p_old.status", "p_to = 'failed' AND p_old.status"),
]


@pytest.mark.parametrize("n", range(len(CHANGES) if LONG else 1))
def test_a_fault_of_a_function_is_noticed(postgres: Postgres, n: int) -> None:
    with postgres.connect(autocommit=True) as admin:
        assert noticed(Runs, postgres, function_changed(admin, *CHANGES[n]), 100000 if LONG else 1500, SEED)


def test_an_edge_that_is_not_the_laws_is_noticed(postgres: Postgres) -> None:
    """Each edge with each of its fields otherwise, and each that there is not; one of them in the short form."""
    with postgres.connect(autocommit=True) as admin:
        changes = edge_changes(admin, "run", UNREAD) + edges_too_many("run", EDGES, STATUSES[1:])
        chosen = changes if LONG else [change for change in changes if change[0] == "in_progress>verification_in_progress by plain SQL"]
        assert [what for what, statement in chosen if not noticed(Runs, postgres, edges_changed(admin, statement), 40000 if LONG else 1500, SEED)] == [] and chosen


@pytest.mark.skipif(not LONG, reason="ten million steps; the build's tests run half a million")
def test_the_model_holds_what_it_must() -> None:
    subprocess.run([binary("run_model_run"), "7", "10000000"], check=True)
