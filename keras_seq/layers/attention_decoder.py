# SPDX-License-Identifier: Apache-2.0
"""The teacher-forced attention decoder: a recurrent layer that attends to a memory in every step."""

import keras
from keras import ops

from keras_seq._private_api import get_mask
from keras_seq.layers.attention import get_attention
from keras_seq.layers.attention_cell import AttentiveLayer
from keras_seq.layers.recurrent_layer import make_cell
from keras_seq.ops.implementation import can_compile, check_implementation
from keras_seq.ops.random import child_seed


@keras.saving.register_keras_serializable("keras_seq")
class AttentionDecoder(AttentiveLayer):
    """A recurrent layer that attends to a memory in every step.

    With `attend="before"` (Bahdanau, Cho & Bengio 2015) the previous output is the query, and the cell reads the
    context: `context_t = attend(h_{t-1})`, `h_t = cell([x_t, context_t])`. The output is h_t.

    With `attend="after"` (Luong, Pham & Manning 2015) the new output of the cell is the query:
    `h_t = cell([x_t, o_{t-1}])`, `context_t = attend(h_t)`. The output is the attentional vector
    `o_t = tanh([h_t, context_t] W)`, which the next step reads; the first step reads zeros. Without
    `attentional_units` the output is `[h_t, context_t]`, and the next step reads the context only. With
    `input_feeding=False` the cell reads x only: it runs over whole sequences first, then all steps attend at once,
    which is faster.

    `attend="after"` is the order of TensorFlow Addons' `AttentionWrapper`; see `AttentionCell`.

    With an attention of keras_seq, whole target sequences (teacher forcing) run on native kernels, in either order. The
    derivative of additive attention computes the `tanh` again instead of keeping target * source * units numbers.

    `step` runs a single step, as a search does.

    Args:
        units: size of the cell's output h.
        cell: "lstm", "gru", "mgu" or "simple_rnn", or a cell of keras_seq, of Keras or your own. A foreign cell applies
            its own dropout, to all of its input: `[x, context]` with input feeding.
        attention: an attention layer, or "bahdanau", "luong" (`LuongAttention("general")`) or "monotonic". By default
            `BahdanauAttention(units)`.
        input_feeding: whether the cell reads the output of the attention.
        dropout: fraction of the features of x to drop, with one mask for each sequence. What the attention feeds is
            never dropped, neither by this argument nor by the `dropout` of a cell of keras_seq.
        recurrent_dropout: fraction of the units of the previous h to drop in the recurrent product.
        seed: seed of the dropout masks, and of the noise of an attention given by name.
        return_state: whether to return the final state too.
        implementation: "auto", "native", "xla" or, without input feeding, "cudnn". `keras_seq.explain` tells which one
            runs.
        attend: "before" or "after" the cell. By default "before", and "after" with `input_feeding=False`.
        attentional_units: size of the attentional vector, with `attend="after"`. By default None: the output is
            `[h, context]`.
        attentional_activation: activation of the attentional vector; None for a linear one.
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: (batch, time, features).
        memory: (batch, source, memory features).
        initial_state: list of states of the cell, each (batch, units), and, optionally, of the attention: with
            `attend="after"` and input feeding what the first step reads (batch, attentional units or memory features),
            then the states of the attention layer, each (batch, source). By default `get_initial_state(memory)`.
        mask: (batch, time) booleans, True = keep. A masked step leaves the state as it was and repeats the output; its
            attention weights are zero. By default the mask that `inputs` carry.
        memory_mask: (batch, source) booleans, True = keep. Where all positions are masked, the context is zero. By
            default the mask that `memory` carries.
        return_attention_scores: whether to return the attention weights too.
        training: whether to apply dropout.

    Returns:
        The outputs (batch, time, units); with `attend="after"` (batch, time, attentional_units) or (batch, time,
        units + memory features). Or a tuple: the outputs, with `return_attention_scores` the attention weights (batch,
        time, source), and with `return_state` the final states, those of the cell, then those of the attention.

    Raises:
        ValueError: if an argument is invalid; the message names it.
        NotImplementedError: if `implementation` is "native" or "cudnn" and cannot run.

    Example:
        >>> import numpy as np
        >>> decoder = AttentionDecoder(4, cell="gru")
        >>> inputs, memory = np.ones((2, 3, 5)), np.ones((2, 6, 8))
        >>> outputs, weights = decoder(inputs, memory, return_attention_scores=True)
        >>> outputs.shape, weights.shape
        (TensorShape([2, 3, 4]), TensorShape([2, 3, 6]))
    """

    def __init__(
        self,
        units,
        cell="lstm",
        attention=None,
        input_feeding=True,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        return_state=False,
        implementation="auto",
        *,
        attend=None,
        attentional_units=None,
        attentional_activation="tanh",
        **kwargs,
    ):
        dtype = {"dtype": kwargs["dtype"]} if "dtype" in kwargs else {}
        cell_argument = cell
        if isinstance(cell, str):
            options = {"dropout": dropout, "recurrent_dropout": recurrent_dropout}
            options["seed"] = child_seed(seed, "AttentionDecoder", "cell")
            cell = make_cell(cell, units, **options, **dtype)
        elif dropout or recurrent_dropout or seed is not None:
            raise ValueError(
                "`dropout`, `recurrent_dropout` and `seed` need a `cell` given by name; a cell object has its own. "
                f"Received: cell={cell!r}, dropout={dropout}, recurrent_dropout={recurrent_dropout}, seed={seed}"
            )
        attention_seed = child_seed(seed, "AttentionDecoder", "attention")
        attention = get_attention("bahdanau" if attention is None else attention, units, attention_seed, **dtype)
        super().__init__(
            cell,
            attention,
            input_feeding,
            attend=attend,
            attentional_units=attentional_units,
            attentional_activation=attentional_activation,
            **kwargs,
        )
        self.cell_argument = cell_argument
        if units != self.cell_output_size:
            raise ValueError(
                f"`units` must be the size of the cell's output, {self.cell_output_size}. Received: {units}"
            )
        self.units = units
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.seed = seed
        self.return_state = return_state
        self.implementation = check_implementation(implementation)
        self.supports_jit = can_compile(implementation)
        self.supports_masking = True

    def choose_implementation(self):
        """Return the implementation that runs, and why: a `Choice` of `keras_seq.ops.implementation`."""
        return self.implementation_for(self.implementation)

    def build(self, inputs_shape, memory_shape):
        self.build_parts(inputs_shape[-1], memory_shape)

    def get_initial_state(self, memory):
        """Returns the states that the first `step` takes: zeros for the cell, then the states of the attention."""
        memory = ops.convert_to_tensor(memory, self.compute_dtype)
        return self.initial_states(ops.shape(memory)[0], memory)

    def call(
        self,
        inputs,
        memory,
        initial_state=None,
        mask=None,
        memory_mask=None,
        return_attention_scores=False,
        training=False,
    ):
        outputs, states, weights = self.run(
            inputs,
            memory,
            initial_state,
            get_mask(inputs) if mask is None else mask,  # Keras passes on that of `memory` only
            memory_mask,
            training,
            recompute=not training,
            implementation=self.implementation,
        )
        results = (outputs,)
        if return_attention_scores:
            results += (weights,)
        if self.return_state:
            results += tuple(states)
        return results if len(results) > 1 else outputs

    def compute_output_shape(self, inputs_shape, memory_shape):
        batch, time, _ = inputs_shape
        outputs_shape = batch, time, self._output_units(memory_shape[-1])
        if not self.return_state:
            return outputs_shape
        of_attention = self.attention_state_shapes((batch, *memory_shape[1:]))
        return outputs_shape, *((batch, size) for size in self.state_size), *of_attention

    def compute_output_spec(self, *args, **kwargs):
        # The base class would take `compute_output_shape`, which knows nothing of `return_attention_scores`.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def compute_mask(self, inputs, previous_mask=None):
        return previous_mask

    def get_config(self):
        cell = self.cell_argument
        return {
            **super().get_config(),
            "units": self.units,
            "cell": cell if isinstance(cell, str) else keras.saving.serialize_keras_object(cell),
            "attention": keras.saving.serialize_keras_object(self.attention),
            **self.order_config(),
            "dropout": self.dropout,
            "recurrent_dropout": self.recurrent_dropout,
            "seed": self.seed,
            "return_state": self.return_state,
            "implementation": self.implementation,
        }

    @classmethod
    def from_config(cls, config):
        parts = {name: config[name] for name in ("cell", "attention") if isinstance(config[name], dict)}
        parts = {name: keras.saving.deserialize_keras_object(part) for name, part in parts.items()}
        return cls(**{**config, **parts})
