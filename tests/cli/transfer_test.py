"""export, import and ingest."""

import json
import os
import unittest

from support import NOT_FOUND, OK, RESOURCES, USAGE, CliTest


class ExportImportTest(CliTest):
    def setUp(self):
        super().setUp()
        self.create()
        self.insert("Erstes.\nZeile zwei — “quoted” \U0001F980", "--key", "a",
                    "--meta", '{"i": 1, "x": 1.25, "yes": true, "tags": ["p", "q"]}')
        self.insert("Second.", "--source", "a letter", "--expires", "30d", "--written-by", "ada")

    def documents(self, collection):
        listed = self.result("list", self.db, "-c", collection)["documents"]
        names = ("key", "text", "metadata", "source", "written_by", "created_at", "expires_at")
        return [{name: document[name] for name in names} for document in listed]

    def test_a_round_trip_through_a_file(self):
        path = self.folder / "out.jsonl"
        self.assertEqual(self.result("export", self.db, path)["exported"], 2)
        lines = path.read_text().splitlines()
        self.assertEqual(json.loads(lines[0])["metadata"]["tags"], ["p", "q"])
        self.assertEqual(self.result("import", self.db, path, "-c", "copy")["inserted"], 2)
        self.assertEqual(self.documents("copy"), self.documents("default"))
        self.assertFalse((self.folder / "out.jsonl.part").exists())

    def test_a_round_trip_through_pipes(self):
        exported = self.succeed("export", self.db, "-").out.encode()
        self.result("import", self.db, "-", "-c", "copy", stdin=exported)
        self.assertEqual(self.documents("copy"), self.documents("default"))
        again = self.result("import", self.db, "-", "-c", "copy", "--replace", stdin=exported)
        self.assertEqual(again["inserted"], 2)

    def test_who_wrote_it_is_kept_or_said_anew(self):
        exported = self.succeed("export", self.db, "-").out.encode()
        self.assertEqual([d["written_by"] for d in self.documents("default")], ["", "ada"])
        self.result("import", self.db, "-", "-c", "foreign", "--written-by", "May", stdin=exported)
        self.assertEqual([d["written_by"] for d in self.documents("foreign")], ["May", "May"])
        self.result("insert", self.db, "--jsonl", "-", "-c", "more", "--written-by", "x",
                    stdin=b'{"text": "a", "written_by": "the boss"}\n')
        self.assertEqual([d["written_by"] for d in self.documents("more")], ["x"])
        where = json.dumps({"$written_by": "ada"})
        self.assertEqual(self.result("export", self.db, self.folder / "ada.jsonl", "--where",
                                     where)["exported"], 1)
        [hit] = self.result("search", self.db, "second", "--where", where)["hits"]
        self.assertEqual((hit["written_by"], hit["source"]), ("ada", "a letter"))
        self.assertIn("(a letter) by ada", self.succeed("search", self.db, "second", "--where", where).out)
        self.assertIn("writer    ada", self.succeed("get", self.db, "--id", 2).out)
        self.assertEqual(self.result("delete", self.db, "--where", where)["deleted"], 1)
        self.assertEqual([d["written_by"] for d in self.documents("default")], [""])

    def test_where_and_skipped_lines(self):
        path = self.folder / "out.jsonl"
        self.assertEqual(self.result("export", self.db, path, "--where", '{"i": 1}')["exported"], 1)
        self.succeed("export", self.db, path)
        self.assertEqual(
            self.result("import", self.db, path, "-c", "rest", "--skip-lines", 1)["inserted"], 1)
        self.assertEqual([d["text"] for d in self.documents("rest")], ["Second."])

    def test_errors(self):
        self.fail_with(RESOURCES, "IOError", "export", self.db, self.folder / "none" / "x.jsonl")
        self.fail_with(NOT_FOUND, "NotFound", "import", self.db, self.folder / "none.jsonl")
        self.fail_with(USAGE, "InvalidArgument", "import", self.db, "-", stdin=b"not json\n")
        outcome = self.run_cli("export", self.db, "-", "--json")
        self.assertEqual(outcome.code, USAGE, outcome)

    def test_a_failed_export_keeps_the_old_file(self):
        path = self.folder / "out.jsonl"
        self.succeed("export", self.db, path)
        good = path.read_text()
        outcome = self.run_cli("export", self.db, path, "-c", "none")
        self.assertEqual(outcome.code, NOT_FOUND, outcome)
        self.assertEqual(path.read_text(), good)

    def test_a_full_disk_is_noticed(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("needs /dev/full")
        with open("/dev/full", "wb") as full:
            process = self.start_cli("export", self.db, "-", stdout=full)
            self.assertEqual(process.wait(timeout=60), RESOURCES)


class IngestTest(CliTest):
    def setUp(self):
        super().setUp()
        self.create()
        self.notes = self.folder / "notes"
        (self.notes / "deep" / ".git").mkdir(parents=True)
        (self.notes / "plain.txt").write_text("A plain text.")
        (self.notes / "guide.md").write_text("# Guide\n\nIntro.\n\n## Keys\n\nUnder the pot.\n")
        (self.notes / "deep" / "chat.jsonl").write_text(
            '{"role": "user", "content": "Hello?", "timestamp": "2026-01-01T00:00:00Z"}\n'
            '{"role": "assistant", "content": "Hi."}\n')
        (self.notes / "deep" / ".git" / "hidden.txt").write_text("never")
        (self.notes / "picture.png").write_bytes(b"\x89PNG")

    def ingest(self, *options):
        return self.result("ingest", self.db, *options)

    def keys(self):
        return sorted(d["key"] for d in self.result("list", self.db)["documents"])

    def counts(self, report):
        return tuple(report[name] for name in ("added", "changed", "unchanged", "removed"))

    def test_a_folder(self):
        report = self.ingest("notes", "--written-by", "ada")
        self.assertEqual((report["files"], report["skipped"]), (3, []))
        self.assertEqual(self.counts(report), (4, 0, 0, 0))
        self.assertEqual(self.keys(), ["notes/deep/chat.jsonl#1", "notes/guide.md",
                                       "notes/guide.md#keys", "notes/plain.txt"])
        document = self.result("get", self.db, "--key", "notes/guide.md#keys")
        self.assertEqual(document["text"], "Guide > Keys\n\nUnder the pot.\n")
        self.assertEqual(document["metadata"]["path"], "notes/guide.md")
        self.assertEqual(document["metadata"]["type"], "markdown")
        self.assertEqual((document["written_by"], document["source"]), ("ada", "notes/guide.md"))
        chat = self.result("list", self.db, "--where", '{"type": "chat"}')["documents"]
        self.assertEqual(chat[0]["metadata"]["timestamp"], "2026-01-01T00:00:00Z")

    def test_again_takes_only_what_changed(self):
        self.ingest("notes")
        ids = {d["key"]: d["id"] for d in self.result("list", self.db)["documents"]}
        self.assertEqual(self.counts(self.ingest("./notes/")), (0, 0, 4, 0))
        (self.notes / "guide.md").write_text(
            "# Guide\n\nIntro.\n\n## Keys\n\nIn the shed.\n\n## New\n\nMore.\n")
        os.utime(self.notes / "plain.txt")
        self.assertEqual(self.counts(self.ingest("notes")), (1, 1, 3, 0))
        after = {d["key"]: d["id"] for d in self.result("list", self.db)["documents"]}
        self.assertEqual(after["notes/plain.txt"], ids["notes/plain.txt"])
        self.assertNotEqual(after["notes/guide.md#keys"], ids["notes/guide.md#keys"])

    def test_what_vanished(self):
        self.ingest("notes")
        (self.notes / "guide.md").write_text("# Guide\n\nIntro.\n")
        (self.notes / "plain.txt").unlink()
        self.assertEqual(self.counts(self.ingest("notes")), (0, 0, 2, 1))
        self.assertIn("notes/plain.txt", self.keys())
        self.assertEqual(self.counts(self.ingest("notes", "--prune", "--dry-run")), (0, 0, 2, 1))
        self.assertIn("notes/plain.txt", self.keys())
        self.assertEqual(self.counts(self.ingest("notes", "--prune")), (0, 0, 2, 1))
        self.assertEqual(self.keys(), ["notes/deep/chat.jsonl#1", "notes/guide.md"])

    def test_prune_stays_below_the_named_paths(self):
        self.ingest("notes")
        self.insert("unrelated", "--key", "mine")
        (self.notes / "plain.txt").unlink()
        (self.folder / "other").mkdir()
        (self.folder / "other" / "a.txt").write_text("Other.")
        self.assertEqual(self.counts(self.ingest("other", "--prune")), (1, 0, 0, 0))
        self.assertIn("notes/plain.txt", self.keys())
        self.assertIn("mine", self.keys())

    def test_dry_run_stores_nothing(self):
        report = self.ingest("notes", "--dry-run")
        self.assertEqual(self.counts(report), (4, 0, 0, 0))
        self.assertEqual(self.keys(), [])
        self.assertEqual(self.counts(self.ingest("notes", "--dry-run", "-c", "new")), (4, 0, 0, 0))
        listed = self.result("collections", "list", self.db)["collections"]
        self.assertEqual([c["name"] for c in listed], ["default"])

    def test_names_that_cannot_be_keys_are_reported(self):
        with open(bytes(self.notes) + b"/caf\xe9.txt", "w", encoding="utf-8") as file:
            file.write("A name in Latin-1.")
        deep = self.notes / "/".join(["d" * 200] * 5)
        deep.mkdir(parents=True)
        (deep / "fits.md").write_text("Fits.")
        (deep / "too-long.md").write_text("# One\n\nFits.\n\n# " + "two" * 20 + "\n\nDoes not.")
        report = self.ingest("notes")
        self.assertEqual(len(report["skipped"]), 2, report)
        self.assertIn("UTF-8", report["skipped"][0]["reason"])
        self.assertIn("too long", report["skipped"][1]["reason"])
        self.assertEqual(report["added"], 5)

    def test_files_that_are_not_text_are_reported(self):
        (self.notes / "latin1.txt").write_bytes(b"caf\xe9")
        (self.notes / "deep" / "bad.jsonl").write_text("not a chat\n")
        report = self.ingest("notes")
        self.assertEqual([skipped["path"] for skipped in report["skipped"]],
                         ["notes/deep/bad.jsonl", "notes/latin1.txt"])
        self.assertEqual(report["added"], 4)
        self.assertIn("latin1.txt", self.succeed("ingest", self.db, "notes").err)

    def test_errors(self):
        message = self.fail_with(NOT_FOUND, "NotFound", "ingest", self.db, "notes", "none")
        self.assertIn("none", message)
        self.assertEqual(self.keys(), [])

    def test_another_collection(self):
        self.ingest("notes/plain.txt", "-c", "files")
        listed = self.result("list", self.db, "-c", "files")["documents"]
        self.assertEqual([d["key"] for d in listed], ["notes/plain.txt"])


if __name__ == "__main__":
    unittest.main()
