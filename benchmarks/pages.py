# SPDX-License-Identifier: Apache-2.0
"""Where results go: into a folder, and with --publish into the documentation as well.

A run of a benchmark writes docs/benchmarks/MACHINE/NAME.md, and no page of another benchmark or machine. Then it
copies the first tables of all pages into docs/benchmarks.md, between two comments. As a program, this file does only
that, for pages that were measured elsewhere:

    python benchmarks/pages.py
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import shlex
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MORE = "<!-- end of the tables that docs/benchmarks.md shows -->"
BEGIN, END = "<!-- begin: written by make bench -->", "<!-- end: written by make bench -->"
# The pages of a machine in the order of docs/benchmarks.md; others follow.
ORDER = ["layers", "layers_avx2", "layers_portable", "layers_memory", "jax_layers", "jax_layers_highest"]
ORDER += ["seq2seq", "seq2seq_memory", "seq2seq_words", "decoding", "decoding_memory", "seq2seq_steps"]
QUICK = "**A quick run**: few cases, and seconds for each. Its figures are rough; those of a full run are published."


class Output(NamedTuple):
    """Where the reports of a run go.

    Args:
        folder: folder for Markdown and JSON.
        docs: folder of the documentation, or None if nothing is published.
        command: the command of this run.
        quick: whether the run is a quick one.
    """

    folder: pathlib.Path
    docs: pathlib.Path | None
    command: str
    quick: bool

    def write(self, report, name, seconds):
        """Writes a report, which may still lack results. `seconds` is what measuring took so far."""
        write_file(self.folder / f"{name}.md", self._markdown(report, seconds))
        write_file(self.folder / f"{name}.json", json.dumps(report.data, indent=1) + "\n")

    def finish(self, report, name, seconds):
        """Writes a report that has all results, and publishes it."""
        self.write(report, name, seconds)
        if self.docs and report.tables:
            page = self.docs / "benchmarks" / slug(report.machine) / f"{name}.md"
            write_file(page, self._markdown(report, seconds))
            update(self.docs)

    def _markdown(self, report, seconds):
        today = datetime.date.today()
        took = f"{seconds / 60:.0f} minutes" if seconds > 100 else f"{seconds:.0f} seconds"
        measured = f"Measured on {today.day} {today:%B %Y} in {took} by\n\n```sh\n{self.command}\n```"
        return report.markdown([QUICK] * self.quick + [measured])


def add_options(parser):
    help = "measure little, in a minute; other options go before its choices"
    parser.add_argument("--quick", action="store_true", help=help)
    _add_folders(parser)


def _add_folders(parser):
    add = parser.add_argument
    add("--output", type=pathlib.Path, default=pathlib.Path("runs/bench"), help="folder for the results")
    help = "write the results into the documentation as well (default: that of this checkout)"
    add("--publish", type=pathlib.Path, nargs="?", const=DOCS, metavar="DOCS", help=help)


def parse(parser, quick):
    """Returns the options and the `Output`. `quick` are the defaults of options under --quick."""
    options = parser.parse_args()
    if options.quick:
        if options.publish:
            parser.error("--publish: the figures of --quick are too rough")
        parser.set_defaults(**quick)
        options = parser.parse_args()
    for name in ("output", "publish"):  # before measuring for minutes
        folder = getattr(options, name)
        if folder and not _can_write(folder):
            parser.error(f"--{name} must be a folder that can be written to, got {folder}")
    folders = argparse.ArgumentParser(add_help=False)
    _add_folders(folders)  # those of one machine, and not of interest
    words = ["--publish"] * bool(options.publish) + folders.parse_known_args()[1]
    script = pathlib.Path(sys.argv[0]).resolve()
    script = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    command = shlex.join(["python", str(script), *words])
    return options, Output(options.output, options.publish, command, options.quick)


def _can_write(folder):
    """Returns whether files can be written to a folder, which need not exist yet."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def slug(name):
    """Returns a name for a folder, such as amd-epyc-zen-5-avx-512-2-cores."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write_file(path, text):
    """Writes a file at once: a reader sees the old text or the new one, also if this process is ended."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def update(docs):
    """Copies the first tables of all pages into benchmarks.md, if it is there: a section for each machine."""
    path = docs / "benchmarks.md"
    if not path.exists():  # on a machine from which the pages are fetched
        return
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} must contain the lines {BEGIN} and {END}")
    sections = [_section(folder) for folder in sorted((docs / "benchmarks").iterdir()) if list(folder.glob("*.md"))]
    write_file(path, "\n\n".join([before.rstrip() + "\n\n" + BEGIN, *sections, END]) + after)


def _section(folder):
    """Returns the Markdown of a machine for benchmarks.md."""
    rank = {name: index for index, name in enumerate(ORDER)}
    pages = sorted(folder.glob("*.md"), key=lambda page: (rank.get(page.stem, len(rank)), page.stem))
    parts = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        title, _, machine = text.splitlines()[0].removeprefix("# ").partition(" on ")
        date = re.search(r"^Measured on (\d+ \w+ \d+)", text, re.MULTILINE)[1]
        tables = text[text.index("\n## ") : text.index(MORE)].strip()
        link = f"[The whole page]({folder.parent.name}/{folder.name}/{page.name}), measured on {date}."
        parts += [f"### {title}", re.sub("^## ", "#### ", tables, flags=re.MULTILINE), link]
    return "\n\n".join([f"## {machine}", *parts])


if __name__ == "__main__":
    update(DOCS)
