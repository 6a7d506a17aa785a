"""Atomic writes, also with concurrent processes."""

import multiprocessing
from contextlib import ExitStack
from hashlib import sha256
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest

from tasks.adapters.storage.atomic_files import atomic_file, atomic_folder, file_lock, write_atomically
from tests.support.monitored_model import judge

WRITERS, ROUNDS = 4, 10


def _share(reports: Path, start: Barrier) -> None:
    from tasks.adapters.gates.evidently_page import write_assets  # takes seconds that the other processes do not need

    for number in range(ROUNDS):
        start.wait(timeout=120)
        write_assets(reports / str(number))


def _count(path: Path, start: Barrier) -> None:
    start.wait(timeout=30)
    for _ in range(ROUNDS):
        with file_lock(path.with_suffix(".lock")):
            path.write_text(str(int(path.read_text()) + 1))


def run_side_by_side(target, *arguments) -> list[int | None]:
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(WRITERS)
    writers = [spawn.Process(target=target, args=(*arguments, start)) for _ in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    return [writer.exitcode for writer in writers]


@pytest.mark.slow("starts processes that write at once")
def test_concurrent_first_reports_all_succeed(tmp_path):
    assert run_side_by_side(_share, tmp_path) == [0] * WRITERS
    for number in range(ROUNDS):
        files = sorted((tmp_path / str(number) / "assets").iterdir())
        assert [(file.suffix, sha256(file.read_bytes()).hexdigest()[:16]) for file in files] == [
            (file.suffix, file.stem.removeprefix("evidently-")) for file in files
        ]
        assert {file.suffix for file in files} == {".css", ".js"}


@pytest.mark.slow("starts processes that write at once")
def test_locked_updates_lose_nothing(tmp_path):
    path = tmp_path / "count"
    path.write_text("0")
    assert run_side_by_side(_count, path) == [0] * WRITERS
    assert path.read_text() == str(WRITERS * ROUNDS)


def test_readers_see_the_old_file_during_a_rewrite(tmp_path):
    judged = judge(tmp_path)
    paths = [Path(uri) for uri in (judged.profiled.sample_uri, judged.quality.report_uri, judged.drift.report_uri)]
    before = [path.read_bytes() for path in paths]
    with ExitStack() as readers:
        opened = [readers.enter_context(path.open("rb")) for path in paths]
        assert all(judge(tmp_path, amount=np.zeros(2000)))
        assert [reader.read() == earlier for reader, earlier in zip(opened, before, strict=True)] == [True] * 3
    assert [path.read_bytes() == earlier for path, earlier in zip(paths, before, strict=True)] == [False] * 3
    assert not [path for folder in {path.parent for path in paths} for path in folder.glob(".*.unfinished")]


def test_failed_write_keeps_the_old_file(tmp_path):
    path = write_atomically(tmp_path / "page.html", "old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as own:
        own.write_text("half")
        raise ZeroDivisionError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("page.html", "old")]


def test_folder_is_written_once(tmp_path):
    for content in ("first", "second"):
        with atomic_folder(tmp_path / "probe") as own:
            (own / "model").write_text(content)
    assert [path.name for path in tmp_path.iterdir()] == ["probe"]
    assert (tmp_path / "probe" / "model").read_text() == "first"


def test_failed_folder_write_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "probe") as own:
        (own / "model").write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_unplaceable_folder_is_reported(tmp_path):
    (tmp_path / "probe").write_text("a file stands there")
    with pytest.raises(NotADirectoryError), atomic_folder(tmp_path / "probe"):
        pass
