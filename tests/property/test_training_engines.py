"""The batched engine equals Opacus and autograd for random models, shapes, data and settings."""

import copy

import numpy as np
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from fedinfer.config import TrainingSection
from fedinfer.training import PrivateSteps
from fedinfer.training.engines import batched, device_by_device
from fedinfer.training.engines.compile import read_program
from fedinfer.training.engines.opacus import work_together
from fedinfer.training.objective import Objective

CLASSES = Objective(None)
SUMS = 1e-5
"""Allowed difference of clipped sums, relative to the largest entry."""
WEIGHTS = 1e-4
"""Allowed difference of final weights without noise, relative to the largest entry of the update."""
COMMON = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ACTIVATIONS = st.sampled_from([nn.ReLU, nn.Tanh])


@st.composite
def dense_nets(draw):
    """Linear stacks with or without bias and hidden layers; a single Linear is logistic regression."""
    width, classes = draw(st.integers(1, 9)), draw(st.integers(2, 5))
    layers, shape = [], (width,)
    for size in draw(st.lists(st.integers(1, 8), max_size=3)):
        layers.append(nn.Linear(width, size, bias=draw(st.booleans())))
        layers.append(draw(ACTIVATIONS)())
        width = size
    return nn.Sequential(*layers, nn.Linear(width, classes, bias=draw(st.booleans()))), shape, classes


