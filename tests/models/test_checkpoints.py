"""Weights of official files and safetensors: strict, never executed, refused in one clear sentence."""

import os
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file

import models
from models.checkpoints import describe, read_state

INDEX = "relative_position_index_SA"


@pytest.fixture
def network() -> torch.nn.Module:
    network = models.build("mambairv2-tiny")
    models.initialise(network, 7)
    return network


def fresh() -> torch.nn.Module:
    return models.build("mambairv2-tiny")


@pytest.mark.parametrize("layout", ["params", "params_ema", "state_dict", "model", "bare", "safetensors", "legacy"])
def test_every_layout_loads_to_the_same_bits(network, tmp_path, layout):
    state, path = network.state_dict(), tmp_path / "weights"
    if layout == "safetensors":
        save_file(state, path)
    elif layout == "legacy":
        torch.save({"params": state}, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(state if layout == "bare" else {layout: state}, path)
    other = fresh()
    models.load_weights(other, path)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), other.state_dict().values(), strict=True))
    assert models.weights_hash(path) == models.weights_hash(str(path)) == models.weights_hash(network)
    models.load_weights(fresh(), str(path))


@pytest.mark.parametrize("key", [None, "state_dict", "params"])
def test_the_prefix_of_parallel_training_is_taken_off(network, tmp_path, key):
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    content = state if key is None else {key: state, "epoch": 3, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "parallel.pth")
    other = fresh()
    models.load_weights(other, tmp_path / "parallel.pth")
    assert models.weights_hash(other) == models.weights_hash(network) == models.weights_hash(tmp_path / "parallel.pth")


def test_a_prefix_of_some_tensors_stays(network):
    name, state = "conv_first.weight", network.state_dict()
    state[f"module.{name}"] = state.pop(name)
    assert "1 missing (conv_first.weight)" in refusal(network, state)


def test_a_state_dict_under_another_key_is_named(network, tmp_path):
    torch.save({"epoch": 3, "net_g": network.state_dict()}, tmp_path / "training.pth")
    message = refusal(network, tmp_path / "training.pth")
    assert "no state dict at the top or under params_ema, params, state_dict, model, but under 'net_g'" in message
    assert "torch.save(torch.load(FILE)['net_g'], NEW)" in message


def test_averaged_weights_are_taken_where_a_file_holds_both(network, tmp_path):
    torch.save({"params": fresh().state_dict(), "params_ema": network.state_dict()}, tmp_path / "both.pth")
    assert models.weights_hash(tmp_path / "both.pth") == models.weights_hash(network)


def test_state_dicts_load_too_and_leave_the_source_alone(network):
    other, state = fresh(), {"params": network.state_dict()}
    models.load_weights(other, state)
    assert models.weights_hash(other) == models.weights_hash(network) == models.weights_hash(network.state_dict())
    with torch.no_grad():
        next(other.parameters()).add_(1)
    assert models.weights_hash(other) != models.weights_hash(network)


def test_half_precision_files_are_converted_to_the_networks_type(network):
    other = fresh()
    models.load_weights(other, {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()})
    assert all(p.dtype == torch.float32 for p in other.parameters())
    torch.testing.assert_close(other.conv_first.weight, network.conv_first.weight.half().float())


def test_position_index_may_be_missing_but_not_wrong(network):
    state = network.state_dict()
    without = {name: tensor for name, tensor in state.items() if name != INDEX}
    other = fresh()
    models.load_weights(other, without)
    assert models.weights_hash(other) == models.weights_hash(without) == models.weights_hash(state)
    with pytest.raises(models.ModelError, match=INDEX):
        models.load_weights(other, {**state, INDEX: state[INDEX].flip(0)})


def test_hash_tells_names_shapes_types_and_values_apart(network):
    state = network.state_dict()
    name = "conv_first.weight"
    changed = [
        {**state, name: state[name] + 1e-7},
        {**state, name: state[name].flatten()},
        {**state, name: state[name].double()},
        {("renamed" if n == name else n): t for n, t in state.items()},
    ]
    hashes = {models.weights_hash(s) for s in [state, *changed]}
    assert len(hashes) == 5
    assert all(re.fullmatch("[0-9a-f]{64}", h) for h in hashes)


# --- weights of another network ---------------------------------------------------------------------------------------


