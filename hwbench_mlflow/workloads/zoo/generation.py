"""Models that write text, as facts."""

from __future__ import annotations

from hwbench_mlflow.workloads.spec import ModelSpec

MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        alias="gpt2",
        hub_ids=("openai-community/gpt2", "gpt2"),
        kind="text",
        task="text-generation",
        auto_class="AutoModelForCausalLM",
        output_names=("logits",),
        config={
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "attn_pdrop": 0.1,
            "bos_token_id": 50256,
            "embd_pdrop": 0.1,
            "eos_token_id": 50256,
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-5,
            "n_ctx": 1024,
            "n_embd": 768,
            "n_head": 12,
            "n_layer": 12,
            "n_positions": 1024,
            "resid_pdrop": 0.1,
            "summary_activation": None,
            "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True,
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "vocab_size": 50257,
        },
    ),
)
