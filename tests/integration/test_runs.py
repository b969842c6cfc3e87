"""The services run and event with a stock client: the event bridge's way and ours, what is told, who may ask, and what happens by itself."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import nats.errors
import pytest

from agent import Agent, read
from client import Subscription
from harness import ROOT_TOKEN, Musterd, Site, binary, wait_until
from invariants_runs import broken
from pluginrig import Agents, asking, end_of, own_broker, reload, serving

RUNS = {"name": "runs", "config": {"sweep": "100ms", "stuck_after": "1h"}}
PRESENCE = {"name": "presence", "config": {"heartbeat": "1s", "dead_after": "3s", "grace": "100ms"}}


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
    with serving(site, PRESENCE, RUNS, cdc=True, session=request.session) as broker:
        yield broker


@pytest.fixture(scope="module")
def agents(site: Site, one: Musterd) -> Generator[Agents, None, None]:
    for name, role in (("ann", "user"), ("bob", "user"), ("hum", "human"), ("chief", "admin"), ("eyes", "observer")):
        site.agent("acme", name, role)
    with asking(site) as agents:
        yield agents


class Desk:
    """boss starts, w1 works, v1 verifies, hum decides."""

    def __init__(self, agents: Agents) -> None:
        self.agents = agents
        self.boss, self.w1, self.v1, self.hum, self.ann = (agents("acme", name) for name in ("boss", "w1", "v1", "hum", "ann"))
        self.heard = self.boss.client.subscribe(f"{ROOT_TOKEN}.acme.evt.run.>")

    def ok(self, agent: Agent, verb: str, packed: bool = False, **body: Any) -> dict[str, Any]:
        answer = agent.ask("run", verb, body, packed=packed)
        assert "Nats-Service-Error" not in answer.headers, answer.body
        return answer.body

    def refused(self, agent: Agent, verb: str, **body: Any) -> dict[str, Any]:
        return agent.ask("run", verb, body).error

    def start(self, **more: Any) -> str:
        return str(self.ok(self.boss, "start", **({"agent_name": "coder", "agent_id": "w1"} | more))["run_id"])

    def get(self, run: str) -> dict[str, Any]:
        return self.ok(self.boss, "get", run_id=run)

    def told(self, run: str) -> list[str]:
        """The events of a run, by the last but one token of their subjects."""
        return [message.subject.split(".")[-2] for message in self.heard.messages if json.loads(message.data)["run_id"] == run]

    def tells(self, run: str, *events: str) -> None:
        wait_until(lambda: self.told(run) == list(events), 20, f"the events {events}: {self.told(run)}")


@pytest.fixture(scope="module")
def desk(agents: Agents) -> Desk:
    return Desk(agents)


# ---- from its start to its end ------------------------------------------------------------------------------------------------


def test_the_way_of_the_event_bridge(desk: Desk) -> None:
    started = desk.ok(desk.boss, "start", task_id="task_123", user_id="ann", agent_name="orchestrator", metadata={"context": "additional data"})
    run = started["run_id"]
    assert started == {"run_id": run, "epoch": 1, "status": "pending"}
    assert desk.ok(desk.boss, "progress", run_id=run, step="Analyzing code structure", percent=25.0)["status"] == "in_progress"
    assert desk.ok(desk.boss, "status", run_id=run, status="awaiting_verification", step="Waiting for verification")["status"] == "awaiting_verification"
    assert desk.ok(desk.v1, "verification", run_id=run, status="verification_in_progress", attempts=1)["status"] == "verification_in_progress"
    evidence = [{"type": "file_exists", "path": "a.py"}]
    assert desk.ok(desk.v1, "verification", run_id=run, status="verification_passed", attempts=1, evidence=evidence)["status"] == "completed"
    assert desk.ok(desk.boss, "complete", run_id=run, result={"output": "Task completed successfully"})["status"] == "completed"
    shown = desk.get(run)
    assert {key: shown[key] for key in ("task_id", "user_id", "agent_name", "agent_id", "current_step", "progress_percent", "result", "error", "metadata",
                                        "verification_attempts", "verification_evidence", "verified")} == {
        "task_id": "task_123", "user_id": "ann", "agent_name": "orchestrator", "agent_id": "boss", "current_step": "Waiting for verification",
        "progress_percent": 100, "result": {"output": "Task completed successfully"}, "error": None, "metadata": {"context": "additional data"},
        "verification_attempts": 1, "verification_evidence": evidence, "verified": True}
    assert shown["started_at"] < shown["completed_at"] <= shown["updated_at"]
    desk.tells(run, "pending", "in_progress", "awaiting_verification", "verification_in_progress", "verification_passed", "completed")
    last = json.loads(next(m.data for m in desk.heard.messages if m.subject == f"{ROOT_TOKEN}.acme.evt.run.completed.{run}"))
    assert last["from"] == "verification_passed" and last["at"] and {k: v for k, v in last.items() if k not in ("from", "at", "result", "updated_at")} == {
        k: v for k, v in shown.items() if k not in ("result", "updated_at")}
    history = desk.ok(desk.boss, "history", run_id=run)
    assert [h["to"] for h in history["history"]] == desk.told(run) and history["seq"] >= 6


def test_the_other_ends(desk: Desk) -> None:
    failed, escalated, cancelled = desk.start(), desk.start(), desk.start()
    assert desk.ok(desk.w1, "fail", run_id=failed, error="Database connection failed")["status"] == "failed"
    assert desk.get(failed)["error"] == "Database connection failed"
    desk.ok(desk.w1, "status", run_id=escalated, status="blocked")
    assert desk.ok(desk.w1, "escalate", run_id=escalated, reason="which colour?")["status"] == "escalated_to_human"
    assert desk.refused(desk.w1, "complete", run_id=escalated)["code"] == "permission_denied"
    assert desk.ok(desk.hum, "retry", run_id=escalated, reason="blue")["epoch"] == 2
    desk.ok(desk.w1, "progress", run_id=escalated, epoch=2)
    assert desk.refused(desk.w1, "progress", run_id=escalated, epoch=1)["code"] == "aborted"
    assert desk.ok(desk.w1, "complete", run_id=escalated, epoch=2, result="blue")["status"] == "completed"
    assert desk.ok(desk.boss, "cancel", run_id=cancelled, reason="no more")["status"] == "cancelled"
    error = desk.refused(desk.w1, "progress", run_id=cancelled, percent=1)
    assert error["code"] == "failed_precondition" and "is cancelled" in error["message"]
    desk.tells(failed, "pending", "failed")
    desk.tells(escalated, "pending", "blocked", "escalated_to_human", "pending", "in_progress", "completed")
    desk.tells(cancelled, "pending", "cancelled")


def test_three_failed_verifications_ask_a_human(desk: Desk) -> None:
    run = desk.start(verify="required")
    for n in range(3):
        desk.ok(desk.w1, "status", run_id=run, status="in_progress")
        desk.ok(desk.w1, "status", run_id=run, status="awaiting_verification", criteria=["builds"], result={"n": n})
        error = desk.refused(desk.w1, "complete", run_id=run, result=1)
        assert error["code"] == "failed_precondition" and "awaiting_verification" in error["message"]
        assert desk.refused(desk.w1, "verification", run_id=run, status="verification_in_progress")["code"] == "permission_denied"
        taken = desk.ok(desk.v1, "status", run_id=run, status="verification_in_progress")
        assert taken["epoch"] == n + 1
        assert desk.refused(desk.hum, "verification", run_id=run, status="verification_passed")["code"] == "permission_denied"
        verdict = desk.ok(desk.v1, "verification", run_id=run, status="verification_failed", epoch=taken["epoch"],
                          evidence=[{"criterion": "builds", "expected": 0, "actual": n + 1}])
        assert verdict["status"] == ("pending" if n < 2 else "escalated_to_human")
    again = ("in_progress", "awaiting_verification", "verification_in_progress", "verification_failed", "pending")
    desk.tells(run, "pending", *again, *again, *again[:-1], "escalated_to_human")
    assert desk.ok(desk.hum, "complete", run_id=run, result="good enough")["status"] == "completed" and not desk.get(run)["verified"]


def test_two_verifiers_have_to_pass_it(desk: Desk) -> None:
    v2 = desk.agents("acme", "v2")
    run = desk.start(verify="required", verifiers=2)
    desk.ok(desk.w1, "progress", run_id=run)
    desk.ok(desk.w1, "status", run_id=run, status="awaiting_verification")
    for verifier, status in ((desk.v1, "awaiting_verification"), (v2, "completed")):
        desk.ok(verifier, "verification", run_id=run, status="verification_in_progress")
        assert desk.ok(verifier, "verification", run_id=run, status="verification_passed", evidence=[{"by": status}])["status"] == status
        if verifier is desk.v1:
            assert desk.refused(desk.v1, "verification", run_id=run, status="verification_in_progress")["code"] == "permission_denied"
    assert desk.get(run)["passed_by"] == ["v1", "v2"] and desk.get(run)["verified"]
    verifying = ("awaiting_verification", "verification_in_progress")
    desk.tells(run, "pending", "in_progress", *verifying, *verifying, "verification_passed", "completed")


def test_plain_sql_is_told_the_same(site: Site, desk: Desk) -> None:
    run = str(site.postgres.query("INSERT INTO public.agent_runs (tenant_id, agent_name, agent_id) VALUES ('acme', 'coder', 'w1') RETURNING id")[0][0])
    site.postgres.query("UPDATE public.agent_runs SET status = 'in_progress', progress_percent = 10 WHERE id = %s", [run])
    with pytest.raises(Exception, match=f"run {run} is in_progress: it cannot become verification_passed"):
        site.postgres.query("UPDATE public.agent_runs SET status = 'verification_passed' WHERE id = %s", [run])
    for status in ("awaiting_verification", "verification_in_progress", "verification_passed"):
        site.postgres.query("UPDATE public.agent_runs SET status = %s WHERE id = %s", [status, run])
    desk.tells(run, "pending", "in_progress", "awaiting_verification", "verification_in_progress", "verification_passed", "completed")


# ---- refusals and forms ---------------------------------------------------------------------------------------------------------


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_a_bad_argument_is_named(desk: Desk) -> None:
    run = desk.start()
    for verb, body, field in (
            ("start", {}, "agent_name"), ("start", {"agent_name": "x", "verify": "maybe"}, "verify"), ("start", {"agent_name": "x", "exclusive": 1}, "exclusive"),
            ("start", {"agent_name": "x", "verifiers": 0}, "verifiers"), ("start", {"agent_name": "x", "timeout_ms": "1s"}, "timeout_ms"),
            ("start", {"agent_name": "x", "max_attempts": 1001}, "max_attempts"),
            ("start", {"agent_name": "x", "exclusive": True}, "task_id"), ("start", {"agent_name": "x", "metadata": []}, "metadata"),
            ("start", {"agent_name": "x", "run_id": "r" * 257}, "run_id"), ("start", {"agent_name": "x", "role": "admin"}, "role"), ("progress", {}, "run_id"),
            ("progress", {"run_id": run, "percent": "half"}, "percent"), ("progress", {"run_id": run, "metadata": {"d": deep(28)}}, "metadata"),
            ("status", {"run_id": run, "status": "done"}, "status"), ("status", {"run_id": run}, "status"), ("status", {"run_id": run, "status": "blocked", "lease_ms": 1}, "lease_ms"),
            ("complete", {"run_id": run, "result": deep(30)}, "result"), ("complete", {"run_id": run, "epoch": -1}, "epoch"), ("fail", {"run_id": run}, "error"),
            ("escalate", {"run_id": run}, "reason"), ("verification", {"run_id": run, "status": "completed"}, "status"),
            ("verification", {"run_id": run, "status": "verification_passed", "evidence": {}}, "evidence"), ("list", {"status": "open"}, "status"),
            ("list", {"after": "yesterday"}, "after"), ("list", {"since": "yesterday"}, "since"), ("summary", {"bucket": "year"}, "bucket"),
            ("export", {"format": "xml"}, "format"), ("history", {"run_id": run, "after": "x"}, "after")):
        error = desk.refused(desk.boss, verb, **body)
        assert error["code"] == "invalid_argument" and error.get("field") == field and field in error["message"], (verb, body, error)
    desk.tells(run, "pending")


def test_anothers_is_not_found_in_the_same_words(desk: Desk) -> None:
    other = desk.agents("zeta", "boss")
    assert other.ask("run", "start", {"run_id": "theirs", "agent_name": "x", "metadata": {"secret": 1}}).body["status"] == "pending"
    bodies: dict[str, dict[str, Any]] = {"fail": {"error": "e"}, "escalate": {"reason": "r"}, "status": {"status": "in_progress"},
                                         "verification": {"status": "verification_in_progress"}}
    for verb in ("progress", "status", "complete", "fail", "escalate", "retry", "cancel", "verification", "get", "history"):
        never, foreign = (desk.refused(desk.boss, verb, run_id=run, **bodies.get(verb, {})) for run in ("nevers", "theirs"))
        assert never["code"] == "not_found" and never["message"] == foreign["message"].replace("theirs", "nevers"), verb
    assert "theirs" not in json.dumps(desk.ok(desk.boss, "list", limit=1000)) and "secret" not in desk.ok(desk.boss, "export")["data"]


def test_who_may_ask_what(desk: Desk) -> None:
    eyes, chief, bob = (desk.agents("acme", name) for name in ("eyes", "chief", "bob"))
    mine = desk.ok(desk.ann, "start", agent_name="coder", agent_id="w1")["run_id"]
    assert desk.get(mine)["user_id"] == "ann"
    assert [r["run_id"] for r in desk.ok(desk.ann, "list", active=True)["runs"]] == [mine] and desk.ok(bob, "list")["runs"] == []
    assert desk.refused(bob, "get", run_id=mine)["code"] == desk.refused(bob, "cancel", run_id=mine)["code"] == "not_found"
    assert desk.ok(desk.ann, "summary")["total"] == desk.ok(desk.ann, "export")["runs"] >= 1
    assert desk.refused(desk.ann, "start", agent_name="x", user_id="bob")["code"] == "permission_denied"
    for verb, body in (("progress", {}), ("complete", {}), ("fail", {"error": "e"}), ("verification", {"status": "verification_in_progress"})):
        assert desk.refused(desk.ann, verb, run_id=mine, **body)["code"] == "permission_denied"
    assert desk.ok(eyes, "get", run_id=mine)["run_id"] == mine and desk.refused(eyes, "start", agent_name="x")["code"] == "permission_denied"
    assert desk.refused(desk.agents("acme", "w2"), "progress", run_id=mine)["code"] == "permission_denied"
    assert desk.ok(desk.w1, "progress", run_id=mine, percent=10)["status"] == "in_progress"
    assert desk.ok(desk.ann, "cancel", run_id=mine, reason="changed my mind")["status"] == "cancelled"
    assert desk.ok(chief, "cancel", run_id=desk.start())["status"] == "cancelled"


def test_a_request_id_is_carried_out_once_and_both_encodings_are_spoken(desk: Desk) -> None:
    body = {"agent_name": "coder", "request_id": "once", "metadata": {"n": 1.5, "b": b"\x00\xff"}}
    first = desk.ok(desk.w1, "start", packed=True, **body)
    assert desk.ok(desk.w1, "start", packed=True, **body) == first
    assert desk.refused(desk.w1, "start", agent_name="tester", request_id="once")["field"] == "request_id"
    assert desk.ok(desk.w1, "get", packed=True, run_id=first["run_id"])["metadata"] == {"n": 1.5, "b": {"base64": "AP8="}}
    done = desk.ok(desk.w1, "status", run_id=first["run_id"], status="in_progress", request_id="begin")
    desk.ok(desk.w1, "retry", run_id=first["run_id"])
    assert desk.ok(desk.w1, "status", run_id=first["run_id"], status="in_progress", request_id="begin") == done
    assert desk.get(first["run_id"])["status"] == "pending"


# ---- by itself ------------------------------------------------------------------------------------------------------------------


def test_a_worker_that_goes_does_not_take_its_run_along(site: Site, desk: Desk) -> None:
    """Within some seconds of its connection's end; another agent takes it up, and the old one is told when it comes back."""
    w8, w9 = Agent(site, "acme", "w8"), desk.agents("acme", "w9")
    w8.ask("presence", "hello", {"capabilities": ["code"]})
    w9.ask("presence", "hello", {})
    run = desk.start(agent_id="w8")
    wait_until(lambda: bool(site.postgres.query("SELECT 1 FROM public.agent_sessions WHERE agent_id = 'w8' AND state IS NOT NULL")), 10, "the session to be written")
    assert desk.ok(w8, "progress", run_id=run, percent=20)["epoch"] == 1
    assert desk.refused(w9, "status", run_id=run, status="in_progress")["code"] == "permission_denied"
    w8.close()
    wait_until(lambda: desk.get(run)["status"] == "pending", 15, "the run to be free")
    assert desk.ok(w9, "status", run_id=run, status="in_progress")["epoch"] == 3
    back = Agent(site, "acme", "w8")
    assert desk.refused(back, "complete", run_id=run, result="late")["code"] == "aborted"
    back.close()
    assert desk.ok(w9, "complete", run_id=run, result=1)["status"] == "completed" and desk.get(run)["agent_id"] == "w9"
    desk.tells(run, "pending", "in_progress", "pending", "in_progress", "completed")


