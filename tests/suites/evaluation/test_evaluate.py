"""Evaluation with small networks whose right answer is known. Standard images: test_standard_images.py."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import models
from models import Capabilities
from models.ops.noise import PhiloxGumbel, noise_key
from suites.data import DataError, find, sort_keys
from suites.data.degradations import bicubic_luma, gaussian_noise, jpeg, lr_matlab, luma_uint8
from suites.evaluation import evaluate as evaluation
from suites.evaluation import metrics
from suites.evaluation.evaluate import EvaluationError, restore, restore_picture
from suites.evaluation.filing import score_set
from suites.spec import Protocol, SpecError, Task

SR, DENOISE, JPEG = Task("sr", 2), Task("denoise", 25), Task("jpeg", 10)


class Enlarge(nn.Module):
    """Nearest neighbour by `scale`, times a learned gain of 1."""

    def __init__(self, scale=1):
        super().__init__()
        self.scale, self.gain = scale, nn.Parameter(torch.ones(1))

    def forward(self, x, labels=None):
        return self.gain * F.interpolate(x, scale_factor=self.scale, mode="nearest")


class Sampling(Enlarge):
    """Adds the noise of its source to every pixel, scaled down: a network that routes by Gumbel samples."""

    capabilities = Capabilities(settings=("routing", "prompt_order"), routed=True)
    routing, prompt_order = "gumbel", "raster"
    noise = None
    strength = 0.02

    def forward(self, x, labels=None):
        height, width = x.shape[2:]
        noise = self.noise(3, (len(x), height * width, 1)).reshape(len(x), 1, height, width)
        return super().forward(x + self.strength * noise)


def picture(height, width, seed=0, channels=3):
    """Smooth colours with a little texture, uint8."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    smooth = np.stack([x, y, 1 - x], axis=-1)[..., :channels]
    texture = np.random.default_rng(seed).normal(0, 0.08, smooth.shape)
    pixels = np.rint(255 * np.clip(smooth + texture, 0, 1)).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


