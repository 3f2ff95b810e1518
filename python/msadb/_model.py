"""Where the model is, when the caller does not say."""

from __future__ import annotations

import os
import pathlib

from ._build import SOURCE_MODEL
from ._errors import NotFound


def model_for(folder: str, model: str | os.PathLike[str] | None) -> str:
    """The model folder to open `folder` with; "" leaves it to what the database remembers.

    Given ones come first, then what the database was made with, $MSADB_MODEL, and at last the model in
    the source tree that this package was built from.
    """
    if model is not None:
        return os.path.abspath(os.fspath(model))
    if os.environ.get("MSADB_MODEL") or _holds_something(folder):
        return ""
    if (pathlib.Path(SOURCE_MODEL) / "config.json").is_file():
        return SOURCE_MODEL
    raise NotFound(
        "no model was given for a new database, and there is none at " + SOURCE_MODEL + ", where this "
        "package was built; pass model=FOLDER or set MSADB_MODEL (docs/model-folder.md says what a model "
        "folder holds)"
    )


def _holds_something(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False
