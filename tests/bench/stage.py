"""A site for the benches of presence, fan-out and tasks: servers as in production, brokers, crowds and programs, all of which end with it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from crowd import Crowd, known, minted
from harness import BUILD, Musterd, Site, wait_until
from rig import POSTGRES_CONF, children, cpu_us

SHARDS = 16


class Stage(Site):
    """Made once for a part, so that nothing of one part is in the way of another."""

    def __init__(self) -> None:
        super().__init__()
        with (self.postgres.data / "postgresql.conf").open("a") as conf:
            conf.write(POSTGRES_CONF + "max_connections = 300\n")  # four brokers on one server
        self.crowds: list[Crowd] = []
        self.programs: list[subprocess.Popen[str]] = []

    @property
    def creds(self) -> Path:
        return self.nats.folder / "broker.creds"

    def close(self) -> None:
        for crowd in self.crowds:
            crowd.kill()
        for program in self.programs:
            program.kill()
            program.wait()
        super().close()

    def analyze(self) -> None:
        """The planner knows what there is, as it does where autovacuum runs: here it would come into a round by chance."""
        self.postgres.query("VACUUM ANALYZE")

    # ---- brokers

    def musterd(self, name: str = "b0", fanout: bool | dict[str, Any] = False, tasks: bool = False, **presence: Any) -> Musterd:
        """With the plugin presence, and fanout, and tasks and help."""
        made = Musterd(name, self.folder, self.broker_config())
        made.config["plugins"] += [{"name": "presence", "config": presence}, *([{"name": "fanout", "config": fanout if isinstance(fanout, dict) else {}}] if fanout else [])]
        made.config["plugins"] += [{"name": "tasks"}, {"name": "help"}] if tasks else []
        self.brokers.append(made)
        return made

    def started(self, n: int = 1, fanout: bool | dict[str, Any] = False, tasks: bool = False, **presence: Any) -> list[Musterd]:
        """n brokers that share the shards evenly: each counts the others for some seconds before it lets any go."""
        brokers = [self.musterd(f"b{i}", fanout, tasks, **presence) for i in range(n)]
        for one in brokers:
            one.start(ready=False)
        for one in brokers:
            one.wait_ready(60)
        for metric in ("muster_presence_shards", *(["muster_fanout_watch_shards"] if fanout else []), *(["muster_tasks_shards"] if tasks else [])):
            wait_until(lambda: [b.metric(metric) for b in brokers] == [SHARDS // n] * n, 60, f"each of {n} brokers to hold its part of {metric}")
        return brokers

    def stop(self, *brokers: Musterd) -> None:
        """Nobody of before is in the way of the next."""
        for one in brokers:
            if one.alive:
                one.resume()
                one.stop(40)
            self.brokers.remove(one)
        self.postgres.query("TRUNCATE public.agent_sessions CASCADE")

    # ---- agents

    def crowd(self, tenant: str, n: int, *orders: str, watchers: int = 1, own: bool = False, links: int = 16) -> Crowd:
        """Agents of a tenant that have followed orders."""
        if own:
            crowd = Crowd(self, tenant, n, watchers, minted(self, tenant, n))
        else:
            known(self, tenant, n)
            crowd = Crowd(self, tenant, n, watchers, links=links)
        self.crowds.append(crowd)
        for order in orders:
            crowd.do(order)
        return crowd

    def roster(self, tenant: str) -> set[str]:
        """Who is present, as a broker answers it."""
        return {agent["agent_id"] for agent in json.loads(self.cli("agents", "list", "--tenant", tenant, "--json").stdout)}

    def wrong(self, crowd: Crowd) -> int:
        """How many of the roster are other than the crowd says."""
        return len(self.roster(crowd.tenant) ^ crowd.expected())

    def await_nobody(self, tenant: str) -> None:
        wait_until(lambda: not self.roster(tenant), 60, f"agents of {tenant} that are gone to have left the roster")
        time.sleep(0.2)  # until those who watch have heard it

    # ---- programs on the bare library

    def program(self, name: str, *argv: str) -> subprocess.Popen[str]:
        """One that says "ready", and goes on until its standard input ends."""
        made = subprocess.Popen([str(BUILD / "bin/bench" / name), "--url", self.nats.url, "--creds", str(self.creds), *argv],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.programs.append(made)
        assert made.stdout and made.stdout.readline() == "ready\n", f"{name} did not begin"
        return made

    def end(self, program: subprocess.Popen[str]) -> None:
        program.communicate(timeout=20)
        self.programs.remove(program)

    def asked(self, creds: Path, subject: str, count: int, window: int, body: str, box: str = "mst.t0.box.a1.bench", clients: int = 1) -> dict[str, float]:
        """Requests by the asker: so many under way of each client."""
        argv = [str(BUILD / "bin/bench/asker"), "--url", self.nats.url, "--creds", str(creds), "--subject", subject, "--window", str(window),
                "--count", str(count // clients), "--body", body, "--box"]
        askers = [subprocess.Popen([*argv, f"{box}{i}"], stdout=subprocess.PIPE, text=True) for i in range(clients)]
        self.programs += askers
        told = []
        for asker in askers:
            out, _ = asker.communicate(timeout=120)
            self.programs.remove(asker)
            assert asker.returncode == 0, f"asker of {subject} ended with {asker.returncode}"
            told.append({key: float(value) for key, value in (pair.split("=") for pair in out.split())})
        worst = {key: max(one[key] for one in told) for key in ("p50_us", "p99_us", "max_us")}
        return worst | {"rate": sum(one["rate"] for one in told)}


def server_us(pid: int) -> float:
    """What PostgreSQL's processes that live have used, by the kernel's exact account."""
    return sum(_ran_ns(one) for one in (pid, *children(pid))) / 1000


def _ran_ns(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    except FileNotFoundError:  # it has ended since it was listed
        return 0


def threads_us(pid: int) -> float:
    """Likewise of the threads of a process."""
    return sum(int(thread.read_text().split()[0]) for thread in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1000


class Cpu:
    """What processes have used since, in microseconds."""

    def __init__(self, *pids: int) -> None:
        self._before = {pid: cpu_us(pid) for pid in pids}

    def each(self) -> list[float]:
        return [cpu_us(pid) - before for pid, before in self._before.items()]

    def used(self) -> float:
        return sum(self.each())


def settle(pid: int) -> None:
    """Until the broker has caught up with what was there before, and does next to nothing."""
    def is_quiet() -> bool:
        cpu = Cpu(pid)
        time.sleep(0.5)
        return cpu.used() <= 20_000

    wait_until(is_quiet, 60, "the broker to be quiet")


def private_mib(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024
