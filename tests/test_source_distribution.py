# SPDX-License-Identifier: Apache-2.0
"""What is distributed: the sdist is complete, and its description has no link that leads nowhere."""

import email
import pathlib
import re
import subprocess
import sys
import tarfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Of pip, which is not asked for here: what the build backend does when pip asks it for an sdist.
BUILD = "import setuptools.build_meta as backend; print(backend.build_sdist('dist'))"


def run(*command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tracked_files():
    """The files that belong to the project: those that git tracks, and new ones that it does not ignore."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", folder=ROOT)
    return sorted(name for name in listed.split("\0") if name and (ROOT / name).exists())


def copy_project(folder, **metadata):
    """A copy of the project, with lines added to the section `metadata` of setup.cfg."""
    for name in tracked_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    path = folder / "setup.cfg"
    lines = "".join(f"{name} = {value}\n" for name, value in metadata.items())
    path.write_text(path.read_text().replace("[metadata]\n", "[metadata]\n" + lines))


def build_sdist(folder):
    """The sdist of a copy of the project: its files as a dict of bytes, by path in the archive."""
    run(sys.executable, "-W", "ignore", "-c", BUILD, folder=folder)
    (path,) = (folder / "dist").glob("keras_seq-*.tar.gz")
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile()]
        return {member.name.partition("/")[2]: archive.extractfile(member).read() for member in members}


def links(markdown):
    return re.findall(r"\]\(([^()\s]+)\)", markdown)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    copy_project(folder)
    return build_sdist(folder)


@pytest.mark.slow
def test_the_sdist_has_every_file_of_the_project(sdist):
    different = [name for name in tracked_files() if sdist.get(name) != (ROOT / name).read_bytes()]
    # setuptools writes setup.cfg anew, with the same options and a section of its own.
    assert different == ["setup.cfg"]


@pytest.mark.slow
def test_the_sdist_has_nothing_else(sdist):
    generated = {name for name in sdist if name.startswith("keras_seq.egg-info/")} | {"PKG-INFO"}
    assert set(sdist) - set(tracked_files()) == generated


@pytest.mark.slow
def test_without_an_address_the_description_has_no_relative_links(sdist):
    description = email.message_from_bytes(sdist["PKG-INFO"]).get_payload()
    assert "## Install, and see it work" in description
    assert "![" not in description
    assert [link for link in links(description) if (ROOT / link).exists()] == []


@pytest.mark.slow
def test_with_an_address_pictures_and_links_of_the_description_are_absolute(tmp_path):
    copy_project(tmp_path, url="https://example.org/keras_seq/")
    description = email.message_from_bytes(build_sdist(tmp_path)["PKG-INFO"]).get_payload()
    readme = [link for link in links((ROOT / "README.md").read_text()) if (ROOT / link.partition("#")[0]).exists()]
    absolute = [link for link in links(description) if link.startswith("https://example.org/keras_seq/")]
    assert len(readme) == len(absolute) > 10
    for link, address in zip(readme, absolute, strict=True):
        kind = "raw" if link.endswith(".png") else "blob"
        assert address == f"https://example.org/keras_seq/{kind}/HEAD/{link}"
