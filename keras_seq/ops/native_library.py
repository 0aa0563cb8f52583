# SPDX-License-Identifier: Apache-2.0
"""The ops of the native library, as the library itself describes them (`custom_ops/xla/describe.cc`).

Python adds only the rules that the names follow: `d_x` is the gradient of the argument `x` or the upstream gradient of
the result `x`, and `final_c` is the final state `c`. A gradient op reads the arguments of its op, then some of the
results, then the upstream gradients. Every argument and result is a list of tensors, usually one for each direction.
"""

import ctypes
import functools
import itertools
import json
from collections.abc import Callable, Iterable

SECOND_ORDER = 'The native {op} has no second-order gradient. Use implementation="xla" for it.'
NO_SEARCH_GRADIENT = (
    "No gradient flows through the native steps of a search or rollout ({op}). Use `tf.stop_gradient` on what it "
    'returns, or implementation="xla".'
)
_SIZES = ("batch", "time", "features", "units", "source", "memory_units", "attention_units", "hidden_units")


class UnavailableError(Exception):
    """The reason why the native kernels cannot run in this process."""


def check_instruction_set(library: ctypes.CDLL) -> None:
    """Raise `UnavailableError` if the library has no kernels for this CPU and the environment."""
    error = ctypes.c_char_p()
    library.KerasSeqInstructionSet.restype = ctypes.c_char_p
    if library.KerasSeqInstructionSet(ctypes.byref(error)) is None:
        raise UnavailableError((error.value or b"no instruction set").decode())


def describe_ops(library: ctypes.CDLL) -> dict[str, "Op"]:
    """Return the ops of a library that ctypes loaded: a dict of `Op` by name."""
    library.KerasSeqDescribeOps.restype = ctypes.c_char_p
    description = json.loads(library.KerasSeqDescribeOps())
    residual_size = library.KerasSeqResidualSize
    residual_size.restype = ctypes.c_int64
    residual_size.argtypes = [ctypes.c_char_p] * 2 + [ctypes.c_bool] * 2 + [ctypes.c_int64] * len(_SIZES)
    states = {cell: tuple(names) for cell, names in description["states"].items()}
    return {name: Op(name, states, residual_size, **op) for name, op in description["ops"].items()}


def split(flat: Iterable, lengths: dict[str, int]) -> dict[str, list]:
    """Split a flat list into a dict of lists, with the names and lengths of the dict `lengths`."""
    flat = iter(flat)
    return {name: list(itertools.islice(flat, length)) for name, length in lengths.items()}


