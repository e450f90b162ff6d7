# SPDX-License-Identifier: MIT OR Apache-2.0
"""The official model in PyTorch: what the exported graphs are compared with.

Shapes: B batch, N blocks, K = max_toks tokens of a block, L = N*K, P = patch_dim, D = hidden_size. Computation is float32."""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import fsq, picture, rope
from .checkpoint import Checkpoint
from .config import Config, layer_key


class Linear(nn.Module):
    """y = x @ kernel, no bias. The kernel [in, out] stays in the checkpoint's dtype and is widened for each product, so that a
    bfloat16 checkpoint takes no more memory than its file."""

    def __init__(self, shape: tuple[int, int]):
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel.to(x.dtype)


class RMSNorm(nn.Module):
    """x * rsqrt(mean(x^2) + eps) * kernel."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.kernel, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.kernel.to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the pairs (2i, 2i+1) of x [B, heads, L, head_dim] by tables [L, head_dim/2]."""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class Attention(nn.Module):
    """Block-causal attention: a token sees the past blocks, the blocks before its own and all of its own."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.heads, self.block = cfg.num_attention_heads, cfg.max_toks
        self.wq, self.wk, self.wv, self.wo = (Linear((cfg.hidden_size, cfg.hidden_size)) for _ in range(4))

    def forward(self, x: Tensor, table: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [B, L, D]; `table` rotates window slots from 0; past keys (not rotated) and values [B, heads, S, head_dim] take the first
        S slots. Also returns past and own keys and values."""
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = split(self.wq(x)), split(self.wk(x)), split(self.wv(x))
        if past is not None:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        end, start = k.shape[2], k.shape[2] - q.shape[2]
        cos, sin = (t[:end] for t in table)
        number = torch.arange(end, device=x.device) // self.block
        mask = number[start:, None] >= number[None] if q.shape[2] > self.block else None
        y = F.scaled_dot_product_attention(rotate(q, cos[start:], sin[start:]), rotate(k, cos, sin), v, mask)
        return self.wo(y.transpose(1, 2).flatten(-2)), (k, v)


