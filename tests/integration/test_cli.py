"""The command line itself: exit codes, help, manual pages, and the commands that only look: plugin, watch, doctor."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from client import Client
from harness import BUILD, REPO, Musterd, Site, binary, run_cli, wait_until

Connect = Callable[..., Client]
SOURCES = {  # where each command's options are parsed
    "dev": ["dev.c"], "nats-config": ["nats_config.c"], "migrate": ["migrate.c"], "publish": ["publish.c"], "tenant": ["tenant.c", "tenant_role.c"],
    "agent": ["agent_args.c", "agent_list.c"], "plugin": sorted(f.name for f in (REPO / "broker/cli").glob("plugin*.c")), "watch": ["watch.c"], "agents": ["agents_args.c", "watch.c"],
    **{name: ["records_args.c", "watch.c"] for name in ("tasks", "runs", "help")}, "doctor": ["doctor.c"]}
REFUSED = {name: {"table"} for name in ("agents", "tasks", "runs", "help")}  # of options that are parsed there for others
LATER = ("memory", "top", "drain", "backup", "restore", "bench")
MAN = REPO / "deploy" / "man"
INSERT = "INSERT INTO public.orders (tenant_id, id, item, qty) VALUES (%s, %s, 'bolt', 3)"


def muster(*argv: str, code: int = 0, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = run_cli(list(argv), env or {}, check=False)
    assert done.returncode == code, f"{argv}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def refusal(*argv: str, code: int = 2) -> str:
    """The one line on stderr of a command that fails."""
    text = muster(*argv, code=code).stderr
    assert text.endswith("\n") and text.count("\n") == 1, text
    return text


# ---- the table of commands


def test_the_overview_lists_every_command_and_no_other() -> None:
    listed = re.findall(r"^  ([a-z-]+) +[A-Z]", muster("--help").stdout, re.MULTILINE)
    assert listed == [*SOURCES]
    assert muster("help").stdout == muster("-h").stdout == muster("--help").stdout
    assert muster(code=2).stderr == "muster: expected a command; see muster --help\n"
    assert re.fullmatch(r"muster \d+\.\d+\.\d+\n", muster("--version").stdout)


@pytest.mark.parametrize("command", SOURCES)
def test_every_command_explains_itself_with_its_options(command: str) -> None:
    text = muster(command, "--help").stdout
    assert text.startswith(f"usage: muster [-c FILE] {command} ")
    assert text == muster(command, "-h").stdout == (muster("help", command).stdout if command != "watch" else text), "help watch watches requests for help"
    taken = {name for source in SOURCES[command]
             for name in re.findall(r'\{"([a-z-]+)", (?:no|required)_argument', (REPO / "broker/cli" / source).read_text())} - REFUSED.get(command, set())
    told = set(re.findall(r"--([a-z][a-z-]+)", text)) - {"help"}
    assert taken and told == taken, "the help and the options differ"


@pytest.mark.parametrize("command", LATER)
def test_commands_of_later_versions_are_unknown(command: str) -> None:
    assert refusal(command).startswith(f"muster: there is no command {command}")


@pytest.mark.parametrize(("argv", "said"), [
    (("tenat",), "muster: there is no command tenat; did you mean tenant?"),
    (("help", "docto"), "did you mean doctor?"),
    (("xyzzy",), "see muster --help"),
    (("-x",), "-x came"),
    (("-c",), "without its value"),
    (("plugin",), "nothing came, list, asyncapi, new, check or role was expected"),
    (("plugin", "chekc", "x.so"), "chekc came, list, asyncapi, new, check or role was expected"),
    (("plugin", "new"), "nothing came, NAME"),
    (("plugin", "new", "1st"), "that begins with a letter was expected"),
    (("plugin", "list", "--jsom"), "--jsom came"),
    (("plugin", "list", "../cdc"), "the name of a configured instance"),
    (("watch", "changes"), "changes came, cdc, evt or all was expected"),
    (("watch", "cdc", "evt"), "evt came behind cdc"),
    (("watch", "--count", "0"), "--count: 0 came"),
    (("watch", "--timeout", "5"), "--timeout: 5 came"),
    (("watch", "--timeout", "400d"), "at most 365d"),
    (("watch", "--tenant", "_in"), "--tenant: _in came"),
    (("watch", "--tenant", "*"), "--tenant: * came"),
    (("watch", "--table", "a.b.c"), "--table: a.b.c came"),
    (("watch", "evt", "--table", "orders"), "events have no table"),
    (("agents", "all"), "all came, list, show, count or watch was expected"),
    (("agents", "show"), "the name of an agent was expected"),
    (("agents", "show", "ann", "--status", "busy"), "takes --tenant and --json alone"),
    (("agents", "list", "ann"), "ann came, which it does not take"),
    (("agents", "--label", "team"), "--label: team came, KEY=VALUE was expected"),
    (("agents", "--label"), "--label came without its value; see muster agents --help"),
    (("agents", "--tenant", "*"), "--tenant: * came"),
    (("agents", "--json", "watch"), "watch came behind options"),
    (("agents", "watch", "--table", "orders"), "--table came"),
    (("agents", "watch", "cdc"), "cdc came"),
    (("agents", "watch", "--count", "0"), "muster agents: --count: 0 came"),
    (("tasks", "all"), "all came, list, show, history, retry, cancel or watch was expected"),
    (("runs", "show"), "muster runs: show: the id of a run was expected"),
    (("tasks", "show", "t1", "--state", "queued"), "takes no --state or --agent"),
    (("tasks", "list", "t1"), "t1 came, which it does not take"),
    (("tasks", "retry", "t1", "--tenant", "a", "--reason", "x"), "retry: --reason came, which cancel alone takes"),
    (("tasks", "--limit", "-1"), "--limit: -1 came, a whole number was expected; 0 is all"),
    (("tasks", "--json", "watch"), "watch came behind options"),
    (("help", "watch", "--table", "orders"), "muster help: watch: --table came"),
    (("help", "--jsom"), "muster help: --jsom came"),
    (("doctor", "now"), "now came, no argument was expected"),
    (("doctor", "--yaml"), "--yaml came"),
])
def test_wrong_use_is_one_line_and_exit_code_2(argv: tuple[str, ...], said: str) -> None:
    assert said in refusal(*argv)


def test_the_configuration_comes_from_the_option_the_variable_or_the_environment(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("plugins:\n  - {name: cdc, instance: sales, config: {slot: s}}\n")
    bad.write_text("nats:\n  urlz: [nats://127.0.0.1:4222]\n")
    assert "sales" in muster("-c", str(good), "plugin", "list").stdout
    assert "sales" in muster("plugin", "list", env={"MUSTER_CONFIG": str(good)}).stdout
    assert "sales" in muster("--config", str(good), "plugin", "list", env={"MUSTER_CONFIG": str(bad)}).stdout
    assert "sales" not in muster("plugin", "list", env={"MUSTER_CONFIG": ""}).stdout
    said = refusal("-c", str(bad), "plugin", "list", code=1)
    assert said.startswith(f"{bad}:2:3: nats.urlz: ") and "urls" in said
    assert muster("-c", str(bad), "watch", "--help").returncode == 0, "help needs no configuration"


@pytest.mark.parametrize("first, second, said", [
    ("slot: s", "slot: s", "20: plugins.two.slot: expected a value of its own, got 's', which instance one has too"),
    ("slot: s, messages: [muster.evt]", "slot: e, messages: [app]",
     "33: plugins.two.messages: instance one sets it already; only one instance of cdc can"),
])
def test_instances_of_cdc_do_not_share_a_slot_or_the_events(tmp_path: Path, first: str, second: str, said: str) -> None:
    config = tmp_path / "muster.yaml"
    config.write_text(f"plugins:\n  - {{name: cdc, instance: one, config: {{{first}}}}}\n"
                      f"  - name: cdc\n    instance: two\n    config: {{{second}}}\n")
    for command in (["musterd", "--check"], ["musterd"], ["muster", "doctor"]):
        done = subprocess.run([binary(command[0]), "-c", config, *command[1:]], text=True, capture_output=True, timeout=30)
        assert done.returncode == 1 and f"{config}:5:{said}" in done.stdout + done.stderr


BAD = {  # what stands in the file, from where on it is wrong, and what is said of it
    "plugins: [{name: memory}]": (18, "plugins.memory.name: there is no plugin memory; those of "),
    "plugins: [{name: cdcc}]": (18, "plugins.cdcc.name: there is no plugin cdcc; did you mean cdc?"),
    "plugins: [{path: /nowhere/audit.so}]": (18, "plugins.audit.path: /nowhere/audit.so: No such file or directory"),
    "plugins: [{path: text.so}]": (18, "plugins.text.path: FOLDER/text.so: cannot be loaded: "),
    "nats: {creds: nofile}": (15, "nats.creds: FOLDER/nofile: No such file or directory, expected a readable file"),
    "nats: {creds: .}": (15, "nats.creds: FOLDER/.: Is a directory, expected a readable file"),
    "nats: {tls: {ca: no.pem}}": (18, "nats.tls.ca: FOLDER/no.pem: No such file or directory, expected a readable file"),
    "nats: {tls: {cert: text.so, key: no.pem}}": (34, "nats.tls.key: FOLDER/no.pem: No such file or directory, expected a readable file"),
    "nats: {tls: {ca: text.so}}": (18, "nats.tls.ca: Error loading trusted certificates 'FOLDER/text.so': "),
    "nats: {tls: {cert: text.so, key: text.so}}": (20, "nats.tls.cert: Error loading certificate chain"),
    "nats: {user: a, password_file: no}": (32, "nats.password_file: FOLDER/no: No such file or directory, expected a readable file"),
    "plugins: [{name: cdc, lanes: 2, config: {slot: s}}]": (30, "plugins.cdc.lanes: 2: a slot has one reader, expected 1"),
    "plugins: [{name: cdc, config: {slot: A b}}]": (38, 'plugins.cdc.slot: "A b": expected a name of a-z, 0-9 and _'),
    "plugins: [{name: cdc, config: {slot: s, unroutable: {tenant: a.b}}}]": (
        62, 'plugins.cdc.unroutable.tenant: "a.b": expected a tenant\'s name'),
    "plugins: [{name: cdc, config: {slot: s, tables: {orders: {}}}}]": (50, "plugins.cdc.tables.orders: expected schema.table, such as "),
    "plugins: [{name: cdc, config: {slot: s, tables: {a.b: {tenant: c.d}}}}]": (
        64, 'plugins.cdc.tables.a.b.tenant: "c.d": expected a tenant\'s name'),
    "plugins: [{name: cdc, config: {slot: s, tables: {a.b: {tenant_column: t, tenant: c}}}}]": (
        82, "plugins.cdc.tables.a.b.tenant: tenant_column is given too; "),
}


def musterd(*argv: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([binary("musterd"), *argv], text=True, capture_output=True, timeout=30, env={**os.environ, **(env or {})})


@pytest.mark.parametrize("text", BAD)
def test_what_is_wrong_in_the_file_is_told_with_its_place(tmp_path: Path, text: str) -> None:
    """Before anything is started, and in the same words by all who look at the file."""
    config, (column, words) = tmp_path / "muster.yaml", BAD[text]
    config.write_text(f"# a comment\n{text}\n")
    (tmp_path / "text.so").write_text("not a plugin")
    (tmp_path / "text.so").chmod(0o644)
    said = f"{config}:2:{column}: {words.replace('FOLDER', str(tmp_path))}"
    checked, started = musterd("-c", config, "--check"), musterd("-c", config)
    assert checked.returncode == 1 and checked.stderr.startswith(said) and checked.stderr.count("\n") == 1 and not checked.stdout
    assert started.returncode == 1 and said in started.stderr
    if "plugins" in text:
        assert said in muster("-c", str(config), "doctor", code=1).stdout


def test_what_is_wrong_in_a_variable_names_it(tmp_path: Path) -> None:
    config = tmp_path / "muster.yaml"
    config.write_text("nats: {creds: nofile}\n")
    for argv in ["--check"], []:
        done = musterd("-c", config, *argv, env={"MUSTER_NATS_CREDS": "/nowhere"})
        assert done.returncode == 1 and "MUSTER_NATS_CREDS: /nowhere: No such file or directory, expected" in done.stderr


def test_check_warns_of_what_a_start_goes_on_without(tmp_path: Path) -> None:
    config = tmp_path / "muster.yaml"
    config.write_text("plugins: [{name: cdcc, required: false}]\n")
    done = musterd("-c", config, "--check")
    assert done.returncode == 0 and done.stdout == f"{config}: ok\n"
    assert done.stderr == f"warning: {config}:1:18: plugins.cdcc.name: there is no plugin cdcc; did you mean cdc?\n"


@pytest.mark.parametrize(("argv", "said"), [
    (("--nope",), "--nope: unknown option"), (("-x",), "-x: unknown option"), (("-c",), "-c: expected a file behind it"),
    (("--config",), "-c: expected a file behind it"), (("--check=1",), "--check=1: unknown option"), (("x",), 'unexpected argument "x"'),
])
def test_wrong_use_of_musterd_is_one_line_and_exit_code_2(argv: tuple[str, ...], said: str) -> None:
    done = musterd(*argv)
    assert done.returncode == 2 and done.stderr == f"musterd: {said}; see musterd --help\n" and not done.stdout


def test_a_full_disk_is_no_success() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([binary("muster"), "--help"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
    assert done.returncode == 1 and "could not be written" in done.stderr


def test_what_nats_config_writes_has_no_word_of_a_listener_for_browsers(tmp_path: Path) -> None:
    muster("nats-config", "--dir", str(tmp_path))
    assert "websocket" not in (tmp_path / "nats-server.conf").read_text().lower()


# ---- manual pages


def rendered(page: str) -> str:
    if not shutil.which("man"):
        pytest.skip("man is not installed")
    done = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", str(MAN / page)], text=True, capture_output=True, timeout=60,
                          env={**os.environ, "MANWIDTH": "500", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"})
    assert done.returncode == 0 and not done.stderr, done.stderr
    return re.sub(".\b", "", done.stdout).replace("‐", "-")


def test_the_manual_page_of_muster_has_every_command_and_option() -> None:
    page = rendered("muster.1")
    for command in SOURCES:
        begin = re.search(rf"^   {command}$", page, re.MULTILINE)
        assert begin, f"no section {command}"
        section = re.split(r"^   \S|^\S", page[begin.end():], maxsplit=1, flags=re.MULTILINE)[0]
        told = set(re.findall(r"--[a-z][a-z-]+", muster(command, "--help").stdout)) - {"--help"}
        assert told == set(re.findall(r"--[a-z][a-z-]+", section)) - {"--help"}, command


def test_the_manual_page_of_musterd_has_every_option() -> None:
    page = rendered("musterd.8")
    done = subprocess.run([binary("musterd"), "--help"], text=True, capture_output=True, check=True, timeout=30)
    options = set(re.findall(r"--[a-z][a-z-]+", done.stdout))
    assert options and options == set(re.findall(r"--[a-z][a-z-]+", page)) - {"--plugin-host"}, "which the broker alone uses"


def test_the_manual_page_of_the_configuration_has_every_key() -> None:
    page = rendered("muster.yaml.5")
    example = (REPO / "deploy" / "muster.yaml").read_text()
    keys = set(re.findall(r"^ +(?:# |- )?([a-z_]+):(?: |$)", example, re.MULTILINE)) - {"log"}
    options = json.loads(muster("plugin", "list", "cdc", "--json").stdout)["options"]["properties"]
    missing = [key for key in keys | set(options) if not re.search(rf"\b{key}\b", page)]
    assert len(keys) > 20 and len(options) > 10 and not missing
    for variable in re.findall(r"MUSTER_[A-Z_]+", example):
        assert variable in page


# ---- plugin list


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """Two instances that load, and one whose file is text."""
    broken = tmp_path / "broken.so"
    broken.write_text("not a plugin")
    config = tmp_path / "muster.yaml"
    config.write_text(f"plugins:\n  - {{name: cdc, instance: main, config: {{slot: s}}}}\n"
                      f"  - {{name: cdc, config: {{slot: e, messages: [muster.evt]}}}}\n"
                      f"  - {{path: {broken}, isolation: none, required: false}}\n")
    return config


def test_plugin_list_says_what_is_configured_and_what_does_not_load(plugins: Path) -> None:
    listed = json.loads(muster("-c", str(plugins), "plugin", "list", "--json").stdout)
    assert [(p["instance"], p["loads"], p["required"], p["lanes"]) for p in listed] == [
        ("main", True, True, 1), ("cdc", True, True, 1), ("broken", False, False, 1)]
    assert listed[0]["name"] == "cdc" and listed[0]["file"].endswith("/cdc.so") and "stream" in listed[0]["capabilities"]
    assert re.fullmatch(r"\d+\.\d+", listed[0]["abi"]) and listed[0]["services"] == []
    assert "broken.so: cannot be loaded" in listed[2]["error"]
    text = muster("-c", str(plugins), "plugin", "list").stdout
    assert re.search(r"^main +cdc +\d", text, re.MULTILINE) and re.search(r"^broken +- ", text, re.MULTILINE)
    assert "  does not load: " in text and "  needs cross_tenant" in text


def test_plugin_list_shows_the_options_of_one(plugins: Path) -> None:
    text = muster("-c", str(plugins), "plugin", "list", "main").stdout
    assert re.search(r"^slot +text +required +1 to 63 bytes \(another in each instance\)\n    The replication slot", text, re.MULTILINE)
    assert re.search(r"^retention +duration +1d +5m to 365d$", text, re.MULTILINE)
    assert re.search(r"^tables\.\*\.tenant +text", text, re.MULTILINE)
    assert muster("plugin", "list", "cdc").stdout.count("\n") == text.count("\n"), "a built-in needs no configuration"
    schema = json.loads(muster("-c", str(plugins), "plugin", "list", "main", "--json").stdout)["options"]
    assert schema["properties"]["slot"]["maxLength"] == 63 and schema["required"] == ["slot"]
    assert "cannot be loaded" in refusal("-c", str(plugins), "plugin", "list", "broken", code=1)
    assert "there is no plugin nope; " in refusal("plugin", "list", "nope", code=1)


def test_plugin_asyncapi_has_the_services_of_others(tmp_path: Path) -> None:
    """Behind what schemas/asyncapi.yaml has: channels, messages and types of echo, which is given by its path."""
    config = tmp_path / "muster.yaml"
    config.write_text(f"plugins:\n  - {{path: {BUILD}/test-plugins/echo.so, isolation: none}}\n")
    done = muster("-c", str(config), "plugin", "asyncapi")
    built_in = (REPO / "schemas" / "asyncapi.yaml").read_text()
    assert set(re.findall(r"^  \w+\.\w+:$", built_in, re.MULTILINE)) < set(re.findall(r"^  \w+\.\w+:$", done.stdout, re.MULTILINE))
    assert '    address: "{root}.{tenant}.rpc.{agent}.echo.say"\n' in done.stdout and "    echo.say.reply:\n      payload:\n" in done.stdout
    assert "service lab of plugin echo has no definition" in done.stderr
    assert muster("plugin", "asyncapi").stdout.count("\n") == built_in.count("\n"), "without plugins it is the built-in document"


# ---- watch


class Watch:
    """`muster watch` as a process; what it prints is collected in files."""

    def __init__(self, folder: Path, config: Path, *argv: str) -> None:
        self._out, self._err = folder / "watch.out", folder / "watch.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen([binary("muster"), "-c", str(config), "watch", *argv], stdout=out, stderr=err)

    @property
    def lines(self) -> list[str]:
        return self._out.read_text().splitlines()

    @property
    def said(self) -> str:
        return self._err.read_text()

    def wait_watching(self) -> Watch:
        wait_until(lambda: "watching " in self.said, 10, f"watch to begin: {self.said}")
        return self

    def wait_line(self, pattern: str) -> str:
        def found() -> str:
            return next((line for line in self.lines if re.search(pattern, line)), "")
        return str(wait_until(found, 10, f"a line like {pattern}: {self.lines}\n{self.said}"))

    def end(self, code: int = 0, number: int = 0) -> None:
        if number:
            self.process.send_signal(number)
        assert self.process.wait(20) == code, self.said
        for complaint in ("AddressSanitizer", "ThreadSanitizer", "runtime error:"):
            assert complaint not in self.said, self.said


@pytest.fixture
def start_watch(site: Site, tmp_path: Path) -> Generator[Callable[..., Watch], None, None]:
    started: list[Watch] = []

    def start(*argv: str) -> Watch:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Watch(folder, config_of(site), *argv))
        return started[-1]

    yield start
    for watch in started:
        if watch.process.poll() is None:
            watch.process.kill()
        watch.process.wait()


def config_of(site: Site) -> Path:
    """A configuration of this site; the first broker's, where there is one."""
    broker = site.brokers[0] if site.brokers else site.broker()
    if not broker.config_path.exists():
        broker.config_path.write_text(json.dumps(broker.config))
    return broker.config_path


