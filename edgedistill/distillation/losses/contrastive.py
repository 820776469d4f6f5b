"""Contrastive representation distillation: a sample's two embeddings lie closer than those of different samples."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from edgedistill.distillation.losses.geometry import inner_products, unit_rows
from edgedistill.distillation.losses.numerics import demand, demand_positive


class ContrastiveMemory(nn.Module):
    """The CRD loss, with its two embedding heads and its two memories of every training sample's embeddings.

    An anchor embedding v of sample i is compared by s(u) = exp(<u, v> / temperature) / Z with the other model's
    memory u_i of the same sample and with those of `negatives` others, drawn evenly and with replacement:

        loss(v) = -log(s(u_i) / (s(u_i) + c)) - sum over negatives k of log(c / (s(u_k) + c)),  c = negatives / samples.

    The result is the mean over the batch of the student's anchors' losses plus that of the teacher's. The constants Z
    (one per memory) are samples * mean of exp(<u, v> / temperature) over the first training batch, and then stay.
    In train mode each memory then moves towards the batch's embeddings: u <- unit(momentum * u + (1 - momentum) * v);
    so a sample should come once per batch. In eval mode nothing changes.

    The negatives follow from the seed and the number of training steps, and everything that changes is in the state,
    so training goes on from a stored state as if it had never stopped.
    Source: Y. Tian, D. Krishnan, P. Isola, "Contrastive Representation Distillation", 2020.

    Args:
        samples: training samples, the memories' rows.
        student_width: features of one student sample, flattened.
        teacher_width: features of one teacher sample, flattened.
        dim: width of the embeddings.
        negatives: others that each anchor is compared with; at most 16384, and never more than there are, by default.
        temperature: how sharply similarities tell samples apart.
        momentum: share of a memory that stays when its sample is seen.
        seed: of the memories' first directions and of the negatives.

    Raises:
        ValueError: fewer than 2 samples, a width or number of negatives below 1, a temperature that is not positive,
            a momentum outside [0, 1), or a seed below 0.
    """

    student_memory: Tensor
    teacher_memory: Tensor
    log_partitions: Tensor
    step: Tensor

    def __init__(
        self,
        samples: int,
        student_width: int,
        teacher_width: int,
        *,
        dim: int = 128,
        negatives: int | None = None,
        temperature: float = 0.07,
        momentum: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        negatives = min(16384, samples - 1) if negatives is None else negatives
        demand(samples > 1, "samples", "at least 2", samples)
        for name, size in (("student_width", student_width), ("teacher_width", teacher_width), ("dim", dim)):
            demand(size > 0, name, "at least 1", size)
        demand(negatives > 0, "negatives", "at least 1", negatives)
        demand_positive("temperature", temperature)
        demand(0 <= momentum < 1, "momentum", "at least 0 and below 1", momentum)
        demand(seed >= 0, "seed", "at least 0", seed)
        self.negatives, self.temperature, self.momentum, self.seed = negatives, temperature, momentum, seed
        self.student_head = nn.Linear(student_width, dim)
        self.teacher_head = nn.Linear(teacher_width, dim)
        generator = torch.Generator().manual_seed(seed)
        for name in ("student_memory", "teacher_memory"):
            self.register_buffer(name, unit_rows(torch.randn(samples, dim, generator=generator)))
        self.register_buffer("log_partitions", torch.zeros(2))  # of the student's and the teacher's memory
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        student: Float[Tensor, " batch *student_features"],
        teacher: Float[Tensor, " batch *teacher_features"],
        rows: Int[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """The loss of a batch, `rows` being its samples' numbers in the training set; in train mode, learn it.

        Raises:
            ValueError: the batch is empty, the three differ in length, or a row is outside the memory.
        """
        self._check_batch(student, teacher, rows)
        step = int(self.step)
        rows = rows.to(self.student_memory.device, torch.int64)
        own, others = _embedded(self.student_head, student), _embedded(self.teacher_head, teacher.detach())
        chosen = torch.cat([rows[:, None], self._others(rows, step)], dim=1)
        scores = (
            self._scores(others, self.student_memory, chosen),
            self._scores(own, self.teacher_memory, chosen),
        )
        log_partitions = self.log_partitions if step else self._first_log_partitions(*scores)
        losses = [self._told_apart(*each) for each in zip(scores, log_partitions.unbind(), strict=True)]
        if self.training:
            self.log_partitions.copy_(log_partitions)
            self.step += 1
            self._remember(self.student_memory, rows, own.detach())
            self._remember(self.teacher_memory, rows, others.detach())
        return losses[0] + losses[1]

    def _check_batch(self, student: Tensor, teacher: Tensor, rows: Tensor) -> None:
        sizes = f"{len(student)}, {len(teacher)} and {len(rows)}"
        same = len(student) == len(teacher) == len(rows) > 0
        demand(same, "samples of student, teacher and rows", "as many, at least 1", sizes)
        low, high, samples = int(rows.min()), int(rows.max()), len(self.student_memory)
        demand(0 <= low <= high < samples, "rows", f"from 0 to {samples - 1}, the memory's last", f"{low} to {high}")

    def _others(self, rows: Tensor, step: int) -> Tensor:
        """(batch, negatives) rows, none of them the anchor's own."""
        mixed = int(np.random.SeedSequence((self.seed, step)).generate_state(1, np.uint64)[0])
        generator = torch.Generator(rows.device).manual_seed(mixed)
        size = (len(rows), self.negatives)
        drawn = torch.randint(len(self.student_memory) - 1, size, generator=generator, device=rows.device)
        return drawn + (drawn >= rows[:, None])

    def _scores(self, embeddings: Tensor, memory: Tensor, chosen: Tensor) -> Tensor:
        """(batch, 1 + negatives): <u, v> / temperature of the chosen rows u, the anchor's own first.

        The product with the whole memory is (batch, samples); gathering the rows first would take dim times more
        than the result, (batch, negatives, dim). The copy is what the gradient needs when the memory has moved on.
        """
        products = inner_products(embeddings, memory.to(embeddings.dtype, copy=True))
        return products.gather(1, chosen) / self.temperature

    def _first_log_partitions(self, of_student: Tensor, of_teacher: Tensor) -> Tensor:
        scores = torch.stack([of_student.detach().flatten(), of_teacher.detach().flatten()])
        return scores.logsumexp(dim=1) + math.log(len(self.student_memory) / of_student.numel())

    def _told_apart(self, scores: Tensor, log_partition: Tensor) -> Tensor:
        """Mean over the batch of the binary cross-entropies, with log(s / c) as the logit of "its own"."""
        logits = scores - log_partition - math.log(self.negatives / len(self.student_memory))
        return -(functional.logsigmoid(logits[:, 0]) + functional.logsigmoid(-logits[:, 1:]).sum(dim=1)).mean()

    def _remember(self, memory: Tensor, rows: Tensor, embeddings: Tensor) -> None:
        kept = self.momentum * memory[rows].to(embeddings.dtype)
        memory[rows] = unit_rows(kept + (1 - self.momentum) * embeddings).to(memory.dtype)


def _embedded(head: nn.Linear, features: Tensor) -> Tensor:
    """Rows of norm 1, at least in float32, inside autocast too."""
    exact = torch.promote_types(torch.promote_types(features.dtype, head.weight.dtype), torch.float32)
    flat = features.reshape(len(features), -1).to(exact)
    return unit_rows(inner_products(flat, head.weight.to(exact)) + head.bias.to(exact))
