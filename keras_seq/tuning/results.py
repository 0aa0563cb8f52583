# SPDX-License-Identifier: Apache-2.0
"""The trials of a search as rows of a table."""

import re


def list_trials(tuner):
    """Lists the trials of a search, the best one first.

    Args:
        tuner: a tuner of keras-tuner, after `search`, or a new one with the same directory and project name.

    Returns:
        A list with a dict for each trial:

        - "trial_id": a string, as in the name of its folder.
        - "status": "COMPLETED", or "FAILED" and others, which come last.
        - "score": the value of the objective, or None.
        - "values": dict of the values of the hyperparameters, as keras-tuner shows them.
        - "error": the reason of a failure, a line, or None.

    Example:
        >>> import keras_tuner, tempfile
        >>> class Square(keras_tuner.RandomSearch):
        ...     def run_trial(self, trial, **options):
        ...         return trial.hyperparameters.Int("x", -3, 3) ** 2
        >>> tuner = Square(max_trials=2, directory=tempfile.mkdtemp())
        >>> tuner.search(verbose=0)
        >>> [trial["status"] for trial in list_trials(tuner)]
        ['COMPLETED', 'COMPLETED']
    """
    trials = list(tuner.oracle.trials.values())
    sign = -1 if tuner.oracle.objective.direction == "max" else 1
    completed = sorted((t for t in trials if t.status == "COMPLETED"), key=lambda t: sign * t.score)
    return [
        {
            "trial_id": trial.trial_id,
            "status": trial.status,
            "score": trial.score if trial.status == "COMPLETED" else None,
            "values": dict(trial.hyperparameters.values),
            "error": failure_reason(trial.message),
        }
        for trial in completed + [t for t in trials if t.status != "COMPLETED"]
    ]


def failure_reason(message):
    """Returns the line of a traceback that names the error, or None without a message."""
    lines = (message or "").strip().splitlines()
    errors = [line for line in lines if re.match(r"[A-Za-z_][\w.]*: ", line)]
    return (errors or lines or [None])[-1]
