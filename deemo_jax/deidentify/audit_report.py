"""The report of an audit: JSON and HTML."""

import base64
from collections import Counter
from collections.abc import Sequence
import dataclasses
import json
from pathlib import Path

from deemo_jax import page
from deemo_jax.clip import DeidentifiedClip
from deemo_jax.deidentify.audit import Audited
from deemo_jax.deidentify.audit_rates import Rate
from deemo_jax.deidentify.settings import Audit
from deemo_jax.deidentify.verdicts import FAILED, PASSED, UNAUDITED
from deemo_jax.storage import write_whole

TEMPLATE = Path(__file__).with_name("audit_report.html")
SHOWN = 60  # clips with pictures; all stand in the JSON
ORDER = {FAILED: 0, UNAUDITED: 1, PASSED: 2}
CAVEAT = (
    "What failed here failed on this sample. A better detector, verifier or restorer "
    "may succeed, and gait, clothes, place and words identify people too: this is no "
    "claim of anonymity."
)
Seen = Sequence[tuple[DeidentifiedClip, Audited]]


def write_json(
    path: Path, seen: Seen, rates: Sequence[Rate], thresholds: Audit
) -> None:
    """Writes `audit.json`: every clip's verdict and figures, and the rates."""
    found = {
        "caveat": CAVEAT,
        "thresholds": dataclasses.asdict(thresholds),
        "verdicts": _verdicts(seen),
        "subjects": len({audited.subject for _, audited in seen}),
        "rates": [dataclasses.asdict(rate) for rate in rates],
        "clips": [
            {
                "clip_id": audited.clip_id,
                "subject": audited.subject,
                "verdict": clip.verdict,
                "deidentification": clip.deidentification,
                **clip.audit,
            }
            for clip, audited in seen
        ],
    }
    write_whole(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def write_html(
    path: Path,
    seen: Seen,
    rates: Sequence[Rate],
    thresholds: Audit,
    *,
    rejected: int = 0,
    show_originals: bool = False,
) -> None:
    """Writes `report.html`, the clips that failed first.

    Faces as they were are in it only with `show_originals`.
    """
    ordered = sorted(seen, key=lambda pair: ORDER[pair[0].verdict])
    text = page.render(
        TEMPLATE,
        {"percent": percent, "uri": _uri},
        clips=ordered[:SHOWN],
        more=len(ordered) - SHOWN,
        verdicts=_verdicts(seen),
        subjects=len({audited.subject for _, audited in seen}),
        frames=sum(audited.figures.frames for _, audited in seen),
        methods=sorted({clip.deidentification for clip, _ in seen}),
        rates=rates,
        thresholds=thresholds,
        rejected=rejected,
        show_originals=show_originals,
        caveat=CAVEAT,
    )
    write_whole(path, text)


def percent(share: float | None) -> str:
    """A share as whole percent, "–" where there is none."""
    return "–" if share is None else f"{100 * share:.0f} %"


def _verdicts(seen: Seen) -> dict[str, int]:
    counts = Counter(clip.verdict for clip, _ in seen)
    return {verdict: counts[verdict] for verdict in (PASSED, FAILED, UNAUDITED)}


def _uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
