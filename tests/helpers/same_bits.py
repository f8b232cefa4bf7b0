"""The hashes of test_same_bits.py: kernels, gradients, a model's weights, forward passes and generations.

A hash is the SHA-256 of a value's shape and of its little-endian elements in NumPy, so it does not depend on
how a server prints. It must be the same for every setting, thread count and PostgreSQL version, cached or
not.
"""

from __future__ import annotations

import hashlib

import numpy as np

# Numbers at which formulas change or end, NaNs of several payloads, denormals; then ordinary ones.
ODD = np.concatenate(
    [
        np.array([0x7F800001, 0xFFC12345, 0x7FC00000, 0xFFFFFFFF, 1, 0x80000001, 0x007FFFFF], "<u4").view(
            "<f4"
        ),
        np.array(
            [0, -0.0, 1, -1, np.inf, -np.inf, 88.72, 88.73, -87.3, -87.4, 0.625, 0.9225, 4, 1e38], "<f4"
        ),
        np.linspace(-9, 9, 100, dtype="<f4"),
    ]
)  # 121 numbers
X = "tensor(%(odd)s::bytea, ARRAY[11, 11])"

# One SQL expression for each kernel; randn is one of them.
KERNELS = {
    "randn": "randn(ARRAY[7, 129], 1)",
    "randn large": "randn(ARRAY[40000], -1)",
    "matmul": "randn(ARRAY[45, 300], 1) @ randn(ARRAY[300, 70], 2)",
    "matmul one row": "randn(ARRAY[1, 777], 1) @ randn(ARRAY[777, 130], 2)",
    "matmul batched": "randn(ARRAY[3, 1, 5, 129], 1) @ randn(ARRAY[2, 129, 33], 2)",
    "matmul of oddities": f"{X} @ {X}",
    "pg_llm_matmul": "pg_llm_matmul(randn(ARRAY[45, 300], 1), randn(ARRAY[300, 70], 2))",
    "pg_llm_matmul bytea": "pg_llm_matmul(randn(ARRAY[5, 300], 1)::bytea, "
    "randn(ARRAY[300, 7], 2)::bytea, 5, 300, 7)",
    "add": f"{X} + {X}",
    "sub": f"{X} - slice({X}, ARRAY[3, 0], ARRAY[4, 11])",
    "mul": f"{X} * slice({X}, ARRAY[0, 5], ARRAY[11, 6])",
    "div": f"{X} / randn(ARRAY[2, 1, 11], 3)",
    "neg": f"-{X}",
    "exp": f"exp({X})",
    "log": f"log({X})",
    "tanh": f"tanh({X})",
    "sqrt": f"sqrt({X})",
    "relu": f"relu({X})",
    "exp large": "exp(randn(ARRAY[40000], 5) * 20.0)",
    "gelu": f"pg_llm_gelu({X})",
    "gelu exact": f"pg_llm_gelu({X}, true)",
    "gelu bytea": f"pg_llm_gelu({X}::bytea)",
    "sigmoid": f"pg_llm_sigmoid({X})",
    "silu": f"pg_llm_silu({X})",
    "sin": f"sin({X})",
    "cos": f"cos({X})",
    "sin large": "sin(randn(ARRAY[40000], 5) * 1e6)",
    "cos large": "cos(exp(randn(ARRAY[40000], 5) * 20.0))",
    "log_softmax": "pg_llm_log_softmax(randn(ARRAY[37, 5000], 1))",
    "log_softmax axis 0": "pg_llm_log_softmax(randn(ARRAY[37, 50], 1), 0)",
    "log_softmax of oddities": f"pg_llm_log_softmax({X})",
    "rmsnorm": "pg_llm_rmsnorm(randn(ARRAY[13, 770], 1), randn(ARRAY[770], 2))",
    "rmsnorm of oddities": f"pg_llm_rmsnorm({X}, randn(ARRAY[11], 2), 1e-3)",
    "conv2d": "pg_llm_conv2d(randn(ARRAY[2, 18, 15, 21], 1), randn(ARRAY[39, 18, 3, 3], 2), "
    "randn(ARRAY[39], 3), 1, 1)",
    "conv2d in groups, with a stride": "pg_llm_conv2d(randn(ARRAY[3, 8, 9, 7], 1), "
    "randn(ARRAY[6, 4, 2, 3], 2), NULL, 2, 1, 2)",
    "conv2d of oddities": f"pg_llm_conv2d(reshape({X}, ARRAY[1, 1, -1, 11]), randn(ARRAY[3, 1, 3, 3], 2))",
    "groupnorm": "pg_llm_groupnorm(randn(ARRAY[2, 12, 29, 31], 1), randn(ARRAY[12], 2), "
    "randn(ARRAY[12], 3), 3)",
    "upsample": "pg_llm_upsample(randn(ARRAY[2, 3, 7, 9], 1), 3)",
    "avgpool": "pg_llm_avgpool(randn(ARRAY[2, 3, 17, 19], 1), 3)",
    "greater": f"greater({X}, slice({X}, ARRAY[3, 0], ARRAY[4, 11]))",
    "where": f"tensor_where({X}, slice({X}, ARRAY[3, 0], ARRAY[4, 11]), {X})",
    "clamp": f"clamp({X}, -0.5, 7)",
    "cumsum": "cumsum(randn(ARRAY[37, 5000], 1))",
    "cumsum axis 0": f"cumsum({X}, 0)",
    "topk": f"topk({X}, 7)",
    "topk indices": "topk(randn(ARRAY[37, 5000], 1), 300, 'indices')",
    "gather_rows": "gather_rows(randn(ARRAY[50, 33], 1), topk(randn(ARRAY[9, 50], 2), 7, 'indices'))",
    "scatter_rows": "scatter_rows(randn(ARRAY[300, 33], 1), topk(randn(ARRAY[300, 5], 2), 1, 'indices')"
    " @ '[1]', 5)",
    "expert_matmul": "expert_matmul(randn(ARRAY[45, 300], 1), topk(randn(ARRAY[45, 5], 2), 2, 'indices'),"
    " randn(ARRAY[5, 300, 70], 3))",
    "mse": "mse(randn(ARRAY[100000], 1), randn(ARRAY[100000], 2))",
    "soft_cross_entropy": "soft_cross_entropy(randn(ARRAY[3, 5000], 1), "
    "pg_llm_softmax(randn(ARRAY[3, 5000], 2)))",
    "uniform": "uniform(ARRAY[40000], 1, -2, 3)",
    "randint": "randint(ARRAY[40000], 1, 0, 1000)",
    "softmax": "pg_llm_softmax(randn(ARRAY[37, 5000], 1))",
    "softmax axis 0": "pg_llm_softmax(randn(ARRAY[37, 50], 1), 0)",
    "softmax of oddities": f"pg_llm_softmax({X})",
    "softmax bytea": "pg_llm_softmax(randn(ARRAY[300], 1)::bytea)",
    "layernorm": "pg_llm_layernorm(randn(ARRAY[13, 770], 1), randn(ARRAY[770], 2), randn(ARRAY[770], 3))",
    "layernorm of oddities": f"pg_llm_layernorm({X}, randn(ARRAY[11], 2), randn(ARRAY[11], 3), 1e-3)",
    "cross_entropy": "pg_llm_cross_entropy(randn(ARRAY[3, 5000], 1), ARRAY[7, -100, 4999])",
    "cross_entropy bytea": "pg_llm_cross_entropy(randn(ARRAY[5000], 1)::bytea, 4321)",
    "attention": "pg_llm_attention(randn(ARRAY[2, 140, 30], 1), randn(ARRAY[30, 90], 2), "
    "randn(ARRAY[90], 3), randn(ARRAY[30, 30], 4), randn(ARRAY[30], 5), 3)",
    "attention not causal": "pg_llm_attention(randn(ARRAY[50, 30], 1), randn(ARRAY[30, 90], 2), "
    "randn(ARRAY[90], 3), randn(ARRAY[30, 30], 4), randn(ARRAY[30], 5), 2, false)",
    "embedding": "pg_llm_embedding(ARRAY[[3, 0], [9, 9]], randn(ARRAY[10, 33], 1))",
    "dropout": "pg_llm_dropout(randn(ARRAY[20000], 1), 0.1, true, 7)",
    "transpose": "pg_llm_transpose(randn(ARRAY[45, 70], 1))",
    "tensor_sum": "tensor_sum(randn(ARRAY[100000], 1))",
    "tensor_sum axis 0": "tensor_sum(randn(ARRAY[5000, 19], 1), 0)",
    "tensor_max": f"tensor_max({X}, 1)",
    "tensor_min": f"tensor_min({X}, 0)",
    "mean": "mean(randn(ARRAY[37, 5000], 1), -1)",
    "var": "var(randn(ARRAY[37, 5000], 1), -1)",
    "norm": "norm(randn(ARRAY[370000], 1))",
    "argmax": f"argmax({X}, 1)",
    "sum of rows": "(SELECT sum(randn(ARRAY[50], i) ORDER BY i) FROM generate_series(1, 300) AS i)",
    "avg of rows": "(SELECT avg(randn(ARRAY[50], i) ORDER BY i) FROM generate_series(1, 300) AS i)",
    "sample": "ARRAY(SELECT pg_llm_sample(randn(ARRAY[3000], 1) * 3.0, 0.8, 50, 0.9, i) "
    "FROM generate_series(1, 100) AS i)",
}


