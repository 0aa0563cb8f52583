# SPDX-License-Identifier: Apache-2.0
"""A search by several processes in which any of them may be lost.

Workers ask the chief for trials by keras-tuner's protocol. If a worker is killed in a trial, the chief of keras-tuner
waits for it for ever, and the trial is lost. Here a worker asks about its trial every few seconds, as a sign of life.
Both sides wrap their oracle: the protocol, its messages and the files are those of keras-tuner.
"""

import contextlib
import os
import pathlib
import threading
import time

from keras_tuner.engine.trial import Trial

from keras_seq.tuning.results import failure_reason

_MESSAGE_FILE = "message.txt"  # in the folder of a trial: why it failed, which the protocol does not tell the chief


def search(tuner, *args, lost_after=60, **kwargs):
    """Runs `tuner.search`, alone or by several processes, so that lost workers do not lose the search.

    On a single process this is `tuner.search(*args, **kwargs)`. Where keras-tuner's environment variables make the
    process a chief or a worker (`KERASTUNER_TUNER_ID`, `KERASTUNER_ORACLE_IP`, `KERASTUNER_ORACLE_PORT`):

    - the trial of a worker that gives no sign of life for `lost_after` seconds goes to the next worker that asks for
      one, and starts again.
    - workers wait until the trials of all others have ended, and take over those of lost ones.
    - the chief ends when all trials have ended. Until then you can start more workers, and lost ones again.
    - the chief shows why a trial failed. If too many in a row fail, or after an error of its own, all workers
      end, and the chief raises the error.

    Call it on the chief and on all workers, which share `directory`.

    Args:
        tuner: a tuner of keras-tuner.
        *args: arguments of `tuner.search`.
        **kwargs: its arguments by name.
        lost_after: seconds without a sign of life after which a worker counts as lost, the same on chief and workers.

    Raises:
        RuntimeError: if `max_consecutive_failed_trials` trials have failed one after another.
    """
    if not lost_after > 0:
        raise ValueError(f"`lost_after` must be a positive number of seconds. Received: {lost_after!r}")
    if "KERASTUNER_ORACLE_IP" not in os.environ:
        return tuner.search(*args, **kwargs)
    oracle = tuner.oracle
    is_chief = "chief" in os.environ["KERASTUNER_TUNER_ID"]  # as keras-tuner sees it
    tuner.oracle = (_Chief if is_chief else _Worker)(oracle, tuner, lost_after)
    try:
        tuner.search(*args, **kwargs)
        tuner.oracle.close()
    finally:
        tuner.oracle.stop()
        tuner.oracle = oracle


class _Wrapper:
    """An oracle that passes on to another one what it does not change."""

    def __init__(self, oracle, tuner, lost_after):
        self._oracle = oracle
        self._tuner = tuner
        self._lost_after = lost_after

    def __getattr__(self, name):
        return getattr(self._oracle, name)

    def close(self):
        """Raises what ended the search."""

    def stop(self):
        """Ends what runs in the background."""

    def _message_path(self, trial):
        return pathlib.Path(self._tuner.get_trial_dir(trial.trial_id)) / _MESSAGE_FILE


class _Worker(_Wrapper):
    """The oracle of a worker, which sends the chief signs of life during a trial."""

    _ended = None  # the event that ends the signs of life of the trial

    def create_trial(self, tuner_id):
        trial = self._oracle.create_trial(tuner_id)
        if trial.status == "IDLE":
            time.sleep(1)  # the tuner asks again at once
        elif trial.status == "RUNNING":
            self._ended = threading.Event()
            threading.Thread(target=self._show_life, args=(trial.trial_id, self._ended), daemon=True).start()
        return trial

    def end_trial(self, trial):
        self.stop()
        if trial.message:
            self._message_path(trial).write_text(trial.message)
        self._oracle.end_trial(trial)

    def stop(self):
        if self._ended is not None:
            self._ended.set()

    def _show_life(self, trial_id, ended):
        import grpc  # keras-tuner requires it

        while not ended.wait(self._lost_after / 6):
            with contextlib.suppress(grpc.RpcError):  # the chief may be restarting
                self._oracle.get_trial(trial_id)


