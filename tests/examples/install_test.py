"""Installs msadb into a temporary folder, builds examples/ as an outside project against that alone,
and runs the examples with a tiny model.

Environment: MSADB_BUILD_DIR, MSADB_SOURCE_DIR, MSADB_MODEL_A.
"""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

BUILD = os.environ["MSADB_BUILD_DIR"]
SOURCE = pathlib.Path(os.environ["MSADB_SOURCE_DIR"])
MODEL = os.environ["MSADB_MODEL_A"]
README_MODEL = "models/default"


def run(*command, stdin="", directory=None):
    process = subprocess.run([str(word) for word in command], input=stdin, capture_output=True,
                             text=True, errors="replace", timeout=900, cwd=directory, check=False)
    if process.returncode != 0:
        raise AssertionError(f"{command} ended with {process.returncode}\n"
                             f"{process.stdout}\n{process.stderr}")
    return process.stdout


class InstalledPackageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="msadb-install-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.prefix = cls.folder / "prefix"
        run("cmake", "--install", BUILD, "--prefix", cls.prefix)
        # A copy, so that nothing can be found through the source tree.
        shutil.copytree(SOURCE / "examples", cls.folder / "examples")
        # The README's program is built the same way, as it stands there.
        program = re.search(r"```cpp\n(.*?)```", (SOURCE / "README.md").read_text(), re.DOTALL).group(1)
        (cls.folder / "examples" / "readme.cc").write_text(program.replace(README_MODEL, MODEL))
        with (cls.folder / "examples" / "CMakeLists.txt").open("a") as lists:
            lists.write("add_executable(readme readme.cc)\n"
                        "target_link_libraries(readme PRIVATE msadb::msadb)\n")
        run("cmake", "-G", "Ninja", "-S", cls.folder / "examples", "-B", cls.folder / "build",
            f"-DCMAKE_PREFIX_PATH={cls.prefix}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror -Wno-missing-field-initializers")
        run("cmake", "--build", cls.folder / "build", "-j", "2")

    def example(self, name, *arguments, **options):
        return run(self.folder / "build" / name, *arguments, **options)

    def test_only_public_headers_are_installed(self):
        installed = sorted(path.name for path in (self.prefix / "include").rglob("*.h"))
        public = sorted(path.name for path in (SOURCE / "include").rglob("*.h"))
        self.assertEqual(installed, public)
        for header in (self.prefix / "include").rglob("*.h"):
            text = header.read_text()
            for foreign in ("rocksdb/", "faiss/", "boost/", "cuda", "nlohmann/"):
                self.assertNotIn(f"#include <{foreign}", text, header)

    def test_the_package_names_no_build_folder(self):
        for path in (self.prefix / "lib").rglob("*.cmake"):
            self.assertNotIn(BUILD, path.read_text(), path)

    def test_the_program_is_installed(self):
        self.assertRegex(run(self.prefix / "bin" / "msadb", "--version"), r"^msadb \d")

    def test_the_program_of_the_readme(self):
        printed = self.example("readme", directory=self.folder)
        self.assertTrue(printed.endswith("\n"))
        self.assertTrue((self.folder / "notes").is_dir())

    def test_agent_memory(self):
        folder = self.folder / "agent"
        first = self.example("agent_memory", folder, MODEL,
                             stdin="My name is Ada.\nI like tea.\nWhat do I like?\n")
        self.assertIn("0 turns in memory", first)
        self.assertIn("remembered as [2]", first)
        self.assertIn("recalled [", first)
        self.assertIn("The user said: I like tea.", first)
        second = self.example("agent_memory", folder, MODEL, stdin="forget 1\nforget 1\n")
        self.assertIn("2 turns in memory\nforgotten\nNotFound", second)

    def test_knowledge_base(self):
        arguments = (self.folder / "knowledge", MODEL, self.folder / "examples" / "documents",
                     "Where is the key?")
        files = len(list((SOURCE / "examples" / "documents").iterdir()))
        self.assertIn(f"{files} new documents", self.example("knowledge_base", *arguments))
        self.assertIn("0 new documents", self.example("knowledge_base", *arguments, "house"))

    def test_transactions_snapshots(self):
        printed = self.example("transactions_snapshots", self.folder / "company", MODEL)
        self.assertIn("during the move: The office is in Harbour Street 5. (2 documents)", printed)
        self.assertIn("after the move: The office is in Mill Lane 12. (1 documents)", printed)
        self.assertIn("in the snapshot: The office is in Harbour Street 5. (2 documents)", printed)
        self.assertIn("second writer: Conflict", printed)
        self.assertIn("at the end: The office is in Mill Lane 14. (1 documents)", printed)


if __name__ == "__main__":
    unittest.main()
