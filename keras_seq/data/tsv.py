# SPDX-License-Identifier: Apache-2.0
"""Pairs of texts from a tab-separated file."""

import codecs
from pathlib import Path

_LONGEST_SHOWN = 80  # characters of an offending line that an error message shows


def read_pairs(path):
    r"""Reads the sources and targets of a two-column tab-separated file.

    A line is a source, a tab and a target in UTF-8. Everything else is data: quotation marks,
    spaces, other control characters. A byte order mark, Windows line ends and blank lines at the
    end of the file are tolerated. The file is read whole or not at all.

    Args:
        path: the file, a string or a `Path`.

    Returns:
        Two lists of strings of equal length: the sources and the targets, in the file's order.

    Raises:
        ValueError: the file is empty, or a line is not UTF-8, has not exactly two columns, or has
            a blank one. The message begins with the path and the number of the line.
        OSError: the file cannot be read; for example `FileNotFoundError`, `IsADirectoryError`.

    Example:

    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "pairs.tsv")
    >>> _ = path.write_text("cat\tK AE T\ndog\tD AO G\n", encoding="utf-8")
    >>> read_pairs(path)
    (['cat', 'dog'], ['K AE T', 'D AO G'])
    >>> folder.cleanup()
    """
    content = Path(path).read_bytes().removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n")
    if not content:
        raise ValueError(f"{path}:1: expected two columns separated by a tab, the file is empty")
    # Lines are split as bytes: str.splitlines would also split at U+2028 and its like, and a line
    # that is not UTF-8 could not be numbered.
    pairs = [
        _parse(line.removesuffix(b"\r"), f"{path}:{number}")
        for number, line in enumerate(content.split(b"\n"), start=1)
    ]
    sources, targets = zip(*pairs, strict=True)
    return list(sources), list(targets)


def _parse(line, place):
    try:
        line = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: expected UTF-8, got byte 0x{line[error.start]:02x}: {_shown(line)}") from None
    columns = line.split("\t")
    if len(columns) != 2:
        raise ValueError(f"{place}: expected two columns separated by a tab, got {len(columns)}: {_shown(line)}")
    for name, column in zip(("source", "target"), columns, strict=True):
        if not column.strip():
            raise ValueError(f"{place}: expected a {name}, got a blank column: {_shown(line)}")
    return columns


def _shown(line):
    return repr(line) if len(line) <= _LONGEST_SHOWN else f"{line[:_LONGEST_SHOWN]!r}..."
