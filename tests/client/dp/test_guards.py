"""What cannot be clipped is refused by its own name, before anything is attached or added."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from partsong.client.dp.accountant import make_accountant
from partsong.client.dp.engine import private_stepper
from partsong.client.dp.guards import UNSAFE, refuse_choice
from partsong.common.errors import Refused


def attach(kit, model, **changes):
    return private_stepper(model, torch.optim.SGD(kit.trainable(model), lr=0.1), kit.settings(**changes))


@pytest.mark.parametrize("choice", sorted(UNSAFE))
def test_each_unsafe_choice_is_refused_with_reason_and_remedy(choice: str) -> None:
    """The rule's name, why, and what to do instead."""
    rule, reason, remedy = UNSAFE[choice]

    with pytest.raises(Refused) as caught:
        refuse_choice("flat", choice)

    assert (caught.value.rule, caught.value.reason, caught.value.remedy) == (rule, reason, remedy)
    assert min(len(reason), len(remedy)) > 10


def test_safe_choices_pass() -> None:
    """What the configuration offers is not in the table; one unsafe name among them is found."""
    safe = ("abadi", "autos", "hooks", "flat", "pld", "poisson")

    refuse_choice(*safe)

    with pytest.raises(Refused, match="ghost"):
        refuse_choice(*safe, "ghost")


@pytest.mark.parametrize(
    ("field", "value", "rule"), [("engine", "ghost", "ghost_clipping"), ("clipping", "adaptive", "adaptive_clipping")]
)
def test_settings_answer_to_other_tools_names(kit, field: str, value: str, rule: str) -> None:
    """Who comes from Opacus is told why not."""
    with pytest.raises(Refused, match=rule):
        kit.settings(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_multiplier", 0.0),
        ("clip_norm", float("inf")),
        ("expected_batch", 0.0),
        ("loss_noise_multiplier", -1.0),
        ("sampling_rate", 1.5),
        ("engine", "ew"),
        ("clipping", "layers"),
    ],
)
def test_settings_without_meaning_are_refused(kit, field: str, value: object) -> None:
    """There is no private step without noise, clip or rate."""
    with pytest.raises(ValueError, match=r"above 0|sampling_rate|one of"):
        kit.settings(**{field: value})


def test_the_gaussian_approximation_is_no_accountant() -> None:
    """It under-reports; other names do not exist."""
    with pytest.raises(Refused, match="gdp_accountant"):
        make_accountant("gdp")
    with pytest.raises(ValueError, match="pld, not prv"):
        make_accountant("prv")


@pytest.mark.parametrize("engine", ["hooks", "flat"])
@pytest.mark.parametrize(
    ("peft", "rule"),
    [
        ({"use_dora": True}, "dora"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embedding_lora"),
    ],
)
def test_adapters_that_escape_are_refused(kit, engine: str, peft: dict, rule: str) -> None:
    """Neither weight norms nor embedding parameters have a gradient per record."""
    model = kit.tiny(peft=peft, tie_word_embeddings=False)

    with pytest.raises(Refused, match=f"rule {rule}:"):
        attach(kit, model, engine=engine)

    assert not any(hasattr(p, "grad_sample") for p in model.parameters())


@pytest.mark.parametrize("engine", ["hooks", "flat"])
def test_adapters_in_fewer_bits_are_refused(kit, engine: str) -> None:
    """bfloat16 noise takes a few thousand values."""
    with pytest.raises(Refused, match="adapter_dtype"):
        attach(kit, kit.tiny().bfloat16(), engine=engine)


def test_a_model_in_evaluation_mode_is_refused_at_the_start_and_later(kit) -> None:
    """Gradients are only seen in train mode."""
    with pytest.raises(Refused, match="not_in_train_mode"):
        attach(kit, kit.tiny().eval())

    model, batch = kit.tiny(), kit.unequal()
    stepper = attach(kit, model)
    with pytest.raises(Refused, match="not_in_train_mode"):
        stepper.accumulate(kit.losses(model.eval(), batch))


def test_one_layer_in_evaluation_mode_is_found(kit) -> None:
    """Its gradient would go past the clipping."""
    model, batch = kit.tiny(), kit.unequal()
    stepper = attach(kit, model)
    next(m for n, m in model.named_modules() if n.endswith("lora_B.default")).eval()

    with pytest.raises(Refused, match="parameter_not_covered"):
        stepper.accumulate(kit.losses(model, batch))

    assert not stepper._optimizer.sum_P.any()


def test_nothing_to_train_is_refused(kit) -> None:
    """An adapter that was frozen by mistake would only release noise."""
    model = kit.tiny()
    optimizer = torch.optim.SGD(kit.trainable(model), lr=0.1)
    model.requires_grad_(False)

    with pytest.raises(Refused, match="nothing_to_train"):
        private_stepper(model, optimizer, kit.settings())


def test_an_optimizer_over_other_tensors_is_refused(kit) -> None:
    """It would never move the adapter while epsilon grows."""
    model, other = kit.tiny(), kit.tiny()

    with pytest.raises(Refused, match="optimizer_parameters"):
        private_stepper(model, torch.optim.SGD(kit.trainable(other), lr=0.1), kit.settings())


def test_batch_normalisation_is_refused(kit) -> None:
    """Its statistics mix records."""
    model = kit.tiny()
    model.extra = nn.BatchNorm1d(4)
    model.extra.requires_grad_(False)

    with pytest.raises(Refused, match="batch_statistics"):
        attach(kit, model)


@pytest.mark.parametrize(("threshold", "refused"), [(6.0, True), (0.0, False)])
def test_outlier_columns_of_eight_bits_are_refused(kit, threshold: float, *, refused: bool) -> None:
    """A threshold above 0 looks for outliers over all rows of the batch."""
    model = kit.tiny()
    layer = type("Linear8bitLt", (nn.Module,), {})()
    layer.state = SimpleNamespace(threshold=threshold)
    model.extra = layer

    if refused:
        with pytest.raises(Refused, match="int8_outliers"):
            attach(kit, model)
    else:
        attach(kit, model).close()


def test_hooks_refuse_checkpointing_that_repeats_the_forward_pass_unseen(kit) -> None:
    """transformers' default; the flat engine takes it."""
    model = kit.tiny()
    model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})

    with pytest.raises(Refused, match="checkpointing_under_hooks"):
        attach(kit, model, engine="hooks")

    attach(kit, model, engine="flat").close()


