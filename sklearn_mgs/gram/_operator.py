"""The kernel as an operator: products, diagonal and spectrum without the matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from sklearn_mgs.gram._centering import membership
from sklearn_mgs.gram._chunks import parts, with_halved_chunks
from sklearn_mgs.gram._factorizer import Factorizer
from sklearn_mgs.gram._lanczos import Estimate, spectral_sum
from sklearn_mgs.gram._metrics import check_metric
from sklearn_mgs.gram._reduce import no_autocast, squares
from sklearn_mgs.gram._samples import Samples, n_samples
from sklearn_mgs.gram._shares import Factors, promoted

__all__ = ["GramOperator"]

_MOST_SUMS = 2**26  # numbers in the combined gradients of one block of vectors


class GramOperator:
    r"""The kernel of many samples, of which neither the matrix nor the Jacobian is ever held.

    A product with a vector is :math:`J (J^\top v)`, from the layers' inputs and output
    gradients of one chunk of samples at a time. Its cost is linear in the number of samples.

    Parameters
    ----------
    module, X, outputs, targets, layers, centered, generator
        As for `sklearn_mgs.gram.gram_matrix`.
    chunk_size : int, default=None
        Samples at once; None fits their factors into a quarter of a gibibyte. Out of memory on
        a CUDA device, chunks are halved.

    Attributes
    ----------
    shape : tuple of int
        (n_samples, n_samples), or (n_samples n_outputs,) twice for "full".
    chunk_size : int
        Samples at once.

    Raises
    ------
    ValueError
        As for `sklearn_mgs.gram.gram_matrix`.

    Notes
    -----
    Only `to_dense` is differentiable. The parameters must not change. Products are computed in
    the precision of the vector, at least the factors' own; spectral estimates use float64, as
    small eigenvalues would drown in the rounding errors of the large.

    Spectral sums are estimated by stochastic Lanczos quadrature [1]_. The matrix is positive
    semi-definite, so that the Gauss rule and the Gauss-Radau rule with a node at zero bound each
    probe's value from both sides [2]_, and the error is known: its interval is that of the
    probes' scatter (99 %) plus these bounds.

    References
    ----------
    .. [1] S. Ubaru, J. Chen and Y. Saad. Fast estimation of tr(f(A)) via stochastic Lanczos
       quadrature. SIAM Journal on Matrix Analysis and Applications 38 (2017).
    .. [2] G. H. Golub and G. Meurant. Matrices, Moments and Quadrature with Applications.
       Princeton University Press, 2010.

    Examples
    --------
    >>> import torch
    >>> from sklearn_mgs.gram import GramOperator
    >>> X = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> operator = GramOperator(torch.nn.Linear(2, 1), X)
    >>> operator @ torch.tensor([1.0, 0.0])
    tensor([ 6., 12.])
    >>> operator.trace()
    tensor(32.)
    """

    def __init__(
        self,
        module: nn.Module,
        X: Samples,
        *,
        outputs: str = "all",
        targets: Tensor | None = None,
        layers: str | Mapping[str, float] = "all",
        centered: bool | str = False,
        chunk_size: int | None = None,
        generator: torch.Generator | None = None,
    ):
        factorizer = Factorizer(
            module,
            X,
            outputs=outputs,
            targets=targets,
            layers=layers,
            implementation="matrix_free",
            generator=generator,
            chunk_size=chunk_size,
        )
        like = promoted(factorizer.example).new_empty(n_samples(X))
        self._set(factorizer, membership(like, centered, targets))

    @classmethod
    def of(cls, factorizer: Factorizer) -> GramOperator:
        """Return the uncentred operator of samples that are at hand with their factors."""
        operator = cls.__new__(cls)
        operator._set(factorizer, None)
        return operator

    def _set(self, factorizer: Factorizer, B: Tensor | None) -> None:
        self._factorizer = factorizer
        self.chunk_size = factorizer.chunk_size
        example = promoted(factorizer.example)
        self._dtype = example.dtype
        self._rows = example.shape[1] if factorizer.outputs == "full" else 1  # of each sample
        n = n_samples(factorizer.X) * self._rows
        self.shape = (n, n)
        if B is not None and self._rows > 1:
            B = torch.kron(B, torch.eye(self._rows, dtype=B.dtype, device=B.device))
        self._groups = B
        self._kept: dict[str, list[Factors]] | None = None

    def __matmul__(self, v: Tensor) -> Tensor:
        """Multiply a vector (n,) or several (n, k)."""
        if not isinstance(v, Tensor):
            raise TypeError(
                f"Expected a torch.Tensor; got {type(v).__name__}. Pass torch.as_tensor(v)."
            )
        if v.dim() not in (1, 2) or len(v) != len(self):
            raise ValueError(
                f"Expected a vector of shape ({len(self)},) or ({len(self)}, k); got "
                f"{tuple(v.shape)}."
            )
        with torch.no_grad():
            v = v.to(torch.promote_types(v.dtype, self._dtype))
            product = self._halving(lambda: self._matmul(v[:, None] if v.dim() == 1 else v))
        return product[:, 0] if v.dim() == 1 else product

    def __len__(self) -> int:
        return self.shape[0]

    def diagonal(self) -> Tensor:
        """Return the diagonal, of shape (n,)."""
        with torch.no_grad():
            return self._halving(self._diagonal)

    def trace(self) -> Tensor:
        """Return the sum of the diagonal."""
        return self.diagonal().sum()

    def logdet(
        self,
        *,
        jitter: float = 1e-4,
        n_probes: int = 16,
        max_steps: int = 200,
        generator: torch.Generator | None = None,
        return_error: bool = False,
    ) -> Tensor | Estimate:
        r"""Estimate :math:`\log\det(K + \epsilon \tfrac{\operatorname{tr} K}{n} I)`.

        Parameters
        ----------
        jitter : float, default=1e-4
            :math:`\epsilon`.
        n_probes : int, default=16
            Random vectors, at least 2. Of no more than twice as many rows the value is exact.
        max_steps : int, default=200
            Most Lanczos steps, each a product with all of them.
        generator : torch.Generator, default=None
            Source of the vectors.
        return_error : bool, default=False
            Whether the half width of an interval is returned too.

        Returns
        -------
        logdet : Tensor of shape (), or Estimate
            A sum over eigenvalues, in float64; with `return_error` the pair (value, error).
        """
        if jitter <= 0:
            raise ValueError(f"The estimate needs a jitter above 0; got {jitter}.")
        shift = jitter * self.trace().double() / len(self)
        options = {"n_probes": n_probes, "max_steps": max_steps, "generator": generator}
        end = -1e-3 * shift  # just below zero, where the Radau rule's own matrix is regular
        if shift == 0:  # the smallest normal number, as for the matrix
            nothing = torch.full_like(shift, torch.finfo(self._dtype).tiny)
            estimate = Estimate(len(self) * nothing.log(), torch.zeros_like(shift))
        else:
            estimate = self._spectral_sum(
                lambda x: (x.clamp_min(end) + shift).log(), end, **options
            )
        return estimate if return_error else estimate.value

    def metric(
        self,
        metric: str = "trace",
        *,
        jitter: float = 1e-4,
        n_probes: int = 16,
        max_steps: int = 200,
        generator: torch.Generator | None = None,
        return_error: bool = False,
    ) -> Tensor | Estimate:
        """Metric of the kernel, see `sklearn_mgs.gram.mgs_metric`.

        Parameters
        ----------
        metric : {"trace", "logdet", "det", "effective_rank", "cosine"}, default="trace"
            "trace" and "cosine" are exact, the others estimates.
        jitter, n_probes, max_steps, generator, return_error
            As for `logdet`.

        Returns
        -------
        value : Tensor of shape (), or Estimate

        Raises
        ------
        ValueError
            If `metric` is unknown.
        """
        check_metric(metric)
        options = {"n_probes": n_probes, "max_steps": max_steps, "generator": generator}
        value, error = getattr(self, f"_{metric}")(jitter, options)
        return Estimate(value, error) if return_error else value

    def _trace(self, jitter, options) -> Estimate:
        value = self.trace() / len(self)
        return Estimate(value, torch.zeros_like(value))

    def _logdet(self, jitter, options) -> Estimate:
        value, error = self.logdet(jitter=jitter, return_error=True, **options)
        return Estimate(value / len(self), error / len(self))

    def _det(self, jitter, options) -> Estimate:
        value, error = self._logdet(jitter, options)
        return Estimate(value.exp(), value.exp() * error.expm1())

    def _effective_rank(self, jitter, options) -> Estimate:
        # With eigenvalues x in units of their mean the entropy is log n - Σ x log x / n.
        n, mean = len(self), self.trace().double() / len(self)
        if mean == 0:
            return Estimate(torch.ones_like(mean), mean)

        def f(x: Tensor) -> Tensor:
            return torch.special.xlogy(x.clamp_min(0), (x / mean).clamp_min(0)) / mean

        value, error = self._spectral_sum(f, -1e-6 * mean, **options)
        rank = (math.log(n) - value / n).exp()
        return Estimate(rank, rank * (error / n).expm1())

    def _cosine(self, jitter, options) -> Estimate:
        diagonal = self.diagonal()
        s = torch.where(diagonal > 0, diagonal.clamp_min(1e-30).rsqrt(), 0.0)
        n = len(self)
        pairs = n * (n - 1) or math.nan  # one sample has none
        value = (s @ (self @ s) - (diagonal > 0).sum()) / pairs
        return Estimate(value, torch.zeros_like(value))

    def _spectral_sum(self, f: Callable[[Tensor], Tensor], end: Tensor, **options) -> Estimate:
        return spectral_sum(self.__matmul__, f, len(self), end=end, **options)

    def to_dense(self) -> Tensor:
        """Return the matrix, by products with unit vectors; differentiable in the parameters."""
        eye = torch.eye(len(self), dtype=self._dtype, device=self._factorizer.example.device)
        self._kept = None  # with a graph now, if there is to be one
        try:
            return self._halving(lambda: self._matmul(eye))
        finally:
            self._kept = None

    def _halving(self, compute: Callable[[], Tensor]) -> Tensor:
        def attempt(chunk_size: int) -> Tensor:
            self.chunk_size = chunk_size
            return compute()

        return with_halved_chunks(attempt, self.chunk_size)[0]

    def _chunks(self):
        """Rows and factors of each chunk; factors that all fit at once are kept."""
        slices = self._slices()
        if len(slices) == 1 and self._kept is None:
            self._kept = self._factorizer()
        for part in slices:
            factors = self._kept if len(slices) == 1 else self._factorizer(part)
            with no_autocast(self._factorizer.example.device):
                yield slice(part.start * self._rows, part.stop * self._rows), factors

    def _slices(self) -> list[slice]:
        return parts(len(self) // self._rows, self.chunk_size)

    def _combine(self, S: Tensor) -> dict[tuple[str, int], Tensor]:
        """Sums over all samples of the gradients, weighted by the columns of `S`, by factor."""
        sums: dict[tuple[str, int], Tensor] = {}
        for rows, factors in self._chunks():
            for key, factor in _flat(factors):
                term = factor.combine(S[rows])
                sums[key] = sums[key] + term if key in sums else term
        return sums

    def _matmul(self, V: Tensor) -> Tensor:
        n_gradients = sum(f.n_gradients for _, f in _flat(next(self._chunks())[1]))
        blocks = V.split(max(1, _MOST_SUMS // max(1, n_gradients)), 1)
        return torch.cat([self._matmul_block(block) for block in blocks], 1)

    def _matmul_block(self, V: Tensor) -> Tensor:
        B, means = self._means(V.dtype)
        if B is not None:
            V = V - means @ (B.mT @ V)
        if len(self._slices()) == 1:
            terms = [(k, f.product(V)) for k, f in _flat(next(self._chunks())[1])]
            product = self._weighted(terms)
        else:
            sums = self._combine(V)
            product = torch.cat(
                [
                    self._weighted((k, f.project(sums[k])) for k, f in _flat(factors))
                    for _, factors in self._chunks()
                ]
            )
        return product if B is None else product - B @ (means.mT @ product)

    def _weighted(self, terms: Iterable[tuple[tuple[str, int], Tensor]]) -> Tensor:
        weights = self._factorizer.weights
        return torch.stack([weights[name] * term for (name, _), term in terms]).sum(0)

    def _means(self, dtype: torch.dtype) -> tuple:
        """Membership of groups (n, q), and the same divided by the groups' sizes."""
        if self._groups is None:
            return None, None
        B = self._groups.to(dtype)
        return B, B / B.sum(0).clamp_min(1)

    def _diagonal(self) -> Tensor:
        weights = self._factorizer.weights
        if self._groups is None:
            return torch.cat([squares(factors, weights) for _, factors in self._chunks()])
        B, means = self._means(self._dtype)
        sums = self._combine(means)
        terms = []
        for rows, factors in self._chunks():
            own = B[rows]
            term = squares(factors, weights)
            for key, factor in _flat(factors):
                cross = factor.project(sums[key]) - sums[key].square().sum(1) / 2
                term = term - 2 * weights[key[0]] * (own * cross).sum(1)
            terms.append(term)
        return torch.cat(terms)


def _flat(factors: Mapping[str, list[Factors]]):
    """Factors of all layers, each with the layer's name and its place there."""
    return [((name, i), f) for name, fs in factors.items() for i, f in enumerate(fs)]
