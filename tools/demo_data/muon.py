"""Muon: momentum whose matrix-shaped step is made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

On a model this small it reaches the same loss in roughly half the steps of AdamW. The iteration needs few digits: it runs
in bfloat16 where that is the faster type.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch


def orthogonal(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest semi-orthogonal matrix to each of [N, rows, columns], by five Newton-Schulz iterations."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Muon for two-dimensional weights; `lr` is the spectral size of one step for a square matrix."""

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype  # of the iteration

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply one update."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
            for p in group["params"]:
                alike[p.shape].append(p)
            for shape, params in alike.items():
                size = group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
                updates = orthogonal(torch.stack([self._update(p, group["momentum"]) for p in params]).to(self.dtype))
                for p, update in zip(params, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update, alpha=-size)

    def _update(self, p: torch.Tensor, momentum: float) -> torch.Tensor:
        """The gradient with Nesterov momentum."""
        velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
        velocity.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(velocity, momentum)
