"""Generates a corpus whose emotion shows only to those who see, hear and read it.

A clip of 3 seconds shows an upper body whose head is masked. It carries three cues,
each graded -3, -1, +1 or +3, independent of each other, of the subject, of the split:

    grade   gesture (video)              pitch and loudness (audio)     words (text)
    +3      illustrative hand gestures   +12 semitones, +18 dB          delighted
    +1      arms akimbo                   +4 semitones,  +6 dB          content
    -1      folding arms                  -4 semitones,  -6 dB          weary
    -3      covering face                -12 semitones, -18 dB          bitter

**The rule**: the emotion is positive where the three grades sum to more than 0, else
negative (three odd numbers never sum to 0). All 64 combinations are dealt equally
often, so half of the clips are positive. The best accuracy that some cues allow:

    none 50 %    any one 71.875 %    any two 78.125 %    all three 100 %

There is no person in it, hence nothing to de-identify: the clips say "generated" where
others say how they were treated. Which gesture is how positive is this corpus's own
convention, not a finding about people.
"""

from collections.abc import Callable, Iterable, Iterator
import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import os
from pathlib import Path

import numpy as np

from deemo_jax.annotation import (
    Annotation,
    Interval,
    load_taxonomy,
    write_annotations,
    write_taxonomy,
    write_whole,
)
from deemo_jax.clip import (
    MANIFEST,
    DeidentifiedClip,
    append_deidentified,
    file_digest,
    read_deidentified,
)
from deemo_jax.data.synthetic_figure import FPS, draw_figure, gesture_frames
from deemo_jax.data.synthetic_voice import draw_speaker, speak
from deemo_jax.data.synthetic_words import explain, say
from deemo_jax.media import write_audio, write_video

Progress = Callable[[str, int, int | None], None]

VERSION = "generated/2"  # another one wherever the same seed gives other clips
SECONDS = 3.0
GRADES = (-3, -1, 1, 3)
GESTURES = {
    3: "illustrative hand gestures",
    1: "arms akimbo",
    -1: "folding arms",
    -3: "covering face",
}
CUES = ("video", "audio", "text")  # the modality that carries the gesture, voice, words


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What one clip is to be, before anything is drawn: a pure function of the seed."""

    seed: int
    split: str
    index: int
    subject: int
    gesture: int
    voice: int
    words: int

    @property
    def clip_id(self) -> str:
        """Names its files; says nothing of the cues."""
        return f"{self.split}-{self.index:05d}"

    @property
    def emotion(self) -> str:
        """By the rule."""
        return emotion_of(self.gesture, self.voice, self.words)

    @property
    def source(self) -> str:
        """Digest of all that determines the clip."""
        fields = json.dumps([VERSION, dataclasses.astuple(self)])
        return hashlib.sha256(fields.encode()).hexdigest()


def emotion_of(*grades: int) -> str:
    """The rule: `positive` where the grades sum to more than 0, else `negative`."""
    return "positive" if sum(grades) > 0 else "negative"


def best_accuracy(subset: Iterable[str]) -> float:
    """The best accuracy in recognition for who perceives only a subset of the cues.

    It is computed by enumeration: for each combination of the grades perceived, the
    emotion is guessed that more of the unperceived ones lead to.

    Args:
        subset: of "video" (gesture), "audio" (voice), "text" (words); may be empty.

    Raises:
        ValueError: a name is none of these.
    """
    subset = set(subset)
    if unknown := subset - set(CUES):
        raise ValueError(
            f"{sorted(unknown)} are no modalities: name some of {', '.join(CUES)}"
        )
    hidden = len(CUES) - len(subset)
    right = 0
    for seen in itertools.product(GRADES, repeat=len(subset)):
        emotions = [
            emotion_of(*seen, *unseen)
            for unseen in itertools.product(GRADES, repeat=hidden)
        ]
        right += max(emotions.count(emotion) for emotion in set(emotions))
    return right / len(GRADES) ** len(CUES)


def card() -> str:
    """What a data set's card says of this corpus: the rule and what it allows."""
    bounds = "\n".join(
        f"| {' + '.join(subset) or 'none'} | {best_accuracy(subset):.5f} |"
        for size in range(len(CUES) + 1)
        for subset in itertools.combinations(CUES, size)
    )
    return f"""\
Generated clips ({VERSION}): no person was recorded. Each shows a drawn upper body
whose head is masked, and carries three cues graded -3, -1, +1 or +3: a gesture
(covering face, folding arms, arms akimbo, illustrative hand gestures), a voice (pitch
and loudness fall strongly, fall slightly, rise slightly, rise strongly) and words
(bitter, weary, content, delighted). The cues are independent of each other, of the
subject and of the split.

The rule: the emotion is positive where the three grades sum to more than 0, else
negative. Half of the clips are positive. Which cue is how positive is a convention of
this corpus, not a finding about people.

The best accuracy that a subset of the cues allows, by enumeration:

| perceived | best accuracy |
|---|---|
{bounds}
"""


