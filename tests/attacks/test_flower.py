"""Two breaks of Flower's SecAgg+ (1.41), shown against Flower, and what stands in their place here.

They are why the package carries its own secure sum.
"""

from collections.abc import Callable

import numpy as np
import pytest

from partsong.common.secure_sum.masks import apply_masks

utils = pytest.importorskip("flwr.common.secure_aggregation.secaggplus_utils")
mod = pytest.importorskip("flwr.client.mod.secure_aggregation.secaggplus_mod")
constants = pytest.importorskip("flwr.common.secure_aggregation.secaggplus_constants")
flwr_common = pytest.importorskip("flwr.common")


def folded(seed: bytes) -> bytes:
    """Another seed with the same exclusive or of its 32-bit words."""
    return bytes(len(seed) - 4) + bytes(
        a ^ b ^ c ^ d ^ e ^ f ^ g ^ h
        for a, b, c, d, e, f, g, h in zip(*(seed[i : i + 4] for i in range(0, 32, 4)), strict=True)
    )


def test_flower_masks_depend_on_32_bits_of_their_seed_and_ours_on_all() -> None:
    """Two different seeds with equal folds give Flower's mask twice; here they give unrelated masks."""
    seed = bytes(range(100, 132))
    other = folded(seed)
    assert other != seed

    theirs = [utils.pseudo_rand_gen(s, 1 << 32, [(50,)])[0] for s in (seed, other)]
    ours = [np.zeros(50, np.uint64), np.zeros(50, np.uint64)]
    for words, key in zip(ours, (seed, other), strict=True):
        apply_masks(words, plus=[key], minus=[])

    assert (theirs[0] == theirs[1]).all()
    assert not (ours[0] == ours[1]).any()


def test_a_flower_client_gives_both_shares_of_a_site_that_is_listed_twice(lab: Callable) -> None:
    """Flower's client takes the server's lists as they come; here there is no list of the dropped to lie in."""
    state = mod.SecAggPlusState()
    state.nid, state.threshold = 1, 2
    state.rd_seed_share_dict, state.sk1_share_dict = {2: b"own seed"}, {2: b"key"}
    key = constants.Key
    lists = flwr_common.ConfigRecord({key.ACTIVE_NODE_ID_LIST: [1, 2], key.DEAD_NODE_ID_LIST: [2]})
    state.rd_seed_share_dict[1] = b"mine"

    answer = mod._unmask(state, lists)

    assert sorted(answer[key.SHARE_LIST]) == [b"key", b"mine", b"own seed"]
    five = lab(5)
    five.up_to_reports()
    opened = five.all_shares_of(1)[2]
    confirms = [five.site(i).confirm(five.request(i, five.everyone)) for i in five.everyone]
    given = five.site(1).unmask(five.quorum(confirms))
    assert opened[0] in given
    assert not any(share in given for share in opened[1:])
