# SPDX-License-Identifier: Apache-2.0
"""The notebook of the course runs from the first cell to the last, and shows what its text says."""

import pathlib

import pytest

NOTEBOOK = pathlib.Path(__file__).parents[2] / "examples" / "tour.ipynb"
# Evaluated after the last cell. Each is far from what is stored in the notebook, and fails without learning.
CHECKS = {
    "the RNN by hand is the layer": "np.abs(by_hand - by_layer).max() < 1e-6",
    "BPTT by hand is gradient_flow": "np.allclose(norms[::-1], flow, rtol=1e-4)",
    "gates are learned": "min(lstm_accuracy, gru_accuracy) > 0.95",
    "gradients vanish and explode": "flows['SimpleRNN, U 0.7 × orthogonal'][0] < 1e-6 "
    "and flows['SimpleRNN, U 1.5 × orthogonal'][0] > 5",
    "clipping helps": "np.mean(clipped[-20:]) < np.mean(unclipped[-20:]) / 2",
    "the LSTM beats the rule": "syllable_accuracy > np.mean(groups == test_syllables) + 0.03",
    "the other direction helps": "taggers['both directions'][0] > taggers['left to right'][0] + 0.04",
    "attention helps": "error_rates['attention'] < 0.75 * error_rates['a single vector']",
    "there is an exposure bias": "np.mean(forced_right[5:]) > np.mean(own_right[5:]) + 4",
    "forecasts beat the value of a year ago": "forecast_error < baseline_error",
    "reloaded and exported models agree": "len(set(answers)) == 1",
}


def read():
    return pytest.importorskip("nbformat").read(NOTEBOOK, as_version=4)


def test_the_notebook_is_small_and_has_its_outputs():
    notebook = read()
    assert NOTEBOOK.stat().st_size < 1_500_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(output.output_type != "error" for cell in code for output in cell.outputs)
    assert sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs) >= 9
    assert "/tmp/" not in NOTEBOOK.read_text("utf-8")


@pytest.mark.slow
def test_it_runs_and_its_results_hold(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    notebook = read()
    checks = "{" + ", ".join(f"{name!r}: bool({check})" for name, check in CHECKS.items()) + "}"
    notebook.cells.append(pytest.importorskip("nbformat").v4.new_code_cell(checks))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    failed = [name for name in CHECKS if f"{name!r}: True" not in notebook.cells[-1].outputs[0].data["text/plain"]]
    assert not failed