@st.composite
def convolutional_nets(draw):
    """Conv1d or Conv2d stacks of any kernel, stride, padding and dilation, GroupNorm, mean or flatten."""
    flat = draw(st.booleans())
    kind, mean = (nn.Conv1d, nn.AdaptiveAvgPool1d) if flat else (nn.Conv2d, nn.AdaptiveAvgPool2d)
    channels = draw(st.integers(1, 3))
    shape = (
        (channels, draw(st.integers(6, 9))) if flat else (channels, draw(st.integers(5, 8)), draw(st.integers(5, 8)))
    )
    layers = []
    for size in draw(st.lists(st.sampled_from([2, 3, 4, 6]), min_size=1, max_size=2)):
        kernel, padding = draw(st.integers(1, 3)), draw(st.integers(0, 2))
        stride, dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2)) if padding else 1
        least = min(nn.Sequential(*layers)(torch.zeros(1, *shape)).shape[2:])
        assume(dilation * (kernel - 1) < least + 2 * padding)
        layers.append(kind(channels, size, kernel, stride, padding, dilation, bias=draw(st.booleans())))
        groups = draw(st.sampled_from([1, size // 2 if size % 2 == 0 else 1, size]))
        places = nn.Sequential(*layers)(torch.zeros(1, *shape)).shape[2:].numel()
        # A norm takes out scale: where a weight is nothing but scale, all that is left of its gradient is rounding.
        only_scales = kernel == channels == size // groups == 1
        if draw(st.booleans()) and size // groups * places >= 8 and not only_scales:  # see the test on rounding
            layers.append(nn.GroupNorm(groups, size, affine=draw(st.booleans())))
        layers.append(draw(ACTIVATIONS)())
        channels = size
    layers += [mean(1)] * draw(st.booleans()) + [nn.Flatten()]
    body = nn.Sequential(*layers)
    classes = draw(st.integers(2, 4))
    width = body(torch.zeros(1, *shape)).shape[1]
    return nn.Sequential(body, nn.Linear(width, classes)), shape, classes


@st.composite
def cases(draw, nets):
    """A network, start weights, ragged data of a few devices (some empty), and settings."""
    seed = draw(st.integers(0, 2**31))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net, shape, classes = draw(nets)
        counts = draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
        data = [(torch.randn(n, *shape), torch.randint(0, classes, (n,))) for n in counts]
        start = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
        start = (start + 0.3 * torch.randn(start.shape)).numpy()
    training = TrainingSection(
        batch_size=draw(st.integers(1, 6)),
        local_epochs=draw(st.integers(1, 2)),
        local_steps=draw(st.integers(0, 4)),
        learning_rate=draw(st.sampled_from([0.01, 0.1])),
        momentum=draw(st.sampled_from([0.0, 0.5])),
        proximal=draw(st.sampled_from([0.0, 0.2])),
    )
    return net, read_program(net, shape, CLASSES), start, data, training, seed


def sources(data, seed):
    return [np.random.default_rng((seed, device)) for device in range(len(data))]


def assert_close(ours, theirs, tolerance):
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert np.abs(ours - theirs).max() <= tolerance * max(np.abs(theirs).max(), 1e-3)


def check_sums(case, rate, norm):
    net, program, start, data, _, seed = case
    with torch.no_grad():
        ours = batched.gradient_sums(program, start, data, sources(data, seed), rate, norm)
    assert_close(
        ours,
        device_by_device.gradient_sums(work_together(net, norm, CLASSES), start, data, sources(data, seed), rate),
        SUMS,
    )


def check_updates(case):
    net, program, start, data, training, seed = case
    with torch.no_grad():
        ours = batched.updates(program, start, data, sources(data, seed), training)
    assert_close(ours, device_by_device.updates(net, start, data, sources(data, seed), training, CLASSES), WEIGHTS)


def check_private(case, private):
    net, program, start, data, training, seed = case
    with torch.no_grad():
        ours = batched.private_updates(program, start, data, sources(data, seed), training, private)
    theirs = device_by_device.private_updates(
        work_together(net, private.clipping_norm, CLASSES), start, data, sources(data, seed), training, private
    )
    assert_close(ours, theirs, WEIGHTS)


RATES = st.sampled_from([0.3, 0.7, 1.0])
NORMS = st.sampled_from([0.05, 0.5, 2.0, 100.0])
PRIVATE = st.builds(PrivateSteps, st.integers(1, 4), RATES, NORMS, st.sampled_from([0.0, 0.0, 1.0]))


@COMMON
@given(cases(dense_nets()), RATES, NORMS)
def test_clipped_sums_of_dense_nets_equal_opacus(case, rate, norm):
    check_sums(case, rate, norm)


@COMMON
@given(cases(convolutional_nets()), RATES, NORMS)
def test_clipped_sums_of_convolutional_nets_equal_opacus(case, rate, norm):
    check_sums(case, rate, norm)


@COMMON
@given(cases(dense_nets()))
def test_local_sgd_of_dense_nets_equals_autograd(case):
    check_updates(case)


@COMMON
@given(cases(convolutional_nets()))
def test_local_sgd_of_convolutional_nets_equals_autograd(case):
    check_updates(case)


@COMMON
@given(cases(dense_nets()), PRIVATE)
def test_private_sgd_of_dense_nets_equals_opacus(case, private):
    check_private(case, private)


@COMMON
@given(cases(convolutional_nets()), PRIVATE)
def test_private_sgd_of_convolutional_nets_equals_opacus(case, private):
    check_private(case, private)


def exact_sum(net, start, x, y, norm):
    """Clipped sum in double precision by torch.func."""
    net, parameters, at = copy.deepcopy(net).double(), {}, 0
    for name, parameter in net.named_parameters():
        values = torch.from_numpy(start[at : at + parameter.numel()].astype(np.float64))
        parameters[name], at = values.view_as(parameter), at + parameter.numel()

    def loss(weights, row, label):
        return cross_entropy(functional_call(net, weights, (row[None],)), label[None])

    found = vmap(grad(loss), (None, 0, 0))(parameters, x.double(), y)
    gradients = torch.cat([value.reshape(len(y), -1) for value in found.values()], dim=1)
    factor = (norm / (gradients.norm(dim=1) + 1e-6)).clamp(max=1)
    return (gradients * factor[:, None]).sum(0).numpy()


def test_group_norm_of_two_numbers_rounds_no_worse_than_opacus():
    """Groups of two divide by differences that may nearly vanish: float32 is off by 1e-4 then, in both engines."""
    ours, theirs = [], []
    for seed in range(60):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Linear(7, 8), nn.GroupNorm(4, 8), nn.ReLU(), nn.Linear(8, 2))
            x, y = torch.randn(3, 7), torch.randint(0, 2, (3,))
        start = torch.cat([p.detach().reshape(-1) for p in net.parameters()]).numpy()
        exact = exact_sum(net, start, x, y, 0.05)
        with torch.no_grad():
            a = batched.gradient_sums(read_program(net, (7,), CLASSES), start, [(x, y)], sources([0], 0), 1.0, 0.05)[0]
        b = device_by_device.gradient_sums(work_together(net, 0.05, CLASSES), start, [(x, y)], sources([0], 0), 1.0)[0]
        ours.append(np.abs(a - exact).max() / np.abs(exact).max())
        theirs.append(np.abs(b - exact).max() / np.abs(exact).max())
    assert np.median(ours) <= 1e-5
    assert np.median(ours) <= np.median(theirs)
    assert max(ours) <= max(theirs)


@COMMON
@given(cases(dense_nets()), RATES, NORMS)
def test_no_sum_is_longer_than_rows_times_the_norm(case, rate, norm):
    _, program, start, data, _, seed = case
    with torch.no_grad():
        sums = batched.gradient_sums(program, start, data, sources(data, seed), rate, norm)
    for row, (_, labels) in zip(sums, data, strict=True):
        assert np.linalg.norm(row.astype(float)) <= len(labels) * norm * (1 + 1e-5)
