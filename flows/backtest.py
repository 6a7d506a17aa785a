"""Which retraining policy would have been best on this history? Decisions only: no registry writes.

Two ways in. `--matrix FILE.npz --out DIR` reads a recorded performance matrix, needs neither server nor registry, and
writes summary.json and a page. `--model NAME` builds the matrix from the model's own lake first, each candidate once.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.policy.backtest import ALPHAS, COMPUTE_SHARE
from tasks.policy.errors import PerennialError


def _costs(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers; expected such as 0.05,0.1") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m flows.backtest", description=(__doc__ or "").split("\n\n")[0])
    options.add_argument("--matrix", type=Path, required=True, help="a performance matrix, .npz")
    options.add_argument("--out", type=Path, required=True, help="folder for summary.json and backtest.html")
    options.add_argument("--alphas", type=_costs, default=ALPHAS, help="costs of a retrain in window losses, 0.05,0.1")
    options.add_argument("--policies", type=_names, default=(), help="only these, such as perennial,debt; default all")
    options.add_argument("--compute-share", type=float, default=COMPUTE_SHARE, help="share of the cost that is compute")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = _options().parse_args(arguments)
    from tasks.simulation import backtest_matrix

    try:
        print(backtest_matrix(chosen.matrix, chosen.out, chosen.alphas, chosen.policies, chosen.compute_share))
    except PerennialError as error:
        sys.exit(f"backtest: {error}")


if __name__ == "__main__":
    main()
