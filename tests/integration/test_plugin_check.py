"""`muster plugin check`: what it finds in plugins that keep the contract, and in those that break it one way each."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from harness import BUILD, LONG, REPO, run_cli
from pluginrig import PLUGINS, SANITIZED

TESTS = ("symbols", "loads", "options", "settings", "create", "create-faults", "start", "start-away", "start-faults", "requests", "bodies",
         "faults", "link", "drain", "reload", "lanes", "leaks", "fuzz")
CDC = BUILD / "plugins" / "cdc.so"


def check(file: Path | str, *argv: str, config: str | None = None, code: int = 0,
          env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    words = ["plugin", "check", str(file), "--seed", "7", *(["--config", "-"] if config is not None else []), *argv]
    done = subprocess.run([str(BUILD / "bin" / "muster"), *words], input=config or "", env={**os.environ, **(env or {})}, text=True,
                          capture_output=True, timeout=500)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def report(file: Path | str, *argv: str, config: str | None = None, code: int = 0) -> dict[str, Any]:
    whole = json.loads(check(file, "--json", *argv, config=config, code=code).stdout)
    tests = {test["name"]: test for test in whole["tests"]}
    assert whole["failed"] == sum(test["result"] == "failed" for test in tests.values())
    assert bool(whole["failed"]) == bool(code)
    return tests


def failures(test: dict[str, Any]) -> str:
    return "\n".join(f["text"] for f in test["failures"])


# ---- plugins that keep the contract


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin of ABI.md, built as that page says."""
    folder = tmp_path_factory.mktemp("hello")
    page = (REPO / "broker/include/muster/ABI.md").read_text()
    (folder / "hello.c").write_text(next(b for b in re.findall(r"^```c\n(.*?)^```", page, re.M | re.S) if "hello_create" in b))
    subprocess.run(["cc", "-std=c11", "-shared", "-fPIC", "-fvisibility=hidden", "-I", str(REPO / "broker/include"), "-o",
                    str(folder / "hello.so"), str(folder / "hello.c")], check=True, timeout=60)
    return folder / "hello.so"


def test_the_plugin_of_the_page_keeps_the_contract(hello: Path) -> None:
    tests = report(hello)
    assert tuple(tests) == TESTS
    assert {name for name, test in tests.items() if test["result"] != "ok"} == {"reload"}, "hello has none"
    assert tests["loads"]["notes"] == [{"text": "hello 1.0.0, ABI 0.4", "times": 1}]


