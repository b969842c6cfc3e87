"""Who gets which task: agents that say hello, subscribe and answer as any NATS client does, beside brokers that are killed."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

import nats.errors
import pytest

from agent import Agent
from client import Message
from harness import LONG, ROOT_TOKEN, Musterd, Site, wait_until
from invariants import broken
from pluginrig import Agents, asking, end_of, own_broker, serving

PLUGINS = [{"name": "presence", "config": {"heartbeat": "500ms", "dead_after": "60s", "grace": "200ms"}},
           {"name": "tasks", "config": {"sweep": "100ms"}}]


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    site = Site()
    try:
        site.start("acme", "zeta", "few", "slow")
        yield site
        with site.postgres.connect() as connection:
            assert broken(connection) == []
    finally:
        site.close()


@pytest.fixture(scope="module")
def one(site: Site, request: pytest.FixtureRequest) -> Generator[Musterd, None, None]:
    with serving(site, *PLUGINS, cdc=True, session=request.session) as broker:
        wait_until(lambda: broker.metric("muster_tasks_shards") == 16, 20, "the shards")
        yield broker


@pytest.fixture
def agents(site: Site, one: Musterd) -> Generator[Agents, None, None]:
    with asking(site) as agents:
        yield agents
    clear(site)


def clear(site: Site) -> None:
    """As somebody with SQL does it, so that the brokers hear of it."""
    site.postgres.query("UPDATE public.agent_tasks SET status = 'cancelled' WHERE status IN ('blocked', 'scheduled', 'queued', 'offered', 'input_required')")
    site.postgres.query("UPDATE public.agent_tasks SET status = 'cancelling' WHERE status = 'running'")
    site.postgres.query("UPDATE public.agent_tasks SET status = 'cancelled' WHERE status = 'cancelling'")
    time.sleep(0.3)
    with site.postgres.connect() as connection:
        assert broken(connection) == []
    site.postgres.query("TRUNCATE public.agent_tasks, muster.task_pauses")


@pytest.fixture
def boss(agents: Agents) -> Agent:
    return agents("acme", "boss")


class Worker:
    """An agent that is present and hears its assignments. What it does with them: `act`, as they come."""

    def __init__(self, site: Site, name: str, tenant: str = "acme", act: Callable[[Worker, Message, dict[str, Any]], None] | None = None,
                 **hello: Any) -> None:
        self.agent = Agent(site, tenant, name)
        self.name = name
        self.heard = self.agent.client.subscribe(f"{ROOT_TOKEN}.{tenant}.to.{name}._muster.task_assignment")
        self._act, self._over = act, False
        wait_until(lambda: self._hello(hello), 20, "its session")
        self._thread = threading.Thread(target=self._run, daemon=True) if act else None
        if self._thread:
            self._thread.start()

    def _hello(self, hello: dict[str, Any]) -> Any:
        """Nobody answers in the moment in which one broker lets a shard go to another."""
        try:
            return self.agent.ask("presence", "hello", hello, timeout=2).body.get("session")
        except nats.errors.TimeoutError:
            return None

    def _run(self) -> None:
        at = 0
        while not self._over:
            for message in self.heard.messages[at:]:
                at += 1
                assert self._act
                self._act(self, message, json.loads(message.data))
            time.sleep(0.002)

    @property
    def messages(self) -> list[Message]:
        return [m for m in self.heard.messages if "Muster-Redelivery" not in m.headers]

    @property
    def tasks(self) -> list[dict[str, Any]]:
        return [json.loads(m.data) for m in self.messages]

    @property
    def ids(self) -> list[str]:
        return [task["task_id"] for task in self.tasks]

    def wait(self, n: int, deadline: float = 10) -> list[str]:
        wait_until(lambda: len(self.ids) >= n, deadline, f"{n} tasks for {self.name}")
        return self.ids

    def ok(self, verb: str, **body: Any) -> dict[str, Any]:
        return ok(self.agent, verb, **body)

    def complete(self, task_id: str) -> None:
        assert self.ok("complete", task_id=task_id, result=1)["state"] == "succeeded"

    def bye(self) -> None:
        self.stop()
        self.agent.ask("presence", "bye")
        self.agent.close()

    def stop(self) -> None:
        self._over = True
        if self._thread:
            self._thread.join(20)

    def die(self) -> None:
        """The connection ends without a word."""
        self.stop()
        self.agent.close()


Make = Callable[..., Worker]


@pytest.fixture
def worker(site: Site, one: Musterd) -> Generator[Make, None, None]:
    made: list[Worker] = []

    def make(name: str, **how: Any) -> Worker:
        made.append(Worker(site, name, **how))
        return made[-1]

    yield make
    for each in made:
        if each.agent.client.connected:
            each.bye()


def ok(agent: Agent, verb: str, **body: Any) -> dict[str, Any]:
    answer = agent.ask("task", verb, body).body
    assert "error" not in answer, answer
    return answer


def submit(agent: Agent, task_id: str, **more: Any) -> str:
    return str(ok(agent, "submit", task_id=task_id, description="dig", **more)["task_id"])


def get(agent: Agent, task_id: str) -> dict[str, Any]:
    return ok(agent, "get", task_id=task_id)


def becomes(agent: Agent, task_id: str, state: str, deadline: float = 10) -> None:
    wait_until(lambda: get(agent, task_id)["state"] == state, deadline, f"{task_id} to be {state}")


def quiet(worker: Worker, n: int, seconds: float = 0.3) -> None:
    time.sleep(seconds)
    assert len(worker.ids) == n, worker.ids


# ---- assignments --------------------------------------------------------------------------------------------------------------


def test_from_submit_into_the_hand(boss: Agent, worker: Make) -> None:
    ann = worker("ann")
    submit(boss, "t1", payload={"deep": 2}, priority="high", metadata={"k": 1})
    ann.wait(1)
    assert ann.tasks[0] == {"task_id": "t1", "epoch": 1, "attempt": 1, "assigned_to": "ann", "assigned_by": "boss", "description": "dig",
                            "payload": {"deep": 2}, "priority": "high", "deadline": None, "dependencies": [], "metadata": {"k": 1}}
    assert ann.messages[0].reply.startswith(f"{ROOT_TOKEN}.acme.rpc.ann.task.accept.")
    task = get(boss, "t1")
    assert task["state"] == "running" and task["assigned_to"] == "ann"
    ann.agent.client.publish(ann.messages[0].reply, b"anything")  # respond(): it runs already
    submit(boss, "t2")
    quiet(ann, 1)  # one at once
    ann.complete("t1")
    assert ann.wait(2) == ["t1", "t2"]


def test_queued_and_assigned_in_one_transaction(site: Site, boss: Agent, worker: Make) -> None:
    ann = worker("ann", capabilities=["dig"])
    needs: list[dict[str, Any]] = [{}, {"capabilities": ["dig"]}, {"assigned_to": "ann", "request_id": "r"}, {"task_id": "t"}]

    def at_once(more: dict[str, Any], n: int) -> bool:
        """Not where the router has just heard of ann, or reads what is queued."""
        given = {key: f"{value}{n}" if key in ("request_id", "task_id") else value for key, value in more.items()}
        task_id = ok(boss, "submit", description="dig", **given)["task_id"]
        assert ann.wait(len(done) + 1)[-1] == task_id
        if "request_id" in given:
            assert ok(boss, "submit", description="dig", **given)["task_id"] == task_id
        ann.complete(task_id)
        done.append(task_id)
        rows, transactions = site.postgres.query("SELECT count(*), count(DISTINCT xmin::text) FROM muster.task_history WHERE task_id = %s AND verb <> 'complete'", (task_id,))[0]
        assert rows == 3
        return bool(transactions == 1)

    done: list[str] = []
    for more in needs:
        wait_until(lambda more=more: at_once(more, len(done)), 10, f"a task with {more} to be queued and assigned in one transaction")
    assert boss.ask("task", "submit", {"task_id": "t", "description": "dig", "deadline": "soon"}).error["field"] == "deadline"
    submit(boss, "t")
    assert ann.wait(len(done) + 1)[-1] == "t" and len(ann.ids) == len(set(ann.ids))


def test_an_offer_is_accepted_by_respond(boss: Agent, worker: Make) -> None:
    ann = worker("ann", auto_accept=False)
    submit(boss, "t1")
    ann.wait(1)
    assert get(boss, "t1")["state"] == "offered"
    ann.agent.client.publish(ann.messages[0].reply, b"yes")
    becomes(boss, "t1", "running")
    ann.complete("t1")


def test_who_declines_is_not_asked_again(boss: Agent, worker: Make) -> None:
    ann = worker("ann", auto_accept=False)
    submit(boss, "t1")
    submit(boss, "t2")
    ann.wait(1)
    bob = worker("bob")
    bob.wait(1)
    bob.complete("t2")
    ann.agent.client.publish(ann.messages[0].reply, json.dumps({"decline": True, "reason": "no spade"}).encode())
    assert bob.wait(2)[1] == "t1"
    quiet(ann, 1)
    assert get(boss, "t1")["attempt"] == 1
    ok(bob.agent, "decline", task_id="t1")  # before the first progress
    becomes(boss, "t1", "queued")
    wait_until(lambda: get(boss, "t1").get("unroutable"), 5, "both to have declined")


def test_capabilities_labels_and_names(boss: Agent, worker: Make) -> None:
    ann = worker("ann", capabilities=["dig"], capacity=9)
    bob = worker("bob", capabilities=["dig", "sing"], labels={"zone": "eu"}, capacity=9)
    submit(boss, "named", assigned_to="ann")
    submit(boss, "sing", capabilities=["sing"])
    submit(boss, "both", capabilities=["sing", "dig"])
    submit(boss, "eu", labels={"zone": "eu"})
    submit(boss, "us", labels={"zone": "us"})
    submit(boss, "fly", capabilities=["fly"], assigned_to="ann")
    assert sorted(bob.wait(3)) == ["both", "eu", "sing"] and ann.wait(1) == ["named"]
    quiet(ann, 1)
    assert get(boss, "us")["state"] == get(boss, "fly")["state"] == "queued"


def test_one_that_is_tried_again_needs_what_it_needed(boss: Agent, worker: Make) -> None:
    plain = worker("plain")
    for task, needs in (("gpu", {"capabilities": ["cuda"]}), ("zone", {"labels": {"zone": "a"}}), ("hers", {"assigned_to": "able"})):
        submit(boss, task, **needs)
        ok(boss, "cancel", task_id=task)
    again = [str(ok(boss, "retry", task_id=task)["task_id"]) for task in ("gpu", "zone", "hers")]
    quiet(plain, 0)
    able = worker("able", capacity=3, capabilities=["cuda"], labels={"zone": "a"})
    assert sorted(able.wait(3)) == sorted(again) and plain.ids == []


def test_slots_are_kept_and_load_is_spread(boss: Agent, worker: Make) -> None:
    ann, bob = worker("ann", capacity=4), worker("bob", capacity=2)
    for i in range(8):
        submit(boss, f"t{i}")
    ann.wait(4)
    bob.wait(2)
    quiet(ann, 4)
    quiet(bob, 2, 0)
    ann.ok("need_input", task_id=ann.ids[0], question="which?")  # it still has its slot
    quiet(ann, 4)
    ann.complete(ann.ids[1])
    ann.wait(5)
    assert ann.ok("fail", task_id=ann.ids[2], error="no", retryable=False)["state"] == "failed"
    ann.wait(6)


def test_who_says_hello_later_gets_what_waits(boss: Agent, worker: Make) -> None:
    ok(boss, "submit_many", tasks=[{"task_id": f"t{i}", "description": "x"} for i in range(3)])
    ann = worker("ann", capacity=5)
    assert sorted(ann.wait(3)) == ["t0", "t1", "t2"]


def test_plain_sql_is_heard(site: Site, boss: Agent, worker: Make) -> None:
    ann = worker("ann")
    site.postgres.query("INSERT INTO public.agent_tasks (tenant_id, task_id, description) VALUES ('acme', 'plain', 'dig')")
    assert ann.wait(1) == ["plain"]
    site.postgres.query("UPDATE public.agent_tasks SET status = 'succeeded' WHERE task_id = 'plain'")
    submit(boss, "next")
    assert ann.wait(2)[1] == "next"


def test_away_gets_nothing(boss: Agent, worker: Make) -> None:
    ann = worker("ann")
    ann.agent.ask("presence", "status", {"status": "away"})
    submit(boss, "t1")
    quiet(ann, 0)
    ann.agent.ask("presence", "status", {"status": "online"})
    ann.wait(1)


# ---- order --------------------------------------------------------------------------------------------------------------------


def test_priority_with_a_bound(site: Site, boss: Agent, worker: Make) -> None:
    """Each priority goes before what came up to 60 s earlier with the next lower one, and not before what came earlier than that."""
    for priority in ("low", "medium", "high", "critical"):
        submit(boss, priority, priority=priority)
    # as if they had come before: three minutes is what anything critical can overtake
    for task_id, seconds in (("old", 179), ("older", 181)):
        site.postgres.query(f"INSERT INTO public.agent_tasks (tenant_id, task_id, description, priority) VALUES ('acme', '{task_id}', 'x', 'low');"
                            " SET LOCAL session_replication_role = replica;"
                            f" UPDATE public.agent_tasks SET pos = pos - {seconds} * 1000000 WHERE task_id = '{task_id}'")
    time.sleep(0.5)
    order: list[str] = []

    def work(ann: Worker, message: Message, task: dict[str, Any]) -> None:
        order.append(task["task_id"])
        ann.complete(task["task_id"])

    worker("ann", act=work)
    wait_until(lambda: len(order) == 6, 20, "all tasks")
    assert order == ["older", "critical", "old", "high", "medium", "low"]


def test_tenants_take_turns(site: Site, agents: Agents, worker: Make) -> None:
    """One that submits a flood does not hold up another."""
    busy, calm = agents("acme", "boss"), agents("zeta", "boss")

    def work(who: Worker, message: Message, task: dict[str, Any]) -> None:
        who.complete(task["task_id"])

    for _ in range(6 if LONG else 2):
        ok(busy, "submit_many", tasks=[{"description": "x"} for _ in range(500)])
    worker("a1", capacity=8, act=work)
    worker("z1", tenant="zeta", capacity=1, act=work)
    waits = []
    for i in range(20 if LONG else 5):
        began = time.monotonic()
        submit(calm, f"c{i}")
        becomes(calm, f"c{i}", "succeeded")
        waits.append(time.monotonic() - began)
    assert ok(busy, "stats")["by_state"].get("queued", 0) > 0, "the flood has to last"
    assert sorted(waits)[len(waits) // 2] < 1, waits


# ---- groups, limits -----------------------------------------------------------------------------------------------------------


def test_a_group_sticks_to_one_agent(boss: Agent, worker: Make) -> None:
    workers = [worker(name) for name in ("ann", "bob", "eve")]
    for i in range(6):
        submit(boss, f"g{i}", group="g")
    first = wait_until(lambda: next((w for w in workers if w.ids), None), 10, "the first")
    others = [w for w in workers if w is not first]
    submit(boss, "o1")
    submit(boss, "o2")
    wait_until(lambda: sum(len(w.ids) for w in others) == 2, 10, "the others")
    for i in range(6):
        assert first.wait(i + 1)[i] == f"g{i}"
        first.complete(f"g{i}")
    assert all(len(w.ids) == 1 for w in others)


def test_limits_of_a_tenant_and_of_groups(site: Site, agents: Agents, worker: Make) -> None:
    """Tenants of its own, so that no other has to wait until the brokers have looked at the limits again."""
    for tenant, limits in (("few", {"task.running": 3, "task.group_running": 1}), ("slow", {"task.rate": 5})):
        site.postgres.query("UPDATE muster.tenants SET limits = %s WHERE name = %s", [json.dumps(limits), tenant])
    few, slow = agents("few", "boss"), agents("slow", "boss")
    ann, bob = worker("ann", tenant="few", capacity=50), worker("bob", tenant="slow", capacity=50)
    time.sleep(1.5)  # brokers look every second
    for i in range(3):
        submit(few, f"g{i}", group="g")
    for i in range(4):
        submit(few, f"t{i}")
    assert sorted(ann.wait(3)) == ["g0", "t0", "t1"]
    quiet(ann, 3)
    ann.complete("t0")
    assert ann.wait(4)[3] == "t2"
    ann.complete("g0")
    assert ann.wait(5)[4] == "g1"
    began = time.monotonic()
    for i in range(10):
        submit(slow, f"r{i}")
    bob.wait(10, 20)
    assert 1.2 < time.monotonic() - began < 10


def test_a_paused_queue_waits(site: Site, agents: Agents, boss: Agent, worker: Make) -> None:
    site.agent("acme", "chief", "admin")
    chief = agents("acme", "chief")
    ok(chief, "pause")
    ann = worker("ann", capacity=9)
    submit(boss, "t1")
    quiet(ann, 0, 0.5)
    ok(chief, "resume")
    ann.wait(1)


# ---- nobody -------------------------------------------------------------------------------------------------------------------


def test_unroutable_is_told_once_and_cleared(boss: Agent, worker: Make) -> None:
    heard = boss.client.subscribe(f"{ROOT_TOKEN}.acme.evt.task.unroutable.>")
    worker("ann", capabilities=["dig"])
    submit(boss, "fly", capabilities=["fly"])
    wait_until(lambda: heard.messages, 10, "the event")
    body = json.loads(heard.messages[0].data)
    assert body["task_id"] == "fly" and body["state"] == "queued" and body["unroutable"] is True
    time.sleep(1)
    assert len(heard.messages) == 1
    worker("bob", capabilities=["fly"], capacity=1)
    becomes(boss, "fly", "running")
    assert "unroutable" not in get(boss, "fly")
    submit(boss, "fly2", capabilities=["fly"])  # bob could, later
    time.sleep(1)
    assert len(heard.messages) == 1 and "unroutable" not in get(boss, "fly2")


# ---- pull ---------------------------------------------------------------------------------------------------------------------


def test_pulling(boss: Agent, worker: Make) -> None:
    ann = worker("ann", delivery="pull", capacity=3)
    assert boss.ask("task", "pull", {"max": 1}).error["code"] == "failed_precondition"
    began = time.monotonic()
    assert ok(ann.agent, "pull", max=5, wait_ms=300) == {"tasks": []}
    assert time.monotonic() - began >= 0.29
    submit(boss, "t0")
    quiet(ann, 0)
    got = ok(ann.agent, "pull", max=5, wait_ms=5000)["tasks"]
    assert [t["task_id"] for t in got] == ["t0"] and got[0]["epoch"] == 1 and got[0]["assigned_to"] == "ann"
    answers: list[dict[str, Any]] = []
    poll = threading.Thread(target=lambda: answers.append(ok(ann.agent, "pull", max=5, wait_ms=10000)))
    poll.start()
    time.sleep(0.3)
    submit(boss, "t1")
    poll.join(10)
    assert [t["task_id"] for t in answers[0]["tasks"]] == ["t1"]
    for i in range(2, 5):
        submit(boss, f"t{i}")
    assert [t["task_id"] for t in ok(ann.agent, "pull", max=5)["tasks"]] == ["t2"]  # three at once
    assert not ann.ids


# ---- deaths -------------------------------------------------------------------------------------------------------------------


def test_an_answer_to_a_pull_that_nobody_heard(site: Site, boss: Agent, worker: Make) -> None:
    """The connection, or the broker that passed it on, is gone: after half a minute it is told again, with the epoch that it had."""
    ann = worker("una", delivery="pull", capacity=2)  # looked for 20 s apart: a name that no other test has
    ann.agent.tell("task", "pull", {"wait_ms": 10000}, reply=ann.agent.box("nobody"))
    submit(boss, "unheard")
    becomes(boss, "unheard", "running")
    with site.postgres.connect() as connection:
        connection.execute("SET session_replication_role = replica")  # no trigger
        connection.execute("UPDATE public.agent_tasks SET updated_at = updated_at - interval '40 seconds' WHERE task_id = 'unheard'")
    told = ann.ok("pull", wait_ms=5000)["tasks"]
    assert [(t["task_id"], t["epoch"]) for t in told] == [("unheard", 1)]
    assert ann.ok("pull", wait_ms=300)["tasks"] == [], "but not every time"
    ann.complete("unheard")


def test_a_dead_agents_task_goes_elsewhere(boss: Agent, worker: Make) -> None:
    ann = worker("ann")
    submit(boss, "t1")
    ann.wait(1)
    bob = worker("bob")
    began = time.monotonic()
    ann.die()
    bob.wait(1)
    took = time.monotonic() - began
    assert took < 3, took
    task = get(boss, "t1")
    assert task["crashes"] == 1 and task["attempt"] == 1 and task["epoch"] == 2
    bob.complete("t1")


def test_an_agent_that_connects_again_may_have_missed_something(site: Site, boss: Agent, worker: Make) -> None:
    ann = worker("ann", capacity=3)
    submit(boss, "t1")
    submit(boss, "t2")
    ann.wait(2)
    ann.ok("progress", task_id="t1", percent=5)
    second = Agent(site, "acme", "ann")
    heard = second.client.subscribe(f"{ROOT_TOKEN}.acme.to.ann._muster.task_assignment")
    wait_until(lambda: heard.messages, 5, "t2 again")
    time.sleep(0.3)
    # Its first connection counts as one more, where that is told of when it holds something already.
    assert {(json.loads(m.data)["task_id"], json.loads(m.data)["epoch"], m.headers.get("Muster-Redelivery")) for m in heard.messages} == {("t2", 1, "1")}
    assert len(heard.messages) <= 2
    assert heard.messages[0].reply == ann.messages[1].reply
    second.close()


def test_another_session_of_the_same_agent_frees_what_the_first_held(boss: Agent, worker: Make) -> None:
    ann = worker("ann", session="s1")
    submit(boss, "t1")
    ann.wait(1)
    ann.agent.ask("presence", "hello", {"session": "s2"})
    wait_until(lambda: len(ann.ids) == 2, 5, "the task again")
    assert [t["epoch"] for t in ann.tasks] == [1, 2]


def test_a_question_takes_no_slot_of_the_next_session(site: Site, boss: Agent, worker: Make) -> None:
    """It waits for its answer, however long; the agent that asked it has begun anew meanwhile."""
    ann = worker("ann", session="first")
    submit(boss, "asks", assigned_to="ann")
    ann.wait(1)
    assert ann.ok("need_input", task_id="asks", question="?")["state"] == "input_required"
    ann.agent.ask("presence", "bye")
    ann.agent.ask("presence", "hello", {"session": "second"})
    submit(boss, "next", assigned_to="ann")
    assert ann.wait(2) == ["asks", "next"] and get(boss, "asks")["state"] == "input_required"
    gone = "SELECT 1 FROM public.agent_sessions WHERE agent_id = 'ann' AND session_id = 'first' AND gone_reason IS NOT NULL"
    wait_until(lambda: site.postgres.query(gone), 10, "its end to be written down")
    assert ok(boss, "provide_input", task_id="asks", input=42)["state"] == "queued"
    ann.complete("next")
    assert ann.wait(3)[2] == "asks" and get(boss, "asks")["input"] == 42


def test_postgresql_goes_and_comes(site: Site, boss: Agent, worker: Make) -> None:
    ann = worker("ann", capacity=2)
    submit(boss, "t1")
    submit(boss, "t2")
    submit(boss, "t3")
    ann.wait(2)
    wait_until(lambda: {get(boss, task)["state"] for task in ("t1", "t2")} == {"running"}, 10, "both to be accepted")
    site.postgres.stop()
    time.sleep(0.5)
    assert boss.ask("task", "submit", {"description": "x"}).error["code"] in ("unavailable", "deadline_exceeded")
    site.postgres.start()
    patiently(ann.agent, "complete", task_id="t1", result=1)
    assert ann.wait(3)[2] == "t3"
    ann.complete("t2")
    patiently(boss, "submit", task_id="t4", description="x")
    assert ann.wait(4)[3] == "t4"


def test_nats_goes_and_comes(site: Site, boss: Agent, worker: Make) -> None:
    """Leases are lost and got again; what waits is assigned after it. No id of the tests before: their last events may come after PostgreSQL's return only."""
    ann = worker("ann", capacity=2)
    submit(boss, "held")
    ann.wait(1)
    site.nats.stop()
    site.postgres.query("INSERT INTO public.agent_tasks (tenant_id, task_id, description) VALUES ('acme', 'meanwhile', 'dig')")
    time.sleep(1)
    site.nats.start()
    wait_until(lambda: ann.agent.client.connected and boss.client.connected, 20, "the clients")

    def has_it() -> bool:
        """It beats: whose server was lost, and who is not heard since, gets nothing."""
        ann.agent.client.publish(f"{ROOT_TOKEN}.acme.rpc.ann.presence.beat", b"{}")
        time.sleep(0.1)
        return "meanwhile" in ann.ids + [json.loads(m.data)["task_id"] for m in ann.heard.messages]

    wait_until(has_it, 20, "the task")
    assert patiently(ann.agent, "complete", task_id="meanwhile", result=1)["state"] == "succeeded"
    assert get(boss, "held")["state"] == "running" and get(boss, "held")["epoch"] == 1  # an outage is no death


