"""`python -m deployments check [PATH…]`: is every model's file right, and what will it make Perennial do?"""

import argparse
import sys
from collections.abc import Sequence

from deployments.description import describe
from deployments.model_config import ModelConfigError, available_models, load_model_config


def check(paths: Sequence[str]) -> int:
    """Print what each model will do, or what is wrong with its file. Returns the number of wrong files."""
    wrong = 0
    for path in paths or available_models():
        try:
            config = load_model_config(path)
        except ModelConfigError as error:
            print(error, file=sys.stderr)
            wrong += 1
        else:
            print(f"{config.name}: {config.purpose}", *describe(config), sep="\n  ")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deployments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="lint model files and say what each will do")
    checking.add_argument("paths", nargs="*", metavar="PATH", help="YAML files or model names; all models when left out")
    options = parser.parse_args(arguments)
    return 1 if check(options.paths) else 0


if __name__ == "__main__":
    sys.exit(main())
