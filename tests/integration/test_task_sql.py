"""The machine of tasks as SQL: its edges by verbs and by plain SQL, clocks, followers, races. What the model does not know of stands here."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections import Counter
from collections.abc import Generator
from typing import Any

import psycopg
import pytest
from psycopg import errors

import odd
from harness import LONG, REPO, Postgres, run_cli
from invariants import EDGES, broken
from machine import Caller, database

Connection = psycopg.Connection[Any]
STATES = ["blocked", "scheduled", "queued", "offered", "running", "input_required", "cancelling", "succeeded", "failed", "dead", "cancelled", "expired"]
SMALLEST = -(2 ** 63)


@pytest.fixture(scope="module")
def postgres() -> Generator[Postgres, None, None]:
    with database() as server:
        yield server


@pytest.fixture(scope="module")
def owner(postgres: Postgres) -> Generator[psycopg.Connection[Any], None, None]:
    with postgres.connect(autocommit=True) as connection:
        yield connection


@pytest.fixture(autouse=True)
def clean(owner: psycopg.Connection[Any]) -> Generator[None, None, None]:
    owner.execute("TRUNCATE public.agent_tasks, public.agent_sessions, muster.task_pauses, muster.requests, muster.fences")
    yield
    assert broken(owner) == []


class Broker(Caller):
    machine = "task"

    def submit(self, task: str, **args: Any) -> str:
        return str(self.do("submit", "boss", task_id=task, description="x", **args)["state"])

    def assign(self, task: str, agent: str = "w1", auto: bool = True, **args: Any) -> dict[str, Any]:
        return self.do("assign", "_muster", task_id=task, agent=agent, session=f"{agent}-1", auto_accept=auto, **args)

    def state(self, task: str) -> str:
        return str(self.do("get", "boss", task_id=task)["state"])

    def reach(self, task: str, state: str) -> None:
        """A new task in a state, by the shortest way."""
        if state == "blocked":
            self.submit(f"{task}-parent")
            self.submit(task, dependencies=[f"{task}-parent"])
            return
        self.submit(task, **({"run_after": "2999-01-01T00:00:00Z"} if state == "scheduled" else {}), max_attempts=1)
        if state in ("cancelled", "expired"):
            self.plain(task, state)
        elif state not in ("scheduled", "queued"):
            self.assign(task, auto=state != "offered")
            {"input_required": lambda: self.do("need_input", "w1", task_id=task, question="?"), "cancelling": lambda: self.do("cancel", "boss", task_id=task),
             "succeeded": lambda: self.do("complete", "w1", task_id=task, result=1), "dead": lambda: self.do("fail", "w1", task_id=task, error="e"),
             "failed": lambda: self.do("fail", "w1", task_id=task, error="e", retryable=False)}.get(state, lambda: None)()
        assert self.state(task) == state

    def plain(self, task: str, state: str) -> None:
        self.connection.execute("UPDATE public.agent_tasks SET status = %s WHERE task_id = %s", [state, task])


@pytest.fixture(scope="module")
def served(postgres: Postgres) -> Generator[Broker, None, None]:
    broker = Broker(postgres)
    yield broker
    broker.connection.close()


@pytest.fixture
def acme(served: Broker) -> Generator[Broker, None, None]:
    yield served
    served.rest()


def turn(postgres: Postgres, task: str, column: str, seconds: float = -1) -> None:
    """A clock of a task runs out so many seconds from now."""
    with postgres.connect(autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")
        admin.execute(f"UPDATE public.agent_tasks SET {column} = clock_timestamp() + {seconds} * interval '1 second' WHERE task_id = '{task}'")  # type: ignore[arg-type]
        admin.execute("UPDATE public.agent_tasks SET wake_at = muster.task_wake(status, until, progress_until, deadline, start_by, started_at)"
                      f" WHERE task_id = '{task}'")  # type: ignore[arg-type]


def due(acme: Broker) -> int:
    return int(acme.value("SELECT muster.task_due('_muster', NULL, 100)"))


def settle(acme: Broker) -> None:
    while acme.value("SELECT muster.task_settle('_muster', 100)"):
        pass


# Edges


@pytest.mark.parametrize("start", STATES)
def test_plain_sql_has_the_edges_and_no_others(postgres: Postgres, acme: Broker, start: str) -> None:
    """An edge leaves history and event behind; whatever else is tried raises with the state that the task is in."""
    for end in STATES + ["done"]:
        task = f"{start}-{end}"
        acme.reach(task, start)
        if end == "offered" and start == "queued":
            with pytest.raises(errors.CheckViolation, match="is queued.*assigned_to"):
                acme.plain(task, end)
            postgres.query("UPDATE public.agent_tasks SET status = 'offered', assigned_to = 'w9' WHERE task_id = %s", [task])
        elif end in EDGES.get(start, "").split() or end == start:
            acme.plain(task, end)
        else:
            with pytest.raises(errors.CheckViolation, match=f"task {task} is {start}: it cannot become {end}"):
                acme.plain(task, end)
            assert acme.state(task) == start
            continue
        assert acme.state(task) == end
        last = acme.do("history", "boss", task_id=task)["history"][-1]
        assert last["to"] == end and (last["verb"] == "sql" or start == end or end in ("cancelled", "expired"))


HOLDERS = {"accept": "offered running", "decline": "offered running", "progress": "running cancelling", "complete": "running", "fail": "running",
           "need_input": "running", "cancelled": "cancelling"}
OWNERS = {"provide_input": "input_required", "cancel": "blocked scheduled queued offered running input_required cancelling",
          "retry": "failed dead cancelled expired"}
ENGINES = {"assign": "queued", "input_failed": "input_required"}


@pytest.mark.parametrize("verb", [*HOLDERS, *OWNERS, *ENGINES])
def test_a_verb_is_refused_in_every_state_that_has_it_not(acme: Broker, verb: str) -> None:
    for state in STATES:
        task = f"{verb}-{state}"
        acme.reach(task, state)
        outcome = acme.ask(verb, "w1" if verb in HOLDERS else "boss", task_id=task, result=2, agent="w1", session="w1-1")
        if state in (HOLDERS | OWNERS | ENGINES)[verb].split():
            assert "ok" in outcome, (state, outcome)
        elif state == "cancelled" and verb == "cancelled":
            assert outcome["error"]["code"] == "failed_precondition"
        else:
            assert outcome["error"]["code"] == "failed_precondition" and f"task {task} is {state}" in outcome["error"]["message"], (state, outcome)
            assert acme.state(task) == state


@pytest.mark.parametrize("state", ["offered", "running", "input_required", "cancelling", "succeeded", "failed", "dead"])
def test_an_epoch_that_was_handed_on_is_stale_in_every_state(acme: Broker, state: str) -> None:
    """Who held it before is told that, and the state, whatever he says."""
    acme.submit("t", max_attempts=1)
    acme.assign("t", "w0")
    acme.do("decline", "w0", task_id="t")
    acme.assign("t", auto=state != "offered")
    {"input_required": lambda: acme.do("need_input", "w1", task_id="t", question="?"), "cancelling": lambda: acme.do("cancel", "boss", task_id="t"),
     "succeeded": lambda: acme.do("complete", "w1", task_id="t", result=1), "dead": lambda: acme.do("fail", "w1", task_id="t", error="e"),
     "failed": lambda: acme.do("fail", "w1", task_id="t", error="e", retryable=False)}.get(state, lambda: None)()
    before = acme.do("get", "boss", task_id="t")
    for verb, (agent, epoch) in itertools.product(HOLDERS, (("w0", {"epoch": 1}), ("w0", {}), ("w1", {"epoch": 1}))):
        code, message = acme.refused(verb, agent, task_id="t", result=2, error="late", **epoch)
        assert code == "aborted" and f"which is {state} with epoch 2 (stale_epoch)" in message, (verb, agent, message)
    assert {k: v for k, v in acme.do("get", "boss", task_id="t").items() if k != "late_result"} == before


def test_every_edge_of_the_table_is_in_the_database_and_no_other(postgres: Postgres) -> None:
    found = postgres.query("SELECT from_state, string_agg(DISTINCT to_state, ' ') FROM muster.edges WHERE machine = 'task' AND verb <> 'import' GROUP BY 1")
    assert {start: set(ends.split()) for start, ends in found} == {start: set(ends.split()) for start, ends in EDGES.items()}
    assert postgres.query("SELECT from_state, to_state FROM muster.edges WHERE machine = 'task' AND verb <> 'import' GROUP BY 1, 2 HAVING NOT bool_or(plain)") == []


def test_plain_sql_cannot_write_what_is_the_machines(postgres: Postgres, acme: Broker) -> None:
    acme.submit("t")
    acme.assign("t")
    before = acme.do("get", "boss", task_id="t")
    acme.connection.execute("UPDATE public.agent_tasks SET epoch = 99, seq = 99, attempt = 99, crashes = 99, session_id = 'mine', settled = false, pos = 1,"
                            " wake_at = now(), excluded = '{w1}', until = now(), started_at = now() - interval '1 day', followed = true WHERE task_id = 't'")
    after = acme.do("get", "boss", task_id="t")
    assert {k: v for k, v in after.items() if k != "updated_at"} == {k: v for k, v in before.items() if k != "updated_at"}
    for change in ("assigned_to = 'w2'", "task_id = 'u'", "dependencies = '{x}'", "tenant_id = 'zeta'"):
        with pytest.raises((errors.CheckViolation, errors.InsufficientPrivilege)):
            acme.connection.execute(f"UPDATE public.agent_tasks SET {change} WHERE task_id = 't'")  # type: ignore[arg-type]
    acme.do("complete", "w1", task_id="t", result=1)
    with pytest.raises(errors.CheckViolation, match="succeeded"):
        acme.connection.execute("UPDATE public.agent_tasks SET result = '2' WHERE task_id = 't'")
    acme.connection.execute("UPDATE public.agent_tasks SET metadata = '{\"seen\": true}' WHERE task_id = 't'")
    with pytest.raises(errors.InsufficientPrivilege):
        acme.connection.execute("UPDATE muster.task_history SET to_state = 'failed'")
    with pytest.raises(errors.InsufficientPrivilege):
        acme.connection.execute("INSERT INTO muster.task_history (tenant, task_id, seq) VALUES ('acme', 't', 9)")


def test_a_plain_insert_is_a_submission(postgres: Postgres, acme: Broker) -> None:
    insert = "INSERT INTO public.agent_tasks (tenant_id, task_id, description, status, dependencies, run_after, epoch) VALUES ('acme', %s, 'x', %s, %s, %s, 7)"
    acme.connection.execute(insert, ["a", "queued", [], None])
    acme.connection.execute(insert, ["b", "queued", ["a"], None])
    acme.connection.execute(insert, ["c", "queued", [], "2999-01-01"])
    assert [acme.state(task) for task in "abc"] == ["queued", "blocked", "scheduled"]
    for status, deps in (("running", []), ("succeeded", []), ("queued", ["nowhere"]), ("queued", ["d"])):
        with pytest.raises(errors.CheckViolation):
            acme.connection.execute(insert, ["d", status, deps, None])
    acme.assign("a")
    acme.do("complete", "w1", task_id="a", result=1)
    acme.connection.execute(insert, ["e", "blocked", ["a"], None])
    assert acme.state("e") == "queued"
    settle(acme)
    assert acme.state("b") == "queued"
    assert acme.connection.execute("INSERT INTO public.agent_tasks (tenant_id, task_id, description) VALUES ('acme', 'a', 'y') ON CONFLICT DO NOTHING").rowcount == 0
    rows = "INSERT INTO public.agent_tasks (tenant_id, task_id, description, dependencies) VALUES ('acme', 'f', 'x', '{%s}'), ('acme', 'g', 'x', '{h}'), ('acme', 'h', 'x', '{c}')"
    with pytest.raises(errors.CheckViolation, match="cycle"):
        acme.connection.execute(rows.replace("{c}", "{c,f}") % "g")  # type: ignore[arg-type]
    acme.connection.execute(rows % "h,g,h,c")  # type: ignore[arg-type]
    assert acme.do("get", "boss", task_id="f")["dependencies"] == ["h", "g", "c"]
    assert len(acme.do("history", "boss", task_id="a")["history"]) == 4


def test_plain_sql_writes_nothing_that_a_broker_chokes_on(acme: Broker) -> None:
    """Labels that are no map stopped all routes of a tenant, a run of millions of years each assignment beside it."""
    acme.submit("t")
    for field, value in (("priority", "'now'"), ("on_parent_failure", "'stop'"), ("assigned_to", "'boss.mallory'"), ("assigned_to", "'_muster'"), ("labels", "'[]'"),
                         ("labels", "'3'"), ("metadata", "'[]'"), ("max_attempts", "0"), ("max_attempts", "1001"), ("timeout_ms", "0"),
                         ("timeout_ms", "9223372036854775807"), ("progress_timeout_ms", "9223372036854775807"), ("payload", "to_jsonb(repeat('x', 900001))"),
                         ("assigned_by", "repeat('x', 257)"), ("group_key", "repeat('x', 257)"), ("percent", "'NaN'"), ("percent", "101"), ("deadline", "'infinity'"),
                         ("start_by", "'-infinity'"), ("labels", "'{\"a\": 1}'"), ("capabilities", "'{a,NULL}'"),
                         ("capabilities", "array_fill('x'::text, '{1001}')"), ("payload", f"'{'[' * 27}{']' * 27}'"),
                         ("metadata", f"'{{\"a\": {'[' * 26}{']' * 26}}}'"), ("metadata", "(SELECT jsonb_object_agg(n, n) FROM generate_series(1, 1001) AS n)"),
                         ("payload", "(SELECT jsonb_build_array(jsonb_object_agg(n, n)) FROM generate_series(1, 1025) AS n)"),
                         ("payload", "(SELECT jsonb_agg(n) FROM generate_series(1, 4097) AS n)"), ("payload", "'{\"a\": [1e400]}'"),
                         ("result", f"'{'[' * 3000}{']' * 3000}'")):
        with pytest.raises(errors.CheckViolation, match=f"task t: {field}: .* expected"):
            acme.connection.execute(f"UPDATE public.agent_tasks SET {field} = {value} WHERE task_id = 't'")  # type: ignore[arg-type]
        with pytest.raises(errors.CheckViolation, match=f"task u: {field}: .* expected"):
            acme.connection.execute(f"INSERT INTO public.agent_tasks (tenant_id, task_id, description, {field}) VALUES ('acme', 'u', 'x', {value})")  # type: ignore[arg-type]
    acme.connection.execute("UPDATE public.agent_tasks SET payload = %s, metadata = '{\"a\": []}' WHERE task_id = 't'", ["[" * 26 + "]" * 26])
    for task, made in (("old", "-infinity"), ("new", "infinity")):
        acme.connection.execute("INSERT INTO public.agent_tasks (tenant_id, task_id, description, created_at) VALUES ('acme', %s, 'x', %s)", [task, made])
    page: dict[str, Any] = {}
    for task in ("new", "t", "old"):
        page = acme.do("list", "boss", limit=1, **({"after": page["next"]} if page else {}))
        assert page["tasks"][0]["task_id"] == task
    acme.assign("t")


# Whose it is


def test_no_tenant_sees_or_changes_anothers(postgres: Postgres, acme: Broker) -> None:
    zeta = Broker(postgres, "zeta")
    acme.submit("t", payload={"secret": 1})
    missing = zeta.refused("get", "boss", task_id="never")
    for verb in [*HOLDERS, *OWNERS, "get", "history", "input_failed"]:
        code, message = zeta.refused(verb, "w1", task_id="t", role="admin")
        assert (code, message.replace("task t", "task never")) == missing
    zeta.submit("t")
    assert zeta.refused("submit", "boss", description="x", dependencies=["u"]) == ("not_found", "dependencies: there is no task u")
    acme.submit("u")
    assert zeta.refused("submit", "boss", description="x", dependencies=["u"])[0] == "not_found"
    assert zeta.do("list", "boss")["tasks"][0].get("payload") is None and zeta.do("stats", "boss")["total"] == 1
    for table in ("task_history", "task_deps", "task_late", "task_pauses"):
        assert zeta.connection.execute(f"SELECT FROM muster.{table} WHERE tenant = 'acme'").fetchall() == []  # type: ignore[arg-type]
    with pytest.raises(errors.InsufficientPrivilege):
        zeta.connection.execute("SELECT muster.task_submit('acme', 'boss', '{\"description\": \"forged\"}')")
    with pytest.raises(errors.InsufficientPrivilege):  # and nobody's tasks are looked at for him
        zeta.connection.execute("INSERT INTO public.agent_tasks (tenant_id, task_id, description, dependencies) VALUES ('acme', 'v', 'x', '{nowhere}')")
    zeta.connection.close()


def test_the_owner_and_admins_may_and_nobody_else(acme: Broker) -> None:
    acme.submit("t")
    assert acme.refused("cancel", "eve", task_id="t")[0] == "permission_denied"
    assert acme.refused("cancel", "eve", task_id="t", role="human")[0] == "permission_denied"
    acme.assign("t")
    assert acme.refused("complete", "eve", task_id="t")[0] == "permission_denied"
    acme.do("need_input", "w1", task_id="t", question="?")
    assert acme.refused("provide_input", "eve", task_id="t", input=1)[0] == "permission_denied"
    assert acme.ask("provide_input", "hum", task_id="t", input={"a": 1}, role="human")["notify"] == {
        "agent": "w1", "session": "w1-1", "task_id": "t", "epoch": 2, "input": {"a": 1}}
    assert acme.ask("cancel", "root", task_id="t", reason="no more", role="admin")["notify"] == {
        "agent": "w1", "session": "w1-1", "task_id": "t", "epoch": 2, "reason": "no more"}


@pytest.mark.parametrize(("args", "field"), [
    ({}, "description"), ({"description": ""}, "description"), ({"description": 7}, "description"), ({"priority": "urgent"}, "priority"),
    ({"deadline": "tomorrow"}, "deadline"), ({"deadline": "2026-02-30T00:00:00Z"}, "deadline"), ({"start_by": "2026-01-01T00:00:00"}, "start_by"),
    ({"run_after": 5}, "run_after"), ({"deadline": "2026-01-01T25:00:00Z"}, "deadline"), ({"max_attempts": 0}, "max_attempts"),
    ({"max_attempts": "x"}, "max_attempts"), ({"timeout_ms": -1}, "timeout_ms"), ({"capabilities": "x"}, "capabilities"), ({"capabilities": [1]}, "capabilities"),
    ({"labels": []}, "labels"), ({"metadata": 1}, "metadata"), ({"assigned_to": "_muster"}, "assigned_to"), ({"task_id": ""}, "task_id"),
    ({"task_id": "x" * 257}, "task_id"), ({"on_parent_failure": "hope"}, "on_parent_failure"), ({"dependencies": {}}, "dependencies"),
    ({"task_id": "me", "dependencies": ["me"]}, "dependencies")])
def test_bad_arguments_are_refused_by_name(acme: Broker, args: dict[str, Any], field: str) -> None:
    whole = {"description": "x"} | args if args else {}
    assert acme.ask("submit", "boss", **whole)["error"]["code"] == "invalid_argument"
    assert acme.ask("submit", "boss", **whole)["error"]["field"] == field
    assert acme.ask("submit_many", "boss", tasks=[{"description": "fine"}, whole])["error"]["field"] in (f"tasks[1].{field}", "dependencies")
    assert acme.do("stats", "boss")["total"] == 0


# Epochs, late results, events


def test_a_late_result_is_kept_and_not_applied(postgres: Postgres, acme: Broker) -> None:
    acme.submit("t")
    acme.assign("t")
    acme.do("session_lost", "_muster", agent="w1", session="w1-1")
    assert acme.assign("t", "w2")["epoch"] == 2
    for args in ({"epoch": 1}, {}):
        code, message = acme.refused("complete", "w1", task_id="t", result={"late": 1}, **args)
        assert code == "aborted" and "stale_epoch" in message
    late = acme.do("get", "boss", task_id="t")["late_result"]
    assert (late["agent"], late["body"], late["verb"]) == ("w1", {"late": 1}, "complete")
    acme.do("complete", "w2", task_id="t", result=2, epoch=2)
    assert acme.do("get", "boss", task_id="t")["result"] == 2
    turn(postgres, "t", "deadline")
    acme.submit("u", deadline="2999-01-01T00:00:00Z")
    acme.assign("u")
    turn(postgres, "u", "deadline")
    assert acme.refused("complete", "w1", task_id="u", result=3)[0] == "deadline_exceeded"
    assert due(acme) == 1 and acme.state("u") == "expired"
    acme.submit("v", timeout_ms=1000, max_attempts=1)
    acme.assign("v")
    turn(postgres, "v", "until")
    assert due(acme) == 1 and acme.refused("complete", "w1", task_id="v", result=4)[0] == "failed_precondition"
    assert (acme.state("v"), acme.do("get", "boss", task_id="v")["late_result"]["body"]) == ("dead", 4), "he has not ended it himself"
    assert acme.refused("complete", "w1", task_id="u", result=3, epoch=1)[0] == "aborted"
    assert acme.do("get", "boss", task_id="u")["late_result"]["body"] == 3
    postgres.query("UPDATE muster.task_late SET at = at - interval '25 hours'")
    assert "late_result" not in acme.do("get", "boss", task_id="u")
    acme.value("SELECT muster.task_purge('30 days', 100)")
    assert postgres.query("SELECT FROM muster.task_late") == []


def test_an_event_is_what_get_shows(postgres: Postgres, acme: Broker) -> None:
    """In the order queued, offered, running, succeeded, in the form that muster.emit() gives, also from plain SQL and of what is very long."""
    postgres.query("SELECT pg_create_logical_replication_slot('told', 'pgoutput')")
    postgres.query("SELECT muster.emit('acme', 'task', 'like', 'it', '{}')")
    acme.submit('t"x', payload={"a": [1, None]}, labels={"k": "v"}, deadline="2999-01-01T00:00:00Z")
    acme.assign('t"x')
    acme.do("progress", "w1", task_id='t"x', percent=50, step="half")
    acme.do("complete", "w1", task_id='t"x', result={"ok": True})
    acme.submit("long", payload="p" * 600000, metadata={"m": "m" * 100})
    acme.assign("long")
    acme.do("complete", "w1", task_id="long", result="r" * 500000)
    changes = postgres.query("SELECT data FROM pg_logical_slot_get_binary_changes('told', NULL, NULL, 'proto_version', '1', 'publication_names', 'muster_evt',"
                             " 'messages', 'true')")
    postgres.query("SELECT pg_drop_replication_slot('told')")
    events = [json.loads(bytes(row[0])[bytes(row[0]).index(b"muster.evt\0") + 15:]) for row in changes if bytes(row[0])[:1] == b"M"]
    like, events = events[0], events[1:]
    assert all(set(event) == set(like) and event["service"] == "task" and event["tenant"] == "acme" for event in events)
    assert [event["event"] for event in events] == ["queued", "offered", "running", "succeeded"] * 2
    assert [event["body"]["from"] for event in events] == ["", "queued", "offered", "running"] * 2
    assert [event["body"]["state"] for event in events] == [event["event"] for event in events]
    assert all(event["key"] == event["body"]["task_id"] and event["body"]["at"].endswith("Z") for event in events)
    shown = acme.do("get", "boss", task_id='t"x')
    assert {k: v for k, v in events[3]["body"].items() if k not in ("from", "at")} == shown
    assert "started_at" not in events[1]["body"] and events[2]["body"]["started_at"] == shown["started_at"]
    assert "payload" in events[7]["body"]["omitted"] and len(json.dumps(events[7])) < 100000
    shown = acme.do("get", "boss", task_id="long")
    assert shown["result"] == "r" * 500000 and shown["omitted"] == ["payload"] and shown["metadata"] == {"m": "m" * 100}


def test_what_is_too_long_is_refused_and_answers_fit(postgres: Postgres, acme: Broker) -> None:
    for verb, more in (("submit", {"description": "x", "payload": [1] * 400000}), ("complete", {"result": "r" * 900000}), ("fail", {"error": "e" * 900000}),
                       ("need_input", {"question": "q" * 900000}), ("provide_input", {"input": "i" * 900000})):
        code, message = acme.refused(verb, "w1", task_id="long", **more)
        assert code == "invalid_argument" and "at most 900000 were expected" in message
    for i in range(4):
        acme.submit(f"l{i}", payload="p" * 300000)
        acme.assign(f"l{i}")
        acme.do("fail", "w1", task_id=f"l{i}", error="e" * 500000)
    page = acme.do("list", "boss")
    assert [t["task_id"] for t in page["tasks"]] == ["l3"] and "omitted" not in page["tasks"][0]
    seen = ["l3"]
    while "next" in page:
        page = acme.do("list", "boss", after=page["next"])
        seen += [t["task_id"] for t in page["tasks"]]
    assert seen == ["l3", "l2", "l1", "l0"]
    for _ in range(2):
        postgres.query("UPDATE public.agent_tasks SET status = 'queued' WHERE task_id = 'l0'")
        acme.assign("l0")
        acme.do("fail", "w1", task_id="l0", error="e" * 500000)
    page, seqs = acme.do("history", "boss", task_id="l0"), []
    while True:
        seqs += [h["seq"] for h in page["history"]]
        if "next" not in page:
            break
        page = acme.do("history", "boss", task_id="l0", after=page["next"])
    assert seqs == list(range(1, 13))
    assert acme.refused("history", "boss", task_id="l0", after="x")[0] == "invalid_argument"


def test_metadata_grows_up_to_a_bound(acme: Broker) -> None:
    acme.submit("t", metadata={"m": "m" * 100000})
    acme.assign("t")
    assert acme.refused("progress", "w1", task_id="t", metadata={"n": 1}) == (
        "invalid_argument", "metadata: task t would have 100017 bytes of it, at most 65536 were expected")
    acme.do("progress", "w1", task_id="t", metadata={"m": 1, "n": 2})
    assert acme.do("get", "boss", task_id="t")["metadata"] == {"m": 1, "n": 2}
    acme.do("progress", "w1", task_id="t", metadata={f"k{i}": i for i in range(998)})
    assert acme.refused("progress", "w1", task_id="t", metadata={"one": "more"}) == (
        "invalid_argument", "metadata: task t would have 1001 keys of it, at most 1000 were expected")


# Time, with the database's clock


def test_clocks_fire(postgres: Postgres, acme: Broker) -> None:
    acme.submit("after", run_after="2999-01-01T00:00:00Z")
    acme.submit("start", start_by="2999-01-01T00:00:00Z")
    acme.submit("started", start_by="2999-01-01T00:00:00Z")
    acme.submit("run", timeout_ms=3600000, max_attempts=2)
    acme.submit("stuck", progress_timeout_ms=3600000, max_attempts=1)
    acme.submit("offer")
    acme.submit("grace")
    for task in ("started", "run", "stuck", "grace"):
        acme.assign(task)
    acme.assign("offer", auto=False)
    acme.do("cancel", "boss", task_id="grace")
    assert due(acme) == 0
    turn(postgres, "after", "until")
    turn(postgres, "start", "start_by")
    turn(postgres, "started", "start_by")
    turn(postgres, "stuck", "progress_until")
    for task in ("run", "offer", "grace"):
        turn(postgres, task, "until")
    assert due(acme) == 6 and due(acme) == 0
    assert {task: acme.state(task) for task in ("after", "start", "started", "run", "stuck", "offer", "grace")} == {
        "after": "queued", "start": "expired", "started": "running", "run": "scheduled", "stuck": "dead", "offer": "queued", "grace": "cancelled"}
    assert acme.value("SELECT attempt FROM public.agent_tasks WHERE task_id = 'offer'") == 0
    pause = acme.value("SELECT extract(epoch FROM until - updated_at)::float FROM public.agent_tasks WHERE task_id = 'run'")
    assert 0.5 <= pause <= 1
    turn(postgres, "run", "until")
    due(acme)
    acme.assign("run", "w2")
    turn(postgres, "run", "until")
    due(acme)
    assert acme.state("run") == "dead"


def test_a_progress_moves_the_watch_on_and_never_goes_back(postgres: Postgres, acme: Broker) -> None:
    acme.submit("t", progress_timeout_ms=3600000)
    acme.assign("t")
    turn(postgres, "t", "progress_until")
    acme.do("progress", "w1", task_id="t", step="a")
    assert "percent" not in acme.do("get", "boss", task_id="t")
    acme.do("progress", "w1", task_id="t", percent=60, step="b", metadata={"k": 1})
    acme.do("progress", "w1", task_id="t")
    assert acme.do("get", "boss", task_id="t")["percent"] == 60
    acme.do("progress", "w1", task_id="t", percent=20)
    acme.do("progress", "w1", task_id="t", percent=1e9)
    assert due(acme) == 0
    shown = acme.do("get", "boss", task_id="t")
    assert (shown["percent"], shown["step"], shown["metadata"], shown["state"]) == (100, "b", {"k": 1}, "running")
    assert acme.refused("decline", "w1", task_id="t") == ("failed_precondition", "task_id: task t is running and has made progress; fail it instead")
    assert len(acme.do("history", "boss", task_id="t")["history"]) == 3


def test_an_offer_ends(postgres: Postgres, acme: Broker) -> None:
    acme.submit("t", deadline="2999-01-01T00:00:00Z")
    acme.assign("t", auto=False, offer_ms=1)
    assert acme.refused("accept", "w1", task_id="t")[0] == "deadline_exceeded"
    due(acme)
    assert acme.state("t") == "queued"
    acme.assign("t", auto=False)
    assert acme.do("accept", "w1", task_id="t", epoch=2) == acme.do("accept", "w1", task_id="t", epoch=2) == {"state": "running"}
    acme.do("decline", "w1", task_id="t", reason="busy")
    assert acme.refused("assign", "_muster", task_id="t", agent="w1", session="s")[0] == "failed_precondition"
    assert acme.assign("t", "w2")["attempt"] == 1


def test_the_run_clock_stands_while_input_is_awaited(postgres: Postgres, acme: Broker) -> None:
    acme.submit("t", timeout_ms=10000)
    acme.assign("t")
    acme.do("need_input", "w1", task_id="t", question={"q": 1})
    assert acme.value("SELECT wake_at IS NULL AND run_left BETWEEN interval '1 second' AND interval '10 seconds' FROM public.agent_tasks")
    postgres.query("INSERT INTO public.agent_sessions (tenant_id, session_id, agent_id, gone_reason) VALUES ('acme', 'w1-1', 'w1', 'timeout')")
    acme.do("session_lost", "_muster", agent="w1", session="w1-1")
    assert acme.state("t") == "input_required"
    assert acme.ask("provide_input", "boss", task_id="t", input=2) == {"ok": {"state": "queued"}}, "nobody is there to go on"
    assert acme.do("get", "boss", task_id="t")["input"] == 2


def test_two_sweepers_at_once(postgres: Postgres, acme: Broker) -> None:
    acme.do("submit_many", "boss", tasks=[{"description": "x", "task_id": f"t{i}", "run_after": "2999-01-01T00:00:00Z"} for i in range(600)])
    with postgres.connect(autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")
        admin.execute("UPDATE public.agent_tasks SET until = now(), wake_at = now()")
    done = [0] * 4

    def sweep(n: int) -> None:
        broker = Broker(postgres)
        for shard in [None, *range(16)] * 3:
            done[n] += int(broker.value("SELECT muster.task_due(%s, %s, 20)", f"b{n}", shard))
        while found := int(broker.value("SELECT muster.task_due(%s, NULL, 20)", f"b{n}")):
            done[n] += found
        broker.connection.close()

    run_all([threading.Thread(target=sweep, args=[n]) for n in range(4)])
    assert sum(done) == 600 and acme.do("stats", "boss")["by_state"] == {"queued": 600}


def run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600 if LONG else 60)
        assert not thread.is_alive()


# Crashes


def session(postgres: Postgres, agent: str, present: bool = True) -> None:
    postgres.query("INSERT INTO public.agent_sessions (tenant_id, session_id, agent_id, state, gone_reason) VALUES ('acme', %s, %s, %s, %s)"
                   " ON CONFLICT (tenant_id, session_id) DO UPDATE SET gone_reason = excluded.gone_reason, state = excluded.state",
                   [f"{agent}-1", agent, json.dumps({"capabilities": ["c"], "labels": {"a": "b"}}) if present else None, None if present else "disconnected"])


def crash(acme: Broker, agent: str) -> str:
    acme.assign("t", agent)
    assert acme.do("session_lost", "_muster", agent=agent, session=f"{agent}-1") == {"released": 1, "more": False}
    return acme.state("t")


def wake(postgres: Postgres, acme: Broker) -> None:
    if acme.state("t") == "scheduled":
        turn(postgres, "t", "until")
        assert due(acme) == 1


def test_a_poison_task_dies_of_three_crashes(postgres: Postgres, acme: Broker) -> None:
    """On the only one who could do it at the third; where there are two, not before it had both."""
    session(postgres, "w1")
    acme.submit("t", capabilities=["c"], max_attempts=1)
    assert crash(acme, "w1") == "queued", "the first is tried again at once, and used no try"
    for expected in ("scheduled", "dead"):
        assert crash(acme, "w1") == expected
        wake(postgres, acme)
    assert acme.do("get", "boss", task_id="t")["reason"] == "poison: its agent was lost 3 times"
    postgres.query("TRUNCATE public.agent_tasks")
    session(postgres, "w2")
    acme.submit("t", capabilities=["c"], labels={"a": "b"})
    for expected in ("queued", "scheduled", "scheduled"):
        assert crash(acme, "w1") == expected
        wake(postgres, acme)
    assert acme.refused("assign", "_muster", task_id="t", agent="w1", session="s")[0] == "failed_precondition", "he had his three"
    assert crash(acme, "w2") == "dead"
    acme.submit("u", capabilities=["c"])
    acme.assign("u", "w2")
    acme.do("decline", "w2", task_id="u")
    for expected in ("queued", "scheduled", "dead"):
        acme.assign("u", "w1")
        acme.do("session_lost", "_muster", agent="w1", session="w1-1")
        assert acme.state("u") == expected, "who has declined is nobody who could do it"
        if expected == "scheduled":
            turn(postgres, "u", "until")
            assert due(acme) == 1


def test_what_a_session_held_is_found_without_an_event(postgres: Postgres, acme: Broker) -> None:
    session(postgres, "w1")
    for task in ("t", "u"):
        acme.submit(task)
        acme.assign(task)
    assert acme.value("SELECT muster.task_orphans('_muster', 100)") == 0, "who is there, or suspect, holds"
    session(postgres, "w1", present=False)
    assert acme.value("SELECT muster.task_orphans('_muster', 100)") == 2
    assert acme.do("stats", "boss")["by_state"] == {"queued": 2}


def test_a_session_is_an_agents_own(postgres: Postgres, acme: Broker) -> None:
    """Two have given it the same name: the second is written down behind its agent's. One comes again under its old name."""
    session(postgres, "w1", present=False)
    for task in ("t", "u", "v"):
        acme.submit(task)
        acme.do("assign", "_muster", task_id=task, agent="w2", session="w1-1", auto_accept=True)
    acme.do("need_input", "w2", task_id="u", question=1)
    row = "INSERT INTO public.agent_sessions (tenant_id, session_id, agent_id, gone_reason, ended_at) VALUES ('acme', 'w2/w1-1', 'w2', 'bye', %s)"
    for ended in (None, "2020-01-01"):
        assert acme.value("SELECT muster.task_orphans('_muster', 100)") == 0, "w1 has gone, or w2 under an older one of its sessions"
        postgres.query("DELETE FROM public.agent_sessions WHERE agent_id = 'w2'")
        postgres.query(row, ["2020-01-01" if ended is None else None])
        if ended is None:
            assert acme.do("provide_input", "boss", task_id="u", input=1) == {"state": "running"}
    assert acme.value("SELECT muster.task_orphans('_muster', 100)") == 3


