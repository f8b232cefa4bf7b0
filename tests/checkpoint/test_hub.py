"""Models of the Hugging Face hub: download, its faults, the token; the hub is a server on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.checkpoint_files import CONFIG, gpt2, same, stored, write_safetensors
from helpers.checkpoint_files import model as model
from helpers.hub_server import Hub, serving
from helpers.paths import REPO

import pg_llm
from pg_llm.files.checkpoint import open_checkpoint

pytestmark = pytest.mark.slow

OLD, NEW = "a" * 40, "b" * 40
TOKEN = "hf_neverShown"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tmp_path):
    """A model in two commits, whose newer one has other weights and a copy of them for PyTorch."""
    commits = {}
    for seed, commit in enumerate([OLD, NEW]):
        weights = write_safetensors(tmp_path / WEIGHTS, gpt2(seed=seed)).read_bytes()
        files = {"config.json": json.dumps(CONFIG).encode(), WEIGHTS: weights, "README.md": b"# a model"}
        commits[commit] = files | {"pytorch_model.bin": b"the same, pickled" * 9, "vocab.json": b'{"a": 0}'}
    with serving(Hub("someone/tiny", commits, {"main": NEW, "v1": OLD})) as hub:
        yield hub


@pytest.fixture
def env(tmp_path, hub):
    """The variables of a user with a token, whose hub is the server on this machine."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    own |= {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "PYTHONPATH": str(REPO),
    }
    return own | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def start(env, code, **more):
    command = [
        sys.executable,
        "-c",
        f"import pg_llm\ntry:\n {code}\nexcept pg_llm.KitError as e: exit(str(e))",
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env | more, cwd=REPO
    )


def run(env, code="print(pg_llm.download('someone/tiny'))", **more):
    """Runs the statement in a new process; returns its output, its error and its exit code."""
    process = start(env, code, **more)
    out, err = process.communicate(timeout=120)
    assert TOKEN not in out + err
    return out.strip(), err, process.returncode


def refused(env, code="pg_llm.download('someone/tiny')", **more):
    """The last line of the error."""
    out, err, status = run(env, code, **more)
    assert status == 1 and "Traceback" not in err, err
    return err.strip().splitlines()[-1]


def names(folder):
    return {path.name for path in Path(folder).iterdir()}


def test_a_download_is_a_model(env, hub, conn, model):
    folder, err, _ = run(env)
    assert names(folder) == {"config.json", WEIGHTS, "vocab.json"}  # one copy of the weights, no README
    assert "Downloading" in err or "Fetching" in err
    pg_llm.load_model(conn, folder, model, progress=False)
    assert same(stored(conn, model), gpt2(seed=1))
    hub.asked.clear()
    again, err, _ = run(env, "print(pg_llm.download('someone/tiny', progress=False))")
    assert again == folder and "%" not in err
    assert not [path for _, path, _ in hub.asked if "/resolve/" in path]  # from the cache


def test_a_revision_is_pinned(env, hub):
    for revision in ["v1", OLD]:
        folder, _, _ = run(env, f"print(pg_llm.download('someone/tiny', revision='{revision}'))")
        assert (Path(folder) / WEIGHTS).read_bytes() == hub.commits[OLD][WEIGHTS]
    hub.branches["main"] = OLD
    assert run(env)[0] == folder
    assert (
        refused(env, "pg_llm.download('someone/tiny', revision='v9')") == 'someone/tiny has no revision "v9"'
    )


def test_without_the_network(env, hub):
    assert "download it again, online" in refused(env, HF_HUB_OFFLINE="1")
    folder, _, _ = run(env)
    assert run(env, HF_HUB_OFFLINE="1")[0] == folder
    asked = len(hub.asked)
    assert run(env, "print(pg_llm.download('someone/tiny', offline=True))")[0] == folder
    assert len(hub.asked) == asked
    assert run(env, HF_ENDPOINT="http://127.0.0.1:9")[0] == folder  # nothing answers there
    blob = (Path(folder) / WEIGHTS).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\0")
    assert f"{WEIGHTS} was damaged" in refused(env, HF_HUB_OFFLINE="1")


def test_other_files(env, hub):
    """Shards are all downloaded; without safetensors, PyTorch's file is; without weights, nothing is."""
    files = {name: data for name, data in hub.commits[NEW].items() if name != WEIGHTS}
    hub.branches["main"], hub.commits["e" * 40] = "e" * 40, files | {"tiny.q8.gguf": b"GGUF"}
    file, _, _ = run(env, "print(pg_llm.download('someone/tiny', file='tiny.q8.gguf'))")
    assert Path(file).read_bytes() == b"GGUF" and "pytorch_model.bin" not in names(Path(file).parent)
    error = refused(env, "pg_llm.download('someone/tiny', file='tiny.q4.gguf')")
    assert "has no tiny.q4.gguf; of its files README.md, config.json, " in error and "tiny.q8.gguf, " in error
    assert "pytorch_model.bin" in names(run(env)[0])
    hub.branches["main"] = "c" * 40
    shards = {f"model-0000{i}-of-00002.safetensors": bytes([i]) * 99 for i in (1, 2)}
    hub.commits["c" * 40] = files | shards | {"model.safetensors.index.json": b"{}"}
    assert set(shards) <= names(run(env)[0])
    hub.branches["main"] = "d" * 40
    hub.commits["d" * 40] = {"README.md": b"", "config.json": b"{}"}
    error = refused(env)
    assert (
        "has no model.safetensors, " in error and "of its files README.md, config.json, `file` may" in error
    )


