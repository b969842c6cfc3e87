"""Plugins in children before anything runs: what their files say, what their entries allow, what this machine lacks; by --check and plugin list."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pwd
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from harness import BUILD, binary
from pluginrig import SANITIZED

PLUGINS = BUILD / "test-plugins"
Done = subprocess.CompletedProcess[str]


def configure(folder: Path, *entries: dict[str, Any]) -> Path:
    file = folder / "muster.yaml"
    file.write_text(json.dumps({"plugins": list(entries)}))
    file.chmod(0o644)
    return file


def entry(file: str, instance: str = "one", **more: Any) -> dict[str, Any]:
    return {"path": str(PLUGINS / f"{file}.so"), "instance": instance, **more}


def run(program: str, config: Path, *argv: str, **how: Any) -> Done:
    return subprocess.run([binary(program), "-c", str(config), *argv], text=True, capture_output=True, timeout=60, **how)


def check(config: Path) -> str:
    """What --check complains of."""
    done = run("musterd", config, "--check")
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


def listed(config: Path, **how: Any) -> dict[str, Any]:
    done = run("muster", config, "plugin", "list", "--json", **how)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)[0])


ECHO = {"allow": {"capabilities": ["cross_tenant", "stream", "system"]}, "postgres": {"dsn": "postgresql://x@127.0.0.1/y"}}


@pytest.mark.parametrize(("more", "said"), [
    ({}, "plugin echo 1.2.3 asks for the capability cross_tenant, which plugins.one.allow.capabilities does not list"),
    ({"allow": {"capabilities": ["cross_tenant"]}}, "asks for the capability stream, which plugins.one.allow.capabilities does not list"),
    ({"allow": {"capabilities": ["cross_tenant", "stream", "system"]}},
     "asks for the capability sql, which needs a role of its own: plugins.one.postgres.dsn or dsn_file (muster plugin role makes one)"),
    ({**ECHO, "postgres": {"dsn_file": "nowhere.dsn"}}, "nowhere.dsn: No such file or directory"),
    ({**ECHO, "postgres": {"dsn": "service=x host=y"}}, "plugins.one.postgres: its connection string cannot be used"),
    ({**ECHO, "allow": {**ECHO["allow"], "read": ["/nowhere/at/all"]}}, "plugins.one.allow.read: /nowhere/at/all: No such file or directory"),
    ({**ECHO, "allow": {**ECHO["allow"], "write": ["no/such"]}}, "no/such: No such file or directory"),
])
def test_what_an_entry_lacks_is_told(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    assert said in check(configure(tmp_path, entry("echo", **more)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_users_are_looked_up(tmp_path: Path) -> None:
    assert "plugins.one.user: nosuch came, expected a user of this system" in check(configure(tmp_path, entry("hostile", user="nosuch")))
    assert "plugins.one.user: root came, which is root; expected another user" in check(configure(tmp_path, entry("hostile", user="root")))
    assert listed(configure(tmp_path, entry("hostile", user="nobody")))["loads"]


def test_files_that_go_wrong_by_being_opened(tmp_path: Path) -> None:
    """A broker that opened them would crash or hang; the second is given ten seconds."""
    config = configure(tmp_path, entry("crashes_at_load"), entry("hangs_at_load", "two", required=False), entry("no_symbol", "three"))
    begun = time.monotonic()
    told = check(config)
    assert 9 < time.monotonic() - begun < 20
    if not SANITIZED:
        assert "crashes_at_load.so: ended while its file was loaded: signal 6 (Aborted); its last words: SIGABRT in " in told
    assert "crashes_at_load.so: ended while its file was loaded: " in told
    assert "warning: " in told and "hangs_at_load.so: said nothing of use within 10 s while its file was loaded" in told
    assert "no_symbol.so: no function muster_plugin_entry_v0: not a plugin" in told


def test_files_are_judged_as_they_are_without_a_child(tmp_path: Path) -> None:
    for file, said in {"wrong_major": "ABI major 7", "newer_minor": "plugin bad 4.5.6 made for ABI 0.", "short_struct": "plugin bad 4.5.6 has a descriptor of",
                       "no_functions": "lacks create, start or destroy", "taken_name": "name of a plugin that comes with Muster"}.items():
        inside, child = (check(configure(tmp_path, entry(file, isolation=isolation))) for isolation in ("none", "process"))
        assert said in child
        assert child.replace("one.isolation", "").split("test-plugins/")[1] == inside.split("test-plugins/")[1]
    writable = tmp_path / "writable.so"
    writable.write_bytes((PLUGINS / "hostile.so").read_bytes())
    writable.chmod(0o666)
    assert "expected a file of root or of the broker's user that nobody else may write" in check(
        configure(tmp_path, {"path": str(writable), "instance": "one"}))


def test_settings_are_held_against_the_table_that_a_child_told(tmp_path: Path) -> None:
    told = check(configure(tmp_path, entry("hostile", config={"fils": []})))
    assert "plugins.one.fils: unknown key" in told and "did you mean files?" in told
    assert "plugins.one.ports: expected a list" in check(configure(tmp_path, entry("hostile", config={"ports": "4222"})))


def test_a_name_may_be_given_a_child(tmp_path: Path) -> None:
    config = configure(tmp_path, {"name": "cdc", "isolation": "process", "config": {"slot": "s"}, "allow": {"capabilities": ["cross_tenant", "stream"]},
                                  "postgres": {"dsn": "postgresql://x@127.0.0.1/y"}})
    one = listed(config)
    assert one["loads"] and one["isolation"] == "process" and one["name"] == "cdc", one
    missing = configure(tmp_path, {"name": "cdc", "isolation": "process", "config": {}, "allow": {"capabilities": ["cross_tenant", "stream"]},
                                   "postgres": {"dsn": "postgresql://x@127.0.0.1/y"}})
    assert "plugins.cdc.slot: is missing" in check(missing)


def test_the_list_tells_the_walls(tmp_path: Path) -> None:
    config = configure(tmp_path, entry("hostile", allow={"subscribe": ["evt.x.>"], "publish": ["evt.y.>"], "tenants": ["acme"], "network": True,
                                                         "read": ["/usr"], "write": ["/tmp"]}, limits={"memory": "64MiB", "cpu": 0.5}))
    walls = listed(config)["walls"]
    assert walls.pop("lacks") is not None
    user = walls.pop("user")
    assert 61184 <= int(user) <= 65519
    assert walls == {"memory": 64 << 20, "files": 256, "messages": 10000, "cpu": 0.5, "network": True, "subscribe": ["evt.x.>"], "publish": ["evt.y.>"], "capabilities": [],
                     "tenants": ["acme"], "read": ["/usr"], "write": ["/tmp"]}
    text = run("muster", config, "plugin", "list").stdout
    assert "  walls: memory 64MiB, files 256, messages 10000, cpu 0.5; hears evt.x.>; sends evt.y.>; tenants acme; reads /usr; writes /tmp; network\n" in text
    assert f"  its user, where root runs the broker: {user}\n" in text
    named = configure(tmp_path, entry("hostile", user="nobody"))
    assert listed(named)["walls"]["user"] == "nobody" and "broker: nobody\n" in run("muster", named, "plugin", "list").stdout


# ---- machines that have less ----------------------------------------------------------------------------------------------------


def without(user: str | None = None, **calls: int) -> dict[str, Any]:
    """How to run a program that gets these errors for these system calls, as under a service manager or in a container."""
    try:
        seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError:
        pytest.skip("libseccomp.so.2 is not here")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    who = pwd.getpwnam(user) if user else None

    def limit() -> None:
        context = ctypes.c_void_p(seccomp.seccomp_init(0x7FFF0000))
        for name, error in calls.items():
            number = seccomp.seccomp_syscall_resolve_name(name.encode())
            assert number != -1, name
            assert seccomp.seccomp_rule_add_array(context, 0x00050000 | error, number, 0, None) == 0
        if who:
            os.setgroups([])
            os.setresgid(who.pw_gid, who.pw_gid, who.pw_gid)
            os.setresuid(who.pw_uid, who.pw_uid, who.pw_uid)
        assert seccomp.seccomp_load(context) == 0

    return {"preexec_fn": limit}


def test_a_kernel_without_landlock_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    config = configure(tmp_path, entry("hostile"))
    how = without(landlock_create_ruleset=errno.ENOSYS)
    assert set(listed(config, **how)["walls"]["lacks"]) >= {"files", "signals"}
    text = run("muster", config, "plugin", "list", **how).stdout
    assert "  not held here: it can read and write every file that its user can (no Landlock)\n" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="the tests do not run as root")
def test_root_that_may_not_become_another_is_told(tmp_path: Path) -> None:
    config = configure(tmp_path, entry("hostile"))
    how = without(setresuid=errno.EPERM, setresgid=errno.EPERM)
    assert "user" in listed(config, **how)["walls"]["lacks"]
    asked = configure(tmp_path, entry("hostile", user="nobody"))
    assert "the walls around the plugin cannot be built: its user: Operation not permitted" in listed(asked, **how)["error"]


@pytest.mark.skipif(os.geteuid() != 0, reason="the tests do not run as root")
def test_a_service_manager_that_takes_calls_away(tmp_path: Path) -> None:
    """As deploy/systemd/muster.service does with ~@privileged: an ordinary user, and not even a try at privileges."""
    config = configure(tmp_path, entry("hostile"))
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/") and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    one = listed(config, **without("nobody", capset=errno.EPERM, setgroups=errno.EPERM, setresuid=errno.EPERM, setresgid=errno.EPERM))
    assert one["loads"], one
