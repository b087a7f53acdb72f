"""Outputs are checked before work begins."""

import sys
from pathlib import Path

import pytest

from skyfall_ns.errors import SkyfallError
from skyfall_ns.export.rpc_export import RpcExport
from skyfall_ns.io.outputs import check_output_directory, check_output_files
from skyfall_ns.scripts import evaluate, path


def test_directories_are_created_and_files_in_their_place_refused(tmp_path):
    check_output_directory("--output-dir", tmp_path / "a/b")
    assert (tmp_path / "a/b").is_dir() and not list((tmp_path / "a/b").iterdir())
    check_output_directory("--output-dir", None)
    (tmp_path / "file").touch()
    for directory, words in ((tmp_path / "file", "is a file. Give"), (tmp_path / "file/x", "cannot be written")):
        with pytest.raises(SkyfallError, match=words) as raised:
            check_output_directory("--output-dir", directory)
        assert str(raised.value).count(". ") == 1


def test_files_are_refused_where_a_directory_is(tmp_path):
    check_output_files({"--json": tmp_path / "new/a.json", "--map": None})
    assert (tmp_path / "new").is_dir()
    with pytest.raises(SkyfallError, match=r"--json .* is a directory\. Give"):
        check_output_files({"--json": tmp_path})


@pytest.mark.parametrize(
    "words",
    [
        "skyfall-eval dsm A.tif B.tif --json {d}",
        "skyfall-eval dsm A.tif B.tif --map {d}",
        "skyfall-eval views --load-config c.yml --truth t --json {d}",
        "skyfall-path orbit --load-config c.yml --output {d}",
    ],
)
def test_commands_refuse_a_directory_before_any_work(words, tmp_path, monkeypatch, capsys):
    """The inputs do not exist: the output is checked first."""
    monkeypatch.setattr(sys, "argv", words.format(d=tmp_path).split())
    with pytest.raises(SystemExit) as raised:
        {"skyfall-eval": evaluate, "skyfall-path": path}[words.split()[0]].main()
    assert raised.value.code == 1
    assert f"{tmp_path} is a directory. Give the name of a file in it.\n" in capsys.readouterr().err


def test_the_export_of_rpcs_refuses_a_file_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SkyfallError, match=r"--output-dir .*file is a file\. Give"):
        RpcExport(Path("absent.yml"), tmp_path / "file").run()
