# SPDX-License-Identifier: Apache-2.0
"""The claim about embeddings: its two inputs are one function, and a small run writes its results."""

import importlib.util
import json
import pathlib
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "examples" / "claims" / "embeddings.py"


@pytest.fixture
def claim(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(SCRIPT.parent), *sys.path])  # as when it is run
    specification = importlib.util.spec_from_file_location("embeddings_claim", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module
    sys.modules.pop("reviews", None)


def count(size, vocabulary, units):
    """The parameters of embedding, LSTM and Dense layer, by hand."""
    features = size or vocabulary
    return (vocabulary * size if size else 0) + 4 * units * (features + units + 1) + units + 1


@pytest.mark.slow
def test_an_embedding_is_a_factor_of_the_kernel_of_one_hot_inputs(claim):
    one_hot, embedding = (claim.build_model(size, 30, 5) for size in (claim.ONE_HOT, 4))
    vectors, kernel, *others = (np.random.default_rng(i).normal(size=w.shape) for i, w in enumerate(embedding.weights))
    embedding.set_weights([vectors, kernel, *others])
    one_hot.set_weights([vectors @ kernel, *others])
    ids = np.random.default_rng(0).integers(0, 30, (3, claim.LENGTH))
    np.testing.assert_allclose(one_hot(ids), embedding(ids), rtol=1e-4, atol=1e-5)
    assert [model.count_params() for model in (one_hot, embedding)] == [count(0, 30, 5), count(4, 30, 5)]


@pytest.mark.slow
def test_a_small_run_writes_its_results(claim, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(claim, "SIZES", [claim.ONE_HOT, 16])
    monkeypatch.setattr(claim, "RATES", [1e-2])
    sizes = ("--sentences", "1000", "--vocabulary", "400", "--units", "8", "--epochs", "3", "--seeds", "1")
    metrics = claim.main([*sizes, "--output", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"embeddings.png", "metrics.json"}
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["result"] == metrics["result"]
    assert set(written) == {"one-hot", "embedding of 16", "result"}
    for name, size in (("one-hot", 0), ("embedding of 16", 16)):
        assert written[name]["parameters"] == count(size, 400, 8)
        assert written[name]["test"][0] > 54
        assert set(written[name]["milliseconds"]) == {"100", "400", "1600"}
    assert "an LSTM over words" in capsys.readouterr().out
