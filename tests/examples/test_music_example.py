# SPDX-License-Identifier: Apache-2.0
"""The music example reads chorales without loss, its chain is a distribution, and a short run composes."""

import importlib
import json
import pathlib

import numpy as np
import pytest
from programs import imports_of

music21 = pytest.importorskip("music21")
FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "music"
CORPUS = pathlib.Path(music21.corpus.__file__).parent / "bach"


@pytest.fixture
def load():
    """A function from the name of a module to the module, as its own folder sees it."""
    with imports_of(FOLDER):
        yield importlib.import_module


def hymn(*chords, duration=4):
    """Returns a chorale of chords (soprano, alto, tenor, bass)."""
    rows = [
        (i * duration, duration, voice, pitch) for i, chord in enumerate(chords) for voice, pitch in enumerate(chord)
    ]
    return np.array(rows)


def test_a_chorale_is_read_without_loss(load):
    chorales = load("chorales")
    notes = chorales.parse_chorale(CORPUS / "bwv66.6.mxl")  # in F sharp minor, with an upbeat of a quarter
    text = chorales.to_text(notes)
    assert text.startswith("@12 S76 A67 T60 B60 @14 S74 A67_ T62 B59 @0 S72 ")
    np.testing.assert_array_equal(chorales.to_notes(text), notes)
    for voice, part in enumerate(music21.corpus.parse("bach/bwv66.6").parts):
        struck = [n for n in part.flatten().notes if n.tie is None or n.tie.type == "start"]
        mine = notes[notes[:, chorales.VOICE] == voice]
        assert [n.pitch.midi + 3 for n in struck] == mine[:, chorales.PITCH].tolist()
        assert [4 * n.offset + 12 for n in struck] == mine[:, chorales.ONSET].tolist()
    share, key = chorales.share_in_key(notes)
    assert key == "A minor" and share > 0.9


def test_pieces_in_other_metres_are_left_out(load):
    assert load("chorales").parse_chorale(CORPUS / "bwv153.9.mxl") is None  # in 3/4


def test_scores_hold_the_same_notes(load, tmp_path):
    chorales = load("chorales")
    notes = hymn((67, 64, 60, 48), (69, 65, 60, 53), (67, 64, 60, 48))
    chorales.to_score(notes).write("midi", fp=tmp_path / "hymn.mid")
    score = music21.converter.parse(tmp_path / "hymn.mid", forceSource=True, storePickle=False)
    pitches = [[n.pitch.midi for n in part.flatten().notes] for part in score.parts]
    assert pitches == [notes[notes[:, chorales.VOICE] == voice, chorales.PITCH].tolist() for voice in range(4)]


def test_parallel_fifths_are_counted(load):
    chorales = load("chorales")
    assert chorales.parallels(hymn((67, 64, 59, 48), (69, 64, 59, 50))) == 50  # C and G, then D and A
    assert chorales.parallels(hymn((67, 64, 59, 48), (67, 64, 59, 48))) == 0  # nothing moves


def test_copies_are_found(load):
    chorales = load("chorales")
    text = chorales.to_text(hymn((67, 64, 60, 48), (69, 65, 60, 53), (67, 64, 60, 48)))
    assert chorales.longest_copy(text, ["x", text]) == 3
    assert chorales.longest_copy(text, ["@4 S69 A65 T60 B53"]) == 1


def test_chorales_of_one_melody_are_in_one_split(load):
    chorales = load("chorales")
    generator = np.random.default_rng(0)
    pieces = {}
    for number in range(20):
        melody = generator.integers(60, 80, 24)
        for copy, key in enumerate((0, 3)):  # a melody in two keys, as where the key was found in two ways
            pieces[f"{number}.{copy}"] = hymn(*((pitch + key, 60, 55, 48) for pitch in melody))
    splits = chorales.split_chorales(pieces)
    assert sorted(name for names in splits.values() for name in names) == sorted(pieces)
    for names in splits.values():
        assert names and {name[:-1] + "0" for name in names} | {name[:-1] + "1" for name in names} == set(names)


def test_a_melody_is_known_by_its_notes_at_the_beats(load):
    chorales = load("chorales")
    plain = hymn(*((pitch, 60, 55, 48) for pitch in np.random.default_rng(0).integers(60, 80, 24)))
    passing = plain.copy()
    sopranos = passing[passing[:, chorales.VOICE] == 0]
    passing[passing[:, chorales.VOICE] == 0, chorales.DURATION] = 2
    sopranos += [2, -2, 0, 1]  # an eighth later, a semitone above
    passing = np.concatenate([passing, sopranos])
    passing = passing[np.lexsort((passing[:, chorales.VOICE], passing[:, chorales.ONSET]))]
    assert chorales.melody_parts(passing)[2] == chorales.melody_parts(plain)[2] != set()


