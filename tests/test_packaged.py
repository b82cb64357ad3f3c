"""A file of an installed distribution is found, or what installs it is named."""

import hashlib
from importlib import metadata

import pytest

from deemo_jax.packaged import packaged_file

HELP = "pip install 'deemo-jax[audit]'"


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Where a distribution `carrier` is installed, with a file `carrier/model.bin`."""

    class Carrier:
        def locate_file(self, path):
            return tmp_path / path

    real = metadata.distribution
    monkeypatch.setattr(
        metadata,
        "distribution",
        lambda name: Carrier() if name == "carrier" else real(name),
    )
    (tmp_path / "carrier").mkdir()
    (tmp_path / "carrier" / "model.bin").write_bytes(b"weights")
    return tmp_path


def test_it_is_found_whole_or_by_its_first_digits(installed):
    path = installed / "carrier" / "model.bin"
    digest = hashlib.sha256(b"weights").hexdigest()
    for sha256 in ("", digest[:12], digest):
        found = packaged_file("carrier", "carrier/model.bin", remedy="", sha256=sha256)
        assert found == path


def test_a_real_one_is_found():
    assert packaged_file("pytest", "pytest/__init__.py", remedy=HELP).is_file()


@pytest.mark.parametrize(
    ("named", "fields", "said"),
    [
        (("no-such-thing", "a.bin"), {}, "no-such-thing is not installed: "),
        (("no-such-thing", "a"), {"called": "CAM++"}, r"^CAM\+\+ is not installed: "),
        (("carrier", "carrier/b.bin"), {}, "carrier has no carrier/b.bin: "),
        (("carrier", "carrier"), {}, "carrier has no carrier: "),
        (
            ("carrier", "carrier/model.bin"),
            {"sha256": "0" * 12},
            "carrier's carrier/model.bin has SHA-256 [0-9a-f]{64}: ",
        ),
    ],
)
def test_what_is_not_there_is_named_with_the_remedy(installed, named, fields, said):
    with pytest.raises(ValueError, match=said + "pip install"):
        packaged_file(*named, remedy=HELP, **fields)
