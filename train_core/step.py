"""One optimizer step, the same on every device; on CUDA it is captured once and then replayed as one graph."""

import logging

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train_core.augment import Augmenter
from train_core.device import is_out_of_memory, release_memory
from train_core.optim import set_lr
from train_core.specs import Precision
from train_core.state import TrainState

WARM_UP = 3  # steps before the capture: they choose cuDNN's algorithms and make the optimizer's buffers
HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

log = logging.getLogger(__name__)


class Stepper:
    """Takes optimizer steps on batches of images given by their indices, and sums up how they went.

    A step of a small network is some hundreds of kernels, each shorter than it takes to launch it. On CUDA the first
    steps therefore run as they do elsewhere, on a stream of their own as captures demand; then a step is captured, and
    from there on each step is one launch (Ng et al. 2021, "Accelerating PyTorch with CUDA Graphs"). Where the capture
    fails, steps go on as they began.

    A step that does not fit into the device's memory is taken again in two halves whose gradients are summed, and so
    are all later ones. Losses and gradients are then the same to rounding, but batch norm sees half as many images.
    """

    def __init__(self, state: TrainState, augmenter: Augmenter, labels: Tensor, batch_size: int) -> None:
        self.sums = torch.zeros(2, device=labels.device)  # of the losses and of the correct answers
        self._state = state
        self._augmenter = augmenter
        self._labels = labels
        self._chosen = torch.zeros(batch_size, dtype=torch.int64, device=labels.device)  # what a graph reads
        self._graph: torch.cuda.CUDAGraph | None = None
        self._side_stream = torch.cuda.Stream(labels.device) if labels.is_cuda else None  # type: ignore[no-untyped-call]
        self._captures = labels.is_cuda
        self._uncaptured = 0  # steps taken

    def step(self, chosen: Tensor, lr: float) -> None:
        """Take one step at learning rate `lr` on the images `chosen` (int64 [batch_size])."""
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
            if not is_out_of_memory(error) or self._state.parts > 1 or len(chosen) == 1:
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
        # All that a graph replays. Nothing in it may read a value back, or have a shape that depends on one.
        labels = self._labels[self._chosen]
        self.sums += train_step(self._state, self._augmenter.batch(self._chosen), labels)

    def _capture(self) -> None:
        self._captures = False  # once is enough, however it ends
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._work()
        except RuntimeError as error:
            torch.cuda.synchronize()
            first_line = (str(error).strip().splitlines() or [""])[0]
            log.warning("steps could not be captured in a CUDA graph (%s): they are launched one by one", first_line)
        else:
            self._graph = graph

    def _halve(self) -> None:
        self._state.optimizer.zero_grad(set_to_none=True)
        release_memory(self._labels.device)
        self._state.parts = 2
        self._uncaptured = 0


def train_step(state: TrainState, images: Tensor, labels: Tensor) -> Tensor:
    """One optimizer step on normalised images [B, C, H, W]; returns [summed loss, correct], on the device.

    The batch goes through the network in `state.parts` parts of (nearly) equal size.
    """
    recipe = state.recipe
    state.optimizer.zero_grad(set_to_none=True)
    sums = torch.zeros(2, device=images.device)
    for part, answers in zip(images.chunk(state.parts), labels.chunk(state.parts), strict=True):
        with autocast(images.device, recipe.precision):
            logits = state.model(part)
            loss = F.cross_entropy(logits, answers, label_smoothing=recipe.label_smoothing)
        state.scaler.scale(loss * (len(part) / len(images))).backward()  # type: ignore[no-untyped-call]
        correct = (logits.detach().argmax(dim=1) == answers).sum()
        sums += torch.stack([loss.detach() * len(part), correct])
    if recipe.clip_norm or recipe.clip_value:
        state.scaler.unscale_(state.optimizer)
    if recipe.clip_value:
        nn.utils.clip_grad_value_(state.model.parameters(), recipe.clip_value)
    if recipe.clip_norm:
        nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    return sums


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a network computes in `precision`."""
    half = HALF_TYPES.get(precision)
    # No cache of cast weights: each is used once a step, and a cache would not survive a captured step.
    return torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None, cache_enabled=False)
