# SPDX-License-Identifier: Apache-2.0
"""Bach's four-part chorales as texts: read from the package music21, written as MIDI and MusicXML.

A chorale is an integer array (notes, 4) with the columns onset, duration, voice and pitch, sorted by onset and voice.
Times are in sixteenths from the start of the bar of 4/4 with the upbeat. Pitches are those of MIDI, 0 is a rest.

As a text it has five tokens for each moment at which a voice begins a note: the position of the moment in the bar, and
what soprano, alto, tenor and bass sing then. `@4 S72 A67_ T64 B48` is the second beat of a bar: the alto holds the G4
(67) that it sings already, the others begin new notes. The position in the bar where the last chord ends comes last.
"""

import importlib.util
import itertools
import os
import pathlib
import zipfile
import zlib

import numpy as np
from rich.progress import track

VOICES = ("Soprano", "Alto", "Tenor", "Bass")
ONSET, DURATION, VOICE, PITCH = range(4)
BAR = 16  # sixteenths
REST = 0
# Pitch classes of the scales on C and on A. The sixth and seventh of the minor scale may be raised.
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (9, 11, 0, 2, 4, 5, 6, 7, 8)}


def load_chorales(count=None):
    """Returns a dict from names to chorales, transposed to C major or A minor, of `count` files or of all.

    The first call for all of them takes half a minute, and keeps what it reads in the folder of Keras.
    """
    if importlib.util.find_spec("music21") is None:
        raise SystemExit("The chorales are in the package music21: pip install keras_seq[examples]")
    import music21

    home = os.environ.get("KERAS_HOME", pathlib.Path.home() / ".keras")
    cache = pathlib.Path(home, "datasets", f"bach_chorales_{music21.VERSION_STR}.npz")
    files = sorted(pathlib.Path(music21.corpus.__file__).parent.glob("bach/*.mxl"))
    files = files[:: max(1, len(files) // count)][:count] if count else files
    if cache.exists():
        try:
            with cache.open("rb") as file, np.load(file) as arrays:
                return {path.stem: arrays[path.stem] for path in files if path.stem in arrays}
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise SystemExit(f"{cache} is damaged ({error}): delete it and run again") from None
    chorales = {path.stem: parse_chorale(path) for path in track(files, "Reading chorales", transient=True)}
    chorales = {name: notes for name, notes in chorales.items() if notes is not None}
    if not chorales:
        raise SystemExit(f"music21 {music21.VERSION_STR} has other files than expected: pip install music21==10.5.1")
    if count is None:
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SystemExit(f"KERAS_HOME: cannot make the folder {cache.parent}: {error.strerror}") from None
        partial = cache.with_suffix(f".{os.getpid()}.npz")  # the file itself is never half written
        np.savez_compressed(partial, **chorales)
        partial.replace(cache)
    return chorales


def parse_chorale(path):
    """Returns a chorale, or None if the piece is not for four voices, in 4/4 and in sixteenths."""
    import music21

    score = music21.converter.parse(path, forceSource=True, storePickle=False)
    parts = [part for part in score.parts if part.partName in VOICES]  # without instruments
    metres = {time.ratioString for part in parts for time in part.recurse().getElementsByClass("TimeSignature")}
    if tuple(part.partName for part in parts) != VOICES or metres != {"4/4"}:
        return None
    bars = parts[0].getElementsByClass("Measure")
    upbeat = 4 * bars[0].highestTime % BAR
    starts = [(4 * bar.offset - upbeat) % BAR for bar in bars if 4 * bar.highestTime == BAR]
    notes = [note for voice, part in enumerate(parts) for note in part_notes(part, voice)]
    if any(starts) or not all(float(value).is_integer() for note in notes for value in note):
        return None
    notes = np.array(sorted(notes, key=lambda note: (note[ONSET], note[VOICE])), dtype=int)
    notes[:, ONSET] += int(-upbeat % BAR)
    key = music21.stream.Score(parts).analyze("key")
    tonic = key.tonic.pitchClass - (9 if key.mode == "minor" else 0)
    notes[notes[:, PITCH] != REST, PITCH] -= (tonic + 6) % 12 - 6  # by -6 to 5 semitones
    is_whole = np.array_equal(to_notes(to_text(notes)), notes)  # not where nothing begins for more than a bar
    return notes if is_whole else None


def part_notes(part, voice):
    """Returns the notes of a voice, those that are tied to one another as one note, and without gaps."""
    notes = []
    for element in part.flatten().notesAndRests:
        pitch = element.pitch.midi if element.isNote else REST
        onset, duration = 4 * element.offset, 4 * element.quarterLength
        is_tied = element.tie is not None and element.tie.type != "start"
        if notes and notes[-1][PITCH] == pitch and (is_tied or pitch == REST):
            notes[-1][DURATION] = onset + duration - notes[-1][ONSET]
        elif duration:  # grace notes have none
            notes.append([onset, duration, voice, pitch])
    return notes


def split_chorales(chorales, dev=0.12, test=0.15):
    """Returns a dict from splits to lists of names, always the same. Chorales of one melody are in the same split."""
    names, melodies = list(chorales), [melody_parts(notes) for notes in chorales.values()]
    groups = np.arange(len(names))
    for i, j in itertools.combinations(range(len(names)), 2):
        if any(
            a & b and len(a & b) >= 0.3 * min(len(a), len(b)) for a, b in zip(melodies[i], melodies[j], strict=True)
        ):
            groups[groups == groups[j]] = groups[i]
    shuffled = np.random.default_rng(0).permutation(np.unique(groups))
    ends = np.cumsum([np.sum(groups == group) for group in shuffled]) / len(names)
    split_of = {
        group: "dev" if end <= dev else "test" if end <= dev + test else "train"
        for group, end in zip(shuffled, ends, strict=True)
    }
    return {
        split: [name for name, group in zip(names, groups, strict=True) if split_of[group] == split]
        for split in ("train", "dev", "test")
    }


def melody_parts(notes, length=8):
    """Returns the runs of `length` intervals of the soprano, the same in every key: of three readings a set of each.

    Settings of a melody differ in passing notes. One reading has all notes but the shortest, one those of more than an
    eighth, one what sounds at the beats.
    """
    soprano = notes[(notes[:, VOICE] == 0) & (notes[:, PITCH] != REST)]
    ends = soprano[:, ONSET] + soprano[:, DURATION]
    at_beats = -(-soprano[:, ONSET] // 4) * 4 < ends
    parts = []
    for chosen in (soprano[:, DURATION] >= 2, soprano[:, DURATION] >= 3, at_beats):
        pitches = soprano[chosen, PITCH]
        steps = np.diff(pitches[np.flatnonzero(np.diff(pitches, prepend=-1))]) % 12
        parts.append({tuple(steps[i : i + length].tolist()) for i in range(len(steps) - length + 1)})
    return parts


def to_text(notes):
    """Returns the tokens of a chorale, separated by spaces."""
    tokens, ends = [], notes[:, ONSET] + notes[:, DURATION]
    for moment in np.unique(notes[:, ONSET]):
        sung = notes[(notes[:, ONSET] <= moment) & (moment < ends)]
        sung = sung[np.argsort(sung[:, VOICE])]
        tokens.append(f"@{moment % BAR}")
        tokens += [f"{VOICES[voice][0]}{pitch}{'_' if onset < moment else ''}" for onset, _, voice, pitch in sung]
    return " ".join([*tokens, f"@{ends.max() % BAR}"])


def to_notes(text):
    """Returns the chorale of a text. What follows the last whole moment is ignored."""
    tokens = text.split()
    moments = len(tokens) // 5
    positions = [int(token[1:]) for token in tokens[::5]]
    steps = [(after - before - 1) % BAR + 1 for before, after in itertools.pairwise(positions)]
    times = np.cumsum([positions[0], *steps, *[4] * (moments == len(positions))])
    notes, sung = [], [None] * 4
    for i in range(moments):
        for voice, token in enumerate(tokens[5 * i + 1 : 5 * i + 5]):
            if token.endswith("_") and sung[voice]:
                sung[voice][DURATION] += times[i + 1] - times[i]
            else:
                sung[voice] = [times[i], times[i + 1] - times[i], voice, int(token[1:].rstrip("_"))]
                notes.append(sung[voice])
    return np.array(notes, dtype=int).reshape(-1, 4)


def to_score(notes, tempo=80):
    """Returns a `music21.stream.Score` of four parts, which can be written as MIDI and as MusicXML."""
    import music21

    score = music21.stream.Score()
    for voice, name in enumerate(VOICES):
        part = music21.stream.Part([music21.meter.TimeSignature("4/4")], partName=name, id=name)
        if voice == 0:
            part.insert(0, music21.tempo.MetronomeMark(number=tempo))
        if notes[0, ONSET]:  # the part of the first bar before the upbeat
            part.insert(0, music21.note.Rest(quarterLength=notes[0, ONSET] / 4))
        for onset, duration, _, pitch in notes[notes[:, VOICE] == voice].tolist():
            note = music21.note.Note(pitch) if pitch != REST else music21.note.Rest()
            note.quarterLength = duration / 4
            part.insert(onset / 4, note)
        score.insert(0, part)
    return score


def share_in_key(notes):
    """Returns the share of notes in the scale of the key that music21 finds, and the name of that key."""
    key = to_score(notes).analyze("key")
    scale = [(step + key.tonic.pitchClass - SCALES[key.mode][0]) % 12 for step in SCALES[key.mode]]
    return float(np.mean(np.isin(sung_pitches(notes) % 12, scale))), key.name


def sung_pitches(notes):
    return notes[notes[:, PITCH] != REST, PITCH]


def parallels(notes):
    """Returns how many times two voices move in parallel fifths, octaves or unisons for 100 moments."""
    moments, ends = np.unique(notes[:, ONSET]), notes[:, ONSET] + notes[:, DURATION]
    chords = np.array(
        [
            [
                notes[(notes[:, VOICE] == voice) & (notes[:, ONSET] <= moment) & (moment < ends), PITCH][0]
                for voice in range(4)
            ]
            for moment in moments
        ]
    )  # (moments, 4)
    before, after, count = chords[:-1], chords[1:], 0
    for low, high in itertools.combinations(range(4), 2):
        intervals = (chords[:, low] - chords[:, high]) % 12
        is_parallel = (intervals[1:] == intervals[:-1]) & np.isin(intervals[1:], (0, 7))
        count += np.sum(is_parallel & (before != after)[:, [low, high]].all(axis=1))
    return 100 * float(count) / len(moments)


def longest_copy(text, texts):
    """Returns the number of moments of the longest passage of a text that is in one of some others, too."""
    tokens, others, longest = text.split(), f" {' | '.join(texts)} ", 0
    for first in range(0, len(tokens) - 4, 5):
        while (last := first + 5 * (longest + 1)) <= len(tokens) and f" {' '.join(tokens[first:last])} " in others:
            longest += 1
    return longest


def bits_per_note(bits, texts):
    """Returns the mean bits per note of all tokens, and of each kind: positions in the bar and the four voices."""
    totals = np.zeros(5)
    for row, text in zip(bits, texts, strict=True):
        count = len(text.split()) + 1  # with [END]
        np.add.at(totals, np.arange(count) % 5, row[:count])
    notes = sum(len(sung_pitches(to_notes(text))) for text in texts)
    return {
        "bits_per_note": totals.sum() / notes,
        "bits_by_part": dict(zip(("rhythm", *VOICES), totals / notes, strict=True)),
    }


def judge(texts, training_texts):
    """Returns what can be counted in compositions: notes in key, parallels, and how much of them is copied."""
    notes = [to_notes(text) for text in texts]
    shares, sizes = [share_in_key(array)[0] for array in notes], [len(array) for array in notes]
    return {
        "in_key": 100 * float(np.average(shares, weights=sizes)),
        "parallels": float(np.mean([parallels(array) for array in notes])),
        "longest_copy": float(np.median([longest_copy(text, training_texts) for text in texts])),
        "moments": float(np.median([len(text.split()) // 5 for text in texts])),
    }


def typical_first(texts):
    """Returns texts in another order, those of usual length first."""
    lengths = np.array([len(text) for text in texts])
    return [texts[i] for i in np.argsort(abs(lengths - np.median(lengths)), kind="stable")]


def keep_form(vocabulary):
    """Returns a processor: each voice in its turn, `[END]` after a position, and only what a voice sings is held."""
    import tensorflow as tf

    kinds = {"@": 0, "S": 1, "A": 2, "T": 3, "B": 4}
    turns = tf.constant([1 if token == "[END]" else kinds.get(token[:1], -1) for token in vocabulary])
    is_held = tf.constant([token.endswith("_") for token in vocabulary])
    is_end = tf.constant([token == "[END]" for token in vocabulary])
    sung = tf.constant([vocabulary.index(t) if (t := token.rstrip("_")) in vocabulary else -1 for token in vocabulary])

    def process(log_probabilities, tokens, step):
        before = tf.gather(tokens, tf.maximum(step - 5, 0), axis=1)  # (rows,), of the same voice
        can_hold = (sung == tf.gather(sung, before)[:, None]) & (step >= 5)  # (rows, vocabulary)
        allowed = (turns == step % 5) & (~is_held | can_hold) & ~(is_end & (step < 5))
        return tf.where(allowed, log_probabilities, -np.inf)

    return process
