"""The interventions of MambaIRv2, by the question that they answer.

    prompts   does the network use what prompts say?               routing   does it matter which class a pixel has?
    order     does it matter in which order pixels are scanned?    scan      is the state used, and how far back?
    parts     what are attention, its shift and the ASSM worth?    layers    which layers need their scan, prompts, ...?

Most are other values of parameters, so every backend and kernel computes them as it computes the network. How a change
of delta or of the directions is one of parameters is said where it is made.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from models import Experiment, capabilities_of
from models.ops.noise import PhiloxGumbel
from models.ops.scan.permutation import column_major
from suites.analysis.interventions import Changes, Intervention
from suites.spec import SpecError

MEMORIES = (1, 4, 16, 64, 256, 1024, 4096)
APART = 1 << 20  # added to a layer's number where something else than its routing noise is drawn from the same keys


def layers(network: nn.Module) -> list[nn.Module]:
    """The attentive layers of a MambaIRv2, in order. Raises SpecError for another network."""
    found = [layer for layer in network.modules() if hasattr(layer, "assm") and hasattr(layer, "win_mhsa")]
    if not found:
        raise SpecError(
            f"interventions are made in layers with an ASSM, and {type(network).__name__} has none: it is no MambaIRv2"
        )
    return found


def interventions(network: nn.Module) -> list[Intervention]:
    """Those that this network can have. Raises SpecError for one without an ASSM."""
    count, config = len(layers(network)), network.config
    routed, single = capabilities_of(network).experiments, config.scans == 1
    return [
        *(prompts(config, count) if config.prompted else ()),
        *(routing(config) if routed else ()),
        *(order(config) if config.sorted and single else ()),
        *(scan(config) if single else ()),
        *parts(),
        *(one for number in range(count) for one in of_layer(config, number)),
    ]


def everywhere(change: Callable[[nn.Module, Changes], None]) -> Callable[[nn.Module, Changes], None]:
    """The change of one layer, made in all."""

    def made(network: nn.Module, changes: Changes) -> None:
        for layer in layers(network):
            change(layer, changes)

    return made


def at(number: int, change: Callable[[nn.Module, Changes], None]) -> Callable[[nn.Module, Changes], None]:
    """The change of one layer, made in the layer of this number."""
    return lambda network, changes: change(layers(network)[number], changes)


def setting(network: nn.Module, changes: Changes, **settings: str) -> None:
    """Attributes of the network that a protocol may set as well."""
    for name, value in settings.items():
        changes.set(network, name, value)


# Prompts: rows of the pool M N, M `embeddingB` [T, r]. Every change of the rows is one of M.


def prompts(config, count: int) -> Iterator[Intervention]:
    make = partial(Intervention, question="prompts")
    yield make("prompts/zero", text="prompts are zero", change=everywhere(partial(scaled_prompts, factor=0)))
    yield make("prompts/mean", text="every pixel has the mean of the pool", change=everywhere(mean_prompt))
    text = "rows of the pool permuted, by seed and layer"
    yield make("prompts/permuted", text=text, change=permuted_prompts, drawn=True)
    for factor in (2, 10, 100):
        change = everywhere(partial(scaled_prompts, factor=factor))
        yield make(f"prompts/times-{factor}", text=f"prompts times {factor}", change=change)
    if count > 1:
        yield make("prompts/next-layer", text="prompts of the next layer (the first's in the last)", change=next_pool)
    text = "the prompt of step i is that of the pixel it scans (the paper's equation)"
    yield make("prompts/semantic", text=text, change=partial(setting, prompt_order="semantic"))


def scaled_prompts(layer: nn.Module, changes: Changes, factor: float = 0) -> None:
    changes.scale(layer.assm.embeddingB, "weight", factor)


def mean_prompt(layer: nn.Module, changes: Changes) -> None:
    table = layer.assm.embeddingB.weight
    changes.set(layer.assm.embeddingB, "weight", table.mean(0, keepdim=True).expand_as(table).contiguous())


def permuted_prompts(network: nn.Module, changes: Changes) -> None:
    generator = torch.Generator().manual_seed(changes.seed)
    for layer in layers(network):
        table = layer.assm.embeddingB.weight
        changes.set(layer.assm.embeddingB, "weight", table[torch.randperm(len(table), generator=generator)])


def next_pool(network: nn.Module, changes: Changes) -> None:
    own = layers(network)
    pools = [(layer.assm.embeddingB.weight, getattr(layer.embeddingA, "weight", None)) for layer in own]
    for layer, (rows, factor) in zip(own, pools[1:] + pools[:1], strict=True):
        changes.set(layer.assm.embeddingB, "weight", rows)
        if factor is not None:
            changes.set(layer.embeddingA, "weight", factor)


# Routing: class = argmax(z + g), z the logits of `route`. Noise of temperature tau is z / tau with the same g.


def routing(config) -> Iterator[Intervention]:
    make = partial(Intervention, question="routing")
    change = partial(setting, routing="argmax")
    yield make("routing/argmax", text="the likeliest class, no noise", change=change, draws=False)
    for factor in (0.25, 0.5, 2, 4):
        heat = everywhere(partial(tempered, temperature=factor))
        yield make(f"routing/temperature-{factor:g}", text=f"noise times {factor:g}", change=heat)
    heat = everywhere(partial(tempered, temperature=math.inf))
    yield make("routing/uniform", text="a class at random for every pixel", change=heat)
    text = "every image's classes shuffled over its pixels, by layer"
    yield make("routing/shuffled", text=text, change=partial(experiment, classes=shuffled))
    text = "all pixels of a tile have its most frequent class: one prompt, raster order"
    yield make("routing/one-class", text=text, change=partial(experiment, classes=one_class))


def tempered(layer: nn.Module, changes: Changes, temperature: float) -> None:
    last = layer.assm.route[2]
    for name in ("weight", "bias"):
        changes.scale(last, name, 1 / temperature)


def experiment(network: nn.Module, changes: Changes, **sources: Callable[..., Tensor]) -> None:
    """`models.Experiment` of functions that take the network first."""
    given = {name: partial(source, network) for name, source in sources.items()}
    changes.set(network, "experiment", replace(network.experiment or Experiment(), **given))


def drawn(network: nn.Module, layer: int, like: Tensor) -> Tensor:
    """A permutation of 0..L-1 for every image of like [B, L], int64, from the keys of the routing noise."""
    source = network.noise or PhiloxGumbel([0])
    noise = source(layer + APART, (*like.shape, 1), like.device).squeeze(-1)
    return noise.argsort(dim=-1, stable=True)


def shuffled(network: nn.Module, layer: int, classes: Tensor) -> Tensor:
    return classes.gather(1, drawn(network, layer, classes))


def one_class(network: nn.Module, layer: int, classes: Tensor) -> Tensor:
    return classes.mode(dim=1, keepdim=True).values.expand_as(classes).contiguous()


# Order: of the pixels in the scan. The prompt of step i stays that of pixel i in raster order, as in the official code.


def order(config) -> Iterator[Intervention]:
    make = partial(Intervention, question="order")
    yield make("order/raster", text="raster, not sorted", change=unsorted)
    for name, source, text in (
        ("reversed", backwards, "the sorted order backwards"),
        ("raster-reversed", raster_backwards, "raster backwards, not sorted"),
        ("columns", columns, "column after column, not sorted"),
        ("hilbert", hilbert, "along a Hilbert curve, not sorted"),
        ("random", permutation, "a random permutation, by image, seed and layer"),
    ):
        yield make(f"order/{name}", text=text, change=partial(experiment, order=source))
    for labels, text in (
        ("luma", "classes of luma, equally many pixels each"),
        ("kmeans", "k-means of colour and place"),
        ("slic", "SLIC superpixels"),
    ):
        yield make(f"order/{labels}", text=f"sorted by {text}; prompts routed as ever", labels=labels)


def unsorted(network: nn.Module, changes: Changes) -> None:
    for layer in layers(network):
        changes.set(layer.assm, "config", replace(layer.assm.config, sgn="off"))


def by_class(key: Tensor) -> Tensor:
    return key.argsort(dim=-1, stable=True)


def backwards(network: nn.Module, layer: int, key: Tensor, height: int, width: int) -> Tensor:
    return by_class(key).flip(-1)


def raster_backwards(network: nn.Module, layer: int, key: Tensor, height: int, width: int) -> Tensor:
    return torch.arange(height * width, device=key.device).flip(0).expand_as(key)


def columns(network: nn.Module, layer: int, key: Tensor, height: int, width: int) -> Tensor:
    return column_major(height, width, key.device).expand_as(key)


def permutation(network: nn.Module, layer: int, key: Tensor, height: int, width: int) -> Tensor:
    return drawn(network, layer, key)


def hilbert(network: nn.Module, layer: int, key: Tensor, height: int, width: int) -> Tensor:
    return hilbert_order(height, width, key.device).expand_as(key)


def hilbert_order(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Pixels int64 [H W] along the Hilbert curve of the smallest square of side 2^n around them; those outside are left
    out, so that it jumps where the curve leaves the image."""
    bits = max(height, width, 2) - 1
    side = 1 << bits.bit_length()
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    x, y, distance = x.flatten(), y.flatten(), torch.zeros(height * width, dtype=torch.int64, device=device)
    half = side // 2
    while half:
        right, down = (x & half).bool(), (y & half).bool()
        distance += half * half * ((3 * right.long()) ^ down.long())
        turned = ~down & right
        x, y = torch.where(turned, side - 1 - x, x), torch.where(turned, side - 1 - y, y)
        x, y = torch.where(down, x, y), torch.where(down, y, x)
        half //= 2
    return distance.argsort()


