# SPDX-License-Identifier: Apache-2.0
"""`GRU`, the layer of gated recurrent units, and its cell."""

import keras

from keras_seq.layers.recurrent_cell import RecurrentCell
from keras_seq.layers.recurrent_layer import CellAttribute, GatedLayer, register_kind
from keras_seq.ops.equations.gru import GRUEquations, LayerNormGRUEquations


@keras.saving.register_keras_serializable("keras_seq")
class GRUCell(RecurrentCell, keras.layers.GRUCell):
    """One step of a gated recurrent unit (Cho et al. 2014).

    `keras_seq.layers.GRU` and `keras_seq.layers.RNN` run this cell over sequences. Arguments up to `seed` and weights
    are those of `keras.layers.GRUCell`. The arguments after `seed` are additions, passed by keyword.

    The step from the state h to h' at an input x is, with the kernel W, the recurrent kernel U, the biases b and c,
    `activation` for tanh and `recurrent_activation` for sigmoid:

    ```
    z = sigmoid(x W_z + h U_z + b_z + c_z)     # update gate
    r = sigmoid(x W_r + h U_r + b_r + c_r)     # reset gate
    g = tanh(x W_g + b_g + r * (h U_g + c_g))  # candidate
    h' = z * h + (1 - z) * g
    ```

    With `reset_after=False` there is no c, and the candidate is `g = tanh(x W_g + (r * h) U_g + b_g)`. With
    `layer_norm` every product with W or U is normalized before a bias is added.

    Args:
        units: positive integer, size of the state.
        activation: activation of the candidate. Default: `"tanh"`; None for the identity.
        recurrent_activation: activation of the gates. Default: `"sigmoid"`; None for the identity.
        use_bias: whether to add the biases b and c.
        kernel_initializer: initializer of the kernel W. Default: `"glorot_uniform"`.
        recurrent_initializer: initializer of the recurrent kernel U. Default: `"orthogonal"`.
        bias_initializer: initializer of the bias. Default: `"zeros"`.
        kernel_regularizer: regularizer of the kernel.
        recurrent_regularizer: regularizer of the recurrent kernel.
        bias_regularizer: regularizer of the bias.
        kernel_constraint: constraint on the kernel.
        recurrent_constraint: constraint on the recurrent kernel.
        bias_constraint: constraint on the bias.
        dropout: fraction of the input features to drop, in [0, 1).
        recurrent_dropout: fraction of the units of the previous h to drop in the recurrent product, in [0, 1). All
            gates share one mask (Gal & Ghahramani 2016).
        reset_after: whether the reset gate multiplies after the recurrent product, as in cuDNN, or before it.
        seed: integer seed of the dropout masks, or None.
        dropout_mode: `"variational"` draws the masks of inputs and recurrent connections once for each sequence and
            shares them between its steps. `"locked"` does so too, but needs a `recurrent_dropout` of 0. `"naive"` draws
            new masks at every step.
        recurrent_weight_dropout: fraction of the entries of the recurrent kernel to drop, with one mask for the whole
            batch and all steps (DropConnect, as in the AWD-LSTM of Merity et al. 2018).
        zoneout: probability that a unit keeps the state of the step before, drawn for each unit and step in training.
            Inference takes the expectation, `zoneout * previous + (1 - zoneout) * new` (Krueger et al. 2017).
        layer_norm: whether to normalize the input product and the recurrent product, with z and r together and the
            candidate by itself, each entry with a gain (Ba et al. 2016). Its epsilon is 0.001, as in
            `keras.layers.LayerNormalization`.
        **kwargs: arguments of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: (batch, features).
        states: the state h (batch, units), or a list of it.
        training: whether to run in training mode, with dropout and random zoneout.
        context: (batch, any) or None: further input features, from an attention. They are never dropped.

    Returns:
        The output h' (batch, units), and the new state in the form in which it was given, a tensor or a list.

    Raises:
        ValueError: if an argument is unknown or has an invalid value.

    Example:
        >>> import numpy as np
        >>> cell = GRUCell(4)
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
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        reset_after=True,
        seed=None,
        *,
        dropout_mode="variational",
        recurrent_weight_dropout=0.0,
        zoneout=0.0,
        layer_norm=False,
        **kwargs,
    ):
        super().__init__(
            units,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            reset_after=reset_after,
            seed=seed,
            dropout_mode=dropout_mode,
            recurrent_weight_dropout=recurrent_weight_dropout,
            zoneout=zoneout,
            **kwargs,
        )
        self.layer_norm = layer_norm

    @property
    def equations(self):
        kind = LayerNormGRUEquations if self.layer_norm else GRUEquations
        return kind(self.activation, self.recurrent_activation, self.reset_after)

    def extra_weight_shapes(self):
        shape = (3 * self.units,)
        return {f"{name}_gamma": (shape, "ones") for name in ("input", "recurrent") if self.layer_norm}

    def get_config(self):
        return {**super().get_config(), "layer_norm": self.layer_norm}


@register_kind("gru")
@keras.saving.register_keras_serializable("keras_seq")
class GRU(GatedLayer):
    """Gated recurrent unit (Cho et al. 2014).

    The layer runs a `GRUCell`, or a stack of them, over sequences. Arguments up to `use_cudnn`, weights and outputs are
    those of `keras.layers.GRU`. The arguments after `use_cudnn` are additions, passed by keyword.

    At each step t, with the kernel W, the recurrent kernel U, the biases b and c, `activation` for tanh and
    `recurrent_activation` for sigmoid:

    ```
    z = sigmoid(x_t W_z + h_{t-1} U_z + b_z + c_z)     # update gate
    r = sigmoid(x_t W_r + h_{t-1} U_r + b_r + c_r)     # reset gate
    g = tanh(x_t W_g + b_g + r * (h_{t-1} U_g + c_g))  # candidate
    h_t = z * h_{t-1} + (1 - z) * g
    ```

    With `reset_after=False` there is no c, and the candidate is `g = tanh(x_t W_g + (r * h_{t-1}) U_g + b_g)`. With
    `layer_norm` every product with W or U is normalized before a bias is added.

    On a CPU with TensorFlow or JAX the native kernels of keras_seq run the layer if the activations are among tanh,
    sigmoid, hard_sigmoid, relu and linear, and the dtype is float32, float64 or bfloat16. They cover masks, dropout
    of every kind, zoneout and `layer_norm`. On TensorFlow with a GPU, cuDNN runs layers with tanh and sigmoid, unless
    `reset_after` or `use_bias` is False, `layer_norm`, `recurrent_dropout`, `zoneout` or `unroll` is set, or XLA
    compiles the call. Everything else runs on xla, a loop of Keras operations that computes the same.
    `keras_seq.explain` tells you which one runs, and why.

    Args:
        units: positive integer, size of the state and of the output.
        activation: activation of the candidate. Default: `"tanh"`; None for the identity.
        recurrent_activation: activation of the gates. Default: `"sigmoid"`; None for the identity.
        use_bias: whether to add the biases b and c.
        kernel_initializer: initializer of the kernel W. Default: `"glorot_uniform"`.
        recurrent_initializer: initializer of the recurrent kernel U. Default: `"orthogonal"`.
        bias_initializer: initializer of the bias. Default: `"zeros"`.
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
        reset_after: whether the reset gate multiplies after the recurrent product, as in cuDNN, or before it.
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
            Inference takes the expectation, `zoneout * previous + (1 - zoneout) * new` (Krueger et al. 2017).
        layer_norm: whether to normalize the input product and the recurrent product, with z and r together and the
            candidate by itself, each entry with a gain (Ba et al. 2016). Its epsilon is 0.001, as in
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
        initial_state: the state h (batch, units) before the first step, or a list of it; for a stack a list with one
            such entry for each cell. Default: the learned state, or zeros.
        mask: (batch, time) booleans of any pattern, True = keep. A masked step leaves the state as it was. Default: the
            mask that `sequences` carry, as from an `Embedding` with `mask_zero=True`.
        training: whether to run in training mode, with dropout and random zoneout.

    Returns:
        The last output (batch, units), or with `return_sequences` the outputs of all steps (batch, time, units). With
        `return_state` a tuple of it and the final h (batch, units); for a stack, of it and a list with the final h for
        each cell.

    Raises:
        ValueError: if an argument is unknown or has an invalid value.
        NotImplementedError: if `implementation` is `"native"` or `"cudnn"`, and that one cannot run the layer.

    Example:
        >>> import numpy as np
        >>> inputs = np.ones((2, 5, 3))
        >>> GRU(4, num_layers=2, recurrent_dropout=0.2)(inputs).shape
        TensorShape([2, 4])
        >>> layer = GRU(4, return_sequences=True, return_state=True)
        >>> outputs, h = layer(inputs)
        >>> outputs.shape, h.shape
        (TensorShape([2, 5, 4]), TensorShape([2, 4]))
    """

    cell_type = GRUCell
    cell_name = "gru_cell"

    reset_after = CellAttribute()

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
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
        reset_after=True,
        use_cudnn="auto",
        *,
        zero_output_for_mask=False,
        output_dropout=0.0,
        dropout_mode="variational",
        recurrent_weight_dropout=0.0,
        zoneout=0.0,
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
            "kernel_regularizer": kernel_regularizer,
            "recurrent_regularizer": recurrent_regularizer,
            "bias_regularizer": bias_regularizer,
            "kernel_constraint": kernel_constraint,
            "recurrent_constraint": recurrent_constraint,
            "bias_constraint": bias_constraint,
            "dropout": dropout,
            "recurrent_dropout": recurrent_dropout,
            "reset_after": reset_after,
            "seed": seed,
            "dropout_mode": dropout_mode,
            "recurrent_weight_dropout": recurrent_weight_dropout,
            "zoneout": zoneout,
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
