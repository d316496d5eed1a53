"""The training loop of a rehearsal, telling how far it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from partsong.client.data.encode import Record
from partsong.client.dp.sampler import Randomness
from partsong.client.encoders.encoder import LocalUpdate, Progress
from partsong.client.model.host import ModelHost
from partsong.client.training.train import train_round
from partsong.common.config import TrainingConfig
from partsong.common.privacy.terms import DpPlan
from partsong.common.time_left import TimeLeft


class Timed:
    """`train_round`, counting each step of each round."""

    def __init__(self, left: TimeLeft) -> None:
        """Count for `left`."""
        self._left = left

    def __call__(
        self,
        host: ModelHost,
        records: Sequence[Record],
        *,
        sampling_rate: float,
        training: TrainingConfig,
        dp: DpPlan | None,
        randomness: Randomness,
        on_step: Callable[[Progress], None],
    ) -> LocalUpdate:
        """Train; whoever looks at a step looks at it before it counts as done."""

        def stepped(progress: Progress) -> None:
            on_step(progress)
            self._left.step()

        return train_round(
            host,
            records,
            sampling_rate=sampling_rate,
            training=training,
            dp=dp,
            randomness=randomness,
            on_step=stepped,
        )
