"""frozen.py INCLUDE: each declaration of the released headers (v*/) stands in INCLUDE/muster/plugin.h word for word, at its place.

What abidiff lets pass where a struct has grown, as the type of what a function member gives, is found here. Names of parameters count as
well: they are the documentation. And that a changed one is found is tried each time.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from header import declarations

Shape = dict[str, list[str]]


def shape(header: str) -> Shape:
    """Members of each struct, values of each enum, and the callbacks' types, in order."""
    plain = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    found: Shape = {}
    for name, body in re.findall(r"^struct (muster_\w+) \{\n(.*?)^\};", plain, re.S | re.M):
        found[f"struct {name}"] = [part for member in declarations(body, 1) for part in split(member.text)]
    for body in re.findall(r"^enum \{(.*?)\};", plain, re.S | re.M):
        values = [" ".join(value.split()) for value in body.split(",") if value.strip()]
        found[f"enum of {values[0]}"] = values
    for callback in re.findall(r"^typedef [^;]*;", plain, re.M):
        found[" ".join(callback.split())] = []
    return found


def split(member: str) -> list[str]:
    """`uint32_t a, b` is two members."""
    if "(" in member or "," not in member:
        return [member]
    kind, names = re.fullmatch(r"(.*?)(\**\w+(?:, \**\w+)*)", member).groups()  # type: ignore[union-attr]
    return [f"{kind}{name}" for name in names.split(", ")]


def changes(before: Shape, now: Shape) -> list[str]:
    faults = []
    for name, members in before.items():
        if name not in now:
            faults.append(f"{name} is not there any more")
        elif now[name][:len(members)] != members:
            at = next(i for i, member in enumerate(members) if now[name][i:i + 1] != [member])
            faults.append(f"{name}: {members[at]}: now {(now[name] + ['nothing'])[at]}")
    return faults


def main() -> int:
    header = (Path(sys.argv[1]) / "muster/plugin.h").read_text()
    now, found = shape(header), 0
    released = sorted(Path(__file__).parent.glob("v*/muster/plugin.h"))
    for path in released:
        before = shape(path.read_text())
        found += sum(map(len, before.values()))
        for fault in changes(before, now):
            print(f"{path.parent.parent.name}: {fault}", file=sys.stderr)
            return 1
    for old, new in (("int64_t (*wall_now)(", "int32_t (*wall_now)("), ("MUSTER_SYS_GAP = 3", "MUSTER_SYS_GAP = 6"), ("uint64_t request;", "uint32_t request;")):
        assert header.count(old) == 1, old
        assert changes(now, shape(header.replace(old, new))), f"{new} was not found"
    print(f"{found} members and values of {len(released)} headers")
    return found < 300


if __name__ == "__main__":
    sys.exit(main())
