"""The examples in real brokers: built out of tree by `tests/examples/build`, loaded by path, in the broker and in a child."""

from __future__ import annotations

import base64
import fcntl
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

import processes
from agent import Agent
from client import Client
from examples.conftest import EXAMPLES, ROOT, example, give
from examples.receiver import Delivery, Receiver
from harness import REPO, Musterd, Site, binary, run_cli, wait_until
from pluginrig import reload

KEY, OLD_KEY = os.urandom(32), os.urandom(24)
RESTART = {"delay": "200ms", "max_delay": "1s"}


def emit(site: Site, event: str, key: str, body: dict[str, Any], tenant: str = "acme") -> None:
    service, name = event.split(".")
    site.postgres.query("SELECT muster.emit(%s, %s, %s, %s, %s)", (tenant, service, name, key, json.dumps(body)))


def emit_numbers(site: Site, service: str, first: int, last: int) -> None:
    site.postgres.query("SELECT muster.emit('acme', %s, 'said', i::text, jsonb_build_object('i', i)) FROM generate_series(%s::int, %s::int) i",
                        (service, first, last))


def broker_with(site: Site, *plugins: dict[str, Any], name: str = "musterd") -> Musterd:
    broker = site.broker(name)
    broker.log_path.unlink(missing_ok=True)  # of another test's
    broker.config["plugins"] += plugins
    return broker


def kill_child(broker: Musterd, instance: str) -> None:
    child = processes.child_of(broker, instance)
    assert child
    os.kill(child, signal.SIGKILL)


FOLDERS = sorted(path.name for path in (REPO / "examples").iterdir() if path.name != "agent")  # which is no plugin


