"""Keys of a config.json that say nothing about what the graphs compute, each with the reason.

A key belongs here only if no value of it changes a logit. Whatever else nobody reads is refused.
docs/checkpoints.md prints this table: `python tests/docs/test_neutral_keys.py` writes it anew.
"""

from __future__ import annotations

_KEYS_BY_REASON = {
    "noise of training": """
        activation_dropout attention_dropout attention_probs_dropout_prob attn_pdrop
        classif_dropout classifier_dropout decoder_layerdrop dropout dropout_rate embd_pdrop
        encoder_layerdrop hidden_dropout_prob layerdrop qa_dropout replacing_rate resid_pdrop
        seq_classif_dropout apply_spec_augment mask_feature_length mask_feature_min_masks
        mask_feature_prob mask_time_length mask_time_min_masks mask_time_prob""",
    "values that weights had before training": "init_std initializer_factor initializer_range",
    "what training did, or which sizes a student was cut to": """
        finetuning_task gradient_checkpointing save_step student_decoder_layers
        student_encoder_layers unsloth_fixed unsloth_version""",
    "memory or speed of PyTorch, for the same values": """
        _attn_implementation _attn_implementation_autoset attn_implementation
        chunk_size_feed_forward pretraining_tp torchscript use_bfloat16 use_cache use_flash_attn""",
    "the type that weights were stored in; they are read as float32": "dtype torch_dtype",
    "where the file comes from": """
        _commit_hash _name_or_path is_llama_config language license name transformers_version
        transformers_weights""",
    "code or settings of other programs, which are never run": """
        auto_map custom_pipelines transformers.js_config""",
    "what a call of transformers gives back": """
        output_attentions output_hidden_states output_past output_scores
        remove_invalid_values return_dict return_dict_in_generate""",
    "which class and tokenizer it is, read elsewhere": """
        architectures is_encoder_decoder model_max_length model_type tokenizer_class""",
    "names of classes, read by classifiers": """
        _num_labels id2label label2id num_labels problem_type""",
    "ids of special tokens, read with the tokenizer and the decoding defaults": """
        bos_token_id cls_token_id decoder_start_token_id eos_token_id eos_token_ids
        mask_token_id pad_token_id sep_token_id unk_token_id""",
    "decoding defaults, applied or reported as such": """
        bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping
        encoder_no_repeat_ngram_size exponential_decay_length_penalty
        force_bos_token_to_be_generated forced_bos_token_id forced_decoder_ids
        forced_eos_token_id length_penalty max_length min_length no_repeat_ngram_size
        num_beam_groups num_beams num_return_sequences prefix repetition_penalty suppress_tokens
        task_specific_params temperature tf_legacy_loss top_k top_p typical_p""",
    "a part of the class that this checkpoint's task does not have": """
        classifier_proj_size cross_attention_hidden_size median_filter_width summary_activation
        summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
        tie_encoder_decoder""",
    "left by older programs (the first BERT, OpenAI's GPT), read by none today": """
        directionality n_special pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers
        pooler_size_per_head pooler_type predict_special_tokens""",
}

NEUTRAL = {key: reason for reason, keys in _KEYS_BY_REASON.items() for key in keys.split()}
