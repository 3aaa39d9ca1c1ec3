"""The peer's scan behind our operator: called as its own interface calls it."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch

from models.ops.scan import mamba_ssm as peer_backend
from models.ops.scan import reference


def peer() -> SimpleNamespace:
    """What selective_scan_cuda computes, by its definition and autograd: y = C h + D u with softplus(delta + bias)."""

    def out(u, delta, A, B, C, D, bias):
        x = torch.nn.functional.softplus(delta + bias[:, None])  # [B, D, L]
        groups = u.shape[1] // B.shape[1]
        B, C = (m.repeat_interleave(groups, 1) for m in (B, C))  # [B, D, N, L]
        h, ys = torch.zeros(*u.shape[:2], A.shape[1]), []
        for i in range(u.shape[2]):
            h = torch.exp(x[..., i, None] * A) * h + (x * u)[..., i, None] * B[..., i]
            ys.append((h * C[..., i]).sum(-1))
        return torch.stack(ys, -1) + D[:, None] * u

    def fwd(u, delta, A, B, C, D, z, bias, softplus):
        assert z is None and softplus and all(x.is_contiguous() for x in (u, delta, A, B, C))
        chunks = math.ceil(u.shape[2] / 2048)
        return out(u, delta, A, B, C, D, bias), torch.zeros(*u.shape[:2], chunks, 2 * A.shape[1])

    def bwd(u, delta, A, B, C, D, z, bias, dy, x, out_, dz, softplus, recompute):
        assert z is None and out_ is None and dz is None and softplus and not recompute
        assert x.shape == (*u.shape[:2], math.ceil(u.shape[2] / 2048), 2 * A.shape[1])
        inputs = [t.detach().requires_grad_() for t in (u, delta, A, B, C, D, bias)]
        with torch.enable_grad():
            return torch.autograd.grad(out(*inputs), inputs, dy)

    return SimpleNamespace(fwd=fwd, bwd=bwd)


@pytest.mark.parametrize("directions", [1, 2])
def test_the_peer_is_called_as_its_own_interface_calls_it(monkeypatch, directions):
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", peer())
    g = torch.Generator().manual_seed(0)
    b, k, l, e, n, t = 2, directions, 13, 5, 3, 4
    shapes = [(b, l, e), (b, k, l, e), (k, e, n), (b, k, l, n), (b, k, l, n), (k, e), (k, e), (t, n)]
    tensors = [torch.randn(shape, generator=g) for shape in shapes]
    tensors[2] = -tensors[2].exp()
    order = torch.stack([torch.randperm(l, generator=g) for _ in range(b * k)]).view(b, k, l)
    classes = torch.randint(t, (b, l), generator=g)
    *inputs, table = tensors
    at_steps = classes.unsqueeze(1).expand(b, k, l)
    for given in (order, None):
        results = []
        for module in (peer_backend, reference):
            y, saved = module.forward(*inputs, given, table, at_steps, True)
            results.append([y, *module.backward(y.cos(), saved, *inputs, given, table, at_steps)])
        for found, exact, like in zip(*results, (inputs[1], *inputs), strict=True):
            torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)
            assert found.shape == like.shape and found.is_contiguous()
        assert saved.numel() == math.prod(reference.saved_shape(b, k, l, e, n))
        states = peer_backend.forward(*inputs, given, table, at_steps, True)[1]
        assert states.shape == peer_backend.saved_shape(b, k, l, e, n)
