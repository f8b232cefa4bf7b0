"""Sets up a fresh checkout in one command; needs only Python.

python3 pg_llm/bootstrap.py lab   sets up .venv, installs the kit into it, opens JupyterLab on my_notebooks
python3 pg_llm/bootstrap.py test  the same with what the tests compare with, then every check (more arguments
                                  go to pytest: test -m "not slow")

Debian packages that are missing are installed where that is allowed (root, apt); elsewhere the command says
what to install, or what it leaves out.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
TORCH = "torch==2.13.0"  # unpinned, pip would choose a build with several gigabytes of CUDA


def main(arguments):
    """Sets up .venv, then opens the notebooks or runs the tests."""
    if "-h" in arguments or "--help" in arguments:
        print(__doc__.strip())
        return
    if len(arguments) < 1 or arguments[0] not in ("lab", "test"):
        sys.exit(__doc__.strip())
    if sys.version_info < (3, 10):  # noqa: UP036 (this file also runs on Pythons too old for the kit)
        sys.exit("pg_llm needs Python 3.10 or newer, this is {}.{}".format(*sys.version_info[:2]))
    command, rest = arguments[0], arguments[1:]
    need_compiler()
    if command == "test":
        want_test_packages()
    make_venv()
    install(command == "test")
    sys.stdout.flush()
    os.chdir(ROOT)
    if command == "lab":
        say(f"starting PostgreSQL and JupyterLab; the command pg-llm is {venv('pg-llm')}")
        run_instead([venv("pg-llm"), "lab"] + rest)
    run_instead([venv("python"), "-m", "pytest", "-n", "2", "--dist", "loadfile", "--durations", "40"] + rest)


# -- Debian packages ----------------------------------------------------------------------------------------


def need_compiler():
    """Installs a missing C compiler or make, or exits with one sentence if that is impossible."""
    missing = []
    if not shutil.which("gcc") and not shutil.which("cc"):
        missing += ["gcc", "libc6-dev"]
    elif sys.platform == "linux" and not compiles("#include <stdio.h>\n"):
        missing.append("libc6-dev")
    if not shutil.which("make"):
        missing.append("make")
    if subprocess.call([sys.executable, "-c", "import ensurepip"], stderr=subprocess.DEVNULL) != 0:
        missing.append("python3-venv")
    if missing and not apt_install(missing):
        sys.exit("pg_llm needs {0}; on Debian or Ubuntu: sudo apt install {0}".format(" ".join(missing)))


def want_test_packages():
    """Installs packages that some tests need, if this user may; without them the tests are skipped."""
    wishes = (
        ("PostgreSQL 15's tests", ["postgresql-15", "postgresql-server-dev-15"], has_postgresql_15),
        ("the C format check", ["clang-format-14"], lambda: shutil.which("clang-format-14")),
        ("the tests in a browser", ["chromium"], lambda: shutil.which("chromium")),
        ("the arm64 compile check", ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"], has_arm64_compiler),
    )
    for what, packages, there in wishes:
        if there() or (apt_install(packages) and there()):
            continue
        say("left out: {}; to have it: sudo apt install {}".format(what, " ".join(packages)))


def has_postgresql_15():
    """True if Debian's PostgreSQL 15 is installed, with its headers."""
    return os.path.exists("/usr/lib/postgresql/15/bin/postgres") and os.path.exists(
        "/usr/include/postgresql/15/server/postgres.h"
    )


def has_arm64_compiler():
    """True if a cross compiler for arm64 is installed."""
    return platform.machine() == "aarch64" or shutil.which("aarch64-linux-gnu-gcc")


def compiles(text):
    """True if the preprocessor finds all headers that a C text includes."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    command = [compiler, "-E", "-x", "c", "-", "-o", os.devnull]
    return subprocess.run(command, input=text.encode(), stderr=subprocess.DEVNULL).returncode == 0


def apt_install(packages):
    """Installs Debian packages; False if that is not possible."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    say("installing " + " ".join(packages))
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    update = subprocess.run(["apt-get", "-qq", "update"], env=environment)
    with NoMainCluster():
        command = ["apt-get", "-qq", "-y", "--no-install-recommends", "install"] + packages
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL)
    return update.returncode == 0 and done.returncode == 0


class NoMainCluster:
    """Within this context, installing Debian's PostgreSQL neither creates nor starts a server."""

    folder = "/etc/postgresql-common/createcluster.d"
    path = os.path.join(folder, "pg_llm.conf")

    def __enter__(self):
        os.makedirs(self.folder, exist_ok=True)
        with open(self.path, "w") as file:
            file.write("create_main_cluster = false\n")

    def __exit__(self, *error):
        os.remove(self.path)