def test_a_new_session_releases_what_the_old_one_held(acme: Broker) -> None:
    for task, number in (("old", 1), ("new", 2)):
        acme.submit(task)
        acme.do("assign", "_muster", task_id=task, agent="w1", session=f"w1-{number}", auto_accept=True)
    assert acme.do("session_lost", "_muster", agent="w1", not_session="w1-2")["released"] == 1
    assert (acme.state("old"), acme.state("new")) == ("queued", "running")


# Followers


def test_dependencies_and_their_policies(postgres: Postgres, acme: Broker) -> None:
    for task in "ab":
        acme.submit(task)
    acme.submit("both", dependencies=["a", "b"])
    acme.submit("anyhow", dependencies=["a", "b"], on_parent_failure="run")
    acme.submit("next", dependencies=["both"])
    acme.submit("later", dependencies=["a"], run_after="2999-01-01T00:00:00Z")
    acme.assign("a")
    assert acme.ask("complete", "w1", task_id="a", result=1) == {"ok": {"state": "succeeded"}, "settle": True}
    settle(acme)
    assert [acme.state(task) for task in ("both", "anyhow", "later")] == ["blocked", "blocked", "scheduled"]
    acme.do("cancel", "boss", task_id="b")
    settle(acme)
    assert [acme.state(task) for task in ("both", "anyhow", "next")] == ["cancelled", "queued", "cancelled"]
    assert acme.submit("too late", dependencies=["b"]) == "blocked"
    settle(acme)
    assert acme.state("too late") == "cancelled"
    assert acme.submit("in time", dependencies=["a"]) == "queued"
    again = acme.do("retry", "boss", task_id="both")
    assert again["state"] == "queued" and acme.do("get", "boss", task_id=again["task_id"])["retry_of"] == "both"
    assert acme.do("retry", "boss", task_id="both")["task_id"] != again["task_id"] and acme.state("both") == "cancelled"


