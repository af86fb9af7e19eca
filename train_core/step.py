"""One optimizer step, the same on every device; on CUDA it is captured once and then replayed as one graph."""

import logging
from collections.abc import Sequence
from functools import cache, partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from train_core.augment import Augmenter
from train_core.data import Split
from train_core.device import NO_CAPTURE, is_out_of_memory, may_capture, release_memory
from train_core.errors import CaptureError
from train_core.mixing import Mixer, Targets
from train_core.optim import set_lr
from train_core.sharpness import ascended
from train_core.specs import Precision
from train_core.state import TrainState

WARM_UP = 3  # steps before the capture: they choose cuDNN's algorithms and make the optimizer's buffers
HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
RECOVERS = "2.15"  # the first torch known to keep stream, generator and allocator usable after a failed capture

log = logging.getLogger(__name__)


class Stepper:
    """Takes optimizer steps on batches of images given by their indices, and sums their losses and right answers.

    A step of a small network consists of some hundreds of kernels, each shorter than its launch. So on CUDA, the first
    steps run as elsewhere, but on a separate stream as captures require; then a step is captured, and from there on
    each step is one launch (Ng et al. 2021, "Accelerating PyTorch with CUDA Graphs"). `capture=False`, or the
    environment variable `SEARCH_EAGER=1`, turns this off.

    A step that does not fit into the device's memory is repeated in two halves whose gradients are summed, and so are
    all later ones. Losses and gradients are then the same up to rounding, but batch norm sees half as many images.
    """

    def __init__(
        self,
        state: TrainState,
        augmenter: Augmenter,
        labels: Tensor,
        batch_size: int,
        *,
        class_weights: Tensor | None = None,
        capture: bool = True,
    ) -> None:
        device = labels.device
        self.sums = torch.zeros(2, device=device)  # of the losses and of the right answers
        self._state = state
        self._augmenter = augmenter
        self._labels = labels
        self._class_weights = class_weights
        self._mixer = Mixer(state.recipe, augmenter.size, device)
        self._chosen = torch.zeros(batch_size, dtype=torch.int64, device=device)  # read by the graph
        self._graph: torch.cuda.CUDAGraph | None = None
        self._side_stream = _side_stream(device) if device.type == "cuda" else None
        self._captures = capture and may_capture(device)
        self._uncaptured = 0  # steps taken
        half = HALF_TYPES.get(state.recipe.precision)
        # On a CPU, the time of each cast is negligible.
        self._half = HalfWeights(state.model, half) if half and device.type == "cuda" else None

    @classmethod
    def of(
        cls,
        state: TrainState,
        split: Split,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        *,
        class_weights: Tensor | None = None,
        capture: bool = True,
    ) -> Self:
        """The stepper for the images of a split, augmented by the state's recipe.

        `class_weights`, float [classes] on the split's device, are factors on the loss for an image of each class;
        without them, all count 1.
        """
        augmenter = Augmenter(split.images, state.recipe.augment, mean, std, seed=state.recipe.seed)
        return cls(state, augmenter, split.labels, batch_size, class_weights=class_weights, capture=capture)

    @property
    def is_captured(self) -> bool:
        """Whether steps are now replayed from a graph."""
        return self._graph is not None

    def prepare(self, step: int, steps: int, number_of_pass: int) -> None:
        """Set which step of the run comes next (from 0), and which pass over the images its batch is from (from 0)."""
        self._mixer.at(step, steps)
        self._augmenter.enter_pass(number_of_pass)

    def step(self, chosen: Tensor, lr: float) -> None:
        """Take one step at learning rate `lr` on the images `chosen` (int64 [batch_size]).

        Raises:
            CaptureError: the step could not be captured, and this version of torch cannot continue after that.

        """
        set_lr(self._state.optimizer, lr)
        self._chosen.copy_(chosen)
        if self._captures and self._uncaptured == WARM_UP:
            self._capture()
        if self._graph is not None:
            self._graph.replay()
            return
        fits = True
        try:
            self._run()
        except Exception as error:
            if not is_out_of_memory(error) or self._state.accumulation_steps > 1 or len(chosen) == 1:
                raise
            fits = False
        if not fits:  # outside of the handler, whose exception keeps the activations alive
            self._halve()
            self._run()
        self._uncaptured += 1

    def _run(self) -> None:
        if self._side_stream is None:
            self._work()
            return
        self._side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side_stream):
            self._work()
        torch.cuda.current_stream().wait_stream(self._side_stream)

    def _work(self) -> None:
        # Everything that a graph replays. Nothing in it may read a value back, or have a shape that depends on one.
        labels = self._labels[self._chosen]
        images, targets = self._mixer(self._augmenter.batch(self._chosen), labels)
        train_step(self._state, images, targets.weighted(self._class_weights), self.sums, self._half)

    def _capture(self) -> None:
        self._captures = False  # one try is enough, whatever its result
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._side_stream):
                self._work()
        except RuntimeError as error:
            first_line = (str(error).strip().splitlines() or [""])[0]
            if torch.__version__ < RECOVERS:
                raise CaptureError(
                    f"a training step cannot be captured in a CUDA graph ({first_line}): set {NO_CAPTURE}=1 and run "
                    "the same command again"
                ) from error
            torch.cuda.synchronize()
            log.warning(
                "steps could not be captured in a CUDA graph (%s): they are launched kernel by kernel; %s=1 does so "
                "from the start",
                first_line,
                NO_CAPTURE,
            )
        else:
            self._graph = graph

    def _halve(self) -> None:
        self._state.optimizer.zero_grad(set_to_none=True)
        release_memory(self._labels.device)
        self._state.accumulation_steps = 2
        self._uncaptured = 0


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of warm-up and capture: one for each device, since cuBLAS keeps a workspace for each stream used."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch does not annotate it


