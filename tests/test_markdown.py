"""Tables in Markdown."""

import pytest

from pixeldefend.markdown import table


def test_a_table():
    assert table(["name", "AUROC"], [["a|b", 0.5], ["two\nlines", 1]], "lr") == (
        "| name | AUROC |\n| --- | ---: |\n| a\\|b | 0.5 |\n| two lines | 1 |\n"
    )


@pytest.mark.parametrize(("align", "marks"), [(None, "| --- | --- | --- |"), ("lcr", "| --- | :---: | ---: |")])
def test_alignment(align, marks):
    assert table("abc", [], align).splitlines()[1] == marks
