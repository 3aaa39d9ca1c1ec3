"""Arguments of MambaIRv2: the official ones and the ablation switches. Symbols: the head of mambairv2.py."""

from dataclasses import dataclass

from models.backbone import as_counts, check_backbone, check_choice, check_count
from models.errors import ModelError

ROUTINGS, PROMPT_ORDERS = ("gumbel", "argmax"), ("raster", "semantic")


@dataclass(frozen=True)
class Config:
    """Arguments of MambaIRv2. Official names and defaults first, the switches of this suite after them.

    upscale: height of the output over that of the input. in_chans: 3 (RGB) or 1 (gray). embed_dim, d_state, depths
    (layers of every group), num_heads (of every group), window_size, inner_rank, num_tokens, convffn_kernel_size,
    mlp_ratio (of feed-forwards and scan), upsampler ("pixelshuffledirect", "pixelshuffle", "" for restoring at the same
    size), resi_connection ("1conv", "3conv"), img_range.

    ffn: "conv" or "gated" (light; its kernel is 5 whatever convffn_kernel_size says).
    scans: directions. 0: attention only, without norm3 and ASSM. 1: raster; 2: and reversed; 4: and columns both ways.
    ase: prompts in the state equation. sgn: scan sorted by class. The router is there for either, the pool for ase.
    prompt_target: what the prompt is added to: C, B, delta (before bias and softplus), y (after D u, before out_norm).
    prompt_order: "raster" (code): step i of a direction adds the prompt of the i-th pixel of the unsorted direction;
    "semantic" (the paper's equation): the prompt of the pixel that it scans.
    routing: "gumbel" samples the class, "argmax" takes the likeliest; both train straight-through.
    prompt_sharing: "none" (code) or "network": one N for all layers (the paper's text).
    memory: steps of the scan after which its state starts anew. None: never. 1: no memory, so that the scan is a gate,
    y_i = (C_i + P_i) (delta_i B_i u_i) + D u_i.
    inner_rank None: an unfactored pool P [T, d]; pool_rank is the r whose spread of M N it starts with.

    Raises ModelError for values that no network has.
    """

    upscale: int = 2
    in_chans: int = 3
    embed_dim: int = 48
    d_state: int = 8
    depths: tuple[int, ...] = (6, 6, 6, 6)
    num_heads: tuple[int, ...] = (4, 4, 4, 4)
    window_size: int = 16
    inner_rank: int | None = 32
    num_tokens: int = 64
    convffn_kernel_size: int = 5
    mlp_ratio: float = 2.0
    upsampler: str = ""
    resi_connection: str = "1conv"
    img_range: float = 1.0
    ffn: str = "conv"
    scans: int = 1
    ase: str = "on"
    sgn: str = "on"
    prompt_target: str = "C"
    prompt_order: str = "raster"
    routing: str = "gumbel"
    prompt_sharing: str = "none"
    pool_rank: int = 32
    memory: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", as_counts("depths", self.depths))
        object.__setattr__(self, "num_heads", as_counts("num_heads", self.num_heads))
        object.__setattr__(self, "upsampler", self.upsampler or "")  # YAML writes ~ as well as ''
        check_backbone(self)
        for name in ("window_size", "num_tokens", "pool_rank", "convffn_kernel_size"):
            check_count(name, getattr(self, name))
        for name in ("inner_rank", "memory"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if len(self.num_heads) != len(self.depths):
            raise ModelError(f"num_heads {self.num_heads} and depths {self.depths} must name the same number of groups")
        for heads in self.num_heads:
            if self.embed_dim % heads:
                raise ModelError(f"embed_dim {self.embed_dim} does not divide into {heads} heads")
        if self.embed_dim < 3:
            raise ModelError(f"embed_dim must be at least 3 (the router has a third of it), not {self.embed_dim}")
        if self.d_inner < (2 if self.ffn == "gated" else 1) or (self.ffn == "gated" and self.d_inner % 2):
            raise ModelError(f"int(embed_dim * mlp_ratio) = {self.d_inner} must be positive, and even with ffn='gated'")
        if self.convffn_kernel_size % 2 == 0:
            raise ModelError(f"convffn_kernel_size must be odd, not {self.convffn_kernel_size}")
        check_choice("ffn", self.ffn, ("conv", "gated"))
        check_choice("scans", self.scans, (0, 1, 2, 4))
        check_choice("ase", self.ase, ("on", "off"))
        check_choice("sgn", self.sgn, ("on", "off"))
        check_choice("prompt_target", self.prompt_target, ("C", "B", "delta", "y"))
        check_choice("prompt_order", self.prompt_order, PROMPT_ORDERS)
        check_choice("routing", self.routing, ROUTINGS)
        check_choice("prompt_sharing", self.prompt_sharing, ("none", "network"))
        if self.inner_rank is None and self.prompt_sharing == "network":
            raise ModelError("prompt_sharing='network' shares N, and an unfactored pool (inner_rank=None) has none")

    @property
    def d_inner(self) -> int:
        return int(self.embed_dim * self.mlp_ratio)

    @property
    def prompted(self) -> bool:
        """Whether layers have prompts at all."""
        return self.ase == "on" and self.scans > 0

    @property
    def routed(self) -> bool:
        """Whether layers have a router, and so a use for its noise."""
        return (self.ase == "on" or self.sgn == "on") and self.scans > 0

    @property
    def sorted(self) -> bool:
        """Whether layers scan the pixels class after class."""
        return self.sgn == "on" and self.scans > 0

    @property
    def prompt_dim(self) -> int:
        """d: width of a prompt."""
        return self.d_state if self.prompt_target in "BC" else self.d_inner
