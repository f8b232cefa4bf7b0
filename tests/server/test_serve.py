"""pg-llm serve: OpenAI's client against it; what it answers is what SQL answers; what it refuses, and how."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import psycopg
import pytest
from helpers.paths import REPO
from helpers.tiny_model import LETTERS, ids, make

import pg_llm
from pg_llm.server import database as databases
from pg_llm.server.server import Server

openai = pytest.importorskip("openai", reason="openai's client is not installed")
pytest.importorskip("uvicorn", reason="pg-llm[serve] is not installed")
pytestmark = pytest.mark.slow
KEY = "sk-test-of-the-kit"


class Door:
    """A running `pg-llm serve`."""

    def __init__(self, *arguments: str, key: str | None = None, **environment: str):
        where = {**os.environ, "PYTHONPATH": str(REPO), **environment}
        where.pop("PG_LLM_API_KEY", None)
        if key:
            where["PG_LLM_API_KEY"] = key
        command = [sys.executable, "-m", "pg_llm", "serve", "--port", "0", *arguments]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=where)
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        self.url = line.split()[0]
        self.client = openai.OpenAI(base_url=self.url, api_key=key or "none", max_retries=0, timeout=300)

    def get(self, path: str, headers: dict | None = None) -> tuple[int, str]:
        """Status and body of a GET."""
        return self.send(path, None, headers)

    def send(self, path, body: bytes | None, headers=None) -> tuple[int, str]:
        """Status and body of a POST of JSON, or of a GET without a body."""
        headers = {"Content-Type": "application/json", **(headers or {})}
        asked = urllib.request.Request(self.url.removesuffix("/v1") + path, body, headers)
        try:
            with urllib.request.urlopen(asked, timeout=300) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """The value of a metric, with its labels; 0 if it is not there."""
        lines = self.get("/metrics")[1].splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(name + " ")), 0.0)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit code and stderr after a signal."""
        self.process.send_signal(number)
        told = self.process.communicate(timeout=120)[1]
        return self.process.returncode, told


@contextlib.contextmanager
def opened(*arguments, **more):
    door = Door(*arguments, **more)
    try:
        yield door
    finally:
        if door.process.poll() is None:
            door.process.kill()
            door.process.communicate()


def until(condition, seconds=120):
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def models(server, database):
    with pg_llm.connect(database) as conn:
        make(conn, "m", n_layer=2, n_head=4, d_model=32, n_positions=100, gain=8)
        make(conn, "other", seed=2)
        make(conn, "slow", n_layer=12, n_head=6, d_model=384, n_positions=2000, gain=1)
        make(conn, "bytes", n_layer=1, n_positions=100, vocab=256, tokenizer="the bytes")
        conn.execute("DELETE FROM llm_bpe_vocab WHERE model = 'bytes'")
        conn.execute(
            "INSERT INTO llm_bpe_vocab (model, token_id, token, bytes) "
            "SELECT 'the bytes', i, 'byte ' || i, set_byte(' ', 0, i) FROM generate_series(0, 255) AS i"
        )
        conn.execute("CREATE TABLE untouched (id int); INSERT INTO untouched VALUES (1)")
    return database


@pytest.fixture(scope="module")
def door(models):
    with opened("--database", models, "--max-running", "3", "--max-queue", "4") as door:
        yield door
        code, told = door.end()
        assert (code, told) == (0, "")


def text(conn, prompt, *arguments, **named):
    more = "".join(f", {name} => %({name})s" for name in named)
    query = f"SELECT llm_generate(%(p)s, %(n)s, model => 'm'{more})"
    return conn.execute(query, {"p": prompt, "n": arguments[0], **named}).fetchone()[0]


