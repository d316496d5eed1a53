"""Puts together what `partsong site compare` needs, all of it from the site's own directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from partsong.client.adapters.desk import parts
from partsong.client.adapters.store import AdapterStore
from partsong.client.daemon.plan_folder import PlanFolder
from partsong.client.daemon.records import SiteRecords
from partsong.client.data.encode import Encoded
from partsong.client.encoders.resident import ResidentModel
from partsong.client.home.layout import SiteHome
from partsong.client.home.opened import read_config
from partsong.client.secure_sum.follow import Follower
from partsong.client.training.comparison import Arm, Contest, compare
from partsong.common import wire
from partsong.common.config import DataConfig
from partsong.common.errors import ConfigError, InputError


def compare_at(home: SiteHome, which: str, *, say: Callable[[str], None]) -> tuple[Arm, ...]:
    """Compare a stored adapter with what the site gets alone. Nothing is sent, charged or written.

    Args:
        home: of the site; its daemon may run.
        which: run or beginning of the plan's hash; empty: the adapter in use.
        say: told what is going on.
    Raises:
        ConfigError: the site keeps no records for testing.
        InputError: no such adapter, or its plan was purged here.
    """
    site, stored = read_config(home), AdapterStore(home.adapters).find(which)
    if site.data.held_out is None:
        raise ConfigError("data.held_out", found="nothing", expected="records that are kept for testing")
    folder = PlanFolder(home.plans, stored.plan)
    proposal = folder.proposal()
    if proposal is None:
        raise InputError(f"plan {stored.plan[:12]}", found="nothing of it", expected="a plan that was not purged")
    plan = wire.decode(proposal[0], wire.Propose).plan
    frozen_F, start_P = parts(proposal[1], plan.layout)
    follower = Follower(folder.copy)
    follower.start(plan, start_P)
    host = ResidentModel(site.model, say=say).host_for(plan)
    data = replace(site.data, labels=plan.labels, max_length=plan.max_length)

    def encoded(source: DataConfig) -> Encoded:
        return SiteRecords(source).snapshot().encoded(host.tokenizer, data, task=plan.task)

    contest = Contest(
        host=host,
        plan=plan,
        training=encoded(site.data).records,
        test=encoded(replace(site.data, path=site.data.held_out)).records,
        frozen_F=frozen_F,
        start_P=start_P,
        joint_P=follower.adapter_P,
    )
    return compare(contest, say=say)
