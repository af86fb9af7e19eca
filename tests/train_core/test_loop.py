import copy
import math
from typing import Any
from unittest import mock

import pytest
import torch
from torch.nn import functional as F

from tests.support.tiny import NETWORK, same, tiny_data, tiny_recipe, weights
from train_core import loop, step
from train_core.augment import normalise
from train_core.errors import DivergedError
from train_core.loop import evaluate, train
from train_core.optimizers import OPTIMIZERS, OptimizerName
from train_core.specs import CopySpec, TrainSpec
from train_core.state import TrainState
from train_core.step import train_step

CPU = torch.device("cpu")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "precision", ["fp32", *(pytest.param(half, marks=pytest.mark.long) for half in ("bf16", "fp16"))]
)
def test_it_learns(optimizer: OptimizerName, precision: str) -> None:
    lr = 0.05 if optimizer == "sgd" else OPTIMIZERS[optimizer].lr[1]
    epochs = 40 if optimizer in ("radam", "lion") else 8  # the first starts slowly, the steps of the second are short
    state = TrainState.new(NETWORK, tiny_recipe(epochs=epochs, optimizer=optimizer, lr=lr, precision=precision), CPU)
    results = list(train(state, tiny_data()))
    assert [result.epoch for result in results] == list(range(1, epochs + 1))
    assert results[-1].train_loss < results[0].train_loss
    assert results[-1].val_accuracy > 0.9


def test_the_last_results_are_what_evaluate_says() -> None:
    data, state = tiny_data(), TrainState.new(NETWORK, tiny_recipe(), CPU)
    *_, last = train(state, data)
    measured = evaluate(state.eval_model, data.val, data.mean, data.std, "fp32")
    assert last.val_accuracy == pytest.approx(measured.accuracy)
    assert last.val_loss == pytest.approx(measured.loss, rel=1e-5)
    with torch.no_grad():
        logits = state.model.eval()(normalise(data.val.images, data.mean, data.std, torch.float32))
    assert measured.accuracy == pytest.approx((logits.argmax(1) == data.val.labels).float().mean().item())
    assert measured.loss == pytest.approx(F.cross_entropy(logits, data.val.labels).item(), rel=1e-5)


def test_a_split_larger_than_a_batch_is_evaluated_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    data, state = tiny_data(), TrainState.new(NETWORK, tiny_recipe(), CPU)
    whole = evaluate(state.model, data.val, data.mean, data.std, "fp32")
    monkeypatch.setattr(loop, "EVAL_BATCH", 7)
    pieces = evaluate(state.model, data.val, data.mean, data.std, "fp32")
    assert pieces.accuracy == whole.accuracy
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-5)


def test_mirrored_evaluation_averages_the_logits_of_an_image_and_its_mirror_image() -> None:
    data, state = tiny_data(), TrainState.new(NETWORK, tiny_recipe(), CPU)
    list(train(state, data))
    measured = evaluate(state.model, data.val, data.mean, data.std, "fp32", mirrored=True)
    images = normalise(data.val.images, data.mean, data.std, torch.float32)
    mirrored = normalise(data.val.images.flip(2), data.mean, data.std, torch.float32)
    with torch.no_grad():
        logits = (state.model.eval()(images) + state.model(mirrored)) / 2
    assert measured.loss == pytest.approx(F.cross_entropy(logits, data.val.labels).item(), rel=1e-5)
    assert measured != evaluate(state.model, data.val, data.mean, data.std, "fp32")


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    runs = []
    for seed in (0, 0, 1):
        state = TrainState.new(NETWORK, tiny_recipe(seed=seed), CPU)
        list(train(state, tiny_data()))
        runs.append(weights(state))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_what_happens_between_epochs_does_not_change_the_run() -> None:
    quiet, disturbed = (TrainState.new(NETWORK, tiny_recipe(), CPU) for _ in range(2))
    list(train(quiet, tiny_data()))
    for _ in train(disturbed, tiny_data()):
        torch.rand(17)
    assert same(weights(quiet), weights(disturbed))


