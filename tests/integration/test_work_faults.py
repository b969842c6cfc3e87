"""Tasks, help and runs while agents, brokers, NATS and PostgreSQL go away: nothing that was acknowledged is lost, nothing is done twice.

After each test every property of tests/invariants.py must hold of all three machines. Many agents speak over few connections (tests/crew.py):
their death is their silence. Who has to be stopped or killed as a process is one (tests/worker.py).
MUSTER_TEST_LONG runs all with the numbers and times that are promised; otherwise with fewer, and shorter.

Elsewhere: late results after another assignment, an expiry and a cancel, cancel against complete, and a deadline while NATS is away in test_tasks.py
(in SQL alone in test_task_sql.py, the poison rule too); A asks B asks A in test_help.py and test_help_sql.py; the time of a verifier without NATS in
test_runs.py; brokers that are killed over verbs in test_tasks.py, test_help.py and test_runs.py; single deaths and redelivery in test_task_router.py;
presence under all of it in test_cluster.py; random steps in test_task_model.py, test_help_model.py and test_run_model.py.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from typing import Any, TypeVar

import pytest

from agent import Agent
from client import Client
from crew import Crew, Step, at_once, in_time
from harness import LONG, REPO, ROOT_TOKEN, Musterd, Site, wait_until
from invariants import KEPT, all_broken, lost
from pluginrig import end_of, own_broker
from proxy import Proxy
from swarm import Body, Swarm, mint

T = TypeVar("T", int, float)
BEAT = 5.0 if LONG else 0.5
DEAD_AFTER = 3 * BEAT
PRESENCE = {"name": "presence", "config": {} if LONG else {"heartbeat": "500ms", "dead_after": "1500ms", "grace": "200ms", "roll_call": "500ms"}}
PLUGINS = [PRESENCE, {"name": "tasks", "config": {"sweep": "100ms"}}, {"name": "help", "config": {"sweep": "100ms"}}, {"name": "runs", "config": {"sweep": "100ms"}}]
TENANTS = ["kill", "stop", "sleep", "race2", "race5", "doubt", "lost", "once", "away", "pg", "poison", "flood", "calm", "old"]


def size(short: T, long: T) -> T:
    return long if LONG else short


class Links:
    """One broker, whose links go by way of proxies."""

    def __init__(self, site: Site) -> None:
        self.nats, self.postgres = Proxy(site.nats.port), Proxy(site.postgres.port)
        self.broker = own_broker(site, *PLUGINS, cdc=True)
        self.broker.config["nats"] = site.nats_section(self.nats.port)
        self.broker.config["postgres"]["dsn"] = site.postgres.dsn("muster_broker").replace(str(site.postgres.port), str(self.postgres.port))
        self.broker.start()

    def close(self) -> None:
        """Its shards are free for others at once."""
        self.broker.stop()
        end_of(self.broker, False)
        self.nats.close()
        self.postgres.close()


class Fleet:
    """Brokers that serve all of a site's tenants: so many beside each other, or one whose links can be cut."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.brokers: list[Musterd] = []
        self.links: Links | None = None

    def linked(self) -> Links:
        self.sized(0)
        links = self.links = self.links or Links(self.site)
        wait_until(lambda: links.broker.metric("muster_tasks_shards") == 16, 40, "the shards")
        return links

    def sized(self, n: int) -> list[Musterd]:
        if n and self.links:
            self.links.close()
            self.links = None
        while len(self.brokers) < n:
            self.brokers.append(own_broker(self.site, *PLUGINS, cdc=True))
            self.brokers[-1].start(ready=len(self.brokers) == 1)  # the first makes the streams: where several do, the server may leave one without an answer
        while len(self.brokers) > n:
            end_of(self.brokers.pop(), False)
        for broker in self.brokers:
            if not broker.alive:
                broker.start(ready=False)
            broker.wait_ready(60)
        if not n:
            return []
        wait_until(lambda: sum(b.metric("muster_tasks_shards") for b in self.brokers) == 16, 40, "the shards to be shared out")
        return self.brokers

    def close(self, failed: bool) -> None:
        for broker in self.brokers:
            end_of(broker, failed)
        if self.links:
            self.links.close()


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    site = Site()
    with (site.postgres.data / "postgresql.conf").open("a") as conf:
        conf.write("max_connections = 200\n")  # of five brokers, and of those just killed
    try:
        yield site.start(*TENANTS)
    finally:
        site.close()