def change(seq: int, epoch: int = 1, **more: str) -> tuple[bytes, dict[str, str]]:
    body = {"schema": "public", "table": "made", "op": "insert", "lsn": "0/1", "commit_time": "2026-01-31T23:59:58.123456Z", "xid": 1,
            "key": {"id": seq}, "new": {"id": seq, **more}, "old": None, "unchanged": [], "omitted": []}
    return json.dumps(body).encode(), {"Muster-Epoch": str(epoch), "Muster-Seq": str(seq), "Muster-Key": str(seq)}


def test_watch_prints_changes_and_events_as_they_happen(site: Site, start_watch: Callable[..., Watch]) -> None:
    site.broker().start()
    watch, acme = start_watch("--timeout", "60s").wait_watching(), start_watch("cdc", "--tenant", "acme").wait_watching()
    site.postgres.query(INSERT, ("acme", 1))
    watch.wait_line(r"^\d\d:\d\d:\d\d\.\d{3}  acme +insert +public\.orders  tenant_id=acme id=1  item=bolt qty=3 ")
    site.postgres.query("UPDATE public.orders SET qty = 4, item = 'a nut' WHERE id = 1")
    watch.wait_line(r'update +public\.orders  tenant_id=acme id=1  item="a nut" qty=4 ')
    site.postgres.query("UPDATE public.orders SET id = 2 WHERE id = 1")
    watch.wait_line(r"update +public\.orders  tenant_id=acme id=2 \(was 1\) ")
    site.postgres.query("DELETE FROM public.orders")
    watch.wait_line(r"delete +public\.orders  tenant_id=acme id=2$")
    site.postgres.query("SELECT muster.emit('zeta', 'task', 'assigned', 't 1', '{\"agent\": \"a1\", \"state\": \"assigned\"}')")
    watch.wait_line(r"  zeta +task\.assigned  t 1  agent=a1 state=assigned$")
    assert len(watch.lines) == 5 and all("  acme  " in line for line in acme.lines) and len(acme.lines) == 4
    assert "\x1b" not in watch._out.read_text(), "colours are for terminals"
    watch.end(0, signal.SIGINT)
    acme.end(0, signal.SIGTERM)