# -- the virtual environment --------------------------------------------------------------------------------


def make_venv():
    """Creates .venv: many systems refuse installs into their Python (PEP 668)."""
    check = [venv("python"), "-c", "import pip"]
    if os.path.exists(check[0]) and subprocess.call(check, stderr=subprocess.DEVNULL) == 0:
        return
    say("making a virtual environment in " + VENV)
    if subprocess.call([sys.executable, "-m", "venv", "--clear", VENV]) != 0:
        sys.exit(f"the virtual environment could not be made in {VENV}")


def install(for_tests):
    """Installs the kit into .venv, unless nothing has changed since the last installation."""
    stamp = os.path.join(VENV, "pg_llm.stamp")
    wanted = f"{fingerprint()} {for_tests}"
    if os.path.exists(stamp):
        with open(stamp) as file:
            have = file.read()
        if have in (wanted, f"{fingerprint()} {True}"):
            return
    say("installing the kit: downloads what it needs, compiles the extension; a few minutes the first time")
    extras = ""
    if for_tests:
        # First, so that no package that depends on it chooses another build.
        if pip(TORCH) == 0:
            extras = "[test,oracle]"
        elif os.environ.get("CI"):
            sys.exit(f"{TORCH} could not be installed")
        else:
            say(f"left out: comparisons with PyTorch ({TORCH} could not be installed)")
            extras = "[test]"
    if pip("-e", "." + extras) != 0:
        sys.exit("the kit could not be installed; pip's own words are above")
    with open(stamp, "w") as file:
        file.write(wanted)


def pip(*arguments):
    """Runs pip install in .venv, showing what it is doing; returns its exit code."""
    command = [venv("python"), "-m", "pip", "--disable-pip-version-check", "--no-color", "install"]
    # An older pip warns about packages that still have a setup.py; a newer one ignores this.
    environment = dict(os.environ, PIP_USE_PEP517="1", PYTHONUNBUFFERED="1")
    run = subprocess.Popen(
        command + list(arguments), cwd=ROOT, env=environment, stdout=subprocess.PIPE, errors="replace"
    )
    with Progress() as progress:
        for line in run.stdout:
            progress.read(line)
    return run.wait()


class Progress:
    """What pip is doing, from the lines it prints: on a terminal one line that is kept up to date."""

    def __init__(self):
        self.packages, self.megabytes, self.doing, self.ends = 0, 0.0, "", threading.Event()
        self.began, self.terminal = time.time(), sys.stdout.isatty()
        self.thread = threading.Thread(target=self.tick, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.ends.set()
        self.thread.join()
        if self.terminal and self.doing:
            print(flush=True)

    def read(self, line):
        """Takes note of a line of pip's."""
        loaded = re.match(r"\s*(?:Downloading|Using cached) \S+(?<!\.metadata) \(([\d.]+) ([kM])B\)", line)
        if loaded:
            self.packages += 1
            self.megabytes += float(loaded[1]) / (1000 if loaded[2] == "k" else 1)
            self.show("downloading", f": {self.packages} packages, {self.megabytes:.0f} MB")
        elif re.match(r"\s*Building (wheel|editable) for pg[-_]llm", line):
            self.show("compiling the extension")
        elif line.startswith("Installing collected packages"):
            self.show("installing what was downloaded")

    def show(self, doing, details=""):
        """Shows what is done now; without a terminal only what is new, without details."""
        if not self.terminal and doing != self.doing:
            say(doing)
        self.doing = doing + details * self.terminal

    def tick(self):
        """Keeps the line on the terminal up to date: a pause is seen to be no standstill."""
        while self.terminal and not self.ends.wait(0.5):
            if self.doing:
                print(f"\rpg_llm: {self.doing} ({time.time() - self.began:.0f} s)\033[K", end="", flush=True)


def fingerprint():
    """A hash of the files on which the installation depends."""
    digest = hashlib.sha256(sys.version.encode())
    paths = [os.path.join(ROOT, "pyproject.toml")]
    for folder, _, names in os.walk(os.path.join(ROOT, "extension")):
        paths += [
            os.path.join(folder, n) for n in names if n.endswith((".c", ".h", ".sql", "Makefile", ".control"))
        ]
    for path in sorted(paths):
        with open(path, "rb") as file:
            digest.update(path.encode() + file.read())
    return digest.hexdigest()


def venv(program):
    """The path of a program in .venv."""
    return os.path.join(VENV, "bin", program)


def run_instead(command):
    """Replaces this process by the command, so that Ctrl-C and the exit code are the command's own."""
    os.execv(command[0], command)


def say(text):
    """Prints a line of progress."""
    print("pg_llm: " + text, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
