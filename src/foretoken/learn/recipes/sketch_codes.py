"""Codes and tables of one linear layer from its inputs, without gradients. Used by `sketch`.

For W [r, n] with inputs X [n, N]: H = 2/N X X^T, damped; U the upper Cholesky factor of H^-1. Each
row group's weights are clustered into 2^b centres, column j weighing U_jj^-e: where an error would
show in the output, centres are drawn. Then columns are coded from left to right, each weight by its
nearest centre, and the error is made up for in the columns that are not coded yet (optimal brain
compensation).
Source: the code of LeanQuant, Zhang and Shrivastava 2407.10032, whose procedure SketchTune
(2410.06364) shares. Ours: centres per row *group*; a group with at most 2^b different weights gets
them as they are, so that it is coded without error; the exponent 2, for which the centres minimise
the same sum (w - q)^2 / U_jj^2 that the coding is measured by (the source takes more).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foretoken.learn.recipes.sketch_config import EXPONENT

DAMP = 0.01  # of the mean diagonal of H
BLOCK = 128  # columns coded before the rest of the matrix is corrected
ITERATIONS = 100
TOLERANCE = 1e-6
ROWS = 1 << 22  # weights clustered at a time


@dataclass(frozen=True)
class Coded:
    """A layer's sketch."""

    codes: Tensor  # uint8 [r, G, m]
    table: Tensor  # float32 [r, G, 2^bits], ascending
    loss: float  # sum (w - q)^2 / U_jj^2 / 2, of the weights as corrected


class Inputs:
    """Sums X X^T over what a linear layer reads."""

    def __init__(self, columns: int, device: torch.device) -> None:
        self.total = torch.zeros(columns, columns, dtype=torch.float64, device=device)
        self.count = 0

    def add(self, x: Tensor) -> None:
        """x [N, n]: inputs of the layer."""
        x = x.double()
        self.total += x.T @ x
        self.count += len(x)

    def hessian(self) -> Tensor:
        """H [n, n] float64, not damped."""
        return self.total * (2.0 / max(self.count, 1))