def options_of(schema: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Keys as the pages write them, with what is said of each."""
    found: dict[str, Any] = {}
    for key, option in schema["properties"].items():
        entry = option.get("additionalProperties")
        if isinstance(entry, dict):
            found |= options_of(entry, f"{prefix}{key}.<name>.")
        else:
            found[prefix + key] = option
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_page_names_every_option_with_its_default(folder: str, tmp_path: Path) -> None:
    page = (REPO / "examples" / folder / "README.md").read_text()
    config = tmp_path / "muster.yaml"
    config.write_text(json.dumps({"plugins": [example(folder, "none")]}))
    (file,) = (EXAMPLES / folder).glob("*.so")
    plugin = json.loads(run_cli(["-c", str(config), "plugin", "list", file.stem, "--json"], {}).stdout)
    for key, option in options_of(plugin["options"]).items():
        if folder == "plugin-hello-cpp":  # its page points to the other one's
            continue
        row = next((line for line in page.splitlines() if line.startswith(f"| `{key}` |")), None)
        assert row, key
        default = option.get("default", "")
        shown = ",".join(default) if isinstance(default, list) else default
        assert shown in ("", False) or f"`{shown}`" in row, f"{key}: the default is {shown}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_snippet_is_taken(folder: str, tmp_path: Path) -> None:
    """As it stands, but for where the files are: with all that it allows."""
    (file,) = (EXAMPLES / folder).glob("*.so")
    etc, var = tmp_path / "etc", tmp_path / "var"
    text = (REPO / "examples" / folder / "muster.yaml").read_text().replace(f"path: {file.name}", f"path: {file}")
    text = text.replace("/etc/muster/webhook", str(etc)).replace("/var/log/muster", str(var))
    for path in (tmp_path, *tmp_path.parents):  # pytest's are the tester's alone
        if path.name.startswith(("pytest-", "popen-", "test_")):
            path.chmod(0o755)
    etc.mkdir()
    var.mkdir()
    (etc / "billing.secret").write_text(f"whsec_{base64.b64encode(KEY).decode()}\n")
    config = tmp_path / "muster.yaml"
    config.write_text(text)
    done = subprocess.run([binary("musterd"), "-c", str(config), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (plugin,) = json.loads(run_cli(["-c", str(config), "plugin", "list", "--json"], {}).stdout)
    assert plugin["isolation"] == "process" and plugin["loads"], plugin


def all_documented(broker: Musterd, plugin: str) -> bool:
    page = (REPO / "examples" / plugin / "README.md").read_text()
    names = {re.sub(r"_(bucket|sum|count)$", "", sample.partition("{")[0]) for sample in broker.metrics() if sample.startswith(f"muster_{plugin}_")
             and not sample.startswith(f"muster_{plugin}_child_")}  # the broker's own, of any child
    missing = [name for name in names if f"`{name.removeprefix(f'muster_{plugin}_')}`" not in page]
    assert names and not missing, missing
    return True


# ---- hello, and the template ----


def hello(ann: Client) -> Any:
    return json.loads(ann.request("mst.acme.rpc.ann.hello.say", b'{"name": "Bob"}').data)


@pytest.mark.parametrize("folder", ["plugin-hello", "plugin-hello-cpp"])
def test_hello_answers(site: Site, connect: Callable[..., Client], mode: str, folder: str) -> None:
    broker = broker_with(site, example(folder, mode, {"greeting": "Good morning"}))
    broker.start()
    assert hello(connect("acme", "ann")) == {"greeting": "Good morning", "name": "Bob", "count": 1}
    wait_until(lambda: broker.metric("muster_hello_said_total") == 1, 2, "the metric")
    assert bool(processes.child_of(broker, "hello.hello")) == (mode == "process")


@pytest.mark.parametrize("folder", ["plugin-hello", "plugin-hello-cpp"])
def test_hello_is_killed(site: Site, connect: Callable[..., Client], folder: str) -> None:
    broker = broker_with(site, example(folder, "process", restart=RESTART))
    broker.start()
    ann = connect("acme", "ann")
    assert [hello(ann)["count"] for _ in range(2)] == [1, 2]
    kill_child(broker, "hello.hello")
    answer = hello(ann)
    if "error" in answer:  # it was on its way there
        assert answer["error"]["code"] == "unavailable"
        answer = hello(ann)
    assert answer["count"] == 1, "what comes meanwhile waits for the next process"


def next_number(client: Client, series: str, whose: str = "acme.rpc.ann") -> Any:
    return json.loads(client.request(f"mst.{whose}.series.next", json.dumps({"series": series}).encode()).data)


def test_the_template_counts_over_two_brokers(site: Site, connect: Callable[..., Client], mode: str, word: str) -> None:
    for name in ("one", "two"):
        broker_with(site, example("series", mode, {"prefix": "INV-"}), name=name).start()
    ann, zoe = connect("acme", "ann"), connect("zeta", "zoe")
    assert [next_number(ann, word) for _ in range(40)] == [{"number": n, "label": f"INV-{n}"} for n in range(1, 41)]
    assert next_number(zoe, word, "zeta.rpc.zoe")["number"] == 1
    assert next_number(ann, "a b")["error"]["field"] == "series"
    wait_until(lambda: all(broker.metric("muster_series_issued_total") > 0 for broker in site.brokers), 2, "both answer")


def test_the_template_gives_no_number_twice_when_it_is_killed(site: Site, connect: Callable[..., Client], word: str) -> None:
    brokers = [broker_with(site, example("series", "process", restart=RESTART), name=name) for name in ("one", "two")]
    for broker in brokers:
        broker.start()
    ann = connect("acme", "ann")
    answers = []
    for n in range(60):
        if n in (20, 40):
            kill_child(brokers[n // 40], "series.series")
        answers.append(next_number(ann, word))
    numbers = [answer["number"] for answer in answers if "number" in answer]
    assert numbers == sorted(set(numbers)) and len(numbers) >= 58, answers
    assert all(answer["error"]["code"] == "unavailable" for answer in answers if "number" not in answer), answers


# ---- audit ----


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def audit(mode: str, folder: Path, subjects: list[str], **config: Any) -> dict[str, Any]:
    """Its folder is its own user's, as the page says."""
    entry = example("audit", mode, {"subjects": subjects, "log_file": str(folder / "audit.jsonl"), **config}, folder, restart=RESTART)
    if mode == "none":
        del entry["restart"]
    elif ROOT:
        entry["user"] = "nobody"
        folder.chmod(0o750)
    give(entry, folder)
    return entry


def numbers_in(folder: Path) -> list[int]:
    """Of all files; read again when one was renamed meanwhile."""
    while True:
        try:
            return sorted(line["body"]["i"] for file in folder.glob("audit.*") for line in lines(file))
        except FileNotFoundError:
            time.sleep(0.01)


def test_audit_writes_events_and_changes_of_all_tenants(site: Site, mode: str, folder: Path, word: str) -> None:
    entry = audit(mode, folder, [f"evt.{word}.>", "cdc.>"], sync="always")
    if mode == "process":
        entry["allow"]["subscribe"].append("cdc.>")
    broker = broker_with(site, entry)
    broker.start()
    emit(site, f"{word}.paid", "4711", {"amount": "12.50"})
    emit(site, f"{word}.paid", "4712", {"amount": "1"}, tenant="zeta")
    site.postgres.query("INSERT INTO public.orders (id, tenant_id) SELECT coalesce(max(id), 0) + 1, 'acme' FROM public.orders")
    path = folder / "audit.jsonl"
    wait_until(lambda: len([line for line in lines(path) if not line["subject"].endswith("head")]) == 3, 10, f"three lines\n{path}")
    got = {(line["tenant"], line["subject"]): line for line in lines(path)}
    assert got["acme", f"evt.{word}.paid.4711"]["body"]["amount"] == "12.50"
    assert int(got["acme", f"evt.{word}.paid.4711"]["headers"]["Muster-Seq"]) > 0
    assert ("zeta", f"evt.{word}.paid.4712") in got
    assert all_documented(broker, "audit")
    (change,) = [line for (_, subject), line in got.items() if subject.startswith("cdc.")]
    assert change["body"]["new"]["id"] > 0
    if mode == "process" and ROOT:
        assert path.owner() == "nobody"


def test_audit_writes_all_that_came_before_it_ends_and_follows_logrotate(site: Site, mode: str, folder: Path, word: str) -> None:
    path = folder / "audit.jsonl"
    broker = broker_with(site, audit(mode, folder, [f"evt.{word}.>"], max_bytes="16KiB", keep=50))
    broker.start()
    emit_numbers(site, word, 1, 500)
    wait_until(lambda: broker.metric("muster_audit_lines_total") >= 500, 20, "500 lines")
    path.rename(path.with_suffix(".moved"))
    time.sleep(1.1)  # it looks once a second whether the file is still its own
    emit(site, f"{word}.said", "501", {"i": 501})
    wait_until(lambda: any(line["body"]["i"] == 501 for line in lines(path)), 10, "a new file")
    emit(site, f"{word}.said", "502", {"i": 502})
    wait_until(lambda: broker.metric("muster_audit_lines_total") >= 502, 10, "the last line")
    assert broker.stop() == 0
    files = list(folder.glob("audit.*"))
    assert len(files) > 3 and all(file.stat().st_size <= 16384 for file in files)
    assert numbers_in(folder) == list(range(1, 503))


def test_audit_is_killed(site: Site, folder: Path, word: str) -> None:
    """What was written stays, what comes meanwhile is written by the next process; no line is broken."""
    broker = broker_with(site, audit("process", folder, [f"evt.{word}.>"], max_bytes="16KiB", keep=50))
    broker.start()
    emit_numbers(site, word, 1, 300)
    wait_until(lambda: len(numbers_in(folder)) == 300, 20, "300 lines")
    with (folder / "audit.jsonl").open("a") as file:
        file.write('{"cut')
    kill_child(broker, "audit.audit")
    emit_numbers(site, word, 301, 600)
    wait_until(lambda: len(numbers_in(folder)) >= 600, 20, "the rest")
    assert numbers_in(folder) == list(range(1, 601))
    assert sum(file.read_text().count('{"cut\n') for file in folder.glob("audit.*")) == 1, "a line that was cut is ended"


def test_audit_tells_of_a_folder_that_is_not_its_own(site: Site, folder: Path, word: str) -> None:
    if not ROOT:
        pytest.skip("only where root runs the broker has a child another user")
    entry = audit("process", folder, [f"evt.{word}.>"])
    shutil.chown(folder, "root")
    broker = broker_with(site, entry)
    broker.start()
    wait_until(lambda: "cannot_write" in broker.get("/readyz")[1], 10, "its word")
    assert "Permission denied" in broker.get("/readyz")[1]
    emit(site, f"{word}.said", "1", {"i": 1})
    shutil.chown(folder, "nobody")
    wait_until(lambda: numbers_in(folder) == [1], 10, "the line that waited")


def test_a_disk_that_hangs_holds_nobody(site: Site, connect: Callable[..., Client], mode: str, folder: Path, word: str) -> None:
    """A pipe that nobody reads is the slowest disk: the lane goes on, what comes waits, nothing is lost."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    entry = audit(mode, folder, [f"evt.{word}.>"], log_file=str(pipe), queue_bytes="8KiB")
    give(entry, pipe)
    broker = broker_with(site, entry, example("plugin-hello", mode))
    broker.start()
    ann = connect("acme", "ann")
    emit_numbers(site, word, 1, 300)
    wait_until(lambda: broker.metric("muster_cdc_published_total") >= 300 or broker.metric("muster_audit_lines_total") > 0, 10, "events")
    for _ in range(20):
        began = time.monotonic()
        assert b"Hello" in ann.request("mst.acme.rpc.ann.hello.say", b"{}").data
        assert time.monotonic() - began < 0.5
    data = b""
    end = time.monotonic() + 20
    while data.count(b"\n") < 300 and time.monotonic() < end:
        try:
            data += os.read(reader, 65536)
        except BlockingIOError:
            time.sleep(0.01)
    assert [json.loads(line)["body"]["i"] for line in data.splitlines()] == list(range(1, 301))
    assert broker.metric("muster_audit_dropped_total") == 0
    assert broker.stop() == 0
    os.close(reader)


# ---- webhook ----

@pytest.fixture
def receivers() -> Generator[Callable[..., Receiver], None, None]:
    made: list[Receiver] = []

    def make(*arguments: Any, **options: Any) -> Receiver:
        made.append(Receiver([KEY], *arguments, **options))
        return made[-1]

    yield make
    for receiver in made:
        receiver.close()
        assert not receiver.faults


class Hooks:
    """Hooks of one test: their events, and the folder of their secrets, which is of who posts alone."""

    def __init__(self, mode: str, folder: Path, word: str) -> None:
        self.mode, self.folder, self.word = mode, folder, word
        self.put("secret", KEY)
        self.put("old-secret", OLD_KEY)

    def put(self, name: str, key: bytes) -> str:
        path = self.folder / name
        path.write_text(f"whsec_{base64.b64encode(key).decode()}\n")
        path.chmod(0o600)
        return str(path)

    def hook(self, receiver: Receiver, scheme: str = "http", **options: Any) -> dict[str, Any]:
        return {"subjects": [f"evt.{self.word}.>"], "url": f"{scheme}://127.0.0.1:{receiver.port}/hook", "secret_file": str(self.folder / "secret"),
                "backoff": "20ms", **options}

    def entry(self, hooks: dict[str, Any], **options: Any) -> dict[str, Any]:
        entry = example("webhook", self.mode, {"hooks": hooks, "private_hosts": ["127.0.0.1"], **options}, self.folder)
        if self.mode == "process":
            entry["restart"] = RESTART
        give(entry, self.folder, *self.folder.iterdir())
        return entry

    def emit(self, site: Site, i: int, tenant: str = "acme") -> None:
        emit(site, f"{self.word}.said", f"k{i}", {"i": i}, tenant)


@pytest.fixture
def hooks(mode: str, folder: Path, word: str) -> Hooks:
    return Hooks(mode, folder, word)


@pytest.fixture
def child_hooks(folder: Path, word: str) -> Hooks:
    return Hooks("process", folder, word)


def test_webhook_posts_signed_and_in_order_through_failures(site: Site, hooks: Hooks, receivers: Callable[..., Receiver]) -> None:
    receiver = receivers(lambda n, delivery: (500 if n % 3 else 204, {}))
    broker = broker_with(site, hooks.entry({"all": hooks.hook(receiver)}))
    broker.start()
    for i in range(10):
        hooks.emit(site, i)
    wait_until(lambda: broker.metric("muster_webhook_delivered_total") == 10, 20, "10 deliveries")
    assert [delivery.body["data"]["i"] for delivery in receiver.heard] == [i for i in range(10) for _ in range(3)], "in order, each three times"
    assert len({delivery.id for delivery in receiver.heard}) == 10, "an attempt more is the same message"
    body = receiver.heard[0].body
    assert (body["type"], body["tenant"], body["subject"]) == (f"{hooks.word}.said", "acme", f"evt.{hooks.word}.said.k0")
    assert receiver.most_at_once == 1
    assert broker.metric("muster_webhook_failed_attempts_total") == 20
    assert all_documented(broker, "webhook")


def test_webhook_waits_as_long_as_it_is_told(site: Site, hooks: Hooks, receivers: Callable[..., Receiver]) -> None:
    receiver = receivers(lambda n, delivery: (429, {"retry-after": "2"}) if n == 1 else (200, {}))
    broker = broker_with(site, hooks.entry({"all": hooks.hook(receiver)}))
    broker.start()
    hooks.emit(site, 1)
    wait_until(lambda: broker.metric("muster_webhook_delivered_total") == 1, 20, "the delivery")
    assert 1.9 < receiver.heard[1].at - receiver.heard[0].at < 5


def test_a_receiver_that_hangs_holds_its_own_hook_alone(site: Site, hooks: Hooks, receivers: Callable[..., Receiver]) -> None:
    slow = receivers(lambda n, delivery: (0 if n == 1 else 200, {}))
    quick = receivers()
    broker = broker_with(site, hooks.entry({
        "slow": hooks.hook(slow, timeout="1s"), "quick": hooks.hook(quick, subjects=[f"evt.{hooks.word}.*.*"], concurrency=8, tenants=["acme"])}))
    broker.start()
    for i in range(20):
        hooks.emit(site, i)
    hooks.emit(site, 1, tenant="zeta")
    wait_until(lambda: broker.metric("muster_webhook_delivered_total", 'hook="quick"') == 20, 10, "the quick ones")
    wait_until(lambda: broker.metric("muster_webhook_delivered_total", 'hook="slow"') == 21, 20, "the slow ones")
    assert {delivery.body["tenant"] for delivery in quick.heard} == {"acme"}
    assert "timed out" in broker.log().lower()


def test_dead_letters_are_told_as_events(site: Site, hooks: Hooks, receivers: Callable[..., Receiver], connect: Callable[..., Client]) -> None:
    refusing = receivers(lambda n, delivery: (500, {}))
    gone = receivers(lambda n, delivery: (410, {}))
    broker = broker_with(site, hooks.entry({"refusing": hooks.hook(refusing, deadline="300ms"), "gone": hooks.hook(gone)}))
    broker.start()
    dead = connect("acme", "watcher").subscribe("mst.acme.evt.webhook.>")
    hooks.emit(site, 1)
    wait_until(lambda: len(dead.messages) == 2, 10, "two events")
    by_hook = {body["hook"]: body for body in (json.loads(message.data) for message in dead.messages)}
    assert by_hook["refusing"]["status"] == 500 and by_hook["refusing"]["attempts"] > 1
    assert by_hook["gone"]["status"] == 410 and by_hook["gone"]["attempts"] == 1
    hooks.emit(site, 2)
    wait_until(lambda: broker.metric("muster_webhook_dropped_total", 'hook="gone"') == 1, 10, "the hook that is out of use")
    assert len(gone.heard) == 1
    assert "answered 410" in broker.get("/readyz")[1]


def test_webhook_speaks_tls_and_checks_who_answers(site: Site, hooks: Hooks, receivers: Callable[..., Receiver]) -> None:
    certificate, key = hooks.folder / "server.pem", hooks.folder / "server.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=x",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    receiver = receivers(certificate=(certificate, key))
    receiver.keys.append(OLD_KEY)
    broker = broker_with(site, hooks.entry({
        "trusting": hooks.hook(receiver, "https", ca_file=str(certificate), old_secret_file=str(hooks.folder / "old-secret")),
        "doubting": hooks.hook(receiver, "https", deadline="10ms")}))
    broker.start()
    hooks.emit(site, 1)
    wait_until(lambda: broker.metric("muster_webhook_delivered_total", 'hook="trusting"') == 1, 10, "the delivery")
    wait_until(lambda: broker.metric("muster_webhook_dead_total", 'hook="doubting"') == 1, 10, "a certificate that nobody vouches for")
    assert len(receiver.heard) == 1


def test_webhook_tells_of_runs_that_end_or_wait(site: Site, child_hooks: Hooks, receivers: Callable[..., Receiver]) -> None:
    """With the subjects that the example's muster.yaml names: one run of each end, and each is posted once, whoever ended it."""
    text = (REPO / "examples" / "webhook" / "muster.yaml").read_text()
    subjects = json.loads(re.findall(r"        runs:.*\n +subjects: (\[.*\])", text)[0])
    receiver = receivers()
    broker = broker_with(site, {"name": "runs", "config": {"sweep": "100ms", "stuck_after": "1s"}}, child_hooks.entry({"runs": child_hooks.hook(receiver, subjects=subjects)}))
    broker.start()
    boss = Agent(site, "acme", f"{child_hooks.word}-boss")
    runs = {}
    for end in ("completed", "failed", "escalated_to_human", "cancelled", "stuck"):
        runs[end] = boss.ask("run", "start", {"agent_name": "coder", "user_id": "ann"}).body["run_id"]
    for end, verb, more in (("completed", "complete", {"result": {"files": 3}}), ("failed", "fail", {"error": "no disk"}),
                            ("escalated_to_human", "escalate", {"reason": "which colour?"}), ("cancelled", "cancel", {})):
        boss.ask("run", verb, {"run_id": runs[end], **more})
    told = ("completed", "failed", "escalated_to_human", "stuck")
    mine = {f"evt.run.{end}.{runs[end]}": end for end in told}
    wait_until(lambda: {d.body["subject"] for d in receiver.heard} >= set(mine), 20, "one of each")
    boss.close()
    heard = {d.body["subject"]: d.body for d in receiver.heard if d.body["subject"] in mine}
    assert len([d for d in receiver.heard if d.body["subject"] in mine and "stuck" not in d.body["subject"]]) == 3
    assert not [d for d in receiver.heard if runs["cancelled"] in d.body["subject"]]
    for subject, end in mine.items():
        body = heard[subject]
        assert (body["type"], body["tenant"], body["data"]["run_id"], body["data"]["user_id"]) == (f"run.{end}", "acme", runs[end], "ann")
        assert body["data"]["status"] == ("pending" if end == "stuck" else end)
    assert heard[f"evt.run.completed.{runs['completed']}"]["data"]["result"] == {"files": 3}
    assert heard[f"evt.run.failed.{runs['failed']}"]["data"]["error"] == "no disk"
    assert heard[f"evt.run.escalated_to_human.{runs['escalated_to_human']}"]["data"]["tier"] == 1
    assert heard[f"evt.run.stuck.{runs['stuck']}"]["data"]["stuck"] >= 1


def test_webhook_goes_to_no_private_address(site: Site, hooks: Hooks, receivers: Callable[..., Receiver]) -> None:
    receiver = receivers()
    there = hooks.hook(receiver, "https", deadline="10ms", url=f"https://localhost:{receiver.port}/")
    broker = broker_with(site, hooks.entry({"inside": there}, private_hosts=[]))
    broker.start()
    hooks.emit(site, 1)
    wait_until(lambda: broker.metric("muster_webhook_dead_total") == 1, 10, "the refusal")
    assert "not a public one" in broker.log() and not receiver.heard


REFUSED = [
    ({"hooks": {"a": {"url": "http://example.com/"}}}, "hooks.a.url: http came, https was expected"),
    ({"hooks": {"a": {"url": "https://user@example.com/"}}}, "hooks.a.url: https://host/"),
    ({"hooks": {"a": {"url": "file:///etc/passwd"}}}, "hooks.a.url: https://host/"),
    ({"hooks": {"a": {"url": "https://evil.com/"}}, "allow_hosts": [".example.com"]}, "allow_hosts does not name evil.com"),
    ({"hooks": {"a": {"url": "https://example.com/", "secret_file": "/none"}}}, "hooks.a.secret_file: /none: No such file"),
    ({"hooks": {"a": {"url": "https://example.com/", "secret_file": "/etc/hostname"}}}, "whsec_ and base64 were expected"),
    ({"hooks": {"a": {"url": "https://example.com/", "subjects": ["evt.*.paid.>", "evt.a.*.b"]}}}, "overlap"),
    ({"hooks": {"a": {"url": "https://example.com/", "subjects": ["rpc.>"]}}}, "requests are for who answers them"),
]


@pytest.mark.parametrize(("config", "words"), REFUSED, ids=lambda value: value[:30] if isinstance(value, str) else "")
def test_webhook_refuses_at_the_start(site: Site, hooks: Hooks, receivers: Callable[..., Receiver], config: dict[str, Any], words: str) -> None:
    made = {name: {**hooks.hook(receivers()), **given} for name, given in config["hooks"].items()}
    more = {key: value for key, value in config.items() if key != "hooks"}
    broker = broker_with(site, hooks.entry(made, private_hosts=[], **more))
    broker.start(ready=False)
    wait_until(lambda: not broker.alive, 20, "the end")
    assert words in broker.log()


def test_webhook_tells_of_a_secret_that_is_not_its_own(site: Site, child_hooks: Hooks, receivers: Callable[..., Receiver]) -> None:
    if not ROOT:
        pytest.skip("only where root runs the broker has a child another user")
    broker = broker_with(site, child_hooks.entry({"a": child_hooks.hook(receivers())}))
    shutil.chown(child_hooks.folder / "secret", "root")
    broker.start(ready=False)
    wait_until(lambda: not broker.alive, 20, "the end")
    assert f"hooks.a.secret_file: {child_hooks.folder}/secret: Permission denied" in broker.log()


def test_webhook_is_killed(site: Site, child_hooks: Hooks, receivers: Callable[..., Receiver]) -> None:
    """What it had taken is lost with it; what comes meanwhile is posted by the next process."""
    receiver = receivers(lambda n, delivery: (0 if n == 4 else 204, {}))
    broker = broker_with(site, child_hooks.entry({"all": child_hooks.hook(receiver)}))
    broker.start()
    for i in range(6):
        child_hooks.emit(site, i)
    wait_until(lambda: len(receiver.heard) == 4, 10, "three deliveries and one that hangs")
    kill_child(broker, "webhook.webhook")
    for i in range(6, 12):
        child_hooks.emit(site, i)
    wait_until(lambda: {delivery.body["data"]["i"] for delivery in receiver.heard} >= {0, 1, 2, 3, *range(6, 12)}, 20, "all that came after it")
    assert receiver.most_at_once <= 2, "the one that hangs is nobody's any more"


@pytest.mark.parametrize("where", ["inside", "outside", "replaced"])
def test_webhook_takes_over_another_secret(site: Site, child_hooks: Hooks, receivers: Callable[..., Receiver], where: str) -> None:
    """Of the folder that it may read, by the same process, which goes on with what waits. Of another place, or in the place of another
    file, by another process."""
    receiver = receivers()
    elsewhere = f"../{child_hooks.word}-secret"
    hook = child_hooks.hook(receiver, secret_file=child_hooks.put(elsewhere if where == "replaced" else "secret", KEY))
    entry = child_hooks.entry({"all": hook})
    give(entry, Path(hook["secret_file"]))
    broker = broker_with(site, entry)
    broker.start()
    before = processes.child_of(broker, "webhook.webhook")
    new = child_hooks.put("new-secret" if where == "inside" else f"{elsewhere}-new", OLD_KEY)
    give(entry, Path(new))
    if where == "replaced":
        new = str(Path(new).rename(hook["secret_file"]))
    reload(broker, lambda plugins: plugins[-1]["config"]["hooks"]["all"].update(secret_file=new, timeout="19s"))
    receiver.keys[:] = [OLD_KEY]
    child_hooks.emit(site, 1)
    wait_until(lambda: len(receiver.heard) == 1, 10, "the delivery")
    after = processes.child_of(broker, "webhook.webhook")
    assert after and (after == before) == (where == "inside")
    kill_child(broker, "webhook.webhook")
    child_hooks.emit(site, 2)
    wait_until(lambda: len(receiver.heard) == 2, 10, "the delivery of the next process, which was told what is in force")


# ---- cron ----


def cron(mode: str, word: str, **job: Any) -> dict[str, Any]:
    entry = example("cron", mode, {"lease_ttl": "3s", "jobs": {"tick": {
        "every": "1s", "tenants": ["acme"], "request": "series.next", "body": json.dumps({"series": word}), "late": "20s", **job}}}, instance=word)
    return entry if mode == "none" else {**entry, "restart": RESTART}


def last_run(broker: Musterd) -> float:
    return broker.metric("muster_cron_asked_total")


def test_cron_asks_once_in_the_cluster_and_goes_on_when_one_dies(site: Site, connect: Callable[..., Client], mode: str, word: str) -> None:
    """Two brokers, one job every second: each second is asked for once, whichever broker, or child, dies."""
    heard = connect().subscribe("mst.acme.rpc._p_cron.series.next")
    brokers = [broker_with(site, example("series", mode), cron(mode, word), name=name) for name in ("one", "two")]
    for broker in brokers:
        broker.start()
    wait_until(lambda: any(last_run(broker) >= 3 for broker in brokers), 20, "three runs")
    holder, other = sorted(brokers, key=last_run, reverse=True)
    assert last_run(other) == 0, "one of them asks"
    assert "standby" in other.get("/readyz")[1]
    if mode == "process":
        kill_child(holder, f"cron.{word}")
    else:
        holder.kill()
    wait_until(lambda: last_run(other) >= 3, 20, "the other one goes on")
    wait_until(lambda: other.metric("muster_cron_answered_total") >= 3, 10, "answers")
    assert other.metric("muster_cron_failed_total") == 0
    assert other.metric("muster_cron_missed_total") == 0, "what came late was not missed"
    times = [message.headers["Muster-Cron-Time"] for message in heard.messages]
    assert len(times) >= 6 and len(set(times)) == len(times), f"each once: {times}"
    number = next_number(connect("acme", "ann"), word)["number"]
    assert len(times) <= number - 1 <= len(times) + 1


def test_cron_tells_what_fails(site: Site, mode: str, word: str) -> None:
    broker = broker_with(site, cron(mode, word, request="nothing.there", tenants=["acme", "nobody"]))
    broker.start()
    wait_until(lambda: broker.metric("muster_cron_failed_total") >= 2, 20, "two failures")
    assert all_documented(broker, "cron")
    assert "no such service" in broker.log() and "there is no such tenant" in broker.log()
