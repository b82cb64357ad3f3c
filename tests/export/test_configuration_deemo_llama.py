"""The exported configuration keeps every constant and invents none of its own."""

import json

from deemo_jax.export.configuration_deemo_llama import DeemoLlamaConfig


def test_fields_arrive_in_their_towers(fields):
    config = DeemoLlamaConfig(**fields)
    for name, values in fields.items():
        if isinstance(values, dict):
            tower = getattr(config, name)
            for key, value in values.items():
                if key == "rope_theta":
                    assert tower.rope_parameters["rope_theta"] == value
                else:
                    assert getattr(tower, key) == value, (name, key)
        else:
            assert getattr(config, name) == values


def test_a_saved_configuration_reads_back_the_same(fields, tmp_path):
    config = DeemoLlamaConfig(**fields)
    config.save_pretrained(tmp_path)
    again = DeemoLlamaConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict() | {
        "transformers_version": again.to_dict()["transformers_version"]
    }
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == (
        "deemo_llama"
    )


def test_a_connector_cross_attends_everywhere_and_drops_nothing(fields):
    connector = DeemoLlamaConfig(**fields).video_connector_config
    assert connector.cross_attention_frequency == 1
    assert connector.hidden_dropout_prob == 0
    assert connector.attention_probs_dropout_prob == 0
    assert not connector.use_qformer_text_input


def test_tying_and_special_tokens_are_those_of_the_decoder(fields):
    text = fields["text_config"] | {"tie_word_embeddings": True, "eos_token_id": 7}
    config = DeemoLlamaConfig(**fields | {"text_config": text})
    assert config.tie_word_embeddings is True
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 7)
    assert config.get_text_config() is config.text_config
