# SPDX-License-Identifier: MIT OR Apache-2.0
"""Settings of an official model: presets, the official config fields, and the checks that they make a model."""
from __future__ import annotations

import ast
import json
from dataclasses import MISSING, dataclass, fields
from math import prod
from pathlib import Path

# Sizes that the official code knows by name.
SIZES = {
    "200m": dict(hidden_size=1024, intermediate_size=2048, num_encoder_layers=10, num_decoder_layers=10, num_attention_heads=8,
                 rms_norm_eps=1e-5),
    "debug": dict(hidden_size=256, intermediate_size=256, num_encoder_layers=2, num_decoder_layers=2, num_attention_heads=2,
                  rms_norm_eps=1e-6),
}
# What the released checkpoints were trained with; the official scripts set these by update.
RELEASED = {
    "fsq": dict(patch_size=(1, 8, 8), min_toks=256, max_toks=4096, theta=50_000_000, max_sequence_length=16384),
    "vae": dict(patch_size=(2, 8, 8), min_toks=128, max_toks=2048, theta=5_000_000, max_sequence_length=8192),
}
# Official fields that say how JAX computes or trains, not what. `mask_mode` is what the official scripts call `mask_type`.
IGNORED = {
    "mask_type", "mask_mode", "lpips_loss_ratio", "initializer_range", "param_scan_axis", "mesh_dim", "use_flash_attention",
    "remat_block", "remat_attention", "remat_mlp", "scan_attention", "scan_mlp", "scan_layers", "scan_query_chunk_size",
    "scan_key_chunk_size", "scan_mlp_chunk_size",
}


class ConfigError(ValueError):
    """Settings that make no model; the message names the setting and the remedy."""


