"""Models that are no language models: graphs written as rows, and data sets of named tensors."""

from __future__ import annotations

import json

import numpy as np
from psycopg import sql


def write_graph(conn, model, nodes, seed=1):
    """A new model with these nodes (name, op, inputs, attributes) and random weights."""
    conn.execute("DELETE FROM llm_train_run WHERE model = %s", (model,))
    conn.execute("DELETE FROM llm_model_config WHERE model = %s", (model,))
    conn.execute(
        "INSERT INTO llm_model_config (model, n_layer, n_head, d_model, d_ff, n_positions, vocab)"
        " VALUES (%s, 1, 1, 1, 1, 1, 1)",
        (model,),
    )
    with conn.transaction():
        conn.execute("SET CONSTRAINTS ALL DEFERRED")
        for name, op, inputs, attrs in nodes:
            conn.execute(
                "INSERT INTO llm_graph (model, name, op, inputs, attrs) VALUES (%s, %s, %s, %s, %s)",
                (model, name, op, list(inputs), json.dumps(attrs)),
            )
    conn.execute("SELECT llm_init_model(%s, %s)", (model, seed))


def add_rows(conn, dataset, rows, tokens=None):
    """Rows of named arrays, replacing the data set; their ids."""
    conn.execute("DELETE FROM llm_dataset WHERE dataset = %s", (dataset,))
    for i, row in enumerate(rows):
        add_row(conn, dataset, row, None if tokens is None else tokens[i])
    query = "SELECT array_agg(id ORDER BY id) FROM llm_dataset WHERE dataset = %s"
    return conn.execute(query, (dataset,)).fetchone()[0]


def add_row(conn, dataset, row, tokens=None):
    tensors = sql.SQL(", ").join(sql.SQL("%s::tensor") for _ in row)
    conn.execute(
        sql.SQL(
            "INSERT INTO llm_dataset (dataset, tokens, names, tensors)"
            " VALUES (%s, %s::int[], %s::text[], ARRAY[{}])"
        ).format(tensors),
        (dataset, tokens, list(row), *(np.asarray(value, np.float32) for value in row.values())),
    )


def params(conn, model):
    rows = conn.cursor(binary=True).execute("SELECT name, data FROM llm_param WHERE model = %s", (model,))
    return {name: data.copy() for name, data in rows.fetchall()}


def logged(conn, model):
    query = "SELECT step, loss, grad_norm, rows, tokens FROM llm_train_log WHERE model = %s ORDER BY id"
    return conn.execute(query, (model,)).fetchall()


def torch_steps(torch, weights, loss_of, log, accumulation, lr=0.01, wd=0.01, eps=1e-8):
    """AdamW's steps over the log's rows in float64, with loss_of(ids); each step's loss and gradient norm."""
    matrices = [w for w in weights.values() if w.ndim >= 2]
    vectors = [w for w in weights.values() if w.ndim < 2]
    groups = [{"params": matrices, "weight_decay": wd}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(0.9, 0.999), eps=eps)
    results = []
    for _, _, _, ids, _ in log:
        optimizer.zero_grad()
        size, total = len(ids) // accumulation, 0.0
        for at in range(0, len(ids), size):
            loss = loss_of(ids[at : at + size]) / accumulation
            loss.backward()
            total += loss.item()
        norm = sum((w.grad**2).sum().item() for w in weights.values()) ** 0.5
        optimizer.step()
        results.append((total, norm))
    return results


def leaves(torch, conn, model):
    """The model's parameters as PyTorch's, in float64."""
    return {n: torch.tensor(w, dtype=torch.float64).requires_grad_() for n, w in params(conn, model).items()}
