import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from train_core import guarded, muon
from train_core.lion import Lion
from train_core.models import ResNet
from train_core.muon import Muon, orthogonalised
from train_core.optim import lr_at, make_optimizer, set_lr
from train_core.optimizers import OPTIMIZERS, OptimizerName
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


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
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
        ({"optimizer": "nadam", "momentum": 0.8, "beta2": 0.95}, guarded.NAdam),
        ({"optimizer": "radam", "momentum": 0.8, "beta2": 0.95}, guarded.RAdam),
        ({"optimizer": "rmsprop", "momentum": 0.8}, guarded.RMSprop),
        ({"optimizer": "lion", "momentum": 0.8, "beta2": 0.95}, Lion),
        ({"optimizer": "muon", "momentum": 0.8, "beta2": 0.95, "nesterov": True}, Muon),
    ],
)
def test_each_optimizer_takes_the_recipes_values(values: dict[str, object], kind: type) -> None:
    model = ResNet(ResNetSpec(widths=(8, 8), blocks=(1, 1)))
    optimizer = make_optimizer(model, TrainSpec.model_validate({"epochs": 1, **values}))
    assert type(optimizer) is kind
    settings = optimizer.defaults
    if "betas" in settings:
        assert settings["betas"] == (0.8, 0.99 if kind is Lion else 0.95)
    else:
        assert settings["momentum"] == values["momentum"]
    if kind in (torch.optim.SGD, Muon):
        assert settings["nesterov"] == (values["momentum"] != 0)
    if kind in (guarded.NAdam, guarded.RAdam):
        assert settings["decoupled_weight_decay"]


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


GUARDED: tuple[OptimizerName, ...] = ("nadam", "radam", "rmsprop", "lion", "muon")
"""Those that are not fused, with the guard of their own."""
SHAPES = (8, 4, 3, 3), (8, 4, 3, 3), (16, 8, 1, 1), (6, 8), (8,)