def test_the_broker_that_assigns_is_killed(site: Site, one: Musterd, agents: Agents, boss: Agent, request: pytest.FixtureRequest) -> None:
    """The last of this file. No task is lost, none is done twice: of an epoch that is over nothing is taken."""
    n, n_pulled = (300, 16) if LONG else (100, 6)
    done: Counter[str] = Counter()
    at: list[float] = []
    lock = threading.Lock()

    def work(who: Worker, message: Message, task: dict[str, Any]) -> None:
        answer = patiently(who.agent, "complete", task_id=task["task_id"], epoch=task["epoch"], result=who.name)
        with lock:
            at.append(time.monotonic())
            done[task["task_id"]] += answer.get("state") == "succeeded"

    other = own_broker(site, *PLUGINS, cdc=True)
    other.start()
    workers = [Worker(site, f"w{i}", act=work, capacity=3) for i in range(6)]
    try:
        wait_until(lambda: other.metric("muster_tasks_shards") > 0, 40, "the shards to be shared out")
        victim, left = (other, one) if assigns(other, boss) else (one, other)
        pull_from_both(site, boss, n_pulled)
        idle = Worker(site, "idle")
        submit(boss, "slow", assigned_to="idle")
        idle.wait(1)
        for i in range(n):
            patiently(boss, "submit", task_id=f"k{i}", description="x", max_attempts=9)
            if i == n // 2:
                victim.kill()
                killed = time.monotonic()
        wait_until(lambda: patiently(boss, "stats")["by_state"].get("succeeded", 0) >= n + n_pulled + 1, 60, "all to be done")
        again = [m for m in idle.heard.messages if "Muster-Redelivery" in m.headers]
        assert again[0].data == idle.messages[0].data and again[0].reply == idle.messages[0].reply, "what the dead one may not have sent"
        idle.complete("slow")
        wait_until(lambda: left.metric("muster_tasks_held") == left.metric("muster_tasks_windowed") == 0, 10, "every slot to be free")
        pause = max(b - a for a, b in zip(sorted(at), sorted(at)[1:], strict=False) if b > killed)
        assert pause < 8, pause  # the lease is taken within 2 s; the rest is the machine's
        twice = site.postgres.query("SELECT task_id FROM muster.task_history WHERE to_state = 'succeeded' GROUP BY 1 HAVING count(*) > 1")
        assert not twice and left.alive and left.metric("muster_tasks_shards") == 16
    finally:
        for each in [*workers, idle]:
            each.stop()
            each.agent.close()
        end_of(other, bool(request.session.testsfailed))