class Op:
    """The names of an op's arguments and results, in order, each with the attribute that holds the list's length.

    Attributes:
        name: such as "LSTM".
        states: dict, the names of the states of each cell.
        defaults: dict, the attributes that choose the equations, with their defaults.
        shapes: dict, the names of the axes of each argument and result.
        arguments: dict, argument -> length attribute.
        results: dict, result -> length attribute.
        gradient_arguments: list, what the gradient op reads.
        upstream: dict, upstream gradient -> length attribute.
        wanted: dict, argument that has a gradient -> attribute that says how many of its list are wanted.
    """

    def __init__(
        self,
        name: str,
        states: dict[str, tuple[str, ...]],
        residual_size: Callable,
        *,
        attends: bool,
        attributes: dict,
        forward: dict,
        gradient: dict,
    ):
        self.name = name
        self.attends = attends
        self.states = states
        self.defaults = attributes
        self.shapes = {x["name"]: x["shape"] for x in (*forward["inputs"], *forward["outputs"])}
        self.arguments = {x["name"]: x["count"] for x in forward["inputs"]}
        self.results = {x["name"]: x["count"] for x in forward["outputs"]}
        self.gradient_arguments = [x["name"] for x in gradient["inputs"]]
        self.upstream = {x["name"]: x["count"] for x in gradient["inputs"] if x["name"].startswith("d_")}
        self.wanted = {x["name"].removeprefix("d_"): x["count"] for x in gradient["outputs"]}
        self._residual_size = residual_size

    def results_for_gradient(self, results: dict[str, list]) -> dict[str, list]:
        """Return the results that the gradient op reads."""
        return {name: results[name] for name in self.gradient_arguments if name in self.results}

    def wanted_counts(self, arguments: dict[str, list], names: set[str]) -> dict[str, int]:
        """Return the attributes of `wanted`, if the gradients of the arguments in `names` are wanted.

        The gradients of a list are computed for all directions or for none.
        """
        counts = dict.fromkeys(self.wanted.values(), 0)
        counts.update({count: len(arguments[name]) for name, count in self.wanted.items() if name in names})
        return counts

    def gradients(self, arguments: dict[str, list], counts: dict[str, int], flat: Iterable) -> dict[str, list]:
        """Return a list for each argument, with its gradients from the flat results of the gradient op, or None."""
        computed = split(flat, {name: counts[count] for name, count in self.wanted.items()})
        return {name: computed.get(name) or [None] * len(tensors) for name, tensors in arguments.items()}

    def residual_size(
        self, cell: str, dtype: str, reset_after: bool, sizes: dict[str, int], *, layer_norm: bool = False
    ) -> int:
        """Return the size of the residuals of one direction.

        `sizes` maps names of axes to sizes; it has "hidden_units" only if h is projected.
        """
        size = self._residual_size(
            cell.encode(), dtype.encode(), reset_after, layer_norm, *(sizes.get(name, -1) for name in _SIZES)
        )
        if size < 0:
            raise ValueError(f"The native {self.name} does not support {dtype} with the sizes {sizes}.")
        return size


class OpCall:
    """A call of an op without its tensors. Made by `op_call`.

    Attributes:
        op: the `Op`.
        cell: the name of the cell.
        states: the names of its states.
        reverse: tuple of bool, one for each direction.
        keep_residuals: whether the forward pass keeps residuals.
        attributes: dict, the attributes that choose the equations.
        has_coverage: whether the attention has a coverage, an argument and a result.
        result_lengths: dict, result -> length of its list.
        extra_counts: dict, the attributes for lengths of results that are not lengths of arguments too.
    """

    def __init__(
        self, op: Op, cell: str, reverse: tuple[bool, ...], keep_residuals: bool, attributes: dict, has_coverage: bool
    ):
        self.op = op
        self.cell = cell
        self.states = op.states[cell]
        self.reverse = reverse
        self.keep_residuals = keep_residuals
        self.has_coverage = has_coverage
        self.attributes = {**op.defaults, **attributes}
        if "cell" in op.defaults:
            self.attributes["cell"] = cell
        absent = {f"final_{state}" for states in op.states.values() for state in states if state not in self.states}
        self.result_lengths = {name: 0 if name in absent else len(reverse) for name in op.results}
        self.result_lengths.update((name, len(reverse) * has) for name, has in self._optional_results())
        self.extra_counts = {
            count: self.result_lengths[name] for name, count in op.results.items() if count not in op.arguments.values()
        }

    def _optional_results(self) -> list[tuple[str, bool]]:
        """Return the results of an op that attends that only some calls have, and whether this one has them."""
        after = self.attributes.get("attend") == "after"
        has = {"fed": after, "final_fed": after, "final_coverage": self.has_coverage}
        has["final_weights"] = self.attributes.get("weighting", "softmax") != "softmax"
        return [(name, has[name]) for name in has if name in self.op.results]

    def with_residuals(self, keep_residuals: bool) -> "OpCall":
        """Return the same call with or without residuals."""
        attributes = tuple(self.attributes.items())
        return op_call(self.op, self.cell, self.reverse, keep_residuals, attributes, self.has_coverage)


@functools.cache
def op_call(
    op: Op, cell: str, reverse: tuple[bool, ...], keep_residuals: bool, attributes: tuple, has_coverage: bool = False
) -> OpCall:
    """Return the `OpCall` of these values, always the same object. `attributes` is a tuple of pairs."""
    return OpCall(op, cell, reverse, keep_residuals, dict(attributes), has_coverage)
