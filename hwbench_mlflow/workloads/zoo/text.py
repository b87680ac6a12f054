"""Text encoders, as facts."""

from __future__ import annotations

from hwbench_mlflow.workloads.spec import ModelSpec

_BERT = {
    "model_type": "bert",
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}

MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        alias="bert",
        hub_ids=("google-bert/bert-base-uncased", "bert-base-uncased"),
        kind="text",
        task="feature-extraction",
        auto_class="AutoModel",
        output_names=("last_hidden_state", "pooler_output"),
        config={
            **_BERT,
            "gradient_checkpointing": False,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "position_embedding_type": "absolute",
            "use_cache": True,
        },
    ),
    ModelSpec(
        alias="bert-tiny",
        hub_ids=("prajjwal1/bert-tiny",),
        kind="text",
        task="feature-extraction",
        auto_class="AutoModel",
        output_names=("last_hidden_state", "pooler_output"),
        config={
            **_BERT,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
        },
    ),
    ModelSpec(
        alias="distilbert",
        hub_ids=("distilbert/distilbert-base-uncased", "distilbert-base-uncased"),
        kind="text",
        task="feature-extraction",
        auto_class="AutoModel",
        output_names=("last_hidden_state",),
        config={
            "model_type": "distilbert",
            "activation": "gelu",
            "attention_dropout": 0.1,
            "dim": 768,
            "dropout": 0.1,
            "hidden_dim": 3072,
            "initializer_range": 0.02,
            "max_position_embeddings": 512,
            "n_heads": 12,
            "n_layers": 6,
            "pad_token_id": 0,
            "qa_dropout": 0.1,
            "seq_classif_dropout": 0.2,
            "sinusoidal_pos_embds": False,
            "tie_weights_": True,
            "vocab_size": 30522,
        },
    ),
)
