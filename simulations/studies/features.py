"""What a frozen encoder makes of texts: one vector each, and a linear classifier on top. No federation, no fine-tuning.

Shape letters: N records, T tokens, D width of the encoder, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from partsong.client.data.batch import by_length, pad
from partsong.client.data.encode import Record
from partsong.client.model.host import ModelHost

Matrix = NDArray[np.float32]

_MOST_ITERATIONS = 500


def features(
    host: ModelHost, records: Sequence[Record], *, batch_size: int, tick: Callable[[int], None] = lambda _: None
) -> Matrix:
    """Give each record the mean of its tokens' last states, scaled to length 1: (N, D).

    Args:
        host: its adapter must be at its start, where B is zero and the model is the base model.
        records: encoded.
        batch_size: records of a pass.
        tick: told how many records a pass had.
    Source: Reimers and Gurevych 2019 (arXiv 1908.10084), section 3, mean pooling.
    """
    model: Any = host.model
    encoder = model.get_base_model().base_model
    lengths = np.array([len(r.input_ids) for r in records])
    found: dict[int, Matrix] = {}
    with torch.no_grad():
        for chosen in by_length(np.arange(len(records)), lengths, batch_size=batch_size):
            batch = pad([records[i] for i in chosen], pad_id=host.pad_id)
            mask_NT = torch.from_numpy(batch.attention_mask).to(host.device)
            ids_NT = torch.from_numpy(batch.input_ids).to(host.device)
            state_NTD = encoder(input_ids=ids_NT, attention_mask=mask_NT).last_hidden_state.float()
            weight_NT1 = mask_NT.unsqueeze(-1).float()
            mean_ND = functional.normalize((state_NTD * weight_NT1).sum(1) / weight_NT1.sum(1), dim=-1)
            found |= zip(chosen.tolist(), mean_ND.cpu().numpy(), strict=True)
            tick(len(chosen))
    return np.stack([found[i] for i in range(len(records))])


def fit(x_ND: Matrix, label_N: NDArray[np.int64], *, classes: int, penalty: float) -> Callable[[Matrix], Matrix]:
    """Fit multinomial logistic regression with an intercept: sum of the losses + penalty / 2 * |W|^2.

    Args:
        x_ND: features.
        label_N: classes, 0 to C - 1.
        classes: C. A class that no record has stays possible, at a low probability.
        penalty: of the squared weights; the intercept is free.
    Returns:
        the map from features to logits, (N, D) to (N, C).
    Source: Bishop 2006, Pattern Recognition and Machine Learning, section 4.3.4; solved by L-BFGS.
    """
    x, label = torch.from_numpy(x_ND).double(), torch.from_numpy(label_N)
    weight = torch.zeros(x.shape[1], classes, dtype=torch.float64, requires_grad=True)
    # A class without records has no best intercept: a trace of the penalty keeps it finite.
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=_MOST_ITERATIONS, tolerance_grad=1e-5, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        solver.zero_grad()
        fitted = functional.cross_entropy(x @ weight + bias, label, reduction="sum")
        value: torch.Tensor = fitted + penalty / 2 * (weight.square().sum() + 1e-3 * bias.square().sum())
        value.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]  # torch does not annotate it
    weights_DC, bias_C = weight.detach().numpy(), bias.detach().numpy()
    return lambda other_ND: (other_ND @ weights_DC + bias_C).astype(np.float32)