def test_who_begins_right_after_hello_does_so_in_that_session(site: Site, desk: Desk) -> None:
    """Before it is written: who says hello, begins and leaves in one go is lost, and whose new session takes the place of an old one is not."""
    w6, w7 = desk.agents("acme", "w6"), desk.agents("acme", "w7")
    kept, lost = desk.start(agent_id="w6"), desk.start(agent_id="w7")
    w6.ask("presence", "hello", {"session": "w6-1"})
    wait_until(lambda: bool(site.postgres.query("SELECT 1 FROM public.agent_sessions WHERE agent_id = 'w6' AND state IS NOT NULL")), 10, "the session to be written")
    w6.ask("presence", "hello", {"session": "w6-2"})
    desk.ok(w6, "progress", run_id=kept)
    w7.ask("presence", "hello", {})
    desk.ok(w7, "progress", run_id=lost)
    w7.ask("presence", "bye", {})
    wait_until(lambda: desk.get(lost)["status"] == "pending", 15, "the run to be free")
    wait_until(lambda: site.postgres.query("SELECT session_id FROM public.agent_runs WHERE id = %s", [kept]) == [("w6-2",)], 20, "its session to be known")
    assert desk.get(kept)["status"] == "in_progress" and desk.get(kept)["epoch"] == 1
    w6.ask("presence", "bye", {})
    wait_until(lambda: desk.get(kept)["status"] == "pending", 15, "it to be lost with that")


