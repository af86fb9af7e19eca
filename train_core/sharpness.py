"""Adaptive sharpness-aware minimisation, ASAM (Kwon et al. 2021, arXiv:2102.11600; SAM: Foret et al. 2021).

Each step uses the gradients at a point near the weights at which the loss is high. It needs two passes over the batch,
so it takes about twice the time of a plain step.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

ETA = 0.01  # as in the paper: added to the scale of each weight, so that weights near 0 also move
SMALLEST_NORM = 1e-12


@contextmanager
def ascended(model: nn.Module, radius: float) -> Iterator[None]:
    """Within the context, the weights are at the ascent point of their gradients; after it, they are as before.

    `radius` is the paper's rho. Within the context, batch norm uses the statistics of each batch as always in training,
    but its running statistics are not updated: they describe the weights, not the ascent point.
    """
    weights: list[Tensor] = [each for each in model.parameters() if each.grad is not None]
    before = [each.detach().clone() for each in weights]
    norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    statistics = [(norm.running_mean, norm.running_var) for norm in norms]
    try:
        _ascend(weights, radius)
        for norm in norms:
            norm.running_mean = norm.running_var = None
        yield
    finally:
        for norm, (mean, variance) in zip(norms, statistics, strict=True):
            norm.running_mean, norm.running_var = mean, variance
        with torch.no_grad():
            torch._foreach_copy_(weights, before)


@torch.no_grad()
def _ascend(weights: list[Tensor], radius: float) -> None:
    """Add rho T^2 g / |T g| to the weights w, with gradients g and the diagonal matrix T of all |w| + eta."""
    gradients = [each.grad for each in weights if each.grad is not None]
    scales = torch._foreach_abs(weights)
    torch._foreach_add_(scales, ETA)
    moves: tuple[Tensor, ...] = torch._foreach_mul(gradients, scales)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(moves)))
    torch._foreach_mul_(moves, scales)
    torch._foreach_mul_(moves, radius / norm.clamp_min(SMALLEST_NORM))
    torch._foreach_add_(weights, moves)
