# SPDX-License-Identifier: Apache-2.0
"""`LSTM`, the layer of long short-term memory, and its cell."""

import keras
from keras import ops

from keras_seq.layers.recurrent_cell import RecurrentCell
from keras_seq.layers.recurrent_layer import CellAttribute, GatedLayer, register_kind
from keras_seq.ops.equations.lstm import ExtendedLSTMEquations, LSTMEquations


@keras.saving.register_keras_serializable("keras_seq")
class LSTMCell(RecurrentCell, keras.layers.LSTMCell):
    """One step of long short-term memory (Hochreiter & Schmidhuber 1997).

    `keras_seq.layers.LSTM` and `keras_seq.layers.RNN` run this cell over sequences. Arguments up to `seed` and weights
    are those of `keras.layers.LSTMCell`. The arguments after `seed` are additions, passed by keyword.

    The step from the states h and c to h' and c' at an input x is, with the kernel W, the recurrent kernel U, the bias
    b, `activation` for tanh and `recurrent_activation` for sigmoid:

    ```
    i, f, g, o = split(x W + h U + b)           # input and forget gate, candidate, output gate
    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)  # cell state
    h' = sigmoid(o) * tanh(c')                  # output
    ```

    With all extensions, layer normalization N, peepholes p and the projection P:

    ```
    i, f, g, o = split(N(x W) + N(h U) + b)
    c' = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
    h' = (sigmoid(o + p_o * c') * tanh(N(c'))) P
    ```

    Args:
        units: positive integer, size of the states.
        activation: activation of the candidate and of c before the output. Default: `"tanh"`; None for the identity.
        recurrent_activation: activation of the gates. Default: `"sigmoid"`; None for the identity.
        use_bias: whether to add a bias b.
        kernel_initializer: initializer of the kernel W. Default: `"glorot_uniform"`.
        recurrent_initializer: initializer of the recurrent kernel U. Default: `"orthogonal"`.
        bias_initializer: initializer of the bias. Default: `"zeros"`.
        unit_forget_bias: whether the bias of the forget gate starts at 1, whatever `bias_initializer` is (Jozefowicz et
            al. 2015).
        kernel_regularizer: regularizer of the kernel.
        recurrent_regularizer: regularizer of the recurrent kernel.
        bias_regularizer: regularizer of the bias.
        kernel_constraint: constraint on the kernel.
        recurrent_constraint: constraint on the recurrent kernel.
        bias_constraint: constraint on the bias.
        dropout: fraction of the input features to drop, in [0, 1).
        recurrent_dropout: fraction of the units of the previous h to drop in the recurrent product, in [0, 1). All
            gates share one mask (Gal & Ghahramani 2016).
        seed: integer seed of the dropout masks, or None.
        dropout_mode: `"variational"` draws the masks of inputs and recurrent connections once for each sequence and
            shares them between its steps. `"locked"` does so too, but needs a `recurrent_dropout` of 0. `"naive"` draws
            new masks at every step.
        recurrent_weight_dropout: fraction of the entries of the recurrent kernel to drop, with one mask for the whole
            batch and all steps (DropConnect, as in the AWD-LSTM of Merity et al. 2018).
        zoneout: probability that a unit keeps the state of the step before, drawn for each unit and step in training.
            Inference takes the expectation, `zoneout * previous + (1 - zoneout) * new` (Krueger et al. 2017). A number
            for both states, or a list of two, for h and c.
        peephole: whether the gates also read the cell state: i and f read c before the step, o reads it after the step,
            where a unit reads only its own entry of c (Gers & Schmidhuber 2000). The weights start at zero.
        projection_units: size of h, which is then a projection of the output (Sak et al. 2014). None: h has `units`
            entries.
        layer_norm: whether to normalize the input product and the recurrent product, with a gain for each entry, and c
            before the output, with a gain and a shift (Ba et al. 2016). Its epsilon is 0.001, as in
            `keras.layers.LayerNormalization`.
        **kwargs: arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: (batch, features).
        states: list of the states h and c, each (batch, units). With `projection_units`, h has that size.
        training: whether to run in training mode, with dropout and random zoneout.
        context: (batch, any) or None: further input features, from an attention. They are never dropped.

    Returns:
        The output h', and the list of the new states h' and c'.

    Raises:
        ValueError: if an argument is unknown or has an invalid value.

    Example:
        >>> import numpy as np
        >>> cell = LSTMCell(4)
        >>> output, state = cell(np.ones((2, 3)), cell.get_initial_state(2))
        >>> output.shape
        TensorShape([2, 4])
    """

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        unit_forget_bias=True,
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        *,
        dropout_mode="variational",
        recurrent_weight_dropout=0.0,
        zoneout=0.0,
        peephole=False,
        projection_units=None,
        layer_norm=False,
        **kwargs,
    ):
        if projection_units is not None and projection_units <= 0:
            raise ValueError(f"`projection_units` must be positive or None. Received: {projection_units}")
        super().__init__(
            units,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            unit_forget_bias=unit_forget_bias,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            seed=seed,
            dropout_mode=dropout_mode,
            recurrent_weight_dropout=recurrent_weight_dropout,
            zoneout=zoneout,
            **kwargs,
        )
        self.peephole = peephole
        self.projection_units = projection_units
        self.layer_norm = layer_norm
        self.output_size = projection_units or self.units
        self.state_size = [self.output_size, self.units]

    @property
    def equations(self):
        activations = self.activation, self.recurrent_activation
        if not (self.peephole or self.projection_units or self.layer_norm):
            return LSTMEquations(*activations)
        return ExtendedLSTMEquations(*activations, self.peephole, self.projection_units, self.layer_norm)

    def extra_weight_shapes(self):
        units, shapes = self.units, {}
        if self.peephole:
            shapes["peephole_kernel"] = (3, units), "zeros"  # gates i, f, o; zeros: it starts as a plain LSTM
        if self.projection_units:
            shapes["projection_kernel"] = (units, self.projection_units), self.kernel_initializer
        if self.layer_norm:
            shapes |= {f"{name}_gamma": ((4 * units,), "ones") for name in ("input", "recurrent")}
            shapes |= {"state_gamma": ((units,), "ones"), "state_beta": ((units,), "zeros")}
        return shapes

    def add_weight(self, shape=None, initializer=None, *args, name=None, **kwargs):
        if name == "recurrent_kernel" and self.projection_units:  # Keras's `build` gives it `units` rows
            shape = (self.projection_units, shape[1])
        if name == "bias" and self.unit_forget_bias:  # Keras's `build` hides `bias_initializer` in a function
            initializer = _with_forget_bias(self.get_weight_initializer(name), self.units)
        return super().add_weight(shape, initializer, *args, name=name, **kwargs)

    def get_config(self):
        arguments = {
            "peephole": self.peephole,
            "projection_units": self.projection_units,
            "layer_norm": self.layer_norm,
        }
        return {**super().get_config(), **arguments}


