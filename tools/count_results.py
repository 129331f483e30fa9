# SPDX-License-Identifier: Apache-2.0
"""Counts test cases: count_results.py JUNIT [GTEST_FOLDER] prints "PASSED FAILED SKIPPED".

JUNIT is what ctest or pytest wrote. A ctest case NAME that is a GoogleTest program has left NAME.xml in GTEST_FOLDER
and counts as its cases; every other case counts as one. A program that died before it could write its file counts as
one failed case, and one that failed although no case did (a leak at exit, say) has at least one failure.
"""

import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def count_gtest(path: pathlib.Path) -> tuple[int, int, int]:
    passed = failed = skipped = 0
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        if case.get("status") == "notrun":
            continue
        if case.find("failure") is not None:
            failed += 1
        elif case.get("result") == "skipped":
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def main() -> int:
    junit = pathlib.Path(sys.argv[1])
    gtest_folder = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
    total = [0, 0, 0]
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail":
            counts = [0, 1, 0]
        elif case.find("skipped") is not None:
            counts = [0, 0, 1]
        else:
            counts = [1, 0, 0]
        detail = gtest_folder / f"{case.get('name')}.xml" if gtest_folder else None
        if detail and detail.exists():
            case_failed = counts[1]
            counts = list(count_gtest(detail))
            counts[1] = max(counts[1], case_failed)
        total = [a + b for a, b in zip(total, counts)]
    print(*total)
    return 0


if __name__ == "__main__":
    sys.exit(main())
