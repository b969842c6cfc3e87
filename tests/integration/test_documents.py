"""What the documents say is so, and the tree keeps its rules."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client import Client
from harness import BUILD, REPO, Site, binary, wait_until

PAGES = [p for p in REPO.rglob("*.md") if not {"build", ".venv", ".muster"} & set(p.relative_to(REPO).parts)]
CDC_PAGE = (REPO / "plugins/cdc/README.md").read_text()
PRESENCE_PAGE = (REPO / "plugins/presence/README.md").read_text()
AUTH_PAGE = (REPO / "plugins/auth/README.md").read_text()
HEADER = (REPO / "broker/include/muster/plugin.h").read_text()
ABI_PAGE = (REPO / "broker/include/muster/ABI.md").read_text()
HOMES = {  # a third-party header and the folders that may include it
    r"nats/|nats\.h": ("broker/bus/",),
    r"libpq-fe\.h": ("broker/sql/", "plugins/cdc/"),
    r"msgpack": ("broker/wire/",),
    r"yaml\.h": ("broker/config/", "schemas/"),
    r"microhttpd": ("broker/http/",),
    r"xxhash": ("broker/base/",),
    r"curl/": ("broker/auth/",),
}


def sources() -> list[Path]:
    return [p for top in ("broker", "plugins", "schemas") for p in (REPO / top).rglob("*.[ch]")]


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.M | re.S) if language in languages]


@pytest.mark.parametrize("header", HOMES)
def test_third_party_headers_stay_in_their_folder(header: str) -> None:
    found = {str(p.relative_to(REPO)) for p in sources() if re.search(rf"#include <({header})", p.read_text())}
    assert found, "nobody includes it: is the pattern still right?"
    assert not [name for name in found if not name.startswith(HOMES[header])]


def test_the_core_knows_no_plugin_by_name() -> None:
    names = "|".join(p.name for p in (REPO / "plugins").iterdir() if p.is_dir() and p.name != "common")
    for path in (REPO / "broker/core").rglob("*.[ch]"):
        code = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
        code = re.sub(r'(is_word\(word, len, |instance_has_capability\(.*?, )"\w+"\)', "", code)  # a capability, which any plugin may ask for
        code = re.sub(r'include "auth/.*', "", code)  # broker/auth, which the plugin of that name carries along
        code = re.sub(r'is_word\(word, len, "\w+"\)', "", code)  # capabilities
        assert not re.search(rf'include "({names})/|"({names})"', code), path


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPO)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def options_of(schema: dict[str, Any], prefix: str = "") -> list[str]:
    """Keys as the page writes them: groups with a dot, the settings of a map's entries alone."""
    found = []
    for key, option in schema["properties"].items():
        entry = option.get("additionalProperties")
        if "properties" in option:
            found += options_of(option, f"{prefix}{key}.")
        else:
            found += [prefix + key, *(options_of(entry) if isinstance(entry, dict) else [])]
    return found


def test_plugin_schemas_are_current() -> None:
    made = sorted((BUILD / "generated/plugins").glob("*.json"))
    assert {p.name for p in made} == {p.name for p in (REPO / "schemas/plugins").glob("*.json")} != set()
    for path in made:
        assert path.read_text() == (REPO / "schemas/plugins" / path.name).read_text(), "build the target plugin-schemas-update"


def test_the_page_of_cdc_names_every_option_with_its_default() -> None:
    schema = json.loads((REPO / "schemas/plugins/cdc.json").read_text())
    for key in options_of(schema):
        assert f"`{key}`" in CDC_PAGE, key
    for key, option in schema["properties"].items():
        default = option.get("default", "")
        row = next(line for line in CDC_PAGE.splitlines() if line.startswith(f"| `{key}") or line.startswith(f"| `{key}."))
        assert not default or f"`{default}`" in row, f"{key}: the default is {default}"