def test_a_parent_that_is_deleted_holds_nobody_up(postgres: Postgres, acme: Broker) -> None:
    acme.submit("a")
    acme.submit("b", dependencies=["a"])
    acme.submit("c", dependencies=["a"], on_parent_failure="run")
    acme.connection.execute("DELETE FROM public.agent_tasks WHERE task_id = 'a'")
    assert (acme.state("b"), acme.state("c")) == ("cancelled", "queued")


def test_children_are_cancelled_with_their_parent(acme: Broker) -> None:
    acme.submit("p")
    for child in ("queued", "running", "done"):
        acme.submit(child, parent="p")
    acme.submit("grandchild", parent="running")
    for task in ("running", "done", "p"):
        acme.assign(task)
    acme.do("complete", "w1", task_id="done", result=1)
    acme.do("cancel", "boss", task_id="p")
    settle(acme)
    assert [acme.state(task) for task in ("p", "queued", "running", "done", "grandchild")] == ["cancelling", "cancelled", "cancelling", "succeeded", "cancelled"]
    assert acme.refused("submit", "boss", description="x", parent="p")[0] == "failed_precondition"
    assert acme.refused("submit", "boss", description="x", parent="nobody")[0] == "not_found"


def test_followers_are_told_so_many_at_once_and_without_a_pause(postgres: Postgres, acme: Broker) -> None:
    acme.do("submit_many", "boss", tasks=[{"task_id": "root", "description": "x"}]
            + [{"task_id": f"leaf{i}", "description": "x", "dependencies": ["root"]} for i in range(250)])
    acme.do("submit_many", "boss", tasks=[{"task_id": f"c{i}", "description": "x", "dependencies": [f"c{i - 1}"] if i else []} for i in range(40)])
    acme.assign("root")
    acme.do("complete", "w1", task_id="root", result=1)
    told = [acme.value("SELECT muster.task_settle('_muster', 100)") for _ in range(4)]
    assert told == [100, 100, 51, 0], "whoever gets as many as it asked for asks again at once"
    acme.do("cancel", "boss", task_id="c0")
    assert acme.value("SELECT muster.task_settle('_muster', 100)") >= 40, "what is cancelled by it tells its own followers in the same call"
    assert acme.do("stats", "boss")["by_state"] == {"cancelled": 40, "queued": 250, "succeeded": 1}
    acme.submit("late")
    acme.submit("locked", dependencies=["late"])
    acme.do("cancel", "boss", task_id="late")
    with postgres.connect() as other:
        other.execute("SELECT FROM public.agent_tasks WHERE task_id = 'locked' FOR UPDATE")
        assert acme.value("SELECT muster.task_settle('_muster', 100)") == 0, "nobody asks again at once for what another holds"
    settle(acme)
    assert acme.state("locked") == "cancelled"


