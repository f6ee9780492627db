"""Cells in Triton: the gates that a step reads, the step ahead, and the step back. A state is [units, sequences] of one head.

Gates are those of R, as many as a cell has matrices; what a cell does not have is passed on as it came, and costs nothing.
"""

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def log_sigmoid(x):
    return tl.minimum(x, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def stabilised(i, f, n, m):
    """sLSTM: e^{log σ(f) + m - m'}, e^{i - m'}, m', log σ(f) + m, and where nothing has been stored yet."""
    old = log_sigmoid(f) + m
    empty = n == 0.0
    new = tl.where(empty, i, tl.maximum(old, i))
    forget = tl.where(empty, 0.0, tl.exp(tl.minimum(old, new) - new))
    return forget, tl.exp(i - new), new, old, empty


@triton.jit
def ahead(CELL: tl.constexpr, g0, g1, g2, g3, y, c, n, m):
    """Gates before their functions and the states → the states after the step. GRU: g0 is R's part of the candidate, g3 the input's."""
    if CELL == "elman":
        return tanh(g0), c, n, m
    elif CELL == "gru":
        z = tl.sigmoid(g2)
        return z * y + (1.0 - z) * tanh(g3 + tl.sigmoid(g1) * g0), c, n, m
    elif CELL == "lstm":
        c = tl.sigmoid(g1) * c + tl.sigmoid(g0) * tanh(g2)
        return tl.sigmoid(g3) * tanh(c), c, n, m
    else:
        forget, keep, m, _, _ = stabilised(g0, g1, n, m)
        c = forget * c + keep * tanh(g2)
        n = forget * n + keep
        if CELL == "slstm_floor":
            n = tl.maximum(n, 1.0)
        return tl.sigmoid(g3) * c / n, c, n, m


@triton.jit
def back(CELL: tl.constexpr, g0, g1, g2, g3, y, c, n, m, dy, dc, dn, dm):
    """Gates and states before the step, gradients of the states after it → gradients of g0 … g3, and of the states before it, that of
    y without what comes through R."""
    if CELL == "elman":
        h = tanh(g0)
        return dy * (1.0 - h * h), dy, dy, dy, tl.zeros_like(dy), dc, dn, dm
    elif CELL == "gru":
        r, z = tl.sigmoid(g1), tl.sigmoid(g2)
        candidate = tanh(g3 + r * g0)
        d3 = dy * (1.0 - z) * (1.0 - candidate * candidate)
        return d3 * r, d3 * g0 * r * (1.0 - r), dy * (y - candidate) * z * (1.0 - z), d3, dy * z, dc, dn, dm
    elif CELL == "lstm":
        i, f, z, o = tl.sigmoid(g0), tl.sigmoid(g1), tanh(g2), tl.sigmoid(g3)
        bounded = tanh(f * c + i * z)
        dc += dy * o * (1.0 - bounded * bounded)
        d3 = dy * bounded * o * (1.0 - o)
        return dc * z * i * (1.0 - i), dc * c * f * (1.0 - f), dc * i * (1.0 - z * z), d3, tl.zeros_like(dy), dc * f, dn, dm
    else:
        forget, keep, _, old, empty = stabilised(g0, g1, n, m)
        z, o = tanh(g2), tl.sigmoid(g3)
        total = forget * n + keep
        inverse = 1.0 / (tl.maximum(total, 1.0) if CELL == "slstm_floor" else total)
        h = (forget * c + keep * z) * inverse
        d3 = dy * h * o * (1.0 - o)
        dc += dy * o * inverse
        dn -= dy * o * inverse * h
        if CELL == "slstm_floor":
            dn = tl.where(total >= 1.0, dn, 0.0)
        d_old, d_new = (dc * c + dn * n) * forget, (dc * z + dn) * keep
        dm -= d_old + d_new
        to_old = tl.where(empty, 0.0, tl.where(old == g0, 0.5, tl.where(old > g0, 1.0, 0.0)))
        d_old += to_old * dm
        d_new += (1.0 - to_old) * dm
        d2 = dc * keep * (1.0 - z * z)
        return d_new, d_old * tl.sigmoid(-g1), d2, d3, tl.zeros_like(dy), dc * forget, dn * forget, d_old
