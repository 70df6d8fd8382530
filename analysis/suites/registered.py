"""What Inspect finds by the entry point: the provider `lofit-lens`, imported when it is used."""

from __future__ import annotations

from typing import Any

from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import ModelAPI, modelapi

from lofit_lens.errors import LofitLensError


class ToldError(PrerequisiteError, LofitLensError):
    """An error that `inspect` prints without a traceback."""


@modelapi(name="lofit-lens")
def provider() -> Any:
    """What makes a model under an edit: see `EditedAPI`."""
    from lofit_lens.analysis.suites.edited_api import EditedAPI

    def made(**arguments: Any) -> ModelAPI:
        try:
            return EditedAPI(**arguments)
        except LofitLensError as error:
            raise ToldError(str(error)) from error

    return made
