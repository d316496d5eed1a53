"""The one base model that a site's daemon keeps in memory, with the adapter of the plan that was asked about last.

Torch is imported when the first plan needs a model.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

from partsong.client.model.from_plan import adapter_of
from partsong.client.model.source import locate
from partsong.client.rules.consent import NotAgreed
from partsong.common.build import canonical_json, sha256_of
from partsong.common.config import ModelConfig
from partsong.common.errors import InputError, Refused
from partsong.common.plan import Plan

if TYPE_CHECKING:  # torch comes with it
    from partsong.client.model.host import ModelHost


class ResidentModel:
    """Loads a model when it is needed and keeps it."""

    def __init__(self, model: ModelConfig, *, say: Callable[[str], None] = lambda _: None) -> None:
        """Load nothing yet.

        Args:
            model: of the site.
            say: told about steps that take longer than a moment.
        """
        self._model, self._say = model, say
        self._host: ModelHost | None = None
        self._built_for = ""

    @property
    def is_loaded(self) -> bool:
        """Whether a model takes up memory."""
        return self._host is not None

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of the base model's files; hashed once, needs no torch.

        Raises:
            NotAgreed: `model`: there is no such model here, or another one.
        """
        try:
            return locate(self._model.source, expected_sha256=self._model.sha256, say=self._say).sha256
        except InputError as err:
            raise NotAgreed("model", str(err), rule="model.source") from err

    def host_for(self, plan: Plan) -> ModelHost:
        """Give the model with an adapter as the plan lays it out; its numbers are those that were last put there.

        Guarantees: plans with the same adapter share one model; for another adapter the one before it is let go
            first, so that two never take up memory together.
        Raises:
            NotAgreed: `model`: this base model cannot have such an adapter.
        """
        wanted = _adapter_key(plan)
        if self._host is None or wanted != self._built_for:
            self._host, self._built_for = None, ""
            gc.collect()
            self._host, self._built_for = self._load(plan), wanted
        _require_equal(self._host, plan)
        return self._host

    def _load(self, plan: Plan) -> ModelHost:
        from partsong.client.model.load import load  # noqa: PLC0415 - torch, on first need

        try:
            return load(self._model, adapter_of(plan), labels=plan.labels, private=plan.dp is not None, say=self._say)
        except (InputError, Refused) as err:
            raise NotAgreed("model", str(err), rule="model.adapter") from err


def _require_equal(host: ModelHost, plan: Plan) -> None:
    """The adapter that was built has to be the one that the plan lays out, to the last name and option."""
    same_options = canonical_json(host.lora_options) == canonical_json(plan.lora)
    if host.files.sha256 != plan.base_sha256 or host.layout != plan.layout or not same_options:
        raise NotAgreed("model", "the plan's adapter does not fit the base model installed here", rule="model.layout")
    context = getattr(host.model.config, "max_position_embeddings", None)
    if context is not None and plan.max_length > int(context):
        raise NotAgreed("model", f"records of {plan.max_length} tokens, the model takes {context}", rule="max_length")


def _adapter_key(plan: Plan) -> str:
    """What has to be the same for two plans to share a model as it is."""
    return sha256_of([plan.lora, plan.layout, plan.labels, plan.method, plan.dp is not None])
