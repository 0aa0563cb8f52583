# SPDX-License-Identifier: Apache-2.0
"""Functions with a derivative of their own, for nested arguments."""

from keras import backend, ops, tree


def custom_gradient(function, arguments):
    """Call a function whose derivative is written by hand.

    Over `keras.ops.custom_gradient` it adds nested arguments, None among them, and one convention for the backends.

    Args:
        function: `function(*arguments) -> (results, gradient)`, with `gradient(*d_results)` giving the gradients of
            the arguments. Results are a tuple of nested tensors; gradients have the structure of the arguments and
            are None where they are zero. Whatever a gradient could be asked of must be an argument, not captured.
        arguments: tuple of nested tensors and None. A variable must have been read: no gradient reaches it here.

    Returns:
        The results.
    """
    flat = tree.flatten(arguments)
    given = [argument is not None for argument in flat]
    structure = None  # of the results, known when the function has run

    def run(*tensors):
        nonlocal structure
        remaining = iter(tensors)
        packed = tree.pack_sequence_as(arguments, [next(remaining) if there else None for there in given])
        structure, gradient = function(*packed)

        def flat_gradient(*upstream):
            # TensorFlow and PyTorch pass one argument a result, JAX one for all.
            upstream = upstream[0] if isinstance(upstream[0], (tuple, list)) else upstream
            d_flat = tree.flatten(gradient(*tree.pack_sequence_as(structure, list(upstream))))
            d_tensors = [d for d, there in zip(d_flat, given, strict=True) if there]
            return tuple(ops.zeros_like(x) if d is None else d for x, d in zip(tensors, d_tensors, strict=True))

        return tuple(tree.flatten(structure)), flat_gradient

    differentiable = _torch_custom_gradient if backend.backend() == "torch" else ops.custom_gradient
    results = differentiable(run)(*(argument for argument in flat if argument is not None))
    return tree.pack_sequence_as(structure, list(results))


def _torch_custom_gradient(function):
    """`keras.ops.custom_gradient`, which on PyTorch serves functions of one result alone."""
    import torch

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *tensors):
            results, ctx.gradient = function(*tensors)
            # The gradient may hold the results. New ones carry the graph, or it would hold itself, for ever.
            return tuple(result.detach() for result in results)

        @staticmethod
        def backward(ctx, *upstream):
            if torch.is_grad_enabled():
                raise NotImplementedError("On PyTorch a recurrence has no second-order gradient (`create_graph=True`).")
            return ctx.gradient(*upstream)

    return Function.apply
