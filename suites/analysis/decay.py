"""How far a scan looks: the decay that its states undergo over k steps, and how much of its output is older than that.

    h_i = exp(x_i A) h_{i-1} + x_i B_i u_i         the state after step i, x = softplus(delta + bias)
    s_i = <C_i + prompt_i, h_i>                    what the output has from the state;  y_i = s_i + D u_i
    a_i(k) = exp(A (x_{i-k+1} + ... + x_i))        the decay over the last k steps, in (0, 1]
    s_i(k) = <C_i + prompt_i, a_i(k) h_{i-k}>      the part of s_i that comes from k or more steps ago

So s_i(1) is all but the step itself, and s_i - s_i(k) is what a state that started anew k - 1 steps before would give.
All of it is exact, in float64: states of every step by the recurrence, decays by sums of x, outputs of a sample of
steps.

The same inputs of a layer are scanned in the network's order (sorted by class where SGN is on) and, in its place, in
raster order: what comes before the layer is as it is, so this is what the order of this scan alone does.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.ops.scan.permutation import to_steps
from suites.analysis.recording import ScanCall, draws, scans_of, taken
from suites.analysis.spec import Analysis, Context, Measured, Pair

STEPS = (1, 4, 16, 64, 256, 1024, 4096)
POSITIONS = 2048  # steps of a scan whose outputs are taken apart
STATE_BYTES = {"cpu": 2**24, "cuda": 2**28}  # of states held at a time; channels are done in groups of as many as fit
CHUNK = 16  # steps that are carried one after another, side by side with those of other chunks
ADDED = ("decays", "far", "near", "far_squares", "state_squares", "output_squares")  # fields of `Sums`, by device
COLUMNS = {
    "layer": "number of the scan in the network, from 0",
    "direction": "of the scan, from 0",
    "order": "in which it was scanned: network (sorted, or along a direction) or raster",
    "steps": "k: 1 is all but the step itself",
    "decay": "mean of a(k) over channels, states and steps that have k before them, 1 is no decay; missing if none has",
    "share": "sum of |s(k)| over that of |s(k)| and |s - s(k)|, 0..1",
    "of_state": "RMS of s(k) over that of s",
    "of_output": "RMS of s(k) over that of y: what a state cut off k steps ago changes",
    "positions": "steps sampled that have k before them; the others count with s(k) = 0",
    "outputs": "steps sampled",
    "length": "steps of the longest scan, which is that of a tile",
}


def analyses(network: nn.Module) -> list[Analysis]:
    """The one question of this module. Raises SpecError for a network of which nothing can be recorded."""
    scans_of(network)
    question = "how much of a scan's output comes from k or more steps ago?"
    parameters = {"steps": list(STEPS), "positions": POSITIONS}
    return [Analysis("decay", question, measure, COLUMNS, parameters, draws(network))]


def measure(network: nn.Module, pair: Pair, context: Context) -> Measured:
    """Takes the scans of an image apart, of all its tiles together."""
    return taken(network, pair, context, lambda: Decay(scans_of(network), STEPS, POSITIONS))


@dataclass
class Sums:
    """Sums over sampled steps and channels of one scan; those of tiles add up.

    decays, decay_count: of a_i(k), over steps, channels and states, of steps that have k before them. far, near: of
    |s(k)| and |s - s(k)|. far_squares, state_squares, output_squares: of s(k)^2, s^2 and y^2. positions: steps that
    were sampled and have k before them; outputs: all steps that were sampled. length: steps of the longest scan.
    """

    decays: float = 0.0
    decay_count: int = 0
    far: float = 0.0
    near: float = 0.0
    far_squares: float = 0.0
    state_squares: float = 0.0
    output_squares: float = 0.0
    positions: int = 0
    outputs: int = 0
    length: int = 0

    def add(self, other: "Sums") -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            setattr(self, name, max(mine, value) if name == "length" else mine + value)


class Decay:
    """What scans of one image's tiles sum up to; `add` takes them as `recording.recorded` tells them.

    layers: scans of one forward pass. steps: the values of k. positions: steps sampled of every scan. seed: of the
    sample, which is the same for both orders.
    """

    def __init__(self, layers: int, steps: tuple[int, ...], positions: int, seed: int = 0) -> None:
        self.layers, self.steps, self.positions, self.seed = layers, steps, positions, seed
        self.sums: dict[tuple[int, int, str, int], Sums] = {}

    def add(self, call: ScanCall) -> None:
        """Adds one scan: in its own order, and in raster order if it has one direction."""
        layer = call.number % self.layers
        orders = ["raster"] if call.order is None else ["network"]
        if call.delta.shape[1] == 1 and call.order is not None:
            orders.append("raster")
        for order in orders:
            for direction, steps in scanned(call, order):
                for k, found in sums(steps, self.steps, self.positions, self.seed).items():
                    self.sums.setdefault((layer, direction, order, k), Sums()).add(found)

    def frame(self) -> pd.DataFrame:
        """A row per layer, direction, order and k, with COLUMNS."""
        rows = []
        for (layer, direction, order, k), found in sorted(self.sums.items()):
            total = found.far + found.near
            row: dict[str, Any] = {"layer": layer, "direction": direction, "order": order, "steps": k}
            row["decay"] = found.decays / found.decay_count if found.decay_count else math.nan
            row["share"] = found.far / total if total else math.nan
            for name, squares in (("of_state", found.state_squares), ("of_output", found.output_squares)):
                row[name] = math.sqrt(found.far_squares / squares) if squares else math.nan
            rows.append(row | {name: getattr(found, name) for name in ("positions", "outputs", "length")})
        return pd.DataFrame(rows, columns=list(COLUMNS))


@dataclass(frozen=True)
class Steps:
    """One scan of one image in step order, float64: u, x [L, E], B and C with its prompt [L, N], A [E, N], D [E]."""

    u: Tensor
    x: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor


def scanned(call: ScanCall, order: str) -> list[tuple[int, Steps]]:
    """(direction, scan) of every direction and image of a call, in its own order ("network") or in "raster" order.

    In raster order step i scans pixel i and adds the prompt of the pixel that official code takes for step i of an
    unsorted direction: pixel i too.
    """
    batch, directions = call.delta.shape[:2]
    own = call.order if order == "network" else None
    at = call.at if order == "network" else None
    wide = [t.double() for t in (call.u.unsqueeze(1).expand_as(call.delta), call.delta, call.B, call.C)]
    wide[1] = F.softplus(wide[1] + call.bias.double().unsqueeze(1))
    u, x, B, C = (to_steps(t, own) for t in wide)
    if call.table is not None:
        classes = call.classes.unsqueeze(1).expand(-1, directions, -1)  # [B, K, L]
        C = C + call.table.double()[classes if at is None else classes.gather(2, at)]
    A, D = call.A.double(), call.D.double()
    return [(k, Steps(u[b, k], x[b, k], A[k], B[b, k], C[b, k], D[k])) for b in range(batch) for k in range(directions)]


def states(x: Tensor, xu: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """h [L, E, N] after every step, of x, x u [L, E], A [E, N] and B [L, N], in the type of x."""
    decay = torch.exp_(x.unsqueeze(-1) * A)
    return carried(decay, xu.unsqueeze(-1) * B.unsqueeze(1))


def carried(decay: Tensor, added: Tensor) -> Tensor:
    """h_i = decay_i h_{i-1} + added_i along the first dimension of [L, E, N]; both are overwritten.

    Chunks run side by side from zero, CHUNK steps one after another; their ends are a shorter recurrence of the same
    kind, and what enters a chunk is then added to each of its steps, decayed so far.
    """
    length = len(added)
    if rest := -length % CHUNK:
        decay, added = (F.pad(t, (0, 0, 0, 0, 0, rest)) for t in (decay, added))
    decay, h = (t.unflatten(0, (-1, CHUNK)) for t in (decay, added))  # [S, CHUNK, E, N]
    for j in range(1, CHUNK):
        h[:, j].addcmul_(decay[:, j], h[:, j - 1])
        decay[:, j].mul_(decay[:, j - 1])  # from here on since the chunk's start
    if len(h) > 1:
        ends = carried(decay[:, -1].clone(), h[:, -1].clone())
        h[1:].addcmul_(decay[1:], ends[:-1].unsqueeze(1))
    return h.flatten(0, 1)[:length]


def sums(scan: Steps, steps: tuple[int, ...], positions: int, seed: int) -> dict[int, Sums]:
    """The sums of one scan by k, over `positions` steps drawn without replacement (all where there are fewer)."""
    length, channels = scan.x.shape
    drawn = np.random.default_rng(seed).permutation(length)[:positions]
    at = torch.from_numpy(np.sort(drawn)).to(scan.x.device)
    found = {k: Sums(outputs=len(at), length=length, positions=int((at >= k).sum())) for k in steps}
    added = scan.x.new_zeros(len(steps), len(ADDED))  # on the device until all is added up
    group = max(1, STATE_BYTES[scan.x.device.type] // (8 * length * scan.A.shape[1]))
    for first in range(0, channels, group):
        part = slice(first, first + group)
        x, u, A = scan.x[:, part], scan.u[:, part], scan.A[part]
        h, total = states(x, x * u, A, scan.B), torch.cat([x.new_zeros(1, x.shape[1]), x.cumsum(0)])  # [L + 1, E]
        state = torch.einsum("pn,pen->pe", scan.C[at], h[at])
        output = state + scan.D[part] * u[at]
        for number, (k, own) in enumerate(found.items()):
            has = at[len(at) - own.positions :]  # `at` ascends
            decay = torch.exp_((total[has + 1] - total[has + 1 - k]).unsqueeze(-1) * A)  # [P, E, N]
            own.decay_count += decay.numel()
            decays = decay.sum()
            far = torch.zeros_like(state)
            far[len(at) - own.positions :] = torch.einsum("pn,pen->pe", scan.C[has], decay.mul_(h[has - k]))
            squares = [values.square().sum() for values in (far, state, output)]
            added[number] += torch.stack([decays, far.abs().sum(), (state - far).abs().sum(), *squares])
    for own, values in zip(found.values(), added.tolist(), strict=True):
        for name, value in zip(ADDED, values, strict=True):
            setattr(own, name, value)
    return found
