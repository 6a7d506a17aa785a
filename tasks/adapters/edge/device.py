"""Predict and adapt on a device: this file, numpy and xgboost are all it needs. `perennial edge export` puts it beside a model.

The booster is frozen. What a device learns from its own labelled rows is a small change of the leaf values, so that the
result is a booster again, and answers bit for bit alike wherever it is loaded. Each adaptation is judged on the latest rows,
which it has not learned from, and one that does not help is discarded. The log is a hash chain. An update for Perennial
holds leaf values, counts and losses under a signature, and never a row.

    python perennial_edge.py predict rows.csv
    python perennial_edge.py adapt labelled.csv
    python perennial_edge.py update update.json
    python perennial_edge.py log --last 5
"""

import argparse
import base64
import csv
import hashlib
import hmac
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

try:
    import fcntl
except ImportError:  # Windows, where one process at a time may adapt
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
MODEL, DESCRIPTION, MANIFEST, KEY = "model.ubj", "model.json", "manifest.json", "signing.key"
STATE, LOG, LOCK = "state.json", "log.jsonl", ".lock"
GENESIS = "0" * 64
LOGISTIC, SOFTMAX, QUANTILE = "binary:logistic", "multi:softprob", "reg:quantileerror"
OBJECTIVES = (LOGISTIC, SOFTMAX, QUANTILE, "reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror")
"""Objectives whose margin is on a known scale: log-odds, or the label's own unit."""

LEARNING, PRIOR_ROWS = 2.0, 2.0
"""The sum of the steps over all trees, and the rows that the frozen value of a leaf counts for. Chosen on four streams of
electricity, weather, bicycles and traffic, where it closes 90 % and more of the gap to a model that is retrained each window."""
HELD_BACK, FEWEST_ROWS = 0.2, 50
"""Share of an adaptation's rows, the latest ones, that it is judged on; and the fewest rows to adapt to."""
HARM_SE, INTERVAL_SE = 1.0, 1.96
"""Standard errors by which a change must lose more on the same rows to be undone; and half the width of an interval."""
FLUSH_ROWS = 10_000
"""Predicted rows that are counted in memory at most before the log has them."""

Floats = NDArray[Any]
Slope = Callable[[Floats, int], tuple[Floats, Floats]]
"""First and second derivative of each row's loss, at a margin and for one class."""
Rows = Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]


class EdgeRefusal(Exception):
    """A request that cannot be carried out; the message says what was found and what is expected."""


def canonical(content: object) -> str:
    """Return the one JSON text of this content: sorted keys, no spaces."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def chained(line: str) -> str:
    """Return the hash of a log's line, which the next line holds."""
    return hashlib.sha256(json.dumps([line]).encode()).hexdigest()


def sign(body: Mapping[str, object], key: bytes) -> str:
    """Return the HMAC-SHA256 of an update's body."""
    return hmac.digest(key, canonical(body).encode(), "sha256").hex()


def key_id(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:16]


