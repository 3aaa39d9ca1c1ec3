"""MambaIRv2: attentive state space restoration (arXiv 2411.15269), with every ablation switch of this suite.

Glossary: symbol, what it is, its name in the arguments or in the paper
    B, H, W     batch, height and width, padded by flips to multiples of the window
    L           H * W pixels in raster order
    C           embed_dim: channels of a token. (In the state space equations C is the output matrix, [L, N].)
    E           d_inner = int(C * mlp_ratio): channels of the scan
    N, "d"      d_state: states per channel. (In the prompt's factors N is a matrix, see below.)
    K           scans: directions of the scan, 1 in the paper
    R           dt_rank = ceil(E / 16)
    T           num_tokens: size of the pool of prompts
    r           inner_rank: the pool is M N with M [T, r] (`embeddingB`) and N [r, d] (`embeddingA`). The paper says
                r << min(T, d); in every published variant r exceeds d (4 d), so the product is not low rank
    P           prompt of a pixel: row of M N that its router chose, onehot @ (M N)
    h           state of the scan, [E, N] for every pixel in turn
    A, D        state decay -exp(A_logs) and skip `Ds`; delta, B, C are functions of the pixel

Words
    ASE         attentive state space equation: y_i = (C_i + P_i) h_i + D x_i
    SGN         semantic guided neighbouring: pixels are scanned class after class, the class being the router's
    ASSM        the module that does both: `AttentiveStateSpace`

Where paper and official code differ the default follows the code:
    the prompt that step i adds is that of pixel i in raster order, though the sequence is sorted (`prompt_order`);
    N belongs to a layer and M to its ASSM, nothing is shared (`prompt_sharing`);
    the router is Linear, GELU, Linear, and samples its class with Gumbel noise when testing too (`routing`).
The official sort is unstable; this one is stable. Scatter back to pixels, out_norm and out_proj commute, so here the
scan itself returns pixels and nothing is gathered or scattered around it.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.backbone import (
    Group,
    add_backbone,
    as_counts,
    check_backbone,
    check_choice,
    check_count,
    check_image,
    flip_pad,
    restore,
)
from models.capabilities import Capabilities
from models.compilation import compiled
from models.errors import ModelError
from models.experiment import Experiment
from models.initial import initialise
from models.layers import (
    ConvFFN,
    Depthwise,
    GatedFFN,
    LayerNorm,
    Linear,
    Pointwise,
    WindowAttention,
    add_scan_parameters,
    selective_scan,
)
from models.ops.attention import relative_position_index, shift_mask
from models.ops.common.dispatch import without_kernels
from models.ops.common.precision import without_autocast
from models.ops.common.side_stream import Overlap
from models.ops.fusion import Tokens, scaled
from models.ops.noise import PhiloxGumbel
from models.ops.routing import NoiseSource, RoutingNoise, by_class, choose_classes
from models.ops.scan import Prompt
from models.ops.scan.permutation import column_major

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


@dataclass(frozen=True)
class Context:
    """What one forward pass hands to every layer.

    mask: of `shift_mask`. directions int64 [K, L]: pixels in the unsorted order of every direction; None: raster only.
    labels int64 [B, L]: sort key in place of the router's class. shared: N of the whole network.
    backend: of the scan. compiled: layers run as torch.compile made them. experiment: for tokens of this size.
    """

    mask: Tensor
    directions: Tensor | None
    labels: Tensor | None
    shared: Tensor | None
    noise: RoutingNoise
    prompt_order: str
    backend: str
    compiled: bool = False
    experiment: Experiment | None = None


class AttentiveStateSpace(nn.Module):
    """ASSM: route every pixel to a class, scan the pixels class after class, C of the scan plus the class's prompt."""

    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        self.config, self.index = config, index
        dim, d_inner = config.embed_dim, config.d_inner
        self.in_proj = nn.Sequential(Pointwise(dim, d_inner))
        self.CPE = nn.Sequential(Depthwise(d_inner, 3, "sigmoid"))  # conditional positional encoding
        if config.routed:
            self.register_buffer("layer", torch.tensor(index), persistent=False)  # `index` where it is data
            self.route = nn.Sequential(
                nn.Linear(dim, dim // 3), nn.GELU(), nn.Linear(dim // 3, config.num_tokens), nn.LogSoftmax(-1)
            )
        if config.ase == "on":
            self.embeddingB = nn.Embedding(config.num_tokens, config.inner_rank or config.prompt_dim)
        self.selectiveScan = nn.Module()
        add_scan_parameters(self.selectiveScan, config.scans, d_inner, config.d_state, math.ceil(d_inner / 16))
        self.out_norm = LayerNorm(d_inner)
        self.out_proj = Linear(d_inner, dim)

    def forward(self, x: Tokens, factor: Tensor | None, context: Context) -> Tokens:
        """x [B, H, W, C] (normalised), factor N [r, d] or None. Returns [B, H, W, C]."""
        x = Tokens(x.read(), x.waits)  # normalised once: the scan reads it and the router
        overlap = Overlap(x.values)
        u = self.in_proj[0](x).read()  # [B, H, W, E]
        batch, height, width, _ = u.shape
        with overlap:
            classes, soft = self.route_pixels(x, context)
            order, at = self.sequence(classes if context.labels is None else context.labels, context, batch)
        u = self.CPE[0](u)
        prompt = Prompt(self.table(factor), classes, soft, at) if self.config.ase == "on" else None
        y = selective_scan(
            self.selectiveScan,
            u.reshape(batch, height * width, -1),
            order=order,
            prompt=prompt,
            ready=overlap.join,
            target=self.config.prompt_target,
            backend=context.backend,
            memory=self.config.memory,
        )  # [B, L, E]
        return self.out_proj(self.out_norm(Tokens(y.unflatten(1, (height, width)), x.waits)))

    def route_pixels(self, x: Tokens, context: Context) -> tuple[Tensor | None, Tensor | None]:
        """Classes int64 [B, L] of the pixels of x and, where gradients flow, their probabilities [B, L, T].

        None where nobody asks for classes.
        """
        prompts = self.config.ase == "on"
        if not prompts and (self.config.sgn == "off" or context.labels is not None):
            return None, None
        learns, given = torch.is_grad_enabled() and prompts, context.experiment
        pixels = x.read().flatten(1, 2)  # [B, L, C]
        classes, soft = choose_classes(self.route, pixels, context.noise, self.index, self.layer, learns)
        if given is None or given.classes is None:
            return classes, soft
        return given.classes(self.index, classes), None  # of classes that no router chose, none learns

    def table(self, factor: Tensor | None) -> Tensor:
        """The pool of prompts M N, [T, d]; P itself where it is not factored."""
        pool = self.embeddingB.weight
        with without_autocast(pool):
            return pool if factor is None else pool @ factor

    def sequence(self, key: Tensor | None, context: Context, batch: int) -> tuple[Tensor | None, Tensor | None]:
        """(order, at), int64 [B, K, L] or None for raster: the pixel scanned, and the pixel prompting, at every step.

        A direction is sorted by class, ascending and stable; a reversed one is its forward one backwards (descending).
        """
        if context.experiment is not None and context.experiment.order is not None:
            order = context.experiment.order(self.index, key).unsqueeze(1)
            return order, order if context.prompt_order == "semantic" else None
        unsorted = context.directions
        if unsorted is not None:
            unsorted = unsorted.expand(batch, -1, -1)
        if self.config.sgn == "off":
            return unsorted, unsorted
        if unsorted is None:
            order = by_class(key, self.config.num_tokens).unsqueeze(1)
        else:
            forward = unsorted[:, ::2]  # [B, K / 2, L]: raster, columns
            keys = key.unsqueeze(1).expand_as(forward).gather(-1, forward)
            order = forward.gather(-1, by_class(keys, self.config.num_tokens))
            order = torch.stack([order, order.flip(-1)], 2).flatten(1, 2)  # [B, K, L]
        return order, order if context.prompt_order == "semantic" else unsorted


class AttentiveLayer(nn.Module):
    """Window attention and feed-forward, then ASSM and feed-forward, each on its norm and with its residual."""

    def __init__(self, config: Config, index: int, heads: int, shifted: bool) -> None:
        super().__init__()
        dim, hidden = config.embed_dim, config.d_inner
        self.norm1, self.norm2, self.norm4 = (LayerNorm(dim) for _ in range(3))
        self.wqkv = Linear(dim, 3 * dim)
        self.win_mhsa = WindowAttention(dim, config.window_size, heads, shifted)
        self.convffn1, self.convffn2 = (
            GatedFFN(dim, hidden) if config.ffn == "gated" else ConvFFN(dim, hidden, config.convffn_kernel_size)
            for _ in range(2)
        )
        self.scale1, self.scale2 = (nn.Parameter(torch.empty(dim)) for _ in range(2))
        self.scanned = config.scans > 0
        if self.scanned:
            self.norm3 = LayerNorm(dim)
            self.assm = AttentiveStateSpace(config, index)
        own = config.prompted and config.inner_rank is not None and config.prompt_sharing == "none"
        self.embeddingA = nn.Embedding(config.inner_rank, config.prompt_dim) if own else None

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x [B, H, W, C] -> [B, H, W, C]."""
        return compiled(AttentiveLayer.compute, self, x, context) if context.compiled else self.compute(x, context)

    def compute(self, x: Tensor, context: Context) -> Tensor:
        """What `forward` returns, as it is written here."""
        factor = context.shared if self.embeddingA is None else self.embeddingA.weight
        x = skip = Tokens(x)
        x = x + self.win_mhsa(self.wqkv(self.norm1(x)), context.mask)
        x = skip = x + self.convffn1(self.norm2(x)) + scaled(skip, self.scale1)
        if self.scanned:
            x = x + self.assm(self.norm3(x), factor, context)
        x = x + self.convffn2(self.norm4(x)) + scaled(skip, self.scale2)
        return x.read()


class MambaIRv2(nn.Module):
    """The network. A new one has the initial values of seed 0.

    Attributes that may be changed at any time: `routing` and `prompt_order` (as in `Config`), `noise` (a source called
    with (layer, (B, L, T)), or None for `PhiloxGumbel` of key 0) and `backend` (of the scan; "reference" also means
    plain, countable attention and prompts in place of fused operators), `compiled` (see models.compilation; off at
    first, because small images and short runs do not win back what it costs), `experiment` (None at first).
    """

    def __init__(self, config: Config, backend: str = "auto") -> None:
        super().__init__()
        self.config = config
        self.routing, self.prompt_order, self.backend = config.routing, config.prompt_order, backend
        self.noise: NoiseSource | None = None
        self.compiled = False
        self.experiment: Experiment | None = None
        layers, groups = 0, []
        for depth, heads in zip(config.depths, config.num_heads, strict=True):
            members = [AttentiveLayer(config, layers + j, heads, shifted=j % 2 == 1) for j in range(depth)]
            groups.append(Group(members, config.embed_dim, config.resi_connection, "layers"))
            layers += depth
        add_backbone(self, config, groups)
        if config.prompted and config.prompt_sharing == "network":
            self.embeddingA = nn.Embedding(config.inner_rank, config.prompt_dim)
        else:
            self.embeddingA = None
        # Recomputed, never read: official state dicts hold it.
        self.register_buffer("relative_position_index_SA", relative_position_index(config.window_size))
        self.register_buffer("mask", shift_mask(config.window_size), persistent=False)
        initialise(self, 0)

    @property
    def configuration(self) -> dict[str, Any]:
        """Everything that `from_official` needs to build this network again, JSON-able."""
        return {"type": "MambaIRv2", **asdict(self.config), "routing": self.routing, "prompt_order": self.prompt_order}

    @property
    def capabilities(self) -> Capabilities:
        config = self.config
        return Capabilities(
            settings=("routing", "prompt_order"),
            routed=config.routed,
            experiments=config.routed,
            classes=config.num_tokens if config.sorted else None,
            compiles=True,
            recordable=True,
            multiple=config.window_size,
            upscale=config.upscale,
            channels=config.in_chans,
        )

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """x [B, C, H, W] in 0..1, any H and W from one pixel on -> [B, C, sH, sW].

        labels int64 [B, H, W] in 0..T-1 replace the router's class as the sort key of every layer, and nothing else.
        Raises ModelError for input, labels or attributes that do not fit.
        """
        check_image(x, self.config.in_chans)
        check_choice("routing", self.routing, ROUTINGS)
        check_choice("prompt_order", self.prompt_order, PROMPT_ORDERS)
        height, width = x.shape[2:]
        if labels is not None:
            self.check_labels(labels, x)
            labels = flip_pad(labels.to(x.device), self.config.window_size).flatten(1)
        x = flip_pad(x, self.config.window_size)
        size = tuple(x.shape[2:])
        experiment = None if self.experiment is None else self.experiment.on(self.config, self.compiled, *size)
        # Without a router none: the default's key lies on the host, and a copy of it cannot be part of a CUDA graph.
        draws = self.config.routed and self.routing != "argmax"
        source = (self.noise or PhiloxGumbel([0])) if draws else None
        with without_kernels(self.backend == "reference"):
            noise = RoutingNoise.of(source, self.conv_first.weight, len(x))
            if self.compiled and source and not noise.kernels:
                raise ModelError(
                    "compiled layers draw their routing noise in a kernel, which needs a GPU and a PhiloxGumbel "
                    "source: set compiled = False, or routing = 'argmax'"
                )
            context = Context(
                self.mask,
                self.directions(*size, x.device),
                labels,
                None if self.embeddingA is None else self.embeddingA.weight,
                noise,
                self.prompt_order,
                self.backend,
                self.compiled,
                experiment,
            )
            y = restore(self, x, context)
        return y[..., : height * self.config.upscale, : width * self.config.upscale]

    def directions(self, height: int, width: int, device: torch.device) -> Tensor | None:
        """int64 [K, L]: raster, its reverse, columns, their reverse; None where only raster is scanned."""
        if self.config.scans < 2:
            return None
        forward = torch.arange(height * width, device=device), column_major(height, width, device)
        return torch.stack([o for f in forward for o in (f, f.flip(0))][: self.config.scans])

    def check_labels(self, labels: Tensor, x: Tensor) -> None:
        """Raises ModelError unless this network sorts by labels and these are labels of `x`."""
        if not self.config.sorted:
            raise ModelError("labels are the sort key of SGN, and this network (sgn='off' or scans=0) does not sort")
        expected = (x.shape[0], *x.shape[2:])
        if labels.dtype != torch.int64 or tuple(labels.shape) != expected:
            raise ModelError(f"labels must be int64 {list(expected)}, not {labels.dtype} {list(labels.shape)}")
        # A GPU's answer is waited for, but not in a training step, nor while a CUDA graph is recorded.
        asked = labels.device.type == "cpu" or not (self.training or torch.cuda.is_current_stream_capturing())
        if asked and (labels.min() < 0 or labels.max() >= self.config.num_tokens):
            raise ModelError(
                f"labels must lie in 0..{self.config.num_tokens - 1}, num_tokens being {self.config.num_tokens}"
            )
