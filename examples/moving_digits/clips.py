# SPDX-License-Identifier: Apache-2.0
"""Clips of handwritten digits that move behind a fence, and change into another digit at an unknown moment."""

import numpy as np

HEIGHT, WIDTH, SIZE = 12, 16, 8  # of a frame and of a digit, in pixels
FRAMES = 12
OPEN = np.arange(WIDTH) % 4 == 1  # the columns that the fence leaves open: one of four


def load_images():
    """Returns a dict from split to (images, digits). A split's clips show only its own images; the test has a fifth."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise SystemExit("The digits are those of scikit-learn: pip install 'keras_seq[examples]'") from None
    digits = load_digits()
    images, labels = digits.images.astype("float32") / 16, digits.target
    splits = {}
    for name, share in (("test", 0.2), ("dev", 0.125)):
        images, held_out, labels, held_out_labels = train_test_split(
            images, labels, test_size=share, stratify=labels, random_state=0
        )
        splits[name] = (held_out, held_out_labels)
    return splits | {"train": (images, labels)}


def bounce(start, velocity, room):
    """Returns the positions (clips, frames), from 0 to `room`, of points that turn round at both ends."""
    position = (start[:, None] + velocity[:, None] * np.arange(FRAMES)) % (2 * room)
    return np.rint(room - np.abs(room - position)).astype(int)


def make_clips(images, digits, count, seed):
    """Returns clips as a camera in front of the fence sees them, without the fence, and the digit of each frame.

    The first two are arrays (clips, frames, height, width, 1), the digits (clips, frames).
    """
    rng = np.random.default_rng(seed)
    shown = rng.integers(len(images), size=(count, 2))  # the images before and after the change
    while (same := digits[shown[:, 0]] == digits[shown[:, 1]]).any():
        shown[same, 1] = rng.integers(len(images), size=same.sum())
    change = rng.integers(1, FRAMES, size=count)  # the first frame of the second image
    which = np.where(np.arange(FRAMES) < change[:, None], shown[:, :1], shown[:, 1:])  # (clips, frames)
    room = np.array([HEIGHT, WIDTH]) - SIZE
    starts = rng.uniform(0, 2 * room, size=(count, 2))  # beyond `room`, the way back
    speeds = rng.uniform(0.5, 1.5, size=(count, 2))  # pixels a frame
    y, x = (bounce(starts[:, axis], speeds[:, axis], room[axis]) for axis in range(2))
    scenes = np.zeros((count, FRAMES, HEIGHT, WIDTH, 1), "float32")
    clip, frame = np.ogrid[:count, :FRAMES]
    rows, columns = np.ogrid[:SIZE, :SIZE]
    at = (clip[..., None, None], frame[..., None, None], y[..., None, None] + rows, x[..., None, None] + columns, 0)
    scenes[at] = images[which]
    return scenes * OPEN[:, None], scenes, digits[which]
