# SPDX-License-Identifier: MIT OR Apache-2.0
"""The in-loop filter in small integers: what exact bundles compute, and training with it.

Activations are 8-bit integers times a unit, one for each channel, which is moved into the weights: the exported network
(exact_filter.py) has the unit 1 everywhere, and weights that are 8-bit integers times a power of two for each output channel. Every sum
then stays below 2^24 and is the same in whatever order it is formed. Rounding passes gradients on unchanged (straight-through
estimator: Jacob et al., CVPR 2018)."""
import torch
from torch import nn

from .config import CHROMA_SCALE, LUMA_SCALE, REACH, K, Config
from .filter import LoopFilter

WEIGHT_MAX = 127
PAIR_MAX = 128  # of two neighbours: their products with 255 fit 16 bits, in which processors without VNNI add them
RESIDUAL_UNIT = 16  # parts of a step in residuals that the filter sees
RECIPROCAL_BITS, GAIN_BITS = 5, 8  # significant bits of what residuals and corrections are multiplied with
DEAD_ZONE = 0.25  # grey levels, in whole units of correction: luma's are that much smaller, so that what is hardly wrong stays as it is
GAIN_UNIT = 4096  # parts of a grey level in what corrections are multiplied with, as in predictions


def straight(x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`value`, with the gradient of x."""
    return x + (value - x).detach()


class _Rounded(torch.autograd.Function):
    """x in whole units from low to high; gradients pass where nothing is clipped."""

    @staticmethod
    def forward(context, x, unit, low: int, high: int):
        x = x / unit
        context.save_for_backward((x >= low) & (x <= high))
        return x.round_().clamp_(low, high).mul_(unit)

    @staticmethod
    def backward(context, gradient):
        return gradient * context.saved_tensors[0], None, None, None


def dyadic(x: torch.Tensor, bits: int) -> torch.Tensor:
    """The nearest number with that many significant bits, for x above 0."""
    unit = torch.exp2(torch.floor(torch.log2(x)) - (bits - 1))
    return torch.round(x / unit) * unit


def levels_of(gain: torch.Tensor) -> torch.Tensor:
    """Grey levels of one unit of correction, as they are exported."""
    return torch.round(dyadic(gain, GAIN_BITS) * GAIN_UNIT).clamp(min=1) / GAIN_UNIT


def dead_zone(levels: torch.Tensor) -> torch.Tensor:
    """DEAD_ZONE in units of correction of that many grey levels."""
    return torch.round(DEAD_ZONE / levels).clamp(max=127)


def whole(w: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """Weights w [n, inputs, ..] as integers in `unit`, within WEIGHT_MAX and PAIR_MAX."""
    q = torch.round(w / unit).clamp(-WEIGHT_MAX, WEIGHT_MAX)
    if w.shape[1] == 1:  # depthwise
        return q.clamp(-PAIR_MAX // 2 + 1, PAIR_MAX // 2 - 1)
    pairs = q.reshape(len(q), -1, 2)
    excess = (pairs.abs().sum(2, keepdim=True) - PAIR_MAX).clamp(min=0)
    return (pairs - torch.sign(pairs) * torch.ceil(excess / 2)).reshape(q.shape)


def weight_units(w: torch.Tensor) -> torch.Tensor:
    """float [n, 1, ..]: for each output channel of w [n, ..] the power of two with the smallest squared error of w in integers
    times it; the smallest of those that are alike."""
    axes = tuple(range(1, w.dim()))
    fits = torch.exp2(torch.ceil(torch.log2(w.abs().amax(axes, keepdim=True).clamp(min=1e-12) / WEIGHT_MAX)))
    units = torch.stack([fits / 2, fits, fits * 2])
    errors = torch.stack([((whole(w, unit) * unit - w) ** 2).sum(axes, keepdim=True) for unit in units])
    return units.gather(0, errors.argmin(0, keepdim=True))[0]


def spread(weight: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """`unit` [inputs] as it multiplies `weight`."""
    return unit.reshape((-1, 1, 1, 1) if weight.shape[1] == 1 else (1, -1, 1, 1))


def fold(weight: torch.Tensor, unit: torch.Tensor, out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [n, ..] between activations of these units: as integers, and the power of two [n] that they are multiplied with
    where activations are whole numbers."""
    folded = weight * spread(weight, unit) / out.reshape(-1, 1, 1, 1)
    rows = weight_units(folded)
    return whole(folded, rows), rows.flatten()


def inside(mask: torch.Tensor) -> torch.Tensor:
    """float [B, 1, H/4, W/4]: 1 in patches that the filter works on (cells.filtered_strips), where `mask`, alike, has those to correct."""
    coded = mask[:, :, 1::K, 1::K]  # a neighbour's tokens reach the patches at a cell's edges only
    cells = nn.functional.max_pool2d(coded, (1, 3), 1, (0, 1)).repeat_interleave(K, 2).repeat_interleave(K, 3)
    return nn.functional.max_pool2d(cells, (2 * REACH + 1, 1), 1, (REACH, 0))


class QuantisedFilter(LoopFilter):
    """LoopFilter, with the same inputs, outputs and parameters, computed as an exact bundle does: activations are zero but in patches near
    cells with tokens.
    `unit_*`: the unit of each channel of an activation, which calibrate() sets."""

    def __init__(self, cfg: Config):
        super().__init__(cfg)
        self.activations, self.convolutions, self.record = [], [], None
        for prefix, channels, hidden, blocks in (("", cfg.channels, cfg.hidden, cfg.blocks),
                                                 ("chroma_", cfg.chroma_channels, cfg.chroma_hidden, cfg.chroma_blocks)):
            self._activation(prefix + "stream", channels)
            for i in range(blocks):
                self._activation(f"{prefix}depthwise_{i}", channels)
                self._activation(f"{prefix}expand_{i}", hidden)
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

    def layers(self):
        """(name, unit of the inputs, name of the activation that follows) of every layer; `chroma_head` with `chroma_luma`, as one."""
        yield "head", torch.cat([self.unit_luma, self.unit_embedding.expand(len(self.place))]), "stream"
        for prefix, blocks in (("", self.body), ("chroma_", self.chroma_body)):
            stream = self.unit(prefix + "stream")
            for i in range(len(blocks)):
                depthwise, expand = f"{prefix}depthwise_{i}", f"{prefix}expand_{i}"
                yield f"{prefix}body.{i}.depthwise", stream, depthwise
                yield f"{prefix}body.{i}.expand", self.unit(depthwise), expand
                yield f"{prefix}body.{i}.project", self.unit(expand), prefix + "stream"
            yield prefix + "tail", stream, prefix + "tail"
        yield "chroma_head", torch.cat([self.unit_chroma, self.unit_stream]), "chroma_stream"

    def keep(self, name: str, x, low=-128, high=127):
        """x [B, C, H, W] as the activation `name`: integers from low to high times its unit."""
        if self.record is not None:
            self.record(name, x)
            return x
        return _Rounded.apply(x, self.unit(name)[:, None, None], low, high)

    def conv(self, x, unit, out: str, weight, bias=None, **settings):
        """Convolution with rounded weights and biases; `unit` [channels] of x; `out`: the name of the activation that follows."""
        if self.record is not None:
            self.convolutions.append((weight.detach(), unit, out))
            return nn.functional.conv2d(x, weight, bias, **settings)
        with torch.no_grad():
            value, rows = fold(weight, unit, self.unit(out))
            rows = rows * self.unit(out)
            value = value * rows[:, None, None, None] / spread(weight, unit)
        weight = straight(weight, value)
        if bias is not None:
            bias = straight(bias, torch.round(bias.detach() / rows) * rows)
        return nn.functional.conv2d(x, weight, bias, **settings)

    def mixers(self, blocks, h, prefix: str, where):
        stream, h = prefix + "stream", h * where
        for i, mixer in enumerate(blocks):
            depthwise, expand = f"{prefix}depthwise_{i}", f"{prefix}expand_{i}"
            one = mixer.depthwise
            x = self.keep(depthwise, self.conv(h, self.unit(stream), depthwise, one.weight, one.bias, padding=1, groups=one.groups))
            x = torch.relu(self.conv(x, self.unit(depthwise), expand, mixer.expand.weight, mixer.expand.bias))
            x = self.conv(self.keep(expand, x, 0, 255), self.unit(expand), stream, mixer.project.weight, mixer.project.bias)
            h = self.keep(stream, h + (x if self.record is not None else self.keep(stream, x))) * where
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
        part, where = slice(self.luma), inside(mask)
        x = given(part, self.unit_luma, place)
        unit = torch.cat([self.unit_luma, self.unit_embedding.expand(place.shape[1])])
        h = self.mixers(self.body, self.keep("stream", self.conv(x, unit, "stream", self.head.weight, self.head.bias)), "", where)
        of_unit = lambda gain, unit: levels_of(gain.detach() * unit)
        levels = lambda gain, unit: straight(gain, of_unit(gain, unit) / unit)[:, None, None, None]
        gain = torch.exp(self.gain(condition))[:, 0] * step
        dead = (dead_zone(of_unit(gain, self.unit_tail)) * self.unit_tail)[:, None, None, None]
        luma = self.keep("tail", self.conv(h, self.unit_stream, "tail", self.tail.weight))
        luma = (luma - luma.clamp(-dead, dead)) * levels(gain, self.unit_tail)
        part = slice(self.luma, None)
        x = given(part, self.unit_chroma, h.detach())  # luma is not to suffer for chroma
        unit = torch.cat([self.unit_chroma, self.unit_stream])
        weight = torch.cat([self.chroma_head.weight, self.chroma_luma.weight], 1)
        c = self.keep("chroma_stream", self.conv(x, unit, "chroma_stream", weight, self.chroma_head.bias))
        c = self.mixers(self.chroma_body, c, "chroma_", where)
        gain = levels(step, self.unit_chroma_tail)
        chroma = self.keep("chroma_tail", self.conv(c, self.unit_chroma_stream, "chroma_tail", self.chroma_tail.weight)) * gain
        return torch.cat([luma, chroma], 1) * mask


@torch.no_grad()
def calibrate(net: QuantisedFilter, batches) -> None:
    """Sets every unit to what has the smallest relative error over `batches`, tuples of forward()'s arguments: of the activation where cells
    were coded, and of the weights that lead to it."""
    candidates, errors, sizes, coded = torch.exp2(torch.arange(-12.0, 2.0, 0.25)), {}, {}, None

    def record(name: str, x):
        low, high = (0, 255) if "expand" in name else (-128, 127)
        x = x.transpose(0, 1).reshape(x.shape[1], -1)
        x = x[:, coded] if x.shape[1] == len(coded) else x
        x = x[:, ::23] if len(net.unit(name)) > 1 else x.reshape(1, -1)[:, ::211]
        error = [(torch.round(x / u).clamp(low, high) * u - x).abs().sum(1) for u in candidates]
        errors[name] = errors.get(name, 0) + torch.stack(error)
        sizes[name] = sizes.get(name, 0) + x.abs().sum(1)

    net.record = record
    for recon, residual, step, mask in batches:
        coded = mask.flatten() > 0
        net.convolutions.clear()
        net(recon, residual, step, mask)
    net.record = None
    of_activation = {name: (error / sizes[name].clamp(min=1e-12)) ** 2 for name, error in errors.items()}
    for name, error in of_activation.items():
        net.unit(name).copy_(candidates[error.argmin(0)])
    for name in net.activations * 2:  # the weights from an activation depend on its unit too
        error = of_activation[name].clone()
        for weight, unit, out in net.convolutions:
            for i, candidate in enumerate(candidates if out == name else []):
                value, rows = fold(weight, unit, candidate.expand(len(weight)))
                wanted = weight * spread(weight, unit) / candidate
                found = value * rows[:, None, None, None]
                lost = ((found - wanted) ** 2).sum((1, 2, 3)) / (wanted ** 2).sum((1, 2, 3)).clamp(min=1e-12)
                error[i] += lost if len(lost) == error.shape[1] else lost.mean()
        net.unit(name).copy_(candidates[error.argmin(0)])
