"""Layers of many models at once: forward, backward and per-example gradient norms without per-example gradients.

Rules:
* Activations are (G, B, ...): G models side by side, B examples each; images and series are channels-last
  (G, B, height, width, channels), a series has height 1.
* `backward` gives the error of the input and, for layers with parameters, a `Tap`: everything needed for
  the squared gradient norm of each example and for a weighted sum of the gradients.
* A padded example has error zero, so it adds nothing to norms or sums.

Linear layers: ||grad_i||^2 = ||delta_i||^2 (||a_i||^2 + 1) (Goodfellow 2015, "Efficient per-example gradient
computations"). Convolutions: im2col; the norm from the small per-example weight gradient or from the two Gram matrices,
||sum_t g_t a_t'||^2 = sum_{t,s} (g_t . g_s)(a_t . a_s), whichever is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

Shape = tuple[int, ...]
Views = list[Tensor]
"""The parameters of one layer, each (G, *its shape)."""


class Tap(Protocol):
    """Gradients of one layer, not yet computed."""

    def squared(self) -> Tensor:
        """Squared L2 norm of each example's gradient, (G, B)."""

    def accumulate(self, into: Views, factor: Tensor | None, rows: slice, scale: float) -> None:
        """Add scale * sum over `rows` of factor * gradient to tensors shaped like the parameters.

        Args:
            into: one tensor per parameter, each (G, *its shape); changed in place.
            factor: (G, B) of each example, for instance its clip factor; None for one everywhere.
            rows: which of the B examples.
            scale: of the whole sum, for instance minus the learning rate.
        """


class Layer(Protocol):
    """One step of a network, for G models at once."""

    def forward(self, views: Views, h: Tensor) -> tuple[Tensor, Any]:
        """Output, and what `backward` will need.

        Args:
            views: parameters of the layer, each (G, *its shape).
            h: activations (G, B, ...), channels last.

        Returns:
            Activations (G, B, ...), and what the layer keeps.
        """

    def backward(self, views: Views, saved: Any, delta: Tensor, first: bool) -> tuple[Tensor, Tap | None]:
        """Error of the input (unspecified for the first layer) and the gradients of the parameters.

        Args:
            views: parameters of the layer, each (G, *its shape).
            saved: what `forward` kept.
            delta: error of the output, shaped like it: derivative of each example's own loss.
            first: no layer lies below, so the error of the input is not needed.

        Returns:
            Error of the input (unspecified for the first layer), and a tap, or None for a layer without parameters.
        """


def weighted(delta: Tensor, factor: Tensor | None, rows: slice) -> Tensor:
    """The errors of some rows, scaled per example.

    Args:
        delta: (G, B, ...) errors or gradients, one per example.
        factor: (G, B); None for one everywhere.
        rows: which of the B examples.

    Returns:
        (G, rows, ...).
    """
    if factor is None:
        return delta[:, rows]
    return delta[:, rows] * factor[:, rows].reshape(factor.shape[0], -1, *(1,) * (delta.dim() - 2))


@dataclass(frozen=True, slots=True)
class Dense:
    """torch.nn.Linear on (G, B, in).

    Args:
        bias: whether there is one.
    """

    bias: bool

    def forward(self, views: Views, h: Tensor) -> tuple[Tensor, Tensor]:
        """As `Layer.forward`: an affine map of every model."""
        weight = views[0].transpose(1, 2)
        if not self.bias:
            return torch.bmm(h, weight), h
        return torch.baddbmm(views[1].unsqueeze(1), h, weight), h

    def backward(self, views: Views, saved: Tensor, delta: Tensor, first: bool) -> tuple[Tensor, Tap]:
        """As `Layer.backward`: the gradients are outer products."""
        return delta if first else torch.bmm(delta, views[0]), DenseTap(saved, delta, self.bias)


