"""Database, Collection, Snapshot, Transaction: thin shells around the extension module's."""

from __future__ import annotations

import atexit
import json
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import Any, List, Literal, Optional, TypeVar, Union, overload

from . import _native
from ._native import Transaction as _NativeTransaction
from ._errors import InvalidArgument
from ._model import model_for
from ._types import (
    Answer,
    CollectionStats,
    DatabaseStats,
    Document,
    DocumentPage,
    MetadataValue,
    ModelInfo,
    NewDocument,
    SearchHit,
    VerifyReport,
    document_fields,
    make_answer,
    make_database_stats,
    make_document,
    make_hit,
)

Where = Mapping[str, Any]
"""A filter, such as {"topic": "garden"} or {"year": {"$gte": 2020}}; include/msadb/filter.h lists all."""

NewDocumentLike = Union[str, NewDocument, Mapping[str, Any]]
"""A document to insert: its text, a NewDocument, or a dict with the fields of one."""

OnProgress = Callable[[int, int, int], object]
"""Called with documents done, documents in all, and tokens done. Returning False stops the work, and
so does an exception."""

# List is the type, for within these classes `list` is a method.

_DEFAULT_PORT = 7411
_MAX_64 = 2**64 - 1
_MAX_32 = 2**31 - 1

_Self = TypeVar("_Self", bound="_Closing")


class _Children:
    """What has to be closed with its owner."""

    def __init__(self) -> None:
        self._live: weakref.WeakSet[Any] = weakref.WeakSet()

    def add(self, child: Any) -> None:
        self._live.add(child)

    def close(self) -> None:
        for child in list(self._live):
            child.close()


_databases = _Children()
# Threads that answer questions must not outlive the interpreter.
atexit.register(_databases.close)