@pytest.fixture(scope="module")
def fleet(site: Site, request: pytest.FixtureRequest) -> Generator[Fleet, None, None]:
    fleet = Fleet(site)
    yield fleet
    fleet.close(bool(request.session.testsfailed))


@pytest.fixture
def one(fleet: Fleet) -> Musterd:
    return fleet.sized(1)[0]


@pytest.fixture(autouse=True)
def whole(site: Site) -> Generator[None, None, None]:
    """Whatever was done, and whatever broke meanwhile."""
    yield
    for server in (site.nats, site.postgres):
        if not server.alive:
            server.start()
    with site.postgres.connect() as connection:
        assert all_broken(connection) == []


@pytest.fixture
def clients(site: Site) -> Generator[Callable[[], Client], None, None]:
    made: list[Client] = []

    def make() -> Client:
        made.append(Client(site.nats.url, site.nats.folder / "broker.creds"))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def crew(site: Site, clients: Callable[[], Client]) -> Generator[Callable[..., Crew], None, None]:
    made: list[Crew] = []

    def make(tenant: str, n: int, act: Any = at_once, what: str = "w", **hello: Any) -> Crew:
        names = [f"{what}{i}" for i in range(n)]
        mint(site, tenant, names)
        made.append(Crew(clients(), clients(), tenant, names, act))
        made[-1].hello(names, BEAT, **hello)
        return made[-1]

    yield make
    for one in made:
        one.close()


class Boss:
    """Who submits, and asks again under the same request_id until it is answered."""

    def __init__(self, site: Site, client: Client, tenant: str, name: str = "boss") -> None:
        mint(site, tenant, [name])
        self.site, self.tenant, self.name = site, tenant, name
        self.voice = Swarm(client, tenant, [name])
        self.ids: list[str] = []  # acknowledged
        self.helps: list[str] = []
        self.runs: list[str] = []
        self._n = 0

    def ask(self, service: str, verb: str, deadline: float = size(60, 600), **body: Any) -> Body:
        return self.voice.ask(service, verb, {self.name: body}, deadline, again=2)[self.name]

    def ok(self, service: str, verb: str, **body: Any) -> Body:
        answer = self.ask(service, verb, **body)
        assert "error" not in answer, answer
        return answer

    def submit(self, n: int, **more: Any) -> list[str]:
        """n tasks, a hundred a request."""
        made = []
        for start in range(0, n, 100):
            self._n += 1
            tasks = [{"description": "x", **more} for _ in range(min(100, n - start))]
            answer = self.ok("task", "submit_many", tasks=tasks, request_id=f"{self.name}-{self._n}-{time.monotonic_ns()}")
            made += [t["task_id"] for t in answer["tasks"]]
        self.ids += made
        return made

    def ask_help(self, **more: Any) -> str:
        self._n += 1
        self.helps.append(self.ok("help", "request", **({"problem": "x", "capabilities": ["none"], "request_id": f"{self._n}"} | more))["help_id"])
        return self.helps[-1]

    def start_run(self, **more: Any) -> str:
        self._n += 1
        self.runs.append(self.ok("run", "start", **({"agent_name": "x", "request_id": f"{self._n}"} | more))["run_id"])
        return self.runs[-1]

    def count(self, machine: str) -> int:
        """What the tenant has."""
        table, whose, _ = KEPT[machine]
        return int(self.site.postgres.query(f"SELECT count(*) FROM {table} WHERE {whose} = %s", [self.tenant])[0][0])

    def states(self, ids: list[str] | None = None) -> dict[str, int]:
        rows = self.site.postgres.query("SELECT status, count(*) FROM public.agent_tasks WHERE tenant_id = %s AND task_id = ANY (%s) GROUP BY 1",
                                        [self.tenant, self.ids if ids is None else ids])
        return dict(rows)

    def until(self, state: str, deadline: float, ids: list[str] | None = None) -> None:
        """All of them, or of these."""
        wanted = {state: len(self.ids if ids is None else ids)}
        try:
            wait_until(lambda: time.sleep(0.05) or self.states(ids) == wanted, deadline, f"all to be {state}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.states(ids)}") from None


@pytest.fixture
def boss(site: Site, clients: Callable[[], Client]) -> Callable[..., Boss]:
    return lambda tenant, name="boss": Boss(site, clients(), tenant, name)


