"""Rows a second of our loader, beside PyTorch's `DataLoader` that does the same work.

All decode, scale and crop eight frames of 683 x 384 pixels, decode ten seconds of sound
and tokenise, in two processes, by turns in several rounds. One `DataLoader` has the
same bits by a few lines of Pillow, the other its pictures by the image processor of
`transformers`, as most have:

    python -m pytest -n 0 -s -m slow tests/data/test_loader_throughput.py
"""

import dataclasses
import io
import itertools
import operator
import statistics
import time

import numpy as np
from PIL import Image
import pytest
import soundfile
import torch
from transformers import CLIPImageProcessor

from deemo_jax.data import prompt
from deemo_jax.data.loader import Batches, stack
from deemo_jax.data.reader import Reader
from deemo_jax.data.source import ShardSource

SPANS = prompt.Spans(video=32, audio=8)
ROWS, PROCESSES, AHEAD, ROUNDS = 4, 2, 2, 5


def photo(rng):
    """A frame as they are packed: 384 pixels high, about 75 KB."""
    coarse = rng.integers(0, 256, (24, 42, 3), np.uint8)
    smooth = Image.fromarray(coarse).resize((683, 384), Image.Resampling.BICUBIC)
    noise = rng.integers(-6, 7, (384, 683, 3))
    pixels = (np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return file.getvalue()


@pytest.fixture(scope="module")
def clips(tmp_path_factory, make_record, pack_records, flac):
    """24 clips of 16 frames and ten seconds."""
    rng = np.random.default_rng(0)
    rows = [
        make_record(
            i,
            frames=tuple(photo(rng) for _ in range(16)),
            frame_times=tuple(k / 1.6 for k in range(16)),
            audio=flac(rng, 160_000),
            transcript="I did what I could, and then I waited. " * 4,
        )
        for i in range(24)
    ]
    return ShardSource(pack_records(tmp_path_factory.mktemp("clips"), rows), "train")


class Clips(torch.utils.data.Dataset):
    """The same rows, written as one does in PyTorch."""

    def __init__(self, reader):
        self.source, self.asker = reader.source, reader.asker
        self.config, self.tokenizer = reader.config, reader.tokenizer

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        record, config = self.source[i], self.config
        sound, _ = soundfile.read(io.BytesIO(record.audio), dtype="float32")
        length = round(config.audio_seconds * 16_000)
        audio = torch.zeros(length)
        audio[: len(sound)] = torch.from_numpy(sound[:length])
        turns = [self.asker.every(record, task)[0] for task in config.tasks]
        messages = prompt.conversation(record, turns, self.tokenizer, SPANS)
        encoded = self.tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, padding="max_length",
            max_length=config.max_length, return_tensors="pt",
        )  # fmt: skip
        count = config.num_frames
        chosen = [
            record.frames[(2 * k + 1) * len(record.frames) // (2 * count)]
            for k in range(count)
        ]
        return {
            "tokens": encoded["input_ids"][0],
            "mask": encoded["attention_mask"][0],
            "frames": self.pictures([Image.open(io.BytesIO(jpeg)) for jpeg in chosen]),
            "audio": audio,
        }

    def pictures(self, images):
        size, frames = self.config.image_size, []
        for image in images:
            scale = size / min(image.size)
            scaled = image.convert("RGB").resize(
                (int(image.width * scale), int(image.height * scale)),
                Image.Resampling.BICUBIC,
            )
            left, top = (scaled.width - size) // 2, (scaled.height - size) // 2
            scaled = scaled.crop((left, top, left + size, top + size))
            frames.append(torch.from_numpy(np.array(scaled)))
        return torch.stack(frames)


class Processed(Clips):
    """The same, its pictures made by the image processor of `transformers`.

    As it comes, they are normalised, in float32; ours are normalised on the device.
    """

    def __init__(self, reader, **changes):
        super().__init__(reader)
        size = self.config.image_size
        self.processor = CLIPImageProcessor(
            size={"shortest_edge": size}, crop_size=size, **changes
        )

    def pictures(self, images):
        return self.processor(images, return_tensors="pt").pixel_values


def in_torch(dataset):
    draw, count = np.random.default_rng(0), len(dataset)
    batches = [draw.permutation(count)[:ROWS].tolist() for _ in range(1000)]
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=PROCESSES,
        prefetch_factor=AHEAD,
        multiprocessing_context="forkserver",
    )
    return iter(loader)


def rate(batches, *, steps=40):
    """Rows a second of a loader that has just begun, and keeps no batch in store."""
    for _ in itertools.islice(batches, 6):
        pass
    begin = time.perf_counter()
    for _ in itertools.islice(batches, steps):
        pass
    return ROWS * steps / (time.perf_counter() - begin)


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 336])
def test_rows_a_second(clips, config, tokenizer, size):
    config = dataclasses.replace(
        config, num_frames=8, image_size=size, audio_seconds=10.0, max_length=400,
        modality_dropout=0.0, augment=False, prefetch=AHEAD,
    )  # fmt: skip

    reader = Reader(source=clips, config=config, tokenizer=tokenizer, spans=SPANS)
    one, other = reader.training_row(3, np.random.default_rng(0)), Clips(reader)[3]
    np.testing.assert_array_equal(one["frames"], other["frames"].numpy())
    np.testing.assert_array_equal(one["audio"], other["audio"].numpy())
    assert (one["segment_ids"] > 0).sum() == other["mask"].sum()

    # On a busy machine whoever has more threads gets more of it; this is of the work.
    draw, dataset = np.random.default_rng(0), Clips(reader)
    costs = {"ours": [], "theirs": []}
    for _ in range(ROUNDS):
        begin = time.process_time()
        stack([reader.training_row(i, draw) for i in range(ROWS)])
        between = time.process_time()
        torch.utils.data.default_collate([dataset[i] for i in range(ROWS)])
        costs["ours"].append((between - begin) / ROWS)
        costs["theirs"].append((time.process_time() - between) / ROWS)
    medians = {name: statistics.median(found) for name, found in costs.items()}
    print(f"{size} pixels, CPU seconds a row:", medians)
    assert medians["theirs"] > 1.2 * medians["ours"]

    def ours(workers):
        reading = dataclasses.replace(config, workers=workers)
        return Batches(
            clips, reading, tokenizer, SPANS, seed=0, batch_size=ROWS
        ).iterate()

    loaders = {
        "processes": lambda: ours(PROCESSES),
        "threads": lambda: ours(0),
        "DataLoader": lambda: in_torch(Clips(reader)),
        "DataLoader, transformers": lambda: in_torch(Processed(reader)),
        "DataLoader, transformers, not normalised": lambda: in_torch(
            Processed(reader, do_rescale=False, do_normalize=False)
        ),
    }
    rates = {name: [] for name in loaders}
    for _ in range(ROUNDS):
        for name, start in loaders.items():
            rates[name].append(rate(start()))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    print(f"{size} pixels, rows a second:", medians)
    # By turns: what else this machine does, comes and goes.
    times = {
        name: statistics.median(map(operator.truediv, rates["processes"], found))
        for name, found in rates.items()
    }
    print(f"{size} pixels, our processes are as many times as fast:", times)
    # In a quiet hour 1.25 to 1.4 by hand, where both have the same filter of Pillow to
    # wait for. Where two cores share their units, this varies by a quarter, and fails.
    assert times["DataLoader"] > 1.2
    assert times["DataLoader, transformers"] > 1.5
