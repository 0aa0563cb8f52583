# SPDX-License-Identifier: Apache-2.0
"""Recordings of Japanese vowels by nine speakers: the archive they come from, and arrays of equal length."""

import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile
import zlib

import numpy as np

REQUIREMENT = "aeon==1.6.0"  # its wheel holds the recordings. It is read, not installed: it would change NumPy
MEMBER = "aeon/datasets/data/JapaneseVowels/JapaneseVowels_{}.ts"
COEFFICIENTS, SPEAKERS = 12, 9
FEATURES = 2 * COEFFICIENTS


def fetch_archive():
    """Returns the path of the wheel, which pip downloads the first time."""
    folder = pathlib.Path(os.environ.get("KERAS_HOME", pathlib.Path.home() / ".keras"), "datasets")
    name = REQUIREMENT.replace("==", "-") + "-py3-none-any.whl"
    if not (folder / name).exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        make_folder(folder)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            run = subprocess.run([*command, "--dest", temporary, REQUIREMENT], capture_output=True, text=True)
            if run.returncode or not (pathlib.Path(temporary) / name).exists():
                reason = (run.stderr.strip().splitlines() or ["no such file came"])[-1]
                raise SystemExit(f"pip could not download {REQUIREMENT}, put {name} into {folder} yourself: {reason}")
            (pathlib.Path(temporary) / name).replace(folder / name)
    return folder / name


def make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"KERAS_HOME: cannot make the folder {folder}: {error.strerror}") from None


def parse_recordings(text):
    """Returns recordings, arrays (steps, 12), and their speakers, integers from 0."""
    recordings, speakers = [], []
    for line in text.partition("@data")[2].split():
        *coefficients, speaker = line.split(":")
        recordings.append(np.array([series.split(",") for series in coefficients], "float32").T)
        speakers.append(int(speaker) - 1)
    return recordings, np.array(speakers)


def load_recordings(archive):
    """Returns (recordings, speakers) for training and for the test, as the archive splits them."""
    try:
        with zipfile.ZipFile(archive) as wheel:
            splits = [parse_recordings(wheel.read(MEMBER.format(split)).decode()) for split in ("TRAIN", "TEST")]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise SystemExit(f"{archive} does not hold the recordings of {REQUIREMENT}, delete it: {error}") from None
    for recordings, speakers in splits:
        if {x.shape[1:] for x in recordings} != {(COEFFICIENTS,)} or set(speakers) != set(range(SPEAKERS)):
            raise SystemExit(f"{archive}: expected recordings of 12 coefficients by 9 speakers, delete it")
    return splits


def make_inputs(recordings, length=None):
    """Returns an array (recordings, length, 24): the coefficients, and twice their change since the step before.

    Longer recordings are cut, shorter ones end in zeros.
    """
    length = length or max(map(len, recordings))
    inputs = np.zeros((len(recordings), length, FEATURES), "float32")
    for row, recording in zip(inputs, recordings, strict=True):
        changes = 2 * np.diff(recording, axis=0, prepend=recording[:1])
        row[: len(recording)] = np.concatenate([recording, changes], axis=1)[:length]
    return inputs