# A result is of who had the task, in the epoch in which he had it.
NOT_HIS = """SELECT t.task_id, t.result, h.actor, h.epoch FROM public.agent_tasks AS t JOIN muster.task_history AS h ON h.tenant = t.tenant_id AND h.task_id = t.task_id
    WHERE t.tenant_id = %s AND h.to_state = 'succeeded' AND t.result IS DISTINCT FROM jsonb_build_array(h.actor, h.epoch) LIMIT 3"""


def check(site: Site, boss: Boss, *crews: Crew) -> None:
    """Of what was acknowledged nothing is lost, each success has the one result that belongs to it, and what agents were told is what stands in the database."""
    with site.postgres.connect() as connection:
        connection.execute("SET enable_nestloop = off")  # nobody has counted these tables yet
        for machine, ids in (("task", boss.ids), ("help", boss.helps), ("run", boss.runs)):
            assert lost(connection, boss.tenant, ids, machine) == []
        assert connection.execute(NOT_HIS, [boss.tenant]).fetchall() == []
        results = dict(connection.execute("SELECT task_id, result FROM public.agent_tasks WHERE tenant_id = %s AND status = 'succeeded'", [boss.tenant]).fetchall())
    for crew in crews:
        for task_id, told in crew.succeeded().items():
            assert results.get(task_id) == [told["name"], told["epoch"]], f"{task_id} has {results.get(task_id)}, and {told} was told that it has succeeded"


