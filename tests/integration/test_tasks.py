"""The service task with a stock client: every verb, what it refuses and who may ask, what agents are told. Who gets a task is said by hand here."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import psycopg
import pytest

from agent import Agent, read
from client import Client, Subscription
from harness import LONG, Musterd, Site, wait_until
from invariants import broken
from pluginrig import Agents, asking, own_broker, reload, serving

PLUGINS = [{"name": "tasks", "config": {"sweep": "100ms"}}]


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    site = Site()
    try:
        site.start("acme", "zeta")
        yield site
        with site.postgres.connect() as connection:
            assert broken(connection) == []
    finally:
        site.close()


@pytest.fixture(scope="module")
def one(site: Site, request: pytest.FixtureRequest) -> Generator[Musterd, None, None]:
    with serving(site, *PLUGINS, cdc=True, session=request.session) as broker:
        yield broker


@pytest.fixture(scope="module")
def agents(site: Site, one: Musterd) -> Generator[Agents, None, None]:
    with asking(site) as agents:
        yield agents


class Desk:
    """boss submits, w1 and w2 work; who gets what is said in the database, as a broker says it."""

    def __init__(self, site: Site, agents: Agents) -> None:
        self.site, self.agents = site, agents
        self.boss, self.w1, self.w2 = agents("acme", "boss"), agents("acme", "w1"), agents("acme", "w2")
        self.connection = psycopg.connect(site.postgres.dsn("muster_broker"), autocommit=True)
        self.connection.execute("SELECT set_config('app.current_tenant', 'acme', false)")
        self.n = 0

    def new(self, **more: Any) -> str:
        self.n += 1
        task_id = more.pop("task_id", f"t{self.n}")
        assert self.ok(self.boss, "submit", task_id=task_id, description="dig", **more)["task_id"] == task_id
        return str(task_id)

    def assign(self, task_id: str, agent: str = "w1", auto_accept: bool = True, **more: Any) -> dict[str, Any]:
        args = {"task_id": task_id, "agent": agent, "session": f"{agent}-1", "auto_accept": auto_accept, **more}
        outcome = self.connection.execute("SELECT muster.task_assign('acme', '_muster', %s)", [json.dumps(args)]).fetchall()[0][0]
        assert "ok" in outcome, outcome
        return dict(outcome["ok"])

    def running(self, **more: Any) -> tuple[str, int]:
        task_id = self.new(**more)
        return task_id, int(self.assign(task_id)["epoch"])

    def ok(self, agent: Agent, verb: str, packed: bool = False, **body: Any) -> dict[str, Any]:
        answer = agent.ask("task", verb, body, packed=packed)
        assert "Nats-Service-Error" not in answer.headers, answer.body
        return answer.body

    def refused(self, agent: Agent, verb: str, **body: Any) -> dict[str, Any]:
        return agent.ask("task", verb, body).error

    def get(self, task_id: str) -> dict[str, Any]:
        return self.ok(self.boss, "get", task_id=task_id)

    def state(self, task_id: str) -> str:
        return str(self.get(task_id)["state"])


@pytest.fixture(scope="module")
def desk(site: Site, agents: Agents) -> Generator[Desk, None, None]:
    desk = Desk(site, agents)
    yield desk
    desk.connection.close()


# ---- from submit to its end ---------------------------------------------------------------------------------------------------


def test_a_task_from_its_submit_to_its_end(desk: Desk) -> None:
    answer = desk.ok(desk.boss, "submit", description="dig a hole", payload={"deep": 2.50, "who": None}, priority="high", labels={"site": "a"},
                     capabilities=["dig"], metadata={"k": 1})
    task_id = answer["task_id"]
    assert answer == {"task_id": task_id, "state": "queued"}
    told = desk.assign(task_id)
    assert desk.ok(desk.w1, "progress", task_id=task_id, epoch=told["epoch"], percent=40, step="deeper", metadata={"k2": 2}) == {}
    assert desk.ok(desk.w1, "complete", task_id=task_id, epoch=told["epoch"], result={"done": True}) == {"state": "succeeded"}
    task = desk.get(task_id)
    assert task["state"] == "succeeded" and task["result"] == {"done": True} and task["assigned_to"] == "w1" and task["assigned_by"] == "boss"
    assert task["payload"] == {"deep": 2.5, "who": None} and task["metadata"] == {"k": 1, "k2": 2} and task["percent"] == 40
    history = desk.ok(desk.boss, "history", task_id=task_id)
    assert [(h["from"], h["to"]) for h in history["history"]] == [("", "queued"), ("queued", "offered"), ("offered", "running"), ("running", "succeeded")]


def test_both_encodings_and_bodies_are_kept(desk: Desk) -> None:
    """A number keeps its digits, an answer comes in the encoding of the request."""
    task_id = desk.ok(desk.boss, "submit", packed=True, description="d", payload={"f": 0.5, "b": b"\x00\xff", "n": -7}, labels={"a": "b"})["task_id"]
    assert desk.get(task_id)["payload"] == {"f": 0.5, "b": {"base64": "AP8="}, "n": -7}
    assert desk.ok(desk.boss, "get", packed=True, task_id=task_id)["labels"] == {"a": "b"}
    raw = desk.boss.ask_raw("task", "submit", b' \n {"description": "d", "payload": {"big": 12345678901234567890123456789, "small": 1e-9}}').body
    assert '"big": 12345678901234567890123456789' in desk.boss.client.request(
        desk.boss.subject("task", "get"), json.dumps({"task_id": raw["task_id"]}).encode()).data.decode()
    assert desk.ok(desk.boss, "list", packed=True, limit=2)["tasks"][0]["task_id"] == raw["task_id"]


def test_what_comes_from_the_deep_comes_back(desk: Desk) -> None:
    """As deep as it may be: by get, in a list, in an event, and from several at once."""
    boss = Ears(desk.boss)
    task_id, _ = desk.running(payload=deep(26))
    desk.ok(desk.w1, "complete", task_id=task_id, result=deep(26))
    many = desk.ok(desk.boss, "submit_many", tasks=[{"description": "x", "payload": deep(24)}])["tasks"][0]["task_id"]
    for packed in (False, True):
        listed = {t["task_id"]: t for t in desk.ok(desk.boss, "list", packed=packed)["tasks"]}
        assert listed[task_id]["payload"] == deep(26) == listed[task_id]["result"] and listed[many]["payload"] == deep(24)
    assert body(boss.one("task_complete", task_id))["result"] == deep(26)
    for zero in (b"0e-9999", b"1e-9999", b"0e9999", b"1E+65"):
        error = desk.boss.ask_raw("task", "submit", b'{"description": "x", "payload": [' + zero + b"]}").error
        assert (error["code"], error["field"]) == ("invalid_argument", "payload")
    number = desk.boss.ask_raw("task", "submit", b'{"description": "x", "payload": [0.000, -1.5e-60, 1e22]}').body["task_id"]
    assert desk.get(number)["payload"] == [0, -1.5e-60, 10 ** 22]


def test_submit_many_is_all_or_nothing(desk: Desk) -> None:
    tasks = [{"task_id": "m1", "description": "x"}, {"task_id": "m2", "description": "x", "dependencies": ["m1"]}, {"description": "x", "parent": "m1"}]
    made = desk.ok(desk.boss, "submit_many", tasks=tasks)["tasks"]
    assert [(t["task_id"], t["state"]) for t in made[:2]] == [("m1", "queued"), ("m2", "blocked")] and made[2]["state"] == "queued"
    for bad, code, field in (({"task_id": "m1", "description": "x"}, "already_exists", "tasks[1].task_id"),
                             ({"description": "x", "dependencies": ["none"]}, "not_found", "tasks[1].dependencies"),
                             ({"description": "x", "priority": "now"}, "invalid_argument", "tasks[1].priority"),
                             ({"description": "x", "payload": deep(25)}, "invalid_argument", "tasks[1].payload"),
                             ({"description": "x", "payload": {"a": 1e65}}, "invalid_argument", "tasks[1].payload")):
        error = desk.refused(desk.boss, "submit_many", tasks=[{"task_id": "m3", "description": "x"}, bad])
        assert (error["code"], error["field"]) == (code, field), error
        assert desk.refused(desk.boss, "get", task_id="m3")["code"] == "not_found"
    error = desk.refused(desk.boss, "submit_many", tasks=[{"task_id": "c1", "description": "x", "dependencies": ["c2"]},
                                                          {"task_id": "c2", "description": "x", "dependencies": ["c1"]}])
    assert error["code"] == "invalid_argument" and "cycle" in error["message"] and "c1 -> c2" in error["message"]
    many = desk.ok(desk.boss, "submit_many", tasks=[{"description": f"x{i}"} for i in range(1000)])["tasks"]
    assert len({t["task_id"] for t in many}) == 1000
    assert desk.refused(desk.boss, "submit_many", tasks=[{"description": "x"}] * 1001)["code"] == "invalid_argument"


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


# ---- refusals ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb, body, field, came, expected", [
    ("submit", {}, "description", "nothing", "str"),
    ("submit", {"description": ""}, "description", "", "1"),
    ("submit", {"description": "x", "task_id": ""}, "task_id", "", "1"),
    ("submit", {"description": "x", "task_id": "x" * 257}, "task_id", "xxx...", "1 to 256 bytes"),
    ("submit", {"description": "x", "priority": "urgent"}, "priority", "urgent", "low"),
    ("submit", {"description": "x", "assigned_to": "a b"}, "assigned_to", "a b", "name"),
    ("submit", {"description": "x", "deadline": "tomorrow"}, "deadline", "tomorrow", "time"),
    ("submit", {"description": "x", "run_after": 5}, "run_after", "5", "time"),
    ("submit", {"description": "x", "start_by": "2026-02-30T00:00:00Z"}, "start_by", "2026-02-30", "time"),
    ("submit", {"description": "x", "max_attempts": 0}, "max_attempts", "0", "1 to 1000"),
    ("submit", {"description": "x", "max_attempts": 1001}, "max_attempts", "1001", "1 to 1000"),
    ("submit", {"description": "x", "timeout_ms": -1}, "timeout_ms", "-1", "1 to 9999999999"),
    ("submit", {"description": "x", "capabilities": "dig"}, "capabilities", "string", "list"),
    ("submit", {"description": "x", "labels": {"a": 1}}, "labels.a", "1", "str"),
    ("submit", {"description": "x", "dependencies": [1]}, "dependencies[0]", "1", "str"),
    ("submit", {"description": "x", "on_parent_failure": "stop"}, "on_parent_failure", "stop", "cancel"),
    ("submit", {"description": "x", "metadata": 3}, "metadata", "3", "map"),
    ("submit", {"description": "x", "payload": deep(27)}, "payload", "28 levels", "27"),
    ("submit", {"description": "x", "payload": [0] * 4000 + ["x" * 890000]}, "payload", "bytes", "900000"),
    ("submit", {"description": "x" * 900100, "payload": 1}, "description", "bytes", "900000"),
    ("submit", {"description": "x", "assigned": "w1"}, "assigned", "", ""),
    ("submit", {"description": "x", "role": "admin"}, "role", "", ""),
    ("submit", {"description": "x", "metadata": {"a": [1e-65]}}, "metadata", "more than 64 places", "fewer"),
    ("progress", {"task_id": "x", "percent": 1e300}, "percent", "more than 64 places", "fewer"),
    ("submit_many", {"tasks": []}, "tasks", "0", "1"),
    ("accept", {}, "task_id", "nothing", "str"),
    ("decline", {"task_id": "x", "epoch": "1"}, "epoch", "\"1\"", "integer"),
    ("progress", {"task_id": "x", "percent": "half"}, "percent", "half", "number"),
    ("progress", {"task_id": "x", "step": 1}, "step", "1", "str"),
    ("complete", {"task_id": "x", "epoch": -1}, "epoch", "-1", "0"),
    ("complete", {"task_id": "x", "result": deep(30)}, "result", "31 levels", "27"),
    ("fail", {"task_id": "x"}, "error", "nothing", "any"),
    ("fail", {"task_id": "x", "error": 1, "retryable": "no"}, "retryable", "no", "bool"),
    ("need_input", {"task_id": "x"}, "question", "nothing", "any"),
    ("provide_input", {"task_id": "x"}, "input", "nothing", "any"),
    ("cancel", {"task_id": "x", "reason": "r" * 1025}, "reason", "rrr...", "1024"),
    ("list", {"state": "open"}, "state", "open", "blocked"),
    ("list", {"limit": 0}, "limit", "0", "1"),
    ("list", {"limit": 1001}, "limit", "1001", "1000"),
    ("list", {"after": "yesterday"}, "after", "yesterday", "next"),
    ("history", {"task_id": "m1", "after": "-1"}, "after", "-1", "next"),
])
def test_a_bad_argument_is_named(desk: Desk, verb: str, body: dict[str, Any], field: str, came: str, expected: str) -> None:
    error = desk.refused(desk.boss, verb, **body)
    assert error["code"] == "invalid_argument" and error.get("field") == field, error
    assert field.split("[")[0] in error["message"] and came in error["message"] and expected in error["message"], error


def test_what_is_not_there_is_not_found_in_the_same_words(desk: Desk) -> None:
    other = desk.agents("zeta", "boss")
    theirs = other.ask("task", "submit", {"task_id": "theirs", "description": "x"}).body
    assert theirs["state"] == "queued"
    bodies: dict[str, dict[str, Any]] = {"fail": {"error": 1}, "need_input": {"question": 1}, "provide_input": {"input": 1}}
    for verb in ("accept", "decline", "progress", "complete", "fail", "need_input", "provide_input", "cancel", "cancelled", "retry", "get", "history"):
        never = desk.refused(desk.boss, verb, task_id="nevers", **bodies.get(verb, {}))
        foreign = desk.refused(desk.boss, verb, task_id="theirs", **bodies.get(verb, {}))
        assert never["code"] == "not_found" and never["message"] == foreign["message"].replace("theirs", "nevers"), verb
    assert desk.refused(desk.boss, "submit", description="x", dependencies=["theirs"])["code"] == "not_found"
    assert "theirs" not in json.dumps(desk.ok(desk.boss, "list", limit=1000))
    assert desk.refused(desk.boss, "nonsense")["code"] == "not_found"


def test_who_holds_it_alone_may_go_on_with_it(desk: Desk) -> None:
    task_id, epoch = desk.running()
    bodies: dict[str, dict[str, Any]] = {"fail": {"error": 1}, "need_input": {"question": 1}}
    for verb in ("progress", "complete", "fail", "need_input", "decline", "accept"):
        error = desk.refused(desk.w2, verb, task_id=task_id, **bodies.get(verb, {}))
        assert error["code"] == "permission_denied" and "held by another" in error["message"], verb
        stale = desk.refused(desk.w1, verb, task_id=task_id, epoch=epoch - 1, **bodies.get(verb, {}))
        assert stale["code"] == "aborted" and "stale_epoch" in stale["message"], verb
    error = desk.refused(desk.w1, "cancelled", task_id=task_id)
    assert error["code"] == "failed_precondition" and "running" in error["message"]
    for verb in ("cancel", "retry", "provide_input"):
        error = desk.refused(desk.w1, verb, task_id=task_id, **({"input": 1} if verb == "provide_input" else {}))
        assert error["code"] == ("permission_denied" if verb == "cancel" else "failed_precondition"), error


STATES = ["blocked", "scheduled", "queued", "offered", "running", "input_required", "cancelling", "succeeded", "failed", "dead", "cancelled", "expired"]
# In which states a verb of w1, who holds it, and of boss, whose it is, is carried out; the same said again is no error.
HOLDER: dict[str, set[str]] = {"accept": {"offered", "running"}, "decline": {"offered", "running"}, "progress": {"running", "cancelling"},
                               "complete": {"running", "succeeded"}, "fail": {"running"}, "need_input": {"running"}, "cancelled": {"cancelling", "cancelled"}}
OWNER: dict[str, set[str]] = {"provide_input": {"input_required"}, "retry": {"failed", "dead", "cancelled", "expired"},
                              "cancel": {"blocked", "scheduled", "queued", "offered", "input_required", "running", "cancelling"}}
SAYS: dict[str, dict[str, Any]] = {"complete": {"result": 1}, "fail": {"error": 1}, "need_input": {"question": 1}, "provide_input": {"input": 1}}


def reach(desk: Desk, state: str) -> str:
    """A new task in a state, by the shortest way."""
    if state == "blocked":
        return desk.new(dependencies=[desk.new()])
    task_id = desk.new(max_attempts=1, **({"run_after": "2999-01-01T00:00:00Z"} if state == "scheduled" else {}))
    if state in ("cancelled", "expired"):
        desk.connection.execute("UPDATE public.agent_tasks SET status = %s WHERE task_id = %s", [state, task_id])
    elif state not in ("scheduled", "queued"):
        desk.assign(task_id, auto_accept=state != "offered", offer_ms=60000)
        verb, agent, more = {"input_required": ("need_input", desk.w1, {"question": 1}), "cancelling": ("cancel", desk.boss, {}),
                             "succeeded": ("complete", desk.w1, {"result": 1}), "dead": ("fail", desk.w1, {"error": 1}),
                             "failed": ("fail", desk.w1, {"error": 1, "retryable": False})}.get(state, ("get", desk.w1, {}))
        desk.ok(agent, verb, task_id=task_id, **more)
    assert desk.state(task_id) == state
    return task_id


@pytest.mark.parametrize("state", STATES)
def test_what_a_state_has_not_is_refused_and_the_state_named(desk: Desk, state: str) -> None:
    task_id = reach(desk, state)
    for verbs, agent in ((HOLDER, desk.w1), (OWNER, desk.boss)):
        for verb in [v for v, states in verbs.items() if state not in states]:
            error = desk.refused(agent, verb, task_id=task_id, **SAYS.get(verb, {}))
            assert error["code"] in ("failed_precondition", "aborted") and state in error["message"], (verb, error)
            assert error["field"] in ("task_id", "epoch") and desk.state(task_id) == state


def test_a_time_that_is_over_is_told(desk: Desk) -> None:
    """Before a broker has looked: the clocks are turned where none sees it."""
    offered = desk.new()
    desk.assign(offered, auto_accept=False, offer_ms=60000)
    late, _ = desk.running(deadline="2999-01-01T00:00:00Z")
    with desk.site.postgres.connect(autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")
        for column, task_id, verb in (("until", offered, "accept"), ("deadline", late, "progress"), ("deadline", late, "complete")):
            admin.execute(f"UPDATE public.agent_tasks SET {column} = {column} - interval '1000 years' WHERE task_id = %s", [task_id])  # type: ignore[arg-type]
            error = desk.refused(desk.w1, verb, task_id=task_id)
            assert (error["code"], error["field"]) == ("deadline_exceeded", "task_id") and task_id in error["message"]
            admin.execute(f"UPDATE public.agent_tasks SET {column} = {column} + interval '1000 years' WHERE task_id = %s", [task_id])  # type: ignore[arg-type]
    assert desk.state(offered) == "offered" and desk.state(late) == "running"


def test_a_result_that_comes_late_is_kept(desk: Desk) -> None:
    task_id, epoch = desk.running()
    assert desk.ok(desk.w1, "decline", task_id=task_id, reason="no spade") == {"state": "queued"}
    desk.assign(task_id, "w2")
    error = desk.refused(desk.w1, "complete", task_id=task_id, epoch=epoch, result={"late": 1})
    assert error["code"] == "aborted" and error["field"] == "epoch"
    assert desk.get(task_id)["late_result"]["body"] == {"late": 1} and desk.state(task_id) == "running"
    assert desk.ok(desk.w2, "complete", task_id=task_id, result=2) == {"state": "succeeded"}
    assert desk.ok(desk.w2, "complete", task_id=task_id, result=2) == {"state": "succeeded"}  # said again
    assert desk.refused(desk.w2, "complete", task_id=task_id, result=3)["code"] == "failed_precondition"
    stopped, epoch = desk.running()
    assert desk.ok(desk.boss, "cancel", task_id=stopped) == {"state": "cancelling"}
    assert desk.refused(desk.w1, "complete", task_id=stopped, epoch=epoch, result=4)["code"] == "failed_precondition"
    desk.ok(desk.w1, "cancelled", task_id=stopped)
    assert desk.refused(desk.w1, "complete", task_id=stopped, epoch=epoch, result=4)["code"] == "aborted"
    assert desk.get(stopped)["late_result"]["body"] == 4 and desk.state(stopped) == "cancelled"


# ---- the other verbs ----------------------------------------------------------------------------------------------------------


def test_failing_and_trying_again(desk: Desk) -> None:
    task_id, _ = desk.running(max_attempts=2, payload={"p": 1})
    assert desk.ok(desk.w1, "fail", task_id=task_id, error={"why": "rain"}) == {"state": "scheduled"}
    wait_until(lambda: desk.state(task_id) == "queued", 10, "the pause to be over")
    desk.assign(task_id)
    assert desk.ok(desk.w1, "fail", task_id=task_id, error="rain", retryable=True) == {"state": "dead"}
    assert desk.refused(desk.w1, "retry", task_id=task_id)["code"] == "permission_denied"
    again = desk.ok(desk.boss, "retry", task_id=task_id)
    assert again["state"] == "queued" and desk.get(again["task_id"])["retry_of"] == task_id and desk.get(again["task_id"])["payload"] == {"p": 1}
    desk.assign(again["task_id"])
    assert desk.ok(desk.w1, "fail", task_id=again["task_id"], error="for good", retryable=False) == {"state": "failed"}
    assert desk.get(again["task_id"])["error"] == "for good"


def test_what_is_tried_again_is_what_it_was(desk: Desk) -> None:
    """Times that are to come are its own still."""
    said = {"run_after": "2999-01-01T00:00:00.000000Z", "start_by": "2999-01-02T00:00:00.000000Z", "deadline": "2999-01-03T00:00:00.000000Z", "priority": "low",
            "labels": {"a": "b"}, "capabilities": ["q"], "group": "g", "timeout_ms": 5, "progress_timeout_ms": 6, "max_attempts": 7, "metadata": {"m": 1}, "payload": [1]}
    first = desk.new(**said)
    desk.ok(desk.boss, "cancel", task_id=first)
    again = desk.ok(desk.boss, "retry", task_id=first)
    assert again["state"] == "scheduled" and {**said, "retry_of": first, "assigned_by": "boss"}.items() <= desk.get(again["task_id"]).items()
    desk.ok(desk.boss, "cancel", task_id=again["task_id"])


def test_assigned_with_its_submit_or_not_at_all(desk: Desk) -> None:
    """seq 0: of a task that this transaction has made, and of no other of that name."""
    make, assign = "SELECT muster.task_submit('acme', 'boss', %s)", "SELECT muster.task_assign('acme', '_muster', %s)"
    args = json.dumps({"task_id": desk.new(), "agent": "w1", "session": "w1-1", "seq": 0})
    assert desk.connection.execute(assign, [args]).fetchall()[0][0]["error"]["code"] == "aborted"
    with desk.connection.transaction():
        assert desk.connection.execute(make, [json.dumps({"task_id": json.loads(args)["task_id"], "description": "dig"})]).fetchall()[0][0]["error"]["code"] == "already_exists"
        assert desk.connection.execute(assign, [args]).fetchall()[0][0]["error"]["code"] == "aborted"
    with desk.connection.transaction():
        desk.connection.execute(make, [json.dumps({"task_id": "at-once", "description": "dig"})])
        assert desk.assign("at-once", seq=0)["epoch"] == 1
    assert desk.state("at-once") == "running"


def test_pausing_is_an_admins(site: Site, desk: Desk) -> None:
    site.agent("acme", "chief", "admin")
    chief = desk.agents("acme", "chief")
    assert desk.refused(desk.boss, "pause")["code"] == "permission_denied"
    assert desk.ok(chief, "pause") == {"paused": True} == desk.ok(chief, "pause")
    assert desk.ok(desk.boss, "stats")["paused"] is True
    task_id = desk.new()
    outcome = desk.connection.execute("SELECT muster.task_assign('acme', '_muster', %s)",
                                      [json.dumps({"task_id": task_id, "agent": "w1", "session": "s"})]).fetchall()[0][0]
    assert outcome["error"]["code"] == "failed_precondition"
    assert desk.ok(chief, "resume") == {"paused": False}
    stats = desk.ok(desk.boss, "stats")
    assert stats["paused"] is False and stats["total"] == sum(stats["by_state"].values()) and stats["by_state"]["queued"] > 0
    assert stats["oldest_queued_ms"] >= 0


def test_who_may_ask_what(site: Site, desk: Desk) -> None:
    names = {role: f"is-{role}" for role in ("observer", "user", "human", "admin")}
    for role, name in names.items():
        site.agent("acme", name, role)
    by = {role: desk.agents("acme", name) for role, name in names.items()}
    task_id, _ = desk.running()
    desk.ok(desk.w1, "need_input", task_id=task_id, question="where?")
    for verb in ("get", "history"):
        assert desk.ok(by["observer"], verb, task_id=task_id)
        assert desk.refused(by["user"], verb, task_id=task_id)["code"] == "permission_denied"
    assert desk.refused(by["observer"], "submit", description="x")["code"] == "permission_denied"
    assert desk.refused(by["user"], "submit", description="x")["code"] == "permission_denied"
    assert desk.refused(by["human"], "cancel", task_id=task_id)["code"] == "permission_denied"
    assert desk.refused(by["human"], "pause")["code"] == "permission_denied"
    assert desk.refused(desk.w2, "provide_input", task_id=task_id, input="there")["code"] == "permission_denied"
    assert desk.ok(by["human"], "provide_input", task_id=task_id, input="there") == {"state": "running"}
    assert desk.ok(by["admin"], "cancel", task_id=task_id, reason="enough") == {"state": "cancelling"}
    roles = [(h["verb"], h["role"]) for h in desk.ok(desk.boss, "history", task_id=task_id)["history"]]
    assert ("provide_input", "human") in roles and ("cancel", "admin") in roles
    desk.ok(desk.w1, "cancelled", task_id=task_id)


WRITES: list[tuple[str, str, dict[str, Any]]] = [
    # verb, state that it begins with, what it says beside task_id
    ("accept", "offered", {}), ("decline", "running", {"reason": "r"}), ("progress", "running", {"percent": 3}), ("complete", "running", {"result": 1}),
    ("fail", "running", {"error": 1}), ("need_input", "running", {"question": 1}), ("provide_input", "input_required", {"input": 1}),
    ("cancel", "queued", {"reason": "r"}), ("cancelled", "cancelling", {}), ("retry", "cancelled", {}),
]


@pytest.mark.parametrize("verb, state, more", WRITES)
def test_a_request_id_is_carried_out_once(desk: Desk, verb: str, state: str, more: dict[str, Any]) -> None:
    task_id = desk.new()
    if state not in ("queued", "cancelled"):
        desk.assign(task_id, auto_accept=state != "offered")
    if state in ("cancelled", "cancelling"):
        desk.ok(desk.boss, "cancel", task_id=task_id)
    if state == "input_required":
        desk.ok(desk.w1, "need_input", task_id=task_id, question=0)
    caller = desk.boss if verb in ("provide_input", "cancel", "retry") else desk.w1
    body = {"task_id": task_id, **more, "request_id": f"once-{task_id}"}
    first = desk.ok(caller, verb, **body)
    changes = len(desk.ok(desk.boss, "history", task_id=task_id)["history"])
    assert desk.ok(caller, verb, **body) == first == desk.ok(caller, verb, packed=True, **body)
    assert len(desk.ok(desk.boss, "history", task_id=task_id)["history"]) == changes
    error = desk.refused(caller, verb, **{**body, "task_id": "another"})
    assert (error["code"], error["field"]) == ("already_exists", "request_id")


def test_a_request_id_of_submits(site: Site, desk: Desk) -> None:
    first = desk.ok(desk.boss, "submit", description="x", request_id="s1")
    assert desk.ok(desk.boss, "submit", description="x", request_id="s1") == first
    assert desk.ok(desk.w1, "submit", description="x", request_id="s1") != first  # another's
    assert desk.refused(desk.boss, "submit", description="y", request_id="s1")["code"] == "already_exists"
    many = desk.ok(desk.boss, "submit_many", tasks=[{"description": "x"}], request_id="s1")
    assert desk.ok(desk.boss, "submit_many", tasks=[{"description": "x"}], request_id="s1") == many
    refused = desk.refused(desk.boss, "submit", description="x", dependencies=["later"], request_id="s2")
    desk.new(task_id="later")
    assert desk.refused(desk.boss, "submit", description="x", dependencies=["later"], request_id="s2") == refused
    box = desk.boss.client.subscribe(desk.boss.box("fifty"))
    for _ in range(50):
        desk.boss.tell("task", "submit", {"description": "x", "request_id": "s3"}, reply=desk.boss.box("fifty"))
    wait_until(lambda: len(box.messages) == 50, 20, "fifty answers")
    assert len({m.data for m in box.messages}) == 1


# ---- respond() ----------------------------------------------------------------------------------------------------------------


def ref(task_id: str, epoch: int) -> str:
    return f"{epoch}-{base64.urlsafe_b64encode(task_id.encode()).decode().rstrip('=')}"


def respond(agent: Agent, verb: str, task_id: str, epoch: int, body: bytes) -> None:
    agent.client.publish(agent.subject("task", f"{verb}.{ref(task_id, epoch)}"), body)


@pytest.mark.parametrize("body", [b"", b"yes", b"{}", b'{"decline": false}', b'{"decline": "true"}', b"\xff\xfe", b"[1]", b'{"decline": true'])
def test_any_answer_accepts(desk: Desk, body: bytes) -> None:
    task_id = desk.new(task_id=f"an ü/answer.{body!r}")
    epoch = desk.assign(task_id, auto_accept=False)["epoch"]
    respond(desk.w1, "accept", task_id, epoch, body)
    wait_until(lambda: desk.state(task_id) == "running", 5, "it to be accepted")
    respond(desk.w1, "accept", task_id, epoch, body)  # twice
    assert desk.ok(desk.w1, "complete", task_id=task_id, result=1) == {"state": "succeeded"}


def test_an_answer_declines(desk: Desk) -> None:
    task_id = desk.new()
    epoch = desk.assign(task_id, auto_accept=False)["epoch"]
    respond(desk.w2, "accept", task_id, epoch, b"{}")  # not his
    respond(desk.w1, "accept", task_id, epoch + 1, b"{}")
    respond(desk.w1, "accept", task_id, epoch, b'{"decline": true, "reason": "ill \\"today\\""}')
    wait_until(lambda: desk.state(task_id) == "queued", 5, "it to be declined")
    last = desk.ok(desk.boss, "history", task_id=task_id)["history"][-1]
    assert (last["verb"], last["reason"], last["role"]) == ("decline", 'ill "today"', "holder")
    epoch = desk.assign(task_id, "w2")["epoch"]
    respond(desk.w2, "accept", task_id, epoch, b"\x81\xa7decline\xc3")  # MessagePack, of one that runs already
    wait_until(lambda: desk.state(task_id) == "queued", 5, "it to be given back")
    long_one = desk.new()
    epoch = desk.assign(long_one, auto_accept=False)["epoch"]
    respond(desk.w1, "accept", long_one, epoch, json.dumps({"decline": True, "reason": "é" * 400000}, ensure_ascii=False).encode())
    wait_until(lambda: desk.state(long_one) == "queued", 5, "it to be declined")
    assert desk.ok(desk.boss, "history", task_id=long_one)["history"][-1]["reason"] == "é" * 512, "as much as a request may have"


def test_an_answer_that_is_a_request_is_answered(desk: Desk) -> None:
    task_id = desk.new()
    epoch = desk.assign(task_id, auto_accept=False)["epoch"]
    assert read(desk.w1.client.request(desk.w1.subject("task", f"accept.{ref(task_id, epoch)}"), b"ok")).body == {"state": "running"}
    assert read(desk.w2.client.request(desk.w2.subject("task", f"accept.{ref(task_id, epoch)}"), b"ok")).error["code"] == "permission_denied"
    for bad in ("x", "1", "1-", "-", "1-!", "99999999999999999999999-eA", "1-AA"):
        assert read(desk.w1.client.request(desk.w1.subject("task", f"accept.{bad}"), b"ok")).error["code"] in ("not_found", "invalid_argument"), bad


# ---- what agents are told -----------------------------------------------------------------------------------------------------


class Ears:
    """What `_muster` tells an agent, by type."""

    def __init__(self, agent: Agent) -> None:
        self.heard: Subscription = agent.client.subscribe(f"mst.{agent.tenant}.to.{agent.name}._muster.>")

    def of(self, kind: str, task_id: str) -> list[Any]:
        found = [m for m in self.heard.messages if m.subject.endswith(f"._muster.{kind}")]
        return [m for m in found if json.loads(m.data)["task_id"] == task_id]

    def one(self, kind: str, task_id: str) -> Any:
        wait_until(lambda: self.of(kind, task_id), 10, f"{kind} of {task_id}")
        return self.of(kind, task_id)[0]


def body(message: Any) -> dict[str, Any]:
    return dict(json.loads(message.data))


def test_both_hear_that_it_is_done(desk: Desk) -> None:
    boss, w1 = Ears(desk.boss), Ears(desk.w1)
    task_id, epoch = desk.running()
    desk.ok(desk.w1, "complete", task_id=task_id, epoch=epoch, result={"holes": 2, "text": "ü"})
    told = {"task_id": task_id, "result": {"holes": 2, "text": "ü"}, "completed_by": "w1"}
    assert body(boss.one("task_complete", task_id)) == told == body(w1.one("task_complete", task_id))
    mine = desk.ok(desk.w1, "submit", description="my own")["task_id"]
    desk.assign(mine)
    desk.ok(desk.w1, "complete", task_id=mine)
    assert body(w1.one("task_complete", mine)) == {"task_id": mine, "result": None, "completed_by": "w1"}
    receipt = boss.one("task_complete", task_id).reply
    assert receipt == "mst.acme.rpc.boss.task.receipt.task_complete" and read(desk.boss.client.request(receipt, b"thanks")).body == {}
    long, _ = desk.running(payload="p" * 400000)
    desk.ok(desk.w1, "complete", task_id=long, result="r" * 700000)  # more than an event holds
    assert body(boss.one("task_complete", long))["result"] == "r" * 700000
    time.sleep(0.3)
    assert [len(e.of("task_complete", t)) for e, t in ((boss, task_id), (w1, task_id), (w1, mine))] == [1, 1, 1]


def test_the_holder_hears_that_it_is_cancelled(desk: Desk) -> None:
    w1 = Ears(desk.w1)
    task_id, epoch = desk.running()
    assert desk.ok(desk.boss, "cancel", task_id=task_id, reason="enough") == {"state": "cancelling"}
    told = w1.one("task_cancel", task_id)
    assert body(told) == {"task_id": task_id, "epoch": epoch, "reason": "enough"} and told.reply == f"mst.acme.rpc.w1.task.cancelled.{ref(task_id, epoch)}"
    assert desk.refused(desk.w1, "complete", task_id=task_id, result=1)["code"] == "failed_precondition"
    desk.w1.client.publish(told.reply, b"")
    wait_until(lambda: desk.state(task_id) == "cancelled", 5, "it to be cancelled")
    offered = desk.new()
    epoch = desk.assign(offered, auto_accept=False)["epoch"]
    assert desk.ok(desk.boss, "cancel", task_id=offered) == {"state": "cancelled"}
    told = w1.one("task_cancel", offered)
    assert body(told) == {"task_id": offered, "epoch": epoch, "reason": None}
    assert read(desk.w1.client.request(told.reply, b"")).body == {"state": "cancelled"}
    waiting, epoch = desk.running()
    desk.ok(desk.w1, "need_input", task_id=waiting, question=1)
    desk.ok(desk.boss, "cancel", task_id=waiting)
    assert body(w1.one("task_cancel", waiting))["epoch"] == epoch
    queued = desk.new(assigned_to="w1")
    desk.ok(desk.boss, "cancel", task_id=queued)
    desk.running()
    time.sleep(0.3)
    assert not w1.of("task_cancel", queued) and len(w1.of("task_cancel", task_id)) == 1


def test_the_holder_hears_the_answer(desk: Desk) -> None:
    w1 = Ears(desk.w1)
    task_id, epoch = desk.running()
    assert desk.ok(desk.w1, "need_input", task_id=task_id, epoch=epoch, question={"where": None}) == {"state": "input_required"}
    assert desk.get(task_id)["question"] == {"where": None}
    assert desk.ok(desk.boss, "provide_input", task_id=task_id, input=["here", 1]) == {"state": "running"}
    assert body(w1.one("task_input", task_id)) == {"task_id": task_id, "epoch": epoch + 1, "input": ["here", 1]}
    assert read(desk.w1.client.request(w1.one("task_input", task_id).reply, b"thanks")).body == {"state": "running"}
    assert desk.refused(desk.w1, "complete", task_id=task_id, epoch=epoch)["code"] == "aborted"
    assert desk.ok(desk.w1, "complete", task_id=task_id, epoch=epoch + 1) == {"state": "succeeded"}
    for n_bytes, told in ((500000, {"input": "i" * 500000}), (850000, {"input": None, "omitted": ["input"]})):  # with the payload more than an event holds
        long, epoch = desk.running(payload="p" * 500000)
        desk.ok(desk.w1, "need_input", task_id=long, question=1)
        desk.ok(desk.boss, "provide_input", task_id=long, input="i" * n_bytes)
        assert body(w1.one("task_input", long)) == {"task_id": long, "epoch": epoch + 1, **told}
        desk.ok(desk.w1, "complete", task_id=long)


def test_who_writes_the_table_is_told_of_as_well(site: Site, desk: Desk) -> None:
    boss, w1 = Ears(desk.boss), Ears(desk.w1)
    done, _ = desk.running()
    stopped, epoch = desk.running()
    site.postgres.query(f"UPDATE public.agent_tasks SET status = 'succeeded', result = '5' WHERE task_id = '{done}'")
    site.postgres.query(f"UPDATE public.agent_tasks SET status = 'cancelling' WHERE task_id = '{stopped}'")
    assert body(boss.one("task_complete", done))["result"] == 5
    assert body(w1.one("task_cancel", stopped))["epoch"] == epoch


@pytest.mark.parametrize("by", ["boss.mallory", "a b"])
def test_a_name_in_the_table_does_not_become_a_sender(site: Site, desk: Desk, by: str) -> None:
    """The subject proves who sends: it holds names of agents alone, and who did it hears of it all the same."""
    site.agent("acme", "listener", "admin")
    everything, w1 = desk.agents("acme", "listener").client.subscribe("mst.acme.to.>"), Ears(desk.w1)
    task_id = f"by-{by}"[:40]
    with site.postgres.connect(autocommit=True) as admin:
        admin.execute("INSERT INTO public.agent_tasks (tenant_id, task_id, description, assigned_by) VALUES ('acme', %s, 'x', %s)", [task_id, by])
        for name in ("a b", "boss.mallory", "_muster"):
            with pytest.raises(psycopg.errors.CheckViolation, match="the name of an agent was expected"):
                admin.execute("UPDATE public.agent_tasks SET assigned_to = %s WHERE task_id = %s", [name, task_id])
    desk.assign(task_id)
    desk.ok(desk.w1, "complete", task_id=task_id, result=1)
    assert body(w1.one("task_complete", task_id))["completed_by"] == "w1"
    time.sleep(0.2)
    assert {m.subject for m in everything.messages if body(m).get("task_id") == task_id} == {"mst.acme.to.w1._muster.task_complete"}


# ---- what happens by itself ---------------------------------------------------------------------------------------------------


def soon(ms: int) -> str:
    from datetime import UTC, datetime, timedelta

    return (datetime.now(UTC) + timedelta(milliseconds=ms)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_clocks_run_out(desk: Desk) -> None:
    w1 = Ears(desk.w1)
    late, epoch = desk.running(deadline=soon(700))
    desk.new(task_id="unbegun", start_by=soon(300))
    assert desk.ok(desk.boss, "submit", task_id="after", description="x", run_after=soon(300))["state"] == "scheduled"
    slow, _ = desk.running(timeout_ms=300, max_attempts=1)
    stuck, _ = desk.running(progress_timeout_ms=300)
    offered = desk.new()
    desk.assign(offered, auto_accept=False, offer_ms=300)
    ends = {late: "expired", "unbegun": "expired", "after": "queued", slow: "dead", offered: "queued"}
    for task_id, state in ends.items():
        wait_until(lambda task_id=task_id, state=state: desk.state(task_id) == state, 10, f"{task_id} to be {state}")
    wait_until(lambda: desk.state(stuck) in ("scheduled", "queued"), 10, "the stuck one to be taken away")
    assert body(w1.one("task_cancel", late)) == {"task_id": late, "epoch": epoch, "reason": "deadline"}
    error = desk.refused(desk.w1, "complete", task_id=late, epoch=epoch, result="too late")
    assert error["code"] == "aborted" and desk.get(late)["late_result"]["body"] == "too late"


def test_a_lock_that_somebody_keeps_stops_no_clock(site: Site, desk: Desk) -> None:
    """Advisory locks are one name space for every SQL user: what one tenant's does with them is not for all others to wait for."""
    with psycopg.connect(site.postgres.dsn("muster_app")) as app:
        app.execute("SELECT pg_advisory_lock(hashtext('muster.' || job), n) FROM unnest('{task_due,task_settle}'::text[]) AS job, generate_series(-1, 15) AS n")
        desk.new(task_id="on time", deadline=soon(300))
        desk.new(task_id="after it", dependencies=["on time"], on_parent_failure="run")
        wait_until(lambda: (desk.state("on time"), desk.state("after it")) == ("expired", "queued"), 20, "a deadline")
    desk.ok(desk.boss, "cancel", task_id="after it")


