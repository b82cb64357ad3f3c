"""The tables of voices in configs/deidentify.md, measured on real speech.

    python -m pytest -m slow -n 0 -s tests/deidentify/test_voices_measured.py

needs Debian's asterisk-core-sounds-{en,fr,it,ru}-g722 and pocketsphinx-testdata. Each
of the four speakers speaks another language, which helps an attacker.
"""

import itertools
from pathlib import Path
import random
import time

import av
import numpy as np
import pytest

from deemo_jax.architecture import SAMPLE_RATE
from deemo_jax.deidentify.attackers import Inverses, attack_voices
from deemo_jax.deidentify.inverses import inverses
from deemo_jax.deidentify.settings import Audit, Voice
from deemo_jax.deidentify.speakers import SpeakerVerifier
from deemo_jax.deidentify.transcript import speech_in, transcribe, word_errors
from deemo_jax.deidentify.vocoder import take_apart
from deemo_jax.deidentify.voice import another_voice
from deemo_jax.media import read_audio

SPEECH = Path("/usr/share/asterisk/sounds")
SPEAKERS = "en_US_f_Allison", "fr_CA_f_June", "it_IT_m_Carlo", "ru_RU_f_IvrvoiceRU"
READ = Path("/usr/share/pocketsphinx/test/data/librivox")
UTTERANCES, ENROLMENT = 16, 6  # of a speaker
SECONDS = 2, 4  # of an utterance
BYTES = 8000  # of a second in G.722
DRAWS = 16  # times that the read sentences are anonymised
VOICE_DRAWS = 4  # times that an utterance is, to be attacked and compared with itself

VOICES = {
    "McAdams, 0.8": Voice(method="mcadams", coefficients=(0.8, 0.8)),
    "McAdams, 0.5 to 0.9": Voice(method="mcadams"),
    "drift": Voice(method="drift"),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (SPEECH / SPEAKERS[-1]).exists() or not READ.exists(),
        reason="Debian's recordings are not installed",
    ),
]


def decoded(path: Path) -> np.ndarray:
    """A file of bare G.722, of which no container tells so."""
    with av.open(str(path), format="g722") as file:
        frames = [frame.to_ndarray()[0] for frame in file.decode(audio=0)]
    return (np.concatenate(frames) / 2.0**15).astype(np.float32)


@pytest.fixture(scope="module")
def clear() -> dict[str, list[np.ndarray]]:
    chosen = {}
    for speaker in SPEAKERS:
        low, high = (seconds * BYTES for seconds in SECONDS)
        paths = [
            path
            for path in sorted((SPEECH / speaker).rglob("*.g722"))
            if low <= path.stat().st_size <= high and "silence" not in path.parts
        ]
        paths = random.Random(0).sample(paths, UTTERANCES)
        chosen[speaker] = [decoded(path) for path in paths]
    return chosen


@pytest.fixture(scope="module")
def sentences() -> list[tuple[str, np.ndarray]]:
    found = []
    for line in (READ / "transcription").read_text().splitlines():
        words, _, name = line.replace("<s>", "").partition("</s>")
        waveform = read_audio(READ / f"{name.strip(' ()')}.wav")
        assert waveform is not None
        found.append((words, waveform))
    return found