def soon(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# ---- one broker: its links ------------------------------------------------------------------------------------------------------


@pytest.fixture
def links(fleet: Fleet) -> Links:
    return fleet.linked()


@pytest.mark.parametrize("delivery", ["push", "pull"])
def test_an_assignment_that_nobody_knows_of(site: Site, links: Links, boss: Callable[..., Boss], crew: Callable[..., Crew], delivery: str) -> None:
    """PostgreSQL has committed it, and the link ends before it can say so: the agent is told of it all the same, and once."""
    b, name = boss("doubt"), f"{delivery}0"
    one = crew("doubt", 1, what=delivery, delivery=delivery)
    pulled: list[Body] = []
    pulling = threading.Thread(target=lambda: pulled.extend(one.swarm.ask("task", "pull", {name: {"wait_ms": 15000}}, again=20)[name]["tasks"]))
    if delivery == "pull":
        pulling.start()
        time.sleep(0.5)
    links.postgres.hold_answer(b'{"ok": {"epoch": ')
    task_id = b.submit(1, assigned_to=name)[0]
    assert links.postgres.held.wait(10)
    wait_until(lambda: b.states([task_id]) == {"running": 1}, 10, "it to be committed")
    links.postgres.release()
    if delivery == "pull":
        pulling.join(20)
        assert [(t["task_id"], t["epoch"]) for t in pulled] == [(task_id, 1)]
        assert one.swarm.ask("task", "complete", {name: {"task_id": task_id, "epoch": 1, "result": [name, 1]}})[name] == {"state": "succeeded"}
    else:
        b.until("succeeded", 20, [task_id])
        assert one.redelivered == {(task_id, 1)}, "assigned once, and told of by who could not know it"
    check(site, b, one)


def test_an_assignment_that_is_lost_on_its_way(site: Site, links: Links, boss: Callable[..., Boss], crew: Callable[..., Crew]) -> None:
    """The broker has said it, and its link to NATS ends before it is there, for so short that nobody takes its shards over."""
    b, one = boss("lost"), crew("lost", 1)
    links.nats.hold_at(b"._muster.task_assignment", 0)
    submitting = threading.Thread(target=b.submit, args=[1])
    submitting.start()
    assert links.nats.held.wait(10)
    links.nats.release()
    submitting.join(30)
    b.until("succeeded", 20)
    assert one.redelivered == {(b.ids[0], 1)}
    check(site, b, one)


# ---- one broker: agents ---------------------------------------------------------------------------------------------------------


WAYS = [[], ["accept"], ["accept", "run.start"], ["accept", "run.start", "progress"], ["accept", "run.start", "progress", "run.progress"],
        *[["accept", "run.start", "progress", "run.progress", end] for end in ("need_input", "help.request", "complete")]]
MOMENTS = [0.0, 0.05, None]  # as it says the last of it, so many s after that, or when it has the answer


def said_by(name: str, task: Body) -> dict[str, Body]:
    run = f"{task['task_id']}-{task['epoch']}"
    return {"run.start": {"run_id": run, "task_id": task["task_id"], "agent_name": "worker"}, "run.progress": {"run_id": run, "percent": 50}, "progress": {"percent": 50},
            "need_input": {"question": "which?"}, "help.request": {"problem": "which?", "capabilities": ["none"], "timeout_ms": 1500}, "complete": {"result": [name, task["epoch"]]}}


def random_deaths(crew: list[Crew], n: int, seed: int) -> Callable[[str, Body], Iterator[Step]]:
    """What each of n agents does with its first task, up to a point from which on it says no more: before it accepts or right after it, on the way, as it
    asks, with the result on its lips, or when it has said it. Every point is somebody's, with the answer and without; whose is chance."""
    dice, points = random.Random(seed), list(product(WAYS, MOMENTS))
    deck = points * (n // len(points)) + dice.sample(points, n % len(points))
    dice.shuffle(deck)
    dying: set[str] = set()

    def act(name: str, task: Body) -> Iterator[Step]:
        if name in dying:
            return
        dying.add(name)
        (way, moment), words = deck.pop(), said_by(name, task)
        for verb in way[:-1]:
            yield 0.0, verb, words.get(verb, {})
        if moment is not None:
            threading.Timer(moment, crew[0].die, [[name]]).start()
        for verb in way[-1:]:
            yield 0.0, verb, words.get(verb, {})
        if moment is None:
            crew[0].die([name])
    return act


def test_agents_killed_at_random_points(site: Site, one: Musterd, boss: Callable[..., Boss], crew: Callable[..., Crew]) -> None:
    """As many agents as there are die, silently or as processes, with tasks, runs and requests for help in their hands; those who come after them do it."""
    b, n = boss("kill"), size(60, 1000)
    processes = [Process(site, "kill", f"process{i}", hold=60) for i in range(size(2, 20))]
    for process in processes:
        process.wait("hello")
    first: list[Crew] = []
    first.append(crew("kill", n, random_deaths(first, n, 7), auto_accept=False))
    b.submit(2 * n, max_attempts=1000)
    for process in processes:
        process.wait("assigned")
        process.close()
    wait_until(lambda: len(first[0].dead) == n, size(30, 120), "all to have had their turn")
    second = crew("kill", 20, in_time(0, 0.02), what="later", capacity=8)

    def over() -> bool:
        for task_id in asked(site, "kill"):
            b.ask("task", "provide_input", task_id=task_id, input="this")
        return not b.states().keys() - {"succeeded", "dead"}

    try:
        wait_until(lambda: time.sleep(0.2) or over(), size(60, 300), "all to be done")
    except AssertionError as error:
        raise AssertionError(f"{error}: {b.states()}") from None
    assert b.states().get("dead", 0) < n / 4, f"{b.states()}: three agents died of each"
    said = {(verb, "error" in answer) for says in first[0].said.values() for _, verb, answer in says}
    assert {(verb, False) for way in WAYS for verb in way} <= said, said
    assert b.count("help") > 0 and b.count("run") > 0
    print(f"{n + len(processes)} agents dead with {b.count('run')} runs and {b.count('help')} requests for help; tasks: {b.states()}")
    check(site, b, first[0], second)


def asked(site: Site, tenant: str) -> list[str]:
    """Those that wait for somebody to say something, and not for help."""
    return [row[0] for row in site.postgres.query(
        "SELECT task_id FROM public.agent_tasks WHERE tenant_id = %s AND status = 'input_required' AND question ->> 'help_id' IS NULL", [tenant])]


class Process:
    """An agent that is a process of its own (tests/worker.py), and what it says of its answers."""

    def __init__(self, site: Site, tenant: str, name: str, hold: float) -> None:
        self._popen = subprocess.Popen([sys.executable, str(REPO / "tests/worker.py"), site.nats.url, str(site.agent(tenant, name)), tenant, name, str(BEAT), str(hold)],
                                       stdout=subprocess.PIPE, text=True)
        self.said: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._popen.stdout
        for line in self._popen.stdout:
            self.said.append(json.loads(line))

    def wait(self, what: str, deadline: float = size(20, 120)) -> dict[str, Any]:
        wait_until(lambda: [s for s in self.said if s["what"] == what], deadline, f"{what} of the agent: {self.said}")
        return next(s for s in self.said if s["what"] == what)

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def close(self) -> None:
        self._popen.kill()
        self._popen.wait()


def test_an_agent_stopped_past_its_lease_wakes_up(site: Site, one: Musterd, boss: Callable[..., Boss], crew: Callable[..., Crew]) -> None:
    """It goes on as if nothing had been, and what it says counts for nothing: another has the task under another epoch."""
    b, sleeper = boss("stop"), Process(site, "stop", "sleeper", hold=1.0)
    try:
        sleeper.wait("hello")
        task_id = b.submit(1)[0]
        assert sleeper.wait("assigned")["epoch"] == 1
        sleeper.signal(signal.SIGSTOP)
        others = crew("stop", 1)
        b.until("succeeded", DEAD_AFTER + 30)
        sleeper.signal(signal.SIGCONT)
        answer = sleeper.wait("complete")["answer"]
        assert answer["error"]["code"] == "aborted" and "stale_epoch" in answer["error"]["message"], answer
        task = b.ok("task", "get", task_id=task_id)
        assert task["result"] == ["w0", 2] and task["crashes"] == 1 and task["late_result"]["body"] == ["sleeper", 1]
        check(site, b, others)
    finally:
        sleeper.close()


def test_a_poison_task_kills_three_and_no_more(site: Site, one: Musterd, boss: Callable[..., Boss], crew: Callable[..., Crew]) -> None:
    """Whoever is given it dies. Other tasks are done meanwhile, and it is redriven as a new one."""
    made: list[Crew] = []

    def act(name: str, task: Body) -> list[Step]:
        if task["description"] != "poison":
            return [(0.01, "complete", {"result": [name, task["epoch"]]})]
        made[0].die([name])
        return []

    made.append(crew("poison", 8, act))
    b = boss("poison")
    bad = b.submit(1, description="poison")[0]
    good = b.submit(100)
    b.until("dead", 6 * DEAD_AFTER + 60, [bad])
    b.until("succeeded", 30, good)
    task = b.ok("task", "get", task_id=bad)
    assert task["crashes"] == 3 and task["reason"].startswith("poison") and len(made[0].dead) == 3
    again = b.ok("task", "retry", task_id=bad)["task_id"]
    assert b.ok("task", "get", task_id=again)["retry_of"] == bad
    b.ok("task", "cancel", task_id=again)
    check(site, b, *made)


# ---- one broker: servers --------------------------------------------------------------------------------------------------------


def test_nats_is_away(site: Site, one: Musterd, boss: Callable[..., Boss], crew: Callable[..., Crew]) -> None:
    """Nobody is taken for dead, deadlines pass, what plain SQL says is done when it is back, and what was in somebody's hands he goes on with."""
    b = boss("away")
    slow = crew("away", 10, in_time(size(3.0, 310.0), size(4.0, 320.0)), what="slow")
    held = b.submit(10)
    b.until("running", 20, held)
    due = b.submit(20, deadline=soon(size(2, 120)), capabilities=["none"]) + b.submit(20, start_by=soon(size(2, 120)), capabilities=["none"])
    asks = b.ask_help(timeout_ms=size(2000, 120000))
    site.nats.kill()
    began = time.monotonic()
    site.postgres.query("INSERT INTO public.agent_tasks (tenant_id, task_id, description) SELECT 'away', 'plain' || i, 'x' FROM generate_series(1, 50) AS i")
    b.until("expired", size(15, 200), due)
    wait_until(lambda: site.postgres.query("SELECT state FROM muster.help WHERE help_id = %s", [asks]) == [("expired",)], 10, "the request to be expired")
    time.sleep(max(0.0, size(1.5 * DEAD_AFTER, 300.0) - (time.monotonic() - began)))
    assert b.states(held) == {"running": 10}, "an outage is no death"
    site.nats.start()
    quick = crew("away", 5, what="quick", capacity=10)
    plain = [f"plain{i}" for i in range(1, 51)]
    b.until("succeeded", 60, plain)
    b.until("succeeded", 60, held)
    assert site.postgres.query("SELECT DISTINCT epoch, crashes FROM public.agent_tasks WHERE task_id = ANY (%s)", [held]) == [(1, 0)]
    check(site, b, slow, quick)


def test_an_old_snapshot_is_held(site: Site, one: Musterd, boss: Callable[..., Boss], crew: Callable[..., Crew]) -> None:
    """What has been done stays in the tables and their indexes for as long as somebody looks at the past; nobody wades through it."""
    b = boss("old")
    crew("old", 20, capacity=10)
    b.until("succeeded", 30, b.submit(100))
    with site.postgres.connect() as past:
        past.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        past.execute("SELECT count(*) FROM muster.tenants")
        n, each = size(2, 5), size(300, 8000)
        read = [blocks(site)]
        for _ in range(n):
            b.until("succeeded", 300, b.submit(each))
            read.append(blocks(site))
        look = pages_of_a_look(site, "old")
        past.commit()
    pages = [(after - before) // each for before, after in pairwise(read)]
    print(f"pages a task, by {n} parts of {n * each}: {pages}; a look from the cursor reads {look}")
    assert look < 50, look
    assert pages[-1] < 4 * pages[0], pages
    check(site, b)


def blocks(site: Site) -> int:
    """Pages that were looked at, so far as backends have told it by now."""
    time.sleep(1.1)
    return int(site.postgres.query("SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = 'muster'")[0][0])


def pages_of_a_look(site: Site, tenant: str) -> int:
    """For what is queued behind the task that was queued last; the first time a session has to find out what everything is."""
    route, pos = site.postgres.query("SELECT route, max(pos) FROM public.agent_tasks WHERE tenant_id = %s GROUP BY 1", [tenant])[0]
    with site.postgres.connect() as connection:
        for _ in range(2):
            plan = connection.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT json) SELECT * FROM muster.task_peek(%s, %s, %s, '', 256)", [tenant, route, pos]).fetchall()[0][0]
    return int(plan[0]["Plan"]["Shared Hit Blocks"]) + int(plan[0]["Plan"]["Shared Read Blocks"])


# ---- two brokers ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service, verb, body, key, count", [
    ("task", "submit", {"description": "once"}, "task_id", "SELECT count(*) FROM public.agent_tasks WHERE tenant_id = 'once'"),
    ("run", "start", {"agent_name": "once"}, "run_id", "SELECT count(*) FROM public.agent_runs WHERE tenant_id = 'once'"),
    ("help", "request", {"problem": "once", "capabilities": ["nobody"]}, "help_id", "SELECT count(*) FROM muster.help WHERE tenant = 'once'")])
