"""Every setting, its default and its bounds: the one place where a default lives.

Hydra composes YAML and command-line overrides into a tree; `build` turns the tree into these frozen
dataclasses and refuses what does not fit. Names follow PEFT (`r`, `lora_alpha`, `target_modules`), TRL and
`TrainingArguments` (`learning_rate`, `max_length`, `assistant_only_loss`) wherever they have one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from partsong.common.bounds import positive as _positive
from partsong.common.bounds import within as _within
from partsong.common.questions.settings import EvaluationConfig, Purpose, SurveyConfig, VoteConfig
from partsong.common.simulated import ANY_RANK, EngineConfig, PartitionConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The base model: frozen, identical at every site."""

    source: str
    """A folder with safetensors, a `.gguf` file, or `package:NAME/FILE` for a file inside an installed package."""
    task: Literal["causal_lm", "classification"] = "causal_lm"
    """`classification` puts a head on the model; its classes are `data.labels`."""
    sha256: str | None = None
    """Expected SHA-256 of the weights; another one stops the run. None: computed and recorded."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the base weights; adapters and heads are float32. auto: bfloat16 for a causal model on a GPU, else float32."""
    quantization: Literal["none", "nf4"] = "none"
    """nf4: 4-bit base (QLoRA) through bitsandbytes."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    gradient_checkpointing: bool = False
    """Trade time for memory in the backward pass."""
    threads: int | None = None
    """CPU threads of torch; None leaves torch's own choice."""

    def __post_init__(self) -> None:
        _positive(threads=self.threads)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where records are and how their fields are called."""

    path: str | None = None
    """One dataset that is split over `sites`, or a folder with one per site: `Hospital_A.jsonl` is hospital-a's."""
    held_out: str | None = None
    """A dataset for evaluation that no site trains on."""
    builtin: Literal["icd10", "iso18245"] | None = None
    """Real text out of an installed package instead of `path`: its own sites and its own held-out set."""
    format: Literal["auto", "jsonl", "csv", "parquet", "dataset"] = "auto"
    """auto goes by the ending; `dataset` is a folder written by Hugging Face `save_to_disk`."""
    messages_field: str = "messages"
    """Column of a chat: a list of role and content."""
    prompt_field: str = "prompt"
    """Column of what is asked."""
    completion_field: str = "completion"
    """Column of what is answered."""
    text_field: str = "text"
    """Column of plain text, alone or with a label."""
    label_field: str = "label"
    """Column of the class."""
    unit_field: str | None = None
    """Column that says whose record it is (a patient id); reported, and the privacy unit where asked for."""
    opt_out: str | None = None
    """A file with a value of `unit_field` on each line: their records are dropped while the data are read, before
    anything is checked, counted, fingerprinted or learned."""
    group_field: str | None = None
    """Column of the group, for an evaluation or a survey that tells groups apart."""
    phone_region: str | None = None
    """Country (ISO 3166-1, such as DE) whose own way of writing telephone numbers a survey of details reads too."""
    labels: tuple[str, ...] = ()
    """Closed, public list of classes. Never collected from private records."""
    max_length: int = 512
    """Longest sequence in tokens; what is cut off is counted and reported."""
    assistant_only_loss: bool = True
    """Chat records: only what the assistant says is learned."""
    completion_only_loss: bool = True
    """Prompt and completion: only the completion is learned."""
    chat_template_path: str | None = None
    """A Jinja file used instead of the tokenizer's own chat template."""
    packing: bool = False
    """Several records in one sequence. Refused under differential privacy."""

    def __post_init__(self) -> None:
        _within(2, 1_000_000, max_length=self.max_length)
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels without repeats")
        if self.opt_out is not None and self.unit_field is None:
            raise ValueError("unit_field with opt_out: the column that the list is looked up in")
        if self.phone_region is not None and not (len(self.phone_region) == 2 and self.phone_region.isupper()):
            raise ValueError("phone_region as two capital letters")


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig:
    """What is trained and sent: LoRA."""

    method: Literal["ffa", "fedit", "rolora", "fedsb", "fedrot", "hlora", "sketch"] = "ffa"
    """ffa: A is frozen and drawn from a public seed, B is trained and averaged; the mean of the products is exact.
    fedit: A and B are averaged each on its own, the plain FedAvg baseline; not exact. rolora: B in odd rounds and A in
    even ones, the other frozen and the same everywhere; exact. fedsb: A and B are frozen and public, an r x r core
    between them is trained; exact, and the fewest numbers. fedrot: fedit, but each site first turns its factors towards
    the global ones, which does not change their product; nearly exact. hlora: each site trains A and B of a rank of its
    own, and the whole product B·A is summed; exact, many more numbers, without privacy and in simulations only. sketch:
    hlora, but two sketches of the product are summed; exact where they are as wide as all sites' ranks together."""
    lr_ratio: float = 5.0
    """rolora: training.learning_rate, which is B's, over that of A."""
    clip_ratio: float = 1.0
    """rolora: the clip of a unit's gradient of A over privacy.clip_norm, which is that of B."""
    r: int = 8
    """LoRA rank."""
    lora_alpha: float = 16.0
    """LoRA scale: the product B·A is multiplied by lora_alpha / r."""
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    """Linear layers that get an adapter, by the last part of their name. One that matches nothing is an error."""
    last_layers: int | None = None
    """Adapters in the last N layers only: the layers before them run without gradients. None: all layers."""
    train_head: bool = True
    """Classification: the head is part of the update. False: it stays as the public seed drew it."""
    refresh: int = 1
    """ffa: stretches of the run, each with a new A; what those before have learned stays, frozen. The published rank
    is this many times r."""
    sketch: int = 0
    """sketch: width; exact from the sum of all sites' ranks on. At least r."""
    rotation: float = 0.5
    """fedrot: how far the factors are turned, 0 not at all, 1 as close to the global ones as they get."""
    a_init: Literal["orthonormal", "kaiming", "public_svd", "private_gradient"] = "orthonormal"
    """How A starts (and fedsb's B): rows of a random orthonormal frame; as PEFT starts it; the first singular vectors
    of the base weights, which are public. private_gradient, a basis fitted to records, is refused."""
    seed: int = 0
    """Public seed of A (and of a classification head)."""
    peft: Mapping[str, Any] = field(default_factory=dict)
    """Further options of `peft.LoraConfig`, passed through."""

    def __post_init__(self) -> None:
        _positive(r=self.r, lora_alpha=self.lora_alpha, last_layers=self.last_layers)
        _within(1e-6, 1e6, lr_ratio=self.lr_ratio, clip_ratio=self.clip_ratio)
        _within(0, 1, rotation=self.rotation)
        _within(1, 1000, refresh=self.refresh)
        if self.refresh > 1 and (self.method != "ffa" or self.a_init == "public_svd"):
            raise ValueError("refresh only with method=ffa and an A that is drawn at random")
        if (self.method == "sketch") != (self.sketch >= self.r):
            raise ValueError("sketch of at least r with method=sketch, and 0 with any other")
        if self.method == "fedsb" and self.a_init == "kaiming":
            raise ValueError("a_init orthonormal or public_svd with method=fedsb: both factors stay as they start")
        if not self.target_modules:
            raise ValueError("target_modules with at least one name")


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyConfig:
    """Differential privacy at each site. Closed by default: leaving it off has to be asked for by name."""

    mode: Literal["dp", "none"] = "dp"
    """none: no clipping, no noise, no guarantee; every output of the run says so."""
    unit: Literal["record", "patient"] = "record"
    """Whose presence is hidden (add or remove one). record: each record by itself; a patient with several is hidden
    less, and the site is told how much. patient: all records of one value of `data.unit_field` together; patients are
    sampled and clipped as a whole."""
    contribution_bound: int = 4
    """With unit=patient: most records of one patient in a step, drawn anew each time; their mean is clipped."""
    epsilon: float = 8.0
    """Bound for the whole run at each site."""
    delta: float = 1e-5
    """One value for the federation; each site checks that it is below 1 / its number of records (or patients)."""
    sampling_rate: float = 0.05
    """Poisson sampling rate q of each step, of records or of patients."""
    clip_norm: float = 1.0
    """L2 bound of one unit's gradient."""
    clipping: Literal["abadi", "autos"] = "abadi"
    """abadi: min(1, C/n). autos: C/(n + 0.01), which needs no tuning of C."""
    noise_multiplier: float | None = None
    """Noise standard deviation / clip_norm. None: the smallest that keeps `epsilon`."""
    noise: Literal["gaussian", "discrete"] = "gaussian"
    """gaussian: float64, from the operating system's randomness, rounded once. discrete: integers on a grid, exactly
    distributed, some ten times slower to draw; always so with placement=sum."""
    placement: Literal["site", "sum"] = "site"
    """site: each adds enough noise by itself. sum: sites bring it together and add less (docs/noise_on_the_sum.md)."""
    expected_batch: float | None = None
    """placement=sum: public number of units, over all sites, that a sum is divided by. It only scales the step."""
    loss_clip: float = 8.0
    """One unit's loss counts as at most this in the released loss."""
    loss_noise_ratio: float = 4.0
    """Noise multiplier of the released loss / noise multiplier of the gradient."""
    engine: Literal["flat", "hooks"] = "flat"
    """Where per-record gradients come from: one flat buffer written in the backward pass, or Opacus' hooks, which are
    slower and know more kinds of layers."""

    def __post_init__(self) -> None:
        _positive(epsilon=self.epsilon, clip_norm=self.clip_norm, loss_noise_ratio=self.loss_noise_ratio)
        _positive(loss_clip=self.loss_clip, noise_multiplier=self.noise_multiplier, expected_batch=self.expected_batch)
        if (self.placement == "sum") != (self.expected_batch is not None):
            raise ValueError("expected_batch with placement=sum, and only there")
        _within(1e-12, 1 - 1e-12, delta=self.delta)
        _within(1, 1_000_000, contribution_bound=self.contribution_bound)
        _within(1e-9, 1.0, sampling_rate=self.sampling_rate)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """One site's part of a round."""

    steps_per_round: int = 4
    """Optimizer steps, each on one Poisson sample."""
    learning_rate: float = 1e-2
    """Of the first round. Under differential privacy 3 to 10 times what is usual without."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate falls over the rounds of a run; constant within a round."""
    optim: Literal["adamw", "sgd"] = "adamw"
    """Local optimizer; its state begins anew in every round."""
    weight_decay: float = 0.0
    """Of the local optimizer."""
    prox_mu: float = 0.0
    """FedProx: this times the way from the round's global adapter is added to every gradient, after any noise."""
    adam_beta1: float = 0.9
    """Of AdamW."""
    adam_beta2: float = 0.999
    """Of AdamW."""
    per_device_train_batch_size: int = 16
    """Records per forward pass. Halved by itself when memory runs out; the Poisson sample is not changed."""
    per_device_eval_batch_size: int = 64
    """Records per forward pass of an evaluation."""
    group_by_length: bool = True
    """Sort a drawn sample by length before it is cut into passes: less padding, same gradient."""

    def __post_init__(self) -> None:
        _positive(steps_per_round=self.steps_per_round, learning_rate=self.learning_rate)
        _positive(per_device_train_batch_size=self.per_device_train_batch_size)
        _positive(per_device_eval_batch_size=self.per_device_eval_batch_size)
        _within(0, 0.9999999, adam_beta1=self.adam_beta1, adam_beta2=self.adam_beta2)
        _within(0, 10, weight_decay=self.weight_decay, prox_mu=self.prox_mu)
        if self.optim == "sgd" and self.learning_rate * self.prox_mu > 1:
            raise ValueError("prox_mu of at most 1 / learning_rate: beyond, a step would overshoot the global adapter")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOptimizerConfig:
    """What the coordinator does with the mean of the updates."""

    name: Literal["fedavg", "fedavgm", "fedadam", "nesterov"] = "fedavg"
    """fedavg takes the mean as it is; the others remember earlier rounds."""
    learning_rate: float = 1.0
    """Factor on the step."""
    momentum: float = 0.9
    """fedavgm, nesterov; beta 1 of fedadam."""
    beta2: float = 0.99
    """fedadam."""
    tau: float = 1e-3
    """fedadam: added to the root of the second moment."""

    def __post_init__(self) -> None:
        _positive(learning_rate=self.learning_rate, tau=self.tau)
        _within(0, 0.9999999, momentum=self.momentum, beta2=self.beta2)


