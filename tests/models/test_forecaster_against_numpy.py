# SPDX-License-Identifier: Apache-2.0
"""The whole forecaster against NumPy: scaling, encoder, decoder, attention, each output, its loss and the rollout.

The NumPy model follows the papers and docstrings, not the code: float64, one sample and one step at a time.
"""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import seq2seq_in_numpy as reference

import keras_seq
from keras_seq.training import Quantiles

SAMPLES, SERIES, HORIZON, STEPS = 3, 2, 2, 4  # the rollout goes on for longer than the horizon
LEVELS = {"levels": [0.05, 0.5, 0.6, 0.9, 0.95], "one level": [0.2]}
VARIANTS = {
    "gaussian": ("lstm", {"num_layers": 2, "attention": "bahdanau", "bidirectional": True}),
    "student_t": ("gru", {"attention": "bahdanau", "scaling": "mean_abs"}),
    "mse": ("mgu", {"bidirectional": True, "scaling": "mean_abs"}),
    "mae": ("lstm", {"attention": "luong", "scaling": None}),
    "huber": ("rnn", {"num_layers": 3, "attention": "luong", "bidirectional": True}),
    "levels": ("gru", {"num_layers": 2, "scaling": None}),
    "one level": ("lstm", {}),
}


def softplus(x):
    return np.logaddexp(0, x)


class InNumPy:
    def __init__(self, model, cell, output, num_layers=1, attention=None, bidirectional=False, scaling="standard"):
        weights = {weight.path.split("/", 1)[1]: np.asarray(weight, "float64") for weight in model.weights}
        flat = [value for path, value in weights.items() if "_cell" in path]
        cells = [flat[i : i + 3] for i in range(0, len(flat), 3)]
        stacks = [cells[i : i + num_layers] for i in range(0, len(cells), num_layers)]
        assert len(stacks) == 2 + bidirectional and all(len(stack) == num_layers for stack in stacks)
        *self.encoders, self.decoder = stacks
        self.named = {path.split("/", 1)[-1]: value for path, value in weights.items() if "kernel" in path}
        bridges = [value for path, value in weights.items() if path.startswith("dense")]
        self.bridges = [bridges[i : i + 2] for i in range(0, len(bridges), 2)]
        self.combine = weights.get("combine/kernel")
        self.readout = weights["readout/kernel"], weights["readout/bias"]
        self.cell, self.num_states = reference.CELLS[cell], 2 if cell == "lstm" else 1
        self.output, self.attention, self.scaling = output, attention, scaling

    def run_stack(self, stack, x, states):
        results = []
        for weights, state in zip(stack, states, strict=True):
            results.append(self.cell(x, state, *weights))
            x = results[-1][0]
        return x, results

    def run_encoder(self, stack, inputs):
        states = [[np.zeros(len(weights[1]))] * self.num_states for weights in stack]
        outputs = []
        for x in inputs:
            output, states = self.run_stack(stack, x, states)
            outputs.append(output)
        return np.stack(outputs), states

    def encode(self, past, observed, covariates, static):
        columns = [column[flags] for column, flags in zip(past.T, observed.T, strict=True)]
        shift = np.array([np.mean(c) if self.scaling == "standard" else 0 for c in columns])
        scales = {"standard": np.std, "mean_abs": lambda c: np.mean(np.abs(c)), None: lambda c: 1.0}
        self.shift, self.scale = shift, np.array([scales[self.scaling](c) for c in columns])
        z = np.where(observed, (np.where(observed, past, 0) - self.shift) / self.scale, 0)
        inputs = [np.concatenate([*row, static]) for row in zip(z, observed, covariates, strict=True)]
        self.memory, states = self.run_encoder(self.encoders[0], inputs)
        if len(self.encoders) == 2:
            backward, more = self.run_encoder(self.encoders[1], inputs[::-1])
            self.memory = np.concatenate([self.memory, backward[::-1]], axis=1)
            everything = np.concatenate([part for state in [*states, *more] for part in state])
            flat = [np.tanh(everything @ kernel + bias) for kernel, bias in self.bridges]
            states = [flat[i : i + self.num_states] for i in range(0, len(flat), self.num_states)]
        return states, z[-1], observed[-1]

    def step(self, states, z, observed, covariates, static):
        """Returns the parameters (series, parameters) of the next value, and the states."""
        x = np.concatenate([z, observed, covariates, static])
        output, states = self.run_stack(self.decoder, x, states)
        if self.attention:
            keys = self.memory @ self.named["key_kernel"]
            if self.attention == "luong":
                energies = keys @ output
            else:
                energies = np.tanh(output @ self.named["query_kernel"] + keys) @ self.named["score_kernel"][:, 0]
            context = np.exp(reference.log_softmax(energies)) @ self.memory
            output = np.tanh(np.concatenate([output, context]) @ self.combine)
        kernel, bias = self.readout
        raw = (np.concatenate([output, x]) @ kernel + bias).reshape(SERIES, -1)
        return self.parameters(*raw.T), states

    def parameters(self, first, *others):
        if self.output == "gaussian":
            return np.stack([first, 1e-4 + softplus(others[0])], axis=-1)
        if self.output == "student_t":
            return np.stack([first, 1e-4 + softplus(others[0]), 2.01 + softplus(others[1])], axis=-1)
        below = len(others) // 2  # the quantile in the middle is the first raw output
        quantiles = [first]
        for raw in others[:below][::-1]:
            quantiles.insert(0, quantiles[0] - softplus(raw))
        for raw in others[below:]:
            quantiles.append(quantiles[-1] + softplus(raw))
        return np.stack(quantiles, axis=-1)

    def point(self, parameters):
        if self.output in LEVELS:
            return np.array([np.interp(0.5, LEVELS[self.output], quantiles) for quantiles in parameters])
        return parameters[:, 0]

    def losses(self, z, parameters):
        if self.output == "gaussian":
            return -scipy.stats.norm.logpdf(z, *parameters.T)
        if self.output == "student_t":
            location, scale, freedom = parameters.T
            return -scipy.stats.t.logpdf(z, freedom, location, scale)
        errors = z[:, None] - parameters
        if self.output in LEVELS:
            levels = np.array(LEVELS[self.output])
            return 2 * np.mean(np.maximum(levels * errors, (levels - 1) * errors), axis=1)
        return {"mse": np.square, "mae": np.abs, "huber": lambda e: scipy.special.huber(1, e)}[self.output](
            errors[:, 0]
        )


