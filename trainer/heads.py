"""The noise a policy explores with: a Gaussian around the raw output, or a Dirichlet around the portfolio.

Both take the mean raw output (..., N + 2) = asset logits, cash logit, speed and give an action of the same form, which
`features.allocation.target_weights` squashes: a softmax over the logits, a sigmoid of the speed. The squash is fixed,
so densities are taken before it (of the Gaussian) or on the simplex (of the Dirichlet). What trades is the mean.
"""

import math

import torch
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)
SMALLEST_SHARE = 1e-6  # of a sampled portfolio: a share of exactly 0 has no logarithm


class GaussianHead(nn.Module):
    """Independent noise on every number of the raw output: after the squash, a logistic-normal portfolio."""

    def __init__(self, action_size: int, initial_log_std: float) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.full((action_size,), initial_log_std))

    def sample(self, mean: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return mean + noise * self.log_std.exp()

    def log_prob(self, action: Tensor, mean: Tensor) -> Tensor:
        """(...) log density of `action` (..., K)."""
        return gaussian_log_density(action, mean, self.log_std)

    def entropy(self, mean: Tensor) -> Tensor:
        """Of one decision, averaged over the batch."""
        return gaussian_entropy(self.log_std).expand(mean.shape[:-1]).mean()


class DirichletHead(nn.Module):
    """A portfolio drawn from Dirichlet(κ·softmax(logits)), whose mean is the softmax itself; Gaussian speed.

    The precision κ is learned and starts at (N + 1)·exp(−2·initial_log_std): at the equal-weight portfolio a share then
    scatters about as it does under a Gaussian of that deviation on the logits.
    """

    def __init__(self, action_size: int, initial_log_std: float) -> None:
        super().__init__()
        self.log_precision = nn.Parameter(torch.tensor(math.log(action_size - 1) - 2.0 * initial_log_std))
        self.log_std = nn.Parameter(torch.tensor([initial_log_std]))

    def concentration(self, mean: Tensor) -> Tensor:
        """(..., N + 1) parameters of the Dirichlet, at least `SMALLEST_SHARE`."""
        return (self.log_precision.exp() * torch.softmax(mean[..., :-1], dim=-1)).clamp(min=SMALLEST_SHARE)

    def sample(self, mean: Tensor, generator: torch.Generator) -> Tensor:
        # torch.distributions takes no generator
        drawn = torch._standard_gamma(self.concentration(mean), generator=generator)  # noqa: SLF001
        share = (drawn / drawn.sum(-1, keepdim=True).clamp(min=1e-30)).clamp(min=SMALLEST_SHARE)
        noise = torch.randn(mean[..., -1:].shape, generator=generator, device=mean.device)
        return torch.cat([share.log(), mean[..., -1:] + noise * self.log_std.exp()], dim=-1)

    def log_prob(self, action: Tensor, mean: Tensor) -> Tensor:
        """(...) log density of the portfolio on the simplex plus that of the speed."""
        alpha, log_share = self.concentration(mean), torch.log_softmax(action[..., :-1], dim=-1)
        norm = torch.lgamma(alpha.sum(-1)) - torch.lgamma(alpha).sum(-1)
        portfolio = ((alpha - 1.0) * log_share).sum(-1) + norm
        return portfolio + gaussian_log_density(action[..., -1:], mean[..., -1:], self.log_std)

    def entropy(self, mean: Tensor) -> Tensor:
        """Of one decision, averaged over the batch."""
        portfolio: Tensor = torch.distributions.Dirichlet(self.concentration(mean), validate_args=False).entropy()  # type: ignore[no-untyped-call]
        return portfolio.mean() + gaussian_entropy(self.log_std)


def gaussian_log_density(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Of a diagonal Gaussian, summed over the last axis."""
    z = (action - mean) * torch.exp(-log_std)
    return (-0.5 * z.square() - log_std - 0.5 * LOG_2PI).sum(-1)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    return (log_std + 0.5 * (1 + LOG_2PI)).sum()