def pack(values: Floats) -> str:
    """Return leaf values as text: little-endian float32, base64."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def unpack(text: str) -> Floats:
    """Return the leaf values of a text. Raises ValueError for a text that `pack` does not write."""
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)


def columns_of(rows: Rows, names: Sequence[str]) -> dict[str, Sequence[Any]]:
    """Return the named columns of rows, which all have the same length. Raises EdgeRefusal."""
    if isinstance(rows, Mapping):
        missing = [name for name in names if name not in rows]
        if missing:
            raise EdgeRefusal(f"column {', '.join(missing)}: not among the rows, expected all {len(names)} features")
        lengths = {len(rows[name]) for name in names}
        if len(lengths) > 1:
            raise EdgeRefusal(f"columns have {' and '.join(map(str, sorted(lengths)))} values, expected one length")
        return {name: rows[name] for name in names}
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise EdgeRefusal(f"row {number} is of type {type(row).__name__}, expected a dictionary of columns")
        missing = [name for name in names if name not in row]
        if missing:
            raise EdgeRefusal(f"row {number} lacks {', '.join(missing)}, expected every feature; use None for a null")
    return {name: [row[name] for row in rows] for name in names}


def is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))


def numbers(name: str, values: Sequence[Any], what: str = "numeric feature") -> Floats:
    """Return float64, NaN for a null or an infinite value. Raises EdgeRefusal for anything but a number."""
    array = values if isinstance(values, np.ndarray) else None
    if array is None or array.dtype.kind not in "iuf":
        wrong = [value for value in values if not (value is None or is_number(value))]
        if wrong:
            raise EdgeRefusal(f"column {name}: holds {type(wrong[0]).__name__}, expected numbers for a {what}")
        array = np.array([math.nan if value is None else value for value in values], np.float64)
    found = array.astype(np.float64)
    return np.where(np.isfinite(found), found, np.nan)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def booleans(name: str, values: Sequence[Any]) -> Floats:
    """Return 1, 0, or NaN for a null. Raises EdgeRefusal for anything but a boolean."""
    wrong = [value for value in values if not (is_null(value) or isinstance(value, bool | np.bool_))]
    if wrong:
        raise EdgeRefusal(f"column {name}: holds {type(wrong[0]).__name__}, expected true, false or null")
    return np.array([math.nan if is_null(value) else float(value) for value in values], np.float64)


def text_of(name: str, value: Any) -> str | None:
    """Return a category or class as Perennial writes it; None for a null. Raises EdgeRefusal."""
    if is_null(value):
        return None
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if is_number(value) and float(value).is_integer():
        return str(int(value))
    raise EdgeRefusal(f"column {name}: holds {type(value).__name__}, expected text, whole numbers or booleans")


def codes(name: str, values: Sequence[Any], known: Sequence[str]) -> Floats:
    """Return each value's position in `known`; NaN for a null or an unknown value. Raises EdgeRefusal."""
    kinds = {"text" if isinstance(value, str) else "numbers" for value in values if not is_null(value)}
    if len(kinds) > 1:
        raise EdgeRefusal(f"column {name}: holds text and numbers, expected one type")
    place = {category: float(position) for position, category in enumerate(known)}
    texts = (text_of(name, value) for value in values)
    return np.array([math.nan if text is None else place.get(text, math.nan) for text in texts], np.float64)


def encode(rows: Rows, description: Mapping[str, Any]) -> Floats:
    """Return rows as float32 of shape (rows, features): categories as codes, NaN for a null or an unseen category."""
    features = description["features"]
    columns = columns_of(rows, [name for name, _ in features])
    encoded = []
    for name, kind in features:
        if kind == "categorical":
            encoded.append(codes(name, columns[name], description["categories"][name]))
        else:
            encoded.append((numbers if kind == "numeric" else booleans)(name, columns[name]))
    with np.errstate(over="ignore"):
        matrix = np.stack(encoded, axis=1).astype(np.float32)
    matrix[np.isinf(matrix)] = np.nan
    return matrix