def running(conn) -> int:
    """Statements of the door that generate at this moment."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg-llm serve' "
        "AND datname = current_database() AND state = 'active' AND query LIKE '%llm_generate_stream%'"
    )
    return conn.execute(query).fetchone()[0]


# -- the same as SQL ----


def test_models(door):
    assert [model.id for model in door.client.models.list()] == ["bytes", "m", "other", "slow"]
    assert door.client.models.retrieve("m").object == "model"
    with pytest.raises(openai.NotFoundError):
        door.client.models.retrieve("nobody")


def test_a_greedy_completion_is_that_of_sql(door, conn):
    answer = door.client.completions.create(model="m", prompt="hello", max_tokens=30, temperature=0)
    assert "hello" + answer.choices[0].text == text(conn, "hello", 30, temperature=0)
    assert answer.choices[0].finish_reason == "length" and answer.choices[0].logprobs is None
    assert answer.usage.model_dump()["total_tokens"] == 35 and answer.usage.completion_tokens == 30
    echo = door.client.completions.create(model="m", prompt=ids("hello"), max_tokens=30, temperature=0,
                                          echo=True)  # fmt: skip
    assert echo.choices[0].text == text(conn, "hello", 30, temperature=0)
    assert len(door.client.completions.create(model="m", prompt="a").choices[0].text) == 16


def test_samples_are_those_of_their_seeds(door, conn):
    prompts = ["abc", "hello"]
    answer = door.client.completions.create(
        model="m", prompt=prompts, n=3, max_tokens=9, seed=5, temperature=1.5, top_p=0.9,
        extra_body={"top_k": 7, "repetition_penalty": 1.1},
    )  # fmt: skip
    assert [choice.index for choice in answer.choices] == list(range(6))
    expected = [
        text(conn, prompt, 9, seed=5 + sample, temperature=1.5, topp=0.9, topk=7, repetition_penalty=1.1)
        for prompt in prompts
        for sample in range(3)
    ]
    assert [prompts[c.index // 3] + c.text for c in answer.choices] == expected
    assert len(set(expected)) > 2
    assert answer.usage.prompt_tokens == 8 and answer.usage.completion_tokens == 54


def test_log_probabilities_are_the_rows_of_sql_bit_for_bit(door, conn):
    asked = {"model": "m", "prompt": "hello", "max_tokens": 20, "seed": 3, "logprobs": 0}
    rows = conn.execute(
        "SELECT token, logprob FROM llm_generate_stream('hello', 20, topk => NULL, topp => 1, "
        "seed => 3, model => 'm')"
    ).fetchall()
    for stream in (False, True):
        found = door.client.completions.create(**asked, stream=stream)
        logprobs = [piece.choices[0].logprobs for piece in (found if stream else [found])]
        tokens = [token for each in logprobs for token in each.tokens]
        values = [value for each in logprobs for value in each.token_logprobs]
        offsets = [offset for each in logprobs for offset in each.text_offset]
        assert list(zip(tokens, values, strict=True)) == rows and offsets == list(range(20))


def test_alternatives_are_the_most_probable_next_tokens(door, conn):
    asked = {"model": "m", "prompt": "hello", "max_tokens": 5, "temperature": 0}
    answer = door.client.completions.create(**asked, logprobs=3)
    found, prefix = answer.choices[0].logprobs, "hello"
    for token, logprob, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        query = "SELECT token, ln(probability) FROM llm_next_tokens(%s, 3, 'm')"
        expected = dict(conn.execute(query, (prefix,)).fetchall())
        assert top == pytest.approx(expected, abs=1e-4) and top[token] == pytest.approx(logprob, abs=1e-5)
        assert max(top, key=top.get) == token  # greedy
        prefix += token


def test_a_stream_is_the_completion_in_pieces(door, conn):
    asked = {"model": "m", "prompt": ["abc", "d"], "n": 2, "max_tokens": 7, "seed": 1}
    whole = door.client.completions.create(**asked)
    pieces = list(door.client.completions.create(**asked, stream=True,
                                                 stream_options={"include_usage": True}))  # fmt: skip
    *pieces, last = pieces
    texts, ends = [""] * 4, [None] * 4
    for piece in pieces:
        (choice,) = piece.choices
        texts[choice.index] += choice.text
        ends[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices] and ends == ["length"] * 4
    assert len(pieces) == 28 and last.choices == [] and last.usage == whole.usage
    echo = list(door.client.completions.create(**asked, stream=True, echo=True))
    assert "".join(p.choices[0].text for p in echo if p.choices[0].index == 3) == "d" + texts[3]


def test_stop_texts_and_the_end_token(door, conn):
    full = text(conn, "hello", 30, temperature=0)[5:]
    stop = full[9:11]
    cut = full.index(stop)
    for most in (30, cut + 2):  # where the last token that is allowed completes the stop text, too
        asked = {"model": "m", "prompt": "hello", "max_tokens": most, "temperature": 0, "stop": [stop, "&"]}
        answer = door.client.completions.create(**asked)
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == (full[:cut], "stop")
        pieces = [piece.choices[0] for piece in door.client.completions.create(**asked, stream=True)]
        assert "".join(c.text for c in pieces) == full[:cut] and pieces[-1].finish_reason == "stop"
    end = LETTERS.index(full[4])
    try:
        conn.execute(
            "UPDATE llm_model_config SET options = options || jsonb_build_object('eos_token_id', %s) "
            "WHERE model = 'm'",
            (end,),
        )
        for most in (30, full.index(full[4]) + 1):
            answer = door.client.completions.create(model="m", prompt="hello", max_tokens=most, temperature=0)
            assert answer.choices[0].text == full[: full.index(full[4])]
            assert answer.choices[0].finish_reason == "stop"
    finally:
        conn.execute("UPDATE llm_model_config SET options = options - 'eos_token_id' WHERE model = 'm'")


def test_characters_of_several_tokens(door, conn):
    """The tokens of the model "bytes" are bytes: most of what it makes is no UTF-8."""
    asked = {"model": "bytes", "prompt": "hé", "max_tokens": 40, "seed": 1, "logprobs": 2}
    answer = door.client.completions.create(**asked).choices[0]
    query = "SELECT llm_generate('hé', 40, topk => NULL, topp => 1, seed => 1, model => 'bytes')"
    assert "hé" + answer.text == conn.execute(query).fetchone()[0]
    query = (
        "SELECT token_id, logprob FROM llm_generate_stream('hé', 40, topk => NULL, topp => 1, seed => 1, "
        "model => 'bytes')"
    )
    rows = conn.execute(query).fetchall()
    shown = [chr(id) if id < 128 else f"bytes:\\x{id:02x}" for id, _ in rows]
    assert answer.logprobs.tokens == shown and any(each.startswith("bytes:") for each in shown)
    assert answer.logprobs.token_logprobs == [logprob for _, logprob in rows]
    assert all(len(top) == 2 for top in answer.logprobs.top_logprobs)
    pieces = door.client.completions.create(**{**asked, "logprobs": 0}, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == answer.text


def test_no_tokens_at_all(door):
    for prompt in ("hello", ids("hello")):
        asked = {"model": "m", "prompt": prompt, "max_tokens": 0, "echo": True}
        answer = door.client.completions.create(**asked)
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("hello", "length")
        pieces = [piece.choices[0] for piece in door.client.completions.create(**asked, stream=True)]
        assert "".join(c.text for c in pieces) == "hello" and pieces[-1].finish_reason == "length"


def test_requests_at_the_same_time(door, conn):
    answers = {}

    def ask(seed):
        answer = door.client.completions.create(model="m", prompt="hello", max_tokens=40, seed=seed)
        answers[seed] = answer.choices[0].text

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(7)]  # three run, four wait
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = {"topk": None, "topp": 1.0}
    assert answers == {seed: text(conn, "hello", 40, seed=seed, **every)[5:] for seed in range(7)}


# -- ends that are no normal ones ----

ENDLESS = {"model": "slow", "prompt": ["a"] * 64, "n": 2, "max_tokens": 1900, "temperature": 1.0}


def test_a_client_that_leaves_a_stream_cancels_its_statement(door, conn):
    left = 'pg_llm_requests_total{route="/v1/completions",status="499"}'
    before = door.metric(left)
    stream = door.client.completions.create(**ENDLESS, stream=True)
    next(iter(stream))
    assert running(conn) == 1
    stream.close()
    until(lambda: running(conn) == 0)
    until(lambda: door.metric(left) == before + 1)
    assert door.metric("pg_llm_running") == 0


def test_a_client_that_leaves_while_it_waits_cancels_its_statement(door, conn):
    left = 'pg_llm_requests_total{route="/v1/completions",status="499"}'
    before = door.metric(left)
    host, port = door.url.removeprefix("http://").removesuffix("/v1").split(":")
    body = json.dumps(ENDLESS)
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(
            f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        until(lambda: running(conn) == 1)
    until(lambda: running(conn) == 0)
    until(lambda: door.metric(left) == before + 1)


def test_a_full_queue_refuses(models, conn):
    with opened("--database", models, "--max-running", "1", "--max-queue", "0") as door:
        stream = door.client.completions.create(**ENDLESS, stream=True)
        next(iter(stream))
        with pytest.raises(openai.RateLimitError, match="the queue is full") as refused:
            door.client.completions.create(model="m", prompt="a")
        assert refused.value.response.headers["retry-after"] == "1"
        assert door.client.models.list().data and door.get("/healthz") == (200, '{"status":"ok"}')
        stream.close()
        until(lambda: running(conn) == 0)
        until(lambda: door.metric("pg_llm_running") == 0)
        assert door.client.completions.create(model="m", prompt="a").choices[0].text


def test_a_request_that_takes_too_long_is_cancelled(models, conn):
    with opened("--database", models, "--timeout", "0.5") as door:
        with pytest.raises(openai.InternalServerError, match="longer than the 0.5 seconds") as refused:
            door.client.completions.create(**ENDLESS)
        assert refused.value.status_code == 504
        with pytest.raises(openai.APIError, match="longer than"):
            list(door.client.completions.create(**ENDLESS, stream=True))
        until(lambda: running(conn) == 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish(models, conn, number):
    with opened("--database", models, "--grace", "300") as door:
        asked = {"model": "slow", "prompt": "a", "max_tokens": 200, "temperature": 0, "stream": True}
        pieces = iter(door.client.completions.create(**asked))
        next(pieces)
        door.process.send_signal(number)
        assert len(list(pieces)) == 199
        assert door.process.wait(120) == 0 and door.process.stderr.read() == ""


def test_a_signal_cancels_what_outlasts_the_grace(models, conn):
    with opened("--database", models, "--grace", "0") as door:
        pieces = iter(door.client.completions.create(**ENDLESS, stream=True))
        next(pieces)
        door.process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="the server stops"):
            list(pieces)
        assert door.process.wait(120) == 0 and door.process.stderr.read() == ""
        until(lambda: running(conn) == 0)


# -- refusals ----

TOO_LONG = "context_length_exceeded"
REFUSED = [
    (b"{", 400, "invalid_json", "not JSON"),
    (b"[" * 100000, 400, "invalid_json", "not JSON"),
    (b"[]", 400, "invalid_json", "not a list"),
    (b'{"model":"m","prompt":"a","temperature":NaN}', 400, "invalid_json", "NaN"),
    ({}, 400, "missing_parameter", "model is missing"),
    ({"model": "m"}, 400, "missing_parameter", "prompt is missing"),
    ({"model": "nobody", "prompt": "a"}, 404, "model_not_found", 'no model "nobody"'),
    ({"model": "m'; DROP TABLE untouched; --", "prompt": "a"}, 404, "model_not_found", "no model"),
    ({"model": 7, "prompt": "a"}, 400, "invalid_value", "model must be a string, not an integer"),
    ({"model": "m", "prompt": 7}, 400, "invalid_value", "prompt must be a text"),
    ({"model": "m", "prompt": []}, 400, "invalid_value", "not empty"),
    ({"model": "m", "prompt": [1, "a"]}, 400, "invalid_value", r"prompt\[1\] must be an integer"),
    ({"model": "m", "prompt": [["a"]]}, 400, "invalid_value", r"prompt\[0\]\[0\] must be an integer"),
    ({"model": "m", "prompt": [99]}, 400, None, "run from 0 to 25"),
    ({"model": "m", "prompt": [2**40]}, 400, "invalid_value", "from 0 to"),
    ({"model": "m", "prompt": "a\0"}, 400, "invalid_value", r"U\+0000"),
    (b'{"model":"m","prompt":"\\ud800"}', 400, "invalid_value", "surrogate"),
    ({"model": "m", "prompt": "a", "max_tokens": -1}, 400, "invalid_value", "max_tokens is -1"),
    ({"model": "m", "prompt": "a", "max_tokens": 1.5}, 400, "invalid_value", "integer, not a number"),
    ({"model": "m", "prompt": "a", "max_tokens": True}, 400, "invalid_value", "integer, not true or false"),
    ({"model": "m", "prompt": "a", "temperature": -1}, 400, "invalid_value", "temperature is -1"),
    (b'{"model":"m","prompt":"a","temperature":1e999}', 400, "invalid_value", "temperature is too large"),
    ({"model": "m", "prompt": "a", "top_p": 2}, 400, "invalid_value", "from 0 to 1"),
    ({"model": "m", "prompt": "a", "n": 0}, 400, "invalid_value", "n is 0"),
    ({"model": "m", "prompt": ["a"] * 65, "n": 2}, 400, "invalid_value", "65 prompts times n = 2"),
    ({"model": "m", "prompt": "a", "stop": [""]}, 400, "invalid_value", "none of them empty"),
    ({"model": "m", "prompt": "a", "best_of": 2}, 400, "invalid_value", "best_of must be n"),
    ({"model": "m", "prompt": "a", "presence_penalty": 1}, 400, "unsupported_value", "repetition_penalty"),
    ({"model": "m", "prompt": "a", "frequency_penalty": 1}, 400, "unsupported_value", "repetition_penalty"),
    ({"model": "m", "prompt": "a", "logit_bias": {"1": 5}}, 400, "unsupported_value", "logit_bias"),
    ({"model": "m", "prompt": "a", "suffix": "b"}, 400, "unsupported_value", "suffix"),
    ({"model": "m", "prompt": "a", "tempreature": 1}, 400, "invalid_value", "tempreature is not a parameter"),
    ({"model": "m", "prompt": "a", "echo": True, "logprobs": 0}, 400, "invalid_value", "echo"),
    ({"model": "m", "prompt": "a", "stream": True, "logprobs": 1}, 400, "invalid_value", "0 in a stream"),
    ({"model": "m", "prompt": "abc", "max_tokens": 5000}, 400, TOO_LONG, "3 tokens and 5000 .* 100 "),
    ({"model": "m", "prompt": "a" * 150, "max_tokens": 1}, 400, TOO_LONG, "150 .*100 "),
    ({"model": "m", "prompt": "a", "max_tokens": 5000, "stream": True}, 400, TOO_LONG, "100 "),
]  # fmt: skip


@pytest.mark.parametrize("body, status, code, said", REFUSED)
def test_refusals_say_what_was_expected(door, conn, body, status, code, said):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    found, answer = door.send("/v1/completions", body)
    error = json.loads(answer)["error"]
    assert (found, error["code"]) == (status, code), error
    assert re.search(said, error["message"]), error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert conn.execute("SELECT count(*) FROM untouched").fetchone() == (1,)


def test_what_says_nothing_is_allowed(door):
    door.client.completions.create(
        model="m", prompt="a", best_of=1, presence_penalty=0, frequency_penalty=0.0, logit_bias={},
        suffix=None, user="somebody", stop=None, seed=None, logprobs=None, stream=False,
    )  # fmt: skip


def test_other_paths_and_methods_and_types(door):
    for path, body, status in [
        ("/v1/chat/completions", b"{}", 404),
        ("/v1/completions", None, 405),
        ("/v1/models", b"{}", 405),
        ("/v1/models/nobody", None, 404),
    ]:
        found, answer = door.send(path, body)
        assert found == status and json.loads(answer)["error"]["type"] == "invalid_request_error"
    assert door.send("/v1/completions", b"{}", {"Content-Type": "text/plain"})[0] == 415
    assert door.send("/v1/completions", b" " * (5 << 20))[0] == 413
    assert door.get("/v1/models", {"Host": "evil.example"})[0] == 403


def test_only_the_models_that_were_named(models):
    with opened("--database", models, "--model", "other", "--max-tokens", "9") as door:
        assert [model.id for model in door.client.models.list()] == ["other"]
        with pytest.raises(openai.NotFoundError, match='no model "m"'):
            door.client.completions.create(model="m", prompt="a")
        with pytest.raises(openai.BadRequestError, match="is 10; this server allows at most 9"):
            door.client.completions.create(model="other", prompt="a", max_tokens=10)
        assert door.client.completions.create(model="other", prompt="a").usage.completion_tokens <= 9


# -- the key ----


def test_a_key_is_asked_for(models, tmp_path):
    (tmp_path / "key").write_text(KEY + "\n")
    for more in ({"key": KEY}, {"arguments": ("--api-key-file", str(tmp_path / "key"))}):
        arguments = ("--database", models, "--host", "0.0.0.0", *more.pop("arguments", ()))
        with opened(*arguments, **more) as door:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
                for path in ("/v1/models", "/metrics"):
                    status, body = door.get(path, headers)
                    assert status == 401 and json.loads(body)["error"]["code"] == "invalid_api_key"
                    assert KEY not in body
            assert door.get("/v1/models", {"Authorization": f"Bearer {KEY}"})[0] == 200
            assert door.get("/healthz")[0] == 200


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--host", "0.0.0.0"], "needs an API key"),
        (["--host", "::"], "needs an API key|no address"),
        (["--api-key", ""], "the API key is empty"),
        (["--api-key", "a", "--api-key-file", "b"], "give one of them"),
        (["--api-key-file", "/nowhere/key"], "cannot be read"),
        (["--host", "no.such.host.invalid"], "no address"),
        (["--model", "nobody"], 'has no model "nobody"'),
    ],
)
def test_what_it_does_not_start_with(models, arguments, said):
    with pytest.raises(AssertionError) as failed, opened("--database", models, *arguments):
        pass
    assert re.search(said, str(failed.value))


def test_an_occupied_port(models):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(AssertionError, match=f"cannot listen on 127.0.0.1 port {port}"):
            with opened("--database", models, "--port", port):
                pass


# -- the database behind it ----


@pytest.fixture
def own_server(extension, tmp_path_factory, monkeypatch):
    """A server that the test may stop, reached by a DSN over TCP with a password."""
    import tempfile
    from pathlib import Path

    from helpers.ports import free_port

    monkeypatch.setenv("PG_LLM_EXTENSION", str(extension))
    with tempfile.TemporaryDirectory(prefix="pg_llm-door-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        server, port = Server(Path(name) / "home"), free_port()
        start = lambda: server.start(port, "localhost", "very-secret")  # noqa: E731
        with psycopg.connect(**start().conninfo("postgres"), autocommit=True) as conn:
            conn.execute("CREATE EXTENSION pg_llm")
            from pg_llm.files.adapter import register

            register(conn)
            make(conn, "m", n_positions=100)
            make(conn, "slow", n_layer=12, n_head=6, d_model=384, n_positions=2000, gain=1)
            conn.execute("DELETE FROM llm_model_config WHERE model NOT IN ('m', 'slow')")
        yield server, start, port
        server.stop()


def test_a_database_that_restarts_and_a_host_that_is_dead(own_server):
    from helpers.ports import free_port

    server, start, port = own_server
    dsn = (
        f"postgresql://postgres:very-secret@127.0.0.1:{free_port()},127.0.0.1:{port}/postgres"
        "?target_session_attrs=prefer-standby"
    )
    with opened("--dsn", dsn) as door:
        first = door.client.completions.create(model="m", prompt="abc", temperature=0).choices[0].text
        pieces = iter(door.client.completions.create(**ENDLESS, stream=True))
        next(pieces)
        server.stop()
        with pytest.raises(openai.APIError, match="the database cannot be reached, or restarts"):
            list(pieces)
        with pytest.raises(openai.InternalServerError, match="cannot be reached") as refused:
            door.client.completions.create(model="m", prompt="abc")
        assert refused.value.status_code == 503 and refused.value.response.headers["retry-after"]
        assert door.get("/healthz")[0] == 503
        start()
        until(lambda: door.get("/healthz")[0] == 200)
        again = door.client.completions.create(model="m", prompt="abc", temperature=0).choices[0].text
        assert again == first
        code, told = door.end()
        assert code == 0 and "very-secret" not in told + str(refused.value)


def test_the_sessions_only_read(door, conn, models):
    """The role's rights may be more; what the door runs cannot write."""
    door.client.completions.create(model="m", prompt="a")
    from pg_llm.serve.database import Database

    async def write():
        async with Database(conn.info.dsn, 1, 9, frozenset()) as database, database.pool.connection() as s:
            await s.execute("INSERT INTO public.untouched VALUES (2)")

    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        asyncio.run(write())


