"""`python -m deployments`: the `perennial` command, for processes that have this Python but not its scripts on PATH."""

import sys

from deployments.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
