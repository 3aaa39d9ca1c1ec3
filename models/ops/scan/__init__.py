"""The attentive selective scan: one function, one operator (`mambair_bench::attentive_scan`), interchangeable backends.

    x_p = softplus(delta_p + bias)                      p = order[i], the pixel that step i visits
    h_i = exp(x_p A) h_{i-1} + x_p B_p u_p,  h_0 = 0    the state space recurrence
    y_p = <C_p + prompt_i, h_i> + D u_p                 prompt_i = table[classes[at[i]]]: the attentive part

B batch, K directions, L pixels, E channels (d_inner), N states (d_state), T prompt classes (num_tokens).

Prompts are chosen by argmax, yet their router must learn. The operator therefore takes `soft`, the router's
probabilities, without reading their values: their gradient is the gradient of each pixel's prompt times the transposed
table, which is what `onehot - soft.detach() + soft` (straight-through) would have given.

Backends are modules of one interface (backends.py: `Backend`, BACKENDS); reference.py is the definition.
"""

import functools

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from models.ops.common.operator import operator
from models.ops.scan.backends import BACKENDS, PEERS, Backend, BackendError, available, choose, load, resolve
from models.ops.scan.memory import forgetful
from models.ops.scan.prompts import Prompt, prompt_gradients, prompts_of_steps

__all__ = [
    "BACKENDS",
    "PEERS",
    "Backend",
    "BackendError",
    "Prompt",
    "attentive_scan",
    "available",
    "load",
    "resolve",
]


def attentive_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    *,
    order: Tensor | None = None,
    prompt: Prompt | None = None,
    backend: str = "auto",
    memory: int | None = None,
) -> Tensor:
    """Scan the pixels of a batch of images in K directions; the equations are in the head of this module.

    u: [B, L, E]. delta: [B, K, L, E], before bias and softplus. A: [K, E, N], negative. B, C: [B, K, L, N].
    D, delta_bias: [K, E]. All in pixel order, in any memory layout.
    order: int64 [B, K, L], the pixel visited at step i of direction k, a permutation of 0..L-1; None: pixel i.
    backend: "auto" or a name in BACKENDS; "auto" leaves to `chunked` what the best backend refuses (float64, large N).
    memory: steps after which the state is zero again, at least 1; None for never. A scan without memory (1) needs no
    backend, and A has no part in it.

    Returns [B, K, L, E] in pixel order, in the type of `u`. Types may differ, and everything is computed in float64 for
    float64 `u` and in float32 else, under autocast too; kernels read u, delta, B and C in bfloat16 without a copy.
    Differentiable once, in every floating input and in `prompt.table` and `prompt.soft`.

    Raises BackendError for a backend that cannot run here, ValueError for shapes that do not fit. An order or a class
    out of range is an IndexError or RuntimeError, as of PyTorch's own indexing, where PyTorch indexes; kernels of ours
    read past their tables without a word.
    """
    if not torch.jit.is_tracing():  # sizes are tensors there
        _check_shapes(u, delta, A, B, C, D, delta_bias, order, prompt)
    if memory is not None and memory < 1:
        raise ValueError(f"memory must be at least 1 step, not {memory}")
    table, classes, soft, at = (prompt.table, prompt.classes, prompt.soft, prompt.at) if prompt else (None,) * 4
    if memory is not None and memory < u.shape[1]:
        prompts = None if prompt is None else prompts_of_steps(prompt, A.shape[0])
        scan = functools.partial(attentive_scan, backend=backend)
        return forgetful(u, delta, A, B, C, D, delta_bias, order, prompts, memory, scan)
    inputs = (u, delta, A, B, C, D, delta_bias, table, soft)
    save = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    y, _ = _scan(u, delta, A, B, C, D, delta_bias, order, table, classes, soft, at, backend, save)
    return y


def _check_shapes(u, delta, A, B, C, D, delta_bias, order, prompt) -> None:
    if u.ndim != 3 or A.ndim != 3:
        raise ValueError(f"u must be [B, L, E] and A [K, E, N], not {tuple(u.shape)} and {tuple(A.shape)}")
    (batch, length, channels), (directions, _, states) = u.shape, A.shape
    if min(batch, length, channels, directions, states) < 1:
        raise ValueError(f"nothing to scan: u {tuple(u.shape)}, A {tuple(A.shape)}")
    expected = {
        "delta": (delta, (batch, directions, length, channels)),
        "A": (A, (directions, channels, states)),
        "B": (B, (batch, directions, length, states)),
        "C": (C, (batch, directions, length, states)),
        "D": (D, (directions, channels)),
        "delta_bias": (delta_bias, (directions, channels)),
        "order": (order, (batch, directions, length)),
    }
    if prompt is not None:
        classes_count = prompt.table.shape[0]
        expected |= {
            "prompt.table": (prompt.table, (classes_count, states)),
            "prompt.classes": (prompt.classes, (batch, length)),
            "prompt.soft": (prompt.soft, (batch, length, classes_count)),
            "prompt.at": (prompt.at, (batch, directions, length)),
        }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape} for u {tuple(u.shape)}, not {tuple(tensor.shape)}")


# The operator. It chooses the backend itself, so that a graph traced or compiled on one machine runs on another.


def _state_dtype(u: Tensor) -> torch.dtype:
    return torch.float64 if u.dtype == torch.float64 else torch.float32


def _readable(x: Tensor, module: Backend, dtype: torch.dtype) -> Tensor:
    return x if x.dtype in module.TYPES else x.to(dtype)


