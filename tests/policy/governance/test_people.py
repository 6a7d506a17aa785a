"""Names: rights need the exact name; for the four-eyes principle look-alikes count as one person."""

import pytest
from hypothesis import given, strategies as st

from tasks.policy.governance.access import AccessPolicy, why_not_approve
from tasks.policy.governance.people import is_unnamed, look_alike, plain

CYRILLIC_ADA = "\u0410d\u0430"


@pytest.mark.parametrize(
    "written", ["ADA  lovelace", "Ａｄａ Lovelace", "Ada\u200b Lovelace", "\ufeffada\u00a0lovelace "]
)
def test_case_spaces_width_and_invisible_characters_are_normalised(written):
    assert plain(written) == "ada lovelace"


@pytest.mark.parametrize(
    "written",
    [CYRILLIC_ADA, "A\u200dda", "Adɑ", "Áda", "A.d.a", "𝐀𝐝𝐚", "ADA", " a d a "],
)
def test_look_alike_names_count_as_one_person(written):
    assert look_alike(written, ["Grace", "Ada"])


@pytest.mark.parametrize(("one", "other"), [("PauI", "Paul"), ("rnark", "mark"), ("Jonh0", "JonhO"), ("pauI", "PAUL")])
def test_latin_letters_look_alike_too(one, other):
    assert look_alike(one, [other]) and look_alike(other, [one])


@pytest.mark.parametrize(("one", "other"), [("Ada", "Eva"), ("Ада", "Ева"), ("李雷", "韩梅梅"), ("Ada K.", "Ada L.")])
def test_other_people_are_other_people(one, other):
    assert not look_alike(one, [other])
    assert plain(one) != plain(other)


@pytest.mark.parametrize(
    "nobody", ["", "  ", "\u200b\u200d", "unnаmed", "Automation", "anyone\u200b", "---", "PERENNIAL"]
)
def test_placeholders_identify_nobody(nobody):
    assert is_unnamed(nobody)


@given(st.text(min_size=1, max_size=20))
def test_every_name_looks_like_itself_or_is_a_placeholder(name):
    assert is_unnamed(name) or look_alike(name, [name])
    assert plain(plain(name)) == plain(name)


@pytest.mark.attack("whoever asks and approves")
def test_look_alike_approver_is_refused():
    anybody = AccessPolicy()
    assert "requested this" in why_not_approve(anybody, CYRILLIC_ADA, ["Ada"])
    assert why_not_approve(anybody, "Grace", ["Ada"]) is None
    closed = AccessPolicy(approve=("Ada",))
    assert "may not approve" in why_not_approve(closed, CYRILLIC_ADA, ["Grace"])
    assert why_not_approve(closed, " ＡＤＡ ", ["Grace"]) is None


@pytest.mark.attack("whoever asks and approves")
def test_anonymous_request_cannot_be_approved_at_high_risk():
    anybody = AccessPolicy()
    assert "gave no name" in why_not_approve(anybody, "Grace", [], anonymous=True, risk="high")
    assert why_not_approve(anybody, "Grace", [], anonymous=True, risk="medium") is None
    assert why_not_approve(anybody, "Grace", [], anonymous=False, risk="high") is None
