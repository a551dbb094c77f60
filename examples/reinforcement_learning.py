"""Reinforcement learning (PPO on a pole to balance): which of the three batch sizes is ours?

Rollout size: what is collected (2 048 steps here). Batch size: what one pass over it uses, the
same 2 048. Mini-batch size: what one gradient step uses. Ours is the last. The rollout is frozen
and handed over as a data set. python examples/reinforcement_learning.py
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchfinder import find_batch_size

POLES, STEPS = 32, 64


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.policy, self.value = nn.Linear(64, 2), nn.Linear(64, 1)

    def forward(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.body(state)
        return self.policy(hidden).log_softmax(-1), self.value(hidden).squeeze(-1)


def move(state: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Barto, Sutton and Anderson's cart and pole: the next states, and which have fallen."""
    x, speed, angle, spin = state.unbind(-1)
    push = (20.0 * action - 10 + 0.05 * spin**2 * angle.sin()) / 1.1
    turn = (9.8 * angle.sin() - angle.cos() * push) / (2 / 3 - 0.05 * angle.cos() ** 2 / 1.1)
    drive = push - 0.05 * turn * angle.cos() / 1.1
    after = torch.stack(
        [x + 0.02 * speed, speed + 0.02 * drive, angle + 0.02 * spin, spin + 0.02 * turn], -1
    )
    return after, (after[:, 0].abs() > 2.4) | (after[:, 2].abs() > 0.21)


@torch.no_grad()
def rollout(model: ActorCritic) -> TensorDataset:
    state, kept = torch.rand(POLES, 4) * 0.1 - 0.05, []
    for _ in range(STEPS):
        chances, _ = model(state)
        action = torch.distributions.Categorical(logits=chances).sample()
        after, fallen = move(state, action)
        kept.append((state, action, chances.gather(-1, action[:, None]).squeeze(-1), fallen))
        state = torch.where(fallen[:, None], torch.rand(POLES, 4) * 0.1 - 0.05, after)
    states, actions, chances, fallen = (torch.stack(part) for part in zip(*kept, strict=True))
    returns, following = torch.zeros(STEPS, POLES), model(state)[1]
    for step in reversed(range(STEPS)):
        following = returns[step] = 1 + 0.99 * following * ~fallen[step]
    return TensorDataset(*(part.flatten(0, 1) for part in (states, actions, chances, returns)))


def ppo(model: ActorCritic, batch: list[torch.Tensor]) -> torch.Tensor:
    state, action, before, returns = batch
    chances, value = model(state)
    ratio = (chances.gather(-1, action[:, None]).squeeze(-1) - before).exp()
    gain = (returns - value).detach() / 10
    clipped = torch.min(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
    return 0.01 * nn.functional.mse_loss(value, returns) - clipped


def main() -> None:
    torch.manual_seed(0)
    model = ActorCritic()
    loader, rate = DataLoader(rollout(model), batch_size=64, shuffle=True), 3e-4
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    print(find_batch_size(model, loader, train_step=ppo, optimizer=optimizer, budget_seconds=10))


if __name__ == "__main__":
    main()
