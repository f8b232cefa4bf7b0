"""The one exception of the kit that a user can mend: its message says what is wrong and what to do."""

from __future__ import annotations


class KitError(RuntimeError):
    """Something outside the program is not as it must be; the message ends with the way to mend it."""
