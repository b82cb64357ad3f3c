"""Rows a second of our loader, beside PyTorch's `DataLoader` that does the same work.

All decode, scale and crop eight frames of 683 x 384 pixels, decode ten seconds of sound
and tokenise, in two processes, by turns in several rounds. The pictures of one
`DataLoader` are made by a few lines of Pillow, those of another, with the same bits as
ours, by PyTorch's own filter, those of a third by the image processor of `transformers`
(which takes torchvision's where that is installed), as most have:

    python -m pytest -n 0 -s -m slow tests/data/test_loader_throughput.py
"""

import dataclasses
import functools
import io
import itertools
import multiprocessing
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
from deemo_jax.data.memory import keep_freed_memory
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
    """240 clips of 16 frames and ten seconds, with the media of 24.

    Among few clips, Grain's shuffle tries numbers for a millisecond to find the next.
    """
    rng = np.random.default_rng(0)
    media = [
        (tuple(photo(rng) for _ in range(16)), flac(rng, 160_000)) for _ in range(24)
    ]
    rows = [
        make_record(
            i,
            frames=frames,
            frame_times=tuple(k / 1.6 for k in range(16)),
            audio=audio,
            transcript="I did what I could, and then I waited. " * 4,
        )
        for i, (frames, audio) in enumerate(10 * media)
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
            width, height = (size * side // min(image.size) for side in image.size)
            left, top = (width - size) // 2, (height - size) // 2
            pixels = torch.from_numpy(np.array(image.convert("RGB")))
            scaled = torch.nn.functional.interpolate(
                pixels.permute(2, 0, 1)[None], size=(height, width), mode="bicubic",
                antialias=True,
            )  # fmt: skip
            frames.append(scaled[0, :, top : top + size, left : left + size])
        return torch.stack(frames)


class ByPillow(Clips):
    """The same, scaled by Pillow: a level off here and there."""

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


def costs(reader):
    """Processor seconds of a row: ours, and of each of the others.

    In a process of its own, without the tests' checks of types, which only ours has.
    """
    torch.set_num_threads(1)  # as in a worker of a DataLoader
    keep_freed_memory()  # as in one of ours
    draw = np.random.default_rng(0)
    ways = {"ours": lambda: stack([reader.training_row(i, draw) for i in range(ROWS)])}
    for name, dataset in others(reader).items():
        ways[name] = functools.partial(collated, dataset)
    found = {name: [] for name in ways}
    for _ in range(3 * ROUNDS):
        for name, make in ways.items():
            begin = time.process_time()
            make()
            found[name].append((time.process_time() - begin) / ROWS)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def others(reader):
    return {
        "Pillow": ByPillow(reader),
        "PyTorch": Clips(reader),
        "transformers": Processed(reader),
        "transformers, not normalised": Processed(
            reader, do_rescale=False, do_normalize=False
        ),
    }


def collated(dataset):
    return torch.utils.data.default_collate([dataset[i] for i in range(ROWS)])


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
    frames = other["frames"].permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(one["frames"], frames)
    np.testing.assert_array_equal(one["audio"], other["audio"].numpy())
    assert (one["segment_ids"] > 0).sum() == other["mask"].sum()

    # On a busy machine whoever has more threads gets more of it; this is of the work.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        cost = pool.apply(costs, (reader,))
    print(f"{size} pixels, CPU seconds a row:", cost)
    assert cost["Pillow"] > 1.5 * cost["ours"]
    assert cost["transformers"] > 1.5 * cost["ours"]
    assert cost["transformers, not normalised"] > 1.5 * cost["ours"]
    assert cost["PyTorch"] > 1.1 * cost["ours"]

    def ours(workers):
        reading = dataclasses.replace(config, workers=workers)
        return Batches(
            clips, reading, tokenizer, SPANS, seed=0, batch_size=ROWS
        ).iterate()

    loaders = {
        "processes": lambda: ours(PROCESSES),
        "threads": lambda: ours(0),
    }
    for name, dataset in others(reader).items():
        loaders[name] = functools.partial(in_torch, dataset)
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
    assert times["Pillow"] > 1.5
    assert times["transformers"] > 1.5
    assert times["transformers, not normalised"] > 1.5
    assert times["PyTorch"] > 1.0
