"""A recipe and a network in words, for readers who do not know the names of the study file."""

from collections.abc import Iterator, Sequence

from train_core.specs import MIX_SETTINGS, AugmentSpec, ResNetSpec, TrainSpec

OPTIMIZER_NAMES = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "radam": "RAdam",
    "rmsprop": "RMSprop",
    "lion": "Lion",
    "muon": "Muon",
}


def recipe_in_words(recipe: TrainSpec) -> Iterator[tuple[str, str]]:
    """The whole recipe as names and values: the fixed entries, and all others that are not "none"."""
    yield "optimizer", _optimizer(recipe)
    yield "learning rate", f"{recipe.lr:.3g} at its peak"
    yield "schedule", _schedule(recipe)
    if recipe.warmup:
        yield "warm-up", f"the first {100 * recipe.warmup:g} % of the run"
    yield "batch", f"{recipe.batch_size:,} images"
    yield "epochs", f"{recipe.epochs:,}" + _on_part(recipe)
    yield "weight decay", _decay(recipe)
    yield "augmentation", ", ".join(augmentation_in_words(recipe.augment)) or "none"
    if recipe.mix != "none":
        yield "mixed images", _mix(recipe)
    if recipe.label_smoothing:
        yield "label smoothing", f"{recipe.label_smoothing:g}"
    if recipe.class_weights != "none":
        yield "class weights", "all classes count the same in the loss"
    if recipe.clip_norm or recipe.clip_value:
        limits = [f"norm {recipe.clip_norm:g}"] if recipe.clip_norm else []
        limits += [f"each value {recipe.clip_value:g}"] if recipe.clip_value else []
        yield "gradients", f"at most: {', '.join(limits)}"
    if recipe.asam:
        yield "sharpness-aware steps", f"radius {recipe.asam:g} (ASAM)"
    if recipe.ema_decay:
        yield "averaged weights", f"decay {recipe.ema_decay:g} a step (EMA); these are scored"
    if recipe.start != "random":
        yield "first weights", "torchvision's ResNet-18, trained on ImageNet"
    if recipe.keep != "last":
        yield "final weights", "of the epoch with the best validation accuracy"
    yield "precision", recipe.precision
    yield "seed", str(recipe.seed)


def augmentation_in_words(augment: AugmentSpec) -> Iterator[str]:
    """Each change of the training images that the recipe makes."""
    if augment.crop_padding:
        yield f"random crops after a border of {augment.crop_padding} pixels"
    if augment.flip:
        yield "mirror images" + (", each in every second epoch" if augment.flip_order == "alternating" else "")
    if augment.policy != "none":
        yield "TrivialAugment"
    if augment.cutout:
        yield f"cutout of {augment.cutout} pixels"
    if augment.rotation:
        yield f"rotation up to {augment.rotation:g} degrees"
    if augment.enlarge != 1:
        yield f"crops of images enlarged by {augment.enlarge:g}"
    if augment.resize_crop != 1:
        yield f"resized crops from {augment.resize_crop:.0%} of the area"
    for name in ("perspective", "brightness", "contrast", "saturation", "hue"):
        if strength := getattr(augment, name):
            yield f"{name} {strength:g}"
    if augment.erasing:
        yield f"random erasing in {augment.erasing:.0%} of the images"


def notation(network: ResNetSpec) -> str:
    """An explanation of a network's short name, in one line; text between backticks is code."""
    short = str(network).partition(", ")[0]
    widths = short.partition(" x ")[0].strip("[]").split(",")
    return (
        f"`{short}` means: {len(network.blocks)} stages with {_listed(widths)} channels and "
        f"{_listed([*map(str, network.blocks)])} residual blocks of the kind `{network.block}`, after a first "
        "convolution, the stem."
    )


def _listed(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _optimizer(recipe: TrainSpec) -> str:
    words = [OPTIMIZER_NAMES[recipe.optimizer]]
    if recipe.momentum != TrainSpec.model_fields["momentum"].default or recipe.optimizer in ("sgd", "rmsprop"):
        words.append(f"momentum {recipe.momentum:g}" + (" (Nesterov)" if recipe.nesterov else ""))
    elif recipe.nesterov:
        words.append("Nesterov momentum")
    if recipe.beta2 != TrainSpec.model_fields["beta2"].default:
        words.append(f"beta2 {recipe.beta2:g}")
    return ", ".join(words)


def _schedule(recipe: TrainSpec) -> str:
    if recipe.schedule == "multi-step":
        return (
            f"times {recipe.gamma:g} after {_listed([f'{100 * share:g} %' for share in recipe.milestones])} of the run"
        )
    if recipe.schedule == "step":
        return f"times {recipe.gamma:g} after each {100 * recipe.step_every:g} % of the run"
    return recipe.schedule + (", down to zero" if recipe.schedule != "constant" else "")


def _decay(recipe: TrainSpec) -> str:
    if not recipe.weight_decay:
        return "none"
    return f"{recipe.weight_decay:.3g}" + (", also of norms and biases" if recipe.decay_norm_and_bias else "")


def _on_part(recipe: TrainSpec) -> str:
    if recipe.data_fraction < 1:
        return f" on {recipe.data_fraction:.0%} of the images"
    if recipe.copies:
        return f" of {len(recipe.copies)} fixed copies of the images, each changed once"
    return ""


def _mix(recipe: TrainSpec) -> str:
    assert set(MIX_SETTINGS) == {"mix_alpha", "mix_share", "mix_off"}
    words = f"{recipe.mix}, alpha {recipe.alpha:g}, in {recipe.mix_share:.0%} of the batches"
    return words + (f", not in the last {100 * recipe.mix_off:g} % of the run" if recipe.mix_off else "")
