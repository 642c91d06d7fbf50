"""The HTTP server's log, without what its parser refuses.

That is the client's doing: the head of such a request is answered 400 before a backend is asked,
and a body that cannot be read is met again when what is left of it is thrown away. aiohttp logs both with a traceback.
"""

from __future__ import annotations

import logging

from aiohttp.http import HttpProcessingError
from aiohttp.web import RequestPayloadError


def _is_ours(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (HttpProcessingError, RequestPayloadError))


LOG = logging.getLogger("gateway.sandbox.http")
LOG.addFilter(_is_ours)
