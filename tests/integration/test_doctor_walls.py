"""`muster doctor` does what agents must not be able to do, and says what got through."""

from __future__ import annotations

import base64
import json
import re
import signal
from collections.abc import Callable, Generator
from typing import Any

import nkeys
import pytest

from harness import Site, nats_versions, wait_until

ROLES = 7


@pytest.fixture(params=["", *nats_versions()], ids=lambda version: version or "installed")
def site(request: pytest.FixtureRequest) -> Generator[Site, None, None]:
    site = Site(nats=request.param)
    try:
        yield site.start("acme")
    finally:
        site.close()


def walls(site: Site) -> list[dict[str, Any]]:
    done = site.cli("doctor", "--json", check=False)
    return [check for check in json.loads(done.stdout)["checks"] if check["what"] == "walls"]


def change_account(site: Site, change: Callable[[dict[str, Any]], None]) -> None:
    """Sign the account anew, as somebody with the operator's key could, and have the server read it."""
    path = site.nats.folder / "accounts.conf"
    text = path.read_text()
    seed = next(line for line in (site.nats.keys / "operator.nk").read_text().splitlines() if line.startswith("SO")).strip()
    for jwt in re.findall(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", text):
        head, claims = (json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in jwt.split(".")[:2])
        if not claims["nats"].get("signing_keys"):
            continue
        change(claims)
        said = ".".join(base64.urlsafe_b64encode(json.dumps(part, separators=(",", ":")).encode()).decode().rstrip("=") for part in (head, claims))
        signature = base64.urlsafe_b64encode(nkeys.from_seed(bytearray(seed.encode())).sign(said.encode())).decode().rstrip("=")
        text = text.replace(jwt, f"{said}.{signature}")
    path.write_text(text)
    read = site.nats.log().count("Reloaded server configuration")
    site.nats.signal(signal.SIGHUP)
    wait_until(lambda: site.nats.log().count("Reloaded server configuration") > read, 10, "nats-server to have read its configuration")


def allow(role: str, which: str, subject: str) -> Callable[[dict[str, Any]], None]:
    def change(claims: dict[str, Any]) -> None:
        scope = next(key for key in claims["nats"]["signing_keys"] if key["role"] == role)
        scope["template"][which]["allow"].append(subject)

    return change


def test_what_must_be_refused_is_tried_and_what_gets_through_is_said(site: Site) -> None:
    site.broker().start()
    before = site.nats.log()
    (fine,) = walls(site)
    assert fine["level"] == "ok" and re.match(rf"{ROLES} roles have tried \d{{3}} things that must be refused, and all were$", fine["text"])
    assert site.postgres.query("SELECT count(*) FROM muster.credentials") == [(0,)], "who tries is known to nobody"
    assert "eyJ" not in site.nats.log()[len(before):]
    change_account(site, allow("user", "pub", "mst.*.all.{{name()}}.>"))
    change_account(site, allow("observer", "sub", "mst.*.box.>"))
    told = [check["text"] for check in walls(site) if check["level"] == "broken"]
    assert len(told) == 3 and all(re.match("a user of role (user|observer) in one tenant may ", text) for text in told)
    assert any("role user in one tenant may publish to mst._doctor2.all.probe.x" in text for text in told)
    assert any("role observer in one tenant may subscribe to mst._doctor2.box.probe.>" in text for text in told)
    assert any("role observer in one tenant may subscribe to mst._doctor1.box.somebody.>" in text for text in told)


def test_without_a_broker_only_the_server_is_tried(site: Site) -> None:
    texts = {check["level"]: check["text"] for check in walls(site)}
    assert "no broker answers" in texts["hint"] and "all were" in texts["ok"]
