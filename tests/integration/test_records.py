"""muster tasks: what the service keeps, as people see it. muster runs and muster help are the same command over other services."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Generator
from typing import Any

import pytest

from agent import Agent
from harness import Site, binary, wait_until


@pytest.fixture(scope="module")
def fleet() -> Generator[Site, None, None]:
    site = Site()
    try:
        site.start("acme", "zeta")
        broker = site.broker()
        broker.config["plugins"] += [{"name": "tasks"}, {"name": "runs"}]
        broker.start()
        yield site
        assert broker.stop() == 0, broker.log()[-3000:]
    finally:
        site.close()


@pytest.fixture(scope="module", autouse=True)
def boss(fleet: Site) -> Generator[Agent, None, None]:
    agent, other = Agent(fleet, "acme", "boss"), Agent(fleet, "zeta", "boss")
    for task_id, more in {"dig": {"priority": "high"}, "fill": {"assigned_to": "ann", "description": "fill\x1b[2J"}, "rest": {}}.items():
        assert "error" not in agent.ask("task", "submit", {"task_id": task_id, "description": "work", **more}).body
    assert "error" not in other.ask("task", "submit", {"task_id": "dig", "description": "of zeta"}).body
    # Nobody is here who could do them. That is told half a second later, and no watch of these tests shall hear it.
    wait_until(lambda: all(task.get("unroutable") for who in (agent, other) for task in who.ask("task", "list", {}).body["tasks"]), 10, "unroutable")
    yield agent
    agent.close()
    other.close()


def shown(fleet: Site, *argv: str, code: int = 0, of: str = "tasks") -> str:
    done = fleet.cli(of, *argv, check=False)
    assert done.returncode == code, done
    return str(done.stdout if code == 0 else done.stderr)


def read(fleet: Site, *argv: str) -> list[dict[str, Any]]:
    return list(json.loads(shown(fleet, *argv, "--json")))


def names(records: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(record["tenant"], record["task_id"]) for record in records]


def test_tasks_are_listed_by_what_they_are(fleet: Site) -> None:
    assert names(read(fleet)) == [("acme", "rest"), ("acme", "fill"), ("acme", "dig"), ("zeta", "dig")]
    assert names(read(fleet, "list", "--limit", "1")) == [("acme", "rest"), ("zeta", "dig")]
    assert names(read(fleet, "--agent", "ann", "--state", "queued")) == [("acme", "fill")]
    assert read(fleet, "--tenant", "zeta", "--state", "running") == []
    head, *lines = shown(fleet, "--tenant", "acme").splitlines()
    assert head.split()[:3] == ["TENANT", "TASK", "STATE"] and len(lines) == 3 and not any(line.endswith(" ") for line in lines)
    assert lines[2].split()[:4] == ["acme", "dig", "queued", "high"] and "\x1b" not in lines[1]


def test_one_is_shown_whole_with_its_history(fleet: Site) -> None:
    assert [record["description"] for record in read(fleet, "show", "dig")] == ["work", "of zeta"]
    lines = dict(line.split(None, 1) for line in shown(fleet, "show", "dig", "--tenant", "zeta").splitlines())
    assert (lines["tenant"], lines["state"], lines["assigned_by"]) == ("zeta", "queued", "boss")
    change, = read(fleet, "history", "dig", "--tenant", "acme")
    assert (change["tenant"], change["to"], change["verb"], change["actor"]) == ("acme", "queued", "submit", "boss")
    assert shown(fleet, "history", "dig", "--tenant", "acme").splitlines()[1].split()[2:5] == ["queued", "submit", "boss"]
    assert shown(fleet, "show", "nothing", code=1) == "muster tasks: there is no task nothing\n"
    assert shown(fleet, "history", "fill", "--tenant", "zeta", code=1) == "muster tasks: there is no task fill in tenant zeta\n"


def test_what_failed_is_shown_and_is_no_refusal(fleet: Site, boss: Agent) -> None:
    """What is kept of a run has an error of its own, which is null or a text."""
    run = boss.ask("run", "start", {"agent_name": "digger"}).body["run_id"]
    assert json.loads(shown(fleet, "show", run, "--json", of="runs"))[0]["error"] is None
    boss.ask("run", "fail", {"run_id": run, "error": "rock"})
    assert "rock" in shown(fleet, "show", run, of="runs")


def test_one_is_called_off_and_tried_again_while_somebody_watches(fleet: Site) -> None:
    env = os.environ | {"MUSTER_NATS_URLS": fleet.nats.url, "MUSTER_NATS_CREDS": str(fleet.nats.folder / "broker.creds"),
                        "MUSTER_POSTGRES_DSN": fleet.postgres.dsn("muster_broker")}
    errors = fleet.folder / "watch.err"
    with errors.open("w") as stderr:
        watch = subprocess.Popen([binary("muster"), "tasks", "watch", "--tenant", "acme", "--count", "2", "--timeout", "20s"], env=env,
                                 stdout=subprocess.PIPE, stderr=stderr, text=True)
    wait_until(lambda: "watching" in errors.read_text(), 10, "the watch to hear")
    assert read(fleet, "cancel", "rest", "--tenant", "acme", "--reason", "not wanted")[0]["state"] == "cancelled"
    assert read(fleet, "show", "rest")[0]["reason"] == "not wanted"
    again, = read(fleet, "retry", "rest", "--tenant", "acme")
    assert read(fleet, "show", again["task_id"])[0]["retry_of"] == "rest"
    refused = shown(fleet, "cancel", "rest", "--tenant", "acme", code=1)
    assert "failed_precondition" in refused and "cancelled" in refused
    out, _ = watch.communicate(timeout=30)
    assert watch.returncode == 0 and [line.split()[2:4] for line in out.splitlines()] == [["task.cancelled", "rest"], ["task.queued", again["task_id"]]]


def test_whose_it_is_need_not_be_said_where_one_has_it(fleet: Site) -> None:
    assert read(fleet, "cancel", "fill", "--reason", "full")[0] == {"tenant": "acme", "state": "cancelled"}
    assert "muster tasks: cancel: --tenant was expected: acme and zeta have a task dig\n" == shown(fleet, "cancel", "dig", code=2)
    assert shown(fleet, "retry", "nothing", code=1) == "muster tasks: there is no task nothing\n"


def test_a_plugin_that_is_missing_is_called_by_its_name() -> None:
    site = Site()
    try:
        site.start("acme")
        assert "; one with the plugin tasks must run: see muster doctor" in shown(site, code=1)
        broker = site.broker()
        broker.start()
        for command in ("tasks", "runs", "help"):
            assert f"; add `- name: {command}` to plugins in their configuration" in shown(site, "list", code=1, of=command)
        assert broker.stop() == 0, broker.log()[-3000:]
    finally:
        site.close()
