"""A clip's words: written down where nobody did, redacted, and never overwritten."""

import dataclasses

import pytest

from deemo_jax.annotation import Annotation
from deemo_jax.deidentify import redaction, transcript
from deemo_jax.deidentify.settings import Words
from deemo_jax.deidentify.words import check_redactable, installed, reworded
from deemo_jax.media import read_audio
from deemo_jax.refusals import Refusal

NOTHING = dict.fromkeys((*redaction.TYPES, "transcribed"), 0)


def annotation(**fields) -> Annotation:
    return Annotation(clip_id="a", media="a.mp4", subject="s", **fields)


def test_a_voice_is_written_down_and_the_names_are_not(speech_file):
    waveform = read_audio(speech_file, 13.0, 22.0)
    assert waveform is not None
    told = []
    raw = transcript.transcribe(waveform)
    about, counts = reworded(annotation(), [waveform], Words(), progress=told.append)
    assert about.transcript is not None
    for name in ("Sheila", "New Jersey", "Texas", "Chicago"):
        assert name in raw
        assert name not in about.transcript
    assert "originally from [PLACE]" in about.transcript
    assert counts["transcribed"] == 1
    assert counts["NAME"] + counts["PLACE"] >= 4
    assert told[-1] == 9.0
    kept = reworded(annotation(), [waveform], Words(redact=False))[0]
    assert kept.transcript == raw


@pytest.mark.parametrize("given", ["Priya won.", ""])
def test_a_transcript_that_was_given_is_never_overwritten(speech, given):
    about, counts = reworded(
        annotation(transcript=given), [speech], Words(redact=False)
    )
    assert about.transcript == given
    assert counts == NOTHING


def test_transcript_and_reasoning_are_redacted_and_labels_are_not():
    raw = annotation(
        transcript="Thank you Priya!",
        reasoning="She smiles when Priya is named in Paris.",
        emotion="positive",
    )
    about, counts = reworded(raw, [], Words())
    assert about.transcript == "Thank you [NAME]!"
    assert about.reasoning == "She smiles when [NAME] is named in [PLACE]."
    assert about.emotion == "positive"
    assert counts == NOTHING | {"NAME": 2, "PLACE": 1}
    assert reworded(raw, [], Words(redact=False)) == (raw, NOTHING)


def test_without_voice_or_where_it_is_not_wanted_there_is_no_transcript(speech):
    assert reworded(annotation(), [], Words())[0].transcript is None
    off = Words(transcribe=False)
    assert reworded(annotation(), [speech], off) == (annotation(), NOTHING)


def test_without_the_packages_nothing_is_written_down_and_it_is_told(monkeypatch):
    assert installed(Words()) == (Words(), "")
    monkeypatch.setattr(transcript, "CARRIER", ("no-such-distribution", "model"))
    off, why = installed(Words())
    assert off == Words(transcribe=False)
    assert "Whisper is not installed" in why
    assert installed(off) == (off, "")


def test_what_is_heard_and_could_not_be_redacted_is_not_written_down(monkeypatch):
    monkeypatch.setattr(redaction, "CARRIER", ("no-such-distribution", "model"))
    off, why = installed(Words())
    assert (off.transcribe, off.redact) == (False, True)
    assert "the model is not installed" in why
    assert installed(Words(redact=False)) == (Words(redact=False), "")


def test_a_model_that_is_named_must_be_there(tmp_path):
    with pytest.raises(ValueError, match="holds no CTranslate2 weights"):
        installed(Words(model=str(tmp_path)))
    with pytest.raises(ValueError, match="spaCy has no pipeline"):
        installed(Words(redactor="en_none"))


def test_words_that_cannot_be_redacted_are_refused(monkeypatch):
    said = annotation(transcript="Thank you Priya!")
    check_redactable(said, Words())
    monkeypatch.setattr(redaction, "CARRIER", ("no-such-distribution", "model"))
    with pytest.raises(Refusal, match="its words cannot be redacted") as refused:
        check_redactable(said, Words())
    assert "--config.words.redact=False" in refused.value.remedy
    with pytest.raises(Refusal):
        check_redactable(annotation(reasoning="She smiles."), Words())
    check_redactable(annotation(), Words())
    check_redactable(said, dataclasses.replace(Words(), redact=False))
