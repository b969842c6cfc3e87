"""Processes of plugins in a child, as the system sees them."""

from __future__ import annotations

import re
from pathlib import Path

from harness import Musterd


def runs(pid: int) -> bool:
    """Neither gone nor waiting for somebody to look at its end."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def child_of(server: Musterd, instance: str) -> int:
    """The process of an instance, "echo.main"; 0 when there is none."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = re.search(r"PPid:\s+(\d+)", (entry / "status").read_text())
        except OSError:
            continue
        if parent and int(parent[1]) == server.pid and instance.encode() in words and b"--plugin-host" in words and runs(int(entry.name)):
            return int(entry.name)
    return 0
