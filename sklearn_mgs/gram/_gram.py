"""gram_matrix and gram_trace."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from sklearn_mgs.gram import _reduce
from sklearn_mgs.gram._centering import membership
from sklearn_mgs.gram._chunked import chunked_gram, chunked_spread
from sklearn_mgs.gram._chunks import with_halved_chunks
from sklearn_mgs.gram._factorizer import Factorizer
from sklearn_mgs.gram._operator import GramOperator
from sklearn_mgs.gram._samples import Samples, n_samples
from sklearn_mgs.gram._shares import promoted

__all__ = ["gram_matrix", "gram_trace"]


def gram_matrix(
    module: nn.Module,
    X: Samples,
    *,
    outputs: str = "all",
    targets: Tensor | None = None,
    layers: str | Mapping[str, float] = "all",
    centered: bool | str = False,
    implementation: str = "auto",
    chunk_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Kernel of the gradients of a module's outputs: the empirical neural tangent kernel.

    Parameters
    ----------
    module : torch.nn.Module
        The network f; of several outputs returned in a tuple, the first counts. Samples are its
        inputs' first dimension and must not interact.
    X : Tensor of shape (n_samples, ...), or a tuple or dict of such
        The samples; a tuple is the module's positional arguments, a dict its keywords.
    outputs : {"all", "target", "random", "sum", "full"}, default="all"
        How the C outputs are reduced:

        - "all": :math:`K_{ij} = \sum_c \langle \nabla f_c(x_i), \nabla f_c(x_j) \rangle`;
        - "target": the gradients of each sample's labelled output; a single output counts as
          the logit of class 1, and its negative as that of class 0;
        - "random": those of :math:`v \cdot f`, one :math:`v \sim N(0, I)` for all samples,
          which is unbiased for "all";
        - "sum": those of the sum of the outputs;
        - "full": no reduction: row and column :math:`iC + c` belong to output c of sample i.
    targets : Tensor of shape (n_samples,), default=None
        Class indices, for "target" and for ``centered="class"``.
    layers : {"all", "hidden", "first", "balanced"} or mapping, default="all"
        Which layers' parameters the gradients are taken in. A layer is a module that owns
        trainable parameters, in order of registration; a shared parameter belongs to its first
        owner. "hidden" leaves out the last; "balanced" divides each layer's share by its
        trace per sample at the present parameters (constants) and averages; a mapping gives
        weights by the layers' names in ``module.named_modules()``.
    centered : bool or "class", default=False
        Whether gradients are taken around their mean over the samples, or over those of the
        same target.
    implementation : {"auto", "jacobian", "layerwise", "matrix_free"}, default="auto"
        "jacobian" forms every gradient by torch.func; "layerwise" uses closed forms layer by
        layer, `explain` says which; "matrix_free" multiplies `GramOperator` with unit vectors.
        See `resolve_implementation`.
    chunk_size : int, default=None
        Samples at once; None takes as many as fit into a quarter of a gibibyte. Out of memory
        on a CUDA device, chunks are halved.
    generator : torch.Generator, default=None
        Source of the direction for "random".

    Returns
    -------
    K : Tensor of shape (n_samples, n_samples)
        Or (n_samples n_outputs,) twice for "full". Differentiable in the parameters. At least
        float32.

    Raises
    ------
    ValueError
        If an option is unknown, targets are missing or not class indices, the module has no
        trainable parameters, or its samples interact.

    Notes
    -----
    For a linear layer with inputs A and output gradients D the share of the kernel is
    :math:`(A A^\top + 1) \circ (D D^\top)`: for "layerwise" the cost is one forward pass, a
    backward pass without weight gradients for each direction, and n² times the number of
    units. "jacobian" holds n times the number of parameters.

    Hooks watch the module's layers meanwhile: no two threads should be at one module.

    References
    ----------
    .. [1] V. Szolnoky, V. Andersson, B. Kulcsár and R. Jörnsten. On the Interpretability of
       Regularisation for Neural Networks Through Model Gradient Similarity. NeurIPS 2022.
    .. [2] A. Jacot, F. Gabriel and C. Hongler. Neural Tangent Kernel: Convergence and
       Generalization in Neural Networks. NeurIPS 2018.

    Examples
    --------
    The kernel of a linear model with a bias is the inputs' inner products plus one.

    >>> import torch
    >>> from sklearn_mgs.gram import gram_matrix
    >>> X = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> gram_matrix(torch.nn.Linear(2, 1), X)
    tensor([[ 6., 12.],
            [12., 26.]])
    """
    factorizer = Factorizer(
        module,
        X,
        outputs=outputs,
        targets=targets,
        layers=layers,
        implementation=implementation,
        generator=generator,
        chunk_size=chunk_size,
    )
    B = _membership(factorizer, centered, targets)
    with _reduce.no_autocast(factorizer.example.device):
        if implementation == "matrix_free":
            K = GramOperator.of(factorizer).to_dense()
        else:
            compute = partial(chunked_gram, factorizer)
            K, _ = with_halved_chunks(compute, factorizer.chunk_size)
        if B is not None and outputs == "full":
            B = torch.kron(B, torch.eye(len(K) // n_samples(X), dtype=B.dtype, device=B.device))
        return _reduce.weighted_gram(K, B, None)


def _membership(factorizer: Factorizer, centered, targets: Tensor | None) -> Tensor | None:
    like = promoted(factorizer.example).new_empty(n_samples(factorizer.X))
    return membership(like, centered, targets)


def gram_trace(
    module: nn.Module,
    X: Samples,
    *,
    outputs: str = "all",
    targets: Tensor | None = None,
    layers: str | Mapping[str, float] = "all",
    centered: bool | str = False,
    implementation: str = "auto",
    chunk_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Trace of the kernel, the sum of all squared gradient norms, without the kernel.

    Parameters
    ----------
    module, X, outputs, targets, layers, centered, implementation, chunk_size, generator
        As for `gram_matrix`.

    Returns
    -------
    trace : Tensor of shape ()
        Differentiable in the parameters. At least float32.

    Raises
    ------
    ValueError
        As for `gram_matrix`.

    Notes
    -----
    A linear layer's gradients have squared norms :math:`(\|a_i\|^2 + 1) \|d_i\|^2`.

    Examples
    --------
    >>> import torch
    >>> from sklearn_mgs.gram import gram_trace
    >>> gram_trace(torch.nn.Linear(2, 1), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor(32.)
    """
    factorizer = Factorizer(
        module,
        X,
        outputs="all" if outputs == "full" else outputs,
        targets=targets,
        layers=layers,
        implementation=implementation,
        generator=generator,
        chunk_size=chunk_size,
    )
    B = _membership(factorizer, centered, targets)
    with _reduce.no_autocast(factorizer.example.device):
        compute = partial(chunked_spread, factorizer, B=B)
        return with_halved_chunks(compute, factorizer.chunk_size)[0]
