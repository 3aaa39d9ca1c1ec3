"""Figures and tables of sweeps say what was measured: laws that are known come out as they went in."""

import numpy as np
import pytest

from reports import claims
from reports.charts import chart, directions, resolution, roofline, tradeoff
from reports.charts.chart import NothingToDraw
from reports.costs import counts, frames, modes
from reports.costs import tables as efficiency
from reports.statistics.growth import exponent, proportional, reach
from results import measured, published, records
from tests.reports.charts import costs

CHARTS = (resolution, tradeoff, roofline, directions)


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """A sweep of known laws, and 1.1 million multiply-adds a pixel for every network."""
    costs.commit(tmp_path)
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    monkeypatch.setattr(measured, "NETWORKS", tmp_path / "networks.json")
    rows = [
        {"subject": subject, "task": "sr-x2", "height": h, "width": w} for subject in costs.NS for h, w in costs.SIZES
    ]
    told = [
        row | {"params": 774_092, "macs": 1_100_000 * row["height"] * row["width"], "macs_paper": 0} for row in rows
    ]
    made = {"command": "runner.py complexity --swept", "commit": "c", "versions": {}, "started": "2026-01-01"}
    records.write_json(measured.NETWORKS, {"environments": {"1": made}, "rows": told})


def test_exponents_are_those_of_the_law_and_have_intervals():
    pixels = [64**2, 128**2, 256**2, 512**2]
    found = exponent(pixels, [3e-6 * p**1.2 for p in pixels])
    assert found.slope == pytest.approx(1.2) and found.low == pytest.approx(1.2) and found.sizes == 4
    bent = exponent(pixels, [5 + 1e-4 * p for p in pixels])
    assert bent.low < bent.slope < bent.high < 1.5 and bent.slope < 1
    assert exponent(pixels[:2], [1, 4]).low is None
    with pytest.raises(ValueError, match="two sizes"):
        exponent([64, 64], [1, 2])


def test_a_cost_is_proportional_from_where_its_fixed_part_is_small_to_where_it_bends():
    pixels = [1_000, 4_000, 16_000, 64_000, 256_000]
    assert proportional(pixels, [0.5 + p / 1000 for p in pixels]) == (16_000, 256_000)  # 0.5 is 12 % of 4
    assert proportional(pixels, [p if p < 100_000 else 1.5 * p for p in pixels]) == (1_000, 64_000)


def test_where_a_law_reaches_a_limit_and_how_often_the_interval_holds_it():
    pixels = [64**2, 128**2, 256**2, 512**2]
    found = reach(pixels, [20 + p / 400 for p in pixels], 20 + 1e6 / 400)
    assert (found.pixels, found.low, found.high) == pytest.approx((1e6, 1e6, 1e6))
    draw, held = np.random.default_rng(0), 0
    for _ in range(400):
        noisy = reach(pixels, (20 + np.array(pixels) / 400) * (1 + 0.02 * draw.standard_normal(4)), 2520)
        held += noisy.low <= 1e6 <= noisy.high
    assert held / 400 >= 0.95  # of one more size, so wider than that of the line alone
    with pytest.raises(ValueError, match="three sizes"):
        reach(pixels[:2], [1, 2], 3)
    with pytest.raises(ValueError, match="does not grow"):
        reach(pixels, [4, 3, 2, 1], 5)


def test_cards_hold_what_was_measured_and_end_where_the_law_does(committed):
    lines = efficiency.tables()["cards"]().splitlines()
    light = next(line for line in lines if line.startswith("| MambaIRv2-light ") and "tf32x3" in line)
    cells = [cell.strip() for cell in light.strip("|").split("|")]
    assert cells[3::2] == ["360x640", "720x1280", "1024x1024+"]  # (20 + pixels / 64) MiB
    for card, cell in zip((8, 16), cells[4::2], strict=False):
        low, high = map(float, cell.partition("[")[2].rstrip("]").split(","))
        assert low == high == pytest.approx((1024 * (card - 1) - 20) * 64 / 1e6, abs=0.01)
    assert cells[-1] == "> 1.05"  # the largest that was measured: no line is extended


