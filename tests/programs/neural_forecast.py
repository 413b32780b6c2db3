# /// script
# dependencies = ["neuralforecast"]
# ///
"""neuralforecast: its LSTM and GRU models, trained for some steps on a made-up hourly series."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pandas as pd
import torch
from common import compare
from neuralforecast import NeuralForecast
from neuralforecast.models import GRU, LSTM

import fastrnn


def series() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    hours = pd.date_range("2026-01-01", periods=24 * 20, freq="h")
    day = np.sin(2 * np.pi * np.arange(len(hours)) / 24)
    rows = [
        pd.DataFrame({"unique_id": i, "ds": hours, "y": i + day + rng.normal(0, 0.1, len(hours))})
        for i in range(8)
    ]
    return pd.concat(rows)


def main() -> None:
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    data = series()
    for kind in (LSTM, GRU):

        def train(fused: bool, kind: type[LSTM | GRU] = kind) -> dict[str, torch.Tensor]:
            options = {
                "max_steps": 10,
                "input_size": 96,
                "encoder_hidden_size": 64,
                "encoder_n_layers": 2,
                "accelerator": "cpu",
                "logger": False,
                "enable_progress_bar": False,
                "enable_checkpointing": False,
                "enable_model_summary": False,
            }
            model = kind(24, **options)
            if fused:
                fastrnn.convert(model)
                assert fastrnn.report(model).startswith("1 of 1 ")
            forecast = NeuralForecast([model], freq="h")
            forecast.fit(data)
            if fused:  # fit trains a copy
                assert fastrnn.report(forecast.models[0]).startswith("1 of 1 ")
            predicted = forecast.predict()[kind.__name__].to_numpy()
            return {"forecast": torch.from_numpy(predicted)}

        compare(
            f"neuralforecast: its {kind.__name__}, 10 steps and a forecast",
            train,
            atol=1e-3,
            rounds=2,
        )


if __name__ == "__main__":
    main()
