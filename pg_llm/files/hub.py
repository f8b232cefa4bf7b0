"""download(name): a model of the Hugging Face hub as a folder of this machine, each file checked by its hash.

huggingface_hub transfers and caches the files, where other programs find them, too. It compares their sizes
alone, so this module compares their hashes, also of files that were in the cache before.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from pg_llm.errors import KitError

HUB = "https://huggingface.co"

_SMALL = ["config.json", "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"]
_SMALL += ["added_tokens.json", "special_tokens_map.json", "adapter_config.json"]
# The weights in the order of preference: the first that a model has are downloaded, the others are copies.
_WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("adapter_model.safetensors",),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
)
_GPT2 = ("gpt2", "gpt2-small", "gpt2-medium", "gpt2-large", "gpt2-xl")
_DEAD = 24 * 3600  # seconds after which a partial file belongs to a download that was killed


def download(
    name: str,
    *,
    file: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    offline: bool = False,
    progress: bool = True,
) -> Path:
    """Downloads a model (weights, config.json, tokenizer) from the Hugging Face hub; returns its folder.

    name: OWNER/NAME, or gpt2, gpt2-medium, gpt2-large, gpt2-xl for OpenAI's.
    file: weights of another name, such as a GGUF file, which is returned in place of the folder.
    revision: a branch, a tag or a commit; None: the newest. offline takes the files from the cache alone.
    token: None is the one of HF_TOKEN or `hf auth login`, for huggingface.co alone; True sends it to the host
    of HF_ENDPOINT, if that is set.
    Files are kept in huggingface_hub's cache (HF_HOME), and each call checks their SHA-256 (small files of a
    model: git's SHA-1). Variables of huggingface_hub hold: HF_ENDPOINT, HF_HUB_OFFLINE.
    Errors: KitError if there is no such model, a transfer fails, or a file is not what the hub says.
    Example: load_model(conn, download("openai-community/gpt2"), "gpt2-small")
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    repo = f"openai-community/{name.removesuffix('-small')}" if name in _GPT2 else name
    if token is None and constants.ENDPOINT != HUB:
        token = False  # huggingface_hub would send its own to any host
    with _told(name, revision), contextlib.ExitStack() as stack:
        if not progress:
            stack.enter_context(disable_progress_bars())
        for weights in [(file,)] if file else _WEIGHTS:
            # From the second round on, the commit of the first: a branch may move between them.
            folder = Path(
                snapshot_download(
                    repo,
                    revision=revision,
                    allow_patterns=[*_SMALL, *weights],
                    token=token,
                    local_files_only=offline,
                    library_name="pg_llm",
                )
            )
            revision = folder.name
            if _matching(folder, weights):
                break
        else:
            known = file or ", ".join(names[0] for names in _WEIGHTS)
            there = "" if offline else ", ".join(sorted(_listed(repo, folder.name, token))[:20])
            hint = f"; of its files {there}, `file` may name the weights" if there else ""
            raise KitError(f"{repo} has no {known}{hint}")
        _remove_dead_parts(folder)
        _verify(repo, folder, [*_SMALL, *weights], token, offline)
    return folder / file if file else folder


def find(source: str | Path, *, revision: str | None = None) -> Path:
    """source as a path if it exists, else the folder of the hub's model of that name, downloaded.

    Errors: KitError if source can be neither.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    name = str(source)
    if name not in _GPT2 and (not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) or path.parent.exists()):
        raise KitError(f"{source}: no such file or folder, and no OWNER/NAME of a model of the hub")
    try:
        return download(name, revision=revision)
    except KitError as error:
        raise KitError(f"{source}: no such file or folder; on the hub: {error}") from error


def _matching(folder: Path, patterns) -> list[Path]:
    return sorted(p for p in folder.glob("*") if any(fnmatch(p.name, pattern) for pattern in patterns))


def _verify(repo: str, folder: Path, patterns, token: str | bool | None, offline: bool) -> None:
    """Compares each file with its hash; deletes and refuses one that differs."""
    files = _matching(folder, patterns)
    listed = {} if offline else _listed(repo, folder.name, token)
    for file in files:
        # A file of the cache is a link to one that is named by its hash.
        expected = listed.get(file.name) or Path(os.readlink(file) if file.is_symlink() else "").name
        if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", expected):
            raise KitError(f"{repo}: the hash of {file.name} is not known offline; download it again")
        actual = _hash(file, len(expected))
        if actual != expected:
            file.resolve().unlink()
            file.unlink(missing_ok=True)
            kind = "SHA-256" if len(expected) == 64 else "SHA-1"
            raise KitError(
                f"{repo}: {file.name} was damaged, in the transfer or on the disk: its {kind} is {actual}, "
                f"expected {expected}; it was deleted, download it again"
            )


def _listed(repo: str, commit: str, token: str | bool | None) -> dict[str, str]:
    """Each file's hash as the hub lists it: SHA-256 if it is stored outside git, git's SHA-1 otherwise."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session

    url = f"{constants.ENDPOINT}/api/models/{repo}/tree/{commit}"
    try:  # without the retries of HfApi.list_repo_tree: there may be no network
        headers = build_hf_headers(token=token, library_name="pg_llm")
        answer = get_session().get(url, headers=headers, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        answer.raise_for_status()
        return {entry["path"]: entry.get("lfs", entry)["oid"] for entry in answer.json()}
    except Exception:  # of several libraries; the names in the cache are the same hashes
        return {}


def _hash(file: Path, digits: int) -> str:
    digest = hashlib.sha256() if digits == 64 else hashlib.sha1(usedforsecurity=False)
    if digits == 40:
        digest.update(b"blob %d\0" % file.stat().st_size)
    with file.open("rb") as opened:
        while piece := opened.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _remove_dead_parts(folder: Path) -> None:
    """Deletes what killed downloads have left; huggingface_hub begins again and never reads it."""
    for part in folder.parents[1].glob("blobs/*.incomplete"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > _DEAD:
                part.unlink()


@contextlib.contextmanager
def _told(name: str, revision: str | None) -> Iterator[None]:
    """Turns huggingface_hub's errors into one sentence that names the model and says what to do."""
    from huggingface_hub import constants, errors

    at = constants.ENDPOINT.partition("://")[2]
    try:
        yield
    except KitError:
        raise
    except errors.HFValidationError as error:
        raise KitError(f'"{name}" is no model of the hub, expected OWNER/NAME') from error
    except errors.GatedRepoError as error:
        raise KitError(
            f"{name}: its owner must give you access: ask at {HUB}/{name}, then `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise KitError(f"{at} has no model {name}, or it is private: then `hf auth login` first") from error
    except errors.RevisionNotFoundError as error:
        raise KitError(f'{name} has no revision "{revision}"') from error
    except errors.LocalEntryNotFoundError as error:
        why = f" ({_line(error.__cause__)})" if error.__cause__ else ""
        raise KitError(
            f"{name} is not, or not completely, in the cache {constants.HF_HUB_CACHE}, "
            f"and {at} is not asked{why}: download it again, online"
        ) from error
    except Exception as error:  # httpx's, the system's and hf_xet's
        if "Bearer" in str(error):  # the HTTP library prints a header that it cannot send
            raise KitError("the token contains characters that no token has") from None
        raise KitError(f"{name} was not downloaded from {at}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
