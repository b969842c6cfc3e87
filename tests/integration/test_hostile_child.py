"""A plugin in a child that goes around the ABI reaches nothing: not the broker's files, memory or servers, not other tenants, not what other
services are asked. Each try is refused, by the kernel or by the broker, and what the broker refuses it tells with plugin, version and try."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import struct
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from nats.errors import NoRespondersError

from agent import Agent
from childrig import NULL, TYPES, blob, i32, i64, listed, text, u8, u32, u64
from harness import Musterd, Site, run_cli, wait_until
from pluginrig import Agents, echo, installation, own_broker, plugin

USERS = ["the broker's own", "nobody"] if os.geteuid() == 0 else ["the broker's own"]


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    with installation() as site:
        yield site


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest, site: Site) -> Generator[Musterd, None, None]:
    """With the hostile plugin in a child and echo beside it. The site's broker is root's; as nobody it cannot change the child's user, and all
    its files are the child's too, were it not for the walls."""
    server = own_broker(site, echo())
    folder = server.folder
    shutil.copytree(site.nats.folder, folder / "nats", ignore=lambda _, names: [n for n in names if not n.endswith(".creds")])
    server.config["nats"]["creds"] = str(folder / "nats" / "broker.creds")
    server.config["nats"]["system_creds"] = str(folder / "nats" / "system.creds")
    files = [server.config["nats"]["creds"], server.config["nats"]["system_creds"], str(server.config_path), str(server.log_path), str(site.nats.keys)]
    server.config["plugins"].append(plugin(
        "hostile", "hostile", isolation="process", restart={"delay": "100ms", "max_delay": "100ms"}, allow={"tenants": ["acme"]},
        config={"files": files, "ports": [str(site.nats.port), str(site.postgres.port), str(server.admin_port)]}))
    if getattr(request, "param", "") == "nobody":
        server.user = "nobody"
        nobody = pwd.getpwnam("nobody")
        server.log_path.touch()
        for path in (folder, *folder.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    server.start()
    yield server
    server.kill()
    print(server.log()[-6000:])
    for complaint in ("AddressSanitizer", "ThreadSanitizer", "runtime error:", "broken invariant"):
        assert complaint not in server.log(), server.log()[-6000:]


@pytest.fixture(scope="module")
def agents(site: Site) -> Generator[Agents, None, None]:
    agents = Agents(site)
    yield agents
    agents.close()


def held_here(broker: Musterd) -> None:
    """Skip what this kernel does not have."""
    listed_plugins = json.loads(run_cli(["-c", str(broker.config_path), "plugin", "list", "--json"], {}).stdout)
    lacks = next(p["walls"]["lacks"] for p in listed_plugins if p["instance"] == "hostile")
    if lacks:
        pytest.skip(f"this kernel does not hold a child's {', '.join(lacks)}")


def wait_for_child(asker: Agent) -> None:
    """A subscription reaches the server a moment after the broker is ready, or after the next child has started."""
    def answers() -> bool:
        try:
            return "tried" in asker.ask("hostile", "loaded").body
        except NoRespondersError:
            return False

    wait_until(answers, 20, "the child")


@pytest.mark.parametrize("broker", USERS, indirect=True)
@pytest.mark.parametrize("verb", ["loaded", "reach"])
def test_it_reaches_nothing(broker: Musterd, agents: Agents, verb: str) -> None:
    held_here(broker)
    before = broker.config_path.read_bytes()
    wait_for_child(agents("acme", "a1"))
    body = agents("acme", "a1").ask("hostile", verb).body
    assert body["reached"] == "" and body["tried"] > 60
    assert broker.alive and broker.get("/readyz")[0] == 200
    assert broker.config_path.read_bytes() == before
    assert agents("acme", "a1").ask("echo", "say", {"text": "x"}).body


def test_what_its_entry_opens_is_what_it_reaches(site: Site, broker: Musterd, agents: Agents, tmp_path: Path) -> None:
    """The same tries, where some are allowed: the answer above is empty because of the walls and not because the tries are none."""
    held_here(broker)
    folder = Path(tempfile.mkdtemp(dir=site.folder))
    folder.chmod(0o755)
    told, kept = folder / "told", folder / "kept"
    for file in (told, kept):
        file.write_text("x")
        file.chmod(0o666)
    port = str(site.postgres.port)
    server = own_broker(site, plugin("hostile", "opened", isolation="process", allow={"network": True, "read": [str(told)]},
                                     config={"files": [str(told), str(kept)], "ports": [port]}))
    broker.stop()  # it would answer for hostile too
    try:
        server.start()
        wait_for_child(agents("acme", "a1"))
        reached = [what for what in agents("acme", "a1").ask("hostile", "reach").body["reached"].split("; ") if what]
        assert reached[:2] == [str(told), port] and all("makes_socket" in what for what in reached[2:]), reached
        assert not [what for what in reached if "PACKET" in what] and len(reached) >= 5
        assert told.read_text() == kept.read_text() == "x"
    finally:
        server.kill()
        broker.start()


@pytest.mark.parametrize("broker", USERS, indirect=True)
def test_its_process_holds_nothing_of_the_broker(broker: Musterd) -> None:
    held_here(broker)
    child = _child(broker)
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert all(int(status[f"Cap{which}"], 16) == 0 for which in ("Inh", "Prm", "Eff", "Amb"))
    uids = {int(uid) for uid in status["Uid"].split()}
    own = Path(f"/proc/{broker.pid}").stat().st_uid
    assert uids == {own} if own else 61184 <= uids.pop() <= 65519
    environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
    assert not [e for e in environment if e.startswith((b"MUSTER", b"PG", b"HOME", b"PATH"))]
    links = {fd.name: os.readlink(fd) for fd in Path(f"/proc/{child}/fd").iterdir()}
    assert links["0"] == "/dev/null" and links["1"].startswith("pipe:") and links["2"].startswith("pipe:") and links["3"].startswith("socket:")
    assert all(where.startswith(("anon_inode:", "pipe:", "socket:")) for fd, where in links.items() if int(fd) > 3), links
    assert len([where for where in links.values() if where.startswith("socket:")]) == 1


def _child(broker: Musterd) -> int:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                line = (process / "cmdline").read_bytes().split(b"\0")
                parent = (process / "stat").read_text().rsplit(")", 1)[1].split()[1]
            except OSError:
                continue
            if len(line) > 2 and line[1] == b"--plugin-host" and b"hostile" in line[2] and int(parent) == broker.pid:
                return int(process.name)
    raise AssertionError("the child is not there")


# ---- frames ---------------------------------------------------------------------------------------------------------------------


def frame(kind: str | int, ident: int = 0, *fields: bytes) -> bytes:
    body = b"".join(fields)
    number = TYPES[kind] if isinstance(kind, str) else kind
    return struct.pack("<IHHQ", len(body) + 12, number, 0, ident) + body


def subscribe(subject: str) -> bytes:
    return frame("SUBSCRIBE", 77, u32(0), text(subject), u32(10), u32(1), u64(1 << 20))


def out(tenant: int, subject: str) -> bytes:
    return u64(tenant) + text(subject) + listed([]) + blob(b"{}")


def publish(subject: str, tenant: int = 1) -> bytes:
    return frame("PUBLISH", 0, out(tenant, subject) + text(None))


FORGED: dict[str, tuple[bytes, str]] = {
    "other services": (subscribe("rpc.*.echo.say"), "rpc.*.echo.say"),
    "all requests": (subscribe("rpc.>"), "rpc.>"),
    "everything": (subscribe(">"), ">"),
    "boxes": (subscribe("box.>"), "box.>"),
    "the stored": (subscribe("_in.>"), "_in.>"),
    "changes": (subscribe("cdc.>"), "cdc.>"),
    "events of others": (subscribe("evt.echo.>"), "evt.echo.>"),
    "no subject": (subscribe("rpc.*.hostile.x y"), "rpc.*.hostile.x y"),
    "a line of the protocol": (subscribe("evt.hostile.x\r\nSUB > 1"), "evt.hostile"),
    "an agent's box": (publish("box.a1.x"), "box.a1.x"),
    "the word of another agent": (publish("to.a2.a1.hello"), "to.a2.a1.hello"),
    "a change": (publish("cdc.main.public.orders.insert.1"), "cdc.main.public.orders.insert.1"),
    "an event of another": (publish("evt.echo.said.1"), "evt.echo.said.1"),
    "a request as another": (publish("rpc.a1.echo.say"), "rpc.a1.echo.say"),
    "a request as itself": (publish("rpc._p_hostile.echo.say"), "rpc._p_hostile.echo.say"),
    "JetStream": (publish("$JS.API.STREAM.PURGE.CDC_main"), "$JS.API.STREAM.PURGE.CDC_main"),
    "keys": (publish("$KV.muster_cdc.x"), "$KV.muster_cdc.x"),
    "what is stored": (publish("_in.acme.cdc.main.x"), "_in.acme.cdc.main.x"),
    "another tenant": (publish("evt.hostile.x.1", tenant=2), "the tenant 2"),
    "any tenant": (publish("evt.hostile.x.1", tenant=2**63), f"the tenant {2**63}"),
    "a request of another tenant": (frame("REQUEST", 1, i64(10**9), out(2, "to.a1.hello")), "the tenant 2"),
    "a stream of another": (frame("STREAM_OPEN", 5, u64(1), text("CDC_main"), text("cdc.main.>"), u32(1), i64(0), i64(0)), "stream"),
    "the keys of another tenant": (frame("KV_GET", 1, u64(2), text("x")), "the tenant 2"),
    "a tenant by name": (frame("REFRESH", 1, text("zeta")), "cross_tenant"),
    "connections": (frame("SYS_LIST", 1), "system"),
    "kicking": (frame("SYS_KICK", 1, text("x"), u64(1)), "system"),
    "an answer that nobody asked for": (frame("REPLY", 987654, blob(b"{}")), "reply"),
    "an error that nobody asked for": (frame("REPLY_ERROR", 987654, text("internal"), text(None), text("x")), "reply_error"),
    "done with what it was not given": (frame("DONE", 987654, i32(0), u8(0)), "done"),
    "dropping what it does not hold": (frame("DROP", 987654), "drop"),
    "words of the broker": (frame("TENANT", 9, text("zeta"), u32(1), i64(0), i64(0), u8(1)), "tenant"),
    "a second hello": (frame("HELLO", 0, u32(1)), "hello"),
    "an unknown type": (frame(999), "no frame"),
    "type 0": (frame(0), "no frame"),
    "a length past all bounds": (struct.pack("<IHHQ", 0x7FFFFFFF, TYPES["LOG"], 0, 0), "no frame"),
    "a length below the header": (struct.pack("<IHHQ", 3, TYPES["LOG"], 0, 0), "no frame"),
    "text past its frame": (frame("LOG", 0, u32(1), u32(4096), b"x"), "malformed"),
    "text without its end": (frame("LOG", 0, u32(1), u32(1), b"xy"), "malformed"),
    "too many headers": (frame("PUBLISH", 0, u64(1), text("evt.hostile.x.1"), u32(100000)), "malformed"),
    "an absent subject": (frame("SUBSCRIBE", 77, u32(0), u32(NULL), u32(10), u32(1), u64(1 << 20)), "malformed"),
    "something behind a frame": (frame("ON_WRITABLE"), "on_writable"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_frame_ends_the_child_and_is_told(site: Site, broker: Musterd, agents: Agents, name: str) -> None:
    forged, named = FORGED[name]
    asker = agents("acme", "a1")
    wait_for_child(asker)
    at = len(broker.log())
    asker.ask("hostile", "forge", {"hex": forged.hex()})
    wait_until(lambda: "tried what it may not" in broker.log()[at:], 10, f"the log\n{broker.log()[at:]}")
    line = next(line for line in broker.log()[at:].splitlines() if "tried what it may not" in line)
    assert "plugin hostile 6.6.6 " in line and named in line, line
    assert broker.alive and "\r" not in line
    assert asker.ask("echo", "say", {"text": "x"}).body
    wait_for_child(asker)


def test_words_are_cut_and_counted(broker: Musterd, agents: Agents) -> None:
    """A log line may be as long as a frame, and there may be any number of them: what reaches the broker's log is bounded."""
    asker = agents("acme", "a1")
    wait_for_child(asker)
    at = len(broker.log())
    for _ in range(3):
        asker.ask("hostile", "forge", {"hex": (frame("LOG", 0, u32(1), text("<" + "long" * 10000)) + 500 * frame("LOG", 0, u32(1), text("<short"))).hex()})
    wait_until(lambda: "<short" in broker.log()[at:], 10, "the words")
    told = broker.log()[at:]
    assert max(len(line) for line in told.splitlines()) < 9000 and told.count("<short") <= 200
    assert asker.ask("echo", "say", {"text": "x"}).body and "tried what it may not" not in told


def test_another_tenant_does_not_know_it(broker: Musterd, agents: Agents) -> None:
    """With allow.tenants it is not there for the others."""
    answer = agents("zeta", "a1").ask("hostile", "loaded").body
    assert "error" in answer, answer