def test_followers_go_on_when_it_ends(desk: Desk) -> None:
    first, _ = desk.running()
    bad, _ = desk.running()
    waits = desk.new(dependencies=[first])
    lost = desk.new(dependencies=[bad])
    goes_on = desk.new(dependencies=[bad], on_parent_failure="run")
    child = desk.new(parent=bad)
    desk.ok(desk.w1, "complete", task_id=first)
    wait_until(lambda: desk.state(waits) == "queued", 5, "who waited")
    desk.ok(desk.boss, "cancel", task_id=bad)
    wait_until(lambda: desk.state(child) == "cancelled", 5, "its child to be cancelled")
    desk.ok(desk.w1, "cancelled", task_id=bad)
    wait_until(lambda: (desk.state(lost), desk.state(goes_on)) == ("cancelled", "queued"), 5, "its followers")
    assert bad in desk.get(lost)["reason"]


def test_many_deadlines_at_once(desk: Desk, one: Musterd) -> None:
    """More than one statement does."""
    before = one.metric("muster_tasks_swept_total", 'job="task_due"')
    for _ in range(3):
        desk.ok(desk.boss, "submit_many", tasks=[{"description": "x", "deadline": soon(500), "group": "many"} for _ in range(500)])
    count = "SELECT count(*) FROM public.agent_tasks WHERE group_key = 'many' AND status = 'expired'"
    wait_until(lambda: desk.site.postgres.query(count)[0][0] == 1500, 30, "all to be expired")
    assert one.metric("muster_tasks_swept_total", 'job="task_due"') >= before + 1500


