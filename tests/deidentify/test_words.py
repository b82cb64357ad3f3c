"""A clip's words: written down where nobody did, redacted, and never overwritten."""

import numpy as np
import pytest

from deemo_jax.annotation import Annotation
from deemo_jax.deidentify import redaction, transcript
from deemo_jax.deidentify.settings import Voice, Words
from deemo_jax.deidentify.voice import another_voice, silent
from deemo_jax.deidentify.words import (
    COUNTS,
    check_installed,
    reworded,
)
from deemo_jax.media import read_audio

NOTHING = dict.fromkeys(COUNTS, 0)


def annotation(**fields) -> Annotation:
    return Annotation(clip_id="a", media="a.mp4", subject="s", **fields)


def test_a_voice_is_written_down_and_the_names_are_not(speech_file):
    waveform = read_audio(speech_file, 13.0, 22.0)
    assert waveform is not None
    told = []
    raw = transcript.transcribe(waveform)
    about, counts, silenced = reworded(
        annotation(), [waveform], Words(), progress=told.append
    )
    assert about.transcript is not None
    for name in ("Sheila", "New Jersey", "Texas", "Chicago"):
        assert name in raw
        assert name not in about.transcript
    assert "originally from [PLACE]" in about.transcript
    assert counts["transcribed"] == 1
    assert counts["NAME"] + counts["PLACE"] >= 4
    assert told[-1] == 9.0
    names = {"Sheila", "New", "Jersey", "Texas", "Chicago"}
    assert names <= {word.text.strip(".,") for word in silenced}
    assert counts["silenced"] == len(silenced) < len(raw.split()) / 2
    kept = reworded(annotation(), [waveform], Words(redact=False))[0]
    assert kept.transcript == raw


@pytest.mark.parametrize("given", ["Priya won.", ""])
def test_a_transcript_that_was_given_is_never_overwritten(speech, given):
    about, counts, silenced = reworded(
        annotation(transcript=given), [speech], Words(redact=False)
    )
    assert about.transcript == given
    assert (counts, silenced) == (NOTHING, [])


def test_names_are_silenced_whoever_wrote_the_words_down(speech_file):
    """They are heard, so that they are no more so in the transcript that was given."""
    waveform = read_audio(speech_file, 13.0, 16.0)
    assert waveform is not None
    about, counts, silenced = reworded(
        annotation(transcript="I am Sheila."), [waveform, waveform], Words()
    )
    assert about.transcript == "I am [NAME]."
    assert counts["transcribed"] == 0
    said = [word for word in silenced if word.text.strip(",.") == "Sheila"]
    assert [word.start for word in said] == pytest.approx([2.0, 5.0], abs=0.3)
    off = Words(silence=False)
    given = annotation(transcript="I am Sheila.")
    assert reworded(given, [waveform], off)[2] == []


@pytest.mark.parametrize(
    ("text", "silenced", "mostly"),
    [
        ("das ist ein schöner Tag und ich gehe nach Hause", 10, 1),
        ("John Smith, Mary Jones, Paul Brown and Anna White.", 8, 1),
        ("My number is 0 7 9 4 6 0 1 2 3 4.", 10, 1),
        ("I am Sheila and I won it", 1, 0),
    ],
)
def test_what_is_silenced_nearly_whole_is_told(monkeypatch, text, silenced, mostly):
    """It may be of another language, or tell nearly nothing but names."""
    words = [transcript.Word(word, i, i + 0.5) for i, word in enumerate(text.split())]
    monkeypatch.setattr(transcript, "spoken_words", lambda *_, **__: words)
    _, counts, found = reworded(annotation(transcript=""), [], Words())
    assert (len(found), counts["silenced"]) == (silenced, silenced)
    assert counts["mostly_silenced"] == mostly


def test_what_is_too_fast_to_be_said_is_silenced(monkeypatch):
    words = [transcript.Word("We", 0.0, 0.5), transcript.Word("", 0.5, 0.6)]
    monkeypatch.setattr(transcript, "spoken_words", lambda *_, **__: words)
    about, _, found = reworded(annotation(), [], Words())
    assert (about.transcript, found) == ("We", words[1:])


def test_transcript_and_reasoning_are_redacted_and_labels_are_not():
    raw = annotation(
        transcript="Thank you Priya!",
        reasoning="She smiles when Priya is named in Paris.",
        emotion="positive",
    )
    about, counts, _ = reworded(raw, None, Words())
    assert about.transcript == "Thank you [NAME]!"
    assert about.reasoning == "She smiles when [NAME] is named in [PLACE]."
    assert about.emotion == "positive"
    assert counts == NOTHING | {"NAME": 2, "PLACE": 1}
    assert reworded(raw, None, Words(redact=False)) == (raw, NOTHING, [])


