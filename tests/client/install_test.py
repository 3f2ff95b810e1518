"""Installs the client component alone, builds examples/client as an outside project against it, and
checks that nothing of the database is linked. With MSADB_TEST_SERVER, a program that serves a
database and prints its port, runs the example against it.

Environment: MSADB_BUILD_DIR, MSADB_SOURCE_DIR, MSADB_TEST_SERVER.
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
SERVER = os.environ["MSADB_TEST_SERVER"]
FOREIGN = ("rocksdb", "faiss", "blas", "cuda", "cublas", "omp", "roaring", "pcre")


def run(*command, check=True):
    process = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                             timeout=600, check=False)
    if check and process.returncode != 0:
        raise AssertionError(f"{command} ended with {process.returncode}\n"
                             f"{process.stdout}\n{process.stderr}")
    return process


class ClientPackageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="msadb-client-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.prefix = cls.folder / "prefix"
        run("cmake", "--install", BUILD, "--prefix", cls.prefix, "--component", "client")
        # A copy, so that nothing can be found through the source tree.
        shutil.copytree(SOURCE / "examples" / "client", cls.folder / "example")
        run("cmake", "-G", "Ninja", "-S", cls.folder / "example", "-B", cls.folder / "build",
            f"-DCMAKE_PREFIX_PATH={cls.prefix}", "-DCMAKE_BUILD_TYPE=Release",
            "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror -Wno-missing-field-initializers")
        run("cmake", "--build", cls.folder / "build")
        cls.program = cls.folder / "build" / "remote_knowledge"

    def test_only_the_client_is_installed(self):
        libraries = sorted(path.name for path in self.prefix.rglob("*.a"))
        self.assertEqual(libraries, ["libmsadb_base.a", "libmsadb_client.a", "libmsadb_values.a",
                                     "libmsadb_wire.a"])
        self.assertFalse((self.prefix / "bin").exists())

    def test_nothing_of_the_database_is_linked(self):
        shared = run("ldd", self.program).stdout.lower()
        self.assertIn("libssl", shared)
        symbols = run("nm", "-C", self.program).stdout.lower()
        self.assertIn("msadb::client::connect", symbols)
        for name in FOREIGN:
            self.assertNotRegex(shared, rf"lib\w*{name}")
        for name in ("rocksdb::", "faiss::", "cblas_", "cudamalloc", "msadb::db::",
                     "msadb::storage::", "msadb::model::", "msadb::index::"):
            self.assertNotIn(name, symbols)

    def test_the_embedded_component_is_missed_by_name(self):
        lists = self.folder / "wrong" / "CMakeLists.txt"
        lists.parent.mkdir()
        lists.write_text("cmake_minimum_required(VERSION 3.25)\nproject(x LANGUAGES CXX)\n"
                         "find_package(msadb REQUIRED COMPONENTS embedded)\n")
        process = run("cmake", "-S", lists.parent, "-B", self.folder / "wrong-build",
                      f"-DCMAKE_PREFIX_PATH={self.prefix}", check=False)
        self.assertNotEqual(process.returncode, 0)
        self.assertIn("embedded", process.stderr)

    def test_the_example_talks_to_a_server(self):
        token = self.folder / "token"
        token.write_text("none\n")
        documents = self.folder / "documents"
        documents.mkdir()
        (documents / "key.txt").write_text("spare key under the flowerpot")
        (documents / "milk.txt").write_text("milk eggs bread")
        with subprocess.Popen([SERVER, self.folder / "db"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True) as server:
            try:
                port = re.match(r"port (\d+)$", server.stdout.readline()).group(1)
                arguments = (self.program, "127.0.0.1", port, token, documents,
                             "where is the spare key")
                first = run(*arguments).stdout
                self.assertIn("2 documents read", first)
                self.assertRegex(first, r"\[\d+\] spare key under the flowerpot\n\[\d+\] key.txt")
                self.assertIn("0 documents read", run(*arguments).stdout)
            finally:
                server.stdin.close()
                server.wait(timeout=60)
        gone = run(*arguments, check=False)
        self.assertEqual(gone.returncode, 1)
        self.assertIn("Unavailable", gone.stderr)


if __name__ == "__main__":
    unittest.main()