def test_what_is_silent_is_stuck_and_no_verifier_is_no_verdict(site: Site, one: Musterd, desk: Desk) -> None:
    """With settings that change while it runs."""
    silent, waits, left = desk.start(), desk.start(), desk.start()
    reload(one, lambda plugins: plugins[-1]["config"].update(stuck_after="2s", verify_by="1s", verify_lease="1s"))
    for run in (silent, waits, left):
        desk.ok(desk.w1, "progress", run_id=run)
    for run in (waits, left):
        desk.ok(desk.w1, "status", run_id=run, status="awaiting_verification")
    desk.ok(desk.v1, "verification", run_id=left, status="verification_in_progress")
    wait_until(lambda: desk.get(waits)["status"] == "escalated_to_human", 10, "nobody to verify it")
    assert desk.get(waits)["reason"] == "verifier"
    wait_until(lambda: "escalated_to_human" in desk.told(left), 15, "nobody to verify it after its verifier")
    assert desk.told(left)[:5] == ["pending", "in_progress", "awaiting_verification", "verification_in_progress", "awaiting_verification"]
    assert desk.get(left)["verification_attempts"] == 0
    wait_until(lambda: "stuck" in desk.told(silent), 15, "it to be called stuck")
    event = next(json.loads(m.data) for m in desk.heard.messages if m.subject == f"{ROOT_TOKEN}.acme.evt.run.stuck.{silent}")
    assert event["status"] == event["from"] == "in_progress" and event["stuck"] == 1
    reload(one, lambda plugins: plugins[-1]["config"].update(stuck_after="1h", verify_by="1h", verify_lease="5m"))
    desk.ok(desk.w1, "complete", run_id=silent)