class FeedForward(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        d, m = cfg.hidden_size, cfg.intermediate_size
        self.w1, self.w2, self.w3 = Linear((d, m)), Linear((m, d)), Linear((d, m))

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Layer(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        self.attention, self.feed_forward = Attention(cfg), FeedForward(cfg)
        self.attention_norm, self.ffn_norm = (RMSNorm(cfg.hidden_size, cfg.rms_norm_eps) for _ in range(2))

    def forward(self, h, table, past):
        y, kv = self.attention(self.attention_norm(h), table, past)
        h = h + y
        return h + self.feed_forward(self.ffn_norm(h)), kv


class Half(nn.Module):
    """Encoder or decoder: a linear layer in, transformer layers, norm, a linear layer out."""

    def __init__(self, cfg: Config, layers: int, inside: tuple[int, int], numpy_version: int):
        super().__init__()
        self.cfg = cfg
        self.inlet, self.outlet = Linear((inside[0], cfg.hidden_size)), Linear((cfg.hidden_size, inside[1]))
        self.layers = nn.ModuleList(Layer(cfg) for _ in range(layers))
        self.ln_f = RMSNorm(cfg.hidden_size, cfg.rms_norm_eps)
        table = rope.tables(cfg.head_dim, np.arange(cfg.window * cfg.max_toks), cfg.theta, numpy_version)
        for name, values in zip(("cos", "sin"), table):
            self.register_buffer(name, torch.from_numpy(values), persistent=False)

    def forward(self, x: Tensor, past: list | None = None, embed: Tensor | None = None) -> tuple[Tensor, list]:
        """x [B, L, in] and what `past` holds of each layer; returns [B, L, out] and the next past, the newest W-1 blocks."""
        h = self.inlet(x)
        h = h if embed is None else h + embed
        keep, kept = (self.cfg.window - 1) * self.cfg.max_toks, []
        for i, layer in enumerate(self.layers):
            h, (k, v) = layer(h, (self.cos, self.sin), past[i] if past else None)
            first = max(k.shape[2] - keep, 0)
            kept.append((k[:, :, first:], v[:, :, first:]))
        return self.outlet(self.ln_f(h)), kept if keep else []


@dataclass
class Context:
    """Keys and values of past blocks of both halves; empty at a key block."""

    encoder: list = field(default_factory=list)
    decoder: list = field(default_factory=list)


class Model(nn.Module):
    """Encoder, bottleneck and decoder. Passes over several blocks and block by block with a Context agree while the window holds;
    beyond it the oldest block falls out (sliding window) unless the caller starts a new Context, as the official code does."""

    def __init__(self, cfg: Config, numpy_version: int = 1):
        super().__init__()
        self.cfg = cfg
        self.levels = fsq.Levels(cfg.fsq_quant_levels)
        self.encoder = Half(cfg, cfg.num_encoder_layers, (cfg.patch_dim, cfg.quant_dim), numpy_version)
        self.decoder = Half(cfg, cfg.num_decoder_layers, (cfg.latent_dim, cfg.patch_dim), numpy_version)
        self.is_kept_embed, self.is_masked_embed = (nn.Parameter(torch.zeros(1, cfg.hidden_size)) for _ in range(2))

    def pre_quant(self, patches: Tensor, mask: Tensor, past: list | None = None) -> tuple[Tensor, list]:
        """Patches in [-1, 1] [B, L, P], mask bool [B, L] (True = kept); returns [B, L, quant_dim] and the next past."""
        embed = torch.where(mask[..., None], self.is_kept_embed, self.is_masked_embed)
        return self.encoder(patches, past, embed)

    def latents(self, quant: Tensor) -> Tensor:
        """Codes (FSQ) or means (VAE) [B, L, latent_dim] of what pre_quant gives."""
        if self.cfg.bottleneck_type == "vae":
            return quant[..., :self.cfg.latent_dim]
        shift, half, offset, width = (torch.from_numpy(c).to(quant) for c in (
            self.levels.shift, self.levels.half, self.levels.offset, self.levels.half_width))
        return torch.round(torch.tanh(quant + shift) * half - offset) / width

    def encode(self, patches: Tensor, mask: Tensor, past: list | None = None) -> tuple[Tensor, list]:
        """Latents [B, L, latent_dim], those of dropped tokens zero, and the next past."""
        quant, past = self.pre_quant(patches, mask, past)
        return torch.where(mask[..., None], self.latents(quant), 0), past

    def decode(self, z: Tensor, past: list | None = None) -> tuple[Tensor, list]:
        """Latents to patches in (-1, 1) [B, L, P], and the next past."""
        y, past = self.decoder(z, past)
        return torch.tanh(y), past

    def reconstruct(self, patches: Tensor, mask: Tensor, context: Context) -> tuple[Tensor, Tensor, Context]:
        """Encodes and decodes; returns patches, mean squared error of each block [B, N] and the context after it."""
        z, encoder = self.encode(patches, mask, context.encoder)
        recon, decoder = self.decode(z, context.decoder)
        mse = (recon.clip(-1, 1) - patches).square().mean(-1).unflatten(-1, (-1, self.cfg.max_toks)).mean(-1)
        return recon, mse, Context(encoder, decoder)

    def mask(self, kept: list[int]) -> Tensor:
        """Keeps the first kept[i] tokens of block i: bool [1, N*K]."""
        return (torch.arange(self.cfg.max_toks)[None] < torch.as_tensor(kept)[:, None]).reshape(1, -1)

    def patches(self, frames: np.ndarray) -> Tensor:
        """Frames uint8 [T, H, W, 3] of one tile as the model's input [1, L, P]."""
        return torch.from_numpy(picture.to_unit(picture.patchify(frames, self.cfg)))[None]

    def tensors(self) -> dict[str, nn.Parameter | list[nn.Parameter]]:
        """Parameters by the checkpoint's key paths; a list where the checkpoint stacks layers."""
        named = {
            "encoder/is_kept_embed": self.is_kept_embed, "encoder/is_masked_embed": self.is_masked_embed,
            "encoder/in_proj/kernel": self.encoder.inlet.kernel, "encoder/pre_quant/kernel": self.encoder.outlet.kernel,
            "decoder/post_quant/kernel": self.decoder.inlet.kernel, "decoder/out_proj/kernel": self.decoder.outlet.kernel,
        }
        for side in ("encoder", "decoder"):
            half = getattr(self, side)
            named[f"{side}/ln_f/kernel"] = half.ln_f.kernel
            for key in self.cfg.layer_shapes():
                named[layer_key(side, key)] = [layer.get_parameter(key.replace("/", ".")) for layer in half.layers]
        return named

    @classmethod
    def load(cls, path: Path, cfg: Config, numpy_version: int = 1) -> Model:
        """Reads an official checkpoint. Raises CheckpointError where it is not one of `cfg` or holds NaN."""
        source = Checkpoint(path, cfg)
        source.check_finite()
        model = cls(cfg, numpy_version)
        for key, target in model.tensors().items():
            dtype = torch.bfloat16 if source.entries[key].dtype == "bfloat16" else torch.float32
            parts = target if isinstance(target, list) else [target]
            for i, parameter in enumerate(parts):
                values = source.read(key, i if isinstance(target, list) else None)
                parameter.data = torch.from_numpy(values).to(dtype)
        return model.eval().requires_grad_(False)
