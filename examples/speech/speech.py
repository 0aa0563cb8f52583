# SPDX-License-Identifier: Apache-2.0
"""Digit strings spoken by the synthesizer eSpeak NG in many voices, and their log-mel spectrograms."""

import collections
import ctypes

import numpy as np

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ACCENTS = ["en-us", "en-us-nyc", "gmw/en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029"]
# The variants of each split; each of them speaks with all accents. None of the training has half of the parameters of
# one of the test.
VARIANTS = {
    "train": "f1 f3 f5 m1 m2 m4 m6 m8 Alex Alicia Andy Denis Gene Hugo Jacky Marco Mike Nguyen Reed Storm adam anika "
    "boris caleb croak david ed edward ian klatt klatt2 marcelo michel miguel paul pedro quincy rob sandro shelby "
    "steph travis victor whisper zac",
    "dev": "f2 m5 Annie Lee",
    "test": "f4 m3 m7 Andrea Mario belinda grandpa max",
}
VOICES = {split: variants.split() for split, variants in VARIANTS.items()}
RATE = 22050  # samples a second, which eSpeak NG gives
WINDOW, HOP, BANDS = 512, 256, 24
STACK = 3  # spectra in a frame
FRAME_SECONDS = STACK * HOP / RATE  # 35 ms

Utterance = collections.namedtuple("Utterance", "digits voice frames starts")  # starts: seconds where the words begin


class _Event(ctypes.Structure):
    """`espeak_EVENT` of eSpeak NG's speak_lib.h. Type 1 is the start of a word, type 0 the end of a list."""

    _fields_ = [(name, ctypes.c_int) for name in ("type", "id", "text_position", "length", "milliseconds", "sample")]
    _fields_ += [("user_data", ctypes.c_void_p), ("value", ctypes.c_char * 8)]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Synthesizer:
    """Speaks texts into arrays, by the library in the package espeakng-loader. Use one at a time."""

    def __init__(self):
        try:
            import espeakng_loader

            self._library = ctypes.CDLL(espeakng_loader.get_library_path())
            data, synchronous = espeakng_loader.get_data_path().encode(), 2
            rate = self._library.espeak_Initialize(synchronous, 0, data, 0)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            raise SystemExit(
                f"this example needs eSpeak NG: pip install espeakng-loader, or the extra examples ({error})"
            ) from None
        if rate != RATE:
            raise SystemExit(f"expected eSpeak NG to give {RATE} samples a second, got {rate}: another version?")
        self._callback = _CALLBACK(self._receive)  # held here, since the library keeps only its address

    def _receive(self, samples, count, events):
        if samples and count > 0:
            self._samples.append(np.ctypeslib.as_array(samples, (count,)).copy())
        while events and events[0].type:
            if events[0].type == 1:
                self._starts.append(events[0].milliseconds / 1000)
            events = ctypes.cast(ctypes.addressof(events[0]) + ctypes.sizeof(_Event), ctypes.POINTER(_Event))
        return 0

    def speak(self, text, voice, words_per_minute=175, pitch=50, pitch_range=50):
        """Returns samples in [-1, 1] and the seconds where the words begin."""
        self._samples, self._starts = [], []
        self._library.espeak_SetSynthCallback(self._callback)
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise SystemExit(f"eSpeak NG has no voice {voice!r}: another version of espeakng-loader?")
        for parameter, value in ((1, words_per_minute), (3, pitch), (4, pitch_range)):
            self._library.espeak_SetParameter(parameter, int(value), 0)
        text = text.encode()
        self._library.espeak_Synth(text, len(text) + 1, 0, 0, 0, 0, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._samples) / 32768, np.array(self._starts)


def mel_filters():
    """Returns the triangular filters (frequencies, bands), evenly spaced in mel from 80 Hz to 8 kHz."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (80, 8000))
    edges = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)  # in Hz
    frequencies = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    rising = (frequencies - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - frequencies) / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rising, falling))


FILTERS = mel_filters()


def log_mel(samples):
    """Returns the log-mel spectrogram (spectra, bands), in dB: the loudest value is 0, the softest -60."""
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.einsum("tf,fb->tb", np.abs(np.fft.rfft(windows)) ** 2, FILTERS)
    return 10 * np.log10(np.maximum(power / power.max(), 1e-6))


def make_frames(decibels):
    """Returns what a model reads, (frames, STACK * bands): standardized, several spectra in a frame."""
    decibels = decibels[: len(decibels) // STACK * STACK]
    standardized = (decibels - decibels.mean(axis=0)) / decibels.std()
    return standardized.reshape(-1, STACK * BANDS).astype("float32")


def make_utterances(split, count):
    """Returns random digit strings of 1 to 6 digits, spoken by random voices of the split at random speed and pitch.

    The first ones are the same for any count.
    """
    rng = np.random.default_rng(list(VOICES).index(split))
    synthesizer, utterances = Synthesizer(), []
    for _ in range(count):
        digits = rng.integers(10, size=rng.integers(1, 7))
        voice = f"{rng.choice(ACCENTS)}+{rng.choice(VOICES[split])}"
        prosody = rng.integers((120, 20, 20), (241, 81, 81))
        samples, starts = synthesizer.speak(" ".join(WORDS[digit] for digit in digits), voice, *prosody)
        frames = make_frames(log_mel(samples))
        utterances.append(Utterance("".join(map(str, digits)), voice, frames, starts))
    return utterances
