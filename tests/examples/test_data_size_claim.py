# SPDX-License-Identifier: Apache-2.0
"""The claim about GRU and LSTM: what is held equal, what each training sees, and a small run."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from keras_seq import data

SCRIPT = pathlib.Path(__file__).parents[2] / "examples" / "claims" / "data_size.py"


@pytest.fixture
def claim(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))  # as when it is run
    specification = importlib.util.spec_from_file_location("data_size_claim", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def vectorizers():
    return data.text_vectorizer(["abc"]), data.text_vectorizer(["AH B K"], split="whitespace")


def test_the_larger_gru_has_the_parameters_of_the_lstm(claim, vectorizers):
    gru, lstm, larger = claim.build_models(16, vectorizers).values()
    assert gru.encoder.units == lstm.encoder.units == 16
    assert gru.count_params() < lstm.count_params() <= larger.count_params() < 1.1 * lstm.count_params()


def test_the_time_to_half_of_the_words_is_the_first(claim):
    curve = [{"seconds": 3 * i, "dev": dev} for i, dev in enumerate((80, 50, 60, 40))]
    assert claim.seconds_to_half(curve) == 3
    assert claim.seconds_to_half(curve[:1]) is None


@pytest.mark.parametrize("option", ["--units", "--updates", "--seeds", "--shares"])
def test_bad_options_give_one_line(claim, option, capsys):
    with pytest.raises(SystemExit):
        claim.parse_arguments([option, "0"])
    assert option in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_a_training_starts_anew_and_goes_back_to_its_best_weights(claim, vectorizers):
    generator = np.random.default_rng(0)
    words = ["".join(word) for word in generator.choice(list("abc"), (4000, 5))]
    sounds = [" ".join({"a": "AH", "b": "B", "c": "K"}[letter] for letter in word) for word in words]
    splits = dict.fromkeys(("train", "dev", "test"), (words, sounds))
    trainer = claim.Trainer(claim.build_model("gru", 16, vectorizers), splits, vectorizers)
    first = trainer.train(100, 3, 400)
    moments = [variable.numpy() for variable in trainer.model.optimizer.variables]
    assert trainer.model.optimizer.iterations.numpy() == 400
    trainer.reset(3)
    assert trainer.model.optimizer.iterations.numpy() == 0
    assert any(np.any(a != b.numpy()) for a, b in zip(moments, trainer.model.optimizer.variables, strict=True))
    assert [point["updates"] for point in first["curve"]] == [200, 400]
    assert first["updates"] in (200, 400)
    assert first["words"] == 4000
    assert first["wer"] == pytest.approx(min(point["dev"] for point in first["curve"]), abs=5)
    assert first["per"] < 20  # letters and sounds go together one by one


@pytest.mark.slow
def test_a_small_run_writes_its_results(claim, tmp_path, capsys):
    sizes = ("--shares", "1", "--units", "24", "--updates", "200", "--seeds", "1")
    metrics = claim.main([*sizes, "--output", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"data_size.png", "metrics.json"}
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["result"] == metrics["result"]
    assert set(written) == {*claim.MODELS, "result"}
    for name in claim.MODELS:
        (run,) = written[name]["shares"]["1"]
        assert 0 < run["per"] < 100
        assert written[name]["milliseconds"] > 0
    assert len({written[name]["shares"]["1"][0]["words"] for name in claim.MODELS}) == 1
    assert "test words wrong" in capsys.readouterr().out
