"""The full loop with repeated and composite ids, retracted labels, and clashing column names."""

import numpy as np
import pandas as pd
import pytest
import yaml

from flows.monitor import monitor
from flows.promote import promote
from flows.replay import replay
from flows.retrain import retrain
from flows.score import score
from tasks.policy.records.base import utc
from tasks.policy.records.errors import SourceError
from tasks.policy.records.reports import PerformanceReport
from tests.support.small_model import ROWS_PER_DAY, rows, write_model

pytestmark = pytest.mark.usefixtures("prefect_server")
FIRST, SECOND, THIRD = utc("2024-01-21"), utc("2024-01-23"), utc("2024-01-25")
WINDOW_ROWS = 2 * ROWS_PER_DAY


def judged(model: str, *ends) -> list[PerformanceReport]:
    for end in ends:
        score(model, until=end)
    return [monitor(model, until=end).evidence.performance for end in ends]


def loop(model: str) -> list[PerformanceReport]:
    retrain(model, until=FIRST)
    promote(model, until=FIRST)
    return judged(model, SECOND, THIRD)


def figures(reports: list[PerformanceReport]) -> list[tuple[int, float]]:
    return [(report.labelled_rows, report.metric("mae").value) for report in reports]


def customers(table: pd.DataFrame) -> list[str]:
    """Return rows of 50 customers, three per day each, with the separator of composite ids in their names."""
    return [f"a|b\\{number % 50}" for number in range(len(table))]


@pytest.mark.slow("lives through a record twice")
def test_composite_id_separates_repeated_customers(tmp_path):
    table = rows()
    expected = figures(loop(write_model(tmp_path / "control", table)))
    repeated = table.assign(row=customers(table))
    refused = write_model(tmp_path / "refused", repeated, **{"name: small": "name: refused"})
    with pytest.raises(SourceError, match=r"3,000 of 3,000 rows .* \(50 distinct ids\).*columns.id: \[row, at\] does"):
        retrain(refused, until=FIRST)
    changes = {"name: small": "name: visits", "id: row": "id: [row, at]"}
    assert figures(loop(write_model(tmp_path / "visits", repeated, **changes))) == expected
    assert expected[0][0] > 0.7 * WINDOW_ROWS


@pytest.mark.slow("lives through a record twice")
def test_repeated_ids_keep_all_labels(tmp_path):
    """Also labels that equal those of the previous window."""
    table = rows()
    expected = figures(loop(write_model(tmp_path / "control", table)))
    live = table["at"] >= FIRST
    again = np.where(live, [f"c{number % WINDOW_ROWS}" for number in range(len(table))], table["row"])
    found = figures(loop(write_model(tmp_path / "live", table.assign(row=again), **{"name: small": "name: live"})))
    assert found == expected


def test_the_time_of_a_row_may_identify_it(tmp_path):
    series = rows().drop(columns="row")
    model = write_model(tmp_path, series, **{"name: small": "name: series", "id: row": "id: at"})
    first, second = loop(model)
    assert all(each.labelled_rows > 0.7 * WINDOW_ROWS and each.metric("mae").value < 0.5 for each in (first, second))
    twice = pd.concat([series, series.head(3)])
    refused = write_model(tmp_path / "refused", twice, **{"name: small": "name: refused", "id: row": "id: at"})
    with pytest.raises(SourceError, match=r"columns.id is at: 6 of 3,003 rows share their id with another row"):
        retrain(refused, until=FIRST)


def test_retracted_labels_are_removed_from_measured_windows(tmp_path):
    model = write_model(tmp_path)
    loop(model)
    table = rows()
    taken = table.index[table["at"].between(FIRST, SECOND, inclusive="left")][:100]
    table.loc[taken, "y"] = np.nan
    table.to_parquet(tmp_path / "rows.parquet")
    later = utc("2024-01-27")
    score(model, until=later)
    revised = {report.window.start: report for report in monitor(model, until=later).revised}
    assert revised[FIRST].labelled_rows == WINDOW_ROWS - 100


ODD = ["id", "[€]", "b<10", "a.b", "a", "A", "place", "label", "label_at", "model_version", "never", "every", "__index_level_0__",
       "0", " x ", "two\nlines", "<script>alert(1)</script>", "n" * 200]  # fmt: skip


@pytest.mark.slow("replays a record of clashing names")
def test_replay_with_clashing_column_names(tmp_path):
    table, random = rows(), np.random.default_rng(5)
    own = {"window": table["row"], "index": table["at"], "prediction": table["y"], "Dtype [x]": table["colour"]}
    shift = np.where(table["at"] >= SECOND, 2.0, 0.0)  # so that there is drift to draw
    features = {name: random.normal(size=len(table)) + shift for name in ODD} | {"b<10": table["x"]}
    model = write_model(tmp_path, pd.DataFrame(own | features), **{"end: 2024-02-06": "end: 2024-01-27"})
    content = yaml.safe_load((tmp_path / "small.yaml").read_text())
    content["columns"] |= {
        "id": "window",
        "time": "index",
        "label": "prediction",
        "features": {"numeric": ODD, "categorical": ["Dtype [x]"]},
    }
    content["performance"]["slices"] = ["Dtype [x]"]
    content["retraining"] = {"when": {"trigger": "perennial", "alpha": 0.05}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))
    outcome = replay(model)
    assert len(outcome.windows) == 3
    assert not [page for page in tmp_path.rglob("*.html") if "<script>alert(1)" in page.read_text(encoding="utf-8")]
