import copy
import logging
from urllib.error import URLError

import pytest
import torch
from torchvision import models
from torchvision.models._api import WeightsEnum

from interp_train.backbones.torchvision_backbone import torchvision_backbone
from interp_train.backbones.weights import load_weights, weights_file
from tests.backbones.networks import tiny_backbone


@pytest.fixture
def saved(tmp_path):
    """Function: write a state dict, return its path."""

    def save(state, name="weights.pth"):
        torch.save(state, tmp_path / name)
        return str(tmp_path / name)

    return save


def wrapped(state, prefix):
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: wrapped(state, "module."),
        lambda state: {"state_dict": wrapped(state, "network._orig_mod.")},
        lambda state: {"model": wrapped(state, "module.")},
        lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
    ],
)
def test_plain_and_wrapped_files_are_read(saved, change):
    source, network = tiny_backbone(), tiny_backbone()
    load_weights(network, saved(change(source.state_dict())))
    for key, value in source.state_dict().items():
        assert torch.equal(network.state_dict()[key], value)


def test_half_precision_is_converted(saved):
    source, network = tiny_backbone(), tiny_backbone()
    load_weights(network, saved(copy.deepcopy(source).half().state_dict()))
    assert network.conv.weight.dtype == torch.float32
    assert torch.equal(network.conv.weight, source.conv.weight.half().float())


def test_missing_extra_and_misshapen_keys_are_listed(saved):
    state = tiny_backbone().state_dict()
    state["feature.0.weight"] = state.pop("features.0.weight")
    state["fc.weight"] = torch.zeros(9, 6)
    with pytest.raises(ValueError, match=r"`weights` must fit the network") as caught:
        load_weights(tiny_backbone(), saved(state))
    message = str(caught.value)
    assert "1 missing keys (features.0.weight)" in message
    assert "1 extra keys (feature.0.weight, closest to 'feature.0.weight': 'features.0." in message
    assert "1 keys of another shape (fc.weight (9, 6) for (5, 6))" in message
    assert "`classifier` to false" in message


def test_nothing_is_loaded_where_something_is_wrong(saved):
    network, state = tiny_backbone(), tiny_backbone().state_dict()
    before = copy.deepcopy(network.state_dict())
    del state["norm.weight"]
    with pytest.raises(ValueError, match=r"1 missing keys \(norm.weight\)"):
        load_weights(network, saved(state))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_classifier_that_is_replaced_need_not_fit(saved, caplog):
    file = saved(models.squeezenet1_0(num_classes=7).state_dict())
    with pytest.raises(ValueError, match=r"classifier.1.weight \(7, 512, 1, 1\) for \(1000,"):
        torchvision_backbone("squeezenet1_0", weights=file)
    with caplog.at_level(logging.INFO):
        backbone = torchvision_backbone("squeezenet1_0", weights=file, classifier=False)
    assert "left out: classifier.1.bias, classifier.1.weight" in caplog.text
    expected = torch.load(file, weights_only=True)["features.0.weight"]
    assert torch.equal(backbone.features[0].weight, expected)


def test_a_trunk_without_classifier_is_enough_for_a_cut(saved):
    state = models.squeezenet1_0().state_dict()
    file = saved({key: value for key, value in state.items() if key.startswith("features")})
    backbone = torchvision_backbone("squeezenet1_0", weights=file, cut="features.11")
    assert torch.equal(backbone.features[0].weight, state["features.0.weight"])


def test_relative_files_are_looked_for_in_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mine.pth").write_bytes(b"")
    monkeypatch.setenv("INTERP_TRAIN_DATA", str(tmp_path))
    assert weights_file("mine.pth") == tmp_path / "weights" / "mine.pth"
    with pytest.raises(FileNotFoundError, match=r"but got 'yours.pth'. Looked for: .*yours.pth"):
        weights_file("yours.pth")


def test_an_unknown_weight_name_lists_the_known():
    with pytest.raises(FileNotFoundError, match=r"names \(DEFAULT, IMAGENET1K_V1\).*'IMAGENET'"):
        torchvision_backbone("squeezenet1_0", weights="IMAGENET")


def test_a_failing_download_names_the_file_to_fetch(monkeypatch):
    def refuse(self, *args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", refuse)
    with pytest.raises(ConnectionError, match=r"not \(.*no route.*Download https://.*squeezenet1"):
        torchvision_backbone("squeezenet1_0", weights="DEFAULT")


def test_named_weights_are_loaded_and_old_keys_renamed(monkeypatch):
    state = models.densenet121().state_dict()
    old = {}
    for key, value in state.items():
        for name in ("norm", "relu", "conv"):
            for number in "12":
                if "denselayer" in key:
                    key = key.replace(f".{name}{number}.", f".{name}.{number}.")
        old[key] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, *args, **kwargs: old)
    backbone = torchvision_backbone("densenet121", weights="IMAGENET1K_V1")
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"\x80\x02N."])
def test_a_file_that_is_no_state_dict_is_refused(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"`weights` must (be a file of tensors|hold a state dict)"
    ):
        load_weights(tiny_backbone(), str(tmp_path / "weights.pth"))


class Payload:
    """Would run code if it were unpickled without restrictions."""

    def __reduce__(self):
        return (pytest.fail, ("code of the file was run",))


def test_code_in_a_file_is_not_run(saved):
    with pytest.raises(ValueError, match=r"`weights` must be a file of tensors"):
        load_weights(tiny_backbone(), saved({"conv.weight": Payload()}))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("squeezenet1_0", "squeezenet1_0_deepcompression.pth"),
        ("mobilenet_v2", "mobilenet_v2_dequantized_fp16.pth"),
    ],
)
def test_stored_weights_fit(data_folder, name, file):
    data_folder("weights")
    backbone = torchvision_backbone(name, weights=file).eval()
    expected = models.get_model(name, weights=None).eval()
    state = torch.load(weights_file(file), weights_only=True)
    expected.load_state_dict({key: value.float() for key, value in state.items()})
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), expected(images), rtol=0, atol=0)
