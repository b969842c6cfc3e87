"""muster agents: who is present, as people see it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Generator

import pytest

from agent import Agent
from harness import Site, binary, wait_until

Here = Callable[..., Agent]


@pytest.fixture(scope="module")
def fleet() -> Generator[Site, None, None]:
    site = Site()
    try:
        site.start("acme", "zeta", "empty")
        broker = site.broker()
        broker.config["plugins"] = [{"name": "presence", "config": {"grace": "200ms"}}]
        broker.start()
        yield site
        assert broker.stop() == 0, broker.log()[-3000:]
    finally:
        site.close()


@pytest.fixture(scope="module")
def here(fleet: Site) -> Generator[Here, None, None]:
    """here("acme", "ann", …) is an agent that has said hello with what is given."""
    agents: list[Agent] = []

    def enter(tenant: str, name: str, **hello: object) -> Agent:
        agents.append(Agent(fleet, tenant, name))
        assert "session" in agents[-1].ask("presence", "hello", hello).body
        return agents[-1]

    enter("acme", "ann", capabilities=["plan", "review"], labels={"team": "core"})
    bob = enter("acme", "bob", capabilities=["plan"], labels={"team": "edge"}, metadata={"note": "\x1b[2J"})
    assert "error" not in bob.ask("presence", "status", {"status": "busy", "task": "t-1"}).body
    enter("zeta", "ann")
    yield enter
    for agent in agents:
        agent.close()


def shown(fleet: Site, *argv: str, code: int = 0) -> str:
    done = fleet.cli("agents", *argv, check=False)
    assert done.returncode == code, done
    return done.stdout if code == 0 else done.stderr


def names(fleet: Site, *argv: str) -> list[tuple[str, str]]:
    return [(agent["tenant_id"], agent["agent_id"]) for agent in json.loads(shown(fleet, "--json", *argv))]


def test_all_are_listed_and_found_by_what_they_said(fleet: Site, here: Here) -> None:
    assert names(fleet) == [("acme", "ann"), ("acme", "bob"), ("zeta", "ann")]
    assert names(fleet, "list", "--tenant", "acme") == [("acme", "ann"), ("acme", "bob")]
    assert names(fleet, "--capability", "review") == names(fleet, "--label", "team=core") == [("acme", "ann")]
    assert names(fleet, "--status", "busy") == [("acme", "bob")]
    assert names(fleet, "--label", "team=core", "--capability", "fly") == names(fleet, "--tenant", "empty") == []
    head, *lines = shown(fleet).splitlines()
    assert head.split()[:3] == ["TENANT", "AGENT", "STATUS"] and len(lines) == 3
    assert lines[1].split()[:4] == ["acme", "bob", "busy", "t-1"] and lines[1].endswith("team=edge")


def test_one_agent_is_shown_whole(fleet: Site, here: Here) -> None:
    text = shown(fleet, "show", "bob")
    assert "\x1b" not in text and dict(line.split(None, 1) for line in text.splitlines())["task"] == "t-1"
    assert len(json.loads(shown(fleet, "show", "ann", "--json"))) == 2, "one of each tenant"
    assert shown(fleet, "show", "ann", "--tenant", "empty", code=1) == "muster agents: no agent ann is present in tenant empty\n"


def test_counts(fleet: Site, here: Here) -> None:
    counts = {entry["tenant"]: entry for entry in json.loads(shown(fleet, "count", "--json"))}
    assert {tenant: entry["count"] for tenant, entry in counts.items()} == {"acme": 2, "zeta": 1, "empty": 0}
    assert counts["acme"]["by_status"]["busy"] == 1
    assert [line.split()[:2] for line in shown(fleet, "count").splitlines()] == [["acme", "2"], ["empty", "0"], ["zeta", "1"]]


def test_what_cannot_be_is_said_in_one_line(fleet: Site, here: Here) -> None:
    for argv, said in ((("--tenant", "acmee"), "acme"), (("--status", "gone"), "expected one of online, busy, away"), (("show", "ann", "--tenant", "nobody"), "nobody")):
        text = shown(fleet, *argv, code=1)
        assert said in text and text.count("\n") == 1


def test_who_comes_and_goes_is_watched(fleet: Site, here: Here) -> None:
    env = {"MUSTER_NATS_URLS": fleet.nats.url, "MUSTER_NATS_CREDS": str(fleet.nats.folder / "broker.creds"), "MUSTER_POSTGRES_DSN": fleet.postgres.dsn("muster_broker")}
    errors = fleet.folder / "watch.err"
    with errors.open("wb") as err:
        watch = subprocess.Popen([binary("muster"), "agents", "watch", "--tenant", "zeta", "--count", "3", "--timeout", "20s"], env=env,
                                 stdout=subprocess.PIPE, stderr=err, text=True)
    wait_until(lambda: "watching" in errors.read_text(), 10, "the watch to hear")
    eve = Agent(fleet, "zeta", "eve")
    eve.ask("presence", "hello", {"capabilities": ["plan"]})
    eve.ask("presence", "status", {"status": "away"})
    eve.close()
    out, _ = watch.communicate(timeout=30)
    said = [line.split(None, 2)[2] for line in out.splitlines()]
    assert said == ["presence.join  eve  online capabilities=plan", "presence.status  eve  away (was online) capabilities=plan",
                    "presence.leave  eve  away reason=disconnected capabilities=plan"]
