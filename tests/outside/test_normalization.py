"""Constants for weights that carry none: the numbers are those of the network on images normalised by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import xeval
from tests.commands import here
from tests.data.makers import png, write_tree
from tests.outside.networks import MEAN, STD
from tests.runs import make_run
from xeval.checkpoints import sandbox
from xeval.checkpoints.card import read_card
from xeval.checkpoints.convert import import_checkpoint
from xeval.checkpoints.load import export, load_model
from xeval.checkpoints.normalization import Wish
from xeval.checkpoints.weightfiles import write_tensors
from xeval.data import DatasetInfo, open_dataset
from xeval.errors import DataError, UsageError
from xeval.models import Classifier, ModelSpec, build
from xeval.reports.explain import explain
from xeval.runtime.files import read_json
from xeval.runtime.progress import Silent
from xeval.training.encoder import probe_encoder

CLASSES, SIDE, EACH = ("ant", "bee", "cow"), 16, 8
SPEC = ModelSpec(arch="resnet-small", num_classes=3, in_channels=3, image_size=SIDE)
QUICK: dict[str, Any] = {"metrics": ("drop",), "explainers": ("grad-cam", "random"), "batch_size": 32}
FLAGS = ("--metrics", "drop", "--explainers", "grad-cam,random", "--batch-size", "32")
WAYS: dict[str, tuple[dict[str, Any], tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ({"normalize": "imagenet"}, MEAN, STD),
    "none": ({"normalize": "none"}, (0.0,) * 3, (1.0,) * 3),
    "each": ({"mean": (0.1, 0.5, 0.9), "std": (0.2, 0.4, 0.6)}, (0.1, 0.5, 0.9), (0.2, 0.4, 0.6)),
    "one": ({"mean": (0.5,), "std": (0.25,)}, (0.5,) * 3, (0.25,) * 3),
}


def colours(seed: int) -> dict[str, bytes]:
    """Images whose class shows in a colour, under noise and of any brightness."""
    generator, files = np.random.default_rng(seed), {}
    for label, name in enumerate(CLASSES):
        for number in range(EACH):
            image = generator.integers(0, 90, (3, SIDE, SIDE)) + generator.integers(0, 100)
            image[label] += 60
            files[f"{name}/{number}.png"] = png(image.astype(np.uint8))
    return files


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take files apart without the cost of a child, and so without its limits."""
    monkeypatch.setattr(sandbox, "_limit_memory", lambda _: None)
    monkeypatch.setattr(sandbox, "_run_child", sandbox.main)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("colours")
    for number, split in enumerate(("train", "test")):
        write_tree(root / split, colours(number))
    return root


