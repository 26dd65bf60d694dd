"""A round of a secure sum at the coordinator and at the helper, against plain merging; ResNet20, 1,000 sites.

`plain` merges f32 updates as in `benchmarks.aggregation`; `hub` compares their hashes too, as a hub does. `coordinator`
does so with masked vectors, adds them up, subtracts the helper's sum, and makes the model. `masks` makes the masks and
adds them up. `helper` also verifies and opens each seed before. The sites' files are 64, and each is read several
times. All are CPU milliseconds for each site, medians of turns. `site` is what one site does: its vector, its mask, its
sealed seed. `python -m benchmarks.secure_sum 40` takes 40 sites.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks import interleaved, report
from benchmarks.aggregation import PLAN, PlainUpdates
from fedhelp_edge import plan as plans
from fedhelp_edge import update
from fedhelp_edge.merge import rules
from fedhelp_edge.merge.closing import SiteUpdates
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import keys, sshsig
from fedhelp_edge.plan import MergeSettings
from fedhelp_edge.secure_sum import arithmetic, parcels
from fedhelp_edge.secure_sum.arithmetic import MASKED, SEED, SumFormat
from fedhelp_edge.update import Array
from server_ref.rounds.updates import RoundUpdates

FILES = 64


class Round:
    """Updates of some sites in a folder, plain and masked, and their sealed seeds."""

    def __init__(self, folder: Path, sites: int) -> None:
        plan = plans.read(PLAN, METHODS)
        self.format = SumFormat.of(plan, METHODS["fedavg"].up(plan))
        self.folder, self.sites = folder, [f"site-{number:04}" for number in range(sites)]
        self.base = METHODS["fedavg"].start(plan)
        self.helper, self.signer = keys.generate(), keys.generate()
        draw = np.random.default_rng(0)
        self.hashes: dict[Path, str] = {}
        self.sealed_seeds: list[bytes] = []
        for number in range(min(FILES, sites)):
            arrays = {
                name: (array + 0.01 * draw.standard_normal(array.shape)).astype(np.float32)
                for name, array in self.base.items()
            }
            masked = self.masked(arrays)
            self.sealed_seeds.append(masked[SEED].tobytes())
            for kind, content in (("plain", arrays), ("masked", masked)):
                with self.path(kind, number).open("wb") as file:
                    update.write(file, content)
                self.hashes[self.path(kind, number)] = hashlib.sha256(self.path(kind, number).read_bytes()).hexdigest()

    def path(self, kind: str, number: int) -> Path:
        return self.folder / f"{kind}-{number % FILES}"

    def masked(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """What a site does."""
        context = {
            "federation": f"fh-{0:032}", "round": 1, "task": "0" * 64, "base": "0" * 64, "sender": "site-001",
            "sender_key": sshsig.fingerprint(self.signer.public.sign),
        }  # fmt: skip
        words = self.format.quantise(self.base, arrays, {"examples": 100})
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            return parcels.masked_update(words, context, self.helper.public.recipient, self.signer.sign, Path(scratch))

    def plain(self) -> dict[str, Array]:
        with self.path("plain", 0).open("rb") as file:
            return self.merged(PlainUpdates(self.plain_paths(), update.read_header(file)))

    def hub(self) -> dict[str, Array]:
        """Plain updates as a hub takes them."""
        paths = {site: (path, self.hashes[path]) for site, path in self.plain_paths().items()}
        return self.merged(RoundUpdates(paths, self.format.schema.header, lambda site: paths[site][1]))

    def plain_paths(self) -> dict[str, Path]:
        return {site: self.path("plain", number) for number, site in enumerate(self.sites)}

    def merged(self, updates: SiteUpdates) -> dict[str, Array]:
        return rules.merge({}, updates, dict.fromkeys(self.sites, 100), MergeSettings(clip="none"))

    def coordinator(self, masks: Array) -> dict[str, Array]:
        words = arithmetic.total((self.vector(number) for number in range(len(self.sites))), self.format.length)
        return self.format.decode(self.base, words - arithmetic.as_words(masks), len(self.sites))[0]

    def vector(self, number: int) -> arithmetic.Words:
        path = self.path("masked", number)
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.hashes[path]:
            raise ValueError(path.name)
        return arithmetic.as_words(update.load(data)[MASKED])

    def helps(self) -> Array:
        """What the helper does: the sum of the masks."""
        return arithmetic.as_array(parcels.masks_of([self.seed(n) for n in range(len(self.sites))], self.format))

    def seed(self, number: int) -> bytes:
        seed = parcels.read_seed(self.sealed_seeds[number % FILES])
        return parcels.open_seed(seed, self.helper.identity)


def main() -> None:
    short = "--short" in sys.argv
    sites = next((int(word) for word in sys.argv[1:] if word.isdigit()), 64 if short else 1000)
    with tempfile.TemporaryDirectory() as temporary:
        round_ = Round(Path(temporary), sites)
        masks = round_.helps()
        seeds = [round_.seed(number) for number in range(sites)]
        first = dict(update.load(round_.path("plain", 0)))
        contestants: dict[str, Callable[[], object]] = {
            "plain": round_.plain,
            "hub": round_.hub,
            "coordinator": lambda: round_.coordinator(masks),
            "masks": lambda: parcels.masks_of(seeds, round_.format),
            "helper": round_.helps,
        }
        cpu = interleaved(contestants, 3 if short else 5, time.process_time)
        site = interleaved({"site": lambda: round_.masked(first)}, 9, time.process_time)["site"]
        averaged, ours = round_.plain(), round_.coordinator(masks)
        difference = max(float(np.abs(ours[name] - averaged[name]).max()) for name in averaged)
    report(
        "a secure sum, against plain merging", ("numpy", "cryptography"), sites=sites,
        **{f"{name} ms": round(1000 * seconds / sites, 2) for name, seconds in cpu.items()},
        **{
            f"{name} of {plain}": round(cpu[name] / cpu[plain], 2)
            for plain in ("plain", "hub")
            for name in ("coordinator", "masks", "helper")
        },
        **{"site ms": round(1000 * site, 2), "aim coordinator": 2, "aim helper": 1, "difference": difference},
    )  # fmt: skip


if __name__ == "__main__":
    main()
