"""CLIP ViT-L/14, HuBERT large and Llama 2 7B chat: the size most of the field trains.

    deemo train --config=configs/deemo_llama_7b.py:align --workdir=runs/7b_align \\
        --config.data.path=packed
    deemo train --config=configs/deemo_llama_7b.py:tune --workdir=runs/7b_tune \\
        --config.data.path=packed --config.init_from=runs/7b_align

Stages: `:align` (the default) trains the connectors, `:tune` the connectors and LoRA,
`:full` every tower, each from the workdir of the one before. First fetch the three
checkpoints below: `hf download NAME --local-dir=checkpoints/NAME`. HuBERT
is published as a pickle; `HubertModel.from_pretrained(NAME).save_pretrained(FOLDER)` of
`transformers` turns it into safetensors.

7.1 billion parameters: 29 GB in float32 over all devices, and in stage `full` three
times as much for AdamW and gradients. Sizes, shapes and names are tested against
`transformers`; the run itself has not been made, so no time and no result is promised.
"""

import ml_collections


def get_config(stage: str = "align") -> ml_collections.ConfigDict:
    """The run; `stage` is a row of the freeze table."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.init_from = ""  # of stages tune and full: the workdir of the stage before
    config.pretrained = dict(
        vision_tower="checkpoints/openai/clip-vit-large-patch14",
        audio_tower="checkpoints/facebook/hubert-large-ll60k",
        language_model="checkpoints/meta-llama/Llama-2-7b-chat-hf",
    )
    config.data = dict(
        path="",  # a packed folder
        name="deemo_mer",
        tokenizer="",  # the decoder's
        folds=0,  # of subjects; 0: the packed splits
        fold=0,
        synthetic=dict(
            train_clips=800, test_clips=320, train_subjects=40, test_subjects=16
        ),
        tasks=("recognition", "reasoning"),  # and "nfbl_which", "nfbl_when"
        task_weights=(),  # of each task; (): a row asks for all
        phrasings=5,  # wordings of each question, drawn
        nfbl_never=0.25,  # of the questions nfbl_when
        nfbl_cues=False,
        num_frames=8,
        image_size=224,
        audio_seconds=16.0,
        max_length=512,
        clips_per_row=1,
        modality_dropout=0.0,
        augment=False,
        workers=8,
        prefetch=4,
        features="",  # where path holds these, their dtype; found out
    )
    config.model = dict(
        vision_tower=dict(
            model_type="clip_vision_model",
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=224,
            patch_size=14,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
        ),
        audio_tower=dict(
            model_type="hubert",
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            hidden_act="gelu",
            layer_norm_eps=1e-5,
            feat_extract_norm="layer",
            feat_extract_activation="gelu",
            feat_proj_layer_norm=True,
            conv_dim=(512, 512, 512, 512, 512, 512, 512),
            conv_stride=(5, 2, 2, 2, 2, 2, 2),
            conv_kernel=(10, 3, 3, 3, 3, 2, 2),
            conv_bias=True,
            num_conv_pos_embeddings=128,
            num_conv_pos_embedding_groups=16,
            do_stable_layer_norm=True,
            mask_time_prob=0.05,
            mask_feature_prob=0.0,
            do_normalize=True,
        ),
        video_connector=_connector(num_query_tokens=32, max_positions=8),
        audio_connector=_connector(num_query_tokens=8, max_positions=32),
        language_model=dict(
            vocab_size=32064,  # 32000, the media's two, and up to a multiple of 64
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            head_dim=128,
            hidden_act="silu",
            max_position_embeddings=4096,
            rms_norm_eps=1e-5,
            rope_theta=10000.0,
            rope_scaling=None,
            attention_bias=False,
            mlp_bias=False,
            tie_word_embeddings=False,
        ),
        vision_feature_layer=-2,
        image_mean=(0.48145466, 0.4578275, 0.40821073),
        image_std=(0.26862954, 0.26130258, 0.27577711),
        audio_frames_per_position=25,  # 0.5 s
        video_token_id=32000,
        audio_token_id=32001,
    )
    config.lora = dict(
        rank=64 if stage == "tune" else 0,
        alpha=128.0,
        dropout=0.05,
        targets=(
            r"language_model/layers/self_attn/(q|k|v|o)_proj",
            r"language_model/layers/mlp/(gate|up|down)_proj",
        ),
    )
    config.mesh = dict(dcn_data=1, dcn_fsdp=1, data=1, fsdp=-1, sequence=1, tensor=1)
    config.layout = dict(
        vision_tower="fsdp",
        audio_tower="fsdp",
        connectors="fsdp",
        language_model="fsdp_tensor",
        tolerance=0.02,
    )
    config.optimizer = dict(
        learning_rate={"align": 1e-3, "tune": 2e-4, "full": 2e-5}.get(stage, 0.0),
        warmup_steps=60,
        end_fraction=0.0,
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        weight_decay=0.0,
        clip_norm=1.0,
    )
    config.train = dict(
        stage=stage,
        steps=2000,
        batch_size=256,
        dtype="bfloat16",
        remat="full",
        log_every=1,
        save_every=200,
        save_seconds=1800,
        keep=3,
        keep_every=1000,
        local_folder="",  # a fast disk of each host
        local_every=0,
        stall_seconds=600,
        max_skipped_steps=10,
    )
    config.evaluate = dict(
        split="test",
        every=0,
        best="",
        batch_size=256,
        max_new_tokens=128,
        ablations=True,
    )
    return config


def _connector(*, num_query_tokens: int, max_positions: int) -> dict:
    return dict(
        model_type="blip_2_qformer",
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=2,
        num_attention_heads=12,
        encoder_hidden_size=1024,
        max_positions=max_positions,
        num_query_tokens=num_query_tokens,
        hidden_act="gelu",
        layer_norm_eps=1e-12,
    )
