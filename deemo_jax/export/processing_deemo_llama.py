"""What DEEMO-LLaMA reads, from words, frames and waveforms; travels with its weights.

This file belongs to an exported folder and depends on `transformers`, PyTorch, numpy
and Pillow:

    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    prompt = processor.prompt("recognition", transcript="I won!", audio=False)
    inputs = processor(text=[prompt], videos=[frames])
    answer = model.generate(**inputs, max_new_tokens=64)

Frames leave it as whole levels and waveforms as they are: the model itself normalises
them, by the values that `image_processor` and `feature_extractor` state.

Dimensions: B rows, S tokens of a row, T frames, H and W pixels, N audio samples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
import torch
from transformers import BatchFeature, ProcessorMixin

__all__ = ["DeemoLlamaProcessor"]

FILTERS = {
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
}


class DeemoLlamaProcessor(ProcessorMixin):
    """A tokenizer that puts the media's tokens in, and media brought into form.

    Args:
      image_processor: states how frames are scaled, cropped and normalised.
      feature_extractor: states how sound is sampled and what is made of it.
      tokenizer: with the tokens of the media and a chat template.
      chat_template: the one of the tokenizer, unless given.
      video_token: stands for the video in a prompt.
      audio_token: stands for the sound in a prompt.
      num_video_tokens: how many of `video_token` the model takes for a video.
      num_audio_tokens: how many of `audio_token` the model takes for a sound.
      num_frames: frames of a row, T.
      num_samples: audio samples of a row, N.
      instructions: the questions of the training, by the name of their task; in them
        may stand {label}, a class of body language, and {seconds}.
    """

    def __init__(
        self,
        image_processor: Any,
        feature_extractor: Any,
        tokenizer: Any,
        chat_template: str | None = None,
        video_token: str = "<video>",
        audio_token: str = "<audio>",
        num_video_tokens: int = 32,
        num_audio_tokens: int = 32,
        num_frames: int = 8,
        num_samples: int = 80_000,
        instructions: dict[str, str] | None = None,
    ):
        template = chat_template or tokenizer.chat_template
        super().__init__(
            image_processor, feature_extractor, tokenizer, chat_template=template
        )
        self.video_token = video_token
        self.audio_token = audio_token
        self.num_video_tokens = num_video_tokens
        self.num_audio_tokens = num_audio_tokens
        self.num_frames = num_frames
        self.num_samples = num_samples
        self.instructions = dict(instructions or {})

    def prompt(
        self,
        question: str,
        *,
        transcript: str | None = None,
        video: bool = True,
        audio: bool = True,
        label: str | None = None,
        seconds: float | None = None,
        body_language: str | None = None,
    ) -> str:
        """The prompt of one clip as in training, up to where the answer begins.

        Args:
          question: the name of one of `instructions`, or any question in words.
          transcript: what is said in the clip; what reads in it as a special token is
            taken apart.
          video: whether the clip has frames.
          audio: whether it has sound.
          label: the class of body language that the question asks for.
          seconds: the length of the clip, where the question names it.
          body_language: what is seen and when, for a model that is told so:
            "folding arms 0.5 to 2.3; touching ears 2.6 to 2.9, 4.0 to 4.7".

        Raises:
          ValueError: the question needs a label or seconds, and there are none.
        """
        words = self.video_token * video + self.audio_token * audio
        if transcript:
            words += f"Transcript: {self._plain(transcript)}\n"
        if body_language:
            words += f"Body language: {self._plain(body_language)}\n"
        asked = self.instructions.get(question, question)
        length = None if seconds is None else f"{seconds:.1f}"
        if question in self.instructions:
            for name, value in (("seconds", length), ("label", label)):
                place = f"{{{name}}}"
                if place in asked and value is None:
                    raise ValueError(
                        f"{question} asks with {place} in it; give {name} to `prompt`"
                    )
                asked = asked.replace(place, value or "")
        words += self._plain(asked)
        return str(
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": words}],
                tokenize=False,
                add_generation_prompt=True,
            )
        )

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        text: str | Sequence[str],
        videos: Any = None,
        audio: Any = None,
        *,
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """The arguments of the model for prompts, padded on the left to the longest.

        A prompt holds `video_token` once where its clip has frames and `audio_token`
        once where it has sound, as `prompt` puts them.

        Args:
          text: one prompt, or B of them.
          videos: for each prompt its frames in order, images of Pillow or uint8 arrays
            `[H, W, 3]` of any size, of which `num_frames` evenly spread are taken, or
            None. For one prompt that is no list, its frames alone.
          audio: for each prompt its waveform `[N]` between -1 and 1, mono, of which
            the middle `num_samples` are taken, or None. For one prompt that is no
            list, its waveform alone.
          sampling_rate: of the waveforms; any but the model's own is refused.
          return_tensors: "pt" or "np".

        Returns:
          `input_ids` and `attention_mask` `[B, S]`; where any clip has frames,
          `frames` `[B, T, H, W, 3]` uint8 and `frame_mask` `[B, T]`; where any has
          sound, `audio` `[B, N]` float32 and `audio_length` `[B]`.

        Raises:
          ValueError: a prompt and its media do not fit together, or media are of
            another form.
        """
        if isinstance(text, str):
            text = [text]
            videos = None if videos is None else [videos]
            audio = None if audio is None else [audio]
        rate = self.feature_extractor.sampling_rate
        if sampling_rate not in (None, rate):
            raise ValueError(
                f"the audio has {sampling_rate} samples a second and the model hears "
                f"{rate}; resample it"
            )
        videos = self._rows("videos", videos, self.video_token, text)
        audio = self._rows("audio", audio, self.audio_token, text)
        full = [
            line.replace(
                self.video_token, self.video_token * self.num_video_tokens
            ).replace(self.audio_token, self.audio_token * self.num_audio_tokens)
            for line in text
        ]
        # The chat template has put the first token in already.
        data = dict(
            self.tokenizer(
                full,
                add_special_tokens=False,
                padding=True,
                padding_side="left",
                return_attention_mask=True,
                return_token_type_ids=False,
            )
        )
        if any(clip is not None for clip in videos):
            rows = [self._frames(clip) for clip in videos]
            data["frames"] = np.stack([frames for frames, _ in rows])
            data["frame_mask"] = np.stack([mask for _, mask in rows])
        if any(sound is not None for sound in audio):
            sounds = [self._sound(sound) for sound in audio]
            data["audio"] = np.stack([samples for samples, _ in sounds])
            data["audio_length"] = np.array([length for _, length in sounds])
        return BatchFeature(data, tensor_type=return_tensors)

    @property
    def model_input_names(self) -> list[str]:
        """What the model takes of the result."""
        words = ["input_ids", "attention_mask"]
        return [*words, "frames", "frame_mask", "audio", "audio_length"]

    def _plain(self, text: str) -> str:
        """The text, trimmed, with nothing in it that reads as a special token.

        "so </s> sad <video>" becomes "so < /s> sad < video>".
        """
        for token in self.tokenizer.get_added_vocab():
            if len(token) > 1 and token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text.strip()

    def _rows(
        self, name: str, media: Sequence[Any] | None, token: str, text: Sequence[str]
    ) -> Sequence[Any]:
        """The media, one or None a prompt, where the prompts have places for them."""
        media = [None] * len(text) if media is None else media
        if len(media) != len(text):
            raise ValueError(
                f"there are {len(text)} prompts and {len(media)} {name}; give one a "
                f"prompt, None where the clip has none"
            )
        for row, (line, one) in enumerate(zip(text, media, strict=True)):
            wanted, found = int(one is not None), line.count(token)
            if found != wanted:
                raise ValueError(
                    f"prompt {row} holds {token} {found} times and is given {wanted} "
                    f"of {name}; let it hold {token} once where the clip has them, and "
                    f"not at all where it has none"
                )
        return media

    def _frames(self, clip: Sequence[Any] | None) -> tuple[np.ndarray, np.ndarray]:
        """`num_frames` frames `[T, H, W, 3]`, evenly spread, and which are there.

        Of more frames than `num_frames`, those at the middles of as many equal parts.
        """
        side = self.image_processor.size["shortest_edge"]
        frames = np.zeros((self.num_frames, side, side, 3), np.uint8)
        count, wanted = 0 if clip is None else len(clip), self.num_frames
        chosen = range(count)
        if count > wanted:
            chosen = [(2 * part + 1) * count // (2 * wanted) for part in range(wanted)]
        for place, number in enumerate(chosen):
            frames[place] = self._square(clip[number], side)  # pyright: ignore
        return frames, np.arange(wanted) < min(count, wanted)

    def _square(self, frame: Any, side: int) -> np.ndarray:
        """The centre of a frame whose shortest side is scaled to `side` pixels.

        To the bit what `CLIPImageProcessor` makes of it; `CLIPImageProcessorPil` is a
        level off here and there.
        """
        if not isinstance(frame, Image.Image):
            frame = np.asarray(frame)
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                raise ValueError(
                    f"a frame is {frame.dtype} of shape {frame.shape}; give images of "
                    f"Pillow, or uint8 arrays of shape (height, width, 3)"
                )
            frame = Image.fromarray(frame)
        pixels = torch.from_numpy(np.array(frame.convert("RGB")))
        pixels = pixels.permute(2, 0, 1)[None]
        shortest = min(frame.size)
        width, height = (side * length // shortest for length in frame.size)
        if shortest != side:
            resample = Image.Resampling(int(self.image_processor.resample))
            if resample not in FILTERS:
                raise ValueError(
                    f"image_processor.resample is {resample.name}; give BICUBIC, with "
                    f"which the model was trained, or BILINEAR"
                )
            pixels = torch.nn.functional.interpolate(
                pixels,
                size=(height, width),
                mode=FILTERS[resample],
                antialias=True,
            )
        left, top = (width - side) // 2, (height - side) // 2
        square = pixels[0, :, top : top + side, left : left + side]
        return square.permute(1, 2, 0).numpy()

    def _sound(self, sound: Any) -> tuple[np.ndarray, int]:
        """`num_samples` samples, the middle or zeros after, and how many are sound."""
        samples = np.zeros(0, np.float32) if sound is None else np.asarray(sound)
        if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(
                f"a waveform is {samples.dtype} of shape {samples.shape}; give floats "
                f"between -1 and 1 of shape (samples,), mono"
            )
        start = max(0, (len(samples) - self.num_samples) // 2)
        kept = samples[start : start + self.num_samples].astype(np.float32)
        return np.pad(kept, (0, self.num_samples - len(kept))), len(kept)
