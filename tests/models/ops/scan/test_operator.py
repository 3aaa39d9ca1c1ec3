"""The attentive scan as an operator of PyTorch: registration, tracing, counting; the choice of a backend, refusals."""

import inspect
import itertools
import warnings

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.ops.scan import BACKENDS, PEERS, Backend, BackendError, attentive_scan, available, cpu, load, resolve
from tests.models.ops.scan.test_scan import GRADIENTS, NAMES, USABLE, leaves, make, scan

# The operator


@pytest.mark.parametrize("backend", USABLE)
def test_operator_checks(backend):
    x = leaves(make(2, 2, 21, 5, 4), torch.float32)
    args = [x[n] for n in (*NAMES, "order", "table", "classes", "soft", "at")]
    torch.library.opcheck(torch.ops.mambair_bench.attentive_scan.default, (*args, backend, True))
    bare = [*args[:7], None, None, None, None, None]
    torch.library.opcheck(torch.ops.mambair_bench.attentive_scan.default, (*bare, backend, True))


def test_compiles_as_one_graph():
    x = leaves(make(1, 2, 40, 8, 4), torch.float32)
    compiled = torch.compile(lambda x: scan(x, "auto") * 2, backend="aot_eager", fullgraph=True)
    y = compiled(x)
    torch.testing.assert_close(y, 2 * scan(x, "auto"))
    got = torch.autograd.grad(y.sum(), [x[n] for n in GRADIENTS])
    expected = torch.autograd.grad((2 * scan(x, "auto")).sum(), [x[n] for n in GRADIENTS])
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_trace_shows_the_operator_and_its_shapes():
    """Counters that read a traced graph find the scan by its name."""
    x = leaves(make(1, 2, 12, 5, 4), torch.float32, wanted=())
    traced = torch.jit.trace(lambda u: scan({**x, "u": u}, "reference"), x["u"], check_trace=False)
    (node,) = [n for n in traced.graph.nodes() if n.kind() == "mambair_bench::attentive_scan"]
    sizes = [value.type().sizes() for value in itertools.islice(node.inputs(), 3)]
    assert sizes == [[1, 12, 5], [1, 2, 12, 5], [2, 5, 4]]


def test_flops_are_counted_on_any_device():
    """Seven operations for a state, six for a channel and step; the backward pass as its docstring counts."""
    steps, states = 2 * 2 * 21 * 5, 4
    x = leaves(make(2, 2, 21, 5, states), torch.float32)
    operator = torch.ops.mambair_bench.attentive_scan
    with FlopCounterMode(display=False) as counter:
        scan(x, "auto").sum().backward()
    counts = counter.get_flop_counts()["Global"]
    assert counts[operator] == steps * (7 * states + 6)
    assert counts[torch.ops.mambair_bench.attentive_scan_backward] == steps * (19 * states + 16)
    with FlopCounterMode(display=False) as counter:
        assert scan({n: t.detach().to("meta") for n, t in x.items()}, "auto").device.type == "meta"
    assert counter.get_flop_counts()["Global"][operator] == steps * (7 * states + 6)


# Choosing a backend, and refusing


@pytest.mark.parametrize("name", [*BACKENDS, *PEERS])
def test_backends_have_the_interface(name):
    module = load(name)
    assert isinstance(module, Backend)
    for method in ("unavailable", "refuses", "saved_shape", "forward", "backward"):
        declared = list(inspect.signature(getattr(Backend, method)).parameters)[1:]
        assert list(inspect.signature(getattr(module, method)).parameters) == declared


def test_the_table_of_backends_cannot_be_changed():
    with pytest.raises(TypeError):
        BACKENDS["mine"] = "mine"
    assert not set(PEERS) & set(available())


def test_auto_takes_the_best_usable_backend():
    best = "cpu" if available()["cpu"] is None else "chunked"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert resolve("auto", torch.device("cpu")) == best
    assert resolve("auto", torch.device("meta")) == "chunked"
    for name in USABLE:
        assert resolve(name, torch.device("cpu")) == name


def test_an_unusable_best_backend_is_announced_once_and_never_replaces_a_named_one(monkeypatch):
    monkeypatch.setattr(cpu, "unavailable", lambda: "no compiler today")
    monkeypatch.setattr("models.ops.scan.backends._announced", set())
    with pytest.warns(UserWarning, match=r"'cpu' is not used: no compiler today; trying 'chunked'"):
        assert resolve("auto", torch.device("cpu")) == "chunked"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve("auto", torch.device("cpu")) == "chunked"
    assert available()["cpu"] == "no compiler today"
    x = leaves(make(1, 1, 5, 3, 2), torch.float32)
    with pytest.raises(BackendError, match="no compiler today"):
        scan(x, "cpu")


def test_backends_that_cannot_be_used_say_so():
    with pytest.raises(BackendError, match=r"unknown scan backend 'fast'.*reference"):
        load("fast")
    with pytest.raises(BackendError, match="runs on cpu, not on cuda"):
        resolve("cpu", torch.device("cuda"))
    if "cpu" not in USABLE:
        pytest.skip(available()["cpu"])
    wide = leaves(make(1, 1, 5, 3, 2), torch.float64)
    with pytest.raises(BackendError, match="float64"):
        scan(wide, "cpu")
    assert scan(wide, "auto").dtype == torch.float64
    many = leaves(make(1, 1, 5, 3, 65), torch.float32)
    with pytest.raises(BackendError, match="64 states, not 65"):
        scan(many, "cpu")
    torch.testing.assert_close(scan(many, "auto"), scan(many, "reference"))


@pytest.mark.parametrize("name", [*NAMES[1:], "order", "table", "classes", "soft", "at"])
def test_wrong_shapes_are_named(name):
    x = leaves(make(2, 2, 6, 3, 4), torch.float32)
    x[name] = torch.cat([x[name], x[name]], -1)
    with pytest.raises(ValueError, match=r"must (be|have shape)"):
        scan(x, "auto")


def test_empty_inputs_are_refused():
    x = {n: t[:, :, :0] if t.ndim == 4 else t for n, t in make(1, 1, 6, 3, 4).items()}
    with pytest.raises(ValueError, match="nothing to scan"):
        attentive_scan(x["u"][:, :0], *(x[n] for n in NAMES[1:]))


@pytest.mark.parametrize("backend", USABLE)
@pytest.mark.parametrize("name", ["order", "classes"])
@pytest.mark.parametrize("value", [-7000, 6])
def test_indices_out_of_range_are_errors(backend, name, value):
    x = leaves(make(1, 1, 6, 3, 4, classes=5, prompt_order="raster"), torch.float32)
    x[name] = x[name].clone()
    x[name].view(-1)[3] = value
    with pytest.raises((IndexError, RuntimeError), match=r"range|bounds"):
        scan(x, backend)