def test_a_column_of_cards_that_says_nothing_is_left_out(committed):
    sweep = costs.sweep()
    sweep["rows"] = [row for row in sweep["rows"] if row["height"] < 256]
    sweep["rows"] += [costs.row("hat", (180, 320), "fp32"), costs.row("hat", (200, 320), "fp32", peak_mib=9e3)]
    records.write_json(measured.FOLDER / "here" / "resolution.costs.json", {"exported": {}, "sweeps": [sweep]})
    header, _, *rows = [line for line in efficiency.tables()["cards"]().splitlines() if line.startswith("|")]
    assert "8 GiB: measured" in header and "ends" not in header
    assert len(rows) == 1 and rows[0].startswith("| HAT ")  # the others fit every card, and were not measured far


def test_counts_stand_beside_what_is_printed_to_its_digits(committed):
    assert counts.same(286_298_439_680, "286.3G") and not counts.same(334_112_261_760, "334.2G")
    assert counts.same(774_092, "774K") and counts.same(20_624_795, "20.6M") and not counts.same(14_654_339, "14.8M")
    light = next(line for line in efficiency.tables()["counts"]().splitlines() if line.startswith("| MambaIRv2-light "))
    cells = [cell.strip() for cell in light.strip("|").split("|")]
    assert cells[1:4] == ["774,092", "774K", "yes"] and cells[4] == "253.4" and cells[6] == "286.3G"


def test_every_count_that_differs_from_print_is_explained_in_the_document():
    (block,) = counts.table()
    params = {row[0].text for row in block.rows if row[3].text == "no"}
    macs = {row[0].text: row for row in block.rows if row[7].text == "no"}
    assert params == {"DAT", "MambaIRv2-L"} and set(macs) == {"MambaIR-light", "SRFormer-light", "SwinIR-light"}
    norm, padded = 5 * 60 * 360 * 640, {"SRFormer-light": 368 / 360}  # a LayerNorm of 60 channels, as the paper counts
    for name, more in (("MambaIR-light", 1), ("SRFormer-light", 1), ("SwinIR-light", -2)):
        subject = next(subject for subject, method in frames.METHODS.items() if method == name)
        count = frames.counted()[subject, "sr-x2", *frames.IMAGE]["macs_paper"] + more * norm * padded.get(name, 1)
        assert counts.same(count, macs[name][6].text)


def test_their_scan_stands_beside_ours_launched_alike(committed):
    line = efficiency.tables()["scans"]().splitlines()[4]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:2] == ["MambaIRv2-light", "360x640"] and cells[-1] == "2.00" and cells[5] == ""
    assert float(cells[2]) == pytest.approx(2 * (costs.FIXED_MS + 150 * 0.2304), abs=0.01)


def test_a_network_is_efficient_where_its_time_grows_no_faster_than_the_pixels(committed):
    claim = {"claim": "c", "where": "w", "tables": [], "command": "", "model": "mambairv2-light"}
    found = claims.growth(claim | {"precision": "tf32x3"}, {})
    assert (
        found.level == claims.HOLDS
        and "from 256x256 (13.83 ms) to 1024x1024 (161.3 ms) on a GPU" in found.found[0].text
    )
    assert claims.growth(claim | {"precision": "tf32"}, {}).level == claims.ABSENT
    bent = costs.sweep()
    for row in bent["rows"]:
        row["median_ms"] = 1e-6 * (row["height"] * row["width"]) ** 1.2
    records.write_json(measured.FOLDER / "here" / "resolution.costs.json", {"exported": {}, "sweeps": [bent]})
    assert claims.growth(claim | {"precision": "bf16"}, {}).level == claims.FAILS


def test_other_projects_networks_have_the_parameters_that_another_project_printed():
    counts = frames.counted()
    by_method = {method: subject for subject, method in frames.PEERS.items()}
    networks, later = published.latency()
    told = {row["method"]: row["params"] for row in networks["rows"] if row["method"] != "SPAN"}  # unfolded
    assert len(told) == 10
    for method, params in told.items():
        assert counts[by_method[method], "sr-x4", 256, 256]["params"] == params
    table = efficiency.tables()["elsewhere"]()
    assert later["source"] in table and "| ESC-Real, FlashBias      | 51.10 |" in table  # no size, so no time a pixel


