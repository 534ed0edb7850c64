import json
import os
import pickle
import zipfile
from argparse import Namespace

import pytest
import torch

from tests.runs import make_run
from xeval.checkpoints import load as checkpoints
from xeval.data import DatasetInfo
from xeval.errors import CheckpointError, DataError, UsageError
from xeval.models import ModelSpec, build

INFO = DatasetInfo("cifar10", tuple("abcdefghij"), (0.5,) * 3, (0.25,) * 3, 3, 32)


def describe():
    return INFO


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a) and set(a) == set(b)


def test_run_directory_file_and_export_are_the_same_model(tmp_path):
    run, model = make_run(tmp_path / "run")
    checkpoints.export(run, tmp_path / "ckpt.pt")
    loaded = [checkpoints.load_model(path) for path in (run, run / "best.safetensors", tmp_path / "ckpt.pt")]
    assert len({one.sha256 for one in loaded}) == 1
    assert all(same(one.model.state_dict(), model.state_dict()) for one in loaded)
    assert all(one.card.method == "excon" and one.weights == "best" for one in loaded)
    assert checkpoints.load_model(run, weights="last").sha256 != loaded[0].sha256
    assert checkpoints.load_model(run / "last.safetensors").weights == "last"


def test_export_is_loadable_with_weights_only(tmp_path):
    run, _ = make_run(tmp_path / "run")
    checkpoints.export(run, tmp_path / "ckpt.pt")
    content = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    assert json.loads(content["xeval"])["name"] == "digits-excon-s0"


def save(tensors, path):
    torch.save(tensors, path)
    return path


def test_bare_state_dict_infers_the_architecture(tmp_path):
    model = build(ModelSpec(arch="resnet18-cifar", num_classes=10, image_size=32))
    loaded = checkpoints.load_model(save(model.state_dict(), tmp_path / "bare.pt"), describe=describe)
    assert loaded.spec.arch == "resnet18-cifar"
    assert any("class order taken from cifar10" in note for note in loaded.notes)
    with pytest.raises(UsageError, match="name one with --dataset"):
        checkpoints.load_model(tmp_path / "bare.pt")


def test_torchvision_names_and_the_parallel_prefix_are_read(tmp_path):
    import torchvision

    theirs = torchvision.models.resnet18(num_classes=10)
    loaded = checkpoints.load_model(save(theirs.state_dict(), tmp_path / "tv.pth"), describe=describe)
    assert loaded.spec.arch == "resnet18"
    ours = build(ModelSpec(arch="resnet18", num_classes=10, image_size=32))
    parallel = {f"module.{name}": tensor for name, tensor in ours.state_dict().items()}
    loaded = checkpoints.load_model(save(parallel, tmp_path / "dp.pth"), describe=describe)
    assert "stripped the prefix module." in loaded.notes
    plain = checkpoints.load_model(save(ours.state_dict(), tmp_path / "plain.pth"), describe=describe)
    assert plain.sha256 == loaded.sha256


def test_missing_extra_and_misshapen_tensors_are_listed(tmp_path):
    state = build(ModelSpec(arch="resnet-small", num_classes=10, image_size=32)).state_dict()
    missing = {name: tensor for name, tensor in state.items() if name != "backbone.bn1.weight"}
    extra = {**state, "backbone.surprise": torch.zeros(1)}
    wrong = {**state, "backbone.conv1.weight": torch.zeros(16, 3, 5, 5)}
    cases = [
        (missing, "missing backbone.bn1.weight"),
        (extra, "extra backbone.surprise"),
        (wrong, "has shape .16, 3, 5, 5., expected .16, 3, 3, 3."),
    ]
    for number, (tensors, message) in enumerate(cases):
        path = save(tensors, tmp_path / f"{number}.pt")
        with pytest.raises(CheckpointError, match=message):
            checkpoints.load_model(path, arch="resnet-small", describe=describe)


