"""The command pg-llm. Each command imports what it needs when it runs, so that --help answers at once."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import sys

import click

from pg_llm import __version__
from pg_llm.course import commands
from pg_llm.errors import KitError

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="pg-llm")
def cli():
    """GPT-2 inside PostgreSQL: every weight and activation is a row.

    \b
    Begin with:  pg-llm lab
    Trouble:     pg-llm doctor
    """


@cli.command()
@click.option("--port", type=click.IntRange(1, 65535),
              help="Open a TCP port too; needs a password (PG_LLM_PASSWORD).")  # fmt: skip
@click.option("--listen", help="Addresses for --port, instead of localhost; '*' for all.")
def start(port, listen):
    """Start the server, or find it running. Socket only, unless --port is given.

    \b
    Example: pg-llm start
    Example: pg-llm start --port 5432 --listen '*'
    """
    from pg_llm.server.server import Server

    _only_embedded("start")
    if listen and port is None:
        raise click.UsageError("--listen needs --port, for example --port 5432")
    server, listen = Server(), listen or "localhost"
    password = os.environ.get("PG_LLM_PASSWORD")
    if port is not None and not password and not server.listens(port, listen):
        if not sys.stdin.isatty():
            raise KitError("there is no terminal to ask for a password: set PG_LLM_PASSWORD")
        password = click.prompt("Password for user postgres", hide_input=True, confirmation_prompt=True)
    live = server.start(port, listen, password if port is not None else None)
    click.echo(f"PostgreSQL runs (process {live.pid}), socket {live.socket}")
    if live.listen:
        click.echo(f"TCP: {live.listen} port {live.port}, user postgres, with password")


@cli.command()
def stop():
    """Stop the server. Nothing committed is lost; open transactions roll back.

    \b
    Example: pg-llm stop
    """
    from pg_llm.server.server import Server

    _only_embedded("stop")
    click.echo("stopped" if Server().stop() else "no server was running")


@cli.command()
def status():
    """Show whether the server is running, where its files are, and whether it matches the installed kit.

    Exit code 0: running; 3: not running.

    \b
    Example: pg-llm status
    """
    from pg_llm.server.doctor import server_facts

    facts, runs = server_facts()
    for name, value in facts.items():
        click.echo(f"{name + ':':12}{value}")
    raise SystemExit(0 if runs else 3)


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("database", default="")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(database, arguments):
    """Open psql in a database of the kit; further arguments are passed to psql.

    DATABASE may be a notebook's file, and is the database of that notebook then.

    \b
    Example: pg-llm psql
    Example: pg-llm psql 00_start_here.ipynb
    Example: pg-llm psql 00_start_here -c 'SELECT model FROM llm_model_config'
    """
    from psycopg.conninfo import make_conninfo

    from pg_llm.server import clients, processes
    from pg_llm.server import database as databases
    from pg_llm.server import notebooks as notebooks_of
    from pg_llm.server.connect import DEFAULT, parameters, wait_for
    from pg_llm.server.server import Server

    if database.startswith("-"):
        database, arguments = "", (database, *arguments)
    if database.endswith(".ipynb"):
        database = notebooks_of.database_of(database)
    program = clients.program("psql")
    if elsewhere := databases.dsn():
        target = parameters(elsewhere, database or None)
        wait_for(make_conninfo(**target))
        # Every user of the machine can read a command line.
        target.pop("sslpassword", None)
        if password := target.pop("password", None):
            os.environ["PGPASSWORD"] = password
        os.execv(program, [program, "-d", make_conninfo(**target), *arguments])
    database = notebooks_of.existing(database or DEFAULT)
    if database == DEFAULT:
        databases.connect(database).close()
    info = Server().start().conninfo(database)
    where = ["-h", info["host"], "-p", str(info["port"]), "-U", info["user"], "-d", info["dbname"]]
    sys.stdout.flush()
    os.execve(program, [program, *where, *arguments], processes.environment())


@cli.command()
def doctor():
    """Check everything the kit needs and say how to fix what is wrong.

    \b
    Example: pg-llm doctor
    """
    from pg_llm.server.doctor import examine

    raise SystemExit(examine(click.echo))


@cli.command(context_settings={"ignore_unknown_options": True})
@click.option("--browser/--no-browser", default=True, help="Open a browser window.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lab(browser, arguments):
    """Start the server and open JupyterLab on your copy of the notebooks, which this brings up to date.

    Where PG_LLM_DSN leads to a class with answer keys, they come without solutions. Further arguments are
    passed to JupyterLab.

    \b
    Example: pg-llm lab
    Example: pg-llm lab --no-browser --port 9000
    """
    from pg_llm.course.editions import prepare
    from pg_llm.notebook.lab import run

    run(click.echo, browser, list(arguments), prepare(None, click.echo))


@cli.command()
@click.argument("folder", required=False, type=click.Path(file_okay=False))
@click.option("--edition", type=click.Choice(["self-study", "student"]),
              help="With solutions, or without: the default in a class with answer keys.")  # fmt: skip
def notebooks(folder, edition):
    """Bring your copy of the notebooks up to date, for an editor other than JupyterLab, and show where it is.

    Notebooks that are new, or that you have not changed, are copied; where you have written something, the
    new edition is put beside it. FOLDER: a copy of its own, in place of the one that `pg-llm lab` opens.

    \b
    Example: pg-llm notebooks
    Example: pg-llm notebooks ~/course
    Example: pg-llm notebooks ~/course --edition student
    """
    from pathlib import Path

    from pg_llm.course.editions import prepare
    from pg_llm.notebook import lab as copies

    said = functools.partial(click.echo, err=True)
    target = Path(folder).expanduser() if folder else None
    click.echo(f"{copies.notebooks(said, target, prepare(edition, said))}")


@cli.group("databases", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="As a list of JSON objects.")
@click.pass_context
def databases_(context, as_json):
    """List the databases that the kit made: notebook, size, when a notebook last opened them.

    \b
    Example: pg-llm databases
    Example: pg-llm databases drop 00_start_here_2
    """
    from pg_llm.server import notebooks as notebooks_of

    if context.invoked_subcommand:
        return
    found = notebooks_of.listed()
    if as_json:
        click.echo(json.dumps([each.facts() for each in found], indent=1))
        return
    rows = [("database", "size", "last used", "notebook"), *(each.row() for each in found)]
    commands.print_table(rows)


@databases_.command("drop")
@click.argument("names", metavar="DATABASE...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="End the sessions in them.")
def databases_drop(names, yes, force):
    """Drop databases, with all that is in them; a notebook begins with a new one when it is opened again.

    DATABASE may be a notebook's file, and is the database of that notebook then.

    \b
    Example: pg-llm databases drop 00_start_here_2
    Example: pg-llm databases drop 00_start_here.ipynb
    """
    from pg_llm.server import notebooks as notebooks_of

    names = notebooks_of.named(names)
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask; --yes drops without a question")
    if not yes:
        click.confirm(f"Drop {', '.join(names)}, with the tables and models in them?", abort=True)
    notebooks_of.drop(names, force)
    click.echo(f"dropped: {', '.join(names)}")


@databases_.command("rename")
@click.argument("old")
@click.argument("new")
def databases_rename(old, new):
    """Rename a database, OLD or that of the notebook whose file is OLD; it stays its notebook's.

    \b
    Example: pg-llm databases rename 00_start_here first_try
    """
    from pg_llm.server import notebooks as notebooks_of

    old = notebooks_of.rename(old, new)
    click.echo(f"{old} is {new} now")


@cli.command()
@click.option("--source", required=True, help="Model folder, weights file, or a model of the hub.")
@click.option("--revision", help="Of a model of the hub: branch, tag or commit.")
@click.option("--output", required=True, type=click.Path(dir_okay=False), help="A .npz or .safetensors file.")
def convert(source, revision, output):
    """Convert a GPT-2 checkpoint (safetensors, npz; PyTorch .pt and .bin where torch is installed).

    Of HuggingFace, nanoGPT, minGPT, build-nanogpt or LLMs-from-scratch; names and layout become GPT-2's.

    \b
    Example: pg-llm convert --source ./gpt2 --output gpt2.npz
    Example: pg-llm convert --source openai-community/gpt2 --output gpt2.npz
    """
    from pg_llm.files.convert import convert as run

    run(source, output, revision=revision)
    click.echo(f"wrote {output}")


def in_a_database(command):
    """The options of a command that works in one database; _connect takes their values."""
    for option in (
        click.option("--notebook", help="The database of this notebook: its file, name or number."),
        click.option("--database", help="A database of the server; default: pg_llm, or the DSN's own."),
        click.option("--dsn", help="Another server, and a database there; default: PG_LLM_DSN or the kit's."),
    ):
        command = option(command)
    return command


def _connect(dsn, database, notebook):
    from pg_llm.server import database as databases
    from pg_llm.server import notebooks as notebooks_of

    if database and notebook:
        raise click.UsageError("--database and --notebook both name a database; give one of them")
    if dsn:
        os.environ["PG_LLM_DSN"] = dsn
    try:
        if notebook:
            database = notebooks_of.database_of(notebook)
        return databases.connect(notebooks_of.existing(database) if database else None)
    except KitError as error:
        raise KitError(str(error).replace("PG_LLM_DSN", "--dsn")) if dsn else error from None


@cli.command()
@in_a_database
@click.argument("name")
@click.option("--file", help="Weights of another name, such as a GGUF file.")
@click.option("--revision", help="Branch, tag or commit; default: the newest.")
@click.option("--offline", is_flag=True, help="Take the files from the cache alone.")
@click.option("--model", help="Load the weights under this name, too.")
def download(dsn, database, notebook, name, file, revision, offline, model):
    """Download a GPT-2 from the Hugging Face hub, check its files and print where they are.

    NAME is OWNER/NAME, or gpt2, gpt2-medium, gpt2-large, gpt2-xl for OpenAI's. The files are kept in
    huggingface_hub's cache. A private model needs HF_TOKEN, or a login: hf auth login. With --model, the
    model's tokenizer is loaded, too.

    \b
    Example: pg-llm download gpt2 --model gpt2-small
    Example: pg-llm download someone/their-gpt2 --revision v1
    """
    from pg_llm.files import hub, importer

    _end_like_interrupted()
    if not model and (dsn or database or notebook):
        raise click.UsageError("a database needs --model, the name to load the weights under")
    if not model:
        click.echo(f"{hub.download(name, file=file, revision=revision, offline=offline)}")
        return
    with _connect(dsn, database, notebook) as conn:
        path = hub.download(name, file=file, revision=revision, offline=offline)
        done = importer.load_model(conn, path, model)
        click.echo(f"{path}")
        what = f"{done.parameters} parameters, tokenizer {done.tokenizer or 'none'}"
        click.echo(f"model {model}: {what}, in database {conn.info.dbname}", err=True)


@cli.command("ingest-tokenizer")
@in_a_database
@click.option("--model", required=True, help="The tokenizer's name in llm_encode(text, model).")
@click.option("--vocab", type=click.Path(exists=True, dir_okay=False), help="vocab.json, with --merges.")
@click.option("--merges", type=click.Path(exists=True, dir_okay=False), help="merges.txt, with --vocab.")
@click.option("--truncate", is_flag=True, help="Replace a tokenizer of that name.")
@click.argument("source", required=False, type=click.Path(exists=True))
def ingest_tokenizer(dsn, database, notebook, model, vocab, merges, truncate, source):
    """Load a byte-pair tokenizer into a database: SOURCE, a folder or a tokenizer.json, or GPT-2's two files.

    Under a model's name it is that model's tokenizer.

    \b
    Example: pg-llm ingest-tokenizer --model mine ./my-gpt2
    Example: pg-llm ingest-tokenizer --model mine --vocab vocab.json --merges merges.txt
    Example: pg-llm ingest-tokenizer --notebook 02_text_to_tokens --model mine tokenizer.json
    """
    from pg_llm.files import tokenizer

    if not model:
        raise click.UsageError("--model is empty; it is the tokenizer's name")
    if bool(source) == bool(vocab) or bool(vocab) != bool(merges):
        raise click.UsageError("name SOURCE, a folder or a tokenizer.json, or both --vocab and --merges")
    vocab = source or vocab
    with _connect(dsn, database, notebook) as conn:
        database = conn.info.dbname
        count = tokenizer.load_tokenizer(conn, vocab, merges, model, truncate=truncate)
    click.echo(f"tokenizer {model}: {count} tokens, in database {database}")


@cli.command("prepare-dataset")
@in_a_database
@click.option("--tokenizer", default="gpt2", show_default=True, help="A tokenizer, or a model that has one.")
@click.option("--input", "inputs", multiple=True, help="A file, a pattern, '-' for stdin; more may follow.")
@click.option("--dataset", default="default", show_default=True, help="The name of the rows.")
@click.option("--block-size", type=int, help="Tokens in a row; default: the model's n_positions.")
@click.option("--overlap", type=int, default=0, help="Tokens of context that a row repeats.")
@click.option("--batch-size", type=click.IntRange(1), default=512, show_default=True,
              help="Rows sent to the server at a time.")  # fmt: skip
@click.option("--validation", type=float, default=0.0, help="Fraction of rows held out, in NAME-validation.")
@click.option("--separator", help="A text that separates documents in a file, such as '<|endoftext|>'.")
@click.option("--special", is_flag=True, help="The text of a special token becomes that token.")
@click.option("--truncate", is_flag=True, help="First delete the rows of that dataset and its validation.")
@click.argument("files", nargs=-1)
def prepare_dataset(
    dsn,
    database,
    notebook,
    tokenizer,
    inputs,
    dataset,
    block_size,
    overlap,
    batch_size,
    validation,
    separator,
    special,
    truncate,
    files,
):
    """Turn text files into rows of tokens to train on, in llm_dataset.

    A model trains on the dataset that its recipe or llm_train names, else on that of its own name, else on
    'default'.

    \b
    Example: pg-llm prepare-dataset --input books/*.txt --block-size 256 --truncate
    Example: zcat wiki.gz | pg-llm prepare-dataset --input - --block-size 1024 --validation 0.05
    """
    from pg_llm.files import dataset as datasets

    with _connect(dsn, database, notebook) as conn:
        database = conn.info.dbname
        done = datasets.prepare_dataset(
            conn,
            [*inputs, *files],
            tokenizer,
            dataset,
            block_size=block_size,
            overlap=overlap,
            batch_size=batch_size,
            validation=validation,
            separator=separator,
            special=special,
            truncate=truncate,
        )
    held_out = f", {done.validation_rows} of them in {dataset}-validation" if done.validation_rows else ""
    click.echo(
        f"dataset {dataset}: {done.documents} document{'s'[: done.documents > 1]}, {done.tokens} tokens, "
        f"{done.rows} rows of {done.block_size}{held_out}, in database {database}"
    )
    if done.end_token is None and done.documents > 1:
        click.echo(f"tokenizer {tokenizer} has no end token: documents follow one another without one")


@cli.command()
@click.argument("database")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--replace", is_flag=True, help="Overwrite FILE, once the new backup is complete.")
def backup(database, file, replace):
    """Write all of DATABASE to FILE, including what pg_dump loses; it can stay in use meanwhile.

    DATABASE may be a notebook's file, and is the database of that notebook then.
    Left out: the tape (llm_run and tables that refer to it), which is unlogged, and checkpoints in files.

    \b
    Example: pg-llm backup 00_start_here lesson.backup
    """
    from pathlib import Path

    from pg_llm.backup.backup import backup as run
    from pg_llm.server import notebooks as notebooks_of

    _end_like_interrupted()
    if database.endswith(".ipynb"):
        database = notebooks_of.database_of(database)
    run(database, Path(file), replace, click.echo)


@cli.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.argument("database")
@click.option(
    "--replace", is_flag=True, help="Drop DATABASE, ending its sessions, once the new one is complete."
)
@click.option("--no-owner", is_flag=True, help="Everything belongs to the role that restores it.")
@click.option("--no-acl", is_flag=True, help="Leave out GRANTs, and settings of roles.")
def restore(file, database, replace, no_owner, no_acl):
    """Recreate DATABASE from a backup in FILE, also one of another build or PostgreSQL version.

    Roles belong to the server: those named in the backup must exist, unless --no-owner --no-acl are given.
    Your role executes the file's contents, like an SQL script: restore only files from people you trust.

    \b
    Example: pg-llm restore lesson.backup lesson_again
    """
    from pathlib import Path

    from pg_llm.backup.restore import restore as run

    _end_like_interrupted()
    run(Path(file), database, replace, not no_owner, not no_acl, click.echo)


@cli.command()
@click.argument("names", metavar="[DATABASE]...", nargs=-1)
@click.option("--force", is_flag=True, help="End the sessions in them.")
def update(names, force):
    """Bring databases of an older build to the installed one; their tables and models stay as they are.

    DATABASE may be a notebook's file; without any, all that need it. On a server of PG_LLM_DSN this is the
    superuser's to do. Not kept is the tape (llm_run and tables that refer to it), which is unlogged.

    \b
    Example: pg-llm update
    Example: pg-llm update 00_start_here
    """
    from pg_llm.backup import update as updates
    from pg_llm.server import notebooks as notebooks_of

    _end_like_interrupted()
    found = [notebooks_of.existing(name) for name in names] or updates.outdated()
    if not found:
        click.echo("all databases of the kit are of this build")
    for name in found:
        if not updates.update(name, force, click.echo):
            click.echo(f"database {name} is of this build already")


@cli.command()
@click.option("--layers", type=click.Choice(["4", "2", "1"]), default="4", show_default=True,
              help="Layers of the model.")  # fmt: skip
@click.option("--butterflies", is_flag=True, help="The model that draws butterflies, in diffusers' layout.")
@click.option("--output", default=".", show_default=True, help="Folder for weights, tokenizer and log.")
@click.option("--check", is_flag=True, help="Fail unless the files are the shipped ones, to the last bit.")
@click.option(
    "--steps", type=click.IntRange(1), help="End after so many, to try it out; call again to go on."
)
@click.option("--fresh", is_flag=True, help="Begin anew where the run of before could go on.")
@click.option("--load", is_flag=True, help="Train nothing: load the shipped models into a database.")
@in_a_database
def classroom(layers, butterflies, output, check, steps, fresh, load, dsn, database, notebook):
    """Train a model of the kit from scratch: a quarter of an hour or more, butterflies some hours.

    An interrupted or ended training is resumed. The files have the same bytes on every machine.

    \b
    Example: pg-llm classroom --layers 1 --check --output /tmp/again
    Example: pg-llm classroom --load --database lesson
    """
    from pathlib import Path

    from pg_llm import classroom as models

    if load and (check or steps or fresh or butterflies):
        raise click.UsageError(
            "--load trains nothing: --butterflies, --check, --steps and --fresh do not go with it"
        )
    if check and steps:
        raise click.UsageError("--check is for all steps: --steps does not go with it")
    if (dsn or database or notebook) and not load:
        raise click.UsageError("--dsn, --database and --notebook go with --load")
    if load:
        with _connect(dsn, database, notebook) as conn:
            click.echo(f"loaded: {', '.join(models.load(conn)) or 'nothing, no models are shipped'}")
        return
    from pg_llm.classroom import butterflies as images
    from pg_llm.classroom import train as stories

    if butterflies:
        made = images.train(Path(output), steps=steps, fresh=fresh, say=click.echo)
    else:
        made = stories.train(int(layers), Path(output), steps=steps, fresh=fresh, say=click.echo)
    known, different = models.sums(), []
    for name, digest in made.items():
        same = known.get(name) == digest
        different += [] if same else [name]
        click.echo(f"{digest}  {name}" + ("" if steps else f"  {'as' if same else 'not what is'} shipped"))
    if check and different:
        raise KitError(f"{', '.join(different)}: not what the kit ships; --fresh trains from the beginning")


@cli.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments):
    """Measure the kit, side by side with PyTorch, OpenVINO and llama.cpp if they are installed.

    \b
    Example: pg-llm bench
    Example: pg-llm bench --help
    """
    from pg_llm.bench import main as run

    run.main(list(arguments), prog_name="pg-llm bench", standalone_mode=False)


@cli.command()
@in_a_database
@click.option("--host", default="127.0.0.1", show_default=True, help="Other addresses need an API key.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one."
)
@click.option("--model", "models", multiple=True, help="Serve this model alone; may be repeated.")
@click.option("--api-key", help="Lists of processes show it: better a file, or PG_LLM_API_KEY.")
@click.option("--api-key-file", type=click.Path(dir_okay=False), help="The key is the file's contents.")
@click.option("--max-tokens", type=click.IntRange(1), help="The most that a request may ask for.")
@click.option("--max-running", type=click.IntRange(1, 1000), default=4, show_default=True,
              help="Completions that are computed at a time.")  # fmt: skip
@click.option("--max-queue", type=click.IntRange(0), default=64, show_default=True,
              help="Completions that wait; more get status 429.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(0.1, 86400), default=300, show_default=True,
              help="Seconds for a request.")  # fmt: skip
@click.option("--grace", type=click.FloatRange(0, 3600), default=10, show_default=True,
              help="Seconds for running requests when the server is told to end.")  # fmt: skip
def serve(dsn, database, notebook, host, port, models, api_key, api_key_file, max_tokens, max_running,
          max_queue, timeout, grace):  # fmt: skip
    """Serve the database's models over HTTP: OpenAI's /v1/completions and /v1/models, /healthz, /metrics.

    Clients send the key, if there is one, as `Authorization: Bearer KEY`. The role of the connection needs
    rights to read alone. Needs: pip install 'pg-llm[serve]'

    \b
    Example: pg-llm serve --model classroom
    Example: pg-llm serve --host 0.0.0.0 --api-key-file key.txt --max-tokens 256
    Example: pg-llm serve --dsn 'postgresql://reader@a,b/course?target_session_attrs=prefer-standby'
    """
    from psycopg.conninfo import make_conninfo

    from pg_llm import catalog
    from pg_llm.server import database as databases
    from pg_llm.server.connect import libpq_environment, parameters
    from pg_llm.server.server import Server

    try:
        from pg_llm.serve import command
        from pg_llm.serve.app import Settings
    except ModuleNotFoundError as error:
        raise KitError(f"pg-llm serve needs {error.name}: pip install 'pg-llm[serve]'") from None

    key = command.api_key(api_key, api_key_file)
    sockets = command.listening(host, port, key is not None)
    with _connect(dsn, database, notebook) as conn:
        name = conn.info.dbname
        known = conn.execute(catalog.qualified(conn, "SELECT model FROM {0}.llm_model_config")).fetchall()
    for model in models:
        if (model,) not in known:
            raise KitError(f'database {name} has no model "{model}"')
    elsewhere = databases.dsn()
    target = parameters(elsewhere, database) if elsewhere else Server().start().conninfo(name)
    settings = Settings(
        conninfo=make_conninfo(**target),
        models=frozenset(models),
        key=key,
        hosts=frozenset({host.lower(), "localhost", "127.0.0.1", "::1"}),
        running=max_running,
        queue=max_queue,
        seconds=timeout,
        max_tokens=max_tokens,
    )
    with libpq_environment():
        command.serve(settings, sockets, grace, click.echo)


for teaching in commands.COMMANDS:
    cli.add_command(teaching)


def _end_like_interrupted() -> None:
    """Makes a closed terminal or `kill` end the command as Ctrl-C does, with its cleanup."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores it
            signal.signal(number, signal.default_int_handler)


def _only_embedded(command: str) -> None:
    if os.environ.get("PG_LLM_DSN"):
        raise KitError(
            f"PG_LLM_DSN names a server that is not the kit's; '{command}' is for the kit's own: unset it"
        )


def _one_line(error: Exception) -> str:
    """An error's message; for errors of the server, the message and its hint."""
    told = getattr(error, "diag", None)
    if told is not None and told.message_primary:
        from pg_llm.server import rights

        hint = told.message_hint or rights.hint(error)
        hint = hint and re.sub(r"\b(\w+) => true\b", r"--\1", hint)  # of SQL's arguments
        return f"{told.message_primary}; hint: {hint}" if hint else told.message_primary
    return " ".join(str(error).split()) or type(error).__name__


def main() -> None:
    """Entry point: every expected failure is one line on stderr and a non-zero exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        if isinstance(error, click.NoSuchOption) and not error.possibilities:
            click.echo("A name that begins with - comes after --", err=True)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("pg-llm: interrupted", err=True)
        code = 130
    except BrokenPipeError:
        # The reader (head, less) has exited; leave nothing for the interpreter to flush into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except KitError as error:
        click.echo(f"pg-llm: {error}", err=True)
        code = 1
    except Exception as error:
        if os.environ.get("PG_LLM_DEBUG"):
            raise
        click.echo(f"pg-llm: {_one_line(error)} (PG_LLM_DEBUG=1 shows where)", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
