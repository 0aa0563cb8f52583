# SPDX-License-Identifier: Apache-2.0
"""Runs the examples one after the other, and writes their results into the table of examples/README.md.

    make demos                              # all of them
    make demos ARGS="captioning tagging"    # these

Each example is the command `python examples/NAME/train.py`, without options. Its result is the text "result" of the
metrics.json that it writes to runs/NAME. Rows of examples that did not run stay as they were.
"""

import argparse
import datetime
import json
import pathlib
import platform
import re
import resource
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
TABLE = ROOT / "examples" / "README.md"
# A row of the table: | [`name`](name/README.md) | kind | what is compared | a good result | result | CPU minutes |
ROW = re.compile(r"^\| \[`(?P<name>\w+)`\]\(.*\|$", re.MULTILINE)
MEASURED = ("result", "CPU minutes", "measured")  # the last columns


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
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    status = subprocess.run([sys.executable, ROOT / "examples" / name / "train.py"], cwd=ROOT).returncode
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


def main(arguments=None):
    names = read_names(TABLE.read_text())
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"examples, by default all: {', '.join(names)}")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(names):
        parser.error(f"NAME must be one of {', '.join(names)}. Received: {', '.join(sorted(unknown))}")
    failed = []
    for name in options.names or names:
        print(f"\n{name}", flush=True)
        measurements = run(name)
        if measurements is None:
            failed.append(name)
            continue
        TABLE.write_text(replace_measurements(TABLE.read_text(), name, measurements))
        print(f"{measurements['result']} ({measurements['CPU minutes']} CPU minutes)")
    if failed:
        raise SystemExit(f"These examples failed: {', '.join(failed)}. Their rows in {TABLE} stay as they were.")


if __name__ == "__main__":
    main()
