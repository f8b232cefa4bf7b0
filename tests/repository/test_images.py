"""Docker images, the compose file and the Codespace: what they name exists, as pyproject.toml has it."""

from __future__ import annotations

import ast
import json
import re
import sys

import pytest
from helpers.paths import REPO

from pg_llm.server import doctor

DOCKERFILE = (REPO / "Dockerfile").read_text()


def requirements() -> list[str]:
    lines = (REPO / "binder" / "server-requirements.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_the_servers_requirements_are_the_packages():
    project = pytest.importorskip("tomllib").loads((REPO / "pyproject.toml").read_text())["project"]
    assert {*requirements()} <= {*project["dependencies"]}


def test_the_server_image_has_what_it_imports():
    """Its program and what it loads into a database, imports inside functions included."""
    folders = [
        path for name in ("server", "files", "backup") for path in (REPO / "pg_llm" / name).rglob("*.py")
    ]
    roots = {
        REPO / "pg_llm" / "cli.py",
        REPO / "pg_llm" / "catalog.py",
        REPO / "pg_llm" / "classroom" / "__init__.py",
    }
    imported = set()
    for path in {*folders, *roots}:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    # Read by convert alone, registered if the user has it, or asked for by doctor.
    others = {"pg_llm", "gguf", "torch", "sqlalchemy", "jupyterlab", "tomli", "tomllib"}
    named = {re.match(r"[\w-]+", line)[0].lower() for line in requirements()}
    assert imported - {*sys.stdlib_module_names} - others <= named


def test_doctor_knows_what_the_server_image_leaves_out():
    project = pytest.importorskip("tomllib").loads((REPO / "pyproject.toml").read_text())["project"]
    left_out = {re.match(r"[\w-]+", line)[0] for line in {*project["dependencies"]} - {*requirements()}}
    assert left_out - {"tomli"} == doctor.NOTEBOOK_PACKAGES


def test_each_image_has_its_parts():
    stages = re.split(r"^FROM \S+ AS ", DOCKERFILE, flags=re.MULTILINE)
    for name in ("lab", "server"):
        stage = next(text for text in stages if text.startswith(f"{name}\n"))
        assert "HEALTHCHECK" in stage and "USER learner" in stage and "EXPOSE" in stage
    base = next(text for text in stages if text.startswith("base\n"))
    assert "VOLUME /var/lib/pg_llm" in base and "tini" in base
    # A user id without an account (OpenShift, docker run -u 12345) makes its data and its settings there.
    assert "-m 1777 /var/lib/pg_llm" in base and "chmod 1777 /home/learner" in base
    assert "HOME=/home/learner" in base
    # What a COPY or a RUN names of the checkout.
    assert all((REPO / name).exists() for name in re.findall(r"/src/(\S+)", DOCKERFILE))


def test_the_compose_file_starts_images_of_the_dockerfile():
    yaml = pytest.importorskip("yaml")
    composed = yaml.safe_load((REPO / "binder" / "compose.yaml").read_text())
    targets = {service["build"]["target"] for service in composed["services"].values()}
    assert targets == {"server", "lab"}
    assert all(f" AS {target}\n" in DOCKERFILE for target in targets)
    mounted = [v.split(":") for service in composed["services"].values() for v in service["volumes"]]
    assert {name for name, _ in mounted} == {*composed["volumes"]}
    assert {folder for _, folder in mounted} == {"/var/lib/pg_llm"}


def test_the_codespace_opens_a_notebook_that_exists():
    container = json.loads((REPO / ".devcontainer" / "devcontainer.json").read_text())
    opened = container["customizations"]["codespaces"]["openFiles"]
    # The learner's copy, which `pg-llm notebooks` makes.
    assert all((REPO / name.removeprefix("my_")).exists() for name in opened)
    assert "pg-llm notebooks" in container["postCreateCommand"]
