# SPDX-License-Identifier: Apache-2.0
"""Verses of the Bible in Spanish and English: fetching, alignment and a split by chapters."""

import functools
import os
import pathlib
import random
import re
import shutil
import subprocess
import tempfile
from typing import NamedTuple

PACKAGES = ("sword-text-sparv", "sword-text-web")  # of Debian
MODULES = ("spaRV1909eb", "engWEB2015eb")  # Reina-Valera 1909 and the World English Bible, both in the public domain
SHARES = {"dev": 0.05, "test": 0.1}  # of the chapters


class Verse(NamedTuple):
    book: str
    chapter: int
    number: int
    spanish: str
    english: str


def find_modules():
    """Returns the folder of the two texts: that of the system, or a copy that is fetched once, without root."""
    own = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "datasets" / "sword"
    for folder in (pathlib.Path("/usr/share/sword"), own):
        if all((folder / "mods.d" / f"{name}.conf").exists() for name in MODULES):
            return folder
    own.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=own.parent) as temporary:
        run = functools.partial(subprocess.run, cwd=temporary, check=True, capture_output=True)
        try:
            run(["apt-get", "download", *PACKAGES])
            for archive in pathlib.Path(temporary).glob("*.deb"):
                run(["dpkg-deb", "-x", archive.name, "."])
            shutil.rmtree(own, ignore_errors=True)
            shutil.move(pathlib.Path(temporary) / "usr" / "share" / "sword", own)
        except (OSError, subprocess.CalledProcessError):
            command = f"apt-get install {' '.join(PACKAGES)}"
            raise SystemExit(f"The Spanish and the English text are missing. On Debian or Ubuntu: {command}") from None
    return own


def read_verses(books=None):
    """Returns the verses that both texts have, in order, of all books or of those named.

    The texts count verses differently in places. Where one of them lacks the last verses of a chapter, those stand in
    the next chapter and shift its numbers: both chapters are left out. A verse missing elsewhere shifts nothing.
    """
    try:
        from pysword.modules import SwordModules
    except ImportError:
        raise SystemExit("The package pysword is missing: pip install 'keras_seq[examples]'") from None
    modules = SwordModules(str(find_modules()))
    modules.parse_modules()
    texts = [modules.get_bible_from_module(name) for name in MODULES]
    for text in texts:  # pysword decompresses a whole book for each verse: 70 seconds instead of 3
        text._decompressed_text = functools.lru_cache(maxsize=1)(text._decompressed_text)
    verses = []
    for book in [book for part in texts[0].get_structure().get_books().values() for book in part]:
        is_shifted = False
        for chapter in range(1, book.num_chapters + 1) if books is None or book.name in books else ():
            pairs = zip(*(text.get_iter(books=[book.name], chapters=[chapter]) for text in texts), strict=False)
            pairs = [[normalize(text) for text in pair] for pair in pairs]
            was_shifted, is_shifted = is_shifted, not all(pairs[-1])
            if not was_shifted and not is_shifted:
                numbered = enumerate(pairs, start=1)
                verses += [Verse(book.name, chapter, number, *pair) for number, pair in numbered if all(pair)]
    return verses


def normalize(text):
    """Returns the words of a text in lower case, without punctuation: only the English text has quotation marks."""
    return " ".join(re.findall(r"\w+(?:'\w+)*", text.replace("’", "'").lower()))


def split_verses(verses, max_words, count=None):
    """Returns a dict from "train", "dev" and "test" to verses: whole chapters, always the same ones.

    Sources have at most `max_words` words. Pairs of which one side has more than twice the letters of the other are
    left out: most of them are not aligned. So are held-out verses whose source is, word by word, also one of training,
    as "y habló jehová á moisés diciendo". `count` limits the verses of training.
    """
    chapters = list(dict.fromkeys((verse.book, verse.chapter) for verse in verses))
    random.Random(0).shuffle(chapters)
    verses = [verse for verse in verses if len(verse.spanish.split()) <= max_words]
    verses = [verse for verse in verses if 0.5 <= len(verse.english) / len(verse.spanish) <= 2]
    splits, names = {}, {}
    for name, share in SHARES.items():
        size = round(share * len(chapters))
        names |= dict.fromkeys(chapters[:size], name)
        chapters = chapters[size:]
    for name in ("train", *SHARES):
        splits[name] = [verse for verse in verses if names.get((verse.book, verse.chapter), "train") == name]
    random.Random(0).shuffle(splits["train"])
    known = {verse.spanish for verse in splits["train"]}
    for name in SHARES:
        splits[name] = [verse for verse in splits[name] if verse.spanish not in known]
    splits["train"] = splits["train"][:count]
    return splits


def texts(verses):
    """Returns the Spanish texts and the English ones: sources and targets."""
    return [verse.spanish for verse in verses], [verse.english for verse in verses]
