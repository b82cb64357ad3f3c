"""A folder's processor and `generate` answer clips as our loader and `generate` do.

Frames, waveforms and tokens are the same to the bit; logits agree to 1e-4 in float32.
"""

import dataclasses
import io

from flax import nnx
import numpy as np
from PIL import Image
import pytest
import soundfile
import torch
import transformers
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor

from deemo_jax.annotation import Interval, load_taxonomy
from deemo_jax.architecture import WhisperEncoderConfig
from deemo_jax.config import to_dict
from deemo_jax.config_data import MODALITIES, NFBL_TASKS, TASKS
from deemo_jax.data import loader, prompt, resize, tasks
from deemo_jax.data.reader import Loose, Reader
from deemo_jax.data.record import Record
from deemo_jax.data.tokenizer import train_tokenizer
from deemo_jax.data.turns import Asker
from deemo_jax.export import parity
from deemo_jax.export.card import Card
from deemo_jax.export.folder import export
from deemo_jax.models.deemo_llama import DeemoLlama
from tests.parity.test_export import OTHER_TOWERS
from tests.small import ODD, drawn, small_config

transformers.utils.logging.disable_progress_bar()

# Without it, Pillow scales, and is a level off here and there.
same_frames = pytest.mark.skipif(
    resize.Resizer is None, reason="cykooz.resizer is not built for this processor"
)

TAXONOMY = load_taxonomy()
QUESTION = tasks.instruction("recognition", TAXONOMY.emotions)
INSTRUCTIONS = {task: tasks.instruction(task, TAXONOMY.emotions) for task in TASKS}
DRAW = np.random.default_rng(0)


def frame(height, width):
    file = io.BytesIO()
    pixels = DRAW.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((width, height)).save(file, "JPEG")
    return file.getvalue()


def sound(seconds):
    file = io.BytesIO()
    samples = np.clip(DRAW.normal(0, 0.1, round(16_000 * seconds)), -1, 1)
    soundfile.write(file, samples, 16_000, format="FLAC")
    return file.getvalue()


def record(frames=(), audio=None, transcript=None):
    return Record(
        clip_id="", subject="", duration=1.0, frames=tuple(frames), frame_times=(),
        audio=audio, transcript=transcript, emotion="positive", reasoning=None,
        nfbl=(), verdict="", deidentification="",
    )  # fmt: skip


CLIPS = [
    # More frames than are taken, longer than is heard.
    record([frame(97, 131) for _ in range(7)], sound(0.7), "I won! "),
    record([frame(50, 33), frame(15, 15)], None, "so </s> sad <video>"),
    record((), sound(0.3), None),
    record((), None, "Nothing but words, and more of them than others have."),
    record([frame(30, 200)], sound(0.02), None),
]


