"""Lengths are counted once, and again when what they follow from has changed."""

import pytest

from deemo_jax.data.lengths import token_lengths


@pytest.fixture
def count():
    class Counter:
        calls = 0

        def __call__(self, i):
            self.calls += 1
            return [10 * i + 1, i]

    return Counter()


def test_they_are_counted_once(tmp_path, count):
    for _ in range(2):
        found = token_lengths(tmp_path, key=["a"], clips=["x", "y", "z"], count=count)
        assert found.tolist() == [[1, 0], [11, 1], [21, 2]]
    assert count.calls == 3


@pytest.mark.parametrize(
    ("key", "clips"), [(["b"], ["x", "y"]), (["a"], ["y", "x"]), (["a"], ["x"])]
)
def test_another_tokenizer_or_other_clips_are_counted_anew(tmp_path, count, key, clips):
    token_lengths(tmp_path, key=["a"], clips=["x", "y"], count=count)
    token_lengths(tmp_path, key=key, clips=clips, count=count)
    assert count.calls == 2 + len(clips)


@pytest.mark.parametrize("harm", ["", "[1", "[1, 11]", "{}", "digit"])
def test_a_damaged_file_is_written_again(tmp_path, count, harm):
    token_lengths(tmp_path, key=["a"], clips=["x", "y"], count=count)
    [path] = tmp_path.iterdir()
    written = path.read_text()
    path.write_text(harm if harm != "digit" else written.replace("11", "12"))
    found = token_lengths(tmp_path, key=["a"], clips=["x", "y"], count=count)
    assert found.tolist() == [[1, 0], [11, 1]]
    assert count.calls == 4
    assert path.read_text() == written


def test_where_nothing_can_be_written_they_are_counted_each_time(
    tmp_path, count, capsys
):
    (tmp_path / "file").write_text("no folder")
    for _ in range(2):
        found = token_lengths(tmp_path / "file", key=[], clips=["x"], count=count)
        assert found.tolist() == [[1, 0]]
    assert count.calls == 2
    assert "counted each time" in capsys.readouterr().out
