# SPDX-License-Identifier: Apache-2.0
"""Types of the options --seed and --output, and the folder of the results. The folders of the examples link to it."""

import argparse
import contextlib
import os
import pathlib
import tempfile


def seed(text):
    """Returns the integer; NumPy and Keras take no others."""
    if not 0 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to 2**31 - 1, got {text}")
    return int(text)


def output_folder(text):
    """Returns the path of a folder that can be written to. It is not made before there are results."""
    try:
        path = pathlib.Path(text)
        place = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        can_write = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    except OSError:  # the name is too long
        can_write = False
    if not can_write:
        raise argparse.ArgumentTypeError(f"expected a folder that can be written to, got {text}")
    return path


@contextlib.contextmanager
def filled_at_once(folder):
    """Yields a new folder. Its files move to `folder` where the block ends without an error, `metrics.json` last."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as temporary:
            yield pathlib.Path(temporary)
            for path in sorted(pathlib.Path(temporary).iterdir(), key=lambda path: path.name == "metrics.json"):
                path.replace(folder / path.name)
    except OSError as error:
        raise SystemExit(f"--output: the results cannot be written to {folder}: {error}") from None
