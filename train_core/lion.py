"""Lion (Chen et al. 2023, arXiv:2302.06675)."""

import torch
from torch import Tensor

from train_core.guarded import Group, Guarded, gradients_of, with_gradients


class Lion(Guarded):
    """Moves each weight by the sign of a mean of momentum and gradient, so always equally far; decoupled decay."""

    def __init__(self, groups: list[Group], lr: float | Tensor, *, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas})

    def first_state(self, parameter: Tensor, group: Group) -> dict[str, Tensor]:
        """No momentum."""
        return {"momentum_buffer": torch.zeros_like(parameter)}

    def update(self) -> None:
        """Algorithm 2 of the paper."""
        for group in self.param_groups:
            weights = with_gradients(group)
            if not weights:
                continue
            gradients = gradients_of(weights)
            momenta = [self.state[each]["momentum_buffer"] for each in weights]
            of_gradient, of_momentum = group["betas"]
            moves = torch._foreach_lerp(momenta, gradients, 1 - of_gradient)
            torch._foreach_sign_(moves)
            torch._foreach_mul_(moves, group["lr"])
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_sub_(weights, moves)
            torch._foreach_lerp_(momenta, gradients, 1 - of_momentum)
