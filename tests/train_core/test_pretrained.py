"""Weights of torchvision's ResNet-18 in our network. No network connection: theirs are random ones here."""

from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.models import ResNet18_Weights

from tests.support.tiny import tiny_recipe
from train_core import checkpoint
from train_core.errors import ModelError
from train_core.models import ResNet
from train_core.pretrained import load_imagenet, load_torchvision
from train_core.specs import ResNetSpec
from train_core.state import TrainState

CPU = torch.device("cpu")
RESNET18 = ResNetSpec(
    widths=(64, 128, 256, 512), blocks=(2, 2, 2, 2), stem_kernel=7, stem_stride=2, stem_pool=True, num_classes=1000
)


@pytest.fixture
def theirs() -> torch.nn.Module:
    torch.manual_seed(0)
    made: torch.nn.Module = torchvision.models.resnet18()
    made.train()(torch.randn(8, 3, 64, 64))  # moves the norms' statistics away from where they begin
    return made.eval()


@pytest.fixture
def downloaded(theirs: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The download, as if it had been made before: torch's cache holds the file, with the name that has its hash."""
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(theirs.state_dict(), cache / "resnet18.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", "http://127.0.0.1:9/resnet18.pth", False)


def test_it_computes_what_torchvisions_does(theirs: torch.nn.Module) -> None:
    ours = ResNet(RESNET18).eval()
    load_torchvision(ours, theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_another_number_of_classes_keeps_its_own_classifier(theirs: torch.nn.Module) -> None:
    ours = ResNet(RESNET18.model_copy(update={"num_classes": 100}))
    before = ours.classifier.weight.clone()
    load_torchvision(ours, theirs.state_dict())
    assert torch.equal(ours.classifier.weight, before)
    assert torch.equal(ours.state_dict()["stem.0.weight"], theirs.state_dict()["conv1.weight"])


@pytest.mark.parametrize("change", [{"stem_kernel": 3}, {"blocks": (2, 2, 2, 3)}, {"in_channels": 1}, {"norm": "none"}])
def test_another_shape_is_refused(change: dict[str, object], theirs: torch.nn.Module) -> None:
    with pytest.raises(ModelError, match=r"weights for ResNet-18 alone: give widths = \[64, 128, 256, 512\]"):
        load_torchvision(ResNet(RESNET18.model_copy(update=change)), theirs.state_dict())


@pytest.mark.usefixtures("downloaded")
def test_a_run_starts_from_the_cached_download(theirs: torch.nn.Module) -> None:
    state = TrainState.new(RESNET18, tiny_recipe(start="imagenet", keep="best", ema_decay=0.9), CPU)
    for model in (state.model, state.ema_model, state.best_model):
        assert model is not None
        assert torch.equal(model.state_dict()["stem.0.weight"], theirs.state_dict()["conv1.weight"])


@pytest.mark.usefixtures("downloaded")
def test_a_run_goes_on_without_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = RESNET18.model_copy(update={"num_classes": 3})
    state = TrainState.new(network, tiny_recipe(start="imagenet"), CPU)
    checkpoint.save(state, tmp_path / "run.pt")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "elsewhere"))
    resumed = checkpoint.load(tmp_path / "run.pt", CPU).model.state_dict()
    assert all(torch.equal(values, resumed[name]) for name, values in state.model.state_dict().items())


def test_a_missing_download_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", "http://127.0.0.1:9/resnet18.pth", False)
    with pytest.raises(ModelError, match=r"cannot be downloaded \(.*refused.*\): connect once, or put http") as error:
        load_imagenet(ResNet(RESNET18))
    assert "\n" not in str(error.value)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save({"conv1.weight": Malicious()}, cache / "resnet18.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", "http://127.0.0.1:9/resnet18.pth", False)
    with pytest.raises(ModelError, match="cannot be downloaded"):
        load_imagenet(ResNet(RESNET18))
    assert not (tmp_path / "ran").exists()