@dataclass(frozen=True, slots=True)
class DenseTap:
    """Gradients delta_i a_i' and delta_i."""

    inputs: Tensor
    delta: Tensor
    bias: bool

    def squared(self) -> Tensor:
        """||delta||^2 (||a||^2 + 1)."""
        return self.delta.square().sum(2) * (self.inputs.square().sum(2) + float(self.bias))

    def accumulate(self, into: Views, factor: Tensor | None, rows: slice, scale: float) -> None:
        """As `Tap.accumulate`: one matrix product per model."""
        errors = weighted(self.delta, factor, rows)
        into[0].baddbmm_(errors.transpose(1, 2), self.inputs[:, rows], alpha=scale)
        if self.bias:
            into[1].add_(errors.sum(1), alpha=scale)


@dataclass(frozen=True, slots=True)
class Rectifier:
    """torch.nn.ReLU."""

    def forward(self, views: Views, h: Tensor) -> tuple[Tensor, Tensor]:
        """As `Layer.forward`: what is positive."""
        out = torch.relu(h)
        return out, out

    def backward(self, views: Views, saved: Tensor, delta: Tensor, first: bool) -> tuple[Tensor, None]:
        """As `Layer.backward`: errors pass where the output is positive."""
        return torch.ops.aten.threshold_backward(delta, saved, 0), None


@dataclass(frozen=True, slots=True)
class Tangent:
    """torch.nn.Tanh."""

    def forward(self, views: Views, h: Tensor) -> tuple[Tensor, Tensor]:
        """As `Layer.forward`: squashed to (-1, 1)."""
        out = torch.tanh(h)
        return out, out

    def backward(self, views: Views, saved: Tensor, delta: Tensor, first: bool) -> tuple[Tensor, None]:
        """As `Layer.backward`: the derivative is 1 - tanh^2."""
        return delta * (1.0 - saved.square()), None


@dataclass(frozen=True, slots=True)
class Flat:
    """torch.nn.Flatten of a channels-last image into torch's channels-first order."""

    def forward(self, views: Views, h: Tensor) -> tuple[Tensor, Shape]:
        """As `Layer.forward`: (G, B, H, W, C) to (G, B, C * H * W)."""
        if h.dim() == 3:
            return h, h.shape
        return h.permute(0, 1, 4, 2, 3).reshape(h.shape[0], h.shape[1], -1), h.shape

    def backward(self, views: Views, saved: Shape, delta: Tensor, first: bool) -> tuple[Tensor, None]:
        """As `Layer.backward`: the same order back."""
        if len(saved) == 3:
            return delta, None
        models, examples, height, width, channels = saved
        places = delta.reshape(models, examples, channels, height * width).transpose(2, 3)
        return places.contiguous().view(saved), None  # every layer below is faster on what lies in order


@dataclass(frozen=True, slots=True)
class SpatialMean:
    """torch.nn.AdaptiveAvgPool1d(1) and AdaptiveAvgPool2d(1)."""

    def forward(self, views: Views, h: Tensor) -> tuple[Tensor, Shape]:
        """As `Layer.forward`: (G, B, H, W, C) to (G, B, 1, 1, C)."""
        return h.mean((2, 3), keepdim=True), h.shape

    def backward(self, views: Views, saved: Shape, delta: Tensor, first: bool) -> tuple[Tensor, None]:
        """As `Layer.backward`: every place gets its share."""
        return (delta / (saved[2] * saved[3])).expand(saved), None