@pytest.fixture
def make_set(tmp_path):
    """Writes pictures {stem: pixels} into a folder and finds them as a dataset of its own."""

    def make(pictures, name="mine"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for stem, pixels in pictures.items():
            Image.fromarray(pixels).save(folder / f"{stem}.png")
        return find(name, tmp_path / "data")

    return make


def scores(*arguments, **options):
    """Rows by image, filed nowhere. Raises what stopped the scoring."""
    return score_set(*arguments, **options).checked()


def unit(pixels):
    return pixels.astype(np.float32) / 255


def rgb_psnr(image, truth):
    """Of a float image in 0..1, clipped and rounded, by its closed form in float64."""
    rounded = np.rint(255 * np.clip(image, 0, 1)).astype(np.float64)
    return 10 * np.log10(255**2 / np.mean((rounded - truth) ** 2))


def test_a_row_per_image_with_the_score_of_its_restored_picture(make_set):
    pictures = {"b": picture(41, 52, 1), "a": picture(36, 30, 2)}
    seen = []
    rows = scores(
        Enlarge(2),
        SR,
        make_set(pictures),
        Protocol.official(SR, routing=None),
        progress=lambda *told: seen.append(told),
    )
    assert rows["image"].tolist() == ["a", "b"] and (rows["dataset"] == "mine").all()
    assert seen == [(1, 2, "a"), (2, 2, "b")]
    for row in rows.itertuples():
        truth = pictures[row.image]
        truth = truth[: len(truth) // 2 * 2]
        restored = lr_matlab(truth, 2).repeat(2, 0).repeat(2, 1)
        expected = metrics.score(unit(restored), truth, Protocol.official(SR))
        assert (row.psnr, row.ssim) == pytest.approx(expected, abs=1e-12)
        assert row.psnr_single == row.psnr and row.seconds > 0 and len(row.pixels) == 64


def test_a_glob_chooses_images_and_their_scores_stay_the_same(make_set):
    dataset = make_set({f"img_{i}": picture(24, 24, i) for i in range(3)} | {"other": picture(24, 24, 9)})
    model, protocol = Sampling(2), Protocol.official(SR, tiling=16)
    whole = scores(model, SR, dataset, protocol).set_index("image")
    some = scores(model, SR, dataset, protocol, pattern="img_[02]").set_index("image")
    assert some.index.tolist() == ["img_0", "img_2"]
    columns = ["pixels", "psnr", "ssim"]
    assert some[columns].equals(whole.loc[some.index, columns])
    with pytest.raises(DataError, match="no picture of mine matches 'x\\*'"):
        scores(model, SR, dataset, protocol, pattern="x*")


def test_scores_do_not_depend_on_the_order_of_images(make_set):
    dataset = make_set({f"{i}": picture(20, 34, i) for i in range(3)})
    backwards = replace(dataset, files=dict(reversed(dataset.files.items())))
    model, protocol = Sampling(2), Protocol.official(SR, tiling=16, samples=2)
    columns = ["image", "pixels", "psnr", "ssim", "psnr_single"]
    forth, back = (scores(model, SR, each, protocol)[columns] for each in (dataset, backwards))
    assert back["image"].tolist() == ["2", "1", "0"]
    assert forth.equals(back[::-1].reset_index(drop=True))


def expected_noise(seed, sample, stem, height, width):
    """The noise that `Sampling` must see on height x 2 * width pixels cut into two tiles of width + overlap."""
    overlap = width // 10
    tiles = []
    for tile in (0, 1):
        source = PhiloxGumbel([noise_key(seed, sample, stem, tile)])
        tiles.append(source(3, (1, height * (width + overlap), 1)).reshape(height, width + overlap).numpy())
    return np.concatenate([tiles[0][:, :width], tiles[1][:, overlap:]], axis=1)


@pytest.mark.parametrize(("seed", "stem"), [(0, "one"), (0, "two"), (7, "one")])
def test_noise_is_that_of_seed_sample_stem_and_tile(seed, stem):
    lq = np.full((12, 40, 3), 0.5, np.float32)
    protocol = Protocol.official(SR, tiling=30, samples=3, seed=seed)  # 40 // 30 + 1 = 2 tiles of 20, overlap 2
    outputs = list(evaluation.samples(Sampling(1), lq, protocol, stem))
    assert len(outputs) == 3
    for sample, output in enumerate(outputs):
        expected = 0.5 + 0.02 * expected_noise(seed, sample, stem, 12, 20)
        np.testing.assert_allclose(output, np.repeat(expected[..., None], 3, 2), atol=1e-6)


def test_samples_are_averaged_as_floats_and_rounded_once(make_set, tmp_path):
    dataset = make_set({"a": picture(26, 30)})
    model, protocol = Sampling(1), Protocol.official(DENOISE, samples=5, tiling="none")
    truth = dataset.load("a").pixels
    singles = list(evaluation.samples(model, gaussian_noise(truth, 25), protocol, "a"))
    average = sum(one.astype(np.float64) for one in singles) / 5
    np.testing.assert_allclose(restore(model, gaussian_noise(truth, 25), protocol, "a"), average, atol=1e-7)

    rows = scores(model, DENOISE, dataset, protocol, save=tmp_path)
    assert rows.psnr[0] == pytest.approx(rgb_psnr(average, truth), abs=1e-3)
    saved = np.asarray(Image.open(tmp_path / "mine" / "a.png"))
    rounded_first = np.rint(np.mean([np.rint(255 * np.clip(one, 0, 1)) for one in singles], axis=0))
    assert (saved == np.rint(255 * np.clip(average, 0, 1))).mean() > 0.999 > 0.95 > (saved == rounded_first).mean()
    each = [rgb_psnr(one, truth) for one in singles]
    assert rows.psnr_single[0] == pytest.approx(np.mean(each), abs=1e-9)
    assert rows.psnr[0] > rows.psnr_single[0] + 0.01


def test_without_noise_one_sample_says_it_all():
    calls = []

    class Counting(Enlarge):
        def forward(self, x, labels=None):
            calls.append(1)
            return super().forward(x)

    lq = unit(picture(8, 8))
    for routing in ("gumbel", "argmax", None):
        evaluation.restore(Counting(), lq, Protocol.official(DENOISE, samples=4, routing=routing), "a")
    assert len(calls) == 3


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (201, 17), (399, 401)])
@pytest.mark.parametrize("rule", ["official", "none", 100])
def test_an_identity_network_gives_its_input_back_bit_for_bit(size, rule):
    lq = np.random.default_rng(0).normal(0.5, 0.4, (*size, 3)).astype(np.float32)
    protocol = Protocol.official(DENOISE, tiling=rule, routing=None)
    np.testing.assert_array_equal(restore(Enlarge(1), lq, protocol, "a"), lq)


