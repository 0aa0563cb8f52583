# SPDX-License-Identifier: Apache-2.0
"""Runs a recurrent layer step by step, as a search does: what all steps share is computed once."""

from keras import ops, tree

from keras_seq.layers.attention_cell import AttentiveLayer
from keras_seq.layers.foreign_cell import call_cell
from keras_seq.layers.recurrent_cell import has_cell_equations
from keras_seq.layers.rnn import flat_cells
from keras_seq.ops import native
from keras_seq.ops.equations.protocol import RecurrentWeights
from keras_seq.ops.implementation import Choice, choose_implementation
from keras_seq.ops.masks import as_bool_mask, zero_masked_positions
from keras_seq.ops.search_step import AttendedMemory, run_search_step

_LARGEST_TABLE = 256  # tokens: for more, the products with all embeddings cost more than those of a short search


def start_search(layer, embedding=None, memory=None, memory_mask=None, num_beams=1, features=None):
    """Prepares a search with a recurrent layer that reads tokens, or anything else.

    Args:
        layer: an `AttentionDecoder`, or an `RNN` with one cell or a stack.
        embedding: the `keras.layers.Embedding` of the tokens. By default None: steps take inputs (rows, features) in
            the place of tokens.
        memory: (sources, positions, features), if the layer attends.
        memory_mask: (sources, positions) booleans, True = keep, or None.
        num_beams: how many rows of a step attend to each memory.
        features: (sources, n), appended to the embedding of each token, or None.

    Returns:
        `(step, memory)`. The memory is a dict of tensors (sources, ...) with all that steps read of it, for which the
        function is `step(tokens, state, memory, is_live=None) -> (output, state, attention_weights)`; see
        `run_search_step` and `Decoder.start_search`. The state is a flat list, that of a stack the states of its cells
        one after another. Without attention, the weights are (rows, 0).
    """
    if isinstance(layer, AttentiveLayer):
        on_products = _runs_native(layer) or layer.reads_context_products()
        start = _start_on_products if on_products else _start_attending
        return start(layer, embedding, memory, memory_mask, num_beams, features)
    return _start_stack(layer, embedding, num_beams, features)


def choose_search_implementation(layer):
    """Return what runs the steps of a search with a recurrent layer, and why: a `Choice`."""
    if isinstance(layer, AttentiveLayer):
        return _describe_steps(layer.implementation_for(layer.implementation, in_search=True))
    layer.choose_implementation()  # raises an error if it cannot run
    choices = [_describe_steps(_choose(layer, cell)) for cell in flat_cells(layer)]
    return Choice(*("; ".join(dict.fromkeys(parts)) for parts in zip(*choices, strict=True)))


def _describe_steps(choice):
    if choice.implementation == "cudnn":
        return Choice("xla", "steps of a search; cuDNN runs whole sequences")
    return choice._replace(reason=f"steps of a search; {choice.reason}")


def _runs_native(layer):
    """Whether the native kernels run the steps of a layer that attends."""
    return layer.implementation_for(layer.implementation, in_search=True).implementation == "native"


def _choose(layer, cell):
    """Return what runs a cell of a layer without attention."""
    if not has_cell_equations(cell):
        return choose_implementation(layer.implementation, cell, layer.compute_dtype)
    return choose_implementation(layer.implementation, cell.equations, layer.compute_dtype, layer.call_features(cell))