# Scan: h = exp(delta A) h + delta B u, y = (C + P) h + D u. Delta times s is A times s and B times s.


def scan(config) -> Iterator[Intervention]:
    make = partial(Intervention, question="scan")
    yield make("scan/off", text="C + P = 0: only D u is left", change=everywhere(no_state), draws=False)
    for factor in (0.5, 2):
        change = everywhere(partial(stretched, factor=factor))
        yield make(f"scan/delta-{factor:g}", text=f"delta times {factor:g}, after softplus", change=change)
    for directions in (2, 4):
        text = f"{directions} directions with the same weights, averaged"
        yield make(f"scan/directions-{directions}", text=text, change=partial(averaged, directions=directions))
    cut = partial(Intervention, question="memory")
    for steps in MEMORIES if config.sorted else ():
        change = everywhere(partial(forgetting, steps=steps))
        yield cut(f"memory/sorted-{steps}", text=f"state new every {steps} steps, sorted order", change=change)
    cut = partial(Intervention, question="memory in raster order")
    for steps in MEMORIES:
        change = everywhere(partial(forgetting, steps=steps, sgn="off"))
        yield cut(f"memory/raster-{steps}", text=f"state new every {steps} steps, raster order", change=change)


def no_state(layer: nn.Module, changes: Changes) -> None:
    module, states = layer.assm.selectiveScan, layer.assm.config.d_state
    weight = module.x_proj_weight.detach().clone()  # [K, R + 2 N, E]: delta, B, C
    weight[:, -states:] = 0
    changes.set(module, "x_proj_weight", weight)
    if layer.assm.config.ase == "on":
        scaled_prompts(layer, changes)


