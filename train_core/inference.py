"""A trained network's predictions for a split, and a training batch as the network sees it."""

import hashlib

import torch
from torch import Tensor

from train_core.augment import Augmenter, fixed_copy
from train_core.data import Split, TrainingData
from train_core.device import without_trials_of_algorithms
from train_core.loop import outputs
from train_core.mixing import Mixer
from train_core.models import ResNet
from train_core.predictions import PICTURED, SEEN, Predictions, SeenBatch
from train_core.specs import Precision, TrainSpec


@torch.inference_mode()
@without_trials_of_algorithms()
def predict(model: ResNet, split: Split, data: TrainingData, precision: Precision) -> Predictions:
    """The model's outputs for a split on its device; `data` is what the model was trained on.

    Their accuracies are exactly those of `train_core.loop.evaluate`.
    """
    batches = [logits.float() for logits, _ in outputs(model, split, data.mean, data.std, precision)]
    logits, labels = torch.cat(batches).cpu(), split.labels.cpu()
    certainties, said = logits.softmax(dim=1).max(dim=1)
    wrong = (said != labels).nonzero().flatten()
    pictured = wrong[certainties[wrong].argsort(descending=True, stable=True)[:PICTURED]]
    return Predictions(
        classes=data.classes,
        digest=_digest(split),
        labels=labels.numpy(),
        logits=logits.numpy(),
        files=split.files,
        pictured=pictured.numpy(),
        pictures=split.images[pictured.to(split.images.device)].cpu().numpy(),
    )


@torch.no_grad()
def seen_batch(data: TrainingData, recipe: TrainSpec) -> SeenBatch:
    """A few training images, drawn by the recipe's seed, augmented and mixed by the recipe.

    It is computed on the CPU, and torch's random state is restored.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        chosen = torch.randperm(len(data.train))[:SEEN].to(data.train.labels.device)
        images, labels = data.train.images[chosen].cpu(), data.train.labels[chosen].cpu()
        if recipe.copies:
            copies = torch.cat([fixed_copy(images, copy) for copy in recipe.copies])
            drawn = torch.randperm(len(copies))[: len(images)]
            images, labels = copies[drawn], labels.repeat(len(recipe.copies))[drawn]
        augmenter = Augmenter(images, recipe.augment, data.mean, data.std, seed=recipe.seed)
        mixer = Mixer(recipe, augmenter.size, images.device)
        batch, targets = mixer(augmenter.batch(torch.arange(len(images))), labels)
    return SeenBatch(
        classes=data.classes,
        pictures=_pixels(batch, data).numpy(),
        labels=targets.labels.numpy(),
        shares=torch.ones(1).numpy() if targets.shares is None else targets.shares.numpy(),
    )


def _pixels(images: Tensor, data: TrainingData) -> Tensor:
    """The inverse of `normalise`: [B, C, H, W] to uint8 [B, H, W, C]."""
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    return ((images.permute(0, 2, 3, 1) * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _digest(split: Split) -> str:
    """32 hexadecimal digits that are equal for the same images and labels in the same order."""
    digest = hashlib.blake2b(str(tuple(split.images.shape)).encode(), digest_size=16)
    digest.update(split.images.cpu().contiguous().numpy().data)
    digest.update(split.labels.cpu().numpy().data)
    return digest.hexdigest()