def test_tries_have_an_end_and_what_nobody_decides_climbs(one: Musterd, desk: Desk) -> None:
    """A try that is out of time, a pause that says when it is over, and an escalation that is told to the next tier."""
    reload(one, lambda plugins: plugins[-1]["config"].update(escalate_tiers=["1s", "1s"]))
    asks, slow = desk.start(), desk.start(timeout_ms=1, max_attempts=2)
    desk.ok(desk.w1, "escalate", run_id=asks, reason="which colour?")
    for _ in range(2):
        desk.ok(desk.w1, "progress", run_id=slow)
        wait_until(lambda: desk.get(slow)["status"] != "in_progress", 10, "its time to be over")
    assert desk.get(slow)["error"] == "run_timeout: try 2 of 2 was not done in 1 ms"
    desk.tells(slow, "pending", "in_progress", "pending", "in_progress", "failed")
    waits = desk.start()
    for _ in range(2):
        desk.ok(desk.w1, "progress", run_id=waits)
        desk.ok(desk.w1, "retry", run_id=waits)
    error = desk.refused(desk.w1, "progress", run_id=waits)
    assert error["code"] == "failed_precondition" and f"may be taken from {desk.get(waits)['run_after']}" in error["message"]
    wait_until(lambda: "error" not in desk.w1.ask("run", "progress", {"run_id": waits}).body, 5, "the pause to be over")
    desk.tells(asks, "pending", *["escalated_to_human"] * 3)
    tiers = [json.loads(m.data)["tier"] for m in desk.heard.messages if m.subject == f"{ROOT_TOKEN}.acme.evt.run.escalated_to_human.{asks}"]
    assert tiers == [1, 2, 3] and len(desk.ok(desk.boss, "history", run_id=asks)["history"]) == 2
    assert desk.ok(desk.hum, "complete", run_id=asks, reason="blue", result="blue")["status"] == "completed"
    last = desk.ok(desk.boss, "history", run_id=asks)["history"][-1]
    assert (last["actor"], last["role"], last["reason"]) == ("hum", "human", "blue")
    reload(one, lambda plugins: plugins[-1]["config"].update(escalate_tiers=[]))


