"""The tables of docs/performance.md and of the report's costs, made from committed measurements (results.measured).

Each is a list of blocks, one a machine or a network; an empty list where nothing of the kind is committed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reports.costs import frames, goals
from reports.costs.floors import network_floor_ms, scan_floor_ms
from reports.figures import curve
from reports.pages.profile import STATUS, figure, span
from reports.tables.blocks.block import Block, Cell
from reports.tables.render import grid
from reports.tables.rows import machine_text, made_by, protocol_text
from results import measured, records
from results.costs import committed

NOTHING = "No such measurement is committed."
TIMES = (
    "what",
    "how",
    "official",
    "compiled",
    "goal",
    "stretch",
    "ms",
    "p10, p90",
    "floor",
    "times floor",
    "met",
    "measured",
)
MEMORY = ("what", "how", "official", "goal", "stretch", "GiB", "graph holds", "met", "measured")
KERNELS = ("kernel", "launches", "ms", "share, %", "together, %")
NAME = 60  # characters of a kernel's
SHOWN = 0.8  # of the time in kernels: a table names the longest that make it up
CPU = ("what", "how", "ms", "p10, p90", "times faster", "95 %", "goal", "met")
PRECISION = ("set", "precision", "PSNR", "change", "SSIM", "change of it", "images")
DIGITS = {"psnr": 4, "ssim": 5}

Row = dict[str, Any]


# --- tables --------------------------------------------------------------------------------------------------------


def matching(goal: Row, found: Sequence[Row]) -> list[tuple[Row, Row]]:
    """(profile, row) of every way in which what a goal is about was measured, the latest measurement of each."""
    kind, fields = "operators", ("operator", "mode", "batch", "channels", "states", "length")
    if "model" in goal:
        kind, fields = "rows", ("model", "task", "mode", "batch", "height", "width")
    latest = {}
    for profile in found:
        for row in profile[kind]:
            if all(row[name] == goal[name] for name in fields) and not row.get("overrides"):
                latest[row["precision"], row["backend"], row["launch"]] = profile, row
    return list(latest.values())


def swept() -> list[Row]:
    """Committed sweeps of this project's networks as profiles are; their command and date are those of the last run."""
    found = []
    for sweep in committed.load():
        rows = [row for row in sweep["rows"] if row["status"] == "ok" and "model" in row and not row.get("pictures")]
        environment = sweep["machine"] | sweep["runs"][-1]
        found.append({"file": sweep["file"], "rows": rows, "operators": [], "environment": environment})
    return found


def how(row: Row) -> str:
    own = () if row["backend"] == "triton" else (row["backend"],)
    return " ".join((row["precision"], *own, row["launch"]))


def target(goal: Row, row: Row) -> tuple[float | None, float | None]:
    """(goal, stretch) of a row; tf32x3 has float32's accuracy and so float32's goal, the peer's scan has none."""
    if row["backend"] == "mamba_ssm":
        return None, None
    precision = "fp32" if row["precision"] == "tf32x3" else row["precision"]
    return tuple(goal.get(precision, (None, None)))


def met(value: float, aims: tuple[float | None, float | None]) -> str:
    goal, stretch = aims
    if goal is None:
        return ""
    if stretch is not None and value <= stretch:
        return "stretch"
    times = value / goal
    return "goal" if times <= 1 else f"no, {times:.{3 if times < 1.005 else 2}f} times it"


def by_machine(found: Sequence[Row], one: Callable[[Row, Sequence[Row], str], list[Block]]) -> list[Block]:
    """A block for every machine that has official figures: one(figures of goals.json, profiles made there, heading)."""
    blocks, goals = [], measured.goals()
    for name, figures in goals["machines"].items():
        note = ", which the goals are for" if name == goals["goals_for"] else ""
        here = [profile for profile in found if profile["environment"]["device"] == name]
        blocks += one(figures, here, f"One {name}{note}:")
    return blocks


def times(found: Sequence[Row]) -> list[Block]:
    """Time of everything that has a goal on a GPU, with the official figure and the floor of that machine."""
    return by_machine(found, _times)


def _times(figures: Row, found: Sequence[Row], heading: str) -> list[Block]:
    table, rates, used = [], figures["rates"], {}
    for goal in measured.goals()["goals"]:
        official = figures["official"][goal["what"]]
        for profile, row in matching(goal, found):
            used[profile["file"], profile["environment"]["commit"]] = profile
            aims = target(goal, row)
            theirs = {"bf16": None, "tf32": official.get("tf32")}.get(row["precision"], official["ms"])
            compiled = official.get("compiled") if row["precision"] in ("fp32", "tf32x3") else None
            official_source = figures["source"]
            cells = [Cell(goal["what"]), Cell(how(row)), Cell(figure(theirs), source=official_source)]
            cells += [Cell(figure(compiled), source=official_source), *(Cell(aim(value)) for value in aims)]
            if row["status"] != "ok":
                table.append([*cells, Cell(STATUS[row["status"]]), *[Cell()] * 4, Cell(measured_by(profile))])
                continue
            floor = network_floor_ms(row, goal["macs"], rates) if "model" in goal else scan_floor_ms(row, rates)
            ms = row["median_ms"]
            texts = [figure(ms), span(row["p10_ms"], row["p90_ms"]), figure(floor, 3), figure(ms / floor, 2)]
            table.append([*cells, *made_in(profile, [*texts, met(ms, aims), measured_by(profile)])])
    return drawn(heading, TIMES, table, used.values(), left=2)


