"""Checks of base model, records, gradients and adapter, on the tiny bases and on broken copies of them."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from partsong.client.doctor.accelerator import check_bfloat16, check_gpu
from partsong.client.doctor.base import LIBRARIES_BYTES, check_base, needed_bytes
from partsong.client.doctor.gradients import check_gradients, load_for_check
from partsong.client.doctor.records import check_records
from partsong.client.doctor.reload import check_reload
from partsong.client.doctor.torch_process import look
from partsong.common.config import DataConfig, ModelConfig
from partsong.common.doctor.finding import Check, Seen, run

FIXTURES = Path(__file__).parents[2] / "fixtures"
LLAMA = ModelConfig(source=str(FIXTURES / "tiny-llama"), device="cpu", threads=1)
BERT = ModelConfig(source=str(FIXTURES / "tiny-bert"), task="classification", device="cpu", threads=1)
LABELS = ("heart", "lung", "skin")


def guarded(check) -> Seen:
    (finding,) = run([Check(name="x", look=check, limit_s=600)])
    return finding.seen


def with_source(folder: Path, **more) -> ModelConfig:
    return ModelConfig(source=str(folder), device="cpu", threads=1, **more)


def test_the_agreed_base_is_recognised_and_another_refused() -> None:
    """Without a digest in site.yaml there is a warning that says where to put it."""
    digest = check_base(LLAMA).found.rpartition(" ")[2]

    agreed = check_base(with_source(FIXTURES / "tiny-llama", sha256=digest))
    other = guarded(lambda: check_base(with_source(FIXTURES / "tiny-llama", sha256="0" * 64)))

    assert (check_base(LLAMA).state, agreed.state, other.state) == ("warn", "ok", "fail")
    assert "not the agreed base" in other.remedy


def test_weights_that_were_cut_off_are_found(tmp_path: Path) -> None:
    """A copy that was broken off half-way cannot be read, and is named."""
    shutil.copytree(FIXTURES / "tiny-llama", tmp_path / "base")
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    seen = guarded(lambda: needed_bytes(with_source(tmp_path / "base"), has_gpu=False))

    assert seen.state == "fail"
    assert "model.safetensors" in seen.found


def test_the_memory_of_a_base_follows_from_its_weights() -> None:
    """On a CPU each number takes four bytes, in nf4 little more than half of one."""
    numbers = sum(
        torch.Size(entry["shape"]).numel()
        for name, entry in _head(FIXTURES / "tiny-llama" / "model.safetensors").items()
        if name != "__metadata__"
    )

    on_cpu = needed_bytes(LLAMA, has_gpu=False) - LIBRARIES_BYTES
    quantized = needed_bytes(ModelConfig(source=LLAMA.source, quantization="nf4"), has_gpu=True) - LIBRARIES_BYTES

    assert on_cpu == 4 * numbers
    assert quantized == round(0.6 * numbers)


def _head(file: Path) -> dict:
    raw = file.read_bytes()
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])


def test_records_are_counted_and_what_is_cut_is_told(tmp_path: Path) -> None:
    """One long record of four is a quarter; nothing of a record is in the finding."""
    rows = [{"prompt": "Q:", "completion": " yes"}] * 3 + [{"prompt": "Q:", "completion": " secretword" * 40}]
    file = tmp_path / "notes.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    cut = check_records(LLAMA, DataConfig(path=str(file), max_length=32))
    whole = check_records(LLAMA, DataConfig(path=str(file), max_length=512))

    assert (cut.state, whole.state) == ("warn", "ok")
    assert cut.found.startswith("4 records (prompt_completion), 25.0% cut at 32 tokens")
    assert "secretword" not in str(cut)


def test_a_row_that_does_not_fit_is_named_and_not_quoted(tmp_path: Path) -> None:
    """Row and field, and nothing of what stands there."""
    file = tmp_path / "notes.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "secretword", "completion": 3}\n')

    seen = guarded(lambda: check_records(LLAMA, DataConfig(path=str(file))))

    assert "row 2" in seen.found
    assert "secretword" not in str(seen)
    assert check_records(LLAMA, DataConfig()).found == "data.path is not set"


@pytest.mark.parametrize(("model", "labels"), [(LLAMA, ()), (BERT, LABELS)], ids=["llama", "bert"])
def test_a_sound_installation_passes_both_checks_of_the_adapter(model: ModelConfig, labels: tuple[str, ...]) -> None:
    """Every record's gradient is its own, and PEFT loads what was saved."""
    host = load_for_check(model, labels)

    gradients = check_gradients(host, classes=len(labels))
    reload = check_reload(host, classes=len(labels))

    assert (gradients.state, reload.state) == ("ok", "ok")
    assert "0.0e+00" in reload.found


