"""The promise of exact resumption: `kill -9` at any moment, the same command again, the same weights in every bit."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.helpers.school import HARD, HINT, SOFT, Kill, Trained, Training, killed, same

if TYPE_CHECKING:
    from pathlib import Path

EVERY_STEP = {"epochs": 3, "batch_size": 8, "checkpoint_seconds": 0}
CRD = {"loss": "crd", "dim": 8, "negatives": 5, "student_layers": "features.5", "teacher_layers": "features.5"}
TRAININGS: dict[str, Training] = {
    "sgd, dropout, batch norm": Training(EVERY_STEP),
    "adamw, ema, accumulate, clip": Training(
        {**EVERY_STEP, "epochs": 6, "optimizer": "adamw", "ema": 0.9, "accumulate": 2, "clip_norm": 0.5}
    ),
    "the best epoch": Training({**EVERY_STEP, "validation_fraction": 0.3, "select": "best", "patience": 2, "ema": 0.6}),
    "memory, projector": Training({**EVERY_STEP, "objective": [HARD, HINT, CRD]}),
    "augmented, channels last, bf16": Training(
        {**EVERY_STEP, "channels_last": True, "precision": "bf16", "augment": {"crop_padding": 1, "noise": 0.1}}
    ),
    "phases": Training(
        {
            **EVERY_STEP,
            "scheme": {
                "kind": "multi_stage",
                "phases": [{"epochs": 1, "objective": [HINT]}, {"epochs": 2, "objective": [SOFT, HARD]}],
            },
        }
    ),
    "generations": Training({**EVERY_STEP, "epochs": 2, "scheme": {"kind": "born_again"}}),
    "peers": Training({**EVERY_STEP, "scheme": {"kind": "mutual"}}),
    "exits": Training({**EVERY_STEP, "scheme": {"kind": "self", "layers": ["features.2"]}}),
}


def assert_equal(resumed: Trained, undisturbed: Trained) -> None:
    assert same(resumed.weights, undisturbed.weights)
    assert resumed.logs == undisturbed.logs
    assert resumed.witness.epochs == undisturbed.witness.epochs


@pytest.mark.parametrize("name", TRAININGS)
def test_killed_twice_anywhere_a_training_ends_as_if_it_had_not_been(name: str, tmp_path: Path) -> None:
    training = TRAININGS[name]
    undisturbed = training.run(tmp_path / "undisturbed")
    steps = len(undisturbed.witness.steps)
    chance = random.Random(name)  # noqa: S311 - any places will do, the same in every run
    first = chance.randrange(2, steps // 2)
    killed(training, tmp_path / "killed", Kill("step", first))
    event = chance.choice(["step", "epoch", "open", "os.rename"])
    killed(training, tmp_path / "killed", Kill(event, 2 if event == "epoch" else chance.randrange(2, steps // 2 - 1)))
    resumed = training.run(tmp_path / "killed")
    assert 0 < len(resumed.witness.steps) <= steps - first + 1  # it went on, it did not start again
    assert_equal(resumed, undisturbed)


@pytest.mark.parametrize("event", ["epoch", "open", "os.rename"])
def test_killed_between_epochs_or_in_the_middle_of_a_checkpoint(event: str, tmp_path: Path) -> None:
    training = TRAININGS["sgd, dropout, batch norm"]
    killed(training, tmp_path / "killed", Kill(event, 2 if event == "epoch" else 9))
    assert_equal(training.run(tmp_path / "killed"), training.run(tmp_path / "undisturbed"))


def test_a_kill_before_the_next_checkpoint_loses_no_line_of_the_log(tmp_path: Path) -> None:
    """The second process reads the log, and is killed before it has anything new to keep."""
    training = Training(EVERY_STEP)
    rarely = Training({**EVERY_STEP, "checkpoint_seconds": 1000})
    killed(training, tmp_path / "killed", Kill("step", 7))
    killed(rarely, tmp_path / "killed", Kill("step", 2))
    assert_equal(training.run(tmp_path / "killed"), training.run(tmp_path / "undisturbed"))


def test_the_log_holds_every_step_once(tmp_path: Path) -> None:
    training = TRAININGS["sgd, dropout, batch norm"]
    killed(training, tmp_path / "killed", Kill("os.rename", 8))
    lines = training.run(tmp_path / "killed").logs["student"].splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", *map(str, range(1, 16))]


@pytest.mark.parametrize("damage", ["cut", "one bit of a weight", "empty", "another file"])
def test_a_damaged_checkpoint_is_not_believed(damage: str, tmp_path: Path) -> None:
    training = TRAININGS["sgd, dropout, batch norm"]
    undisturbed = training.run(tmp_path / "undisturbed")
    killed(training, tmp_path / "killed", Kill("step", 6))
    path = tmp_path / "killed" / "student" / "checkpoint.pt"
    whole = path.read_bytes()
    path.write_bytes(damaged(whole, damage))
    resumed = training.run(tmp_path / "killed")
    assert len(resumed.witness.steps) == len(undisturbed.witness.steps)
    assert_equal(resumed, undisturbed)


def damaged(whole: bytes, damage: str) -> bytes:
    match damage:
        case "cut":
            return whole[: len(whole) // 2]
        case "one bit of a weight":
            place = whole.index(memory_of_a_weight(whole))
            return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        case "empty":
            return b""
        case _:
            return b"PK\x03\x04 this is no checkpoint"


def memory_of_a_weight(whole: bytes) -> bytes:
    """The bytes of the first convolution, as they stand in the file."""
    import io

    document: Any = torch.load(io.BytesIO(whole[whole.index(b"PK\x03\x04") :]), weights_only=True)
    weights = next(tensor for name, tensor in document["learner"].items() if name.endswith("features.0.weight"))
    found: bytes = weights.numpy().tobytes()
    return found


def test_a_finished_training_is_told_again_and_not_repeated(tmp_path: Path) -> None:
    training = TRAININGS["the best epoch"]
    first = training.run(tmp_path)
    again = training.run(tmp_path)
    assert again.witness.steps == []
    assert_equal(again, first)