def test_watch_shows_what_an_update_changed(site: Site, start_watch: Callable[..., Watch]) -> None:
    site.postgres.query("ALTER TABLE public.orders REPLICA IDENTITY FULL")
    site.broker().start()
    watch = start_watch("--table", "orders").wait_watching()
    site.postgres.query(INSERT, ("acme", 1))
    site.postgres.query("UPDATE public.orders SET qty = 4 WHERE id = 1")
    assert "qty=3→4" in watch.wait_line(" update ") and "item" not in watch.lines[-1]


def test_watch_gives_json_and_ends_after_a_count(site: Site, start_watch: Callable[..., Watch]) -> None:
    site.broker().start()
    watch = start_watch("--json", "--table", "public.orders", "--count", "2", "--timeout", "60s").wait_watching()
    site.postgres.query("CREATE TABLE public.other (tenant_id text, id int PRIMARY KEY)")
    site.cli("publish", "other", "--tenant", "acme")
    site.postgres.query("INSERT INTO public.other VALUES ('acme', 1)")
    for number in (1, 2, 3):
        site.postgres.query(INSERT, ("acme", number))
    watch.end()
    heard = [json.loads(line) for line in watch.lines]
    assert [h["body"]["key"]["id"] for h in heard] == [1, 2]
    assert heard[0]["subject"] == "mst.acme.cdc.main.public.orders.insert._"
    assert heard[1]["headers"]["Muster-Seq"] == "2" and heard[0].keys() == {"subject", "headers", "body"}