class Leaves:
    """The leaf values of a booster as one vector, tree after tree, and boosters with other values in the same trees."""

    def __init__(self, content: bytes) -> None:
        """Read a model's file. Raises EdgeRefusal for trees or an objective that cannot be adapted."""
        self.booster = loaded(content)
        self._document = json.loads(bytes(self.booster.save_raw("json")))
        learner = self._document["learner"]
        kind, self.objective = learner["gradient_booster"]["name"], learner["objective"]["name"]
        parameters = learner["learner_model_param"]
        if kind != "gbtree" or self.objective not in OBJECTIVES or int(parameters["num_target"]) > 1:
            raise EdgeRefusal(
                f"the model is {kind} with {self.objective} for {parameters['num_target']} targets, expected gbtree for one "
                f"target with one of {', '.join(OBJECTIVES)}"
            )
        if self.booster.attr("best_iteration") not in (None, str(self.booster.num_boosted_rounds() - 1)):
            raise EdgeRefusal(
                "the model answers by its first trees only (best_iteration), expected one that uses all of them"
            )
        model = learner["gradient_booster"]["model"]
        self._trees, self.groups = model["trees"], np.array(model["tree_info"], int)
        nodes = [np.flatnonzero(np.array(tree["left_children"]) == -1) for tree in self._trees]
        self._nodes, self.starts = nodes, np.cumsum([0, *map(len, nodes)])
        values = [np.array(tree["split_conditions"])[found] for tree, found in zip(self._trees, nodes, strict=True)]
        self.frozen = np.concatenate([*values, np.empty(0)]).astype(np.float32)
        scores = np.array(json.loads(parameters["base_score"]), float).reshape(-1)
        self.base = np.log(scores / (1 - scores)) if self.objective == LOGISTIC else scores
        self.width = max(1, int(parameters["num_class"]))

    def with_values(self, values: Floats) -> xgboost.Booster:
        """Return the booster with these leaf values."""
        for tree, nodes, start in zip(self._trees, self._nodes, self.starts, strict=False):
            for place, node in enumerate(nodes.tolist(), start):
                tree["split_conditions"][node] = tree["base_weights"][node] = float(values[place])
        return loaded(json.dumps(self._document).encode())

    def reached(self, matrix: Floats, kinds: Sequence[str]) -> Floats:
        """Return which leaf each row reaches in each tree, (rows, trees), as positions in the vector."""
        data = xgboost.DMatrix(matrix, feature_types=list(kinds), enable_categorical=True, nthread=1)
        found = self.booster.predict(data, pred_leaf=True, validate_features=False).astype(int)
        found = found.reshape(len(matrix), -1)
        reached = np.empty(found.shape, int)
        for tree, nodes in enumerate(self._nodes):
            reached[:, tree] = self.starts[tree] + np.searchsorted(nodes, found[:, tree])
        return reached

    def margin(self, values: Floats, reached: Floats) -> Floats:
        """Return the sum of the leaves and the base, (rows, classes or 1)."""
        given = values.astype(float)[reached]
        sums = [given[:, self.groups == group].sum(axis=1) for group in range(self.width)]
        return np.stack(sums, axis=1) + self.base

    def learn(self, values: Floats, reached: Floats, slope: Slope) -> Floats:
        """Return leaf values after one pass over the trees: each leaf moves a little against the slope of its rows' loss.

        A leaf that few rows reach hardly moves.
        """
        values, margin = values.astype(float), self.margin(values, reached)
        rate = LEARNING * self.width / max(1, len(self.groups))
        for tree, group in enumerate(self.groups):
            first, second = slope(margin, group)
            start, count = self.starts[tree], self.starts[tree + 1] - self.starts[tree]
            leaf = reached[:, tree] - start
            total = np.bincount(leaf, second, count) + PRIOR_ROWS * second.mean()
            step = -rate * np.bincount(leaf, first, count) / total
            values[start : start + count] += step
            margin[:, group] += step[leaf]
        return values.astype(np.float32)


def loaded(content: bytes) -> xgboost.Booster:
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(content))
    return booster


class Learning:
    """The loss of a model: what its leaves move against, and what an adaptation is judged by."""

    def __init__(self, leaves: Leaves, metric: str, quantile: float) -> None:
        self._objective, self._metric, self._quantile = leaves.objective, metric, quantile

    def losses(self, margin: Floats, target: Floats) -> Floats:
        """Return each row's loss: log loss of classes, else absolute, squared or pinball loss as the model's metric says."""
        if self._objective in (LOGISTIC, SOFTMAX):
            chosen = self._shares(margin)[np.arange(len(target)), target.astype(int)]
            return -np.log(np.clip(chosen, 1e-6, None))
        error = target - margin[:, 0]
        if self._metric == "pinball":
            return np.maximum(self._quantile * error, (self._quantile - 1) * error)
        return np.abs(error) if self._metric == "mae" else error**2

    def slope(self, target: Floats) -> Slope:
        """Return the function of (margin, group) that gives the first and second derivative of each row's loss."""

        def of_class(margin: Floats, group: int) -> tuple[Floats, Floats]:
            place = 1 if self._objective == LOGISTIC else group
            share = self._shares(margin)[:, place]
            return share - (target == place), np.maximum(share * (1 - share), 1e-6)

        def of_number(margin: Floats, _: int) -> tuple[Floats, Floats]:
            error = margin[:, 0] - target
            if self._objective != QUANTILE:
                return error, np.ones(len(target))
            return ((error > 0) - self._quantile) * np.abs(error).mean(), np.ones(len(target))

        return of_class if self._objective in (LOGISTIC, SOFTMAX) else of_number

    def _shares(self, margin: Floats) -> Floats:
        """Return the probability of each class, (rows, classes)."""
        logits = np.hstack([np.zeros_like(margin), margin]) if self._objective == LOGISTIC else margin
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def compared(frozen: Floats, adapted: Floats) -> dict[str, float]:
    """Return both mean losses on the same rows, and their difference with a 95 % interval; negative: adapting helps."""
    difference = adapted - frozen
    half = INTERVAL_SE * float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
    mean = float(difference.mean())
    return {
        "rows": len(difference),
        "frozen": float(frozen.mean()),
        "adapted": float(adapted.mean()),
        "difference": mean,
        "low": mean - half,
        "high": mean + half,
    }


