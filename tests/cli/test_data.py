"""Training on data sets from files."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Gradlag, Start
from tests.unit.data_files import IDX, write_cifar10, write_images, write_mnist

RUN = ("run", "bp", "--modules", 1, "--model", "mlp:1x16", "--json")


def test_every_runtime_sees_the_same_files_varied_alike(
    gradlag: Gradlag, start: Start, tmp_path: Path
) -> None:
    """The process of the worker reads the files itself; five batches are of two epochs."""
    write_mnist(tmp_path / "files" / "MNIST" / "raw", samples=12, packed=True)
    options = ("--data", "mnist", "--data-dir", "files", "--batch-size", 4, "--batches", 5)
    running = start(*RUN, *options, "--augment", "--runtime", "processes")
    within = gradlag(*RUN, *options, "--augment", "--runtime", "threads").json
    plain = gradlag(*RUN, *options, "--runtime", "threads").json
    out, err = running.communicate(timeout=100)
    assert running.returncode == 0, err
    found = json.loads(out)
    assert (found["data"], found["augment"], found["batches_finished"]) == ("mnist", True, 5)
    for key in ("first_loss", "final_loss", "accuracy"):
        assert found[key] == pytest.approx(within[key])
    assert plain["first_loss"] != pytest.approx(within["first_loss"])
    assert "augment" not in plain


def test_training_on_images_that_are_decoded_as_they_come(
    gradlag: Gradlag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "photos")
    monkeypatch.setenv("GRADLAG_DATA", "photos")
    options = ("--data", "images", "--batch-size", 3, "--epochs", 2, "--runtime", "threads")
    found = gradlag(*RUN, *options).json
    assert found["batches_finished"] == 4
    assert found["accuracy"] in (0, 0.5, 1)


def test_what_is_said_of_files(gradlag: Gradlag, tmp_path: Path) -> None:
    write_cifar10(tmp_path / "here")
    gradlag(*RUN, "--data", "mnist", "--data-dir", "here").refused(
        f"--data-dir is '{tmp_path / 'here'}'", IDX[0], "of MNIST", "MNIST/raw"
    )
    gradlag(*RUN, "--data", "cifar10").refused(f"--data-dir is '{tmp_path / 'data'}': must be a fo")
    (tmp_path / "here" / "test_batch.bin").write_bytes(b"cut off")
    gradlag(*RUN, "--data", "cifar10", "--data-dir", "here").refused(
        "test_batch.bin is 7: must be a multiple of the 3073 bytes"
    )
    gradlag(*RUN, "--data-dir", "here").refused("--data-dir is 'here'", "left out for digits")
    gradlag(*RUN, "--augment").refused("--augment is True", "left out for digits")
    write_cifar10(tmp_path / "here")
    gradlag(*RUN, "--data", "cifar10", "--data-dir", "here", "--batch-size", 21).refused(
        "--batch-size is 21", "the 20 samples of cifar10"
    )