def test_a_line_follows_its_message_within_milliseconds(site: Site, connect: Connect, start_watch: Callable[..., Watch]) -> None:
    watch, client = start_watch("cdc").wait_watching(), connect()
    delays = []
    for seq in range(1, 21):
        data, headers = change(seq)
        begin = time.monotonic()
        client.publish("mst.acme.cdc.main.public.made.insert._", data, headers=headers)
        while len(watch.lines) < seq:
            assert time.monotonic() < begin + 5
        delays.append(time.monotonic() - begin)
    assert sorted(delays)[10] < 0.02, f"the median of publish, server, watch and this reader: {delays}"


def test_watch_tells_gaps_in_their_place(site: Site, connect: Connect, start_watch: Callable[..., Watch]) -> None:
    text, lines, client = start_watch("cdc").wait_watching(), start_watch("cdc", "--json").wait_watching(), connect()
    for seq, epoch in ((1, 1), (2, 1), (5, 1), (5, 1), (1, 2), (2, 2)):
        data, headers = change(seq, epoch)
        client.publish("mst.acme.cdc.main.public.made.insert._", data, headers=headers)
    other, headers = change(7)
    client.publish("mst.zeta.cdc.main.public.made.insert._", other, headers=headers)
    text.wait_line("zeta")
    assert [line if line.startswith("--") else "" for line in text.lines] == [
        "", "", "-- gap: 2 not heard, between 2 and 5 (acme cdc.main.public.made)", "",
        "-- position 5 came after 5 (acme cdc.main.public.made)", "",
        "-- begins anew: epoch 2 after 1; what was between them may be lost (acme cdc.main.public.made)", "", "", ""]
    lines.wait_line('"subject":"mst.zeta')
    notices = [json.loads(line)["notice"] for line in lines.lines if line.startswith('{"notice"')]
    assert [n["kind"] for n in notices] == ["gap", "again", "epoch"]
    assert notices[0] == {"kind": "gap", "channel": "acme cdc.main.public.made", "epoch": 1, "seq": 5, "before": {"epoch": 1, "seq": 2}}


