# SPDX-License-Identifier: Apache-2.0
"""Runs a recurrent layer step by step, as a search does: what all steps share is computed once."""

from keras import ops

from keras_seq.layers.attention_cell import AttentiveLayer
from keras_seq.layers.recurrent_cell import has_cell_equations
from keras_seq.ops import native
from keras_seq.ops.equations.protocol import RecurrentWeights
from keras_seq.ops.implementation import Choice
from keras_seq.ops.masks import as_bool_mask, zero_masked_positions
from keras_seq.ops.search_step import AttendedMemory, run_search_step

_LARGEST_TABLE = 256  # tokens: for more, the products with all embeddings cost more than those of a short search


def start_search(layer, embedding, memory=None, memory_mask=None, num_beams=1):
    """Prepares a search with a recurrent layer that reads embedded tokens.

    Args:
        layer: an `AttentionDecoder`, or a recurrent layer with a single cell.
        embedding: the `keras.layers.Embedding` of the tokens.
        memory: (sources, positions, features), if the layer attends.
        memory_mask: (sources, positions) booleans, True = keep, or None.
        num_beams: how many rows of a step attend to each memory.

    Returns:
        `(step, memory)`. The memory is a dict of tensors (sources, ...) with all that steps read of it, for which the
        function is `step(tokens, state, memory, is_live) -> (output, state, attention_weights)`; see `run_search_step`
        and `Decoder.start_search`. Without attention, the weights are (rows, 0).
    """
    if isinstance(layer, AttentiveLayer):
        start = _start_additive if layer.reads_context_products() else _start_attending
        return start(layer, embedding, memory, memory_mask, num_beams)
    start = _start_equations if has_cell_equations(layer.cell) else _start_calling
    return start(layer, embedding)


def choose_search_implementation(layer):
    """Return what runs the steps of a search with a recurrent layer, and why: a `Choice`."""
    attends = isinstance(layer, AttentiveLayer)
    in_search = layer.reads_context_products() if attends else has_cell_equations(layer.cell)
    choice = layer.choose_implementation()
    if choice.implementation == "cudnn":
        return Choice("xla", "steps of a search; cuDNN runs whole sequences")
    if in_search:
        return choice._replace(reason=f"steps of a search; {choice.reason}")
    needs = "a cell of keras_seq, without attention or with additive attention before it"
    return Choice("xla", f"steps of a search; native ones need {needs}")


def _start_additive(layer, embedding, memory, memory_mask, num_beams):
    """Prepares a search with additive attention before cell equations: the memory is multiplied ahead of the loop."""
    cell, dtype, features = layer.cell, layer.compute_dtype, embedding.output_dim
    runs_native = _runs_native(layer)
    kernel = ops.cast(cell.kernel, dtype)
    embedded_products = _products_of_tokens(layer, embedding, kernel[:features])
    memory = zero_masked_positions(ops.cast(memory, dtype), memory_mask)
    query_kernel = ops.cast(layer.attention.query_kernel, dtype)
    score_vector = layer.attention.score_vector(memory)
    sources, positions, _ = ops.shape(memory)
    multiply = native.multiply if runs_native else ops.matmul
    products = multiply(ops.reshape(memory, (sources * positions, memory.shape[-1])), kernel[features:])
    products = ops.reshape(products, (sources, positions, kernel.shape[-1]))
    tensors = {"products": products, "keys": layer.project_memory(memory)}
    if memory_mask is not None:
        tensors["mask"] = as_bool_mask(memory_mask)

    def step(tokens, state, memory, is_live=None):
        memory = memory if runs_native else _rows_of(memory)  # the native op reads one memory for all beams
        attended = AttendedMemory(memory["products"], memory["keys"], memory.get("mask"), query_kernel, score_vector)
        call = _call_on_products(cell, embedded_products(tokens), state)
        state, attention_weights = run_search_step(call, attended, is_live, layer.implementation)
        return state[0], list(state), attention_weights

    return step, tensors if runs_native else _repeat(tensors, num_beams)


def _start_attending(layer, embedding, memory, memory_mask, num_beams):
    """Prepares a search with any attention and any order: each step is one of the layer."""
    memory = zero_masked_positions(ops.cast(memory, layer.compute_dtype), memory_mask)
    tensors = {"memory": memory, "keys": layer.project_memory(memory)}
    if memory_mask is not None:
        tensors["mask"] = as_bool_mask(memory_mask)

    def step(tokens, state, memory, is_live=None):
        memory = _rows_of(memory)
        return layer.step(embedding(tokens), state, memory["memory"], memory["keys"], memory.get("mask"))

    return step, _repeat(tensors, num_beams)


def _start_equations(layer, embedding):
    """Prepares a search with cell equations, without attention."""
    cell, dtype = layer.cell, layer.compute_dtype
    embedded_products = _products_of_tokens(layer, embedding, ops.cast(cell.kernel, dtype))

    def step(tokens, state, memory, is_live=None):
        call = _call_on_products(cell, embedded_products(tokens), state)
        state, _ = run_search_step(call, None, is_live, layer.implementation)
        return state[0], list(state), ops.zeros((ops.shape(tokens)[0], 0), dtype)

    return step, {}


def _start_calling(layer, embedding):
    """Prepares a search with a cell without attention whose `call` must run."""

    def step(tokens, state, memory, is_live=None):
        output, state = layer.cell(embedding(tokens), state, training=False)
        return output, state, ops.zeros((ops.shape(output)[0], 0), output.dtype)

    return step, {}


def _runs_native(layer):
    return layer.choose_implementation().implementation == "native"


def _products_of_tokens(layer, embedding, kernel):
    """Return a function from tokens (rows,) to the input products of their embeddings, (rows, gates * units)."""
    cell, runs_native = layer.cell, _runs_native(layer)

    def multiply(embedded, keep_product=False):
        embedded = ops.cast(embedded, kernel.dtype)
        if runs_native:
            return native.multiply(embedded, kernel, keep_product=keep_product)
        weights = RecurrentWeights(cell.recurrent_kernel, None, cell.extra_weights())
        return cell.equations.input_product(weights, embedded, kernel, None)

    if embedding.input_dim > _LARGEST_TABLE:
        return lambda tokens: multiply(embedding(tokens))
    table = multiply(embedding.embeddings, keep_product=True)
    return lambda tokens: ops.take(table, tokens, axis=0)


def _call_on_products(cell, products, state):
    """Return the `RecurrentCall` of one step on products with the kernel."""
    return cell.recurrent_call(products[:, None], tuple(state))._replace(kernel=None)


def _repeat(tensors, num_beams):
    """Repeat the tensors (sources, ...) of a memory for each beam: (sources, beams, ...)."""
    return {name: ops.repeat(x[:, None], num_beams, axis=1) for name, x in tensors.items()}


def _rows_of(tensors):
    """Merge the axes of sources and beams."""

    def merge(x):
        sources, beams, *shape = ops.shape(x)
        return ops.reshape(x, (sources * beams, *shape))

    return {name: merge(x) for name, x in tensors.items()}