@pytest.mark.parametrize("chorale", [("bwv375", "bwv151.5"), ("bwv382", "bwv125.6"), ("bwv288", "bwv289")])
def test_settings_of_a_melody_of_bach_are_in_one_split(load, chorale):
    chorales = load("chorales")
    generator = np.random.default_rng(0)
    pieces = {str(i): hymn(*((p, 60, 55, 48) for p in generator.integers(60, 80, 24))) for i in range(20)}
    pieces |= {name: chorales.parse_chorale(CORPUS / f"{name}.mxl") for name in chorale}
    splits = chorales.split_chorales(pieces)
    assert sum(set(chorale) <= set(names) for names in splits.values()) == 1


def test_the_seed_is_that_of_the_weights(load):
    train = load("train")
    options = train.parse_arguments(["--units", "4", "--seed", "1"])
    one, other = (train.build_model(options, ["@0 S72 A67 T64 B48 @4"]).get_weights() for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("lags", [(), (1,), (5, 1, 2)])
def test_the_chain_is_a_distribution(load, lags):
    vocabulary = list("abcxyz")
    chain = load("chain").MarkovChain(["a b c", "a b", "b c a a b c a"], lags, vocabulary)
    for start in ([], ["a"], ["a", "b", "c", "a", "z", "a"]):
        after = [chain.bits(" ".join([*start, token]))[len(start)] for token in vocabulary]
        after.append(chain.bits(" ".join(start))[len(start)])  # of [END]
        assert np.sum(2.0 ** -np.array(after)) == pytest.approx(1)


def test_the_chain_reads_its_lags(load):
    texts = [f"@0 S{p} A{q} T1 B1 @4 S{p}_ A{q}_ T1_ B1_ @8" for p in range(8) for q in range(8)]
    vocabulary = sorted({token for text in texts for token in text.split()})
    chain = load("chain")
    first, second = (chain.MarkovChain(texts, lags, vocabulary).bits(texts[9]) for lags in ((1,), (5,)))
    assert first[6] > 2.5 and second[6] < 0.5  # which of eight notes the soprano holds
    text = chain.MarkovChain(texts, (5,), vocabulary).generate(np.random.default_rng(0), 40, 0.1)
    assert [token[0] for token in text.split()][:6] == list("@SATB@")


def test_the_form_is_kept(load):
    vocabulary = ["", "[UNK]", "[START]", "[END]", "@0", "@4", "S60", "S60_", "S62", "S62_", "A55", "T50", "B48"]
    form, zeros = load("chorales").keep_form(vocabulary), np.zeros((1, len(vocabulary)), "float32")
    tokens = np.array([[4, 6, 10, 11, 12, 5, 0, 0, 0, 0]], "int32")

    def allowed(step):
        return {vocabulary[i] for i in np.flatnonzero(np.isfinite(form(zeros, tokens, step)[0]))}

    assert [allowed(step) for step in range(5)] == [{"@0", "@4"}, {"S60", "S62"}, {"A55"}, {"T50"}, {"B48"}]
    assert allowed(6) == {"S60", "S60_", "S62", "[END]"}


@pytest.mark.parametrize(
    ("option", "message"),
    [("--samples=0", "--samples must be at least 1, got 0"), ("--temperature=0", "must be greater than 0")],
)
def test_bad_options_are_reported(load, option, message, capsys):
    with pytest.raises(SystemExit):
        load("train").parse_arguments([option])
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_short_run_writes_its_results(load, tmp_path, capsys):
    small = ("--chorales", "40", "--epochs", "6", "--units", "64", "--samples", "3", "--batch-size", "4")
    metrics = load("train").main([*small, "--output", str(tmp_path)])
    assert json.loads((tmp_path / "metrics.json").read_text())["models"].keys() == metrics["models"].keys()
    models = metrics["models"]
    assert models["Markov chain, voice first"]["bits_per_note"] < models["Markov chain"]["bits_per_note"] < 9
    assert models["LSTM"]["bits_per_note"] < 10  # 7.4 to 7.8 for each of three seeds, 14 by guessing
    assert models["Bach"]["in_key"] > 90 and models["LSTM"]["in_key"] > 50
    scores = {f"chorale_{number}.{suffix}" for number in (1, 2, 3) for suffix in ("mid", "musicxml")}
    assert {path.name for path in tmp_path.iterdir()} == {"chorales.png", "metrics.json", *scores}
    assert "bits per note" in capsys.readouterr().out


def test_a_damaged_cache_is_reported_in_one_line(load, tmp_path, monkeypatch):
    music = load("chorales")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "datasets").mkdir()
    for content in (b"", b"PK\x03\x04 half of an archive"):
        (tmp_path / "datasets" / f"bach_chorales_{music21.VERSION_STR}.npz").write_bytes(content)
        with pytest.raises(SystemExit, match=r"bach_chorales_.*\.npz is damaged .*: delete it and run again$"):
            music.load_chorales()
