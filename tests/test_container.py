"""What cannot be opened as media is told in plain words; what is cut off is seen."""

import numpy as np
import pytest

from deemo_jax.container import MediaError, is_cut, opened, stream_of
from deemo_jax.media import write_audio


def box(kind: bytes, size: int, *, long: bool = False) -> bytes:
    """A box of an MP4 that has so many bytes."""
    head = (1 if long else size).to_bytes(4, "big") + kind
    head += size.to_bytes(8, "big") if long else b""
    return head + bytes(size - len(head))


@pytest.mark.parametrize("long", [False, True])
def test_a_file_that_ends_within_a_box_is_cut(tmp_path, long):
    path = tmp_path / "a.mp4"
    whole = box(b"ftyp", 24) + box(b"mdat", 100, long=long) + box(b"moov", 50)
    for end in (24, 124, 174):
        path.write_bytes(whole[:end])
        assert not is_cut(path)
    for end in (20, 90, 173):
        path.write_bytes(whole[:end])
        assert is_cut(path)


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", bytes(64), (0).to_bytes(4, "big") + b"mdat" + bytes(9)]
)
def test_what_has_no_boxes_or_an_open_one_is_not_cut(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert not is_cut(path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("none.mp4", None, r"there is no file none\.mp4"),
        ("a.mp4", b"", r"a\.mp4 is empty \(0 bytes\)"),
        ("a.mp4", b"words", r"a\.mp4 cannot be read as media"),
    ],
)
def test_what_cannot_be_opened_is_told(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=reason), opened(tmp_path / name):
        pass


def test_what_goes_wrong_within_is_told_as_well(tmp_path):
    write_audio(tmp_path / "a.flac", np.zeros(800, np.float32))
    with opened(tmp_path / "a.flac") as container:
        assert stream_of(container, "audio") is not None
        assert stream_of(container, "video") is None
    with (
        pytest.raises(MediaError, match=r"cannot be decoded \(of PyAV\)"),
        opened(tmp_path / "a.flac"),
    ):
        raise ValueError("of PyAV")
