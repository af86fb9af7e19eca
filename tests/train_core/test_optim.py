import pytest
import torch

from train_core.models import ResNet
from train_core.optim import lr_at, make_optimizer, set_lr
from train_core.specs import ResNetSpec, TrainSpec

STEPS = 50


def rates(recipe: TrainSpec, steps: int = STEPS) -> list[float]:
    return [lr_at(recipe, step, steps) for step in range(steps)]


def torch_rates(scheduler: torch.optim.lr_scheduler.LRScheduler) -> list[float]:
    found = []
    for _ in range(STEPS):
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def plain_sgd(lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize("length", [1, 20])
def test_the_schedules_are_torchs(length: int) -> None:
    schedulers = torch.optim.lr_scheduler
    cases: list[tuple[dict[str, object], torch.optim.lr_scheduler.LRScheduler]] = [
        ({"schedule": "cosine"}, schedulers.CosineAnnealingLR(plain_sgd(), T_max=STEPS)),
        (
            {"schedule": "one-cycle"},
            schedulers.OneCycleLR(plain_sgd(), max_lr=0.1, total_steps=STEPS, cycle_momentum=False),
        ),
        (
            {"schedule": "multi-step", "milestones": (0.3, 0.5, 0.9)},
            schedulers.MultiStepLR(plain_sgd(), milestones=[15, 25, 45]),
        ),
        ({"schedule": "step", "step_every": 0.2}, schedulers.StepLR(plain_sgd(), step_size=10)),
        ({"schedule": "constant"}, schedulers.ConstantLR(plain_sgd(), factor=1.0)),
    ]
    for values, scheduler in cases:
        recipe = TrainSpec.model_validate({"epochs": length, "lr": 0.1, **values})
        assert rates(recipe) == pytest.approx(torch_rates(scheduler), abs=1e-9), values


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 1000])
def test_annealed_schedules_end_near_zero_whatever_the_length(schedule: str, steps: int) -> None:
    found = rates(TrainSpec.model_validate({"epochs": 1, "lr": 1.0, "schedule": schedule}), steps)
    assert all(0 <= rate <= 1 for rate in found)
    if steps >= 10:
        assert max(found) > 0.9
        assert found[-1] < 0.03


def test_one_cycle_has_a_rise_of_its_own_and_no_second_one() -> None:
    plain = TrainSpec(epochs=1, lr=1.0, schedule="one-cycle")
    assert rates(plain.model_copy(update={"warmup": 0.05})) == rates(plain)


def test_warm_up_rises_to_the_peak_and_the_rest_follows_the_schedule() -> None:
    found = rates(TrainSpec(epochs=1, lr=1.0, warmup=0.2), 100)
    assert found[:20] == sorted(found[:20])
    assert 0 < found[0] < 0.1
    assert found[20] == 1.0
    assert found[20:] == sorted(found[20:], reverse=True)
    assert found[-1] < 0.001


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_norms_and_biases_are_not_decayed_unless_asked(optimizer: str) -> None:
    model = ResNet(ResNetSpec(widths=(8, 8), blocks=(1, 1)))
    recipe = TrainSpec.model_validate({"epochs": 1, "optimizer": optimizer, "weight_decay": 0.1})
    groups = make_optimizer(model, recipe).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(p) for p in model.parameters() if p.ndim > 1}
    everything = recipe.model_copy(update={"decay_norm_and_bias": True})
    groups = make_optimizer(model, everything).param_groups
    assert sum(len(group["params"]) for group in groups if group["weight_decay"]) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"optimizer": "sgd", "momentum": 0.8, "nesterov": True}, torch.optim.SGD),
        ({"optimizer": "sgd", "momentum": 0.0, "nesterov": True}, torch.optim.SGD),
        ({"optimizer": "adam", "momentum": 0.8, "beta2": 0.95}, torch.optim.Adam),
        ({"optimizer": "adamw", "momentum": 0.8, "beta2": 0.95}, torch.optim.AdamW),
    ],
)
def test_each_optimizer_takes_the_recipes_values(values: dict[str, object], kind: type) -> None:
    model = ResNet(ResNetSpec(widths=(8, 8), blocks=(1, 1)))
    optimizer = make_optimizer(model, TrainSpec.model_validate({"epochs": 1, **values}))
    assert type(optimizer) is kind
    if kind is torch.optim.SGD:
        assert optimizer.defaults["momentum"] == values["momentum"]
        assert optimizer.defaults["nesterov"] == (values["momentum"] != 0)
    else:
        assert optimizer.defaults["betas"] == (0.8, 0.95)


def test_set_lr_reaches_every_group() -> None:
    optimizer = make_optimizer(ResNet(ResNetSpec(widths=(8, 8), blocks=(1, 1))), TrainSpec(epochs=1))
    set_lr(optimizer, 0.123)
    assert [group["lr"] for group in optimizer.param_groups] == [0.123, 0.123]
    # As on CUDA, where a captured step reads the rate from where it always was.
    rates = [torch.tensor(0.5), torch.tensor(0.5)]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    set_lr(optimizer, 0.25)
    assert [rate.item() for rate in rates] == [0.25, 0.25]