def var(name: str, shape: str, seed: int) -> str:
    return f"llm_var(randn(ARRAY[{shape}], {seed}), '{name}')"


def const(shape: str, seed: int) -> str:
    return f"randn(ARRAY[{shape}], {seed})"


# Scalars whose gradients are hashed: rules that sum, broadcast, move and select, over odd sizes.
GRADIENTS = {
    "products": f"mean(pg_llm_softmax(({const('3, 1, 5, 129', 1)} @ {var('w', '2, 129, 33', 2)})"
    f" + {var('b', '33', 3)}, 2) * {const('3, 2, 5, 33', 4)})",
    "elements": f"tensor_sum(exp({var('a', '37, 1, 11', 1)} * 0.3) / (1.5 + tanh({var('b', '5, 1', 2)}))"
    f" - pg_llm_gelu({var('c', '11', 3)}))",
    "norms": f"norm(pg_llm_layernorm({var('x', '300, 77', 1)}, {var('g', '77', 2)}, {var('b', '77', 3)})"
    f" - relu({var('r', '300, 1', 4)}))",
    "rows": f"tensor_sum(pg_llm_log_softmax(pg_llm_rmsnorm({var('x', '300, 77', 1)}, {var('g', '77', 2)}))"
    f" * {const('300, 77', 3)})",
    "images": f"mean(pg_llm_avgpool(pg_llm_upsample(pg_llm_groupnorm(pg_llm_conv2d("
    f"{var('x', '3, 6, 13, 9', 1)}, {var('w', '8, 3, 3, 3', 2)}, {var('b', '8', 3)}, 2, 1, 2),"
    f" {var('g', '8', 4)}, {var('h', '8', 5)}, 4)), 3) * {const('3, 8, 4, 3', 6)})",
    "waves": f"mean(pg_llm_silu(sin({var('a', '37, 129', 1)} * 9.0)) * pg_llm_sigmoid({var('b', '129', 2)})"
    f" * cos({var('a', '37, 129', 1)}))",
    "choices": f"tensor_sum(cumsum(tensor_where({const('37, 1', 1)}, clamp({var('a', '37, 129', 2)}, -1, 1),"
    f" {var('b', '129', 3)}), 0) * {const('37, 129', 4)})",
    "experts": f"tensor_sum(expert_matmul({var('x', '45, 300', 1)}, topk({const('45, 5', 2)}, 2, 'indices'),"
    f" {var('w', '5, 300, 70', 3)}) * reshape(topk({var('g', '45, 5', 2)}, 2), ARRAY[45, 2, 1]))",
    "soft labels": f"soft_cross_entropy({var('x', '37, 5000', 1)}, pg_llm_softmax({var('y', '37, 5000', 2)}))"
    f" + mse({var('a', '37, 129', 3)}, {const('37, 129', 4)})",
    "reductions": f"mean(var({var('x', '70, 130', 1)}, 0) * tensor_max({var('y', '70, 130', 2)}, 0)"
    f" + norm({var('x', '70, 130', 1)}, 0))",
    "views": f"tensor_sum(concat(ARRAY[slice({var('x', '9, 40', 1)}, ARRAY[2, 3], ARRAY[-1, 30]),"
    f" transpose(reshape({var('y', '3, 54', 2)}, ARRAY[27, 6]))], 0) * {const('12, 27', 3)})",
    "attention": f"tensor_sum(pg_llm_attention({var('x', '2, 140, 30', 1)}, {var('w', '30, 90', 2)},"
    f" {var('b', '90', 3)}, {var('o', '30, 30', 4)}, {var('p', '30', 5)}, 3) * {const('2, 140, 30', 6)})",
    "loss": f"pg_llm_cross_entropy(pg_llm_dropout(pg_llm_embedding(ARRAY[[3, 0], [9, 9]],"
    f" {var('e', '10, 333', 1)}), 0.1, true, 7), ARRAY[[5, -100], [0, 332]])",
}

