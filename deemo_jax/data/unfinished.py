"""Shards that an interrupted packing has written, which need not be written again."""

from collections.abc import Sequence, Set
import contextlib
import dataclasses
import hashlib
import hmac
import json
from pathlib import Path

from deemo_jax.clip import DeidentifiedClip
from deemo_jax.data.encoded import Encoding
from deemo_jax.data.integrity import walk
from deemo_jax.data.record import FrameSampling
from deemo_jax.data.shards import PACKING, Entry, index_of, read_index, write_index
from deemo_jax.storage import write_whole

FORMAT = "deemo-pack/2"  # another one when the same clips come to other bytes


class Unfinished:
    """What stands in a folder while it is packed: of each whole shard, what it is of.

    That is an HMAC, with the salt of the pseudonyms, of all that the shard's bytes
    follow from, so that it says nothing of who is in it: of clips, or of the entries of
    records, and of `made_with`. It is there before anything of an earlier data set is
    removed, so that the folder is known for one that was packed to. Closed, it leaves
    no trace; a packing that is interrupted does not close it. Indexes of what is kept
    name the `withdrawn`, too.
    """

    def __init__(
        self,
        folder: Path,
        salt: bytes,
        made_with: FrameSampling | Encoding | None,
        withdrawn: Set[str] = frozenset(),
    ):
        self._path = folder / PACKING
        self._salt = salt
        self._withdrawn = withdrawn
        self._made_with = dataclasses.asdict(made_with or FrameSampling())
        self._made_of: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            self._made_of = dict(json.loads(self._path.read_bytes()))
        self._write()

    def entries(
        self, shard: Path, clips: Sequence[DeidentifiedClip | Entry]
    ) -> list[Entry] | None:
        """The index of a shard that holds all of the clips, each byte as written.

        None if there is none such; then what is known of the shard is forgotten, since
        it is to be written anew.
        """
        if self._made_of.get(shard.name) == self._digest(clips):
            with contextlib.suppress(ValueError):
                index = read_index(shard)
                if [found.entry for found in walk(shard)] == index.entries:
                    now = index_of(index.entries, index.size, self._withdrawn)
                    if now != index:
                        write_index(shard, now)
                    return now.entries
        if self._made_of.pop(shard.name, None):
            self._write()
        return None

    def enter(self, shard: Path, clips: Sequence[DeidentifiedClip | Entry]) -> None:
        """Notes that a shard is whole and holds all of the clips."""
        self._made_of[shard.name] = self._digest(clips)
        self._write()

    def close(self) -> None:
        """All is packed."""
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        write_whole(self._path, json.dumps(self._made_of))

    def _digest(self, clips: Sequence[DeidentifiedClip | Entry]) -> str:
        of = [
            [c.annotation.to_json(), c.sha256, c.verdict, c.deidentification]
            if isinstance(c, DeidentifiedClip)
            else c
            for c in clips
        ]
        parts = json.dumps([FORMAT, self._made_with, of]).encode()
        return hmac.digest(self._salt, parts, hashlib.sha256).hex()