@pytest.mark.parametrize("tier", ["soon", "1x", "0s", "500ms", "31d", "99999999999999d"])
def test_a_tier_that_is_no_duration_is_refused(site: Site, tier: str) -> None:
    broker = site.broker("refused")
    broker.config["plugins"] += [{"name": "runs", "config": {"escalate_tiers": ["1h", tier]}}]
    config = site.folder / "refused.yaml"
    config.write_text(json.dumps(broker.config))
    site.brokers.remove(broker)
    done = subprocess.run([binary("musterd"), "-c", str(config), "--check"], capture_output=True, text=True)
    assert done.returncode != 0 and f"escalate_tiers: {tier} came, durations from 1s to 30d" in done.stderr, done.stderr


# ---- reading --------------------------------------------------------------------------------------------------------------------


def pages(desk: Desk, verb: str, key: str, **args: Any) -> list[Any]:
    found: list[Any] = []
    more: dict[str, str] = {}
    while True:
        page = desk.ok(desk.boss, verb, **args, **more)
        found.append(page[key])
        if "next" not in page:
            return found
        more = {"after": page["next"]}


def test_runs_are_listed_exported_and_summed_up(desk: Desk) -> None:
    ids = [desk.start(agent_name="lister", task_id="listed") for _ in range(25)]
    for run in ids[:12]:
        desk.ok(desk.w1, "complete", run_id=run, result='a,"b"')
    for run in ids[12:16]:
        desk.ok(desk.w1, "fail", run_id=run, error="e")
    assert [r["run_id"] for page in pages(desk, "list", "runs", agent_name="lister", limit=10) for r in page] == ids[::-1]
    assert len(desk.ok(desk.boss, "list", task_id="listed", active=True)["runs"]) == 9
    lines = "".join(pages(desk, "export", "data", agent_name="lister", limit=10)).splitlines()
    assert [json.loads(line)["run_id"] for line in lines] == ids and json.loads(lines[3]) == desk.get(ids[3])
    rows = list(csv.DictReader(io.StringIO("".join(pages(desk, "export", "data", agent_name="lister", limit=10, format="csv")), newline="")))
    assert [row["run_id"] for row in rows] == ids and json.loads(rows[0]["result"]) == 'a,"b"' and rows[20]["completed_at"] == ""
    summary = desk.ok(desk.boss, "summary", agent_name="lister")
    assert (summary["total"], summary["completed"], summary["failed"], summary["success_rate"]) == (25, 12, 4, 75)
    nothing = desk.ok(desk.boss, "summary", agent_name="nobody")
    assert (nothing["total"], nothing["success_rate"], nothing["by_status"], nothing["series"]) == (0, None, {}, [])
    assert summary["series"][-1]["success_rate"] == summary["agents"][0]["success_rate"] == 75 and summary["by_status"]["pending"] == 9
    listed = desk.ok(desk.boss, "list", limit=1)
    run = desk.start()
    wait_until(lambda: desk.told(run) == ["pending"], 10, "the event")
    message = next(m for m in desk.heard.messages if m.subject.endswith(run))
    assert int(message.headers["Muster-Seq"]) > listed["seq"] and int(message.headers["Muster-Epoch"]) == listed["epoch"]


