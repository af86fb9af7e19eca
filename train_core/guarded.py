"""The base of optimizers that have no fused form in torch, and torch's own optimizers of this kind.

A step of each can be captured in a CUDA graph, also in fp16. Before torch steps an optimizer that is not fused, it
reads back whether fp16's gradients are finite, which a graph cannot contain. `Guarded` decides on the device.
"""

from typing import Any

import torch
from torch import Tensor

Group = dict[str, Any]
"""Parameters with their settings, as torch's optimizers hold them."""


class Guarded(torch.optim.Optimizer):
    """An optimizer whose step changes nothing if fp16's gradients are not finite.

    The state of each parameter is made in advance, because the first step may be skipped.
    """

    _step_supports_amp_scaling = True  # so torch's GradScaler sets `grad_scale` and `found_inf` before each step

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = self.first_state(parameter, group)

    def first_state(self, parameter: Tensor, group: Group) -> dict[str, Tensor]:
        """The state of a parameter before the first step."""
        raise NotImplementedError

    def update(self) -> None:
        """Take a step on unscaled gradients."""
        super().step()

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]  # no closure is called
        """Take a step on the gradients, scaled by `grad_scale` if there is one; none if `found_inf` is not zero."""
        scale: Tensor | None = getattr(self, "grad_scale", None)
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        parameters = [each for group in self.param_groups for each in with_gradients(group)]
        if scale is not None and parameters:
            torch._foreach_mul_(gradients_of(parameters), scale.reciprocal())
        if found_inf is None:
            self.update()
            return
        tensors = [*parameters, *(value for each in parameters for value in self.state[each].values())]
        before = [tensor.clone() for tensor in tensors]
        self.update()
        skips = found_inf > 0
        for tensor, old in zip(tensors, before, strict=True):
            torch.where(skips.to(tensor.device), old, tensor, out=tensor)


def with_gradients(group: Group) -> list[Tensor]:
    """The parameters of a group that have a gradient."""
    return [parameter for parameter in group["params"] if parameter.grad is not None]


def gradients_of(parameters: list[Tensor]) -> list[Tensor]:
    """The gradients of the parameters that have one."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _number(value: float, parameter: Tensor, group: Group) -> Tensor:
    """A number of the state, where torch keeps it: on the parameter's device if a graph changes it."""
    return parameter.new_full((), value, device=parameter.device if group["capturable"] else "cpu")


class NAdam(Guarded, torch.optim.NAdam):
    """torch's NAdam, guarded."""

    def first_state(self, parameter: Tensor, group: Group) -> dict[str, Tensor]:
        """No step, and averages of zero."""
        return {
            "step": _number(0.0, parameter, group),
            "mu_product": _number(1.0, parameter, group),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }


class RAdam(Guarded, torch.optim.RAdam):
    """torch's RAdam, guarded."""

    def first_state(self, parameter: Tensor, group: Group) -> dict[str, Tensor]:
        """No step, and averages of zero."""
        return {
            "step": _number(0.0, parameter, group),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }


class RMSprop(Guarded, torch.optim.RMSprop):
    """torch's RMSprop, guarded."""

    def first_state(self, parameter: Tensor, group: Group) -> dict[str, Tensor]:
        """No step, and averages of zero."""
        names = ("square_avg", "momentum_buffer") if group["momentum"] else ("square_avg",)
        return {"step": _number(0.0, parameter, group)} | {name: torch.zeros_like(parameter) for name in names}
