# SPDX-License-Identifier: Apache-2.0
"""Native ops on several JAX devices: each device runs its part of the batch.

A call becomes a `custom_partitioning` of JAX: a rule by which the partitioner propagates shardings through the call,
and a function that each device runs. No axis but the batch is sharded.
"""

import functools
import itertools
import math
from typing import Any, Protocol

import jax
from jax.custom_batching import sequential_vmap
from jax.experimental.custom_partitioning import ArrayMapping, CompoundFactor, SdyShardingRule, custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_BATCH = ("batch", "memories")  # each sequence has its memory
_RESIDUALS = "residuals"  # the axis of the residuals of all sequences, equally many of each


class Pass(Protocol):
    """A pass over any number of sequences. Equal ones compute the same."""

    def run(self, operands: dict[str, list]) -> dict[str, list]:
        """Compute the results. Those without an axis of sequences are sums over the sequences."""

    def axes(self, name: str) -> list[str]:
        """Return the names of the axes of an operand or result."""

    def result_lengths(self) -> dict[str, int]:
        """Return how many tensors each result has."""


@functools.partial(jax.jit, static_argnums=0, inline=True)  # an eager call is partitioned too
def run_sharded(pass_: Pass, operands: dict[str, list]) -> dict[str, list]:
    """Run a pass. Where the batch is sharded, each device runs its part."""
    batch = operands["inputs"][0].shape[0]
    if not isinstance(batch, int) or batch < 2:  # Keras infers shapes with symbols
        return pass_.run(operands)
    leaves, tree = jax.tree.flatten(operands)
    # `custom_partitioning` has no rule for `jax.vmap`.
    return sequential_vmap(lambda *leaves: _partitioned(pass_, tree, *leaves))(*leaves)


def _run_here(pass_: Pass, tree: Any, *leaves: jax.Array) -> dict[str, list]:
    return pass_.run(jax.tree.unflatten(tree, leaves))


_partitioned = custom_partitioning(_run_here, static_argnums=(0, 1))


def _partition(pass_: Pass, tree: Any, mesh: Mesh, operands: tuple, results: dict[str, list]) -> tuple:
    """Return the mesh, the function that each device runs, and the shardings of its results and operands."""
    names = _names(tree)
    axes = _axes_of_batch(pass_, mesh, names, operands)

    def sharding(name: str) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(axes) if axes and _has_batch(pass_, name) else PartitionSpec())

    def run_part(*leaves: jax.Array) -> dict[str, list]:
        part = _run_here(pass_, tree, *leaves)
        if not axes:
            return part
        return {name: x if _has_batch(pass_, name) else jax.lax.psum(x, axes) for name, x in part.items()}

    result_shardings = {name: [sharding(name)] * len(tensors) for name, tensors in results.items()}
    return mesh, run_part, result_shardings, tuple(sharding(name) for name in names)


def _sharding_rule(pass_: Pass, tree: Any, mesh: Mesh, operand_types: list, result_types: list) -> SdyShardingRule:
    """Return the rule for the partitioner: the batch may be sharded, nothing else."""
    operands = _names(tree)
    results = [name for name, length in sorted(pass_.result_lengths().items()) for _ in range(length)]
    batch = next(t.shape[0] for name, t in zip(operands, operand_types, strict=True) if name == "inputs")
    replicated, sizes, number = [], {}, itertools.count()

    def mapping(name: str, shape: list[int]) -> ArrayMapping:
        factors = [f"axis{next(number)}" for _ in shape]
        is_whole = not _has_batch(pass_, name) or shape[0] % batch > 0
        replicated.extend(factors if is_whole else factors[1:])
        if is_whole:
            return ArrayMapping(*factors)
        if shape[0] == batch:
            return ArrayMapping("batch", *factors[1:])
        sizes[factors[0]] = shape[0] // batch
        return ArrayMapping(CompoundFactor("batch", factors[0]), *factors[1:])

    operand_mappings, result_mappings = (
        tuple(mapping(name, t.shape) for name, t in zip(names, types, strict=True))
        for names, types in ((operands, operand_types), (results, result_types))
    )
    return SdyShardingRule(operand_mappings, result_mappings, need_replication_factors=tuple(replicated), **sizes)


_partitioned.def_partition(_partition, sharding_rule=_sharding_rule)


def _axes_of_batch(pass_: Pass, mesh: Mesh, names: list[str], operands: tuple) -> tuple[str, ...]:
    """Return the axes of the mesh over which the batch is sharded; none if the parts would differ in size."""
    batched = [x for name, x in zip(names, operands, strict=True) if pass_.axes(name)[0] in _BATCH]
    specs = [x.sharding.spec[0] for x in batched if len(x.sharding.spec)]
    spec = next((spec for spec in specs if spec), ())
    axes = spec if isinstance(spec, tuple) else (spec,)
    parts = math.prod(mesh.shape[axis] for axis in axes)
    is_even = len({x.shape[0] for x in batched}) == 1 and batched[0].shape[0] % parts == 0
    return axes if is_even else ()


def _has_batch(pass_: Pass, name: str) -> bool:
    return pass_.axes(name)[0] in (*_BATCH, _RESIDUALS)


def _names(tree: Any) -> list[str]:
    """Return the name of each leaf of a dict of lists."""
    names = jax.tree.unflatten(tree, range(tree.num_leaves))
    return [name for name in sorted(names) for _ in names[name]]