def test_one_request_id_from_fifty_clients_at_once(site: Site, fleet: Fleet, fifty: list[Agent], service: str, verb: str, body: Body, key: str, count: str) -> None:
    """Whichever of two brokers has it: it is carried out once, and all are given the one answer."""
    boxes = [client.client.subscribe(client.box(f"{service}{n}")) for n, client in enumerate(fifty)]
    for n, client in enumerate(fifty):
        client.tell(service, verb, body | {"request_id": "the same"}, reply=client.box(f"{service}{n}"))
    wait_until(lambda: all(box.messages for box in boxes), 30, "every answer")
    answers = {json.dumps({k: v for k, v in json.loads(box.messages[0].data).items() if k != "prior"}, sort_keys=True) for box in boxes}
    assert len(answers) == 1 and json.loads(answers.pop())[key]
    assert site.postgres.query(count) == [(1,)]


@pytest.fixture(scope="module")
def fifty(site: Site, fleet: Fleet) -> Generator[list[Agent], None, None]:
    fleet.sized(2)
    agents = [Agent(site, "once", "boss") for _ in range(50)]
    agents[0].ask("presence", "hello", {"session": "s"})
    yield agents
    for agent in agents:
        agent.close()


def test_postgresql_is_away(site: Site, fleet: Fleet, boss: Callable[..., Boss], crew: Callable[..., Crew]) -> None:
    """Submits and results of the time without it are asked again until they are acknowledged; nobody loses what he holds."""
    fleet.sized(2)
    b, some, back = boss("pg"), crew("pg", 10, in_time(0.05, 0.3), capacity=4), threading.Event()
    b.submit(100)

    def ask_all() -> None:
        while not back.wait(0.05):
            b.submit(15)
            b.ask_help()
            b.start_run()

    asking = threading.Thread(target=ask_all)
    asking.start()
    time.sleep(0.3)
    site.postgres.kill()
    time.sleep(1)  # what was acknowledged before is read
    before = len(b.ids), len(b.helps), len(b.runs)
    time.sleep(size(1.5 * DEAD_AFTER, 60.0) - 1)
    assert (len(b.ids), len(b.helps), len(b.runs)) == before, "nobody is there to acknowledge it"
    site.postgres.start()
    time.sleep(0.5)
    back.set()
    asking.join(size(120, 600))
    assert len(b.runs) > before[2]
    assert (b.count("task"), b.count("help"), b.count("run")) == (len(set(b.ids)), len(set(b.helps)), len(set(b.runs))) == (len(b.ids), len(b.helps), len(b.runs))
    b.until("succeeded", 90)
    assert site.postgres.query("SELECT sum(crashes) FROM public.agent_tasks WHERE tenant_id = 'pg'") == [(0,)], "an outage is no death"
    check(site, b, some)


