# SPDX-License-Identifier: Apache-2.0
"""docs/architecture.md describes the code as it is: its paths exist, and calls take the hops that it lists."""

import pathlib
import re
import sys

import numpy as np
import pytest

import keras_seq

PACKAGE = pathlib.Path(keras_seq.__file__).parent
ROOT = PACKAGE.parent
TEXT = (ROOT / "docs" / "architecture.md").read_text()
WHY_NOT = keras_seq.ops.native.unavailable()
needs_native = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


def listed_hops(title):
    """The functions that the numbered list of a section names, in order: `RNN.call` is "call"."""
    section = TEXT.split(f"\n## {title}", 1)[1].split("\n## ", 1)[0]
    return [name.rpartition(".")[2] for name in re.findall(r"\d+\. `([\w.]+)`", section)]


def functions_on_the_way(run):
    """The functions of keras_seq that were active when the native ops were called, in order of their first call."""
    found = []

    def profile(frame, event, _):
        if event != "call" or frame.f_code.co_name != "run_op":
            return
        active = []
        while frame is not None:
            if frame.f_code.co_filename.startswith(str(PACKAGE)) and "<" not in frame.f_code.co_name:
                active.append(frame.f_code.co_name)
            frame = frame.f_back
        found.extend(name for name in reversed(active) if name not in found)

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found


def test_every_path_exists():
    roots = [ROOT, PACKAGE, ROOT / "custom_ops", ROOT / "custom_ops" / "kernels"]
    paths = re.findall(r"`((?:[\w.]+/)+(?:[\w.]+)?|[\w/]+\.(?:py|h|cc|md))`", TEXT)
    assert len(paths) > 40
    known = {path.name for path in [*PACKAGE.rglob("*.py"), *(ROOT / "custom_ops").rglob("*.*")]}
    missing = [p for p in paths if not any((root / p).exists() for root in roots) and p not in known]
    assert not missing


@needs_native
def test_hops_of_an_lstm():
    layer, x = keras_seq.layers.LSTM(4), np.ones((2, 3, 5), "float32")
    layer(x)
    listed = listed_hops("One `LSTM(x)`")
    found = functions_on_the_way(lambda: layer(x))
    assert len(listed) <= 7
    assert found == [name for name in listed if name in found]
    assert set(listed) - set(found) == {"recurrent_call", "collect_results"}  # called on the way, and on the way back


@needs_native
def test_hops_of_a_batch():
    model = keras_seq.Seq2Seq.from_data(["ab", "ba"], ["x y", "y x"], units=4, embedding_dim=3)
    model.compile()
    listed = listed_hops("One batch of `Seq2Seq.fit`")
    found = functions_on_the_way(lambda: model.fit(["ab", "ba"], ["x y", "y x"], epochs=1, verbose=0))
    assert len(listed) <= 14
    assert found == [name for name in dict.fromkeys(listed) if name in found]
