"""Which library multiplies by weights that stay as they are, and that it does so exactly."""

from typing import Any

import pytest
import torch

from gbp_agent import load_checkpoint, pretrained_names
from gbp_agent.networks import frozen_linear
from gbp_agent.networks.frozen_linear import FrozenLinear, can_pack

FEW, SOME, MANY = 3, 500, 2000  # rows; SOME are FBGEMM's where there is one thread
HALVES = can_pack(torch.zeros(1)) and frozen_linear._reads_halves()
needs_halves = pytest.mark.skipif(not HALVES, reason="FBGEMM is not offered here")


@pytest.fixture
def of_halves(monkeypatch: Any) -> list[int]:
    """How many rows FBGEMM multiplied at a time."""
    name, seen = "fbgemm_linear_fp16_weight_fp32_activation", []
    multiply = getattr(torch, name, None)

    def watched(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(len(x))
        return multiply(x, *rest)  # type: ignore[misc]

    monkeypatch.setattr(torch, name, watched, raising=False)
    return seen


@pytest.fixture(params=[1, 2], ids="{} threads".format)
def threads(request: Any) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def some_halves() -> torch.Tensor:
    """(96, 130), from the largest half-precision number to the smallest, subnormal ones too."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 130, generator=generator) * torch.logspace(-8, 0, 130)
    weight[0, 0], weight[0, 1] = torch.finfo(torch.half).max, 2.0**-24
    return weight.half().float()


@pytest.mark.parametrize("rows", [1, FEW, 6, 7, 50, SOME, MANY])
@pytest.mark.parametrize("biased", [True, False])
def test_the_product_and_its_gradient_lose_nothing(
    rows: int, biased: bool, threads: int, of_halves: list[int]
) -> None:
    weight, bias = some_halves(), torch.randn(96) if biased else None
    frozen, x, gradient = FrozenLinear(weight, bias), torch.randn(rows, 130), torch.randn(96, rows)
    exact = x.double() @ weight.t().double() + (0 if bias is None else bias.double())
    found = frozen.forth(x)
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-5)
    exact = gradient.t().double() @ weight.double()
    torch.testing.assert_close(frozen.back(gradient.t()).double(), exact, atol=1e-4, rtol=1e-5)
    few = rows < SOME or (rows == SOME and threads == 1)
    assert of_halves == ([rows, rows] if HALVES and few else [])


@needs_halves
def test_the_weights_are_read_as_they_are(of_halves: list[int]) -> None:
    weight = some_halves()
    frozen = FrozenLinear(weight)
    assert torch.equal(frozen.forth(torch.eye(130)), weight.t())
    assert torch.equal(frozen.back(torch.eye(96)), weight)
    assert of_halves == [130, 96]


@pytest.mark.parametrize(("outputs", "inputs"), [(4, 0), (0, 4), (3, 513), (513, 1030)])
def test_other_sizes(outputs: int, inputs: int) -> None:
    weight = torch.randn(outputs, inputs).half().float()
    frozen, x = FrozenLinear(weight), torch.randn(FEW, inputs)
    gradient = torch.randn(FEW, outputs)
    for found, exact in (
        (frozen.forth(x), x.double() @ weight.t().double()),
        (frozen.back(gradient), gradient.double() @ weight.double()),
    ):
        torch.testing.assert_close(found.double(), exact, atol=2e-4, rtol=1e-5)


@needs_halves
def test_weights_that_changed_unseen_are_not_rounded(of_halves: list[int]) -> None:
    """What they are is looked at where they are packed, and packing leaves them alone."""
    weight, x = some_halves(), torch.randn(FEW, 130)
    frozen = FrozenLinear(weight)
    weight.data.mul_(1e6)
    before = weight.clone()
    torch.testing.assert_close(frozen.forth(x), x @ before.t())
    assert torch.equal(weight, before)
    assert of_halves == []


@pytest.mark.parametrize("odd", [0.1, 65536.0, float("inf"), float("nan")])
def test_a_number_that_is_no_half_is_not_rounded(odd: float, of_halves: list[int]) -> None:
    weight = some_halves()
    weight[5, 7] = odd
    x = torch.eye(130)[6:9]
    found = FrozenLinear(weight).forth(x)
    torch.testing.assert_close(found, x @ weight.t(), equal_nan=True)
    torch.testing.assert_close(found[1, 5], torch.tensor(odd), equal_nan=True)
    assert of_halves == []


@pytest.mark.parametrize("gone", [True, False])
def test_where_it_is_not_offered(monkeypatch: Any, of_halves: list[int], gone: bool) -> None:
    """A later PyTorch has it no more, and for other processors it raises."""

    def refused(*_: Any) -> torch.Tensor:
        raise RuntimeError("not for this processor")

    name = "fbgemm_pack_gemm_matrix_fp16"
    if gone:
        monkeypatch.delattr(torch, name, raising=False)
    else:
        monkeypatch.setattr(torch, name, refused, raising=False)
    offered = frozen_linear._reads_halves.__wrapped__()
    assert not offered
    monkeypatch.setattr(frozen_linear, "_reads_halves", lambda: offered)
    weight, x = some_halves(), torch.randn(FEW, 130)
    torch.testing.assert_close(FrozenLinear(weight).forth(x), x @ weight.t())
    assert of_halves == []


@needs_halves
def test_it_is_found_whatever_the_default_type() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert frozen_linear._reads_halves.__wrapped__()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore:TF32")
def test_one_may_forbid_it(of_halves: list[int]) -> None:
    weight, x = some_halves(), torch.randn(FEW, 130)
    with torch.backends.mkldnn.flags(enabled=False):
        found = FrozenLinear(weight).forth(x)
    torch.testing.assert_close(found, x @ weight.t())
    assert of_halves == []


@pytest.mark.parametrize("name", pretrained_names())
def test_shipped_predictors_are_of_halves(name: str) -> None:
    """They were saved so, and planning on a processor is faster for it."""
    model, _ = load_checkpoint(name)
    matrices = {k: v for k, v in model.predictor.named_parameters() if v.ndim == 2}
    assert matrices
    assert [k for k, v in matrices.items() if not frozen_linear.holds_halves(v)] == []
