"""The attentive scan, forward and every gradient, against a plain float64 loop that PyTorch differentiates."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from models.scan import Prompt, attentive_scan, available

USABLE = [name for name, reason in available().items() if reason is None]
GRADIENTS = ("u", "delta", "A", "B", "C", "D", "delta_bias", "table", "soft")


def make(batch, directions, length, channels, states, classes=5, scale=1.0, prompt_order="semantic", seed=0):
    """Random inputs in float64 as a dict; order, classes and at are permutations and indices."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64)

    order = torch.stack([torch.randperm(length, generator=g) for _ in range(batch * directions)])
    order = order.view(batch, directions, length)
    at = {"semantic": order, "raster": None, "other": order.flip(2)}[prompt_order]
    return {
        "u": normal(batch, length, channels),
        "delta": normal(batch, directions, length, channels) * scale,
        "A": -torch.exp(normal(directions, channels, states) * 0.7),
        "B": normal(batch, directions, length, states),
        "C": normal(batch, directions, length, states),
        "D": normal(directions, channels),
        "delta_bias": normal(directions, channels),
        "order": order,
        "table": normal(classes, states),
        "classes": torch.randint(classes, (batch, length), generator=g),
        "soft": torch.softmax(normal(batch, length, classes), -1),
        "at": at,
    }


def truth(x):
    """The definition, pixel by pixel, in the dtype of the inputs; straight-through written out as in the paper."""
    batch, directions, length, channels = x["delta"].shape
    onehot = F.one_hot(x["classes"], x["table"].shape[0]).to(x["u"].dtype)
    prompts = (onehot - x["soft"].detach() + x["soft"]) @ x["table"]  # [B, L, N]
    rows = []
    for b, k in itertools.product(range(batch), range(directions)):
        h = torch.zeros_like(x["A"][k])
        ys = [None] * length
        for i in range(length):
            p = int(x["order"][b, k, i])
            q = i if x["at"] is None else int(x["at"][b, k, i])
            t = x["delta"][b, k, p] + x["delta_bias"][k]
            step = torch.where(t > 20, t, torch.log1p(torch.exp(t.clamp(max=20))))
            h = torch.exp(step[:, None] * x["A"][k]) * h + (step * x["u"][b, p])[:, None] * x["B"][b, k, p]
            ys[p] = h @ (x["C"][b, k, p] + prompts[b, q]) + x["D"][k] * x["u"][b, p]
        rows.append(torch.stack(ys))
    return torch.stack(rows).view(batch, directions, length, channels)


def scan(x, backend):
    prompt = Prompt(x["table"], x["classes"], x["soft"], x["at"])
    names = ("u", "delta", "A", "B", "C", "D", "delta_bias")
    return attentive_scan(*(x[n] for n in names), order=x["order"], prompt=prompt, backend=backend)


def leaves(x, dtype):
    return {
        n: t.detach().clone().to(dtype).requires_grad_(n in GRADIENTS) if t is not None and t.is_floating_point() else t
        for n, t in x.items()
    }


CASES = [  # batch, directions, length, channels, states, delta scale, prompt order
    (1, 1, 67, 7, 4, 1.0, "semantic"),
    (2, 2, 131, 19, 8, 8.0, "raster"),
    (1, 4, 33, 48, 16, 40.0, "other"),
    (2, 1, 65, 33, 8, 40.0, "semantic"),
    (1, 1, 1, 5, 3, 1.0, "raster"),
    (1, 2, 64, 16, 10, 8.0, "semantic"),
]


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_every_gradient(backend, case):
    *shape, scale, prompt_order = case
    x = make(*shape, scale=scale, prompt_order=prompt_order)
    weights = torch.randn(shape[:4], generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    exact = leaves(x, torch.float64)
    y = truth(exact)
    (y * weights).sum().backward()
    tested = leaves(x, torch.float32)
    ours = scan(tested, backend)
    (ours * weights.float()).sum().backward()

    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), y, rtol=0, atol=2e-6 * float(y.detach().abs().max()))
    for name in GRADIENTS:
        expected, got = exact[name].grad, tested[name].grad.double()
        assert torch.isfinite(got).all(), name
        error, largest = float((got - expected).abs().max()), float(expected.abs().max())
        assert error <= 5e-6 * largest, f"{name}: {error:.1e} of {largest:.1e}"
