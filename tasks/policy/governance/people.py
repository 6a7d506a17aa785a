"""Compare names of people: when two names mean one person, and when they only look alike.

Rights require the exact name, up to Unicode NFKC, case, white space and zero-width characters. The four-eyes rule is
stricter: names that a reader could confuse count as one person, by the look-alikes of Unicode Technical Standard 39
(`confusable_homoglyphs`), without accents and punctuation.
"""

import unicodedata
from collections.abc import Iterable
from functools import cache

from confusable_homoglyphs.confusables import confusables_data

AUTOMATION, SCHEDULE, ANYONE = "automation", "schedule", "anyone"
UNNAMED = frozenset({"", "unnamed", "perennial", "replay", AUTOMATION, SCHEDULE, ANYONE})
"""Placeholder names, rejected where a person is required because they identify no one."""


def plain(name: str) -> str:
    """The name in the form used for comparison.

    >>> plain("  \\uff21da\\u200b  Lovelace ")
    'ada lovelace'
    """
    composed = unicodedata.normalize("NFKC", name)
    visible = "".join(character for character in composed if unicodedata.category(character) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", visible.casefold()).split())


def is_unnamed(name: str) -> bool:
    """Whether a name, or one that looks like it, identifies no one."""
    return not _skeletons(name) or look_alike(name, UNNAMED)


def look_alike(name: str, others: Iterable[str]) -> bool:
    """Whether a reader could confuse this name with one of the others.

    >>> look_alike("\\u0410da", ["Ada"])  # with a Cyrillic А
    True
    """
    own = _skeletons(name)
    return any(own & _skeletons(other) for other in others)


def _skeletons(name: str) -> set[str]:
    """Forms of a name with look-alike letters unified, as written and in lower case, because I looks like l."""
    written = unicodedata.normalize("NFKC", name)
    return {_skeleton(form) for form in (written, written.casefold(), plain(name))} - {""}


def _skeleton(text: str) -> str:
    bare = (letter for letter in unicodedata.normalize("NFD", text) if unicodedata.category(letter)[0] in "LN")
    folded = "".join(_prototype(letter) for letter in bare).casefold()
    return folded.replace("rn", "m").replace("vv", "w")


@cache
def _prototype(letter: str) -> str:
    """The representative of all letters that look alike, directly or through another letter."""
    alike, unseen = {letter}, [letter]
    while unseen:
        listed = (entry["c"].strip("\u200e") for entry in confusables_data.get(unseen.pop(), ()))
        new = {other for other in listed if len(other) == 1} - alike
        alike |= new
        unseen += new
    return min(alike)
