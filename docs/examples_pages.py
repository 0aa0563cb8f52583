# SPDX-License-Identifier: Apache-2.0
"""Makes pages of the site from the files of examples/, so that neither says again what the other says.

- examples/NAME/README.md becomes docs/examples/NAME.md, with the picture docs/images/gallery/NAME.png.
- examples/tour.ipynb becomes docs/tour.ipynb.
- The table of examples/README.md takes the place of GALLERY in docs/gallery.md.
- examples/claims/README.md takes the place of CLAIMS in docs/claims.md.
"""

import json
import os
import pathlib
import re

DOCS = pathlib.Path(__file__).parent
ROOT = DOCS.parent
EXAMPLES = ROOT / "examples"
GALLERY, CLAIMS = "<!-- the examples -->", "<!-- the claims -->"
# Code stays as it is: fences, and what is between backticks. A relative link may have an anchor and a title, and its
# label may be a picture.
CODE = r"^ *(?P<fence>```|~~~).*?^ *(?P=fence)|(?P<ticks>`+)(?:(?!\n\n).)+?(?<!`)(?P=ticks)(?!`)"
ADDRESS = r"(?!https?:|#|mailto:)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?P<title>\s+\"[^\"]*\")?"
LABEL = r"(?P<label>!\[[^\]]*\]\([^)]*\)|[^\]]*)"
LINK = re.compile(rf"{CODE}|(?P<mark>!?)\[{LABEL}\]\({ADDRESS}\)", re.MULTILINE | re.DOTALL)
PAGES = {"README.md": "gallery.md", "claims/README.md": "claims.md", "tour.ipynb": "tour.ipynb"}  # of examples/


def move_links(text, source, target):
    """Returns the text of the file `source` with its relative links as they are in `target`, both in the project.

    Links to files that are no pages become plain text.
    """

    def move(link):
        if link["path"] is None:
            return link[0]
        path = pathlib.Path(os.path.normpath(source.parent / link["path"]))
        if (path / "README.md").exists():
            path = path / "README.md"
        if path.is_relative_to(EXAMPLES):
            name = path.relative_to(EXAMPLES).as_posix()
            is_example = path.name == "README.md" and (path.parent / "train.py").exists()
            page = PAGES.get(name) or (f"examples/{path.parent.name}.md" if is_example else None)
            path = page and DOCS / page
        elif not path.is_relative_to(DOCS):  # Sphinx reports what is missing there
            path = None
        label = LINK.sub(move, link["label"])
        if not path:
            return label
        address = os.path.relpath(path, target.parent) + (link["anchor"] or "") + (link["title"] or "")
        return f"{link['mark']}[{label}]({address})"

    return LINK.sub(move, text)


def picture(name, target):
    """Returns the Markdown of the picture of an example, or nothing where it has none."""
    path = DOCS / "images" / "gallery" / f"{name}.png"
    return f"![Picture of the example {name}]({os.path.relpath(path, target.parent)})\n\n" if path.exists() else ""


def read_table():
    """Yields a dict from columns to cells for each example in the table of examples/README.md."""
    lines = [line for line in (EXAMPLES / "README.md").read_text("utf-8").splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines)
    for row in rows:
        yield dict(zip(header, row, strict=True))


def gallery():
    """Returns a section for each example."""
    sections = []
    for row in read_table():
        name = row["example"].split("`")[1]
        target = DOCS / "gallery.md"
        measured = f"Result: {row['result on held-out data']}. " if row["result on held-out data"] else ""
        minutes = f"CPU minutes: {row['CPU minutes']}." if row["CPU minutes"] else ""
        sections.append(
            f"## {name}\n\n{picture(name, target)}{row['kind'].capitalize()}. Compared: {row['what is compared']}. "
            f"{measured}{minutes}\n\n[More about {name}](examples/{name}.md): `make demo EXAMPLE={name}`\n"
        )
    return "\n".join(sections)


def write_if_new(path, text):
    """Writes a file if that changes it; Sphinx reads again what is newer than its last build."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def write_pages(_app):
    """Writes a page for each example, and the notebook."""
    for source in sorted(EXAMPLES.glob("*/README.md")):
        name, target = source.parent.name, DOCS / "examples" / f"{source.parent.name}.md"
        if (source.parent / "train.py").exists():
            title, _, rest = move_links(source.read_text("utf-8"), source, target).partition("\n")
            write_if_new(target, f"{title}\n\n{picture(name, target)}{rest}")
    source, target = EXAMPLES / "tour.ipynb", DOCS / "tour.ipynb"
    notebook = json.loads(source.read_text("utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = move_links("".join(cell["source"]), source, target)
    write_if_new(target, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def fill_page(_app, name, text):
    """Puts the examples and the claims into the pages that are for them; `text` is a list of one string."""
    if name == "gallery":
        text[0] = text[0].replace(GALLERY, gallery())
    elif name == "claims":
        source = EXAMPLES / "claims" / "README.md"
        text[0] = text[0].replace(CLAIMS, move_links(source.read_text("utf-8"), source, DOCS / "claims.md"))


def connect(app):
    """Makes Sphinx do this in each build."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", fill_page)
