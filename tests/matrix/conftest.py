"""The installations that are attacked, and how many attempts there were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

from harness import LONG, nats_program, nats_release, nats_versions
from matrix.rig import Rig
from matrix.tally import tally

NEWEST = nats_versions()[-1]
# In short every server and every form once; in long each form on each server.
SHORT = [("", "operator"), ("2.10", "callout"), (NEWEST, "static")]
WHOLE = [(version, form) for version in ("", *nats_versions()) for form in ("operator", "static", "callout")
         if form != "callout" or nats_release(nats_program(version)) >= (2, 10)]


@pytest.fixture(scope="module", params=WHOLE if LONG else SHORT, ids=lambda p: f"{p[0] or 'installed'}-{p[1]}")
def rig(request: pytest.FixtureRequest) -> Generator[Rig, None, None]:
    rig = Rig(*request.param)
    try:
        yield rig.start()
        assert rig.broker.alive, rig.broker.log()[-3000:]
        assert rig.broker.stop() == 0, rig.broker.log()[-3000:]
        for complaint in ("AddressSanitizer", "ThreadSanitizer", "runtime error:", "broken invariant"):
            assert complaint not in rig.broker.log(), rig.broker.log()[-6000:]
    finally:
        rig.close()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # of a worker among others: the one that reports hears of it
        session.config.workeroutput["attempts"] = [(*key, n) for key, n in tally.items()]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    tally.update({(where, kind): n for where, kind, n in node.workeroutput.get("attempts", [])})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    by_kind: Counter[str] = Counter()
    for (_, kind), n in tally.items():
        by_kind[kind] += n
    where = sorted({where for where, _ in tally})
    if not where:
        return
    terminalreporter.write_line(f"{sum(tally.values()):,} attempts: " + ", ".join(f"{n:,} {kind}" for kind, n in by_kind.items()))
    for place in where:
        terminalreporter.write_line(f"  {sum(n for (at, _), n in tally.items() if at == place):>7,}  {place}")