@pytest.fixture(scope="module")
def network() -> Classifier:
    """A random network whose answers depend on the normalisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = build(SPEC)
        model.head.weight.data *= 20
    return model.eval()


@pytest.fixture
def weights(tmp_path: Path, network: Classifier) -> Path:
    (tmp_path / "w").mkdir()
    write_tensors(tmp_path / "w" / "plain.safetensors", dict(network.state_dict()))
    return tmp_path / "w" / "plain.safetensors"


def by_hand(data: Path, split: str, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """All images of a split as PIL reads them, float64 arithmetic, and their labels; folders and names are sorted."""
    found, labels = [], []
    for label, name in enumerate(CLASSES):
        for file in sorted((data / split / name).iterdir()):
            with Image.open(file) as image:
                pixels = np.asarray(image, dtype=np.float64) / 255
            found.append(((pixels - np.array(mean)) / np.array(std)).transpose(2, 0, 1))
            labels.append(label)
    return torch.tensor(np.stack(found), dtype=torch.float32), torch.tensor(labels)


def softmax(network: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images).double().softmax(1)


def require_answers(run: Path, wanted: Tensor) -> None:
    """Every stored prediction and probability is the one computed by hand."""
    rows = xeval.results(run)
    rows = rows[rows.explainer == "grad-cam"]
    assert list(rows["predicted"]) == wanted.argmax(1).tolist()
    assert list(rows["p0"]) == pytest.approx(wanted.amax(1).tolist(), abs=1e-5)


def test_the_ways_are_different_networks(network: Classifier, data: Path) -> None:
    """The proofs below would pass on a wrong normalisation if answers did not depend on it."""
    answers = [softmax(network, by_hand(data, "test", mean, std)[0]).amax(1) for _, mean, std in WAYS.values()]
    for number, one in enumerate(answers):
        assert all((one - other).abs().mean() > 0.005 for other in answers[:number])


@pytest.mark.parametrize("way", WAYS)
def test_score(way: str, weights: Path, network: Classifier, data: Path, tmp_path: Path) -> None:
    given, mean, std = WAYS[way]
    found = xeval.score(weights, dataset=f"folder:{data}", out=tmp_path / "s", **given, **QUICK)
    images, labels = by_hand(data, "test", mean, std)
    wanted = softmax(network, images)
    require_answers(tmp_path / "s", wanted)
    summary = found.attrs["summary"]
    assert summary["model"]["accuracy"] == pytest.approx(float((wanted.argmax(1) == labels).float().mean()))
    said = [line for line in summary["conventions"] if "images are normalised with mean" in line]
    assert len(said) == 1
    assert ",".join(f"{value:g}" for value in mean) in said[0]


@pytest.mark.parametrize("way", ["imagenet", "each"])
def test_import(way: str, network: Classifier, data: Path, tmp_path: Path) -> None:
    given, mean, std = WAYS[way]
    theirs = {f"module.{name}": tensor for name, tensor in network.backbone.state_dict().items()}
    theirs |= {f"module.fc.{name}": tensor for name, tensor in network.head.state_dict().items()}
    torch.save({"state_dict": theirs}, tmp_path / "theirs.pth")
    run = import_checkpoint(tmp_path / "theirs.pth", tmp_path / "run", f"folder:{data}", Silent(), **given)
    card = read_card(run)
    assert (card.dataset.mean, card.dataset.std) == (mean, std)
    assert card.recipe["normalization"] == Wish.of(**given).source
    found = xeval.score(run, **QUICK)  # the run carries its constants: nothing is said again
    require_answers(run, softmax(network, by_hand(data, "test", mean, std)[0]))
    assert any("images are normalised" in line for line in found.attrs["summary"]["conventions"])


@pytest.mark.parametrize("way", ["imagenet", "each"])
def test_explain(way: str, weights: Path, network: Classifier, data: Path, tmp_path: Path) -> None:
    given, mean, std = WAYS[way]
    chosen = [data / "test" / name / "0.png" for name in CLASSES]
    found = explain(weights, chosen, tmp_path / "strip.png", dataset=f"folder:{data}", **given)
    wanted = softmax(network, by_hand(data, "test", mean, std)[0][::EACH])
    for line, answer in zip(found.lines, wanted, strict=False):
        assert f"predicted {CLASSES[int(answer.argmax())]}," in line
        assert f"softmax {float(answer.max()):.2f} →" in line
    assert "images are normalised with mean" in found.lines[-1]


@pytest.mark.parametrize("way", ["imagenet", "each"])
def test_probe(way: str, network: Classifier, data: Path, tmp_path: Path) -> None:
    """The head is scikit-learn's logistic regression on features of images normalised by hand."""
    given, mean, std = WAYS[way]
    write_tensors(tmp_path / "encoder.safetensors", dict(network.backbone.state_dict()))
    run = probe_encoder(
        tmp_path / "encoder.safetensors",
        f"folder:{data}",
        out=tmp_path,
        weight_decay=1e-2,
        arch="resnet-small",
        **given,
    )
    card = read_card(run)
    assert (card.dataset.mean, card.dataset.std) == (mean, std)
    images, labels = by_hand(data, "train", mean, std)
    fitted = xeval.data.holdout(labels.numpy(), 0.2, 0)[0]
    with torch.no_grad():
        features = network.features(images)[fitted].double().numpy()
    other = LogisticRegression(C=1 / (1e-2 * len(fitted)), tol=1e-10, max_iter=10_000)
    other.fit(features, labels[fitted].numpy())
    head = load_model(run).model.head
    assert torch.allclose(head.weight.double(), torch.tensor(other.coef_), atol=2e-3)  # type: ignore[union-attr]
    wanted = load_model(run).model.eval()
    xeval.score(run, **QUICK)
    require_answers(run, softmax(wanted, by_hand(data, "test", mean, std)[0]))  # type: ignore[arg-type]


