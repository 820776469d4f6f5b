"""Losses on sequences of tokens: the student learns the teacher's next-token distributions, or its text.

Logits have the shape (batch, tokens, vocabulary); position t holds the prediction that is judged at t, so shift
before calling. Only tokens whose mask is True count: the results are means over them, 0 with a gradient of 0 where
there is none, and what stands at the other positions (NaN too) reaches neither the loss nor the gradient.
Precision and gradients are those of the response losses.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from edgedistill.distillation.losses.numerics import (
    demand,
    exact,
    exact_pair,
    log_probabilities,
    mean_over,
    relative_entropy,
)


def forward_kl(
    student: Float[Tensor, "batch tokens vocabulary"],
    teacher: Float[Tensor, "batch tokens vocabulary"],
    mask: Bool[Tensor, "batch tokens"] | None = None,
    *,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), in nats: the student covers all the teacher's modes.

    A word that the student's own mask rules out (a logit of -inf) is taken from the teacher's distribution too,
    which would cost an infinity that no step can lower; a token for which no word is left is NaN.
    Source: Y. Kim, A. M. Rush, "Sequence-Level Knowledge Distillation", 2016 (word level); T^2 as Hinton and
    others, 2015.

    Raises:
        ValueError: the temperature is not positive and finite, or the shapes are unequal or empty.
    """
    own, wanted = _counted_logits(student, teacher, mask)
    log_wanted = log_probabilities(_within(wanted, own), temperature)
    costs = relative_entropy(log_wanted, log_probabilities(own, temperature))
    return _token_mean(costs, mask) * temperature**2


def reverse_kl(
    student: Float[Tensor, "batch tokens vocabulary"],
    teacher: Float[Tensor, "batch tokens vocabulary"],
    mask: Bool[Tensor, "batch tokens"] | None = None,
    *,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """T^2 * KL(softmax(student / T) || softmax(teacher / T)), in nats: the student keeps to the teacher's main modes.

    A word that the teacher's mask rules out (a logit of -inf) is taken from the student's distribution too, which
    would cost an infinity otherwise; a token for which no word is left is NaN.
    Source: Y. Gu, L. Dong, F. Wei, M. Huang, "MiniLLM: Knowledge Distillation of Large Language Models", 2024.

    Raises:
        ValueError: the temperature is not positive and finite, or the shapes are unequal or empty.
    """
    own, wanted = _counted_logits(student, teacher, mask)
    log_own = log_probabilities(_within(own, wanted), temperature)
    costs = relative_entropy(log_own, log_probabilities(wanted, temperature))
    return _token_mean(costs, mask) * temperature**2


def jensen_shannon(
    student: Float[Tensor, "batch tokens vocabulary"],
    teacher: Float[Tensor, "batch tokens vocabulary"],
    mask: Bool[Tensor, "batch tokens"] | None = None,
    *,
    beta: float = 0.5,
) -> Float[Tensor, ""]:
    """Beta * KL(P || M) + (1 - beta) * KL(Q || M), in nats, with M = beta * P + (1 - beta) * Q.

    P is the teacher's and Q the student's distribution. Beta 0 and 1 mean `forward_kl` and `reverse_kl`: the formula
    itself is 0 there, and these are its limits when divided by beta and by 1 - beta.
    Source: R. Agarwal and others, "On-Policy Distillation of Language Models: Learning from Self-Generated
    Mistakes", 2024.

    Raises:
        ValueError: beta is not in [0, 1], or the shapes are unequal or empty.
    """
    demand(0 <= beta <= 1, "beta", "in [0, 1]", beta)
    if beta == 0:
        return forward_kl(student, teacher, mask)
    if beta == 1:
        return reverse_kl(student, teacher, mask)
    log_q, log_p = (log_probabilities(logits) for logits in _counted_logits(student, teacher, mask))
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    costs = beta * relative_entropy(log_p, log_m) + (1 - beta) * relative_entropy(log_q, log_m)
    return _token_mean(costs, mask)


def sequence_cross_entropy(
    student: Float[Tensor, "batch tokens vocabulary"],
    tokens: Int[Tensor, "batch tokens"],
    mask: Bool[Tensor, "batch tokens"] | None = None,
) -> Float[Tensor, ""]:
    """-log softmax(student)[token], in nats: with text that the teacher wrote, distillation at sequence level.

    Where the mask is False, `tokens` may hold any number.
    Source: Y. Kim, A. M. Rush, "Sequence-Level Knowledge Distillation", 2016.

    Raises:
        ValueError: the mask's shape is not (batch, tokens).
    """
    index = tokens.long() if mask is None else tokens.long().masked_fill(~mask, 0)
    log_p = functional.log_softmax(_counted(exact(student), mask), dim=-1)
    return _token_mean(-log_p.gather(-1, index[..., None])[..., 0], mask)


def _counted_logits(
    student: Tensor, teacher: Tensor, mask: Tensor | None
) -> tuple[Float[Tensor, "batch tokens vocabulary"], Float[Tensor, "batch tokens vocabulary"]]:
    own, wanted = exact_pair(student, teacher)
    return _counted(own, mask), _counted(wanted, mask)


def _counted(
    logits: Float[Tensor, "batch tokens vocabulary"], mask: Bool[Tensor, "batch tokens"] | None
) -> Float[Tensor, "batch tokens vocabulary"]:
    """The logits with zeros where a token does not count: times a mask of 0, NaN would stay NaN."""
    if mask is None:
        return logits
    demand(mask.shape == logits.shape[:2], "mask's shape", f"{tuple(logits.shape[:2])}", tuple(mask.shape))
    return logits.masked_fill(~mask[..., None], 0)


def _within(
    logits: Float[Tensor, "batch tokens vocabulary"], other: Float[Tensor, "batch tokens vocabulary"]
) -> Float[Tensor, "batch tokens vocabulary"]:
    """The logits without the words that the other side rules out."""
    return logits.masked_fill(other == -torch.inf, -torch.inf)


def _token_mean(costs: Float[Tensor, "batch tokens"], mask: Bool[Tensor, "batch tokens"] | None) -> Float[Tensor, ""]:
    return costs.mean() if mask is None else mean_over(mask, costs)