class Mixing(nn.Module):
    """A layer that adds the mean over the pass: what batch normalisation does to gradients."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: torch.Tensor, *args: object, **more: object) -> torch.Tensor:
        out = self.inner(hidden, *args, **more)
        return out + out.mean(dim=0, keepdim=True)


def test_records_that_mix_in_the_forward_pass_are_found() -> None:
    """The control: with one layer that looks at the whole pass the error is no rounding any more."""
    host = load_for_check(LLAMA, ())
    layer = host.model.get_base_model().model.layers[0]
    layer.mlp = Mixing(layer.mlp)

    seen = check_gradients(host, classes=0)

    assert seen.state == "fail"
    assert "not each record's own" in seen.cause


def test_an_adapter_that_loads_differently_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a library that saves an adapter of zeros is found by the logits."""
    host = load_for_check(LLAMA, ())
    save = host.model.save_pretrained

    def saves_zeros(folder: str) -> None:
        kept = host.take()
        host.put(kept * 0)
        save(folder)
        host.put(kept)

    monkeypatch.setattr(host.model, "save_pretrained", saves_zeros)

    assert check_reload(host, classes=0).state == "fail"


def test_an_adapter_that_does_nothing_is_found() -> None:
    """Zeros load as zeros, and prove nothing."""
    host = load_for_check(LLAMA, ())
    host.put(host.take() * 0)

    assert check_reload(host, classes=0).found == "the adapter changes nothing"


@pytest.mark.skipif(torch.cuda.is_available(), reason="the faults are those of a machine without a GPU")
def test_a_gpu_that_is_wanted_and_not_there_is_told_from_one_that_torch_cannot_use() -> None:
    """Three machines without CUDA, three answers."""
    wanted = ModelConfig(source="x", device="cuda")

    assert check_gpu(ModelConfig(source="x"), has_device=False).state == "ok"
    assert "no GPU is here" in check_gpu(wanted, has_device=False).found
    assert "torch cannot use it" in check_gpu(wanted, has_device=True).found
    assert check_bfloat16(ModelConfig(source="x", device="cpu")).state == "ok"
    assert "works on cpu" in check_bfloat16(ModelConfig(source="x", device="cpu", dtype="bfloat16")).found


def child(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def asked(command: tuple[str, ...], *, limit_s: float = 60) -> dict[str, Seen]:
    return look(("gpu", "bfloat16"), model=LLAMA, data=DataConfig(), limit_s=limit_s, command=command)


SAYS_OK = 'print(\'{"state": "ok", "found": "fine", "cause": null, "remedy": null}\', flush=True); '


@pytest.mark.parametrize(
    ("ends", "word"), [("import os; os.kill(os.getpid(), 11)", "SIGSEGV"), ("import sys; sys.exit(3)", "exit code 3")]
)
def test_a_driver_that_crashes_takes_its_own_process_only(ends: str, word: str) -> None:
    """What was said before the crash still counts."""
    seen = asked(child(SAYS_OK + ends))

    assert seen["gpu"].state == "ok"
    assert (seen["bfloat16"].state, word in seen["bfloat16"].found) == ("fail", True)


def test_the_kernel_ending_it_means_memory() -> None:
    """The cause says so."""
    seen = asked(child("import os; os.kill(os.getpid(), 9)"))

    assert "memory ran out" in seen["gpu"].cause


def test_a_process_that_hangs_is_ended() -> None:
    """Its first word counts, too."""
    seen = asked(child(SAYS_OK + "import threading; threading.Event().wait()"), limit_s=1)

    assert (seen["gpu"].state, "no answer" in seen["bfloat16"].found) == ("ok", True)


def test_the_real_process_answers_without_torch() -> None:
    """The base is hashed in it, and the answer is that of this process."""
    seen = look(("base",), model=LLAMA, data=DataConfig(), limit_s=120)

    assert seen == {"base": check_base(LLAMA)}
