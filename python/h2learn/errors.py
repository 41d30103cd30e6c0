"""The error that says: the input is wrong, not the program.

The command line turns an `InputError` into one line on stderr and exit status 2; anything else
is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class InputError(ValueError):
    """What the user gave cannot be used. The message is one line: what was found, what is allowed.

    It is a `ValueError`, so Python callers need not know this class.
    """