def test_denoising_and_jpeg_are_degraded_by_the_protocol(make_set):
    gray, colour = picture(20, 28, 1, channels=1), picture(20, 28, 2)
    dataset = make_set({"gray": gray, "colour": colour})
    rows = scores("identity", JPEG, dataset, Protocol.baseline(JPEG)).set_index("image")
    for stem, truth in (("gray", gray), ("colour", luma_uint8(colour))):
        mse = np.mean((jpeg(truth, 10).astype(float) - truth) ** 2)
        assert rows.psnr[stem] == pytest.approx(10 * np.log10(255**2 / mse), abs=1e-9)
    rows = scores("identity", DENOISE, dataset, Protocol.baseline(DENOISE)).set_index("image")
    for stem, truth in (("gray", np.repeat(gray[..., None], 3, 2)), ("colour", colour)):
        assert rows.psnr[stem] == pytest.approx(rgb_psnr(gaussian_noise(truth, 25), truth), abs=1e-9)


def test_bicubic_is_scored_on_its_own_luma_and_saved_as_gray(make_set, tmp_path):
    colour, gray = picture(33, 28, 1), picture(28, 30, 2, channels=1)
    dataset = make_set({"colour": colour, "gray": gray})
    protocol = Protocol.baseline(SR)
    rows = scores("bicubic", SR, dataset, protocol, save=tmp_path / "out").set_index("image")
    for stem, truth in (("colour", luma_uint8(colour)[:32]), ("gray", gray)):
        restored = bicubic_luma(truth, 2)
        assert rows.psnr[stem] == metrics.psnr(restored, truth, 2)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "mine" / f"{stem}.png")), restored)


def test_an_exact_restoration_has_no_psnr(make_set):
    flat = np.full((30, 30, 3), 77, np.uint8)
    model = Enlarge(2)
    rows = scores(model, SR, make_set({"flat": flat}), Protocol.official(SR, routing=None))
    assert rows.psnr.isna().all() and rows.psnr_single.isna().all() and rows.ssim[0] == pytest.approx(1)


def test_images_too_small_for_ssim_have_a_psnr_only(make_set):
    rows = scores(Enlarge(2), SR, make_set({"small": picture(14, 40)}), Protocol.official(SR, routing=None))
    assert rows.ssim.isna().all() and rows.psnr.notna().all()


def test_images_too_small_for_the_task_are_refused_by_name(make_set):
    with pytest.raises(DataError, match=r"^mine/dot: .*1x1"):
        scores(Enlarge(2), SR, make_set({"dot": picture(1, 1)}), Protocol.official(SR, routing=None))
    with pytest.raises(metrics.MetricError, match=r"^tiny/dot: 4x4 pixels"):
        scores(Enlarge(2), SR, make_set({"dot": picture(4, 4)}, "tiny"), Protocol.official(SR, routing=None))


def test_one_pixel_can_be_denoised(make_set):
    rows = scores(Enlarge(1), DENOISE, make_set({"dot": picture(1, 1)}), Protocol.official(DENOISE))
    assert len(rows) == 1 and rows.ssim.isna().all()


def test_restored_images_are_saved_whole_or_not_at_all(make_set, tmp_path, monkeypatch):
    truth = picture(20, 22)
    out = tmp_path / "out" / "mine" / "a.png"
    arguments = Enlarge(2), SR, make_set({"a": truth}), Protocol.official(SR, routing=None)
    scores(*arguments, save=tmp_path / "out")
    expected = lr_matlab(truth, 2).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(np.asarray(Image.open(out)), expected)

    def full(self, path, **options):
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    before = out.read_bytes()
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        scores(*arguments, save=tmp_path / "out")
    assert out.read_bytes() == before and [path.name for path in out.parent.iterdir()] == ["a.png"]


