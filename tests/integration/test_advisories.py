"""A broker tells what is known against the nats-server it stands on, once, and works all the same."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest

from harness import Site, nats_release, nats_versions, wait_until


@pytest.fixture(params=["", *nats_versions()], ids=lambda version: version or "installed")
def site(request: pytest.FixtureRequest) -> Generator[Site, None, None]:
    site = Site(nats=request.param)
    try:
        yield site.start("acme")
    finally:
        site.close()


def told(page: str) -> dict[str, Any]:
    return next(c for c in json.loads(page)["components"] if c["kind"] == "server")


def test_a_broker_and_doctor_say_what_is_known_of_a_server(site: Site) -> None:
    release = nats_release(site.nats.program)
    version = ".".join(map(str, release))
    broker = site.broker()
    broker.start()
    component = told(broker.get("/readyz")[1])
    findings = [line for line in site.cli("doctor", check=False).stdout.splitlines() if "known" in line or "CVE" in line or "GHSA" in line]
    if release >= (2, 15, 0):
        assert component["state"] == "ok" and version in component["text"] and findings == []
        return
    assert component["state"] == "degraded" and component["code"] == "server_advisories" and version in component["text"]
    assert "open" not in component["text"] and "GHSA-g33f-6538-grxh (" in component["text"]  # operator mode
    for text in (component["text"], "\n".join(findings)):
        assert ("CVE-2025-30215" in text) == (release < (2, 10, 27))
    assert any("CVE-2026-27889" in line and "websocket" in line for line in findings)
    assert any("GHSA-g33f-6538-grxh is open" in line for line in findings)
    site.nats.stop()
    site.nats.start()
    broker.wait_ready()
    wait_until(lambda: broker.metric("muster_bus_reconnects_total") >= 2, 10, "the links to be back")
    assert broker.log().count("has known weaknesses") == 1
