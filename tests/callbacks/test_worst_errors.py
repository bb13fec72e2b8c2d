"""The worst errors: chosen as a slow search does, with the heatmaps of the method."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from interp_train.callbacks.predictions import predict
from interp_train.callbacks.worst_errors import Errors, WorstErrors, worst
from interp_train.diagnosis.heatmaps.saliency import Saliency
from interp_train.structures import Target
from tests.end_to_end.toy import SquareClassifier, SquareData, two_layers


def system():
    torch.manual_seed(2)
    return SquareClassifier(two_layers(), SquareData().info)


def run(folder, callback, module):
    trainer = Trainer(
        default_root_dir=folder, callbacks=[callback], accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.validate(module, datamodule=SquareData(), verbose=False)


def every_image():
    loader = SquareData().val_dataloader()
    return loader.collate_fn([loader.dataset[index] for index in range(11)])


def test_the_surest_wrong_answers_come_first():
    answers = Errors(
        places=torch.arange(6),
        sample_ids=torch.tensor([15, 14, 13, 12, 11, 10]),
        labels=torch.tensor([0, 1, -1, 0, 1, 0]),
        predictions=torch.tensor([1, 1, 0, -1, 0, 1]),
        confidences=torch.tensor([0.6, 0.99, 0.7, 0.6, 0.9, 0.6]),
    )
    assert worst(answers, 4).sample_ids.tolist() == [11, 13, 10, 12]
    assert worst(answers, 9).places.tolist() == [4, 2, 5, 3, 0]


def test_the_record_holds_what_a_slow_search_finds(tmp_path):
    module, batch = system(), every_image()
    run(tmp_path, WorstErrors({"saliency": Saliency(), "off": None}, num_images=3), module)
    with torch.no_grad():
        predictions, confidences = predict(module.eval()(batch.images), "softmax")
    wrong = [
        (-float(confidences[i]), int(batch.sample_ids[i]), i)
        for i in range(11) if predictions[i] != batch.labels[i]
    ]  # fmt: skip
    chosen = [index for *_, index in sorted(wrong)[:3]]
    record = np.load(tmp_path / "measures" / "panels" / "errors_saliency.npz")
    assert record["sample_ids"].tolist() == batch.sample_ids[chosen].tolist()
    np.testing.assert_allclose(record["confidences"], confidences[chosen], rtol=1e-5)
    assert [" → " in title for title in record["titles"]] == [True] * 3
    for key, units in (("heatmaps", predictions), ("own_heatmaps", batch.labels)):
        expected = Saliency()(module.network, batch.images[chosen], Target(None, units[chosen]))
        np.testing.assert_allclose(record[key], expected, rtol=2e-3, atol=1e-4)
    assert (tmp_path / "figures" / "heatmaps_saliency_errors_epoch000.png").is_file()


def test_nothing_is_written_without_errors_or_methods(tmp_path):
    module = system()
    with torch.no_grad():  # always right: the bias follows the bright middle
        module.network.convolution.weight.zero_()
        module.network.convolution.bias.zero_()
        module.network.convolution.weight[0, :, 1, 1] = 1.0
        linear = module.network.get_submodule("classifier")[3]
        linear.weight.zero_()
        linear.weight[1, 0] = 100.0
        linear.bias.copy_(torch.tensor([0.0, 0.0]))
        pooled = module.network.relu(module.network.convolution(every_image().images))
        means = pooled.mean((-2, -1))[:, 0]
        bright = every_image().labels == 1
        linear.bias[1] = -50.0 * (means[bright].min() + means[~bright].max())
    run(tmp_path, WorstErrors({"saliency": Saliency()}), module)
    run(tmp_path, WorstErrors({"off": None}), system())
    assert not (tmp_path / "measures").exists()


def test_constructor_checks():
    with pytest.raises(ValueError, match="`num_images` must be >= 1"):
        WorstErrors({}, num_images=0)
    with pytest.raises(ValueError, match="`every_n_epochs` must be >= 1"):
        WorstErrors({}, every_n_epochs=0)
