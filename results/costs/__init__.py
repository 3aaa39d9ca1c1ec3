"""What networks cost (`runner.py profile --preset resolution`): a row per point, filed as soon as it is measured.

    <store>/costs/<hash>.jsonl              lines of JSON: {"machine": ...} first, {"run": ...} for every start,
                                            {"row": ...} for every point, {"rates": ...}, {"compiled": ...}
    <measured>/<machine>/<name>.costs.json  the same, committed

<hash> names the machine, the versions of what computes and the commit: what was measured by other code is another file.
The last row of a point counts. `lines.py` writes and reads a file of the store, `committed.py` what is committed.
"""
