import base64
import json
import re

import pytest

from deemo_jax.annotation import Annotation
from deemo_jax.clip import DeidentifiedClip
from deemo_jax.deidentify.audit import Audited, Figures
from deemo_jax.deidentify.audit_pictures import Picture
from deemo_jax.deidentify.audit_rates import Rate
from deemo_jax.deidentify.audit_report import SHOWN, percent, write_html, write_json
from deemo_jax.deidentify.settings import Audit
from deemo_jax.deidentify.verdicts import judged

RATES = [
    Rate(attack="faces, naive", measure="rank 1", value=0.25, trials=8, subjects=4,
         chance=0.25),
    Rate(attack="faces, parrot", measure="rank 1", why_not="it takes two subjects"),
]  # fmt: skip
PICTURE = Picture(time=1.5, about="a face is left", masked=b"MASKED", original=b"CLEAR")


def pair(clip_id: str, **changes) -> tuple[DeidentifiedClip, Audited]:
    figures = Figures(
        longest_side=960, every=3, frames=50, looked=17, frames_with_face=40, faces=44,
        compared=4, voice=0.21, nearest=0.7, distance=0.75, pixels_altered=0.2,
        **changes,
    )  # fmt: skip
    clip = DeidentifiedClip(
        annotation=Annotation(clip_id=clip_id, media="a.mp4", subject="<b>p07</b>"),
        video=None, audio=None, sha256={}, deidentification="centerface/1",
        verdict="unaudited", faces={},
    )  # fmt: skip
    audited = Audited(
        clip_id=clip_id, subject="<b>p07</b>", figures=figures, pictures=(PICTURE,)
    )
    return judged(clip, figures, Audit()), audited


SEEN = [pair("fine"), pair("bad", faces_left=3, gap_frames=3, gap_start=0.5)]


def page(tmp_path, seen=SEEN, **how) -> str:
    write_html(tmp_path / "report.html", seen, RATES, Audit(), **how)
    return (tmp_path / "report.html").read_text()


def text_of(html: str) -> str:
    body = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def test_every_rate_stands_beside_the_size_of_its_sample(tmp_path):
    text = text_of(page(tmp_path))
    assert "faces, naive rank 1 25 % 25 % 8 4" in text
    assert "faces, parrot rank 1 not measured: it takes two subjects" in text
    assert "1 of 2 clips failed" in text
    assert "100 frames · 1 subjects" in text
    assert "3 of 44" in text
    assert "17 of 50" in text
    assert "likeness of the voice 0.21" in text
    assert "or a voice that is more like its original's than 0.5" in text
    assert "no claim of anonymity" in text


def test_clips_that_failed_come_first_with_reasons(tmp_path):
    text = text_of(page(tmp_path))
    assert text.index("bad failed") < text.index("fine passed")
    assert "no mask is on a face for 3 frames, 0.00 s from 0.50 s on" in text


def test_it_is_one_file_that_runs_and_fetches_nothing(tmp_path):
    html = page(tmp_path)
    assert "<script" not in html
    assert not re.search(r"https?://", html)
    assert "default-src 'none'" in html
    assert "<b>p07" not in html


@pytest.mark.parametrize("show", [False, True])
def test_pictures_of_clips_that_failed_are_shown_only_if_asked(tmp_path, show):
    html = page(tmp_path, [pair("bad", faces_left=3)], show_originals=show)
    assert (base64.b64encode(b"MASKED").decode() in html) == show


@pytest.mark.parametrize("show", [False, True])
def test_faces_as_they_were_are_shown_only_if_asked(tmp_path, show):
    html = page(tmp_path, [pair("fine")], show_originals=show)
    assert base64.b64encode(b"MASKED").decode() in html
    assert (base64.b64encode(b"CLEAR").decode() in html) == show


def test_of_many_clips_some_are_shown(tmp_path):
    text = text_of(page(tmp_path, [pair(f"clip{i}") for i in range(SHOWN + 5)]))
    assert text.count("passed") >= SHOWN
    assert f"clip{SHOWN}" not in text
    assert "5 more clips stand in" in text


def test_no_clip_is_no_fault(tmp_path):
    assert "0 of 0 clips failed" in text_of(page(tmp_path, [], rejected=2))


def test_the_json_holds_every_figure_and_no_embedding(tmp_path):
    write_json(tmp_path / "audit.json", SEEN, RATES, Audit())
    found = json.loads((tmp_path / "audit.json").read_text())
    assert found["verdicts"] == {"passed": 1, "failed": 1, "unaudited": 0}
    assert found["subjects"] == 1
    assert found["rates"][0]["trials"] == 8
    assert found["clips"][1]["faces_left"] == 3
    assert found["clips"][1]["reasons"][0] == "3 of 44 faces are left"
    assert found["thresholds"]["faces_left"] == 0
    assert "clear" not in found["clips"][0]


def test_percent():
    assert (percent(0.255), percent(None)) == ("26 %", "–")
