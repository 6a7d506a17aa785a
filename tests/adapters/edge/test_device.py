"""The device's file: the same numbers as Perennial, learning that is undone where it does harm, and a log that shows edits."""

import json
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.adapters.edge import device
from tasks.adapters.edge.device import EdgeModel, EdgeRefusal
from tasks.adapters.edge.folder import PROGRAM
from tasks.policy.records.base import digest
from tests.support.edge_folders import exported_model, on_device, run_on_device
from tests.support.trained_models import HOLDOUT, make_config, make_rows

TASKS = ("binary", "multiclass", "regression")


def odd_rows(task: str) -> pa.Table:
    """Return rows with nulls, unseen categories, infinities and numbers beyond float32."""
    rows = make_rows(task, rows=300, window=HOLDOUT, seed=5)
    x, colour = rows["x"].to_pylist(), rows["colour"].to_pylist()
    x[:5] = [None, float("inf"), float("nan"), 1e300, -1e300]
    colour[:4] = [None, "violet", "", "red"]
    flag = [None, *rows["flag"].to_pylist()[1:]]
    for name, values in (("x", x), ("colour", colour), ("flag", flag)):
        rows = rows.set_column(rows.column_names.index(name), name, pa.chunked_array([values]))
    return rows


@pytest.mark.parametrize("task", TASKS)
def test_predictions_are_those_of_the_scorer_bit_for_bit(task, tmp_path):
    scorer, folder = exported_model(tmp_path, task)
    rows = odd_rows(task)
    expected = scorer.predict(rows)
    with EdgeModel(folder) as model:
        assert model.predict(on_device(rows)).tobytes() == expected.tobytes()
        assert model.predict(rows.to_pylist()).tobytes() == expected.tobytes()
        assert model.predict([]).shape == expected[:0].shape
        arrays = {name: rows[name].to_numpy() for name in ("x", "noise")}
        assert model.predict(on_device(rows) | arrays).tobytes() == expected.tobytes()


def test_categories_are_spelled_as_perennial_spells_them(tmp_path):
    """Whole numbers and booleans are categories too, in any of their types."""
    rows = make_rows("binary")
    codes = pa.array([index % 3 for index in range(len(rows))])
    rows = rows.set_column(rows.column_names.index("colour"), "colour", codes)
    scorer, folder = exported_model(tmp_path, rows=rows)
    with EdgeModel(folder) as model:
        for values in (
            codes.to_pylist(),
            codes.to_numpy(),
            codes.cast(pa.float64()).to_numpy(),
            list(map(str, codes.to_pylist())),
        ):
            assert model.predict(on_device(rows) | {"colour": values}).tobytes() == scorer.predict(rows).tobytes()