# ---- lists --------------------------------------------------------------------------------------------------------------------


def test_events_complete_a_list(site: Site, desk: Desk) -> None:
    other = desk.agents("zeta", "boss")
    heard = other.client.subscribe("mst.zeta.evt.task.>")
    for i in range(5):
        other.ask("task", "submit", {"task_id": f"l{i}", "description": "x"})
    wait_until(lambda: len(heard.messages) >= 5, 10, "the events")
    page = other.ask("task", "list", {"limit": 3}).body
    last = heard.messages[-1].headers
    assert (page["epoch"], page["seq"]) == (int(last["Muster-Epoch"]), int(last["Muster-Seq"]))
    assert [t["task_id"] for t in page["tasks"]] == ["l4", "l3", "l2"] and "next" in page
    rest = other.ask("task", "list", {"limit": 3, "after": page["next"]}).body
    assert [t["task_id"] for t in rest["tasks"]][:2] == ["l1", "l0"] and rest["seq"] == page["seq"]
    other.ask("task", "cancel", {"task_id": "l1"})
    wait_until(lambda: heard.messages[-1].subject == "mst.zeta.evt.task.cancelled.l1", 10, "the event")
    assert int(heard.messages[-1].headers["Muster-Seq"]) == page["seq"] + 1
    event = json.loads(heard.messages[-1].data)
    shown = other.ask("task", "get", {"task_id": "l1"}).body
    assert {k: v for k, v in event.items() if k not in ("from", "at")} == shown and event["from"] == "queued"
    assert [t["task_id"] for t in other.ask("task", "list", {"state": "cancelled"}).body["tasks"]] == ["l1"]
    assert not other.ask("task", "list", {"assigned_to": "nobody"}).body["tasks"]


