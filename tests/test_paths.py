import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixeldefend import paths
from pixeldefend.paths import derived_name, name_max, shortened

NAMES = st.one_of(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=300),
    st.binary(max_size=300).map(lambda data: os.fsdecode(data.replace(b"/", b"").replace(b"\0", b""))),
)


@given(NAMES, st.integers(0, 300))
def test_a_name_is_cut_between_characters(name, most):
    cut = os.fsencode(shortened(name, most))
    whole = os.fsencode(name)
    assert len(cut) <= most
    assert whole.startswith(cut)
    assert len(cut) >= min(len(whole), most) - 3  # the rest of one character
    if b"\xff" not in whole and whole.decode("utf-8", "ignore").encode() == whole:
        cut.decode()


def test_bytes_that_are_no_text_stay_as_they_are():
    odd = os.fsdecode(b"\xff\xe6\xbc" + "漢".encode() * 9)
    assert os.fsencode(shortened(odd, 10)) == b"\xff\xe6\xbc" + "漢".encode() * 2
    assert shortened(os.fsdecode(b"ab\xe6\xbc"), 4) == os.fsdecode(b"ab\xe6\xbc")


@given(NAMES, st.none() | st.just(".png"))
def test_a_derived_name_is_one_that_a_folder_takes(name, suffix):
    made = os.fsencode(derived_name(f"in/{name}", "-01234567", suffix))
    assert len(made) <= 255
    assert made[:1] not in (b".", b"-") or not name.strip("./")
    assert b"-01234567" in made
    assert b"/" not in made


def test_names_follow_the_limit_of_the_file_system(monkeypatch, tmp_path):
    assert 0 < name_max(tmp_path) <= 255
    assert name_max(tmp_path / "missing") == 255
    monkeypatch.setattr(os, "pathconf", lambda folder, name: 143)
    assert len(os.fsencode(derived_name("漢" * 80 + ".jpeg", "-1", folder=tmp_path))) in range(140, 144)
    monkeypatch.setattr(os, "pathconf", lambda folder, name: -1)  # no limit
    assert name_max(tmp_path) == paths.NAME_MAX


@pytest.mark.parametrize(
    ("path", "name"),
    [("in/a.png", "a-1.png"), ("a.tar.gz", "a.tar-1.gz"), (".hidden", "_.hidden-1"), ("-rf.png", "_-rf-1.png")],
)
def test_a_derived_name_tells_of_the_file(path, name):
    assert derived_name(path, "-1") == name
