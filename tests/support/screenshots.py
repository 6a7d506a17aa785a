"""Retake README.md's screenshots from the workspace that `make demo` filled: `python -m tests.support.screenshots`.

Prefect's server runs without a log-in for the screenshot of a decision, and is stopped afterwards.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from PIL import Image

from tasks.adapters.orchestration.server import running_server, wait_until_healthy
from tasks.adapters.storage.workspace import workspace
from tests.support.browser import render

FOLDER = Path(__file__).parents[2] / "infra" / "screenshots"
MODEL = "air_time"
DECISION = "decision-air-time"
COLOURS = 256  # pages have few colours; halves the file size


def retake() -> None:
    """Write replay.png, rollout.png and decision.png."""
    with TemporaryDirectory() as folder:
        replay = render(workspace().home / "replay" / "index.html", Path(folder), width=1200, height=1290)
        _keep(replay.screenshot, "replay.png")
        rollout = render(_latest_rollout(), Path(folder), width=1200, height=1290)
        _keep(rollout.screenshot, "rollout.png")
        with running_server(workspace()) as environment:
            api = environment["PREFECT_API_URL"]
            wait_until_healthy(api)
            page = f"{api.removesuffix('/api')}/artifacts/artifact/{_retraining(api)}"
            decision = render(page, Path(folder), width=1280, height=900, ready="h1", settle_ms=4000)
        _keep(decision.screenshot, "decision.png")


def _latest_rollout() -> Path:
    """Return the page of the rollout that was changed last."""
    pages = (workspace().reports / MODEL / "rollouts").glob("*.html")
    return max(pages, key=lambda page: page.stat().st_mtime)


def _retraining(api: str) -> str:
    """Return the artifact id of the latest decision to retrain."""
    asked = {"artifacts": {"key": {"any_": [DECISION]}}, "sort": "CREATED_DESC", "limit": 200}
    decisions = httpx.post(f"{api}/artifacts/filter", json=asked, timeout=60).raise_for_status().json()
    heads = {str(found["id"]): " ".join(found["data"].lower().split("\n\n")[:2]) for found in decisions}
    return next(decision for decision, head in heads.items() if "retrain" in head and "keep" not in head)


def _keep(screenshot: Path, name: str) -> None:
    with Image.open(screenshot) as taken:
        taken.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(FOLDER / name, optimize=True)


if __name__ == "__main__":
    retake()
