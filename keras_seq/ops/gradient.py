# SPDX-License-Identifier: Apache-2.0
"""Functions with a derivative of their own, for nested arguments."""

from keras import ops, tree


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

    @ops.custom_gradient
    def run(*tensors):
        nonlocal structure
        remaining = iter(tensors)
        packed = tree.pack_sequence_as(arguments, [next(remaining) if there else None for there in given])
        structure, gradient = function(*packed)

        def flat_gradient(*upstream):
            # TensorFlow passes one argument a result, JAX one for all.
            upstream = upstream[0] if isinstance(upstream[0], (tuple, list)) else upstream
            d_flat = tree.flatten(gradient(*tree.pack_sequence_as(structure, list(upstream))))
            d_tensors = [d for d, there in zip(d_flat, given, strict=True) if there]
            return tuple(ops.zeros_like(x) if d is None else d for x, d in zip(tensors, d_tensors, strict=True))

        return tuple(tree.flatten(structure)), flat_gradient

    results = run(*(argument for argument in flat if argument is not None))
    return tree.pack_sequence_as(structure, list(results))