def aim(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def memory(found: Sequence[Row]) -> list[Block]:
    """Peak memory of what has a goal for it."""
    return by_machine(found, _memory)


def _memory(figures: Row, found: Sequence[Row], heading: str) -> list[Block]:
    table, used = [], {}
    for goal in (goal for goal in measured.goals()["goals"] if "gib" in goal):
        official = figures["official"][goal["what"]]["gib"]
        for profile, row in matching(goal, found):
            if row["peak_mib"] is None:
                continue
            used[profile["file"], profile["environment"]["commit"]] = profile
            peak, pool = row["peak_mib"] / 1024, row["pool_mib"]
            cells = [Cell(goal["what"]), Cell(how(row)), Cell(figure(official), source=figures["source"])]
            texts = [figure(peak), figure(pool and pool / 1024), met(peak, tuple(goal["gib"])), measured_by(profile)]
            table.append([*cells, *(Cell(aim(value)) for value in goal["gib"]), *made_in(profile, texts)])
    return drawn(heading, MEMORY, table, used.values(), left=2)


def kernels(found: Sequence[Row]) -> list[Block]:
    """The kernels that take most of one call, for every network that was taken apart; the latest of each."""
    latest = {}
    for breakdown in found:
        for row in (row for row in breakdown["rows"] if row["status"] == "ok"):
            latest[tuple(row[name] for name in ("model", "mode", "batch", "height", "width", "precision"))] = (
                breakdown,
                row,
            )
    blocks = []
    for (model, mode, batch, height, width, precision), (breakdown, row) in latest.items():
        whole, so_far, table = sum(each["ms"] for each in row["kernels"]), 0.0, []
        for each in row["kernels"]:
            if so_far >= SHOWN * whole:
                break
            so_far += each["ms"]
            name = (
                each["kernel"].removeprefix("void ").replace("at::native::", "").replace("(anonymous namespace)::", "")
            )
            shares = [f"{100 * ms / whole:.1f}" for ms in (each["ms"], so_far)]
            texts = [f"{each['launches']:.0f}", f"{each['ms']:.2f}", *shares]
            table.append([Cell(name[:NAME]), *made_in(breakdown, texts)])
        launches = sum(each["launches"] for each in row["kernels"])
        head = (
            f"{model}, {mode}, {height}x{width}, batch {batch}, {precision}: {whole:.1f} ms in {launches:.0f} launches."
        )
        blocks += drawn(head, KERNELS, table, [breakdown], left=1)
    return blocks


def cpu(found: Sequence[Row]) -> list[Block]:
    """What has a goal on two CPU cores, and what it is faster than in the same run."""
    table, used = [], {}
    for goal in measured.goals()["cpu_goals"]:
        here = [profile for profile in found if profile["environment"]["device_type"] == "cpu"]
        for profile, row in matching(goal, here):
            used[profile["file"], profile["environment"]["commit"]] = profile
            texts = [goal["what"], row["backend"]]
            if row["status"] != "ok":
                table.append([Cell(text) for text in (*texts, STATUS[row["status"]], *[""] * (len(CPU) - 3))])
                continue
            texts += [figure(row["median_ms"]), span(row["p10_ms"], row["p90_ms"])]
            best, first = row["backend"] == "cpu", row["ratio"] == 1
            faster = row["ratio"] and 1 / row["ratio"]
            ends = [x and 1 / x for x in (row["ratio_high"], row["ratio_low"])]
            texts += ["", ""] if first else [figure(faster, 3), span(*ends)]
            if "faster" in goal and best:
                texts += [f"{goal['faster']} times", "goal" if faster and faster >= goal["faster"] else "no"]
            else:
                texts += [f"{goal['fp32'][0]} ms", met(row["median_ms"], target(goal, row))] if best else ["", ""]
            table.append([*map(Cell, texts[:2]), *made_in(profile, texts[2:])])
    return drawn("", CPU, table, used.values(), left=2)


def precision(committed: measured.Committed) -> list[Block]:
    """PSNR and SSIM of the same weights, set and protocol in each precision, and the change from fp32."""
    groups: dict[tuple, dict[str, Row]] = {}
    for row in committed.evaluations:
        if row.get("complete") and row["psnr"] is not None:
            rest = protocol_text({k: v for k, v in row["protocol"].items() if k != "precision"})
            key = row["model"], str(row["overrides"]), row["weights"][:12], row["task"], rest
            groups.setdefault((*key, row["dataset"]), {})[row["protocol"]["precision"]] = row
    headings: dict[tuple, list[list[Cell]]] = {}
    for (*head, dataset), by_precision in sorted(groups.items()):
        if len(by_precision) < 2 or "fp32" not in by_precision:
            continue
        base = by_precision["fp32"]
        for name in (name for name in curve.EXACT_FIRST if name in by_precision):
            row = by_precision[name]
            moved = {score: round(row[score] - base[score], digits) + 0.0 for score, digits in DIGITS.items()}  # no -0
            changes = [f"{moved[score]:+z.{digits}f}" for score, digits in DIGITS.items()]
            shown = ["", ""] if name == "fp32" else changes
            texts = [f"{row['psnr']:.4f}", shown[0], f"{row['ssim']:.5f}", shown[1], str(row["images"])]
            origin = f"{machine_text([row])}; {made_by([row | {'committed': True}])}"
            cells = [Cell(dataset), Cell(name), *(Cell(text, source=origin) for text in texts)]
            headings.setdefault(tuple(head), []).append(cells)
    blocks = []
    for (model, _, weights, task, rest), rows in headings.items():
        blocks += drawn(f"{model}, {task}, weights {weights}; {rest}.", PRECISION, rows, (), left=2)
    return blocks


def learning(folder: Path) -> str:
    """The learning curves, the verdict, and the runs that they come from."""
    lines = curve.markdown(curve.load(folder))
    for path in curve.files(folder, ".json"):
        file = path.relative_to(measured.FOLDER).with_suffix(".csv")
        runs = records.read_json(path)["runs"]
        lines += [provenance({"file": file, "environment": run}) for run in runs]
    return "\n".join(lines)


def measured_by(profile: Row) -> str:
    """The day and the commit of what a row times."""
    return f"{profile['environment']['started'][:10]}, {profile['environment']['commit'][:8]}"


def made_in(profile: Row, texts: Sequence[str]) -> list[Cell]:
    return [Cell(text, source=provenance(profile).removeprefix("- ")) for text in texts]


def drawn(heading: str, header: Sequence[str], rows: Sequence[list[Cell]], used: Any, left: int) -> list[Block]:
    """The table without columns that are empty throughout, below it where its rows come from; nothing without rows."""
    if not rows:
        return []
    kept = [i for i in range(len(header)) if any(row[i].text for row in rows)]
    cells = [[row[i] for i in kept] for row in rows]
    return [Block(heading, tuple(header[i] for i in kept), cells, list(map(provenance, used)), tuple(range(left)))]


def markdown(blocks: Sequence[Block]) -> str:
    """Headings, grids and where they come from, as the documents have them."""
    parts = []
    for block in blocks:
        parts += [block.heading, grid(block.header, block.rows, block.left), "\n".join(block.notes)]
    return "\n\n".join(filter(None, parts)) or NOTHING


def provenance(profile: Row) -> str:
    environment = profile["environment"]
    versions = environment["versions"]
    stack = ", ".join(f"{name} {versions[name]}" for name in ("torch", "triton") if versions.get(name))
    threads = f", {environment['threads']} threads" if environment["device_type"] == "cpu" else ""
    command = frames.shortened(environment["command"])
    return (
        f"- `results/measured/{profile['file']}`: `{command}`, commit {environment['commit'][:10]}, "
        f"{environment['device']}{threads}, {stack}, {environment['started'][:10]}"
    )


CAPTIONS = {
    "times": "Time of everything that has a goal, beside the official code and the floor of the machine",
    "later": "The goals of the second round",
    "memory": "Peak memory of what has a goal for it",
    "kernels": "The kernels that take most of one call",
    "cpu": "Two CPU cores",
    "precision": "Scores of the same weights in each precision",
}


def blocks() -> dict[str, Callable[[], list[Block]]]:
    """What makes each table that CAPTIONS names."""
    found = measured.profiles()
    all_found = sorted([*found, *swept()], key=lambda one: one["environment"]["started"])
    return {
        "times": lambda: times(all_found),
        "later": goals.table,
        "memory": lambda: memory(all_found),
        "kernels": lambda: kernels(measured.profiles(kind="breakdown")),
        "cpu": lambda: cpu(found),
        "precision": lambda: precision(measured.load()),
    }


def tables() -> dict[str, Callable[[], str]]:
    """What makes each table of the document, as Markdown."""
    return {name: lambda make=make: markdown(make()) for name, make in blocks().items()}


def learning_tables() -> dict[str, Callable[[], str]]:
    """What makes the table of docs/trainer.md."""
    return {"curve": lambda: learning(measured.FOLDER)}
