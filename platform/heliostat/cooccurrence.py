"""Which items stand in the same histories: counts, cosine neighbours, and EASE's linear weights, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from heliostat.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Weights = npt.NDArray[np.float32]

MOST_ITEMS = 20_000
"""Items up to which a dense matrix of items by items is made: 1.6 GB in fp32, and a minute or two to invert."""


def history_matrix(histories: Sequence[Sequence[int]], num_items: int) -> csr_matrix:
    """1 where a history holds an item: [histories, num_items]."""
    from scipy.sparse import csr_matrix

    sets = [sorted(set(history)) for history in histories]
    starts = np.concatenate([[0], np.cumsum([len(each) for each in sets], dtype=np.int64)])
    places = np.fromiter((item for each in sets for item in each), dtype=np.int32, count=int(starts[-1]))
    return csr_matrix((np.ones(len(places), dtype=np.float32), places, starts), shape=(len(sets), num_items))


def together(matrix: csr_matrix) -> csr_matrix:
    """How many histories hold both of two items: [items, items]; on the diagonal how many hold the item."""
    return (matrix.T @ matrix).tocsr()


def cosine(matrix: csr_matrix) -> csr_matrix:
    """The cosine of two items' columns, 0 with itself: [items, items]."""
    from scipy.sparse import diags

    both = together(matrix)
    counts = both.diagonal()
    scale = diags(1.0 / np.sqrt(np.maximum(counts, 1.0)))
    similar = (scale @ both @ scale).tocsr()
    similar.setdiag(0.0)
    similar.eliminate_zeros()
    return similar.astype(np.float32)


def strongest(matrix: csr_matrix, count: int) -> csr_matrix:
    """The same rows with their `count` greatest values; of equal ones the first stays."""
    from scipy.sparse import csr_matrix

    starts, places, values = [0], [], []
    for row in range(matrix.shape[0]):
        held = slice(matrix.indptr[row], matrix.indptr[row + 1])
        columns, weights = matrix.indices[held], matrix.data[held]
        best = np.sort(np.lexsort((columns, -weights))[:count])
        places.append(columns[best])
        values.append(weights[best])
        starts.append(starts[-1] + len(best))
    return csr_matrix((np.concatenate(values), np.concatenate(places), starts), shape=matrix.shape)


def ease(matrix: csr_matrix, l2: float) -> Weights:
    """EASE (Steck 2019): the linear weights B, diagonal 0, that best restore histories X as X B: [items, items].

    B = I - P / diag(P) with P = (X'X + l2 I)^-1. Raises DataError above MOST_ITEMS items.
    """
    size = matrix.shape[1]
    if size > MOST_ITEMS:
        raise DataError(
            f"EASE inverts a matrix of items by items: {size:,} items are more than {MOST_ITEMS:,}. Leave out the "
            "linear term (head.linear: null), and take core.item_knn as the baseline."
        )
    gram = together(matrix).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += l2
    precision: Any = np.linalg.inv(gram)
    weights: Weights = (-precision / np.diag(precision)).astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    return weights
