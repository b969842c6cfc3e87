#!/usr/bin/env python3
"""What muster/plugin.h promises of itself and no compiler checks.

header.py HEADER LAYOUT: every function and callback says on which threads it runs; every struct that crosses the border can grow; no type
whose size depends on a compiler or an option; layout.c pins every member and every value.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

TAGS = re.compile(r"\[(init|lane|any)\]")
# Passed by value or in arrays whose stride is told elsewhere: they have no size, and never change.
FIXED = {"muster_bytes", "muster_header", "muster_list", "muster_map", "muster_option"}
FORBIDDEN = re.compile(r"\b(bool|_Bool|long|time_t|off_t|ssize_t|FILE|enum\s+\w+)\b|:\s*\d+\s*[;,]")


@dataclass
class Declaration:
    """One `…;` of the header: a member or a typedef."""

    text: str
    line: int
    comments: list[str] = field(default_factory=list)  # before it and behind it

    @property
    def function(self) -> str | None:
        found = re.search(r"\(\*(\w+)\)\s*\(", self.text)
        return found.group(1) if found else None

    @property
    def names(self) -> list[str]:
        if self.function:
            return [self.function]
        return [re.search(r"(\w+)\s*(?:\[\w*\])?$", part.strip()).group(1) for part in self.text.split(",")]  # type: ignore[union-attr]

    @property
    def tags(self) -> set[str]:
        return {tag for comment in self.comments for tag in TAGS.findall(comment)}


def declarations(source: str, first_line: int) -> list[Declaration]:
    """The declarations of a piece of the header, each with its own comments."""
    found: list[Declaration] = []
    text, before, line = "", [], first_line
    for token in re.finditer(r"/\*.*?\*/|;|\n|\([^()]*(?:\([^()]*\)[^()]*)*\)|[^;\n/(]+|.", source, re.S):
        piece = token.group()
        if piece.startswith("/*"):
            if not text.strip() and found and found[-1].line == line:
                found[-1].comments.append(piece)  # behind the declaration, on its line
            else:
                before.append(piece)
        elif piece == ";" and text.strip():
            found.append(Declaration(" ".join(text.split()), line, before))
            text, before = "", []
        elif piece != "\n":
            text += piece
        line += piece.count("\n")
    return found


def check_tags(where: str, found: list[Declaration], whole: set[str]) -> list[str]:
    """whole: what the comment of the whole struct says of all its functions. A function without a comment is like the one above it."""
    faults, last, n = [], Declaration("", -9), 0
    for each in found:
        if each.function:
            n += 1
            tags = each.tags or whole or (last.tags if not each.comments and last.function else set())
            if not tags:
                faults.append(f"line {each.line}: {where}{each.function} does not say where it runs: [init], [lane] or [any]")
            each.comments = each.comments or ([f"[{tag}]" for tag in tags])
        last = each
    return faults


def main() -> int:
    header, layout = (Path(name).read_text() for name in sys.argv[1:3])
    faults, n_functions, pinned = [], 0, set(re.findall(r"^AT\((\w+), (\w+),", layout, re.M))
    sized = set(re.findall(r"^SIZE\((\w+),", layout, re.M))
    values = set(re.findall(r"^VALUE\((\w+),", layout, re.M))
    structs = list(re.finditer(r"((?:/\*(?:(?!\*/).)*\*/\n)?)^struct (muster_\w+) \{\n(.*?)^\};", header, re.S | re.M))

    for comment, name, body in (match.groups() for match in structs):
        line = header[:header.index(f"struct {name} {{")].count("\n") + 2
        members = declarations(body, line)
        whole = set(TAGS.findall(comment)) if "verything here" in comment else set()
        faults += check_tags(f"{name}.", members, whole)
        n_functions += sum(member.function is not None for member in members)
        missing = [n for member in members for n in member.names if (name, n) not in pinned]
        faults += [f"layout.c does not pin {name}.{n}" for n in missing]
        if name not in sized:
            faults.append(f"layout.c does not pin the size of {name}")
        if name not in FIXED and members[0].names[0] != "size":
            faults.append(f"line {line}: {name} does not begin with size, so it can never grow")

    outside = re.sub(r"^struct muster_\w+ \{\n.*?^\};", lambda m: "\n" * m.group().count("\n"), header, flags=re.S | re.M)
    typedefs = [d for d in declarations(outside, 1) if d.text.startswith("typedef")]
    faults += check_tags("", typedefs, set())
    n_functions += len(typedefs)
    faults += [f"line {d.line}: {d.text}: only callbacks have a typedef" for d in typedefs if not d.function]

    plain = re.sub(r"/\*.*?\*/", lambda m: "\n" * m.group().count("\n"), header, flags=re.S)
    for number, text in enumerate(plain.splitlines(), 1):
        if FORBIDDEN.search(text):
            faults.append(f"line {number}: {text.strip()}: a type of no fixed size, or a bit field")
        if re.match(r"\s*#\s*(if|ifdef|else|elif)\b", text) and "__cplusplus" not in text:
            faults.append(f"line {number}: {text.strip()}: no switch may change the layout")
    enums = [m for body in re.findall(r"^enum \{(.*?)\};", plain, re.S | re.M) for m in re.findall(r"\b(MUSTER_\w+)\s*(?=[,=\n}]|$)", body)]
    faults += [f"layout.c does not pin {name}" for name in enums if name not in values]

    for fault in faults:
        print(f"{sys.argv[1]}: {fault}", file=sys.stderr)
    print(f"{len(structs)} structs, {n_functions} functions and callbacks, {len(enums)} values")
    return bool(faults) or n_functions < 60 or len(structs) < 20


if __name__ == "__main__":
    sys.exit(main())
