"""`pip install .`: builds the wheel, installs it into a folder of its own, and uses it from there.

Slow where nothing is cached: it compiles the library, normally from ccache.
"""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest

SOURCE = pathlib.Path(os.environ["MSADB_SOURCE_DIR"])
BUILD = pathlib.Path(os.environ["MSADB_BUILD_DIR"])


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The wheel, and the folder that it was installed into."""
    folder = tmp_path_factory.mktemp("wheel")
    # Without isolation, so that the pinned build tools are used and nothing is fetched. CUDA adds
    # nothing to what is tested here, and much to the build.
    run([sys.executable, "-m", "pip", "wheel", SOURCE, "--no-build-isolation", "--no-deps", "--no-index",
         "--disable-pip-version-check", "-w", folder, "--config-settings", f"build-dir={BUILD}/python/wheel",
         "--config-settings", "cmake.define.MSADB_CUDA=OFF"])
    [wheel] = folder.glob("msadb-*.whl")
    run([sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--disable-pip-version-check",
         "--target", folder / "site", wheel])
    return wheel, folder / "site"


def test_the_wheel_holds_the_package_and_nothing_else(installed):
    names = zipfile.ZipFile(installed[0]).namelist()
    sources = {f"msadb/{path.name}" for path in (SOURCE / "python" / "msadb").iterdir() if path.is_file()}
    package = {name for name in names if not name.startswith("msadb-")}
    [extension] = [name for name in package if name.endswith(".so")]
    assert extension.startswith("msadb/_native.")
    assert package == sources | {extension, "msadb/_build.py"}


def test_the_installed_package_works(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed[1])}
    program = (
        "import msadb, pathlib\n"
        "assert pathlib.Path(msadb.__file__).is_relative_to(%r), msadb.__file__\n"
        "with msadb.open('notes', model=%r) as database:\n"
        "    notes = database.collection()\n"
        "    notes.insert('The spare key is under the blue flowerpot.')\n"
        "    print(len(notes), msadb.__version__, bool(notes.ask('Where?').text))\n"
    ) % (str(installed[1]), os.environ["MSADB_TEST_MODEL"])
    printed = run([sys.executable, "-c", program], cwd=tmp_path, env=environment)
    version = next(line.split('"')[1] for line in (SOURCE / "pyproject.toml").read_text().splitlines()
                   if line.startswith("version"))
    assert printed == f"1 {version} True\n"
