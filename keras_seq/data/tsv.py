# SPDX-License-Identifier: Apache-2.0
"""Pairs of texts from a tab-separated file."""

import codecs
from pathlib import Path

_MAX_SHOWN = 80  # characters of an invalid line in an error message


def read_pairs(path):
    r"""Reads sources and targets from a tab-separated file with two columns.

    A line is a source, a tab and a target in UTF-8. All other characters are data, also quotation
    marks, spaces and control characters. A byte order mark, Windows line ends and blank lines at
    the end of the file are accepted. No line is skipped: an invalid one raises an error.

    Args:
        path: path of the file, a string or a `Path`.

    Returns:
        Two lists of strings of the same length, the sources and the targets, in the order of the
        file.

    Raises:
        ValueError: if the file is empty, or if a line is not UTF-8, does not have two columns or
            has a blank column. The message begins with the path and the line number.
        OSError: if the file cannot be read, for example `FileNotFoundError`, `IsADirectoryError`.

    Example:

    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "pairs.tsv")
    >>> _ = path.write_text("cat\tK AE T\ndog\tD AO G\n", encoding="utf-8")
    >>> read_pairs(path)
    (['cat', 'dog'], ['K AE T', 'D AO G'])
    >>> folder.cleanup()
    """
    sources, targets = zip(*iter_pairs(path), strict=True)
    return list(sources), list(targets)


def iter_pairs(path):
    r"""Yields the pairs of a tab-separated file one by one, without holding the file in memory.

    The format and the errors are those of `read_pairs`. For training on a file that does not fit into memory, pass
    `lambda: iter_pairs(path)` to `bucketed_batches`.

    Args:
        path: path of the file, a string or a `Path`.

    Yields:
        Pairs of strings `(source, target)`, in the order of the file.

    Raises:
        ValueError: as `read_pairs`, once the invalid line is reached.
        OSError: if the file cannot be read.

    Example:

    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "pairs.tsv")
    >>> _ = path.write_text("cat\tK AE T\ndog\tD AO G\n", encoding="utf-8")
    >>> next(iter_pairs(path))
    ('cat', 'K AE T')
    >>> folder.cleanup()
    """
    # Lines are split as bytes. In text mode, the number of a line that is not UTF-8 would be unknown.
    blank = None  # the first of the blank lines that are invalid unless the file ends after them
    is_empty = True
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not line.strip(b"\r\n"):
                blank = blank or (number, line)
                continue
            position, line = blank or (number, line)  # to parse a blank line raises an error
            yield _parse(line.removesuffix(b"\n").removesuffix(b"\r"), f"{path}:{position}")
            is_empty = False
    if is_empty:
        raise ValueError(f"{path}:1: expected two columns separated by a tab, but the file is empty")


def _parse(line, position):
    try:
        line = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{position}: expected UTF-8, got byte 0x{line[error.start]:02x}: {_shorten(line)}") from None
    columns = line.split("\t")
    if len(columns) != 2:
        raise ValueError(f"{position}: expected two columns separated by a tab, got {len(columns)}: {_shorten(line)}")
    for name, column in zip(("source", "target"), columns, strict=True):
        if not column.strip():
            raise ValueError(f"{position}: expected a {name}, got a blank column: {_shorten(line)}")
    return tuple(columns)


def _shorten(line):
    return repr(line) if len(line) <= _MAX_SHOWN else f"{line[:_MAX_SHOWN]!r}..."