def test_what_agents_put_on_record(site: Site, desk: Desk) -> None:
    cdc: Subscription = desk.boss.client.subscribe(f"{ROOT_TOKEN}.acme.cdc.main.public.agent_events.>")
    for i in range(5):
        made = desk.w1.ask("event", "append", {"type": "seen", "payload": {"i": i}, "request_id": f"e{i}"}).body
        assert desk.w1.ask("event", "append", {"type": "seen", "payload": {"i": i}, "request_id": f"e{i}"}).body == made
    first = desk.boss.ask("event", "list", {"type": "seen", "limit": 3}).body
    rest = desk.boss.ask("event", "list", {"type": "seen", "limit": 3, "after": first["next"]}).body
    assert [e["payload"]["i"] for e in first["events"] + rest["events"]] == [4, 3, 2, 1, 0] and {"epoch", "seq"} <= set(rest) and "next" not in rest
    assert set(first["events"][0]) == {"id", "agent_id", "type", "payload", "created_at"} and first["events"][0]["agent_id"] == "w1"
    assert desk.boss.ask("event", "list", {"agent": "nobody"}).body["events"] == []
    for body, field in (({"payload": 1}, "type"), ({"type": "t", "payload": deep(28)}, "payload")):
        assert desk.w1.ask("event", "append", body).error["field"] == field
    assert desk.agents("acme", "eyes").ask("event", "append", {"type": "x"}).error["code"] == "permission_denied"
    assert desk.agents("zeta", "boss").ask("event", "list").body["events"] == []
    wait_until(lambda: len(cdc.messages) == 5, 10, "the changes of the table")


