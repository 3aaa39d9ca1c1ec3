"""The attentive state space module, with every switch of the scan, against a loop over the definition."""

import pytest
import torch
from torch.nn import functional as F

from models.mambairv2 import AttentiveStateSpace, Context
from models.ops.common.dispatch import without_kernels
from models.ops.fusion import Tokens
from models.ops.routing import RoutingNoise
from tests.models.test_switches import DIM, TOKENS, tiny, unsorted_directions


def defined_assm(assm: AttentiveStateSpace, x: torch.Tensor, factor, labels, prompt_order: str) -> torch.Tensor:
    """What the module must compute for one image x [H, W, C], pixel after pixel and step after step."""
    config, scan = assm.config, assm.selectiveScan
    height, width, _ = x.shape
    tokens = x.flatten(0, 1)
    image = F.conv2d(x.permute(2, 0, 1)[None], assm.in_proj[0].weight, assm.in_proj[0].bias)
    position = assm.CPE[0]
    image = image * torch.sigmoid(F.conv2d(image, position.weight, position.bias, padding=1, groups=len(position.bias)))
    u = image[0].flatten(1).t()  # [L, E]
    pool = classes = None
    if hasattr(assm, "route"):
        classes = assm.route(tokens).argmax(-1).tolist()
    if config.ase == "on":
        pool = assm.embeddingB.weight if factor is None else assm.embeddingB.weight @ factor
    key = classes if labels is None else labels.tolist()
    total = torch.zeros_like(u)
    for k, unsorted in enumerate(unsorted_directions(height, width, config.scans)):
        order = unsorted
        if config.sgn == "on":
            order = sorted(unsorted, key=lambda p: key[p], reverse=k % 2 == 1)  # stable both ways
        prompting = order if prompt_order == "semantic" else unsorted
        A = -torch.exp(scan.A_logs.unflatten(0, (config.scans, -1))[k])
        D = scan.Ds.unflatten(0, (config.scans, -1))[k]
        rank = scan.dt_projs_weight.shape[2]
        state = torch.zeros_like(A)
        for i, p in enumerate(order):
            low, B, C = (scan.x_proj_weight[k] @ u[p]).split([rank, config.d_state, config.d_state])
            delta = scan.dt_projs_weight[k] @ low
            added = {"B": 0, "C": 0, "delta": 0, "y": 0}
            if pool is not None:
                added[config.prompt_target] = pool[classes[prompting[i]]]
            B, C, delta = B + added["B"], C + added["C"], F.softplus(delta + added["delta"] + scan.dt_projs_bias[k])
            state = torch.exp(delta[:, None] * A) * state + delta[:, None] * B[None] * u[p][:, None]
            total[p] += state @ C + D * u[p] + added["y"]
    return assm.out_proj(assm.out_norm(total)).unflatten(0, (height, width))


VARIANTS = [
    *({"prompt_target": target, "prompt_order": order} for target in "CB" for order in ("raster", "semantic")),
    *({"prompt_target": t, "prompt_order": o, "scans": 2} for t in ("delta", "y") for o in ("raster", "semantic")),
    {"scans": 4},
    {"scans": 4, "prompt_order": "semantic"},
    {"scans": 4, "sgn": "off"},
    {"scans": 2, "ase": "off"},
    {"sgn": "off"},
    {"ase": "off"},
    {"ase": "off", "sgn": "off"},
    {"inner_rank": None},
    {"scans": 2, "labels": True},
    {"ase": "off", "labels": True},
]


@pytest.mark.parametrize("backend", ["chunked", "reference"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: ",".join(f"{k}={x}" for k, x in v.items()))
def test_state_space_module_computes_its_definition(variant, backend):
    variant = dict(variant)
    labelled = variant.pop("labels", False)
    network = tiny(**variant).double()
    layer = network.layers[0].residual_group["layers"][1]
    factor = None if layer.embeddingA is None else layer.embeddingA.weight
    x = torch.randn(2, 5, 7, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(0, TOKENS, (2, 35), generator=torch.Generator().manual_seed(2)) if labelled else None
    argmax, directions = RoutingNoise(None, False, None), network.directions(5, 7, x.device)
    context = Context(network.mask, directions, labels, None, argmax, network.config.prompt_order, backend)
    with torch.no_grad(), without_kernels(backend == "reference"):
        output = layer.assm(Tokens(x), factor, context).read()
        for b in range(2):
            own = None if labels is None else labels[b]
            expected = defined_assm(layer.assm, x[b], factor, own, network.config.prompt_order)
            torch.testing.assert_close(output[b], expected, rtol=1e-9, atol=1e-9)
