"""Image models, as facts."""

from __future__ import annotations

from hwbench_mlflow.workloads.spec import ModelSpec

MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        alias="vit",
        hub_ids=("google/vit-base-patch16-224",),
        kind="image",
        task="image-classification",
        auto_class="AutoModelForImageClassification",
        output_names=("logits",),
        config={
            "model_type": "vit",
            "attention_probs_dropout_prob": 0.0,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "hidden_size": 768,
            "image_size": 224,
            "initializer_range": 0.02,
            "intermediate_size": 3072,
            "layer_norm_eps": 1e-12,
            "num_attention_heads": 12,
            "num_channels": 3,
            "num_hidden_layers": 12,
            "num_labels": 1000,
            "patch_size": 16,
            "qkv_bias": True,
        },
    ),
    ModelSpec(
        alias="resnet-50",
        hub_ids=("microsoft/resnet-50",),
        kind="image",
        task="image-classification",
        auto_class="AutoModelForImageClassification",
        output_names=("logits",),
        config={
            "model_type": "resnet",
            "depths": [3, 4, 6, 3],
            "downsample_in_first_stage": False,
            "embedding_size": 64,
            "hidden_act": "relu",
            "hidden_sizes": [256, 512, 1024, 2048],
            "layer_type": "bottleneck",
            "num_channels": 3,
            "num_labels": 1000,
        },
    ),
)
