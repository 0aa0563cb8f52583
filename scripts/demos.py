# SPDX-License-Identifier: Apache-2.0
"""Runs the examples one after the other, and writes their results into the table of examples/README.md.

    make demos                                      # all examples
    make demos ARGS="captioning claims/embeddings"  # these, and a script of examples/claims

Each example is the command `python examples/NAME/train.py`, each claim `python examples/claims/NAME.py`, without
options. Its result is the text "result" of the metrics.json that it writes to runs/NAME. Its picture, which PICTURES
names, goes to docs/images. Rows and pictures of examples that did not run stay as they were.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import re
import resource
import subprocess
import sys
import time

import PIL.Image  # matplotlib needs it, too

ROOT = pathlib.Path(__file__).resolve().parents[1]
TABLE = ROOT / "examples" / "README.md"
# A row of the table: | [`name`](name/README.md) | kind | what is compared | a good result | result | CPU minutes |
ROW = re.compile(r"^\| \[`(?P<name>\w+)`\]\(.*\|$", re.MULTILINE)
MEASURED = ("result", "CPU minutes", "measured")  # the last columns
# The picture of an example in docs/gallery.md, one of its folder runs/NAME. That of a claim has the name of the claim.
PICTURES = {
    "hello": "gates.png",
    "song": "modes.png",
    "language_model": "surprise.png",
    "music": "chorales.png",
    "sentiment": "attention.png",
    "vowels": "probabilities.png",
    "dna": "genome.png",
    "tagging": "marginals.png",
    "moving_digits": "clips.png",
    "forecasting": "forecasts.png",
    "captioning": "attention.png",
    "g2p": "attention.png",
    "translation": "by_length.png",
    "speech": "attention.png",
    "dialogue": "attention.png",
    "tune": "trials.png",
}
COLORS = 256  # in the palette of a picture, whose file becomes a third


def read_names(text):
    """Returns the names of the examples that have a row in the table, in its order."""
    return [row["name"] for row in ROW.finditer(text)]


def replace_measurements(text, name, measurements):
    """Returns the table's text with the last columns of the row of an example replaced."""

    def replace(row):
        if row["name"] != name:
            return row[0]
        cells = row[0].strip("|").split("|")[: -len(MEASURED)]
        return "|" + "|".join([*cells, *(f" {measurements[column]} " for column in MEASURED)]) + "|"

    return ROW.sub(replace, text)


def processor():
    """Returns the name of the processor, where the system tells it."""
    path = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)", path.read_text(), re.MULTILINE) if path.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def run(name):
    """Runs an example. Returns its measurements, or None if it failed."""
    program = f"{name}.py" if name.startswith("claims/") else f"{name}/train.py"
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    status = subprocess.run([sys.executable, ROOT / "examples" / program], cwd=ROOT).returncode
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    metrics = ROOT / "runs" / name / "metrics.json"
    if status or not metrics.exists() or metrics.stat().st_mtime < start:
        return None
    seconds = sum(getattr(after, field) - getattr(before, field) for field in ("ru_utime", "ru_stime"))
    return {
        "result": json.loads(metrics.read_text())["result"],
        "CPU minutes": f"{seconds / 60:.1f}",
        "measured": f"{datetime.date.today()}, {processor()}",
    }


@contextlib.contextmanager
def replaced_at_once(path):
    """Yields a path to write to; what is written takes the place of a file where the block ends without an error."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def copy_picture(name, width=1400):
    """Copies the picture of an example to docs/images/gallery, that of a claim to docs/images/claims: small enough."""
    folder, _, claim = name.rpartition("/")
    source = ROOT / "runs" / name / (f"{claim}.png" if folder else PICTURES[name])
    target = ROOT / "docs" / "images" / (folder or "gallery") / f"{claim}.png"
    if not source.exists():
        print(f"There is no picture {source}")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with PIL.Image.open(source) as picture:
        picture = picture.convert("RGB")
        picture.thumbnail((width, 4 * width), PIL.Image.Resampling.LANCZOS)
        with replaced_at_once(target) as path:
            picture.quantize(COLORS).save(path, "PNG", optimize=True)


def find_claims():
    """Returns the names of the scripts of examples/claims: those with options of their own."""
    paths = sorted((ROOT / "examples" / "claims").glob("*.py"))
    return [f"claims/{path.stem}" for path in paths if "def parse_arguments" in path.read_text()]


def main(arguments=None):
    names, claims = read_names(TABLE.read_text()), find_claims()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    text = f"examples, by default all: {', '.join(names)}; or claims: {', '.join(claims)}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=text)
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - {*names, *claims}:
        parser.error(f"NAME must be one of {', '.join(names + claims)}. Received: {', '.join(sorted(unknown))}")
    failed = []
    for name in options.names or names:
        print(f"\n{name}", flush=True)
        measurements = run(name)
        if measurements is None:
            failed.append(name)
            continue
        copy_picture(name)
        with replaced_at_once(TABLE) as path:
            path.write_text(replace_measurements(TABLE.read_text(), name, measurements))
        print(f"{measurements['result']} ({measurements['CPU minutes']} CPU minutes)")
    if failed:
        raise SystemExit(f"These examples failed: {', '.join(failed)}. Their rows in {TABLE} stay as they were.")


if __name__ == "__main__":
    main()
