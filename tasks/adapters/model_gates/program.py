"""Load packaged models in a clean process, answer rows, refuse malformed ones, and time single rows: a program.

`clean_process` starts it with the models' files in a folder. Libraries are imported once; then each model gets a process of
its own by a fork, so that memory is that of the model. Single rows alternate between the models. Loading runs no code: an
audit hook, which nothing can remove, refuses to unpickle, to start programs and to open connections. The answer is one JSON
object on the standard output.
"""

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa

from tasks.adapters.foreign import scorer as foreign
from tasks.adapters.models import files as models
from tasks.adapters.models.files import Floats, Scorer
from tasks.adapters.models.resources import peak_memory_mb
from tasks.policy.records.errors import FeatureError

REFUSED = (
    "pickle.find_class",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "socket.connect",
)
"""Audit events that a model file must not cause while it is loaded (Python documentation, "Audit events table")."""
WARM_UP = 5


class CodeOnLoad(Exception):
    """The model's file runs code when it is loaded."""


def refuse_code() -> Callable[[], None]:
    """Refuse the events from now on; the returned function ends it, once the model is loaded."""
    refusing = [True]

    def hook(event: str, _: Any) -> None:
        if refusing and event in REFUSED:
            raise CodeOnLoad(event)

    sys.addaudithook(hook)
    return refusing.clear


def load(folder: Path, settings: dict[str, Any]) -> Scorer:
    """Load the model from its files as for serving."""
    content = models.read(folder)
    allow = refuse_code()
    if foreign.is_foreign(content):
        found: Scorer = foreign.load(content, settings["sha256"])
    else:
        packages = models.trusted_packages(settings["imported"])
        found = models.load(content, settings["sha256"], tuple(settings["trusted_types"]), packages)
    allow()
    return found


def answered(scorer: Scorer, cases: Iterable[tuple[str, pa.Table]]) -> list[str]:
    """Return the malformed inputs that the model answers, or that end otherwise than by a FeatureError."""
    found = []
    for name, rows in cases:
        try:
            answers = scorer.predict(rows)
        except FeatureError:
            continue
        except Exception as error:  # noqa: BLE001 whatever else it raises is reported, and is no refusal
            found.append(f"{name}: {type(error).__name__} instead of a refusal")
            continue
        if len(rows) or len(answers):  # no rows have no answers
            found.append(name)
    return found


def stored_cases(folder: Path) -> Iterator[tuple[str, pa.Table]]:
    """Yield the malformed inputs of a folder; each file names its own."""
    for path in sorted(folder.glob("*.arrow")):
        rows = read_rows(path)
        yield (rows.schema.metadata or {})[b"case"].decode(), rows


def read_rows(path: Path) -> pa.Table:
    with pa.ipc.open_stream(path.read_bytes()) as reader:
        return reader.read_all()


class Child:
    """One model in a forked process, which answers lines of JSON."""

    def __init__(self, place: Path, settings: dict[str, Any]) -> None:
        asked, ask = os.pipe()
        heard, answer = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.close(ask)
            os.close(heard)
            with os.fdopen(asked) as questions, os.fdopen(answer, "w") as answers:
                status = serve(place, settings, questions, answers)
            os._exit(status)
        os.close(asked)
        os.close(answer)
        self.questions, self.answers = os.fdopen(ask, "w"), os.fdopen(heard)

    def ask(self, question: str) -> Any:
        """Ask and wait for the answer; None if the process has ended."""
        with suppress(BrokenPipeError):  # it has ended; why is in its last answer
            print(question, file=self.questions, flush=True)
        line = self.answers.readline()
        return json.loads(line) if line else None


def serve(place: Path, settings: dict[str, Any], questions: TextIO, answers: TextIO) -> int:
    """Load the model, then answer `describe` with its facts and a row's number with the seconds that it took."""

    def reply(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    before, rows = resident_mb("VmRSS"), read_rows(place.parent / "rows.arrow")
    try:
        scorer = load(place / "model", settings)
        predicted: dict[str, Floats] = {
            path.stem: scorer.predict(read_rows(path)) for path in (place.parent / "rows.arrow", place / "known.arrow")
            if path.exists()
        }  # fmt: skip
        malformed = answered(scorer, stored_cases(place / "malformed"))
    except Exception as error:  # noqa: BLE001 the caller turns whatever happens here into a reason
        reply({"fault": f"{type(error).__name__}: {error}"[:500]})
        return 1
    for line in questions:
        if line.strip() == "describe":
            facts = {name: np.asarray(values).tolist() for name, values in predicted.items()}
            reply({"answers": facts, "answered": malformed, "memory_mb": resident_mb("VmHWM") - before})
        else:
            reply(time_row(scorer, rows.slice(int(line) % len(rows), 1)))
    return 0


def time_row(scorer: Scorer, row: pa.Table) -> tuple[float, bool]:
    """Return the seconds that one row takes, and whether another process took the processor meanwhile."""
    own = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)
    before, began = resource.getrusage(own).ru_nivcsw, time.perf_counter()
    scorer.predict(row)
    return time.perf_counter() - began, resource.getrusage(own).ru_nivcsw > before


def undisturbed(timed: list[tuple[float, bool]]) -> list[float]:
    """Return the seconds of the rows in which nothing else took the processor; of all rows if these are the fewer."""
    alone = [seconds for seconds, disturbed in timed if not disturbed]
    return alone if 2 * len(alone) >= len(timed) else [seconds for seconds, _ in timed]


def resident_mb(name: str) -> float:
    """Return the resident memory (VmRSS) or its peak (VmHWM) of this process in MB; where /proc is absent, the peak for both."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return peak_memory_mb()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{name}:"))


def time_alternately(children: list[Child], settings: dict[str, Any]) -> list[list[list[float]]]:
    """Return the seconds of single rows by child and round; fewer rows where the models are slow."""
    until = time.monotonic() + settings["budget_s"]
    for number in range(WARM_UP):
        for child in children:
            child.ask(str(number))
    rounds: list[list[list[float]]] = [[] for _ in children]
    for turn in range(settings["rounds"]):
        taken: list[list[tuple[float, bool]]] = [[] for _ in children]
        for number in range(settings["rows_a_round"]):
            for place, child in enumerate(children):
                timed = child.ask(str(turn * settings["rows_a_round"] + number))
                if timed is not None:
                    taken[place].append((timed[0], timed[1]))
            if time.monotonic() > until:
                break
        for place, timed_rows in enumerate(taken):
            rounds[place] += [undisturbed(timed_rows)] if timed_rows else []
        if time.monotonic() > until:
            break
    return rounds


def main(settings: dict[str, Any]) -> None:
    channel = os.fdopen(os.dup(1), "w")  # whatever a library prints must not end up in the answer
    os.dup2(2, 1)
    for name in settings["libraries"]:
        importlib.import_module(name)
    folder = Path(settings["folder"])
    children = [Child(folder / str(place), each) for place, each in enumerate(settings["models"])]
    facts = [child.ask("describe") or {"fault": "its process ended"} for child in children]
    alive = [child for child, known in zip(children, facts, strict=True) if "fault" not in known]
    seconds = iter(time_alternately(alive, settings))
    found = [known if "fault" in known else {**known, "seconds": next(seconds)} for known in facts]
    print(json.dumps(found), file=channel, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
