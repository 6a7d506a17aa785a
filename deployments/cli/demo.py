"""`perennial demo`: replay all models in parallel on a Prefect server of its own, then show the results.

Each model runs in its own process. Progress is read from the records that each replay writes. Live models (without
`period.end`) have no recorded history to replay and are left out.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from threading import Event, Thread
from time import perf_counter, sleep

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deployments.cli.output import logs_above
from deployments.config.folders import DEMO_MODELS
from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from tasks.adapters import reports
from tasks.adapters.orchestration.server import prefect_server, wait_until_healthy
from tasks.adapters.storage.workspace import workspace
from tasks.policy.evidence.replay import ReplayWindow
from tasks.policy.records.base import from_json
from tasks.policy.records.errors import NothingToReplay
from tasks.policy.reporting.replay_story import next_steps
from tasks.replay.records import finished_replays, replay_folder, replays_page

POLL_S = 0.3
SLOW_TO_LOAD = ("lake.tables", "registry.versions", "models.estimators")
"""Modules that the first training needs. Loading more would slow down the server, which is starting at the same time."""


def show_demo(models: Sequence[str]) -> int:
    """Run the missing replays and show all. Returns 1 if a replay failed, 130 after Ctrl-C."""
    console = Console()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stop the server, as on Ctrl-C
    try:
        configs = _recorded({model: load_model_config(model) for model in models or DEMO_MODELS}, console)
        done = {replay.model for replay in finished_replays()}
        waiting = {model: config for model, config in configs.items() if config.name not in done}
        failed = _replay(waiting, console) if waiting else []
    except KeyboardInterrupt:
        console.print("interrupted; the next `perennial demo` continues where this one stopped")
        return 130
    _show(console, repeated=not waiting)
    return 1 if failed else 0


def _recorded(configs: dict[str, ModelConfig], console: Console) -> dict[str, ModelConfig]:
    """Return the models with recorded history; print which are left out. Raises NothingToReplay if none has any."""
    recorded = {model: config for model, config in configs.items() if config.period.end}
    for config in configs.values():
        if not config.period.end:
            skipped = f"{config.name}: left out, it is a live model: period.end is not set"
            console.print(skipped, markup=False, soft_wrap=True)
    if not recorded:
        raise NothingToReplay("demo: no model has recorded history to replay; expected one whose file sets period.end")
    return recorded


def _replay(configs: dict[str, ModelConfig], console: Console) -> list[str]:
    """Replay the models in parallel. Return those that failed, after printing the end of their logs."""
    started = perf_counter()
    spawn = multiprocessing.get_context("spawn")
    with prefect_server(workspace()) as environment:
        os.environ.update(environment)
        children = {model: spawn.Process(target=_replay_one, args=(model,), daemon=True) for model in configs}
        for child in children.values():
            child.start()
        with _progress(console) as progress:
            rows = [ReplayRow(progress, config.name, len(config.windows())) for config in configs.values()]
            while any(child.is_alive() for child in children.values()):
                sleep(POLL_S)
                for row in rows:
                    row.advance()
    failed = [model for model, child in children.items() if child.exitcode]
    for model in failed:
        log = _log_path(configs[model].name)
        console.print(f"{model}: the replay failed; the end of {log}:", style="red", markup=False)
        console.print("".join(log.read_text(errors="replace").splitlines(keepends=True)[-25:]), markup=False)
    console.print(f"replayed in {perf_counter() - started:.0f} s")
    return failed


def _replay_one(model: str) -> None:
    """Run one replay in a child process; import what it needs while the server starts."""
    with _log_path(load_model_config(model).name).open("w") as log:
        for stream in (sys.stdout, sys.stderr):  # file descriptors, because loggers hold the original streams
            os.dup2(log.fileno(), stream.fileno())
    from flows.replay import replay  # loads Prefect: in the child only, while the server starts

    for adapter in SLOW_TO_LOAD:
        import_module(f"tasks.adapters.{adapter}")
    wait_until_healthy(os.environ["PREFECT_API_URL"])
    replay(model)


def _log_path(name: str) -> Path:
    return Path(replay_folder(name)) / "replay.log"


def _progress(console: Console) -> Progress:
    columns = ("[bold]{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "{task.fields[now]}")
    return Progress(*(TextColumn(part) if isinstance(part, str) else part for part in columns), console=console)


class ReplayRow:
    """A progress bar that advances with the records that a replay writes."""

    def __init__(self, progress: Progress, name: str, total: int | None) -> None:
        self.progress, self.name, self.seen = progress, name, 0
        self.row = progress.add_task(name, total=total, now="starting")

    def advance(self) -> None:
        """Show the records that appeared since the last call, with their events."""
        paths = sorted(replay_folder(self.name).glob("*..*.json"))[self.seen :]
        self.seen += len(paths)
        for path in paths:
            record = from_json(ReplayWindow, path.read_bytes())
            metric = f"{record.metric.name} {record.metric.value:.3g}" if record.metric else "no labels yet"
            now = f"{record.window.start:%Y-%m-%d}  {metric}  drift {record.drifted_share:.0%}  champion v{record.champion}"
            self.progress.update(self.row, advance=1, now=now)
            for event in record.events:
                self.progress.console.print(
                    f"  {self.name} {record.window.name} {event.kind}: {event.text}", markup=False
                )


@contextmanager
def replay_progress(name: str, total: int | None) -> Iterator[None]:
    """Show a progress bar while a replay runs in this process; a thread updates it."""
    finished = Event()
    with _progress(Console(stderr=True)) as progress, logs_above():
        row = ReplayRow(progress, name, total)

        def watch() -> None:
            while not finished.wait(POLL_S):
                row.advance()

        watcher = Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()


def _show(console: Console, repeated: bool) -> None:
    replays = finished_replays()
    if not replays:
        return
    console.print(reports.replay.summary_table(replays))
    if repeated:
        console.print("replayed before; `make clean-demo` deletes the replay, and the next `make demo` starts again")
    page = replays_page().as_uri()
    console.print("look next at:")
    for number, step in enumerate(next_steps(replays, page), 1):
        console.print(f"  {number}. {step}", markup=False, soft_wrap=True)
