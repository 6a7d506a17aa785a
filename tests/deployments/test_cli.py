"""The `perennial` command: help, JSON, exit codes and error messages."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings
from typer.main import get_command
from typer.testing import CliRunner

from deployments.apply.definitions import INDEX
from deployments.cli import app, main
from deployments.cli.flows import FLOWS
from deployments.cli.output import model_names
from deployments.config.loading import load_model_config
from deployments.new.start import default_folder
from flows.promote import promote
from flows.retrain import retrain
from tasks.adapters import ledger
from tasks.policy.records.base import utc
from tasks.policy.records.errors import ModelConfigError
from tests.support.small_model import write_model

FIRST = utc("2024-01-21")


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Return the path of every command and group, as words."""
    command = command or get_command(app)
    yield path
    for name, nested in getattr(command, "commands", {}).items():
        yield from commands(nested, (*path, name))


def help_of(*path: str) -> str:
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"}, prog_name="perennial")
    assert shown.exit_code == 0, shown.output
    return shown.output


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_help_examples_use_existing_options(path):
    shown = help_of(*path)
    group = path in ((), ("run",), ("audit",), ("alerts",), ("edge",))
    assert group or "Examples:" in shown
    for words, options in re.findall(r"\$ perennial ((?:run |audit |alerts |edge )?[a-z]+)(.*)", shown):
        known = shown if words.split() == list(path) else help_of(*words.split())
        assert not [option for option in re.findall(r"--[a-z-]+", options) if option not in known]


@pytest.mark.parametrize("path", [path for path in commands() if path], ids=" ".join)
def test_each_option_has_a_description(path):
    rows = [line for line in help_of(*path).splitlines() if re.match(r"│[ *]*--", line)]
    assert rows
    for row in rows:
        assert len(re.split(r" {2,}", row.strip("│* ")[2:])) > 1, f"{' '.join(path)}: {row}"


def test_every_deployed_flow_can_be_run():
    deployed = {item["entrypoint"].rsplit(".", 1)[1] for item in yaml.safe_load(INDEX.read_text())["deployments"]}
    assert set(FLOWS) == deployed
    shown = help_of("run", "retrain")
    for parameter in retrain.parameters.properties:
        assert f"--{parameter.replace('_', '-')}" in shown


@pytest.mark.parametrize(
    ("flow", "given", "parsed"),
    [
        ("backfill", "--start 2024-01-01 --end 2024-01-09", {"dry_run": True, "max_windows": "60"}),
        ("backfill", "--start 2024-01-01 --end 2024-01-09 --no-dry-run", {"dry_run": False, "start": "2024-01-01"}),
        ("monitor", "", {"dry_run": None, "until": None}),
        ("monitor", "--dry-run", {"dry_run": True}),
        ("retrain", """--override '{"by": "Ada"}'""", {"override": {"by": "Ada"}, "reason": "asked for by hand"}),
        ("backtest", "--alphas 0.05 --alphas 0.1", {"alphas": ("0.05", "0.1")}),
    ],
)
def test_options_become_flow_parameters(flow, given, parsed):
    command = get_command(app).commands["run"].commands[flow]
    context = command.make_context(flow, ["--model", "churn", *shlex.split(given)])
    assert {name: context.params[name] for name in parsed} == parsed


