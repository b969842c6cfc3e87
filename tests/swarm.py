"""Many agents over few connections, and an oracle that knows who must be here.

A swarm speaks with a broker's credentials in the names of its agents: no machine has room for a process an agent. Nobody can see such
agents connect or go, so what they show is requests, beats, events and inboxes; connections and their ends need agents of their own.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from client import Client, Message, Subscription
from harness import ROOT_TOKEN, Site, wait_until

Body = dict[str, Any]
AGAIN_CODES = ("unavailable", "resource_exhausted", "deadline_exceeded")  # which say: try again
NOBODY = {"error": {"code": "unavailable", "message": "nobody is there to answer"}}  # as the server says it, without a body
AGAIN = 1.0  # s after which what was not answered is asked again: with no holder, clients retry


def mint(site: Site, tenant: str, names: list[str]) -> None:
    """Rows of credentials for names that a broker's login speaks for: no keys, so nobody else can."""
    site.postgres.query("INSERT INTO muster.credentials (tenant, agent, role) SELECT %s, unnest(%s::text[]), 'agent' ON CONFLICT DO NOTHING",
                        (tenant, names))


class Swarm:
    """Agents of one tenant, and what is true of them: who has said hello and no bye, and with which status."""

    def __init__(self, client: Client, tenant: str, names: list[str], beats: Client | None = None) -> None:
        """beats: a connection for them alone; what floods the other must not make them late."""
        self.client, self.tenant, self.names = client, tenant, names
        self._beats = beats or client
        self.truth: dict[str, Body] = {}  # what each said last; written by who asks, read by the beats
        self.asked = 0
        self.retried = 0
        self.late = 0.0  # s by which its beats were
        self.refused: list[str] = []  # what they said
        self._answers: dict[str, Message] = {}
        self._read = 0
        self._box = client.subscribe(f"{ROOT_TOKEN}.{tenant}.box.{names[0] + '.' if len(names) == 1 else ''}>")
        self._lock = threading.Lock()
        self._lively: set[str] = set()  # who beats
        self._ended = threading.Event()
        self._beating: threading.Thread | None = None

    # ---- asking ----

    def ask(self, service: str, verb: str, bodies: dict[str, Body], deadline: float = 30, again: float = AGAIN) -> dict[str, Body]:
        """Each agent's request, all at once, again until it is answered by other than `unavailable` and its like."""
        left, answers, end = dict(bodies), {}, time.monotonic() + deadline
        first = True
        while left:
            assert time.monotonic() < end, f"{service}.{verb}: {len(left)} of {len(bodies)} were not answered in {deadline} s, e.g. "\
                                            f"{list(left)[:3]}; refused: {set(self.refused)}"
            self.retried += 0 if first else len(left)
            first = False
            answers |= self._round(service, verb, left, min(again, end - time.monotonic()))
            left = {name: body for name, body in left.items() if name not in answers}
        return {name: answers[name] for name in bodies}

    def _round(self, service: str, verb: str, bodies: dict[str, Body], seconds: float) -> dict[str, Body]:
        with self._lock:
            self.asked += 1
            token = f"{service}-{verb}-{self.asked}"
        prefix = f"{ROOT_TOKEN}.{self.tenant}"
        self.client.publish_each([(f"{prefix}.rpc.{name}.{service}.{verb}", json.dumps(body).encode(), f"{prefix}.box.{name}.{token}")
                                  for name, body in bodies.items()])
        got: dict[str, Body] = {}
        n_refused, end = 0, time.monotonic() + seconds
        while len(got) + n_refused < len(bodies) and time.monotonic() < end:
            self._sort()
            for name in bodies:
                answer = self._answers.pop(f"{name}.{token}", None) if name not in got else None
                body = (json.loads(answer.data) if answer.data else NOBODY) if answer else None
                if body is not None and body.get("error", {}).get("code") in AGAIN_CODES:
                    self.refused.append(body["error"]["message"])
                    n_refused += 1
                elif body is not None:
                    got[name] = body
            if len(got) + n_refused < len(bodies):
                time.sleep(0.005 if len(bodies) < 1000 else 0.05)
        if n_refused:
            time.sleep(min(0.25, max(0.0, end - time.monotonic())))
        return got

    def _sort(self) -> None:
        messages = self._box.messages
        with self._lock:
            while self._read < len(messages):
                self._answers[messages[self._read].subject.split(".box.", 1)[1]] = messages[self._read]
                self._read += 1

    # ---- presence ----

    def hello(self, names: Iterable[str], deadline: float = 30, **more: Any) -> dict[str, Body]:
        bodies = {name: {"session": f"{name}-1", "capabilities": ["work"], **more} for name in names}
        with self._lock:
            self._lively |= set(bodies)
        answers = self.ask("presence", "hello", bodies, deadline)
        for name, answer in answers.items():
            assert answer.get("session") == bodies[name]["session"], answer
            with self._lock:
                self.truth[name] = {"status": "online", "session": answer["session"]}
        return answers

    def status(self, names: Iterable[str], status: str, deadline: float = 30) -> None:
        for name, answer in self.ask("presence", "status", {name: {"status": status} for name in names}, deadline).items():
            assert "error" not in answer, answer
            with self._lock:
                self.truth[name]["status"] = status

    def bye(self, names: Iterable[str], deadline: float = 30) -> None:
        names = list(names)
        with self._lock:
            self._lively -= set(names)
        for answer in self.ask("presence", "bye", {name: {} for name in names}, deadline).values():
            assert "error" not in answer or answer["error"]["code"] == "failed_precondition", answer  # it was said twice
        with self._lock:
            for name in names:
                self.truth.pop(name, None)

    def fall_silent(self, names: Iterable[str]) -> None:
        """No beats from now on: they die without a word."""
        with self._lock:
            self._lively -= set(names)
            for name in names:
                self.truth.pop(name, None)

    def beat(self, every: float) -> None:
        """Beats of all who are here, spread over the time between two, until close()."""
        self._beating = threading.Thread(target=self._beat, args=(every,), daemon=True)
        self._beating.start()

    def _beat(self, every: float, parts: int = 20) -> None:
        due, n = time.monotonic(), 0
        while True:
            due, n = due + every / parts, n + 1
            self.late = max(self.late, time.monotonic() - due)
            if self._ended.wait(max(0.0, due - time.monotonic())):
                return
            with self._lock:
                names = [name for name in self._lively if hash(name) % parts == n % parts]
            try:
                self._beats.publish_each([(f"{ROOT_TOKEN}.{self.tenant}.rpc.{name}.presence.beat", b"{}", "") for name in names], every)
            except Exception as error:  # noqa: BLE001 a node is away, and the client on its way to another
                self.client.errors.append(str(error))

    def close(self) -> None:
        self._ended.set()
        if self._beating:
            self._beating.join(10)