@pytest.fixture(scope="module", params=["whisper", "hubert"])
def both(request, tmp_path_factory):
    """Our model, reader and batch of clips, the folder and what is loaded from it."""
    texts = [QUESTION, *(clip.transcript or "" for clip in CLIPS)]
    tokenizer = train_tokenizer(texts, 400)
    ids = tokenizer.get_vocab()
    base = OTHER_TOWERS if request.param == "hubert" else ODD
    config = dataclasses.replace(
        base,
        language_model=dataclasses.replace(
            base.language_model, vocab_size=400, max_position_embeddings=256
        ),
        video_token_id=ids["<video>"],
        audio_token_id=ids["<audio>"],
    )
    model = drawn(lambda: DeemoLlama(config, rngs=nnx.Rngs(0)))
    data = dataclasses.replace(
        small_config().data, num_frames=4, image_size=15, audio_seconds=0.5,
        max_length=200,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("export") / "model"
    card = Card(
        name="tiny",
        data="noise",
        config={"data": to_dict(data)},
        instructions=INSTRUCTIONS,
    )
    export(model, tokenizer, folder, card=card, taxonomy=TAXONOMY, verify=False)
    reader = Reader(
        source=Loose(records=tuple(CLIPS), taxonomy=TAXONOMY),
        config=data,
        tokenizer=tokenizer,
        spans=(3, 2),
    )
    rows = [
        reader.evaluation_row(i, "recognition", None, MODALITIES)
        for i in range(len(CLIPS))
    ]
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    return model, loader.stack(rows), folder, processor


def processed(processor, as_arrays=False):
    """The clips as a reader of the model card has them."""
    videos, sounds, prompts = [], [], []
    for clip in CLIPS:
        images = [Image.open(io.BytesIO(jpeg)) for jpeg in clip.frames]
        images = [np.asarray(image) for image in images] if as_arrays else images
        videos.append(images or None)
        samples = None
        if clip.audio:
            samples, _ = soundfile.read(io.BytesIO(clip.audio), dtype="float32")
        sounds.append(samples)
        prompts.append(
            processor.prompt(
                "recognition",
                transcript=clip.transcript,
                video=bool(clip.frames),
                audio=clip.audio is not None,
            )
        )
    return processor(text=prompts, videos=videos, audio=sounds, sampling_rate=16_000)


@same_frames
@pytest.mark.parametrize("as_arrays", [False, True], ids=["images", "arrays"])
def test_what_goes_in_is_what_our_loader_makes(both, as_arrays):
    _, batch, _, processor = both
    inputs = processed(processor, as_arrays)
    width = inputs.input_ids.shape[1]
    assert (batch.segment_ids[:, :-width] == 0).all()
    assert (np.asarray(batch.segment_ids)[:, -width] == 1).any()
    pairs = {
        "input_ids": batch.tokens[:, -width:],
        "attention_mask": batch.segment_ids[:, -width:],
        "frames": batch.frames,
        "frame_mask": batch.frame_mask,
        "audio": batch.audio,
        "audio_length": batch.audio_length,
    }
    assert set(inputs) == set(pairs)
    for name, ours in pairs.items():
        np.testing.assert_array_equal(inputs[name].numpy(), ours, err_msg=name)
    assert inputs["frames"].dtype == torch.uint8
    assert inputs["audio"].dtype == torch.float32
    assert inputs["audio_length"].tolist() == [8_000, 0, 4_800, 0, 320]


@same_frames
def test_the_answers_are_the_same(both):
    model, batch, folder, processor = both
    twin = parity.load_twin(folder)
    inputs = processed(processor)
    width = inputs.input_ids.shape[1]
    with torch.no_grad():
        theirs = twin(**inputs).logits.numpy()
    valid = np.asarray(batch.segment_ids)[:, -width:] > 0
    ours = np.asarray(parity._logits(model, batch))[:, -width:]
    np.testing.assert_allclose(theirs[valid], ours[valid], rtol=0, atol=1e-4)
    stop = {"eos_token_id": 2, "pad_token_id": 0}
    answer = twin.generate(**inputs, max_new_tokens=9).numpy()[:, width:]
    expected = parity._generate(model, batch, 9, **stop)[:, : answer.shape[1]]
    np.testing.assert_array_equal(answer, expected)
    assert np.ptp(theirs[:, -1], axis=0).max() > 0.1  # clips are not alike
    texts = processor.batch_decode(answer, skip_special_tokens=True)
    assert len(texts) == len(CLIPS)


@same_frames
def test_one_clip_that_is_no_list_is_a_batch_of_one(both):
    _, batch, _, processor = both
    line = processor.prompt(QUESTION, transcript=CLIPS[0].transcript, audio=False)
    images = [Image.open(io.BytesIO(jpeg)) for jpeg in CLIPS[0].frames]
    inputs = processor(line, images)
    assert set(inputs) == {"input_ids", "attention_mask", "frames", "frame_mask"}
    np.testing.assert_array_equal(inputs["frames"][0], batch.frames[0])
    assert inputs["attention_mask"].min() == 1


def test_auto_classes_find_what_frames_and_sound_become(both):
    model, _, folder, _ = both
    images = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    assert type(images).__name__.startswith("CLIPImageProcessor")
    assert tuple(images.image_mean) == model.config.image_mean
    assert tuple(images.image_std) == model.config.image_std
    assert images.size["shortest_edge"] == images.crop_size["height"] == 15
    assert images.resample == 3
    assert images.rescale_factor == 1 / 255
    heard = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    assert heard.sampling_rate == 16_000
    if isinstance(model.config.audio_tower, WhisperEncoderConfig):
        assert type(heard).__name__ == "WhisperFeatureExtractor"
        assert heard.feature_size == model.config.audio_tower.num_mel_bins
    else:
        assert type(heard).__name__ == "Wav2Vec2FeatureExtractor"
        assert heard.do_normalize is model.config.audio_tower.do_normalize


def test_a_saved_processor_reads_back_the_same(both, tmp_path):
    _, _, _, processor = both
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    expected = processed(processor)
    for name, values in processed(again).items():
        assert torch.equal(values, expected[name]), name
    assert again.instructions == INSTRUCTIONS


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("cues", [False, True])
def test_every_task_is_asked_as_in_training(both, task, cues):
    _, _, _, processor = both
    shown = Interval(label="folding arms", start=0.25, end=0.8)
    clip = record(CLIPS[0].frames, CLIPS[0].audio, "I won! ")
    clip = dataclasses.replace(clip, duration=1.05, nfbl=(shown,))
    asker = Asker(
        config=dataclasses.replace(small_config().data, nfbl_cues=cues),
        emotions=TAXONOMY.emotions,
        classes={},
    )
    turn = asker.evaluated(clip, task, None, "touching ears")
    messages = prompt.conversation(clip, [turn], processor.tokenizer, (3, 2), cues=cues)
    told = tasks.cues(clip) if cues and task not in NFBL_TASKS else None
    line = processor.prompt(
        task, transcript="I won! ", label="touching ears", seconds=1.05,
        body_language=told,
    )  # fmt: skip
    images = [Image.open(io.BytesIO(jpeg)) for jpeg in clip.frames]
    inputs = processor(line, images, np.zeros(9))
    expected, _ = prompt.encode(messages, processor.tokenizer)
    assert inputs["input_ids"][0].tolist() == expected.tolist()