def test_watch_leaves_out_heads_and_what_streams_keep(site: Site, connect: Connect, start_watch: Callable[..., Watch]) -> None:
    watch, client = start_watch("--json").wait_watching(), connect()
    data, headers = change(1)
    for subject in ("mst.acme.evt._.head", "mst._in.cdc.cdc.main.public.made.insert._", "mst.acme.cdc.short"):
        client.publish(subject, b"{}")
    client.publish("mst.acme.cdc.main.public.made.insert._", data, headers=headers)
    watch.wait_line("public.made")
    assert len(watch.lines) == 1


def test_a_row_cannot_write_on_the_terminal(site: Site, connect: Connect, start_watch: Callable[..., Watch]) -> None:
    watch, client = start_watch("cdc").wait_watching(), connect()
    data, headers = change(1, text="red \x1b[31m, \x9b31m, \x7f and \r\n more", long="x" * 300)
    client.publish("mst.acme.cdc.main.public.made.insert._", data, headers=headers)
    client.publish("mst.acme.cdc.main.public.made.insert._", b"\xc3\x28 no JSON", headers={})
    watch.wait_line("neither JSON nor MessagePack")
    assert len(watch.lines) == 2 and not re.search("[\x00-\x1f\x7f-\x9f]", "".join(watch.lines))
    assert len(watch.lines[0]) < 300 and "…" in watch.lines[0]


def test_watch_says_when_nats_goes_and_comes(site: Site, connect: Connect, start_watch: Callable[..., Watch]) -> None:
    watch = start_watch("cdc").wait_watching()
    site.nats.kill()
    wait_until(lambda: watch.said.count("NATS is away") == 1, 20, f"watch to miss NATS: {watch.said}")
    site.nats.start()
    wait_until(lambda: watch.said.count("watching ") == 2, 30, f"watch to be back: {watch.said}")
    assert "NATS is back" in watch.said
    data, headers = change(1)
    connect().publish("mst.acme.cdc.main.public.made.insert._", data, headers=headers)
    watch.wait_line("public.made")
    watch.end(0, signal.SIGINT)


def test_watch_has_an_end(site: Site, start_watch: Callable[..., Watch]) -> None:
    start_watch("--timeout", "300ms").wait_watching().end(0)
    missed = start_watch("--count", "1", "--timeout", "300ms")
    missed.end(1)
    assert "0 of 1 messages came within 300ms" in missed.said
    site.nats.stop()
    away = start_watch("--timeout", "300ms")
    away.end(1)
    assert "NATS could not be reached within 300ms" in away.said


def test_watch_knows_who_is_no_tenant(site: Site, start_watch: Callable[..., Watch]) -> None:
    for tenant, hint in (("acmee", "did you mean acme?"), ("nobody", "see `muster tenant list`")):
        typo = start_watch("--tenant", tenant)
        typo.end(1)
        assert typo.said == f"muster watch: there is no tenant {tenant}; {hint}\n"
    site.cli("tenant", "add", "later")
    start_watch("--tenant", "later").wait_watching().end(0, signal.SIGINT)
    site.postgres.query("REVOKE SELECT ON muster.tenants FROM muster_broker")
    start_watch("--tenant", "acmee").wait_watching().end(0, signal.SIGINT)
    site.postgres.stop()
    blind = start_watch("--tenant", "acmee").wait_watching()
    blind.end(0, signal.SIGINT)
    assert "tenant" not in blind.said.replace("mst.acmee", ""), "who cannot be asked is no matter"


def test_watch_ends_in_peace_when_nobody_reads(site: Site, connect: Connect, tmp_path: Path) -> None:
    client, argv = connect(), f"'{binary('muster')}' -c '{config_of(site)}' watch cdc"
    said = tmp_path / "said"
    pipe = subprocess.Popen(["bash", "-c", f"set -o pipefail; {argv} 2>'{said}' | head -n 1"], stdout=subprocess.PIPE, text=True)
    wait_until(lambda: said.exists() and "watching" in said.read_text(), 10, "watch to begin")
    for seq in range(1, 40):
        data, headers = change(seq)
        client.publish("mst.acme.cdc.main.public.made.insert._", data, headers=headers)
        if pipe.poll() is not None:
            break
        time.sleep(0.05)
    assert pipe.wait(10) == 0, said.read_text()


# ---- doctor

Checks = list[dict[str, Any]]


def doctor(site: Site, code: int = 0, config: Path | None = None) -> Checks:
    """The findings; the text form must say the same with the same exit code."""
    argv = ["-c", str(config or config_of(site)), "doctor"]

    def told() -> tuple[Checks, list[str]] | None:
        report = json.loads(muster(*argv, "--json", code=code).stdout)
        checks: Checks = report["checks"]
        assert report["broken"] == sum(c["level"] == "broken" for c in checks) and (report["broken"] > 0) == (code == 1)
        assert report["hints"] == sum(c["level"] == "hint" for c in checks)
        lines = muster(*argv, code=code).stdout.splitlines()
        return (checks, lines) if len(lines) == len(checks) + 1 else None

    checks, lines = wait_until(told, 20, "both forms to tell the same: what a broker that just began says of itself changes meanwhile")
    assert all(re.match(r"(ok     |hint   |broken ) \S.*?: \S", line) for line in lines[:-1]), lines
    return checks