def test_the_page_of_cdc_names_every_fault_gap_and_metric() -> None:
    code = "\n".join(p.read_text() for p in (REPO / "plugins/cdc").glob("*.c"))
    words = set(re.findall(r'MUSTER_HEALTH_\w+,\s+(?:code == \w+ \? )?"([a-z_]+)"', code)) | \
        set(re.findall(r'\{"([a-z_]+)", MUSTER_HEALTH_', code)) | set(re.findall(r'return "([a-z]+_[a-z]+)";', code)) | \
        set(re.findall(r'\{MUSTER_(?:COUNTER|GAUGE|HISTOGRAM), "([a-z_]+)"', code))
    assert len(words) > 30, "the patterns no longer fit the code"
    assert not [word for word in words - {"ok"} if not re.search(rf"`{word}[`{{]", CDC_PAGE)]


def test_the_page_of_auth_names_every_option_code_and_reason() -> None:
    schema = json.loads((REPO / "schemas/plugins/auth.json").read_text())
    assert not [key for key in options_of(schema) if f"`{key}`" not in AUTH_PAGE]
    code = "\n".join(p.read_text() for p in [*(REPO / "plugins/auth").glob("*.c"), REPO / "broker/auth/bearer.c"])
    words = set(re.findall(r'MUSTER_HEALTH_\w+, "([a-z_]+)"', code)) | set(re.findall(r'\[BEARER_\w+\] = "([a-z_]+)"', code)) | \
        set(re.findall(r'refuse\((?:l->)?a, (?:login->|l->|b->)?id, "([a-z_]+)"', code)) | {"key_fetches_total", "keys"}
    assert len(words) > 17, "the patterns no longer fit the code"
    assert not [word for word in words - {"ok", "taken"} if not re.search(rf"`(muster_auth_)?{word}[`{{]", AUTH_PAGE)]


def test_the_page_of_presence_names_every_option_code_and_metric() -> None:
    schema = json.loads((REPO / "schemas/plugins/presence.json").read_text())
    for key, option in schema["properties"].items():
        row = next(line for line in PRESENCE_PAGE.splitlines() if line.startswith(f"| `{key}`"))
        assert f"`{option.get('default', '')}`" in row or "default" not in option, key
    code = "\n".join(p.read_text() for p in (REPO / "plugins/presence").glob("*.c"))
    words = set(re.findall(r'MUSTER_HEALTH_\w+, "([a-z_]+)"', code)) | set(re.findall(r'MUSTER_(?:COUNTER|GAUGE|HISTOGRAM),\s+"([a-z_]+)"', code))
    assert len(words) > 20, "the patterns no longer fit the code"
    assert not [word for word in words - {"ok"} if not re.search(rf"`{word}[`{{]", PRESENCE_PAGE)]


def test_the_page_of_fanout_names_every_option_code_and_metric() -> None:
    page = (REPO / "plugins/fanout/README.md").read_text()
    schema = json.loads((REPO / "schemas/plugins/fanout.json").read_text())
    for key, option in schema["properties"].items():
        row = next((line for line in page.splitlines() if line.startswith("|") and f"`{key}`" in line), "")
        assert f"`{option['default']}`" in row, key
    code = "\n".join(p.read_text() for p in (REPO / "plugins/fanout").glob("*.c"))
    words = set(re.findall(r'MUSTER_HEALTH_\w+,\s+(?:code == \w+ \? )?"([a-z_]+)"', code)) | set(re.findall(r'"([a-z]+(?:_[a-z]+)*_total)"', code))
    assert len(words) > 10, "the patterns no longer fit the code"
    assert not [word for word in words - {"ok"} if not re.search(rf"`(muster_fanout_)?{word}[`{{]", page)]


