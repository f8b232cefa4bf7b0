"""Writes the reference pages and the guide's results anew: python tests/build_reference.py.

Their introductions and examples are written by hand; the rest, and the examples' results, is filled in.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def main() -> None:
    sys.path.insert(0, str(REPO))
    from build_notebooks import own_server
    from helpers import reference

    with tempfile.TemporaryDirectory(prefix="pg_llm-ref-", dir="/tmp") as folder:
        server = own_server(Path(folder))
        try:
            for path in reference.PAGES:
                path.write_text(reference.current(path))
                print(path.relative_to(REPO))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
