"""Prints "N passed, N failed, N skipped" over all test cases of one ctest run.

usage: count_tests.py RESULTS_FOLDER CTEST_EXIT_CODE

RESULTS_FOLDER holds ctest.junit (ctest --output-junit) and one XML file for each GoogleTest program
(GTEST_OUTPUT). Python's unittest programs are counted by their closing lines. A ctest test of another
kind counts as one case. A test that ctest calls failed counts at least one failure, whatever it wrote
before it died. Exits 1 when something failed, when nothing passed or when ctest's exit code is not 0.
"""

import pathlib
import re
import sys
import xml.etree.ElementTree as ElementTree


def gtest_cases(path):
    """(passed, failed, skipped) of a GoogleTest XML file, or None when it is incomplete."""
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError):
        return None
    passed = failed = skipped = 0
    for case in root.iter("testcase"):
        if case.find("failure") is not None:
            failed += 1
        elif case.find("skipped") is not None or case.get("result") in ("skipped", "suppressed"):
            skipped += 1
        elif case.get("status") != "notrun":
            passed += 1
    return passed, failed, skipped


def unittest_cases(output):
    """The same from what Python's unittest printed, or None."""
    ran = re.search(r"^Ran (\d+) tests? in ", output, re.MULTILINE)
    if ran is None:
        return None
    counts = {name: int(number) for name, number in
              re.findall(r"(failures|errors|skipped)=(\d+)", output[ran.end():])}
    failed = counts.get("failures", 0) + counts.get("errors", 0)
    skipped = counts.get("skipped", 0)
    return max(0, int(ran.group(1)) - failed - skipped), failed, skipped


def was_skipped(test):
    """Whether a ctest test skipped itself. One whose program is missing is "skipped" too, but failed."""
    reason = test.find("skipped")
    return reason is not None and reason.get("message", "").startswith(("SKIP_", "Disabled"))


def main():
    folder, ctest_code = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    passed = failed = skipped = 0
    try:
        tests = list(ElementTree.parse(folder / "ctest.junit").getroot().iter("testcase"))
    except (ElementTree.ParseError, OSError) as error:
        print(f"no results of ctest: {error}\n0 passed, 1 failed, 0 skipped")
        return 1
    for test in tests:
        status = test.get("status")
        if status == "disabled" or was_skipped(test):
            skipped += 1
            continue
        output = test.findtext("system-out") or ""
        # A registered test is named like its program; several may share one with other arguments.
        cases = gtest_cases(folder / f"{test.get('name')}.xml") or unittest_cases(output)
        is_failed = status != "run" or test.find("failure") is not None
        if cases is None or (sum(cases) == 0 and is_failed):
            cases = (0, 1, 0) if is_failed else (1, 0, 0)
        elif is_failed and cases[1] == 0:
            cases = (cases[0], 1, cases[2])
        passed, failed, skipped = passed + cases[0], failed + cases[1], skipped + cases[2]
    if ctest_code != 0 and failed == 0:
        failed = 1
    print(f"\n{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if failed == 0 and passed > 0 else 1


sys.exit(main())