def test_dataset_means_the_constants_of_its_training_images(weights: Path, network: Classifier, data: Path) -> None:
    pixels = by_hand(data, "train", (0.0,) * 3, (1.0,) * 3)[0].double()
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)
    xeval.score(weights, dataset=f"folder:{data}", normalize="dataset", **QUICK)
    by_own = by_hand(data, "test", tuple(mean.round(decimals=4).tolist()), tuple(std.round(decimals=4).tolist()))[0]
    require_answers(weights.parent / f"{weights.name}.xeval", softmax(network, by_own))


# ---- where nothing, too much or something impossible is said


def test_every_command_asks_for_constants_that_only_images_could_tell(
    weights: Path, network: Classifier, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tensors(tmp_path / "encoder.safetensors", dict(network.backbone.state_dict()))
    torch.save(network.state_dict(), tmp_path / "theirs.pth")
    torch.save({**network.backbone.state_dict(), "fc.weight": network.head.weight, "fc.bias": network.head.bias},
               tmp_path / "theirs.pth")  # fmt: skip
    named = ("--dataset", f"folder:{data}")
    out = str(tmp_path / "out")
    commands = {
        "score": (str(weights), *named, "--out", out, *FLAGS),
        "verify": (str(weights), *named, "--n", "4"),
        "explain": (str(weights), str(data / "test/ant/0.png"), *named, "--out", f"{out}.png"),
        "probe": (str(tmp_path / "encoder.safetensors"), *named, "--arch", "resnet-small", "--out", out),
        "import": (str(tmp_path / "theirs.pth"), *named, "--out", out),
    }
    for command, arguments in commands.items():
        code, _, last = here(capsys, command, *arguments)
        assert (command, code) == (command, 2)
        assert "do not say how their images were normalised" in last
        assert all(option in last for option in ("--mean", "--std", "--normalize"))
        assert not Path(out).exists() or not list(Path(out).iterdir())
    for command in ("score", "explain", "probe", "import"):
        code, shown, _ = here(capsys, command, *commands[command], "--mean", "0.5", "--std", "0.25,0.25,0.5")
        assert (command, code) == (command, 0), shown


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"mean": (0.5,)}, "belong together"),
        ({"std": (0.5,)}, "belong together"),
        ({"mean": (0.5,), "std": (0.5,), "normalize": "none"}, "exclude each other"),
        ({"mean": (0.5, 0.5), "std": (0.5, 0.5)}, "2 numbers of the mean do not fit the 3 channels"),
        ({"mean": (0.5,), "std": (0.5, 0.5)}, "2 numbers of the std do not fit"),
        ({"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}, r"does not belong to pixels in \[0, 1\]"),
        ({"mean": (0.5,), "std": (0.0,)}, r"does not belong to pixels in \[0, 1\]"),
        ({"mean": (float("nan"),), "std": (0.1,)}, "does not belong to pixels"),
        ({"mean": "0.5;0.5", "std": "0.5"}, "no list of numbers"),
        ({"normalize": "image"}, "normalize: "),
        ({"normalize": "none", "normalize_from_ckpt": True}, "names the constants already"),
    ],
)
def test_what_has_no_meaning_is_refused(given: dict[str, Any], problem: str, weights: Path, data: Path) -> None:
    with pytest.raises(UsageError, match=problem):
        xeval.score(weights, dataset=f"folder:{data}", **given, **QUICK)