def test_the_page_of_tasks_names_every_option_code_metric_and_verb() -> None:
    page = (REPO / "plugins/tasks/README.md").read_text()
    schema = json.loads((REPO / "schemas/plugins/tasks.json").read_text())
    for key, option in schema["properties"].items():
        row = next((line for line in page.splitlines() if line.startswith("|") and f"`{key}`" in line), "")
        assert f"`{option['default']}`" in row, key
    code = "\n".join(p.read_text() for folder in ("tasks", "common/work") for p in (REPO / "plugins" / folder).glob("*.c"))
    words = set(re.findall(r'MUSTER_HEALTH_\w+, "([a-z_]+)"', code)) | set(re.findall(r'"([a-z]+(?:_[a-z]+)*_total)"', code))
    assert len(words) > 5, "the patterns no longer fit the code"
    assert not [word for word in words - {"ok"} if not re.search(rf"`(muster_tasks_)?{word}[`{{]", page)]
    verbs = re.findall(r"^  (\w+):$", (REPO / "schemas/messages/task.yaml").read_text().partition("\nverbs:\n")[2].partition("\nevents:\n")[0], re.MULTILINE)
    assert len(verbs) > 15 and not [verb for verb in verbs if f"`{verb}`" not in page]


def test_the_page_of_runs_names_every_option_code_metric_and_verb() -> None:
    page = (REPO / "plugins/runs/README.md").read_text()
    schema = json.loads((REPO / "schemas/plugins/runs.json").read_text())
    for key, option in schema["properties"].items():
        row = next((line for line in page.splitlines() if line.startswith("|") and f"`{key}`" in line), "")
        default = option["default"]
        assert (f"`[{', '.join(default)}]`" if isinstance(default, list) else f"`{default}`") in row, key
    code = "\n".join(p.read_text() for folder in ("runs", "common/work") for p in (REPO / "plugins" / folder).glob("*.c"))
    words = set(re.findall(r'MUSTER_HEALTH_\w+, "([a-z_]+)"', code)) | set(re.findall(r'"([a-z]+(?:_[a-z]+)*_total)"', code))
    assert len(words) > 4, "the patterns no longer fit the code"
    assert not [word for word in words - {"ok"} if not re.search(rf"`(muster_runs_)?{word}[`{{]", page)]
    verbs = re.findall(r"^  (\w+):$", (REPO / "schemas/messages/run.yaml").read_text().partition("\nverbs:\n")[2].partition("\nevents:\n")[0], re.MULTILINE)
    assert len(verbs) > 12 and not [verb for verb in verbs if f"`{verb}`" not in page]


def test_the_page_of_help_names_every_option_code_metric_and_verb() -> None:
    page = (REPO / "plugins/help/README.md").read_text()
    schema = json.loads((REPO / "schemas/plugins/help.json").read_text())
    for key, option in schema["properties"].items():
        row = next((line for line in page.splitlines() if line.startswith("|") and f"`{key}`" in line), "")
        assert f"`{str(option['default']).lower()}`" in row, key
    code = "\n".join(p.read_text() for folder in ("help", "common/work") for p in (REPO / "plugins" / folder).glob("*.c"))
    words = set(re.findall(r'MUSTER_HEALTH_\w+, "([a-z_]+)"', code)) | set(re.findall(r'"([a-z]+(?:_[a-z]+)*_total)"', code))
    assert len(words) > 5, "the patterns no longer fit the code"
    assert not [word for word in words - {"ok"} if not re.search(rf"`(muster_help_)?{word}[`{{]", page)]
    verbs = re.findall(r"^  (\w+):$", (REPO / "schemas/messages/help.yaml").read_text().partition("\nverbs:\n")[2].partition("\nevents:\n")[0], re.MULTILINE)
    assert len(verbs) > 10 and not [verb for verb in verbs if f"`{verb}`" not in page]


