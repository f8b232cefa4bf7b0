"""load_model(conn, folder_or_file, model): imports a checkpoint over any psycopg 3 connection.

The server decides which tensors a model must have (_llm_import_begin), as for the import by path; this module
reads files and sends rows, a piece at a time.
"""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from pg_llm import catalog
from pg_llm.files.checkpoint import (
    Checkpoint,
    CheckpointError,
    Tensor,
    open_checkpoint,
    progress_bar,
    same_values,
)
from pg_llm.files.layout import transposed
from pg_llm.files.model_tokenizer import set_tokenizer

# A field of the wire protocol is at most 1 GB.
_MAX_TENSOR_BYTES = 2**30 - 64
_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)


class Imported(NamedTuple):
    """What load_model wrote: the number of tensors and of parameters; and the model's tokenizer, if any."""

    tensors: int
    parameters: int
    tokenizer: str | None = None


def load_model(
    conn: psycopg.Connection,
    folder_or_file: str | Path,
    model: str,
    *,
    ignore_surplus: bool = False,
    progress: bool = True,
    tokenizer: bool | str = True,
) -> Imported:
    """Imports a checkpoint (safetensors, npz, PyTorch .pt or .bin) as `model`, replacing its weights.

    GPT-2, or with a config.json beside it an architecture of the view llm_architecture: GPT-Neo
    (TinyStories), Llama, Mistral, Qwen 2 and 3, GPT-NeoX (Pythia), GPT-J, OPT. Of GPT-2, files of
    HuggingFace, nanoGPT, minGPT, build-nanogpt, LLMs-from-scratch, llm.c (.bin), llama.cpp (GGUF, with the
    package gguf) or pg_gpt2 (.npz). PyTorch's files need torch; nothing in them is executed. ignore_surplus:
    tensors that the model does not have are left out, with a notice.
    tokenizer: True loads the one beside the weights (tokenizer.json, or vocab.json and merges.txt) under the
    model's name, unless the model uses the same one already; a tokenizer that is loaded under that name is
    kept, and one of a kind that llm_encode does not have is left out, both with a warning. False loads none;
    a name is that of a tokenizer in the database.
    A folder of diffusers with a UNet2DModel becomes a denoising model (pg_llm.files.unet).
    All or nothing: one transaction, or a savepoint inside the caller's. Needs no rights but those on the
    llm_ tables. Errors: CheckpointError for the file, psycopg.Error (naming every tensor that is missing,
    surplus or of another shape) from the server.
    Example: load_model(pg_llm.connect(), "gpt2", "gpt2-small")
    """
    from pg_llm.files.unet_import import load_unet, unet_folder

    if folder := unet_folder(Path(folder_or_file).expanduser()):
        return load_unet(conn, folder, model, ignore_surplus, progress)
    with open_checkpoint(folder_or_file) as checkpoint:
        check_sizes(checkpoint)
        with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
            schema = catalog.schema(conn)
            rows = _begin(cursor, schema, checkpoint, model, ignore_surplus)
            chosen = []
            for name, position, is_transposed in rows:
                tensor = checkpoint.tensors[position - 1]
                chosen.append((name, transposed(tensor) if is_transposed else tensor))
            copy_params(cursor, schema, model, chosen, progress)
            used, reason = set_tokenizer(conn, Path(folder_or_file).expanduser(), model, tokenizer)
    if reason:
        warnings.warn(reason, stacklevel=2)
    return Imported(len(chosen), sum(tensor.size for _, tensor in chosen), used)


def check_sizes(checkpoint: Checkpoint) -> None:
    """Errors: CheckpointError for a tensor that is larger than a row."""
    for tensor in checkpoint.tensors:
        if tensor.size * 4 > _MAX_TENSOR_BYTES:
            raise CheckpointError(
                f'tensor "{tensor.name}" has {tensor.size} elements; one row holds {_MAX_TENSOR_BYTES // 4}'
            )


def _begin(cursor, schema, checkpoint: Checkpoint, model: str, ignore_surplus: bool) -> list:
    """Rows of a parameter, the position of its tensor from 1 on, and whether it has to be transposed."""
    tensors = json.dumps([{"name": t.name, "dtype": t.dtype, "shape": t.shape} for t in checkpoint.tensors])
    query = sql.SQL(
        "SELECT name, position, is_transposed "
        "FROM {}._llm_import_begin(%s::text, %s::text::jsonb, %s::text::jsonb, %s, %s)"
    )
    tied = _head_is_embedding(cursor, schema, checkpoint, tensors)
    arguments = [model, tensors, checkpoint.config, tied, ignore_surplus]
    return cursor.execute(query.format(schema), arguments).fetchall()


def _head_is_embedding(cursor, schema, checkpoint: Checkpoint, tensors: str) -> bool:
    query = sql.SQL("SELECT head, embedding FROM {}._llm_import_head(%s::text::jsonb, %s::text::jsonb)")
    positions = cursor.execute(query.format(schema), [tensors, checkpoint.config]).fetchone()
    head, embedding = (position and checkpoint.tensors[position - 1] for position in positions)
    return same_values(head, embedding)


def copy_params(cursor, schema, model: str, chosen: list[tuple[str, Tensor]], progress: bool) -> None:
    """Writes the binary COPY format directly, so that no tensor need be in memory as a whole."""
    bar = progress_bar((tensor for _, tensor in chosen), model, progress)
    statement = sql.SQL("COPY {}.llm_param (model, name, data) FROM STDIN (FORMAT BINARY)").format(schema)
    encoded = model.encode(cursor.connection.info.encoding)
    begin = sql.SQL("SELECT {}._llm_progress_begin('import', %s, 'tensor', %s, transaction => true)")
    cursor.execute(begin.format(schema), [model, len(chosen)])
    with bar, cursor.copy(statement) as copy:
        copy.write(_COPY_HEADER)
        for name, tensor in chosen:
            ndim = len(tensor.shape)
            head = struct.pack(f"<{ndim + 1}i", ndim, *tensor.shape)
            copy.write(
                struct.pack("!h", 3)
                + _field(encoded)
                + _field(name.encode(cursor.connection.info.encoding))
                + struct.pack("!i", len(head) + 4 * tensor.size)
                + head
            )
            for piece in tensor.pieces():
                copy.write(piece.data.cast("B"))
                bar.update(piece.nbytes)
        copy.write(struct.pack("!h", -1))
    cursor.execute(sql.SQL("SELECT {}._llm_progress_end()").format(schema))


def _field(value: bytes) -> bytes:
    return struct.pack("!i", len(value)) + value