# ---- what breaks ----------------------------------------------------------------------------------------------------------------


def test_two_brokers_and_one_that_dies(site: Site, one: Musterd, desk: Desk) -> None:
    """Every acknowledged start is there once, each verdict counts once, and events come once; who got no answer asks again under the same id."""
    other = own_broker(site, PRESENCE, RUNS)
    other.start()
    body: dict[str, Any] = {"agent_name": "raced", "agent_id": "w1", "verify": "required"}
    made: dict[int, str] = {}

    def start(n: int) -> None:
        for _ in range(20):
            try:
                answer = desk.boss.ask("run", "start", body | {"request_id": f"raced{n}"}, timeout=2).body
            except nats.errors.Error:
                continue
            if "run_id" in answer:
                made[n] = answer["run_id"]
                return

    with ThreadPoolExecutor(8) as pool:
        waits = [pool.submit(start, n) for n in range(150)]
        wait_until(lambda: len(made) > 30, 30, "some to be made")
        other.kill()
        for wait in waits:
            wait.result(60)
    end_of(other, False)
    assert sorted(made) == list(range(150)) and len(set(made.values())) == 150
    runs = [r["run_id"] for page in pages(desk, "list", "runs", agent_name="raced", limit=100) for r in page]
    assert sorted(runs) == sorted(made.values())
    run = made[0]
    desk.ok(desk.w1, "status", run_id=run, status="in_progress")
    desk.ok(desk.w1, "status", run_id=run, status="awaiting_verification")
    desk.ok(desk.v1, "verification", run_id=run, status="verification_in_progress")
    with ThreadPoolExecutor(8) as pool:
        verdicts = [f.result() for f in [pool.submit(desk.v1.ask, "run", "verification", {"run_id": run, "status": "verification_passed"}) for _ in range(8)]]
    assert sum("error" not in v.body for v in verdicts) == 1 and {v.error["code"] for v in verdicts if "error" in v.body} == {"failed_precondition"}
    desk.tells(run, "pending", "in_progress", "awaiting_verification", "verification_in_progress", "verification_passed", "completed")
    assert desk.get(run)["verification_attempts"] == 1