def refusal(network: torch.nn.Module, weights: object) -> str:
    before = models.weights_hash(network)
    with pytest.raises(models.ModelError) as caught:
        models.load_weights(network, weights)
    assert models.weights_hash(network) == before  # all or nothing
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("overrides", "looks", "misfit"),
    [
        ({"upscale": 4}, "MambaIRv2Light, embed_dim 12, depths 2, x4", "of another shape (upsample.0.weight [48, 12"),
        ({"upscale": 3, "upsampler": "pixelshuffle"}, "x3", "unexpected (conv_before_upsample.0.weight"),
        ({"upscale": 1, "upsampler": "", "in_chans": 1}, "same size, 1 channels", "conv_first.weight [12, 1"),
        ({"depths": (2, 1), "num_heads": (2, 2)}, "depths 2+1", "unexpected (layers.1."),
        ({"ffn": "conv"}, "MambaIRv2, embed_dim 12", "missing"),
        ({"ase": "off"}, "MambaIRv2Light", "4 missing (layers.0.residual_group.layers.0.assm.embeddingB.weight"),
        ({"num_tokens": 4}, "MambaIRv2Light", "embeddingB.weight [4, 4] in place of [8, 4]"),
    ],
    ids=lambda v: ",".join(v) if isinstance(v, dict) else None,
)
def test_weights_of_another_variant_are_refused_and_described(network, tmp_path, overrides, looks, misfit):
    torch.save({"params": models.build("mambairv2-tiny", **overrides).state_dict()}, tmp_path / "other.pth")
    message = refusal(network, tmp_path / "other.pth")
    assert "other.pth" in message and looks in message and misfit in message
    assert "the network is MambaIRv2Light, embed_dim 12, depths 2, x2" in message


def test_other_families_are_recognised(network):
    assert (
        describe(models.build("mambair-light", depths=(1, 2)).state_dict()) == "MambaIR, embed_dim 60, depths 1+2, x2"
    )
    assert "x4" in describe(models.build("mambairv2-tiny", upscale=4, upsampler="pixelshuffle").state_dict())
    message = refusal(network, torch.nn.Linear(2, 2).state_dict())
    assert "no network of this family (2 tensors, the first is weight)" in message


def test_integer_weights_are_refused(network):
    state = network.state_dict()
    assert "conv_first.bias" in refusal(network, {**state, "conv_first.bias": state["conv_first.bias"].long()})


# --- files that are no weights ----------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_never_run(network, tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "code.pth"
    torch.save({"params": Bomb()}, path, _use_new_zipfile_serialization=zipped)
    message = refusal(network, path)
    assert "code.pth" in message and "system" in message and "refused" in message
    path.write_bytes(pickle.dumps({"params": Bomb()}))
    refusal(network, path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize("keep", [0, 9, 0.02, 0.5, 0.99])
def test_truncated_files_are_refused(network, tmp_path, kind, keep):
    path = tmp_path / f"cut.{kind}"
    save_file(network.state_dict(), path) if kind == "safetensors" else torch.save(network.state_dict(), path)
    content = path.read_bytes()
    size = path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    told = f"it is cut short or damaged: {size:,} bytes; get it again" if keep else "an empty file"
    assert refusal(network, path) == f"{path}: {told}"


@pytest.mark.parametrize(
    "content", [b"epoch 1\n", b"\x89PNG\r\n\x1a\n" * 9, b"PK\x03\x04" * 9, b"\0" * 64, b"\x80\x02.", b"x" * 8 + b"{}"]
)
def test_other_files_are_refused(network, tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    assert "weights.pth" in refusal(network, tmp_path / "weights.pth")


@pytest.mark.parametrize("text", ["epoch 1\nloss 0.5\n", "<!DOCTYPE html>\n<html>\n", "version 1\noid sha256:ab"])
def test_a_text_file_is_said_to_be_one(network, tmp_path, text):
    (tmp_path / "text.pth").write_text(text)
    message = refusal(network, tmp_path / "text.pth")
    assert "text.pth: a text file, not a file of weights" in message and text.split("\n")[0] in message


@pytest.mark.parametrize(
    "content", [{"params": 3}, [1, 2], {"params": {"a": "b"}}, {}, {"epoch": torch.ones(1), "n": 2}]
)
def test_files_without_a_state_dict_are_refused(network, tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    assert "no state dict" in refusal(network, tmp_path / "odd.pth")


def test_missing_files_and_folders_are_the_systems_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_state(tmp_path / "nowhere.pth")
    with pytest.raises(IsADirectoryError):
        read_state(tmp_path)


def test_counters_of_batch_norms_are_read_and_floating_tensors_must_stay_so(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3))
    network(torch.rand(1, 3, 4, 4))
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3))
    models.load_weights(other, network.state_dict())
    assert other[1].num_batches_tracked == 1 and torch.equal(other[1].running_mean, network[1].running_mean)
    with pytest.raises(models.ModelError, match="not floating point"):
        models.load_weights(other, {**network.state_dict(), "0.bias": torch.ones(3, dtype=torch.int64)})
