"""The patch-token world model: its arithmetic against plain formulas, and its encoder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from gbp_agent import PatchConfig, PatchWorldModel
from gbp_agent.networks import PatchDecoder, PatchEncoder
from gbp_agent.networks.frame_causal import FrameCausalViT, attend
from gbp_agent.patch import load_encoder
from gbp_agent.types import Latent

ENV = {"env_id": "gbp/Wall-v0", "proprio_dim": 2, "action_low": (-2.0,) * 2}
NARROW = {"patch_size": 8, "depth": 1, "num_heads": 2}
BOX = {**ENV, "action_high": (2.0,) * 2}


def frames(rows: int, count: int, size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (rows, count, size, size, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return pixels, torch.randn(rows, count, 2, generator=generator)


def actions(rows: int, count: int, width: int = 4) -> Tensor:
    return torch.randn(rows, count, width, generator=torch.Generator().manual_seed(4))


def plain_transformer(vit: FrameCausalViT, x: Tensor) -> Tensor:
    """The published formulas, with one big masked attention: tokens (N, t, P, W) → all frames."""
    rows, count, tokens, width = x.shape
    mask = torch.ones(count, count).tril().repeat_interleave(tokens, 0)
    mask = mask.repeat_interleave(tokens, 1)
    x = (x + vit.position[:count]).reshape(rows, count * tokens, width)
    for attention, mlp in zip(vit.attention, vit.mlp, strict=True):
        seen = F.layer_norm(x, (width,), attention.norm.weight, attention.norm.bias)
        q, k, v = (seen @ attention.to_qkv.weight.T).chunk(3, -1)
        heads = []
        for part in torch.arange(q.shape[-1]).chunk(attention.heads):
            score = q[..., part] @ k[..., part].transpose(1, 2) / len(part) ** 0.5
            weight = score.masked_fill(mask == 0, -torch.inf).softmax(-1)
            heads.append(weight @ v[..., part])
        x = x + torch.cat(heads, -1) @ attention.out.weight.T + attention.out.bias
        hidden = F.layer_norm(x, (width,), mlp[0].weight, mlp[0].bias)
        hidden = F.gelu(hidden @ mlp[1].weight.T + mlp[1].bias)
        x = x + hidden @ mlp[4].weight.T + mlp[4].bias
    return F.layer_norm(x, (width,), vit.norm.weight, vit.norm.bias).unflatten(1, (count, tokens))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_transformer_equals_masked_attention(count: int) -> None:
    vit = FrameCausalViT(4, 12, 3, depth=2, heads=3, head_width=5, mlp_width=16, dropout=0.1)
    x = torch.randn(2, count, 4, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(vit.eval()(x), plain_transformer(vit, x)[:, -1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_and_its_gradient(dtype: torch.dtype) -> None:
    """Within what rounding to the type does, also where autocast is on."""
    random = torch.Generator().manual_seed(1)
    shapes = ((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8), (2, 3, 5, 8))
    q, k, v, upstream = (torch.randn(shape, generator=random).to(dtype) for shape in shapes)

    def outcome(given: tuple[Tensor, ...], attention: Any) -> tuple[Tensor, ...]:
        leaves = [part.clone().requires_grad_(True) for part in given]
        out = attention(*leaves)
        return (out, *torch.autograd.grad(out, leaves, upstream.to(out.dtype)))

    exact = outcome((q.double(), k.double(), v.double()), F.scaled_dot_product_attention)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = outcome((q, k, v), attend)
    tolerance = 4 * torch.finfo(dtype).eps
    for part, expected in zip(found, exact, strict=True):
        assert part.dtype == dtype
        torch.testing.assert_close(part.double(), expected, rtol=tolerance, atol=tolerance)


def test_attention_drops_out() -> None:
    ones = torch.ones(1, 1, 400, 8, dtype=torch.bfloat16)
    dropped = attend(ones, ones, ones, dropout=0.5)
    assert dropped.std() > 0.02
    assert dropped.float().mean() == pytest.approx(1, abs=0.05)


def test_rollout_equals_the_published_loop(make_patch_model: Any) -> None:
    """Tokens, proprioception and action side by side; each frame's action is overwritten by the
    plan's before the next is predicted."""
    model = make_patch_model(history=3)
    pixels, proprio = frames(2, 3)
    start, plan = model.encode(pixels, proprio), actions(2, 6)
    found = model.rollout(start, plan[:, :2], plan[:, 2:])
    embedded = plan @ model.predictor.action_embedding.weight.T
    embedded = embedded + model.predictor.action_embedding.bias

    def whole(frame: Tensor, step: int) -> Tensor:
        return torch.cat([frame, embedded[:, step, None].expand(-1, 4, -1)], -1)

    spread = start.proprio.unsqueeze(2).expand(-1, -1, 4, -1)
    known = torch.cat([start.visual, spread], -1)
    z = torch.stack([whole(known[:, t], t) for t in range(3)], 1)
    carried = known.shape[-1]
    for step in range(3, 7):
        new = plain_transformer(model.predictor.vit, z[:, -3:])[:, -1, :, :carried]
        torch.testing.assert_close(found.visual[:, step - 3], new[..., :8])
        torch.testing.assert_close(found.proprio[:, step - 3], new[:, 0, 8:])
        if step < 6:
            z = torch.cat([z, whole(new, step).unsqueeze(1)], 1)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("placement", ["concat", "tokens"])
