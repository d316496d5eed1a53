"""The model card: README.md of the adapter directory."""

from __future__ import annotations

from collections.abc import Sequence

from partsong.server.report.facts import Facts


def model_card(facts: Facts, *, labels: Sequence[str]) -> str:
    """Write the card.

    Args:
        facts: of the run.
        labels: the closed list of classes; empty for a language model.
    """
    kind = "AutoModelForSequenceClassification" if labels else "AutoModelForCausalLM"
    more = f", num_labels={len(labels)}" if labels else ""
    found, base = facts.privacy, facts.base.name
    claim = (
        "Trained without differential privacy."
        if found is None
        else f"{found.unit.capitalize()}-level differential privacy at every site: epsilon {found.epsilon:.2f} "
        f"at delta {found.delta:g}, for {found.neighbours}."
    )
    return f"""---
library_name: peft
base_model: {base}
tags: [lora, federated-learning, {"not-private" if found is None else "differential-privacy"}]
---
# Adapter of run {facts.run}

A LoRA adapter for {base}, trained by several sites on records that stayed where they are.

{claim} The details stand in `privacy.json`, the origin in `provenance.json`.

```python
from peft import PeftModel
from transformers import {kind}

base = {kind}.from_pretrained(BASE_FOLDER{more})
model = PeftModel.from_pretrained(base, ADAPTER_FOLDER)
```

## Limits

{chr(10).join(f"- {line}" for line in (*facts.marks, *facts.not_covered))}
"""
