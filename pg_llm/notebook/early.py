"""%%sql, %%check and %pg_llm of a kernel that has not loaded the extension: after a restart, say."""

from __future__ import annotations


def register(shell) -> None:
    """Defines them; the first use loads the extension, which replaces them."""

    def define(name: str) -> None:
        def run(line, cell=None):
            shell.run_line_magic("load_ext", "pg_llm")
            print("%load_ext pg_llm had not been run; it has been now. Cells above may be needed, too.")
            if cell is None:
                return shell.run_line_magic(name, line)
            return shell.run_cell_magic(name, line, cell)

        shell.register_magic_function(run, "line_cell", name)

    for name in ("sql", "check", "pg_llm"):
        define(name)
