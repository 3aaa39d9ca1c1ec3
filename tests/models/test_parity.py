"""Against outputs and gradients of the official networks, and against the official weights.

On a GPU, where there is one, in plain float32 and in three TF32 products as well.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import models

COMMITTED = Path(__file__).parents[1] / "fixtures" / "parity"  # one case that every clone checks
FORWARD = [
    "v1_tiny_x4",
    "v1light_tiny_x2",
    "v2_tiny_denoise",
    "v2_tiny_jpeg",
    "v2_tiny_x3",
    "v2_tiny_x4",
    "v2light_tiny_x2",
    "v2light_full_x2",
]
GRADIENTS = ["grad_v2_denoise", "grad_v2light_x2"]


PLACES = [("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "tf32x3")]  # and the precision there
MEDIAN = {"cpu": 1e-6, "cuda": 3e-6}


@pytest.fixture(params=PLACES, ids="-".join)
def place(request):
    """A device, with the precision in force."""
    device, precision = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    with models.precision(precision, device):
        yield device


def load_case(
    folder: Path, name: str, routing: str, backend: str, device: str = "cpu"
) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    case = json.loads((folder / f"{name}.json").read_text())
    network = models.from_official(dict(case["config"], type=case["class"]), routing=routing, backend=backend)
    assert sum(p.numel() for p in network.parameters()) == case["params"]
    models.load_weights(network, folder / f"{name}.weights.safetensors")
    return network.to(device), load_file(folder / f"{name}.io.safetensors", device=device)


def check_outputs(output: torch.Tensor, expected: torch.Tensor) -> None:
    error = (output - expected).abs()
    assert output.shape == expected.shape
    assert (error <= 1e-4).float().mean() >= 0.999
    assert error.median() < MEDIAN[output.device.type]


@pytest.mark.parametrize("name", FORWARD)
def test_output_is_the_official_networks(shared, name, place):
    network, io = load_case(shared / "parity", name, "argmax", "auto", place)
    with torch.no_grad():
        check_outputs(network.eval()(io["input"]), io["output"])


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_output_of_the_committed_case_is_the_official_networks(backend, place):
    network, io = load_case(COMMITTED, "v2_tiny_denoise", "argmax", backend, place)
    with torch.no_grad():
        check_outputs(network.eval()(io["input"]), io["output"])


@pytest.mark.parametrize("name", ["v1light_tiny_x2", "v2_tiny_jpeg", "v2light_tiny_x2"])
def test_output_of_the_plain_path_is_the_official_networks(shared, name):
    network, io = load_case(shared / "parity", name, "argmax", "reference")
    with torch.no_grad():
        check_outputs(network.eval()(io["input"]), io["output"])


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_every_gradient_is_the_official_networks(shared, name, backend, place):
    network, io = load_case(shared / "parity", name, "gumbel", backend, place)
    network.noise = lambda layer, shape: io[f"noise.{layer}"]
    image = io["input"].clone().requires_grad_()
    output = network.train()(image)
    loss = (output * io["loss_weights"]).sum() / output.numel() ** 0.5
    loss.backward()
    check_outputs(output.detach(), io["output"])
    torch.testing.assert_close(loss.detach(), io["loss"].squeeze(), rtol=1e-4, atol=1e-5)
    gradients = {name: p.grad for name, p in network.named_parameters()} | {"input": image.grad}
    assert {f"grad.{name}" for name in gradients} == {key for key in io if key.startswith("grad.")}
    for key, gradient in gradients.items():
        expected = io[f"grad.{key}"]
        assert (gradient - expected).abs().max() < 1e-4 * expected.abs().max(), key


@pytest.mark.parametrize("scale", [2, 4])
def test_official_weights_load_strictly_and_restore_a_picture(shared, scale):
    weights = shared / "weights" / f"mambairv2_lightSR_x{scale}.pth"
    if not weights.exists():
        pytest.skip(f"needs the official weights {weights.name}")
    network = models.build("mambairv2-light", upscale=scale, routing="argmax").eval()
    models.load_weights(network, weights)
    assert models.weights_hash(network) == models.weights_hash(weights)
    ramp = torch.linspace(0.2, 0.8, 24).expand(1, 3, 24, 24)
    with torch.no_grad():
        output = network(ramp)
    # Enlarging a ramp is interpolation: a trained network does it, one whose weights landed elsewhere does not.
    expected = torch.nn.functional.interpolate(ramp, scale_factor=scale, mode="bicubic", align_corners=False)
    inner = (..., slice(4 * scale, -4 * scale), slice(4 * scale, -4 * scale))
    assert (output - expected)[inner].abs().max() < 0.02
