# SPDX-License-Identifier: Apache-2.0
"""Texts as users see their characters: extended grapheme clusters, in the graph of TensorFlow."""

import functools

import keras

from keras_seq._lazy_tensorflow import tf
from keras_seq.data import grapheme_properties as properties

_BREAK = b"\xff"  # a byte that UTF-8 never has
_NON_JOINER, _JOINER = 0x200C, 0x200D
_LINE_ENDS = {ord("\r"), ord("\n")}
_REGIONAL_INDICATORS = set(range(0x1F1E6, 0x1F200))
_HANGUL_SYLLABLES = set(range(0xAC00, 0xD7A4))
_OPEN_SYLLABLES = set(range(0xAC00, 0xD7A4, 28))  # without a trailing consonant; the 27 after each have one


@keras.saving.register_keras_serializable("keras_seq")
def split_graphemes(texts):
    """Splits texts into extended grapheme clusters, the characters that users see, as UAX #29 of Unicode 18 does.

    A letter with its combining marks is one token, a Hangul syllable, an emoji with its modifiers and joined parts, a
    flag, and an Indic consonant cluster with its vowel signs. CR LF is one token as well. Invalid UTF-8 becomes U+FFFD,
    as in `tf.strings.unicode_split`. Works in a graph, with operations of TensorFlow alone.

    Args:
        texts: string tensor (batch,), in UTF-8.

    Returns:
        Ragged string tensor (batch, None).

    Example:

    >>> split_graphemes(tf.constant(["noe\u0308l", "🇩🇪👩‍🚀"])).row_lengths().numpy()
    array([4, 2])
    """
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")
    marked = tf.strings.regex_replace(texts, _cluster_pattern(), _BREAK + rb"\0")
    return tf.strings.split(marked, _BREAK)[:, 1:]  # nothing is before the first break


@functools.cache
def _cluster_pattern():
    """Returns the regular expression of a cluster for RE2, with the numbers of the rules of UAX #29.

    Of several alternatives that match, RE2 takes the first, which here is the longest.
    """
    extend, linkers = _codes(properties.EXTEND), _codes(properties.CONJUNCT_LINKER)
    controls = _codes(properties.CONTROL) | _LINE_ENDS
    pictograph = _class(_codes(properties.PICTOGRAPHIC))
    # GB9c: a linker joins an Indic consonant; marks may stand between them.
    marks = _class(extend - linkers - {_NON_JOINER} | {_JOINER})
    consonant = _class(_codes(properties.CONJUNCT_CONSONANT))
    core = "|".join(
        [
            _hangul_pattern(),  # GB6 to GB8
            f"{_class(_REGIONAL_INDICATORS)}{{1,2}}",  # GB12 and GB13
            f"{pictograph}(?:{_class(extend)}*{_class({_JOINER})}{pictograph})*",  # GB11
            f"{_class(linkers)}{marks}*{consonant}",
            f"[^{_class(controls)[1:]}",
        ]
    )
    joined = extend | _codes(properties.SPACING_MARK) | {_JOINER}  # GB9 and GB9a
    rest = f"{_class(linkers & joined)}{marks}*{consonant}|{_class(joined)}"
    prepended = _class(_codes(properties.PREPEND))  # GB9b
    return rf"\r\n|{prepended}*(?:{core})(?:{rest})*|{_class(controls)}"  # GB3 to GB5


def _hangul_pattern():
    leading, vowel, trailing = (
        _class(_codes(table)) for table in (properties.HANGUL_L, properties.HANGUL_V, properties.HANGUL_T)
    )
    open_syllable, closed_syllable = _class(_OPEN_SYLLABLES), _class(_HANGUL_SYLLABLES - _OPEN_SYLLABLES)
    syllable = f"(?:{vowel}+|{open_syllable}{vowel}*|{closed_syllable}){trailing}*"
    return f"{leading}*{syllable}|{leading}+|{trailing}+"


def _codes(table):
    """Returns the code points of a table as a set."""
    codes = set()
    for part in table.split():
        first, _, last = part.partition("-")
        codes.update(range(int(first, 16), int(last or first, 16) + 1))
    return codes


def _class(codes):
    """Returns the character class of code points in a regular expression."""
    ranges = []
    for code in sorted(codes):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "[" + "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in ranges) + "]"
