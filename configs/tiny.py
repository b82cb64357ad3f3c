"""Every tower from scratch on a generated corpus, in minutes on two CPU cores.

    deemo train --config=configs/tiny.py --workdir=runs/tiny

Generates its corpus in the workdir once, then trains. Stages: `:full` (the default)
trains every tower, `:align` the connectors alone, `:tune` the connectors and LoRA. Two
cores take less than four minutes with huge pages, which spare a step a quarter of its
time: GLIBC_TUNABLES=glibc.malloc.hugetlb=1. Seeds 0, 1 and 2 gave an accuracy of 95, 93
and 96 % on 320 clips of unseen subjects, half of which are positive.

Body language instead: --config.data.tasks="('nfbl_which','nfbl_when')" and
--config.data.task_weights="(1.0,1.0)", with --config.data.num_frames=8. After 400 steps
on 400 clips (seed 0; 128 unseen), which has a micro F1 of 47 % (one class always: 25 %)
and when an IoU of 88 % (the whole clip always: 66 %); never takes longer: 0 of 128 were
told so.

Two clips a row waste less: --config.data.clips_per_row=2 --config.data.max_length=176
fills 90 % of the places (one: 83 %).
"""

import ml_collections


def get_config(stage: str = "full") -> ml_collections.ConfigDict:
    """The run; `stage` is a row of the freeze table."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.init_from = ""
    config.pretrained = dict(vision_tower="", audio_tower="", language_model="")
    config.data = dict(
        path="",  # a packed folder; empty: generate a corpus in the workdir
        name="deemo_synthetic",
        tokenizer="",  # a Hugging Face folder; empty: train one on the corpus
        folds=0,  # of subjects; 0: the packed splits
        fold=0,
        synthetic=dict(
            train_clips=1200, test_clips=320, train_subjects=60, test_subjects=16
        ),
        tasks=("recognition", "reasoning"),  # and "nfbl_which", "nfbl_when"
        task_weights=(),  # of each task; (): a row asks for all
        phrasings=1,  # 1: the first alone
        nfbl_never=0.25,  # of the questions nfbl_when
        nfbl_cues=False,
        num_frames=4,
        image_size=48,
        audio_seconds=3.0,
        max_length=96,
        clips_per_row=1,
        modality_dropout=0.1,
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
            num_attention_heads=2,
            image_size=48,
            patch_size=16,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
        ),
        audio_tower=dict(
            model_type="whisper",
            d_model=64,
            encoder_layers=1,
            encoder_attention_heads=2,
            encoder_ffn_dim=128,
            num_mel_bins=40,
            max_source_positions=150,  # 3 seconds
            activation_function="gelu",
        ),
        video_connector=_connector(num_query_tokens=8, max_positions=8),
        audio_connector=_connector(num_query_tokens=4, max_positions=15),
        language_model=dict(
            vocab_size=512,
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=48,
            hidden_act="silu",
            max_position_embeddings=512,
            rms_norm_eps=1e-5,
            rope_theta=10000.0,
            rope_scaling=None,
            attention_bias=False,
            mlp_bias=False,
            tie_word_embeddings=True,
        ),
        vision_feature_layer=-1,
        image_mean=(0.3, 0.3, 0.3),
        image_std=(0.2, 0.2, 0.2),
        audio_frames_per_position=10,  # 0.2 s
        video_token_id=3,
        audio_token_id=4,
    )
    config.lora = dict(
        rank=8 if stage == "tune" else 0,
        alpha=16.0,
        dropout=0.05,
        targets=(r"language_model/layers/self_attn/(q_proj|v_proj)",),
    )
    config.mesh = dict(dcn_data=1, dcn_fsdp=1, data=-1, fsdp=1, sequence=1, tensor=1)
    config.layout = dict(
        vision_tower="fsdp_tensor",
        audio_tower="fsdp_tensor",
        connectors="fsdp_tensor",
        language_model="fsdp_tensor",
        tolerance=0.5,  # in a model this small, little is split
    )
    config.optimizer = dict(
        learning_rate=2e-3,
        warmup_steps=40,
        end_fraction=0.0,
        b1=0.9,
        b2=0.98,
        eps=1e-8,
        weight_decay=0.05,
        clip_norm=1.0,
    )
    config.train = dict(
        stage=stage,
        steps=600,
        batch_size=16,
        dtype="float32",
        remat="none",
        log_every=1,
        save_every=10,
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
        num_hidden_layers=1,
        num_attention_heads=2,
        encoder_hidden_size=64,
        max_positions=max_positions,
        num_query_tokens=num_query_tokens,
        hidden_act="gelu",
        layer_norm_eps=1e-12,
    )
