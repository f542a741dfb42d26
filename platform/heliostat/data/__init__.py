"""Sources -> examples -> prepared shards -> batch plan -> batches: pure functions over iterators, no Ray.

A prepared folder, `home()/prepared/<key>/`, is complete when `manifest.json`, written last, names its files:

    manifest.json       {"version": 1, "key", "counts": {split: examples}, "files": {name: {"size", "sha256"}}}
    run.json            the run whose settings made it (`run.dump()`)
    train/ valid/ test/ shards (data/shards.py), in the row order of examples/<split>.parquet
    examples/           <split>.parquet: id (uint64), file (string), row (int64), example (JSON), carried (JSON)
    encoder/ head/      what was fitted on the train split, as `Fitted.save` wrote it
    rejected.jsonl      {"file", "row", "reason"} of each record that was left out
    leakage.json        exact and near duplicates between the splits
    stats.json          counts, class balance, token lengths
"""