class Journal:
    """The device's state and its log, in the folder. The state is replaced at once and holds the log's latest line."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock: one process at a time changes the state."""
        with (self._folder / LOCK).open("a") as held:
            if fcntl:
                fcntl.flock(held, fcntl.LOCK_EX)
            yield

    def read(self) -> dict[str, Any]:
        """Return the state, after completing a write that was cut short; empty before the first.

        Raises EdgeRefusal if the log was changed or cut.
        """
        path = self._folder / STATE
        try:
            state: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
        except ValueError:
            raise EdgeRefusal(f"{path}: cannot be read, expected JSON; export the model again") from None
        if state:
            self._complete(state["line"])
        self.entries(state.get("line"))
        return state

    def write(self, state: Mapping[str, Any], kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Append an entry to the log, store the state with it, and return the stored state."""
        before = state.get("line")
        entry = {
            "sequence": json.loads(before)["sequence"] + 1 if before else 1,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "kind": kind,
            "body": dict(body),
            "previous_hash": chained(before) if before else GENESIS,
        }
        stored = {**state, "line": canonical(entry)}
        write_file(self._folder / STATE, canonical(stored).encode())
        self._complete(stored["line"])
        return stored

    def entries(self, last: str | None) -> list[dict[str, Any]]:
        """Return the log, oldest first. Raises EdgeRefusal unless its chain is intact and ends with the line `last`."""
        path = self._folder / LOG
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        previous = GENESIS
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                intact = entry["previous_hash"] == previous and entry["sequence"] == number and canonical(entry) == line
            except (ValueError, KeyError, TypeError):
                intact = False
            if not intact:
                raise EdgeRefusal(f"{path}: line {number} does not follow the one before it; the log was changed")
            previous = chained(line)
        if (lines[-1] if lines else None) != last:
            raise EdgeRefusal(f"{path}: does not end with the entry that {STATE} names; the log was cut or changed")
        return [json.loads(line) for line in lines]

    def _complete(self, line: str) -> None:
        """Append the state's latest line if the log does not have it; remove a line that was cut short by a crash."""
        path = self._folder / LOG
        content = path.read_bytes() if path.exists() else b""
        ended = content[: content.rfind(b"\n") + 1]
        if len(ended) < len(content):
            write_file(path, ended)
        if ended.count(b"\n") < json.loads(line)["sequence"]:
            with path.open("ab") as log:
                log.write(line.encode() + b"\n")
                log.flush()
                os.fsync(log.fileno())


def write_file(path: Path, content: bytes) -> None:
    """Write a file at once: readers, and a device that loses power, have the old content or the new."""
    own = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    with own.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    own.replace(path)


class EdgeModel:
    """An exported model in its folder: predicts, adapts, and writes updates. Use it in a `with` block."""

    def __init__(self, folder: Path | str | None = None) -> None:
        """Open an exported folder; by default the one that this file is in. Raises EdgeRefusal if a file was changed."""
        self.folder = Path(__file__).resolve().parent if folder is None else Path(folder)
        self.manifest = self._read_json(MANIFEST)
        if self.manifest.get("format") != FORMAT:
            raise EdgeRefusal(f"{MANIFEST} has format {self.manifest.get('format')}, expected {FORMAT}; export again")
        contents = {name: self._read_checked(name, sha256) for name, sha256 in self.manifest["files"].items()}
        self.description = json.loads(contents[DESCRIPTION])
        self.leaves = Leaves(contents[MODEL])
        self.learning = Learning(self.leaves, self.manifest["metric"], self.manifest["quantile"])
        self.journal = Journal(self.folder)
        with self.journal.locked():
            self._take(self.journal.read() or self._fresh())
        self._counted, self._outside = 0, dict.fromkeys(self.manifest["reference"], 0)

    def __enter__(self) -> "EdgeModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write the number of predicted rows to the log."""
        if self._counted:
            with self.journal.locked():
                self._read_state()

    def predict(self, rows: Rows) -> Floats:
        """Return P(last class) (n,) of two classes, (n, classes) of more, or numbers (n,), as Perennial's scorer does.

        `rows` are dictionaries, or one dictionary of columns. Raises EdgeRefusal for a missing column or another type.
        """
        matrix = encode(rows, self.description)
        if len(matrix) == 0:
            return np.empty((0, self.leaves.width) if self.leaves.width > 1 else 0)
        predicted = self.booster.inplace_predict(matrix, missing=math.nan, validate_features=False)
        self._counted += len(matrix)
        for name, count in self._out_of_range(matrix).items():
            self._outside[name] += count
        if self._counted >= FLUSH_ROWS:
            self.close()
        return np.asarray(predicted, float)

    def adapt(self, rows: Rows, labels: Sequence[Any]) -> dict[str, Any]:
        """Learn from labelled rows in order of time, latest last; return what was done, with losses.

        What was learned before is judged on these rows first, and undone if it does more harm than good. What is learned now
        is judged on the latest rows. Rows may have the model's time column: an update then says until when was learned. Raises
        EdgeRefusal for rows that cannot be used, or fewer than 50 with a known label.
        """
        matrix, target = encode(rows, self.description), self._targets(labels)
        if len(matrix) != len(target):
            raise EdgeRefusal(f"{len(matrix)} rows and {len(target)} labels, expected as many labels as rows")
        learned_until = self._latest_time(rows)
        known = np.isfinite(target)
        if known.sum() < FEWEST_ROWS:
            raise EdgeRefusal(f"{known.sum()} rows with a known label, expected at least {FEWEST_ROWS} to adapt to")
        reached = self.leaves.reached(matrix[known], self._kinds)
        with self.journal.locked():
            state = self._read_state()
            outcome, changes = self._adapted(state, reached, target[known])
            changes["learned_until"] = max(filter(None, (state["learned_until"], learned_until)), default=None)
            self._take(self.journal.write({**state, **changes}, "adapted", outcome))
        return outcome

    def _adapted(self, state: dict[str, Any], reached: Floats, target: Floats) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what this adaptation did, for the log, and what it changes in the state."""

        def losses(values: Floats) -> Floats:
            return self.learning.losses(self.leaves.margin(values, reached), target)

        present, good = unpack(state["values"]), unpack(state["good"])
        frozen, serving, start, rolled_back = losses(self.leaves.frozen), losses(present), present, False
        for other in (good, self.leaves.frozen):
            if harmed(losses(other), serving):
                start, serving, rolled_back = other, losses(other), True
        cut = len(target) - max(1, round(HELD_BACK * len(target)))
        slope = self.learning.slope
        candidate = self.leaves.learn(start, reached[:cut], slope(target[:cut]))
        held_back = losses(candidate)[cut:]
        accepted = bool(np.isfinite(candidate).all()) and not harmed(serving[cut:], held_back)
        values = self.leaves.learn(start, reached, slope(target)) if accepted else start
        counts = {**state["counts"]}
        counts["adapted_rows"] += len(target)
        counts["adaptations"] += accepted
        counts["discarded"] += not accepted
        counts["rolled_back"] += rolled_back
        outcome = {
            "rows": len(target),
            "accepted": accepted,
            "rolled_back": rolled_back,
            "before": compared(frozen, losses(present)),
            "held_back": compared(frozen[cut:], held_back if accepted else serving[cut:]),
        }
        return outcome, {
            "values": pack(values),
            "good": pack(start),
            "counts": counts,
            "losses": {"before": outcome["before"], "held_back": outcome["held_back"]},
        }

    def update(self, path: Path | str) -> dict[str, Any]:
        """Write a signed update for `perennial edge import`, and return its body. It holds no row."""
        with self.journal.locked():
            state = self._read_state()
            counts = {**state["counts"], "updates": state["counts"]["updates"] + 1}
            state = self.journal.write({**state, "counts": counts}, "update", {"number": counts["updates"]})
            self._take(state)
        body = {
            "format": FORMAT,
            "model": self.manifest["model"],
            "version": self.manifest["version"],
            "sha256": self.manifest["sha256"],
            "number": counts["updates"],
            "created_at": json.loads(state["line"])["at"],
            "counts": counts,
            "losses": state["losses"],
            "learned_until": state["learned_until"],
            "leaves": state["values"],
            "log": {"sequence": json.loads(state["line"])["sequence"], "hash": chained(state["line"])},
        }
        key = bytes.fromhex((self.folder / KEY).read_text(encoding="ascii"))
        signed = {"body": body, "key_id": key_id(key), "signature": sign(body, key)}
        write_file(Path(path), canonical(signed).encode())
        return body

    def log(self) -> list[dict[str, Any]]:
        """Return the log, oldest entry first, after checking its chain."""
        with self.journal.locked():
            return self.journal.entries(self._read_state().get("line"))

    @property
    def _kinds(self) -> list[str]:
        return ["c" if kind == "categorical" else "q" for _, kind in self.description["features"]]

    def _fresh(self) -> dict[str, Any]:
        frozen = pack(self.leaves.frozen)
        names = ("predicted_rows", "adapted_rows", "adaptations", "discarded", "rolled_back", "updates")
        return {
            "values": frozen,
            "good": frozen,
            "counts": dict.fromkeys(names, 0),
            "losses": {},
            "learned_until": None,
        }

    def _take(self, state: Mapping[str, Any]) -> None:
        """Serve this state's leaf values. Raises EdgeRefusal if they are not those of this model."""
        values = unpack(state["values"])
        if len(values) != len(self.leaves.frozen):
            raise EdgeRefusal(f"{STATE}: has {len(values)} leaves, expected {len(self.leaves.frozen)}; export again")
        same = np.array_equal(values, self.leaves.frozen)
        self.booster = self.leaves.booster if same else self.leaves.with_values(values)

    def _read_state(self) -> dict[str, Any]:
        """Return the state as other processes left it, with the rows predicted since in it and in the log."""
        state = self.journal.read() or self._fresh()
        if not self._counted:
            return state
        rows, outside = self._counted, {name: count for name, count in self._outside.items() if count}
        self._counted, self._outside = 0, dict.fromkeys(self._outside, 0)
        counts = {**state["counts"], "predicted_rows": state["counts"]["predicted_rows"] + rows}
        return self.journal.write({**state, "counts": counts}, "predicted", {"rows": rows, "out_of_range": outside})

    def _out_of_range(self, matrix: Floats) -> dict[str, int]:
        """Count each numeric feature's values outside of those that the model was trained on."""
        names = [name for name, _ in self.description["features"]]
        found = {}
        for name, (low, high) in self.manifest["reference"].items():
            values = matrix[:, names.index(name)]
            found[name] = int(((values < np.float32(low)) | (values > np.float32(high))).sum())
        return found

    def _latest_time(self, rows: Rows) -> str | None:
        """Return the latest time (UTC) of rows that have the model's time column; None for rows without it."""
        name = self.manifest["time"]
        given = rows.get(name, ()) if isinstance(rows, Mapping) else [row.get(name) for row in rows]
        try:
            times = [datetime.fromisoformat(str(value)) for value in given if not is_null(value)]
        except ValueError:
            raise EdgeRefusal(
                f"column {name}: holds no times, expected the form 2026-06-05T12:00+00:00, or no column"
            ) from None
        zoned = [time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC) for time in times]
        return max(zoned).isoformat() if zoned else None

    def _targets(self, labels: Sequence[Any]) -> Floats:
        """Return labels as codes of the classes or numbers; NaN for a null or an unknown class."""
        classes = self.description["classes"]
        found = codes("label", labels, classes) if classes else numbers("label", labels, "label")
        if classes and len(found) and not np.isfinite(found).any():
            raise EdgeRefusal(f"no label is a class of the model, expected one of {', '.join(classes[:10])}")
        return found

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / name).read_bytes())
        except (OSError, ValueError) as error:
            raise EdgeRefusal(
                f"{self.folder / name}: cannot be read ({type(error).__name__}), expected an exported folder"
            ) from None
        return found

    def _read_checked(self, name: str, sha256: str) -> bytes:
        path = self.folder / name
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != sha256:
            raise EdgeRefusal(f"{path}: is not the file that {MANIFEST} names; it was changed, export the model again")
        return content


