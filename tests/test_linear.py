"""Linear layers whose weights stay as they are."""

import copy
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from gbp_agent.networks import frozen_linear
from gbp_agent.networks.frozen_linear import FrozenLinear, can_pack
from gbp_agent.networks.linear import Linear

MANY, FEW = (40, 160, 128), (3, 160, 128)  # rows, in, out: packed where that can be, and not


@pytest.fixture
def products(monkeypatch: Any) -> list[tuple[int, ...]]:
    """The shapes that packed weights were multiplied by."""
    product, seen = frozen_linear._packed_product, []

    def watched(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return product(x, *rest)

    monkeypatch.setattr(frozen_linear, "_packed_product", watched)
    return seen


def layer_and_rows(rows: int, inputs: int, outputs: int) -> tuple[Linear, torch.Tensor]:
    torch.manual_seed(0)
    return Linear(inputs, outputs).requires_grad_(False), torch.randn(2, rows, inputs)


def value_and_slope(function: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = x.clone().requires_grad_()
    out = function(leaf)
    return out.detach(), torch.autograd.grad(out.float().sin().sum(), leaf)[0]


@pytest.mark.parametrize("shape", [MANY, FEW])
def test_a_frozen_layer_computes_what_a_trained_one_does(
    shape: tuple[int, int, int], products: list[Any]
) -> None:
    layer, x = layer_and_rows(*shape)
    frozen = value_and_slope(layer, x)
    packed = can_pack(layer.weight) and shape == MANY
    assert products == ([(80, 160), (80, 128)] if packed else [])
    trained = value_and_slope(layer.requires_grad_(True), x)
    torch.testing.assert_close(frozen, trained)
    assert len(products) == (2 if packed else 0)


def test_a_trained_layer_is_differentiated_as_often_as_wanted() -> None:
    layer, x = layer_and_rows(*MANY)
    layer.requires_grad_(True)
    (slope,) = torch.autograd.grad(layer(x).sin().sum(), layer.weight, create_graph=True)
    slope.square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.any()


def test_without_bias_and_with_other_strides(products: list[Any]) -> None:
    whole = torch.randn(128, 200)
    frozen, x = FrozenLinear(whole[:, :160]), torch.randn(160, 40).t()
    torch.testing.assert_close(frozen.forth(x), x @ whole[:, :160].t())
    gradient = torch.randn(128, 40).t()
    torch.testing.assert_close(frozen.back(gradient), gradient @ whole[:, :160])
    assert len(products) == (2 if can_pack(whole) else 0)


def test_under_autocast_it_computes_in_that_type() -> None:
    layer, x = layer_and_rows(*MANY)
    exact = value_and_slope(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        found = value_and_slope(layer, x)
    assert [part.dtype for part in found] == [torch.bfloat16, torch.float32]
    torch.testing.assert_close(found[0].float(), exact[0], atol=0.05, rtol=0.05)
    torch.testing.assert_close(found[1], exact[1], atol=0.05, rtol=0.05)
    torch.testing.assert_close(value_and_slope(layer, x), exact, atol=0, rtol=0)  # and no longer


@pytest.mark.parametrize("change", ["in place", "loaded", "replaced", "cast"])
def test_it_sees_that_its_weights_change(change: str) -> None:
    layer, x = layer_and_rows(*MANY)
    before = layer(x)
    if change == "in place":
        layer.weight.add_(1.0)
    elif change == "loaded":
        layer.load_state_dict({"weight": layer.weight + 1, "bias": layer.bias})
    elif change == "replaced":
        layer.weight = torch.nn.Parameter(layer.weight + 1, requires_grad=False)
    else:
        layer.weight.data = layer.weight.data + 1
    torch.testing.assert_close(layer(x), before + x.sum(-1, keepdim=True), atol=1e-3, rtol=1e-4)


@pytest.mark.skipif(not can_pack(torch.zeros(1)), reason="nothing is packed here")
def test_what_was_made_is_forgotten_when_it_is_trained() -> None:
    """Fused optimisers change weights without PyTorch's counting it."""
    layer, x = layer_and_rows(*MANY)
    before = layer(x)
    layer.requires_grad_(True)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    layer(x).square().sum().backward()
    optimizer.step()
    layer.requires_grad_(False)
    assert not torch.allclose(layer(x), before, atol=0.1)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))


def test_other_weights_in_the_same_place_are_others() -> None:
    layer, x = layer_and_rows(*MANY)
    with torch.autocast("cpu", torch.bfloat16):
        for value in range(1, 20):
            layer.weight = None  # type: ignore[assignment]
            weight = torch.full((128, 160), float(value))
            layer.weight = torch.nn.Parameter(weight, requires_grad=False)
            expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
            torch.testing.assert_close(layer(x), expected, atol=2.0, rtol=0.02)
            del weight


def test_without_bfloat16_in_the_processor() -> None:
    """oneDNN packs none there; autocast computes in it all the same."""
    program = (
        "import torch; from gbp_agent.networks.linear import Linear, can_pack\n"
        "layer = Linear(160, 128).requires_grad_(False); x = torch.randn(80, 160)\n"
        "with torch.autocast('cpu', torch.bfloat16): found = layer(x)\n"
        "print(can_pack(layer.weight, torch.bfloat16), found.dtype)\n"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    out = subprocess.check_output(
        [sys.executable, "-c", program], env=environment, text=True, timeout=120
    )
    assert out.split() == ["False", "torch.bfloat16"]


def test_where_nothing_is_packed_it_is_nn_linear() -> None:
    layer, x = layer_and_rows(*MANY)
    vector = torch.randn(160)
    torch.testing.assert_close(layer(vector), layer(vector[None])[0])
    with pytest.raises(RuntimeError, match="dtype"):
        layer(x.double())
    assert Linear(4, 3, device="meta")(torch.zeros(2, 4, device="meta")).shape == (2, 3)


@pytest.mark.filterwarnings("ignore:TF32")
def test_one_may_forbid_it(products: list[Any]) -> None:
    layer, x = layer_and_rows(*MANY)
    with torch.backends.mkldnn.flags(enabled=False):
        out = layer(x)
    assert products == []
    torch.testing.assert_close(out, layer(x))


def test_copies_and_files_hold_nothing_of_it(tmp_path: Any) -> None:
    layer, x = layer_and_rows(*MANY)
    expected = layer(x)
    twin = copy.deepcopy(layer)
    twin.weight.mul_(2)
    torch.testing.assert_close(layer(x), expected, atol=0, rtol=0)
    assert not torch.equal(twin(x), expected)
    torch.save(layer, tmp_path / "layer.pt")
    again = torch.load(tmp_path / "layer.pt", weights_only=False)
    torch.testing.assert_close(again(x), expected, atol=0, rtol=0)
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_weights_made_in_inference_mode_serve_as_well() -> None:
    with torch.inference_mode():
        layer, x = layer_and_rows(*MANY)
        expected = layer(x)
        layer.weight.add_(1.0)
        assert not torch.equal(layer(x), expected)


def test_other_types_pass_by(products: list[Any]) -> None:
    layer, x = layer_and_rows(*MANY)
    assert layer.double()(x.double()).dtype == torch.float64
    assert products == []
