from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.networks import wide_resnet
from tests.train_core.strategies import resnet_specs
from train_core.models import BatchNorm, Conv, ResNet
from train_core.specs import ResNetSpec, num_madds, num_params


def counted_madds(model: nn.Module, images: Tensor) -> int:
    """Multiply-adds of the convolutions and linears that a forward pass runs, counted by hooks; one image."""
    total = 0

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            total += output[0].numel() * module.in_channels * kernel
        elif isinstance(module, nn.Linear):
            total += module.in_features * module.out_features

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    return total


@settings(max_examples=80, deadline=None)
@given(spec=resnet_specs(), height=st.integers(5, 33), width=st.integers(5, 33))
def test_closed_forms_equal_the_built_network(spec: ResNetSpec, height: int, width: int) -> None:
    model = ResNet(spec)
    assert num_params(spec) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    images = torch.zeros(1, spec.in_channels, height, width)
    assert num_madds(spec, (height, width)) == counted_madds(model, images)
    assert model(images).shape == (1, spec.num_classes)


def test_side_is_that_of_a_square() -> None:
    spec = ResNetSpec(widths=(4, 8), blocks=(1, 1))
    assert num_madds(spec, 17) == num_madds(spec, (17, 17))


@settings(max_examples=40, deadline=None)
@given(spec=resnet_specs())
def test_every_parameter_takes_part_in_the_gradient(spec: ResNetSpec) -> None:
    model = ResNet(spec)
    for module in model.modules():  # without norms a block starts as the identity: its first half has no gradient yet
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    images = torch.rand(4, spec.in_channels, 16, 16)
    model(images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_basic_block_without_its_branch_is_the_relu_of_its_input() -> None:
    model = ResNet(ResNetSpec(widths=(4, 8), blocks=(2, 1)))
    block = model.stages[0][1]  # type: ignore[index]  # a Sequential of Sequentials
    nn.init.zeros_(block.norm2.weight)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(block.eval()(x), x.relu())


def test_preact_block_without_its_branch_is_the_identity_and_leaves_its_input_alone() -> None:
    model = ResNet(ResNetSpec(widths=(4, 8), blocks=(2, 1), block="preact", norm="none"))
    block = model.stages[0][1]  # type: ignore[index]
    x = torch.randn(2, 4, 8, 8)
    before = x.clone()
    torch.testing.assert_close(block.eval()(x), before)  # its second convolution starts at zero
    torch.testing.assert_close(x, before)


def test_max_pool_shortcut_pools_then_convolves_at_stride_1() -> None:
    spec = ResNetSpec(widths=(4, 8), blocks=(1, 1), shortcut="max-pool")
    kinds = [type(layer) for layer in ResNet(spec).stages[1][0].shortcut]  # type: ignore[index]
    assert kinds == [nn.MaxPool2d, Conv, BatchNorm]
    convolution = ResNet(spec).stages[1][0].shortcut[1]  # type: ignore[index]
    assert convolution.stride == (1, 1)


def test_dropout_is_where_the_spec_says() -> None:
    model = ResNet(ResNetSpec(widths=(4, 8), blocks=(1, 1), block_dropout=0.2, head_dropout=0.5))
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.2, 0.2, 0.5]


def test_convolutions_start_kaiming_normal_by_fan_out() -> None:
    torch.manual_seed(0)
    model = ResNet(ResNetSpec(widths=(64, 128), blocks=(1, 1)))
    weight = model.stages[1][0].conv2.weight  # type: ignore[index]
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


def test_it_equals_torchvisions_resnet18_given_its_weights() -> None:
    import torchvision

    theirs = torchvision.models.resnet18(num_classes=100).eval()
    spec = ResNetSpec(
        widths=(64, 128, 256, 512),
        blocks=(2, 2, 2, 2),
        stem_kernel=7,
        stem_stride=2,
        stem_pool=True,
        num_classes=100,
    )
    ours = ResNet(spec).eval()
    # Both list their layers in the order of the network, shortcuts behind the block's own.
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


def wide_logits(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The logits of WRN-16-k for images, written from the papers' descriptions with torch's functions.

    He et al. 2016 (arXiv:1603.05027, section 4.1 and appendix) and Zagoruyko & Komodakis 2016 (arXiv:1605.07146).
    """

    def activated(x: Tensor, norm: str) -> Tensor:
        mean, var = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        return F.batch_norm(x, mean, var, weights[f"{norm}.weight"], weights[f"{norm}.bias"]).relu()

    x = F.conv2d(x, weights["stem.0.weight"], padding=1)
    for stage in range(3):
        for block in range(2):
            name, stride = f"stages.{stage}.{block}", 2 if stage > 0 and block == 0 else 1
            first = activated(x, f"{name}.norm1")
            branch = F.conv2d(first, weights[f"{name}.conv1.weight"], stride=stride, padding=1)
            branch = F.conv2d(activated(branch, f"{name}.norm2"), weights[f"{name}.conv2.weight"], padding=1)
            changes = f"{name}.shortcut.0.weight"
            x = branch + (F.conv2d(first, weights[changes], stride=stride) if block == 0 else x)
    x = activated(x, "final_norm.0").mean((2, 3))
    logits: Tensor = F.linear(x, weights["classifier.weight"], weights["classifier.bias"])
    return logits


def test_a_wide_residual_network_is_that_of_the_papers() -> None:
    spec = wide_resnet(16, 2)
    model, images = ResNet(spec), torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        for norm in (each for each in model.modules() if isinstance(each, nn.BatchNorm2d)):
            for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                values.uniform_(0.5, 1.5)  # type: ignore[union-attr]  # they are tensors: it counts statistics
        model.eval()
        expected = wide_logits(dict(model.state_dict()), images)
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10), (1, 5)])
def test_in_training_a_strided_convolution_has_the_values_and_gradients_of_torchs(
    kernel: int, height: int, width: int
) -> None:
    ours = Conv(16, 24, kernel, stride=2)  # with fewer channels, torch's own may end the process
    theirs = nn.Conv2d(16, 24, kernel, 2, padding=kernel // 2, bias=False)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(4, 16, height, width, generator=torch.Generator().manual_seed(0))
    found = []
    for conv in (ours.train(), theirs):
        pixels = images.clone().to(memory_format=torch.channels_last).requires_grad_()
        out = conv(pixels)
        out.square().sum().backward()
        assert pixels.grad is not None
        assert conv.weight.grad is not None
        found.append((out, pixels.grad, conv.weight.grad))
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other)
    torch.testing.assert_close(ours.eval()(images), theirs(images))


def test_an_evaluated_network_keeps_its_strides() -> None:
    """So that exported files hold one operation where there is one."""
    graph = torch.export.export(Conv(3, 8, 1, stride=2).eval(), (torch.zeros(1, 3, 8, 8),)).graph
    called = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert called == ["aten.conv2d.default"]


def test_norms_are_torchs_but_for_the_count_of_batches() -> None:
    model, reference = ResNet(ResNetSpec(widths=(4, 8), blocks=(1, 1))), nn.BatchNorm2d(4)
    norm = model.stem[1]
    images = torch.randn(5, 4, 6, 6)
    assert torch.equal(norm.train()(images), reference.train()(images))
    assert torch.equal(norm.running_var, reference.running_var)  # type: ignore[arg-type]  # a buffer
    assert torch.equal(norm.eval()(images), reference.eval()(images))
    assert int(norm.num_batches_tracked) == 0  # type: ignore[arg-type]  # a buffer