def test_two_brokers_tell_each_thing_once(site: Site, desk: Desk, request: pytest.FixtureRequest) -> None:
    """And one request_id asked of both is carried out once."""
    with serving(site, *PLUGINS, session=request.session) as other:
        boss, w1 = Ears(desk.boss), Ears(desk.w1)
        made = desk.ok(desk.boss, "submit_many", tasks=[{"description": "x", "group": "both"} for _ in range(40)])["tasks"]
        ids = [t["task_id"] for t in made]
        box = desk.w1.client.subscribe(desk.w1.box("both"))
        for task_id in ids:
            desk.assign(task_id)
            for _ in range(2):
                desk.w1.tell("task", "complete", {"task_id": task_id, "result": 1, "request_id": task_id}, reply=desk.w1.box("both"))
        wait_until(lambda: len(box.messages) == 80 and all(boss.of("task_complete", t) and w1.of("task_complete", t) for t in ids), 20, "all of them")
        assert {m.data for m in box.messages} == {b'{"state": "succeeded"}'}
        desk.ok(desk.boss, "submit_many", tasks=[{"description": "x", "deadline": soon(0), "group": "over"} for _ in range(300)])
        count = "SELECT count(*) FROM public.agent_tasks WHERE group_key = 'over' AND status = 'expired'"
        wait_until(lambda: site.postgres.query(count)[0][0] == 300, 20, "all to be expired")
        assert all(len(e.of("task_complete", t)) == 1 for e in (boss, w1) for t in ids)
        assert other.metric("muster_tasks_told_total") > 0 and sum(v for k, v in other.metrics().items() if k.startswith("muster_tasks_asked_total")) > 0


