"""Runs the tests of the Python package: run.py VENV [PYTEST_ARGUMENT...]

Makes the virtual environment VENV with the packages of requirements.txt, unless it is there already.
Ends with 77, which ctest shows as skipped, when they cannot be had from PyPI. Uses nothing but the
standard library itself.
"""

import hashlib
import os
import pathlib
import re
import subprocess
import sys
import venv

HERE = pathlib.Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
SKIPPED = 77
UNREACHABLE = re.compile(r"Could not find a version that satisfies|NewConnectionError|ConnectTimeoutError|"
                         r"ProxyError|Temporary failure in name resolution|Network is unreachable")


def make_venv(folder):
    """True when the environment is there, False when PyPI cannot be reached."""
    stamp = folder / "requirements.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return True
    venv.create(folder, with_pip=True)
    installed = subprocess.run(
        [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--retries", "2", "--timeout", "20", "-r", REQUIREMENTS],
        capture_output=True, text=True, check=False)
    sys.stdout.write(installed.stdout + installed.stderr)
    if installed.returncode == 0:
        stamp.write_text(wanted)
        return True
    if UNREACHABLE.search(installed.stderr):
        return False
    raise SystemExit("the packages of tests/python/requirements.txt cannot be installed")


def main():
    folder = pathlib.Path(sys.argv[1])
    if not make_venv(folder):
        print("SKIPPED: PyPI cannot be reached, and the tests need pytest from it")
        return SKIPPED
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    # The tests are of this package alone, whatever else the caller has.
    environment.pop("MSADB_MODEL", None)
    # Where scripts/test.sh counts cases, GoogleTest's and these.
    report = []
    kind, _, results = os.environ.get("GTEST_OUTPUT", "").partition(":")
    if kind == "xml" and results.endswith("/"):
        report = [f"--junit-xml={results}{os.environ['MSADB_TEST_NAME']}.xml"]
    return subprocess.run([folder / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider",
                           "--rootdir", HERE, *report, *sys.argv[2:]], cwd=HERE, env=environment,
                          check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
