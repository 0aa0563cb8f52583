# SPDX-License-Identifier: Apache-2.0
"""The example of DNA cuts a genome without leaks, knows its reading frames, and learns in a short run."""

import importlib.util
import itertools
import json
import pathlib
import sys

import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "dna"
MODULES = ("genome", "baselines", "plots", "dna_train")
LENGTH = 150

pytest.importorskip("Bio")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def load():
    """Returns a function that imports a module of the example, as its own folder sees it."""
    before = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    sys.path.insert(0, str(FOLDER))

    def load(name, file):
        specification = importlib.util.spec_from_file_location(name, FOLDER / file)
        sys.modules[name] = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(sys.modules[name])
        return sys.modules[name]

    yield load
    sys.path.remove(str(FOLDER))
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.modules.update(before)


@pytest.fixture(scope="module")
def genome(load):
    return load("genome", "genome.py")


@pytest.fixture(scope="module")
def chloroplast(genome):
    return genome.load_genome()


@pytest.fixture(scope="module")
def windows(genome, chloroplast):
    return genome.cut_windows(chloroplast, LENGTH, stride=30, regions=20)


def translate(codons):
    """The amino acids of codon numbers by Biopython."""
    from Bio.Seq import Seq

    return str(
        Seq("".join("ACGT"[codon // 16] + "ACGT"[codon // 4 % 4] + "ACGT"[codon % 4] for codon in codons)).translate()
    )


def test_the_second_copy_of_the_inverted_repeat_is_left_out(genome, chloroplast):
    assert len(chloroplast.bases) == 154478 - 26264  # the size that is published for it
    cuts = genome.cut_regions(chloroplast, 20)
    parts = [chloroplast.bases[start:end] for start, end in itertools.pairwise(cuts)]
    assert "".join(parts) == chloroplast.bases
    seen = set()
    for part in parts:  # no 40 bases are in two regions, on whichever strand
        pieces = {part[i : i + 40] for i in range(len(part) - 39)}
        assert not seen & pieces
        seen |= pieces | {genome.reverse_complement(piece) for piece in pieces}


def test_no_gene_and_no_window_is_in_two_regions(genome, chloroplast, windows):
    cuts = np.array(genome.cut_regions(chloroplast, 20))
    for gene in chloroplast.genes:
        assert not np.any((gene.start < cuts) & (cuts < gene.end)), gene
    assert np.all(cuts[windows.regions] <= windows.starts)
    assert np.all(windows.starts + LENGTH <= cuts[windows.regions + 1])


def test_annotated_reading_frames_have_no_stop_codons(genome, chloroplast, windows):
    coding = windows.frames >= 0
    assert 1500 < coding.sum() < 2500
    codons = genome.read_codons(windows.texts)
    rows, columns = np.nonzero(genome.genome_frames(windows.starts, LENGTH) == windows.frames[:, None])
    np.testing.assert_array_equal(rows, np.flatnonzero(coding))  # one of the six frames each
    proteins = [translate(codons[row, column]) for row, column in zip(rows[::4], columns[::4], strict=True)]
    assert not any("*" in protein[:-1] for protein in proteins)
    other = [translate(codons[row, 0]) for row in np.flatnonzero(windows.frames == genome.NO_GENE)[::4]]
    assert np.mean(["*" in protein for protein in other]) > 0.8
    [rbcl] = [gene for gene in chloroplast.genes if gene.name == "rbcL"]
    text = chloroplast.bases[rbcl.start : rbcl.start + 32]
    assert translate(genome.read_codons([text])[0, 0]) == "MSPQTETKAS"  # how this protein begins


def test_a_record_that_ends_too_early_is_reported_in_one_line(genome, tmp_path, monkeypatch):
    content = genome.fetch_record().read_bytes()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / genome.RECORD.name).write_bytes(content[: len(content) // 2])
    with pytest.raises(SystemExit, match=r"^.*NC_000932.gb: expected a GenBank record .*Delete the file"):
        genome.load_genome()


def test_a_fold_without_one_of_the_kinds_is_reported(genome):
    chloroplast = genome.load_genome()
    with pytest.raises(SystemExit, match="--stride"):
        genome.keep_clear(genome.cut_windows(chloroplast, 300, 10_000, 20), 4)


def test_windows_without_a_gene_are_those_that_no_feature_touches(genome, windows):

    from Bio import SeqIO

    record = SeqIO.read(genome.fetch_record(), "genbank")
    features = [part for f in record.features if f.type != "source" for part in f.location.parts]
    for start, frame in zip(windows.starts[::20], windows.frames[::20], strict=True):
        touched = any(part.start < start + LENGTH and start < part.end for part in features)
        assert (frame == genome.NO_GENE) == (not touched)


def test_the_frames_of_the_reverse_complement_are_those_of_the_other_strand(genome):
    text = "ATGGCATTTTAACCC"
    codons, other = genome.read_codons([text, genome.reverse_complement(text)])
    np.testing.assert_array_equal(codons, np.roll(other, 3, axis=0))
    assert translate(codons[0]) == "MAF*"


@pytest.mark.parametrize("option", ["--length=100", "--folds=2", "--epochs=0"])
def test_bad_options_are_reported(load, genome, option, capsys):
    train = load("dna_train", "train.py")
    with pytest.raises(SystemExit) as stop:
        train.parse_arguments([option])
    assert stop.value.code == 2
    assert option.partition("=")[0] in capsys.readouterr().err


def test_a_bad_file_is_reported_in_one_line(genome, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / genome.RECORD.name).write_text("no record")
    with pytest.raises(SystemExit, match=r"NC_000932.gb: expected a GenBank record .*Delete the file") as stop:
        genome.load_genome()
    assert "\n" not in str(stop.value)


@pytest.mark.slow
def test_a_short_run_writes_its_results(load, genome, tmp_path, capsys):
    train = load("dna_train", "train.py")
    metrics = train.main(["--folds", "3", "--stride", "90", "--epochs", "4", "--output", str(tmp_path)])
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "genome.png", "model.keras"}
    accuracy = {name: values["balanced_accuracy"] for name, values in metrics["models"].items()}
    assert set(accuracy) == set(train.NAMES)
    assert min(accuracy.values()) > 0.6
    assert accuracy["longest open frame"] > 0.85
    assert "balanced accuracy" in metrics["result"]
    assert "area under" in capsys.readouterr().out