def test_a_short_run_is_annealed_inside_its_own_length() -> None:
    for epochs in (2, 20):
        state = TrainState.new(NETWORK, tiny_recipe(epochs=epochs), CPU)
        *_, last = train(state, tiny_data())
        steps = epochs * 3  # 48 images in batches of 16
        assert last.lr == pytest.approx(0.05 * (1 + math.cos(math.pi * (steps - 1) / steps)) / 2)


def test_the_rate_is_set_before_every_batch() -> None:
    state = TrainState.new(NETWORK, tiny_recipe(epochs=2), CPU)
    seen = []

    def spy(state: TrainState, images: torch.Tensor, labels: torch.Tensor, *more: Any) -> torch.Tensor:
        seen.append(state.optimizer.param_groups[0]["lr"])
        return train_step(state, images, labels, *more)

    with mock.patch.object(step, "train_step", spy):
        list(train(state, tiny_data()))
    assert len(seen) == 6
    assert seen == sorted(set(seen), reverse=True)


def test_a_part_is_a_share_of_each_class_and_seen_as_often_as_a_longer_run_sees_all() -> None:
    data = tiny_data(images=192)
    part = data.train.subset(0.25, seed=0)
    assert data.train.labels[part].bincount().tolist() == [8, 8, 8]
    assert torch.equal(part, data.train.subset(0.25, seed=0))
    assert not torch.equal(part, data.train.subset(0.25, seed=1))
    state, seen = TrainState.new(NETWORK, tiny_recipe(epochs=2, data_fraction=0.25), CPU), list[int]()

    def spy(stepper: step.Stepper, chosen: torch.Tensor, lr: float) -> None:
        seen.extend(chosen.tolist())

    with mock.patch.object(step.Stepper, "step", spy):
        results = list(train(state, data))
    assert [result.images for result in results] == [96, 96]
    assert {index: seen.count(index) for index in part.tolist()} == dict.fromkeys(part.tolist(), 8)


MIXING = [{"mix": "mixup"}, {"mix": "cutmix", "mix_share": 0.5}, {"mix": "ricap", "mix_off": 0.2}]


@pytest.mark.parametrize("changes", MIXING)
def test_it_learns_from_mixed_images(changes: dict[str, Any]) -> None:
    augment = {"crop_padding": 1, "erasing": 0.25, "flip_order": "alternating"}
    state = TrainState.new(NETWORK, tiny_recipe(epochs=16, augment=augment, **changes), CPU)
    results = list(train(state, tiny_data()))
    assert results[-1].val_accuracy > 0.9
    assert 0 < results[-1].train_accuracy <= 1


@pytest.mark.parametrize("changes", [{}, {"data_fraction": 0.25}, {"data_fraction": 0.4, "batch_size": 9}])
def test_flips_alternate_from_pass_to_pass_over_the_images(changes: dict[str, Any]) -> None:
    data = tiny_data(images=96)  # 48 for training
    augment = {"crop_padding": 0, "flip_order": "alternating"}
    state = TrainState.new(NETWORK, tiny_recipe(epochs=4, augment=augment, **changes), CPU)
    passes, original = list[tuple[int, int]](), step.Stepper.prepare

    def spy(stepper: step.Stepper, number: int, steps: int, number_of_pass: int) -> None:
        passes.append((number, number_of_pass))
        original(stepper, number, steps, number_of_pass)

    with mock.patch.object(step.Stepper, "prepare", spy):
        list(train(state, data))
    batch, part = state.recipe.batch_size, len(data.train.subset(state.recipe.data_fraction, 0))
    an_epoch = 48 // batch
    assert [number for number, _ in passes] == list(range(4 * an_epoch))
    assert [number for _, number in passes] == [
        epoch * math.ceil(48 / part) + i * batch // part for epoch in range(4) for i in range(an_epoch)
    ]


