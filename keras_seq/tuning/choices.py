# SPDX-License-Identifier: Apache-2.0
"""Ranges of hyperparameters: lists of values of any type, ranges of integers, and functions."""


def check_values(name, values):
    """Raises a ValueError unless `choose` takes these values."""
    if callable(values):
        return
    if not isinstance(values, (list, tuple, range)) or len(values) == 0:
        raise ValueError(
            f"`{name}` must be a list or tuple with at least one value, a range, or a function of a "
            f"`keras_tuner.HyperParameters`. Received: {values!r}"
        )
    if None in values and "none" in values:
        raise ValueError(
            f"`{name}` must not list both None and 'none': keras-tuner shows None as 'none'. Received: {values!r}"
        )


def check_attention(values):
    """Raises a ValueError if a list of attentions spells None as a string."""
    if not callable(values) and "none" in values:
        raise ValueError(f"`attention` must list None for a model without attention. Received: {values!r}")


def choose(hp, name, values):
    """Returns the value of a hyperparameter, and adds it to the search space.

    Args:
        hp: a `keras_tuner.HyperParameters`.
        name: name of the hyperparameter.
        values: a list or tuple of values of any type; a range of integers; or a function of `hp`.
    """
    if callable(values):
        return values(hp)
    if isinstance(values, range) and len(values) > 1:
        first, last = sorted((values[0], values[-1]))
        return hp.Int(name, first, last, step=abs(values.step))
    labels = label_values(values)
    if len(labels) == 1:
        hp.Fixed(name, next(iter(labels)))
        return values[0]
    chosen = hp.Choice(name, list(labels))
    if isinstance(chosen, float):  # keras-tuner sends numbers to workers in float32
        chosen = min(labels, key=lambda label: abs(label - chosen))
    if chosen not in labels:
        raise ValueError(
            f"`{name}` must be one of {list(labels)} in `hp`. Received: {chosen!r}, of another search space"
        )
    return labels[chosen]


def label_values(values):
    """Returns a dict from what keras-tuner shows of each value, all of one type that it supports, to the value."""
    if len({type(value) for value in values}) == 1 and isinstance(values[0], (str, bool, int, float)):
        return dict(zip(values, values, strict=True))
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return {float(value): value for value in values}

    def label(index, value):
        if value is None or isinstance(value, (str, bool, int, float)):
            return str(value).lower()
        name = getattr(value, "__name__", type(value).__name__)
        return f"{name.strip('<>')}_{index}"

    return {label(i, value): value for i, value in enumerate(values)}
