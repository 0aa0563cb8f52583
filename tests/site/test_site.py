# SPDX-License-Identifier: Apache-2.0
"""The site that `make docs` builds: it builds without a warning, no link is broken, and a browser shows every page.

The browser is Chromium, which playwright drives. Where none is installed the tests of this kind are skipped, but not
in CI.
"""

import contextlib
import functools
import html.parser
import http.server
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import urllib.parse

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]
ROOT = pathlib.Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


class Links(html.parser.HTMLParser):
    """Collects the ids of a page, and the addresses that it leads to or shows."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.addresses = set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.add(value)
            if name in ("href", "src") and value:
                self.addresses.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Builds the site as `make docs` does, from a copy without what earlier builds generated."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("docs", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("generated", "__pycache__"))
    shutil.copy(ROOT / "CHANGELOG.md", folder)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", folder / "docs", folder / "html"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    warnings = [line for line in run.stderr.splitlines() if "WARNING:" in line or "ERROR:" in line]
    assert run.returncode == 0, "\n".join(warnings) or run.stderr[-4000:]
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site):
    return sorted(path for path in site.rglob("*.html"))


def test_every_document_is_a_page(site, pages):
    documents = [path for path in (ROOT / "docs").rglob("*.md") if "generated" not in path.parts]
    documents.remove(ROOT / "docs" / "figures" / "README.md")  # for those who draw
    for path in documents:
        assert (site / path.relative_to(ROOT / "docs")).with_suffix(".html") in pages


def test_the_reference_has_a_page_for_each_public_name(site):
    import keras_seq
    from keras_seq import decoding, layers, ops, training

    generated = site / "reference" / "generated"
    for module in (layers, decoding, training, ops):
        for name in module.__all__:
            text = (generated / f"{module.__name__}.{name}.html").read_text(encoding="utf-8")
            assert f'id="{module.__name__}.{name}"' in text
    assert (generated / f"keras_seq.{keras_seq.Seq2Seq.__name__}.html").exists()


def test_no_link_is_broken(site, pages):
    found = {page: Links(page) for page in pages}
    broken = []
    for page, links in found.items():
        for address in links.addresses:
            url = urllib.parse.urlsplit(address)
            if url.scheme or url.netloc:
                continue  # of the world outside
            target = (page.parent / urllib.parse.unquote(url.path)).resolve() if url.path else page
            anchor = urllib.parse.unquote(url.fragment)
            if not target.exists() or (anchor and target in found and anchor not in found[target].ids):
                broken.append(f"{page.relative_to(site)}: {address}")
    assert not broken, "\n".join(broken)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder):
    """Serves a folder over HTTP, and yields the address."""
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs a browser: install chromium")
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def open_pages(browser, site, pages, viewport):
    """Yields the path of each page with the page in the browser; collects what failed in its attribute `failures`."""
    with served(site) as address:
        page = browser.new_page(viewport=viewport)
        failures = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("requestfailed", lambda request: failures.append(request.url))
        page.on("response", lambda reply: failures.append(reply.url) if reply.status >= 400 else None)
        for path in pages:
            page.goto(f"{address}/{path.relative_to(site)}")
            yield path.relative_to(site), page, failures
            failures.clear()
        page.close()


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_a_browser_shows_each_page(browser, site, pages, viewport):
    """Nothing fails to load, every picture is there, and no page is wider than the screen."""
    missing = "[...document.images].filter(image => image.src && !image.naturalWidth).map(image => image.src)"
    problems = []
    for path, page, failures in open_pages(browser, site, pages, viewport):
        page.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
        page.wait_for_function("[...document.images].every(image => image.complete)")
        problems += [f"{path}: failed: {failure}" for failure in failures]
        problems += [f"{path}: no picture: {source}" for source in page.evaluate(missing)]
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > viewport["width"]:
            problems.append(f"{path}: {width} px wide")
    assert not problems, "\n".join(problems)


def test_text_is_readable_on_a_phone(browser, site, pages):
    """Paragraphs have at least 13 px, which those of tables have, and code 12."""
    sizes = "selector => [...document.querySelectorAll(selector)].map(x => parseFloat(getComputedStyle(x).fontSize))"
    for path, page, _ in open_pages(browser, site, [site / "index.html", site / "concepts" / "dropout.html"], PHONE):
        assert min(page.evaluate(sizes, "article p")) >= 13, path
        assert min(page.evaluate(sizes, "article pre") or [16]) >= 12, path


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("zoneout", "concepts/dropout.html"),
        ("BeamSampler", "reference/generated/keras_seq.decoding.BeamSampler.html"),
        ("ONNX", "guides/formats.html"),
    ],
)
def test_the_search_finds_what_people_look_for(browser, site, words, page):
    with served(site) as address:
        tab = browser.new_page(viewport=DESKTOP)
        tab.goto(f"{address}/search.html?q={words}")
        tab.wait_for_selector("ul.search li a")
        tab.wait_for_timeout(1000)  # results come one after the other
        found = tab.evaluate("[...document.querySelectorAll('ul.search li a')].map(link => link.href)")
        assert any(link.partition("?")[0].partition("#")[0].endswith(page) for link in found), found
        tab.close()
