"""Similarity of scan directions, in cases where it is known."""

import pytest
import torch

import models
from models.ops.scan import Prompt, attentive_scan
from suites.analysis import redundancy
from suites.analysis.recording import recorded
from suites.analysis.redundancy import Redundancy, similarities

pytestmark = pytest.mark.usefixtures("one_thread")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_equal_opposite_and_unrelated_directions():
    y = random(1, 500, 40)
    skip = torch.zeros(3, 500, 40, dtype=torch.float64)
    found = similarities(torch.cat([y, 3 * y, -y]), skip)
    assert all(found[0, 1][way] == pytest.approx(1) for way in redundancy.WAYS)
    assert all(found[0, 2][way] == pytest.approx(-1) for way in redundancy.WAYS)
    apart = similarities(torch.cat([y, random(1, 500, 40, seed=1)]), skip[:2])[0, 1]
    assert all(abs(apart[way]) < 0.03 for way in redundancy.WAYS)


def test_a_common_mean_makes_whole_outputs_alike_and_not_centred_ones():
    """Of 5 + noise of variance 1 the cosine is 25 / 26."""
    y = 5 + random(2, 2000, 50)
    found = similarities(y, torch.zeros_like(y))[0, 1]
    assert found["whole"] == pytest.approx(25 / 26, abs=0.002) and found["pixel"] == pytest.approx(25 / 26, abs=0.005)
    assert abs(found["centred"]) < 0.02


def test_a_common_skip_makes_outputs_alike_and_not_what_scanning_adds():
    """Of s + noise with the variance of s nine times the noise's the correlation is 0.9."""
    skip = 3 * random(1, 2000, 50).expand(2, -1, -1)
    found = similarities(skip + random(2, 2000, 50, seed=1), skip)[0, 1]
    assert found["centred"] == pytest.approx(0.9, abs=0.01)
    assert abs(found["state"]) < 0.02
    assert found["skip"] == pytest.approx(0.9**0.5, abs=0.01)


def rows(network: torch.nn.Module, kind: str, layers: int):
    found = Redundancy(layers, kind, [(8, 8), (8, 16)])
    with torch.no_grad(), recorded(found.add):
        network(torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
        network(torch.rand(1, 3, 8, 16, generator=torch.Generator().manual_seed(1)))
    return found.frame()


@pytest.mark.parametrize("scans", [2, 4])
def test_every_layer_of_a_network_has_a_row_per_pair(scans):
    frame = rows(models.build("mambairv2-tiny", upscale=2, scans=scans).eval(), "MambaIRv2", 2)
    assert list(frame.columns) == list(redundancy.COLUMNS)
    assert len(frame) == 2 * scans * (scans - 1) // 2 and (frame["tokens"] == 64 + 128).all()
    assert frame[list(redundancy.WAYS)].abs().max().max() <= 1 + 1e-12


def test_directions_of_mambair_have_their_own_order():
    network = models.build("mambair-light", upscale=2, embed_dim=30, depths=(1,)).eval()
    frame = rows(network, "MambaIR", 1)
    assert len(frame) == 6 and tuple(frame.loc[0, ["first", "second"]]) == ("raster", "columns")


def test_one_scan_repeated_is_the_scan_itself_turned_and_mirrored():
    """The same scan of columns is the scan of the transposed image, transposed; backwards, of the image reversed."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"u": (1, 12, 5), "delta": (1, 1, 12, 5), "B": (1, 1, 12, 3), "C": (1, 1, 12, 3)}
    pixels = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    weights = {"A": -torch.rand(1, 5, 3, generator=generator), "D": torch.ones(1, 5), "delta_bias": torch.zeros(1, 5)}
    table, classes = torch.randn(4, 3, generator=generator), torch.randint(4, (1, 12), generator=generator)
    calls = []
    with recorded(calls.append):
        attentive_scan(**pixels, **weights, prompt=Prompt(table, classes))
    y = redundancy.repeated(calls[0], height=3, width=4).y
    torch.testing.assert_close(y[:, :1], calls[0].y)
    columns = torch.arange(12).view(3, 4).t().flatten()
    for k, order in ((1, torch.arange(12).flip(0)), (2, columns), (3, columns.flip(0))):
        moved = {name: value[..., order, :] for name, value in pixels.items()}
        expected = attentive_scan(**moved, **weights, prompt=Prompt(table, classes[:, order]))
        torch.testing.assert_close(y[:, k, order], expected[:, 0])


def test_a_network_of_one_direction_is_asked_about_four():
    frame = rows(models.build("mambairv2-tiny", upscale=2).eval(), "MambaIRv2", 2)
    assert len(frame) == 2 * 6 and set(frame["second"]) == {"raster back", "columns", "columns back"}