def commands() -> list[str]:
    """Every command line with muster or musterd in a shell block, without its comment."""
    lines = [line.partition("#")[0] for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    return sorted({m[0].strip() for line in lines for m in re.finditer(r"(?<![/\w])musterd? [^|&;]*", line)})


@pytest.mark.parametrize("line", commands())
def test_commands_that_are_shown_exist(line: str) -> None:
    program, *words = line.split()
    words = words[2:] if words[0] == "-c" else words
    argv = [binary(program), *([words[0]] if program == "muster" else []), "--help"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for option in re.findall(r"--[a-z-]+", line):
        assert option in done.stdout, f"{option} of {line}"
    if program == "muster" and words[0] in ("tenant", "agent", "plugin"):
        assert re.search(rf"\b{words[1]}\b", done.stdout), f"{words[1]} of {line}"


def test_the_page_of_the_abi_names_every_service_and_call() -> None:
    services = re.findall(r'#define (MUSTER_\w+) "(muster\.\w+/\d+)"(.*?)(?=#define MUSTER_\w+ "muster\.|\Z)', HEADER, re.S)
    assert len(services) >= 10
    minor = re.search(r"#define MUSTER_ABI_MINOR (\d+)", HEADER)
    assert minor and f"| 0.{minor[1]} |" in ABI_PAGE, "the table of minors lacks the present one"
    for _, name, text in services:
        row = next((line for line in ABI_PAGE.splitlines() if line.startswith(f"| `{name}`")), "")
        assert row, name
        if name != "muster.codec/1":  # told in a few words
            for call in re.findall(r"\(\*(\w+)\)\(const struct muster_host", text):
                assert re.search(rf"\b{call}\b", row), f"{name} {call}"


def test_the_example_is_the_plugin_of_the_abi_page() -> None:
    source = next(text for text in blocks(REPO / "broker/include/muster/ABI.md", "c") if "MUSTER_PLUGIN(" in text)
    assert (REPO / "examples/plugin-hello/hello.c").read_text() == source, "one text in two places"


def test_the_page_of_the_abi_tells_what_the_package_has() -> None:
    package = REPO / "deploy/package"
    for function in re.findall(r"^function\((\w+)", (package / "musterPlugin.cmake").read_text(), re.M):
        assert f"{function}(" in ABI_PAGE, function
    for variable in re.findall(r"^set\((muster_\w+)", (package / "musterConfig.cmake.in").read_text(), re.M):
        assert f"`{variable}`" in ABI_PAGE, variable
    for variable in re.findall(r"^(\w+)=", (package / "muster.pc.in").read_text(), re.M):
        assert variable == "prefix" or f"`{variable}`" in ABI_PAGE, variable


def test_the_plugin_of_the_abi_page(site: Site, connect: Callable[..., Client]) -> None:
    """Built as the page says, loaded, asked: the hour that the page promises ends well."""
    source = next(text for text in blocks(REPO / "broker/include/muster/ABI.md", "c") if "MUSTER_PLUGIN(" in text)
    (site.folder / "hello.c").write_text(source)
    build = next(line for text in blocks(REPO / "broker/include/muster/ABI.md", "sh") for line in text.splitlines() if line.startswith("cc "))
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-I", str(REPO / "broker/include")]
    subprocess.run([*build.replace("$(pkg-config --cflags muster)", "").split(), *strict], cwd=site.folder, check=True)

    broker = site.broker()
    broker.config["plugins"].append({"path": "hello.so", "config": {"greeting": "Good morning"}})
    broker.start()
    ann = connect("acme", "ann")
    answer = ann.request("mst.acme.rpc.ann.hello.say", b'{"name": "Bob"}')
    assert json.loads(answer.data) == {"greeting": "Good morning", "name": "Bob", "count": 1}
    assert json.loads(ann.request("mst.acme.rpc.ann.hello.say").data) == {"greeting": "Good morning", "name": "ann", "count": 2}
    refused = ann.request("mst.acme.rpc.ann.hello.say", b'{"name": 7}')
    assert json.loads(refused.data)["error"]["field"] == "name"
    assert refused.headers["Nats-Service-Error-Code"] == "400"
    wait_until(lambda: broker.metric("muster_hello_said_total") == 2, 20, "the count, which a child tells in a moment")