def _start_on_products(layer, embedding, memory, memory_mask, num_beams, features):
    """Prepares a search with attention around cell equations: products with the cell's kernel are its inputs.

    Attention before the cell reads products of the memory, computed ahead of the loop. What attention after the cell
    feeds is multiplied in each step. With "xla" only additive attention before the cell runs so.
    """
    cell, dtype, runs_native = layer.cell, layer.compute_dtype, _runs_native(layer)
    multiply = native.multiply if runs_native else _multiply  # steps normalize the sum of all products
    kernel = ops.cast(cell.kernel, dtype)
    size = kernel.shape[0] - layer.fed_units(memory.shape[-1])  # of the inputs
    of_fed = kernel[size:]
    input_products, shared = _products_of_inputs(cell, embedding, kernel[:size], multiply, num_beams, features)
    memory = zero_masked_positions(ops.cast(memory, dtype), memory_mask)
    sources, positions, memory_units = ops.shape(memory)
    equations, weights = layer.step_equations(), layer.step_weights(memory)
    cells, is_unread = len(layer.state_size), layer.attend == "after" and not layer.feeds_next_step
    tensors = {"keys": layer.project_memory(memory)}
    if layer.attend == "before":
        products = multiply(ops.reshape(memory, (sources * positions, memory_units)), of_fed)
        tensors["products"] = ops.reshape(products, (sources, positions, kernel.shape[-1]))
    else:
        tensors["memory"] = memory
    if memory_mask is not None:
        tensors["mask"] = as_bool_mask(memory_mask)

    def step(tokens, state, memory, is_live=None):
        products = input_products(tokens, memory)
        state, attention_state = state[:cells], list(state[cells:])
        if layer.feeds_next_step:
            products = products + multiply(ops.cast(attention_state[0], dtype), of_fed)
        if is_unread:  # the native op has a state that no step reads
            shape = ops.shape(products)[0], layer.attentional_units or memory_units
            attention_state.insert(0, ops.zeros(shape, dtype))
        if not runs_native:  # the native op reads one memory for all beams
            memory = _rows_of({name: memory[name] for name in tensors})
        read = memory["products" if layer.attend == "before" else "memory"]
        attended = AttendedMemory(equations, read, memory["keys"], memory.get("mask"), weights, attention_state)
        call = _call_on_products(cell, products, state)
        output, state, attention_weights = run_search_step(call, attended, is_live, layer.implementation)
        return output, [*state[:cells], *state[cells + is_unread :]], attention_weights

    return step, shared | (tensors if runs_native else _repeat(tensors, num_beams))


def _start_attending(layer, embedding, memory, memory_mask, num_beams, features):
    """Prepares a search with any attention and any order: each step is one of the layer."""
    memory = zero_masked_positions(ops.cast(memory, layer.compute_dtype), memory_mask)
    tensors = {"memory": memory, "keys": layer.project_memory(memory)}
    if memory_mask is not None:
        tensors["mask"] = as_bool_mask(memory_mask)

    read, shared = _input_reader(layer, embedding, num_beams, features)

    def step(tokens, state, memory, is_live=None):
        inputs = read(tokens, memory)
        memory = _rows_of({name: memory[name] for name in tensors})
        return layer.step(inputs, state, memory["memory"], memory["keys"], memory.get("mask"))

    return step, shared | _repeat(tensors, num_beams)


def _start_stack(layer, embedding, num_beams, features):
    """Return the step of a layer without attention, that of each of its cells, one on another; and its memory."""
    cells = flat_cells(layer)
    counts = [len(tree.flatten(cell.state_size)) for cell in cells]
    starts = [_start_equations if has_cell_equations(cell) else _start_calling for cell in cells]
    (first, shared), *others = [
        start(layer, cell, *((None, num_beams, None) if i else (embedding, num_beams, features)))
        for i, (start, cell) in enumerate(zip(starts, cells, strict=True))
    ]
    steps = [first, *(step for step, _ in others)]

    def step(tokens, state, memory, is_live=None):
        output, state, new_state = tokens, tree.flatten(state), []
        for depth, (run_cell, count) in enumerate(zip(steps, counts, strict=True)):
            inputs, (output, cell_state) = output, run_cell(output, state[:count], memory, is_live)
            output = output + inputs if depth and layer.residual else output
            state = state[count:]
            new_state += cell_state
        return output, new_state, ops.zeros((ops.shape(output)[0], 0), output.dtype)

    return step, shared


def _start_equations(layer, cell, embedding, num_beams, features):
    """Return the step of a cell with cell equations, `step(tokens, state, memory, is_live) -> (output, state)`."""
    runs_native = _choose(layer, cell).implementation == "native"
    kernel = ops.cast(cell.kernel, layer.compute_dtype)
    multiply = native.multiply if runs_native else _multiply_by(cell)
    products, shared = _products_of_inputs(cell, embedding, kernel, multiply, num_beams, features)

    def step(tokens, state, memory, is_live):
        call = _call_on_products(cell, products(tokens, memory), state)
        output, state, _ = run_search_step(call, None, is_live, layer.implementation)
        return output, list(state)

    return step, shared