def test_the_flat_engine_refuses_layers_it_does_not_know(kit) -> None:
    """A trainable norm is for the hooks."""
    model = kit.tiny()
    model.get_base_model().model.norm.weight.requires_grad_(True)

    with pytest.raises(Refused, match="parameter_not_covered"):
        attach(kit, model, engine="flat")

    attach(kit, model, engine="hooks").close()


def test_a_weight_shared_by_two_layers_is_refused(kit) -> None:
    """Two owners would write one gradient."""
    model = kit.tiny()
    first, second = [m for n, m in model.named_modules() if n.endswith("q_proj.lora_A.default")]
    second.weight = first.weight

    with pytest.raises(Refused, match="parameter_shared"):
        attach(kit, model)


def test_a_backward_pass_of_ones_own_is_refused(kit) -> None:
    """Only accumulate() clips."""
    model, batch = kit.tiny(), kit.unequal()
    stepper = attach(kit, model)

    with pytest.raises(Refused, match="backward_outside_of_step"):
        kit.losses(model, batch).sum().backward()

    stepper.close()


def test_a_gradient_written_past_the_clipping_is_not_released(kit) -> None:
    """A penalty added by hand would otherwise ride along."""
    model = kit.tiny()
    stepper = attach(kit, model)
    kit.trainable(model)[0].grad = torch.ones_like(kit.trainable(model)[0])

    with pytest.raises(Refused, match="gradient_past_clipping"):
        stepper.step()

    assert stepper.events == ()


def test_a_weight_penalty_inside_the_loss_is_found(kit) -> None:
    """A parameter that reaches the loss other than through its layer escapes the norm."""
    model, batch = kit.tiny(), kit.unequal()
    stepper = attach(kit, model)

    with pytest.raises(Refused, match="parameter_not_covered"):
        stepper.accumulate(kit.losses(model, batch) + kit.trainable(model)[0].square().sum())

    assert not stepper._optimizer.sum_P.any()


def test_book_keeping_refuses_products_in_fewer_bits(kit) -> None:
    """Its norms and sums are separate products; the flat buffer uses none and goes on."""
    model, batch = kit.tiny(), kit.unequal()
    torch.set_float32_matmul_precision("medium")
    try:
        attach(kit, model).accumulate(kit.losses(model, batch))
        model = kit.tiny()
        optimizer = torch.optim.SGD(kit.trainable(model), lr=0.1)
        books = private_stepper(model, optimizer, kit.settings(), buffer_limit_bytes=0)
        with pytest.raises(Refused, match="reduced_precision"):
            books.accumulate(kit.losses(model, batch))
    finally:
        torch.set_float32_matmul_precision("highest")


def test_trained_layers_with_state_are_refused(kit) -> None:
    """Opacus' own check, in our words; nothing stays attached."""
    model = kit.tiny()
    model.extra = nn.InstanceNorm1d(4, affine=True, track_running_stats=True)

    with pytest.raises(Refused, match="buffers_in_trained_layer"):
        attach(kit, model, engine="hooks")

    assert not any(m._forward_pre_hooks for m in model.modules())


def test_a_loss_without_graph_is_refused(kit) -> None:
    """A constant trains nothing."""
    model = kit.tiny()
    stepper = attach(kit, model)

    with pytest.raises(Refused, match="loss_without_graph"):
        stepper.accumulate(torch.ones(3))
