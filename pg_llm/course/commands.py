"""The commands of teachers: course, class, editions, quizzes. cli.py adds them to pg-llm.

As there, each imports what it needs when it runs.
"""

from __future__ import annotations

import click


@click.group()
def course():
    """For teachers: answer keys that students cannot read, the gradebook, who is stuck where.

    \b
    Example: pg-llm course keys
    Example: pg-llm course gradebook grades.csv
    """


@course.command("keys")
@click.option(
    "--remove", is_flag=True, help="Remove the keys; solutions are taken from the installation again."
)
def course_keys(remove):
    """Let the server judge the exercises: students of this server cannot read the solutions there.

    Run it as a superuser, again after each update of pg_llm.

    \b
    Example: pg-llm course keys
    Example: pg-llm course keys --remove
    """
    from pg_llm.course import keys

    if remove:
        keys.remove()
        click.echo("the keys were removed")
    else:
        keys.install(click.echo)


@course.command("strip")
def course_strip():
    """Remove every solution from this installation, for the machines of students in a class with answer keys.

    There %%check asks the server. Only a new installation brings the solutions back.

    \b
    Example: pg-llm course strip
    """
    from pg_llm.course import editions as course_editions

    click.echo(f"no solutions are left in {course_editions.strip()}")


@course.command("gradebook")
@click.argument("file", type=click.File("w"), default="-")
@click.option(
    "--notebook", "only", multiple=True, help="A notebook, as 4 or 04_attention_by_hand; may be repeated."
)
@click.option(
    "--roster", type=click.File(encoding="utf-8-sig"), help="The class: a file with one role a line."
)
@click.option("--by-student", is_flag=True, help="A row for each student, with points and their sum.")
def course_gradebook(file, only, roster, by_student):
    """Write a CSV file: a row for each student and exercise, also without an attempt.

    Columns: student, exercise, title, points, out_of, score (the best), tries, minutes, date. The minutes
    run from the first try to the first right answer; a cell that was run blank starts no clock. The students
    are those of --roster, else all roles that may log in; the notebooks are those of --notebook, else all
    that somebody has opened.

    \b
    Example: pg-llm course gradebook
    Example: pg-llm course gradebook grades.csv --notebook 4 --roster class.txt
    Example: pg-llm course gradebook moodle.csv --notebook 04 --by-student
    """
    from pg_llm.course import gradebook
    from pg_llm.course import roster as rosters

    rows = gradebook.grades(rosters.read(roster) if roster else None, only)
    gradebook.write(file, rows, by_student)
    click.echo(f"pg-llm: {gradebook.summary(rows, only)}", err=True)


@course.command("stuck")
def course_stuck():
    """Show for each exercise how many have it right, how many are stuck, and the usual mistake.

    \b
    Example: pg-llm course stuck
    """
    from pg_llm.course.progress import stuck

    for line in stuck():
        click.echo(line)


@click.group("class")
def class_():
    """For teachers: a class on one server. Students, their databases and limits, what they have done.

    \b
    Example: pg-llm class add ann ben
    Example: pg-llm class list
    """


def _of_hand_outs(command):
    """The options of a command that gives passwords."""
    for option in (
        click.option("--output", type=click.Path(dir_okay=False),
                     help="Put them into this CSV file, and cards to print into an .html beside it."),
        click.option("--host", help="The server's name, as students write it, if it is not the one in use."),
    ):  # fmt: skip
        command = option(command)
    return command


class _HandOut:
    """Where passwords go: to the terminal, or into a file that is complete after each."""

    def __init__(self, host, output):
        from pathlib import Path

        from pg_llm.course import handout

        self.address = handout.address(host)
        self.file = Path(output) if output else None
        self.rows = handout.read(self.file) if self.file else {}

    def give(self, name, password):
        from pg_llm.course import handout

        connection = handout.connection_string(name, password, *self.address)
        if self.file is None:
            click.echo(f"{name}: {handout.line(connection)}")
            return
        self.rows[name] = [name, password, connection]
        handout.write(self.file, self.rows.values())
        click.echo(f"{name}: in {self.file}")