def test_help_imports_no_heavy_library():
    heavy = ["prefect", "pydantic", "numpy", "scipy", "mlflow", "xgboost"]
    code = (
        "import sys; from deployments.cli import main; "
        f"main(['run', '--help']); print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_shell_completes_commands_and_models(monkeypatch, capsys):
    for words, expected in (("perennial ch", "check"), ("perennial check a", "air_time")):
        monkeypatch.setenv("_PERENNIAL_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        assert main([]) == 0
        assert capsys.readouterr().out.split() == [expected]


def test_version_is_the_projects(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"perennial \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments", [["chekc"], ["check", "--dta"], ["run", "monitor"], ["audit", "show", "m", "--last", "x"]]
)
def test_invalid_request_exits_with_2(arguments, capsys):
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.fixture
def wrong(tmp_path: Path) -> str:
    return write_model(tmp_path / "wrong", **{"risk: low": "risk: huge"})


def test_check_exits_with_1_for_an_invalid_file(wrong, capsys):
    assert main(["check", wrong]) == 1
    printed_text = capsys.readouterr()
    assert printed_text.out == ""
    assert printed_text.err == "small.yaml: risk is 'huge', expected 'low', 'medium' or 'high'\n"


def test_check_json_lists_files_and_errors(wrong, tmp_path, capsys):
    assert main(["check", write_model(tmp_path / "right"), "--json"]) == 0
    (right,) = printed(capsys)["models"]
    assert (right["model"], right["error"]) == ("small", "") and len(right["behaviour"]) > 5
    assert main(["check", wrong, "--json"]) == 1
    printed_text = capsys.readouterr()
    assert "risk" in json.loads(printed_text.out)["models"][0]["error"] and printed_text.err == ""


def test_invalid_file_exits_with_1_and_invalid_parameter_with_2(wrong, capsys, prefect_server):
    assert main(["run", "monitor", "--model", wrong]) == 1
    printed_text = capsys.readouterr().err.splitlines()[-1]
    assert printed_text == "monitor: small.yaml: risk is 'huge', expected 'low', 'medium' or 'high'"
    assert main(["run", "monitor", "--model", wrong, "--until", "soon"]) == 2
    assert "until: Input should be a valid datetime" in capsys.readouterr().err
    assert main(["run", "retrain", "--model", wrong, "--override", "{by"]) == 2
    assert "is not JSON" in capsys.readouterr().err


def test_worker_without_server_is_refused(capsys):
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        assert main(["work"]) == 2
    assert capsys.readouterr().err.startswith("PREFECT_API_URL is not set, expected the address")


def test_defect_keeps_its_traceback(monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("deployments.new.checking.check_files", broken)
    with pytest.raises(ZeroDivisionError):
        main(["check"])


def test_replay_prints_its_table_and_page(tmp_path, capsys, prefect_server, workspace):
    model = write_model(tmp_path)
    for command in (["replay"], ["run", "replay"]):
        assert main([*command, "--model", model, "--end", "2024-01-25"]) == 0
        shown = capsys.readouterr().out
        title, headings, _, row, *_, page = shown.splitlines()
        assert title.startswith("Replay, 21 January")
        assert headings.split() == [
            "model",
            "metric",
            "loop",
            "never",
            "every",
            "retrains",
            "promoted",
            "refused",
            "time",
        ]
        assert row.split()[0] == "small"
        assert page == f"page: {(workspace / 'replay' / 'index.html').as_uri()}"
        assert (workspace / "replay" / "index.html").is_file()
    assert main(["replay", "--model", model, "--end", "2024-01-25", "--json"]) == 0
    assert len(printed(capsys)["windows"]) == 2


def test_monitor_from_the_command_line_and_read_state_as_json(tmp_path, capsys, prefect_server):
    model = write_model(tmp_path)
    assert main(["run", "retrain", "--model", model, "--until", "2024-01-21", "--json"]) == 0
    assert printed(capsys)["verdict"] == "pass"
    promote(model, until=FIRST)
    assert main(["run", "score", "--model", model, "--until", "2024-01-23"]) == 0
    capsys.readouterr()

    assert main(["run", "monitor", "--model", model, "--until", "2024-01-23", "--json"]) == 0
    judgement = printed(capsys)
    (entry,) = ledger.entries("small", kind="window.judged")
    assert judgement["decision"]["decision_id"] == entry.decision_id
    assert judgement["evidence"]["rows"] == 300
    assert main(["run", "monitor", "--model", model, "--until", "2024-01-23", "--dry-run"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["preview", model, "--until", "2024-01-24"]) == 0
    headline, *rest = capsys.readouterr().out.splitlines()
    assert headline.startswith("retraining of small would go ahead")
    assert "1,200 labelled rows" in headline and "would be fitted again with all of them" in headline
    assert rest and not any("labelled rows" in line for line in rest)
    assert main(["preview", model, "--until", "2024-01-24", "--json"]) == 0
    assert printed(capsys)["refusals"] == []

    assert main(["fleet", model, "--until", "2024-01-24", "--json"]) == 0
    (member,) = printed(capsys)["models"]
    assert (member["model"], member["champion"]) == ("small", "1")
    assert member["last_decision"]["decision_id"] == entry.decision_id
    assert main(["fleet", model, "--until", "2024-01-24"]) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()

    assert main(["audit", "verify", "small", "--json"]) == 0
    (checked,) = printed(capsys)
    assert checked["problems"] == checked["registry"] == [] and checked["head"].startswith("small:")
    assert main(["audit", "show", "small", "--kind", "window.judged", "--json"]) == 0
    assert [each["decision_id"] for each in printed(capsys)] == [entry.decision_id]
    assert main(["audit", "state", "small", "--at", "2024-01-24", "--json"]) == 0
    assert printed(capsys)["promotion"]["champion"] == "1"
    assert main(["audit", "state", "small", "--at", "2024-01-01", "--json"]) == 1
    assert printed(capsys)["entry"] is None


def test_plan_as_json_changes_nothing(capsys, prefect_server):
    assert main(["apply", "--plan", "--json"]) == 0
    plan = printed(capsys)
    assert plan["applied"] is False
    assert {"verb", "kind", "name", "details"} == set(plan["changes"][0])
    assert main(["apply", "--plan", "--json"]) == 0
    assert printed(capsys) == plan


def test_a_models_folder_that_does_not_exist_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PERENNIAL_MODELS", str(tmp_path / "modles"))
    path = write_model(tmp_path / "models")
    fault = f"PERENNIAL_MODELS names {tmp_path / 'modles'}, expected an existing folder"
    monkeypatch.setattr("prefect.server.api.server.SubprocessASGIServer.start", None)  # none is started
    for words in (
        ["check"], ["check", path], ["check", "small"], ["apply", "--dry-run"], ["serve"], ["fleet"], ["fleet", "--json"],
        ["run", "fleet"], ["run", "monitor", "--model", "small"], ["run", "score", "--model", path],
    ):  # fmt: skip
        assert main(words) in (1, 2), words
        shown = capsys.readouterr()
        assert fault in shown.err and "Traceback" not in shown.err, words
    assert model_names("") == []
    assert default_folder() == tmp_path / "modles", "perennial new creates it"


def test_check_and_serve_without_a_model_are_refused(tmp_path, workspace, monkeypatch, capsys):
    monkeypatch.setenv("PERENNIAL_MODELS", str(tmp_path))
    for words in (["check"], ["check", "--json"], ["serve"], ["serve", "--no-login"]):
        assert main(words) in (1, 2), words
        shown = capsys.readouterr()
        assert f"{tmp_path}: holds no model's file, expected at least one" in (
            shown.out if "--json" in words else shown.err
        )
    assert not workspace.exists() or not any(workspace.iterdir()), "no service was started"
    with pytest.raises(ModelConfigError, match=r"small: no such model; .*; the models here are none\."):
        load_model_config("small")
    path = Path(write_model(tmp_path))
    assert main(["check"]) == 0
    assert path.is_file() and "small: " in capsys.readouterr().out
