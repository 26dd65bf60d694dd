"""A round of a secure sum at the coordinator and at the helper, against plain merging; ResNet20, 1,000 sites.

`plain` merges f32 updates as in `benchmarks.aggregation`; `hub` verifies their tags too, as a hub does. `coordinator`
does so with masked vectors, adds them up, subtracts the helper's sum, and makes the model. `masks` makes the masks and
adds them up. `helper` also verifies and opens each seed before. The sites' files are 64, and each is read several
times. Of seeds each site has its own, and another in the next turn: the program remembers signatures that it verified.
All are CPU milliseconds for each site, medians of turns. `site` is what one site does: its vector, its mask, its sealed
seed. `python -m benchmarks.secure_sum 40` takes 40 sites.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path

import numpy as np

from benchmarks import interleaved, report
from benchmarks.aggregation import PLAN, PlainUpdates
from fedhelp_edge import plan as plans
from fedhelp_edge import update
from fedhelp_edge.merge import rules
from fedhelp_edge.merge.closing import SiteUpdates
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.parcel import age, keys, parcel, sshsig
from fedhelp_edge.plan import MergeSettings
from fedhelp_edge.secure_sum import arithmetic, parcels
from fedhelp_edge.secure_sum.arithmetic import MASKED, SEED, SumFormat
from fedhelp_edge.update import Array
from server_ref.intake import tags
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
        self.identity = age.new_identity()
        self.tags: dict[Path, str] = {}
        seeds = []
        for number in range(min(FILES, sites)):
            arrays = {
                name: (array + 0.01 * draw.standard_normal(array.shape)).astype(np.float32)
                for name, array in self.base.items()
            }
            masked = self.masked(arrays)
            seeds.append(masked[SEED].tobytes())
            for kind, content in (("plain", arrays), ("masked", masked)):
                with self.path(kind, number).open("wb") as file:
                    update.write(file, content)
                path = self.path(kind, number)
                self.tags[path] = tags.tag(self.identity, path.name, path.read_bytes())
        self.seeds = cycle([self.sealed_again(seeds[n % len(seeds)]) for _ in range(2) for n in range(sites)])

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

    def sealed_again(self, data: bytes) -> bytes:
        """The same seed in another parcel."""
        seed, path = parcels.read_seed(data), self.folder / "seed"
        content = parcels.open_seed(seed, self.helper.identity)
        path.unlink(missing_ok=True)
        parcel.seal(path, seed.statement.context, content, self.signer.sign, [self.helper.public.recipient])
        return path.read_bytes()

    def plain(self) -> dict[str, Array]:
        with self.path("plain", 0).open("rb") as file:
            return self.merged(PlainUpdates(self.plain_paths(), update.read_header(file)))

    def hub(self) -> dict[str, Array]:
        """Plain updates as a hub takes them."""
        paths = {site: (path, self.tags[path]) for site, path in self.plain_paths().items()}
        return self.merged(
            RoundUpdates(
                paths, self.format.schema.header,
                lambda site, tag, content: tags.fits(tag, self.identity, paths[site][0].name, content),
                lambda site: paths[site][1],
            )
        )  # fmt: skip

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
        if not tags.fits(self.tags[path], self.identity, path.name, data):
            raise ValueError(path.name)
        return arithmetic.as_words(update.load(data)[MASKED])

    def helps(self) -> Array:
        """What the helper does: the sum of the masks."""
        return arithmetic.as_array(parcels.masks_of([self.seed() for _ in self.sites], self.format))

    def seed(self) -> bytes:
        return parcels.open_seed(parcels.read_seed(next(self.seeds)), self.helper.identity)


def main() -> None:
    short = "--short" in sys.argv
    sites = next((int(word) for word in sys.argv[1:] if word.isdigit()), 64 if short else 1000)
    with tempfile.TemporaryDirectory() as temporary:
        round_ = Round(Path(temporary), sites)
        masks = round_.helps()
        seeds = [round_.seed() for _ in range(sites)]
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
