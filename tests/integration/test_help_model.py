"""The machine of help requests in PostgreSQL against the reference in tests/model, step by step: the code of each outcome, and every row that changed."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

from harness import LONG, Postgres, binary
from help_invariants import broken
from machine import database
from modelrig import Rig, Row, disagreement, edge_changes, edges_changed, function_changed, noticed, steps_taken, told

STATES = " open offered claimed answered escalated accepted withdrawn expired unanswered".split(" ")
EXPERTS = "none offered ignored claimed lapsed declined answered extra stopped".split()
VERBS = "request offer claim decline answer knowledge accept reject escalate resolve withdraw pass fire session_lost hello".split()
CODES = "ok not_found failed_precondition aborted deadline_exceeded permission_denied resource_exhausted".split()
ACTORS = ["w0", "w1", "w2", "w3", "w4", "w5", "root", "hum"]
ROLES = {"root": "admin", "hum": "human"}
HOUR = 3600000
STEP = ("verb slot generation actor epoch_mode epoch agent candidates value panel k rounds rejections escalate with_default auto_accept alike"
        " parent parent_generation made made_generation code").split()
AGENTS = 6
Key = tuple[int, int]
ROW = 7 + 3 * AGENTS  # numbers of a row
CLOCKS = ["until = clock_timestamp() - interval '1 second' WHERE until IS NOT NULL", "half_at = clock_timestamp() - interval '1 second' WHERE half_at IS NOT NULL",
          "deadline = clock_timestamp() - interval '1 second' WHERE true"]


class Requests(Rig):
    program, machine = "help_model_trace", "help"
    verbs, actors, codes, fields = VERBS, ACTORS, CODES, STEP
    tables = "muster.help, muster.help_experts, muster.help_history, muster.help_marks, muster.help_trust, public.agent_memories"

    def __init__(self, postgres: Postgres) -> None:
        super().__init__(postgres)
        self.sessions = [1] * AGENTS
        self.ids: dict[Key, str] = {}

    def key(self, step: dict[str, int]) -> Key:
        return step["slot"], step["generation"]

    def ask(self, verb: str, actor: str, args: dict[str, Any]) -> dict[str, Any]:
        if actor in ROLES:
            args["role"] = ROLES[actor]
        elif actor != "_muster":
            args["session"] = f"{actor}-{self.sessions[int(actor[1])]}"
        found = self.broker.execute(f"SELECT muster.help_{verb}('acme', %s, %s)", [actor, json.dumps(args)], prepare=True).fetchall()
        return dict(found[0][0])

    def code(self, outcome: dict[str, Any]) -> str:
        if "error" in outcome:
            self.said = outcome["error"]["message"]
            return str(outcome["error"]["code"])
        return "ok"

    def turn(self, help_id: str, clock: int) -> None:
        self.admin.execute(f"UPDATE muster.help SET {CLOCKS[clock]} AND help_id = %s", [help_id])
        if clock == 0:
            self.admin.execute("UPDATE muster.help_experts SET claim_until = clock_timestamp() - interval '1 second' WHERE help_id = %s AND state = 'claimed'", [help_id])
        self.admin.execute("UPDATE muster.help SET wake_at = muster.help_wake(state, until, half_at, deadline) WHERE help_id = %s", [help_id])

    def candidates(self, step: dict[str, int]) -> list[dict[str, Any]]:
        return [{"agent": f"w{i}"} for i in range(AGENTS) if step["candidates"] >> i & 1]

    def request(self, step: dict[str, int], actor: str) -> str:
        args: dict[str, Any] = {
            "problem": "the common trouble of everybody" if step["alike"] else f"q{step['made']}x{step['made_generation']}y", "k": step["k"],
            "mode": "panel" if step["panel"] else "first", "escalate": bool(step["escalate"]), "auto_accept": bool(step["auto_accept"]),
            "set": {"depth": 2, "quota": 5, "rounds": step["rounds"], "rejections": step["rejections"], "offer_ms": HOUR, "claim_ms": HOUR,
                    "verdict_ms": HOUR, "timeout_ms": HOUR}}
        if step["with_default"]:
            args["default_answer"] = 0
        if step["candidates"] >= 0:
            args["candidates"] = self.candidates(step)
        if step["parent"] >= 0:
            args["parent"] = self.ids[step["parent"], step["parent_generation"]]
        outcome = self.ask("request", actor, args)
        if "ok" in outcome:
            self.ids[step["made"], step["made_generation"]] = outcome["ok"]["help_id"]
        return self.code(outcome)

    def do(self, step: dict[str, int]) -> str:
        verb, actor = VERBS[step["verb"]], ACTORS[step["actor"]]
        if verb == "request":
            return self.request(step, actor)
        if verb == "hello":
            self.sessions[step["agent"]] += 1
            return "ok"
        if verb == "session_lost":
            agent = f"w{step['agent']}"
            return self.code(self.ask("session_lost", "_muster", {"agent": agent, "session": f"{agent}-{self.sessions[step['agent']]}"}))
        if verb == "knowledge":
            return self.code(self.ask(verb, actor, {"asker": f"w{step['agent']}", "solution": step["value"]}))
        help_id = self.ids.get((step["slot"], step["generation"]), "nowhere")
        if verb in ("pass", "fire"):
            self.turn(help_id, step["value"])
            if verb == "fire":
                self.admin.execute("SELECT muster.help_fire('acme', %s, '_muster')", [help_id])
            return "ok" if help_id != "nowhere" else "not_found"
        return self.code(self.ask(verb, "_muster" if verb == "offer" else actor, self.args(verb, step, help_id)))

    def args(self, verb: str, step: dict[str, int], help_id: str) -> dict[str, Any]:
        args: dict[str, Any] = {"help_id": help_id}
        if verb == "offer":
            args["candidates"] = self.candidates(step)
            if step["value"] and help_id != "nowhere":
                args["seq"] = self.rows[step["slot"], step["generation"]][2] + 1 - step["value"]
        if verb in ("claim", "decline", "answer") and step["epoch_mode"]:
            args["epoch"] = step["epoch"]
        if verb in ("answer", "resolve"):
            args["solution"] = step["value"]
        if verb == "accept" and step["agent"] >= 0:
            args["agent"] = f"w{step['agent']}"
        return args

    def read(self, keys: list[Key] | None) -> dict[Key, Row]:
        names = {self.ids[key]: key for key in (self.rows if keys is None else keys)}
        experts: dict[str, dict[str, Row]] = {help_id: {} for help_id in names}
        for help_id, *rest in self.admin.execute("SELECT help_id, agent, state, epoch, excluded FROM muster.help_experts"
                                                 " WHERE tenant = 'acme' AND help_id = ANY (%s) AND agent LIKE 'w_'", [list(names)]):
            experts[help_id][rest[0]] = tuple(rest[1:])
        return {names[row[0]]: (*row[1:], *(experts[row[0]].get(f"w{i}", ("none", 0, False)) for i in range(AGENTS))) for row in self.admin.execute(
            "SELECT help_id, state, epoch, seq, round, rejected FROM muster.help WHERE tenant = 'acme' AND help_id = ANY (%s)", [list(names)])}

    def expected(self, numbers: list[int]) -> dict[Key, Row]:
        rows = {}
        for at in range(0, len(numbers), ROW):
            slot, generation, state, epoch, seq, turn, rejected, *experts = numbers[at:at + ROW]
            if state:
                rows[slot, generation] = (STATES[state], epoch, seq, turn, rejected,
                                          *((EXPERTS[experts[i]], experts[i + 1], bool(experts[i + 2])) for i in range(0, 3 * AGENTS, 3)))
        return rows


@pytest.fixture(scope="module")
def postgres() -> Generator[Postgres, None, None]:
    with database() as server:
        yield server


def test_the_database_does_what_the_model_does(postgres: Postgres) -> None:
    """Each edge of the law is gone, and each verb is tried in each state, in the long form."""
    seed, steps = os.environ.get("MUSTER_TEST_SEED", "1"), os.environ.get("MUSTER_TEST_STEPS") or ("100000" if LONG else "1500")
    requests, tried = Requests(postgres), Counter[str]()
    assert disagreement(requests, seed, steps, tried) == ""
    assert broken(requests.admin) == []
    taken = steps_taken(requests)
    print(told(taken), told(tried), sep="\n")
    assert not LONG or [step for step, n in taken.items() if not n] == []
    assert not LONG or [(verb, state) for verb in OF_ONE for state in STATES[1:] if not any(t.startswith(f"{verb} in {state}: ") for t in tried)] == []
    assert len(tried) > 100 and sum(n > 0 for n in taken.values()) > 30, (len(tried), taken)
    requests.close()


OF_ONE = [verb for verb in VERBS if verb not in "request knowledge session_lost hello".split()]
HOLD = "help_hold(muster.help,muster.help_experts,jsonb,text)"
SEED = 6  # with which what the short form changes is noticed early
CHANGES = [  # what would be a fault of the machine: a function, what stands there, and what does not belong there
    (HOLD, ">= h.k THEN", "> h.k THEN"),
    (HOLD, "x.state IN ('claimed', 'answered') AND x.verdict IS NULL", "x.state = 'claimed'"),
    ("help_answer(text,text,jsonb)", ">= h.k THEN", "> h.k THEN"),
    ("help_pick(muster.help,jsonb,integer)", "LIMIT p_n", "LIMIT p_n + 1"),
    ("help_move(muster.help,text,text,text,text,text,jsonb)", "h.round + 1 < h.rounds", "h.round < h.rounds"),
    ("help_widen(muster.help,text,text,text,text)", "h.round >= h.rounds", "h.round > h.rounds"),
    ("help_request(text,text,jsonb)", "v_claims.depth + 1 > ", "v_claims.depth > "),
    ("help_request(text,text,jsonb)", "v_claims.open >= ", "v_claims.open > "),
    ("help_lapse(muster.help,text,text,text,text)", "excluded = e.crashes >= 1", "excluded = e.crashes >= 2"),
    (HOLD, "v_epoch <> e.epoch OR v_offer <> e.offer_epoch", "v_offer <> e.offer_epoch"),
    (HOLD, "h.state = 'claimed' AND h.mode = 'first'", "false"),
    (HOLD, "IF h.deadline <= clock_timestamp() THEN", "IF false THEN"),
    ("help_take(muster.help,text,text)", "epoch = h.epoch + 1", "epoch = h.epoch"),
    ("help_decline(text,text,jsonb)", "excluded = true", "excluded = false"),
    ("help_reject(text,text,jsonb)", "h.rejected > h.rejections", "h.rejected > h.rejections + 1"),
    ("help_resolve(text,text,jsonb)", "NOT IN ('human', 'admin', 'operator')", "NOT IN ('human', 'operator')"),
]


@pytest.mark.parametrize("n", range(len(CHANGES) if LONG else 1))
def test_a_fault_of_a_function_is_noticed(postgres: Postgres, n: int) -> None:
    with postgres.connect(autocommit=True) as admin:
        assert noticed(Requests, postgres, function_changed(admin, *CHANGES[n]), 40000 if LONG else 1500, SEED)


def test_an_edge_that_is_not_the_laws_is_noticed(postgres: Postgres) -> None:
    """Each edge with each of its fields otherwise; one of them in the short form. Plain SQL has no edges here: nobody may write the table."""
    with postgres.connect(autocommit=True) as admin:
        changes = edge_changes(admin, "help", ("request", "attempt", "crash"))
        chosen = changes if LONG else [change for change in changes if change[0] == "claim claimed>claimed: epoch_up"]
        assert [what for what, statement in chosen if not noticed(Requests, postgres, edges_changed(admin, statement), 40000 if LONG else 1500, SEED)] == [] and chosen


@pytest.mark.skipif(not LONG, reason="ten million steps; the build's tests run half a million")
def test_the_model_holds_what_it_must() -> None:
    subprocess.run([binary("help_model_run"), "7", "10000000"], check=True)