@dataclass(frozen=True, kw_only=True, slots=True)
class CohortConfig:
    """Who must answer for a round to count."""

    minimum: int = 3
    """Fewest sites a sum may be made of; a round with fewer is aborted and its updates are lost."""
    report_timeout_s: float = 3600.0
    """How long a phase of a round waits for its sites."""
    sample: int | None = None
    """Sites that are asked in a round, drawn from the plan's hash; None: all. The draw is public, so it saves no
    privacy budget."""
    groups: int | None = None
    """Split the sites into so many groups, 3 or more, that are asked one after the other, and move the adapter by the
    median of their means (docs/robustness.md). It takes as many times the rounds. None: by the mean of all."""

    def __post_init__(self) -> None:
        _positive(minimum=self.minimum, report_timeout_s=self.report_timeout_s)
        _within(3, 1000, groups=self.groups)
        if self.sample is not None and self.sample < self.minimum:
            raise ValueError(f"sample of at least minimum={self.minimum}, not {self.sample}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SecureSumConfig:
    """How an update becomes words that add up, and what hides them."""

    mode: Literal["full", "sum-only", "off"] = "full"
    """full: the coordinator learns the sum and nothing else (common/PROTOCOL.md). off: it could read each site's
    update; every output of the run says so. sum-only: off, but with the floors that `full` would have, so that rounds
    end as they would; for simulations of many sites."""
    minimum_honest: int | None = None
    """Fewest honest sites a sum must hide among. None: 3, or all where there are fewer sites."""
    corrupt_tolerance: int | None = None
    """Most sites that may work with the coordinator. None: the largest number below a third of the sites."""
    check_window: int = 1
    """Newest rounds of which the coordinator keeps the masked vectors, so that anyone can recompute their sum and sites
    can ask for a block of the last one. 0: neither."""
    weights: tuple[int, ...] = ()
    """Weights of the sites' updates in the mean, 1 to 100, by the sites' names in order; agreed in the charter, never
    counted from records. Empty: all alike."""
    field_bits: int = 21
    """Width of one number in the sum; 64 // field_bits numbers share a word."""
    update_clip: float | None = None
    """L2 bound of a site's whole update. None: follows from learning rate, steps and size."""

    def __post_init__(self) -> None:
        _within(8, 32, field_bits=self.field_bits)
        _positive(update_clip=self.update_clip)
        _within(2, 1_000_000, minimum_honest=self.minimum_honest)
        if self.weights and (self.mode != "full" or not all(1 <= weight <= 100 for weight in self.weights)):
            raise ValueError("weights between 1 and 100, and only with mode=full: they stand in the charter")
        _within(0, 1_000_000, check_window=self.check_window)
        _within(0, 1_000_000, corrupt_tolerance=self.corrupt_tolerance)


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationConfig:
    """A whole federation on one machine."""

    model: ModelConfig
    data: DataConfig
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: ServerOptimizerConfig = field(default_factory=ServerOptimizerConfig)
    cohort: CohortConfig = field(default_factory=CohortConfig)
    secure_sum: SecureSumConfig = field(default_factory=SecureSumConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    survey: SurveyConfig = field(default_factory=SurveyConfig)
    vote: VoteConfig = field(default_factory=VoteConfig)
    purpose: Purpose = "train"
    """train an adapter, evaluate one on records that it was not trained on, or survey the records beforehand."""
    site_policy: str | None = None
    """Policy file (docs/policy.md) that every simulated site enforces, its holding named `records`. None: each site
    allows what the run asks for, once."""
    site_ranks: tuple[int, ...] = ()
    """With adapter.method=hlora or sketch: ranks that the sites have chosen, one site after the other and then
    again from the first; adapter.r is the most. Empty: all train the most."""
    measure_aggregation: bool = False
    """Write down, layer by layer, what each round's average lost. The simulator looks at every site's update for it;
    nobody could where sites are real."""
    compare_alone: bool = False
    """Let each site see what it would get alone, on its own test records; shown at the site only."""
    study: str = "simulation"
    """Name of the run's folder, with the time appended."""
    rounds: int = 5
    """Queries the coordinator asks; under differential privacy the budget is spread over all of them."""
    sites: int | None = None
    """How many sites to split the data over; None: as many as the data has by itself."""
    drop: tuple[str, ...] = ()
    """Scripted drop-outs: `SITE@ROUND:train` (before READY), `report` (after it, the default), `confirm` or `unmask`
    (after its report, which then stays in the sum)."""
    faults: str | None = None
    """YAML file of scripted faults (docs/faults.md): drop-outs, delays, cuts, kills, corruption, lies, wrong clocks."""
    evaluate_every: int = 1
    """Rounds between evaluations of the held-out set by the simulator, the last round included; 0: none."""
    evaluate_limit: int | None = None
    """At most this many held-out records."""
    seed: int | None = None
    """Makes sampling repeatable, for tests. Refused with privacy.mode=dp; marks the run."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    run_dir: str = "runs"
    """Folder in which the run gets a folder of its own."""

    def __post_init__(self) -> None:
        _positive(rounds=self.rounds, sites=self.sites, evaluate_limit=self.evaluate_limit)
        _within(0, 1_000_000, evaluate_every=self.evaluate_every)
        if self.seed is not None and self.privacy.mode == "dp":
            raise ValueError("no seed under privacy.mode=dp: a guessed sample or noise voids the guarantee")
        if self.privacy.mode == "dp" and self.privacy.unit == "patient" and self.data.unit_field is None:
            raise ValueError("data.unit_field with privacy.unit=patient: the column that says whose record it is")
        most = self.adapter.r if self.adapter.method in ANY_RANK else 0
        if not all(1 <= rank <= most for rank in self.site_ranks):
            raise ValueError("site_ranks of 1 to adapter.r, and only with adapter.method=hlora or sketch")
        if self.data.packing and self.privacy.mode == "dp":
            raise ValueError("data.packing=false under privacy.mode=dp: one sequence must hold one record")
