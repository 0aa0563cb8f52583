# SPDX-License-Identifier: Apache-2.0
"""Functions of nested tensors with a derivative written by hand."""

from collections.abc import Callable
from typing import Any

from keras import backend, ops, tree


def custom_gradient(function: Callable, arguments: tuple) -> Any:
    """Call a function whose derivative is written by hand.

    Unlike `keras.ops.custom_gradient` it takes nested arguments and None, and has one convention for all backends.

    Args:
        function: `function(*arguments) -> (results, gradient)`. The results are a tuple of nested tensors.
            `gradient(*d_results)` returns the gradients in the structure of the arguments, None where they are zero.
            A tensor that is captured instead of passed as an argument gets no gradient, and fails on JAX.
        arguments: tuple of nested tensors and None. Read variables before: no gradient reaches them here.

    Returns:
        The results.
    """
    flat = tree.flatten(arguments)
    given = [argument is not None for argument in flat]
    structure = None  # of the results, known once the function has run

    def run(*tensors):
        nonlocal structure
        remaining = iter(tensors)
        packed = tree.pack_sequence_as(arguments, [next(remaining) if there else None for there in given])
        structure, gradient = function(*packed)

        def flat_gradient(*upstream):
            # TensorFlow and PyTorch pass one argument for each result, JAX a single tuple.
            upstream = upstream[0] if isinstance(upstream[0], (tuple, list)) else upstream
            d_flat = tree.flatten(gradient(*tree.pack_sequence_as(structure, list(upstream))))
            d_tensors = [d for d, there in zip(d_flat, given, strict=True) if there]
            return tuple(ops.zeros_like(x) if d is None else d for x, d in zip(tensors, d_tensors, strict=True))

        return tuple(tree.flatten(structure)), flat_gradient

    differentiable = _torch_custom_gradient if backend.backend() == "torch" else ops.custom_gradient
    results = differentiable(run)(*(argument for argument in flat if argument is not None))
    return tree.pack_sequence_as(structure, list(results))


def _torch_custom_gradient(function: Callable) -> Callable:
    """Do what `keras.ops.custom_gradient` does. On PyTorch that takes functions of a single result only."""
    import torch

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *tensors):
            results, ctx.gradient = function(*tensors)
            # `gradient` may hold the results. Detached copies carry the graph, which would else refer to itself.
            return tuple(result.detach() for result in results)

        @staticmethod
        def backward(ctx, *upstream):
            if torch.is_grad_enabled():
                raise NotImplementedError("On PyTorch a recurrence has no second-order gradient (`create_graph=True`).")
            return ctx.gradient(*upstream)

    return Function.apply
