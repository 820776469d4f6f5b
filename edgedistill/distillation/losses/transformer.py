"""Transformer losses: hidden states, attention scores and relations between tokens.

All return a scalar in the student's precision, at least float32; no gradient reaches the teacher. A mask is True
where a token counts; the others may hold anything, even NaN, and get no gradient. Nothing counted costs 0.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from edgedistill.distillation.losses.feature import full_precision, require_equal

MASKED_SCORE = -100.0  # an attention score from here down says "masked", not how strongly


def tinybert_hidden(
    student: Float[Tensor, "batch tokens width"],
    teacher: Float[Tensor, "batch tokens width"],
    mask: Bool[Tensor, "batch tokens"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of (student - teacher)^2 over the elements of the tokens that count.

    For hidden states and for embeddings; a student of another width is projected first.
    Source: X. Jiao et al., "TinyBERT: Distilling BERT for Natural Language Understanding", 2020.

    Raises:
        ValueError: the shapes differ, the mask has another shape than the tokens, or a tensor is empty.
    """
    require_equal("shapes", student.shape, teacher.shape)
    counted = _counted(mask, student)[:, :, None]
    student, teacher = full_precision(student, teacher)
    return _mean(torch.where(counted, student - teacher, 0.0).square(), counted)


def tinybert_attention(
    student: Float[Tensor, "batch heads tokens tokens"],
    teacher: Float[Tensor, "batch heads tokens tokens"],
    mask: Bool[Tensor, "batch tokens"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of (student - teacher)^2 over the attention scores before the softmax; scores <= -100 become 0.

    The replacement keeps additive masks such as -10000 or -inf out. A mask leaves out the pairs whose query or key
    does not count.
    Source: X. Jiao et al., "TinyBERT: Distilling BERT for Natural Language Understanding", 2020, and the authors'
    code (the replacement).

    Raises:
        ValueError: the shapes differ, the mask has another shape than the tokens, or a tensor is empty.
    """
    require_equal("shapes", student.shape, teacher.shape)
    counted = _counted(mask, student[:, 0])
    student, teacher = (torch.where(scores <= MASKED_SCORE, 0.0, scores) for scores in full_precision(student, teacher))
    pairs = counted[:, None, :, None] & counted[:, None, None, :]
    return _mean(torch.where(pairs, student - teacher, 0.0).square(), pairs)


def minilm_relation(
    student: Float[Tensor, "batch tokens student_width"],
    teacher: Float[Tensor, "batch tokens teacher_width"],
    mask: Bool[Tensor, "batch tokens"] | None = None,
    *,
    relation_heads: int,
) -> Float[Tensor, ""]:
    """Mean over relation heads and rows of KL(teacher || student) between the tokens' self-relations.

    The vectors (all heads' values, queries or keys, concatenated) are split anew into the same number of relation
    heads for both, so widths and numbers of attention heads may differ. A head's relation is the row-wise softmax
    of X X^T / sqrt(head width). MiniLMv2 adds the losses of the queries, of the keys and of the values.
    Source: W. Wang et al., "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
    Transformers", 2021.

    Raises:
        ValueError: the relation heads do not divide both widths, batch or tokens differ, the mask has another shape
            than the tokens, or a tensor is empty.
    """
    return _relation_divergence((student, student), (teacher, teacher), mask, relation_heads)


def minilm(
    student_queries: Float[Tensor, "batch tokens student_width"],
    student_keys: Float[Tensor, "batch tokens student_width"],
    student_values: Float[Tensor, "batch tokens student_width"],
    teacher_queries: Float[Tensor, "batch tokens teacher_width"],
    teacher_keys: Float[Tensor, "batch tokens teacher_width"],
    teacher_values: Float[Tensor, "batch tokens teacher_width"],
    mask: Bool[Tensor, "batch tokens"] | None = None,
    *,
    relation_heads: int,
) -> Float[Tensor, ""]:
    """Attention transfer plus value relations, as in MiniLM, of one layer (the last, says the paper).

    Both terms are the mean over heads and rows of KL(teacher || student); the first is between the row-wise softmax
    of Q K^T / sqrt(head width), the second between that of V V^T / sqrt(head width). `minilm_relation` says how
    vectors become heads.
    Source: W. Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
    Transformers", 2020.

    Raises:
        ValueError: as in `minilm_relation`.
    """
    attention = _relation_divergence(
        (student_queries, student_keys), (teacher_queries, teacher_keys), mask, relation_heads
    )
    return attention + minilm_relation(student_values, teacher_values, mask, relation_heads=relation_heads)


def _relation_divergence(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], mask: Tensor | None, heads: int
) -> Tensor:
    for own, wanted in zip(student, teacher, strict=True):
        require_equal("batch and tokens", own.shape[:2], wanted.shape[:2])
    counted = _counted(mask, student[0])
    queries, keys = (full_precision(own, wanted) for own, wanted in zip(student, teacher, strict=True))
    log_student, log_teacher = (_log_relation(*pair, counted, heads) for pair in zip(queries, keys, strict=True))
    rows = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=-1)
    return _mean(rows, counted[:, None, :])


def _log_relation(queries: Tensor, keys: Tensor, counted: Tensor, heads: int) -> Tensor:
    """Log of the row-wise softmax of the scaled dot products, (batch, heads, tokens, tokens)."""
    queries, keys = (_split(torch.where(counted[:, :, None], vectors, 0.0), heads) for vectors in (queries, keys))
    with torch.autocast(device_type=queries.device.type, enabled=False):
        scores = (queries / math.sqrt(queries.shape[-1])) @ keys.mT
    # Finite, so that a row without any key that counts is uniform and not NaN; half, so that it can't overflow.
    never = torch.finfo(scores.dtype).min / 2
    return scores.masked_fill(~counted[:, None, None, :], never).log_softmax(dim=-1)


def _split(vectors: Tensor, heads: int) -> Tensor:
    batch, tokens, width = vectors.shape
    if heads < 1 or width % heads:
        raise ValueError(f"relation_heads must divide the width {width}, got {heads}")
    return vectors.reshape(batch, tokens, heads, width // heads).transpose(1, 2)


def _counted(mask: Tensor | None, tokens: Tensor) -> Tensor:
    if mask is None:
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    require_equal("batch and tokens in the mask", tokens.shape[:2], mask.shape)
    return mask


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of the values that count; a row of softmaxes that doesn't may hold any finite number."""
    counted = counted.expand_as(values)
    return torch.where(counted, values, 0.0).sum() / counted.sum().clamp(min=1)
