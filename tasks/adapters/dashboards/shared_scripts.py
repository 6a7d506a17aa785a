"""Evidently's pages carry 3.6 MB of the same script and style each; written once, all pages of a workspace share them.

What differs per page, the data with its escaped names, stays in the page. The shared files are named by their content
and are addressed relative to the page, so that reports open offline and a new version never changes an old page.
"""

import hashlib
import re
from pathlib import Path

from tasks.adapters.storage.atomic_files import write_whole

SHARED = "assets"
LARGE = 50_000
MARK = "<script>var global = globalThis</script>"
"""What Evidently 0.7.23 writes before its bundle; the last script of a page draws what the first one holds."""


def share_scripts(page: str, path: Path, reports: Path) -> str:
    """The page, to be written to `path`, with its bundle and its style as files under `reports`. Raises OSError."""
    up = "../" * len(path.parent.relative_to(reports).parts)
    start = page.index("<script>", page.index(MARK) + len(MARK))
    end = page.rindex("</script>", start, page.rindex("<script>"))
    bundle = page[start + len("<script>") : end]
    if len(bundle) >= LARGE:
        name = _write(bundle, "js", reports)
        page = f'{page[:start]}<script src="{up}{SHARED}/{name}">{page[end:]}'
    style = re.search(r"<style>(.*?)</style>", page, re.S)
    if style and len(style[1]) >= LARGE:
        name = _write(style[1], "css", reports)
        page = f'{page[: style.start()]}<link rel="stylesheet" href="{up}{SHARED}/{name}">{page[style.end() :]}'
    return page


def _write(content: str, kind: str, reports: Path) -> str:
    """The name of the shared file; written whole, unless it is there."""
    name = f"evidently-{hashlib.sha256(content.encode()).hexdigest()[:16]}.{kind}"
    path = reports / SHARED / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    return name
