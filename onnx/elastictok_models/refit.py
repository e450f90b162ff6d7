# SPDX-License-Identifier: MIT OR Apache-2.0
"""Fits a quantised filter to the one it comes from, layer by layer: the start of training.

Every convolution is fitted to what the float filter has there, given what the layers before really put out, and its weights are
rounded one input after the other, the rest making up for each error (GPTQ: Frantar et al., ICLR 2023). So what rounding does to
large common parts of inputs, such as brightness, cancels."""
import torch
from torch import nn

from .config import Config
from .quantised import PAIR_MAX, WEIGHT_MAX, QuantisedFilter, spread, weight_units

RIDGE = 1e-2  # of the inputs' mean power: how strongly weights stay what they were


class _Float(QuantisedFilter):
    """The float filter; keeps what its convolutions give and the streams before them."""

    def conv(self, x, unit, out, weight, bias=None, **settings):
        y = nn.functional.conv2d(x, weight, bias, **settings)
        self.given.append((y, self.stream.get(out)))
        return y

    def keep(self, name, x, low=-128, high=127):
        self.stream[name] = x
        return x


class _Refitted(QuantisedFilter):
    """Fits and rounds its weights where it meets them."""

    def keep(self, name, x, low=-128, high=127):
        self.stream[name] = super().keep(name, x, low, high)
        return self.stream[name]

    def conv(self, x, unit, out, weight, bias=None, **settings):
        wanted, stream = self.wanted.pop(0)
        if stream is not None and out in self.stream:  # a branch also makes up for what its trunk has lost
            wanted = wanted + stream - self.stream[out]
        depthwise = weight.shape[1] == 1
        if depthwise:
            inputs = nn.functional.unfold(x, 3, padding=1).reshape(len(x), x.shape[1], 9, -1).permute(1, 0, 3, 2).reshape(x.shape[1], -1, 9)
        else:
            inputs = x.transpose(0, 1).reshape(1, x.shape[1], -1).transpose(1, 2)
        inputs, y = inputs[:, self.coded], wanted.transpose(0, 1).reshape(len(weight), -1)[:, self.coded]
        out_unit = self.unit(out).expand(len(weight))
        for row in range(len(inputs)):
            rows = slice(row, row + 1) if depthwise else slice(None)
            given = unit[rows] if depthwise else unit
            w = fitted(inputs[row].double(), y[rows].double(), weight[rows].flatten(1).double(), bias is not None)
            w = rounded(inputs[row].double(), w, given.double().expand(w.shape[1]), out_unit[rows].double(), depthwise)
            weight[rows] = w.reshape(weight[rows].shape).float()
            if bias is not None:
                bias[rows] = (y[rows].double() - w @ inputs[row].double().T).mean(1).float()
        if out not in self.stream and out == "chroma_stream":  # made of two
            self.chroma_head.weight.copy_(weight[:, :self.chroma_head.in_channels])
            self.chroma_luma.weight.copy_(weight[:, self.chroma_head.in_channels:])
        return super().conv(x, unit, out, weight, bias, **settings)


def fitted(x, y, w, free: bool):
    """Least squares: weights [n, inputs] near w for x [positions, inputs] to give y [n, positions] but for a constant (if `free`)."""
    mx, my = (x.mean(0, keepdim=True), y.mean(1, keepdim=True)) if free else (0.0, 0.0)
    x, y = x - mx, y - my
    h = x.T @ x
    h = h + RIDGE * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)
    return w + torch.linalg.solve(h, x.T @ (y - w @ x.T).T).T


def rounded(x, w, unit, out, depthwise: bool):
    """w [n, inputs] in the integers that fold() will find, times their units."""
    n, inputs = w.shape
    scale = unit[None] / out[:, None]
    folded = w * scale
    rows = weight_units(folded.reshape(n, 1, -1, 1) if depthwise else folded[:, :, None, None]).reshape(n, 1)
    z = x / unit
    z = torch.cat([z, torch.ones(len(z), 1, dtype=z.dtype)], 1)  # the bias makes up for the rest
    h = z.T @ z
    h = h + RIDGE * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)
    inverse = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    left = torch.cat([folded / rows, torch.zeros(n, 1, dtype=w.dtype)], 1)
    q = torch.zeros_like(folded)
    for i in range(inputs):
        most = torch.full((n,), float(PAIR_MAX // 2 - 1 if depthwise else WEIGHT_MAX), dtype=w.dtype)
        if not depthwise and i % 2:
            most = torch.minimum(most, PAIR_MAX - q[:, i - 1].abs())
        q[:, i] = torch.minimum(torch.maximum(torch.round(left[:, i]), -most), most)
        error = (left[:, i] - q[:, i]) / inverse[i, i]
        left[:, i + 1:] -= error[:, None] * inverse[i, i + 1:][None]
    return q * rows / scale


@torch.no_grad()
def refit(cfg: Config, net: QuantisedFilter, recon, residual, step, mask) -> None:
    """Changes the weights of `net`, which has the float filter's and its units, to give on these inputs what that gives."""
    teacher, student = _Float(cfg), _Refitted(cfg)
    for copy in (teacher, student):
        copy.load_state_dict(net.state_dict())
        copy.stream = {}
    teacher.given = student.wanted = []
    teacher(recon, residual, step, mask)
    student.coded = mask.flatten() > 0
    student(recon, residual, step, mask)
    net.load_state_dict(student.state_dict())
