"""A recipe's optimizer, and the learning-rate schedules."""

import math
from typing import assert_never

import torch
from torch import nn

from train_core.optimizers import OPTIMIZERS
from train_core.specs import TrainSpec


def make_optimizer(model: nn.Module, recipe: TrainSpec) -> torch.optim.Optimizer:
    """The recipe's optimizer for the model's parameters, fused if possible; on CUDA it can be captured.

    Norm parameters and biases (all with one dimension) are not decayed unless the recipe says so: decaying them has no
    benefit and costs accuracy (He et al. 2019, arXiv:1812.01187, section 3.1).
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in model.parameters():
        (decayed if parameter.ndim > 1 or recipe.decay_norm_and_bias else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    device = next(model.parameters()).device
    # A captured step reads its learning rate from where it was during the capture: on the device.
    lr = torch.tensor(recipe.lr, device=device) if device.type == "cuda" else recipe.lr
    return OPTIMIZERS[recipe.optimizer].build(groups, lr, recipe)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate `lr`."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def lr_at(recipe: TrainSpec, step: int, steps: int) -> float:
    """The learning rate of step `step` (from 0) of a run of `steps` steps.

    A closed form of the share of the run that is done: resuming needs only the step's number, and a short run has the
    same schedule as a long one. Cosine and one-cycle reach zero at the end.
    """
    done = step / steps
    if done < recipe.warmup and recipe.schedule != "one-cycle":  # one-cycle has its own warm-up
        return recipe.lr * (step + 1) / (recipe.warmup * steps + 1)
    match recipe.schedule:
        case "cosine":  # Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts
            factor = _half_cosine((done - recipe.warmup) / (1 - recipe.warmup))
        case "one-cycle":  # Smith & Topin 2018, arXiv:1708.07120; shape and defaults of torch's OneCycleLR
            factor = _one_cycle(step, steps)
        case "multi-step":
            factor = recipe.gamma ** sum(done >= milestone for milestone in recipe.milestones)
        case "step":
            factor = recipe.gamma ** math.floor(done / recipe.step_every + 1e-9)
        case "constant":
            factor = 1.0
        case schedule:
            assert_never(schedule)
    return recipe.lr * factor


def _half_cosine(done: float) -> float:
    return (1 + math.cos(math.pi * done)) / 2


def _one_cycle(step: int, steps: int, rise: float = 0.3, start: float = 1 / 25, end: float = 1 / 25e4) -> float:
    """Rise from `start` during the share `rise` of the run, then fall to `end`, both along a half cosine."""
    peak = rise * steps - 1
    if step <= peak:
        return 1 + (start - 1) * _half_cosine(step / peak)
    return end + (1 - end) * _half_cosine((step - peak) / (steps - 1 - peak))