def parameters(device: str = "cpu") -> list[Tensor]:
    """Two filters of the same shape, a smaller one, a matrix and a bias, in the memory format of the networks."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator).to(device) for shape in SHAPES]
    made = [each.contiguous(memory_format=torch.channels_last) if each.ndim == 4 else each for each in made]
    return [torch.nn.Parameter(each) for each in made]


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step + 1)
    made = [torch.randn(shape, generator=generator) for shape in SHAPES]
    return [each.contiguous(memory_format=torch.channels_last) if each.ndim == 4 else each for each in made]


def built(weights: list[Tensor], name: OptimizerName, lr: float | Tensor, **values: object) -> torch.optim.Optimizer:
    """The optimizer over these parameters: all but the last in the group that is decayed."""
    recipe = TrainSpec.model_validate({"epochs": 1, "optimizer": name, **values})
    groups = [
        {"params": weights[:-1], "weight_decay": recipe.weight_decay},
        {"params": weights[-1:], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[name].build(groups, lr, recipe)


def after_steps(name: OptimizerName, steps: int = 4, lr: float = 0.01, **values: object) -> list[Tensor]:
    weights = parameters()
    optimizer = built(weights, name, lr, **values)
    for step in range(steps):
        for weight, gradient in zip(weights, gradients(step), strict=True):
            weight.grad = gradient
        optimizer.step()
    return [weight.detach() for weight in weights]


def torchs(make: Callable[..., torch.optim.Optimizer], decays: tuple[float, float], steps: int = 4) -> list[Tensor]:
    """The same steps with an optimizer of torch."""
    weights = parameters()
    optimizer = make(
        [{"params": weights[:-1], "weight_decay": decays[0]}, {"params": weights[-1:], "weight_decay": decays[1]}]
    )
    for step in range(steps):
        for weight, gradient in zip(weights, gradients(step), strict=True):
            weight.grad = gradient
        optimizer.step()
    return [weight.detach() for weight in weights]


def test_nadam_radam_and_rmsprop_are_torchs() -> None:
    nadam = torchs(lambda groups: torch.optim.NAdam(groups, 0.01, decoupled_weight_decay=True), (0.05, 0.0))
    radam = torchs(lambda groups: torch.optim.RAdam(groups, 0.01, decoupled_weight_decay=True), (0.05, 0.0))
    rmsprop = torchs(lambda groups: torch.optim.RMSprop(groups, 0.01, momentum=0.9), (0.05, 0.0))
    names: tuple[OptimizerName, ...] = ("nadam", "radam", "rmsprop")
    for name, expected in zip(names, (nadam, radam, rmsprop), strict=True):
        for ours, theirs in zip(after_steps(name, weight_decay=0.05), expected, strict=True):
            assert torch.equal(ours, theirs), name


def test_lion_is_the_papers_algorithm_element_by_element() -> None:
    found = after_steps("lion", steps=3, lr=0.01, weight_decay=0.1)
    for position, (start, weights) in enumerate(zip(parameters(), found, strict=True)):
        decay = 0.0 if position == len(SHAPES) - 1 else 0.1
        elements = start.detach().flatten().tolist()
        momenta = [0.0] * len(elements)
        for step in range(3):
            for i, gradient in enumerate(gradients(step)[position].flatten().tolist()):
                move = math.copysign(1, 0.9 * momenta[i] + 0.1 * gradient)
                elements[i] -= 0.01 * (move + decay * elements[i])
                momenta[i] = 0.99 * momenta[i] + 0.01 * gradient
        assert weights.flatten().tolist() == pytest.approx(elements, abs=1e-6)


def test_muon_moves_filters_as_torchs_muon_moves_their_matrices() -> None:
    found = after_steps("muon", steps=3, lr=0.01, weight_decay=0.1, nesterov=True)
    for position, start in enumerate(parameters()):
        if start.ndim == 4:
            matrix = torch.nn.Parameter(start.detach().flatten(1).clone())
            theirs = torch.optim.Muon(
                [matrix], lr=0.01, weight_decay=0.1, momentum=0.9, nesterov=True, adjust_lr_fn="match_rms_adamw"
            )
            for step in range(3):
                matrix.grad = gradients(step)[position].flatten(1)
                theirs.step()  # type: ignore[no-untyped-call]  # torch does not annotate it
            moved = (matrix - start.flatten(1)).abs().mean()
            # torch computes in bf16, so a move of 1 is known to some hundredths.
            assert (found[position].flatten(1) - matrix).abs().max() < 0.1 * moved


def test_muon_moves_all_but_filters_as_adamw_does() -> None:
    expected = torchs(lambda groups: torch.optim.AdamW(groups, 0.01, betas=(0.9, 0.999)), (0.1, 0.0))
    found = after_steps("muon", lr=0.01, weight_decay=0.1)
    for start, ours, theirs in zip(parameters(), found, expected, strict=True):
        if start.ndim == 4:
            assert not torch.allclose(ours, theirs, atol=1e-3)
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 8, 72), (2, 32, 8), (1, 16, 16)])
def test_orthogonalised_matrices_keep_their_singular_vectors_and_have_values_near_one(
    shape: tuple[int, int, int],
) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalised(matrices)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    inside = left.mT @ found @ right.mT
    assert inside.diagonal(dim1=1, dim2=2)[values / values.amax(1, keepdim=True) > 0.1].min() > 0.6
    assert torch.linalg.matrix_norm(found, 2).max() < 1.3
    assert (inside - torch.diag_embed(inside.diagonal(dim1=1, dim2=2))).abs().max() < 1e-4
    for each, ours in zip(matrices, found, strict=True):
        theirs = torch.optim._muon._zeropower_via_newtonschulz(each, muon.COEFFICIENTS, muon.STEPS, 1e-7)
        torch.testing.assert_close(ours, theirs.float(), rtol=0, atol=0.05)  # theirs is in bf16


def test_a_filter_without_a_gradient_of_size_is_not_moved() -> None:
    assert not orthogonalised(torch.zeros(2, 4, 9)).any()


@pytest.mark.parametrize("name", GUARDED)
def test_steps_with_gradients_that_are_not_finite_change_nothing(name: OptimizerName) -> None:
    """As fp16's scaler sets them: `found_inf` says so, and `grad_scale` is what the gradients were multiplied by."""
    scaled, plain = parameters(), parameters()
    with_scale, without = (built(weights, name, 0.01, weight_decay=0.1, nesterov=True) for weights in (scaled, plain))
    overflows = [True, False, True, False, False]
    for step, overflow in enumerate(overflows):
        for weight, gradient in zip(scaled, gradients(step), strict=True):
            weight.grad = gradient * (math.inf if overflow else 1024)
        with_scale.grad_scale = torch.tensor(1024.0)  # type: ignore[attr-defined]  # as torch's GradScaler sets them
        with_scale.found_inf = torch.tensor(float(overflow))  # type: ignore[attr-defined]  # as torch's GradScaler sets them
        with_scale.step()
        if not overflow:
            for weight, gradient in zip(plain, gradients(step), strict=True):
                weight.grad = gradient
            without.step()
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(scaled, plain, strict=True)), step
        for ours, theirs in zip(scaled, plain, strict=True):
            for key, value in with_scale.state[ours].items():
                assert torch.equal(value, without.state[theirs][key]), (step, key)


@pytest.mark.parametrize("name", GUARDED)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_step_on_a_gpu_reads_nothing_back(
    name: OptimizerName, momentum: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a CUDA graph can contain it. Tensors without values stand in for those of a GPU: reading one raises."""
    monkeypatch.setattr(muon, "adamw", lambda *args, **settings: None)  # it is fused, and has no such stand-in
    mode = FakeTensorMode()
    with mode:
        weights, rate = parameters("cuda"), torch.empty((), device="cuda")
    # Torch checks that the rate is not negative where an optimizer is made, and that comes before any capture.
    optimizer = built(weights, name, torch.tensor(0.1), momentum=momentum, nesterov=True)
    with mode:
        for group in optimizer.param_groups:
            group["lr"] = rate
        for weight in weights:
            weight.grad = torch.empty_like(weight)
        optimizer.step()
        optimizer.grad_scale = optimizer.found_inf = rate  # type: ignore[attr-defined]  # as torch's GradScaler sets them
        optimizer.step()
        with pytest.raises(Exception, match="_local_scalar_dense"):
            rate.item()