def test_each_image_is_flipped_in_every_second_epoch() -> None:
    augment = {"crop_padding": 0, "flip_order": "alternating"}
    state = TrainState.new(NETWORK, tiny_recipe(epochs=6, augment=augment), CPU)
    data, seen = tiny_data(), dict[int, list[bool]]()
    plain = normalise(data.train.images, data.mean, data.std, torch.float32)
    original = step.Stepper._work

    def spy(stepper: step.Stepper) -> None:
        for index, image in zip(stepper._chosen.tolist(), stepper._augmenter.batch(stepper._chosen), strict=True):
            is_plain, is_mirrored = torch.equal(image, plain[index]), torch.equal(image, plain[index].flip(2))
            assert is_plain != is_mirrored
            seen.setdefault(index, []).append(is_mirrored)
        original(stepper)

    with mock.patch.object(step.Stepper, "_work", spy):
        list(train(state, data))
    assert len(seen) == 48
    assert {tuple(flips) for flips in seen.values()} == {(False, True) * 3, (True, False) * 3}


def test_a_diverged_run_stops_with_the_reason() -> None:
    state = TrainState.new(NETWORK, tiny_recipe(lr=1e30), CPU)
    with pytest.raises(DivergedError, match=r"training loss was (nan|inf) (in|after 1 steps of) epoch 1"):
        list(train(state, tiny_data()))


def test_a_run_that_diverges_in_its_first_steps_is_stopped_there() -> None:
    data = tiny_data(images=400)
    state = TrainState.new(NETWORK, tiny_recipe(lr=1e30, batch_size=16), CPU)
    with pytest.raises(DivergedError, match=r"^the training loss was (nan|inf) after 2 steps of epoch 1$"):
        list(train(state, data))


@pytest.mark.parametrize("changes", [{}, *MIXING])
def test_the_host_waits_for_the_device_once_an_epoch_and_once_early_in_the_first(changes: dict[str, Any]) -> None:
    augment = {"crop_padding": 1, "flip_order": "alternating", "policy": "trivial-augment", "erasing": 0.5}
    recipe = tiny_recipe(epochs=2, **({"augment": augment} | changes if changes else {}))
    state, data = TrainState.new(NETWORK, recipe, CPU), tiny_data()
    with torch.profiler.profile(acc_events=True) as profile:
        list(train(state, data))
    reads = {event.key: event.count for event in profile.key_averages()}
    # Reading a value on its own, and every shape that depends on values, would wait. The epoch's one `tolist` does not
    # show in the profile.
    assert not {"aten::nonzero", "aten::is_nonzero"} & set(reads)
    assert reads["aten::item"] == 1
    assert reads["aten::convolution"] > 0


@pytest.mark.parametrize("batch_size", [16, 20, 48, 1000])
def test_an_incomplete_last_batch_is_dropped(batch_size: int) -> None:
    state = TrainState.new(NETWORK, tiny_recipe(epochs=1, batch_size=batch_size), CPU)
    (result,) = train(state, tiny_data())
    assert result.images == {16: 48, 20: 40, 48: 48, 1000: 48}[batch_size]


def test_an_epoch_goes_over_all_copies_and_they_are_the_same_when_a_run_goes_on() -> None:
    copies = (CopySpec(mirror=True), CopySpec(), CopySpec(rotation=90))
    recipe = tiny_recipe(epochs=3, copies=copies, augment={"crop_padding": 0, "flip": False})
    whole, stopped = (TrainState.new(NETWORK, recipe, CPU) for _ in range(2))
    assert [result.images for result in train(whole, tiny_data())] == [144] * 3
    next(train(stopped, tiny_data()))
    list(train(stopped, tiny_data()))
    assert same(weights(whole), weights(stopped))


def test_a_part_of_the_images_and_copies_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="a part of the images and copies of them do not go together"):
        tiny_recipe(data_fraction=0.5, copies=[{}])


def test_the_best_epochs_weights_are_kept_where_the_recipe_says_so() -> None:
    data = tiny_data()
    state = TrainState.new(NETWORK, tiny_recipe(epochs=6, lr=0.5, schedule="constant", keep="best"), CPU)
    seen = [(result, weights(state)) for result in train(state, data)]
    best, theirs = max(seen, key=lambda pair: pair[0].val_accuracy)
    assert best is not seen[-1][0]  # or this would show nothing
    assert state.final_result is best
    assert same(theirs, state.final_model.state_dict())
    assert evaluate(state.final_model, data.val, data.mean, data.std, "fp32").accuracy == pytest.approx(
        best.val_accuracy
    )
    last = TrainState.new(NETWORK, tiny_recipe(), CPU)
    *_, end = train(last, data)
    assert (last.final_model, last.final_result) == (last.eval_model, end)