def pull_from_both(site: Site, boss: Agent, n: int) -> None:
    """Whichever broker is asked: the one that assigns, or one that has to ask that one."""
    puller = Worker(site, "puller", delivery="pull", capacity=20)
    assert ok(puller.agent, "pull", wait_ms=1500) == {"tasks": []}
    for i in range(n):
        if i % 2:
            submit(boss, f"p{i}", assigned_to="puller")
        else:
            threading.Timer(0.1, submit, (boss, f"p{i}"), {"assigned_to": "puller"}).start()
        assert [t["task_id"] for t in ok(puller.agent, "pull", wait_ms=9000)["tasks"]] == [f"p{i}"]
        puller.complete(f"p{i}")
    assert not puller.ids
    puller.bye()


def patiently(agent: Agent, verb: str, **body: Any) -> dict[str, Any]:
    """Again while nobody answers: a broker may be gone with the request."""
    for _ in range(30):
        try:
            answer = agent.ask("task", verb, body, timeout=2).body
        except Exception:  # no answer in time
            continue
        code = answer.get("error", {}).get("code")
        if code == "already_exists":
            return {}
        if code not in ("unavailable", "internal", "deadline_exceeded"):
            return answer
        time.sleep(0.1)
    raise AssertionError(f"no answer to {verb} {body}")


def assigns(broker: Musterd, boss: Agent) -> bool:
    before = broker.metric("muster_tasks_assigned_total")
    submit(boss, f"probe{time.monotonic_ns()}")
    time.sleep(0.5)
    return broker.metric("muster_tasks_assigned_total") > before
