"""One installation for all tests of the examples, and the examples as the script `build` made them: in the broker, and in a child that may
what the example's own muster.yaml allows and no more."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from harness import REPO, Musterd, Site, run_cli
from integration.conftest import COMPLAINTS, connect  # noqa: F401 (a fixture)
from load import CREATE, EXTERNAL, TABLE

EXAMPLES = Path(os.environ.get("MUSTER_EXAMPLES", REPO / "build" / "examples")).resolve()
ROOT = os.geteuid() == 0
_words = itertools.count(1)


@pytest.fixture(scope="session")
def installation() -> Generator[Site, None, None]:
    site = Site()
    try:
        site.start("acme", "zeta")
        site.postgres.query(CREATE)
        site.postgres.query(EXTERNAL)
        site.cli("publish", TABLE, "--tenant-column", "tenant_id")
        yield site
    finally:
        site.close()


def end(broker: Musterd) -> None:
    if broker.alive:
        assert broker.stop() == 0, f"{broker.name} did not end cleanly\n{broker.log()[-3000:]}"
    for complaint in COMPLAINTS:
        assert complaint not in broker.log(), f"{broker.name}: {complaint}\n{broker.log()[-6000:]}"


@pytest.fixture
def site(request: pytest.FixtureRequest, installation: Site) -> Generator[Site, None, None]:
    """The installation, for brokers of the test's own."""
    yield installation
    report = getattr(request.node, "report_call", None)
    if report is None or report.failed:
        for server in [*installation.brokers, *(one for one in (installation.nats, installation.postgres) if not one.alive)]:
            print(f"--- {server.name}\n{server.log()[-6000:]}", file=sys.stderr)
    brokers = list(installation.brokers)
    installation.brokers.clear()
    try:
        for broker in brokers:
            end(broker)
    finally:
        for broker in brokers:
            broker.kill()


@pytest.fixture(params=["none", "process"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def word() -> str:
    """A name that no other test uses: of a service, a series, an instance."""
    return f"w{next(_words)}"


@pytest.fixture
def folder(site: Site, word: str) -> Path:
    path = site.folder / word
    path.mkdir()
    return path


# ---- entries of `plugins:` ------------------------------------------------------------------------------------------------------


def walls_of(folder: str) -> dict[str, Any]:
    """`allow` and `limits` of the example's muster.yaml, which are in YAML's flow style there."""
    page = REPO / "examples" / folder / "muster.yaml"
    plain = re.compile(r'"[^"]*"|[^][{}:,\s]+')
    return {key: json.loads(plain.sub(lambda m: m[0] if m[0][0] == '"' or m[0] in ("true", "false") else f'"{m[0]}"', text))
            for key, text in re.findall(r"^    (allow|limits): (.*)$", page.read_text() if page.exists() else "", re.M)}


def example(folder: str, mode: str, config: dict[str, Any] | None = None, own: Path | None = None, **entry: Any) -> dict[str, Any]:
    """An entry for the plugin of an example; `own` stands for the folders that its muster.yaml opens to it."""
    (file,) = (EXAMPLES / folder).glob("*.so")
    made = {"path": str(file), "config": config or {}, **entry}
    if mode == "none":
        return {**made, "isolation": "none"}
    walls = walls_of(folder)
    for key in walls.get("allow", {}).keys() & {"read", "write"}:
        walls["allow"][key] = [str(own)]
    return {**made, **walls}


def give(entry: dict[str, Any], *paths: Path) -> None:
    """Make files those of whom the plugin runs as."""
    if not ROOT or entry.get("isolation") == "none":
        return
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        json.dump({"plugins": [entry]}, config)
        config.flush()
        (plugin,) = json.loads(run_cli(["-c", config.name, "plugin", "list", "--json"], {}).stdout)
    user = plugin["walls"]["user"]
    for path in paths:
        shutil.chown(path, int(user) if user.isdigit() else user)