def plan_corpus(
    *,
    seed: int,
    train_clips: int,
    test_clips: int,
    train_subjects: int,
    test_subjects: int,
) -> list[Plan]:
    """Deals the cues to the clips, and the clips to subjects of their split alone.

    The 64 combinations are dealt from shuffled decks. What is left over after whole
    decks is dealt in pairs of opposite combinations: the emotions stay balanced.

    Raises:
        ValueError: a count is below 1, or there are more subjects than clips.
    """
    plans = []
    sizes = (
        ("train", train_clips, train_subjects),
        ("test", test_clips, test_subjects),
    )
    for number, (split, clips, subjects) in enumerate(sizes):
        if not 1 <= subjects <= clips:
            raise ValueError(
                f"{clips} {split} clips of {subjects} subjects: "
                "give at least one subject, and at least a clip for each"
            )
        rng = np.random.default_rng([seed, number])
        deck = list(itertools.product(GRADES, repeat=len(CUES)))
        dealt: list[tuple[int, ...]] = []
        while len(dealt) + len(deck) <= clips:
            dealt += [deck[i] for i in rng.permutation(len(deck))]
        pairs = [
            (g, tuple(-x for x in g)) for g in deck if emotion_of(*g) == "positive"
        ]
        rest = [grades for i in rng.permutation(len(pairs)) for grades in pairs[i]]
        dealt += rest[: clips - len(dealt)]
        first = number * train_subjects  # nobody is in both splits
        for index, grades in enumerate(dealt):
            gesture, voice, words = grades
            plans.append(
                Plan(
                    seed=seed,
                    split=split,
                    index=index,
                    subject=first + index % subjects,
                    gesture=gesture,
                    voice=voice,
                    words=words,
                )
            )
    return plans


