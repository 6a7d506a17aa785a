"""CSV files are read with the types of the YAML, whatever their first block contains."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from deployments.config.model import ModelConfig
from tasks.adapters.sources.read import read_labels, read_window
from tasks.policy.records.errors import SourceError
from tests.support.monitored_model import WINDOW, model
from tests.support.source_tables import source

MANY = 40_000  # more rows than the 1 MB block from which types would be inferred
HEADER = "id,at,amount,age,country,member,churned,settled,gender"


def line(row: int, **fields: str) -> str:
    known = {"at": f"{WINDOW.start:%Y-%m-%d}T05:00:00Z", "country": "DE", "churned": "", "settled": "", "gender": ""}
    known |= fields
    return (
        f"r{row},{known['at']},1.0,2.0,{known['country']},true,{known['churned']},{known['settled']},{known['gender']}"
    )


def csv(folder: Path, *last: dict[str, str], first: dict[str, str] | None = None, **columns: Any) -> ModelConfig:
    """Write MANY equal rows and then these, which only a later block contains."""
    lines = [line(row, **(first or {})) for row in range(MANY)]
    lines += [line(MANY + row, **fields) for row, fields in enumerate(last)]
    (folder / "rows.csv").write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return source("csv", folder / "rows.csv").model_copy(update={"columns": model(columns=columns).columns})


def test_quoted_line_break_stays_in_its_field(tmp_path: Path) -> None:
    config = csv(tmp_path, first={"country": '"Bern\nSchweiz"'})
    countries = read_window(config, WINDOW)["country"]
    assert (len(countries), countries.unique().to_pylist()) == (MANY, ["Bern\nSchweiz"])


def test_later_times_of_another_precision_are_read(tmp_path: Path) -> None:
    day = f"{WINDOW.start:%Y-%m-%d}"
    config = csv(tmp_path, {"at": f"{day}T05:00:00.5Z"}, {"at": f"{day} 07:00:00.123456789+02:00"})
    times = read_window(config, WINDOW)["at"]
    assert [str(time) for time in times[MANY:]] == [f"{day} 05:00:00.500000+00:00", f"{day} 05:00:00.123456+00:00"]


def test_label_time_empty_at_first_is_read(tmp_path: Path) -> None:
    known = {"churned": "1", "settled": "2024-03-01T00:00:00Z"}
    labels = read_labels(csv(tmp_path, known, {"churned": "1", "settled": "NA"}, label_time="settled"), WINDOW)
    assert [str(time) for time in labels["label_at"]] == ["2024-03-01 00:00:00+00:00"], "NA is an unknown time"


@pytest.mark.parametrize("first", ["", "1"])
def test_protected_groups_further_down_are_read(tmp_path: Path, first: str) -> None:
    config = csv(tmp_path, {"gender": "f"}, first={"gender": first}, protected=("gender",))
    groups = read_window(config, WINDOW)["gender"]
    assert groups.type == pa.string()
    assert groups.unique().to_pylist() == [first or None, "f"]


def test_protected_feature_keeps_its_kind(tmp_path: Path) -> None:
    read = read_window(csv(tmp_path, protected=("age", "member")), WINDOW)
    assert (read["age"].type, read["member"].type) == (pa.float64(), pa.bool_())


def test_invalid_time_is_reported_anywhere_in_the_file(
    tmp_path: Path,
) -> None:
    from tasks.adapters.sources.files import read_files

    config = csv(tmp_path, {}, first={"at": "2023-02-01T05:00:00Z"})
    assert read_files(config, WINDOW, ["id", "at"], "here").num_rows == 1
    config = csv(tmp_path, {"at": "01.02.2023"})
    with pytest.raises(SourceError, match="column 'at' is text that is not all ISO 8601"):
        read_window(config, WINDOW)


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("delimiter", "\\t", 'one character; a tab is "\\t" in double quotes'),
        ("delimiter", "||", "one character"),
        ("quote_char", "", "one character"),
        ("decimal_point", "..", "one character"),
        ("encoding", "utf-99", "an encoding such as utf8 or latin-1"),
    ],
)
def test_invalid_csv_option_is_a_config_error(name: str, value: str, accepted: str) -> None:
    with pytest.raises(ValidationError) as caught:
        source("csv", "rows.csv", options={name: value})
    assert f"options.{name} is {value!r}, expected {accepted}" in str(caught.value)
