# SPDX-License-Identifier: Apache-2.0
"""The captioning example learns in a short run, and writes all its results."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest
from programs import imports_of

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "captioning" / "train.py"

spec = importlib.util.spec_from_file_location("captioning_train", EXAMPLE)
train = importlib.util.module_from_spec(spec)
with imports_of(EXAMPLE.parent):
    spec.loader.exec_module(train)


def test_the_split_is_always_the_same_and_covers_all_images_once():
    (images, words), (test_images, test_words) = train.load_data()
    assert len(images) + len(test_images) == 1797
    assert not {image.tobytes() for image in images} & {image.tobytes() for image in test_images}
    np.testing.assert_array_equal(train.load_data()[1][0], test_images)
    assert set(words) == set(test_words) == set(train.WORDS)


@pytest.mark.slow
def test_a_short_run_writes_its_results(tmp_path, capsys):
    metrics = train.main(["--epochs", "24", "--output", str(tmp_path)])
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    for name in ("attention to the pixels", "a single vector"):
        assert metrics[name]["exact"] > 0.9  # 0.98 or more for each of four seeds
    assert {path.name for path in tmp_path.iterdir()} == {"attention.png", "metrics.json", "model.keras", "saved_model"}
    printed = capsys.readouterr().out
    assert "attention to the pixels" in printed and "held-out images" in printed
