"""What a new encoder knows before its first update: counts of its texts, and where neighbours are.

A masked language model that begins from random weights spends its first millions of tokens on two
lessons that need no gradients: which tokens go together, and that attention pays among neighbours.
Both are written into the weights here, and training goes on from there:

- The word embeddings, which are also the output's weights, are the factors of the positive
  pointwise mutual information of tokens within 4 places, weighted by 1/distance, contexts smoothed
  by the power 0.75 (Levy & Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization";
  Levy, Goldberg & Dagan 2015). The output's bias is the logarithm of how often each token stands
  there.
- A quarter of the width, at most 64 numbers, is left to the positions, which are sines and cosines.
  Queries and keys of the first two layers turn them so that each head looks at one neighbour: the
  heads in order at -1, +1, -2, +2, and so on (d'Ascoli et al. 2021, "ConViT", does so for
  pictures). Their values, and the output's transform, pass on what they read.

Shape letters: V tokens of the vocabulary, D width, P positions, N tokens of all texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse
import torch
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

Counts = npt.NDArray[np.float64]

NEIGHBOURS, SMOOTHING = 4, 0.75
TEXTS_AT_ONCE = 2000
LOOKING_LAYERS = 2
MOST_POSITION_NUMBERS = 64  # of the width: as many as a head has
FASTEST, SLOWEST = 2.0, 0.02  # radians from one position to the next
WORD_SCALE, POSITION_SCALE = 0.05, 0.07
SHARPNESS = 2.1  # of the heads' look: three quarters of it on one place
PASSED_ON = 0.7


@torch.no_grad()
def begin_with_counts(model: Any, tokenizer: Any, texts: Sequence[str], seed: int) -> None:
    """Writes into a new BertForMaskedLM what counting says of texts; the rest stays random.

    The same texts and seed give the same weights. A token that the texts do not have keeps its
    random weights, and of texts in which nothing goes together all is left as it is.
    """
    bert = model.bert
    heads, width = model.config.num_attention_heads, model.config.hidden_size
    places = min(width // 4, MOST_POSITION_NUMBERS) // 2 * 2
    words = width - places
    ids_N = _tokens(tokenizer, texts)
    count_V = np.bincount(ids_N[ids_N >= 0], minlength=model.config.vocab_size)
    factors_VD = _factors(ids_N, len(count_V), words, seed)
    if factors_VD is None:  # and heads that look at words which mean nothing are no help
        return
    order = sorted(range(words), key=lambda place: (place % heads, place))  # a mix for each head
    seen_V = torch.from_numpy((np.abs(factors_VD).sum(1) > 0) & (count_V > 1))
    if not seen_V.any():
        return
    found_VD = torch.from_numpy(factors_VD[:, order]).float()
    found_VD *= WORD_SCALE / found_VD[seen_V].square().mean().sqrt()
    embeddings_VD = bert.embeddings.word_embeddings.weight
    embeddings_VD[seen_V, :words] = found_VD[seen_V]
    embeddings_VD[seen_V, words:] = 0
    share_V = (count_V + 0.5) / (count_V + 0.5).sum()
    bias_V = torch.from_numpy(np.log(share_V)).float()
    model.cls.predictions.bias.copy_(bias_V - bias_V.mean())
    model.cls.predictions.transform.dense.weight += torch.eye(width)
    step_F = FASTEST * (SLOWEST / FASTEST) ** (torch.arange(places // 2) / max(places // 2, 1))
    _place(bert.embeddings.position_embeddings.weight, words, step_F)
    offsets = [sign * far for far in range(1, heads * LOOKING_LAYERS + 1) for sign in (-1, 1)]
    for number, layer in enumerate(bert.encoder.layer[:LOOKING_LAYERS]):
        own = offsets[number * heads : (number + 1) * heads]
        _look(layer.attention, own, width // heads, words, step_F)


def _tokens(tokenizer: Any, texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Returns the tokens of all texts (N,), with -1 where one text ends and the next begins."""
    gap = np.full(NEIGHBOURS, -1, np.int64)
    found = [gap]
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        some = list(texts[start : start + TEXTS_AT_ONCE])
        for encoded in tokenizer.backend_tokenizer.encode_batch(some, add_special_tokens=False):
            found += [np.asarray(encoded.ids, np.int64), gap]
    return np.concatenate(found)


def _factors(ids_N: npt.NDArray[np.int64], num_tokens: int, size: int, seed: int) -> Counts | None:
    """Returns the factors of the positive information (V, size), None where there is too little."""
    shape = (num_tokens, num_tokens)
    together_VV = sparse.csr_matrix(shape, dtype=np.float64)
    for distance in range(1, NEIGHBOURS + 1):
        left_N, right_N = ids_N[:-distance], ids_N[distance:]
        both_N = (left_N >= 0) & (right_N >= 0)
        weight_N = np.full(int(both_N.sum()), 1 / distance)
        pairs = (left_N[both_N], right_N[both_N])
        together_VV = together_VV + sparse.coo_matrix((weight_N, pairs), shape=shape).tocsr()
    together_VV = together_VV + together_VV.T
    often_V = np.asarray(together_VV.sum(1)).ravel()
    context_V = often_V**SMOOTHING / max((often_V**SMOOTHING).sum(), 1e-9)
    pair = together_VV.tocoo()
    information = np.log(pair.data / (often_V[pair.row] * context_V[pair.col]))
    kept = information > 1e-9
    if not kept.any():
        return None
    positive_VV = sparse.csr_matrix(
        (information[kept], (pair.row[kept], pair.col[kept])), shape=shape
    )
    most = min(size, num_tokens - 1)
    left_VD, strength_D, _ = randomized_svd(positive_VV, most, n_iter=4, random_state=seed)
    factors_VD = np.zeros((num_tokens, size))
    factors_VD[:, :most] = left_VD * np.sqrt(strength_D)
    factors_VD[np.asarray(positive_VV.sum(1)).ravel() == 0] = 0  # else as small as rounding
    return factors_VD


def _place(positions_PD: Tensor, first: int, step_F: Tensor) -> None:
    """Makes positions sines and cosines, from the number `first` of the width on."""
    angle_PF = torch.arange(len(positions_PD))[:, None] * step_F
    positions_PD[:] = 0
    positions_PD[:, first::2] = POSITION_SCALE * angle_PF.sin()
    positions_PD[:, first + 1 :: 2] = POSITION_SCALE * angle_PF.cos()


def _look(attention: Any, offsets: Sequence[int], size: int, first: int, step_F: Tensor) -> None:
    """Lets each head look at the place `offset` away, and pass on what words stand there.

    sin(f(i+o)) = sin(fi) cos(fo) + cos(fi) sin(fo), and so for the cosine: a query is turned by o.
    """
    query_DD, key_DD = attention.self.query.weight, attention.self.key.weight
    for head, offset in enumerate(offsets):
        for number, step in enumerate(step_F.tolist()):
            a, b = head * size + 2 * number, head * size + 2 * number + 1
            sine, cosine = first + 2 * number, first + 2 * number + 1
            turned, across = math.cos(step * offset), math.sin(step * offset)
            query_DD[a, sine] += SHARPNESS * turned
            query_DD[a, cosine] += SHARPNESS * across
            query_DD[b, sine] -= SHARPNESS * across
            query_DD[b, cosine] += SHARPNESS * turned
            key_DD[a, sine] += SHARPNESS
            key_DD[b, cosine] += SHARPNESS
    words_D = torch.zeros(len(query_DD))
    words_D[:first] = PASSED_ON
    attention.self.value.weight += torch.diag(words_D)
    attention.output.dense.weight += torch.diag(words_D)
