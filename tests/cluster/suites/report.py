#!/usr/bin/env python3
"""Reads the JSON report of a ginkgo run.

report.py show REPORT             a line for each test that ran, and for each that skipped itself
"""
import json
import sys


def tests(path):
    """Yields (name, state, seconds, why) of every test that was chosen.

    Ginkgo calls "skipped" both what the regular expressions left out and what gave up by itself; only the latter has
    a message.
    """
    with open(path) as file:
        reports = json.load(file)
    for report in reports:
        for spec in report["SpecReports"] or []:
            if spec["LeafNodeType"] != "It":
                continue
            name = " ".join((spec["ContainerHierarchyTexts"] or []) + [spec["LeafNodeText"]])
            labels = {label for group in spec.get("ContainerHierarchyLabels") or [] for label in group or []}
            labels.update(spec.get("LeafNodeLabels") or [])
            why = (spec.get("Failure") or {}).get("Message", "").strip()
            if spec["State"] == "pending" or (spec["State"] == "skipped" and not why):
                continue
            yield name, spec["State"], spec["RunTime"] / 1e9, why.split("\n")[0]


def show(path):
    bad = 0
    for name, state, seconds, why in sorted(tests(path), key=lambda t: (t[1], t[0])):
        print(f"{state:8} {seconds:6.1f} s  {name}" + (f"  ({why[:200]})" if state != "passed" else ""))
        bad += state not in ("passed", "skipped")
    return 1 if bad else 0


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "show":
        sys.exit(__doc__)
    sys.exit(show(sys.argv[2]))