def _start_calling(layer, cell, embedding, num_beams, features):
    """Return the step of a cell whose `call` must run, and what it reads of each source."""
    read, shared = _input_reader(layer, embedding, num_beams, features)

    def step(tokens, state, memory, is_live):
        inputs = ops.cast(read(tokens, memory), layer.compute_dtype)
        return call_cell(cell, inputs, state, training=False)

    return step, shared


def _input_reader(layer, embedding, num_beams, features):
    """Return a function from tokens and the memory of a search to inputs (rows, features), and what it reads of it."""
    if features is None:
        return lambda tokens, memory: tokens if embedding is None else embedding(tokens), {}

    def read(tokens, memory):
        inputs = embedding(tokens)
        return ops.concatenate([inputs, _for_each_beam(memory["features"], num_beams)], axis=-1)

    return read, {"features": ops.cast(features, layer.compute_dtype)}


def _products_of_inputs(cell, embedding, kernel, multiply, num_beams, features):
    """Return a function from tokens and memory to input products (rows, gates * units), and what it reads of that.

    The products of features are those of a source, the same at each step, unless the sum with those of the token is
    normalized.
    """
    size = kernel.shape[0] - (0 if features is None else features.shape[-1])
    of_tokens = _products_of_tokens(embedding, kernel[:size], multiply)
    if features is None:
        return lambda tokens, memory: of_tokens(tokens), {}
    features = ops.cast(features, kernel.dtype)
    if getattr(cell, "layer_norm", False):
        of_inputs = _products_of_tokens(None, kernel, multiply)

        def join(tokens, memory):
            inputs = ops.cast(embedding(tokens), kernel.dtype)
            return of_inputs(ops.concatenate([inputs, _for_each_beam(memory["features"], num_beams)], axis=-1))

        return join, {"features": features}
    products = _products_of_tokens(None, kernel[size:], multiply)(features)
    return (
        lambda tokens, memory: of_tokens(tokens) + _for_each_beam(memory["feature_products"], num_beams),
        {"feature_products": products},
    )


def _products_of_tokens(embedding, kernel, multiply):
    """Return a function from tokens (rows,), or inputs (rows, features), to input products (rows, gates * units)."""

    def products_of(inputs, keep_product=False):
        return multiply(ops.cast(inputs, kernel.dtype), kernel, keep_product=keep_product)

    if embedding is None:
        return products_of
    if embedding.input_dim > _LARGEST_TABLE:
        return lambda tokens: products_of(embedding(tokens))
    table = products_of(embedding.embeddings, keep_product=True)
    return lambda tokens: ops.take(table, tokens, axis=0)


def _multiply(inputs, kernel, keep_product=False):
    return ops.matmul(inputs, kernel)


def _multiply_by(cell):
    """Return a function `(inputs, kernel) -> products` as an xla step of the cell without attention reads them."""

    def multiply(inputs, kernel, keep_product=False):
        weights = RecurrentWeights(cell.recurrent_kernel, None, cell.extra_weights())
        return cell.equations.input_product(weights, inputs, kernel, None)

    return multiply


def _call_on_products(cell, products, state):
    """Return the `RecurrentCall` of one step on products with the kernel."""
    return cell.recurrent_call(products[:, None], tuple(state))._replace(kernel=None)


def _repeat(tensors, num_beams):
    """Repeat the tensors (sources, ...) of a memory for each beam: (sources, beams, ...)."""
    return {name: ops.repeat(x[:, None], num_beams, axis=1) for name, x in tensors.items()}


def _for_each_beam(tensor, num_beams):
    """Repeat the rows (sources, n) for each beam: (sources * beams, n)."""
    return tensor if num_beams == 1 else ops.repeat(tensor, num_beams, axis=0)


def _rows_of(tensors):
    """Merge the axes of sources and beams."""

    def merge(x):
        sources, beams, *shape = ops.shape(x)
        return ops.reshape(x, (sources * beams, *shape))

    return {name: merge(x) for name, x in tensors.items()}