def test_tasks_that_are_locked_hold_up_no_others(postgres: Postgres, acme: Broker) -> None:
    """However many somebody has open in a transaction: they are of his tenant, and the sweeps are of all."""
    for n in range(4):
        acme.submit(f"p{n}")
        acme.submit(f"c{n}", dependencies=[f"p{n}"])
        session(postgres, f"w{n}", present=False)
        acme.submit(f"t{n}")
        acme.assign(f"t{n}", f"w{n}")
        acme.do("cancel", "boss", task_id=f"p{n}")
    with psycopg.connect(postgres.dsn("muster_app")) as app:
        app.execute("SET app.current_tenant = 'acme'")
        app.execute("SELECT FROM public.agent_tasks WHERE task_id ~ '^[ct][012]' FOR UPDATE")
        assert acme.value("SELECT muster.task_settle('_muster', 2)") == 2 and acme.state("c3") == "cancelled"
        assert acme.value("SELECT muster.task_orphans('_muster', 2)") == 1 and acme.state("t3") == "queued"
    settle(acme)
    assert acme.value("SELECT muster.task_orphans('_muster', 100)") == 3 and acme.do("stats", "boss")["by_state"] == {"cancelled": 8, "queued": 4}


def test_many_are_made_together_or_not_at_all(acme: Broker) -> None:
    chain = [{"task_id": f"c{i}", "description": "x", "dependencies": [f"c{i + 1}"] if i < 999 else []} for i in range(1000)]
    assert len(acme.do("submit_many", "boss", tasks=chain)["tasks"]) == 1000
    assert acme.do("stats", "boss")["by_state"] == {"blocked": 999, "queued": 1}
    chain[999]["dependencies"] = ["c997"]
    ring = [task | {"task_id": "r" + str(task["task_id"]), "dependencies": ["r" + d for d in task["dependencies"]]} for task in chain]
    code, message = acme.refused("submit_many", "boss", tasks=ring)
    assert code == "invalid_argument" and " -> ".join(("rc997", "rc998", "rc999")) in message + message
    assert acme.refused("submit_many", "boss", tasks=[{"task_id": "new", "description": "x"}, {"task_id": "c0", "description": "x"}])[0] == "already_exists"
    assert acme.refused("submit_many", "boss", tasks=[{"task_id": "new", "description": "x"}] * 2)[0] == "already_exists"
    assert acme.refused("submit_many", "boss", tasks=[])[0] == "invalid_argument"
    assert acme.refused("submit_many", "boss", tasks=[{"description": "x"}] * 1001)[0] == "invalid_argument"
    assert acme.refused("get", "boss", task_id="new")[0] == "not_found"


