"""The least time that the hardware allows a scan or a network."""

from typing import Any

BYTES = 4  # of float32
PASSES = {
    "inference": 1,
    "training": 3,
}  # forward passes that a call costs: gradients of inputs and of weights, one each
Row = dict[str, Any]


def scan_floor_ms(row: Row, rates: dict[str, float]) -> float:
    """The time below which no float32 scan comes: what it must move over the rate of a copy, or its exponentials.

    Forward reads u, delta (E a pixel), B, C (N) and writes y (E). Backward reads u, delta, B, C and the gradient of y,
    and writes those of u, delta (E each), B and C (N each). Each pass takes one exponential per state and step
    (backward needs the states again).
    """
    e, n = row["channels"], row["states"]
    steps = row["batch"] * row["length"]
    backward = row["mode"] != "forward"
    moved = BYTES * steps * (3 * e + 2 * n + backward * (5 * e + 4 * n))
    exponentials = (1 + backward) * steps * e * n
    return 1e3 * max(moved / rates["bytes_per_s"], exponentials / rates["exponentials_per_s"])


def rate(precision: str, rates: dict[str, float]) -> float:
    """Operations per second of matrix products: tf32x3 takes three TF32 products for one, bf16 runs at twice TF32."""
    return {
        "fp32": rates["fp32"],
        "tf32": rates["tf32"],
        "tf32x3": rates["tf32"] / 3,
        "bf16": 2 * rates["tf32"],
    }[precision]


def network_floor_ms(row: Row, macs: int, rates: dict[str, float]) -> float:
    """Two operations per multiply-add at the measured rate; a training step is three passes.

    macs: of one image forward, by the clean count. What must be moved is left out: how little that could be depends on
    what is fused.
    """
    return 1e3 * 2 * PASSES[row["mode"]] * row["batch"] * macs / rate(row["precision"], rates)
