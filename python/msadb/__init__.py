"""msadb: a memory that a language model answers from.

    import msadb

    notes = msadb.open("notes").collection()
    notes.insert("The spare key is under the blue flowerpot.")
    print(notes.ask("Where is the spare key?"))

`open` uses a folder in this process, `connect` a server; both give the same `Database`. Everything may
be used from any thread, and no call holds the GIL while it works. What goes wrong raises `msadb.Error`
or one of its subclasses, and has then changed nothing. docs/python.md is the guide.
"""

from ._build import VERSION as __version__
from ._database import (
    AnswerStream,
    CancelToken,
    Collection,
    Database,
    Snapshot,
    Transaction,
    connect,
    open,
    reencode,
)
from ._errors import (
    AlreadyExists,
    Cancelled,
    Conflict,
    Corruption,
    DeadlineExceeded,
    Error,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    IOFailure,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unsupported,
)
from ._types import (
    Answer,
    AnswerTrace,
    Citation,
    CollectionStats,
    DatabaseStats,
    Document,
    DocumentPage,
    DocumentPart,
    Metadata,
    MetadataValue,
    ModelInfo,
    NewDocument,
    RoutedDocument,
    SearchHit,
    TraceLayer,
    TraceRound,
    VerifyReport,
)

__all__ = [
    "AlreadyExists",
    "Answer",
    "AnswerStream",
    "AnswerTrace",
    "CancelToken",
    "Cancelled",
    "Citation",
    "Collection",
    "CollectionStats",
    "Conflict",
    "Corruption",
    "Database",
    "DatabaseStats",
    "DeadlineExceeded",
    "Document",
    "DocumentPage",
    "DocumentPart",
    "Error",
    "FailedPrecondition",
    "IOFailure",
    "Internal",
    "InvalidArgument",
    "Metadata",
    "MetadataValue",
    "ModelInfo",
    "NewDocument",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "RoutedDocument",
    "SearchHit",
    "Snapshot",
    "TraceLayer",
    "TraceRound",
    "Transaction",
    "Unavailable",
    "Unsupported",
    "VerifyReport",
    "__version__",
    "connect",
    "open",
    "reencode",
]