@class_.command("add")
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option("--roster", type=click.File(encoding="utf-8-sig"), help="A file with a name a line, or CSV.")
@click.option("--column", help="The roster's column with the names.")
@click.option("--connections", type=click.IntRange(2, 1000), default=6, show_default=True,
              help="Connections of a student at once.")  # fmt: skip
@click.option("--memory", default="1GB", show_default=True, help="pg_llm.memory_limit of a session.")
@click.option("--timeout", default="30min", show_default=True, help="statement_timeout, to begin with.")
@click.option("--createdb", is_flag=True, help="A database for each notebook: 29 MB of disk for each.")
@_of_hand_outs
def class_add(names, roster, column, connections, memory, timeout, createdb, host, output):
    """Make students: for each a role, a database of its own, limits and a password, which is shown once.

    NAME is a role's name, as the student will write it. Who is in the class already is left alone: the
    command can be repeated, with a longer roster or after a failure. Needs a superuser, or on the server of
    PG_LLM_DSN a role with CREATEROLE and CREATEDB.

    \b
    Example: pg-llm class add ann ben
    Example: pg-llm class add --roster roster.csv --output class.csv
    """
    from pg_llm.course import roster as rosters
    from pg_llm.course import students

    if column and not roster:
        raise click.UsageError("--column is one of a roster's: it goes with --roster")
    wanted = [*names, *(rosters.read(roster, column) if roster else [])]
    limits = students.Limits(connections, memory, timeout, createdb)
    hand_out = _HandOut(host, output)
    for name, password in students.add(wanted, limits, _said):
        hand_out.give(name, password)


@class_.command("list")
@click.option("--json", "as_json", is_flag=True, help="As a list of JSON objects.")
def class_list(as_json):
    """List the students: open sessions of how many allowed, databases and their size on disk.

    \b
    Example: pg-llm class list
    """
    import json
    from dataclasses import asdict

    from pg_llm.course import students

    found = students.listed()
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=1))
        return
    rows = [("student", "sessions", "size", "databases")]
    for each in found:
        size = "-" if each.bytes is None else f"{each.bytes / 1e6:.0f} MB"
        held = str(len(each.databases)) + ("" if each.complete else ", not the own one: pg-llm class reset")
        rows.append((each.name, f"{each.sessions} of {each.connections}", size, held))
    print_table(rows)


@class_.command("remove")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="End their sessions.")
def class_remove(names, yes, force):
    """Remove students with their databases; their attempts stay in the gradebook.

    \b
    Example: pg-llm class remove ann
    """
    from pg_llm.course import students

    _confirm(yes, f"Remove {', '.join(names)}, with all models and tables in their databases?")
    students.remove(names, force)
    click.echo(f"removed: {', '.join(names)}")


@class_.command("password")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_of_hand_outs
def class_password(names, host, output):
    """Give students new passwords, which are shown once; open sessions go on.

    \b
    Example: pg-llm class password ann
    """
    from pg_llm.course import students

    hand_out = _HandOut(host, output)
    for name in names:
        hand_out.give(name, students.password(name))


@class_.command("reset")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="End the sessions in them.")
def class_reset(names, yes, force):
    """Give students a new database in place of the own one, without their models and tables.

    Attempts and password stay.

    \b
    Example: pg-llm class reset ann
    """
    from pg_llm.course import students

    _confirm(yes, f"Make the databases of {', '.join(names)} anew, without the models and tables in them?")
    for name in names:
        students.reset(name, force)
        click.echo(f"{name} has a new database")


@class_.command("share")
@click.argument("database")
def class_share(database):
    """Open one database for the class: students run your models, and make and change their own, unseen.

    DATABASE is made from the template if there is none of that name; a model's name is given once, to whoever
    takes it first. Run it again after students were added.

    \b
    Example: pg-llm class share lesson
    """
    from pg_llm.course import students

    students.share(database)
    click.echo(f"students reach database {database} with the line of their hand-out, /{database} at its end")


@class_.command("report")
@click.argument("folder", type=click.Path(file_okay=False))
@click.option(
    "--notebook", "only", multiple=True, help="A notebook, as 4 or 04_attention_by_hand; may be repeated."
)
@click.option("--roster", type=click.File(encoding="utf-8-sig"),
              help="Whose: a file with a role a line; default: the students of the class.")  # fmt: skip