def test_the_words_of_a_module_and_of_a_checkpoint_are_not_mixed_up(weights: Path, network: Classifier) -> None:
    images = [(torch.rand(4, 3, SIDE, SIDE), torch.arange(4) % 3)]
    with pytest.raises(UsageError, match="are for checkpoints"):
        xeval.score(network, images, normalize="none", **QUICK)
    with pytest.raises(UsageError, match="that of a module's loader"):
        xeval.score(weights, normalization=xeval.scoring.module.Normalization(MEAN, STD), **QUICK)


def test_published_constants_are_taken_unasked_and_said(tmp_path: Path) -> None:
    _, model = make_run(tmp_path / "run")
    write_tensors(tmp_path / "plain.safetensors", dict(model.state_dict()))
    found = xeval.score(tmp_path / "plain.safetensors", dataset="digits", limit=8, **QUICK)
    assert "published for digits" in " ".join(found.attrs["summary"]["conventions"])
    with pytest.raises(UsageError, match="3 numbers of the mean do not fit the 1 channels of digits"):
        xeval.score(tmp_path / "plain.safetensors", dataset="digits", normalize="imagenet", limit=8, **QUICK)


# ---- weights that carry constants


@pytest.mark.parametrize("kind", ["run", "export"])
def test_other_constants_than_those_of_training_are_refused(
    kind: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = make_run(tmp_path / "run", arch="resnet-small", info=open_dataset(f"folder:{data}").info)
    export(run, tmp_path / "run.pt")
    checkpoint = str(run if kind == "run" else tmp_path / "run.pt")
    picture = str(data / "test/ant/0.png")
    for arguments in (
        ("score", checkpoint, "--normalize", "imagenet", *FLAGS),
        ("explain", checkpoint, picture, "--normalize", "none", "--out", str(tmp_path / "a.png")),
        ("probe", checkpoint, "--dataset", f"folder:{data}", "--mean", "0.5", "--std", "0.5", "--out", str(tmp_path)),
    ):
        code, _, last = here(capsys, *arguments)
        assert (code, "was trained with mean" in last) == (2, True), last
    assert here(capsys, "score", checkpoint, "--normalize", "dataset", *FLAGS)[0] == 0


def test_a_run_is_probed_under_its_own_constants(data: Path, tmp_path: Path) -> None:
    own = open_dataset(f"folder:{data}").info
    trained = DatasetInfo("elsewhere", own.classes, (0.3, 0.4, 0.5), (0.2, 0.3, 0.4), 3, SIDE)
    run, _ = make_run(tmp_path / "run", arch="resnet-small", info=trained)
    card = read_card(probe_encoder(run, f"folder:{data}", out=tmp_path, method="again"))
    assert (card.dataset.name, card.dataset.mean, card.dataset.std) == (f"folder:{data}", trained.mean, trained.std)


def test_constants_that_a_file_names_are_its_own(network: Classifier, data: Path, tmp_path: Path) -> None:
    state = {**network.backbone.state_dict(), "fc.weight": network.head.weight, "fc.bias": network.head.bias}
    content = {"state_dict": state, "opt": {"mean": "(0.2, 0.3, 0.4)", "std": "(0.5, 0.6, 0.7)"}}
    torch.save(content, tmp_path / "named.pth")
    card = read_card(import_checkpoint(tmp_path / "named.pth", tmp_path / "run", f"folder:{data}", Silent()))
    assert (card.dataset.mean, card.dataset.std) == ((0.2, 0.3, 0.4), (0.5, 0.6, 0.7))
    assert card.recipe["normalization"] == "named by the file"
    with pytest.raises(DataError, match="was trained with mean"):
        import_checkpoint(tmp_path / "named.pth", tmp_path / "no", f"folder:{data}", Silent(), normalize="imagenet")


# ---- rows of two normalisations are rows of two networks


def test_rows_are_kept_apart_and_found_again(weights: Path, network: Classifier, data: Path, tmp_path: Path) -> None:
    """Three normalisations in one store, then the first again: each has its own numbers, nothing is computed twice."""
    out, told = tmp_path / "s", []
    for way in ("none", "imagenet", "each", "none"):
        given, mean, std = WAYS[way]
        xeval.score(weights, dataset=f"folder:{data}", out=out, **given, **QUICK)
        require_answers(out, softmax(network, by_hand(data, "test", mean, std)[0]))
        told.append(read_json(out / "scores.json")["checkpoint"]["sha256"])
    assert told[0] == told[3]
    assert len(set(told)) == 3


def test_the_same_command_has_nothing_to_do(weights: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("score", str(weights), "--dataset", f"folder:{data}", *FLAGS, "--normalize")
    assert "nothing to do" not in here(capsys, *command, "none")[2]
    assert "nothing to do" in here(capsys, *command, "none")[2]
    assert "nothing to do" not in here(capsys, *command, "imagenet")[2]


def test_measured_constants_that_move_make_new_rows(weights: Path, network: Classifier, tmp_path: Path) -> None:
    """The test images stay, the training images change, and with them what ``dataset`` means."""
    for number, split in enumerate(("train", "test")):
        write_tree(tmp_path / "d" / split, colours(number))
    name, out = f"folder:{tmp_path / 'd'}", tmp_path / "s"
    xeval.score(weights, dataset=name, normalize="dataset", out=out, **QUICK)
    write_tree(tmp_path / "d" / "train", {"ant/0.png": png(np.full((3, SIDE, SIDE), 255, np.uint8))})
    xeval.score(weights, dataset=name, normalize="dataset", out=out, **QUICK)
    info = open_dataset(name).info
    require_answers(out, softmax(network, by_hand(tmp_path / "d", "test", info.mean, info.std)[0]))


def test_two_imports_of_one_file_are_two_networks(network: Classifier, data: Path, tmp_path: Path) -> None:
    """Scored into one folder, and compared: neither takes the other's rows, and they are no twins."""
    state = {**network.backbone.state_dict(), "fc.weight": network.head.weight, "fc.bias": network.head.bias}
    torch.save(state, tmp_path / "w.pth")
    for way in ("none", "imagenet"):
        given, mean, std = WAYS[way]
        run = import_checkpoint(
            tmp_path / "w.pth", tmp_path / "runs" / way, f"folder:{data}", Silent(), method=way, seed=0, **given
        )
        for out in (tmp_path / "s", run):
            xeval.score(run, out=out, **QUICK)
            require_answers(out, softmax(network, by_hand(data, "test", mean, std)[0]))
    xeval.compare(tmp_path / "runs", out=tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "none: images are normalised with mean 0,0,0 std 1,1,1" in page
    assert "imagenet: images are normalised with mean 0.485,0.456,0.406" in page


def test_what_is_printed_names_the_constants(weights: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, shown, _ = here(capsys, "score", str(weights), "--dataset", f"folder:{data}", *FLAGS, "--normalize", "imagenet")
    (line,) = re.findall(r"· (images are normalised .*)", shown)
    assert line == "images are normalised with mean 0.485,0.456,0.406 std 0.229,0.224,0.225 (those of ImageNet)"


def test_an_encoder_names_the_constants_for_its_probe(network: Classifier, data: Path, tmp_path: Path) -> None:
    write_tensors(tmp_path / "e.safetensors", dict(network.backbone.state_dict()))
    said: list[str] = []
    progress = Silent()
    progress.say = said.append  # type: ignore[method-assign]
    import_checkpoint(tmp_path / "e.safetensors", tmp_path / "o", f"folder:{data}", progress, normalize="imagenet")
    assert said[-1].endswith(f"--dataset folder:{data} --normalize imagenet")


def test_stored_json_of_a_run_is_plain(network: Classifier, data: Path, tmp_path: Path) -> None:
    torch.save({**network.backbone.state_dict(), "fc.weight": network.head.weight, "fc.bias": network.head.bias},
               tmp_path / "w.pth")  # fmt: skip
    run = import_checkpoint(tmp_path / "w.pth", tmp_path / "run", f"folder:{data}", Silent(), mean="0.5", std="0.2")
    content = json.loads((run / "run.json").read_text())
    assert (content["dataset"]["mean"], content["recipe"]["normalization"]) == ([0.5] * 3, "as given")