@pytest.mark.parametrize("output", VARIANTS)
def test_a_forecaster_is_that_of_its_docstring(output):
    cell, options = VARIANTS[output]
    rng = np.random.default_rng(len(output))
    likelihood = Quantiles(LEVELS[output]) if output in LEVELS else output
    model = keras_seq.Forecaster(HORIZON, 5, cell, output=likelihood, **options)
    time = 6
    observed = rng.random((SAMPLES, time, SERIES)) > 0.3
    observed[:, :2] = True
    past = rng.normal(size=observed.shape) * rng.uniform(0.1, 30, (SAMPLES, 1, SERIES)) + 20
    x = {
        "past": np.where(observed, past, np.nan),
        "past_mask": observed,
        "past_covariates": rng.normal(size=(SAMPLES, time, 2)),
        "future_covariates": rng.normal(size=(SAMPLES, STEPS, 3)),
        "static": rng.normal(size=(SAMPLES, 2)),
    }
    model.build({name: value.shape for name, value in x.items()})
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape) / weight.shape[0] ** 0.5)
    targets = 20 + 10 * rng.normal(size=(SAMPLES, HORIZON, SERIES))
    target_mask = rng.random(targets.shape) > 0.3
    teacher_forcing = {**x, "targets": np.where(target_mask, targets, np.nan), "target_mask": target_mask}
    actual = np.asarray(model(teacher_forcing))
    forecasts = model.predict(x, horizon=STEPS, verbose=0)
    in_numpy, losses = InNumPy(model, cell, output, **options), []
    for i in range(SAMPLES):
        start = in_numpy.encode(past[i], observed[i], x["past_covariates"][i], x["static"][i])
        states, z, flags = start
        for t in range(HORIZON):
            parameters, states = in_numpy.step(states, z, flags, x["future_covariates"][i, t], x["static"][i])
            np.testing.assert_allclose(actual[i, t], parameters, rtol=2e-5, atol=2e-5)
            z = (targets[i, t] - in_numpy.shift) / in_numpy.scale
            flags = target_mask[i, t]
            losses.extend(in_numpy.losses(z, parameters)[flags])
            z = np.where(flags, z, 0)
        states, z, flags = start
        for t in range(STEPS):
            parameters, states = in_numpy.step(states, z, flags, x["future_covariates"][i, t], x["static"][i])
            z, flags = in_numpy.point(parameters), np.ones(SERIES)
            np.testing.assert_allclose((forecasts[i, t] - in_numpy.shift) / in_numpy.scale, z, rtol=1e-4, atol=1e-4)
    loss = model.compute_loss(teacher_forcing, teacher_forcing["targets"], model(teacher_forcing))
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-4)
