import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from space import RandomTrial, Space, Task, network, suggest
from tests.support.networks import pyramidnet, wide_resnet
from tests.train_core.strategies import resnet_specs
from train_core.blocks import BLOCKS, BlockName
from train_core.models import BatchNorm, Conv, ResidualBlock, ResNet
from train_core.specs import Norm, ResNetSpec, num_madds, num_params


def counted_madds(model: nn.Module, images: Tensor) -> int:
    """Multiply-adds of the convolutions and linears that a forward pass runs, counted by hooks; one image."""
    total = 0

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            total += output[0].numel() * (module.in_channels // module.groups) * kernel
        elif isinstance(module, nn.Linear):
            total += module.in_features * module.out_features

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    return total


@settings(max_examples=150, deadline=None)
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


def inputs_of_convolutions(model: ResNet, size: tuple[int, int]) -> list[tuple[str, nn.Conv2d, torch.Size]]:
    """The convolutions in the blocks of a network, each with height and width of its input."""
    found: list[tuple[str, nn.Conv2d, torch.Size]] = []
    for name, module in model.stages.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda conv, inputs, _, name=name: found.append((name, conv, inputs[0].shape[2:]))
            )
    with torch.no_grad():
        model(torch.zeros(1, 3, *size))
    return found


@pytest.mark.parametrize("size", [(32, 32), (28, 20), (16, 16), (8, 8), (5, 5), (3, 2)])
def test_every_cell_of_every_drawn_kernel_reaches_a_pixel(size: tuple[int, int]) -> None:
    wide = Space(stages=(2, 3, 4, 5), shortcut_kernel=(1, 3, 5, 7), stem_kernel=(1, 3), stem_stride=(1, 2))
    generator = random.Random(0)
    task, limited = Task(size=size), 0
    for _ in range(30):
        spec = network(suggest(RandomTrial(generator, wide), wide), wide, 60_000, task)
        limited += bool(spec.max_kernels)
        for name, conv, (height, width) in inputs_of_convolutions(ResNet(spec).eval(), size):
            kernel = torch.ones(1, 1, *conv.kernel_size, requires_grad=True)
            out = F.conv2d(torch.ones(1, 1, height, width), kernel, None, conv.stride, conv.padding)
            (reached,) = torch.autograd.grad(out.sum(), kernel)
            assert reached.min() > 0, f"{spec} {name} on {height}x{width}"
    assert limited > 0


def test_a_kernel_is_limited_in_its_stage_alone() -> None:
    spec = ResNetSpec(widths=(8, 8, 8), blocks=(1, 1, 1), k1=7, k2=5, shortcut_kernel=3, max_kernels=(7, 3, 1))
    kernels = [
        [each.kernel_size[0] for each in stage.modules() if isinstance(each, nn.Conv2d)]  # the branch, the shortcut
        for stage in ResNet(spec).stages
    ]
    assert kernels == [[7, 5], [3, 3, 3], [1, 1, 1]]
    assert "kernels 7 and 5, at most 7,3,1 in the stages" in str(spec)
    with pytest.raises(ValueError, match="max_kernels must have one number for each of the 3 stages, not 2"):
        ResNetSpec(widths=(8, 8, 8), blocks=(1, 1, 1), max_kernels=(7, 3))


def test_basic_block_without_its_branch_is_the_relu_of_its_input() -> None:
    model = ResNet(ResNetSpec(widths=(4, 8), blocks=(2, 1)))
    block = model.stages[0][1]  # type: ignore[index]  # a Sequential of Sequentials
    nn.init.zeros_(block.norm2.weight)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(block.eval()(x), x.relu())


def test_preact_block_without_its_branch_is_the_identity_and_leaves_its_input_alone() -> None:
    model = ResNet(ResNetSpec(widths=(4, 8), blocks=(2, 1), block="preact", norm="none"))
    block = model.stages[0][1]  # type: ignore[index]  # Tensor | Module
    x = torch.randn(2, 4, 8, 8)
    before = x.clone()
    torch.testing.assert_close(block.eval()(x), before)  # its second convolution starts at zero
    torch.testing.assert_close(x, before)


def test_max_pool_shortcut_pools_then_convolves_at_stride_1() -> None:
    spec = ResNetSpec(widths=(4, 8), blocks=(1, 1), shortcut="max-pool")
    kinds = [type(layer) for layer in ResNet(spec).stages[1][0].shortcut]  # type: ignore[index]  # Tensor | Module
    assert kinds == [nn.MaxPool2d, Conv, BatchNorm]
    convolution = ResNet(spec).stages[1][0].shortcut[1]  # type: ignore[index]  # Tensor | Module
    assert convolution.stride == (1, 1)


