"""The quality page of one window: each expectation in Great Expectations' words, and what was found.

One self-contained file without network access or scripts; every name is escaped. It shows counts, never a row's values.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.adapters.storage.atomic_files import write_atomically
from tasks.policy.data_quality.quality import Finding
from tasks.policy.records.reports import QualityReport

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1d2733; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #d7dee6; vertical-align: top; }
.verdict { padding: .4rem .8rem; border-radius: .3rem; color: #fff; display: inline-block; font-weight: 600; }
.verdict.pass { background: #1a7f4b; } .verdict.warn { background: #9a6700; } .verdict.fail { background: #b42318; }
td.pass { color: #1a7f4b; } td.warn { color: #9a6700; } td.fail { color: #b42318; }
"""
COLUMNS = ("", "expected", "found", "if broken", "looked at")
HOW_TO_READ = (
    "Each line is one expectation: ✓ it holds, ✗ it does not. A broken expectation with 'fail' quarantines the "
    "window; one with 'warn' is only reported."
)


def write_page(
    path: Path, title: str, report: QualityReport, findings: Sequence[Finding], facts: Mapping[str, str]
) -> str:
    """Write the page and return its path. `facts` are shown above the expectations. Raises OSError."""
    listed = "".join(f"<li>{html.escape(reason)}</li>" for reason in report.reasons)
    above = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(fact)}</td></tr>" for name, fact in facts.items()
    )
    by_column: dict[str, list[Finding]] = {}
    for one in findings:
        by_column.setdefault(one.column or "The window", []).append(one)
    sections = "".join(f"<h2>{html.escape(name)}</h2>{_table(some)}" for name, some in by_column.items())
    write_atomically(
        path,
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"<p class='verdict {report.verdict}'>{report.verdict}</p><ul>{listed}</ul><table>{above}</table>"
        f"<p>{HOW_TO_READ}</p>{sections}</body></html>",
    )
    return str(path)


def _table(findings: Sequence[Finding]) -> str:
    header = "".join(f"<th>{name}</th>" for name in COLUMNS)
    return f"<table><tr>{header}</tr>{''.join(map(_row, findings))}</table>"


def _row(one: Finding) -> str:
    cells = (one.expected, one.observed, one.on_failure, one.looked_at)
    row = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    return f"<tr><td class='{one.verdict}'>{'✓' if one.met else '✗'}</td>{row}</tr>"