# Two models with every kind of activation and head; 257 tokens: the bytes and an end token.
MODELS = {
    "bits": (2, 3, 48, 150, 257, None, "bits", "{}"),
    "bits_odd": (3, 5, 35, 140, 257, 50, "bits", '{"activation": "gelu_erf", "tied_head": false}'),
}
TEXT = list(b"The same bits everywhere: scalar, AVX2, AVX-512; one thread or many. ") * 3


def token_forms() -> list[str]:
    """GPT-2's printable form of each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


def make_models(conn) -> None:
    """Creates a tokenizer of single bytes and the models, from their seeds."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO llm_bpe_vocab (model, token_id, token, bytes) VALUES ('bits', %s, %s, %s)",
            [(i, form, bytes([i])) for i, form in enumerate(token_forms())]
            + [(256, "<|endoftext|>", b"<|endoftext|>")],
        )
    for seed, (model, sizes) in enumerate(MODELS.items()):
        conn.execute("SELECT llm_create_model(%s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb)", (model, *sizes))
        conn.execute("SELECT llm_init_model(%s, %s)", (model, seed))
        # Fresh biases and norms are 0 and 1, and logits nearly equal: scale the weights so that each matters.
        conn.execute(
            "UPDATE llm_param SET data = data * 6.0 + randn(shape(data), length(name)) * 0.05 "
            "WHERE model = %s",
            (model,),
        )


