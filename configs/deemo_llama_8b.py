"""SigLIP so400m, Whisper large v3 and Llama 3.1 8B Instruct: larger, and longer clips.

    deemo train --config=configs/deemo_llama_8b.py:align --workdir=runs/8b_align \\
        --config.data.path=packed
    deemo train --config=configs/deemo_llama_8b.py:tune --workdir=runs/8b_tune \\
        --config.data.path=packed --config.init_from=runs/8b_align

Stages: `:align` (the default) trains the connectors, `:tune` the connectors and LoRA,
`:full` every tower, each from the workdir of the one before. First fetch the three
checkpoints below: `hf download NAME --local-dir=checkpoints/NAME`.

9.1 billion parameters: 37 GB in float32 over all devices, and in stage `full` three
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
        vision_tower="checkpoints/google/siglip-so400m-patch14-384",
        audio_tower="checkpoints/openai/whisper-large-v3",
        language_model="checkpoints/meta-llama/Llama-3.1-8B-Instruct",
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
        image_size=384,
        audio_seconds=30.0,
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
            model_type="siglip_vision_model",
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
            hidden_act="gelu_pytorch_tanh",
            layer_norm_eps=1e-6,
            vision_use_head=True,
        ),
        audio_tower=dict(
            model_type="whisper",
            d_model=1280,
            encoder_layers=32,
            encoder_attention_heads=20,
            encoder_ffn_dim=5120,
            num_mel_bins=128,
            max_source_positions=1500,
            activation_function="gelu",
        ),
        video_connector=_connector(1152, num_query_tokens=32, max_positions=8),
        audio_connector=_connector(1280, num_query_tokens=8, max_positions=60),
        language_model=dict(
            vocab_size=128320,  # 128256, the media's two, and up to a multiple of 64
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            hidden_act="silu",
            max_position_embeddings=131072,
            rms_norm_eps=1e-5,
            rope_theta=500000.0,
            rope_scaling=dict(
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=8192,
            ),
            attention_bias=False,
            mlp_bias=False,
            tie_word_embeddings=False,
        ),
        vision_feature_layer=-2,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        audio_frames_per_position=25,  # 0.5 s
        video_token_id=128256,
        audio_token_id=128257,
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


def _connector(
    encoder_hidden_size: int, *, num_query_tokens: int, max_positions: int
) -> dict:
    return dict(
        model_type="blip_2_qformer",
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=2,
        num_attention_heads=12,
        encoder_hidden_size=encoder_hidden_size,
        max_positions=max_positions,
        num_query_tokens=num_query_tokens,
        hidden_act="gelu",
        layer_norm_eps=1e-12,
    )