def test_wrong_head_nan_and_encoder_only(tmp_path):
    state = build(ModelSpec(arch="resnet-small", num_classes=7, image_size=32)).state_dict()
    with pytest.raises(DataError, match="head has 7 outputs, cifar10 has 10 classes"):
        checkpoints.load_model(save(state, tmp_path / "head.pt"), arch="resnet-small", describe=describe)
    state = build(ModelSpec(arch="resnet-small", num_classes=10, image_size=32)).state_dict()
    bad = {**state, "backbone.conv1.weight": state["backbone.conv1.weight"] * float("nan")}
    with pytest.raises(DataError, match="backbone.conv1.weight .* NaN"):
        checkpoints.load_model(save(bad, tmp_path / "nan.pt"), arch="resnet-small", describe=describe)
    encoder = {name: tensor for name, tensor in state.items() if not name.startswith("head")}
    with pytest.raises(CheckpointError, match="no linear head — run: xeval probe"):
        checkpoints.load_model(save(encoder, tmp_path / "enc.pt"), arch="resnet-small", describe=describe)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_pickled_payload_never_runs(tmp_path, suffix):
    marker = tmp_path / "ran"
    path = tmp_path / f"evil{suffix}"
    torch.save({"state_dict": Payload(marker)}, path)
    with pytest.raises(CheckpointError, match=r"refused globals: .*system|not a safetensors file"):
        checkpoints.load_model(path, describe=describe)
    path.write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(CheckpointError):
        checkpoints.load_model(path, describe=describe)
    assert not marker.exists()


def test_a_namespace_is_refused_by_name(tmp_path):
    path = save({"opt": Namespace(lr=0.5), "encoder": {}}, tmp_path / "excon.pth")
    with pytest.raises(CheckpointError, match="argparse.Namespace"):
        checkpoints.load_model(path, describe=describe)


def test_truncated_empty_and_odd_files(tmp_path):
    state = build(ModelSpec(arch="cnn-tiny", num_classes=10, image_size=32)).state_dict()
    path = save(state, tmp_path / "t.pt")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError):
        checkpoints.load_model(path, describe=describe)
    (tmp_path / "empty.pt").touch()
    with pytest.raises(CheckpointError, match="not a regular file with content"):
        checkpoints.load_model(tmp_path / "empty.pt", describe=describe)
    os.mkfifo(tmp_path / "fifo.pt")
    with pytest.raises(CheckpointError, match="not a regular file"):
        checkpoints.load_model(tmp_path / "fifo.pt", describe=describe)
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("hello", "world")
    with pytest.raises(CheckpointError):
        checkpoints.load_model(tmp_path / "zip.pt", describe=describe)
    with pytest.raises(CheckpointError, match="holds a Tensor"):
        checkpoints.load_model(save(torch.zeros(3), tmp_path / "tensor.pt"), describe=describe)


def test_a_run_whose_weights_changed_is_refused(tmp_path):
    run, _ = make_run(tmp_path / "run")
    path = run / "best.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="its manifest says"):
        checkpoints.load_model(run)
    path.unlink()
    with pytest.raises(CheckpointError, match="has no best.safetensors"):
        checkpoints.load_model(run)
    with pytest.raises(CheckpointError, match="not a regular file.* no complete run"):
        checkpoints.load_model(tmp_path / "run" / "..")


def test_unknown_architecture_and_ambiguous_shapes(tmp_path):
    state = build(ModelSpec(arch="cnn-tiny", num_classes=10, image_size=32)).state_dict()
    path = save(state, tmp_path / "a.pt")
    with pytest.raises(UsageError, match="did you mean 'resnet18'"):
        checkpoints.load_model(path, arch="resnet-18", describe=describe)
    with pytest.raises(CheckpointError, match="no known architecture"):
        checkpoints.load_model(save({**state, "backbone.x": torch.zeros(1)}, tmp_path / "b.pt"), describe=describe)


def test_loading_leaves_the_global_random_state_alone(tmp_path):
    run, _ = make_run(tmp_path / "run")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    checkpoints.load_model(run)
    assert torch.equal(torch.rand(1), expected)