WAITED = """SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM o.at - q.at)), max(extract(epoch FROM o.at - q.at))
    FROM muster.task_history AS q JOIN muster.task_history AS o USING (tenant, task_id)
    WHERE tenant = %s AND q.to_state = 'queued' AND q.seq = 1 AND o.to_state = 'offered' AND o.epoch = 1"""


def test_a_flood_of_one_tenant_holds_nobody_up(site: Site, fleet: Fleet, boss: Callable[..., Boss], crew: Callable[..., Crew]) -> None:
    """While one tenant has submitted more than its agents can do, and goes on, another's tasks are assigned as if it were alone."""
    fleet.sized(2)
    busy, calm = boss("flood"), boss("calm")
    crew("flood", size(10, 20), in_time(0.2, 0.3), capacity=4)
    crew("calm", 1, capacity=4)
    over = threading.Event()

    def flood() -> None:
        while not over.wait(size(0.2, 0.0)):
            busy.submit(100)

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        wait_until(lambda: len(busy.ids) >= size(400, 20000), 300, "a flood")
        for _ in range(size(5, 200)):
            calm.until("succeeded", 30, calm.submit(1))
    finally:
        over.set()
        flooding.join(60)
    assert busy.states().get("queued", 0) > 100, "the flood has to last"
    waits = [[round(float(seconds or 0), 3) for seconds in site.postgres.query(WAITED, [tenant])[0]] for tenant in ("flood", "calm")]
    print(f"{len(busy.ids)} tasks of one tenant: they waited {waits[0]} s, those of the other {waits[1]} s (median, longest)")
    assert waits[1][0] < 0.25, waits
    check(site, calm)
    check(site, busy)