def test_parents_that_end_while_they_get_followers(postgres: Postgres, acme: Broker) -> None:
    """Whoever comes first: nobody waits for ever."""
    n = 200 if LONG else 60
    for i in range(n):
        acme.submit(f"p{i}")
        acme.assign(f"p{i}")

    def follow() -> None:
        broker = Broker(postgres)
        for i in range(n):
            broker.submit(f"f{i}", dependencies=[f"p{i}"])
        broker.connection.close()

    def finish() -> None:
        broker = Broker(postgres)
        for i in range(n):
            broker.do("complete", "w1", task_id=f"p{i}", result=1)
            broker.value("SELECT muster.task_settle('_muster', 10)")
        broker.connection.close()

    run_all([threading.Thread(target=follow), threading.Thread(target=finish)])
    settle(acme)
    assert acme.do("stats", "boss")["by_state"] == {"succeeded": n, "queued": n}


# Assigning


def test_priority_goes_first_and_low_waits_no_longer_than_three_steps(postgres: Postgres, acme: Broker) -> None:
    """What came 180 s later cannot overtake, however critical; within them the higher goes first."""
    for task, priority in (("low", "low"), ("medium", "medium"), ("high", "high"), ("critical", "critical")):
        acme.submit(task, priority=priority)
    assert [row[0] for row in peek(acme)] == ["critical", "high", "medium", "low"]
    low = acme.value("SELECT pos FROM public.agent_tasks WHERE task_id = 'low'")
    critical = acme.value("SELECT pos FROM public.agent_tasks WHERE task_id = 'critical'")
    assert 180_000_000 - 60_000_000 < low - critical <= 180_000_000
    with postgres.connect(autocommit=True) as admin:
        for seconds, expected in ((179, False), (181, True)):
            first = admin.execute("SELECT muster.task_pos(now(), 'low') < muster.task_pos(now() + %s * interval '1 second', 'critical')", [seconds]).fetchall()
            assert first == [(expected,)]
    acme.connection.execute("UPDATE public.agent_tasks SET priority = 'critical' WHERE task_id = 'low'")
    assert [row[0] for row in peek(acme)] == ["low", "critical", "high", "medium"] or low - critical > 180_000_000 - 1000000
    acme.do("cancel", "boss", task_id="low")
    acme.assign("critical")
    acme.do("session_lost", "_muster", agent="w1")
    assert [row[0] for row in peek(acme)] == ["critical", "high", "medium"], "it has its place again"