class _Closing:
    """A context manager that closes."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()


class CancelToken:
    """Cancels the calls that it was given to, from any thread.

        token = msadb.CancelToken()
        threading.Timer(2, token.cancel).start()
        notes.ask("Where is the key?", cancel=token)   # raises Cancelled
    """

    def __init__(self) -> None:
        self._native = _native.StopSource()

    def cancel(self) -> None:
        """Ends those calls with Cancelled, also ones that begin later."""
        self._native.cancel()

    @property
    def cancelled(self) -> bool:
        """Whether cancel() was called."""
        return self._native.cancelled()


class AnswerStream(_Closing, Iterator[str]):
    """An answer on its way: iterate over its pieces, then read `answer`.

    The question is answered in the background. Leaving the `with` block, close() or cancel() stop it.
    One thread at a time takes pieces.
    """

    def __init__(self, native: _native.AskStream) -> None:
        self._native = native
        self._answer: Optional[Answer] = None

    def __next__(self) -> str:
        if self._answer is None:
            piece = self._native.next()
            if piece is not None:
                return piece
            self._answer = make_answer(self._native.result())
        raise StopIteration

    @property
    def answer(self) -> Answer:
        """The whole answer with its citations; waits for it if need be."""
        for _ in self:
            pass
        assert self._answer is not None
        return self._answer

    def cancel(self) -> None:
        """Stops it; the next piece raises Cancelled. May be called from any thread."""
        self._native.cancel()

    def close(self) -> None:
        """Stops it and waits until the memory is free of it."""
        self._native.close()


def _time(value: object) -> str:
    """A time as filters compare $created_at with."""
    if not isinstance(value, datetime):
        raise TypeError(f"{type(value).__name__} is not a value of a filter")
    if value.tzinfo is None:
        raise ValueError("a time has no time zone; use datetime.now(timezone.utc) or .astimezone()")
    return value.astimezone(timezone.utc).replace(tzinfo=None).isoformat() + "Z"


def _where(where: Optional[Where]) -> Optional[str]:
    if where is None:
        return None
    try:
        return json.dumps(where, allow_nan=False, default=_time)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"the filter is no JSON: {error}") from None


def _integer(name: str, value: int, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not low <= value <= high:
        raise InvalidArgument(f"{name} must be from {low} to {high}, not {value}")
    return value


def _which(id: Optional[int], key: Optional[str]) -> Optional[int]:
    """Checks that exactly one is given."""
    if (id is None) == (key is None):
        raise TypeError("give either a document's id or its key")
    return None if id is None else _integer("id", id, 0, _MAX_64)


class _Reader(_Closing):
    """What a live collection and a frozen snapshot can both answer."""

    _native: Union[_native.Collection, _native.Snapshot]

    def __init__(self, native: Any, owner: Union[Database, Collection]) -> None:
        self._native = native
        # Keeps the database's object alive, so that it is closed when nothing uses it any more.
        self._owner = owner
        self._children = _Children()
        owner._children.add(self)

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._native.name()

    def close(self) -> None:
        """Lets go of it; later calls raise Unavailable. Answers on their way are cancelled."""
        self._children.close()
        self._native.close()

    def get(self, id: Optional[int] = None, *, key: Optional[str] = None) -> Document:
        """The document of this id or key; NotFound when there is none or it expired."""
        number = _which(id, key)
        if number is None:
            assert key is not None
            return make_document(self._native.get_by_key(key))
        return make_document(self._native.get(number))

    def list(
        self,
        *,
        where: Optional[Where] = None,
        start_after: int = 0,
        page_size: int = 100,
        include_text: bool = True,
    ) -> Iterator[Document]:
        """Iterates over the documents in ascending id, reading a page at a time as you go.

        A live collection may change between pages; take a snapshot for one state.
        """
        position: Optional[int] = start_after
        while position is not None:
            page = self.list_page(
                where=where, start_after=position, limit=page_size, include_text=include_text
            )
            yield from page.documents
            position = page.next

    def __iter__(self) -> Iterator[Document]:
        return self.list()

    def list_page(
        self,
        *,
        where: Optional[Where] = None,
        start_after: int = 0,
        limit: int = 100,
        include_text: bool = True,
    ) -> DocumentPage:
        """At most `limit` (1 to 10,000) documents after the id `start_after`."""
        documents, following = self._native.list(
            _integer("start_after", start_after, 0, _MAX_64),
            _integer("limit", limit, 1, 10_000),
            _where(where),
            include_text,
        )
        return DocumentPage([make_document(fields) for fields in documents], following)

    def count(self) -> int:
        """How many documents there are."""
        return self._native.count()

    def __len__(self) -> int:
        return self.count()

    def __bool__(self) -> bool:
        return True  # an empty collection is one all the same

    def search(
        self, query: str, *, top_k: int = 10, where: Optional[Where] = None, include_text: bool = True
    ) -> List[SearchHit]:
        """Ranks documents by the model's routing, best first; nothing is generated."""
        hits = self._native.search(query, _integer("top_k", top_k, 1, 1000), _where(where), include_text)
        return [make_hit(fields) for fields in hits]

    @overload
    def ask(
        self,
        question: str,
        *,
        stream: Literal[False] = False,
        where: Optional[Where] = None,
        timeout: Optional[float] = None,
        cancel: Optional[CancelToken] = None,
        trace: bool = False,
        rounds_max: int = 4,
        answer_tokens_max: int = 256,
        retrieved_text_tokens_max: int = 3072,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Answer: ...

    @overload
    def ask(
        self,
        question: str,
        *,
        stream: Literal[True],
        where: Optional[Where] = None,
        timeout: Optional[float] = None,
        cancel: Optional[CancelToken] = None,
        trace: bool = False,
        rounds_max: int = 4,
        answer_tokens_max: int = 256,
        retrieved_text_tokens_max: int = 3072,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> AnswerStream: ...

    def ask(
        self,
        question: str,
        *,
        stream: bool = False,
        where: Optional[Where] = None,
        timeout: Optional[float] = None,
        cancel: Optional[CancelToken] = None,
        trace: bool = False,
        rounds_max: int = 4,
        answer_tokens_max: int = 256,
        retrieved_text_tokens_max: int = 3072,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Union[Answer, AnswerStream]:
        """Answers a question by attending over the documents.

        stream: give the pieces of the answer as they are generated, as an AnswerStream.
        where: attend only to documents whose metadata matches.
        timeout: seconds until DeadlineExceeded. cancel: a token that ends it with Cancelled.
        trace: tell what every layer attended to, in `Answer.trace`.
        temperature: 0 is greedy and repeats itself; otherwise `seed` repeats a sample.
        Ctrl-C stops it too.
        """
        options = {
            "where": _where(where),
            "timeout": _timeout(timeout),
            "trace": bool(trace),
            "rounds_max": _integer("rounds_max", rounds_max, 0, _MAX_32),
            "answer_tokens_max": _integer("answer_tokens_max", answer_tokens_max, 0, _MAX_32),
            "retrieved_text_tokens_max": _integer(
                "retrieved_text_tokens_max", retrieved_text_tokens_max, 0, _MAX_32
            ),
            "temperature": float(temperature),
            "top_p": float(top_p),
            "seed": _integer("seed", seed, 0, _MAX_64),
        }
        native = self._native.ask(question, options, None if cancel is None else cancel._native)
        answers = AnswerStream(native)
        self._children.add(answers)
        if stream:
            return answers
        with answers:
            return answers.answer


def _timeout(seconds: Optional[float]) -> Optional[float]:
    if seconds is None:
        return None
    seconds = float(seconds)
    if not 0 <= seconds <= 1e9:
        raise InvalidArgument(f"timeout must be seconds from 0 to 1e9, not {seconds}")
    return seconds


class _Writer:
    """Changes, as a collection makes them one by one and a transaction together."""

    _native: Any

    def insert(
        self,
        text: str,
        *,
        key: Optional[str] = None,
        metadata: Optional[Mapping[str, MetadataValue]] = None,
        source: str = "",
        expires_at: Union[datetime, timedelta, None] = None,
        created_at: Optional[datetime] = None,
        written_by: str = "",
    ) -> int:
        """Stores a document and returns its id. AlreadyExists when the key is taken: use upsert."""
        document = NewDocument(text, key, metadata or {}, source, expires_at, created_at, written_by)
        inserted: int = self._native.insert(document_fields(document))
        return inserted

    def upsert(
        self,
        text: str,
        *,
        key: str,
        metadata: Optional[Mapping[str, MetadataValue]] = None,
        source: str = "",
        expires_at: Union[datetime, timedelta, None] = None,
        created_at: Optional[datetime] = None,
        written_by: str = "",
    ) -> int:
        """Stores a document in place of that of the same key, if there is one. Returns the new id."""
        document = NewDocument(text, key, metadata or {}, source, expires_at, created_at, written_by)
        inserted: int = self._native.upsert(document_fields(document))
        return inserted


class Collection(_Writer, _Reader):
    """A memory of its own: one agent, one user, one knowledge base. From Database.collection().

    A call that returned is on disk and visible to every reader that starts after it. As a context
    manager it closes at the end.
    """

    _native: _native.Collection

    def insert_many(
        self,
        documents: Iterable[NewDocumentLike],
        *,
        replace_existing: bool = False,
        on_progress: Optional[OnProgress] = None,
    ) -> int:
        """Stores many, encoding and committing them in batches; returns how many were stored.

        Documents whose key is stored already are skipped, or replaced if you say so; skipping makes an
        interrupted load resumable. On an error, what was committed before stays.
        """
        fields = [document_fields(document) for document in documents]
        return self._native.insert_many(fields, replace_existing, on_progress)

    def delete(
        self, id: Optional[int] = None, *, key: Optional[str] = None, where: Optional[Where] = None
    ) -> int:
        """Deletes the document of this id or key (NotFound without one), or all that match.

        Returns how many. `where={}` deletes every document. All in one commit.
        """
        if where is not None:
            if id is not None or key is not None:
                raise TypeError("give a document's id, its key or a filter")
            filter_json = _where(where)
            assert filter_json is not None
            return self._native.delete_where(filter_json)
        number = _which(id, key)
        if number is None:
            assert key is not None
            self._native.delete_by_key(key)
        else:
            self._native.delete(number)
        return 1

    def transaction(self) -> Transaction:
        """Several changes that become durable and visible together, or not at all.

            with notes.transaction() as change:
                change.upsert("The office is in Mill Lane.", key="office")
                change.delete(key="office/old")

        Commits at the end of the block, rolls back when an exception leaves it.
        """
        return Transaction(self._native.begin(), self)

    def snapshot(self) -> Snapshot:
        """A frozen view, unaffected by later changes. Do not hold it for long: close it, or use `with`."""
        return Snapshot(self._native.snapshot(), self)

    def stats(self) -> CollectionStats:
        """Sizes of the collection."""
        return CollectionStats(**self._native.stats())


class Snapshot(_Reader):
    """A frozen view of a collection. From Collection.snapshot()."""

    _native: _native.Snapshot


class Transaction(_Writer):
    """Changes that are committed together. From Collection.transaction().

    Reads through it see its own changes over the state at its beginning. The first committer wins: if
    another commit changed a key or document that this one changes, commit() raises Conflict and changes
    nothing; begin again.
    """

    _native: _NativeTransaction

    def __init__(self, native: _NativeTransaction, collection: Collection) -> None:
        self._native = native
        self._collection = collection
        self._over = False
        collection._children.add(self)

    def delete(self, id: Optional[int] = None, *, key: Optional[str] = None) -> None:
        """Deletes the document of this id or key; NotFound without one."""
        number = _which(id, key)
        if number is None:
            assert key is not None
            self._native.delete_by_key(key)
        else:
            self._native.delete(number)

    def get(self, id: Optional[int] = None, *, key: Optional[str] = None) -> Document:
        """The document of this id or key, as the transaction would leave it."""
        number = _which(id, key)
        if number is None:
            assert key is not None
            return make_document(self._native.get_by_key(key))
        return make_document(self._native.get(number))

    def commit(self) -> None:
        """Makes the changes durable and visible. Whatever comes of it, the transaction is over."""
        self._over = True
        self._native.commit()

    def rollback(self) -> None:
        """Drops the changes."""
        self._over = True
        self._native.rollback()

    def close(self) -> None:
        """Drops the changes, unless they were committed."""
        self._over = True
        self._native.close()

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if self._over:
            return
        if kind is None:
            self.commit()
        else:
            self.rollback()


class Database(_Closing):
    """A folder of collections, or a server's. From msadb.open() or msadb.connect().

    As a context manager it closes at the end. Without close(), the folder stays open while anything of
    the database is in use.
    """

    def __init__(self, native: _native.Database) -> None:
        self._native = native
        self._children = _Children()
        _databases.add(self)

    def collection(self, name: str = "default") -> Collection:
        """The collection of this name, made if there is none."""
        return Collection(self._native.get_or_create_collection(name), self)

    def create_collection(self, name: str) -> Collection:
        """A new collection; AlreadyExists when the name is taken.

        Names have 1 to 128 bytes of UTF-8, without control characters and '/', and are not ".", ".." or "*".
        """
        return Collection(self._native.create_collection(name), self)

    def open_collection(self, name: str) -> Collection:
        """An existing collection; NotFound when there is none."""
        return Collection(self._native.open_collection(name), self)

    def drop_collection(self, name: str) -> None:
        """Deletes a collection with all its documents."""
        self._native.drop_collection(name)

    def list_collections(self) -> list[str]:
        """The names of all collections."""
        return self._native.list_collections()

    def stats(self) -> DatabaseStats:
        """Sizes of everything."""
        return make_database_stats(self._native.stats())

    def verify(self) -> VerifyReport:
        """Reads every byte and checks it."""
        return VerifyReport(**self._native.verify())

    def compact(self) -> None:
        """Removes every trace of deleted and expired documents from disk.

        FailedPrecondition while a snapshot still holds some of them.
        """
        self._native.compact()

    @property
    def model(self) -> Optional[ModelInfo]:
        """The model of this database; None when it is a server's, which does not tell."""
        fields = self._native.model()
        return None if fields is None else ModelInfo(**fields)

    def close(self) -> None:
        """Closes the folder or the connection, and everything that came from it.

        Answers on their way are cancelled; other calls that are running in other threads end first.
        """
        self._children.close()
        self._native.close()


def open(
    folder: Union[str, os.PathLike[str]],
    *,
    model: Union[str, os.PathLike[str], None] = None,
    create_if_missing: bool = True,
    error_if_exists: bool = False,
    read_only: bool = False,
    durability: Literal["sync", "buffered"] = "sync",
    device: str = "auto",
    threads: int = 0,
    expiry_interval: timedelta = timedelta(seconds=1),
    block_cache_bytes: int = 512 << 20,
    index_bytes_max: int = 16 << 30,
    routing_keys: Literal["float", "int8"] = "float",
    storage_memory_bytes: int = 128 << 20,
    encode_batch_tokens: int = 4096,
) -> Database:
    """Opens the database in `folder`, creating it if there is none.

    model: the model folder. Without one: what the database was made with, else $MSADB_MODEL, else
        models/default of the source tree that this package was built from.
    durability: "sync" survives a power cut, "buffered" only a killed process, and is faster.
    threads: for the model's mathematics; 0 is one per core.
    routing_keys: "int8" halves a GPU's memory for routing keys and changes a few answers.
    The rest is explained in include/msadb/options.h. One process at a time can have a folder open:
    Unavailable for the second.
    """
    path = os.fspath(folder)
    settings = {
        "model_path": model_for(path, model),
        "create_if_missing": bool(create_if_missing),
        "error_if_exists": bool(error_if_exists),
        "read_only": bool(read_only),
        "durability": durability,
        "device": device,
        "threads": _integer("threads", threads, 0, _MAX_32),
        "expiry_interval_ms": _integer(
            "expiry_interval in ms", expiry_interval // timedelta(milliseconds=1), 0, _MAX_32
        ),
        "block_cache_bytes": _integer("block_cache_bytes", block_cache_bytes, 0, _MAX_64),
        "routing_keys": routing_keys,
        "index_bytes_max": _integer("index_bytes_max", index_bytes_max, 0, _MAX_64),
        "storage_memory_bytes": _integer("storage_memory_bytes", storage_memory_bytes, 0, _MAX_64),
        "encode_batch_tokens": _integer("encode_batch_tokens", encode_batch_tokens, 0, _MAX_64),
    }
    return Database(_native.Database.open(path, settings))


def connect(
    address: str,
    *,
    token: str = "",
    tls: bool = False,
    ca_file: Union[str, os.PathLike[str]] = "",
    connect_timeout: float = 5.0,
    timeout: Optional[float] = 600.0,
) -> Database:
    """Connects to a server and gives a Database with the same methods as `open`.

    address: "host:port", "host" (port 7411) or "[::1]:port".
    token: what the server's administrator handed out (`msadb tokens add`).
    tls: encrypt; ca_file: the authorities to trust, the system's without one.
    timeout: seconds for a call without a timeout of its own; None waits for as long as it takes.
    """
    host, port = _host_and_port(address)
    settings = {
        "port": port,
        "token": token,
        "tls": bool(tls),
        "ca_file": os.fspath(ca_file),
        "connect_timeout_ms": int((_timeout(connect_timeout) or 0.0) * 1000),
        "request_timeout_ms": int((_timeout(timeout) or 0.0) * 1000),
    }
    return Database(_native.Database.connect(host, settings))


def _host_and_port(address: str) -> tuple[str, int]:
    if not isinstance(address, str):
        raise TypeError(f"address must be a str, not {type(address).__name__}")
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, port = address, str(_DEFAULT_PORT)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InvalidArgument(f"{address!r}: write an IPv6 address in brackets, as [::1]:7411")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgument(f"{address!r} is no address; write host:port, as 127.0.0.1:7411")
    return host, int(port)


def reencode(
    folder: Union[str, os.PathLike[str]],
    *,
    model: Union[str, os.PathLike[str]],
    device: str = "auto",
    threads: int = 0,
    on_progress: Optional[OnProgress] = None,
) -> None:
    """Encodes every document of a closed database again, for another model, and adopts that.

    Keys and texts stay. A kill at any moment leaves the old or the new database whole.
    """
    path = os.fspath(folder)
    settings = {
        "model_path": model_for(path, model),
        "device": device,
        "threads": _integer("threads", threads, 0, _MAX_32),
    }
    _native.reencode(path, settings, on_progress)
