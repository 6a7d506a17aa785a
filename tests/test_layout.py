"""Checks of the project layout: import rules, package sizes, and READMEs."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from deployments.cli import app
from deployments.config.folders import available_models
from deployments.config.loading import load_model_config
from tests.conftest import pytest_collection_modifyitems

ROOT = Path(__file__).parent.parent
TOP_LEVEL = {"pyproject.toml", "README.md", "flows", "tasks", "deployments", "tests", "prefect.yaml", "infra"}
BESIDE = {"Makefile", "requirements.lock", "LICENSE", "CHANGELOG.md"}
PURE = {"numpy", "scipy", "statsmodels", "pydantic", "river", "dateutil", "cronsim", "confusable_homoglyphs", "tasks"}
CHILD = ROOT / "tasks" / "adapters" / "foreign" / "child.py"
"""Runs in a process of its own, and only where the model's file says `training.trust`."""
NO_FLOWS = {"__init__", "parameters", "outside_moves"}
"""Modules of `flows/` that hold what several flows share."""
NEVER = {"pickle", "cloudpickle", "joblib", "dill"}


def sources(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def imports(path: Path) -> Iterator[str]:
    """Return every module that a file imports, anywhere; `from a import b` counts as a and as a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


OURS = [path for folder in ("flows", "tasks", "deployments", "infra") for path in sources(folder)]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


STAGES = ("data", "monitoring", "training", "rollout", "observation", "record", "replay")


def stages() -> list[Path]:
    return [path for room in STAGES for path in sources(f"tasks/{room}") if path.stem != "__init__"]


def stage_names() -> set[str]:
    return {f"tasks.{path.parent.name}.{path.stem}" for path in stages()}


def tracked_top_level() -> set[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return {name.split("/")[0] for name in listed if not name.startswith(".")}


def test_top_level_is_fixed():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so what belongs to the project cannot be listed; clone it with git")
    assert tracked_top_level() <= TOP_LEVEL | BESIDE
    assert all((ROOT / name).exists() for name in TOP_LEVEL)


@pytest.mark.parametrize("path", sources("tasks/policy"), ids=named)
def test_policy_imports_only_allowed_libraries(path):
    allowed = PURE | set(sys.stdlib_module_names)
    strangers = {name for name in imports(path) if name.split(".")[0] not in allowed}
    outside = {name for name in imports(path) if name.startswith("tasks.") and not name.startswith("tasks.policy")}
    assert not strangers | outside


@pytest.mark.parametrize("path", sources("tasks/policy"), ids=named)
def test_policy_reads_no_clock_or_file(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    opened = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"now", "utcnow", "today", "read_text", "write_text"}
    assert "open" not in opened


@pytest.mark.parametrize("path", sources("tasks/adapters"), ids=named)
def test_adapters_import_neither_stages_nor_flows(path):
    forbidden = {name for name in imports(path) if name in stage_names() or name.split(".")[0] == "flows"}
    assert not forbidden


@pytest.mark.parametrize("path", stages(), ids=named)
def test_stages_import_no_other_stage_and_no_flow(path):
    forbidden = {name for name in imports(path) if name in stage_names() or name.split(".")[0] == "flows"}
    assert not forbidden


@pytest.mark.parametrize("path", sources("flows"), ids=named)
def test_flows_do_not_import_flows(path):
    flows = {f"flows.{other.stem}" for other in (ROOT / "flows").glob("*.py")} - {f"flows.{name}" for name in NO_FLOWS}
    top = [
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = {getattr(node, "module", None) or node.names[0].name for node in top}
    assert not names & flows


@pytest.mark.parametrize("path", sources("deployments/config"), ids=named)
def test_config_imports_only_policy(path):
    ours = {name for name in imports(path) if name.split(".")[0] in ("tasks", "flows")}
    assert all(name.startswith("tasks.policy") or name == "tasks" for name in ours)


@pytest.mark.parametrize("path", OURS, ids=named)
def test_nothing_unpickles(path):
    if path != CHILD:
        assert not {name.split(".")[0] for name in imports(path)} & NEVER


def packages() -> list[Path]:
    return [
        path.parent
        for folder in ("tasks", "deployments", "infra")
        for path in sources(folder)
        if path.stem == "__init__"
    ]


def modules_of(package: Path) -> list[Path]:
    return [path for path in package.glob("*.py") if path.stem not in ("__init__", "__main__")]


@pytest.mark.parametrize("package", [each for each in packages() if modules_of(each)], ids=named)
def test_packages_hold_three_to_nine_modules(package):
    names = {path.stem for path in modules_of(package)}
    assert 3 <= len(names) <= 9 or package == ROOT / "deployments"
    assert package.name not in names


def test_packages_import_each_other_one_way():
    """Imports of a package's modules count like imports of the lazy package."""
    ours = {".".join(path.relative_to(ROOT).parts) for path in packages()}
    arrows: dict[str, set[str]] = {}
    for package in packages():
        own = ".".join(package.relative_to(ROOT).parts)
        named_there = {name for path in modules_of(package) for name in imports(path)}
        reached = {
            max((each for each in ours if f"{name}.".startswith(f"{each}.")), key=len, default="")
            for name in named_there
        }
        arrows[own] = reached - {own, "", "tasks", "tasks.adapters", "tasks.policy", "deployments", "infra"}
    order = TopologicalSorter(arrows)
    order.prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", OURS, ids=named)
def test_imports_inside_functions_have_a_comment(path):
    text = path.read_text(encoding="utf-8")
    lines, inner = text.splitlines(), set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner |= {part for part in ast.walk(node) if isinstance(part, ast.Import | ast.ImportFrom)}
    explained: set[int] = set()
    for node in sorted(inner, key=lambda part: part.lineno):
        above = lines[node.lineno - 2]
        if "#" in lines[node.lineno - 1] or above.strip().startswith("#") or node.lineno - 1 in explained:
            explained.add(node.end_lineno or node.lineno)  # one comment covers a block of imports
    assert not [f"{named(path)}:{node.lineno}" for node in inner if node.end_lineno not in explained]


@pytest.mark.parametrize("path", OURS, ids=named)
def test_functions_take_at_most_five_parameters(path):
    """More are a record. The parameters of a flow are its form, those of a command its command line."""
    long = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([parameter for parameter in given if parameter.arg not in ("self", "cls")])
            is_flow = any("flow(" in ast.unparse(decorator) for decorator in node.decorator_list)
            is_command = any("typer.Option" in ast.unparse(parameter) for parameter in given)
            if count > 5 and not is_flow and not is_command:
                long.append(f"{node.name} takes {count}")
    assert not long


def test_no_two_classes_share_a_name():
    found = Counter(
        node.name
        for path in OURS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert not [name for name, count in found.items() if count > 1]


def test_user_errors_are_defined_in_one_module():
    tree = "tasks/policy/records/errors.py"
    known = {
        node.name
        for node in ast.parse((ROOT / tree).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    elsewhere = {
        f"{named(path)}: {node.name}"
        for path in OURS
        if named(path) != tree
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & known
    }
    assert not elsewhere


def test_flow_modules_load_no_heavy_library():
    heavy = ["mlflow", "evidently", "great_expectations", "xgboost", "sklearn", "deltalake"]
    flows = [f"flows.{path.stem}" for path in sources("flows") if path.stem != "__init__"]
    code = f"import sys, {', '.join(flows)}; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


@pytest.mark.parametrize("name", available_models())
def test_every_model_file_loads_under_its_name(name):
    assert load_model_config(name).name == name


def test_models_cover_more_than_one_task():
    assert len({load_model_config(name).task for name in available_models()}) > 1


def deployments() -> list[dict[str, object]]:
    index = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    return [*index["deployments"], index["definitions"]["training-on-a-pool"]]


def test_every_flow_is_deployed():
    from prefect.flows import load_flow_from_entrypoint

    entrypoints = {str(deployment["entrypoint"]) for deployment in deployments()}
    for entrypoint in entrypoints:
        assert load_flow_from_entrypoint(entrypoint).name == entrypoint.rsplit(".", 1)[1]
    flows = {f"flows.{path.stem}.{path.stem}" for path in sources("flows") if path.stem not in NO_FLOWS}
    assert entrypoints == flows


def test_image_contains_all_run_files_and_is_not_root():
    image = (ROOT / "infra" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    taken = {name for names in re.findall(r"^COPY (?!--from)(.+) \S+$", image, re.M) for name in names.split()}
    assert {"requirements.lock", "flows", "tasks", "deployments", "infra", "prefect.yaml"} <= taken
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == taken
    assert all((ROOT / name).exists() for name in taken)
    assert re.findall(r"^USER (.+)$", image, re.M) == ["10001"], "numeric, for Kubernetes"


def test_clean_demo_removes_only_the_workspace(tmp_path):
    workspace, beside = tmp_path / "of mine", tmp_path / "of"
    for folder in (workspace, beside):
        folder.mkdir()
    done = subprocess.run(
        ["make", "clean-demo", f"PERENNIAL_HOME={workspace}"], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("of")] == ["of"]


PAGES = sorted(
    path for path in ROOT.rglob("*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)


def readmes() -> str:
    """Every page except the changelog, which also names removed things."""
    return "\n".join(path.read_text(encoding="utf-8") for path in PAGES if path.name != "CHANGELOG.md")


def test_every_make_target_in_a_readme_exists():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", readmes(), re.M)) <= targets


def test_every_module_command_in_a_readme_exists():
    modules = set(re.findall(r"python -m ((?:flows|tasks|deployments|tests)[\w.]*)", readmes()))
    assert modules
    for module in modules:
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        assert 'if __name__ == "__main__":' in source, module


def test_every_perennial_command_in_a_readme_is_valid():
    lines = re.findall(r"(?:^|`)perennial ((?:run +|audit +|alerts +|edge +)?[a-z]+\b[^`\n#]*)", readmes(), re.M)
    assert len(lines) > 20
    for line in lines:
        words = line.split()
        command = words[: 2 if words[0] in ("run", "audit", "alerts", "edge") else 1]
        shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
        assert shown.exit_code == 0, f"perennial {line}: {shown.output}"
        missing = [word for word in re.findall(r"--[a-z][a-z-]+", line) if word not in shown.output]
        assert not missing, f"perennial {line}: no option {missing}"


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_every_readme_link_resolves(path):
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)", path.read_text(encoding="utf-8")):
        file = path.parent / target if target else path
        assert file.exists(), f"{named(path)} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_stage_table_is_complete():
    table = (ROOT / "tasks" / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `tasks/(\w+/\w+)\.py`", table, re.M))
    assert {f"tasks.{name}".replace("/", ".") for name in listed} == stage_names()


def test_slow_tests_state_a_reason(request):
    request.node.add_marker(pytest.mark.slow)
    with pytest.raises(pytest.UsageError, match="slow without a reason"):
        pytest_collection_modifyitems([request.node])
    request.node.add_marker(pytest.mark.slow("waits for a lease to expire"), append=False)
    pytest_collection_modifyitems([request.node])


@pytest.mark.parametrize(("heading", "folder"), [("Adapters", "tasks/adapters"), ("Policy", "tasks/policy")])
def test_package_tables_are_complete(heading, folder):
    table = (ROOT / "tasks" / "README.md").read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    packages = {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == packages


def test_flows_table_is_complete():
    table = (ROOT / "flows" / "README.md").read_text(encoding="utf-8")
    deployed = {str(deployment["entrypoint"]).rsplit(".", 1)[1] for deployment in deployments()}
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == deployed


def test_readme_is_short():
    words = (ROOT / "README.md").read_text(encoding="utf-8").split()
    assert len(words) <= 900, "move what concerns one folder to that folder's README"