WRONG: dict[str, tuple[Any, str]] = {
    "a missing column": (lambda rows: {name: rows[name] for name in ("x", "noise", "flag")}, "column colour: not among the rows"),
    "text as a number": (lambda rows: rows | {"x": ["1"] * 300}, "column x: holds str, expected numbers"),
    "a boolean as a number": (lambda rows: rows | {"x": [True] * 300}, "column x: holds bool, expected numbers"),
    "a number as a boolean": (lambda rows: rows | {"flag": [1] * 300}, "column flag: holds int, expected true, false or null"),
    "a fraction as a category": (lambda rows: rows | {"colour": [0.5] * 300}, "column colour: holds float"),
    "text and numbers": (lambda rows: rows | {"colour": ["red", 1] * 150}, "column colour: holds text and numbers"),
    "columns of two lengths": (lambda rows: rows | {"x": [1.0]}, "columns have 1 and 300 values"),
    "a row that is no dictionary": (lambda rows: [[1, 2]], "row 0 is of type list"),
    "a row without a feature": (lambda rows: [{"x": 1}], "row 0 lacks noise, colour, flag"),
}  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder that no test changes."""
    home = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_HOME", str(home / "home"))
        return exported_model(home)[1]


@pytest.mark.parametrize("case", WRONG)
def test_rows_that_do_not_fit_are_refused(case, shared):
    change, expected = WRONG[case]
    with pytest.raises(EdgeRefusal) as refused:
        EdgeModel(shared).predict(change(on_device(make_rows(rows=300))))
    assert expected in str(refused.value)


def drifted(task: str, rows: int = 400, seed: int = 1) -> pa.Table:
    """Return rows of another concept: the effect of x is half as large."""
    return make_rows(task, rows=rows, window=HOLDOUT, seed=seed, turn=0.3)


def loss(model: EdgeModel, rows: pa.Table) -> float:
    """Return the mean loss by an independent formula: log loss, or absolute error."""
    predicted, labels = model.predict(on_device(rows)), rows["label"].to_pylist()
    if not model.description["classes"]:
        return float(np.abs(predicted - labels).mean())
    shares = np.column_stack([1 - predicted, predicted]) if predicted.ndim == 1 else predicted
    chosen = [shares[row, model.description["classes"].index(str(label))] for row, label in enumerate(labels)]
    return float(-np.log(np.clip(chosen, 1e-6, None)).mean())


@pytest.mark.parametrize("task", TASKS)
def test_adapting_lowers_the_loss_on_later_rows(task, tmp_path):
    _, folder = exported_model(tmp_path, task)
    later = drifted(task, 1000, seed=77)
    with EdgeModel(folder) as model:
        before = loss(model, later)
        for seed in range(1, 5):
            rows = drifted(task, seed=seed)
            outcome = model.adapt(on_device(rows), rows["label"].to_pylist())
        after = loss(model, later)
    assert after < 0.8 * before, (before, after)
    assert outcome["before"]["high"] < 0, "rows that it had not learned from show a gain"
    with EdgeModel(folder) as again:
        assert loss(again, later) == after, "a restart answers alike"


def test_a_quantile_is_followed(tmp_path):
    """The labels rise by one; their 90 % quantile is then again above nine tenths of them, not above their middle."""
    config = make_config("regression", performance={"metric": "pinball", "quantile": 0.9})
    _, folder = exported_model(tmp_path, "regression", config=config)
    with EdgeModel(folder) as model:
        for seed in range(1, 9):
            rows = make_rows("regression", rows=400, window=HOLDOUT, seed=seed)
            model.adapt(on_device(rows), [label + 1 for label in rows["label"].to_pylist()])
        later = make_rows("regression", rows=2000, window=HOLDOUT, seed=99)
        above = model.predict(on_device(later)) > np.array(later["label"].to_pylist()) + 1
    assert 0.8 < above.mean() < 0.95


def test_a_change_that_does_harm_is_undone(tmp_path):
    """It learns from rows with labels that are wrong; on the next sound rows, it goes back to what was good."""
    scorer, folder = exported_model(tmp_path, "regression")
    wrong, sound = (
        make_rows("regression", rows=400, turn=-1.0),
        make_rows("regression", rows=400, window=HOLDOUT, seed=2),
    )
    with EdgeModel(folder) as model:
        assert model.adapt(on_device(wrong), wrong["label"].to_pylist())["accepted"]
        assert (model.predict(on_device(sound)) != scorer.predict(sound)).any()
        labels = sound["label"].to_pylist()
        outcome = model.adapt(on_device(sound), labels)
        assert outcome["rolled_back"] and outcome["before"]["low"] > 0
        off = np.abs(model.predict(on_device(sound)) - labels).mean()
    assert off < 1.1 * np.abs(scorer.predict(sound) - labels).mean()


def test_an_adaptation_that_fails_on_the_latest_rows_is_discarded(tmp_path):
    scorer, folder = exported_model(tmp_path, "regression")
    wrong, sound = (
        make_rows("regression", rows=400, turn=-1.0),
        make_rows("regression", rows=100, window=HOLDOUT, seed=2),
    )
    rows = pa.concat_tables([wrong, sound])
    with EdgeModel(folder) as model:
        outcome = model.adapt(on_device(rows), rows["label"].to_pylist())
        assert not outcome["accepted"]
        assert model.predict(on_device(sound)).tobytes() == scorer.predict(sound).tobytes()


def test_too_few_or_unknown_labels_are_refused(tmp_path):
    _, folder = exported_model(tmp_path)
    rows = drifted("binary", 60)
    with EdgeModel(folder) as model:
        with pytest.raises(EdgeRefusal, match="10 rows with a known label, expected at least 50"):
            model.adapt(on_device(rows), [*rows["label"].to_pylist()[:10], *[None] * 50])
        with pytest.raises(EdgeRefusal, match="no label is a class of the model, expected one of 0, 1"):
            model.adapt(on_device(rows), ["yes"] * 60)
        with pytest.raises(EdgeRefusal, match="60 rows and 1 labels"):
            model.adapt(on_device(rows), [1])
        assert model.log() == []


@pytest.mark.parametrize("task", TASKS)
def test_adapting_takes_less_than_a_second_per_1000_rows(task, tmp_path):
    """On one core, with 200 trees of depth 6."""
    config = make_config(
        task, training={"parameters": {"n_estimators": 200, "max_depth": 6}, "early_stopping_rounds": None}
    )
    _, folder = exported_model(tmp_path, task, config=config)
    rows = drifted(task, 1000)
    columns, labels = on_device(rows), rows["label"].to_pylist()
    with EdgeModel(folder) as model:
        begun = process_time()
        model.adapt(columns, labels)
        assert process_time() - begun < 1.0


def test_folder_holds_less_than_a_megabyte_beside_the_model(shared):
    assert sum(path.stat().st_size for path in shared.iterdir() if path.name != device.MODEL) < 100_000
    assert (shared / device.KEY).stat().st_mode & 0o077 == 0


def test_file_runs_without_perennial(tmp_path):
    """In a process that cannot import this project, the copy works; its commands read CSV and JSON lines."""
    _, folder = exported_model(tmp_path)
    assert (folder / PROGRAM).read_bytes() == Path(device.__file__).read_bytes()
    rows = drifted("binary", 120)
    (folder / "rows.jsonl").write_text(
        "\n".join(json.dumps(row, default=str) for row in rows.to_pylist()), encoding="utf-8"
    )
    with (folder / "rows.csv").open("w", encoding="utf-8") as table:
        print("x,noise,colour,flag,label", file=table)
        for row in rows.to_pylist():
            print(row["x"], row["noise"], row["colour"], row["flag"], row["label"], sep=",", file=table)
    with EdgeModel(folder) as model:
        expected = model.predict(on_device(rows)).tolist()
    commands = ("predict rows.csv", "predict rows.jsonl", "adapt rows.csv", "update update.json", "log --last 2")
    *outputs, refused = run_on_device(folder, *commands, "predict absent.csv")
    assert [code for code, _, _ in outputs] == [0] * 5, outputs
    from_csv, from_json, adapted, updated, logged = (shown for _, shown, _ in outputs)
    assert [json.loads(line) for line in from_csv.splitlines()] == expected and from_csv == from_json
    assert json.loads(adapted)["rows"] == 120 and "update 1 of binary_model version 1" in updated
    assert [json.loads(line)["kind"] for line in logged.splitlines()] == ["adapted", "update"]
    assert refused[0] == 2 and "absent.csv: cannot be read" in refused[2]


@pytest.mark.parametrize("naive", [False, True])
def test_update_says_until_when_was_learned(naive, tmp_path):
    _, folder = exported_model(tmp_path)
    rows = drifted("binary", 100)
    columns, labels = on_device(rows), rows["label"].to_pylist()
    with EdgeModel(folder) as model:
        model.adapt({name: columns[name] for name in columns if name != "time"}, labels)
        assert model.update(folder / "first.json")["learned_until"] is None
        times = [time.replace(tzinfo=None) if naive else time.isoformat() for time in columns["time"]]
        model.adapt(columns | {"time": times}, labels)
        assert model.update(folder / "second.json")["learned_until"] == max(columns["time"]).isoformat()
        with pytest.raises(EdgeRefusal, match="column time: holds no times"):
            model.adapt(columns | {"time": ["noon"] * 100}, labels)


def test_log_is_a_chain_as_the_ledger_is(tmp_path):
    _, folder = exported_model(tmp_path)
    rows = drifted("binary")
    with EdgeModel(folder) as model:
        model.predict(on_device(rows))
        model.adapt(on_device(rows), rows["label"].to_pylist())
        model.update(folder / "update.json")
    lines = (folder / device.LOG).read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["kind"] for entry in entries] == ["predicted", "adapted", "update"]
    assert entries[0]["body"]["rows"] == 400
    assert [entry["previous_hash"] for entry in entries[1:]] == [digest(line, length=64) for line in lines[:-1]]
    assert json.loads((folder / "update.json").read_bytes())["body"]["log"]["hash"] == digest(lines[-1], length=64)


@pytest.mark.parametrize("edit", ["change", "cut", "remove"])
def test_edited_log_is_refused(edit, tmp_path):
    _, folder = exported_model(tmp_path)
    rows = drifted("binary")
    for _ in range(2):
        with EdgeModel(folder) as model:
            model.adapt(on_device(rows), rows["label"].to_pylist())
    log = folder / device.LOG
    first, second = log.read_text(encoding="utf-8").splitlines()
    edited = {"change": [first.replace('"rows":400', '"rows":401'), second], "cut": [first], "remove": [second]}[edit]
    log.write_text("\n".join(edited) + "\n", encoding="utf-8")
    if edit == "cut":  # its last line is in the state, as after a crash, and is written again
        assert len(EdgeModel(folder).log()) == 2
        return
    with pytest.raises(EdgeRefusal, match=r"log\.jsonl"):
        EdgeModel(folder)


def test_adaptation_survives_a_crash_between_state_and_log(tmp_path):
    _, folder = exported_model(tmp_path)
    rows = drifted("binary")
    with EdgeModel(folder) as model:
        model.adapt(on_device(rows), rows["label"].to_pylist())
        expected = model.predict(on_device(rows)).tolist()
        log = folder / device.LOG
        content = log.read_bytes()
        log.write_bytes(content[:-40])  # the line is cut short
        assert EdgeModel(folder).predict(on_device(rows)).tolist() == expected
        assert log.read_bytes() == content


@pytest.mark.parametrize("name", [device.MODEL, device.DESCRIPTION, PROGRAM])
def test_changed_file_is_refused(name, tmp_path):
    _, folder = exported_model(tmp_path)
    path = folder / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(EdgeRefusal, match="is not the file that manifest"):
        EdgeModel(folder)
