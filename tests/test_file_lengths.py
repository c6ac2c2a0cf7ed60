"""A file has one subject, and so few lines that somebody new finds everything in it."""

from source_code import files

MOST = 400  # lines, as CONTRIBUTING.md says


def test_no_file_of_the_product_is_long():
    lengths = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in files().items()}
    assert not {name for name, length in lengths.items() if length > MOST}, "split it by meaning"