def test_the_model_is_left_as_it_was(make_set):
    model = Sampling(2).train()
    source = PhiloxGumbel([5])
    model.noise = source
    scores(model, SR, make_set({"a": picture(20, 20)}), Protocol.official(SR))
    assert model.training and model.noise is source
    model(torch.rand(1, 3, 4, 4)).sum().backward()
    assert model.gain.grad is not None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_networks_run_in_evaluation_mode_without_gradients_in_the_stated_precision(precision):
    modes = []

    class Watching(Enlarge):
        def forward(self, x, labels=None):
            modes.append((self.training, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
            return super().forward(x)

    restore(Watching().train(), unit(picture(8, 8)), Protocol.official(DENOISE, precision=precision), "a")
    assert modes == [(False, False, precision == "bf16")]


def test_a_network_set_to_another_protocol_is_refused(make_set):
    dataset, model = make_set({"a": picture(20, 20)}), Sampling(2)
    with pytest.raises(SpecError, match="protocol says routing 'argmax', the model is set to 'gumbel'"):
        scores(model, SR, dataset, Protocol.official(SR, routing="argmax"))
    with pytest.raises(SpecError, match="protocol says prompt_order 'semantic'"):
        scores(model, SR, dataset, Protocol.official(SR, prompt_order="semantic"))


def test_a_network_for_another_task_is_refused(make_set):
    dataset = make_set({"a": picture(20, 20)})
    with pytest.raises(EvaluationError, match=r"mine/a: .*40x40 pixels of 10x10.*sr-x2 needs 20x20"):
        scores(Enlarge(4), SR, dataset, Protocol.official(SR, routing=None))


def test_values_that_are_not_finite_stop_the_evaluation(make_set):
    model = Enlarge(2)
    model.gain.data.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="not finite"):
        scores(model, SR, make_set({"a": picture(20, 20)}), Protocol.official(SR, routing=None))


def test_running_out_of_memory_says_what_to_do():
    class Huge(Enlarge):
        def forward(self, x, labels=None):
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 1.00 TiB. GPU 0 has a total capacity of 139.80 GiB of which "
                "9.00 GiB is free. Including non-PyTorch memory, this process has 5.00 GiB memory in use."
            )

    words = r"24x20 pixels do not fit .* none \(Tried to allocate 1.00 TiB; GPU 0 .* 9.00 GiB is free\): use official"
    with pytest.raises(EvaluationError, match=words):
        restore(Huge(), unit(picture(24, 20)), Protocol.official(SR, tiling="none"), "a")


@pytest.mark.parametrize(
    ("name", "task", "protocol", "message"),
    [
        ("identity", SR, Protocol.baseline(SR), "identity is no baseline of sr-x2"),
        ("bicubic", JPEG, Protocol.baseline(JPEG), "bicubic is no baseline of jpeg-10"),
        ("bicubic", SR, Protocol.official(SR), "own protocol only"),
        ("nearest", SR, Protocol.baseline(SR), "unknown baseline 'nearest'"),
    ],
)
def test_baselines_have_their_tasks_and_one_protocol(make_set, name, task, protocol, message):
    with pytest.raises(SpecError, match=message):
        scores(name, task, make_set({"a": picture(20, 20)}), protocol)


def test_labels_are_made_once_per_image_and_tiled_with_it(make_set, monkeypatch):
    made, given = [], []

    class Sorting(Enlarge):
        capabilities = Capabilities(classes=6)

        def forward(self, x, labels=None):
            given.append(labels)
            return super().forward(x)

    real = sort_keys.make
    monkeypatch.setattr(sort_keys, "make", lambda *args: made.append(real(*args)) or made[-1])
    dataset = make_set({"a": picture(40, 84)})  # LR 20 x 42, tiling 30: tiles 20 x (21 + 2)
    scores(Sorting(2), SR, dataset, Protocol.official(SR, tiling=30, routing=None), labels="kmeans")
    assert len(made) == 1 and made[0].shape == (20, 42) and made[0].max() == 5
    np.testing.assert_array_equal(given[0][0].numpy(), made[0][:, :23])
    np.testing.assert_array_equal(given[1][0].numpy(), made[0][:, 19:])