def broken(checks: Checks) -> dict[str, str]:
    return {c["code"]: c["text"] for c in checks if c["level"] == "broken"}


@pytest.fixture
def broker(site: Site) -> Musterd:
    broker = site.broker()
    broker.start()
    return broker


def of_the_server(check: dict[str, Any]) -> bool:
    """What is known against an old nats-server is told wherever one runs, by doctor and by the broker; and without keys nothing is tried."""
    return check["code"] == "server_advisories" or (check["what"] == "walls" and "not tried: set nats.keys" in check["text"])


def test_doctor_finds_nothing_broken_where_nothing_is(site: Site, broker: Musterd) -> None:
    checks = doctor(site)
    told = {c["what"]: c["level"] for c in checks}
    for what in ("configuration", "plugin main", "plugin evt", f"nats 127.0.0.1:{site.nats.port}", "nats credentials", "jetstream",
                 "nats system credentials", "postgres", "postgres wal_level", "postgres role muster_broker", "postgres connections", "clock", "migrations",
                 "pg_logical_emit_message", "row level security", "tenants", "publication muster", "publication muster_evt", "publication muster_registry", "slot muster_main", "slot muster_evt", "tables of muster",
                 "broker"):
        assert told.get(what) == "ok", f"{what}: {checks}"
    assert [c["what"] for c in checks if c["level"] != "ok" and not of_the_server(c)] == ["postgres max_slot_wal_keep_size"]


def test_doctor_tells_a_beginning_from_a_loss(site: Site) -> None:
    checks = doctor(site)
    assert {c["what"] for c in checks if c["level"] == "hint" and not of_the_server(c)} == {
        "streams", "tenants", "slot muster_main", "slot muster_evt", "postgres max_slot_wal_keep_size", "broker"}


def test_doctor_finds_nats_away(site: Site, broker: Musterd) -> None:
    site.nats.stop()
    wait_until(lambda: broker.get("/readyz")[0] == 503, 20, "the broker to miss NATS")
    checks = doctor(site, 1)
    assert any(c["what"] == f"nats 127.0.0.1:{site.nats.port}" and c["code"] == "nats_away" and "start nats-server" in c["text"]
               for c in checks)
    assert "not_ready" in broken(checks), "what the broker says of itself is told too"
    assert any(c["what"] == "postgres" and c["level"] == "ok" for c in checks), "the rest is looked at all the same"
    site.nats.start()


def test_doctor_does_not_guess_at_brokers_while_nats_is_away(site: Site, broker: Musterd) -> None:
    """A broker that runs reads nothing then, and starting another would not help."""
    broker.stop()
    site.nats.stop()
    text = broken(doctor(site, 1))["slot_inactive"]
    assert "nobody reads it" in text and "only while NATS is there" in text and "start musterd" not in text and "no broker" not in text
    site.nats.start()


def test_keys_of_another_root_are_refused_by_name(site: Site) -> None:
    keys = {"MUSTER_NATS_KEYS": str(site.nats.keys), "MUSTER_POSTGRES_DSN": site.postgres.dsn("muster_broker")}
    site.agent("acme", "rooted")
    for verb in ("add", "rotate"):
        done = muster("agent", verb, "acme", "rooted", code=1, env={**keys, "MUSTER_ROOT": "zap"})
        assert done.stderr == (f"muster agent: {site.nats.keys} is made for the root token mst, the configuration says zap: "
                               "set broker.root (or MUSTER_ROOT) to mst, or name other keys\n") and not done.stdout
    for root, level in (("zap", "broken"), ("mst", "ok")):
        report = json.loads(run_cli(["doctor", "--json"], {**keys, "MUSTER_ROOT": root, "MUSTER_NATS_URLS": site.nats.url}, False).stdout)
        assert [(c["level"], c["code"]) for c in report["checks"] if c["what"] == "nats keys"] == [
            (level, "root_differs" if level == "broken" else None)]
    muster("agent", "revoke", "acme", "rooted", env={**keys, "MUSTER_ROOT": "zap"})


def test_who_was_revoked_is_not_rotated_and_is_told_so(site: Site) -> None:
    env = {"MUSTER_NATS_KEYS": str(site.nats.keys), "MUSTER_POSTGRES_DSN": site.postgres.dsn("muster_broker")}
    site.agent("acme", "gone")
    muster("agent", "revoke", "acme", "gone", env=env)
    refused = muster("agent", "rotate", "acme", "gone", code=1, env=env)
    assert refused.stderr == "muster agent: gone in tenant acme was revoked: `muster agent add acme gone` makes it anew\n"
    assert "there is no such agent: never in tenant acme" in muster("agent", "rotate", "acme", "never", code=1, env=env).stderr
    muster("agent", "revoke", "acme", "gone", env=env)
    muster("agent", "add", "acme", "gone", "--out", str(site.folder / "gone.creds"), env=env)
    muster("agent", "rotate", "acme", "gone", "--out", str(site.folder / "gone2.creds"), env=env)


def test_doctor_finds_refused_credentials(site: Site, tmp_path: Path) -> None:
    config = json.loads(config_of(site).read_text())
    path = tmp_path / "muster.yaml"
    config["nats"]["creds"] = str(site.agent("acme", "a1"))
    config["nats"]["system_creds"] = str(site.nats.folder / "broker.creds")
    path.write_text(json.dumps(config))
    found = {c["what"]: c for c in doctor(site, 1, path)}
    assert found["nats system credentials"]["code"] == "authentication"
    assert "does not belong to the system account" in found["nats system credentials"]["text"]
    assert found["jetstream"]["code"] == "jetstream_away", "an agent's creds reach no JetStream"
    (tmp_path / "nobody.creds").write_text((site.nats.folder / "broker.creds").read_text().replace("SU", "SUA", 1))
    config["nats"]["creds"] = str(tmp_path / "nobody.creds")
    path.write_text(json.dumps(config))
    found = {c["what"]: c for c in doctor(site, 1, path)}
    assert found["nats credentials"]["code"] == "authentication" and "nobody.creds is refused" in found["nats credentials"]["text"]


