#!/usr/bin/env python3
"""Which folder may include what (ARCHITECTURE): a third-party library stands behind one folder, and core/ knows no plugin by name.

includes.py SOURCE_DIR
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

# Header or folder of headers: where it may be included.
OWNERS = {
    "nats": ("broker/bus/",),
    "libpq-fe.h": ("broker/sql/", "plugins/cdc/"),
    "libpq": ("broker/sql/", "plugins/cdc/"),
    "msgpack": ("broker/wire/",),
    "msgpack.h": ("broker/wire/",),
    "yaml.h": ("broker/config/", "schemas/"),
    "xxhash.h": ("broker/base/",),
    "microhttpd.h": ("broker/http/",),
    "uv.h": ("broker/core/lane.h", "broker/sql/", "broker/tenant/", "broker/cli/", "broker/child/"),
    "gnutls": ("broker/http/",),
    "seccomp.h": ("broker/child/",),
    "openssl": ("broker/auth/", "broker/base/", "broker/cli/", "broker/wire/"),
    "curl": ("broker/auth/",),
    "cjson": ("broker/auth/", "broker/bus/", "broker/cli/", "plugins/cdc/"),
}
COMMON = "common"  # of plugins/: no plugin, but what several of them carry along
SYSTEM = {"muster", "sys", "netinet", "arpa", "net", "linux"}
# What a folder of the broker may use, besides base/ and itself; who is not named here may use all.
USES = {
    "base": set(),
    "wire": set(),
    "config": {"tenant"},  # tenant/limits.h alone
    "metrics": set(),
    "http": set(),
    "bus": {"core"},  # core/lane.h alone
    "sql": set(),
    "tenant": {"auth", "sql"},
    "auth": {"wire"},
    "lease": {"wire"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.M)


def faults(root: Path) -> list[str]:
    found: list[str] = []
    plugins = {p.name for p in (root / "plugins").iterdir() if p.is_dir() and p.name != COMMON}
    files = [f for folder in ("broker", "plugins", "schemas") for f in sorted((root / folder).rglob("*.[ch]"))]
    for file in files:
        name, text = str(file.relative_to(root)), file.read_text()
        for kind, header in INCLUDE.findall(text):
            found += include_faults(name, kind, header)
        if name.startswith("plugins/"):
            own = name.split("/")[1]
            for kind, header in INCLUDE.findall(text):
                if kind == '"' and "/" in header and header.split("/")[0] not in ("base", "wire", "muster", "schemas", COMMON, own):
                    found.append(f"{name}: includes {header}: a plugin uses muster/plugin.h, its own files, and {COMMON}/, base/ and wire/, which it carries along")
        if name.startswith("broker/core/") or name == "broker/main.c":
            code = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
            code = re.sub(r'#\s*include "auth/.*', "", code)  # broker/auth, which the plugin of that name carries along
            code = re.sub(r'\\"auth\\"|\bauth callout\b', "", code)  # words of NATS
            code = re.sub(r"\bevt\.\w+", "", code)  # subjects of the interface
            code = re.sub(r'\bhelp\b(?!\.)(?!_\w+\()|\{"help", no_argument', "", code)  # a word of options and metrics
            code = re.sub(r"(?<=[a-z] )runs(?= [a-z])|\bthat runs\b", "", code)  # a word of sentences
            code = re.sub(r'(?:is_word\(word, len|instance_has_capability\([^"]*), "\w+"\)|\bcapability \\"\w+\\"', "", code)  # any plugin may have them
            found += [f"{name}: knows the plugin {p} by name" for p in plugins if re.search(rf'"[^"]*\b{p}\b[^"]*"|\b{p}_\w+\(', code)]
    if len(files) < 50:
        found.append(f"{root}: only {len(files)} files: is this the source folder?")
    return found


def include_faults(name: str, kind: str, header: str) -> list[str]:
    top = header.split("/")[0]
    if top in OWNERS and kind == "<" and not name.startswith(OWNERS[top]):
        return [f"{name}: includes <{header}>: that belongs to {' and '.join(OWNERS[top])}"]
    if kind == "<" and "/" in header and top not in OWNERS and top not in SYSTEM:
        return [f"{name}: includes <{header}>: whose library is that? Name its owner in {Path(__file__).name}"]
    parts = name.split("/")
    if kind == '"' and parts[0] == "broker" and parts[1] in USES and "/" in header:
        if top not in USES[parts[1]] | {"base", "muster", "schemas", parts[1]} or (top == "core" and header != "core/lane.h") or (
                top == "tenant" != parts[1] and header != "tenant/limits.h"):
            return [f"{name}: includes \"{header}\": {parts[1]}/ may use base/ {' '.join(sorted(USES[parts[1]]))}"]
    return []


if __name__ == "__main__":
    problems = faults(Path(sys.argv[1]))
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(bool(problems))