def test_dropout_is_where_the_spec_says() -> None:
    model = ResNet(ResNetSpec(widths=(4, 8), blocks=(1, 1), block_dropout=0.2, head_dropout=0.5))
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.2, 0.2, 0.5]


def test_convolutions_start_kaiming_normal_by_fan_out() -> None:
    torch.manual_seed(0)
    model = ResNet(ResNetSpec(widths=(64, 128), blocks=(1, 1)))
    weight = model.stages[1][0].conv2.weight  # type: ignore[index]  # Tensor | Module
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

    He et al. 2016 (arXiv:1603.05027, section 4.1; by its appendix, the first block activates before it splits) and
    Zagoruyko & Komodakis 2016 (arXiv:1605.07146).
    """

    def activated(x: Tensor, norm: str) -> Tensor:
        mean, var = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
        return F.batch_norm(x, mean, var, weights[f"{norm}.weight"], weights[f"{norm}.bias"]).relu()

    x = F.conv2d(x, weights["stem.0.weight"], padding=1)
    for stage, block in ((stage, block) for stage in range(3) for block in range(2)):
        name, stride = f"stages.{stage}.{block}", 2 if stage > 0 and block == 0 else 1
        first = activated(x, f"{name}.norm1")
        branch = F.conv2d(first, weights[f"{name}.conv1.weight"], stride=stride, padding=1)
        branch = F.conv2d(activated(branch, f"{name}.norm2"), weights[f"{name}.conv2.weight"], padding=1)
        shortcut = weights.get(f"{name}.shortcut.0.weight")
        if shortcut is not None:
            x = F.conv2d(first, shortcut, stride=stride)
        x = branch + (first if stage == block == 0 and shortcut is None else x)
    x = activated(x, "final_norm.0").mean((2, 3))
    logits: Tensor = F.linear(x, weights["classifier.weight"], weights["classifier.bias"])
    return logits


@pytest.mark.parametrize("stem_width", [16, 32])  # 32: as wide as the first stage, as in PreResNets
def test_a_wide_residual_network_is_that_of_the_papers(stem_width: int) -> None:
    spec = wide_resnet(16, 2).model_copy(update={"stem_width": stem_width})
    model, images = ResNet(spec), torch.randn(4, 3, 16, 16)
    with_random_norms(model.eval())
    with torch.no_grad():
        expected = wide_logits(dict(model.state_dict()), images)
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)


def with_random_norms(model: nn.Module) -> None:
    """Give norms other weights and statistics than those that change nothing."""
    with torch.no_grad():
        for norm in (each for each in model.modules() if isinstance(each, nn.BatchNorm2d)):
            for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                values.uniform_(0.5, 1.5)  # type: ignore[union-attr]  # they are tensors: it counts statistics


@pytest.mark.parametrize("theirs", ["resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_bottlenecks_equal_torchvisions_given_their_weights(theirs: str) -> None:
    import torchvision

    reference = getattr(torchvision.models, theirs)(num_classes=10).eval()
    with_random_norms(reference)
    spec = ResNetSpec(
        widths=(256, 512, 1024, 2048),
        blocks=(3, 4, 6, 3),
        block="bottleneck",
        expansion=4 if theirs == "resnet50" else 2,
        groups=32 if "x4d" in theirs else 1,
        stem_width=64,
        stem_kernel=7,
        stem_stride=2,
        stem_pool=True,
    )
    ours = ResNet(spec).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), reference.state_dict().values(), strict=True)))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), reference(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("inputs", "width", "stride"), [(16, 16, 1), (16, 24, 1), (16, 24, 2)])
def test_inverted_residuals_equal_torchvisions_given_their_weights(inputs: int, width: int, stride: int) -> None:
    from torchvision.models.mobilenetv2 import InvertedResidual

    theirs = InvertedResidual(inputs, width, stride, expand_ratio=6)
    with_random_norms(theirs)
    spec = ResNetSpec(
        widths=(width, 32), blocks=(1, 1), block="inverted-residual", expansion=6, shortcut="none", stem_width=inputs
    )
    ours = BLOCKS[spec.block].build(spec, inputs, width, stride)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    features = torch.randn(2, inputs, 9, 9)
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(features), theirs.train(mode)(features))


def pyramid_logits(weights: dict[str, Tensor], x: Tensor, convolutions: int) -> Tensor:
    """The logits of a PyramidNet, written from the paper's description with torch's functions.

    Han et al. 2017 (arXiv:1610.02915): figure 6 d for the block, section 3.2 for the zero-padded shortcut, table 1 for
    the network. A block is bn-conv, then bn-relu-conv for each other convolution, then bn.
    """

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = norm(F.conv2d(x, weights["stem.0.weight"], padding=1), "stem.1")
    strided = 1 if convolutions == 2 else 2  # the 3x3 one
    for stage, block in ((stage, block) for stage in range(3) for block in range(2)):
        name, out = f"stages.{stage}.{block}", x
        for i in range(1, convolutions + 1):
            out = norm(out, f"{name}.norm{i}")
            kernels = weights[f"{name}.conv{i}.weight"]
            stride = 2 if stage > 0 and block == 0 and i == strided else 1
            out = F.conv2d(out if i == 1 else out.relu(), kernels, stride=stride, padding=kernels.shape[-1] // 2)
        out = norm(out, f"{name}.norm{convolutions + 1}")
        if stage > 0 and block == 0:
            x = F.avg_pool2d(x, 2, ceil_mode=True)
        x = out + torch.cat([x, x.new_zeros(len(x), out.shape[1] - x.shape[1], *x.shape[2:])], 1)
    x = norm(x, "final_norm.0").relu().mean((2, 3))
    logits: Tensor = F.linear(x, weights["classifier.weight"], weights["classifier.bias"])
    return logits


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_pyramid_is_that_of_the_paper(bottleneck: bool) -> None:
    spec = pyramidnet(20 if bottleneck else 14, 20, bottleneck=bottleneck)
    model = ResNet(spec).eval()
    with_random_norms(model)
    images = torch.randn(3, 3, 17, 13)
    with torch.no_grad():
        expected = pyramid_logits(dict(model.state_dict()), images, 3 if bottleneck else 2)
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_that_start_at_zero_are_their_shortcuts(block: BlockName, norm: Norm) -> None:
    spec = ResNetSpec(widths=(8, 8), blocks=(2, 2), block=block, norm=norm, zero_init=norm == "batch", shortcut="pad")
    features = torch.randn(2, 8, 6, 6).relu()
    for each in ResNet(spec).stages[0]:  # type: ignore[attr-defined]  # a Sequential of Sequentials
        torch.testing.assert_close(each.train()(features.clone()), features)


@pytest.mark.parametrize("block", BLOCKS)
def test_stochastic_depth_skips_the_branch_of_some_images_and_is_right_on_average(block: BlockName) -> None:
    spec = ResNetSpec(widths=(8, 8), blocks=(1, 2), block=block, drop_path=0.5, shortcut="pad", norm="none")
    torch.manual_seed(0)
    model = ResNet(spec)
    blocks = [each for each in model.modules() if isinstance(each, ResidualBlock)]
    assert [each.drop_path for each in blocks] == [0, 0.25, 0.5]
    last = blocks[-1]
    nn.init.normal_(last.last_layer.weight)  # type: ignore[arg-type]  # a tensor
    features = torch.randn(1, 8, 4, 4).relu().expand(4000, -1, -1, -1).contiguous()
    with torch.no_grad():
        shortcut, whole, found = features, last.eval()(features), last.train()(features)
    skipped = (found == shortcut).flatten(1).all(1)
    assert 0.46 < skipped.float().mean() < 0.54
    doubled = found[~skipped][0]
    if "final_norm" in BLOCKS[block].uses:  # others end with a ReLU
        torch.testing.assert_close(doubled - shortcut[0], 2 * (whole - shortcut)[0])
    torch.testing.assert_close(last.eval()(features), whole)


def test_a_block_without_a_shortcut_is_never_skipped_and_does_not_start_at_zero() -> None:
    spec = ResNetSpec(widths=(8, 16), blocks=(1, 1), shortcut="none", drop_path=0.9, zero_init=True)
    block = ResNet(spec).stages[1][0]  # type: ignore[index]  # Tensor | Module
    assert block.shortcut is None
    assert block.train()(torch.rand(64, 8, 4, 4)).flatten(1).any(1).all()


@pytest.mark.parametrize("width", [4, 8, 12])
def test_a_padded_shortcut_keeps_the_channels_that_fit(width: int) -> None:
    spec = ResNetSpec(widths=(8, width), blocks=(1, 1), shortcut="pad")
    shortcut = ResNet(spec).stages[1][0].shortcut  # type: ignore[index]  # Tensor | Module
    x = torch.rand(2, 8, 5, 4)
    found = shortcut(x)
    assert found.shape == (2, width, 3, 2)
    kept = min(width, 8)
    torch.testing.assert_close(found[:, :kept, 0, 0], x[:, :kept, :2, :2].mean((2, 3)))
    torch.testing.assert_close(found[:, :kept, 2, 1], x[:, :kept, 4, 2:].mean(2))  # what is at the edge, alone
    assert not found[:, kept:].any()


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