def _with_forget_bias(initializer, units):
    """An initializer of a bias that is 1 for the forget gate, with the other gates drawn in Keras's order."""

    def initialize(shape, dtype=None):
        parts = initializer((units,), dtype=dtype), ops.ones((units,), dtype), initializer((2 * units,), dtype=dtype)
        return ops.concatenate(parts)

    return initialize


@register_kind("lstm")
@keras.saving.register_keras_serializable("keras_seq")
class LSTM(GatedLayer):
    """Long short-term memory (Hochreiter & Schmidhuber 1997).

    The layer runs an `LSTMCell`, or a stack of them, over sequences. Arguments up to `use_cudnn`, weights and outputs
    are those of `keras.layers.LSTM`. The arguments after `use_cudnn` are passed by keyword;
    all but `zero_output_for_mask` are additions.

    At each step t, with the kernel W, the recurrent kernel U, the bias b, `activation` for tanh and
    `recurrent_activation` for sigmoid:

    ```
    i, f, g, o = split(x_t W + h_{t-1} U + b)          # input and forget gate, candidate, output gate
    c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)  # cell state
    h_t = sigmoid(o) * tanh(c_t)                       # output
    ```

    With all extensions, layer normalization N, peepholes p and the projection P:

    ```
    i, f, g, o = split(N(x_t W) + N(h_{t-1} U) + b)
    c_t = sigmoid(f + p_f * c_{t-1}) * c_{t-1} + sigmoid(i + p_i * c_{t-1}) * tanh(g)
    h_t = (sigmoid(o + p_o * c_t) * tanh(N(c_t))) P
    ```

    On a CPU with TensorFlow or JAX the native kernels of keras_seq run the layer if the activations are among tanh,
    sigmoid, hard_sigmoid, relu and linear, and the dtype is float32, float64 or bfloat16. They cover masks, dropout
    of every kind, zoneout, `peephole`, `projection_units` and `layer_norm`. On TensorFlow with a GPU, cuDNN runs
    layers with tanh and sigmoid, unless `use_bias` is False, one of these options, `recurrent_dropout`, `zoneout` or
    `unroll` is set, or XLA compiles the call. Everything else runs on xla, a loop of Keras operations that computes
    the same. `keras_seq.explain` tells you which one runs, and why.

    Args:
        units: positive integer, size of the state and of the output (with `projection_units`, of c only).
        activation: activation of the candidate and of c before the output. Default: `"tanh"`; None for the identity.
        recurrent_activation: activation of the gates. Default: `"sigmoid"`; None for the identity.
        use_bias: whether to add a bias b.
        kernel_initializer: initializer of the kernel W. Default: `"glorot_uniform"`.
        recurrent_initializer: initializer of the recurrent kernel U. Default: `"orthogonal"`.
        bias_initializer: initializer of the bias. Default: `"zeros"`.
        unit_forget_bias: whether the bias of the forget gate starts at 1, whatever `bias_initializer` is (Jozefowicz et
            al. 2015).
        kernel_regularizer: regularizer of the kernel.
        recurrent_regularizer: regularizer of the recurrent kernel.
        bias_regularizer: regularizer of the bias.
        activity_regularizer: regularizer of the output of the layer.
        kernel_constraint: constraint on the kernel.
        recurrent_constraint: constraint on the recurrent kernel.
        bias_constraint: constraint on the bias.
        dropout: fraction of the input features to drop, in [0, 1). Every cell of a stack drops its own inputs.
        recurrent_dropout: fraction of the units of the previous h to drop in the recurrent product, in [0, 1). All
            gates share one mask (Gal & Ghahramani 2016).
        seed: integer seed of the dropout masks, or None. Every cell of a stack draws different numbers.
        return_sequences: whether to return the output of every step instead of the last one.
        return_state: whether to return the final state after the output.
        go_backwards: whether to run from the last step to the first, and to return outputs in that order.
        stateful: whether the final state of a batch is the initial state of the next one, until `reset_state()`.
        unroll: whether the xla implementation unrolls its loop over time steps, whose number must then be static.
        use_cudnn: False keeps `implementation="auto"` from choosing cuDNN. `"auto"` and True let it choose.
        zero_output_for_mask: whether the output of a masked step is zero. By default it repeats the output of the step
            before.
        output_dropout: fraction of the output features to drop, in a stack those of the last cell. Returned states are
            not dropped.
        dropout_mode: `"variational"` draws the masks of inputs, outputs and recurrent connections once for each
            sequence and shares them between its steps. `"locked"` does so too, but needs a `recurrent_dropout` of 0.
            `"naive"` draws new masks at every step.
        recurrent_weight_dropout: fraction of the entries of the recurrent kernel to drop, with one mask for the whole
            batch and all steps (DropConnect, as in the AWD-LSTM of Merity et al. 2018).
        zoneout: probability that a unit keeps the state of the step before, drawn for each unit and step in training.
            Inference takes the expectation, `zoneout * previous + (1 - zoneout) * new` (Krueger et al. 2017). A number
            for both states, or a list of two, for h and c.
        peephole: whether the gates also read the cell state: i and f read c before the step, o reads it after the step,
            where a unit reads only its own entry of c (Gers & Schmidhuber 2000). The weights start at zero.
        projection_units: size of h, which is then a projection of the output (Sak et al. 2014). None: h has `units`
            entries.
        layer_norm: whether to normalize the input product and the recurrent product, with a gain for each entry, and c
            before the output, with a gain and a shift (Ba et al. 2016). Its epsilon is 0.001, as in
            `keras.layers.LayerNormalization`.
        num_layers: number of cells in the stack; each one reads the outputs of the one below.
        residual: whether each cell but the first adds its inputs to its outputs (Wu et al. 2016).
        initial_state_initializer: initializer of a learned initial state, from which every sequence starts. None:
            sequences start from zeros. Excludes `stateful`.
        implementation: `"auto"`, `"native"`, `"cudnn"` or `"xla"`. `"auto"` chooses as described above.
        recompute: whether the backward pass computes the residuals of the forward pass again instead of keeping them:
            less memory where layers are stacked (one layer alone gains little), more time.
        **kwargs: arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        sequences: (batch, time, features). A `tf.RaggedTensor` is made dense, with a mask that hides the padding.
        initial_state: list of the states h and c, each (batch, units), before the first step; for a stack a list with
            one such list for each cell. Default: the learned state, or zeros.
        mask: (batch, time) booleans of any pattern, True = keep. A masked step leaves the state as it was. Default: the
            mask that `sequences` carry, as from an `Embedding` with `mask_zero=True`.
        training: whether to run in training mode, with dropout and random zoneout.

    Returns:
        The last output (batch, units), or with `return_sequences` the outputs of all steps (batch, time, units). With
        `return_state` a tuple of it and the final h and c, each (batch, units); for a stack, of it and a list of h and
        c for each cell. With `projection_units`, outputs and h have that size.

    Raises:
        ValueError: if an argument is unknown or has an invalid value.
        NotImplementedError: if `implementation` is `"native"` or `"cudnn"`, and that one cannot run the layer.

    Example:
        >>> import numpy as np
        >>> inputs = np.ones((2, 5, 3))
        >>> LSTM(4, num_layers=2, recurrent_dropout=0.2)(inputs).shape
        TensorShape([2, 4])
        >>> layer = LSTM(4, return_sequences=True, return_state=True)
        >>> outputs, h, c = layer(inputs)
        >>> outputs.shape, h.shape, c.shape
        (TensorShape([2, 5, 4]), TensorShape([2, 4]), TensorShape([2, 4]))
    """

    cell_type = LSTMCell
    cell_name = "lstm_cell"

    unit_forget_bias = CellAttribute()
    peephole = CellAttribute()
    projection_units = CellAttribute()

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        unit_forget_bias=True,
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        use_cudnn="auto",
        *,
        zero_output_for_mask=False,
        output_dropout=0.0,
        dropout_mode="variational",
        recurrent_weight_dropout=0.0,
        zoneout=0.0,
        peephole=False,
        projection_units=None,
        layer_norm=False,
        num_layers=1,
        residual=False,
        initial_state_initializer=None,
        implementation="auto",
        recompute=False,
        **kwargs,
    ):
        cell_arguments = {
            "units": units,
            "activation": activation,
            "recurrent_activation": recurrent_activation,
            "use_bias": use_bias,
            "kernel_initializer": kernel_initializer,
            "recurrent_initializer": recurrent_initializer,
            "bias_initializer": bias_initializer,
            "unit_forget_bias": unit_forget_bias,
            "kernel_regularizer": kernel_regularizer,
            "recurrent_regularizer": recurrent_regularizer,
            "bias_regularizer": bias_regularizer,
            "kernel_constraint": kernel_constraint,
            "recurrent_constraint": recurrent_constraint,
            "bias_constraint": bias_constraint,
            "dropout": dropout,
            "recurrent_dropout": recurrent_dropout,
            "seed": seed,
            "dropout_mode": dropout_mode,
            "recurrent_weight_dropout": recurrent_weight_dropout,
            "zoneout": zoneout,
            "peephole": peephole,
            "projection_units": projection_units,
            "layer_norm": layer_norm,
        }
        super().__init__(
            cell_arguments,
            activity_regularizer=activity_regularizer,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            use_cudnn=use_cudnn,
            zero_output_for_mask=zero_output_for_mask,
            output_dropout=output_dropout,
            num_layers=num_layers,
            residual=residual,
            initial_state_initializer=initial_state_initializer,
            implementation=implementation,
            recompute=recompute,
            **kwargs,
        )