def harmed(other: Floats, serving: Floats) -> bool:
    """Whether what serves loses more than another state on the same rows, by more than a standard error."""
    difference = serving - other
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return float(difference.mean()) > HARM_SE * error


def read_rows(path: Path, description: Mapping[str, Any], label: str) -> list[dict[str, Any]]:
    """Read a file of JSON lines, or CSV by its suffix; an empty cell of a CSV file is a null. Raises EdgeRefusal."""
    kinds = {**dict(description["features"]), label: "categorical" if description["classes"] else "numeric"}
    try:
        if path.suffix.lower() != ".csv":
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        with path.open(newline="", encoding="utf-8") as file:
            table = [dict(row) for row in csv.DictReader(file)]
    except (OSError, ValueError) as error:
        raise EdgeRefusal(f"{path}: cannot be read ({type(error).__name__}), expected CSV or JSON lines") from None
    return [
        {name: parsed(f"line {number}: {name}", text, kinds[name]) for name, text in row.items() if name in kinds}
        for number, row in enumerate(table, 2)
    ]


def parsed(place: str, text: str | None, kind: str) -> Any:
    """Return the value of a CSV cell. Raises EdgeRefusal if it is not of this kind."""
    if not text:
        return None
    if kind == "categorical":
        return text
    if kind == "boolean" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text) if kind == "numeric" else {"1": True, "0": False}[text]
    except (ValueError, KeyError):
        expected = "a number" if kind == "numeric" else "true or false"
        raise EdgeRefusal(f"{place} is {text[:40]!r}, expected {expected}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 2 after printing one sentence if it is refused."""
    parser = argparse.ArgumentParser(description="Predict and adapt with the model in this folder.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, argument, summary in (
        ("predict", "rows", "print a prediction per row of a CSV file, or of JSON lines"),
        ("adapt", "rows", "learn from labelled rows in order of time, latest last"),
        ("update", "out", "write a signed update for `perennial edge import`; it holds no row"),
    ):
        commands.add_parser(name, help=summary).add_argument(argument, type=Path)
    commands.choices["adapt"].add_argument("--label", help="the label's column; by default the model's")
    commands.add_parser("log", help="check the log and print it").add_argument("--last", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        with EdgeModel() as model:
            for line in lines_of(model, given):
                print(line)
    except EdgeRefusal as refusal:
        print(refusal, file=sys.stderr)
        return 2
    return 0


def lines_of(model: EdgeModel, given: argparse.Namespace) -> Iterator[str]:
    """Carry out a command and yield what it prints."""
    label = getattr(given, "label", None) or model.manifest["label"]
    if given.command == "log":
        yield from (canonical(entry) for entry in model.log()[-given.last :])
    elif given.command == "update":
        body = model.update(given.out)
        yield f"update {body['number']} of {body['model']} version {body['version']}: {given.out}"
    else:
        rows = read_rows(given.rows, model.description, label)
        if given.command == "predict":
            yield from (json.dumps(value) for value in model.predict(rows).tolist())
        elif rows and label not in rows[0]:
            raise EdgeRefusal(f"column {label}: not among the rows, expected the label")
        else:
            yield canonical(model.adapt(rows, [row.get(label) for row in rows]))


if __name__ == "__main__":
    sys.exit(main())