def test_labels_need_a_network_that_sorts():
    with pytest.raises(SpecError, match="labels by slic"):
        list(evaluation.samples(Enlarge(), unit(picture(8, 8)), Protocol.official(SR), "a", labels="slic"))


def test_a_catalogue_network_takes_tiles_noise_and_labels(make_set):
    """The real thing, untrained and tiny: everything that a score may depend on moves it, and nothing else does."""
    model = models.build("mambairv2-tiny", **SR.network)
    for weight in model.parameters():  # layer scales and prompts start almost without effect
        weight.data *= 3
    lq, protocol = unit(picture(20, 37)), Protocol.official(SR, tiling=20)

    def output(labels="learned", stem="a", **changes):
        return restore(model, lq, replace(protocol, **changes), stem, labels=labels)

    first = output()
    np.testing.assert_array_equal(first, output())
    assert first.shape == (40, 74, 3)
    changed = [output(stem="b"), output(seed=1), output(samples=2), output(tiling="none"), output("kmeans")]
    assert all(np.abs(other - first).max() > 1e-6 for other in changed)
    model.routing = "argmax"
    np.testing.assert_array_equal(output(routing="argmax"), output(routing="argmax", seed=1, stem="b"))


@pytest.mark.parametrize("channels", [None, 2, 3, 4])
def test_a_users_picture_comes_back_enlarged_in_its_own_kind(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7) if channels is None else (9, 7, channels), np.uint8)
    restored = restore_picture(Enlarge(2), pixels, SR, Protocol.official(SR, routing=None))
    assert restored.dtype == np.uint8 and restored.shape == (18, 14, *pixels.shape[2:])
    expected = pixels.repeat(2, 0).repeat(2, 1)
    if channels in (2, 4):
        np.testing.assert_array_equal(restored[..., :-1], expected[..., :-1])
        opaque = pixels.copy()
        opaque[..., -1] = 255
        again = restore_picture(Enlarge(2), opaque, SR, Protocol.official(SR, routing=None))
        assert (again[..., -1] == 255).all() and np.ptp(restored[..., -1]) > 100
    else:
        np.testing.assert_array_equal(restored, expected)


def test_alpha_stays_as_it_is_where_nothing_is_enlarged():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 4), np.uint8)
    np.testing.assert_array_equal(restore_picture(Enlarge(1), pixels, DENOISE, Protocol.official(DENOISE)), pixels)


def test_a_gray_result_is_the_mean_of_the_channels():
    class Tint(Enlarge):
        def forward(self, x, labels=None):
            return x + torch.tensor([0.0, 0.03, 0.06]).view(3, 1, 1)

    restored = restore_picture(Tint(), np.full((4, 4), 100, np.uint8), DENOISE, Protocol.official(DENOISE))
    assert (restored == round(100 + 0.03 * 255)).all()


def test_pictures_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="jpeg-10 restores gray pictures"):
        restore_picture(Enlarge(), picture(8, 8), JPEG, Protocol.official(JPEG))
    with pytest.raises(DataError, match="uint16"):
        restore_picture(Enlarge(), np.zeros((8, 8), np.uint16), JPEG, Protocol.official(JPEG))
    with pytest.raises(DataError, match="1 to 4 channels"):
        restore_picture(Enlarge(), np.zeros((8, 8, 5), np.uint8), SR, Protocol.official(SR))
    with pytest.raises(EvaluationError, match="needs 16x16"):
        restore_picture(Enlarge(3), picture(8, 8), SR, Protocol.official(SR))


def test_a_network_is_put_into_evaluation_mode_and_back_but_left_alone_where_it_is_ready(monkeypatch):
    def seen():
        with evaluation.inference(network, torch.device("cpu"), "fp32"):
            return network.training, network.inner.training

    network = Enlarge()
    network.inner = nn.Dropout()
    assert seen() == (False, False) and network.training and network.inner.training
    network.eval().inner.train()  # a part that is not as the whole
    assert seen() == (False, False) and not network.inner.training
    monkeypatch.setattr(network, "to", None)
    assert seen() == (False, False)
    network.gain = nn.Parameter(torch.ones(1, device="meta"))
    with pytest.raises(TypeError, match="not callable"):  # of `to`, for a part on another device
        seen()