def test_doctor_finds_a_stream_that_acknowledges_agents(site: Site, broker: Musterd, connect: Connect) -> None:
    request = {"name": "TRAP", "subjects": ["mst.ghost.to.*.*.trap"], "storage": "memory"}
    answer = json.loads(connect().request("$JS.API.STREAM.CREATE.TRAP", json.dumps(request).encode()).data)
    assert "error" not in answer, answer
    found = broken(doctor(site, 1))
    assert "stream TRAP captures mst.ghost.to.*.*.trap" in found["stream_acknowledges"] and "no_ack" in found["stream_acknowledges"]


def test_doctor_finds_postgres_away(site: Site, broker: Musterd) -> None:
    site.postgres.stop()
    found = {c["what"]: c for c in doctor(site, 1)}
    assert found["postgres"]["code"] == "postgres_away" and "start PostgreSQL, or correct postgres.dsn" in found["postgres"]["text"]
    site.postgres.start()


def test_doctor_finds_wal_level_replica(site: Site) -> None:
    site.postgres.query("ALTER SYSTEM SET wal_level = 'replica'")
    site.postgres.stop()
    site.postgres.start()
    assert broken(doctor(site, 1))["wal_level"].startswith("wal_level is replica, expected logical: ALTER SYSTEM SET wal_level = logical")


def test_doctor_counts_the_connections_that_brokers_open(site: Site, broker: Musterd) -> None:
    """Two instances of cdc with a pool of 4 each, and two of the broker's own, whose sweep opens the second after ten minutes."""
    count = ("SELECT count(*) FROM pg_stat_activity WHERE usename = 'muster_broker' AND backend_type = 'client backend'"
             " AND application_name LIKE 'muster %'")
    wait_until(lambda: site.postgres.query(count)[0][0] == 9, 10, "all nine")
    told = next(c for c in doctor(site) if c["what"] == "postgres connections")
    assert (told["level"], told["text"]) == ("ok", "room for 5 brokers with this configuration, of 10 each")
    assert broker.stop() == 0
    site.postgres.query("ALTER ROLE muster_broker CONNECTION LIMIT 9")
    assert broken(doctor(site, 1))["connections_few"].startswith(
        "1 broker with this configuration opens 10 each, and the CONNECTION LIMIT of muster_broker leaves 9: raise it")
    site.postgres.query("ALTER ROLE muster_broker CONNECTION LIMIT -1")


def test_doctor_finds_slots_that_are_lost_or_unread(site: Site, broker: Musterd) -> None:
    broker.stop()
    found = broken(doctor(site, 1))
    assert "no broker reads it" in found["slot_inactive"] and "start musterd" in found["slot_inactive"]
    site.postgres.query("SELECT pg_drop_replication_slot('muster_main')")
    checks = doctor(site, 1)
    assert any(c["what"] == "slot muster_main" and c["code"] == "slot_missing" and c["level"] == "broken" for c in checks)
    site.postgres.query("SELECT pg_create_logical_replication_slot('muster_main', 'test_decoding')")
    assert "choose another `slot`" in broken(doctor(site, 1))["slot_foreign"]
    site.postgres.query("SELECT pg_drop_replication_slot('muster_main')")


def test_doctor_finds_a_slot_whose_log_is_gone(site: Site, broker: Musterd) -> None:
    broker.stop()
    site.postgres.query("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'")
    site.postgres.query("SELECT pg_reload_conf()")
    for _ in range(4):
        site.postgres.query("SELECT pg_switch_wal() FROM pg_logical_emit_message(false, 'x', repeat('x', 100000))")
    site.postgres.query("CHECKPOINT")
    status = site.postgres.query("SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'muster_main'")[0][0]
    assert status in ("lost", "unreserved")
    checks = doctor(site, 1)
    assert f"slot_{status}" in broken(checks) and "postgres max_slot_wal_keep_size" not in {c["what"] for c in checks}


def test_doctor_finds_a_table_whose_identity_lacks_the_tenant_and_what_mends_it(site: Site, broker: Musterd) -> None:
    site.postgres.query("CREATE UNIQUE INDEX by_id ON public.orders (id)")
    site.postgres.query("ALTER TABLE public.orders REPLICA IDENTITY USING INDEX by_id")
    text = broken(doctor(site, 1))["table_refused"]
    statement = re.search(r"ALTER TABLE public\.orders REPLICA IDENTITY \w+;", text)
    assert "lacks the tenant column tenant_id" in text and statement
    site.postgres.query(statement.group())
    assert not broken(doctor(site))


def test_doctor_finds_tables_without_identity_column_or_grant(site: Site, broker: Musterd) -> None:
    site.postgres.query("CREATE TABLE public.bare (tenant_id text, x int)")
    site.postgres.query("CREATE TABLE public.mine (x int PRIMARY KEY)")
    site.postgres.query("ALTER PUBLICATION muster ADD TABLE public.bare, public.mine")
    checks = doctor(site, 1)
    texts = {c["what"]: c["text"] for c in checks if c["code"] == "table_refused"}
    assert "no replica identity" in texts["table public.bare"] and "REPLICA IDENTITY FULL" in texts["table public.bare"]
    assert "no tenant column tenant_id" in texts["table public.mine"] and "muster publish public.mine --tenant T" in texts["table public.mine"]
    grants = {c["what"]: c["text"] for c in checks if c["code"] == "no_select_privilege"}
    assert grants.keys() == {"table public.bare", "table public.mine"}
    assert "GRANT SELECT ON public.bare TO muster_broker" in grants["table public.bare"]
    config = json.loads(config_of(site).read_text())
    config["plugins"][0]["config"]["tables"] = {"public.mine": {"tenant": "acme"}}
    path = site.folder / "mapped.yaml"
    path.write_text(json.dumps(config))
    assert "table public.mine" not in {c["what"] for c in doctor(site, 1, path) if c["code"] == "table_refused"}


def test_doctor_finds_a_role_a_publication_and_migrations_that_are_wrong(site: Site) -> None:
    site.postgres.query("ALTER ROLE muster_broker NOREPLICATION")
    site.postgres.query("DROP PUBLICATION muster")
    site.postgres.query("DELETE FROM muster.migrations WHERE number = 5")
    site.postgres.query("UPDATE muster.migrations SET sha256 = repeat('0', 64) WHERE number = 1")
    found = broken(doctor(site, 1))
    assert "ALTER ROLE muster_broker REPLICATION" in found["no_replication_privilege"]
    assert "run `muster migrate`" in found["publication_missing"] and "run `muster migrate`" in found["migrations_pending"]
    assert found["migration_changed"].startswith("001_")


