"""Agents that work, many over few connections: each does what it is assigned, at a pace of its own, and asks again until it is answered.

One thread reads what comes and says what is due. Who dies says nothing any more, whatever it had in its hands.
"""

from __future__ import annotations

import heapq
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from client import Client
from harness import ROOT_TOKEN
from swarm import AGAIN_CODES, NOBODY, Body, Swarm

Key = tuple[str, int]  # a task and its epoch
Step = tuple[float, str, Body]  # after how many seconds, a verb (of task where it names no service), and what goes with it
Act = Callable[[str, Body], Iterable[Step]]  # a list: all of them in their time; an iterator: each when the one before it is answered
AGAIN = 2.0  # s


def at_once(name: str, task: Body) -> list[Step]:
    return in_time(0, 0)(name, task)


def in_time(least: float, most: float, seed: int = 1) -> Act:
    """Done after a while."""
    dice = random.Random(seed)

    def act(name: str, task: Body) -> list[Step]:
        return [(dice.uniform(least, most), "complete", {"result": [name, task["epoch"]]})]
    return act


class Crew:
    """`said` has the answer to each verb that was answered for good, by task and epoch."""

    def __init__(self, client: Client, beats: Client, tenant: str, names: list[str], act: Act = at_once) -> None:
        self.swarm = Swarm(client, tenant, names, beats)
        self.client, self.tenant, self.act = client, tenant, act
        self.dead: set[str] = set()
        self.said: dict[Key, list[tuple[str, str, Body]]] = {}
        self.assigned: Counter[str] = Counter()  # by name
        self.redelivered: set[Key] = set()
        self.failed: list[BaseException] = []
        self._heard = client.subscribe(f"{ROOT_TOKEN}.{tenant}.to.*._muster.task_assignment")
        self._answers = client.subscribe(f"{ROOT_TOKEN}.{tenant}.box.*.work.*")
        self._due: list[tuple[float, int]] = []
        self._open: dict[int, tuple[str, Key, Step, Iterator[Step]]] = {}  # the last: what comes after it
        self._known: set[Key] = set()
        self._names = frozenset(names)
        self._n = 0
        self._at = [0, 0]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def hello(self, names: Iterable[str], beat: float = 0, **more: Any) -> None:
        self.swarm.hello(names, **more)
        if beat:
            self.swarm.beat(beat)

    def die(self, names: Iterable[str]) -> None:
        names = list(names)
        self.dead |= set(names)
        self.swarm.fall_silent(names)

    def succeeded(self) -> dict[str, Body]:
        """By task: the results for which an agent was told that the task has succeeded with it."""
        done: dict[str, Body] = {}
        for (task_id, epoch), says in list(self.said.items()):
            for name, verb, answer in says:
                if verb == "complete" and answer.get("state") == "succeeded":
                    assert task_id not in done, f"{task_id} has succeeded for {name}, and for {done[task_id]}"
                    done[task_id] = {"name": name, "epoch": epoch}
        return done

    @property
    def busy(self) -> int:
        return len(self._open)

    def close(self) -> None:
        """While there is a broker to say bye to; again is no error."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join(30)
        self.swarm.bye(list(self.swarm.truth))
        self.swarm.close()
        assert not self.failed, self.failed[0]

    # ---- the thread ----

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                if not self._hear() + self._read() + self._speak():
                    time.sleep(0.003)
        except BaseException as error:  # noqa: BLE001 told by close()
            self.failed.append(error)

    def _hear(self) -> int:
        new = self._heard.messages[self._at[0]:]
        self._at[0] += len(new)
        for message in new:
            name, task = message.subject.split(".")[3], json.loads(message.data)
            key = (task["task_id"], task["epoch"])
            if name in self.dead or key in self._known or name not in self._names:
                continue
            self._known.add(key)
            if "Muster-Redelivery" in message.headers:
                self.redelivered.add(key)
            self.assigned[name] += 1
            steps = self.act(name, task)
            if isinstance(steps, Iterator):
                self._go_on(name, key, steps)
                continue
            for step in steps:
                self._go_on(name, key, iter([step]))
        return len(new)

    def _go_on(self, name: str, key: Key, steps: Iterator[Step]) -> None:
        step = next(steps, None)
        if step is None:
            return
        self._n += 1
        self._open[self._n] = (name, key, step, steps)
        heapq.heappush(self._due, (time.monotonic() + step[0], self._n))

    def _read(self) -> int:
        new = self._answers.messages[self._at[1]:]
        self._at[1] += len(new)
        for message in new:
            n, answer = int(message.subject.rpartition(".")[2]), json.loads(message.data) if message.data else NOBODY
            if n not in self._open or self._open[n][0] != message.subject.split(".")[3] or answer.get("error", {}).get("code") in AGAIN_CODES:
                continue
            name, key, (_, verb, _), steps = self._open.pop(n)
            self.said.setdefault(key, []).append((name, verb, answer))
            if name not in self.dead:
                self._go_on(name, key, steps)
        return len(new)

    def _speak(self) -> int:
        now, messages = time.monotonic(), []
        while self._due and self._due[0][0] <= now:
            _, n = heapq.heappop(self._due)
            if n not in self._open:
                continue
            name, key, step, _ = self._open[n]
            if name in self.dead:
                del self._open[n]
                continue
            messages.append(self._message(n, name, key, step))
            heapq.heappush(self._due, (now + AGAIN, n))
        try:
            if messages:
                self.client.publish_each(messages, 1)
        except Exception as error:  # noqa: BLE001 NATS is away: it is said again
            self.client.errors.append(str(error))
        return len(messages)

    def _message(self, n: int, name: str, key: Key, step: Step) -> tuple[str, bytes, str]:
        """What is said to a task, or asked for it, speaks of the task that was assigned, in its epoch."""
        service, verb = step[1].split(".") if "." in step[1] else ("task", step[1])
        body = step[2] if service == "run" else {"task_id": key[0], "epoch": key[1], **step[2]}
        prefix = f"{ROOT_TOKEN}.{self.tenant}"
        return f"{prefix}.rpc.{name}.{service}.{verb}", json.dumps(body).encode(), f"{prefix}.box.{name}.work.{n}"
