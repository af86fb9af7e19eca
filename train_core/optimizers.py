"""The optimizers: one record each, with all that the rest of the code asks of one.

Imports no torch before an optimizer is built. To add one, name it in `OptimizerName`, give it a record here, and give
the space its two dimensions, `<name>_lr` and `<name>_weight_decay`: `space.py` checks that it has them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from train_core.tables import table

if TYPE_CHECKING:
    import torch

    from train_core.specs import TrainSpec

OptimizerName = Literal["sgd", "adam", "adamw"]

Groups = list[dict[str, Any]]
"""Parameters with their weight decay, as torch's optimizers take them."""


@dataclass(frozen=True, kw_only=True)
class OptimizerKind:
    """An optimizer. `build` takes the parameter groups, the learning rate (a number, or on CUDA a tensor) and a recipe.

    Steps of what it builds can be captured in a CUDA graph.
    """

    description: str
    build: Callable[[Groups, float | torch.Tensor, TrainSpec], torch.optim.Optimizer]
    lr: tuple[float, float]  # the range that the space draws from, in the logarithm
    weight_decay: float  # what the space holds: a strong setting, as short runs prefer too little


def _sgd(groups: Groups, lr: float | torch.Tensor, recipe: TrainSpec) -> torch.optim.Optimizer:
    import torch

    optimizer = torch.optim.SGD(
        groups, lr, momentum=recipe.momentum, nesterov=recipe.nesterov and recipe.momentum > 0, fused=True
    )
    if recipe.momentum:
        # torch would make them in the first step, and leave them uninitialised where fp16's scaler skips that one.
        for parameter in (each for group in optimizer.param_groups for each in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _adam(groups: Groups, lr: float | torch.Tensor, recipe: TrainSpec) -> torch.optim.Optimizer:
    import torch

    betas = (recipe.momentum, recipe.beta2)
    return torch.optim.Adam(groups, lr, betas=betas, fused=True, capturable=isinstance(lr, torch.Tensor))


def _adamw(groups: Groups, lr: float | torch.Tensor, recipe: TrainSpec) -> torch.optim.Optimizer:
    import torch

    betas = (recipe.momentum, recipe.beta2)
    return torch.optim.AdamW(groups, lr, betas=betas, fused=True, capturable=isinstance(lr, torch.Tensor))


OPTIMIZERS: dict[OptimizerName, OptimizerKind] = table(
    "optimizer",
    OptimizerName,
    {
        "sgd": OptimizerKind(
            description="stochastic gradient descent, with momentum", build=_sgd, lr=(0.01, 0.5), weight_decay=5e-4
        ),
        "adam": OptimizerKind(
            description="Adam (Kingma & Ba 2015, arXiv:1412.6980)", build=_adam, lr=(3e-4, 1e-2), weight_decay=5e-5
        ),
        "adamw": OptimizerKind(
            description="Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)",
            build=_adamw,
            lr=(3e-4, 1e-2),
            weight_decay=0.05,
        ),
    },
)
