"""Counts against the official implementation's own, against closed forms, and against each other."""

import pytest

from models import ModelError
from results import measured, published
from suites.benchmark import cost, parse_size
from suites.benchmark.cost import complexity
from suites.spec import SpecError, Task

SR = Task.parse("sr-x2")
TINY = "mambairv2-tiny"

# Traced with the official code and fvcore at full size, light at a 720x1280 output: parameters, MACs as printed.
OFFICIAL = {
    "sr-x2": (774_092, 286_298_557_280, "286.3"),
    "sr-x3": (780_587, 126_705_460_480, "126.7"),
    "sr-x4": (789_680, 75_642_593_760, "75.6"),
}
NAMES = ["params", "macs_paper", "macs", "scan_flops"]


@pytest.fixture(scope="module")
def committed():
    return measured.complexity()


def one(frame, model: str, task: str, size: str, overrides: str = ""):
    (row,) = frame[
        (frame["model"] == model)
        & (frame["task"] == task)
        & (frame["size"] == size)
        & (frame["overrides"] == overrides)
    ].to_dict("records")
    return row


def test_light_is_the_official_count(committed):
    counted = complexity("mambairv2-light", SR)
    params, total, printed = OFFICIAL["sr-x2"]
    assert counted["params"] == params
    assert counted["macs_paper"] == pytest.approx(total, rel=1e-4)
    assert f"{counted['macs_paper'] / 1e9:.1f}" == printed
    assert (counted["input"], counted["padded"]) == ([360, 640], [368, 640])
    pixels = 368 * 640
    assert counted["macs"] == pytest.approx((44.485 + 95.263 + 118.175 + 4.974) * 1e9, rel=1e-4)  # fvcore's own parts
    assert 20 * pixels * 48 * (9 * 8 + 1) == pytest.approx(16.505e9, rel=1e-4)
    assert counted["scan_flops"] == 20 * pixels * 48 * (7 * 8 + 6)
    assert counted["counters"]["agree"] and counted["counters"]["fvcore"] == counted["macs"]
    stored = one(committed, "mambairv2-light", "sr-x2", "720x1280")
    assert {name: stored[name] for name in NAMES} == {name: counted[name] for name in NAMES}


@pytest.mark.parametrize("task", OFFICIAL)
def test_committed_counts_of_light_at_every_scale(committed, task):
    params, total, printed = OFFICIAL[task]
    row = one(committed, "mambairv2-light", task, "720x1280")
    assert row["params"] == params and row["macs_paper"] == pytest.approx(total, rel=1e-4)
    assert f"{row['macs_paper'] / 1e9:.1f}" == printed


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("mambairv2-small", (9_621_935, 9_806_575, 9_769_647)),
        ("mambairv2-base", (22_903_001, 23_087_641, 23_050_713)),
        ("mambairv2-large", (34_090_523, 34_275_163, 34_238_235)),
        ("mambair-light", (905_016, 913_131, 924_492)),
        ("mambair", (20_421_863, 20_606_503, 20_569_575)),
    ],
)
def test_parameters_of_every_published_variant(committed, model, params):
    rows = [one(committed, model, task, "720x1280") for task in cost.SCALES]
    assert tuple(row["params"] for row in rows) == params


def test_committed_count_of_base_at_256(committed):
    row = one(committed, "mambairv2-base", "sr-x2", "256x256")
    assert row["params"] == 22_903_001
    assert f"{row['macs_paper'] / 1e9:.2f}" == "445.89"


def test_mambair_light_has_no_padding_and_four_scans():
    counted = complexity("mambair-light", SR, (40, 60))
    assert counted["params"] == 905_016
    assert counted["padded"] == counted["input"] == [20, 30]
    assert counted["scan_flops"] == 24 * 600 * 4 * 72 * (7 * 10 + 6)
    assert counted["counters"]["agree"]
    assert "prompt" not in counted["breakdown"] and "window attention" not in counted["breakdown"]


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"scans": 0},
        {"scans": 4, "sgn": "off"},
        {"ase": "off", "sgn": "off"},
        {"prompt_target": "y", "prompt_sharing": "network"},
        {"inner_rank": None},
        {"resi_connection": "3conv", "upsampler": "pixelshuffle", "ffn": "conv"},
    ],
    ids=str,
)
def test_every_switch_is_counted_alike_and_in_parts(overrides):
    counted = complexity(TINY, SR, (40, 60), **overrides)
    assert counted["counters"]["agree"], counted["counters"]
    assert sum(row["macs"] for row in counted["breakdown"].values()) == counted["macs"]
    assert sum(row["params"] for row in counted["breakdown"].values()) == counted["params"]
    assert all(row["macs"] >= 0 for row in counted["breakdown"].values())
    assert ("scan" in counted["breakdown"]) == (overrides.get("scans") != 0) == (counted["scan_flops"] > 0)


