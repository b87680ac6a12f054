"""The models that come with hwbench: a file a family, each a tuple of specs. Facts only, no code of any repository."""

from __future__ import annotations

from hwbench_mlflow.workloads.spec import ModelSpec
from hwbench_mlflow.workloads.zoo import audio, generation, multimodal, text, vision

BUILT_IN: tuple[ModelSpec, ...] = (
    *text.MODELS,
    *generation.MODELS,
    *vision.MODELS,
    *audio.MODELS,
    *multimodal.MODELS,
)
