"""Reads the body of POST /v1/completions, and refuses what the engine cannot do instead of ignoring it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pg_llm.serve.faults import ApiError

BODY_BYTES = 4 << 20
SEQUENCES = 128  # prompts times n
MOST_LOGPROBS, MOST_STOPS = 5, 4
MAX_TOKENS = 16  # OpenAI's default
INT, BIGINT = 2**31 - 1, 2**63 - 1

Prompt = str | list[int]


@dataclass
class Completion:
    """A request, checked. Sampling settings keep OpenAI's names; those below top_p are the engine's own."""

    model: str
    prompts: list[Prompt]
    max_tokens: int = MAX_TOKENS
    n: int = 1
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    logprobs: int | None = None
    echo: bool = False
    stream: bool = False
    include_usage: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0


def parse(body: bytes, most_tokens: int | None) -> Completion:
    """The request in a body. Errors: ApiError. most_tokens: the largest max_tokens that is allowed."""
    try:
        given = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"the body is not JSON: {why}", "invalid_json") from None
    if not isinstance(given, dict):
        raise ApiError(400, f"the body must be a JSON object, not {_kind(given)}", "invalid_json")
    given = {name: value for name, value in given.items() if value is not None}
    _refuse(given)
    for name in ("model", "prompt"):
        if name not in given:
            raise ApiError(400, f"{name} is missing", "missing_parameter", name)
    read: dict[str, Any] = {
        name: check(name, given[name]) for name, check in PARAMETERS.items() if name in given
    }
    read |= read.pop("stream_options", {})
    done = Completion(prompts=read.pop("prompt"), **read)
    _combined(done, given, most_tokens)
    return done


def _combined(done: Completion, given: dict, most_tokens: int | None) -> None:
    if most_tokens is not None and "max_tokens" not in given:
        done.max_tokens = min(MAX_TOKENS, most_tokens)
    if most_tokens is not None and done.max_tokens > most_tokens:
        raise _wrong("max_tokens", f"is {done.max_tokens}; this server allows at most {most_tokens}")
    if len(done.prompts) * done.n > SEQUENCES:
        count = f"{len(done.prompts)} prompts times n = {done.n}"
        raise _wrong("n", f"and prompt: {count} are more than the {SEQUENCES} that one request may ask for")
    if given.get("best_of", done.n) != done.n:
        raise _wrong("best_of", f"must be n, which is {done.n}: this server ranks no samples")
    if done.include_usage and not done.stream:
        raise _wrong("stream_options", "goes with stream: true")
    if done.logprobs and done.stream:
        raise _wrong("logprobs", "must be 0 in a stream: alternatives are computed once the text is complete")
    if done.echo and done.logprobs is not None:
        raise _wrong("echo", "does not go with logprobs: the prompt's own are not computed")
    if done.seed is not None and done.seed + done.n - 1 > BIGINT:
        raise _wrong("seed", f"plus n - 1 is more than {BIGINT}")


def _refuse(given: dict) -> None:
    """Parameters that the engine does not have, unless they say what it does anyway."""
    for name, neutral, why in REFUSED:
        if name in given and given[name] != neutral:
            raise _wrong(name, f"is not supported: {why}")
    known = {*PARAMETERS, *(name for name, _, _ in REFUSED), *IGNORED, "best_of"}
    for name in given.keys() - known:
        raise _wrong(name[:100], "is not a parameter of this server")


REFUSED = [
    ("presence_penalty", 0, "the engine has repetition_penalty (above 1) and no_repeat_ngram"),
    ("frequency_penalty", 0, "the engine has repetition_penalty (above 1) and no_repeat_ngram"),
    ("logit_bias", {}, "the engine samples from the model's own logits"),
    ("suffix", "", "the models continue a text, they do not fill in"),
]
IGNORED = {"user"}


# -- one parameter ----


def _wrong(name: str, why: str) -> ApiError:
    return ApiError(400, f"{name} {why}", "unsupported_value" if "support" in why else "invalid_value", name)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", int: "an integer"}
    return names.get(type(value), "null" if value is None else "a number")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(name, f"must be a string, not {_kind(value)}")
    if "\0" in value:
        raise _wrong(name, "holds the character U+0000, which PostgreSQL's text cannot")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(name, "holds half of a surrogate pair, which is no character") from None
    return value


def _truth(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, f"must be true or false, not {_kind(value)}")
    return value


def _integer(low: int, high: int) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong(name, f"must be an integer, not {_kind(value)}")
        if not low <= value <= high:
            raise _wrong(name, f"is {_short(value)}; it must be from {low} to {high}")
        return value

    return check


def _number(low: float, high: float) -> Callable[[str, object], float]:
    def check(name: str, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _wrong(name, f"must be a number, not {_kind(value)}")
        if not low <= value <= high or not math.isfinite(value):
            raise _wrong(name, f"is {_short(value)}; it must be from {low:g} to {high:g}")
        return float(value)

    return check


def _short(value: float) -> str:
    return str(value) if abs(value) < 1e20 else "too large"


def _stop(name: str, value: object) -> list[str]:
    stops = [_text(f"{name}[{i}]", each) for i, each in enumerate(value)] if isinstance(value, list) else None
    stops = [_text(name, value)] if stops is None else stops
    if len(stops) > MOST_STOPS or "" in stops:
        raise _wrong(name, f"must be a text, or a list of at most {MOST_STOPS}, none of them empty")
    return stops


def _prompts(name: str, value: object) -> list[Prompt]:
    """One text, one list of token ids, or a list of either."""
    if isinstance(value, str):
        return [_text(name, value)]
    if not isinstance(value, list) or not value:
        raise _wrong(name, "must be a text, a list of token ids, or a list of these, and not empty")
    if isinstance(value[0], int):
        return [_ids(name, value)]
    return [
        _ids(f"{name}[{i}]", each) if isinstance(each, list) else _text(f"{name}[{i}]", each)
        for i, each in enumerate(value)
    ]


def _ids(name: str, value: list) -> list[int]:
    check = _integer(0, INT)
    return [check(f"{name}[{i}]", each) for i, each in enumerate(value)]


def _stream_options(name: str, value: object) -> dict[str, bool]:
    if not isinstance(value, dict) or not value.keys() <= {"include_usage", "include_obfuscation"}:
        raise _wrong(name, "must be an object with include_usage")
    return {"include_usage": _truth(f"{name}.include_usage", value.get("include_usage", False))}


PARAMETERS: dict[str, Callable[[str, Any], Any]] = {
    "model": _text,
    "prompt": _prompts,
    "max_tokens": _integer(0, INT),
    "n": _integer(1, SEQUENCES),
    "seed": _integer(-BIGINT - 1, BIGINT),
    "stop": _stop,
    "logprobs": _integer(0, MOST_LOGPROBS),
    "echo": _truth,
    "stream": _truth,
    "stream_options": _stream_options,
    "temperature": _number(0, 1e6),
    "top_p": _number(0, 1),
    "top_k": _integer(0, INT),
    "min_p": _number(0, 1),
    "repetition_penalty": _number(0, 1e6),
    "no_repeat_ngram": _integer(0, INT),
}