def peek(acme: Broker, route: int = 0, limit: int = 256) -> list[tuple[Any, ...]]:
    return acme.connection.execute("SELECT * FROM muster.task_peek('acme', %s, %s, '', %s)", [route, SMALLEST, limit]).fetchall()


def test_routes_part_what_different_agents_do(acme: Broker) -> None:
    acme.submit("any")
    acme.submit("ab", capabilities=["b", "a", "a"])
    acme.submit("ba", capabilities=["a", "b"])
    acme.submit("named", assigned_to="w7")
    acme.submit("group", group="g")
    acme.submit("label", labels={"z": "1", "a": "2"})
    routes = acme.connection.execute("SELECT * FROM muster.task_routes('acme', %s, 100)", [SMALLEST]).fetchall()
    assert sorted([(r[1], r[2], r[3], r[4]) for r in routes], key=str) == sorted([
        (None, "", None, None), (None, "a\x1eb", None, None), ("w7", "", None, None), (None, "", None, "g"), (None, "", "a\x1f2\x1ez\x1f1", None)], key=str)
    ab = next(r[0] for r in routes if r[2])
    first = peek(acme, ab, 1)
    assert [first[0][0]] + [r[0] for r in acme.connection.execute("SELECT * FROM muster.task_peek('acme', %s, %s, %s, 9)", [ab, first[0][1], first[0][0]])] == ["ab", "ba"]
    assert acme.refused("assign", "_muster", task_id="named", agent="w1", session="s") == (
        "failed_precondition", "agent: task named is queued, and not for w1")
    acme.connection.execute("UPDATE public.agent_tasks SET assigned_to = 'w1' WHERE task_id = 'named'")
    acme.assign("named")
    acme.assign("ab", auto=False)
    assert sorted(acme.connection.execute("SELECT task_id, state, agent, session, epoch FROM muster.task_held('acme', '', 10)").fetchall()) == [
        ("ab", "offered", "w1", "w1-1", 1), ("named", "running", "w1", "w1-1", 1)]
    assert acme.connection.execute("SELECT * FROM muster.task_tenants()").fetchall() == [("acme",)]


def test_what_is_made_in_the_same_transaction_is_assigned_unseen(acme: Broker) -> None:
    """seq 0. What was only changed in it may need somebody else."""
    with acme.connection.transaction():
        acme.submit("t")
        assert acme.assign("t", seq=0)["epoch"] == 1
    with acme.connection.transaction():
        acme.do("decline", "w1", task_id="t")
        assert acme.refused("assign", "_muster", task_id="t", agent="w2", seq=0)[0] == "aborted"
    acme.submit("u")
    assert acme.refused("assign", "_muster", task_id="u", agent="w1", seq=0)[0] == "aborted"


def test_an_assignment_is_guarded(acme: Broker) -> None:
    acme.submit("t", payload={"p": 1}, metadata={"m": 1}, priority="high")
    assert acme.refused("assign", "_muster", task_id="t", agent="w1", seq=2)[0] == "aborted"
    acme.do("pause", "root")
    assert "paused" in acme.refused("assign", "_muster", task_id="t", agent="w1", seq=1)[1] and acme.do("stats", "boss")["paused"]
    acme.do("resume", "root")
    raised = acme.value("SELECT muster.fence_raise('acme', 'b1', '{\"name\": \"task.3\", \"epoch\": 7}')")
    assert raised == {"ok": {}}
    assert acme.value("SELECT muster.fence_raise('acme', 'b1', '{\"name\": \"task.3\", \"epoch\": 6}')")["error"]["code"] == "aborted"
    assert acme.refused("assign", "_muster", task_id="t", agent="w1", fence="task.3", fence_epoch=6)[0] == "aborted"
    assert acme.assign("t", seq=1, fence="task.3", fence_epoch=7) == {
        "task_id": "t", "epoch": 1, "attempt": 1, "assigned_to": "w1", "assigned_by": "boss", "description": "x", "payload": {"p": 1}, "priority": "high",
        "deadline": None, "dependencies": [], "metadata": {"m": 1}}
    assert acme.refused("assign", "_muster", task_id="t", agent="w1")[0] == "failed_precondition"


