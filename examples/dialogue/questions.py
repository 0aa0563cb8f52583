# SPDX-License-Identifier: Apache-2.0
"""Questions over small tables, with their answers, made by rules.

A composition is a kind of question about an attribute: ("first", "job") is "tell me the job of the first person". An
answer follows from the rule of its kind and the phrase of its attribute, so that a composition can be answered that was
never seen.
"""

import itertools
import random
import typing

NAMES = "alma anton boris carla david elena felix hanna igor julia karl lena maria oskar rosa tom"
VALUES = {
    "age": "24 29 33 38 42 47 51 56",
    "city": "berlin cairo dublin kyoto lima oslo paris rome",
    "job": "baker cook driver farmer judge nurse pilot poet",
    "pet": "canary cat dog frog horse lizard parrot turtle",
    "dish": "beans curry pasta pizza rice salad soup stew",
    "sport": "chess football golf hockey judo rowing skiing tennis",
    "language": "arabic czech danish dutch greek hindi polish welsh",
    "instrument": "banjo cello drums flute guitar harp piano violin",
    "color": "black blue brown green grey orange pink white",
}
PHRASES = {
    "age": "is {} years old",
    "city": "lives in {}",
    "job": "works as {}",
    "pet": "keeps a {}",
    "dish": "likes {}",
    "sport": "practises {}",
    "language": "speaks {}",
    "instrument": "plays the {}",
    "color": "wears {}",
}
RARE = 0.2  # share of the training questions with a name, and with a value, that no other question has
MAX_QUESTIONS = 200_000  # there are not many more invented words
KINDS = ("what", "first", "compare", "list")


def held_out_compositions(fold):
    """Returns the compositions that the training data lacks, one of each kind: there are nine such folds."""
    attributes = list(VALUES)
    return {(kind, attributes[(2 * i + fold) % len(attributes)]) for i, kind in enumerate(KINDS)}


class Question(typing.NamedTuple):
    source: str  # the table and the question
    target: str  # the answer
    composition: tuple  # (kind, attribute)


def invented_words(rng):
    """Yields words of three syllables, such as "zatomi", none twice."""
    syllables = ["".join(pair) for pair in itertools.product("bdfghjklmnprstvwz", "aeiou")]
    numbers = rng.sample(range(len(syllables) ** 3), 100_000)
    size = len(syllables)
    return ("".join(syllables[i // size**digit % size] for digit in range(3)) for i in numbers)


def make_table(rng, attribute):
    """Returns two or three rows, dicts from column to value, with the attribute and one or two others."""
    people = rng.randint(2, 3)
    others = [other for other in VALUES if other != attribute]
    columns = [attribute, *rng.sample(others, rng.randint(1, 2))]
    rng.shuffle(columns)
    words = {"name": rng.sample(NAMES.split(), people)}
    words |= {column: rng.sample(VALUES[column].split(), people) for column in columns}
    return [{column: words[column][i] for column in words} for i in range(people)]


def make_question(rng, composition, new_name=None, new_value=None):
    """Returns a `Question` about a random table. One person has the new name and the new value, if any."""
    kind, attribute = composition
    table = make_table(rng, attribute)
    person, other = table[:2] if kind == "first" else rng.sample(table, 2)
    person["name"] = new_name or person["name"]
    person[attribute] = new_value or person[attribute]
    question, subjects = {
        "what": (f"what is the {attribute} of {person['name']}", [person]),
        "first": (f"tell me the {attribute} of the first person", [person]),
        "compare": (f"compare the {attribute} of {person['name']} and {other['name']}", [person, other]),
        "list": (f"list each {attribute}", table),
    }[kind]
    rows = (" ".join([row["name"], *(f"{k} {v}" for k, v in row.items() if k != "name")]) for row in table)
    answers = (f"{row['name']} {PHRASES[attribute].format(row[attribute])}" for row in subjects)
    return Question(f"{' | '.join(rows)} ? {question}", " and ".join(answers), composition)


def make_questions(rng, count, compositions, words, rare):
    """Returns questions that take turns with the compositions. `words` yields the names and values that are new."""
    compositions = itertools.islice(itertools.cycle(sorted(compositions)), count)
    return [
        make_question(rng, composition, *(next(words) if rng.random() < rare else None for _ in range(2)))
        for composition in compositions
    ]


def load_data(count, fold=0, held_out=500):
    """Returns a dict from split to its questions, always the same for the same arguments.

    Each test split is named by what is new in it: only the tables, also the composition, or also the name and the value
    of the person that is asked about.
    """
    rng = random.Random(0)
    words, held_out_set = invented_words(rng), held_out_compositions(fold)
    seen = {*itertools.product(KINDS, VALUES)} - held_out_set
    return {
        "train": make_questions(rng, count, seen, words, RARE),
        "tables": make_questions(rng, held_out, seen, words, 0),
        "compositions": make_questions(rng, held_out, held_out_set, words, 0),
        "words": make_questions(rng, held_out, seen, words, 1),
        "compositions and words": make_questions(rng, held_out, held_out_set, words, 1),
    }
