//! Keys of `config.json` that change nothing about what a Llama, Mistral or Qwen model computes.
//!
//! The list follows the configuration classes of transformers 5.23 (`PreTrainedConfig` and those of
//! the families), and what versions 3 and 4, trainers and converters wrote besides. The keys that
//! families read stand in the families.

use super::{NoEffectAt, Reason};

pub(crate) const TABLE: &[Reason] = &[
    Reason {
        why: "says where the files come from",
        at: NoEffectAt::Any,
        keys: "
            _commit_hash _name_or_path base_model_name_or_path name_or_path tokenizer_class
            transformers.js_config transformers_version unsloth_fixed unsloth_version
        ",
    },
    Reason {
        why: "code that comes with a model is not run",
        at: NoEffectAt::AnyTold,
        keys: "auto_map custom_pipelines",
    },
    Reason {
        why: "how transformers stores and computes, not what",
        at: NoEffectAt::Any,
        keys: "
            _attn_implementation _attn_implementation_autoset _attn_implementation_internal
            _experts_implementation _experts_implementation_internal _flash_attn_2_enabled
            _pre_quantization_dtype attn_implementation cache_implementation
            chunk_size_feed_forward dtype experts_implementation flash_attention pretraining_tp
            reference_compile torch_dtype torchscript use_bfloat16 use_cache use_flash_attention
            use_flash_attention_2 use_flash_attn use_flashattn use_memory_efficient_attention
            use_sdpa use_xformers xla_device
        ",
    },
    Reason {
        why: "which tensors transformers returns",
        at: NoEffectAt::Any,
        keys: "
            output_attentions output_hidden_states output_past output_router_logits return_dict
            tie_last_hidden_states
        ",
    },
    Reason {
        why: "of training alone",
        at: NoEffectAt::Any,
        keys: "
            activation_dropout attention_dropout attention_probs_dropout_prob attn_dropout
            aux_loss_alpha ep_size seq_aux
            attn_pdrop classifier_dropout dropout embd_dropout embd_pdrop embedding_dropout
            ffn_dropout ffn_pdrop gradient_checkpointing hidden_dropout hidden_dropout_prob
            init_std initializer_range layerdrop mlp_dropout neftune_noise_alpha resid_dropout
            resid_pdrop residual_dropout router_aux_loss_coef router_jitter_noise
            use_fused_cross_entropy
            use_fused_rms_norm use_fused_mlp
        ",
    },
    Reason {
        why: "generation settings that transformers 4 wrote here and transformers 5 drops",
        at: NoEffectAt::Any,
        keys: "
            assistant_confidence_threshold assistant_lookbehind bad_words_ids
            begin_suppress_tokens diversity_penalty do_sample early_stopping
            encoder_no_repeat_ngram_size encoder_repetition_penalty epsilon_cutoff eta_cutoff
            exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id
            length_penalty max_length max_new_tokens min_length min_p no_repeat_ngram_size
            num_assistant_tokens num_assistant_tokens_schedule num_beam_groups num_beams
            num_return_sequences output_scores prefix remove_invalid_values repetition_penalty
            return_dict_in_generate suppress_tokens target_lookbehind temperature top_k top_p
            typical_p
        ",
    },
    Reason {
        why: "of tasks other than text generation",
        at: NoEffectAt::Any,
        keys: "
            classifier_activation classifier_bias classifier_pooling finetuning_task id2label
            is_decoder label2id num_labels problem_type summary_activation summary_first_dropout
            summary_proj_to_labels summary_type summary_use_proj task_specific_params
            tf_legacy_loss
        ",
    },
    Reason {
        why: "token ids, which the text side reads",
        at: NoEffectAt::Any,
        keys: "
            bos_token_id cls_token_id decoder_start_token_id eos_token_id eod_token_id im_end_id
            im_start_id mask_token_id pad_token_id sep_token_id unk_token_id
        ",
    },
    Reason {
        why: "a length that trainers used",
        at: NoEffectAt::Any,
        keys: "
            context_length max_seq_len max_seq_length max_sequence_length model_max_length n_ctx
            seq_length tokenizer_model_max_length training_sequence_length
        ",
    },
    Reason {
        why: "of norms with a mean, which these models do not have",
        at: NoEffectAt::Any,
        keys: "layer_norm_eps layer_norm_epsilon",
    },
    Reason {
        why: "the context before scaling, which the rope settings say",
        at: NoEffectAt::Any,
        keys: "initial_context_length",
    },
    Reason {
        why: "where windows begin, of families that have them",
        at: NoEffectAt::Any,
        keys: "max_window_layers",
    },
    Reason {
        why: "transformers has full attention here; so had the model up to a chunk's length",
        at: NoEffectAt::AnyTold,
        keys: "dual_chunk_attention_config",
    },
    Reason {
        why: "the model lacks what it would switch on",
        at: NoEffectAt::Off,
        keys: "
            add_cross_attention alibi apply_residual_connection_post_layernorm attention_bias
            attn_bias attn_logit_softcapping attn_output_gate attn_soft_cap bias clip_qkv
            cross_attention_hidden_size final_logit_softcapping first_k_dense_replace
            is_encoder_decoder log_scale logit_softcap logits_soft_cap mlp_bias mlp_only_layers
            moe_intermediate_size n_routed_experts n_shared_experts no_rope_layer_interval
            num_experts num_experts_per_tok num_local_experts num_nextn_predict_layers
            parallel_attn pruned_heads qk_layernorm qk_norm qkv_bias quantization_config
            rope_interleaved rope_traditional scale_embedding shared_expert_intermediate_size
            sliding_window sliding_window_pattern tie_encoder_decoder use_alibi use_bias
            use_dynamic_ntk use_logn_attn use_mrope use_parallel_residual use_qk_norm use_qkv_bias
            use_sliding_window
        ",
    },
    Reason {
        why: "a factor of one, or what these models always have",
        at: NoEffectAt::One,
        keys: "
            embedding_multiplier is_llama_config lm_head_multiplier logit_scale logits_scaling
            moe_layer_freq no_bias partial_rotary_factor residual_multiplier rope_ratio rotary_pct
            scale_attn_weights use_rms_norm use_rmsnorm use_rope
        ",
    },
    Reason {
        why: "another name of the gated SiLU that these models have",
        at: NoEffectAt::Words(&["silu", "swiglu", "swish"]),
        keys: "
            activation activation_function hidden_activation mlp_hidden_act
        ",
    },
    Reason {
        why: "another name of the norm that these models have",
        at: NoEffectAt::Words(&["rms", "rms_norm", "rmsnorm", "RMSNorm"]),
        keys: "norm_type normalization layernorm_type",
    },
    Reason {
        why: "another name of the positions that these models have",
        at: NoEffectAt::Words(&["rope", "rotary", "absolute"]),
        keys: "pos_emb position_embedding_type position_encoding",
    },
    Reason {
        why: "full attention everywhere is what the other settings say",
        at: NoEffectAt::AllAre("full_attention"),
        keys: "layer_types",
    },
];

/// Keys of the rope settings. Those that the kind of scaling reads are not looked up here.
pub(crate) const ROPE_TABLE: &[Reason] = &[
    Reason {
        why: "scaling of this kind does not read it",
        at: NoEffectAt::AnyTold,
        keys: "
            attention_factor beta_fast beta_slow factor high_freq_factor long_factor
            low_freq_factor mscale mscale_all_dim original_max_position_embeddings short_factor
            truncate
        ",
    },
    Reason {
        why: "of positions in images; text has one position a token",
        at: NoEffectAt::AnyTold,
        keys: "mrope_section",
    },
    Reason {
        why: "says that the model was trained with it",
        at: NoEffectAt::Any,
        keys: "finetuned",
    },
    Reason { why: "whole heads rotate", at: NoEffectAt::One, keys: "partial_rotary_factor" },
    Reason { why: "queries are not scaled", at: NoEffectAt::Off, keys: "llama_4_scaling_beta" },
];
