"""`skyfall-batch`: stage 1 and stage 2 of many scenes, one after another, or on several machines by shards.

Every stage is one call of ns-train. A stage that is done is not repeated, and one that was stopped resumes, so the same
command continues a batch.
"""

import json
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from skyfall_ns.errors import SkyfallError
from skyfall_ns.io.files import write_json
from skyfall_ns.scripts._cli import run_command
from skyfall_ns.scripts._programs import find_program

STAGES = ("stage1", "stage2")
NO_STAGE = "none"
TIMESTAMP = "batch"  # of the runs, so that they are found again
STATE_FILE = "batch.json"


@dataclass(frozen=True)
class Batch:
    """Train many scenes; the same command resumes a batch, and prints its table."""

    scenes: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="SCENES")]
    """Scene directories, with different names."""
    output_dir: Path = Path("outputs")
    """Directory of all runs: OUTPUT_DIR/SCENE/METHOD/batch."""
    stage1: str = "skyfall"
    """Method of stage 1 and its options, as for ns-train, in quotes."""
    stage2: str = "skyfall-idu"
    """Method of stage 2 and its options; none: stage 1 only."""
    shard: Annotated[str, tyro.conf.arg(metavar="K/N")] = "1/1"
    """Train only the K-th of N parts of the scenes: N machines or GPUs with K = 1 to N and one output directory share
    the scenes."""
    json: Path | None = None
    """Write the table to this file."""

    def main(self) -> None:
        """Train the scenes of the shard, and print the table of all scenes. Raises SkyfallError at the end if a stage
        failed."""
        check_scenes(self.scenes)
        number, count = parse_shard(self.shard)
        for scene in self.scenes[number - 1 :: count]:
            self._train_scene(scene)
        rows = [row for scene in self.scenes for row in self._table_rows(scene)]
        print(format_table(rows))
        if self.json:
            write_json(self.json, {"stages": rows})
        failed = sorted({row["scene"] for row in rows if row["state"] == "failed"})
        if failed:
            raise SkyfallError(
                f"Training failed for {', '.join(failed)}. Read the logs that the table names, then run the same "
                "command again."
            )

    def _train_scene(self, scene: Path) -> None:
        """Run the stages of a scene that are not done; after a failure the next scene follows."""
        for stage in self._stages():
            state = read_state(self._directory(scene))
            command = self._command(scene, stage)
            if _is_done(state, stage, command, self._directory(scene)):
                continue
            print(f"{scene.name}: {stage}", flush=True)
            start = time.perf_counter()
            log = self._directory(scene) / f"{stage}.log"
            done = run_logged([*command, *self._resume_arguments(scene, stage)], log)
            seconds = time.perf_counter() - start + state.get(stage, {}).get("seconds", 0.0)
            record = {"command": command, "state": "done" if done else "failed", "seconds": seconds, "log": str(log)}
            write_json(self._directory(scene) / STATE_FILE, state | {stage: record})
            if not done:
                return

    def _stages(self) -> tuple[str, ...]:
        return STAGES[:1] if self.stage2 == NO_STAGE else STAGES

    def _directory(self, scene: Path) -> Path:
        return self.output_dir / scene.name

    def _run_directory(self, scene: Path, stage: str) -> Path:
        return self._directory(scene) / _method_and_options(getattr(self, stage), stage)[0] / TIMESTAMP

    def _command(self, scene: Path, stage: str) -> list[str]:
        """The call of ns-train without arguments of a resume."""
        method, *options = _method_and_options(getattr(self, stage), stage)
        command = ["ns-train", method, "--data", str(scene), "--output-dir", str(self.output_dir)]
        command += ["--experiment-name", scene.name, "--timestamp", TIMESTAMP, "--vis", "tensorboard", *options]
        if stage == "stage2":
            command += ["--pipeline.stage1", str(self._run_directory(scene, "stage1") / "config.yml")]
        return command

    def _resume_arguments(self, scene: Path, stage: str) -> list[str]:
        checkpoints = self._run_directory(scene, stage) / "nerfstudio_models"
        return ["--load-dir", str(checkpoints)] if any(checkpoints.glob("step-*.ckpt")) else []

    def _table_rows(self, scene: Path) -> list[dict[str, Any]]:
        """State of each stage, of this shard or of another one."""
        state, rows = read_state(self._directory(scene)), []
        for stage in self._stages():
            record = state.get(stage, {})
            method = _method_and_options(getattr(self, stage), stage)[0]
            rows.append({
                "scene": scene.name, "stage": stage, "method": method, "state": record.get("state", "not started"),
                "seconds": record.get("seconds"), "log": record.get("log"),
            })  # fmt: skip
        return rows


def check_scenes(scenes: Sequence[Path]) -> None:
    """Raise SkyfallError for no scenes, for a directory that is no scene, or for two of the same name."""
    if not scenes:
        raise SkyfallError("There are no scenes. Pass scene directories of skyfall-process.")
    for scene in scenes:
        if not (scene / "scene.json").is_file():
            raise SkyfallError(f"{scene} is not a scene: it has no scene.json. Pass directories of skyfall-process.")
    names = [scene.name for scene in scenes]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise SkyfallError(f"Two scenes have the name {double}, and would share a run. Rename one of the directories.")


def parse_shard(text: str) -> tuple[int, int]:
    """(K, N) of "K/N". Raises SkyfallError unless 1 <= K <= N."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise SkyfallError(f"--shard is {text}, not a part of several. Pass K/N with K from 1 to N, such as 1/4.")
    return int(number), int(count)


def read_state(directory: Path) -> dict[str, Any]:
    """Records of the stages of a scene; {} before the first one. Raises SkyfallError if the file is damaged."""
    path = directory / STATE_FILE
    if not path.exists():
        return {}
    try:
        state = json.loads(path.read_text())
        return {stage: dict(state[stage]) for stage in STAGES if stage in state}
    except (ValueError, TypeError) as error:
        raise SkyfallError(f"{path} is damaged. Remove it, and the batch resumes from its checkpoints.") from error


def run_logged(command: Sequence[str], log: Path) -> bool:
    """Run a command, append its output to a log, and return whether it succeeded."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        file.write(f"$ {shlex.join(command)}\n")
        file.flush()
        program = [find_program(command[0]), *command[1:]]
        return subprocess.run(program, stdout=file, stderr=subprocess.STDOUT).returncode == 0


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of the batch as aligned text."""
    head = ("scene", "stage", "method", "state", "minutes", "log")
    lines: list[tuple[str, ...]] = [head]
    for row in rows:
        minutes = "" if row["seconds"] is None else f"{row['seconds'] / 60:.1f}"
        lines.append((row["scene"], row["stage"], row["method"], row["state"], minutes, row["log"] or ""))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _method_and_options(text: str, stage: str) -> list[str]:
    words = shlex.split(text)
    if not words:
        raise SkyfallError(f"--{stage} is empty. Pass a method of ns-train, and its options.")
    return words


def _is_done(state: dict[str, Any], stage: str, command: list[str], directory: Path) -> bool:
    """Whether a stage is done. Raises SkyfallError if it was run with other options."""
    record = state.get(stage)
    if record is None:
        return False
    if record["command"] != command:
        raise SkyfallError(
            f"{directory} was trained with other options of {stage}: {shlex.join(record['command'])}. "
            "Pass the same options, or another --output-dir."
        )
    return record["state"] == "done"


def main() -> None:
    """Entry point."""
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    run_command(lambda: tyro.cli(Batch, prog="skyfall-batch", description=__doc__, config=config).main())
