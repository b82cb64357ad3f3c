import numpy as np
import pytest

from deemo_jax.annotation import Annotation
from deemo_jax.deidentify import audit_voices
from deemo_jax.deidentify.audit_rates import Rate
from deemo_jax.deidentify.audit_voices import Utterance, voice_rates
from deemo_jax.deidentify.mcadams import mcadams
from deemo_jax.deidentify.settings import Words
from deemo_jax.media import write_audio


@pytest.fixture
def utterances(speech, tmp_path):
    """Real speech as if of three people; anonymised, all but the first's is a hum."""

    def make(*subjects: str, transcript: str | None = None) -> list[Utterance]:
        made = []
        for index, subject in enumerate(subjects):
            piece = speech[8000 * index : 8000 * (index + 3)]
            paths = [tmp_path / f"{index}.{kind}.flac" for kind in ("raw", "new")]
            write_audio(paths[0], piece)
            hum = np.tile(np.array([1e-3, -1e-3], np.float32), len(piece) // 2)
            own = subject == subjects[0]
            write_audio(paths[1], mcadams(piece, 0.8) if own else hum)
            about = Annotation(
                clip_id=f"c{index}", media=paths[0].name, subject=subject,
                transcript=transcript,
            )  # fmt: skip
            made.append(
                Utterance(
                    annotation=about, media=paths[0], audio=paths[1],
                    seconds=len(piece) / 16_000,
                )
            )  # fmt: skip
        return made

    return make


DEFAULT = Words()


def rates(voices, words=DEFAULT, **kwargs) -> dict[tuple[str, str], Rate]:
    return {(r.attack, r.measure): r for r in voice_rates(voices, words, **kwargs)}


@pytest.fixture(autouse=True)
def nothing_is_heard(monkeypatch):
    """Whisper would take noise for words."""
    monkeypatch.setattr(audit_voices, "transcribe", lambda waveform, model: "")


def test_voices_are_attacked_and_the_sample_is_told(utterances):
    """Two seconds a half alike are one person's; what hums is nobody's."""
    done = []
    found = rates(utterances("a", "b", "a", "b"), report=done.append)
    assert done == [1, 2]
    for attack in audit_voices.ATTACKERS:
        eer, top = (found[f"voices, {attack}", m] for m in ("EER", "rank 1"))
        assert (eer.trials, eer.subjects, eer.chance) == (2, 2, 0.5)
        assert (top.trials, top.chance) == (2, 0.5)
        assert eer.value is not None
        assert 0 <= eer.value <= 1
    assert found["voices, ignorant", "rank 1"].value in (0.0, 0.5)
    assert found["words, clear", "word error"].why_not.endswith("has a transcript")


@pytest.mark.parametrize(
    ("subjects", "words"),
    [((), "there are none"), (("a", "a", "b"), "there is 1")],
)
def test_too_few_voices_give_no_rate_but_the_reason(utterances, subjects, words):
    for rate in rates(utterances(*subjects)).values():
        assert rate.value is None
        assert any(
            why in rate.describe()
            for why in (words, "transcript", "is heard in a clip")
        )


def test_without_the_verifier_it_is_said(utterances, monkeypatch):
    def missing():
        raise ValueError("CAM++ is not installed: pip install it")

    monkeypatch.setattr(audit_voices, "SpeakerVerifier", missing)
    found = rates(utterances("a", "b", "a", "b"))
    assert "CAM++ is not installed" in found["voices, lazy", "EER"].describe()


def test_words_are_counted_before_and_after(utterances, monkeypatch):
    """Heard is one of five words otherwise, and nothing of what hums."""

    def hear(waveform, model):
        return "we all won at last" if np.abs(waveform).max() > 0.01 else ""

    monkeypatch.setattr(audit_voices, "transcribe", hear)
    found = rates(utterances("a", "b", transcript="We have won at last."))
    clear, after = (found[f"words, {k}", "word error"] for k in ("clear", "anonymised"))
    assert (clear.value, after.value) == (pytest.approx(0.2), pytest.approx(0.6))
    assert (clear.trials, clear.subjects) == (10, 2)


def test_without_transcripts_the_original_is_listened_to(utterances, monkeypatch):
    """Of two clips one has no words, and says nothing of those of the other."""
    texts = iter(["we have won at last", "we all won at last", "", "thank you"])
    monkeypatch.setattr(audit_voices, "transcribe", lambda waveform, model: next(texts))
    found = rates(utterances("a", "b"))
    assert found["words, clear", "word error"].why_not.endswith("has a transcript")
    after = found["words, anonymised", "word error against the original as heard"]
    assert (after.value, after.trials) == (pytest.approx(0.2), 5)


def test_names_are_no_words_and_those_that_are_still_heard_are_counted(
    utterances, monkeypatch
):
    """Of two clips, in one of which a name is heard as before."""
    clear = "I am Sheila and I won in Paris"
    texts = iter([clear, "I am Sheila and I won in", clear, "I am and I won in"])
    monkeypatch.setattr(audit_voices, "transcribe", lambda waveform, model: next(texts))
    found = rates(utterances("a", "b"))
    names = found["words, names and numbers", "still heard"]
    assert (names.value, names.trials) == (0.25, 4)
    after = found["words, anonymised", "word error against the original as heard"]
    assert (after.value, after.trials) == (0.0, 12)


def test_names_of_a_transcript_are_counted_as_they_are_heard(utterances, monkeypatch):
    """What stands alone is no name to the redactor; the transcript says that it is."""
    texts = iter(["thank you rose", "thank you rose"])
    monkeypatch.setattr(audit_voices, "transcribe", lambda waveform, model: next(texts))
    given = "Thank you, Rose and Sheila Sharma!"
    names = rates(utterances("a", transcript=given))[
        "words, names and numbers", "still heard"
    ]
    assert (names.value, names.trials) == (1.0, 1)


def test_words_are_heard_and_names_known_by_those_of_the_settings(
    utterances, monkeypatch, tmp_path
):
    """A redactor that takes "won" for a name, and nothing else."""
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    pipeline.add_pipe("entity_ruler", name="ner").add_patterns(
        [{"label": "PERSON", "pattern": "won"}]
    )
    pipeline.to_disk(tmp_path / "redactor")
    models = []

    def hear(waveform, model):
        models.append(model)
        return "we won in Paris" if len(models) % 2 else "we won in Rome"

    monkeypatch.setattr(audit_voices, "transcribe", hear)
    words = Words(model="whisper", redactor=str(tmp_path / "redactor"))
    found = rates(utterances("a", "b"), words)
    assert models == ["whisper"] * 4
    names = found["words, names and numbers", "still heard"]
    assert (names.value, names.trials) == (1.0, 2)
    after = found["words, anonymised", "word error against the original as heard"]
    assert (after.value, after.trials) == (pytest.approx(1 / 3), 6)


def test_of_long_clips_the_beginning_is_heard_and_words_are_not_compared(
    utterances, monkeypatch
):
    monkeypatch.setattr(audit_voices, "LISTENED", 0.75)
    monkeypatch.setattr(audit_voices, "TOLD", 1.0)
    monkeypatch.setattr(audit_voices, "transcribe", None)  # it comes to none
    lengths = set()

    class Verifier(audit_voices.SpeakerVerifier):
        def __call__(self, waveform):
            lengths.add(len(waveform))
            return super().__call__(waveform)

    monkeypatch.setattr(audit_voices, "SpeakerVerifier", Verifier)
    found = rates(utterances("a", "b", "a", "b", transcript="We have won at last."))
    assert found["voices, lazy", "EER"].value is not None
    assert found["words, clear", "word error"].why_not.startswith("no clip with a voi")
    # Blind inversion shortens and lengthens what it tries.
    assert 12_000 in lengths
    assert max(lengths) < 20_000