@pytest.mark.parametrize("attribute", ["BYPASSRLS", "SUPERUSER"])
def test_doctor_finds_a_brokers_role_that_no_wall_holds(site: Site, attribute: str) -> None:
    site.postgres.query(f"ALTER ROLE muster_broker {attribute}")
    try:
        assert "muster_broker, which `muster migrate` makes without" in broken(doctor(site, 1))["broker_bypasses_rls"]
    finally:
        site.postgres.query(f"ALTER ROLE muster_broker NO{attribute}")
    assert "broker_bypasses_rls" not in {c["code"] for c in doctor(site)}


def test_doctor_finds_walls_that_somebody_has_opened(site: Site) -> None:
    site.postgres.query("ALTER TABLE public.agent_runs NO FORCE ROW LEVEL SECURITY")
    site.postgres.query("CREATE POLICY everybody ON public.agent_tasks USING (tenant_id = 'acme')")
    site.postgres.query("CREATE POLICY app ON muster.requests TO muster_app USING (true)")
    site.postgres.query("ALTER ROLE muster_t_acme BYPASSRLS")
    found = broken(doctor(site, 1))
    assert "open in muster.requests, public.agent_runs, public.agent_tasks:" in found["row_security_open"]
    assert "muster_t_acme" in found["row_security_bypassed"]
    site.postgres.query("DROP POLICY everybody ON public.agent_tasks; DROP POLICY app ON muster.requests; ALTER ROLE muster_t_acme NOBYPASSRLS")
    site.cli("migrate")
    assert {"row_security_open", "row_security_bypassed"}.isdisjoint(c["code"] for c in doctor(site))


def test_doctor_finds_a_reader_that_commits_would_wait_for(site: Site, broker: Musterd) -> None:
    """A walsender that synchronous_standby_names matches is a synchronous standby, whatever it is for."""
    def told(names: str) -> str:
        site.postgres.query(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        site.postgres.query("SELECT pg_reload_conf()")
        with site.postgres.connect(autocommit=True) as connection:
            wait_until(lambda: connection.execute("SHOW synchronous_standby_names").fetchone() == (names,), 10, "the setting to hold")
        report = json.loads(run_cli(["-c", str(config_of(site)), "doctor", "--json"], {}, check=False).stdout)  # the broker minds too, when it looks
        found = [c for c in report["checks"] if c["what"] == "postgres synchronous_standby_names"]
        assert all(c["level"] == "hint" for c in found)
        return "".join(c["text"] for c in found)

    try:
        with_names = told("ANY 1 (*)")
        assert with_names.startswith("ANY 1 (*) matches") and "muster cdc" in with_names and "name the standbys" in with_names
        for names in ("*", '"*"', 'FIRST 1 (b, "Muster CDC")', '2("muster cdc",x)'):
            assert told(names), names
        for names in ("", "b", "FIRST 1 (muster, cdc)", 'ANY 2 ("a, *", "b""c")'):
            assert not told(names), names
    finally:
        site.postgres.query("ALTER SYSTEM RESET synchronous_standby_names")
        site.postgres.query("SELECT pg_reload_conf()")
        broker.wait_ready()


def test_doctor_finds_what_a_restore_has_lost(site: Site) -> None:
    site.postgres.query("ALTER PUBLICATION muster_registry DROP TABLE muster.tables")
    site.postgres.query("ALTER PUBLICATION muster DROP TABLE public.orders")
    checks = {c["code"]: c for c in doctor(site, 1)}
    assert "run `muster migrate`" in checks["publication_incomplete"]["text"]
    assert checks["table_unpublished"]["what"] == "table public.orders" and checks["table_unpublished"]["level"] == "hint"
    site.cli("migrate")
    site.cli("publish", "orders")
    assert not {"publication_incomplete", "table_unpublished"} & {c["code"] for c in doctor(site)}


def test_doctor_finds_a_database_that_was_never_migrated(site: Site, tmp_path: Path) -> None:
    config = json.loads(config_of(site).read_text())
    config["postgres"]["dsn"] = config["postgres"]["dsn"].removesuffix("/muster") + "/postgres"
    path = tmp_path / "muster.yaml"
    path.write_text(json.dumps(config))
    assert "run `muster migrate`" in broken(doctor(site, 1, path))["migrations_pending"]
    config["postgres"]["dsn"] += "x"
    path.write_text(json.dumps(config))
    assert "does not exist" in broken(doctor(site, 1, path))["database_missing"]


def test_doctor_tells_a_broken_configuration_and_plugins_that_do_not_load(tmp_path: Path, plugins: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("broker:\n  adminn: x\n")
    done = muster("-c", str(bad), "doctor", code=1)
    assert done.stdout.startswith(f"broken  configuration: {bad}:2:3: broker.adminn: ") and not done.stderr
    plugins.write_text(plugins.read_text().replace("slot: s", "slots: s") + "nats: {urls: [nats://127.0.0.1:9]}\n"
                       "postgres: {dsn: postgresql://nobody@127.0.0.1:9/none}\nbroker: {admin: 127.0.0.1:9}\n")
    checks = json.loads(muster("-c", str(plugins), "doctor", "--json", code=1).stdout)["checks"]
    found = {c["what"]: c for c in checks}
    assert found["plugin main"]["level"] == "broken" and "plugins.main.slots" in found["plugin main"]["text"]
    assert found["plugin broken"]["level"] == "hint", "it is not required"
    assert found["plugin cdc"]["level"] == "ok"


def test_doctor_repeats_what_the_broker_says_of_itself(site: Site, broker: Musterd) -> None:
    site.postgres.query("DROP PUBLICATION muster")
    site.postgres.query("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'muster_main'")
    wait_until(lambda: "publication_missing" in broker.get("/readyz")[1], 20, "the broker to miss its publication")
    found = {c["what"]: c for c in doctor(site, 1)}
    assert found["broker: plugin cdc.main"]["code"] == "publication_missing" == found["publication muster"]["code"]
    assert found["broker"]["code"] == "not_ready" and found["broker: plugin cdc.main"]["level"] == "broken"
