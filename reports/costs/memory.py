"""What pictures cards of 8, 16 and 24 GiB hold, from measured memory, and what large pictures took in tiles."""

import pandas as pd

from reports.costs import frames
from reports.pages.profile import figure
from reports.statistics.growth import proportional, reach
from reports.tables.blocks.block import Block, Cell, filled
from results import measured

CARDS = (8, 16, 24)  # GiB
TOLD = 720 * 1280  # pixels: of a network that was measured up to fewer and fits the smallest card, nothing is told
LEFT_MIB = 1024  # of a card that is not counted on: the driver's own, and what the allocator cannot use
CARD = (
    "network",
    "precision",
    "KiB/pixel",
    *(f"{card} GiB: {what}" for card in CARDS for what in ("measured", "ends, MP")),
)
LARGE = ("network", "precision", "backend", "picture", "input", "output", "tiles", "tile", "overlap, %", "s")
LARGE = (*LARGE, "MiB reserved", "MiB of tensors", "MiB in use there", "MiB of the host", "within 8 GiB")
NOTES = (
    f"- of one call on the whole picture. measured: the largest measured picture whose tensors fit with "
    f"{LEFT_MIB // 1024} GiB to spare; +: no larger one was measured. ends: million input pixels at which that is used "
    "up, with the 95 % interval, where memory grows in proportion to the pixels at the three largest sizes or more; "
    ">: beyond the largest size that was measured."
)


def cards() -> list[Block]:
    """A row per network and precision whose memory is known, a block per machine."""
    frame = frames.of_one_sweep(frames.timed(every=True))
    frame = frame[(frame["mode"] == "inference") & (frame["batch"] == 1) & (frame["task"] == "sr-x2")]
    frame = frame[frame["mib"].notna() & frame["subject"].isin(frames.METHODS) & (frame["backend"] != "mamba_ssm")]
    blocks = []
    for machine, part in frame.groupby("machine", sort=False):
        rows = []
        for (subject, precision), own in part.groupby(["subject", "precision"], sort=False):
            own = (
                own.assign(mib=own["mib"].astype(float))
                .groupby("pixels", as_index=False)
                .agg({"mib": "min", "height": "first", "width": "first", "source": "last"})
            )
            tells = own["pixels"].max() >= TOLD or own["mib"].max() > 1024 * CARDS[0] - LEFT_MIB
            if len(own) > 2 and tells:
                texts = [frames.name(subject), precision, figure(_each(own), 3)]
                texts += [text for card in CARDS for text in _held(own, 1024 * card - LEFT_MIB)]
                rows.append([Cell(text, source=own["source"].iloc[-1]) for text in texts])
        if rows:
            notes = [NOTES, frames.files(row[0].source for row in rows)]
            blocks.append(Block(f"{machine}:", *filled(CARD, rows), notes, (0, 1)))
    return blocks


def _each(own: pd.DataFrame) -> float:
    """KiB of a pixel at the largest size."""
    return own["mib"].iloc[-1] * 1024 / own["pixels"].iloc[-1]


def _held(own: pd.DataFrame, mib: float) -> tuple[str, str]:
    """(the largest measured size that fits, where the line ends); own: a row per size, in order of pixels."""
    fitting = own[own["mib"] <= mib]
    if fitting.empty:
        return "none", ""
    last = fitting.iloc[-1]
    size = f"{last['height']}x{last['width']}" + ("+" if len(fitting) == len(own) else "")
    least, most = proportional(own["pixels"].tolist(), own["mib"].tolist())
    line = own[own["pixels"] >= least]
    if most < own["pixels"].iloc[-1] or len(line) < 3:
        return size, ""
    found, largest = reach(line["pixels"].tolist(), line["mib"].tolist(), mib), own["pixels"].iloc[-1]
    if found.pixels > largest:
        return size, f"> {figure(largest / 1e6, 3)}"
    low, high = (figure(value / 1e6, 3) for value in (found.low, found.high))
    return size, f"{figure(found.pixels / 1e6, 3)} [{low}, {high}]"


def large() -> list[Block]:
    """A row per picture that `restore --json` restored, a block per machine. picture: whether it is the first of its
    command, in whose time kernels are compiled or loaded."""
    by_machine: dict[str, list[list[Cell]]] = {}
    for record in measured.profiles(kind="restore"):
        environment = record["environment"]
        machine = frames.machine_name(environment)
        told = {"machine": environment, "file": record["file"], "runs": [environment]}
        source = frames.source(told)
        for number, row in enumerate(record["rows"]):
            texts = [frames.name(row["model"]), row["precision"], row["backend"] or ""]
            texts += ["first" if row.get("first", number == 0) else "later"]
            texts += [f"{row['height']}x{row['width']}", "x".join(map(str, row["restored"])), str(row["tiles"])]
            texts += ["x".join(map(str, row["tile"])), "" if row["overlap"] is None else str(row["overlap"])]
            texts += [figure(row["seconds"], 3)]
            memory = [row[name] for name in ("device_mib", "tensors_mib", "device_used_mib", "host_mib")]
            within = "" if row["device_used_mib"] is None else "yes" if row["device_used_mib"] <= 8 * 1024 else "no"
            texts += [*(figure(value) for value in memory), within]
            by_machine.setdefault(machine, []).append([Cell(text, source=source) for text in texts])
    blocks = []
    for machine, rows in by_machine.items():
        notes = [frames.files(row[0].source for row in rows)]
        blocks.append(Block(f"{machine}:", *filled(LARGE, rows), notes, (0, 1, 2, 3)))
    return blocks