def test_the_commands(env, hub, server, model, tmp_path):
    def command(*arguments, status=0):
        done = subprocess.run(
            [sys.executable, "-m", "pg_llm", *arguments],
            capture_output=True,
            text=True,
            env=env | {name: os.environ[name] for name in ("PG_LLM_HOME", "PG_LLM_EXTENSION")},
            cwd=tmp_path,
            timeout=120,
        )
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    said = command("download", "someone/tiny", "--revision", "v1", "--model", model)
    assert (
        f"snapshots/{OLD}" in said and f"model {model}: {sum(w.size for w in gpt2().values())} param" in said
    )
    assert command("download", "someone/tiny", "--revision", OLD, "--offline").count("\n") == 1
    command("convert", "--source", "someone/tiny", "--output", "new.npz")
    with open_checkpoint(tmp_path / "new.npz") as checkpoint:
        assert same({t.name: t.load() for t in checkpoint.tensors}, gpt2(seed=1))
    asked = len(hub.asked)
    (tmp_path / "models").mkdir()
    for source in ["models/mistyped", "./someone/tiny", "tiny"]:
        error = command("convert", "--source", source, "--output", "x.npz", status=1)
        assert error.startswith(f"pg-llm: {source}: no such file or folder, and no OWNER/NAME")
    assert len(hub.asked) == asked
    error = command("convert", "--source", "someone/else", "--output", "x.npz", status=1)
    assert error.startswith("pg-llm: someone/else: no such file or folder; on the hub: 127.0.0.1:")


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_flipped_bit(env, hub, name):
    hub.flip = name
    error = refused(env)
    assert f"{name} was damaged" in error
    data = hub.commits[NEW][name]
    assert (hashlib.sha256(data).hexdigest() in error) == (name == WEIGHTS)
    hub.flip = ""
    assert (Path(run(env)[0]) / name).read_bytes() == data


def test_a_broken_transfer(env, hub):
    """It is resumed; where it breaks off again and again, nothing is left that could be loaded."""
    hub.cut[WEIGHTS] = 1
    folder, _, _ = run(env)
    assert (Path(folder) / WEIGHTS).read_bytes() == hub.commits[NEW][WEIGHTS]
    hub.branches["main"], hub.cut[WEIGHTS] = OLD, 1000
    at_once = "import time; time.sleep = lambda seconds: None; "
    assert "someone/tiny was not downloaded" in refused(env, at_once + "pg_llm.download('someone/tiny')")
    assert not list(Path(env["HF_HOME"]).rglob(f"snapshots/{OLD}/{WEIGHTS}"))
    assert not list(Path(env["HF_HOME"]).rglob("*.incomplete"))


def test_a_killed_download(env, hub):
    hub.slow = WEIGHTS
    process = start(env, "print(pg_llm.download('someone/tiny'))")
    while not any(method == "GET" and path.endswith(WEIGHTS) for method, path, _ in hub.asked):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    parts = list(Path(env["HF_HOME"]).rglob("*.incomplete"))
    assert parts
    hub.slow = ""
    assert "not completely, in the cache" in refused(env, HF_HUB_OFFLINE="1")
    folder, _, _ = run(env)
    assert (Path(folder) / WEIGHTS).read_bytes() == hub.commits[NEW][WEIGHTS]
    assert all(part.exists() for part in parts)  # another program might be writing them
    for part in parts:
        os.utime(part, (0, 0))
    run(env)
    assert not any(part.exists() for part in parts)


def test_the_token_goes_to_one_host_only(env, hub):
    """The user's goes to huggingface.co alone; one that is given, not to where the endpoint redirects."""
    assert run(env)[2] == 0
    assert {authorization for _, _, authorization in hub.asked} == {None}
    with serving(Hub(hub.repo, hub.commits, hub.branches)) as other:
        hub.elsewhere, hub.branches["main"] = other.url, OLD
        folder, _, _ = run(env, "print(pg_llm.download('someone/tiny', token=True))")
        assert (Path(folder) / WEIGHTS).read_bytes() == hub.commits[OLD][WEIGHTS]
        assert hub.asked[-1][2] == f"Bearer {TOKEN}"
        assert other.asked and {authorization for _, _, authorization in other.asked} == {None}


def test_wrong_names_and_tokens(env, hub):
    at = hub.url.removeprefix("http://")
    assert refused(env, "pg_llm.download('someone/else')").startswith(f"{at} has no model someone/else")
    assert refused(env, "pg_llm.download('a/b/c')") == '"a/b/c" is no model of the hub, expected OWNER/NAME'
    assert "the token contains" in refused(env, f"pg_llm.download('someone/tiny', token='{TOKEN}\\n\\0')")


def test_the_library_is_imported_when_it_is_used(env):
    code = "import sys, pg_llm.cli, pg_llm.files.hub; print('huggingface_hub' in sys.modules)"
    assert run(env, code)[0] == "False"
