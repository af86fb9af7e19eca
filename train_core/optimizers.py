"""The optimizers: one record each, with everything that the rest of the code needs to know of one.

Imports no torch before an optimizer is built. To add one, name it in `OptimizerName`, give it a record here, and give
the space its two dimensions, `<name>_lr` and `<name>_weight_decay`; `space.py` checks this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from train_core.tables import table

if TYPE_CHECKING:
    import torch

    from train_core.specs import TrainSpec

OptimizerName = Literal["sgd", "adam", "adamw", "nadam", "radam", "rmsprop", "lion", "muon"]

LION_BETA2 = 0.99  # as in the paper: the momentum is a mean over 100 steps; a recipe's beta2 is for means of squares

Groups = list[dict[str, Any]]
"""Parameters with their weight decay, as torch's optimizers take them."""


@dataclass(frozen=True, kw_only=True)
class OptimizerKind:
    """An optimizer. `build` takes the parameter groups, the learning rate (a number, or on CUDA a tensor) and a recipe.

    Its steps can be captured in a CUDA graph.
    """

    description: str
    build: Callable[[Groups, float | torch.Tensor, TrainSpec], torch.optim.Optimizer]
    lr: tuple[float, float]  # the range that the space draws from, in the logarithm
    weight_decay: float  # the fixed value in the space: a strong setting, because short runs prefer too little


def _sgd(groups: Groups, lr: float | torch.Tensor, recipe: TrainSpec) -> torch.optim.Optimizer:
    import torch

    optimizer = torch.optim.SGD(
        groups, lr, momentum=recipe.momentum, nesterov=recipe.nesterov and recipe.momentum > 0, fused=True
    )
    if recipe.momentum:
        # torch would create them in the first step, and leave them uninitialised if fp16's scaler skips that step.
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


def _nadam(groups: Groups, lr: float | torch.Tensor, recipe: TrainSpec) -> torch.optim.Optimizer:
    from train_core.guarded import NAdam

    betas = (recipe.momentum, recipe.beta2)
    return NAdam(groups, lr, betas=betas, decoupled_weight_decay=True, **_capturable(lr))


def _radam(groups: Groups, lr: float | torch.Tensor, recipe: TrainSpec) -> torch.optim.Optimizer:
    from train_core.guarded import RAdam

    betas = (recipe.momentum, recipe.beta2)
    return RAdam(groups, lr, betas=betas, decoupled_weight_decay=True, **_capturable(lr))


def _rmsprop(groups: Groups, lr: float | torch.Tensor, recipe: TrainSpec) -> torch.optim.Optimizer:
    from train_core.guarded import RMSprop

    return RMSprop(groups, lr, momentum=recipe.momentum, **_capturable(lr))


def _capturable(lr: float | torch.Tensor) -> dict[str, bool]:
    """The settings that make torch's unfused optimizers capturable, if the rate's type shows that this is needed."""
    import torch

    return {"foreach": True, "capturable": True} if isinstance(lr, torch.Tensor) else {}


def _lion(groups: Groups, lr: float | torch.Tensor, recipe: TrainSpec) -> torch.optim.Optimizer:
    from train_core.lion import Lion

    return Lion(groups, lr, betas=(recipe.momentum, LION_BETA2))


def _muon(groups: Groups, lr: float | torch.Tensor, recipe: TrainSpec) -> torch.optim.Optimizer:
    from train_core.muon import Muon

    return Muon(groups, lr, betas=(recipe.momentum, recipe.beta2), nesterov=recipe.nesterov)


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
        "nadam": OptimizerKind(
            description="Adam with Nesterov momentum (Dozat 2016) and decoupled weight decay",
            build=_nadam,
            # Its steps are as long as AdamW's, so rate and decay are the same.
            lr=(3e-4, 1e-2),
            weight_decay=0.05,
        ),
        "radam": OptimizerKind(
            description="Adam with shorter first steps, whose scale is uncertain (Liu et al. 2020, arXiv:1908.03265), "
            "and decoupled weight decay",
            build=_radam,
            # After some thousand steps, it is AdamW.
            lr=(3e-4, 1e-2),
            weight_decay=0.05,
        ),
        "rmsprop": OptimizerKind(
            description="gradients divided by the root of their mean square (Hinton 2012), with momentum and an L2 "
            "penalty",
            build=_rmsprop,
            # Its momentum is a sum, not a mean: with 0.9, steps are ten times as long as Adam's at the same rate. As in
            # Adam, the penalty is part of the gradient, so it has the same size.
            lr=(3e-5, 1e-3),
            weight_decay=5e-5,
        ),
        "lion": OptimizerKind(
            description="steps by the sign of the momentum, with decoupled weight decay (Chen et al. 2023, "
            "arXiv:2302.06675)",
            build=_lion,
            # All entries of a step have the size of the rate. The paper uses a tenth to a third of AdamW's rate, and a
            # decay that is larger by the same factor, so their product is unchanged.
            lr=(3e-5, 1e-3),
            weight_decay=0.5,
        ),
        "muon": OptimizerKind(
            description="orthogonalised momentum for the filters of convolutions, AdamW for the other parameters "
            "(Jordan et al. 2024), with decoupled weight decay and steps as large as AdamW's (Liu et al. 2025, "
            "arXiv:2502.16982)",
            build=_muon,
            # Scaled for AdamW's decays. The best rate measured was 0.02 (docs/benchmarks.md, "The portfolio").
            lr=(1e-3, 5e-2),
            weight_decay=0.05,
        ),
    },
)
