"""The extension's objects: documented names and arguments, comments, volatility."""

import re

MEMBERS = """FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_llm'
    WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass"""
FUNCTIONS = f"(SELECT d.objid {MEMBERS} AND d.classid = 'pg_proc'::regclass)"

CONTRACT = {
    "llm_init_model": ["model text", "seed bigint"],
    "llm_logits": ["tokens integer[]", "model text"],
    "llm_loss": ["model text", "tokens integer[]", "targets integer[]"],
    "llm_next_tokens": ["prompt text", "k integer", "model text"],
    "llm_eval": ["model text", "node text", "inputs jsonb"],
    "llm_generate": [
        "prompt text", "max_tokens integer", "temperature double precision", "topk integer",
        "topp double precision", "model text", "eos integer", "seed bigint",
    ],
    "llm_generate_stream": [
        "prompt text", "max_tokens integer", "temperature double precision", "topk integer",
        "topp double precision", "model text", "eos integer", "seed bigint",
    ],
    "llm_beam_search": ["prompt text", "beam_width integer", "max_tokens integer", "model text"],
    "llm_encode": ["text text", "model text"],
    "llm_decode": ["tokens integer[]", "model text"],
    "llm_checkpoint_save": ["model text", "note text"],
    "llm_checkpoint_load": ["model text", "id bigint"],
    "llm_replay": ["model text", "from_checkpoint bigint", "to_step bigint"],
    "pg_llm_import_npz": ["path text", "model text"],
    "pg_llm_export_npz": ["path text", "model text"],
    "pg_llm_import_safetensors": ["path text", "model text"],
    "pg_llm_export_safetensors": ["path text", "model text"],
    "pg_llm_load_bpe_vocab": ["path text", "model text"],
    "pg_llm_load_bpe_merges": ["path text", "model text"],
}  # fmt: skip


def test_functions_have_the_names_and_arguments_of_the_contract(conn):
    """In this order; further arguments may follow if they have defaults."""
    for name, arguments in CONTRACT.items():
        rows = conn.execute(
            "SELECT pg_get_function_arguments(oid), pronargdefaults FROM pg_proc "
            f"WHERE proname = %s AND oid IN {FUNCTIONS}",
            [name],
        ).fetchall()
        callable_so = []
        for written, defaults in rows:
            given = [re.sub(" DEFAULT .*", "", a) for a in written.split(", ") if not a.startswith("OUT ")]
            enough = len(given) <= len(arguments) + defaults  # more arguments need defaults
            callable_so.append(given[: len(arguments)] == arguments and enough)
        assert sum(callable_so) == 1, name
    for function in ("llm_generate", "llm_generate_stream"):
        query = "SELECT pg_get_function_arguments(oid) FROM pg_proc WHERE proname = %s"
        query += " AND proargtypes[0] = 'text'::regtype"
        arguments = conn.execute(query, [function]).fetchone()[0].split(", ")
        for argument in (
            "temperature double precision DEFAULT 1.0",
            "topk integer DEFAULT 50",
            "topp double precision DEFAULT 0.95",
            "eos integer DEFAULT 50256",
            "seed bigint DEFAULT NULL::bigint",
        ):
            assert argument in arguments


def test_every_object_says_what_it_is(conn):
    rows = conn.execute(
        f"SELECT pg_describe_object(d.classid, d.objid, 0) {MEMBERS} "
        "AND obj_description(d.objid, d.classid::regclass::name) IS NULL"
    ).fetchall()
    # casts and operator classes are described by their functions and operators, a row type by its table
    known = r"cast |operator (family|class)|sequence .*_id_seq$|type .*(llm_\w+|\[\])$"
    silent = [r[0] for r in rows if not re.match(known, r[0])]
    assert silent == []


def test_flags(conn):
    """Functions of a model are volatile and not parallel safe; plain arithmetic may be folded."""
    flags = {}
    for name, *flag in conn.execute(
        f"SELECT proname, provolatile, proparallel, proisstrict FROM pg_proc WHERE oid IN {FUNCTIONS}"
    ):
        flags.setdefault(name, set()).add(tuple(flag))
    for name in (
        "llm_logits", "llm_loss", "llm_eval", "llm_generate", "_llm_generate_rows", "llm_next_tokens",
        "llm_beam_search", "llm_init_model", "llm_create_model",
    ):  # fmt: skip
        assert flags[name] == {("v", "u", False)}, name
    assert flags["llm_generate_stream"] == {("s", "u", False)}  # otherwise the planner does not inline it
    assert flags["_llm_init_tensor"] == {("i", "s", False)}
    assert flags["llm_default_model"] == {("s", "s", False)}
    for name in ("shape", "ndim", "numel"):
        assert flags[name] == {("i", "s", True)}, name
