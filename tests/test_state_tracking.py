"""What a recurrence can follow through a long sequence, trained here: it needs eigenvalues below zero, or several steps per token.

Parity of bits: a transition that flips a sign, so β beyond 1 (Grazzi et al. 2024, "Unlocking State-Tracking in Linear RNNs Through
Negative Eigenvalues"). Words over the group S3: rotations, which are products of two reflections, so two steps per token (Siems et al.
2025, "DeltaProduct"). One layer, and every length seen in training is far below the tested one.
"""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.kernels import delta_rule

SEEDS = pytest.mark.parametrize("seed", range(3))
PERMUTATIONS = list(permutations(range(3)))
PRODUCT = torch.tensor([[PERMUTATIONS.index(tuple(a[i] for i in b)) for b in PERMUTATIONS] for a in PERMUTATIONS])  # a after b


class Tracker(nn.Module):
    """Tokens [B, T] → logits [B, T, tokens]: one delta rule from a learned state. A steep gate gets closer to 0 and the largest β."""

    def __init__(self, tokens: int, steps: int = 1, largest_beta: float = 2.0, steepness: float = 1.0, heads: int = 2, width: int = 8):
        super().__init__()
        self.steps, self.largest_beta, self.steepness, self.heads = steps, largest_beta, steepness, heads
        self.embedding = nn.Embedding(tokens, 32)
        self.query = nn.Linear(32, heads * width, bias=False)
        self.key, self.value = (nn.Linear(32, steps * heads * width, bias=False) for _ in range(2))
        self.beta = nn.Linear(32, steps * heads)
        self.state = nn.Parameter(torch.randn(heads, width, width) * width**-0.5)
        self.norm = nn.RMSNorm(heads * width)
        self.head = nn.Linear(heads * width, tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        batch, length = tokens.shape
        rows = (batch, length * self.steps, self.heads)
        q = F.normalize(self.query(x).view(batch, length, self.heads, -1), dim=-1)
        k, v = F.normalize(self.key(x).view(*rows, -1), dim=-1), self.value(x).view(*rows, -1)
        beta = self.largest_beta * (self.steepness * self.beta(x)).view(rows).sigmoid()
        state = self.state.expand(batch, -1, -1, -1)
        out = delta_rule(q, k, v, beta, initial_state=state, steps=self.steps, scale=1.0)
        return self.head(self.norm(out.flatten(2)))


def parity(batch: int, length: int) -> tuple[Tensor, Tensor]:
    bits = torch.randint(2, (batch, length))
    return bits, bits.cumsum(1) % 2


def group_words(batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Elements of S3 and their products so far; element 0 is the identity."""
    words = torch.randint(len(PERMUTATIONS), (batch, length))
    products, product = [], torch.zeros(batch, dtype=torch.long)
    for letter in words.unbind(1):
        product = PRODUCT[letter, product]
        products.append(product)
    return words, torch.stack(products, 1)


def train(model: Tracker, task, shortest: int, longest: int, iterations: int) -> None:
    """The length grows from ``shortest`` to ``longest`` over the first half."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=iterations)
    for i in range(iterations):
        tokens, target = task(64, min(longest, max(shortest, 2 * longest * i // iterations)))
        optimizer.zero_grad()
        F.cross_entropy(model(tokens).flatten(0, 1), target.flatten()).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(model: Tracker, task, length: int, last: int) -> float:
    """Over the ``last`` positions of sequences of ``length``."""
    tokens, target = task(64, length)
    return float((model(tokens).argmax(-1) == target)[:, -last:].float().mean())


@pytest.mark.slow
@SEEDS
def test_parity_needs_negative_eigenvalues(seed):
    found = {}
    for largest_beta in (1.0, 2.0):
        torch.manual_seed(seed)
        model = Tracker(2, largest_beta=largest_beta, steepness=4.0)
        train(model, parity, shortest=32, longest=32, iterations=400)
        found[largest_beta] = accuracy(model, parity, length=16 * 32, last=32)
    print("accuracy at 16 times the length trained on, by largest β:", found)
    assert found[2.0] == 1.0
    assert 0.4 < found[1.0] < 0.6


@pytest.mark.slow
@SEEDS
def test_words_over_s3_need_two_steps(seed):
    """One step follows at most the sign of the permutation, which leaves one of three."""
    found = {}
    for steps in (1, 2):
        torch.manual_seed(seed)
        model = Tracker(len(PERMUTATIONS), steps=steps)
        train(model, group_words, shortest=4, longest=64, iterations=800)
        found[steps] = accuracy(model, group_words, length=8 * 64, last=64)
    print("accuracy at 8 times the length trained on, by steps:", found)
    assert found[2] > 0.95
    assert found[1] < 0.5
