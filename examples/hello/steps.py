# SPDX-License-Identifier: Apache-2.0
"""The equations of a small recurrent network and the numbers beside them, forwards and backwards through time."""

import numpy as np
import tensorflow as tf
from rich.markup import escape
from rich.table import Table

from keras_seq import diagnostics

# The numbers of each step, in the order in which they are computed. σ is the sigmoid, ⊙ the product of units, t the
# step and s the step before.
FORWARD = {
    "simple_rnn": {"hidden_state": "h{t} = tanh(x{t} W + h{s} U + b)"},
    "lstm": {
        "input_gate": "i{t} = σ(x{t} Wi + h{s} Ui + bi)",
        "forget_gate": "f{t} = σ(x{t} Wf + h{s} Uf + bf)",
        "candidate": "g{t} = tanh(x{t} Wg + h{s} Ug + bg)",
        "output_gate": "o{t} = σ(x{t} Wo + h{s} Uo + bo)",
        "cell_state": "c{t} = f{t} ⊙ c{s} + i{t} ⊙ g{t}",
        "hidden_state": "h{t} = o{t} ⊙ tanh(c{t})",
    },
    "gru": {
        "update_gate": "z{t} = σ(x{t} Wz + bz + h{s} Uz + b'z)",
        "reset_gate": "r{t} = σ(x{t} Wr + br + h{s} Ur + b'r)",
        "candidate": "g{t} = tanh(x{t} Wg + bg + r{t} ⊙ (h{s} Ug + b'g))",
        "hidden_state": "h{t} = z{t} ⊙ h{s} + (1 - z{t}) ⊙ g{t}",
    },
}
READOUT = {
    "logits": "y{t} = h{t} V + d",
    "probabilities": "p{t} = softmax(y{t})",
    "losses": "L{t} = -log p{t}[{target}]",
}
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
GATES = {"simple_rnn": [""], "lstm": ["i", "f", "g", "o"], "gru": ["z", "r", "g"]}  # the blocks of W, U and b
# What a step gets from the next one, u. The formulas of gates are longer than a line; autodiff computes all numbers.
BACK_THROUGH_TIME = {
    "simple_rnn": "(∂L/∂h{u} ⊙ (1 - h{u}²)) Uᵀ",
    "lstm": "what the gates of step {u} pass back",
    "gru": "what the gates of step {u} pass back",
}
SUMS = {
    "W": "Σ xₜᵀ (∂L/∂hₜ ⊙ (1 - hₜ²))",
    "U": "Σ hₜ₋₁ᵀ (∂L/∂hₜ ⊙ (1 - hₜ²))",
    "b": "Σ ∂L/∂hₜ ⊙ (1 - hₜ²)",
    "V": "Σ hₜᵀ ∂L/∂yₜ",
    "d": "Σ ∂L/∂yₜ",
}


def run_forward(layer, readout, x, y):
    """Returns a dict of arrays (time, size): gates, states, logits, probabilities, and the losses (time, 1)."""
    values = {name: value[0] for name, value in diagnostics.gates(layer, x[None]).items()}
    logits = readout(values["hidden_state"]).numpy()
    probabilities = tf.nn.softmax(logits).numpy()
    losses = -np.log(probabilities[np.arange(len(y)), y])[:, None]
    return {**values, "logits": logits, "probabilities": probabilities, "losses": losses}


def run_backward(layer, readout, x, y):
    """Returns the gradients of the mean loss: of logits and hidden states (time, size), and a list of those of weights.

    The cell runs step by step under a tape, which therefore knows each hidden state.
    """
    state, hidden, weights = layer.cell.get_initial_state(1), [], [*layer.weights, *readout.weights]
    with tf.GradientTape() as tape:
        for step in x:
            output, state = layer.cell(step[None], state)
            hidden.append(output)
        logits = [readout(output) for output in hidden]
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, tf.concat(logits, axis=0)))
    variables = [weight.value for weight in weights]
    d_logits, d_hidden, d_weights = tape.gradient(loss, [logits, hidden, variables])
    return np.concatenate(d_logits), np.concatenate(d_hidden), [gradient.numpy() for gradient in d_weights]


def print_steps(console, kind, layer, readout, x, y, letters, norms):
    """Prints each step forwards, then each step backwards, then weights and their gradients.

    Args:
        norms: norm of the gradient of each hidden state (time,), which another computation found.
    """
    values = run_forward(layer, readout, x, y)
    d_logits, d_hidden, d_weights = run_backward(layer, readout, x, y)
    for t in range(len(x)):
        given, target = letters[x[t].argmax()], letters[y[t]]
        table = _table(f"step {t + 1} reads {given!r}, should say {target!r}", "equation", "numbers")
        table.add_row(_equation("x{t}", t), numbers(x[t]))
        for name, equation in (FORWARD[kind] | READOUT).items():
            table.add_row(_equation(equation, t, target=target), numbers(values[name][t]))
        console.print(table)
    loss = values["losses"].mean()
    table = _table(f"backwards through time, from L = mean of the losses = {loss:.6f}", "equation", "numbers")
    for t in reversed(range(len(x))):
        table.add_row(
            _equation(f"∂L/∂y{{t}} = (p{{t}} - one-hot {letters[y[t]]!r}) / {len(x)}", t), numbers(d_logits[t])
        )
        later = f" + {BACK_THROUGH_TIME[kind]}" if t + 1 < len(x) else ""
        table.add_row(_equation(f"∂L/∂h{{t}} = ∂L/∂y{{t}} Vᵀ{later}", t), numbers(d_hidden[t]))
        table.add_row(_equation("‖∂L/∂h{t}‖, by gradient_flow", t), numbers(norms[t]), end_section=True)
    console.print(table)
    table = _table("weights and their gradients, sums over the steps", "weight", "gradient")
    for name, weight, gradient in _blocks(kind, [*layer.get_weights(), *readout.get_weights()], d_weights):
        formula = f" = {SUMS[name]}" if kind == "simple_rnn" or name in ("V", "d") else ""
        left, right = f"{name}\n{numbers(weight, 1)}", f"∂L/∂({name}){formula}\n{numbers(gradient)}"
        table.add_row(left, right.replace(f"({name})", name if len(name) < 3 else f"({name})"), end_section=True)
    console.print(table)


def numbers(array, digits=6):
    """Returns a vector as one line of text, a matrix as several."""
    rows = np.atleast_2d(array).round(digits) + 0.0  # no minus before zeros
    return "\n".join(" ".join(f"{value:{digits + 3}.{digits}f}" for value in row) for row in rows)


def _table(title, *columns):
    return Table(*columns, title=title, title_justify="left", min_width=80)


def _equation(template, t, **names):
    """Returns an equation of step t with the numbers of the steps before, at and after it as subscripts."""
    before, now, after = (str(t + i).translate(SUBSCRIPTS) for i in range(3))
    return escape(template.format(s=before, t=now, u=after, **names))


def _blocks(kind, weights, gradients):
    """Yields name, value and gradient of each block: W, U and b of each gate, then V and d of the readout."""
    for name, *pair in zip("WUbVd", weights, gradients, strict=True):
        gates = GATES[kind] if name in "WUb" else [""]
        splits = (np.split(array, len(gates), axis=-1) for array in pair)
        for gate, *block in zip(gates, *splits, strict=True):
            has_two_rows = name == "b" and kind == "gru"  # the biases of input and recurrent product
            yield f"b{gate}, b'{gate}" if has_two_rows else name + gate, *block
