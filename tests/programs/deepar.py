# /// script
# dependencies = ["gluonts[torch]"]
# ///
"""gluonts' DeepAR: a short training and a forecast, on a made-up hourly series."""

from __future__ import annotations

import logging
import shutil
import warnings
from tempfile import mkdtemp

import numpy as np
import pandas as pd
import torch
from common import compare
from gluonts.dataset.common import ListDataset
from gluonts.torch import DeepAREstimator
from lightning.pytorch import seed_everything

import fastrnn


def series() -> ListDataset:
    rng = np.random.default_rng(0)
    hours = np.arange(24 * 30)
    day = np.sin(2 * np.pi * hours / 24)
    rows = [10 + 3 * day * (i + 1) / 8 + rng.standard_normal(len(hours)) for i in range(8)]
    start = pd.Period("2026-01-01", "h")
    return ListDataset([{"start": start, "target": row} for row in rows], freq="h")


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data = series()

    folder = mkdtemp()

    def train(fused: bool) -> dict[str, torch.Tensor]:
        seed_everything(0, verbose=False)
        estimator = DeepAREstimator(
            freq="h",
            prediction_length=24,
            context_length=72,
            hidden_size=64,
            dropout_rate=0.0,
            num_batches_per_epoch=10,
            trainer_kwargs={
                "max_epochs": 1,
                "accelerator": "cpu",
                "logger": False,
                "enable_progress_bar": False,
                "default_root_dir": folder,
                "enable_model_summary": False,
            },
        )
        if fused:
            with fastrnn.patched():
                predictor = estimator.train(data)
            assert "on fastrnn" in fastrnn.report(predictor.prediction_net)
        else:
            predictor = estimator.train(data)
        torch.manual_seed(0)
        mean = next(iter(predictor.predict(data, num_samples=20))).mean
        parameters = predictor.prediction_net.named_parameters()
        return {name: p.detach() for name, p in parameters} | {"mean": torch.from_numpy(mean)}

    compare("gluonts: DeepAR, 10 batches and a forecast", train, atol=1e-3)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