def test_pictures_in_tiles_are_held_to_what_the_whole_device_used(committed):
    row = {"model": "mambairv2-light", "precision": "bf16", "backend": "triton", "height": 2160, "width": 3840}
    row |= {"restored": [4320, 7680], "tiles": 220, "tile": [236, 230], "overlap": 10, "seconds": 3.0}
    row |= {"device_mib": 500.0, "tensors_mib": 400.0, "device_used_mib": 8193.0, "host_mib": 1000.0}
    assert efficiency.tables()["large"]() == efficiency.NO_PICTURE
    told = costs.MACHINE | {"command": "runner.py restore a b", "started": "2026-01-01T00:00:00+00:00"}
    records.write_json(measured.FOLDER / "here" / "restore-light.json", {"rows": [row], "environment": told})
    line = efficiency.tables()["large"]().splitlines()[4]
    assert "4320x7680" in line and line.split("|")[-2].strip() == "no" and "3.00" in line


def test_frames_keep_the_latest_row_the_faster_launch_and_the_exact_precision(committed):
    frame = frames.timed()
    assert len(frame) == len(costs.sweep()["rows"]) - 2 and set(frames.untimed()["status"]) == {"oom", "missing"}
    own = frames.exact(frame)
    assert set(own[own["subject"] == "mambairv2-light"]["precision"]) == {"tf32x3"}
    assert set(own[own["subject"] == "hat"]["precision"]) == {"fp32"}
    assert frames.multiply_adds("hat", "sr-x2", 360 * 640) == pytest.approx(1.1e6 * 360 * 640)


def test_a_busy_processor_is_judged_by_its_own_time():
    sweep = costs.sweep()
    sweep["machine"] = {**costs.MACHINE, "device_type": "cpu", "threads": 1}
    sweep["rows"] = [sweep["rows"][0] | {"noise": ["load"], "cpu_ms": 2.0}, sweep["rows"][1] | {"cpu_ms": 2.0}]
    first, second = frames.timed([{"file": "x", **sweep}]).to_dict("records")
    assert (first["clock"], first["ms"], second["clock"]) == ("processor", 2.0, "wall")
    assert "1 thread" in first["machine"]
    sweep["machine"]["threads"] = 2  # their sum is no time of a call
    first, _ = frames.timed([{"file": "x", **sweep}]).to_dict("records")
    assert (first["clock"], first["ms"]) == ("wall", sweep["rows"][0]["median_ms"])


def test_charts_show_the_measured_numbers(committed):
    shown = resolution.chart(None).data
    light = shown[(shown["line"] == "MambaIRv2-light") & (shown["size"] == "360x640")]
    assert f"{costs.FIXED_MS + 150 * 0.2304:,.4g} ms".replace("ms", "milliseconds") in set(light["shown"])
    ratios = directions.chart(None).data
    at = ratios[(ratios["network"] == "4 scans") & (ratios["size"] == "1024x1024")]["times"].item()
    assert float(at) == pytest.approx((4 + 190 * 1.048576) / (4 + 150 * 1.048576), abs=0.005)
    hat = tradeoff.chart(None).data.set_index("network").loc["HAT"]
    assert hat["PSNR"] == "34.45" and "table4" in hat["of"]
    roof = roofline.chart(None).data
    assert roof[roof["network"] == "MambaIRv2-light~"]["how"].tolist() == ["tf32x3 graph, 38.56 ms"]  # not quiet
    roof = roof.assign(network=roof["network"].str.rstrip("~")).set_index("network")
    assert set(roof.loc["MambaIRv2-light"]["how"]) == {
        *("tf32x3 graph, 38.56 ms", "bf16 graph, 21.28 ms"),
        "fp32 eager, 38.56 ms",  # the graph is faster, but its bytes were not counted, nor those of mamba_ssm's scan
    }
    reached = roof.loc["HAT"]["reached"]
    seconds = (4 + 5000 * 0.2304) / 1e3
    assert reached.startswith(f"{2 * 1.1e6 * 230400 / seconds / 1e12:.3g} TFLOP/s")
    for module in CHARTS:
        assert module.chart(None).spec()["facet"]


def test_each_precision_has_a_front_of_its_own(committed):
    shown = tradeoff.chart(None).drawn.data
    fronts = {name: set(own["network"]) for name, own in shown[shown["front"]].groupby("precision")}
    assert fronts == {"tf32x3": {"MambaIRv2-light~", "MambaIRv2-B"}, "fp32": {"SwinIR-light", "SRFormer-light", "HAT"}}


