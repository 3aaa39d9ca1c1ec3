"""Initial values of both networks (those of the official code), every tensor from its own generator.

The generator is keyed by the seed and the tensor's name: two variants with the same seed start from the same values
wherever they have a tensor of the same name and shape, whatever else they have, so their difference is paired.
"""

import math

import torch
from torch import Tensor, nn

from models.ops.noise import noise_key

DT_RANGE = (1e-3, 1e-1)  # of softplus(dt bias)
DT_FLOOR = 1e-4


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Sets every parameter of `model` to its initial value for `seed` (any integer). Nothing to do on the meta device.

    Linear: weight trunc_normal(0.02), bias 0. Relative position bias: trunc_normal(0.02). M and N: U(-1/rows, 1/rows).
    x_proj: PyTorch's Linear default. dt weight: U(-R^-0.5, R^-0.5); dt bias: the inverse of softplus at
    exp(U(log 1e-3, log 1e-1)). A_log: log(1..N). D, skip scales: 1. Layer scales: 1e-4. LayerNorm: 1, 0.
    Convolutions: PyTorch's default. An unfactored pool P: U(-a, a) with a = 1 / (T sqrt(3 r)), the spread of M N.
    """
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                continue
            full_name = f"{module_name}.{name}" if module_name else name
            generator = torch.Generator().manual_seed(noise_key("initial", seed, full_name))
            parameter.copy_(_value(model, module, name, torch.empty(parameter.shape), generator))


def _value(model: nn.Module, module: nn.Module, name: str, x: Tensor, generator: torch.Generator) -> Tensor:
    """The initial value of the parameter `name` of `module`, made in x (float32, on the CPU)."""
    if name == "A_logs":
        return torch.arange(1, x.shape[1] + 1).log().expand_as(x)
    if name in ("scale1", "scale2"):
        return x.fill_(1e-4)
    if name in ("Ds", "skip_scale", "skip_scale2"):
        return x.fill_(1)
    if name == "x_proj_weight":
        return _uniform(x, x.shape[2] ** -0.5, generator)
    if name == "dt_projs_weight":
        return _uniform(x, x.shape[2] ** -0.5, generator)
    if name == "dt_projs_bias":
        low, high = (math.log(bound) for bound in DT_RANGE)
        dt = x.uniform_(low, high, generator=generator).exp().clamp(min=DT_FLOOR)
        return dt + torch.log(-torch.expm1(-dt))
    if isinstance(module, nn.LayerNorm):
        return x.fill_(1 if name == "weight" else 0)
    if isinstance(module, nn.Embedding):
        rows, config = x.shape[0], model.config
        unfactored = config.inner_rank is None
        return _uniform(x, 1 / (rows * math.sqrt(3 * config.pool_rank)) if unfactored else 1 / rows, generator)
    if isinstance(module, nn.Conv2d):
        return _uniform(x, math.prod(module.weight.shape[1:]) ** -0.5, generator)
    if isinstance(module, nn.Linear) and name == "bias":
        return x.zero_()
    if isinstance(module, nn.Linear) or name == "relative_position_bias_table":
        return nn.init.trunc_normal_(x, std=0.02, generator=generator)
    raise AssertionError(f"no initial value is defined for {name} of {type(module).__name__}")


def _uniform(x: Tensor, bound: float, generator: torch.Generator) -> Tensor:
    return x.uniform_(-bound, bound, generator=generator)