@dataclass(frozen=True, slots=True)
class GroupNormal:
    """torch.nn.GroupNorm (Wu and He 2018) on channels-last or dense activations.

    Args:
        groups: of channels, each normalised by itself.
        epsilon: added to the variance.
        affine: whether there are a weight and a bias per channel.
    """

    groups: int
    epsilon: float
    affine: bool

    def forward(self, views: Views, h: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As `Layer.forward`: each group of channels of each example is normalised (Wu and He 2018, section 3.1)."""
        grouped = self._grouped(h)
        centred = grouped - grouped.mean((2, 4), keepdim=True)
        inverse = torch.rsqrt(centred.square().mean((2, 4), keepdim=True) + self.epsilon)
        normal = (centred * inverse).reshape(h.shape)
        if not self.affine:
            return normal, (normal, inverse)
        return normal * _per_channel(views[0], h) + _per_channel(views[1], h), (normal, inverse)

    def backward(
        self, views: Views, saved: tuple[Tensor, Tensor], delta: Tensor, first: bool
    ) -> tuple[Tensor, Tap | None]:
        """As `Layer.backward`: through the mean and the variance of the group."""
        normal, inverse = saved
        tap = self._tap(normal, delta) if self.affine else None
        scaled = self._grouped(delta * _per_channel(views[0], delta) if self.affine else delta)
        grouped = self._grouped(normal)
        common = scaled.mean((2, 4), keepdim=True) + grouped * (scaled * grouped).mean((2, 4), keepdim=True)
        return ((scaled - common) * inverse).reshape(delta.shape), tap

    def _tap(self, normal: Tensor, delta: Tensor) -> Tap:
        models, examples, channels = delta.shape[0], delta.shape[1], delta.shape[-1]
        product = (delta * normal).reshape(models, examples, -1, channels).sum(2)
        return SmallTap([product, delta.reshape(models, examples, -1, channels).sum(2)])

    def _grouped(self, h: Tensor) -> Tensor:
        """(G, B, ..., C) to (G, B, places, groups, C / groups)."""
        return h.reshape(h.shape[0], h.shape[1], -1, self.groups, h.shape[-1] // self.groups)


def _per_channel(view: Tensor, like: Tensor) -> Tensor:
    """(G, C) shaped to multiply (G, B, ..., C)."""
    return view.reshape(view.shape[0], *(1,) * (like.dim() - 2), view.shape[1])


@dataclass(frozen=True, slots=True)
class SmallTap:
    """Per-example gradients that are small enough to be held, each (G, B, *parameter shape)."""

    gradients: list[Tensor]

    def squared(self) -> Tensor:
        """Sum of squares."""
        total = self.gradients[0].square().flatten(2).sum(2)
        for gradient in self.gradients[1:]:
            total = total + gradient.square().flatten(2).sum(2)
        return total

    def accumulate(self, into: Views, factor: Tensor | None, rows: slice, scale: float) -> None:
        """As `Tap.accumulate`: a weighted sum of the gradients that are held."""
        for view, gradient in zip(into, self.gradients, strict=True):
            view.add_(weighted(gradient, factor, rows).sum(1), alpha=scale)


@dataclass(frozen=True, slots=True)
class Convolution:
    """torch.nn.Conv2d, or Conv1d as height 1, by patches.

    Args:
        kernel, stride, padding, dilation: (vertical, horizontal).
        bias: whether there is one.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    bias: bool

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output (torch.nn.Conv2d's formula).

        Args:
            height: of the input, 1 for a series.
            width: of the input.

        Returns:
            (height, width); below 1 when the kernel does not fit.
        """
        tall, wide = (
            (length + 2 * p - d * (k - 1) - 1) // s + 1
            for length, k, s, p, d in zip(
                (height, width), self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        return tall, wide

    def forward(self, views: Views, h: Tensor) -> tuple[Tensor, tuple[Tensor, Shape]]:
        """As `Layer.forward`: patches times kernels."""
        models, examples = h.shape[:2]
        tall, wide = self.size(h.shape[2], h.shape[3])
        patches = self._patches(h, tall, wide)
        kernels = self._matrix(views[0])
        flat = patches.reshape(models, -1, patches.shape[-1])
        out = torch.baddbmm(views[1].unsqueeze(1), flat, kernels) if self.bias else torch.bmm(flat, kernels)
        return out.reshape(models, examples, tall, wide, -1), (patches, h.shape)

    def backward(self, views: Views, saved: tuple[Tensor, Shape], delta: Tensor, first: bool) -> tuple[Tensor, Tap]:
        """As `Layer.backward`: errors are spread back over the patches."""
        patches, shape = saved
        errors = delta.reshape(patches.shape[0], patches.shape[1], patches.shape[2], -1)
        tap = ConvolutionTap(patches, errors, self.bias)
        if first:
            return delta, tap
        models = errors.shape[0]
        spread = torch.bmm(errors.reshape(models, -1, errors.shape[3]), self._matrix(views[0]).transpose(1, 2))
        return self._fold(spread, shape, delta.shape[2], delta.shape[3]), tap

    def _matrix(self, kernels: Tensor) -> Tensor:
        """(G, O, C, kh, kw) or (G, O, C, k) to (G, kh * kw * C, O)."""
        models, outputs, channels = kernels.shape[:3]
        return kernels.reshape(models, outputs, channels, -1).permute(0, 3, 2, 1).reshape(models, -1, outputs)

    def _patches(self, h: Tensor, tall: int, wide: int) -> Tensor:
        """(G, B, H, W, C) to (G, B, places, kh * kw * C)."""
        h = pad(h, (0, 0, self.padding[1], self.padding[1], self.padding[0], self.padding[0])).contiguous()
        models, examples, channels = h.shape[0], h.shape[1], h.shape[4]
        s = h.stride()
        view = h.as_strided(
            (models, examples, tall, wide, *self.kernel, channels),
            (
                s[0],
                s[1],
                s[2] * self.stride[0],
                s[3] * self.stride[1],
                s[2] * self.dilation[0],
                s[3] * self.dilation[1],
                1,
            ),
        )
        return view.reshape(models, examples, tall * wide, -1)

    def _fold(self, spread: Tensor, shape: Shape, tall: int, wide: int) -> Tensor:
        """Add up where patches overlap: the transpose of `_patches`."""
        models, examples, height, width, channels = shape
        pieces = spread.reshape(models, examples, tall, wide, *self.kernel, channels)
        (down, right), (up, left) = self.stride, self.padding
        out = spread.new_zeros(models, examples, height + 2 * up, width + 2 * left, channels)
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                top, side = i * self.dilation[0], j * self.dilation[1]
                window = out[:, :, top : top + down * tall : down, side : side + right * wide : right]
                window += pieces[:, :, :, :, i, j]
        return out[:, :, up : up + height, left : left + width].contiguous()


@dataclass(frozen=True, slots=True)
class ConvolutionTap:
    """Gradients of kernels from patches (G, B, L, K) and errors (G, B, L, O).

    `held` keeps the per-example gradients (G, B, O * K) when `squared` has built them, so that the sum reuses them.
    """

    patches: Tensor
    errors: Tensor
    bias: bool
    held: list[Tensor] = field(default_factory=list)

    def squared(self) -> Tensor:
        """The cheaper of the Gram form (L x L) and the explicit form (K x O)."""
        models, examples, places, inputs = self.patches.shape
        a = self.patches.reshape(-1, places, inputs)
        g = self.errors.reshape(-1, places, self.errors.shape[3])
        if 2 * places * places < inputs * g.shape[2]:
            norms = (torch.bmm(a, a.transpose(1, 2)) * torch.bmm(g, g.transpose(1, 2))).sum((1, 2)).clamp(min=0.0)
        else:
            self.held.append(torch.bmm(g.transpose(1, 2), a).reshape(models, examples, -1))
            norms = self.held[0].square().sum(2).reshape(-1)
        if self.bias:
            norms = norms + g.sum(1).square().sum(1)
        return norms.reshape(models, examples)

    def accumulate(self, into: Views, factor: Tensor | None, rows: slice, scale: float) -> None:
        """As `Tap.accumulate`: one product per model, over all places or over the gradients that are held."""
        errors = weighted(self.errors, factor, rows).flatten(1, 2)
        if self.held and factor is not None:
            total = torch.bmm(factor[:, rows].unsqueeze(1), self.held[0][:, rows])
        else:
            total = torch.bmm(errors.transpose(1, 2), self.patches[:, rows].flatten(1, 2))
        models, outputs, channels = into[0].shape[:3]
        kernels = total.reshape(models, outputs, -1, channels).transpose(2, 3).reshape(into[0].shape)
        into[0].add_(kernels, alpha=scale)
        if self.bias:
            into[1].add_(errors.sum(1), alpha=scale)