class _Chief(_Wrapper):
    """The oracle of a chief, which gives the trials of lost workers to others."""

    def __init__(self, oracle, tuner, lost_after):
        super().__init__(oracle, tuner, lost_after)
        self._seen = {}  # worker -> when it gave the last sign of life
        self._error = None
        self._lock = threading.RLock()  # one thread serves the workers, the main thread asks whether they are done

    @property
    def verbose(self):
        return self._oracle.verbose

    @verbose.setter
    def verbose(self, value):
        self._oracle.verbose = value

    # keras-tuner ends the chief when there are none of these.
    @property
    def tuner_ids(self):
        with self._lock:
            return {worker for worker in self._oracle.tuner_ids if not self._is_lost(worker)}

    @property
    def ongoing_trials(self):
        with self._lock:
            trials = self._oracle.ongoing_trials
            return {w: t for w, t in trials.items() if self._error is None or not self._is_lost(w)}

    def create_trial(self, tuner_id):
        with self._lock:
            self._seen[tuner_id] = time.monotonic()
            trials = self._oracle.ongoing_trials
            lost = [worker for worker in trials if self._is_lost(worker)]
            if self._error is None and lost and tuner_id not in trials:
                return self._take_over(lost[0], tuner_id)
            try:
                trial = self._oracle.create_trial(tuner_id) if self._error is None else None
            except Exception as error:  # of the oracle: no trial can follow
                self._error, trial = error, None
            if trial is None:
                self._oracle.tuner_ids.discard(tuner_id)
                return Trial(self._oracle.get_space(), status="STOPPED")
            if trial.status == "STOPPED" and trials:
                self._oracle.tuner_ids.add(tuner_id)
                trial.status = "IDLE"  # another worker may be lost, and its trial come back
            return trial

    def get_trial(self, trial_id):
        with self._lock:
            for worker, trial in self._oracle.ongoing_trials.items():
                if trial.trial_id == trial_id:
                    self._seen[worker] = time.monotonic()
            return self._oracle.get_trial(trial_id)

    def update_trial(self, trial_id, metrics, step=0):
        trial = self.get_trial(trial_id)
        return self._oracle.update_trial(trial_id, metrics, step) if self._is_ongoing(trial) else trial

    def end_trial(self, trial):
        with self._lock:
            if not self._is_ongoing(trial):
                return  # a worker counted as lost, and another one was faster
            path = self._message_path(trial)
            if trial.status != "COMPLETED" and path.exists():
                trial.message = path.read_text()
                path.unlink()
                print(f"Trial {trial.trial_id} failed: {failure_reason(trial.message)}", flush=True)
            try:
                self._oracle.end_trial(trial)
            except RuntimeError as error:  # too many failed trials in a row
                self._error = error
                for worker in [w for w, t in self._oracle.ongoing_trials.items() if t.trial_id == trial.trial_id]:
                    del self._oracle.ongoing_trials[worker]

    def close(self):
        if self._error is not None:
            raise self._error

    def _is_ongoing(self, trial):
        return any(other.trial_id == trial.trial_id for other in self._oracle.ongoing_trials.values())

    def _is_lost(self, worker):
        now = time.monotonic()
        return now - self._seen.setdefault(worker, now) > self._lost_after

    def _take_over(self, lost, worker):
        """Gives a worker the trial of a lost one."""
        trial = self._oracle.ongoing_trials.pop(lost)
        self._oracle.ongoing_trials[worker] = trial
        self._oracle.tuner_ids.discard(lost)
        self._oracle.tuner_ids.add(worker)
        trial.metrics = type(trial.metrics)()  # it may have been lost after it reported them
        self._oracle.save()
        print(
            f"{lost} was not heard of for {self._lost_after} seconds. {worker} starts trial {trial.trial_id} again.",
            flush=True,
        )
        return trial
