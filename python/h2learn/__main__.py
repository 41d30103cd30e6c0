"""`python -m h2learn` is the command line."""

import sys

from h2learn.cli import main

if __name__ == "__main__":
    sys.exit(main())
