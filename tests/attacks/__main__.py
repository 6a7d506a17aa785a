"""`make attack`: run every test marked as an attack, one row each; exits with 1 if an attack succeeds or cannot be tried."""

import sys
from collections.abc import Iterator

import pytest
from rich.console import Console
from rich.markup import escape
from rich.table import Table

AS_IT_MUST = "as it must"


class Rows:
    """Collect the result of each attack."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, str]] = []

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        outcome = yield
        report = outcome.get_result()
        if report.when == "call" or report.outcome != "passed":
            mark = item.get_closest_marker("attack")
            result = {"passed": AS_IT_MUST, "failed": "SUCCEEDED, or could not be tried", "skipped": "not tried"}[
                report.outcome
            ]
            self.found.append(
                (mark.args[0] if mark and mark.args else "", item.name.removeprefix("test_").replace("_", " "), result)
            )


def main() -> int:
    rows = Rows()
    status = pytest.main(["-o", "addopts=", "-m", "attack", "-p", "no:terminal", "tests"], plugins=[rows])
    table = Table("enemy", "what is tried, and what must come of it", "outcome", title="Attacks")
    for row in rows.found:
        table.add_row(*map(escape, row))  # brackets would be read as rich's markup
    Console(width=160).print(table)
    return int(status) or int(not rows.found or any(row[2] != AS_IT_MUST for row in rows.found))


if __name__ == "__main__":
    sys.exit(main())