def test_without_voice_or_where_it_is_not_wanted_there_is_no_transcript(speech):
    assert reworded(annotation(), None, Words())[0].transcript is None
    off = Words(transcribe=False, silence=False)
    assert reworded(annotation(), [speech], off) == (annotation(), NOTHING, [])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (Words(), "no voice can be listened to: Whisper is not installed: pip install"),
        (Words(transcribe=False), "no voice can be listened to"),
        (Words(silence=False), "no voice can be listened to"),
        (Words(transcribe=False, redact=False), None),
        (Words(transcribe=False, silence=False), None),
    ],
)
def test_without_whisper_nobody_is_left_unheard(monkeypatch, words, why):
    """Unless that is what was asked for."""
    check_installed(words)
    monkeypatch.setattr(transcript, "CARRIER", ("no-such-distribution", "model"))
    if why is None:
        check_installed(words)
        return
    with pytest.raises(ValueError, match=why) as refused:
        check_installed(words)
    assert "--config.words.silence=False" in str(refused.value)


def test_without_a_redactor_nothing_is_to_be_redacted(monkeypatch):
    monkeypatch.setattr(redaction, "CARRIER", ("no-such-distribution", "model"))
    check_installed(Words(redact=False))
    with pytest.raises(ValueError, match="no words can be redacted: the model is not"):
        check_installed(Words(transcribe=False, silence=False))


def test_a_model_that_is_named_must_be_there(tmp_path):
    with pytest.raises(ValueError, match="holds no CTranslate2 weights"):
        check_installed(Words(model=str(tmp_path)))
    with pytest.raises(ValueError, match="spaCy has no pipeline"):
        check_installed(Words(redactor="en_none"))


@pytest.mark.parametrize(
    ("given", "silenced", "unmatched"),
    [
        # Heard as another word; as two; as they are, beside others that are not.
        ("I am Sheila from Texas and I won it", {"Sheila", "text"}, 0),
        ("I am Sheila from Waterloo and I won it", {"Sheila", "text"}, 0),
        ("I am Sheila from Texas, Friday, and I won it", {"Sheila", "text"}, 0),
        # What else was said is not heard, so that nobody knows where a name may be.
        ("I am Sheila from text and I won it in Paris", {"Sheila"}, 1),
        ("I am Sheila from [PLACE] and I won it", {"Sheila", "text"}, 0),
        # A marked name is not what is heard as "name", and neither is a place.
        ("I am [NAME] from [PLACE] and I won it", {"Sheila", "text"}, 0),
        ("I am Sheila from\n\ntext and I [NUMBER] it", {"Sheila", "won"}, 0),
        ("So am I", {"Sheila"}, 0),
        ("", {"Sheila"}, 0),
        # Case and marks say nothing of what is heard.
        ('i AM, (SHEILA)! from "text" -- and i won it.', {"Sheila"}, 0),
        # Neither of the two is heard, nor in another place.
        ("I am Sheila from text and I won it in New Jersey", {"Sheila"}, 2),
        # Said in another place than it is written.
        ("I am from text, and I won it, Sheila", {"Sheila"}, 1),
    ],
)
def test_names_of_a_transcript_are_silenced_however_they_are_heard(
    monkeypatch, given, silenced, unmatched
):
    text = "I am Sheila from text and I won it"
    words = [transcript.Word(word, i, i + 0.5) for i, word in enumerate(text.split())]
    monkeypatch.setattr(transcript, "spoken_words", lambda *_, **__: words)
    _, counts, found = reworded(annotation(transcript=given), [], Words())
    assert {word.text for word in found} == silenced
    assert (counts["silenced"], counts["unmatched"]) == (len(silenced), unmatched)
    kept = reworded(annotation(transcript=given), [], Words(silence=False))
    assert (kept[1]["unmatched"], kept[2]) == (0, [])


def test_a_name_that_was_told_is_silenced_wherever_it_is_heard(monkeypatch):
    """If nothing else is written so."""
    heard = "thank you grace for it we all like grace and will you come will"
    words = [transcript.Word(word, i, i + 0.5) for i, word in enumerate(heard.split())]
    monkeypatch.setattr(transcript, "spoken_words", lambda *_, **__: words)
    given = "Thank you, Grace, for it. Will you come, Will Smith?"
    _, _, found = reworded(annotation(transcript=given), [], Words())
    assert [word.start for word in found if word.text == "grace"] == [2.0, 8.0]
    assert [word.start for word in found if word.text == "will"] == [13.0]


