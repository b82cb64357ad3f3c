import json

import pytest

from deemo_jax.refusals import (
    Refusal,
    Rejection,
    check_inside,
    parse_object,
    reject,
    write_rejections,
)


def test_a_refusal_becomes_a_line(tmp_path):
    rejection = reject(Refusal("why", "what"), line=3)
    assert rejection == Rejection(line=3, reason="why", remedy="what")
    write_rejections(tmp_path / "rejected.jsonl", [rejection])
    written = json.loads((tmp_path / "rejected.jsonl").read_text())
    assert written == {"line": 3, "reason": "why", "remedy": "what"}
    assert [path.name for path in tmp_path.iterdir()] == ["rejected.jsonl"]


@pytest.mark.parametrize("line", [b"[]", b"1", b'{"a": 1', b"\xff{}", b'{"a":1,"a":1}'])
def test_what_is_no_object_is_refused(line):
    with pytest.raises(Refusal) as caught:
        parse_object(line)
    assert caught.value.remedy


def test_inside_is_the_resolved_file(tmp_path):
    (tmp_path / "b").touch()
    (tmp_path / "a").symlink_to("b")
    assert check_inside(tmp_path, "a") == (tmp_path / "b").resolve()