def test_a_network_of_several_precisions_has_one_name_at_its_fastest_point(committed):
    drawn = roofline.chart(None).drawn.data
    own = drawn[(drawn["kind"] == "point") & (drawn["line"] == "MambaIRv2-light")].set_index("precision")
    assert own["name"].to_dict() == {"tf32x3": "", "bf16": "MambaIRv2-light", "fp32": ""}


def test_sizes_are_compared_within_one_sweep(committed):
    def light():
        frame = frames.of_one_sweep(frames.timed(every=True))
        own = frame[(frame["subject"] == "mambairv2-light") & (frame["precision"] == "tf32x3")]
        return own.set_index("pixels")["ms"]

    before, growth = light(), [row for block in efficiency.growth() for row in block.rows]
    made = costs.sweep()
    made["machine"] = costs.MACHINE | {"commit": "fedcba9876543210"}
    subjects = ("mambairv2-light", "mambairv2-light scans=4", "mambairv2-light ase=off")
    rows = [costs.row("mambairv2-light", (h, w), "tf32x3", median_ms=h * w / 1e5) for h, w in costs.SIZES[1:4]]
    made["runs"] = [made["runs"][0] | {"started": "2026-01-02T00:00:00+00:00"}]
    made["rows"] = [row | {"subject": subject} for subject in subjects for row in rows]
    records.write_json(measured.FOLDER / "here" / "resolution-more.costs.json", {"exported": {}, "sweeps": [made]})
    assert light().to_dict() == before.to_dict()  # six sizes before three
    assert frames.timed()["source"].str.contains("commit fedcba9876").sum() == 9
    after = [row for block in efficiency.growth() for row in block.rows]
    assert [row for row in after if "ase=off" not in row[0].text] == growth
    ratios = directions.chart(None).data.set_index(["network", "size"])["times"]
    assert ratios["no prompts", "128x128"] == "1.00"  # over the light network of its own sweep
    four = (costs.FIXED_MS + 190 * 128**2 / 1e6) / (costs.FIXED_MS + 150 * 128**2 / 1e6)
    assert float(ratios["4 scans", "128x128"]) == pytest.approx(four, abs=0.005)


def test_labels_move_no_farther_than_they_must_and_cover_nothing():
    assert chart.spread([5, 50, 80], 10, 0, 100).tolist() == [5, 50, 80]
    assert chart.spread([50, 49, 51], 10, 0, 100).tolist() == [50, 40, 60]
    assert chart.spread([0, 0], 10, 0, 100).tolist() == [0, 10]
    assert chart.spread([99, 100, 98], 10, 0, 100).tolist() == [90, 100, 80]
    places = chart.beside([50, 50, 50, 60], [50, 50, 51, 52], ["abc"] * 4, (200, 100))
    boxes = [(x, y - 6, x + 3 * chart.LETTER, y + 6) for x, y in places]
    assert all(chart._common(a, b) == 0 for i, a in enumerate(boxes) for b in boxes[:i])
    points, wide = [(25, 18), (24, 15), (54, 26)], 13 * chart.LETTER  # in a corner: no room to the left
    places = chart.beside(*zip(*points, strict=True), ["MambaIR-light"] * 3, (500, 200))
    boxes = [(x, y - 6, x + wide, y + 6) for x, y in places]
    assert not any(left < x < right and low < y < high for x, y in points for left, low, right, high in boxes)
    line = (50, 58, 120, 58)  # where the text would stand first
    ((_, above),) = chart.beside([50], [50], ["abc"], (200, 100))
    ((left, y),) = chart.beside([50], [50], ["abc"], (200, 100), lines=[line])
    assert (
        abs(above - 58) < 6 and chart._common((left - 2, y - 6, left + 3 * chart.LETTER, y + 6), (50, 56, 120, 60)) == 0
    )
    axis = chart.Axis.around([10, 1000], 300, 20)
    assert axis.pixels([10, 100, 1000]) == pytest.approx([20, 150, 280])
    assert axis.values(axis.pixels([10, 31])) == pytest.approx([10, 31])