def test_what_agents_may_have_missed_comes_in_pages(acme: Broker) -> None:
    for i in range(5):
        acme.submit(f"t{i}")
        acme.assign(f"t{i}", f"w{i % 2}")
    acme.do("progress", "w1", task_id="t1", percent=1)

    def unheard(agent: str | None, after: str, n: int) -> list[str]:
        return [row[0] for row in acme.connection.execute("SELECT task_id FROM muster.task_unheard('acme', %s, 60000, 0, %s, %s)", [agent, after, n])]

    assert (unheard(None, "", 3), unheard(None, "t3", 3), unheard("w1", "", 9)) == (["t0", "t2", "t3"], ["t4"], ["t3"])
    for i in range(6):
        acme.submit(f"u{i}", payload="x" * 850000)
        acme.assign(f"u{i}", "w2")
    assert (unheard("w2", "", 9), unheard("w2", "u4", 9)) == (["u0", "u1", "u2", "u3", "u4"], ["u5"])  # so many bytes


def test_a_raised_fence_waits_for_those_under_way(postgres: Postgres, acme: Broker) -> None:
    acme.value("SELECT muster.fence_raise('acme', 'b1', '{\"name\": \"task.3\", \"epoch\": 1}')")
    acme.submit("t")
    acme.connection.execute("BEGIN")
    acme.assign("t", fence="task.3", fence_epoch=1)
    newer = Broker(postgres)
    newer.connection.execute("SET lock_timeout = '200ms'")
    with pytest.raises(errors.LockNotAvailable):
        newer.value("SELECT muster.fence_raise('acme', 'b2', '{\"name\": \"task.3\", \"epoch\": 2}')")
    acme.connection.execute("COMMIT")
    assert newer.value("SELECT muster.fence_raise('acme', 'b2', '{\"name\": \"task.3\", \"epoch\": 2}')") == {"ok": {}}
    newer.connection.close()


def test_what_was_found_of_lease_and_queue_ends_with_the_transaction(postgres: Postgres, acme: Broker) -> None:
    lease = {"fence": "task.3", "fence_epoch": 1}
    for i in range(5):
        acme.submit(f"t{i}")
    acme.value("SELECT muster.fence_raise('acme', 'b1', '{\"name\": \"task.3\", \"epoch\": 1}')")
    acme.connection.execute("BEGIN")
    acme.assign("t0", **lease)
    acme.do("pause", "root")
    assert "paused" in acme.refused("assign", "_muster", task_id="t1", agent="w1", **lease)[1], "in the same transaction"
    acme.do("resume", "root")
    acme.assign("t1", **lease)
    assert acme.refused("assign", "_muster", task_id="t2", agent="w1", fence="task.3", fence_epoch=2)[0] == "aborted"
    acme.value("SELECT muster.fence_raise('acme', 'b1', '{\"name\": \"task.3\", \"epoch\": 2}')")
    assert acme.refused("assign", "_muster", task_id="t2", agent="w1", **lease)[0] == "aborted", "in the same transaction"
    acme.connection.execute("ROLLBACK")
    acme.assign("t0", **lease)
    other = Broker(postgres)
    other.do("pause", "root")
    assert "paused" in acme.refused("assign", "_muster", task_id="t2", agent="w1", **lease)[1]
    other.do("resume", "root")
    other.value("SELECT muster.fence_raise('acme', 'b2', '{\"name\": \"task.3\", \"epoch\": 3}')")
    other.connection.close()
    assert acme.refused("assign", "_muster", task_id="t2", agent="w1", **lease)[0] == "aborted"


def test_unroutable_is_told_once(acme: Broker) -> None:
    acme.submit("t", capabilities=["rare"])
    assert [acme.do("unroutable", "_muster", task_id="t", seq=1, unroutable=flag)["changed"] for flag in (True, True, False, True)] == [True, False, True, True]
    assert acme.do("get", "boss", task_id="t")["unroutable"] and acme.state("t") == "queued"
    acme.assign("t")
    assert "unroutable" not in acme.do("get", "boss", task_id="t")


def test_lists_have_pages(acme: Broker) -> None:
    acme.do("submit_many", "boss", tasks=[{"description": "x", "task_id": f"t{i:02}"} for i in range(25)])
    for state in (None, "queued", "cancelled"):
        seen: list[str] = []
        after = None
        while True:
            page = acme.do("list", "boss", limit=10, **({"after": after} if after else {}), **({"state": state} if state else {}))
            seen += [task["task_id"] for task in page["tasks"]]
            after = page.get("next")
            if after is None:
                break
        assert seen == [f"t{i:02}" for i in reversed(range(25))] if state != "cancelled" else seen == []
    acme.assign("t03")
    assert [task["task_id"] for task in acme.do("list", "boss", assigned_to="w1", state="running")["tasks"]] == ["t03"]
    assert acme.refused("list", "boss", state="odd")[0] == acme.refused("list", "boss", after="x")[0] == "invalid_argument"
    first = acme.do("history", "boss", task_id="t03", limit=2)
    assert [h["to"] for h in first["history"]] == ["queued", "offered"] and first["next"] == "2"
    assert [h["to"] for h in acme.do("history", "boss", task_id="t03", after="2")["history"]] == ["running"]


def test_no_place_in_a_list_is_more_than_refused(acme: Broker) -> None:
    for i, text in enumerate(odd.texts(3, 20)):
        acme.submit(f"t{i}{text}")
    acme.submit("t")
    for place in odd.places(4, 40):
        for verb, args in (("list", {}), ("list", {"state": "queued", "assigned_to": place}), ("list", {"state": "failed"}), ("history", {"task_id": "t"})):
            outcome = acme.ask(verb, "x", after=place, **args)
            assert "ok" in outcome or (outcome["error"]["code"], outcome["error"]["field"]) == ("invalid_argument", "after"), (verb, place, outcome)
    found, after = [], {}
    while True:
        page = acme.do("list", "x", limit=3, **after)
        found += [task["task_id"] for task in page["tasks"]]
        if "next" not in page:
            break
        after = {"after": page["next"]}
    assert found == ["t", *(f"t{i}{text}" for i, text in reversed(list(enumerate(odd.texts(3, 20)))))]


def test_what_is_old_goes_with_what_belongs_to_it(postgres: Postgres, acme: Broker) -> None:
    acme.reach("old", "succeeded")
    acme.reach("young", "failed")
    acme.reach("live", "running")
    postgres.query("ALTER TABLE public.agent_tasks DISABLE TRIGGER USER; UPDATE public.agent_tasks SET completed_at = now() - interval '31 days',"
                   " settled = true WHERE task_id = 'old'; ALTER TABLE public.agent_tasks ENABLE TRIGGER USER")
    assert acme.value("SELECT muster.task_purge('30 days', 100)") == 1
    assert acme.refused("get", "boss", task_id="old")[0] == "not_found"
    assert postgres.query("SELECT FROM muster.task_history WHERE task_id = 'old'") == []
    postgres.query("SELECT muster.forget('acme')")
    assert postgres.query("SELECT FROM muster.task_history") == postgres.query("SELECT FROM public.agent_tasks") == []


# Races


def test_one_request_id_from_many_connections_makes_one_task(postgres: Postgres, acme: Broker) -> None:
    answers: list[Any] = []

    def ask() -> None:
        broker = Broker(postgres)
        for n in range(5):
            answers.append((n, json.dumps(broker.value("SELECT muster.once('acme', 'boss', 'task.submit', %s, sha256('body'), 'task_submit', %s)", f"r{n}",
                                                       json.dumps({"description": "x"})))))
        broker.connection.close()

    run_all([threading.Thread(target=ask) for _ in range(16)])
    assert len(set(answers)) == 5 and len(answers) == 80 and acme.do("stats", "boss")["total"] == 5


