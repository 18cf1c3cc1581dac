"""`python -m daemon`: the same as `cappuccinoctl`."""

import sys

from daemon.cli import main

if __name__ == "__main__":
    sys.exit(main())