def test_a_list_of_what_is_long_comes_in_pages(desk: Desk) -> None:
    ids = [desk.new(payload="p" * 400000, group="long") for _ in range(5)]
    page = desk.ok(desk.boss, "list")
    seen = [t["task_id"] for t in page["tasks"]]
    while len(seen) < 5:
        page = desk.ok(desk.boss, "list", after=page["next"])
        seen += [t["task_id"] for t in page["tasks"]]
    assert seen[:5] == ids[::-1]


def test_who_asks_how_many_at_once_is_told_what_is(desk: Desk) -> None:
    """Nobody is told a count from before it asked; in both encodings."""
    answers_of = []
    for i in range(20):
        desk.ok(desk.boss, "submit", description="x", labels={"count": "1"})
        answers_of.append(tell_all(desk.w1, "stats", [{}] * 10, f"count{i}"))
        known = desk.site.postgres.query("SELECT count(*) FROM public.agent_tasks WHERE tenant_id = 'acme'")[0][0]
        assert desk.ok(desk.boss, "stats", packed=bool(i % 2))["total"] >= known
    for box in answers_of:
        assert all(a["total"] > 0 for a in answers(box, 10))


# ---- races --------------------------------------------------------------------------------------------------------------------


def assign_all(desk: Desk, ids: list[str]) -> None:
    """In one statement."""
    desk.connection.execute("SELECT muster.task_assign('acme', '_muster', jsonb_build_object('task_id', id, 'agent', 'w1', 'session', 's', 'auto_accept', true))"
                            " FROM unnest(%s::text[]) AS id", [ids])


