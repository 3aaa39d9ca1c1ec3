"""Local attribution maps of networks whose answer is known exactly."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import models
from models.ops.scan import attentive_scan
from suites.analysis import lam
from suites.analysis.gradients import differentiated
from suites.analysis.lam import Window
from suites.analysis.spec import Context
from suites.spec import Protocol, Task

pytestmark = pytest.mark.usefixtures("one_thread")
DOUBLE = {"dtype": torch.float64}


def picture(height: int = 24, width: int = 28, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).random((channels, height, width))


def identity(x: torch.Tensor) -> torch.Tensor:
    return x


def test_kernels_are_gaussians_that_end_in_a_single_one():
    found = lam.kernels(1.2, 50, 9)
    assert found.shape == (51, 9, 9)
    np.testing.assert_allclose(found.sum((1, 2)), 1, rtol=1e-14)
    np.testing.assert_allclose(found[0, 4, 5] / found[0, 4, 4], np.exp(-1 / (2 * 1.20001**2)), rtol=1e-12)
    np.testing.assert_allclose(found[25, 3, 3] / found[25, 4, 4], np.exp(-1 / 0.60001**2), rtol=1e-12)
    assert found[50, 4, 4] == 1 and found[50].sum() == 1


def test_the_path_ends_at_the_image_itself():
    image = picture()
    np.testing.assert_array_equal(lam.blurred(image, lam.kernels(1.2, 50, 9)[-1]), image)


def test_attributions_of_a_linear_objective_sum_to_its_change_exactly():
    """Differences to the step before telescope: gradients that are constant along the path leave no error."""
    weight = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 3, 24, 28)))
    found = lam.attribute(identity, picture(), lambda y: (y * weight).sum((1, 2, 3)), **DOUBLE)
    assert found.values.sum() == pytest.approx(found.end - found.start, rel=1e-12)
    change = picture() - lam.blurred(picture(), lam.kernels(1.2, 50, 9)[0])
    np.testing.assert_allclose(found.values, weight[0].numpy() * change, atol=1e-13)


def test_a_line_under_the_identity_is_attributed_to_its_own_pixels():
    """F of a line of height a is 2 a per row, so its pixels get 2 (a - their blurred value) and no others anything."""
    image = np.full((1, 40, 40), 0.25)
    image[:, :, 20] += 0.5
    window = Window(8, 10, 16)
    found = lam.attribute(identity, image, lambda y: lam.magnitudes(y, window), **DOUBLE)
    expected = np.zeros((40, 40))
    peak = lam.kernels(1.2, 50, 9)[0][:, 4].sum()  # what a line keeps of its height
    expected[8:24, 20] = 2 * 0.5 * (1 - peak)
    np.testing.assert_allclose(found.values[0], expected, atol=1e-13)
    assert found.end == pytest.approx(16 * 2 * 0.5)
    assert found.gap == pytest.approx(0, abs=1e-12)


def support(found: lam.Attribution) -> tuple[int, int, int, int]:
    """First and last row and column that have an attribution."""
    rows, columns = np.nonzero(np.abs(found.values).sum(0))
    return rows.min(), rows.max(), columns.min(), columns.max()


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_the_support_under_a_convolution_is_the_window_and_half_a_kernel_around(kernel):
    """A window of rows t..t + 3 reads output rows t..t + 4, and they read half a kernel more on every side."""
    weight = torch.rand(3, 3, kernel, kernel, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    window = Window(10, 12, 4)
    found = lam.attribute(
        lambda x: F.conv2d(x, weight, padding=kernel // 2), picture(), lambda y: lam.magnitudes(y, window), **DOUBLE
    )
    half = kernel // 2
    assert support(found) == (10 - half, 14 + half, 12 - half, 16 + half)


def test_the_sum_under_a_convolution_nears_the_change_as_steps_get_finer():
    weight = torch.rand(3, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    gaps = [
        abs(
            lam.attribute(
                lambda x: F.conv2d(x, weight, padding=1),
                picture(),
                lambda y: lam.magnitudes(y, Window(8, 8, 8)),
                fold=fold,
                **DOUBLE,
            ).gap
        )
        for fold in (25, 50, 100)
    ]
    assert gaps[1] < 0.02
    assert gaps[1] / gaps[0] == pytest.approx(0.5, abs=0.1) and gaps[2] / gaps[1] == pytest.approx(0.5, abs=0.1)


def causal(x: torch.Tensor) -> torch.Tensor:
    """Every channel scanned in raster order with a decay of exp(-0.1) a step."""
    batch, channels, height, width = x.shape
    u = x.flatten(2).transpose(1, 2)  # [B, L, E]
    ones = u.new_ones(batch, 1, height * width, 1)
    delta = torch.full_like(u, 0.1).expm1().log().unsqueeze(1)  # softplus of it is 0.1
    A, zero = -u.new_ones(1, channels, 1), u.new_zeros(1, channels)
    y = attentive_scan(u, delta, A, ones, ones, zero, zero, backend="chunked")  # [B, 1, L, E]
    return y[:, 0].transpose(1, 2).unflatten(2, (height, width))


def test_under_a_causal_scan_nothing_after_the_window_is_attributed():
    window, (height, width) = Window(10, 6, 4), (20, 16)
    found = lam.attribute(causal, picture(height, width), lambda y: lam.magnitudes(y, window), **DOUBLE)
    summed = np.abs(found.values).sum(0).ravel()
    last = (window.top + window.size) * width + window.left + window.size - 1  # the differences read one row more
    assert (summed[last + 1 :] == 0).all()
    assert summed[last] > 0 and (summed[:last] > 0).mean() > 0.99


def test_a_network_without_routing_has_attributions_that_sum_to_the_change():
    network = models.build("mambairv2-tiny", upscale=2, ase="off", sgn="off").eval()
    image = picture(16, 16).astype(np.float32)
    gaps = []
    for fold in (10, 40):
        found = lam.attribute(network, image, lambda y: lam.magnitudes(y, Window(8, 8, 8)), fold=fold)
        gaps.append(abs(found.gap))
    assert gaps[1] < 0.01 and gaps[1] < 0.5 * gaps[0]


def test_steps_of_the_path_that_go_together_give_the_same_attributions():
    """In float64, with routing noise, which every step must get as if it were alone; 10 steps are no multiple of 4."""
    task = Task("sr", 2)
    network = models.build("mambairv2-tiny", upscale=2).double().eval()
    context = Context(task, Protocol.official(task), torch.device("cpu"), (3,))
    with differentiated(network, context, 3, "picture") as function:
        one, other = (
            lam.attribute(function, picture(16, 16), lambda y: lam.magnitudes(y, Window(8, 8, 8)), fold=10, **how)
            for how in ({"together": 1, **DOUBLE}, {"together": 4, **DOUBLE})
        )
    np.testing.assert_allclose(other.values, one.values, rtol=1e-9, atol=1e-12 * np.abs(one.values).max())
    assert other.end == pytest.approx(one.end, rel=1e-12) and other.start == one.start and one.values.any()


def test_flat_output_has_no_attribution_and_no_nan():
    found = lam.attribute(identity, np.full((3, 12, 12), 0.5), lambda y: lam.magnitudes(y, Window(2, 2, 4)))
    assert (found.map == 0).all() and np.isnan(found.gap)
    assert np.isnan(lam.reach(found.map, Window(2, 2, 4), 1, 0.5))


def test_the_map_takes_the_absolute_value_after_the_sum_over_channels():
    values = np.zeros((3, 2, 2))
    values[:, 0, 0] = 1, -1, 0
    values[:, 1, 1] = -2, -1, 1
    values[:, 0, 1] = 1, 0, 0
    np.testing.assert_allclose(lam.Attribution(values, 0, 1).map, [[0, 0.5], [0, 1]])


def test_gini_of_equal_values_of_one_alone_and_of_a_line():
    assert lam.gini(np.ones(100)) == pytest.approx(0, abs=1e-12)
    assert lam.gini(np.eye(1, 1000)) == pytest.approx(999 / 1000, abs=2e-4)  # 1e-7 is added to every value
    assert lam.gini(np.arange(1, 11)) == pytest.approx(0.3, abs=1e-6)  # (n - 1) / (3 n) of 1..n
    assert lam.diffusion_index(np.ones((4, 4))) == pytest.approx(100)


def test_reach_counts_input_pixels_around_the_window():
    found, window = np.zeros((20, 20)), Window(32, 32, 16)  # at scale 4: rows and columns 8..11
    found[8:12, 8:12] = 1 / 16
    assert lam.reach(found, window, 4, 0.99) == 0
    found[14, 9] = 1.0
    assert lam.reach(found, window, 4, 0.5) == 0
    assert lam.reach(found, window, 4, 0.51) == 3


def test_the_hardest_window_is_where_the_simple_restoration_is_furthest_off():
    truth = np.zeros((50, 70))
    simple = truth.copy()
    simple[20:30, 40:44] = 3
    assert lam.hardest(truth, simple) == Window(16, 32, 16)
    with pytest.raises(ValueError, match="no window"):
        lam.hardest(truth[:16], simple[:16])


@pytest.mark.parametrize(
    ("window", "shape", "expected"),
    [
        (Window(128, 128), (300, 400), (slice(8, 264), slice(8, 264), Window(120, 120))),
        (Window(0, 384), (303, 400), (slice(0, 256), slice(144, 400), Window(0, 240))),
        (Window(32, 64), (98, 130), (slice(0, 96), slice(0, 128), Window(32, 64))),
    ],
)
def test_a_crop_lies_around_its_window(window, shape, expected):
    assert lam.around(window, shape, 4, 256) == expected
