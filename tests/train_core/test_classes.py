"""Classes that are not equal: balanced accuracy, and weights of the loss, against scikit-learn and torch."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from tests.support.tiny import NETWORK, tiny_data, tiny_recipe
from train_core.augment import normalise
from train_core.classes import balanced_weights, images_of_classes
from train_core.data import Split
from train_core.loop import evaluate, train
from train_core.mix import MIXES
from train_core.mixing import Targets
from train_core.results import balanced_accuracy
from train_core.state import TrainState
from train_core.step import train_step

CPU = torch.device("cpu")
CLASSES = 5
LABELS = st.integers(0, CLASSES - 1)
ANSWERS = st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=60)  # right and given


def by_sklearn(labels: np.ndarray, answers: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that some classes have no images
        return float(balanced_accuracy_score(labels, answers))


@given(pairs=ANSWERS)
def test_balanced_accuracy_is_that_of_scikit_learn_also_where_classes_have_no_images(
    pairs: list[tuple[int, int]],
) -> None:
    labels, answers = torch.tensor(pairs).unbind(1)
    correct = images_of_classes(labels[labels == answers], CLASSES).tolist()
    ours = balanced_accuracy(correct, images_of_classes(labels, CLASSES).tolist())
    assert ours == pytest.approx(by_sklearn(labels.numpy(), answers.numpy()))


def of_classes(data_split: Split, counts: tuple[int, ...]) -> Split:
    """The first images of each class, as many as `counts` says."""
    chosen = torch.cat([(data_split.labels == label).nonzero()[:n, 0] for label, n in enumerate(counts)])
    return Split(data_split.images[chosen], data_split.labels[chosen])


@pytest.mark.parametrize("counts", [(16, 16, 16), (16, 3, 1), (16, 0, 4), (0, 0, 5)])
def test_an_evaluation_has_the_balanced_accuracy_of_its_answers(counts: tuple[int, ...]) -> None:
    data, state = tiny_data(), TrainState.new(NETWORK, tiny_recipe(epochs=1), CPU)
    list(train(state, data))
    split = of_classes(data.val, counts)
    measured = evaluate(state.model, split, data.mean, data.std, "fp32")
    with torch.no_grad():
        answers = state.model.eval()(normalise(split.images, data.mean, data.std, torch.float32)).argmax(1)
    assert measured.accuracy == (answers == split.labels).double().mean().item()
    assert measured.balanced == pytest.approx(by_sklearn(split.labels.numpy(), answers.numpy()))


def test_an_epoch_has_the_balanced_accuracy_of_the_weights_after_it() -> None:
    data, state = tiny_data(), TrainState.new(NETWORK, tiny_recipe(), CPU)
    data = replace(data, val=of_classes(data.val, (16, 2, 1)))
    *_, last = train(state, data)
    assert last.val_balanced == evaluate(state.model, data.val, data.mean, data.std, "fp32").balanced
    assert (last.validation("accuracy"), last.validation("balanced")) == (last.val_accuracy, last.val_balanced)


@given(labels=st.lists(LABELS, min_size=1, max_size=60))
def test_balanced_weights_are_those_of_scikit_learn_and_one_in_the_mean(labels: list[int]) -> None:
    weights = balanced_weights(torch.tensor(labels), CLASSES)
    present = np.unique(labels)
    theirs = compute_class_weight("balanced", classes=present, y=np.array(labels))
    assert weights[present].tolist() == pytest.approx(theirs.tolist(), rel=1e-6)
    assert weights[torch.tensor(labels)].mean().item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_weight_counts_for_the_whole_loss_of_its_label(smoothing: float) -> None:
    logits, labels, weights = torch.randn(12, CLASSES), torch.randint(CLASSES, (12,)), torch.rand(CLASSES) + 0.1
    ours = Targets.of(labels).weighted(weights).cross_entropy(logits, smoothing)
    losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(ours, (weights[labels] * losses).mean())
    if smoothing == 0:
        theirs = F.cross_entropy(logits, labels, weight=weights, reduction="none")
        torch.testing.assert_close(ours, theirs.mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_mixed_image_has_the_weights_of_its_labels_in_their_shares(smoothing: float) -> None:
    logits, labels, weights = torch.randn(6, CLASSES), torch.randint(CLASSES, (4, 6)), torch.rand(CLASSES) + 0.1
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4])
    ours = Targets(labels=labels, shares=shares).weighted(weights).cross_entropy(logits, smoothing)
    expected = sum(
        share * weights[each] * F.cross_entropy(logits, each, reduction="none", label_smoothing=smoothing)
        for share, each in zip(shares, labels, strict=True)
    )
    torch.testing.assert_close(ours, torch.as_tensor(expected).mean())
    if smoothing == 0:
        soft = sum(share * F.one_hot(each, CLASSES) for share, each in zip(shares, labels, strict=True))
        torch.testing.assert_close(ours, F.cross_entropy(logits, soft, weight=weights, reduction="sum") / 6)


@pytest.mark.parametrize("mix", ["none", "cutmix"])
@pytest.mark.parametrize("batch", [16, 15])
def test_two_parts_of_a_weighted_batch_have_the_gradients_of_the_whole(mix: str, batch: int) -> None:
    network = NETWORK.model_copy(update={"norm": "none"})  # batch norm sees the part, not the batch
    labels = (torch.arange(batch) == 0).long()  # one image of class 1, which is in the first part
    images, targets = MIXES[mix].build()(torch.randn(batch, 3, 8, 8), labels, 1.0, torch.tensor(1.0))  # type: ignore[index]  # a str, for the Literal
    targets = targets.weighted(balanced_weights(labels, 3))
    whole, parts = (TrainState.new(network, tiny_recipe(label_smoothing=0.1), CPU) for _ in range(2))
    parts.accumulation_steps = 2
    torch.testing.assert_close(train_step(parts, images, targets), train_step(whole, images, targets))
    for (name, ours), theirs in zip(parts.model.named_parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_recipe_with_class_weights_trains_with_those_of_the_images_that_it_trains_on(share: float) -> None:
    data = tiny_data()
    train_split = of_classes(data.train, (16, 8, 2))
    data = replace(data, train=train_split)
    augment = {"crop_padding": 0, "flip": False}
    losses = {}
    for class_weights in ("none", "balanced"):
        changes = {"class_weights": class_weights, "epochs": 1, "batch_size": 26, "lr": 1e-9, "augment": augment}
        state = TrainState.new(NETWORK, tiny_recipe(data_fraction=share, **changes), CPU)
        (result,) = train(state, data)
        losses[class_weights] = result.train_loss
    if share == 1:
        state = TrainState.new(NETWORK, tiny_recipe(), CPU)
        images, labels = normalise(train_split.images, data.mean, data.std, torch.float32), train_split.labels
        each = F.cross_entropy(state.model.train()(images), labels, reduction="none")
        assert losses["none"] == pytest.approx(each.mean().item(), rel=1e-5)
        weights = torch.tensor([26 / (3 * n) for n in (16, 8, 2)])
        assert losses["balanced"] == pytest.approx((weights[labels] * each).mean().item(), rel=1e-5)
    assert losses["none"] != losses["balanced"]


def test_with_class_weights_a_rare_class_is_found_sooner() -> None:
    data = tiny_data(images=600)
    data = replace(data, train=of_classes(data.train, (100, 100, 4)))
    reached = {}
    for class_weights in ("none", "balanced"):
        recipe = tiny_recipe(epochs=3, lr=0.02, class_weights=class_weights)
        *_, last = train(TrainState.new(NETWORK, recipe, CPU), data)
        reached[class_weights] = last.validation("balanced")
    assert reached["balanced"] > reached["none"] + 0.1
