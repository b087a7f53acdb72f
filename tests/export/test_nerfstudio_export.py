"""`ns-export` on our runs: kinds that do not work end in a message that names ours; placements are written."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from nerfstudio.scripts import exporter

from skyfall_ns.export import nerfstudio_export
from skyfall_ns.export.nerfstudio_export import prepare_export, prepare_running_export
from skyfall_ns.preflight import OUR_EXPORTS


def test_every_other_kind_of_nerfstudio_is_answered():
    kinds = {annotated.__metadata__[0].name for annotated in exporter.Commands.__origin__.__args__} if hasattr(
        exporter.Commands, "__origin__") else set()  # fmt: skip
    assert kinds == {*OUR_EXPORTS, "gaussian-splat"}


@pytest.mark.parametrize(
    "arguments", [["--load-config", "a/c.yml"], ["--load_config", "a/c.yml"], ["--load-config=a/c.yml"]]
)
def test_the_placement_is_written_after_the_file(arguments, tmp_path, monkeypatch):
    written = []
    module = SimpleNamespace(ExportGaussianSplat=SimpleNamespace(write_ply=lambda *a: written.append(a[0])))
    monkeypatch.setattr(nerfstudio_export, "read_provenance", lambda path, scene: written.append(path))
    monkeypatch.setattr(nerfstudio_export, "write_placement", lambda path, placement: written.append(placement))
    normalized = SimpleNamespace(scene=SimpleNamespace(frame="frame"), scale=0.01, center_m=(1.0, 2.0, 0.0))
    prepare_export(module, SimpleNamespace(normalized=normalized), ["gaussian-splat", *arguments])
    module.ExportGaussianSplat.write_ply(str(tmp_path / "splat.ply"), 3, {})
    assert written[:2] == [str(tmp_path / "splat.ply"), Path("a/c.yml")]
    assert written[2].unit_m == 100.0 and written[2].offset_m == (1.0, 2.0, 0.0)


def test_other_programs_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/ns-eval", "tsdf"])
    prepare_running_export(SimpleNamespace())
