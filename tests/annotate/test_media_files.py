import pytest

from deemo_jax.annotate.media_files import MediaFiles, stem
from deemo_jax.refusals import Refusal


@pytest.fixture
def files(tmp_path):
    for name in (
        "a.MP4", "deep/b.b.avi", "deep/0012.mkv", "b.wav", "c.mp4", "other/c.mov",
        "d.wav", "d.npy", "notes.txt",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return MediaFiles(tmp_path)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a", "a.MP4"),
        ("a.avi", "a.MP4"),
        ("b.b", "deep/b.b.avi"),
        ("12", "deep/0012.mkv"),
        ("0012.mp4", "deep/0012.mkv"),
        ("b", "b.wav"),
        ("d", "d.wav"),
    ],
)
def test_media_are_found_by_name(files, name, found):
    assert name in files
    assert files.find(name) == files.folder / found


def test_what_is_missing_or_unclear_is_refused(files):
    assert "e" not in files
    with pytest.raises(Refusal, match="no media are named 'notes'"):
        files.find("notes")
    with pytest.raises(Refusal, match=r"c\.mp4 and other/c\.mov have one name"):
        files.find("c")


def test_sound_beside_its_video_is_not_another_clip(files):
    (files.folder / "a.wav").touch()
    assert MediaFiles(files.folder).find("a").name == "a.MP4"


def test_a_folder_without_media_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no media .*\.mp4"):
        MediaFiles(tmp_path)


def test_only_endings_of_media_are_taken_off():
    assert [stem(n) for n in ("a.mp4", "a.b", "1_2.5_3.75_4")] == [
        "a", "a.b", "1_2.5_3.75_4",
    ]  # fmt: skip
