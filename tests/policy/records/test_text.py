"""Errors of other people's code in one line: the same words wherever it is called, without passwords."""

import pytest

from tasks.policy.records.text import raised, reason_of


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("fee"), "raised KeyError: 'fee'"),
        (ValueError("first\nsecond"), "raised ValueError: first"),
        (AssertionError(), "raised AssertionError"),
        (FileNotFoundError(2, "No such file", "rates.csv"), "raised FileNotFoundError: [Errno 2] No such file: 'rates.csv'"),
        (OSError("cannot reach postgresql://bob:hunter2@db/rates"), "raised OSError: cannot reach postgresql://***@db/rates"),
        (RuntimeError("[18:23:32] /__w/src/objective.cu:114: Check failed: x\nStack trace:"), "raised RuntimeError: Check failed: x"),
        (RuntimeError("catboost/libs/options.h:41: Can't parse depth"), "raised RuntimeError: Can't parse depth"),
    ],
)  # fmt: skip
def test_words_for_an_exception(error, words):
    assert raised(error) == words
    assert reason_of(error) == words.removeprefix("raised ")


def test_a_long_message_is_cut():
    assert len(raised(ValueError("x" * 5000))) < 320