@dataclass(frozen=True)
class Config:
    """Fields carry the official names. A tile is `resolution` pixels on a side unless `tile` says [width, height]."""

    hidden_size: int
    intermediate_size: int
    num_encoder_layers: int
    num_decoder_layers: int
    num_attention_heads: int
    bottleneck_type: str  # "fsq" or "vae"
    patch_size: tuple[int, int, int]  # frames, rows, columns
    min_toks: int
    max_toks: int  # K, tokens of a block of one tile
    theta: float
    max_sequence_length: int  # tokens: the blocks a chunk may have, times max_toks
    frames_per_block: int = 4
    rms_norm_eps: float = 1e-5
    fsq_quant_levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    vae_bottleneck_dim: int = 8
    resolution: int = 256
    tile: tuple[int, int] | None = None

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in ("patch_size", "fsq_quant_levels", "tile"):
                whole = value is None or isinstance(value, (list, tuple)) and all(type(v) is int and v > 0 for v in value)
                _require(whole and value != (), f"{f.name} is {value!r}, not a list of whole numbers above zero")
                object.__setattr__(self, f.name, value if value is None else tuple(value))
            elif f.name in ("theta", "rms_norm_eps"):
                _require(type(value) in (int, float) and 0 < value < float("inf"), f"{f.name} is {value!r}, not a number above zero")
            elif f.name == "bottleneck_type":
                _require(value in RELEASED, f"bottleneck_type is {value!r}; the official code has 'fsq' and 'vae'")
            else:
                _require(type(value) is int and value > 0, f"{f.name} is {value!r}, not a whole number above zero")
        _require(len(self.patch_size) == 3, f"patch_size {self.patch_size} is not [frames, rows, columns]")
        _require(self.tile is None or len(self.tile) == 2, f"tile {self.tile} is not [width, height]")
        _require(self.hidden_size % (2 * self.num_attention_heads) == 0,
                 f"hidden_size {self.hidden_size} does not split into {self.num_attention_heads} heads of even size")
        _require(all(2 <= level <= 256 for level in self.fsq_quant_levels) and prod(self.fsq_quant_levels) <= 1 << 24,
                 f"fsq_quant_levels {self.fsq_quant_levels} are not 2..=256 each with a product of at most 2^24")
        _require(self.frames_per_block <= 16, f"frames_per_block {self.frames_per_block} is above 16, the most a bundle may have")
        _require(self.min_toks <= self.max_toks <= 1 << 16,
                 f"min_toks {self.min_toks} is above max_toks {self.max_toks}, or this above 65536")
        size = (self.frames_per_block, *self.tile_size[::-1])
        for name, length, patch in zip(("frames_per_block", "tile height", "tile width"), size, self.patch_size):
            _require(length % patch == 0, f"{name} {length} is no multiple of patch_size's {patch}; set patch_size or the tile by --update")
        _require(prod(self.grid) == self.max_toks,
                 f"a block of {size[0]} frames of {size[2]}x{size[1]} makes {prod(self.grid)} patches of {self.patch_size}, but max_toks "
                 f"is {self.max_toks}; set frames_per_block, resolution (or tile), patch_size or max_toks by --update so that they agree")
        _require(self.max_sequence_length >= self.max_toks,
                 f"max_sequence_length {self.max_sequence_length} does not hold one block of {self.max_toks} tokens")

    @property
    def tile_size(self) -> tuple[int, int]:
        """Width and height of a tile in pixels."""
        return self.tile or (self.resolution, self.resolution)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches of a block along time, rows and columns."""
        width, height = self.tile_size
        return tuple(n // p for n, p in zip((self.frames_per_block, height, width), self.patch_size))

    @property
    def patch_dim(self) -> int:
        """Values of a patch, three colours each."""
        return 3 * prod(self.patch_size)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def window(self) -> int:
        """W, blocks that attention sees at most: the current one and W-1 before it."""
        return self.max_sequence_length // self.max_toks

    @property
    def latent_dim(self) -> int:
        """Values of a token in the decoder's input."""
        return len(self.fsq_quant_levels) if self.bottleneck_type == "fsq" else self.vae_bottleneck_dim

    @property
    def quant_dim(self) -> int:
        """Values of a token that the encoder gives: the VAE's are mean, then log variance."""
        return self.latent_dim * (1 if self.bottleneck_type == "fsq" else 2)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of the checkpoint, by key path with slashes; kernels are [in, out], layers stacked on axis 0."""
        d, p = self.hidden_size, self.patch_dim
        shapes = {
            "encoder/is_kept_embed": (1, d), "encoder/is_masked_embed": (1, d), "encoder/in_proj/kernel": (p, d),
            "encoder/pre_quant/kernel": (d, self.quant_dim), "decoder/post_quant/kernel": (self.latent_dim, d),
            "decoder/out_proj/kernel": (d, p),
        }
        for side, n in (("encoder", self.num_encoder_layers), ("decoder", self.num_decoder_layers)):
            shapes[f"{side}/ln_f/kernel"] = (d,)
            for key, shape in self.layer_shapes().items():
                shapes[layer_key(side, key)] = (n, *shape)
        return shapes

    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes within one layer, by the key's part below `scan_decoder`."""
        d, m = self.hidden_size, self.intermediate_size
        return {
            **{f"attention/{w}/kernel": (d, d) for w in ("wq", "wk", "wv", "wo")},
            "feed_forward/w1/kernel": (d, m), "feed_forward/w2/kernel": (m, d), "feed_forward/w3/kernel": (d, m),
            "attention_norm/kernel": (d,), "ffn_norm/kernel": (d,),
        }

    @classmethod
    def preset(cls, size: str, updates: dict) -> Config:
        """A named size with the released settings of its bottleneck (FSQ unless updated), then `updates`."""
        _require(size in SIZES, f"there is no config {size!r}; the official ones are {', '.join(SIZES)}, others come by --config-json")
        kind = updates.get("bottleneck_type", "fsq")
        _require(kind in RELEASED, f"bottleneck_type is {kind!r}; the official code has 'fsq' and 'vae'")
        return cls(**{**SIZES[size], **RELEASED[kind], "bottleneck_type": kind, **known(updates)})

    @classmethod
    def from_json(cls, path: Path, updates: dict) -> Config:
        """The model fields of a JSON file, then `updates`. Fields that are no model settings are left alone."""
        try:
            content = json.loads(Path(path).read_text())
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
            raise ConfigError(f"{path} cannot be read as JSON: {e}; name a config file, or use --config 200m") from e
        _require(isinstance(content, dict), f"{path} holds no JSON object; name a file with the official config fields")
        names = {f.name for f in fields(cls)}
        given = {**{k: v for k, v in content.items() if k in names}, **known(updates)}
        needed = [f.name for f in fields(cls) if f.name not in given and f.default is MISSING]
        _require(not needed, f"{path} lacks {', '.join(needed)}; add them, or give them by --update")
        cfg = cls(**given)
        for derived in ("patch_dim", "head_dim"):
            _require(content.get(derived, getattr(cfg, derived)) == getattr(cfg, derived) or bool(updates),
                     f"{path} says {derived} {content.get(derived)}, but its other fields make it {getattr(cfg, derived)}; "
                     "correct the file")
        _require(content.get("channels", 3) == 3, f"{path} has channels {content.get('channels')}; the official model has 3")
        return cfg


def layer_key(side: str, key: str) -> str:
    """Key path of a stacked layer tensor of `side`, "encoder" or "decoder"."""
    return f"{side}/{side}_blocks/scan_decoder/{key}"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def known(updates: dict) -> dict:
    """`updates` without the official fields that do not change the result. Raises ConfigError for names nobody knows."""
    names = {f.name for f in fields(Config)}
    for name in updates:
        _require(name in names or name in IGNORED, f"there is no setting {name!r}; known are {', '.join(sorted(names))}")
    return {k: v for k, v in updates.items() if k in names}


def parse_update(text: str) -> dict:
    """`name=value`, or what the official scripts pass to --update_elastic_config: `dict(name=value, ..)`. Values are Python literals."""
    remedy = f"--update {text!r} is neither name=value nor dict(name=value, ..) with Python literals"
    try:
        call = ast.parse(text if text.lstrip().startswith("dict(") else f"dict({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise ConfigError(remedy)
        return {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as e:
        raise ConfigError(remedy) from e
