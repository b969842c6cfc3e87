"""muster.roster/1 in a broker, through a plugin that keeps it, one that reads it, and several lanes."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from agent import Agent
from harness import Musterd, Site, wait_until
from pluginrig import EACCES, EINVAL, ENOTFOUND, Agents, end_of, installation, isolated, own_broker, plugin

JOIN, STATUS, SUSPECT, REPLACED = 1, 3, 4, 5
BUSY = 2


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    with installation() as site:
        yield site


@pytest.fixture(scope="module")
def broker(site: Site, request: pytest.FixtureRequest) -> Generator[Musterd, None, None]:
    broker = own_broker(site, plugin("keeper", "keeper"), plugin("reader", "reader", lanes=3))
    broker.start()
    yield broker
    assert broker.stop() == 0, broker.log()[-3000:]
    assert "Sanitizer" not in broker.log() and "runtime error" not in broker.log(), broker.log()[-5000:]


@pytest.fixture(scope="module")
def agents(site: Site) -> Generator[Agents, None, None]:
    agents = Agents(site)
    yield agents
    agents.close()


@pytest.fixture
def a1(broker: Musterd, agents: Agents) -> Generator[Agent, None, None]:
    """Of a tenant where nobody is present yet."""
    a1 = agents("acme", "a1")
    ask(a1, "keeper", "clear")
    yield a1


def ask(asker: Agent, service: str, verb: str, /, **body: Any) -> dict[str, Any]:
    return dict(asker.ask(service, verb, body).body)


def told(agent: Agent, service: str) -> list[str]:
    return str(ask(agent, service, "watched")["text"]).splitlines()


def test_what_one_plugin_puts_another_sees(a1: Agent, broker: Musterd) -> None:
    before = len(told(a1, "reader"))
    assert ask(a1, "keeper", "put", agent="b1", capabilities=["go", "c"], label="eu")["code"] == 0
    ask(a1, "keeper", "put", agent="b2", capabilities=["go"], status=BUSY, suspect=1, label="us")
    ask(a1, "keeper", "put", agent="b2", capabilities=["go"], status=BUSY, kind=STATUS, label="us")
    assert ask(a1, "reader", "find")["text"] == "b1 b2 "
    assert ask(a1, "reader", "find", capabilities=["c"])["text"] == "b1 "
    assert ask(a1, "reader", "find", label="us")["text"] == "b2 "
    assert ask(a1, "reader", "find", statuses=1 << BUSY)["text"] == "b2 "
    page = ask(a1, "reader", "find", limit=1)
    assert page["text"] == "b1 " and ask(a1, "reader", "find", after=page["last"])["text"] == "b2 "
    assert ask(a1, "reader", "get", agent="b1")["code"] == 0 and ask(a1, "reader", "get", agent="b9")["code"] == ENOTFOUND
    assert ask(a1, "reader", "count") == {"code": 2, "text": "0 suspect, 1 online, 1 busy, 0 away", "last": 0}
    ask(a1, "keeper", "put", agent="b1", session="s2", kind=REPLACED)
    ask(a1, "keeper", "remove", agent="b1", reason="timeout")
    expected = ["join b1 s1 -", "join b2 s1 -", "status b2 s1 -", "replaced b1 s1 -", "leave b1 s2 timeout"]
    assert wait_until(lambda: told(a1, "reader")[before:] == expected and expected, 5, "the changes") == expected
    assert broker.metric("muster_roster_agents") == 1 and 100 < broker.metric("muster_roster_bytes") < 1000


def test_a_tenant_is_alone(a1: Agent, agents: Agents) -> None:
    ask(a1, "keeper", "put", agent="mine")
    zeta = agents("zeta", "z1")
    assert ask(zeta, "reader", "find")["text"] == "" and ask(zeta, "reader", "get", agent="mine")["code"] == ENOTFOUND
    assert ask(zeta, "keeper", "remove", agent="mine")["code"] == ENOTFOUND and ask(a1, "reader", "find")["text"] == "mine "


def test_only_the_keeper_puts(a1: Agent, broker: Musterd) -> None:
    assert ask(a1, "reader", "put", agent="b1")["code"] == EACCES
    assert ask(a1, "reader", "remove", agent="b1")["code"] == ask(a1, "reader", "clear")["code"] == EACCES
    assert ask(a1, "keeper", "put", agent="b1", status=7)["code"] == ask(a1, "keeper", "put", agent="b.1")["code"] == EINVAL
    assert ask(a1, "keeper", "put", agent="b1", kind=2)["code"] == EINVAL and ask(a1, "reader", "count")["code"] == 0


def test_a_tenant_that_is_cleared_is_told_by_a_reset(a1: Agent, broker: Musterd) -> None:
    missed, before = broker.metric("muster_roster_resets_total"), ask(a1, "reader", "watched")["code"]
    ask(a1, "keeper", "clear")
    wait_until(lambda: ask(a1, "reader", "watched")["code"] == before + 1, 5, "the reset of one tenant")
    assert told(a1, "reader")[-1] == "reset - - -" and broker.metric("muster_roster_resets_total") == missed


def test_a_lane_that_does_not_keep_up_reads_anew(site: Site, a1: Agent, broker: Musterd) -> None:
    """Its changes are given up, and a reset stands for them; so it is for the keeper, whose lane does the filling."""
    missed = broker.metric("muster_roster_resets_total")
    asleep = site.folder / "asleep"
    a1.tell("reader", "sleep", {"file": str(asleep)})
    wait_until(asleep.exists, 10, "the reader's lane to stand still")
    assert ask(a1, "keeper", "fill", n=4200)["code"] == 0
    asleep.unlink()
    assert broker.metric("muster_roster_agents") == 4200 and broker.metric("muster_roster_resets_total") == missed + 2
    assert ask(a1, "reader", "count")["code"] == 4200
    after = ["reset - - -", *(f"join n{number} s1 -" for number in range(4097, 4200))]
    wait_until(lambda: told(a1, "reader")[-104:] == after, 10, "what came after the reset to be told")


@pytest.mark.parametrize("process", [False, True])
def test_a_second_keeper_is_refused(site: Site, request: pytest.FixtureRequest, process: bool) -> None:
    second = plugin("second", "second", required=False)
    server = own_broker(site, plugin("keeper", "keeper"), isolated(second, site, allow={}) if process else second)
    server.start(ready=False)
    try:
        words = "the capability presence, which a plugin in the broker alone may have" if process else "the roster is kept by plugin keeper"
        wait_until(lambda: words in server.log(), 10, "the refusal")
    finally:
        end_of(server, request.node.report_call.failed if hasattr(request.node, "report_call") else False)
