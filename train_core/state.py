"""What a run carries from one epoch to the next."""

import copy
from dataclasses import dataclass, field

import torch

from train_core.models import ResNet
from train_core.optim import make_optimizer
from train_core.pretrained import load_imagenet
from train_core.results import EpochResult
from train_core.specs import ResNetSpec, TrainSpec


@dataclass(kw_only=True)
class TrainState:
    """Everything that a run carries from one epoch to the next. Resuming needs only this.

    It contains no random state: every epoch has its own seed (`seed_epoch`).
    """

    network: ResNetSpec
    recipe: TrainSpec
    model: ResNet
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # keeps fp16 gradients in range; does nothing in other precisions
    ema_model: ResNet | None  # exponential moving average of `model`
    best_model: ResNet | None  # `eval_model` after the epoch that was best on validation
    accumulation_steps: int = 1  # number of parts in which a batch goes through the network
    history: list[EpochResult] = field(default_factory=list)

    @classmethod
    def new(cls, network: ResNetSpec, recipe: TrainSpec, device: torch.device) -> "TrainState":
        """A network with its initial weights: drawn from the recipe's seed, or trained on ImageNet.

        Raises:
            ModelError: the latter are not available, or have another shape.

        """
        seed_epoch(recipe, epoch=0)
        # Drawn on the CPU, so that every device starts from the same weights.
        model = ResNet(network)
        if recipe.start == "imagenet":
            load_imagenet(model)
        return cls.of(model, network, recipe, device)

    @classmethod
    def of(cls, model: ResNet, network: ResNetSpec, recipe: TrainSpec, device: torch.device) -> "TrainState":
        """The initial state of a run of this model."""
        model = model.to(memory_format=torch.channels_last).to(device)
        averaged = copy.deepcopy(model).requires_grad_(False) if recipe.ema_decay else None
        return cls(
            network=network,
            recipe=recipe,
            model=model,
            optimizer=make_optimizer(model, recipe),
            scaler=torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16"),
            ema_model=averaged,
            best_model=copy.deepcopy(model).requires_grad_(False) if recipe.keep == "best" else None,
        )

    @property
    def eval_model(self) -> ResNet:
        """The weights that are evaluated: the averaged ones if the recipe averages."""
        return self.ema_model or self.model

    @property
    def final_model(self) -> ResNet:
        """The weights at the end of a run: those of the last epoch, or of the best."""
        return self.best_model or self.eval_model

    @property
    def final_result(self) -> EpochResult:
        """The metrics of the epoch whose weights are kept; if several are equally good, the first."""
        if self.recipe.keep == "last":
            return self.history[-1]
        return max(self.history, key=lambda result: result.val_accuracy)

    def add(self, result: EpochResult) -> None:
        """Add an epoch's metrics, and keep its weights if they are the best so far."""
        self.history.append(result)
        if self.best_model is not None and self.final_result is result:
            self.best_model.load_state_dict(self.eval_model.state_dict())


def seed_epoch(recipe: TrainSpec, epoch: int) -> None:
    """Seed torch on every device for one epoch (0: the initialisation).

    Because an epoch starts from its own seed, it is the same in a resumed run and in an uninterrupted one.
    """
    torch.manual_seed(recipe.seed * 1_000_003 + epoch)
