"""The table of docs/scaling.md on two machines: how far scores of one picture differ, and what is allowed."""

from reports.tables.render import text_grid
from results.agreement import limits

HEADER = (
    *("precision", "routing", "between", "pairs", "equal", "median, dB", "99 % within", "largest", "allowed"),
    *("with SSIM", "largest", "allowed"),
)


def table() -> str:
    """A line per row of `limits.measured`."""
    rows = []
    for row in limits.measured():
        one_model = row.devices[0] == row.devices[1]
        allowed = limits.of(row.precision, row.routing, row.kinds, one_model=one_model)
        psnr = [f"{value:.6f}" for value in (row.median, row.most, row.psnr, allowed.psnr)]
        ssim = [str(row.with_ssim), *(f"{value:.1e}" for value in (row.ssim, allowed.ssim))] if row.with_ssim else []
        kinds = (one.partition(" ")[0] for one in row.kinds)
        devices = (one.removeprefix("NVIDIA ").removeprefix("AMD ").split()[0] for one in row.devices)
        sides = ", ".join(f"{kind} {device}" for kind, device in zip(kinds, devices, strict=True))
        rows.append([row.precision, row.routing, sides, str(row.pairs), str(row.equal), *psnr, *(ssim or [""] * 3)])
    return text_grid(HEADER, rows, 3)
