"""Masks over one vector, and the shares with which the others can take them off.

Covers: the masked words are uniform to everyone who lacks this site's own seed or one honest site's pair key; a
bundle opens at its holder only, in its context only.
Does not cover: when shares may be given away. `secure_sum` decides that.

Specification: PROTOCOL.md section 7.
Source: Bonawitz et al. 2017 (ia.cr/2017/281), with shares of per-round seeds in place of private keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from partsong.common.derive import derive, digest, extract, number
from partsong.common.errors import Refused
from partsong.common.secure_sum.committee import Holders
from partsong.common.secure_sum.fixed_point import WordVec
from partsong.common.secure_sum.masks import apply_masks
from partsong.common.secure_sum.shamir import SHARE_BYTES, Entropy, in_field, split
from partsong.common.secure_sum.tag import tag_words

# Every share key is used for one message, so its nonce may be constant.
_NO_NONCE = bytes(12)


def mask(
    words_W: WordVec,
    *,
    context: bytes,
    site: int,
    pair_keys: Mapping[int, bytes],
    group_key: bytes,
    holders: Holders,
    entropy: Entropy,
    threads: int,
) -> tuple[WordVec, tuple[bytes, ...]]:
    """Tag, mask and share. Called once for a context, which the caller has on disk as used.

    Args:
        words_W: (W,) encoded vector; stays as it is.
        context: 32 bytes that name the round and its roster.
        site: number of this site.
        pair_keys: of this round, for each other site of the roster.
        group_key: of the run.
        holders: of the roster; this site, if it is one, gets no share of its own seeds.
        entropy: secret uniform bytes, in production `os.urandom`.
        threads: workers for the key streams.
    Returns:
        (W + 3,) masked words with the tag, and a sealed bundle for each other holder by ascending number.
    """
    peers = sorted(pair_keys)
    fresh = _mixed(entropy, [pair_keys[peer] for peer in peers], context)
    own_seed = fresh(32)
    pair_seeds = {peer: derive(pair_keys[peer], "mask", context) for peer in peers}
    tag_W = tag_words(words_W, group_key=group_key, context=context, site=site)
    masked_W = np.concatenate([words_W, tag_W])
    apply_masks(
        masked_W,
        plus=[derive(own_seed, "own mask", context), *(pair_seeds[peer] for peer in peers if peer > site)],
        minus=[pair_seeds[peer] for peer in peers if peer < site],
        threads=threads,
    )
    secrets = [own_seed, *(pair_seeds[peer] for peer in peers)]
    others = [holder for holder in holders.sites if holder != site]
    shares = split(secrets, threshold=holders.threshold, holders=[other + 1 for other in others], entropy=fresh)
    bundles = (
        AESGCM(_share_key(pair_keys[holder], context, site, holder)).encrypt(
            _NO_NONCE, share, _share_label(context, site, holder)
        )
        for holder, share in zip(others, shares, strict=True)
    )
    return masked_W, tuple(bundles)


def open_bundle(bundle: bytes, *, context: bytes, owner: int, holder: int, pair_key: bytes, roster: int) -> bytes:
    """Open what `owner` sealed for this site.

    Returns:
        39 bytes for each of the owner's seeds: its own, then that of each pair by ascending number.
    Raises:
        Refused: made for another context, pair or roster, changed on the way, or with values that are no shares;
            nothing was confirmed.
    """
    key = _share_key(pair_key, context, owner, holder)
    try:
        shares = AESGCM(key).decrypt(_NO_NONCE, bundle, _share_label(context, owner, holder))
    except (InvalidTag, ValueError) as err:
        raise _bad_bundle(owner) from err
    # A value outside the field would make this site's UNMASK void, and this site look like the one that lies.
    if len(shares) != SHARE_BYTES * roster or not in_field(shares):
        raise _bad_bundle(owner)
    return shares


def pick_shares(shares: bytes, *, owner: int, roster: Sequence[int], dropped: Sequence[int]) -> bytes:
    """Pick from one survivor's shares what opens the sum: its own seed, and its pair seeds with dropped sites."""
    others = [site for site in roster if site != owner]
    places = [0, *(1 + others.index(site) for site in dropped)]
    return b"".join(shares[place * SHARE_BYTES : (place + 1) * SHARE_BYTES] for place in places)


def _share_key(pair_key: bytes, context: bytes, owner: int, holder: int) -> bytes:
    return derive(pair_key, "share", context, number(owner), number(holder))


def _share_label(context: bytes, owner: int, holder: int) -> bytes:
    return digest("share bundle", context, number(owner), number(holder))


def _bad_bundle(owner: int) -> Refused:
    return Refused(
        "share_bundle",
        reason=f"the shares of site {owner} do not open here",
        remedy="leave that site out; nothing was confirmed",
    )


def _mixed(entropy: Entropy, pair_keys: Sequence[bytes], context: bytes) -> Entropy:
    """Mix the system's randomness with the round's keys: a repeated state of the system repeats no seed."""
    seed = extract(entropy(32) + b"".join(pair_keys), salt=context, label="round entropy", parts=())
    stream = Cipher(AES256(seed), CTR(bytes(16))).encryptor()
    return lambda size: stream.update(bytes(size))
