"""The golden record: results, files and commands of an earlier version, which every later version must reproduce.

`record/exact.json`     numbers and bytes that are the same on every machine: merging, codecs, canonical bytes, parcels,
                        signatures, key words, splits, draws, batches, error codes. Compared to the bit.
`record/training.json`  trained models, by machine: where processor, torch and numpy are those of an entry, to the bit;
                        elsewhere their figures, within the tolerances that test_training.py states.
`record/commands.json`  options, arguments, defaults and environment variables of every command. None may change or go;
                        new ones may come. `record/help/` has the sentences of that day; they are not compared.
`record/json-keys.json` the keys of every `--json` output. None may be removed or change its type; new ones may come.
`record/written.tar.xz` the files of one small federation: hub, site, carrier folder, audit, backup, model, pack,
                        plan, invite. Later versions open and continue it. ITS KEYS ARE THROW-AWAY TEST KEYS.

`python -m tests.golden --write` writes all of it again (a name after it makes one part: exact, training, commands,
json-keys, written). That is right only where a format or a bit changes on purpose, and CHANGELOG says so. On a machine
that training.json does not know yet, `--write training` adds an entry and leaves the others.

The tests reach the program through its command lines and through `api.py`, which gathers all imports of it.
"""
