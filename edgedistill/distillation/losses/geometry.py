"""How samples lie to one another: inner products, distances and angles of rows, each with a gradient that stays finite.

One idea each, written as an autograd function where the formula's own graph would cost more or divide by zero.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import BackwardCFunction, once_differentiable

_BLOCK = 2**18  # cosines held at once by the angle loss: 2 MB, whatever the batch
_PAIR = 2  # samples from which on there are distances


def unit_rows(rows: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
    """Each row divided by its L2 norm; a row of zeros stays zero and has gradient 0."""
    largest = rows.detach().abs().amax(dim=1, keepdim=True)
    bounded = rows / torch.where(largest > 0, largest, 1)  # the result ignores scale, and no square over- or underflows
    squares = bounded.square().sum(dim=1, keepdim=True)
    return bounded * _inverse_roots(squares)


def inner_products(
    left: Float[Tensor, "*batch rows width"], right: Float[Tensor, "*batch columns width"]
) -> Float[Tensor, "*batch rows columns"]:
    """Left @ right^T in the tensors' own precision, inside autocast too."""
    with torch.autocast(device_type=left.device.type, enabled=False):
        return left @ right.mT


def gram(rows: Float[Tensor, "batch width"]) -> Float[Tensor, "batch batch"]:
    """<x_i, x_j>: the inner products of all pairs of samples."""
    products: Tensor = _Gram.apply(rows)  # type: ignore[no-untyped-call]  # torch leaves `apply` bare
    return products


def cosines(rows: Float[Tensor, "batch width"]) -> Float[Tensor, "batch batch"]:
    """<x_i, x_j> / (||x_i|| ||x_j||); 0, with gradient 0, for a row of zeros."""
    products = gram(rows)
    inverse = _inverse_roots(products.diagonal())  # scaling the products is cheaper than scaling the wide rows
    return products * inverse[:, None] * inverse


def squared_distances(rows: Float[Tensor, "batch width"]) -> Float[Tensor, "batch batch"]:
    """||x_i - x_j||^2 of all pairs of samples, exactly 0 for equal ones."""
    squares: Tensor = _SquaredDistances.apply(rows)  # type: ignore[no-untyped-call]  # torch leaves `apply` bare
    return squares


def angle_loss(student: Float[Tensor, "batch batch"], teacher: Float[Tensor, "batch batch"]) -> Float[Tensor, ""]:
    """Mean over all B^3 triples of huber(cos_ijk - cos'_ijk), from both sides' squared distances.

    cos_ijk is the cosine of the angle at sample j between samples i and k, by the law of cosines
    (q_ij + q_jk - q_ik) / (2 d_ij d_jk) with q = d^2, and 0 where d_ij or d_jk is 0. huber(x) = x^2 / 2 up to
    |x| = 1, |x| - 1/2 beyond. B^3 operations, B^2 memory. No gradient reaches the teacher.
    """
    loss: Tensor = _AngleLoss.apply(student, teacher)  # type: ignore[no-untyped-call]  # torch leaves `apply` bare
    return loss


def _inverse_roots(squares: Tensor) -> Tensor:
    """1 / sqrt(x); 0 with gradient 0 where x is 0."""
    positive = squares > 0
    return torch.where(positive, squares, 1).rsqrt() * positive


class _Gram(Function):
    """F F^T. Its gradient is one product, (g + g^T) F, where autograd takes two."""

    @staticmethod
    def forward(ctx: BackwardCFunction, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return inner_products(rows, rows)

    @staticmethod
    def backward(ctx: BackwardCFunction, *gradients: Tensor) -> Tensor:
        (rows,), (gradient,) = ctx.saved_tensors, gradients
        return inner_products(gradient + gradient.mT, rows.mT)


class _SquaredDistances(Function):
    """The distances from the differences themselves, their gradient by one product.

    From inner products, as ||x_i||^2 + ||x_j||^2 - 2 <x_i, x_j>, close samples would lose their distance to
    cancellation and equal ones be at a small wrong distance.
    """

    @staticmethod
    def forward(ctx: BackwardCFunction, rows: Tensor) -> Tensor:
        batch = rows.shape[0]
        squares = rows.new_zeros(batch, batch)
        if batch >= _PAIR:
            above = torch.triu_indices(batch, batch, 1, device=rows.device)
            squares[above[0], above[1]] = torch.pdist(rows).square()
        ctx.save_for_backward(rows)
        return squares + squares.mT

    @staticmethod
    def backward(ctx: BackwardCFunction, *gradients: Tensor) -> Tensor:
        """d/dx_i = 2 * sum over j of (g_ij + g_ji) (x_i - x_j)."""
        (rows,), (gradient,) = ctx.saved_tensors, gradients
        centred = rows - rows.mean(dim=0)  # differences do not notice, and less cancels
        pulls = gradient + gradient.mT
        return inner_products(2 * (pulls.sum(dim=1).diag() - pulls), centred.mT)


class _AngleLoss(Function):
    """The gradient is found along with the loss, so that no cosine outlives its block."""

    @staticmethod
    def forward(ctx: BackwardCFunction, student: Tensor, teacher: Tensor) -> Tensor:
        batch = student.shape[0]
        inverse, inverse_teacher = _inverse_roots(student), _inverse_roots(teacher)
        loss, gradient = student.new_zeros(()), torch.zeros_like(student)
        block = max(_BLOCK // batch**2, 1)
        for start in range(0, batch, block):
            corners = slice(start, start + block)
            angles = _angles(student, inverse, corners)
            difference = angles - _angles(teacher, inverse_teacher, corners)
            slope = difference.clamp(-1, 1)  # huber's, and huber(x) = slope * (x - slope / 2)
            loss += torch.dot(slope.flatten(), difference.sub_(slope, alpha=0.5).flatten())
            if ctx.needs_input_grad[0]:
                _add_gradient(gradient, slope, angles, inverse[corners], corners)
        ctx.save_for_backward(gradient / batch**3)
        return loss / batch**3

    @staticmethod
    @once_differentiable
    def backward(ctx: BackwardCFunction, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides the names
        (of_student,) = ctx.saved_tensors
        return gradient * of_student, None


def _angles(squares: Tensor, inverse: Tensor, corners: slice) -> Tensor:
    """(corners, B, B): cosines of the angles at the given corners between all pairs of samples."""
    to_corner, scale = squares[corners], inverse[corners]
    twice = to_corner[:, :, None] + to_corner[:, None, :]
    return twice.sub_(squares).mul_((scale / 2)[:, :, None]).mul_(scale[:, None, :])


def _add_gradient(gradient: Tensor, slope: Tensor, angles: Tensor, scale: Tensor, corners: slice) -> None:
    """Add to d loss / d q what comes from these corners j; s is the slope at a cosine, r = 1 / d.

    d/dq_ji = sum over k of s_jik (r_ji r_jk - cos_jik / q_ji): the corner's two sides, alike in i and k;
    d/dq_ik = -sum over j of s_jik r_ji r_jk / 2: the side opposite to the corner.
    """
    along = torch.einsum("jik,jk->ji", slope, scale) * scale
    gradient[corners] += along - torch.einsum("jik,jik->ji", slope, angles) * scale.square()
    gradient -= torch.einsum("jik,ji,jk->ik", slope, scale, scale / 2)
