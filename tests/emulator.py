"""Google's object storage on loopback: `python tests/emulator.py PORT BUCKET`.

The emulator does not know of an object's generation, which Orbax's files are written
by: it is said with what is read, and what is asked for on a condition is checked.
"""

from collections.abc import Callable
import contextlib
from http import HTTPStatus
import sys

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


if __name__ == "__main__":
    for pattern, handlers in server.HANDLERS:
        if "/o" in pattern and "bucket_name" in pattern:
            for method, handler in handlers.items():
                handlers[method] = with_generations(handler)  # pyright: ignore
    port, bucket = int(sys.argv[1]), sys.argv[2]
    server.create_server("127.0.0.1", port, True, default_bucket=bucket).run()