def test_the_line_through_two_small_sizes_meets_a_third():
    network = cost.built(TINY, SR.network)
    window = network.config.window_size
    height, width = 3 * window, 5 * window
    traced = cost._trace(network, 3, (height, width))
    assert complexity(TINY, SR, (2 * height, 2 * width))["macs_paper"] == sum(traced.values())


def test_prompt_costs_what_switching_it_off_saves():
    """The share of a component that no module computes on its own."""
    base, off = complexity(TINY, SR, (64, 64)), complexity(TINY, SR, (64, 64), ase="off")
    router = off["breakdown"]["prompt"]["macs"]
    assert router > 0  # SGN still routes
    assert base["macs"] - off["macs"] == base["breakdown"]["prompt"]["macs"] - router > 0


def test_a_plain_convolution_by_hand():
    """Nothing but the head changes with the scale, and it is one convolution 3x3."""
    x2, x4 = (complexity(TINY, Task.parse(f"sr-x{s}"), (16 * s, 16 * s)) for s in (2, 4))
    dim = cost.built(TINY, SR.network).config.embed_dim
    assert x2["breakdown"]["head"] == {"macs": 256 * 9 * dim * 12, "params": 9 * dim * 12 + 12}
    assert x4["macs"] - x2["macs"] == 256 * 9 * dim * (48 - 12)


def test_one_and_three_channels_without_a_head_that_enlarges():
    colour, gray = (complexity(TINY, Task.parse(name), (16, 16)) for name in ("denoise-25", "jpeg-10"))
    dim = cost.built(TINY, SR.network).config.embed_dim
    assert colour["input"] == colour["output"] == [16, 16]
    assert colour["macs"] - gray["macs"] == 256 * 9 * dim * 2 * 2  # first and last convolution, two channels fewer


def test_committed_counts_are_the_official_networks(committed):
    """The whole grid: parameters exactly, MACs within the tolerance of counting or half of the last printed digit."""
    frame, grid = committed, published.load().tables["complexity"]
    keys = frame[["model", "overrides", "task"]].to_numpy()
    assert set(frame["counters"]) == {"the two counters agree"}
    for cell in grid.to_dict("records"):
        same = frame[[tuple(row) == (cell["model"], cell["overrides"], cell["task"]) for row in keys]]
        printed = published.number(cell["value"])
        if cell["metric"] == "params":
            assert set(same["params"]) == {printed}
        else:
            (found,) = same[same["size"] == cell["size"]]["macs_paper"]
            assert abs(found - printed) <= max(1e-4 * printed, 0.5 * published.last_place(cell["value"])), cell


def test_sizes_and_models_that_do_not_exist():
    assert parse_size("720x1280", "the image") == (720, 1280)
    for text in ("720", "720x", "0x5", "-1x5", "axb", "720x1280x3"):
        with pytest.raises(SpecError, match="HEIGHTxWIDTH"):
            parse_size(text, "the image")
    with pytest.raises(SpecError, match="no input pixel"):
        complexity(TINY, Task.parse("sr-x4"), (3, 64))
    with pytest.raises(ModelError, match="swinir"):
        complexity("swinir", SR)
    with pytest.raises((ModelError, TypeError), match="windows"):
        complexity(TINY, SR, (64, 64), windows=3)


def test_what_is_printed_says_whether_the_counters_agree():
    counted = complexity(TINY, SR, (64, 64))
    assert f"MACs, multiply-adds {counted['macs'] / 1e6:,.2f}M" in cost.lines(counted)
    assert any("multiply-adds agree" in line for line in cost.lines(counted))
    counted["counters"]["agree"] = False
    assert any("multiply-adds DISAGREE" in line for line in cost.lines(counted))


def test_queries_keys_and_values_are_part_of_window_attention():
    """For each of 8x8 pixels 3 C^2, C^2 for the projection, and 2 * 64 C in a window of 8x8; two layers."""
    counted = complexity("mambairv2-tiny", Task("sr", 2), output=(16, 16))
    assert counted["breakdown"]["window attention"]["macs"] == 2 * 64 * (4 * 12**2 + 2 * 64 * 12)
