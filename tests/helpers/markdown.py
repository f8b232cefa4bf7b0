"""Lists of what there is, in Markdown."""

from __future__ import annotations

import re


def entry(heads: list[str], said: str) -> str:
    """An item of a list: signatures, and below them what they do."""
    return "- " + "\\\n  ".join([*heads, said])


def escaped(said: str) -> str:
    """Text of which Markdown takes nothing for emphasis or a tag."""
    return re.sub(r"[*<]", r"\\\g<0>", said)
