# SPDX-License-Identifier: Apache-2.0
"""The speech example speaks, measures its spectrograms, learns in a short run and writes its results."""

import importlib
import json
import pathlib
import sys

import keras
import numpy as np
import pytest
from programs import imports_of

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "speech"


@pytest.fixture
def example():
    """A function from the name of a module to the module, as its own folder sees it."""
    with imports_of(FOLDER):
        yield importlib.import_module


def test_no_voice_of_the_test_is_in_the_training(example):
    speech = example("speech")
    voices = [voice for variants in speech.VOICES.values() for voice in variants]
    assert len(set(voices)) == len(voices)
    spoken = {split: speech.make_utterances(split, 20) for split in speech.VOICES}
    for split, utterances in spoken.items():
        assert {utterance.voice.partition("+")[2] for utterance in utterances} <= set(speech.VOICES[split])
        assert {len(utterance.digits) for utterance in utterances} <= {1, 2, 3, 4, 5, 6}
        for utterance in utterances:
            assert len(utterance.starts) == len(utterance.digits)
            assert utterance.starts[0] == 0 and np.all(np.diff(utterance.starts) > 0)
            assert utterance.starts[-1] < len(utterance.frames) * speech.FRAME_SECONDS
            assert np.all(utterance.frames.any(axis=1)) and np.all(
                np.isfinite(utterance.frames)
            )  # none looks like padding
    first = [(utterance.digits, utterance.voice) for utterance in speech.make_utterances("train", 10)]
    assert first == [(utterance.digits, utterance.voice) for utterance in spoken["train"][:10]]


def test_every_voice_speaks_in_its_own_way(example):
    speech = example("speech")
    synthesizer = speech.Synthesizer()
    voices = [f"{accent}+m3" for accent in speech.ACCENTS] + [f"en-us+{v}" for vs in speech.VOICES.values() for v in vs]
    spoken = {synthesizer.speak("zero five", voice)[0].tobytes() for voice in voices}
    assert len(spoken) >= len(voices) - 1  # en-us+m3 is there twice
    slow, _ = synthesizer.speak("three", "en-us+m3", words_per_minute=120)
    fast, _ = synthesizer.speak("three", "en-us+m3", words_per_minute=240)
    assert len(slow) > 1.4 * len(fast)
    with pytest.raises(SystemExit, match="has no voice 'nobody'"):
        synthesizer.speak("one", "nobody")


def test_a_tone_is_loudest_in_its_band(example):
    speech = example("speech")
    time = np.arange(speech.RATE) / speech.RATE
    for hertz in (300, 1000, 4000):
        decibels = speech.log_mel(np.sin(2 * np.pi * hertz * time))
        assert decibels.shape == (1 + (speech.RATE - speech.WINDOW) // speech.HOP, speech.BANDS)
        assert decibels.max() == 0 and decibels.min() >= -60
        edges = np.linspace(*np.log1p(np.array([80, 8000]) / 700), speech.BANDS + 2)  # mel, up to a factor
        nearest = np.argmin(np.abs(edges[1:-1] - np.log1p(hertz / 700)))
        assert abs(np.argmax(decibels.mean(axis=0)) - nearest) <= 1
    frames = speech.make_frames(decibels)
    np.testing.assert_allclose(frames[1, speech.BANDS :][: speech.BANDS], frames.reshape(-1, speech.BANDS)[4])


def test_a_missing_package_gives_one_line(example, monkeypatch):
    speech = example("speech")
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(SystemExit, match="pip install espeakng-loader"):
        speech.Synthesizer()


def test_bad_options_are_reported(example, capsys):
    with pytest.raises(SystemExit):
        example("train").parse_arguments(["--utterances", "0"])
    assert "--utterances: expected a positive integer, got 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_short_run_writes_its_results(example, tmp_path, capsys):
    train = example("train")
    options = ["--utterances", "800", "--test-utterances", "100", "--epochs", "5", "--units", "48"]
    metrics = train.main([*options, "--output", str(tmp_path)])
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert {path.name for path in tmp_path.iterdir()} == {"attention.png", "metrics.json", "model.keras"}
    for name in train.MODELS:
        assert metrics[name]["test"]["digit_error_rate"] < 85  # 90 by chance, if the length were known
    printed = capsys.readouterr().out
    assert "monotonic" in printed and "voices never heard" in printed
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert len(train.transcribe(model, train.make_utterances("test", 3))[0]) == 3
