"""Muon (Jordan et al. 2024) for the filters of convolutions, and AdamW for all other parameters.

torch.optim.Muon does not fit: it takes only matrices, one by one, and its step reads a learning rate back from the
GPU.
"""

import math
from collections import defaultdict

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from train_core.guarded import Group, Guarded, gradients_of, with_gradients

STEPS = 5  # Newton-Schulz steps
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of X, XX'X and (XX')^2 X: large at 0, so small singular values grow fast
SMALLEST_NORM = 1e-7
SIZE = 0.2  # root mean square of the entries of an update, close to AdamW's (Liu et al. 2025, arXiv:2502.16982)


class Muon(Guarded):
    """Moves filters by their orthogonalised momentum, and other parameters as AdamW does, at the same rate.

    An update's entries are about as large as AdamW's, so rates and weight decays of AdamW fit. Weight decay is
    decoupled for all parameters. Filters [outputs, inputs, height, width] are taken as one matrix [outputs, rest].
    """

    def __init__(
        self, groups: list[Group], lr: float | Tensor, *, betas: tuple[float, float], nesterov: bool, eps: float = 1e-8
    ) -> None:
        split = [
            {
                **group,
                "params": [each for each in group["params"] if (each.ndim == 4) == is_filter],
                "filters": is_filter,
            }
            for group in groups
            for is_filter in (True, False)
        ]
        super().__init__(split, {"lr": lr, "betas": betas, "nesterov": nesterov, "eps": eps})

    def first_state(self, parameter: Tensor, group: Group) -> dict[str, Tensor]:
        """No momentum; for AdamW, no step and averages of zero."""
        if group["filters"]:
            return {"momentum_buffer": torch.zeros_like(parameter)}
        zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": parameter.new_zeros(()), **zeros}

    def update(self) -> None:
        """Move the parameters of each group by the rule for their kind."""
        for group in self.param_groups:
            weights = with_gradients(group)
            if weights and group["filters"]:
                self._move_filters(weights, group)
            elif weights:
                self._move_others(weights, group)

    def _move_filters(self, weights: list[Tensor], group: Group) -> None:
        gradients = gradients_of(weights)
        momenta = [self.state[each]["momentum_buffer"] for each in weights]
        beta = group["betas"][0]
        torch._foreach_lerp_(momenta, gradients, 1 - beta)
        directions = torch._foreach_lerp(gradients, momenta, beta) if group["nesterov"] else momenta
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        same_shape = defaultdict[torch.Size, list[tuple[Tensor, Tensor]]](list)
        for weight, direction in zip(weights, directions, strict=True):
            # In the order of channels_last, in which these are views: the order of columns does not matter.
            filters, matrix = weight.permute(0, 2, 3, 1), direction.permute(0, 2, 3, 1).flatten(1)
            same_shape[matrix.shape].append((filters, matrix))
        for shape, pairs in same_shape.items():
            matrices = torch.stack([matrix for _, matrix in pairs])
            updates = orthogonalised(matrices) * (group["lr"] * SIZE * math.sqrt(max(shape)))
            moved = [filters for filters, _ in pairs]
            torch._foreach_sub_(moved, [update.view_as(each) for update, each in zip(updates, moved, strict=True)])

    def _move_others(self, weights: list[Tensor], group: Group) -> None:
        adamw(
            weights,
            gradients_of(weights),
            [self.state[each]["exp_avg"] for each in weights],
            [self.state[each]["exp_avg_sq"] for each in weights],
            [],
            [self.state[each]["step"] for each in weights],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices [N, rows, columns] with the same singular vectors and singular values near 1 (0.7 to 1.2), where not 0.

    Computed in bf16 on CUDA, which has tensor cores for it; elsewhere in the type of the matrices. The result has that
    type.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(SMALLEST_NORM)
    x = x.bfloat16() if x.is_cuda else x
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)