@pytest.mark.parametrize("begun", [1, 2])
def test_predict_is_one_step_of_a_rollout(
    make_patch_model: Any, placement: str, residual: bool, begun: int
) -> None:
    """Also from fewer frames than the model can take."""
    model = make_patch_model(history=2, placement=placement, residual=residual)
    pixels, proprio = frames(3, begun)
    start, taken = model.encode(pixels, proprio), actions(3, begun)
    expected = model.rollout(start, taken[:, :-1], taken[:, -1:])
    found = model.predict(start, model.embed_actions(taken))
    torch.testing.assert_close(found.visual, expected.visual[:, 0])
    torch.testing.assert_close(found.proprio, expected.proprio[:, 0])
    assert found.proprio.shape == (3, model.encode(pixels, proprio).proprio.shape[-1])


def test_the_encoder_sees_resized_and_normalised_pictures(make_patch_model: Any) -> None:
    model = make_patch_model(image_size=32, pixel_mean=(0.2, 0.3, 0.4), pixel_std=(1.0, 2.0, 4.0))
    pixels, proprio = frames(1, 1, size=32)
    picture = pixels[0].permute(0, 3, 1, 2).float() / 255
    picture = F.interpolate(picture, (16, 16), mode="bilinear", antialias=True)
    picture = picture - torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    picture = picture / torch.tensor([1.0, 2.0, 4.0])[:, None, None]
    expected = model.encoder.network.forward_features(picture)[:, 1:]  # without the class token
    torch.testing.assert_close(model.encode(pixels, proprio).visual[0], expected)


def test_what_can_be_trained(make_patch_model: Any) -> None:
    model = make_patch_model()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"predictor", "decoder", "proprio_embedding"}


def test_pictures_come_back_in_the_env_size(make_patch_model: Any) -> None:
    model = make_patch_model(image_size=32)
    latent = model.encode(*frames(2, 3, size=32))
    assert model.decode(latent).shape == (2, 3, 32, 32, 3)
    assert model.decode(latent).dtype == torch.uint8
    with pytest.raises(ValueError, match="has no decoder"):
        make_patch_model(decoder_width=0).decode(Latent(*(part[..., :] for part in latent)))


def test_weights_from_a_local_file(make_patch_model: Any, tmp_path: Path) -> None:
    theirs, ours = make_patch_model(seed=1), make_patch_model(seed=2)
    file = tmp_path / "weights.safetensors"
    save_file(theirs.encoder.network.state_dict(), file)
    load_encoder(ours, file)
    pixels, proprio = frames(1, 1)
    expected = theirs.encode(pixels, proprio).visual
    torch.testing.assert_close(ours.encode(pixels, proprio).visual, expected)


def test_weights_that_do_not_fit(make_patch_model: Any, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(make_patch_model(seed=1).encoder.network.state_dict(), file)
    wider = make_patch_model(encoder_options={**NARROW, "embed_dim": 16})
    with pytest.raises(ValueError, match=r"weights\.safetensors do not fit"):
        load_encoder(wider, file)
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"weights\.safetensors do not fit") as caught:
        load_encoder(wider, file)
    assert "\n" not in str(caught.value)
    torch.save({"weight": print}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"code\.pth do not fit"):
        load_encoder(wider, tmp_path / "code.pth")
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors is not there"):
        load_encoder(wider, tmp_path / "none.safetensors")


@pytest.mark.parametrize("name", ["pretrained", "pretrained_cfg_overlay", "checkpoint_path"])
def test_options_choose_no_weights(name: str, make_patch_model: Any) -> None:
    """They come with a checkpoint, which may be anybody's."""
    with pytest.raises(ValueError, match=f"may not say where weights are .{name}."):
        make_patch_model(encoder_options={**NARROW, name: "http://somewhere/weights.pt"})


def test_no_network_for_published_weights(
    make_patch_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="give a local file of them"):
        load_encoder(make_patch_model())


@pytest.mark.parametrize(
    ("name", "size", "error", "message"),
    [
        ("no_such_model", 16, KeyError, "timm has no model"),
        ("resnet18", 16, ValueError, "give a vision transformer"),
        ("vit_tiny_patch16_224", 20, ValueError, "multiple of the patch size"),
    ],
)
def test_encoders_without_patch_tokens(
    name: str, size: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        PatchEncoder(name, size, {"patch_size": 8} if "vit" in name else {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{"placement": "beside"}, {"interpolation": "cubic"}, {"dropout": 1.0}, {"heads": 0}]
)
def test_bad_shapes(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        PatchWorldModel(PatchConfig(**{**BOX, **changes}))


def test_decoded_objects_stand_before_a_background() -> None:
    decoder = PatchDecoder(8, grid=2, patch=4, width=4)
    tokens = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    background = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = decoder(tokens)
        decoder.background.copy_(background)
        assert torch.allclose(decoder(tokens), before + background, atol=1e-6)


def test_other_families_do_without_timm() -> None:
    """Importing it takes as long as importing all the rest."""
    program = (
        "import sys; from gbp_agent import WorldModelMPCAgent as Agent; "
        "Agent.from_pretrained('wall'); sys.exit('timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
