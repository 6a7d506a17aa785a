"""MLflow's command line, with its SQLite database made in one piece first: `python -m` this.

A server that is killed while it makes its tables leaves a database that no MLflow opens again (`registry_database`).
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
