"""MLflow's command line, which creates its SQLite database atomically first. Run with `python -m`.

A server that is killed while it creates its tables leaves a database that MLflow cannot open again
(`tasks.adapters.registry.database`).
"""

import sys

from mlflow.cli import cli

from tasks.adapters.registry.database import make_database

STORE = "--backend-store-uri"


def main() -> None:
    for option, value in zip(sys.argv, sys.argv[1:], strict=False):
        if option == STORE:
            make_database(value)
    cli()


if __name__ == "__main__":
    main()
