"""What a program stores and gets back: plain, immutable values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, Optional, Union

from ._errors import InvalidArgument

MetadataValue = Union[str, int, float, bool, Sequence[str]]
"""What a field of the metadata may hold."""

Metadata = dict[str, Union[str, int, float, bool, list[str]]]
"""The metadata of a stored document."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class NewDocument:
    """A document to insert."""

    text: str
    key: Optional[str] = None
    """Your own name for it, unique in the collection."""
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    source: str = ""
    """Where it comes from, in the writer's words; free text."""
    expires_at: Union[datetime, timedelta, None] = None
    """From then on it is invisible, and deleted soon after. A timedelta counts from now."""
    created_at: Optional[datetime] = None
    """Now, unless it is given: for imports."""
    written_by: str = ""
    """Who wrote it; a server stores the name of the token instead, whatever stands here."""


@dataclass(frozen=True)
class DocumentPart:
    """One stretch of a document that the model encoded as a unit and cites by number."""

    number: int
    text_offset: int
    """Bytes of UTF-8 from the start of the document's text."""
    text_size: int
    """Bytes of UTF-8."""
    token_count: int
    chunk_count: int


@dataclass(frozen=True)
class Document:
    """A stored document."""

    id: int
    """Its number, from 1 upward; never used again."""
    text: str
    key: Optional[str]
    metadata: Metadata
    source: str
    written_by: str
    """Empty: not recorded."""
    created_at: datetime
    expires_at: Optional[datetime]
    parts: tuple[DocumentPart, ...]


@dataclass(frozen=True)
class DocumentPage:
    """Some documents, ascending, and where to go on."""

    documents: list[Document]
    next: Optional[int]
    """For start_after; None at the end."""


@dataclass(frozen=True)
class SearchHit:
    """A document that fits a query, with the part of it that fits best."""

    id: int
    part: int
    score: float
    """Compares documents within one query, not across queries."""
    text: str
    """The text of that part."""
    text_offset: int
    key: Optional[str]
    metadata: Metadata
    source: str
    written_by: str
    created_at: datetime


@dataclass(frozen=True)
class Citation:
    """A document that an answer rests on."""

    id: int
    part: int
    text_offset: int
    text: str
    key: Optional[str]
    source: str
    written_by: str
    created_at: datetime
    in_answer: bool
    """Whether its number appears in the answer itself."""


@dataclass(frozen=True)
class RoutedDocument:
    """A document that a layer attended to."""

    number: int
    score: float


@dataclass(frozen=True)
class TraceLayer:
    """What one routing layer attended to, best first."""

    layer: int
    documents: tuple[RoutedDocument, ...]


@dataclass(frozen=True)
class TraceRound:
    """One round of Memory Interleave."""

    generated: tuple[int, ...]
    """Numbers that the model asked for, in order."""
    appended: tuple[int, ...]
    """Those whose text was added."""
    layers: tuple[TraceLayer, ...]
    prefill_ms: float
    routing_ms: float
    fetch_ms: float
    decode_ms: float


AnswerTrace = tuple[TraceRound, ...]
"""What the model did, round by round."""


@dataclass(frozen=True)
class Answer:
    """An answer. str() of it is its text."""

    text: str
    citations: tuple[Citation, ...]
    """In the order they were read."""
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    generated_tokens: int
    trace: AnswerTrace
    """Empty unless asked with trace=True."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class CollectionStats:
    """Sizes of a collection."""

    name: str
    documents: int
    parts: int
    tokens: int
    chunks: int
    text_bytes: int
    routing_bytes: int
    content_bytes: int
    index_loaded: bool
    index_bytes: int


@dataclass(frozen=True)
class DatabaseStats:
    """Sizes of a database."""

    model_fingerprint: str
    collections: tuple[CollectionStats, ...]
    disk_bytes: int
    block_cache_bytes: int
    block_cache_capacity: int
    block_cache_hits: int
    block_cache_misses: int
    index_bytes: int


@dataclass(frozen=True)
class VerifyReport:
    """What reading every byte found."""

    documents_checked: int
    bytes_checked: int
    problems: tuple[str, ...]
    truncated: bool
    """Whether there are more problems than listed."""

    @property
    def ok(self) -> bool:
        """Whether everything is as it should be."""
        return not self.problems


@dataclass(frozen=True)
class ModelInfo:
    """The model of a database."""

    fingerprint: str
    description: str
    document_tokens_max: int
    """Longer documents are stored in parts."""


# --- Between these classes and the extension module's plain values ---


def to_micros(name: str, time: Union[datetime, timedelta, None]) -> Optional[int]:
    if time is None:
        return None
    if isinstance(time, timedelta):
        time = datetime.now(timezone.utc) + time
    if not isinstance(time, datetime):
        raise TypeError(f"{name} must be a datetime or None, not {type(time).__name__}")
    if time.tzinfo is None:
        raise InvalidArgument(f"{name} has no time zone; use datetime.now(timezone.utc) or .astimezone()")
    return (time - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


def document_fields(document: Union[str, NewDocument, Mapping[str, Any]]) -> tuple[Any, ...]:
    if isinstance(document, str):
        document = NewDocument(document)
    elif isinstance(document, Mapping):
        document = NewDocument(**document)
    elif not isinstance(document, NewDocument):
        raise TypeError(f"a document must be a NewDocument, dict or str, not {type(document).__name__}")
    return (
        document.text,
        document.key,
        dict(document.metadata),
        document.source,
        to_micros("expires_at", document.expires_at),
        to_micros("created_at", document.created_at),
        document.written_by,
    )


def make_document(fields: dict[str, Any]) -> Document:
    fields["created_at"] = from_micros(fields["created_at"])
    if fields["expires_at"] is not None:
        fields["expires_at"] = from_micros(fields["expires_at"])
    fields["parts"] = tuple(DocumentPart(*part) for part in fields["parts"])
    return Document(**fields)


def make_hit(fields: dict[str, Any]) -> SearchHit:
    fields["created_at"] = from_micros(fields["created_at"])
    return SearchHit(**fields)


def make_answer(fields: dict[str, Any]) -> Answer:
    fields["citations"] = tuple(_make_citation(citation) for citation in fields["citations"])
    fields["trace"] = tuple(_make_round(round_fields) for round_fields in fields["trace"])
    return Answer(**fields)


def _make_citation(fields: dict[str, Any]) -> Citation:
    fields["created_at"] = from_micros(fields["created_at"])
    return Citation(**fields)


def _make_round(fields: dict[str, Any]) -> TraceRound:
    fields["layers"] = tuple(
        TraceLayer(layer, tuple(RoutedDocument(*routed) for routed in documents))
        for layer, documents in fields["layers"]
    )
    return TraceRound(**fields)


def make_database_stats(fields: dict[str, Any]) -> DatabaseStats:
    fields["collections"] = tuple(CollectionStats(**stats) for stats in fields["collections"])
    return DatabaseStats(**fields)
