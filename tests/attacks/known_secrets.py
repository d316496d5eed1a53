"""What the sites of this process keep secret, listened to at their own functions, and a search for it in any bytes."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from partsong.client import site
from partsong.client.secure_sum import masking, site_state
from partsong.client.secure_sum.file_vault import FileVault
from partsong.common.identity.charter import read as read_charter
from partsong.simulations.run_dir import RunDir

NAMES = ("site-1", "site-2", "site-3", "site-4", "site-5")
LOST = 1
"""Number of the site whose report of round 2 is lost after it masked."""
WINDOW = 16


class Needles:
    """Windows of secrets, to be found in any bytes at any offset."""

    def __init__(self, secrets: dict[str, bytes]) -> None:
        self._names = {
            data[at : at + WINDOW]: name
            for name, data in secrets.items()
            for at in range(0, len(data) - WINDOW + 1, WINDOW)
            if len(set(data[at : at + WINDOW])) >= 7 and len(set(data[at : at + 8])) >= 4  # equal numbers are nobody's
        }
        self._firsts = np.array(sorted({int.from_bytes(w[:8], "little") for w in self._names}), np.uint64)
        self._table = np.zeros(1 << 22, bool)
        self._table[self._place(self._firsts)] = True
        self._table[0] = False  # the place of zeros, of which memory is full

    def __len__(self) -> int:
        return len(self._names)

    @staticmethod
    def _place(words: np.ndarray) -> np.ndarray:
        return (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(42)

    def found_in(self, hay: bytes) -> set[str]:
        """Name the secrets of which a window is in `hay`."""
        names = set()
        for shift in range(8):
            words = np.frombuffer(hay, "<u8", count=max(0, (len(hay) - shift) // 8), offset=min(shift, len(hay)))
            places = np.flatnonzero(self._table[self._place(words)])
            hits = words[places]
            near = self._firsts[np.minimum(np.searchsorted(self._firsts, hits), self._firsts.size - 1)]
            for at in places[near == hits].tolist():
                window = hay[8 * at + shift : 8 * at + shift + WINDOW]
                if window in self._names:
                    names.add(self._names[window])
        return names


@dataclass(kw_only=True, repr=False)
class Known:
    """Everything secret that the sites of this process ever held, by round."""

    keys: dict[str, bytes] = field(default_factory=dict)
    own_seeds: list[tuple[int, int, bytes]] = field(default_factory=list)
    """Round, site, seed."""
    pair_seeds: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    """Round, site, peer, seed."""
    updates: dict[str, bytes] = field(default_factory=dict)

    def secrets(self, *, opened: int) -> dict[str, bytes]:
        """All that is secret after `opened` rounds have been opened."""
        named = dict(self.keys)
        for number, who, seed in self.own_seeds:
            if number > opened or (number, who) == (2, LOST):
                named[f"own-mask seed of site {who} in round {number}"] = seed
        for number, who, peer, seed in self.pair_seeds:
            if number > opened or number != 2 or LOST not in (who, peer):
                named[f"mask seed of sites {who} and {peer} in round {number}"] = seed
        for name, key in list(named.items()):
            named[f"{name}, in hex"], named[f"{name}, in base64"] = key.hex().encode(), base64.b64encode(key)
        return named | self.updates

    def opened_seeds(self) -> dict[str, bytes]:
        """What every sum has opened, and everyone may know."""
        return {f"opened {n} {who}": seed for n, who, seed in self.own_seeds if (n, who) != (2, LOST)}


@contextmanager
def overheard() -> Iterator[Known]:
    """Listen at the sites' own functions; what they do stays as it is."""
    known = Known()
    mask, split, seal = masking.mask, masking.split, site.seal
    masking_now: list[tuple[int, list[int]]] = []
    number_now = [0]

    def listening_seal(blocks, plan, *, number, rng):
        words_W = seal(blocks, plan, number=number, rng=rng)
        number_now[0] = number
        which = f"of update {len(known.updates) // 3}, round {number}"
        known.updates[f"words {which}"] = words_W.tobytes()
        known.updates[f"float32 {which}"] = blocks["update"].tobytes()
        known.updates[f"float64 {which}"] = blocks["update"].astype(np.float64).tobytes()
        return words_W

    def listening_mask(words_W, **given):
        who, keys = given["site"], given["pair_keys"]
        masking_now.append((who, sorted(keys)))
        known.keys["group key"] = given["group_key"]
        known.keys.update({f"pair key {who}-{peer}, round {number_now[0]}": key for peer, key in keys.items()})
        return mask(words_W, **given)

    def listening_split(secrets, **given):
        who, peers = masking_now[-1]
        known.own_seeds.append((number_now[0], who, secrets[0]))
        pairs = zip(peers, secrets[1:], strict=True)
        known.pair_seeds.extend((number_now[0], who, peer, seed) for peer, seed in pairs)
        return split(secrets, **given)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, "seal", listening_seal)
        patch.setattr(masking, "mask", listening_mask)
        patch.setattr(masking, "split", listening_split)
        yield known
    torch.set_num_threads(threads)


def read_disks(run: RunDir, known: Known) -> None:
    """Take up the keys on every site's disk."""
    charter = read_charter(run.charter.read_bytes()).charter
    for name in NAMES:
        folder = run.path / "sites" / name
        known.keys[f"identity key of {name}"] = (folder / "identity.key").read_bytes()
        known.keys[f"vault key of {name}"] = key = (folder / "vault.key").read_bytes()
        vault = FileVault(folder / "vault", key=key, entropy=bytes)
        state = site_state.load(vault, charter=charter)
        known.keys |= {f"last pair key {name}-{peer}": k for peer, k in state.keys_by_peer().items()}


def memory_of(pid: int) -> Iterator[bytes]:
    """Give every writable region of a process, as a core dump would hold it."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            bounds, rights = line.split()[:2]
            if rights.startswith("rw"):
                start, end = (int(part, 16) for part in bounds.split("-"))
                memory.seek(start)
                try:
                    yield memory.read(end - start)
                except OSError:  # a region of a device, which a core dump leaves out too
                    continue
