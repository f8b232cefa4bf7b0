"""Entries of the Python reference: public names with signature and docstring, commands with their help."""

from __future__ import annotations

import inspect
import re

import click

import pg_llm
from helpers.markdown import entry
from pg_llm.cli import cli


def python_entry(name: str) -> str:
    """A name of pg_llm.__all__: signature and docstring; of a class its public methods, too."""
    item = getattr(pg_llm, name)
    lines = [python_lines(f"pg_llm.{name}", item)]
    if inspect.isclass(item) and not issubclass(item, Exception):
        methods = {n: m for n, m in vars(item).items() if callable(m) and not n.startswith("_")}
        lines += [python_lines(f"{name}.{n}", m) for n, m in methods.items()]
    return "\n".join(lines)


def python_lines(name: str, item: object) -> str:
    """Signature, without the quotes of annotations, and docstring up to its first example."""
    shown = "" if inspect.isclass(item) and issubclass(item, Exception) else str(inspect.signature(item))
    shown = re.sub(r"(: |-> )'([^']*)'", r"\1\2", shown).replace("(self, ", "(").replace("(self)", "()")
    said = inspect.getdoc(item).partition("\n>>>")[0].strip()
    said = re.sub(r"(?<!\n)\n(?=\w+(, \w+)*: )", "\\\\\n", said)  # a line for each argument
    return entry([f"`{name}{shown}`"], re.sub(r"\n(?!\n)", "\n  ", said))


def command_entries() -> str:
    """The commands of pg-llm: usage, help, options."""
    entries = []
    for name, command in sorted(cli.commands.items()):
        context = click.Context(command, info_name=f"pg-llm {name}")
        usage = " ".join(command.collect_usage_pieces(context))
        text, _, examples = (command.help or "").partition("\b\n")
        options = [p.get_help_record(context) for p in command.params if isinstance(p, click.Option)]
        entries.append(
            entry([f"`pg-llm {name} {usage}`"], " ".join(text.split()))
            + "".join(f"\n  - `{flag}`: {what}" for flag, what in filter(None, options))
            + "".join(f"\n  - for example `{line.strip()}`" for line in re.findall("Example: (.*)", examples))
        )
    return "\n".join(entries)


def python_blocks(marker: str) -> str:
    """Marker -> what stands below it in pg_llm/README.md: names, or `commands`."""
    if marker == "commands":
        return command_entries()
    return "\n".join(python_entry(name) for name in marker.split())