def test_a_row_that_another_holds_is_tried_again(site: Site, desk: Desk) -> None:
    run = desk.start()
    with site.postgres.connect() as connection:
        connection.execute("UPDATE public.agent_runs SET current_step = 'mine' WHERE id = %s", [run])
        box = desk.w1.client.subscribe(desk.w1.box("held"))
        desk.w1.tell("run", "progress", {"run_id": run, "percent": 5}, reply=desk.w1.box("held"))
        desk.w1.tell("event", "append", {"type": "meanwhile"}, reply=desk.w1.box("held"))
        wait_until(lambda: len(box.messages) == 1, 10, "another's answer")
        assert "id" in read(box.messages[0]).body
        connection.commit()
    wait_until(lambda: len(box.messages) == 2, 10, "the answer")
    assert read(box.messages[1]).body.get("status") == "in_progress" or read(box.messages[1]).error["code"] == "unavailable"


def test_the_second_service_tries_again_too(site: Site, desk: Desk) -> None:
    """Another broker works on the same request_id: who asks meanwhile is answered when that is over."""
    box = desk.w1.client.subscribe(desk.w1.box("again"))
    with site.postgres.connect() as connection:
        connection.execute("SELECT pg_advisory_xact_lock(hash_record_extended(ROW('acme'::text, 'w1'::text, 'event.append'::text, 'twice'::text), 0))")
        desk.w1.tell("event", "append", {"type": "seen", "request_id": "twice"}, reply=desk.w1.box("again"))
        time.sleep(0.15)
    wait_until(lambda: len(box.messages) == 1, 5, "the answer")
    assert "id" in read(box.messages[0]).body


def test_postgresql_goes_and_comes(site: Site, desk: Desk, one: Musterd) -> None:
    run = desk.start()
    desk.ok(desk.w1, "progress", run_id=run, percent=10)
    site.postgres.kill()
    box = desk.boss.client.subscribe(desk.boss.box("away"))
    desk.w1.tell("run", "complete", {"run_id": run}, reply=desk.w1.box("x"))
    desk.boss.tell("run", "get", {"run_id": run}, reply=desk.boss.box("away"))
    wait_until(lambda: "postgres_away" in one.get("/readyz")[1], 20, "it to be said")
    wait_until(lambda: bool(box.messages), 20, "an answer")
    assert read(box.messages[0]).error["code"] == "unavailable"
    site.postgres.start()
    wait_until(lambda: "postgres_away" not in one.get("/readyz")[1], 30, "it to be well again")
    assert desk.ok(desk.w1, "complete", run_id=run)["status"] == "completed"
    desk.tells(run, "pending", "in_progress", "completed")


def test_the_time_of_a_verifier_passes_while_nats_is_away(site: Site, one: Musterd, desk: Desk) -> None:
    """The last: clients come back, but what they hear on the way is not this test's."""
    reload(one, lambda plugins: plugins[-1]["config"].update(verify_lease="1s"))
    run = desk.start()
    desk.ok(desk.w1, "progress", run_id=run)
    desk.ok(desk.w1, "status", run_id=run, status="awaiting_verification")
    desk.ok(desk.v1, "verification", run_id=run, status="verification_in_progress")
    site.nats.stop()
    state = f"SELECT status, verifiers_lost FROM public.agent_runs WHERE id = '{run}'"
    wait_until(lambda: site.postgres.query(state) == [("awaiting_verification", 1)], 15, "its time to be over")
    site.nats.start()
