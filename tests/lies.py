"""Lies of a coordinator in the messages around the secure sum, for tests of what they come to."""

import inspect
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from wiring import Before, Wired

from partsong.client.secure_sum import masked_door as door_module
from partsong.common import wire
from partsong.common.adapters.adapter import digest
from partsong.common.codec import pack, unpack
from partsong.common.plan import Plan
from partsong.common.secure_sum.messages import Begin, Header, Open, sign
from partsong.common.secure_sum.opened import model_hash
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss

LIE_P = np.full(8, 0.5, np.float32)


def without(monkeypatch: pytest.MonkeyPatch, module: types.ModuleType, check: str, instead: str) -> None:
    """Put a class of a module in place whose source lacks one check."""
    source = inspect.getsource(module)
    assert source.count(check) == 1, f"{check!r} occurs {source.count(check)} times"
    changed = types.ModuleType(module.__name__)
    changed.__file__ = module.__file__
    monkeypatch.setitem(sys.modules, module.__name__, changed)
    exec(compile(source.replace(check, instead), str(module.__file__), "exec"), changed.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name, user in (("MaskedDoor", sys.modules["wiring"]), ("Follower", door_module)):
        if hasattr(changed, name):
            # Errors stay what they are, so that callers still know them.
            monkeypatch.setattr(user, name, vars(changed)[name])


def resigned(made: Wired, parcel: Parcel, *, header: dict[str, Any] | None = None, **query: Any) -> Parcel:
    """An OPEN with other words in the signed header or in the message beside it, signed as it has to be."""
    opened = unpack(Open, parcel.note)
    changed = replace(unpack(Header, opened.header.body), **header or {})
    note = pack(replace(opened, header=sign(changed, made.trust.signer)))
    message = replace(wire.decode(parcel.header, wire.Open), **query)
    return replace(parcel, header=wire.encode(message), note=note)


class Listening:
    """Notes what kind of answer each site gives in one phase, and passes it on."""

    def __init__(self, phase: str) -> None:
        self.phase, self.heard = phase, list[str]()

    def __call__(self, _site: str, phase: str, answer: Parcel | Loss) -> Parcel | Loss:
        if phase == self.phase:
            self.heard.append(answer.value if isinstance(answer, Loss) else wire.kind_of(answer.header))
        return answer


def at_open(number: int, sites: str, change: Callable[[Parcel], Parcel]) -> Before:
    """Change the OPEN of one training round to some sites."""

    def before(site: str, phase: str, parcel: Parcel) -> Parcel:
        if phase == "open" and site in sites and wire.decode(parcel.header, wire.Open).round == number:
            return change(parcel)
        return parcel

    return before


def another_adapter(made: Wired) -> Callable[[Parcel], Parcel]:
    """The lie: an adapter that no sum gave, named rightly in header and message."""

    def change(parcel: Parcel) -> Parcel:
        parcel = replace(parcel, vector=wire.vector_bytes(LIE_P))
        return resigned(made, parcel, header={"model": model_hash(digest(LIE_P))}, adapter_sha256=digest(LIE_P))

    return change


def sealed(made: Wired, number: int) -> set[str]:
    """The sites that sealed an update in a round."""
    return {site for n, _, site in made.sealed if n == number}


def begin(made: Wired, plan: Plan) -> Parcel:
    """BEGIN, beside the message that names the plan."""
    message = Begin(charter=made.trust.charter.hash, run=bytes.fromhex(plan.sha256), attempt=1)
    header = wire.Keys(plan_sha256=plan.sha256, step="begin")
    return Parcel(header=wire.encode(header), note=pack(sign(message, made.trust.signer)))


def through_another_plan(made: Wired) -> str:
    """Put another run in between, which replaces the keys, and then begin the first one anew."""
    other = Wired.__new__(Wired)
    other.__dict__.update(made.__dict__)
    other.plan, other.folder = replace(made.plan, run="another"), made.folder / "another"
    other.lines = type(made.lines)(other)
    other.start()
    other.propose()
    made.hands["a"]._propose(made.plan)
    return reset(made)


def reset(made: Wired) -> str:
    """Try a second set-up in the middle of a run: new keys have no history."""
    answer = made.deliver("a", begin(made, made.plan))
    assert isinstance(answer, Parcel)
    return wire.kind_of(answer.header)