def test_steps_batches_and_the_challenge_are_tables_of_their_own(committed):
    made = costs.sweep()
    step = costs.row("mambairv2-light", (64, 64), "bf16", key="s", mode="training", batch=32, median_ms=40.0)
    many = costs.row("mambairv2-light", (64, 64), "bf16", key="f", batch=64, median_ms=64.0, noise=["busy"])
    x4 = {"task": "sr-x4", "launch": "eager", "backend": "triton"}
    one = costs.row("mambairv2-light", (256, 256), "fp32", key="n", **x4)
    whole = costs.row("mambairv2-light", (240, 320), "fp32", key="w", **x4, pictures="Urban100", of_pictures=100)
    made["rows"] += [step, many, one, whole]
    before, growth = frames.timed(), str(efficiency.growth())
    records.write_json(measured.FOLDER / "here" / "resolution.costs.json", {"exported": {}, "sweeps": [made]})
    (steps,), (batches,), (challenge,) = modes.steps(), modes.batches(), modes.challenge()
    assert [cell.text for cell in steps.rows[0]][1:5] == ["bf16 graph", "32", "64x64", "40.00"]
    assert steps.rows[0][-1].text == "800"  # images a second
    alone = costs.FIXED_MS + 150 * 64 * 64 / 1e6 / 2
    assert [cell.text for cell in batches.rows[0]][3:7] == [f"{alone:.3f}", "64", "1.000~", f"{alone:.2f}"]
    texts = [cell.text for cell in challenge.rows[0]]
    ms = [costs.FIXED_MS + 150 * pixels / 1e6 for pixels in (256 * 256, 240 * 320)]
    assert texts[1] == "fp32 eager" and f"{ms[0]:.2f}" in texts and texts[-5:-2] == ["Urban100", "100", f"{ms[1]:.2f}"]
    assert len(challenge.rows) == 1 and len(frames.timed()) == len(before) + 4
    assert str(efficiency.growth()) == growth


def test_a_busy_host_marks_what_it_launches_on_a_gpu(committed):
    made = costs.sweep()
    made["runs"] = [made["runs"][0] | {"load": [16.0, 5.0, 2.0], "cores": 32}] * 2
    records.write_json(measured.FOLDER / "here" / "resolution.costs.json", {"exported": {}, "sweeps": [made]})
    marked = frames.timed()
    marked = marked[marked["noise"].map(bool) & (marked["launch"] == "eager")]
    assert len(marked) == 2 and marked["noise"].map(str).str.contains("load of 16.0 on 32 cores").all()
    made["runs"][0] = made["runs"][0] | {"load": [9.0, 5.0, 2.0]}  # the first was quiet: rows do not say whose they are
    assert frames.busy_host(made) == []


def test_without_a_sweep_figures_say_which_command_measures_one(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    for module in CHARTS:
        with pytest.raises(NothingToDraw, match="--preset resolution"):
            module.chart(None)
    assert efficiency.tables()["growth"]() == efficiency.NOTHING


def test_tables_have_published_values_beside_and_mark_what_is_noisy(committed):
    made = {name: make() for name, make in efficiency.tables().items()}
    lines = [line for line in made["networks"].splitlines() if line.startswith("| MambaIRv2-light   ")]
    light = next(line for line in lines if "tf32x3" in line)
    assert "774K" in light and "286.3G" in light and "33.26" in light
    moved = [cell.strip() for cell in made["networks"].splitlines()[2].split("|")].index("TB/s")
    assert light.split("|")[moved].strip() and not any(
        "mamba_ssm" in line for line in lines
    )  # it is in a table of its own
    assert "(noisy)" in made["directions"] and "CARN" in made["untimed"]
    growth = next(line for line in made["growth"].splitlines() if "HAT" in line).split("|")
    assert float(growth[4]) == pytest.approx(0.974, abs=0.005) and growth[-3].strip() == "128x128"


def test_a_direction_of_another_sweep_is_held_against_nothing():
    frame = frames.exact(resolution.inference(frames.timed([{"file": "x", **costs.sweep()}])))
    of_one = directions.rows(frame)
    elsewhere = frame.assign(source=frame["source"].where(frame["subject"] != "mambairv2-light scans=4", "other"))
    networks = set(of_one["network"])
    assert "4 scans" in networks and set(directions.rows(elsewhere)["network"]) == networks - {"4 scans"}
