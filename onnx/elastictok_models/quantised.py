# SPDX-License-Identifier: MIT OR Apache-2.0
"""The in-loop filter in small integers: what exact bundles compute, and training with it.

Activations are 8-bit integers times a unit, weights integers of at most 63 times a power of two for each output channel. Units
are powers of two as well, one for each channel, so that they can be moved into the weights: the exported network has the
unit 1 everywhere (exact_filter.py). Every sum then stays below 2^24 and is the same in whatever order it is formed. Rounding passes
gradients on unchanged (straight-through estimator: Jacob et al., CVPR 2018)."""
import torch
from torch import nn

from .config import CHROMA_SCALE, LUMA_SCALE, K, Config
from .filter import LoopFilter

WEIGHT_MAX = 63  # two products of it with 255 fit 16 bits, in which processors without VNNI add them
RESIDUAL_UNIT = 16  # parts of a step in residuals that the filter sees
RECIPROCAL_BITS, GAIN_BITS = 5, 8  # significant bits of what residuals and corrections are multiplied with
GAIN_UNIT = 4096  # parts of a grey level in what corrections are multiplied with, as in predictions


def straight(x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`value`, with the gradient of x."""
    return x + (value - x).detach()


def dyadic(x: torch.Tensor, bits: int) -> torch.Tensor:
    """The nearest number with that many significant bits, for x above 0."""
    unit = torch.exp2(torch.floor(torch.log2(x)) - (bits - 1))
    return torch.round(x / unit) * unit


def levels_of(gain: torch.Tensor) -> torch.Tensor:
    """Grey levels of one unit of correction, as they are exported."""
    return torch.round(dyadic(gain, GAIN_BITS) * GAIN_UNIT).clamp(min=1) / GAIN_UNIT


def weight_units(w: torch.Tensor) -> torch.Tensor:
    """float [n, 1, ..]: for each output channel of w [n, ..] the power of two with the smallest squared error of w in integers
    up to WEIGHT_MAX times it; the smaller one of two that are alike."""
    axes = tuple(range(1, w.dim()))
    fits = torch.exp2(torch.ceil(torch.log2(w.abs().amax(axes, keepdim=True).clamp(min=1e-12) / WEIGHT_MAX)))
    error = lambda unit: ((whole(w, unit) * unit - w) ** 2).sum(axes, keepdim=True)
    return torch.where(error(fits / 2) <= error(fits), fits / 2, fits)


def whole(w: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """Weights w as integers in `unit`."""
    return torch.round(w / unit).clamp(-WEIGHT_MAX, WEIGHT_MAX)


class QuantisedFilter(LoopFilter):
    """LoopFilter, with the same inputs, outputs and parameters, computed as an exact bundle does.
    `unit_*`: a power of two for each channel of an activation, which calibrate() sets."""

    def __init__(self, cfg: Config):
        super().__init__(cfg)
        self.activations, self.record = [], None
        for prefix, channels, blocks in (("", cfg.channels, cfg.blocks), ("chroma_", cfg.chroma_channels, cfg.chroma_blocks)):
            self._activation(prefix + "stream", channels)
            for i in range(blocks):
                self._activation(f"{prefix}depthwise_{i}", channels)
                self._activation(f"{prefix}expand_{i}", channels * cfg.expansion)
            self._activation(prefix + "tail", 1)
        self._activation("embedding", 1)
        seen = 1 / (2 * RESIDUAL_UNIT)
        for name, n, scale in (("luma", cfg.luma_patch, LUMA_SCALE), ("chroma", cfg.chroma_patch, CHROMA_SCALE)):
            self.register_buffer(f"unit_{name}", torch.tensor([1 / scale] * n + [seen] * n), persistent=False)

    def _activation(self, name: str, channels: int):
        self.register_buffer("unit_" + name, torch.full((channels,), 2.0 ** -5))
        self.activations.append(name)

    def unit(self, name: str) -> torch.Tensor:
        return getattr(self, "unit_" + name)

    def keep(self, name: str, x, low=-128, high=127):
        """x [B, C, H, W] as the activation `name`: integers from low to high times its unit."""
        if self.record is not None:
            self.record(name, x)
            return x
        unit = self.unit(name)[:, None, None]
        x = torch.minimum(torch.maximum(x, low * unit), high * unit)
        return straight(x, torch.round(x / unit) * unit)

    def conv(self, x, unit, weight, bias=None, **settings):
        """Convolution with rounded weights and biases; `unit` [channels] of x."""
        if self.record is None:
            unit = unit.reshape((-1, 1, 1, 1) if settings.get("groups", 1) > 1 else (1, -1, 1, 1))
            with torch.no_grad():
                folded = weight * unit
                of_rows = weight_units(folded)
                value = whole(folded, of_rows) * of_rows / unit
            weight = straight(weight, value)
            if bias is not None:
                of_rows = of_rows.flatten()
                bias = straight(bias, torch.round(bias.detach() / of_rows) * of_rows)
        return nn.functional.conv2d(x, weight, bias, **settings)

    def mixers(self, blocks, h, prefix: str):
        stream = prefix + "stream"
        for i, mixer in enumerate(blocks):
            depthwise, expand = f"{prefix}depthwise_{i}", f"{prefix}expand_{i}"
            one = mixer.depthwise
            x = self.keep(depthwise, self.conv(h, self.unit(stream), one.weight, one.bias, padding=1, groups=one.groups))
            x = torch.relu(self.conv(x, self.unit(depthwise), mixer.expand.weight, mixer.expand.bias))
            x = self.conv(self.keep(expand, x, 0, 255), self.unit(expand), mixer.project.weight, mixer.project.bias)
            h = self.keep(stream, h + (x if self.record is not None else self.keep(stream, x)))
        return h

    def forward(self, recon, residual, step, mask):
        step = step.clamp(max=self.coarsest_step)
        condition = self.condition(torch.log2(step)[:, None] / 4 - 1)
        part = lambda x: self.keep("embedding", x)
        place = part(part(self.place) + part(condition[:, :, None, None]))
        place = place.repeat(1, 1, recon.shape[2] // K, recon.shape[3] // K)
        # reconstruction in grey levels around 128, residual in parts of a step: integers of 8 bits
        recon = torch.round(recon).clamp(0, 255) - 128
        reciprocal = dyadic(RESIDUAL_UNIT / step, RECIPROCAL_BITS)[:, None, None, None]
        residual = torch.round(residual * reciprocal).clamp(-128, 127)
        given = lambda part, unit, *more: torch.cat([torch.cat([recon[:, part], residual[:, part]], 1) * unit[:, None, None], *more], 1)
        part = slice(self.luma)
        x = given(part, self.unit_luma, place)
        unit = torch.cat([self.unit_luma, self.unit_embedding.expand(place.shape[1])])
        h = self.mixers(self.body, self.keep("stream", self.conv(x, unit, self.head.weight, self.head.bias)), "")
        levels = lambda gain, unit: straight(gain, levels_of(gain.detach() * unit) / unit)[:, None, None, None]
        gain = levels(torch.exp(self.gain(condition))[:, 0] * step, self.unit_tail)
        luma = self.keep("tail", self.conv(h, self.unit_stream, self.tail.weight)) * gain
        part = slice(self.luma, None)
        x = given(part, self.unit_chroma, h.detach())  # luma is not to suffer for chroma
        unit = torch.cat([self.unit_chroma, self.unit_stream])
        weight = torch.cat([self.chroma_head.weight, self.chroma_luma.weight], 1)
        c = self.keep("chroma_stream", self.conv(x, unit, weight, self.chroma_head.bias))
        c = self.mixers(self.chroma_body, c, "chroma_")
        gain = levels(step, self.unit_chroma_tail)
        chroma = self.keep("chroma_tail", self.conv(c, self.unit_chroma_stream, self.chroma_tail.weight)) * gain
        return torch.cat([luma, chroma], 1) * mask


@torch.no_grad()
def calibrate(net: QuantisedFilter, batches) -> None:
    """Sets every unit to the power of two with the smallest mean error where cells were coded, over `batches`, tuples of
    forward()'s arguments."""
    candidates, errors, coded = torch.exp2(torch.arange(-14.0, 4.0)), {}, None

    def record(name: str, x):
        low, high = (0, 255) if "expand" in name else (-128, 127)
        x = x.transpose(0, 1).reshape(x.shape[1], -1)
        x = x[:, coded] if x.shape[1] == len(coded) else x
        x = x[:, ::7] if len(net.unit(name)) > 1 else x.reshape(1, -1)[:, ::61]
        error = [(torch.round(x / u).clamp(low, high) * u - x).abs().sum(1, dtype=torch.float64) for u in candidates]
        errors[name] = errors.get(name, 0) + torch.stack(error, 1)

    net.record = record
    for recon, residual, step, mask in batches:
        coded = mask.flatten() > 0
        net(recon, residual, step, mask)
    net.record = None
    for name, error in errors.items():
        net.unit(name).copy_(candidates[error.argmin(1)])