def prosody(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Correlations of the logarithms of pitch and power over frames voiced in both."""
    one, other = take_apart(before), take_apart(after)
    voiced = (one.pitch > 0) & (other.pitch > 0)
    return (
        np.corrcoef(np.log(one.pitch[voiced]), np.log(other.pitch[voiced]))[0, 1],
        np.corrcoef(one.power[voiced], other.power[voiced])[0, 1],
    )


def row(name: str, clear: dict, sentences: list) -> dict[str, float]:
    """What the table says of one method."""
    voice = VOICES[name]
    wrong = total = 0
    for words, wave in sentences * DRAWS:
        errors, count = word_errors(words, transcribe(another_voice(voice)(wave)))
        wrong, total = wrong + errors, total + count
    print(f"\n{name}: {wrong} of {total} words are wrong", flush=True)
    draws = [measured(voice, clear) for _ in range(VOICE_DRAWS - 1)]
    draws.append(measured(voice, clear, inverses))  # which takes as long as ten others
    found = {key: float(np.mean([draw[key] for draw in draws])) for key in draws[0]}
    inverted = (key for key in found if key.startswith("blind inversion"))
    found |= {key: draws[-1][key] for key in inverted}
    found["word error"] = wrong / total
    print(f"{name}: {found}", flush=True)
    return found


def measured(
    voice: Voice, clear: dict, inverses: Inverses = lambda wave: [wave]
) -> dict[str, float]:
    """Attacks on one draw of every utterance, its prosody, and how long it took."""
    begin = time.process_time()
    changed = {
        speaker: [another_voice(voice)(wave) for wave in waves]
        for speaker, waves in clear.items()
    }
    spent = time.process_time() - begin
    seconds = sum(len(wave) for waves in clear.values() for wave in waves) / SAMPLE_RATE
    courses = [
        prosody(before, after)
        for speaker in clear
        for before, after in zip(clear[speaker], changed[speaker], strict=True)
    ]
    pitch, power = np.median(courses, axis=0)
    found = {"speed": seconds / spent, "pitch": pitch, "power": power}
    attacks = attack_voices(
        clear,
        changed,
        enrolment=ENROLMENT,
        embed=SpeakerVerifier(),
        inverses=inverses,
    )
    for attacker, linking in attacks.items():
        found[attacker], found[f"{attacker}, top 1"] = linking.eer, linking.top1
    print({key: round(float(value), 3) for key, value in found.items()}, flush=True)
    return found


@pytest.mark.parametrize("name", ["McAdams, 0.8", "McAdams, 0.5 to 0.9"])
def test_mcadams_is_quick_and_undone(name, clear, sentences):
    found = row(name, clear, sentences)
    assert found["clear"] < 0.02
    assert found["blind inversion"] < 0.15
    assert found["speed"] > 50


def test_drift_withstands_who_inverts_it(clear, sentences):
    found = row("drift", clear, sentences)
    # Measured: 0.38 (15 draws of 40 trials), 0.3 (three), 0.24 of 4,544 words.
    assert found["lazy"] > 0.3
    assert found["blind inversion"] > 0.2
    assert found["word error"] < 0.3
    assert found["pitch"] > 0.9
    assert found["power"] > 0.9


def test_an_unchanged_voice_is_more_like_itself_than_the_threshold(clear, speech_file):
    """The table of likeness: cosines of CAM++, quantiles of each kind of pair."""
    embed = SpeakerVerifier()
    waveform = read_audio(speech_file)
    assert waveform is not None
    parts = np.split(waveform[8 * SAMPLE_RATE :], range(64_000, 352_000, 64_000))
    call = [(part, speech_in(part)) for part in parts]
    before = {name: [embed(wave) for wave in waves] for name, waves in clear.items()}
    found = {
        "same speaker": [
            one @ other
            for voices in before.values()
            for one, other in itertools.combinations(voices, 2)
        ],
        "other speakers": [
            one @ other
            for a, b in itertools.combinations(before, 2)
            for one, other in itertools.product(before[a], before[b])
        ],
    }
    for method, voice in VOICES.items():
        found[method] = [
            one @ embed(another_voice(voice)(wave))
            for name, waves in clear.items()
            for one, wave in zip(before[name], waves, strict=True)
            for _ in range(VOICE_DRAWS)
        ]
    found["drift, of a call"] = [
        one @ embed(np.concatenate([changed[span] for span in spoken]))
        for part, spoken in call
        for one in [embed(np.concatenate([part[span] for span in spoken]))]
        for changed in (another_voice(Voice())(part) for _ in range(12))
    ]
    threshold = Audit().voice
    for kind, cosines in found.items():
        shares = np.quantile(cosines, [0, 0.05, 0.5, 0.95, 1]).round(2).tolist()
        above = float(np.mean(np.array(cosines) > threshold))
        print(f"{kind}: {len(cosines)} pairs, {shares}, {above:.1%} above {threshold}")
    assert np.mean(np.array(found["same speaker"]) > threshold) > 0.98
    assert np.mean(np.array(found["other speakers"]) > threshold) < 0.01
    assert np.mean(np.array(found["drift"]) > threshold) < 0.02
    assert np.mean(np.array(found["drift, of a call"]) > threshold) < 0.4