def _prepared(backend, u, delta, A, B, C, D, delta_bias, table) -> tuple[Backend, tuple[Tensor, ...], Tensor | None]:
    """The backend, the tensors before `table` as it takes them, and the table."""
    module, dtype = choose(backend, u, A), _state_dtype(u)
    u, delta, B, C = (_readable(x, module, dtype) for x in (u, delta, B, C))
    A, D, delta_bias = (x.to(dtype) for x in (A, D, delta_bias))
    return module, (u, delta, A, B, C, D, delta_bias), None if table is None else table.to(dtype)


def _gradient_types(u, delta, A, B, C, D, delta_bias, table) -> tuple[torch.dtype, ...]:
    """Of the tensors before `table`. Of C that of the state if prompts learn from it, of which they are sums."""
    dtype = _state_dtype(u)
    return u.dtype, delta.dtype, dtype, B.dtype, C.dtype if table is None else dtype, dtype, dtype


def _step_classes(classes: Tensor | None, at: Tensor | None, directions: int) -> Tensor | None:
    """Classes [B, L] of pixels as classes [B, K, L] of steps."""
    if classes is None:
        return None
    expanded = classes.unsqueeze(1).expand(-1, directions, -1)  # [B, K, L]
    return expanded if at is None else expanded.gather(2, at)


@operator("mambair_bench::attentive_scan")
def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    order: Tensor | None,
    table: Tensor | None,
    classes: Tensor | None,
    soft: Tensor | None,
    at: Tensor | None,
    backend: str,
    save: bool,
) -> tuple[Tensor, Tensor]:
    module, inputs, table = _prepared(backend, u, delta, A, B, C, D, delta_bias, table)
    y, saved = module.forward(*inputs, order, table, _step_classes(classes, at, A.shape[0]), save)
    return y.to(u.dtype), saved


@_scan.register_fake
def _(u, delta, A, B, C, D, delta_bias, order, table, classes, soft, at, backend, save):
    dtype = _state_dtype(u)
    batch, directions, length, channels = delta.shape
    shape = choose(backend, u, A).saved_shape(batch, directions, length, channels, A.shape[2]) if save else (0,)
    return delta.new_empty((batch, directions, length, channels), dtype=u.dtype), delta.new_empty(shape, dtype=dtype)


@operator("mambair_bench::attentive_scan_backward")
def _scan_backward(
    grad_y: Tensor,
    saved: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    order: Tensor | None,
    table: Tensor | None,
    classes: Tensor | None,
    at: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    types = _gradient_types(u, delta, A, B, C, D, delta_bias, table)
    module, inputs, table = _prepared(backend, u, delta, A, B, C, D, delta_bias, table)
    grad_y = _readable(grad_y, module, _state_dtype(u))
    grads = module.backward(grad_y, saved, *inputs, order, table, _step_classes(classes, at, A.shape[0]))
    return tuple(grad.to(dtype) for grad, dtype in zip(grads, types, strict=True))


@_scan_backward.register_fake
def _(grad_y, saved, u, delta, A, B, C, D, delta_bias, order, table, classes, at, backend):
    inputs = (u, delta, A, B, C, D, delta_bias)
    return tuple(x.new_empty(x.shape, dtype=t) for x, t in zip(inputs, _gradient_types(*inputs, table), strict=True))


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.backend, ctx.saves = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_y, grad_saved):
    u, delta, A, B, C, D, delta_bias, order, table, classes, soft, at, saved = ctx.saved_tensors
    if grad_y is None:
        return (None,) * 14
    if not ctx.saves:
        raise RuntimeError("attentive_scan was called with save=False and has no backward")
    grads = torch.ops.mambair_bench.attentive_scan_backward(
        grad_y, saved, u, delta, A, B, C, D, delta_bias, order, table, classes, at, ctx.backend
    )
    grad_table = grad_soft = None
    if table is not None and (ctx.needs_input_grad[8] or ctx.needs_input_grad[10]):
        grad_table, grad_soft = prompt_gradients(grads[4], order, table, classes, soft, at)
    inputs = (u, delta, A, B, C, D, delta_bias)
    grads = (grad.to(x.dtype) for grad, x in zip(grads, inputs, strict=True))
    return *grads, None, grad_table, None, grad_soft, None, None, None


_scan.register_autograd(_backward, setup_context=_setup_context)


# FLOPs: every addition, multiplication, division, exp and log counts one.


@register_flop_formula(torch.ops.mambair_bench.attentive_scan)
def forward_flops(u_shape, delta_shape, A_shape, *args, out_shape=None, **kwargs) -> int:
    """FLOPs of the recurrence, whatever the backend really executes.

    Per state update 7: x A, exp, decay h, x u B (the product x u is shared), their sum, C h and its accumulation.
    Per channel and step 6: bias, exp and log of softplus, x u, D u and its sum. Adding the prompt is not counted.
    """
    steps = delta_shape[0] * delta_shape[1] * delta_shape[2] * delta_shape[3]  # B K L E
    return steps * (7 * A_shape[2] + 6)


@register_flop_formula(torch.ops.mambair_bench.attentive_scan_backward)
def backward_flops(grad_shape, saved_shape, u_shape, delta_shape, A_shape, *args, out_shape=None, **kwargs) -> int:
    """FLOPs of the backward pass with the states computed again.

    Per state update 19: 5 for the states (all but the output of the forward pass); 2 each for the adjoint's C dy,
    dC, dB and the gradient of x u; 2 for the gradient of the exponent, 2 each for its part in dA and d delta.
    Per channel and step 16: 4 for x and x u, 3 for D's gradients, 4 for du and d delta, 4 for sigmoid, 1 for d bias.
    """
    steps = delta_shape[0] * delta_shape[1] * delta_shape[2] * delta_shape[3]
    return steps * (19 * A_shape[2] + 16)
