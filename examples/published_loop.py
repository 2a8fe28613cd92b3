"""The planning loop as published code has it, to time the library's against; see benchmark.py.

The same weights and the same problem, and these habits: the frames are encoded anew in every step
of the optimiser and for every sample, parameters collect gradients, attention multiplies, masks
and normalises whole matrices, all frames pass through all layers in float32.
"""

import torch
from torch import Tensor

from gbp_agent import PatchWorldModel
from gbp_agent.networks.frame_causal import Attention, FrameCausalViT
from gbp_agent.networks.vit import PatchPredictor
from gbp_agent.types import Latent


def rollout(model: PatchWorldModel, pixels: Tensor, proprio: Tensor, actions: Tensor) -> Latent:
    """Frames (N, T, S, S, 3), proprioception (N, T, p) and model actions (N, T-1+H, M), past ones
    first → Latent (N, H)."""
    predictor, history = model.predictor, model.history
    frames = list(predictor.merge(*model.encode(pixels, proprio)).unbind(1))
    embedded = predictor.embed(actions)
    begun = len(frames)
    for step in range(begun, begun + actions.shape[1] - history + 1):
        seen = slice(step - history, step)
        frames.append(next_frame(predictor, torch.stack(frames[seen], 1), embedded[:, seen]))
    return Latent(*predictor.separate(torch.stack(frames[begun:], 1)))


def next_frame(predictor: PatchPredictor, frames: Tensor, actions: Tensor) -> Tensor:
    """Carried frames (N, T, P, ·) and embedded actions (N, T, ·) → the next one; "concat" alone."""
    spread = actions.unsqueeze(2).expand(-1, -1, frames.shape[2], -1)
    found = transform(predictor.vit, torch.cat([frames, spread], -1))
    return found[:, -1, :, : predictor.carried]


def transform(vit: FrameCausalViT, frames: Tensor) -> Tensor:
    """Every frame through every layer: (N, T, P, W) → (N, T, P, W)."""
    count, tokens = frames.shape[1:3]
    frame = torch.arange(count * tokens, device=frames.device) // tokens
    hidden = frame[:, None] < frame[None]
    x = (frames + vit.position[:count]).flatten(1, 2)
    for attention, mlp in zip(vit.attention, vit.mlp, strict=True):
        x = x + attend(attention, x, hidden)
        x = x + mlp(x)
    out: Tensor = vit.norm(x).unflatten(1, (count, tokens))
    return out


def attend(attention: Attention, x: Tensor, hidden: Tensor) -> Tensor:
    """Softmax of the masked products, (N, t·P, W) → (N, t·P, W)."""
    q, k, v = (
        part.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for part in attention.to_qkv(attention.norm(x)).chunk(3, -1)
    )
    weight = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).masked_fill(hidden, -torch.inf)
    out: Tensor = attention.out((weight.softmax(-1) @ v).transpose(1, 2).flatten(2))
    return out


def goal_cost(predicted: Latent, goal: Latent) -> Tensor:
    """Mean squared distance of the last frame to the goal (1,) → (N,)."""
    visual = (predicted.visual[:, -1] - goal.visual).square().mean((1, 2))
    return visual + (predicted.proprio[:, -1] - goal.proprio).square().mean(1)


def gradient_step(
    model: PatchWorldModel,
    problem: dict[str, Tensor],
    goal: Latent,
    plan: Tensor,
    optimizer: torch.optim.Optimizer,
) -> None:
    """One step of the plan (1, H, M) of one problem; the model's parameters require gradients."""
    optimizer.zero_grad()
    actions = torch.cat([problem["past"], plan], 1)
    predicted = rollout(model, problem["pixels"], problem["proprio"], actions)
    goal_cost(predicted, goal).sum().backward()
    optimizer.step()


@torch.no_grad()
def sampled_costs(
    model: PatchWorldModel, problem: dict[str, Tensor], goal: Latent, plans: Tensor
) -> Tensor:
    """Costs (S,) of plans (S, H, M): an iteration of CEM without its statistics."""
    pixels, proprio, past = (
        problem[key].expand(len(plans), *problem[key].shape[1:])
        for key in ("pixels", "proprio", "past")
    )
    return goal_cost(rollout(model, pixels, proprio, torch.cat([past, plans], 1)), goal)
