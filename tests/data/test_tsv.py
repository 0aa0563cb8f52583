# SPDX-License-Identifier: Apache-2.0
import csv
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_seq.data import read_pairs

# Columns of any characters except separators of columns and lines, and surrogates, which UTF-8
# cannot encode.
columns = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n"), min_size=1).filter(str.strip)
pairs = st.lists(st.tuples(columns, columns), min_size=1)


@pytest.fixture
def tsv(tmp_path):
    """A function that writes bytes to a file and returns its path."""

    def write(content):
        path = tmp_path / "pairs.tsv"
        path.write_bytes(content)
        return path

    return write


@given(
    pairs=pairs,
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    line_end=st.sampled_from(["\n", "\r\n"]),
    tail=st.sampled_from(["", "\n", "\r\n", "\n\n", "\r\n\r\n\r\n"]),
)
def test_reads_what_was_written(tmp_path_factory, pairs, mark, line_end, tail):
    path = tmp_path_factory.getbasetemp() / "property.tsv"
    text = line_end.join("\t".join(pair) for pair in pairs) + tail
    # Text that begins with this character needs a byte order mark, or its own would be removed.
    mark = b"\xef\xbb\xbf" if text.startswith("\ufeff") else mark
    path.write_bytes(mark + text.encode())
    sources, targets = read_pairs(path)
    assert list(zip(sources, targets, strict=True)) == pairs


def test_agrees_with_csv_and_takes_a_string_as_path(tsv):
    path = tsv("it's\t\"quoted\nnaïve\tn aɪ\n  spaced \t日本\n".encode())
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert read_pairs(str(path)) == tuple(list(column) for column in zip(*rows, strict=True))


def test_a_carriage_return_inside_a_line_is_data(tsv):
    assert read_pairs(tsv(b"a\rb\tc\r\nd\te\r\n")) == (["a\rb", "d"], ["c", "e"])


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"", 1, "expected two columns separated by a tab, but the file is empty"),
        (b"\xef\xbb\xbf", 1, "expected two columns separated by a tab, but the file is empty"),
        (b"\n\n", 1, "expected two columns separated by a tab, but the file is empty"),
        (b"a\tb\nc\n", 2, "expected two columns separated by a tab, got 1: 'c'"),
        (b"a\tb\r\nc\td\te\r\n", 2, r"expected two columns separated by a tab, got 3: 'c\td\te'"),
        (b"a\tb\n\nc\td\n", 2, "expected two columns separated by a tab, got 1: ''"),
        (b"\na\tb\n", 1, "expected two columns separated by a tab, got 1: ''"),
        (b"a\tb\nc\td\n\te\n", 3, r"expected a source, got a blank column: '\te'"),
        (b"a\tb\nc\t \n", 2, r"expected a target, got a blank column: 'c\t '"),
        (b"a\tb\nc\td\xff\n", 2, r"expected UTF-8, got byte 0xff: b'c\td\xff'"),
        ("a\tb".encode("utf-16"), 1, r"expected UTF-8, got byte 0xff: b'\xff\xfea\x00\t\x00b\x00'"),
        # U+2028 separates lines for str.splitlines, not here.
        ("a\tb\u2028\nc".encode(), 2, "expected two columns separated by a tab, got 1: 'c'"),
    ],
)
def test_error_names_the_invalid_line(tsv, content, line, message):
    path = tsv(content)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}:{line}: {message}')}$"):
        read_pairs(path)


@pytest.mark.parametrize("filler", [b"x", b"\xff"])
def test_error_shows_the_beginning_of_a_long_line(tsv, filler):
    with pytest.raises(ValueError, match=r"\.\.\.$") as error:
        read_pairs(tsv(filler * 100_000))
    assert len(str(error.value).rpartition(": ")[2]) < 500


@pytest.mark.parametrize("name", ["missing.tsv", "."])
def test_error_if_the_file_cannot_be_opened(tmp_path, name):
    expected = IsADirectoryError if name == "." else FileNotFoundError
    with pytest.raises(expected) as error:
        read_pairs(tmp_path / name)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