def generate_corpus(
    folder: Path,
    *,
    seed: int,
    train_clips: int,
    test_clips: int,
    train_subjects: int,
    test_subjects: int,
    progress: Progress | None = None,
    threads: int | None = None,
) -> list[DeidentifiedClip]:
    """Writes a de-identified folder as `deemo deidentify` would, and its card.

    The same arguments give the same files, whatever the number of threads. Interrupted
    and called again, it goes on: a clip listed in `deidentified.jsonl` whose files are
    as they were written is kept. The folder also gets a `salt.txt` that follows from
    the seed, since these subjects have no names to protect.

    Args:
        folder: made if it is not there.
        seed: of everything in the corpus.
        train_clips: number of clips of the split "train".
        test_clips: number of clips of the split "test".
        train_subjects: number of subjects of the split "train".
        test_subjects: number of further subjects, of the split "test".
        progress: told (description, clips done, clips in all).
        threads: clips made at a time; None: one a processor, at most 8.

    Returns:
        All clips, in the order of the plan.

    Raises:
        ValueError: the counts make no corpus, or the folder holds other clips.
    """
    plans = plan_corpus(
        seed=seed,
        train_clips=train_clips,
        test_clips=test_clips,
        train_subjects=train_subjects,
        test_subjects=test_subjects,
    )
    clips = _kept(folder, plans)
    (folder / "media").mkdir(parents=True, exist_ok=True)
    write_taxonomy(folder / "taxonomy.json", load_taxonomy())
    write_whole(folder / "card.md", card())
    salt = hashlib.sha256(f"{VERSION} {seed}".encode()).hexdigest()
    write_whole(folder / "salt.txt", salt + "\n")

    missing = [plan for plan in plans if plan.clip_id not in clips]
    threads = threads or min(os.cpu_count() or 1, 8)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for clip in _in_order(pool, folder, missing, 2 * threads):
            append_deidentified(folder, clip)
            clips[clip.annotation.clip_id] = clip
            if progress:
                progress("generating clips", len(clips), len(plans))
    made = [clips[plan.clip_id] for plan in plans]
    write_annotations(folder / "annotations.jsonl", [clip.annotation for clip in made])
    return made


def make_clip(plan: Plan, folder: Path) -> DeidentifiedClip:
    """Draws, synthesises and writes one clip; returns what the manifest lists."""
    subject_rng = np.random.default_rng([plan.seed, 2, plan.subject])
    number = ("train", "test").index(plan.split)
    rng = np.random.default_rng([plan.seed, 3, number, plan.index])
    figure, speaker = draw_figure(subject_rng), draw_speaker(subject_rng)

    label = GESTURES[plan.gesture]
    start = round(float(rng.uniform(0.3, 0.7)), 2)
    end = round(float(rng.uniform(2.2, 2.7)), 2)
    frames = gesture_frames(figure, label, start, end, SECONDS, rng)
    waveform = speak(speaker, plan.voice, SECONDS, rng)

    video = folder / "media" / f"{plan.clip_id}.mp4"
    audio = folder / "media" / f"{plan.clip_id}.flac"
    write_video(video, ((i / FPS, frame) for i, frame in enumerate(frames)))
    write_audio(audio, waveform)
    annotation = Annotation(
        clip_id=plan.clip_id,
        media=f"media/{video.name}",
        subject=f"subject-{plan.subject:03d}",
        end=SECONDS,
        transcript=say(plan.words, rng),
        emotion=plan.emotion,
        reasoning=explain(plan.gesture, plan.voice, plan.words, plan.emotion, rng),
        nfbl=(Interval(label=label, start=start, end=end),),
        split=plan.split,
    )
    return DeidentifiedClip(
        annotation=annotation,
        video=video,
        audio=audio,
        sha256={"video": file_digest(video), "audio": file_digest(audio)},
        deidentification=VERSION,
        verdict="generated",
        faces={"frames": len(frames), "frames_with_face": 0, "boxes": 0},
        source=plan.source,
    )


def _kept(folder: Path, plans: list[Plan]) -> dict[str, DeidentifiedClip]:
    """The clips that an earlier call has made."""
    if not (folder / MANIFEST).exists():
        return {}
    sources = {plan.clip_id: plan.source for plan in plans}
    clips = {clip.annotation.clip_id: clip for clip in read_deidentified(folder)[0]}
    for name, clip in clips.items():
        if sources.get(name) != clip.source:
            raise ValueError(
                f"{folder} holds clips of another corpus, such as {name}: "
                "generate into an empty folder, or remove this one"
            )
    return clips


def _in_order(
    pool: concurrent.futures.Executor, folder: Path, plans: list[Plan], ahead: int
) -> Iterator[DeidentifiedClip]:
    """Clips in the order of their plans, at most `ahead` of them begun too early."""
    waiting: list[concurrent.futures.Future[DeidentifiedClip]] = []
    for plan in plans:
        waiting.append(pool.submit(make_clip, plan, folder))
        if len(waiting) > ahead:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()