# ---- brokers that die -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 5])
def test_brokers_race_while_one_is_killed_every_two_seconds(site: Site, fleet: Fleet, boss: Callable[..., Boss], crew: Callable[..., Crew], n: int) -> None:
    brokers, b, total = fleet.sized(n), boss(f"race{n}"), size(300, 10000)
    some = crew(b.tenant, 40, in_time(size(0.3, 0.05), size(1.0, 0.6)), capacity=size(2, 8))
    submitting = threading.Thread(target=b.submit, args=[total])
    submitting.start()
    kills, dice, end = 0, random.Random(n), time.monotonic() + size(90, 900)

    def over() -> bool:
        return not submitting.is_alive() and b.states() == {"succeeded": total}

    while not over():
        assert time.monotonic() < end, f"after {kills} kills: {b.states()}, {some.busy} wait for an answer"
        victim, next_kill = dice.choice(brokers), time.monotonic() + 2
        victim.kill()
        victim.start(ready=False)
        kills += 1
        wait_until(lambda: time.sleep(0.1) or time.monotonic() > next_kill or over(), 60, "the next kill")
    assert kills >= 2 and b.count("task") == total
    print(f"{n} brokers: {total} tasks through {kills} kills, {len(some.redelivered)} of them told of again")
    check(site, b, some)


@pytest.mark.skipif(not LONG, reason="takes long")
def test_brokers_stopped_past_their_leases_wake_up(site: Site, fleet: Fleet, boss: Callable[..., Boss], crew: Callable[..., Crew]) -> None:
    """One after the other: what it assigns when it wakes up is fenced."""
    brokers, b = fleet.sized(3), boss("sleep")
    some = crew("sleep", 40, in_time(0.05, 0.6), capacity=8)
    submitting = threading.Thread(target=b.submit, args=[10000])
    submitting.start()
    for broker in brokers:
        broker.pause()
        time.sleep(20)
        broker.resume()
        time.sleep(2)
    submitting.join(300)
    b.until("succeeded", 300)
    check(site, b, some)
