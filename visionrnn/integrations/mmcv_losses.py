"""mmcv's fused focal loss in PyTorch, with the calling convention of mmcv 2.1 (mmdet calls it for CUDA tensors, its Python form on a CPU).

With p = sigmoid(x), class c and target t: −α (1 − p)^γ log p where t = c, −(1 − α) p^γ log(1 − p) elsewhere (Lin et al. 2017, eq. 5).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _focal(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    hit = target[:, None] == torch.arange(logits.shape[1], device=logits.device)
    positive = alpha * torch.sigmoid(-logits) ** gamma * F.softplus(-logits)
    negative = (1 - alpha) * torch.sigmoid(logits) ** gamma * F.softplus(logits)
    loss = torch.where(hit, positive, negative)
    return loss * weight[target][:, None] if weight.numel() else loss


def sigmoid_focal_loss_forward(logits: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float) -> None:
    """Writes the loss of every logit into ``output`` [N, C]. logits: [N, C]; target: int64 [N], C for background; weight: [C] or empty."""
    output.copy_(_focal(logits, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(logits: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float) -> None:
    """Writes d loss / d logit [N, C] into ``grad_input``."""
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        total = _focal(leaf, target, weight, gamma, alpha).sum()
    grad_input.copy_(torch.autograd.grad(total, leaf)[0])
