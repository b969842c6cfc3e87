"""What was measured: printed as it comes, judged against its targets, kept for --json. A part that fails does not lose what others measured."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from harness import BUILD, installed


def spread(values: list[float], form: str = "{:,.0f}") -> str:
    return f"{form.format(median(values))} [{form.format(min(values))}..{form.format(max(values))}]"


def plural(n: int, what: str) -> str:
    return f"{n} {what}{'s' if n != 1 else ''}"


def load() -> str:
    return f"load {os.getloadavg()[0]:.1f}"


def _version(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


class PartOver(Exception):
    pass


class Report:
    def __init__(self, as_json: bool, only: str = "") -> None:
        self.as_json, self._only = as_json, only
        self.values: dict[str, Any] = {}
        self.judged: list[tuple[bool, str]] = []
        self.failed: dict[str, str] = {}
        self._began = time.monotonic()

    def say(self, text: str = "") -> None:
        print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def progress(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:5.0f} s] {text}", file=sys.stderr, flush=True)

    def rounds(self, name: str, n: int) -> Iterator[int]:
        """0 to n - 1, each told as it begins."""
        for i in range(n):
            self.progress(f"{name}: round {i + 1} of {n}")
            yield i

    def keep(self, name: str, value: Any) -> None:
        self.values[name] = value

    def judge(self, what: str, value: float, target: float, below: bool = True, form: str = "{:,.2f}") -> str:
        """The value beside its target; it stands in the summary, too."""
        met = value <= target if below else value >= target
        text = f"{form.format(value)}, target {'<=' if below else '>='} {target:,g}: {'met' if met else 'MISSED'}"
        self.judged.append((met, f"{what}: {text}"))
        self.values.setdefault("targets", {})[what] = {"value": value, "target": target, "met": met}
        return text

    def conditions(self, **further: Any) -> None:
        cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        said = {"cores": os.cpu_count(), "cpu": cpu[1] if cpu else platform.processor(), "load_before": round(os.getloadavg()[0], 1),
                "postgres": _version(installed("postgres"), "--version").split()[2], "nats_server": _version(installed("nats-server"), "--version").split()[-1],
                "libnats": _version("pkg-config", "--modversion", "libnats"), "stream": "file, R1, default sync interval", "build": str(BUILD), **further}
        self.keep("conditions", said)
        self.say("conditions  " + ", ".join(f"{key} {value}" for key, value in said.items()))

    def part(self, name: str, seconds: int, run: Callable[[], None]) -> None:
        """Run it, for so long at most; how it failed is told at the end."""
        if self._only not in name:
            return

        def over(*_: Any) -> None:
            raise PartOver(f"not over within {seconds} s")

        self.progress(f"{name}: begins")
        began = time.monotonic()
        signal.signal(signal.SIGALRM, over)
        signal.alarm(seconds)
        try:
            run()
        except Exception as error:  # whatever it is, the next part may do
            traceback.print_exc()
            self.failed[name] = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
        finally:
            signal.alarm(0)
        self.progress(f"{name}: {'failed' if name in self.failed else 'over'} after {time.monotonic() - began:.0f} s")

    def end(self) -> int:
        """Prints the summary; the exit status."""
        if self.judged:
            self.say(f"\ntargets: {sum(met for met, _ in self.judged)} met, {sum(not met for met, _ in self.judged)} missed ({time.monotonic() - self._began:.0f} s)")
            for met, text in self.judged:
                if not met:
                    self.say(f"  {text}")
        for name, why in self.failed.items():
            self.say(f"FAILED {name}: {why}")
        if self.as_json:
            print(json.dumps(self.values | {"failed": self.failed}, indent=2))
        return 1 if self.failed else 0