def digest(*arrays: np.ndarray) -> str:
    """First 32 hexadecimal digits of the SHA-256 of arrays' shapes and little-endian bytes."""
    sha = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        sha.update(repr((array.dtype.str, array.shape)).encode())
        sha.update(array.tobytes())
    return sha.hexdigest()[:32]


def tensor(conn, expression: str, **arguments) -> np.ndarray:
    """A tensor expression's value, over any connection: its shape, and its elements as bytes."""
    query = f"SELECT shape(t), t::bytea FROM (SELECT {expression} AS t OFFSET 0) AS one"
    shape, raw = conn.execute(query, arguments, binary=True).fetchone()
    return np.frombuffer(raw, "<f4").reshape(shape)


def kernel(conn, expression: str) -> str:
    """The hash of a kernel's value: a tensor, float32 buffer, number or list of ids."""
    arguments = {"odd": ODD.tobytes()}
    kind = conn.execute(f"SELECT pg_typeof({expression})::text", arguments).fetchone()[0]
    if kind.endswith("tensor"):
        return digest(tensor(conn, expression, **arguments))
    value = conn.execute(f"SELECT {expression}", arguments, binary=True).fetchone()[0]
    return digest(np.frombuffer(value, "<f4") if kind == "bytea" else np.asarray(value, "<f8"))


def gradients(conn, expression: str) -> str:
    """The hash of a scalar's gradients with respect to its variables, by name."""
    conn.execute("SET pg_llm.autograd = on")
    query = f"SELECT shape(grad), grad::bytea FROM llm_backward({expression}) ORDER BY name"
    rows = conn.execute(query, binary=True).fetchall()
    conn.execute("RESET pg_llm.autograd")
    return digest(*[np.frombuffer(raw, "<f4").reshape(shape) for shape, raw in rows])