def tell_all(agent: Agent, verb: str, bodies: list[dict[str, Any]], token: str) -> Subscription:
    box = agent.client.subscribe(agent.box(f"{token}.*"))
    agent.client.publish_each([(agent.subject("task", verb), json.dumps(b).encode(), agent.box(f"{token}.{i}")) for i, b in enumerate(bodies)])
    return box


def answers(box: Subscription, n: int) -> list[Any]:
    wait_until(lambda: len(box.messages) >= n, 60, "every answer")
    found = sorted(box.messages, key=lambda m: int(m.subject.rpartition(".")[2]))
    assert len(found) == n
    return [read(m).body for m in found]


def test_cancel_and_complete_at_once(desk: Desk) -> None:
    """One of the two is carried out, and who is told no is told what it is."""
    for part in range(20 if LONG else 1):
        cancel_against_complete(desk, 500 if LONG else 300, f"race{part}")


def cancel_against_complete(desk: Desk, n: int, group: str) -> None:
    ids = [t["task_id"] for t in desk.ok(desk.boss, "submit_many", tasks=[{"description": "x", "group": group} for _ in range(n)])["tasks"]]
    assign_all(desk, ids)
    completes = tell_all(desk.w1, "complete", [{"task_id": t, "epoch": 1, "result": 1} for t in ids], group)
    cancels = tell_all(desk.boss, "cancel", [{"task_id": t} for t in reversed(ids)], group)
    for task_id, done, stopped in zip(ids, answers(completes, n), reversed(answers(cancels, n)), strict=True):
        if "state" in done:
            assert done == {"state": "succeeded"} and stopped["error"]["code"] == "failed_precondition" and "succeeded" in stopped["error"]["message"]
        else:
            assert stopped == {"state": "cancelling"} and done["error"]["code"] == "failed_precondition" and "cancelling" in done["error"]["message"]
            desk.w1.tell("task", "cancelled", {"task_id": task_id})
    over = f"SELECT count(*) FROM public.agent_tasks WHERE group_key = '{group}' AND status IN ('succeeded', 'cancelled')"
    wait_until(lambda: desk.site.postgres.query(over)[0][0] == n, 30, "all to be over")


