# SPDX-License-Identifier: Apache-2.0
"""What a training that stopped needs to go on: its options, the backup of each epoch, and the models that are done."""

import contextlib
import hashlib
import json
import shutil
import sys


class Checkpoint:
    """The folder `unfinished` in the output folder, there from the first epoch to the end of the program.

    Use it in a `with` block. If the folder does not fit the options and the pairs, or cannot be written, the program
    ends with status 2, and what is there stays as it is.
    """

    # They say where results go, and how many models there are: more can be trained later.
    _FREE = ("output", "resume", "ensemble", "test")

    def __init__(self, options, splits):
        self.options = options
        self.digests = {split: _digest(splits[split]) for split in ("train", "dev")}
        self.folder = options.output / "unfinished"
        self._check()

    def __enter__(self):
        self._created = not self.options.output.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Of a program that was killed while it deleted it.
            shutil.rmtree(self.folder.with_name("unfinished.deleted"), ignore_errors=True)
            self._write("options.json", self._description())
        except OSError as error:
            self._fail(f"--output: cannot write to {self.options.output}: {error.strerror}")
        return self

    def __exit__(self, *error):
        is_empty = {path.name for path in self.folder.iterdir()} <= {"options.json", "results"}
        if is_empty or error[0] is None:  # nothing to go on with, or nothing more to do
            # Under another name, because a kill must not leave models without the options that they were trained with.
            deleted = self.folder.replace(self.folder.with_name("unfinished.deleted"))
            shutil.rmtree(deleted)
        if self._created and not any(self.options.output.iterdir()):
            self.options.output.rmdir()

    @contextlib.contextmanager
    def results(self):
        """Yields a folder, and moves its contents to the output folder when the block ends without an error."""
        folder = self.folder / "results"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
        for item in folder.iterdir():
            target = self.options.output / item.name
            if target.is_dir():
                shutil.rmtree(target)
            item.replace(target)

    def _description(self):
        options = {"preset": self.options.preset, **vars(self.options)}  # of several differences, it is named first
        description = {name: str(value) for name, value in options.items() if name not in self._FREE}
        return {**description, "digests": self.digests}

    def _check(self):
        path = self.folder / "options.json"
        if not path.exists():
            if self.options.resume:
                self._fail(f"--resume: there is no unfinished training in {self.options.output}")
            return
        if not self.options.resume:
            self._fail(
                f"{self.folder} has an unfinished training. Go on with it by --resume, or delete the folder, or choose "
                "another --output"
            )
        earlier, given = json.loads(path.read_text()), self._description()
        digests = earlier.pop("digests", {})
        for name, value in earlier.items():
            if given.get(name) != value:
                option = "--" + name.replace("_", "-")
                self._fail(f"--resume: the training was started with {option} {value}, got {given.get(name)}")
        for split, digest in digests.items():
            if self.digests[split] != digest:
                self._fail(f"--resume: the {split} pairs are not those with which the training was started")

    def _fail(self, message):
        print(message, file=sys.stderr)
        raise SystemExit(2)

    def train(self, train, splits, seed):
        """Returns `(model, history)` of a seed: of a training that is done, or of one that begins or goes on."""
        import keras

        model_path = self.folder / f"{seed}.keras"
        history_path = self.folder / f"{seed}.json"
        if history_path.exists():  # it is written last
            return keras.saving.load_model(model_path), json.loads(history_path.read_text())
        try:
            model, history = train(self.options, splits, seed, self.folder / f"backup-{seed}")
        except ValueError as error:
            if not (self.options.resume and "backup" in str(error)):
                raise
            self._fail(f"--resume: {error}")
        model.save(model_path)
        self._write(history_path.name, {name: list(map(float, values)) for name, values in history.items()})
        shutil.rmtree(self.folder / f"backup-{seed}", ignore_errors=True)  # kept until the model is on disk
        return model, history

    def _write(self, name, value):
        """Writes a JSON file, which appears whole or not at all."""
        path = self.folder / f"{name}.new"
        path.write_text(json.dumps(value, indent=2) + "\n")
        path.replace(self.folder / name)


def _digest(pairs):
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()
