"""Model types that are asked for and that no family here has, each with what it would need."""

from __future__ import annotations

_NEEDS = {
    "a mixture of experts": """
        dbrx deepseek_v2 deepseek_v3 ernie4_5_moe flex_olmo glm4_moe gpt_oss granitemoe
        hunyuan_v1_moe lfm2_moe llama4 llama4_text mixtral nllb-moe olmoe phimoe qwen2_moe
        qwen3_moe switch_transformers
    """,
    "layers with a running state (Mamba, linear attention)": """
        bamba falcon_h1 falcon_mamba jamba kimi_linear mamba mamba2 nemotron_h olmo_hybrid
        qwen3_5 qwen3_5_text qwen3_next recurrent_gemma rwkv xlstm zamba zamba2
    """,
    "gates behind the attention": "lfm3",
    "a FastConformer encoder": """
        canary cohere_asr nemotron_asr_streaming parakeet_ctc parakeet_encoder parakeet_rnnt
        parakeet_tdt
    """,
    "convolutions over raw audio": """
        data2vec-audio hubert moonshine_streaming sew sew-d speecht5 unispeech unispeech-sat
        wav2vec2 wav2vec2-bert wav2vec2-conformer wavlm
    """,
    "a speech encoder before a language model": """
        granite_speech qwen2_audio qwen3_asr voxtral
    """,
    "shifted windows over images and merged patches (Swin)": "donut-swin nougat swin swinv2",
    "an image encoder of windows and channels (DaViT) and its projection": "florence2",
    "its decoder of text: VisionEncoderDecoderModel has both": "deit trocr vit",
    "an image encoder beside or before a language model": """
        blip blip-2 clip idefics3 layoutlmv3 llava paligemma pix2struct qwen2_5_vl qwen2_vl qwen3_vl
        siglip smolvlm
    """,
    "attention to windows and chosen tokens": """
        big_bird bigbird_pegasus led longformer longt5 pegasus_x
    """,
    "one attention to source and target together, and an image encoder": "t5gemma2",
    "attention biased by the distance (ALiBi)": "bloom mpt",
    "an attention of its own": "fnet funnel prophetnet reformer xlnet",
}
MISSING = {name: need for need, names in _NEEDS.items() for name in names.split()}