def test_cancel_races_complete(postgres: Postgres, acme: Broker) -> None:
    """Each ends once: done before it was cancelled, or cancelling and its result refused."""
    rounds = 10000 if LONG else 300
    for start in range(0, rounds, 1000):
        acme.do("submit_many", "boss", tasks=[{"description": "x", "task_id": f"t{i}"} for i in range(start, min(start + 1000, rounds))])
    for i in range(rounds):
        acme.assign(f"t{i}")
    outcomes: dict[str, list[str]] = {"cancel": [], "complete": []}
    gate = threading.Barrier(2)

    def race(verb: str, actor: str) -> None:
        broker = Broker(postgres)
        for i in range(rounds):
            if i % 10 == 0:
                gate.wait(30)
            outcome = broker.ask(verb, actor, task_id=f"t{i}", result=i)
            outcomes[verb].append(outcome["ok"]["state"] if "ok" in outcome else outcome["error"]["code"])
        broker.connection.close()

    run_all([threading.Thread(target=race, args=args) for args in (("cancel", "boss"), ("complete", "w1"))])
    pairs = Counter(zip(outcomes["cancel"], outcomes["complete"], strict=True))
    print(f"cancelled or done: {pairs}")
    assert pairs.total() == rounds and set(pairs) <= {("cancelling", "failed_precondition"), ("failed_precondition", "succeeded")}
    assert len(pairs) == 2 or not LONG, "nobody raced"
    assert set(acme.do("stats", "boss")["by_state"]) <= {"cancelling", "succeeded"}


def test_brokers_that_race_for_tasks_never_both_have_one(postgres: Postgres, acme: Broker) -> None:
    acme.do("submit_many", "boss", tasks=[{"description": "x", "task_id": f"t{i}"} for i in range(200)])
    won: list[list[str]] = [[], [], []]

    def assign(n: int) -> None:
        broker = Broker(postgres)
        for i in range(200):
            if "ok" in broker.ask("assign", "_muster", task_id=f"t{i}", agent=f"w{n}", session="s", auto_accept=True, seq=1):
                won[n].append(f"t{i}")
        broker.connection.close()

    run_all([threading.Thread(target=assign, args=[n]) for n in range(3)])
    assert sorted(sum(won, [])) == sorted(f"t{i}" for i in range(200))


def test_a_database_from_before_gets_the_machine(postgres: Postgres) -> None:
    """What stood in the table goes on from where it is."""
    postgres.query("CREATE DATABASE before")
    dsn = postgres.dsn().replace("/muster", "/before")
    folder = REPO / "schemas/sql"
    with psycopg.connect(dsn, autocommit=True) as admin:
        for path in sorted(path for path in folder.glob("0*.sql") if path.stem < "014"):
            with admin.transaction():
                admin.execute("SET LOCAL search_path = pg_catalog, pg_temp")
                admin.execute(path.read_text())  # type: ignore[arg-type]
                admin.execute("RESET ROLE")
                admin.execute("INSERT INTO muster.migrations (number, name, sha256) VALUES (%s, %s, %s)",
                              [int(path.stem[:3]), path.stem, hashlib.sha256(path.read_bytes()).hexdigest()])
        for state in STATES:
            admin.execute("INSERT INTO public.agent_tasks (tenant_id, task_id, description, status, assigned_to) VALUES ('acme', %s, 'x', %s, 'w1')", [state, state])
        # What was never looked at, each odd in its way: created_at, completed_at, status, metadata.
        for n, odd_one in enumerate([("infinity", None, "queued", "{}"), ("-infinity", None, "queued", "{}"), ("294276-12-31", None, "queued", "{}"),
                                     ("now", "infinity", "succeeded", "{}"), ("infinity", "-infinity", "failed", "[1]"), ("now", None, "running", "[1]")]):
            admin.execute("INSERT INTO public.agent_tasks (tenant_id, task_id, description, assigned_to, created_at, completed_at, status, metadata)"
                          " VALUES ('odd', %s, 'x', 'w1', %s, %s, %s, %s)", [f"odd{n}", *odd_one])
        assert "applied 016_tasks" in run_cli(["migrate"], {"MUSTER_POSTGRES_ADMIN_DSN": dsn, "MUSTER_POSTGRES_DSN": dsn}).stdout
        admin.execute("INSERT INTO muster.tenants (name) VALUES ('acme')")
        assert dict(admin.execute("SELECT task_id, status FROM public.agent_tasks WHERE tenant_id = 'acme'").fetchall()) == {state: state for state in STATES} | {"blocked": "scheduled"}
        assert broken(admin) == []
        admin.execute("SET ROLE muster_broker")
        admin.execute("SET app.current_tenant = 'acme'")
        assert admin.execute("SELECT muster.task_due('_muster', NULL, 100)").fetchall() == [(4,)]
        assert admin.execute("SELECT muster.task_complete('acme', 'w1', '{\"task_id\": \"running\"}')").fetchall() == [({"ok": {"state": "succeeded"}},)]
        admin.execute("SET app.current_tenant = 'odd'")
        assert admin.execute("SELECT muster.task_progress('odd', 'w1', '{\"task_id\": \"odd5\", \"metadata\": {\"k\": 2}}')").fetchall() == [({"ok": {}},)]
        assert admin.execute("SELECT metadata FROM public.agent_tasks WHERE task_id = 'odd5'").fetchall() == [({"value": [1], "k": 2},)]
        listed, after = [], None
        while len(listed) < 7:
            page = admin.execute("SELECT muster.task_list('odd', 'x', %s)", [json.dumps({"limit": 1, "after": after})]).fetchall()[0][0]["ok"]
            listed += [task["task_id"] for task in page["tasks"]]
            after = page.get("next")
            if not after:
                break
        assert sorted(listed) == [f"odd{n}" for n in range(6)]
        admin.execute("RESET ROLE")
        assert broken(admin) == []
    postgres.query("DROP DATABASE before WITH (FORCE)")


def test_what_is_read_is_what_is_asked_for(postgres: Postgres, acme: Broker) -> None:
    """With much queued and ended, also before there are statistics: then only lists, which are planned anew, may read more."""
    postgres.query("ALTER TABLE public.agent_tasks DISABLE TRIGGER USER; INSERT INTO public.agent_tasks (tenant_id, id, task_id, description, status, pos, seq, route,"
                   " completed_at) SELECT 'acme', 't' || i, 't' || i, 'x', CASE WHEN i % 2 = 0 THEN 'queued' ELSE 'succeeded' END, i, 1, i % 3,"
                   " CASE WHEN i % 2 = 1 THEN now() - i * interval '1 ms' END FROM generate_series(1, 8000) AS i; ALTER TABLE public.agent_tasks ENABLE TRIGGER USER")
    for statement in ("SELECT * FROM muster.task_peek('acme', 2, 3000, '', 64)", f"SELECT * FROM muster.task_routes('acme', {SMALLEST}, 10)",
                      "SELECT * FROM muster.task_held('acme', '', 100)", "SELECT * FROM muster.task_tenants()", "SELECT muster.task_settle('x', 10)",
                      "SELECT * FROM muster.task_unheard('acme', NULL, 1000, 0, '', 100)", "SELECT * FROM muster.task_unheard('acme', 'w1', 1000, 0, '', 100)",
                      """SELECT muster.task_list('acme', 'x', '{"limit": 10, "state": "succeeded"}')""", """SELECT muster.task_list('acme', 'x', '{"limit": 10}')""",
                      """SELECT muster.task_list('acme', 'x', '{"limit": 10, "state": "running"}')""",
                      """SELECT muster.task_assign('acme', 'x', '{"task_id": "t6000", "agent": "w1", "auto_accept": true}')""",
                      """SELECT muster.task_complete('acme', 'w1', '{"task_id": "t6000"}')""", "SELECT muster.task_due('x', NULL, 10)"):
        for analyzed in (False, True):
            if analyzed:
                postgres.query("ANALYZE public.agent_tasks")
            acme.connection.execute("BEGIN")
            acme.connection.execute(statement)  # type: ignore[call-overload]
            acme.connection.execute("ROLLBACK")
            plan = acme.connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}").fetchall()[0][0][0]["Plan"]  # type: ignore[call-overload]
            assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < (250 if analyzed or "task_list" not in statement else 5000), (statement, analyzed, plan["Shared Hit Blocks"])
    postgres.query("TRUNCATE public.agent_tasks")