def test_the_test_of_the_page_passes(tmp_path: Path) -> None:
    """Linked as an author links it: the public headers, the library, nothing else."""
    page = (REPO / "broker/include/muster/ABI.md").read_text()
    for block in re.findall(r"^```c\n(.*?)^```", page, re.M | re.S):
        (tmp_path / ("hello.c" if "hello_create" in block else "test_hello.c")).write_text(block)
    library = BUILD / "broker/testhost"
    sanitize = ["-fsanitize=address,undefined"] if "MUSTER_SANITIZE:STRING=address" in (BUILD / "CMakeCache.txt").read_text() else []
    subprocess.run(["cc", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", *sanitize, "-I", str(REPO / "broker/include"), "-o",
                    "test_hello", "test_hello.c", "hello.c", "-L", str(library), f"-Wl,-rpath,{library}", "-lmuster-testhost"],
                   cwd=tmp_path, check=True, timeout=60)
    done = subprocess.run([tmp_path / "test_hello"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_a_plugin_that_uses_every_service_keeps_the_contract() -> None:
    assert {test["result"] for test in report(PLUGINS / "good.so").values()} == {"ok"}


def test_cdc_keeps_the_contract_with_its_settings() -> None:
    tests = report(CDC, config="slot: muster_check\n")
    assert {name for name, test in tests.items() if test["result"] != "ok"} == set()


def test_without_settings_that_are_needed_what_needs_them_is_skipped() -> None:
    tests = report(CDC)
    assert [test["result"] for test in tests.values()] == ["ok"] * 3 + ["skipped"] * 15
    assert "--config" in tests["settings"]["skipped"][0]["text"] and "slot: is missing" in tests["settings"]["skipped"][0]["text"]
    text = check(CDC).stdout
    assert "skipped  create         settings has to work first" in text and text.endswith("3 ok, 0 failed, 15 skipped\n")


def test_settings_that_do_not_fit_are_a_failure() -> None:
    tests = report(CDC, config="slot: muster_check\nno_such: 1\n", code=1)
    assert tests["settings"]["result"] == "failed" and "settings:2:1: " in failures(tests["settings"])


@pytest.mark.skipif(not shutil.which("c++"), reason="there is no C++ compiler")
def test_a_plugin_in_cxx(tmp_path: Path) -> None:
    (tmp_path / "p.cpp").write_text("""
#include <muster/plugin.h>
#include <map>
#include <new>
#include <string>
struct self { const muster_host *host; std::map<std::string, int> seen; };
static int create(const muster_host *host, const void *, void **ret_self) {
    auto *s = new (std::nothrow) self{host, {}};
    if (!s) return host->fail(host, MUSTER_ENOMEM, "no memory");
    s->seen["x"]++;
    *ret_self = s;
    return 0;
}
static int start(void *) { return 0; }
static void destroy(void *s) { delete static_cast<self *>(s); }
extern "C" MUSTER_EXPORT const muster_plugin *muster_plugin_entry_v0(void) {
    static muster_plugin p{};
    p.size = sizeof p; p.abi_major = MUSTER_ABI_MAJOR; p.abi_minor = MUSTER_ABI_MINOR; p.name = "cxx"; p.version = "1.0.0";
    p.create = create; p.start = start; p.destroy = destroy;
    return &p;
}
""")
    subprocess.run(["c++", "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-I", str(REPO / "broker/include"), "-o",
                    str(tmp_path / "cxx.so"), str(tmp_path / "p.cpp")], check=True, timeout=60)
    tests = report(tmp_path / "cxx.so", "--runs", "5")
    assert {name for name, test in tests.items() if test["result"] != "ok"} == {"reload"}
    assert not tests["requests"]["failures"]


# ---- plugins that do not


@pytest.mark.parametrize(("file", "said"), [
    ("no_symbol", "muster_plugin_entry_v0"),
    ("wrong_major", "made for ABI major 7, this broker has 0"),
    ("other_major", "ABI 9."),
    ("newer_minor", "plugin bad 4.5.6 made for ABI 0.5"),
    ("short_struct", "plugin bad 4.5.6 has a descriptor of"),
    ("no_functions", "lacks create, start or destroy"),
])
def test_what_does_not_load(file: str, said: str) -> None:
    tests = report(PLUGINS / f"{file}.so", code=1)
    assert tests["loads"]["result"] == "failed" and said in failures(tests["loads"])
    assert {test["result"] for name, test in tests.items() if name not in ("loads", "symbols")} == {"skipped"}


def test_a_definition_that_does_not_fit_and_a_create_that_fails() -> None:
    tests = report(PLUGINS / "definition.so", code=1)
    assert "its definition lacks verb two" in failures(tests["loads"])
    assert "its definition has verb three" in failures(tests["loads"])
    assert "create() failed (-1): must not be called" in failures(tests["create"])
    assert tests["requests"]["result"] == "skipped"


def test_another_symbol_is_told() -> None:
    tests = report(PLUGINS / "wrong_major.so", "--only", "symbols", code=1)
    assert "exports muster_plugin_entry_v7" in failures(tests["symbols"])


@pytest.mark.parametrize(("deed", "test", "said"), [
    ("crash_create", "create", "ended by signal 6 (Aborted) in create"),
    ("crash", "requests", "ended by signal 6 (Aborted) in message rpc.a0.wrong.do"),
    ("exit", "requests", "ended the process with exit code 0 in message rpc.a0.wrong.do"),
    ("write_stdout", "requests", "wrote to stdout or stderr, which are not a plugin's: look at me"),
    ("forget", "requests", "did not answer request rpc.a0.wrong.do"),
    ("twice", "requests", "rpc.a0.wrong.do has been answered already"),
    ("misfit", "requests", "does not fit its definition: n: "),
    ("stale_read", "requests", "borrowed memory was used after its time: the message rpc."),
    ("keep_held", "requests", "messages held: what hold() gave is released with drop()"),
    ("keep_thread", "drain", "threads running"),
    ("keep_fd", "drain", "open (/dev/null)"),
    ("handler", "requests", "changed what signal 10"),
    ("check_service", "settings", "host.service() in check: check() has no services"),
    ("no_reason", "create", "gave no reason by host->fail()"),
    ("spin", "start-away", "does not come to rest: 200000 callbacks at one moment"),
    ("fall_on_fault", "faults", "ended by signal 6 (Aborted) in message rpc."),
    ("leak", "leaks", "memory"),
])
def test_a_plugin_that_breaks_one_rule(deed: str, test: str, said: str) -> None:
    if SANITIZED and deed in ("stale_read", "leak"):
        pytest.skip("the sanitizer says it in its own words")
    assert said in failures(report(PLUGINS / "wrong.so", "--only", test, config=f"deed: {deed}", code=1)[test])


def test_a_plugin_that_hangs_is_ended_and_named() -> None:
    began = time.monotonic()
    tests = report(PLUGINS / "wrong.so", "--only", "start-away", config="deed: hang", code=1)
    assert re.search(r"did not return within \d+ s in message rpc\.a\d\.wrong\.do", failures(tests["start-away"]))
    assert SANITIZED or time.monotonic() - began < 40


@pytest.mark.skipif(SANITIZED, reason="a sanitizer's shadow has no bound")
def test_a_plugin_that_eats_memory_meets_a_bound(tmp_path: Path) -> None:
    source = (REPO / "tests/plugin/bad.h").read_text().replace(
        '*ret_self = NULL;', 'for (volatile char *p; (p = malloc(1 << 20));) for (int i = 0; i < 1 << 20; i += 4096) p[i] = 1; *ret_self = NULL;')
    (tmp_path / "eats.c").write_text(source + "BAD_PLUGIN(.size = sizeof(struct muster_plugin), .abi_major = MUSTER_ABI_MAJOR, "
                                     ".abi_minor = MUSTER_ABI_MINOR, .start = bad_start);\n")
    subprocess.run(["cc", "-std=gnu11", "-shared", "-fPIC", "-fvisibility=hidden", "-I", str(REPO / "broker/include"), "-o",
                    str(tmp_path / "eats.so"), str(tmp_path / "eats.c")], check=True, timeout=60)
    assert report(tmp_path / "eats.so", "--only", "create", code=1)["create"]["result"] == "failed"


def test_echo_is_caught_at_the_verbs_that_misbehave_on_purpose() -> None:
    tests = report(PLUGINS / "echo.so", "--only", "start-away", "--only", "create-faults", code=1)
    assert '"no blanks"' in failures(tests["create-faults"])
    assert "did not answer request rpc.a1.lab.silent" in failures(tests["start-away"])


# ---- the fuzz


@pytest.mark.skipif(not LONG, reason="many lives take more than the 15 s that each of them has")
def test_each_life_has_its_time() -> None:
    assert report(PLUGINS / "good.so", "--only", "fuzz", "--runs", "2500")["fuzz"]["result"] == "ok"


def test_the_same_seed_is_the_same_life() -> None:
    first, second = (check(PLUGINS / "good.so", "--reproduce", "11").stdout for _ in range(2))
    assert first == second and "traffic" in first
    assert first != check(PLUGINS / "good.so", "--reproduce", "12").stdout.replace("seed 12", "seed 11")


def test_what_the_fuzz_finds_can_be_seen_again() -> None:
    said = check(PLUGINS / "wrong.so", "--only", "fuzz", config="deed: fall_on_fault", code=1).stdout
    seed = re.search(r"again: muster plugin check \S+ --config - --reproduce (\d+)", said)
    assert seed, said
    again = check(PLUGINS / "wrong.so", "--reproduce", seed[1], config="deed: fall_on_fault", code=1).stdout
    assert "ended by signal 6 (Aborted) in message rpc." in again and "valid traffic" in again


# ---- the child


def test_the_child_has_nothing_of_ours(tmp_path: Path) -> None:
    """A plugin that tells what it sees: environment, folder, descriptors."""
    source = (REPO / "tests/plugin/bad.h").read_text().replace("#include <stdlib.h>", "#include <stdlib.h>\n#include <unistd.h>\n#include <dirent.h>\n#include <string.h>\n"
                                                               "extern char **environ;").replace(
        'return host->fail(host, MUSTER_EINVAL, "must not be called");',
        'char text[400] = "", cwd[100]; for (char **e = environ; *e; e++) { strncat(text, *e, 60); strcat(text, ";"); }'
        'int n = 0; for (int fd = 4; fd < 200; fd++) { char c; n += readlink((char[]){0}, &c, 0) == 0; n += lseek(fd, 0, SEEK_CUR) >= 0; }'
        'return host->fail(host, MUSTER_EINVAL, "env %s cwd %s fds %d", text, getcwd(cwd, sizeof cwd), n);')
    (tmp_path / "nosy.c").write_text(source + "BAD_PLUGIN(.size = sizeof(struct muster_plugin), .abi_major = MUSTER_ABI_MAJOR, "
                                     ".abi_minor = MUSTER_ABI_MINOR, .start = bad_start);\n")
    subprocess.run(["cc", "-std=gnu11", "-D_GNU_SOURCE", "-shared", "-fPIC", "-fvisibility=hidden", "-I", str(REPO / "broker/include"),
                    "-o", str(tmp_path / "nosy.so"), str(tmp_path / "nosy.c")], check=True, timeout=60)
    said = check(tmp_path / "nosy.so", "--only", "create", code=1, env={"MUSTER_POSTGRES_DSN": "host=secret", "HOME": "/secret"}).stdout
    assert "env PATH=" in said and "secret" not in said and "fds 0" in said
    folder = re.search(r"cwd (/tmp/muster-check-\w{6}) ", said)
    assert folder and not Path(folder[1]).exists(), "the folder goes with the child"


# ---- wrong use


@pytest.mark.parametrize(("argv", "said"), [
    ((), "check: nothing came, one FILE was expected"),
    (("a.so", "b.so"), "check: b.so came, one FILE was expected"),
    (("a.so", "--only", "everything"), "--only everything came, one of symbols, loads"),
    (("a.so", "--seed", "x"), "--seed x came, a number"),
    (("a.so", "--runs", "-1"), "--runs -1 came, a number up to 1000000"),
    (("a.so", "--jsom"), "check: --jsom came"),
    (("a.so", "--seed"), "--seed came without its value"),
])
def test_wrong_use(argv: tuple[str, ...], said: str) -> None:
    done = run_cli(["plugin", "check", *argv], {}, check=False)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_a_file_that_is_not_there() -> None:
    done = run_cli(["plugin", "check", "/nowhere.so"], {}, check=False)
    assert done.returncode == 1 and done.stderr == "muster plugin: check: /nowhere.so: No such file or directory\n"