class HalfWeights:
    """The weights of convolutions and linear layers in half precision, cast all at once.

    Autocast casts each weight, and each gradient back, by a separate kernel: some hundred in a step. Here one kernel
    fills copies in `dtype`, with which the network computes, and one copies their gradients back. The values are those
    of autocast. Norms stay in fp32.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        layers = [(name, each) for name, each in model.named_modules() if isinstance(each, nn.Conv2d | nn.Linear)]
        self._weights = {
            f"{layer_name}.{name}": weight for layer_name, layer in layers for name, weight in layer.named_parameters()
        }
        self.twins = {
            name: torch.empty_like(weight, dtype=dtype).requires_grad_() for name, weight in self._weights.items()
        }

    @torch.no_grad()
    def refresh(self) -> None:
        """Cast the current weights."""
        torch._foreach_copy_(list(self.twins.values()), list(self._weights.values()))

    @torch.no_grad()
    def hand_over_gradients(self) -> None:
        """Add the copies' gradients to those of the weights, or use them directly if there are none yet."""
        gradients = [twin.grad for twin in self.twins.values() if twin.grad is not None]
        weights = list(self._weights.values())
        have = [weight.grad for weight in weights if weight.grad is not None]
        if have:
            torch._foreach_add_(have, gradients)
        else:
            new = [torch.empty_like(weight) for weight in weights]
            torch._foreach_copy_(new, gradients)
            for weight, gradient in zip(weights, new, strict=True):
                weight.grad = gradient
        for twin in self.twins.values():
            twin.grad = None


def train_step(
    state: TrainState,
    images: Tensor,
    labels: Tensor | Targets,
    sums: Tensor | None = None,
    half: HalfWeights | None = None,
) -> Tensor:
    """One optimizer step on normalised images [B, C, H, W]; returns [summed loss, correct], added to `sums` if given.

    `labels` is int64 [B], or the targets of mixed images.

    The batch goes through the network in `state.accumulation_steps` parts of (nearly) equal size. With `half`, the
    network computes with these weights in the recipe's half precision. With `asam`, gradients are computed a second
    time, at the ascent point of the first ones: for the same images, but dropout draws other masks. `sums` are those of
    the first time.
    """
    recipe = state.recipe
    sums = torch.zeros(2, device=images.device) if sums is None else sums
    targets = labels if isinstance(labels, Targets) else Targets.of(labels)
    _compute_gradients(state, images, targets, sums, half)
    if recipe.asam:
        with ascended(state.model, recipe.asam):
            _compute_gradients(state, images, targets, torch.zeros_like(sums), half)
    if recipe.clip_norm or recipe.clip_value:
        state.scaler.unscale_(state.optimizer)
    if recipe.clip_value:
        nn.utils.clip_grad_value_(state.model.parameters(), recipe.clip_value)
    if recipe.clip_norm:
        nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return sums


def _compute_gradients(
    state: TrainState, images: Tensor, targets: Targets, sums: Tensor, half: HalfWeights | None
) -> None:
    """The gradients of the whole batch at the current weights, scaled by the scaler; adds its sums to `sums`."""
    recipe = state.recipe
    state.optimizer.zero_grad(set_to_none=True)
    forward = state.model if half is None else partial(functional_call, state.model, half.twins)
    if half is not None:
        half.refresh()
    for part, answers in zip(
        images.chunk(state.accumulation_steps), targets.chunk(state.accumulation_steps), strict=True
    ):
        with autocast(images.device, recipe.precision):
            logits = forward(part)
            loss = answers.cross_entropy(logits, recipe.label_smoothing)
        share = loss if len(part) == len(images) else loss * (len(part) / len(images))
        state.scaler.scale(share).backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        if half is not None:
            half.hand_over_gradients()
        sums[0].add_(loss.detach(), alpha=len(part))
        sums[1].add_(answers.correct(logits.detach()))


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a network computes in `precision`."""
    half = HALF_TYPES.get(precision)
    # No cache of cast weights: each is used once per step, and a cache would not survive a captured step.
    return torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None, cache_enabled=False)
