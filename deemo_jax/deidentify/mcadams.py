"""McAdams' coefficient bends the formants of a voice; pitch and prosody stay."""

from jaxtyping import Complex, Float
import numpy as np

FRAME, HOP = 320, 160  # samples: 20 and 10 ms at 16 kHz
ORDER = 20  # of linear prediction
EPSILON = 1e-7  # added to the signal, so that silence has a prediction
CHUNK = 256  # frames treated at once: less than a processor's cache holds


def mcadams(
    waveform: Float[np.ndarray, " N"], coefficient: float
) -> Float[np.ndarray, " N"]:
    """Raises the angle of every complex pole of the vocal tract to a power.

    Poles below 1 radian (2546 Hz at 16 kHz) move up for coefficients below 1, those
    above it down; their radii, real poles and the residual, so pitch, stay. The
    utterance keeps its level (root mean square) unless it would clip. Patino et al.,
    "Speaker anonymisation using the McAdams coefficient", arXiv 2011.01130, section
    3; the window here is periodic, so that coefficient 1 rebuilds the signal.

    Args:
        waveform: 16 kHz, mono; of any length.
        coefficient: above 0; 1 changes nothing.
    """
    if not len(waveform):
        return waveform
    frames_count = -(-len(waveform) // HOP) + 1
    padded = np.zeros((frames_count + 1) * HOP)
    padded[HOP : HOP + len(waveform)] = waveform
    padded += EPSILON
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    bent = np.zeros_like(padded)
    for first in range(0, len(frames), CHUNK):
        windowed = frames[first : first + CHUNK] * window
        prediction = burg(windowed + EPSILON, ORDER)
        residual = _whiten(windowed, prediction)
        pieces = _colour(residual, _bend(prediction, coefficient)) * window
        halves = pieces.reshape(len(pieces), 2, HOP)
        at = bent[first * HOP :][: (len(pieces) + 1) * HOP].reshape(-1, HOP)
        at[:-1] += halves[:, 0]
        at[1:] += halves[:, 1]
    bent = bent[HOP : HOP + len(waveform)]
    level = np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))
    bent *= level / max(np.sqrt(np.mean(bent**2)), EPSILON**2)
    bent /= max(1.0, np.abs(bent).max())
    return bent.astype(waveform.dtype)


def burg(frames: Float[np.ndarray, "F N"], order: int) -> Float[np.ndarray, "F K"]:
    """Linear prediction of each frame by Burg's method; the first coefficient is 1.

    J. P. Burg, "Maximum Entropy Spectral Analysis", 1975. Its reflection coefficients
    lie within -1 … 1, so all poles lie inside the unit circle.
    """
    forward, backward = frames[:, 1:], frames[:, :-1]
    prediction = np.zeros((len(frames), order + 1))
    prediction[:, 0] = 1.0
    for step in range(1, order + 1):
        energy = _products(forward, forward) + _products(backward, backward)
        shared = _products(forward, backward)
        reflection = -2 * shared / np.maximum(energy, np.finfo(float).tiny)
        reflection = reflection[:, None]
        past = prediction[:, step - 1 :: -1] if step > 1 else prediction[:, :1]
        prediction[:, 1 : step + 1] += reflection * past[:, :step]
        forward, backward = (
            (forward + reflection * backward)[:, 1:],
            (backward + reflection * forward)[:, :-1],
        )
    return prediction


def _products(
    one: Float[np.ndarray, "F N"], other: Float[np.ndarray, "F N"]
) -> Float[np.ndarray, " F"]:
    """The sum of products over each frame."""
    return np.einsum("fn,fn->f", one, other)


def _bend(
    prediction: Float[np.ndarray, "F K"], coefficient: float
) -> Float[np.ndarray, "F K"]:
    """The prediction whose poles have the angles' power; radii and real poles stay."""
    count, order = len(prediction), prediction.shape[1] - 1
    companion = np.zeros((count, order, order))
    companion[:, 0] = -prediction[:, 1:]
    companion[:, np.arange(1, order), np.arange(order - 1)] = 1.0
    poles = np.linalg.eigvals(companion).astype(complex)
    angle = np.angle(poles)
    bent = np.sign(angle) * np.minimum(np.abs(angle) ** coefficient, np.pi)
    angle = np.where(np.imag(poles) == 0, angle, bent)
    return _polynomial(np.abs(poles) * np.exp(1j * angle))


def _polynomial(roots: Complex[np.ndarray, "F R"]) -> Float[np.ndarray, "F K"]:
    """Coefficients of the polynomials with these roots, highest power first."""
    product = np.zeros((len(roots), roots.shape[1] + 1), complex)
    product[:, 0] = 1.0
    for index in range(roots.shape[1]):
        product[:, 1:] -= roots[:, index : index + 1] * product[:, :-1]
    return np.real(product)


def _whiten(
    frames: Float[np.ndarray, "F N"], prediction: Float[np.ndarray, "F K"]
) -> Float[np.ndarray, "F N"]:
    """What the prediction does not explain of each frame (zeros before its start)."""
    residual = frames.copy()
    for lag in range(1, prediction.shape[1]):
        residual[:, lag:] += prediction[:, lag : lag + 1] * frames[:, :-lag]
    return residual


def _colour(
    residual: Float[np.ndarray, "F N"], prediction: Float[np.ndarray, "F K"]
) -> Float[np.ndarray, "F N"]:
    """The frames that a prediction makes of their residuals; undoes `_whiten`."""
    order = prediction.shape[1] - 1
    # Time first: each step reads and writes whole rows.
    history = np.zeros((order + residual.shape[1], len(residual)))
    taps = prediction[:, :0:-1].T
    for time in range(residual.shape[1]):
        past = np.einsum("kf,kf->f", taps, history[time : time + order])
        history[time + order] = residual[:, time] - past
    return history[order:].T