def until_answered(site: Site, agent: Agent, verb: str, bodies: dict[int, dict[str, Any]]) -> dict[int, Any]:
    """Ask again what has no answer, while brokers that serve beside the first are killed."""
    found: dict[int, Any] = {}
    for attempt in range(30):
        asked = {i: body for i, body in bodies.items() if i not in found}
        killer = threading.Timer(0.15, lambda: None)
        if attempt < 3:
            victim = own_broker(site, *PLUGINS)
            victim.start()
            killer = threading.Timer(0.15, victim.kill)
        killer.start()
        box = tell_all(agent, verb, list(asked.values()), f"{verb}{attempt}")
        time.sleep(0.4)
        killer.join()
        keys = list(asked)
        said = {keys[int(m.subject.rpartition(".")[2])]: read(m).body for m in box.messages}
        found |= {k: v for k, v in said.items() if v.get("error", {}).get("code") not in ("unavailable", "internal", "resource_exhausted")}
        if len(found) == len(bodies):
            break
    assert len(found) == len(bodies)
    return found


def test_brokers_die_and_nothing_is_lost_or_done_twice(site: Site, desk: Desk) -> None:
    """Requests are asked again, under their ids, until they are answered; each is carried out once."""
    n = 300
    made = until_answered(site, desk.boss, "submit", {i: {"description": "x", "group": "chaos", "request_id": f"chaos-{i}"} for i in range(n)})
    ids = [made[i]["task_id"] for i in range(n)]
    assert len(set(ids)) == n and site.postgres.query("SELECT count(*) FROM public.agent_tasks WHERE group_key = 'chaos'") == [(n,)]
    assign_all(desk, ids)
    done = until_answered(site, desk.w1, "complete", {i: {"task_id": t, "epoch": 1, "result": i, "request_id": f"chaos-{i}"} for i, t in enumerate(ids)})
    assert all(answer == {"state": "succeeded"} for answer in done.values())
    assert site.postgres.query("SELECT count(*), sum((result #>> '{}')::int) FROM public.agent_tasks WHERE group_key = 'chaos' AND status = 'succeeded'") == [(n, n * (n - 1) // 2)]


# ---- what breaks --------------------------------------------------------------------------------------------------------------


def test_a_row_that_another_holds_is_tried_again(site: Site, desk: Desk) -> None:
    """A moment long it is waited for; then it is unavailable, and nothing has happened. Others go on."""
    (held, _), (other, _) = desk.running(), desk.running()
    box = desk.w1.client.subscribe(desk.w1.box("held"))
    with site.postgres.connect() as holder:
        holder.execute("SELECT FROM public.agent_tasks WHERE task_id = %s FOR UPDATE", [held])
        desk.w1.tell("task", "complete", {"task_id": held, "result": 1}, reply=desk.w1.box("held"))
        assert desk.ok(desk.w1, "complete", task_id=other) == {"state": "succeeded"}
        wait_until(lambda: box.messages, 20, "an answer")
        assert read(box.messages[0]).error["code"] == "unavailable"
        assert desk.state(held) == "running"
    assert desk.ok(desk.w1, "complete", task_id=held, result=2) == {"state": "succeeded"}


def test_settings_change_while_it_runs(desk: Desk, one: Musterd) -> None:
    """keep: what has ended long ago goes, with its history."""
    task_id, _ = desk.running()
    desk.ok(desk.w1, "complete", task_id=task_id)
    admin = desk.site.postgres.connect(autocommit=True)
    admin.execute("SET session_replication_role = replica")
    admin.execute("UPDATE public.agent_tasks SET completed_at = completed_at - interval '2 days' WHERE task_id = %s", [task_id])
    admin.close()

    def keep_a_day(plugins: list[Any]) -> None:
        next(p for p in plugins if p["name"] == "tasks")["config"] |= {"keep": "1d"}

    reload(one, keep_a_day)
    wait_until(lambda: desk.boss.ask("task", "get", {"task_id": task_id}).body.get("error", {}).get("code") == "not_found", 10, "it to be forgotten")
    assert not desk.site.postgres.query(f"SELECT FROM muster.task_history WHERE task_id = '{task_id}'")


def test_postgresql_goes_and_comes(site: Site, desk: Desk, one: Musterd) -> None:
    task_id, epoch = desk.running()
    desk.new(task_id="through", start_by=soon(1000))
    desk.connection.close()
    site.postgres.stop()
    box = desk.boss.client.subscribe(desk.boss.box("away"))
    desk.boss.tell("task", "submit", {"description": "x"}, reply=desk.boss.box("away"))
    wait_until(lambda: "postgres_away" in one.get("/readyz")[1], 20, "it to be said")
    wait_until(lambda: box.messages, 20, "an answer")
    error = read(box.messages[0]).error
    assert error["code"] == "unavailable" and "again" in error["message"], error
    site.postgres.start()
    wait_until(lambda: "postgres_away" not in one.get("/readyz")[1], 20, "it to be well again")
    desk.connection = psycopg.connect(site.postgres.dsn("muster_broker"), autocommit=True)
    desk.connection.execute("SELECT set_config('app.current_tenant', 'acme', false)")
    wait_until(lambda: desk.state("through") == "expired", 10, "the deadline that passed meanwhile")
    assert desk.ok(desk.w1, "complete", task_id=task_id, epoch=epoch) == {"state": "succeeded"}


def test_a_deadline_passes_while_nats_is_away(site: Site, desk: Desk) -> None:
    """The last: clients come back, but what they hear on the way is not this test's."""
    w1 = Ears(desk.w1)
    task_id, epoch = desk.running(deadline=soon(1500))
    site.nats.stop()
    state = f"SELECT status FROM public.agent_tasks WHERE task_id = '{task_id}'"
    wait_until(lambda: site.postgres.query(state) == [("expired",)], 15, "the deadline")
    site.nats.start()
    assert body(w1.one("task_cancel", task_id)) == {"task_id": task_id, "epoch": epoch, "reason": "deadline"}
    wait_until(lambda: desk.w1.client.connected and desk.boss.client.connected, 20, "the clients")
    assert desk.refused(desk.w1, "complete", task_id=task_id, epoch=epoch)["code"] == "aborted"
