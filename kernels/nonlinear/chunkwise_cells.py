"""The elementwise part of each cell for the chunkwise back end: a step ahead, the factors of a step back, and a step back.

Layout: [H, S, D] for one step of a state, [H, S, G, D] for its gates; with a leading axis for all steps of a chunk. A step back is
linear in the incoming gradients; its factors are formed for all steps of a chunk at once. ``valid`` [C, 1, S, 1] is 0 at padded
steps: there factors are such that gradients pass and nothing is added.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Elman:
    @staticmethod
    def ahead(gates: Tensor, x_n: Tensor | None, y: Tensor) -> tuple[Tensor, ...]:
        return (gates[:, :, 0].tanh(),)

    @staticmethod
    def factors(gates: Tensor, x_n: Tensor | None, before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {"gates": (1 - after[0] * after[0]).unsqueeze(3)}

    @staticmethod
    def mask(factors: dict[str, Tensor], valid: Tensor) -> None:
        factors["gates"].mul_(valid.unsqueeze(3))
        factors["direct"] = 1 - valid

    @staticmethod
    def back(at: dict[str, Tensor], dy: Tensor, carry: tuple[Tensor, ...], d_gates: Tensor) -> tuple[Tensor, ...]:
        torch.mul(at["gates"], dy.unsqueeze(2), out=d_gates)
        return ()


class GRU:
    """``gates`` are those of R: the recurrent candidate, then r and z with their inputs; ``x_n`` is the candidate's input."""

    @staticmethod
    def ahead(gates: Tensor, x_n: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        r, z = gates[:, :, 1:].sigmoid().unbind(2)
        n = torch.addcmul(x_n, r, gates[:, :, 0]).tanh_()
        return (torch.lerp(n, y, z),)

    @staticmethod
    def factors(gates: Tensor, x_n: Tensor, before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> dict[str, Tensor]:
        candidate, (r, z) = gates[:, :, :, 0], gates[:, :, :, 1:].sigmoid().unbind(3)
        n = torch.addcmul(x_n, r, candidate).tanh_()
        to_n = (1 - z) * (1 - n * n)
        of_gates = torch.stack([to_n * r, to_n * candidate * r * (1 - r), (before[0] - n) * z * (1 - z)], 3)
        return {"gates": of_gates, "direct": z, "x_n": to_n}

    @staticmethod
    def mask(factors: dict[str, Tensor], valid: Tensor) -> None:
        factors["gates"].mul_(valid.unsqueeze(3))
        factors["x_n"].mul_(valid)
        factors["direct"] = torch.where(valid > 0, factors["direct"], 1)

    back = Elman.back


class LSTM:
    @staticmethod
    def ahead(gates: Tensor, x_n: Tensor | None, y: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        i, f = gates[:, :, :2].sigmoid().unbind(2)
        c = torch.addcmul(f * c, i, gates[:, :, 2].tanh())
        return c.tanh().mul_(gates[:, :, 3].sigmoid()), c

    @staticmethod
    def factors(gates: Tensor, x_n: Tensor | None, before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> dict[str, Tensor]:
        i, f, o = gates[:, :, :, 0].sigmoid(), gates[:, :, :, 1].sigmoid(), gates[:, :, :, 3].sigmoid()
        z, bounded = gates[:, :, :, 2].tanh(), after[1].tanh()
        of_c = torch.stack([z * i * (1 - i), before[1] * f * (1 - f), i * (1 - z * z)], 3)
        return {"c": of_c, "o": bounded * o * (1 - o), "y_c": o * (1 - bounded * bounded), "f": f}

    @staticmethod
    def mask(factors: dict[str, Tensor], valid: Tensor) -> None:
        factors["c"].mul_(valid.unsqueeze(3))
        factors["o"].mul_(valid)
        factors["y_c"].mul_(valid)
        factors["f"], factors["direct"] = torch.where(valid > 0, factors["f"], 1), 1 - valid

    @staticmethod
    def back(at: dict[str, Tensor], dy: Tensor, carry: tuple[Tensor, ...], d_gates: Tensor) -> tuple[Tensor, ...]:
        dc = torch.addcmul(carry[0], dy, at["y_c"])
        torch.mul(at["c"], dc.unsqueeze(2), out=d_gates[:, :, :3])
        torch.mul(at["o"], dy, out=d_gates[:, :, 3])
        return (dc.mul_(at["f"]),)


class SLSTM:
    floor = False

    @classmethod
    def ahead(cls, gates: Tensor, x_n: Tensor | None, y: Tensor, c: Tensor, n: Tensor, m: Tensor) -> tuple[Tensor, ...]:
        i, f, z, o = gates.unbind(2)
        forget, keep, m, _ = _stabilised(i, f, n, m)
        c = torch.addcmul(forget * c, keep, z.tanh())
        n = torch.addcmul(keep, forget, n)
        n = n.clamp_(min=1) if cls.floor else n
        return o.sigmoid().mul_(c).div_(n), c, n, m

    @classmethod
    def factors(cls, gates: Tensor, x_n: Tensor | None, before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> dict[str, Tensor]:
        i, f, z, o = gates.unbind(3)
        (_, c0, n0, m0), (_, c, n, _) = before, after
        forget, keep, _, to_old = _stabilised(i, f, n0, m0)
        z, o, h = z.tanh(), o.sigmoid(), c / n
        y_c = o / n
        found = {
            "c": torch.stack([z * keep, c0 * forget, keep * (1 - z * z)], 3),  # onto i, the old exponent, z
            "n": torch.stack([keep, n0 * forget], 3),
            "m": torch.stack([1 - to_old, to_old], 3),
            "f": (-f).sigmoid_(),
            "o": h * o * (1 - o),
            "y_c": y_c,
            "y_n": -y_c * h,
            "forget": forget,
        }
        if cls.floor:
            found["above"] = (torch.addcmul(keep, forget, n0) >= 1).to(n.dtype)
        return found

    @staticmethod
    def mask(factors: dict[str, Tensor], valid: Tensor) -> None:
        for name in ("c", "n", "f", "o", "y_c", "y_n"):  # not a product: n may be zero where a sequence is empty
            factors[name] = torch.where((valid > 0).unsqueeze(3) if name in "cn" else valid > 0, factors[name], 0)
        for name in ("forget", "above"):
            if name in factors:
                factors[name] = torch.where(valid > 0, factors[name], 1)
        to_new, to_old = factors["m"].unbind(3)
        factors["m"] = torch.stack([to_new * valid, torch.where(valid > 0, to_old, 1)], 3)
        factors["direct"] = 1 - valid

    @staticmethod
    def back(at: dict[str, Tensor], dy: Tensor, carry: tuple[Tensor, ...], d_gates: Tensor) -> tuple[Tensor, ...]:
        dc = torch.addcmul(carry[0], dy, at["y_c"])
        dn = torch.addcmul(carry[1], dy, at["y_n"])
        if "above" in at:
            dn.mul_(at["above"])
        exponents, old = d_gates[:, :, :2], d_gates[:, :, 1]
        torch.mul(at["c"], dc.unsqueeze(2), out=d_gates[:, :, :3])
        exponents.addcmul_(at["n"], dn.unsqueeze(2))
        exponents.addcmul_(at["m"], (carry[2] - exponents.sum(2)).unsqueeze(2))
        dm = old.clone()
        old.mul_(at["f"])
        torch.mul(at["o"], dy, out=d_gates[:, :, 3])
        return dc.mul_(at["forget"]), dn.mul_(at["forget"]), dm


class FlooredSLSTM(SLSTM):
    floor = True


def _stabilised(i: Tensor, f: Tensor, n: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """e^{log σ(f) + m - m'}, e^{i - m'}, m', and the part of the gradient of m' that belongs to the old exponent (none where n is 0)."""
    old, empty = F.logsigmoid(f) + m, n == 0
    new = torch.where(empty, i, torch.maximum(old, i))
    forget = torch.where(empty, 0, (old.minimum(new) - new).exp_())
    to_old = torch.where(empty, 0, torch.heaviside(old - i, old.new_tensor(0.5)))
    return forget, (i - new).exp_(), new, to_old


STEPS: dict[str, Any] = {"elman": Elman, "gru": GRU, "lstm": LSTM, "slstm": SLSTM, "slstm_floor": FlooredSLSTM}