def class_report(folder, only, roster):
    """Write what the class has done into FOLDER: the gradebook, exercises, attempts and a picture.

    gradebook.csv has a row for each student, with the points of each exercise; exercises.csv how many are
    right and stuck, minutes, and the commonest message and wrong answer; attempts.csv every answer.

    \b
    Example: pg-llm class report lesson --notebook 04
    """
    from pathlib import Path

    from pg_llm.course import report
    from pg_llm.course import roster as rosters

    for file in report.write(Path(folder), rosters.read(roster) if roster else None, only):
        click.echo(f"{file}")


@class_.command("watch")
@click.option("--every", type=click.FloatRange(0.5), default=5, show_default=True,
              help="Seconds between looks.")  # fmt: skip
@click.option("--once", is_flag=True, help="Look once, and end.")
def class_watch(every, once):
    """Show what each student trained last: step, loss, curve, distance to the entropy of the stories.

    Students whose models have the same SHA-256 are marked: the same seed and data give the same bits, and so
    does a copy. Ctrl-C ends it.

    \b
    Example: pg-llm class watch
    """
    import contextlib
    import sys
    import time

    from pg_llm.course.watch import Watch

    watch, live = Watch(), sys.stdout.isatty() and not once
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            lines = watch.lines()
            click.echo(("\x1b[H\x1b[J" if live else "") + "\n".join(lines))
            if once:
                break
            time.sleep(every)


def print_table(rows):
    """Prints rows of texts as columns, each as wide as its longest text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _said(text):
    click.echo(f"pg-llm: {text}", err=True)


def _confirm(yes, question):
    import sys

    if not yes and not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask; --yes goes on without a question")
    if not yes:
        click.confirm(question, abort=True)


@click.command()
@click.argument("output", type=click.Path(file_okay=False))
@click.option("--edition", "chosen", type=click.Choice(["self-study", "student", "teacher"]), multiple=True,
              help="Which one; may be repeated. All, unless given.")  # fmt: skip
@click.option("--format", "kind", type=click.Choice(["nbgrader", "otter"]),
              help="Write graded assignments for this tool instead: the students' notebooks.")  # fmt: skip
@click.option(
    "--notebook", "only", multiple=True, help="A notebook, as 4 or 04_attention_by_hand; may be repeated."
)
@click.option("--force", is_flag=True, help="Replace what is in the folders.")
def editions(output, chosen, kind, only, force):
    """Write the notebooks for self-study, students (no solutions) and teachers into folders of OUTPUT.

    With --format, OUTPUT/nbgrader is a course's folder for nbgrader, or OUTPUT/otter has sources for
    otter assign; --force then keeps submissions and grades.

    \b
    Example: pg-llm editions course
    Example: pg-llm editions handout --edition student --notebook 04
    Example: pg-llm editions graded --format nbgrader
    """
    from pathlib import Path

    from pg_llm.course import assignments
    from pg_llm.course import editions as course_editions

    if kind and chosen:
        raise click.UsageError("--format makes the students' edition: --edition does not go with it")
    if kind:
        made = assignments.build(Path(output), kind, only, force)
    else:
        made = course_editions.build(Path(output), chosen or course_editions.EDITIONS, only, force)
    for folder in made:
        click.echo(f"{folder}")


@click.command()
@click.argument("output", type=click.Path(file_okay=False))
@click.option("--format", "kind", type=click.Choice(["gift", "qti"]), default="gift", show_default=True,
              help="GIFT for Moodle, QTI for Canvas (needs the package text2qti).")  # fmt: skip
@click.option(
    "--notebook", "only", multiple=True, help="A notebook, as 4 or 04_attention_by_hand; may be repeated."
)
def quizzes(output, kind, only):
    """Write the notebooks' quizzes for Moodle or Canvas into the folder OUTPUT, a file for each notebook.

    \b
    Example: pg-llm quizzes moodle
    Example: pg-llm quizzes canvas --format qti --notebook 04
    """
    from pathlib import Path

    from pg_llm.course import quizzes as course_quizzes

    for file in course_quizzes.write(Path(output), kind, only):
        click.echo(f"{file}")


COMMANDS = [class_, course, editions, quizzes]
