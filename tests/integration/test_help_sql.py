"""The machine of help requests as SQL: edges by verbs, chains, rounds, panels, clocks, tasks that wait. What the model does not know of stands here."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections.abc import Generator
from typing import Any

import psycopg
import pytest
from psycopg import errors

import invariants
import odd
from harness import Postgres
from help_invariants import EDGES, broken
from machine import Caller, database

STATES = ["open", "offered", "claimed", "answered", "escalated", "accepted", "withdrawn", "expired", "unanswered"]
LIVE = STATES[:5]


@pytest.fixture(scope="module")
def postgres() -> Generator[Postgres, None, None]:
    with database("INSERT INTO muster.credentials (tenant, agent, role) VALUES ('acme', 'hum', 'human'), ('zeta', 'zoe', 'human'), ('acme', 'w1', 'agent')") as server:
        yield server


@pytest.fixture(scope="module")
def owner(postgres: Postgres) -> Generator[psycopg.Connection[Any], None, None]:
    with postgres.connect(autocommit=True) as connection:
        yield connection


@pytest.fixture(autouse=True)
def clean(owner: psycopg.Connection[Any]) -> Generator[None, None, None]:
    owner.execute("TRUNCATE muster.help, muster.help_experts, muster.help_history, muster.help_marks, muster.help_trust, public.agent_tasks, public.agent_sessions,"
                  " public.agent_memories, muster.requests")
    yield
    assert broken(owner) == [] and invariants.broken(owner) == []


class Broker(Caller):
    machine = "help"

    def request(self, *experts: str, asker: str = "ann", problem: str = "the printer is on fire", given: dict[str, Any] | None = None, **args: Any) -> str:
        """given: settings of the plugin."""
        return str(self.do("request", asker, problem=problem, candidates=[{"agent": expert} for expert in experts], set=given or {}, **args)["help_id"])

    def get(self, help_id: str) -> dict[str, Any]:
        return self.do("get", "ann", help_id=help_id)

    def state(self, help_id: str) -> str:
        return str(self.get(help_id)["state"])

    def turn(self, help_id: str, column: str, seconds: float = -1) -> None:
        """A clock of a request runs out so many seconds from now."""
        with self.postgres.connect(autocommit=True) as admin:
            admin.execute(f"UPDATE muster.help SET {column} = clock_timestamp() + {seconds} * interval '1 second' WHERE help_id = %s", [help_id])  # type: ignore[arg-type]
            if column == "until":
                admin.execute("UPDATE muster.help_experts SET claim_until = clock_timestamp() - interval '1 second' WHERE help_id = %s AND state = 'claimed'", [help_id])
            admin.execute("UPDATE muster.help SET wake_at = muster.help_wake(state, until, half_at, deadline) WHERE help_id = %s", [help_id])

    def due(self) -> list[dict[str, Any]]:
        return list(self.value("SELECT muster.help_due('_muster', NULL, 100)")["done"])

    def fire(self, help_id: str, column: str) -> list[dict[str, Any]]:
        self.turn(help_id, column)
        return self.due()

    def reach(self, state: str, **args: Any) -> str:
        """A new request in a state, by the shortest way."""
        help_id = self.request(*([] if state == "open" else ["w1", "w2"]), **args)
        if state in ("claimed", "expired"):
            self.do("claim", "w1", help_id=help_id)
        elif state in ("answered", "accepted", "unanswered"):
            self.do("answer", "w1", help_id=help_id, solution="water")
        elif state == "escalated":
            self.do("escalate", "ann", help_id=help_id)
        if state == "accepted":
            self.do("accept", "ann", help_id=help_id)
        elif state == "withdrawn":
            self.do("withdraw", "ann", help_id=help_id)
        elif state == "expired":
            self.fire(help_id, "deadline")
        elif state == "unanswered":
            self.connection.execute("SELECT 1")
            with self.postgres.connect(autocommit=True) as admin:
                admin.execute("UPDATE muster.help SET auto_accept = false")
            self.fire(help_id, "until")
        assert self.state(help_id) == state
        return help_id

    def running(self, task_id: str, agent: str = "ann", session: str = "ann-1", **args: Any) -> int:
        self.call("task_submit", "boss", task_id=task_id, description="x", **args)
        return int(self.call("task_assign", "_muster", task_id=task_id, agent=agent, session=session, auto_accept=True)["ok"]["epoch"])

    def task(self, task_id: str) -> dict[str, Any]:
        return dict(self.call("task_get", "boss", task_id=task_id)["ok"])


@pytest.fixture(scope="module")
def served(postgres: Postgres) -> Generator[Broker, None, None]:
    broker = Broker(postgres)
    yield broker
    broker.connection.close()


@pytest.fixture
def acme(served: Broker) -> Generator[Broker, None, None]:
    yield served
    served.rest()


def types(outcome: dict[str, Any]) -> dict[str, list[str]]:
    return {told["type"]: told["to"] for told in outcome.get("tell", [])}


# Edges

# Of each verb, by whom it is done, the states that have it, and where it leads.
VERBS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "offer": ("_muster", {"candidates": [{"agent": "w3"}]}, {"open": "offered"}),
    "claim": ("w1", {}, {"offered": "claimed", "claimed": "claimed"}),
    "decline": ("w1", {}, {"offered": "offered", "claimed": "open"}),
    "answer": ("w1", {"solution": "water"}, {"offered": "answered", "claimed": "answered", "answered": "answered", "accepted": "accepted", "unanswered": "unanswered"}),
    "accept": ("ann", {}, {"answered": "accepted", "accepted": "accepted"}),
    "reject": ("ann", {}, {"answered": "open"}),
    "escalate": ("ann", {}, {"open": "escalated", "offered": "escalated", "escalated": "escalated"}),
    "resolve": ("hum", {"solution": "sand", "role": "human"}, {"escalated": "answered"}),
    "withdraw": ("ann", {}, {**dict.fromkeys(LIVE, "withdrawn"), "withdrawn": "withdrawn"}),
    "retry": ("ann", {}, {state: state for state in ("withdrawn", "expired", "unanswered")}),  # another is made
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_leads_on_where_there_is_an_edge_and_is_refused_elsewhere(acme: Broker, verb: str) -> None:
    """Refused with the current state; what is said twice is no error."""
    actor, args, edges = VERBS[verb]
    for start in STATES:
        help_id = acme.reach(start, problem=f"{verb}{start}")
        before = acme.get(help_id)
        if start not in edges:
            code, message = acme.refused(verb, actor, help_id=help_id, **args)
            assert code == "failed_precondition" and f" {start}" in message, (start, message)
            assert acme.get(help_id) | {"answers": 0} == before | {"answers": 0}
            continue
        acme.do(verb, actor, help_id=help_id, **args)
        assert acme.state(help_id) == edges[start], start
    assert acme.refused(verb, actor, help_id="nowhere", **args) == ("not_found", "help_id: there is no help request nowhere")


def test_plain_sql_changes_no_request(postgres: Postgres, acme: Broker) -> None:
    """There is nobody who may, so no edge of it either."""
    for state in STATES:
        acme.reach(state, problem=f"plain {state}")
    for login, statement in itertools.product(("muster_broker", "muster_app"), (
            "UPDATE muster.help SET state = 'open'", "UPDATE muster.help_experts SET state = 'claimed'", "UPDATE muster.help_history SET to_state = 'open'",
            "INSERT INTO muster.help (tenant, help_id) VALUES ('acme', 'h')", "INSERT INTO muster.help_experts (tenant, help_id) VALUES ('acme', 'h')",
            "INSERT INTO muster.help_history (tenant, help_id) VALUES ('acme', 'h')")):
        with psycopg.connect(postgres.dsn(login), autocommit=True) as plain, pytest.raises(errors.InsufficientPrivilege):
            plain.execute("SET app.current_tenant = 'acme'")
            plain.execute(statement)  # type: ignore[arg-type]


def test_the_edges_of_the_table_are_those_of_the_law(postgres: Postgres) -> None:
    found = {tuple(row) for row in postgres.query("SELECT DISTINCT from_state, to_state FROM muster.edges WHERE machine = 'help'")}
    assert found == {(start, end) for start, ends in EDGES.items() for end in ends.split()}


def test_history_and_events_tell_each_change(postgres: Postgres, acme: Broker) -> None:
    with postgres.connect(autocommit=True) as admin:
        admin.execute("SELECT pg_create_logical_replication_slot('look', 'test_decoding', true)")
        help_id = acme.request("w1", "w2", context={"file": "api.ts", "line": None}, session="ann-1")
        acme.do("claim", "w1", help_id=help_id, session="w1-1")
        acme.do("answer", "w1", help_id=help_id, epoch=1, solution={"do": [1, None]}, confidence=0.8)
        acme.do("accept", "ann", help_id=help_id)
        told = [json.loads(row[0][row[0].index("content:") + 8:]) for row in admin.execute(
            "SELECT data FROM pg_logical_slot_get_changes('look', NULL, NULL) WHERE data LIKE 'message:%'").fetchall()]
        admin.execute("SELECT pg_drop_replication_slot('look')")
    assert [(event["event"], event["body"]["from"], event["key"]) for event in told] == [
        ("open", "", help_id), ("offered", "open", help_id), ("claimed", "offered", help_id), ("answered", "claimed", help_id), ("accepted", "answered", help_id)]
    shown = acme.get(help_id)
    assert {key: value for key, value in told[-1]["body"].items() if key not in ("from", "at")} == shown
    assert shown["context"] == {"file": "api.ts", "line": None} and shown["answered_by"] == "w1" and shown["offered_to"] == ["w1", "w2"]
    assert [{k: v for k, v in answer.items() if k != "at"} for answer in shown["answers"]] == [
        {"agent": "w1", "confidence": 0.8, "epoch": 1, "solution": {"do": [1, None]}, "verdict": "accepted"}]
    history = acme.do("history", "ann", help_id=help_id)["history"]
    assert [(row["verb"], row["role"], row.get("actor"), row.get("holder"), row["epoch"]) for row in history] == [
        ("request", "any", "ann", None, 0), ("offer", "engine", "_muster", None, 0), ("claim", "holder", "w1", "w1", 1), ("answer", "holder", "w1", None, 1),
        ("accept", "owner", "ann", None, 1)]
    assert acme.do("history", "ann", help_id=help_id, limit=2)["next"] == "2"
    assert acme.do("history", "ann", help_id=help_id, limit=2, after="2")["history"][0]["seq"] == 3


def test_what_is_too_long_for_an_event_is_left_to_get(acme: Broker) -> None:
    help_id = acme.request("w1", "w2", context="x" * 490000, mode="panel", k=2)
    for expert in ("w1", "w2"):
        acme.do("answer", expert, help_id=help_id, solution="y" * 490000)
    shown = acme.get(help_id)
    assert shown["omitted"] == ["context", "default_answer", "solution"] and [answer["agent"] for answer in shown["answers"]] == ["w1", "w2"]
    assert acme.do("list", "ann")["requests"] == [shown]
    for verb, args, field in (("request", {"problem": "x" * 100001}, "problem"), ("request", {"problem": "x", "context": "x" * 500000}, "context"),
                              ("answer", {"help_id": help_id, "solution": "x" * 500000}, "solution")):
        assert acme.ask(verb, "w1", **args)["error"]["field"] == field


# Asking


@pytest.mark.parametrize(("args", "field"), [
    ({"problem": ""}, "problem"), ({"problem": 7}, "problem"), ({"mode": "both"}, "mode"), ({"k": 0}, "k"), ({"k": 17}, "k"), ({"timeout_ms": 0}, "timeout_ms"),
    ({"timeout_ms": 2147483648}, "timeout_ms"), ({"escalate": "yes"}, "escalate"), ({"capabilities": "c"}, "capabilities"), ({"capabilities": [1]}, "capabilities"),
    ({"labels": []}, "labels"), ({"parent": ""}, "parent"), ({"task_id": 7}, "task_id"), ({"on_expired": "hope"}, "on_expired"), ({"auto_accept": 1}, "auto_accept")])
def test_bad_arguments_are_refused_by_name(acme: Broker, args: dict[str, Any], field: str) -> None:
    error = acme.ask("request", "ann", **({"problem": "x"} | args))["error"]
    assert error["code"] == "invalid_argument" and error["field"] == field
    assert acme.do("stats", "ann")["total"] == 0


def test_who_is_asked_hears_what_about(acme: Broker) -> None:
    outcome = acme.ask("request", "ann", problem="p", context={"a": 1}, candidates=[{"agent": "w1"}, {"agent": "ann"}])
    assert outcome["ok"]["offered_to"] == ["w1"] and outcome["ok"]["prior"] == [] and outcome["ok"]["state"] == "offered"
    (told,) = outcome["tell"]
    assert (told["to"], told["type"], told["answer"]) == (["w1"], "request_help", True)
    assert {key: told["body"][key] for key in ("help_id", "epoch", "problem", "context", "from", "depth")} == {
        "help_id": outcome["ok"]["help_id"], "epoch": 0, "problem": "p", "context": {"a": 1}, "from": "ann", "depth": 0}
    answered = acme.ask("answer", "w1", help_id=outcome["ok"]["help_id"], solution="s", confidence=7)
    assert [(t["to"], t["type"], t["body"]) for t in answered["tell"]] == [
        (["ann"], "share_knowledge", {"help_id": outcome["ok"]["help_id"], "from": "w1", "confidence": 1, "solution": "s"})]


def test_k_of_many_are_asked_the_trusted_and_idle_first(acme: Broker) -> None:
    for n, (verdict, expert) in enumerate([("accept", "good"), ("accept", "good"), ("reject", "bad"), ("reject", "bad")]):
        help_id = acme.request(expert, problem=f"old{n}")
        acme.do("answer", expert, help_id=help_id, solution=1)
        acme.do(verdict, "ann", help_id=help_id)
        if verdict == "reject":
            acme.do("withdraw", "ann", help_id=help_id)
    acme.do("claim", "atwork", help_id=acme.request("atwork", problem="other", asker="bob"))
    candidates = [{"agent": "bad"}, {"agent": "atwork"}, {"agent": "loaded", "load": 1.0}, {"agent": "new"}, {"agent": "good"}]

    def asked(k: int) -> list[str]:
        return list(acme.do("request", "ann", problem=f"new{k}", k=k, candidates=candidates)["offered_to"])
    assert asked(1) == ["good"] and asked(2) == ["good", "new"]
    assert asked(5)[:2] == ["good", "new"] and len(asked(4)) == 4


def test_a_chain_of_asks_asks_nobody_twice_and_ends(acme: Broker) -> None:
    """Ann asks bob, who asks cid, and neither of them can be asked again below; the fifth below is one too many."""
    names = ["ann", "bob", "cid", "dan", "eve", "fay", "gus"]
    for depth in range(5):
        help_id = acme.request(*names, asker=names[depth], problem=f"p{depth}", k=16)
        shown = acme.get(help_id)
        assert shown["depth"] == depth and shown["offered_to"] == names[depth + 1:]
        assert acme.refused("claim", "ann", help_id=help_id)[0] == "permission_denied"
        acme.do("claim", names[depth + 1], help_id=help_id)
    code, message = acme.refused("request", "fay", problem="too deep")
    assert code == "failed_precondition" and "depth 4" in message
    assert acme.do("request", "gus", problem="free")["state"] == "open"


def test_a_parent_is_inferred_or_named(acme: Broker) -> None:
    first, second = acme.request("w1", problem="a", asker="ann"), acme.request("w1", problem="b", asker="bob")
    acme.do("claim", "w1", help_id=first)
    assert acme.get(acme.request(asker="w1", problem="c"))["parent"] == first
    acme.do("claim", "w1", help_id=second)
    shown = acme.get(acme.request("ann", "bob", "w2", asker="w1", problem="d", parent=first))
    assert shown["parent"] == first and shown["offered_to"] == ["w2"]
    assert acme.refused("request", "w2", problem="e", parent=first)[0] == "failed_precondition"
    assert acme.refused("request", "w1", problem="e", parent="nowhere") == ("not_found", "parent: there is no help request nowhere")


def test_an_agent_may_have_so_many_open(acme: Broker) -> None:
    ids = [acme.request(problem=f"p{n}", given={"quota": 2}) for n in range(2)]
    assert acme.refused("request", "ann", problem="more", set={"quota": 2})[0] == "resource_exhausted"
    acme.request(problem="other", asker="bob", given={"quota": 2})
    acme.do("withdraw", "ann", help_id=ids[0])
    acme.request(problem="more", given={"quota": 2})


def test_a_request_id_asks_once(acme: Broker) -> None:
    def once(body: str) -> dict[str, Any]:
        return dict(acme.value("SELECT muster.once('acme', 'ann', 'help.request', 'r1', %s, 'help_request', %s)", hashlib.sha256(body.encode()).digest(),
                               json.dumps({"problem": body})))
    assert once("x") == once("x") and once("y")["error"]["code"] == "already_exists"
    assert acme.do("stats", "ann") == {"total": 1, "by_state": {"open": 1}}


def test_tenants_do_not_see_each_other(postgres: Postgres, acme: Broker) -> None:
    zeta = Broker(postgres, "zeta")
    help_id = acme.request("w1", "zed")
    for verb, (actor, args, _) in VERBS.items():
        assert zeta.refused(verb, actor, help_id=help_id, **args) == ("not_found", f"help_id: there is no help request {help_id}")
    assert zeta.refused("get", "ann", help_id=help_id)[0] == "not_found" and zeta.refused("history", "ann", help_id=help_id)[0] == "not_found"
    assert zeta.do("list", "ann")["requests"] == [] and zeta.do("stats", "ann")["total"] == 0
    acme.do("answer", "w1", help_id=help_id, solution="s")
    acme.do("accept", "ann", help_id=help_id)
    assert zeta.do("request", "ann", problem="the printer is on fire")["prior"] == []
    for table in ("help", "help_experts", "help_history", "help_marks", "help_trust"):
        assert zeta.connection.execute(f"SELECT FROM muster.{table} WHERE tenant = 'acme'").fetchall() == []  # type: ignore[arg-type]
    with pytest.raises(errors.InsufficientPrivilege):
        zeta.connection.execute("SELECT muster.help_request('acme', 'ann', '{\"problem\": \"forged\"}')")
    escalated = zeta.ask("request", "ann", problem="x", escalate=True, candidates=[])
    assert types(escalated) == {"request_help": ["zoe"]}
    zeta.connection.close()


# Claims, answers, epochs


def test_the_first_claim_wins_and_later_answers_are_kept(acme: Broker) -> None:
    help_id = acme.request("w1", "w2")
    assert acme.do("claim", "w1", help_id=help_id, epoch=0) == {"help_id": help_id, "epoch": 1, "state": "claimed"}
    assert acme.do("claim", "w1", help_id=help_id, epoch=0)["epoch"] == 1  # said twice
    for verb, args in (("claim", {}), ("claim", {"epoch": 0}), ("answer", {"solution": "mine", "epoch": 0})):
        code, message = acme.refused(verb, "w2", help_id=help_id, **args)
        assert code == "aborted" and "stale_epoch" in message and "claimed" in message
    assert acme.refused("answer", "w1", help_id=help_id, solution="x", epoch=0)[0] == "aborted"
    assert acme.refused("answer", "eve", help_id=help_id, solution="x")[0] == "permission_denied"
    acme.do("answer", "w1", help_id=help_id, solution="water", epoch=1)
    assert acme.do("answer", "w1", help_id=help_id, solution="water", epoch=1)["state"] == "answered"
    assert acme.refused("answer", "w1", help_id=help_id, solution="wine")[0] == "failed_precondition"
    assert [(answer["agent"], answer["solution"], answer.get("extra")) for answer in acme.get(help_id)["answers"]] == [("w2", "mine", True), ("w1", "water", None)]


def test_who_was_asked_answers_without_a_claim(acme: Broker) -> None:
    help_id = acme.request("w1", "w2")
    assert acme.do("answer", "w2", help_id=help_id, solution="s", epoch=0)["state"] == "answered"
    assert [row["to"] for row in acme.do("history", "ann", help_id=help_id)["history"]] == ["open", "offered", "claimed", "answered"]


def test_respond_is_fenced_by_the_offer(acme: Broker) -> None:
    """The ref of what an expert was sent says which offer it was: a claim, and then an answer, under the same ref."""
    help_id = acme.request("w1")
    acme.do("claim", "w1", help_id=help_id, offer=0)
    acme.do("claim", "w1", help_id=help_id, offer=0)
    assert acme.refused("answer", "w1", help_id=help_id, offer=1, solution="s")[0] == "aborted"
    assert acme.do("answer", "w1", help_id=help_id, offer=0, solution="s")["state"] == "answered"


def test_a_panel_hears_k(acme: Broker) -> None:
    help_id = acme.request("w1", "w2", "w3", "w4", mode="panel", k=2)
    offered = acme.get(help_id)["offered_to"]
    assert len(offered) == 2
    acme.turn(help_id, "until")
    assert acme.due()[0]["offer"]["n"] == 4
    acme.do("offer", "_muster", help_id=help_id, candidates=[{"agent": f"w{n}"} for n in range(1, 5)])
    assert acme.do("claim", "w1", help_id=help_id)["epoch"] == 1 and acme.do("claim", "w2", help_id=help_id)["epoch"] == 2
    assert acme.refused("claim", "w3", help_id=help_id)[0] == "failed_precondition"
    assert acme.do("answer", "w1", help_id=help_id, epoch=1, solution="a", confidence=0.2)["state"] == "claimed"
    assert acme.refused("answer", "w3", help_id=help_id, solution="no")[0] == "failed_precondition"
    done = acme.ask("answer", "w2", help_id=help_id, epoch=2, solution="b", confidence=0.9)
    assert done["ok"]["state"] == "answered" and done["tell"][0]["body"]["solution"] == "b" and len(done["tell"][0]["body"]["answers"]) == 3
    assert acme.refused("accept", "ann", help_id=help_id, agent="w4") == ("not_found", f"agent: help request {help_id} has no answer of w4")
    acme.do("accept", "ann", help_id=help_id, agent="w1")
    assert acme.get(help_id)["answered_by"] == "w1"


def test_a_panel_ends_with_what_it_has(acme: Broker) -> None:
    help_id = acme.request("w1", "w2", "w3", mode="panel")
    acme.do("claim", "w2", help_id=help_id)
    acme.do("answer", "w1", help_id=help_id, solution="a")
    acme.do("decline", "w2", help_id=help_id)
    assert acme.state(help_id) == "claimed"
    acme.do("claim", "w3", help_id=help_id)
    (done,) = acme.fire(help_id, "deadline")
    assert done["tenant"] == "acme" and types(done) == {"share_knowledge": ["ann"], "help_cancel": ["w3"]} and acme.state(help_id) == "answered"
    assert acme.refused("answer", "w3", help_id=help_id, solution="late")[0] == "aborted"
    empty = acme.request("w1", mode="panel", problem="empty")
    acme.do("claim", "w1", help_id=empty)
    assert types(acme.fire(empty, "deadline")[0]) == {"help_cancel": ["w1"]} and acme.state(empty) == "expired"


def test_a_share_knowledge_is_the_answer(acme: Broker) -> None:
    other, help_id = acme.request("w2", problem="old"), acme.request("w1", "w2", problem="new")
    assert acme.ask("knowledge", "eve", asker="ann", solution="s") == {"ok": {"none": True}}
    done = acme.ask("knowledge", "w2", asker="ann", solution={"use": "sand"})
    assert done["ok"] == {"help_id": help_id, "state": "answered"} and "tell" not in done  # she has heard it
    assert acme.ask("knowledge", "w2", asker="ann", solution={"use": "sand"})["ok"]["help_id"] == other  # what can be answered comes first
    assert acme.ask("knowledge", "w2", asker="ann", solution={"use": "sand"})["ok"]["state"] == "answered"
    assert acme.ask("knowledge", "w1", asker="ann", solution="late")["error"]["code"] == "aborted"
    assert [answer["agent"] for answer in acme.get(help_id)["answers"]] == ["w2", "w1"]


def test_racing_claims_have_one_winner(postgres: Postgres, acme: Broker) -> None:
    experts = [f"w{n}" for n in range(6)]
    for turn in range(10):
        help_id, won, start = acme.request(*experts, k=6, problem=f"p{turn}"), [], threading.Barrier(len(experts))

        def claim(expert: str, help_id: str = help_id, won: list[str] = won, start: threading.Barrier = start) -> None:
            broker = Broker(postgres)
            start.wait()
            outcome = broker.ask("claim", expert, help_id=help_id)
            if "ok" in outcome:
                won.append(expert)
            else:
                assert outcome["error"]["code"] == "aborted"
            broker.connection.close()
        threads = [threading.Thread(target=claim, args=[expert]) for expert in experts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == acme.get(help_id)["claimed_by"] and len(won) == 1


# Rounds


def test_rounds_widen_and_the_last_one_lasts(acme: Broker) -> None:
    experts = [{"agent": f"w{n}"} for n in range(10)]
    help_id = acme.request("w0", "w1", k=1, given={"rounds": 3})
    first = acme.get(help_id)["offered_to"]
    assert len(first) == 1
    for turn, n in ((1, 2), (2, 4)):
        (done,) = acme.fire(help_id, "until")
        assert acme.state(help_id) == "open" and done["offer"]["n"] == n and done["offer"]["help_id"] == help_id
        asked = acme.do("offer", "_muster", help_id=help_id, seq=done["offer"]["seq"], candidates=experts)["offered_to"]
        assert len(asked) == n and not set(asked) & set(first)
        assert acme.refused("offer", "_muster", help_id=help_id, candidates=experts)[0] == "failed_precondition"
        first += asked
    assert acme.postgres.query("SELECT until FROM muster.help") == [(None,)] and acme.due() == []
    assert acme.do("claim", first[0], help_id=help_id)["epoch"] == 1  # of the first round


def test_all_decline_and_another_round_begins(acme: Broker) -> None:
    help_id = acme.request("w1", "w2")
    assert "offer" not in acme.ask("decline", "w1", help_id=help_id, reason="busy")
    assert acme.ask("decline", "w2", help_id=help_id, epoch=0)["offer"]["n"] == 6
    assert acme.state(help_id) == "open" and acme.refused("claim", "w1", help_id=help_id)[0] == "failed_precondition"
    assert acme.do("offer", "_muster", help_id=help_id, candidates=[{"agent": "w1"}, {"agent": "w3"}])["offered_to"] == ["w3"]
    acme.do("decline", "w3", help_id=help_id)
    acme.do("offer", "_muster", help_id=help_id, candidates=[{"agent": "w4"}])
    acme.do("decline", "w4", help_id=help_id)
    code, message = acme.refused("offer", "_muster", help_id=help_id, candidates=[{"agent": "w5"}])
    assert code == "failed_precondition" and "3 rounds are over" in message


def test_between_rounds_who_was_asked_answers(acme: Broker) -> None:
    help_id = acme.request("w1", "w2")
    acme.fire(help_id, "until")
    assert acme.state(help_id) == "open" and acme.refused("answer", "w3", help_id=help_id, solution="no")[0] == "failed_precondition"
    acme.do("decline", "w2", help_id=help_id)
    assert acme.do("answer", "w1", help_id=help_id, epoch=0, solution="yes")["state"] == "answered"
    assert [row["to"] for row in acme.do("history", "ann", help_id=help_id)["history"]] == ["open", "offered", "open", "offered", "claimed", "answered"]
    stopped = acme.request("w1", "w2", problem="other")
    acme.fire(stopped, "until")
    assert types(acme.ask("withdraw", "ann", help_id=stopped)) == {"help_cancel": ["w1", "w2"]}


def test_what_is_open_is_looked_for_by_one_broker(acme: Broker) -> None:
    help_id = acme.request()
    assert acme.value("SELECT muster.help_looking(NULL, 10)") == {"n": 0, "done": []}  # a moment ago nobody was there
    acme.postgres.query("UPDATE muster.help SET offer_at = clock_timestamp()")
    found = acme.value("SELECT muster.help_looking(NULL, 10)")
    assert found["n"] == 1 and found["done"][0]["tenant"] == "acme" and found["done"][0]["offer"]["help_id"] == help_id
    assert acme.value("SELECT muster.help_looking(NULL, 10)")["n"] == 0
    assert acme.refused("offer", "_muster", help_id=help_id, seq=7, candidates=[])[0] == "aborted"


# Claims that are lost


def test_a_claim_lapses_and_excludes_the_second_time(acme: Broker) -> None:
    help_id = acme.request("w1")
    for turn in range(2):
        acme.do("claim", "w1", help_id=help_id)
        (done,) = acme.fire(help_id, "until")
        assert acme.state(help_id) == "open" and done["offer"]["n"] == 3  # no round was used
        asked = acme.do("offer", "_muster", help_id=help_id, candidates=[{"agent": "w1"}])["offered_to"]
        assert asked == (["w1"] if turn == 0 else [])


def test_a_lost_session_gives_back_what_it_has(acme: Broker) -> None:
    claimed, asked, own = acme.request("w1", problem="a"), acme.request("w1", problem="b"), acme.request("w2", asker="w1", problem="c", session="w1-1")
    acme.do("claim", "w1", help_id=claimed, session="w1-1")
    acme.do("claim", "w2", help_id=own, session="w2-1")
    outcome = acme.ask("session_lost", "_muster", agent="w1", session="w1-1")
    assert outcome["ok"] == {"released": 3, "more": False}
    assert (acme.state(claimed), acme.state(asked), acme.state(own)) == ("open", "open", "withdrawn")
    assert {done["ok"]["help_id"]: types(done) for done in outcome["done"]}[own] == {"help_cancel": ["w2"]}
    other = acme.request("w1", problem="d")
    acme.do("claim", "w1", help_id=other, session="w1-2")
    acme.do("session_lost", "_muster", agent="w1", session="w1-1")
    assert acme.state(other) == "claimed"


def test_sessions_that_nobody_saw_go_are_found(acme: Broker) -> None:
    claimed, own = acme.request("w1", problem="a"), acme.request("w2", asker="w1", problem="b", session="w1-1")
    acme.do("claim", "w1", help_id=claimed, session="w1-1")
    acme.postgres.query("INSERT INTO public.agent_sessions (tenant_id, session_id, agent_id) VALUES ('acme', 'w1-1', 'w1')")
    assert acme.value("SELECT muster.help_orphans('_muster', 10)") == {"n": 0, "done": []}
    acme.postgres.query("UPDATE public.agent_sessions SET gone_reason = 'timeout'")
    assert acme.value("SELECT muster.help_orphans('_muster', 10)")["n"] == 2
    assert (acme.state(claimed), acme.state(own)) == ("open", "withdrawn")


def test_who_comes_again_under_a_name_that_had_ended_is_not_lost(acme: Broker) -> None:
    """Its new session is written down a moment later than it asks and claims."""
    acme.postgres.query("INSERT INTO public.agent_sessions (tenant_id, session_id, agent_id, gone_reason, ended_at) VALUES ('acme', '1', 'w1', 'bye', now())")
    claimed, own = acme.request("w1", problem="a"), acme.request("w2", asker="w1", problem="b", session="1")
    acme.do("claim", "w1", help_id=claimed, session="1")
    assert acme.value("SELECT muster.help_orphans('_muster', 10)")["n"] == 0
    acme.postgres.query("UPDATE public.agent_sessions SET ended_at = clock_timestamp()")
    assert acme.value("SELECT muster.help_orphans('_muster', 10)")["n"] == 2
    assert (acme.state(claimed), acme.state(own)) == ("open", "withdrawn")


# Verdicts


def test_an_accepted_answer_is_a_memory_and_a_prior_answer(acme: Broker) -> None:
    help_id = acme.request("w1", problem="How do I fix a type mismatch in api.ts line 42?", capabilities=["typescript"])
    acme.do("answer", "w1", help_id=help_id, solution={"fix": "cast"}, confidence=0.7)
    acme.do("accept", "ann", help_id=help_id)
    acme.do("accept", "ann", help_id=help_id)  # said twice
    ((content, agent, metadata),) = acme.postgres.query("SELECT content, agent_id, metadata FROM public.agent_memories")
    assert "type mismatch" in content and '{"fix": "cast"}' in content and agent == "w1"
    assert metadata == {"source": "help", "help_id": help_id, "asked_by": "ann", "answered_by": "w1", "confidence": 0.7, "capabilities": ["typescript"]}
    again = acme.ask("request", "bob", problem="type mismatch in api.ts at line 42", candidates=[{"agent": "w2"}])
    (prior,) = again["ok"]["prior"]
    assert (prior["help_id"], prior["solution"], prior["from"]) == (help_id, {"fix": "cast"}, "w1") and 0.5 <= prior["similarity"] < 1
    assert acme.do("request", "bob", problem="the coffee machine is broken")["prior"] == []
    taken = acme.ask("accept", "bob", help_id=again["ok"]["help_id"])
    assert taken["ok"]["state"] == "accepted" and types(taken) == {"help_cancel": ["w2"]}
    assert acme.get(again["ok"]["help_id"])["prior"] == help_id
    fresh = acme.request(asker="cid", problem="nothing like it")
    code, message = acme.refused("accept", "cid", help_id=fresh)
    assert code == "failed_precondition" and "open" in message


def ended(acme: Broker, first: int, last: int, problem: str) -> None:
    """Requests with accepted answers, as the machine leaves them; the newest is the last."""
    acme.postgres.query("INSERT INTO muster.help (tenant, help_id, asker, problem, words, marks, mode, k, state, seq, rounds, rejections, escalate, auto_accept,"
                        " offer_ms, claim_ms, verdict_ms, deadline, answered_by, created_at, updated_at, completed_at)"
                        " SELECT 'acme', 'h' || i, 'ann', p, muster.help_lexemes(p), ARRAY(SELECT muster.help_marks_of(muster.help_lexemes(p))), 'first', 3, 'accepted', 0, 3, 3,"
                        " false, true, 1, 1, 1, at, 'w1', at, at, at FROM (SELECT i, replace(%s, '#', i::text) AS p, clock_timestamp() + (i - 100000) * interval '1 second' AS at"
                        " FROM generate_series(%s::int, %s::int) AS i) AS made", [problem, first, last])
    acme.postgres.query("INSERT INTO muster.help_experts (tenant, help_id, agent, state, offered_at, solution, answered_at, verdict) SELECT tenant, help_id, 'w1', 'answered',"
                        " created_at, to_jsonb(help_id), created_at, 'accepted' FROM muster.help ON CONFLICT DO NOTHING")
    acme.postgres.query("INSERT INTO muster.help_marks (tenant, mark, at, help_id) SELECT tenant, m, created_at, help_id FROM muster.help, unnest(marks) AS m ON CONFLICT DO NOTHING")


def test_of_many_earlier_answers_a_few_are_told(postgres: Postgres, acme: Broker) -> None:
    """And what a request reads does not grow with how many there are."""
    def asked(problem: str) -> tuple[list[str], int]:
        with postgres.connect() as admin:  # and is undone
            admin.execute("SELECT set_config('app.current_tenant', 'acme', false)")
            args = json.dumps({"problem": problem, "candidates": [{"agent": f"w{i}"} for i in range(20)]})
            for _ in range(2):  # the first reads catalogues
                plan = admin.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT muster.help_request('acme', 'bob', %s)", [args]).fetchall()[0][0][0]["Plan"]
            prior = admin.execute("SELECT muster.help_request('acme', 'bob', %s)", [args]).fetchall()[0][0]["ok"]["prior"]
            admin.rollback()
        return [answer["help_id"] for answer in prior], plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]

    ended(acme, 1, 100, "the build of module # breaks with an unknown type")
    told, few = asked("the build of module 100 breaks with an unknown type")
    assert told[0] == "h100" and len(told) == 3
    ended(acme, 101, 4000, "the build of module # breaks with an unknown type")
    acme.postgres.query("DELETE FROM pg_statistic WHERE starelid::regclass::text LIKE 'muster.help%'")  # the planner is left to guess
    told, many = asked("the build of module 4000 breaks with an unknown type")
    assert told[0] == "h4000" and len(told) == 3
    assert many <= 1.5 * few, (few, many)
    help_id = acme.request(problem="the build of module 7 breaks with an unknown type")
    assert acme.refused("accept", "ann", help_id=help_id, prior=acme.reach("accepted", problem="the printer is on fire"))[0] == "failed_precondition"
    acme.do("accept", "ann", help_id=help_id, prior="h7")  # whichever is named, old as it may be
    assert acme.get(help_id)["prior"] == "h7" and acme.get(help_id)["answered_by"] == "w1"
    acme.postgres.query("DELETE FROM muster.help WHERE help_id LIKE 'h%'")
    for table in ("help_experts", "help_marks"):
        acme.postgres.query(f"DELETE FROM muster.{table} WHERE help_id LIKE 'h%'")


def test_the_verdict_is_the_askers(acme: Broker) -> None:
    help_id = acme.reach("answered")
    for verb in ("accept", "reject", "withdraw"):
        assert acme.refused(verb, "w1", help_id=help_id)[0] == "permission_denied"
    for verb in ("accept", "reject"):
        assert acme.refused(verb, "root", help_id=help_id, role="admin")[0] == "permission_denied"
    acme.do("withdraw", "root", help_id=help_id, role="admin", reason="enough")
    assert acme.get(help_id)["reason"] == "enough"


def test_rejected_answers_go_to_others_and_then_to_a_human(acme: Broker) -> None:
    help_id = acme.request("w0", given={"rejections": 1})
    acme.do("answer", "w0", help_id=help_id, solution="bad")
    outcome = acme.ask("reject", "ann", help_id=help_id, reason="wrong")
    assert outcome["ok"]["state"] == "open" and outcome["offer"]["n"] == 3
    assert acme.do("offer", "_muster", help_id=help_id, candidates=[{"agent": "w0"}, {"agent": "w1"}])["offered_to"] == ["w1"]
    acme.do("answer", "w1", help_id=help_id, solution="worse")
    outcome = acme.ask("reject", "ann", help_id=help_id)
    assert outcome["ok"]["state"] == "escalated" and types(outcome) == {"request_help": ["hum"]}
    for role in ("agent", "observer", "user"):
        assert acme.refused("resolve", "w1", help_id=help_id, solution="x", role=role)[0] == "permission_denied"
    done = acme.ask("resolve", "hum", help_id=help_id, solution="right", role="human")
    assert done["ok"]["state"] == "answered" and done["tell"][0]["body"]["solution"] == "right" and done["tell"][0]["body"]["from"] == "hum"
    acme.do("resolve", "hum", help_id=help_id, solution="right", role="human")
    acme.do("accept", "ann", help_id=help_id)
    assert [(answer["agent"], answer["verdict"]) for answer in acme.get(help_id)["answers"]] == [("w0", "rejected"), ("w1", "rejected"), ("hum", "accepted")]


def test_without_a_verdict_it_is_accepted_or_unanswered(acme: Broker) -> None:
    help_id = acme.request("w1")
    acme.do("answer", "w1", help_id=help_id, solution="s")
    acme.turn(help_id, "deadline")
    assert acme.due() == [] and acme.state(help_id) == "answered"  # the deadline is that of an answer
    acme.fire(help_id, "until")
    assert acme.state(help_id) == "accepted" and acme.get(help_id)["answered_by"] == "w1"
    other = acme.request("w1", auto_accept=False, problem="q")
    acme.do("answer", "w1", help_id=other, solution="s")
    acme.fire(other, "until")
    assert acme.state(other) == "unanswered"


# Escalation


def test_with_nobody_to_ask_it_is_a_humans(acme: Broker) -> None:
    outcome = acme.ask("request", "ann", problem="x", escalate=True, candidates=[{"agent": "ann"}])
    assert outcome["ok"]["state"] == "escalated" and types(outcome) == {"request_help": ["hum"]} and outcome["tell"][0]["body"]["escalated"] is True
    acme.do("resolve", "hum", help_id=outcome["ok"]["help_id"], solution="s", role="human")
    assert acme.request(problem="y") and acme.do("stats", "ann")["by_state"] == {"answered": 1, "open": 1}


def test_when_the_rounds_are_used_or_half_the_time_it_is_a_humans(acme: Broker) -> None:
    used = acme.request("w1", escalate=True, given={"rounds": 1})
    (done,) = acme.fire(used, "until")
    assert acme.state(used) == "escalated" and types(done) == {"request_help": ["hum"]}
    late = acme.request("w1", escalate=True, problem="late")
    (done,) = acme.fire(late, "half_at")
    assert acme.state(late) == "escalated" and types(done) == {"request_help": ["hum"], "help_cancel": ["w1"]}
    acme.fire(late, "deadline")
    assert acme.state(late) == "expired"


def test_the_default_answer_stands_in_at_the_deadline(acme: Broker) -> None:
    help_id = acme.request("w1", default_answer={"go": False})
    acme.turn(help_id, "half_at")
    acme.turn(help_id, "deadline")
    assert acme.due() and acme.state(help_id) == "escalated"
    assert acme.refused("resolve", "hum", help_id=help_id, solution="s", role="human")[0] == "deadline_exceeded"
    (done,) = acme.due()
    assert types(done) == {"share_knowledge": ["ann"]} and done["tell"][0]["body"]["solution"] == {"go": False}
    acme.do("accept", "ann", help_id=help_id)
    assert acme.do("request", "bob", problem="the printer is on fire")["prior"] == []  # nobody knew it
    assert acme.postgres.query("SELECT FROM public.agent_memories") == []


@pytest.mark.parametrize("mode", ["first", "panel"])
def test_the_default_answer_stands_in_for_who_has_claimed_it(acme: Broker, mode: str) -> None:
    help_id = acme.request("w1", "w2", mode=mode, k=2, default_answer={"go": False})
    acme.do("claim", "w1", help_id=help_id)
    (done,) = acme.fire(help_id, "deadline")
    assert types(done) == {"share_knowledge": ["ann"], "help_cancel": ["w1"]} and done["tell"][0]["body"]["solution"] == {"go": False}
    assert [h["to"] for h in acme.do("history", "ann", help_id=help_id)["history"]] == ["open", "offered", "claimed", "open", "escalated", "answered"]
    assert acme.refused("answer", "w1", help_id=help_id, solution="s")[0] == "aborted"


def test_after_the_deadline_nobody_answers(acme: Broker) -> None:
    help_id = acme.request("w1")
    acme.turn(help_id, "deadline")
    assert acme.refused("claim", "w1", help_id=help_id)[0] == "deadline_exceeded"
    assert acme.refused("answer", "w1", help_id=help_id, solution="s")[0] == "deadline_exceeded"
    assert acme.refused("offer", "_muster", help_id=acme.reach("open"), seq=9)[0] == "aborted"
    (done,) = acme.due()
    assert types(done) == {"help_cancel": ["w1"]} and acme.state(help_id) == "expired"


# Tasks that wait for help


def test_a_task_waits_for_its_answer(acme: Broker) -> None:
    acme.running("t")
    help_id = acme.request("w1", task_id="t", epoch=1)
    task = acme.task("t")
    assert task["state"] == "input_required" and task["question"] == {"help_id": help_id, "problem": "the printer is on fire"}
    acme.do("answer", "w1", help_id=help_id, solution="water")
    assert acme.task("t")["state"] == "input_required"
    acme.do("accept", "ann", help_id=help_id)
    task = acme.task("t")
    assert (task["state"], task["epoch"], task["assigned_to"]) == ("running", 2, "ann")
    assert task["input"] == {"help_id": help_id, "state": "accepted", "solution": "water", "from": "w1"}
    again = acme.do("request", "ann", problem="the printer is on fire", task_id="t")
    acme.do("accept", "ann", help_id=again["help_id"])
    assert acme.task("t")["input"]["solution"] == "water" and acme.task("t")["epoch"] == 3


def test_only_who_holds_a_task_asks_for_it(acme: Broker) -> None:
    assert acme.refused("request", "ann", problem="x", task_id="t") == ("not_found", "task_id: there is no task t")
    acme.running("t")
    assert acme.refused("request", "eve", problem="x", task_id="t")[0] == "permission_denied"
    assert acme.refused("request", "ann", problem="x", task_id="t", epoch=7)[0] == "aborted"
    acme.call("task_complete", "ann", task_id="t", result=1)
    assert acme.refused("request", "ann", problem="x", task_id="t")[0] == "failed_precondition"
    assert acme.do("stats", "ann")["total"] == 0


def test_its_task_is_found_by_its_key(acme: Broker) -> None:
    """However many there are."""
    acme.value("SELECT muster.task_submit_many('acme', 'boss', jsonb_build_object('tasks', (SELECT jsonb_agg('{\"description\": \"x\"}'::jsonb)"
               " FROM generate_series(1, 1000))))")
    acme.running("t")
    looked_at = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'agent_tasks'"
    first, second = (acme.request("w1", task_id="t", problem=problem) for problem in ("fire", "water"))
    acme.do("answer", "w1", help_id=first, solution="s")
    for step in (lambda: acme.do("accept", "ann", help_id=first), lambda: acme.refused("withdraw", "eve", help_id=second),
                 lambda: acme.value("SELECT muster.help_orphans('_muster', 10)"), lambda: acme.do("withdraw", "boss", help_id=second)):
        with acme.connection.transaction():
            before = acme.value(looked_at)
            step()
            assert acme.value(looked_at) - before < 20


@pytest.mark.parametrize(("policy", "state"), [("retry", "scheduled"), ("fail", "failed")])
def test_without_an_answer_the_task_is_tried_again_or_fails(acme: Broker, policy: str, state: str) -> None:
    acme.running("t")
    help_id = acme.request("w1", task_id="t", on_expired=policy)
    acme.fire(help_id, "deadline")
    task = acme.task("t")
    assert (task["state"], task["reason"]) == (state, f"help request {help_id} is expired")


def test_a_withdrawn_request_lets_the_task_go_on(acme: Broker) -> None:
    acme.running("t")
    help_id = acme.request("w1", task_id="t")
    acme.do("withdraw", "boss", help_id=help_id)  # whose task it is
    assert acme.task("t")["state"] == "running" and acme.task("t")["input"] == {"help_id": help_id, "state": "withdrawn"}


def test_a_task_that_ends_takes_its_requests_with_it(acme: Broker) -> None:
    acme.running("t")
    help_id = acme.request("w1", task_id="t")
    acme.do("claim", "w1", help_id=help_id)
    acme.call("task_cancel", "boss", task_id="t")
    found = acme.value("SELECT muster.help_orphans('_muster', 10)")
    assert found["n"] == 1 and types(found["done"][0]) == {"help_cancel": ["w1"]} and acme.get(help_id)["reason"] == "its task has ended"


def test_a_task_that_is_locked_holds_up_no_request_but_its_own(postgres: Postgres, acme: Broker) -> None:
    """What somebody has open in a transaction is of his tenant; the sweeps are of all."""
    mine, ended = [], []
    for n in range(3):
        acme.running(f"t{n}")
        mine.append(acme.request("w1", task_id=f"t{n}"))
        acme.running(f"e{n}")
        ended.append(acme.request("w1", task_id=f"e{n}"))
        acme.call("task_cancel", "boss", task_id=f"e{n}")
    acme.running("u")
    free, over = acme.request("w1"), acme.request("w1", task_id="u")
    acme.call("task_cancel", "boss", task_id="u")
    with psycopg.connect(postgres.dsn("muster_app")) as app:
        app.execute("SET app.current_tenant = 'acme'")
        app.execute("SELECT FROM public.agent_tasks WHERE task_id <> 'u' FOR UPDATE")
        for help_id in (*mine, free):
            acme.turn(help_id, "deadline")
        acme.connection.execute("SET lock_timeout = '50ms'")
        assert acme.value("SELECT muster.help_due('_muster', NULL, 2)")["n"] == 1 and acme.state(free) == "expired"
        assert acme.value("SELECT muster.help_orphans('_muster', 2)")["n"] == 1 and acme.state(over) == "withdrawn"
    assert len(acme.due()) == 3 and acme.value("SELECT muster.help_orphans('_muster', 100)")["n"] == 3
    assert {acme.state(help_id) for help_id in mine} == {"expired"} and {acme.state(help_id) for help_id in ended} == {"withdrawn"}


def test_the_asker_dies_and_the_next_holder_inherits(acme: Broker) -> None:
    acme.postgres.query("INSERT INTO public.agent_sessions (tenant_id, session_id, agent_id, gone_reason) VALUES ('acme', 'ann-1', 'ann', 'timeout')")
    acme.running("t")
    help_id = acme.request("w1", task_id="t", session="ann-1")
    acme.do("session_lost", "_muster", agent="ann", session="ann-1")
    assert acme.value("SELECT muster.help_orphans('_muster', 10)")["n"] == 0 and acme.state(help_id) == "offered"
    acme.do("answer", "w1", help_id=help_id, solution="s")
    acme.call("task_provide_input", "boss", task_id="t", input="hurry")
    assert acme.task("t")["state"] == "queued"  # her session has gone
    acme.call("task_assign", "_muster", task_id="t", agent="bob", session="bob-1", auto_accept=True)
    assert acme.refused("accept", "eve", help_id=help_id)[0] == "permission_denied"
    acme.do("accept", "bob", help_id=help_id)
    assert acme.state(help_id) == "accepted" and acme.task("t")["input"] == "hurry"


def test_an_answer_for_a_dead_asker_queues_the_task_with_it(acme: Broker) -> None:
    acme.postgres.query("INSERT INTO public.agent_sessions (tenant_id, session_id, agent_id, gone_reason) VALUES ('acme', 'ann-1', 'ann', 'timeout')")
    acme.running("t")
    help_id = acme.request("w1", task_id="t", session="ann-1")
    acme.do("answer", "w1", help_id=help_id, solution="s")
    acme.fire(help_id, "until")  # nobody is there to accept it
    assert acme.task("t")["state"] == "queued" and acme.task("t")["input"]["solution"] == "s"


# Once more


def test_what_has_ended_without_an_answer_is_asked_once_more(acme: Broker) -> None:
    for start in STATES:
        help_id = acme.reach(start, problem=f"once {start}", context={"a": None}, capabilities=["fire"], labels={"hall": "3"}, k=5, timeout_ms=70000,
                             escalate=False, default_answer=0, verdict_ms=9000)
        if start not in ("withdrawn", "expired", "unanswered"):
            code, message = acme.refused("retry", "ann", help_id=help_id)
            assert code == "failed_precondition" and f" {start}" in message
            continue
        for actor, role in (("eve", "agent"), ("hum", "human")):
            assert acme.refused("retry", actor, help_id=help_id, role=role)[0] == "permission_denied"
        outcome = acme.ask("retry", "root", help_id=help_id, role="admin", ask="x")
        new_id = outcome["ok"]["help_id"]
        assert outcome["ok"] | {"prior": 0} == {"help_id": new_id, "state": "open", "prior": 0}
        assert (outcome["offer"]["help_id"], outcome["offer"]["capabilities"], outcome["ask"]) == (new_id, ["fire"], "x")
        old, new = acme.get(help_id), acme.get(new_id)
        same = "problem context capabilities labels mode k escalate default_answer asker depth".split()
        assert {key: new[key] for key in same} == {key: old[key] for key in same} and (new["retry_of"], new["state"]) == (help_id, "open")
        assert acme.do("history", "ann", help_id=new_id)["history"][0]["actor"] == "root"
        times = acme.postgres.query("SELECT extract(epoch FROM deadline - created_at)::integer, verdict_ms FROM muster.help WHERE help_id = %s", [new_id])
        assert times == [(70, 9000)] or start == "expired"  # reach() turns that one's


def test_a_task_waits_once_more_for_who_holds_it(acme: Broker) -> None:
    acme.running("t")
    help_id = acme.request("w1", task_id="t")
    acme.do("withdraw", "ann", help_id=help_id)
    assert "task_id" not in acme.get(acme.do("retry", "root", help_id=help_id, role="admin")["help_id"]) and acme.task("t")["state"] == "running"
    again = acme.do("retry", "ann", help_id=help_id)["help_id"]
    assert acme.get(again)["task_id"] == "t" and acme.task("t")["state"] == "input_required"
    acme.call("task_cancel", "boss", task_id="t")
    acme.value("SELECT muster.help_orphans('_muster', 10)")
    assert acme.state(again) == "withdrawn" and "task_id" not in acme.get(acme.do("retry", "ann", help_id=again)["help_id"])
    assert acme.refused("retry", "ann", help_id="nowhere") == ("not_found", "help_id: there is no help request nowhere")


# Reading, forgetting


def test_lists_go_on_where_they_stopped(acme: Broker) -> None:
    ids = [acme.request("w1", problem=f"p{n}", asker="ann" if n % 2 else "bob") for n in range(5)]
    page = acme.do("list", "ann", limit=3)
    assert [row["help_id"] for row in page["requests"]] == ids[:1:-1]
    rest = acme.do("list", "ann", limit=3, after=page["next"])
    assert [row["help_id"] for row in rest["requests"]] == ids[1::-1] and "next" not in rest
    acme.do("claim", "w1", help_id=ids[1])
    assert [row["help_id"] for row in acme.do("list", "ann", state="claimed")["requests"]] == [ids[1]]
    assert len(acme.do("list", "ann", asker="ann")["requests"]) == 2 and len(acme.do("list", "ann", expert="w1")["requests"]) == 5
    assert acme.do("list", "ann", expert="w2")["requests"] == []
    for verb, args in (("list", {"state": "lost"}), ("list", {"after": "x"}), ("history", {"help_id": ids[0], "after": "x"})):
        assert acme.refused(verb, "ann", **args)[0] == "invalid_argument"


def test_no_place_in_a_list_is_more_than_refused(acme: Broker) -> None:
    help_id = acme.request("w1")
    for place in odd.places(5, 40):
        for verb, args in (("list", {}), ("list", {"state": "offered", "asker": place, "expert": place}), ("history", {"help_id": help_id})):
            outcome = acme.ask(verb, "x", after=place, **args)
            assert "ok" in outcome or (outcome["error"]["code"], outcome["error"]["field"]) == ("invalid_argument", "after"), (verb, place, outcome)


def test_what_has_ended_is_forgotten_and_answers_later(acme: Broker) -> None:
    accepted, withdrawn, live = acme.reach("accepted"), acme.reach("withdrawn"), acme.reach("claimed")
    acme.postgres.query("UPDATE muster.help SET completed_at = completed_at - interval '40 days' WHERE completed_at IS NOT NULL")
    assert acme.value("SELECT muster.help_purge('30 days', '365 days', 100)") == 1
    assert acme.refused("get", "ann", help_id=withdrawn)[0] == "not_found" and acme.state(accepted) == "accepted"
    assert acme.value("SELECT muster.help_purge('30 days', '30 days', 100)") == 1
    assert acme.postgres.query("SELECT help_id FROM muster.help") == [(live,)] and acme.postgres.query("SELECT FROM muster.help_marks") == []
    acme.connection.execute("SELECT muster.forget('acme')")
    assert acme.postgres.query("SELECT (SELECT count(*) FROM muster.help) + (SELECT count(*) FROM muster.help_experts) + (SELECT count(*) FROM muster.help_history)") == [(0,)]


def test_sweepers_share_what_is_due(postgres: Postgres, acme: Broker) -> None:
    for n in range(40):
        acme.request("w1", problem=f"p{n}")
    acme.postgres.query("UPDATE muster.help SET until = now() - interval '1 s', wake_at = now() - interval '1 s'")
    assert sum(acme.value("SELECT muster.help_due('_muster', %s, 100)", shard)["n"] for shard in range(0, 16, 2)) < 40
    brokers, done, start = [Broker(postgres) for _ in range(3)], [], threading.Barrier(3)

    def sweep(broker: Broker) -> None:
        start.wait()
        done.append(broker.value("SELECT muster.help_due('_muster', NULL, 100)")["n"])
        broker.connection.close()
    threads = [threading.Thread(target=sweep, args=[broker]) for broker in brokers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert acme.do("stats", "ann")["by_state"] == {"open": 40} and acme.due() == []
