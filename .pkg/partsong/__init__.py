"""partsong: federated, privacy-preserving fine-tuning of language models.

The package is five folders of the repository under one name: `partsong.server`,
`partsong.client`, `partsong.common`, `partsong.conf` and `partsong.simulations`.
"""

__version__ = "0.1.0"
