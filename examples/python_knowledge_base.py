"""A knowledge base over a folder of texts: keeps it in step with the files, then answers questions.

    python3 examples/python_knowledge_base.py WHERE FOLDER_OF_TEXTS [QUESTION...]

WHERE is a folder of the database, or the address of a server ("localhost:7411", with its token in
MSADB_TOKEN): the same code serves both. Run it again and only what changed is encoded.
"""

import hashlib
import os
import pathlib
import re
import sys

import msadb


def open_memory(where: str) -> msadb.Database:
    if re.fullmatch(r"[\w.-]+:\d+|\[[\da-fA-F:]+\]:\d+", where):
        return msadb.connect(where, token=os.environ.get("MSADB_TOKEN", ""))
    return msadb.open(where)


def synchronise(base: msadb.Collection, texts: pathlib.Path) -> tuple[int, int]:
    """Makes the collection hold what the folder holds; returns how many were stored and deleted."""
    files = {str(path.relative_to(texts)): path for path in texts.rglob("*") if path.suffix in (".md", ".txt")}
    known = {document.key: document.metadata.get("sha256") for document in base.list(include_text=False)}
    changed = []
    for name, path in sorted(files.items()):
        text = path.read_text(encoding="utf-8", errors="replace")
        digest = hashlib.sha256(text.encode()).hexdigest()
        if text.strip() and known.get(name) != digest:
            changed.append(msadb.NewDocument(text, key=name, metadata={"sha256": digest}, source=name))
    stored = base.insert_many(changed, replace_existing=True)
    gone = [key for key in known if key is not None and key not in files]
    with base.transaction() as change:
        for key in gone:
            change.delete(key=key)
    return stored, len(gone)


def main() -> int:
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    where, texts, *questions = sys.argv[1:]
    with open_memory(where) as database:
        base = database.collection("knowledge")
        stored, deleted = synchronise(base, pathlib.Path(texts))
        print(f"{stored} texts stored, {deleted} deleted, {base.count()} in all")
        for question in questions:
            answer = base.ask(question)
            print(f"\n{question}\n{answer}")
            for source in dict.fromkeys(citation.source for citation in answer.citations):
                print(f"  {source}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