@pytest.mark.parametrize(
    ("given", "heard", "silenced"),
    [
        ("In [PLACE] to play we won", "in tech sauce a great place to play we won",
         "tech sauce a great place"),
        ("The coach of [NAME] and we won", "the coach of shy name and we won",
         "shy name"),
        ("Thank you, Grace's shop, we all like it", "we all like grace a lot", "grace"),
        ("The Bank of America is gold, and her",
         "the bank of america is gold and the end of her", "bank of america"),
    ],
)  # fmt: skip
def test_marks_and_parts_of_names_are_no_words(monkeypatch, given, heard, silenced):
    """A placeholder is not heard; "'s" and "of" are no name."""
    words = [transcript.Word(word, i, i + 0.5) for i, word in enumerate(heard.split())]
    monkeypatch.setattr(transcript, "spoken_words", lambda *_, **__: words)
    _, _, found = reworded(annotation(transcript=given), [], Words())
    told = [word.text for word in found]
    assert set(silenced.split()) <= set(told)
    assert told.count("of") == silenced.split().count("of")


def test_lines_of_a_transcript_are_joined_where_it_is_redacted():
    """Or the words that are heard, which have none, would be judged otherwise."""
    about, _, _ = reworded(annotation(transcript="We won\n\n it."), None, Words())
    assert about.transcript == "We won it."
    kept = Words(redact=False)
    about, _, _ = reworded(annotation(transcript="We won\n\n it."), None, kept)
    assert about.transcript == "We won\n\n it."


def test_long_transcripts_are_aligned_by_their_commonest_words(monkeypatch):
    heard = "he said to me that it was text and " * 40
    words = [transcript.Word(word, i, i + 0.5) for i, word in enumerate(heard.split())]
    monkeypatch.setattr(transcript, "spoken_words", lambda *_, **__: words)
    about = annotation(transcript=heard.replace("text", "Sheila"))
    _, counts, found = reworded(about, [], Words())
    assert [word.text for word in found] == ["text"] * 40
    assert counts["unmatched"] == 0


def test_what_is_not_heard_at_all_matches_nothing(monkeypatch):
    """Unless there is no voice."""
    monkeypatch.setattr(transcript, "spoken_words", lambda *_, **__: [])
    said = annotation(transcript="I am Sheila", reasoning="Sheila smiles.")
    assert reworded(said, [], Words())[1]["unmatched"] == 1
    assert reworded(said, None, Words())[1]["unmatched"] == 0


@pytest.mark.parametrize(
    "text",
    ["We met in {} may again", "I have one {} seven", "I am John {} Smith today"],
)
def test_what_cannot_have_been_said_changes_no_sentence(monkeypatch, text):
    """What is redacted in the text is silenced, and nothing is counted twice."""
    texts = [word.replace("{}", "") for word in text.split(" ")]
    words = [transcript.Word(word, i, i + 0.5) for i, word in enumerate(texts)]
    monkeypatch.setattr(transcript, "spoken_words", lambda *_, **__: words)
    about, counts, found = reworded(annotation(), [], Words())
    assert about.transcript is not None
    kept = set(about.transcript.split())
    assert {word.text for word in words} - kept == {word.text for word in found}
    assert counts["silenced"] == len(found) == len(set(found))


@pytest.mark.slow
def test_hardly_a_name_is_heard_after_it_was_silenced(speech_file):
    """The figures of configs/deidentify.md."""
    waveform = read_audio(speech_file)
    assert waveform is not None
    *_, silenced = reworded(annotation(), [waveform], Words())
    text = [word.text for word in transcript.spoken_words(waveform)]
    names = {word.text.strip(".,").lower() for word in silenced}
    names -= {word.strip(".,").lower() for word in text if len(word) < 4}
    names = {name for name in names if len(name) > 3}
    kept = left = 0
    for _ in range(8):
        changed = another_voice(Voice())(waveform)
        for sound, silent_ones in ((changed, []), (changed, silenced)):
            heard = transcript.transcribe(silent(sound, silent_ones, 0.0))
            count = sum(word.strip(".,").lower() in names for word in heard.split())
            kept, left = (kept, left + count) if silent_ones else (kept + count, left)
    share = np.mean(silent(np.ones_like(waveform), silenced, 0.0) == 0)
    print(f"\n{sorted(names)}: {kept} heard, silenced {left}; {share:.0%} are silent")
    assert kept > 4
    assert left <= 2
