"""Atomic files, JSON and checksums."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from skyfall_ns.io.files import atomic_write, sha256_of_bytes, sha256_of_file, write_json


def test_missing_parents_are_created(tmp_path):
    write_json(tmp_path / "a/b.json", {"x": [1, 2.5], "y": None})
    assert json.loads((tmp_path / "a/b.json").read_text()) == {"x": [1, 2.5], "y": None}
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.json"]


def test_failed_write_keeps_the_previous_file_and_names_it(tmp_path, monkeypatch):
    atomic_write(tmp_path / "a", b"old")

    def fail_halfway(path: Path, data: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", fail_halfway)
    with pytest.raises(OSError, match=str(tmp_path / "a")):
        atomic_write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_checksums_are_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "a") == sha256_of_bytes(b"abc") == hashlib.sha256(b"abc").hexdigest()
