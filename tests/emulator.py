"""Google's object storage on loopback: `python tests/emulator.py PORT BUCKET`.

The emulator does not know of an object's generation, which Orbax's files are written
by: it is said with what is read, and what is asked for on a condition is checked.
Requests are heard each in a thread of its own, or one client that is stopped in the
middle of one would hold up all others, which Google's storage does not.
"""

from collections.abc import Callable
import contextlib
from http import HTTPStatus
from http.server import ThreadingHTTPServer
import sys
import threading
from typing import Any

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound


def with_generations(handler: Callable[..., None]) -> Callable[..., None]:
    """The handler of a request for one object, minding the object's generation."""

    def handle(request, response, storage, *args, **kwargs):
        bucket = request.params["bucket_name"]
        name = request.params.get("object_id") or request.query.get("name", [""])[0]
        if request.query.get("uploadType") == ["multipart"]:
            name = name or request.data["meta"]["name"]
        generation = "0"
        with contextlib.suppress(NotFound):
            generation = storage.get_file_obj(bucket, name)["generation"]
        [wanted] = request.query.get("ifGenerationMatch", [generation])
        [known] = request.query.get("ifGenerationNotMatch", [None])
        if wanted != generation:
            response.status = HTTPStatus.PRECONDITION_FAILED
            return
        if known == generation:
            response.status = HTTPStatus.NOT_MODIFIED
            return
        if generation != "0":
            response["x-goog-generation"] = generation
        handler(request, response, storage, *args, **kwargs)

    return handle


def one_at_a_time(handler: Callable[..., None], lock: Any) -> Callable[..., None]:
    """The handler of a request, given all that its client sends before it begins."""

    def handle(request, *args, **kwargs):
        if request.get_header("Content-Length") is not None:
            _ = request.data
        with lock:
            handler(request, *args, **kwargs)

    return handle


if __name__ == "__main__":
    lock = threading.Lock()
    for pattern, handlers in server.HANDLERS:
        for method, handler in handlers.items():
            if "/o" in pattern and "bucket_name" in pattern:
                handler = with_generations(handler)
            handlers[method] = one_at_a_time(handler, lock)  # pyright: ignore
    server.server.HTTPServer = ThreadingHTTPServer  # pyright: ignore
    port, bucket = int(sys.argv[1]), sys.argv[2]
    server.create_server("127.0.0.1", port, True, default_bucket=bucket).run()