def model_gradients(conn, model: str) -> str:
    """The hash of a model's gradients after a trace and its backward pass."""
    batch = [[TEXT[i : i + 65] for i in range(start, start + 3)] for start in (0, 1)]
    (run,) = conn.execute("SELECT llm_trace(%s, %s::int[], %s::int[])", (model, *batch)).fetchone()
    (loss,) = conn.execute("SELECT max(id) FROM llm_tape WHERE run = %s", (run,)).fetchone()
    conn.execute("SELECT llm_zero_grad(%s)", (model,))
    conn.execute("SELECT llm_backprop(%s, %s)", (loss, model))
    conn.execute("SELECT llm_accumulate_grads(%s)", (model,))
    rows = "SELECT shape(grad), grad::bytea FROM llm_param WHERE model = %s ORDER BY name"
    found = conn.execute(rows, (model,), binary=True).fetchall()
    return digest(*[np.frombuffer(raw, "<f4").reshape(shape) for shape, raw in found])


def logits(conn, model: str, tokens: list[int]) -> np.ndarray:
    return tensor(conn, "llm_logits(%(tokens)s::int[], %(model)s)", tokens=tokens, model=model)


def stream(conn, model: str, prompt: str, n: int, temperature: float, seed: int) -> list[int]:
    """Token ids of generation with the KV cache."""
    query = "SELECT token_id FROM llm_generate_stream(%s, %s, %s, 40, 0.9, %s, NULL, %s) ORDER BY step"
    return [row[0] for row in conn.execute(query, (prompt, n, temperature, model, seed))]


def uncached(conn, model: str, tokens: list[int], n: int) -> list[int]:
    """The most likely continuation, with a full forward pass for each token."""
    tokens = list(tokens)
    for _ in range(n):
        tokens.append(int(np.argmax(logits(conn, model, tokens)[-1])))
    return tokens[-n:]


def all_hashes(conn) -> dict[str, str]:
    """All hashes under the connection's current settings."""
    hashes = {f"kernel {name}": kernel(conn, expression) for name, expression in KERNELS.items()}
    hashes |= {f"gradients of {name}": gradients(conn, expression) for name, expression in GRADIENTS.items()}
    for model in MODELS:
        hashes[f"{model} gradients"] = model_gradients(conn, model)
        weights = "SELECT name FROM llm_param WHERE model = %s ORDER BY name"
        names = [row[0] for row in conn.execute(weights, (model,))]
        data = "(SELECT data FROM llm_param WHERE model = %(model)s AND name = %(name)s)"
        hashes[f"{model} weights"] = digest(*[tensor(conn, data, model=model, name=name) for name in names])
        for T in (1, 17, 130):
            hashes[f"{model} logits of {T}"] = digest(logits(conn, model, TEXT[:T]))
        batch = [TEXT[i : i + 20] for i in range(3)]
        hashes[f"{model} logits of a batch"] = digest(logits(conn, model, batch))
        loss = "SELECT llm_loss(%s, %s::int[], %s::int[])"
        loss = conn.execute(loss, (model, TEXT[:130], TEXT[1:131]), binary=True).fetchone()[0]
        hashes[f"{model} loss"] = digest(np.asarray(loss, "<f4"))
        inputs = '{"tokens": [[84, 104, 101]]}'
        inner = tensor(conn, "llm_eval(%(m)s, 'h.0.attn.heads', %(i)s::jsonb)", m=model, i=inputs)
        hashes[f"{model} attention heads"] = digest(inner)
        hashes[f"{model} greedy"] = digest(np.asarray(stream(conn, model, "The same", 40, 0, 0), "<i4"))
        sampled = [stream(conn, model, "bits", 40, 0.8, seed) for seed in range(3)]
        hashes[f"{model} sampled"] = digest(np.asarray(sampled, "<i4"))
        ranked = conn.execute("SELECT token_id, probability FROM llm_next_tokens('bit', 20, %s)", (model,))
        hashes[f"{model} next tokens"] = digest(np.asarray(ranked.fetchall(), "<f8"))
        beams = conn.execute("SELECT score, text FROM llm_beam_search('bit', 3, 8, %s)", (model,)).fetchall()
        texts = np.frombuffer("\0".join(text for _, text in beams).encode(), "u1")
        hashes[f"{model} beams"] = digest(np.asarray([score for score, _ in beams], "<f8"), texts)
    return hashes