def test_gradients_are_clipped_by_value() -> None:
    state = TrainState.new(NETWORK, tiny_recipe(epochs=1, clip_value=1e-4), CPU)
    list(train(state, tiny_data()))
    largest = max(parameter.grad.abs().max() for parameter in state.model.parameters() if parameter.grad is not None)
    assert largest == pytest.approx(1e-4)


def test_gradients_are_clipped_to_the_norm() -> None:
    norms = []
    for clip in (0.0, 1e-3):
        state = TrainState.new(NETWORK, tiny_recipe(clip_norm=clip), CPU)
        data = tiny_data()
        train_step(state, normalise(data.val.images, data.mean, data.std, torch.float32), data.val.labels)
        grads = [p.grad for p in state.model.parameters() if p.grad is not None]
        norms.append(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(grad) for grad in grads])).item())
    assert norms[0] > 1e-2
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


def test_label_smoothing_reaches_the_loss() -> None:
    losses = []
    for smoothing in (0.0, 0.3):
        state, data = TrainState.new(NETWORK, tiny_recipe(label_smoothing=smoothing), CPU), tiny_data()
        images = normalise(data.val.images, data.mean, data.std, torch.float32)
        logits = copy.deepcopy(state.model).train()(images)
        expected = F.cross_entropy(logits, data.val.labels, label_smoothing=smoothing).item()
        losses.append(train_step(state, images, data.val.labels)[0].item() / len(data.val))
        assert losses[-1] == pytest.approx(expected, rel=1e-5)
    assert losses[0] != losses[1]


def test_averaged_weights_follow_the_recursion_and_are_scored() -> None:
    decay = 0.5
    data, state = tiny_data(), TrainState.new(NETWORK, tiny_recipe(epochs=2, ema_decay=decay), CPU)
    expected = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    taken = 0
    original = train_step

    def spy(state: TrainState, images: torch.Tensor, labels: torch.Tensor, *more: Any) -> Any:
        nonlocal taken
        sums = original(state, images, labels, *more)
        now = min(decay, (1 + taken) / (10 + taken))
        for name, tensor in state.model.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = now * expected[name] + (1 - now) * tensor
        taken += 1
        return sums

    with mock.patch.object(step, "train_step", spy):
        *_, last = train(state, data)
    assert state.ema_model is state.eval_model
    for name, tensor in state.ema_model.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected[name])
    assert last.val_accuracy == evaluate(state.ema_model, data.val, data.mean, data.std, "fp32").accuracy


def test_dropout_is_on_in_training_and_off_in_evaluation() -> None:
    network = NETWORK.model_copy(update={"head_dropout": 0.5})
    state, data = TrainState.new(network, TrainSpec(epochs=1), CPU), tiny_data()
    first = evaluate(state.model, data.val, data.mean, data.std, "fp32")
    assert evaluate(state.model, data.val, data.mean, data.std, "fp32") == first
    images = normalise(data.val.images, data.mean, data.std, torch.float32)
    state.model.train()
    assert not torch.equal(state.model(images), state.model(images))


def test_between_steps_the_share_of_the_epoch_grows_and_an_exception_ends_the_training() -> None:
    moves: list[tuple[int, float]] = []

    def between(epoch: int, share: float) -> None:
        moves.append((epoch, share))
        if len(moves) == 5:
            raise KeyboardInterrupt

    results = train(TrainState.new(NETWORK, tiny_recipe(), CPU), tiny_data(), between)
    assert next(results).epoch == 1
    with pytest.raises(KeyboardInterrupt):
        next(results)
    # Three steps of 16 images an epoch, then 48 validation images, which cost a third.
    assert moves == [(1, 0.25), (1, 0.5), (1, 0.75), (2, 0.25), (2, 0.5)]
