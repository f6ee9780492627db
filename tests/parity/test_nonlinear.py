"""Nonlinear recurrences against stored cases of FlashRNN's and xLSTM's cells."""

from __future__ import annotations

from functools import partial

from operator_cases import backends, check_file, operator_cases

from visionrnn.kernels import nonlinear_rnn


def run(inputs, static, cell, states, **options):
    given = [inputs[f"{name}0"] for name in states] if "y0" in inputs else None
    floor = static.get("n_floor", True)
    h, final = nonlinear_rnn(
        inputs["Wx"], inputs["R"], inputs["b"], given, cell=cell, normalizer_floor=floor, return_final_state=True, **options
    )
    final = (final,) if len(states) == 1 else final
    return {"h": h, **{f"{name}t": value for name, value in zip(states, final, strict=True)}}


BACKENDS = backends("nonlinear", "nonlinear_rnn")
FORMS = {
    "rnn_elman": ("elman", "y"),
    "rnn_gru": ("gru", "y"),
    "rnn_lstm": ("lstm", "yc"),
    "rnn_slstm": ("slstm", "ycnm"),
    "rnn_slstm_nofloor": ("slstm", "ycnm"),
}
ADAPTERS = {name: (partial(run, cell=cell, states=states), BACKENDS) for name, (cell, states) in FORMS.items()}


@operator_cases(ADAPTERS)
def test_stored_cases(goldens_folder, name, backend, dtype):
    check_file(goldens_folder, name, ADAPTERS[name][0], backend, dtype)
