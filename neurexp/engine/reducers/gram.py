"""Gram: sums of products of covariates with activations, computed over cells of tokens with equal covariates.

It is fast for two reasons: tokens of a cell are added up first, and columns that are mostly zero are added up instead
of multiplied. Does not know what the covariates mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from neurexp.engine.reducers.base import Batch, NotFiniteError, Reducer
from neurexp.models.kernels import cache_sized_slices, product, sum_rows
from neurexp.models.transfer import to_device

VALUES, SQUARES, MAGNITUDES = range(3)  # what is multiplied: x, x² and |x|
SPARSE = 4  # a column with entries in a quarter of the cells or fewer is added up instead of multiplied


@dataclass(frozen=True)
class Cells:
    """Cells of tokens with equal covariates, whose activations can be added up first.

    `of_token` `[tokens]` int64 is the cell of each token, `design` `[cells, columns given]` float32 the covariates of
    each cell, and `columns` the reducer's columns that these are. In all other columns the tokens have zeros.
    """

    of_token: torch.Tensor
    design: torch.Tensor
    columns: torch.Tensor  # [columns given] int64, ascending


class Gram(Reducer):
    """Sums of products of covariates with each other and with the activations: what correlation and regression need.

    Let Z `[tokens, K]` be the covariates, and X `[tokens, neurons]` a site's activations minus the neuron's shift. The
    state, in float64, is

    - `zz` `[K, K]`: ZᵀZ,
    - `zx` `[sites, K, neurons]`: ZᵀX,
    - `qxx` `[sites, squared columns, neurons]`: QᵀX², where Q are the columns `squared` of Z,
    - `magnitudes` `[sites, magnified columns, neurons]`: Pᵀ|X + shift|, where P are the columns `magnified` of Z,
    - `shift` `[sites, neurons]` float32, so that a neuron whose mean is far from zero loses no digits.

    Q and P are indicators of the groups of tokens whose variance, or mean magnitude, is wanted.

    The covariate `design` is Z itself, or a list of `Cells`, each with columns of its own. Activations are then added
    up by cell, and only these sums are multiplied by Z: the fewer the cells, the lower the cost. A batch with an empty
    list takes no part, costs nothing, and is not searched for NaN and infinity.
    """

    by_site = True
    common = ("zz",)
    concurrent = True
    summed = ("zz", "zx", "qxx", "magnitudes")
    calibrated = ("shift",)
    shift: torch.Tensor
    zx: torch.Tensor
    qxx: torch.Tensor
    magnitudes: torch.Tensor

    def __init__(
        self,
        columns: int,
        sites: int,
        squared: slice = slice(0),
        magnified: slice = slice(0),
        shift: torch.Tensor | None = None,
        device: torch.device | str = "cpu",
    ):
        """`shift` is `[sites, neurons]`; if it is None, it becomes each neuron's mean over the first sequence."""
        self._columns, self._sites, self._device = columns, sites, torch.device(device)
        self._parts = [range(*part.indices(columns)) for part in (squared, magnified)]
        self.zz = torch.zeros(columns, columns, dtype=torch.float64)
        self._total = torch.zeros(sites, device=self._device)  # finite as long as all activations are
        self._calibrated_sites = 0
        self.is_calibrated = shift is not None
        if shift is not None:
            self._allocate(shift.shape[1])
            self.shift = shift.to(self._device)

    def _allocate(self, neurons: int) -> None:
        with torch.inference_mode(False):  # ordinary tensors, so that states can be merged after the pass
            self.shift = torch.zeros(self._sites, neurons, device=self._device)
            self.zx, self.qxx, self.magnitudes = (
                torch.zeros(self._sites, count, neurons, dtype=torch.float64, device=self._device)
                for count in (self._columns, *map(len, self._parts))
            )

    def calibrate(self, site: int, activations: torch.Tensor) -> None:
        if self._calibrated_sites == 0:
            self._allocate(activations.shape[1])
        self.shift[site] = activations.mean(0, dtype=torch.float64).float()
        self._calibrated_sites += 1
        self.is_calibrated = self._calibrated_sites == self._sites

    def check(self) -> None:
        bad = (~self._total.isfinite()).nonzero()
        if len(bad):
            raise NotFiniteError(int(bad[0]))

    def begin(self, batch: Batch) -> None:
        given = batch.covariates["design"]
        if isinstance(given, torch.Tensor):
            given = [Cells(torch.arange(len(given)), given, torch.arange(self._columns))]
        self._add_products(given)
        wanted = [range(self._columns), *self._parts]
        batch.shared[self] = [_Block(cells, wanted, batch.device) for cells in given]

    def _add_products(self, given: Sequence[Cells]) -> None:
        for index, cells in enumerate(given):
            exact = cells.design.double()
            counts = torch.bincount(cells.of_token, minlength=len(exact))
            self.zz[cells.columns[:, None], cells.columns] += exact.T @ (exact * counts[:, None])
            for other in given[:index]:
                narrow, wide = sorted((cells, other), key=lambda one: len(one.columns))  # the narrow one is added up
                by_cell = torch.zeros(len(wide.design), len(narrow.columns), dtype=torch.float64)
                by_cell.index_add_(0, wide.of_token, narrow.design.double()[narrow.of_token])
                crossed = wide.design.double().T @ by_cell
                self.zz[wide.columns[:, None], narrow.columns] += crossed
                self.zz[narrow.columns[:, None], wide.columns] += crossed.T

    def update(self, site: int, activations: torch.Tensor, batch: Batch) -> None:
        tokens, neurons = activations.shape
        blocks, device = batch.shared[self], activations.device
        if not blocks:  # no token of the batch takes part
            return
        # |x| comes first, and x² is made from x in place: one part of the memory is written again and again
        made = [
            (kind, [(block, block.products[kind].empty(neurons)) for block in blocks if len(block.products[kind])])
            for kind in (MAGNITUDES, VALUES, SQUARES)
        ]
        slices = cache_sized_slices(neurons, tokens, device)
        memory = torch.empty(tokens * slices[0].stop if slices else 0, device=device)
        for some in slices:
            values = activations[:, some].float()
            changed = memory[: values.numel()].view(values.shape)
            for kind, parts in made:
                if kind == VALUES:
                    torch.sub(values, self.shift[site, some], out=changed)
                elif parts:
                    torch.abs(values, out=changed) if kind == MAGNITUDES else torch.mul(changed, changed, out=changed)
                for block, added in parts:
                    summed = block.summed(changed, kind)
                    if block is blocks[0]:  # every token is in a cell of the first block
                        self._total[site] += summed.sum()
                    block.products[kind].times(summed, added[:, some])
        for kind, parts in made:
            sums = (self.zx, self.qxx, self.magnitudes)[kind][site]
            for block, added in parts:
                for given, own in block.products[kind].runs:
                    sums[own] += added[given]