def test_without_the_extra_a_sentence_says_what_to_install(models):
    code = (
        "import sys; sys.modules['uvicorn'] = None; from pg_llm.cli import main; "
        f"sys.argv = ['pg-llm', 'serve', '--database', {models!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 1
    assert done.stderr == "pg-llm: pg-llm serve needs uvicorn: pip install 'pg-llm[serve]'\n"


def test_the_examples_of_the_guide(server):
    """Its curl and its Python, against a server that has the shipped models."""
    section = (REPO / "pg_llm" / "GUIDE.md").read_text().split("## Serve over HTTP\n")[1].split("\n## ")[0]
    (shell,), (python,) = (re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL) for kind in ("sh", "py"))
    with pg_llm.connect("test_serve_guide"), opened("--database", "test_serve_guide") as door:
        done = subprocess.run(
            ["/bin/sh", "-c", shell.replace("http://127.0.0.1:8000/v1", door.url)], capture_output=True
        )
        text = json.loads(done.stdout)["choices"][0]["text"]
        assert text == " April and the sea was soft. There was a green coat"
        code = python.replace("http://127.0.0.1:8000/v1", door.url)
        printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        expected = re.findall(r"^# > (.*)$", python, re.MULTILINE)
        assert printed.stdout.splitlines() == expected, printed.stderr
    databases.drop_database("test_serve_guide")
