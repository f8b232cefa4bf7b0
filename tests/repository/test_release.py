"""Versions, project addresses and the archive for PGXN: what has to agree when a version is released."""

from __future__ import annotations

import json
import re
import subprocess
import zipfile

import jsonschema
import pytest
from helpers.paths import REPO

import pg_llm

EXTENSION = REPO / "extension"
META = json.loads((EXTENSION / "META.json").read_text())
TEXT = {"type": "string", "minLength": 1}
VERSION = {"type": "string", "pattern": r"^(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}(-[0-9A-Za-z-]+)?$"}
# What the PGXN Meta Spec 1.0 (pgxn.org/spec) requires, and the forms of what META.json has besides.
META_SPEC = {
    "type": "object",
    "required": ["name", "version", "abstract", "maintainer", "license", "provides", "meta-spec"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": r"^[^\s/\\\x00-\x1f]{2,}$"},
        "version": VERSION,
        "abstract": TEXT,
        "description": TEXT,
        "maintainer": TEXT,
        "license": {"enum": ["apache_2_0", "bsd", "gpl_3", "mit", "mozilla_1_1", "postgresql"]},
        "provides": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "required": ["file", "version"],
                "additionalProperties": False,
                "properties": {"file": TEXT, "version": VERSION, "abstract": TEXT, "docfile": TEXT},
            },
        },
        "meta-spec": {
            "type": "object",
            "required": ["version"],
            "properties": {"version": {"const": "1.0.0"}, "url": {"const": "https://pgxn.org/meta/spec.txt"}},
        },
        "prereqs": {
            "type": "object",
            "propertyNames": {"enum": ["configure", "build", "test", "runtime", "develop"]},
            "additionalProperties": {
                "type": "object",
                "propertyNames": {"enum": ["requires", "recommends", "suggests", "conflicts"]},
                "additionalProperties": {"type": "object", "additionalProperties": VERSION},
            },
        },
        "resources": {
            "type": "object",
            "properties": {
                "homepage": TEXT,
                "bugtracker": {"type": "object", "propertyNames": {"enum": ["web", "mailto"]}},
                "repository": {
                    "type": "object",
                    "required": ["url", "web", "type"],
                    "properties": {"url": {"pattern": r"\.git$"}, "type": {"pattern": "^[a-z]+$"}},
                },
            },
        },
        "tags": {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": r"^[^/\\]{1,255}$"}},
    },
}


def project() -> dict:
    return pytest.importorskip("tomllib").loads((REPO / "pyproject.toml").read_text())["project"]


def test_extension_and_package_have_one_version():
    control = (EXTENSION / "pg_llm.control").read_text()
    changelog = (EXTENSION / "CHANGELOG.md").read_text()
    named = {
        "pyproject.toml": project()["version"],
        "control": re.search(r"default_version = '(.+)'", control)[1],
        "META.json": META["version"],
        "META.json, provides": META["provides"]["pg_llm"]["version"],
        "CHANGELOG.md": re.search(r"^## (\S+)", changelog, re.MULTILINE)[1],
    }
    assert named == dict.fromkeys(named, pg_llm.__version__)


def test_the_metadata_for_pgxn_are_valid():
    jsonschema.validate(META, META_SPEC)
    files = [META["provides"]["pg_llm"][key] for key in ("file", "docfile")]
    assert all((EXTENSION / name).is_file() for name in files)


@pytest.mark.parametrize("wrong", [
    {"version": "0.1"}, {"license": "free"}, {"maintainer": ""},
    {"provides": {"pg_llm": {"version": "0.1.0"}}},
    {"prereqs": {"runtime": {"requires": {"PostgreSQL": "15"}}}}, {"licence": "mit"},
])  # fmt: skip
def test_invalid_metadata_are_found(wrong):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**META, **wrong}, META_SPEC)


@pytest.mark.skipif(not (REPO / ".git").exists(), reason="the archive is what git has")
def test_the_archive_for_pgxn(tmp_path):
    """make dist: the extension alone, with its tests, licences and metadata at the top."""
    name = f"pg_llm-{pg_llm.__version__}"
    command = ["make", "-s", "-f", EXTENSION / "Makefile", "dist", "PG_CONFIG=true"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    with zipfile.ZipFile(tmp_path / f"{name}.zip") as archive:
        names = {path.partition("/")[2] for path in archive.namelist() if path.startswith(f"{name}/")}
        assert len(archive.namelist()) == len(names)
    assert {"META.json", "LICENSE", "LICENSES.md", "Makefile", "pg_llm.control", "README.md"} <= names
    assert {"sql/00_schema.sql", "src/module.c", "kernels/dispatch.c", "test/sql/tensor.sql"} <= names
    assert not [path for path in names if path.endswith((".o", ".so"))]


def test_the_addresses_are_one_project():
    """Of the package, the archive for PGXN, the clone command, the badges."""
    address = project()["urls"]["Repository"]
    named = [
        *project()["urls"].values(),
        META["resources"]["homepage"],
        META["resources"]["repository"]["url"],
    ]
    assert [url for url in named if not url.startswith(address)] == []
    readme = (REPO / "README.md").read_text()
    assert f"git clone {address}" in readme
    owner_and_name = "/".join(address.split("/")[-2:])
    assert f"mybinder.org/v2/gh/{owner_and_name}/main?urlpath=" in readme
    assert f"codespaces.new/{owner_and_name}" in readme