class _Block:
    """One batch's `Cells` on the device: which tokens to add up, and what to multiply the sums by."""

    def __init__(self, cells: Cells, wanted: Sequence[range], device: torch.device):
        count, tokens = len(cells.design), len(cells.of_token)
        self._tokens: list[torch.Tensor] = []  # in the order of the cells, and where each cell ends
        if not (count == tokens and torch.equal(cells.of_token, torch.arange(tokens))):
            ends = torch.zeros(count + 1, dtype=torch.int64)
            ends[1:] = torch.bincount(cells.of_token, minlength=count).cumsum(0)
            self._tokens = [to_device(part, device) for part in (cells.of_token.argsort(stable=True), ends)]
        self.products = []  # of x, x² and |x|
        self._by_cell = []  # for each of them, whether tokens are added up by cell first
        for part in wanted:
            inside = (cells.columns >= part.start) & (cells.columns < part.stop)
            design, by_cell = cells.design.T[inside], bool(self._tokens)
            if by_cell:
                entries = design.count_nonzero(0)  # of each cell
                # Where a token is in few columns, the way over the cells is the longer one
                by_cell = int(entries[cells.of_token].sum()) > tokens + int(entries.sum())
                design = design if by_cell else design[:, cells.of_token]
            self._by_cell.append(by_cell)
            self.products.append(_Columns(design, cells.columns[inside] - part.start, device))

    def summed(self, values: torch.Tensor, kind: int) -> torch.Tensor:
        """What `products[kind]` multiplies: sums of values `[tokens, neurons]` over each cell, or `values` itself."""
        return sum_rows(values, *self._tokens) if self._by_cell[kind] else values


class _Columns:
    """Columns of a design as rows `[columns, cells or tokens]`: mostly zero ones are added up, the others multiplied.

    `runs` maps the rows of a product, dense ones first, to the reducer's columns.
    """

    def __init__(self, design: torch.Tensor, columns: torch.Tensor, device: torch.device):
        entries = design.count_nonzero(1)
        sparse = entries * SPARSE <= design.shape[1]
        self.runs = _runs(torch.cat([columns[~sparse], columns[sparse]]))
        self._dense = to_device(design[~sparse].contiguous(), device)
        chosen = design[sparse]
        column, cell = chosen.nonzero(as_tuple=True)
        ends = torch.zeros(len(chosen) + 1, dtype=torch.int64)
        ends[1:] = entries[sparse].cumsum(0)
        self._sparse = [to_device(part, device) for part in (cell, ends, chosen[column, cell])]

    def __len__(self) -> int:
        """The number of columns."""
        return len(self._dense) + len(self._sparse[1]) - 1

    def empty(self, neurons: int) -> torch.Tensor:
        """Memory for a product, `[columns, neurons]` float32."""
        return torch.empty(len(self), neurons, device=self._dense.device)

    def times(self, summed: torch.Tensor, out: torch.Tensor) -> None:
        """design @ summed, into `out` `[columns, neurons]` float32."""
        dense = len(self._dense)
        if dense:
            product(self._dense, summed, out[:dense])
        if len(self) > dense:
            out[dense:] = sum_rows(summed, *self._sparse)


def _runs(columns: torch.Tensor) -> list[tuple[slice, slice]]:
    """Splits whole numbers into runs of consecutive ones: the place of each run, and its numbers."""
    breaks = [0, *((columns.diff() != 1).nonzero().flatten() + 1).tolist(), len(columns)]
    starts = [(at, int(columns[at]), stop - at) for at, stop in pairwise(breaks) if stop > at]
    return [(slice(at, at + count), slice(first, first + count)) for at, first, count in starts]