def stretched(layer: nn.Module, changes: Changes, factor: float) -> None:
    module, states = layer.assm.selectiveScan, layer.assm.config.d_state
    weight = module.x_proj_weight.detach().clone()
    weight[:, -2 * states : -states] *= factor
    changes.set(module, "x_proj_weight", weight)
    changes.set(module, "A_logs", module.A_logs + math.log(factor))  # A = -exp(A_logs)
    if layer.assm.config.ase == "on" and layer.assm.config.prompt_target == "B":
        scaled_prompts(layer, changes, factor)


def forgetting(layer: nn.Module, changes: Changes, steps: int, **more: str) -> None:
    changes.set(layer.assm, "config", replace(layer.assm.config, memory=steps, **more))


def averaged(network: nn.Module, changes: Changes, directions: int) -> None:
    """Outputs of directions are summed before out_norm, a LayerNorm: it makes of the sum what it would make of the mean
    if its epsilon is K^2 times as large."""
    changes.set(network, "config", replace(network.config, scans=directions))
    for layer in layers(network):
        assm, module = layer.assm, layer.assm.selectiveScan
        changes.set(assm, "config", replace(assm.config, scans=directions))
        for name in ("x_proj_weight", "dt_projs_weight", "dt_projs_bias", "A_logs", "Ds"):
            own = getattr(module, name)
            changes.set(module, name, own.repeat(directions, *[1] * (own.dim() - 1)))
        changes.set(assm.out_norm, "eps", assm.out_norm.eps * directions**2)


# Parts of all layers, and of one: a branch is off where its last projection is zero.


def parts() -> Iterator[Intervention]:
    make = partial(Intervention, question="parts")
    yield make("parts/attention-off", text="no window attention", change=everywhere(no_attention))
    yield make("parts/shift-off", text="no window is shifted", change=everywhere(no_shift))
    yield make("parts/assm-off", text="no ASSM", change=everywhere(no_assm), draws=False)


def no_attention(layer: nn.Module, changes: Changes) -> None:
    _silence(layer.win_mhsa.proj, changes)


def no_assm(layer: nn.Module, changes: Changes) -> None:
    _silence(layer.assm.out_proj, changes)


def _silence(last: nn.Module, changes: Changes) -> None:
    for name in ("weight", "bias"):
        changes.scale(last, name, 0)


def no_shift(layer: nn.Module, changes: Changes) -> None:
    changes.set(layer.win_mhsa, "shifted", False)


def of_layer(config, number: int) -> Iterator[Intervention]:
    """The same in one layer alone, numbered from 0."""
    where = f"layer {number} alone: "
    changes = {"attention-off": (no_attention, "no window attention"), "assm-off": (no_assm, "no ASSM")}
    changes |= {"scan-off": (no_state, "C + P = 0, only D u is left")}
    if config.prompted:
        changes |= {"prompts-zero": (scaled_prompts, "prompts are zero")}
    for name, (change, text) in changes.items():
        question = f"layers: {name}"
        yield Intervention(f"layer-{number:02}/{name}", question, where + text, at(number, change))
