"""Texts that readers stumble over, the same each time: what a field may hold, and what somebody may give as a place in a list."""

from __future__ import annotations

import random

PIECES = ['"', '""', ",", ";", "\r", "\n", "\r\n", "\t", " ", "'", "\\", "\\n", "{", "}", "[", "]", "%", "$1", "%L", "=1+1", "NULL", "null", "a", "ü", "\u2028", "\U0001f600",
          "\x1e", "\x1f", "-", "0", "9", "."]


def texts(seed: int, n: int) -> list[str]:
    dice = random.Random(seed)
    return ["".join(dice.choice(PIECES) for _ in range(dice.randint(1, 12))) for _ in range(n)]


def places(seed: int, n: int) -> list[str]:
    """Some are places, of no row or of one; most are none."""
    dice = random.Random(seed)
    heads = ["0", "1", "17", "9" * 9, "9" * 10, "9" * 18, "9" * 19, "-1", "+1", "1e3", "0x1", " 1", "1 ", "", "\u0663", "1\n"]
    return [dice.choice(heads) + dice.choice(["", ".", ".x", ".'", "..", ". OR true --", ".\n", "." + dice.choice(texts(n, 8))]) for _ in range(n)]
