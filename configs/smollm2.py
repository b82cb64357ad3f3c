"""SmolLM2-135M, a real LLaMA, and the demo's towers, tuned by LoRA on a laptop.

    make demo
    hf download HuggingFaceTB/SmolLM2-135M-Instruct --local-dir=checkpoints/smollm2
    deemo train --config=configs/smollm2.py --workdir=runs/smollm2
    deemo evaluate --workdir=runs/smollm2 --config.evaluate.ablations=false

(or, from a GGUF file, `deemo convert --input=FILE --output=checkpoints/smollm2`). The
towers come from the demo's export and stay as they are; the connectors and LoRA in
every layer of the decoder are trained for 240 steps of 8 clips, 3.4 s each on two CPU
cores: a quarter of an hour. Expect an accuracy of about 84 % on 320 clips of unseen
subjects (one seed: 84.4 %), half of which are positive; two of the three cues alone
allow 78 %. Stages: `:tune` (the default), `:align` without LoRA, `:full`.
"""

import ml_collections


def get_config(stage: str = "tune") -> ml_collections.ConfigDict:
    """The run; `stage` is a row of the freeze table."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.init_from = ""
    config.pretrained = dict(
        vision_tower="runs/demo/pytorch",  # as `make demo` leaves it
        audio_tower="runs/demo/pytorch",
        language_model="checkpoints/smollm2",
    )
    config.data = dict(
        path="",  # a packed folder; empty: generate a corpus in the workdir
        name="deemo_synthetic",
        tokenizer="",  # a Hugging Face folder; empty: train one on the corpus
        folds=0,  # of subjects; 0: the packed splits
        fold=0,
        synthetic=dict(
            train_clips=800, test_clips=320, train_subjects=40, test_subjects=16
        ),
        tasks=("recognition", "reasoning"),  # and "nfbl_which", "nfbl_when"
        task_weights=(),  # of each task; (): a row asks for all
        phrasings=1,  # 1: the first alone
        nfbl_never=0.25,  # of the questions nfbl_when
        nfbl_cues=False,
        num_frames=8,
        image_size=64,
        audio_seconds=3.0,
        max_length=144,
        clips_per_row=1,
        modality_dropout=0.2,
        augment=True,
        workers=0,
        prefetch=2,
        features="",  # where path holds these, their dtype; found out
    )
    config.model = dict(
        vision_tower=dict(
            model_type="clip_vision_model",
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=64,
            patch_size=16,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
        ),
        audio_tower=dict(
            model_type="whisper",
            d_model=64,
            encoder_layers=2,
            encoder_attention_heads=4,
            encoder_ffn_dim=128,
            num_mel_bins=40,
            max_source_positions=150,  # 3 seconds
            activation_function="gelu",
        ),
        video_connector=_connector(num_query_tokens=8, max_positions=8),
        audio_connector=_connector(num_query_tokens=4, max_positions=15),
        language_model=dict(
            vocab_size=49216,  # 49152, the media's two, and up to a multiple of 64
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            head_dim=64,
            hidden_act="silu",
            max_position_embeddings=8192,
            rms_norm_eps=1e-5,
            rope_theta=100000.0,
            rope_scaling=None,
            attention_bias=False,
            mlp_bias=False,
            tie_word_embeddings=True,
        ),
        vision_feature_layer=-1,
        image_mean=(0.3, 0.3, 0.3),
        image_std=(0.2, 0.2, 0.2),
        audio_frames_per_position=10,  # 0.2 s
        video_token_id=49152,
        audio_token_id=49153,
    )
    config.lora = dict(
        rank=16 if stage == "tune" else 0,
        alpha=32.0,
        dropout=0.0,
        targets=(
            r"language_model/layers/self_attn/(q|k|v|o)_proj",
            r"language_model/layers/mlp/(gate|up|down)_proj",
        ),
    )
    config.mesh = dict(dcn_data=1, dcn_fsdp=1, data=-1, fsdp=1, sequence=1, tensor=1)
    config.layout = dict(
        vision_tower="fsdp_tensor",
        audio_tower="fsdp_tensor",
        connectors="fsdp_tensor",
        language_model="fsdp_tensor",
        tolerance=0.02,
    )
    config.optimizer = dict(
        learning_rate=1e-3,
        warmup_steps=20,
        end_fraction=0.0,
        b1=0.9,
        b2=0.98,
        eps=1e-8,
        weight_decay=0.05,
        clip_norm=1.0,
    )
    config.train = dict(
        stage=stage,
        steps=240,
        batch_size=8,
        dtype="float32",
        remat="none",
        log_every=1,
        save_every=40,
        save_seconds=0,
        keep=3,
        keep_every=0,
        local_folder="",  # a fast disk of each host
        local_every=0,
        stall_seconds=300,
        max_skipped_steps=10,
    )
    config.evaluate = dict(
        split="test",
        every=0,
        best="",
        batch_size=64,
        max_new_tokens=48,
        ablations=True,
    )
    return config


def _connector(*, num_query_tokens: int, max_positions: int) -> dict:
    return dict(
        model_type="blip_2_qformer",
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        encoder_hidden_size=64,
        max_positions=max_positions,
        num_query_tokens=num_query_tokens,
        hidden_act="gelu",
        layer_norm_eps=1e-12,
    )