def coded(
    weight: Tensor,
    hessian: Tensor,
    bits: int = 4,
    groups: int = 4,
    exponent: float = EXPONENT,
    seed: int = 0,
) -> Coded:
    """The sketch of weight [r, n]; n must be a multiple of groups. Inputs that are always 0
    (H_jj = 0) get weight 0."""
    r, n = weight.shape
    w, h = weight.detach().double(), hessian.double().clone()
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1.0
    w = torch.where(dead, 0.0, w)
    u = upper(h)
    importance = u.diagonal().pow(-exponent).view(groups, -1)  # [G, m]
    generator = torch.Generator(weight.device).manual_seed(seed)
    m, k = n // groups, 1 << bits
    table = torch.empty(r, groups, k, dtype=torch.float64, device=weight.device)
    each = max(1, ROWS // m)
    for g in range(groups):
        for first in range(0, r, each):
            part = w[first : first + each, g * m : (g + 1) * m]
            table[first : first + each, g] = centres(part, importance[g], k, generator)
    table = table.float().double()  # errors are those of the table as it will be used
    codes, loss = encode(w, table, u)
    return Coded(codes.view(r, groups, m), table.float(), loss)


def upper(hessian: Tensor) -> Tensor:
    """U [n, n] with U^T U = (H + damping)^-1, upper triangular."""
    size = len(hessian)
    eye = torch.eye(size, dtype=hessian.dtype, device=hessian.device)
    damped = hessian + DAMP * hessian.diagonal().mean() * eye
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def centres(w: Tensor, importance: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Weighted one-dimensional k-means of every row. w [R, m], importance [m] -> ascending [R, k].

    Lloyd's iterations from evenly spaced centres (k <= 8) or k-means++. Rows are sorted once; then
    a cluster is a range, and its mean a difference of two sums. An empty cluster keeps its centre.
    """
    x, order = w.sort(dim=1)
    weight = (importance / importance.max())[order]
    zero = x.new_zeros(len(x), 1)
    mass = torch.cat([zero, weight.cumsum(1)], 1)
    moment = torch.cat([zero, (weight * x).cumsum(1)], 1)
    c = _even(x, k) if k <= 8 else _spread(x, weight, k, generator)
    for _ in range(ITERATIONS):
        middle = (c[:, 1:] + c[:, :-1]) / 2  # a weight on it goes to the lower centre
        inner = torch.searchsorted(x, middle.contiguous(), right=True)
        at = torch.cat([zero.long(), inner, zero.long() + x.shape[1]], 1)
        share = mass.gather(1, at).diff(dim=1)
        mean = moment.gather(1, at).diff(dim=1) / share.clamp_min(1e-300)
        # sums of unequal weights may lose the last digits: a mean stays within its range
        low = x.gather(1, at[:, :-1].clamp_max(x.shape[1] - 1))
        high = x.gather(1, (at[:, 1:] - 1).clamp_min(0))
        new = torch.where(at.diff(dim=1) > 0, mean.clamp(low, high), c).sort(dim=1).values
        moved = float((new - c).abs().max())
        c = new
        if moved <= TOLERANCE * float(x.abs().max()):
            break
    return _exact(x, c)


def encode(w: Tensor, table: Tensor, u: Tensor) -> tuple[Tensor, float]:
    """Codes uint8 [r, n] of weights w [r, n] by nearest centre of table [r, G, k] (of equals the
    first), with the error of each column spread over those to its right; and the loss."""
    w, (r, n) = w.clone(), w.shape
    m = n // table.shape[1]
    codes = torch.empty(r, n, dtype=torch.uint8, device=w.device)
    loss = w.new_zeros(())
    for first in range(0, n, BLOCK):
        last = min(first + BLOCK, n)
        errors = torch.empty(r, last - first, dtype=w.dtype, device=w.device)
        for j in range(first, last):
            centre = table[:, j // m]
            code = (w[:, j, None] - centre).abs().argmin(dim=1, keepdim=True)
            error = (w[:, j] - centre.gather(1, code)[:, 0]) / u[j, j]
            w[:, j:last] -= error[:, None] * u[j, j:last]
            codes[:, j], errors[:, j - first] = code[:, 0].to(torch.uint8), error
            loss += error.square().sum() / 2
        w[:, last:] -= errors @ u[first:last, last:]
    return codes, float(loss)


def _even(x: Tensor, k: int) -> Tensor:
    steps = torch.linspace(0, 1, k, dtype=x.dtype, device=x.device)
    return x[:, :1] + (x[:, -1:] - x[:, :1]) * steps


def _spread(x: Tensor, weight: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k-means++: each centre is drawn with chance weight * (distance to the nearest so far)^2."""
    chance, picked = weight, list[Tensor]()
    nearest = torch.full_like(x, float("inf"))
    for _ in range(k):
        total = chance.cumsum(1)
        draw = torch.rand(len(x), 1, dtype=x.dtype, device=x.device, generator=generator)
        at = torch.searchsorted(total, draw * total[:, -1:], right=True)
        picked.append(x.gather(1, at.clamp_max(x.shape[1] - 1)))
        nearest = torch.minimum(nearest, (x - picked[-1]).square())
        chance = weight * nearest
    return torch.cat(picked, 1).sort(dim=1).values


def _exact(x: Tensor, c: Tensor) -> Tensor:
    """Rows of at most k different weights: those weights, the last one repeated."""
    k = c.shape[1]
    first = torch.cat([torch.ones_like(x[:, :1], dtype=torch.bool), x.diff(dim=1) > 0], 1)
    count = first.sum(dim=1)
    few = count <= k
    if not bool(few.any()):
        return c
    rank = (first.long().cumsum(1) - 1).clamp_max(k - 1)
    values = c.new_full(c.shape, float("-inf")).scatter_reduce(1, rank, x, "amax")
    values = torch.where(values.isinf(), x[:, -1:], values)
    return torch.where(few[:, None], values, c)