class Busy:
    """Statuses of agents of a swarm, one round after another, until the end of the block."""

    def __init__(self, swarm: Swarm, names: list[str]) -> None:
        self._swarm, self._names, self._end = swarm, names, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failed: list[BaseException] = []
        self.rounds = 0
        self.longest = 0.0

    def __enter__(self) -> Busy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(120)
        assert not self._failed, self._failed[0]

    def _run(self) -> None:
        dice = random.Random(1)
        try:
            while not self._end.is_set():
                began = time.monotonic()
                self._swarm.status(dice.sample(self._names, max(1, len(self._names) // 10)), dice.choice(["busy", "away", "online"]), 90)
                self.longest = max(self.longest, time.monotonic() - began)
                self.rounds += 1
        except BaseException as error:  # noqa: BLE001 told by the thread that waits
            self._failed.append(error)


class Oracle:
    """A client as INTERFACE asks for one: it hears events, lists once, applies what comes after, and lists anew for a new epoch."""

    def __init__(self, client: Client, tenant: str, agent: str = "oracle") -> None:
        self.client, self.tenant, self.agent = client, tenant, agent
        self.heard: Subscription = client.subscribe(f"{ROOT_TOKEN}.{tenant}.evt.presence.>")
        self._heads: Subscription = client.subscribe(f"{ROOT_TOKEN}.{tenant}.evt._.head")
        self.roster: dict[str, Body] = {}
        self.position = (0, 0)
        self.lists = 0
        self._voice = Swarm(client, tenant, [agent])
        self._at = 0

    def list(self, deadline: float = 30) -> tuple[dict[str, Body], tuple[int, int]]:
        """The whole roster as the holder tells it, and the position from which events complete it."""
        agents: dict[str, Body] = {}
        body: Body = {"limit": 1000}
        first: tuple[int, int] | None = None
        while True:
            answer = self._ask("list", body, deadline)
            position = (int(answer["epoch"]), int(answer["seq"]))
            if first and position[0] != first[0]:  # the holder has changed between two pages
                agents, first, body = {}, None, {"limit": 1000}
                continue
            first = first or position
            agents |= {agent["agent_id"]: agent for agent in answer["agents"]}
            if not answer.get("next"):
                return agents, first
            body = {"limit": 1000, "after": answer["next"]}

    def _ask(self, verb: str, body: Body, deadline: float) -> Body:
        answer = self._voice.ask("presence", verb, {self.agent: body}, deadline)[self.agent]
        assert "error" not in answer, answer
        return answer

    def begin(self) -> Oracle:
        self.roster, self.position = self.list()
        self.lists += 1
        return self

    def catch_up(self) -> dict[str, Body]:
        """Apply what has been heard."""
        while self._at < len(self.heard.messages):
            message = self.heard.messages[self._at]
            self._at += 1
            if "Muster-Seq" in message.headers:
                self._apply(message)
        if self._head() > self.position:
            self.begin()  # the tail was lost, and nothing has come after it
        return self.roster

    def _head(self) -> tuple[int, int]:
        """How far the newest head notice says that presence has got."""
        for message in reversed(self._heads.messages):
            head = json.loads(message.data).get("evt.presence")
            if head:
                return int(head["epoch"]), int(head["seq"])
        return 0, 0

    def _apply(self, message: Message) -> None:
        epoch, seq = position_of(message)
        if (epoch, seq) <= self.position:
            return
        if epoch != self.position[0] or seq != self.position[1] + 1:
            self.begin()
            if (epoch, seq) <= self.position:
                return
            assert (epoch, seq) == (self.position[0], self.position[1] + 1), f"{(epoch, seq)} after a list at {self.position}"
        self.position = (epoch, seq)
        for agent in agents_of(message):
            if kind_of(message) == "leave":
                self.roster.pop(agent["agent_id"], None)
            else:
                self.roster[agent["agent_id"]] = agent

    def wait_for(self, names: list[str], deadline: float) -> None:
        """Until events have told that all of them are here."""
        def here() -> bool:
            return set(names) <= self.catch_up().keys()

        try:
            wait_until(here, deadline, "all joins to be heard")
        except AssertionError as error:
            missing = sorted(set(names) - self.roster.keys())
            raise AssertionError(f"{error}: {len(missing)} are missing, e.g. {missing[:3]}, at {self.position} after {self.lists} lists and "
                                 f"{len(self.heard.messages)} messages; errors: {self.client.errors}") from None

    # ---- what must be so ----

    def events(self, kind: str) -> list[Body]:
        return [agent for message in self.heard.messages if "Muster-Seq" in message.headers and kind_of(message) == kind
                for agent in agents_of(message)]

    def check_order(self, stored: list[Message] | None = None) -> None:
        """Positions are contiguous within an epoch, epochs grow, nothing is heard twice. stored: so is what the stream has, and what was
        heard of it is in that order."""
        heard = [position_of(message) for message in self.heard.messages if "Muster-Seq" in message.headers]
        if stored is None:
            _check_contiguous(heard)
            return
        _check_contiguous([position_of(message) for message in stored])
        assert heard == sorted(set(heard)), "heard twice, or out of order"

    def check_no_leave(self, alive: Iterable[str]) -> None:
        """None of who lives was ever said to be gone."""
        alive = set(alive)
        false = [agent for agent in self.events("leave") if agent["agent_id"] in alive]
        assert not false, f"{len(false)} false leaves, e.g. {false[:3]}"

    def check_roster(self, truth: dict[str, Body], deadline: float = 20, but: Callable[[str], bool] = lambda name: False) -> None:
        """Both the holder's list and what the events have built are what is true. but: names that are none of the truth's business."""
        def of(agents: dict[str, Body]) -> dict[str, tuple[str, str, bool]]:
            return {name: (agent["status"], agent["session"], bool(agent.get("suspect"))) for name, agent in agents.items() if not but(name)}

        wanted = of(truth)
        last: list[str] = []

        def same() -> bool:
            built, listed = of(self.catch_up()), of(self.list()[0])
            last[:] = [_difference("events", wanted, built), _difference("list", wanted, listed)]
            return built == wanted and listed == wanted

        try:
            wait_until(same, deadline, "the roster to be the truth")
        except AssertionError as error:
            raise AssertionError(f"{error}: {'; '.join(last)}") from None


def _check_contiguous(positions: list[tuple[int, int]]) -> None:
    for (epoch, seq), (now, number) in pairwise(positions):
        assert now >= epoch, f"epoch {now} after {epoch}"
        assert now > epoch or number == seq + 1, f"epoch {epoch}: {number} follows {seq}"


def shard_of(tenant: str) -> int:
    value = 0x811C9DC5
    for byte in tenant.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value % 16


def _difference(what: str, wanted: dict[str, tuple[str, str, bool]], got: dict[str, tuple[str, str, bool]]) -> str:
    missing, more = sorted(wanted.keys() - got.keys()), sorted(got.keys() - wanted.keys())
    others = [(name, wanted[name], got[name]) for name in wanted.keys() & got.keys() if wanted[name] != got[name]]
    return f"{what}: {len(missing)} missing {missing[:3]}, {len(more)} too many {more[:3]}, {len(others)} differ {others[:3]}"


def kind_of(message: Message) -> str:
    return message.subject.split(".evt.presence.", 1)[1].split(".")[0]


def agents_of(message: Message) -> list[Body]:
    """The agents that an event speaks of: one, or the many of a digest; a count speaks of none."""
    if kind_of(message) == "count":
        return []
    body = json.loads(message.data)
    return list(body["agents"]) if message.subject.endswith("._") else [body]


def position_of(message: Message) -> tuple[int, int]:
    return int(message.headers["Muster-Epoch"]), int(message.headers["Muster-Seq"])


